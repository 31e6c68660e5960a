#!/bin/sh
# tests/bench/bench_snapshot.sh: what snapshots cost and save, side by side in one run: writing and reading beside the
# plainest ways to do that; going on from 8,000 tokens beside reading them again; and how much a save beside it slows
# generation.
#
#     tests/bench/bench_snapshot.sh [--build-dir DIR] [--folder DIR] [--mib N] [--repeats N] [--ranks N]
#
#   --build-dir   where kvarve is built (default: build)
#   --folder      on the disk to measure (default: a new folder under /tmp, or $TMPDIR)
#   --mib         K and V to write and read (default: 512)
set -eu
cd "$(dirname "$0")/../.."

build=build folder="" mib=512 repeats=5 ranks=1
while [ $# -gt 0 ]; do
    case $1 in
    --build-dir) build=$2 ;;
    --folder) folder=$2 ;;
    --mib) mib=$2 ;;
    --repeats) repeats=$2 ;;
    --ranks) ranks=$2 ;;
    *) sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
    shift 2
done
. jobs/mpi_env.sh
mpi_env "$ranks"
export OMP_WAIT_POLICY=passive # the saving thread shares the processors
temp=$(mktemp -d ${folder:+-p "$folder"})
trap 'rm -rf "$temp"' EXIT
trap 'exit 130' INT TERM

# kvarve OPTION...: a run whose figures go to report.json.
kvarve() {
    rm -f "$temp/report.json"
    "$(mpi_launcher)" -n "$ranks" "$build/kvarve" generate --model jobs/demo/model --report "$temp/report.json" "$@" \
        >"$temp/out" 2>"$temp/err" || { cat "$temp/err" >&2 && exit 1; }
}
figure() { sed -n "s/^.*\"$1\":[[:space:]]*\([-0-9.e+]*\).*/\1/p" "$temp/report.json" | head -n 1; }
median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# A long prompt: the page again and again, about 8,000 tokens.
i=0
while [ $i -lt 64 ]; do
    cat jobs/demo/page.txt
    i=$((i + 1))
done | head -c 33400 >"$temp/prompt.txt"
kvarve --prompt-file "$temp/prompt.txt" --max-tokens 0 --save "$temp/prompt.kvs"

printf '== The disk, under %s\n\n' "$temp"
"$build/tests/bench_snapshot" "$temp/prompt.kvs" "$temp" "$mib" "$repeats"

printf '\n== To the first token of a prompt\n\n'
i=0
while [ $i -lt "$repeats" ]; do
    kvarve --prompt-file "$temp/prompt.txt" --max-tokens 1
    figure first_token_seconds >>"$temp/computed"
    tokens=$(figure prompt_tokens)
    kvarve --prompt-file "$temp/prompt.txt" --max-tokens 1 --resume "$temp/prompt.kvs"
    figure first_token_seconds >>"$temp/resumed"
    i=$((i + 1))
done
computed=$(median <"$temp/computed") resumed=$(median <"$temp/resumed")
echo "$tokens $computed $resumed" |
    awk '{ printf "%d tokens computed in %.3f s, resumed in %.3f s: %.1fx faster\n", $1, $2, $3, $2 / $3 }'

printf '\n== Generation with a save beside it (16 sequences, a save every 2,000 tokens)\n\n'
i=0
while [ $i -lt 16 ]; do
    printf '{"id": %d, "prompt": "Chapter %d. It was", "max_tokens": 500, "ignore_eos": true, "seed": %d}\n' $i $i $i
    i=$((i + 1))
done >"$temp/prompts.jsonl"
i=0
while [ $i -lt "$repeats" ]; do
    kvarve --input "$temp/prompts.jsonl" --output "$temp/results.jsonl"
    figure decode_tokens_per_second >>"$temp/without"
    rm -rf "$temp/batch.kvs"
    kvarve --input "$temp/prompts.jsonl" --output "$temp/results.jsonl" --save "$temp/batch.kvs" --save-every 2000
    figure decode_tokens_per_second >>"$temp/with"
    figure tokens_per_second_while_saving >>"$temp/while"
    i=$((i + 1))
done
sed -n 's/^  \(.*saves of.*\)$/\1/p' "$temp/err" | sed "s|$temp/||"
echo "$(median <"$temp/without") $(median <"$temp/with") $(median <"$temp/while")" |
    awk '{
        printf "a run without saves            %.0f tokens/s\n", $1
        printf "the same with saves            %.0f tokens/s: %.1f%% less\n", $2, 100 * (1 - $2 / $1)
        printf "  of it, while a save went on  %.0f tokens/s: %.1f%% less\n", $3, 100 * (1 - $3 / $1)
    }'
