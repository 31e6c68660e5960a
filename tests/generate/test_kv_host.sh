#!/bin/sh
# tests/generate/test_kv_host.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: more KV pages than a GPU's memory holds, in memory
# of its host and on a disk: the same tokens and probabilities as with all in the GPU's.
#
#   runs     in host memory over two ranks, and in little of it with a disk; what a plan says
#   fails    a damaged page, a full disk: who needs them ends, the others go on
#   moves    saved and resumed
#   pins     host memory that cannot be pinned
#   refused  sizes, and the CPU
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
run_under='timeout 280' # an emulated GPU is slow

write_lines() { # write_lines NEW TOKENS...: a line for each number of tokens
    n_new=$1
    shift
    for n_tokens; do
        awk -v n="$n_tokens" -v n_new="$n_new" 'BEGIN {
            printf "{\"id\": %d, \"max_tokens\": %d, \"ignore_eos\": true, \"logprobs\": 2, \"tokens\": [300", n, n_new
            for (k = 1; k < n; k++) printf ", %d", 10 + (k * k + 7 * n) % 4000
            print "]}"
        }'
    done
}

batch() { # batch NP OPTIONS...: the results, in the order of the lines
    np=$1
    shift
    rm -f "$temp/results.jsonl"
    generate "$np" --device cuda --chunk-tokens 32 --page-tokens 32 --input "$lines" --output "$temp/results.jsonl" "$@"
    [ ! -e "$temp/results.jsonl" ] || sort "$temp/results.jsonl" >"$temp/sorted.jsonl"
}

went_and_came() { # went_and_came PLACE: did the last run write pages there and read them?
    awk -v place="KV pages $1:" 'index($0, place) { sub(".*" place " ", ""); found = $1 > 0 && $8 > 0 }
        END { exit !found }' "$temp/err"
}

has_error() { # has_error N PART: so many of the results
    [ "$(grep -c "\"error\": \"$2" "$temp/sorted.jsonl")" -eq "$1" ]
}

are_as_expected() { # are_as_expected N: so many of the results
    [ "$(grep -cxFf "$expected" "$temp/sorted.jsonl")" -eq "$1" ]
}

same() { # same NAME NP OPTIONS...: as with all in the GPU's memory
    name=$1
    shift
    batch "$@"
    expect "$name" 0 || return
    check "$name: results" 'others' cmp "$temp/sorted.jsonl" "$expected"
    check "$name: host memory" 'nothing was read there' went_and_came 'in host memory'
}

in_memory() {
    lines=$all/long.jsonl
    write_lines 4 900 250 246 >"$lines"
    batch 1 --sequences 3
    expect 'all in memory' 0 && cp "$temp/sorted.jsonl" "$all/expected.long.jsonl"
    lines=$all/lines.jsonl
    write_lines 4 124 122 100 >"$lines"
    batch 1 --sequences 3
    expect 'shorter, all in memory' 0 && cp "$temp/sorted.jsonl" "$all/expected.jsonl"
}

# A page has 16 KiB: of 8 layers and the longest sequence 232, where memory holds 67.
runs() {
    lines=$all/long.jsonl expected=$all/expected.long.jsonl
    same 'host memory, two ranks' 2 --sequences 3 --kv-memory 1100K --kv-host 8M
    same 'host memory and a disk' 1 --sequences 3 --kv-memory 1100K --kv-host 1M --kv-disk "$all:64M"
    check 'host memory and a disk: the disk' 'nothing was read there' went_and_came 'on disks'
    run 1 plan --model "$model" --device cuda --chunk-tokens 32 --page-tokens 32 --context 904 --sequences 3 \
        --kv-memory 1100K --kv-host 1M --kv-disk "$all:64M"
    expect 'plan' 0
    for tier in "in the GPU's memory *1.1  67 of them" "in the host's memory *2.1  128 of them, pinned" \
        'on a disk *64.0  in /'; do
        check "plan: $tier" 'it is not told' grep -q "$tier" "$temp/out"
    done
}

fails() {
    lines=$all/long.jsonl expected=$all/expected.long.jsonl
    batch 1 --sequences 3 --kv-memory 1100K --kv-disk "$all:64M" --fail-at page-file-flip:0:5fail
    expect 'a damaged page' 3
    check 'a damaged page: one line has it' 'none, or more' has_error 1 'KV page'
    check 'a damaged page: the others' 'other results' are_as_expected 2
    check 'a disk alone: it is said what of host memory is taken' 'no NOTE' \
        grep -q 'NOTE: --kv-disk: KV pages go there through [0-9.]* MiB of pinned host memory' "$temp/err"
    batch 1 --sequences 3 --kv-memory 1100K --kv-disk "$all:64M" --fail-at page-file-write:0:always
    expect 'a full disk' 3
    check 'a full disk: it is named' 'no NOTE' grep -q "NOTE: KV page [0-9]* in $all: .*space" "$temp/err"
    check 'a full disk: who does not fit without it is told' 'others, or none' has_error 1 'KV page'
    check 'a full disk: the others' 'other results' are_as_expected 2
}

moves() {
    lines=$all/lines.jsonl expected=$all/expected.jsonl
    same 'saved' 1 --sequences 3 --kv-memory 340K --kv-host 8M --save "$temp/saved.kvs"
    same 'resumed' 1 --sequences 3 --kv-memory 340K --kv-host 8M --resume "$temp/saved.kvs"
}

pins() {
    lines=$all/lines.jsonl expected=$all/expected.jsonl
    batch 1 --sequences 3 --kv-host 8M --fail-at kv-host-pin:0:always
    expect 'memory for all' 0 &&
        check 'memory for all: it is said' 'no NOTE' grep -q 'NOTE: --kv-host: nothing is kept there' "$temp/err"
    same 'less host memory than asked for' 1 --sequences 3 --kv-memory 340K --kv-host 8M --kv-disk "$all:64M" \
        --fail-at kv-host-pin
    check 'less host memory than asked for: it is said' 'no NOTE' \
        grep -q 'NOTE: --kv-host: only .* could be pinned' "$temp/err"
    batch 1 --sequences 3 --kv-memory 340K --kv-host 8M --fail-at kv-host-pin
    refused 'no host memory' 2 'of host memory for KV pages cannot be pinned'
}

refusals() {
    lines=$all/lines.jsonl
    batch 1 --sequences 3 --kv-memory 100K --kv-host 8M
    refused 'too little memory' 2 'of memory for KV pages, but beside --kv-host it needs'
    batch 1 --sequences 3 --kv-memory 340K --kv-host 900K
    refused 'of no use' 2 '--kv-host: 0.9 MiB are too few'
    batch 1 --sequences 3 --kv-memory 340K --kv-host 1200K
    refused 'too small' 2 'raise --kv-memory'
    generate 1 --device cpu --input "$lines" --output "$temp/results.jsonl" --kv-host 8M
    refused 'the CPU' 2 '--kv-host is for GPUs'
}

temp=$all
generate 1 --device cuda --prompt a --max-tokens 1
if [ "$status" -eq 2 ] && grep -q 'no usable GPU' "$temp/err"; then
    echo 'skipped: no GPU here'
    exit 77
fi
(run_chain in_memory)
(run_chain runs moves) &
(run_chain fails pins refusals)
wait
end_test
