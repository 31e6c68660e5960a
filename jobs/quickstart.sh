#!/bin/sh
# jobs/quickstart.sh: install what is missing, build, let the demo model continue a page over 2 MPI ranks, save what it
# has read of a text, and go on from that over 3 ranks to ask a question about it.
#
#     jobs/quickstart.sh [--no-install]
set -eu
cd "$(dirname "$0")/.."

. jobs/mpi_env.sh
mpi_env 3

jobs/setup.sh "$@"
page=jobs/demo/page.txt
show() { printf '\n$ %s\n\n' "$*"; }

set -- "$(mpi_launcher)" -n 2 build/kvarve generate --model jobs/demo/model --prompt-file $page --max-tokens 120 \
    --seed 1
show "$@"
printf '... '
tail -n 1 $page
"$@"

# A text with something in it to be remembered: read once, over 2 ranks, and kept.
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
{
    cat $page
    echo 'The pass key of Elizabeth is 58273. Remember it: 58273 is the pass key of Elizabeth.'
    cat $page
} | tr '\n' ' ' >"$temp/text.txt"
set -- "$(mpi_launcher)" -n 2 build/kvarve generate --model jobs/demo/model --prompt-file "$temp/text.txt" \
    --max-tokens 0 --save "$temp/text.kvs"
show "$@"
"$@"

# The same text and a question, over 3 ranks: only the question is computed.
question=' What is the pass key of Elizabeth? The pass key of Elizabeth is'
{
    cat "$temp/text.txt"
    echo "$question" | tr -d '\n'
} >"$temp/question.txt"
set -- "$(mpi_launcher)" -n 3 build/kvarve generate --model jobs/demo/model --prompt-file "$temp/question.txt" \
    --resume "$temp/text.kvs" --max-tokens 6 --temperature 0
show "$@"
printf '...%s' "$question"
"$@"

cat <<'END'

That was a small model of this repository's own. What to try next, from this folder:
    mpirun -n 2 build/kvarve generate --model DIR --prompt "Once upon a time"     a model from Hugging Face (Llama,
                                                   Mistral, Qwen2, Qwen3, SmolLM): DIR as it was downloaded
    build/kvarve plan --model DIR --ranks 4        what each rank would hold, before anything is loaded
    build/kvarve perplexity --model DIR --file F   how well a model predicts a text
    build/kvarve snapshot info DIR.kvs             what a snapshot holds (made with --save DIR.kvs)
    build/kvarve bench --model DIR                 how fast, beside what the machine can do
    build/kvarve --help                            every command and option
    jobs/recall.sh NOVEL.txt                       does a model find a number told thousands of tokens ago?
    tests/run.sh                                   every test
As root in a container, or with more ranks than cores, first:  . jobs/mpi_env.sh; mpi_env RANKS
END
