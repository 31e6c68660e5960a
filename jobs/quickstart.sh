#!/bin/sh
# jobs/quickstart.sh: install what is missing, build, and let the demo model continue a page over 2 MPI ranks.
#
#     jobs/quickstart.sh [--no-install]
set -eu
cd "$(dirname "$0")/.."

. jobs/mpi_env.sh
mpi_env 2

jobs/setup.sh "$@"
page=jobs/demo/page.txt
set -- "$(mpi_launcher)" -n 2 build/kvarve generate --model jobs/demo/model --prompt-file $page --max-tokens 120 \
    --seed 1
printf '\n$ %s\n\n... ' "$*"
tail -n 1 $page
"$@"

cat <<'END'

That was a small model of this repository's own. What to try next, from this folder:
    mpirun -n 2 build/kvarve generate --model DIR --prompt "Once upon a time"     a model from Hugging Face (Llama,
                                                   Mistral, Qwen2, Qwen3, SmolLM): DIR as it was downloaded
    build/kvarve plan --model DIR --ranks 4        what each rank would hold, before anything is loaded
    build/kvarve perplexity --model DIR --file F   how well a model predicts a text
    build/kvarve bench --model DIR                 how fast, beside what the machine can do
    build/kvarve --help                            every command and option
    jobs/demo/passkey.sh NOVEL.txt                 does the demo model find a number told thousands of tokens ago?
    tests/run.sh                                   every test
As root in a container, or with more ranks than cores, first:  . jobs/mpi_env.sh; mpi_env RANKS
END
