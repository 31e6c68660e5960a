#!/bin/sh
# tests/generate/test_kv_disk.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: more KV pages than memory holds, on a disk: the
# same tokens and probabilities as with all in memory.
#
#   runs     over 1 to 3 ranks, several lines at once, in nodes and windows, saved and resumed
#   fails    a damaged page, a full disk: who needs them ends, the others go on
#   killed   nothing is left in the directory
#   refused  directories, sizes, memory
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

mkdir "$all/disk"
make_windowed "$all/windowed"

batch() { # batch MODEL NP OPTIONS...: the results, in the order of the lines
    on=$1 np=$2
    shift 2
    rm -f "$temp/results.jsonl"
    generate_on "$on" "$np" --input "$lines" --output "$temp/results.jsonl" "$@"
    [ ! -e "$temp/results.jsonl" ] || sort "$temp/results.jsonl" >"$temp/sorted.jsonl"
}

has_error() { # has_error N PART: so many of the results
    [ "$(grep -c "\"error\": \"$2" "$temp/sorted.jsonl")" -eq "$1" ]
}

are_as_expected() { # are_as_expected N: so many of the results
    [ "$(grep -cxFf "$all/expected.jsonl" "$temp/sorted.jsonl")" -eq "$1" ]
}

is_empty() {
    [ -z "$(ls -A "$1")" ]
}

used_disk() { # did the last run write pages and read them?
    awk '/KV pages on disks:/ { split($0, word, /[: ]+/); found = $5 > 0 && $10 > 0 } END { exit !found }' "$temp/err"
}

same() { # same NAME EXPECTED MODEL NP OPTIONS...: as with all in memory, and pages came from the disk
    name=$1 expected=$2
    shift 2
    batch "$@"
    expect "$name" 0 || return
    check "$name: results" 'others' cmp "$temp/sorted.jsonl" "$expected"
    check "$name: the disk" 'nothing was read there' used_disk
}

in_memory() {
    lines=$all/lines.jsonl
    write_lines 4 1100 150 20 >"$lines"
    batch "$model" 1 --sequences 3
    expect 'all in memory' 0 && cp "$temp/sorted.jsonl" "$all/expected.jsonl"
    lines=$all/many.jsonl
    write_lines 9 200 150 250 | sed 's/tokens": \[300/tokens": [300, 301, 302, 303/' >"$lines"
    batch "$model" 1 --sequences 9
    expect 'many, all in memory' 0 && cp "$temp/sorted.jsonl" "$all/expected.many.jsonl"
    lines=$all/lines.jsonl
    batch "$all/windowed" 1 --sequences 3
    expect 'windows, all in memory' 0 && cp "$temp/sorted.jsonl" "$all/expected.windowed.jsonl"
}

runs() {
    lines=$all/lines.jsonl
    numbers='1 2 3'
    if is_slow; then numbers=2; fi
    for np in $numbers; do
        same "$np rank(s)" "$all/expected.jsonl" "$model" "$np" --sequences 3 --kv-memory 1750K \
            --kv-disk "$all/disk:64M"
    done
    same 'small chunks, small pages' "$all/expected.jsonl" "$model" 1 --sequences 3 --chunk-tokens 48 \
        --page-tokens 32 --kv-memory 3M --kv-disk "$all/disk:64M"
    same 'windows' "$all/expected.windowed.jsonl" "$all/windowed" 1 --sequences 3 --chunk-tokens 128 \
        --kv-memory 1750K --kv-disk "$all/disk:64M"
    lines=$all/many.jsonl # whose sequences outgrow memory one after the other, and pause
    same 'sequences that pause' "$all/expected.many.jsonl" "$model" 2 --sequences 9 --kv-memory 2500K \
        --kv-disk "$all/disk:64M"
    lines=$all/lines.jsonl
    batch "$model" 1 --sequences 3 --kv-disk "$all/disk:64M"
    expect 'memory for all' 0 &&
        check 'memory for all: it is said' 'no NOTE' grep -q 'NOTE: --kv-disk: nothing is kept there' "$temp/err"
}

snapshots() {
    lines=$all/lines.jsonl
    same 'saved' "$all/expected.jsonl" "$model" 2 --sequences 3 --kv-memory 1750K --kv-disk "$all/disk:64M" \
        --save "$temp/saved.kvs"
    same 'resumed' "$all/expected.jsonl" "$model" 1 --sequences 3 --kv-memory 1750K --kv-disk "$all/disk:64M" \
        --resume "$temp/saved.kvs"
}

fails() {
    lines=$all/lines.jsonl
    batch "$model" 2 --sequences 3 --kv-memory 1750K --kv-disk "$all/disk:64M" --fail-at page-file-flip:1:30fail
    expect 'a damaged page' 3
    check 'a damaged page: it is named' 'no NOTE' \
        grep -q "NOTE: rank 1: KV page [0-9]* in $all/disk: what was read is not what was written" "$temp/err"
    check 'a damaged page: one line has it' 'none, or more' has_error 1 'rank 1: KV page'
    check 'a damaged page: the others' 'other results' are_as_expected 3

    # Memory has room for each line but the first.
    batch "$model" 1 --sequences 3 --kv-memory 4500K --kv-disk "$all/disk:64M" --fail-at page-file-write:0:always
    check 'a full disk: it is named' 'no NOTE' grep -q "NOTE: KV page [0-9]* in $all/disk: .*space" "$temp/err"
    check 'a full disk: who fits without it goes on' 'others, or none' are_as_expected 3
    check 'a full disk: who does not is told' 'others, or none' has_error 1 'KV page'
}

killed() {
    lines=$all/lines.jsonl
    mkdir "$temp/disk"
    start 2 --input "$lines" --output "$temp/killed.jsonl" --kv-memory 1750K --kv-disk "$temp/disk:64M" \
        --sequences 3 --fail-at page-file-read:1:20kill
    wait_job
    check 'killed' 'it was not' [ "$status" -ne 0 ]
    check 'killed: nothing is left' 'files' is_empty "$temp/disk"
}

refusals() {
    lines=$all/lines.jsonl
    batch "$model" 1 --kv-memory 4M --kv-disk "$temp/none:64M"
    refused 'no such directory' 2 "--kv-disk: $temp/none"
    for text in 64M "$all/disk" :64M "$all/disk:" "$all/disk:-1" "$all/disk:x"; do
        batch "$model" 1 --kv-disk "$text"
        refused "'$text'" 2 '--kv-disk ' 'a directory and bytes, such as'
    done
    batch "$model" 1 --kv-memory 500K --kv-disk "$all/disk:64M"
    refused 'too little memory' 2 'of memory for KV pages, but beside --kv-disk it needs'
    batch "$model" 1 --kv-memory 4M --kv-disk "$all/disk:2200K"
    refused 'too small' 2 'raise --kv-memory'
    batch "$model" 1 --kv-memory 4M --kv-disk "$all/disk:1M"
    refused 'of no use' 2 '1.0 MiB are too few'
}

(run_chain in_memory)
(run_chain runs) &
(run_chain snapshots fails killed refusals)
wait
end_test
