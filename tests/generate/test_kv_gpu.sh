#!/bin/sh
# tests/generate/test_kv_gpu.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: --kv int8 on GPUs.
#
#   same     the same tokens and probabilities over 1 and 2 ranks, by any chunks and pages, and other ones than of bf16
#   tiers    with pages in memory of the host, and on a disk
#   resumed  saved and resumed, over other ranks; on the way; and of what only begins so
#   refused  int4
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
run_under='timeout 280' # an emulated GPU is slow

# A prompt whose first SAME tokens another one has as well.
line() { # line LENGTH SAME MAX_TOKENS
    awk -v n="$1" -v same="$2" -v most="$3" 'BEGIN {
        printf "{\"id\": %d, \"max_tokens\": %d, \"ignore_eos\": true, \"logprobs\": 2, \"tokens\": [300", n, most
        for (k = 1; k < n; k++) printf ", %d", 10 + (k * k + (k < same ? 0 : 5)) % 4000
        print "]}"
    }'
}

batch() { # batch NP OPTIONS...: the results, in the order of the lines
    np=$1
    shift
    rm -f "$temp/results.jsonl"
    generate "$np" --device cuda --input "$lines" --output "$temp/results.jsonl" "$@"
    [ ! -e "$temp/results.jsonl" ] || sort "$temp/results.jsonl" >"$temp/sorted.jsonl"
}

same_as() { # same_as NAME EXPECTED NP OPTIONS...
    name=$1 expected=$2
    shift 2
    batch "$@" --kv int8
    expect "$name" 0 && check "$name" 'other results' cmp "$temp/sorted.jsonl" "$expected"
}

differs() {
    ! cmp -s "$1" "$2"
}

went_and_came() { # went_and_came PLACE: did the last run write pages there and read them?
    awk -v place="KV pages $1:" 'index($0, place) { sub(".*" place " ", ""); found = $1 > 0 && $8 > 0 }
        END { exit !found }' "$temp/err"
}

lines=$all/lines.jsonl
{
    line 600 600 6
    line 250 250 10
} >"$lines"

expected() {
    batch 1 --kv int8
    expect 'int8' 0 && cp "$temp/sorted.jsonl" "$all/expected.jsonl"
    check 'said' 'no NOTE' grep -q 'NOTE: --kv int8: keys and values are rounded' "$temp/err"
}

same() {
    batch 1
    expect 'bf16' 0 && check 'rounded' 'the results of bf16' differs "$temp/sorted.jsonl" "$all/expected.jsonl"
    same_as 'small chunks, other pages' "$all/expected.jsonl" 1 --chunk-tokens 48 --page-tokens 32
    same_as '2 ranks' "$all/expected.jsonl" 2 --page-tokens 160
}

# Near pages of 1.75 MiB are always in memory; of 160 pages of 8.5 KiB, or 24 of 68 KiB, it holds a part.
tiers() {
    same_as 'host memory, 2 ranks' "$all/expected.jsonl" 2 --sequences 1 --chunk-tokens 64 --page-tokens 32 \
        --kv-memory 1500K --kv-host 8M
    check 'host memory, 2 ranks: it is used' 'nothing was read there' went_and_came 'in host memory'
    same_as 'a disk' "$all/expected.jsonl" 1 --sequences 1 --chunk-tokens 64 --page-tokens 256 --kv-memory 2900K \
        --kv-disk "$all:64M"
    check 'a disk: pages left memory' 'none did' went_and_came 'in host memory'
}

# Behind 600 and 250 tokens, which end in a block.
resumed() {
    lines=$temp/kept.jsonl
    {
        line 600 600 0
        line 250 250 0
    } >"$lines"
    batch 2 --kv int8 --save "$temp/saved.kvs"
    expect 'saved' 0
    run 1 snapshot info "$temp/saved.kvs"
    check 'provenance' 'nothing is told' grep -q ', pages: int8$' "$temp/out"
    lines=$all/lines.jsonl
    same_as 'resumed by 1 rank' "$all/expected.jsonl" 1 --resume "$temp/saved.kvs" --page-tokens 32
    check 'resumed by 1 rank: they are' 'they were computed' grep -q 'holds .* of 850 tokens' "$temp/err"
    same_as 'resumed by 2 ranks' "$all/expected.jsonl" 2 --resume "$temp/saved.kvs" --chunk-tokens 32
    same_as 'resumed beside a disk' "$all/expected.jsonl" 1 --resume "$temp/saved.kvs" --sequences 1 \
        --chunk-tokens 64 --page-tokens 256 --kv-memory 4500K --kv-disk "$all:64M"
    lines=$temp/asked.jsonl
    line 500 400 4 >"$lines"
    batch 1 --kv int8
    expect 'of the same begin, afresh' 0 && cp "$temp/sorted.jsonl" "$temp/afresh.jsonl"
    same_as 'of the same begin' "$temp/afresh.jsonl" 1 --resume "$temp/saved.kvs"
    check 'of the same begin: reused' 'another number' grep -q 'holds 256 of 500 tokens' "$temp/err"
}

on_the_way() {
    for most in 70 40; do
        generate 1 --device cuda --kv int8 --prompt-file "$page" --temperature 0 --ignore-eos --max-tokens "$most" \
            --save "$temp/page.$most.kvs" --save-every 16
        expect "$most tokens" 0 && cp "$temp/out" "$temp/text.$most"
    done
    generate 1 --device cuda --kv int8 --prompt-file "$page" --temperature 0 --ignore-eos --max-tokens 70 \
        --resume "$temp/page.40.kvs"
    expect 'on the way' 0 && check 'on the way' 'another text' cmp "$temp/out" "$temp/text.70"
}

refusals() {
    generate 1 --prompt a --kv int4 --device cuda
    refused 'int4' 2 '--kv int4: not with --device cuda'
    generate 1 --prompt a --kv int4
    refused 'int4, where there are GPUs' 2 '--kv int4 is for the CPU: give --device cpu'
    generate 1 --prompt a --kv int8 --device cuda --precision f32
    refused 'f32' 2 '--kv int8: not with --precision f32'
}

temp=$all
generate 1 --device cuda --prompt a --max-tokens 1
if [ "$status" -eq 2 ] && grep -q 'no usable GPU' "$temp/err"; then
    echo 'skipped: no GPU here'
    exit 77
fi
(run_chain expected)
(run_chain same tiers refusals) &
(run_chain resumed on_the_way)
wait
end_test
