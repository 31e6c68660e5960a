#!/bin/sh
# tests/generate/test_kv_codes.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR int8|int4: --kv, a KV cache that is rounded.
#
#   same     the same tokens and probabilities over 1 to 3 ranks, by any chunks and pages, with pages on a disk
#   resumed  saved on the way and resumed as generated at once, wherever; and of what only begins so the same
#   said     that it rounds, and what it takes
#   refused  where it cannot be
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
kv=$1
test_name=kv_$kv
case $kv in
int8) few_tokens=32 long=2100 memory=3500K kib=2.1 least_ratio=1.7 ;;
int4) few_tokens=192 long=4200 memory=3800K kib=1.1 least_ratio=2 ;; # pages are whole groups of 64 tokens
esac

prompts() { # prompts N LENGTH STEP [MAX_TOKENS]: N lines, each STEP tokens shorter than the one before
    awk -v n="$1" -v length_of="$2" -v step="$3" -v most="${4-20}" 'BEGIN {
        for (i = 0; i < n; i++) {
            printf "{\"id\": %d, \"max_tokens\": %d, \"ignore_eos\": true, \"logprobs\": 2, \"tokens\": [300", i, most
            for (k = 1; k < length_of - step * i; k++) printf ", %d", 10 + (k * k + 7 * i) % 4000
            print "]}"
        }
    }'
}

lines=$all/lines.jsonl
prompts 4 900 150 >"$lines"

batch() { # batch NP OPTIONS...: the results, in the order of the lines
    np=$1
    shift
    rm -f "$temp/results.jsonl"
    generate "$np" --device cpu --input "$lines" --output "$temp/results.jsonl" --sequences 3 "$@"
    [ ! -e "$temp/results.jsonl" ] || sort "$temp/results.jsonl" >"$temp/sorted.jsonl"
}

same_as() { # same_as NAME EXPECTED NP OPTIONS...
    name=$1 expected=$2
    shift 2
    batch "$@" --kv $kv
    expect "$name" 0 && check "$name" 'other results' cmp "$temp/sorted.jsonl" "$expected"
}

differs() {
    ! cmp -s "$1" "$2"
}

same() {
    batch 1
    expect 'bf16' 0 && cp "$temp/sorted.jsonl" "$all/bf16.jsonl"
    batch 1 --kv $kv
    expect "$kv" 0 && cp "$temp/sorted.jsonl" "$all/expected.jsonl"
    check 'rounded' 'the results of bf16' differs "$all/bf16.jsonl" "$all/expected.jsonl"
    check 'said' 'no NOTE' grep -q "NOTE: --kv $kv: keys and values are rounded" "$temp/err"
    batch 1 --kv bf16
    expect 'bf16 asked for' 0 && check 'bf16 asked for' 'other results' cmp "$temp/sorted.jsonl" "$all/bf16.jsonl"
    same_as '2 ranks' "$all/expected.jsonl" 2
    is_slow || same_as '3 ranks' "$all/expected.jsonl" 3
    same_as 'small chunks, other pages' "$all/expected.jsonl" 1 --chunk-tokens 48 --page-tokens $few_tokens
    same_as 'two threads' "$all/expected.jsonl" 1 --threads 2
}

# A context that memory has no room for.
on_disk() {
    ! is_slow || return 0
    lines=$temp/long.jsonl
    prompts 2 $long 50 >"$lines"
    batch 1 --kv $kv
    expect 'in memory' 0 && cp "$temp/sorted.jsonl" "$temp/expected.jsonl"
    same_as 'a disk' "$temp/expected.jsonl" 2 --page-tokens 256 --chunk-tokens 64 --kv-memory $memory \
        --kv-disk "$temp:64M"
    check 'a disk: it is read' 'nothing was' \
        awk '/KV pages on disks:/ { found = $5 + 0 > 0 && $12 + 0 > 0 } END { exit !found }' "$temp/err"
}

# Of greedy text, at once and in two runs.
text() { # text NAME OPTIONS...: in $temp/NAME
    to=$temp/$1
    shift
    generate 1 --device cpu --kv $kv --prompt-file "$page" --temperature 0 --ignore-eos "$@"
    cp "$temp/out" "$to"
}

resumed() {
    text whole --max-tokens 20
    expect 'at once' 0
    text first --max-tokens 10 --save "$temp/page.kvs"
    expect 'the first half' 0
    text second --resume "$temp/page.kvs" --max-tokens 20
    expect 'resumed' 0
    check 'resumed' 'another text' cmp "$temp/second" "$temp/whole"
    prompts 4 900 150 0 >"$temp/kept.jsonl"
    lines=$temp/kept.jsonl
    batch 2 --kv $kv --save "$temp/lines.kvs"
    expect 'lines saved' 0
    # As codes, where rows are that; as bf16 it would be 1.5 times.
    ratio=$(sed -n 's/.* of files (\([0-9.]*\)x).*/\1/p' "$temp/err")
    check 'lines saved: small' "$ratio times smaller" \
        awk "BEGIN { exit !(\"$ratio\" + 0 >= $least_ratio) }"
    for codec in none lossless; do
        run 1 snapshot recode "$temp/lines.kvs" --codec $codec
        expect "lines as $codec" 0
    done
    check 'lines recoded: as small' "they are not" awk -v was="$ratio" '
        / are now / { found = $5 / $11 > 0.95 * was } END { exit !found }' "$temp/out"
    lines=$all/lines.jsonl
    same_as 'lines resumed' "$all/expected.jsonl" 1 --resume "$temp/lines.kvs"
    check 'lines resumed: they are' 'they were computed' grep -q 'holds .* of 2700 tokens' "$temp/err"
}

# Saved behind so many positions, at and beside the ends of the first places and of blocks.
awkward() {
    head -c 100 "$page" >"$temp/prompt"
    run 1 tokenize --model "$model" --prompt-file "$temp/prompt"
    n=$(grep -c '^ *[0-9][0-9]*  "' "$temp/out")
    page=$temp/prompt
    text whole --max-tokens 540
    expect "$n tokens at once" 0
    ends='63 64 255 256 257 511 512 513'
    if is_slow; then ends='63 256'; fi
    for end in $ends; do
        rm -rf "$temp/page.kvs"
        text first --max-tokens $((end - n + 1)) --save "$temp/page.kvs" --save-every 100 --chunk-tokens 100
        expect "saved behind $end" 0
        text second --resume "$temp/page.kvs" --max-tokens 540
        expect "resumed behind $end" 0 && check "resumed behind $end" 'another text' cmp "$temp/second" "$temp/whole"
    done
}

# A prompt whose first SAME tokens another one has as well.
alike() { # alike LENGTH SAME MAX_TOKENS
    awk -v n="$1" -v same="$2" -v most="$3" 'BEGIN {
        printf "{\"id\": 1, \"max_tokens\": %d, \"ignore_eos\": true, \"logprobs\": 2, \"tokens\": [300", most
        for (k = 1; k < n; k++) printf ", %d", 10 + (k * k + (k < same ? 0 : 5)) % 4000
        print "]}"
    }'
}

shared() { # shared SAVED LENGTH SAME REUSED: saved positions, then a prompt that begins with SAME of them
    alike "$1" "$1" 0 >"$temp/saved.jsonl"
    alike "$2" "$3" 12 >"$temp/asked.jsonl"
    rm -rf "$temp/saved.kvs"
    lines=$temp/saved.jsonl
    batch 1 --kv $kv --save "$temp/saved.kvs"
    expect "shared $*: saved" 0
    lines=$temp/asked.jsonl
    batch 1 --kv $kv
    expect "shared $*: afresh" 0 && cp "$temp/sorted.jsonl" "$temp/afresh.jsonl"
    same_as "shared $*" "$temp/afresh.jsonl" 1 --resume "$temp/saved.kvs"
    check "shared $*: reused" 'another number' grep -q "holds $4 of $2 tokens" "$temp/err"
}

beginnings() {
    shared 800 650 600 512
    ! is_slow || return 0
    shared 700 650 600 600
    shared 700 750 700 700
    shared 512 512 512 256
    shared 513 513 513 512
}

# Where a snapshot comes from, and where it goes on otherwise.
provenance() {
    shared 800 650 600 512
    check 'provenance: as it was' 'a NOTE' sh -c "! grep -q 'NOTE: --resume' '$temp/err'"
    run 1 snapshot info "$temp/saved.kvs"
    check 'provenance: known' 'nothing is told' grep -q ", pages: $kv\$" "$temp/out"
    batch 1 --resume "$temp/saved.kvs"
    check 'provenance: without --kv' 'no NOTE' \
        grep -q "NOTE: --resume .* pages that were $kv, and those of this run are exact" "$temp/err"
    lines=$temp/saved.jsonl
    rm -r "$temp/saved.kvs"
    batch 1 --save "$temp/saved.kvs"
    lines=$temp/asked.jsonl
    batch 1 --kv $kv --resume "$temp/saved.kvs"
    check 'provenance: of an exact one' 'no NOTE' \
        grep -q "NOTE: --resume .* pages that were exact, and those of this run are $kv" "$temp/err"
    alike 900 800 0 >"$temp/more.jsonl"
    lines=$temp/more.jsonl
    batch 1 --kv $kv --resume "$temp/saved.kvs" --save "$temp/both.kvs"
    run 1 snapshot info "$temp/both.kvs"
    check 'provenance: of both' 'nothing is told' grep -q ", pages: exact, $kv\$" "$temp/out"
}

plan_bytes() { # plan_bytes OPTIONS...: of a token, in KiB
    run 1 plan --model "$model" --memory-per-rank 250M "$@"
    sed -n 's/^KV cache: \([0-9.]*\) KiB a token.*/\1/p' "$temp/out"
}

plans() {
    check 'planned: bf16' 'others' test "$(plan_bytes --kv bf16)" = 4.0
    check "planned: $kv" 'others' test "$(plan_bytes --kv "$kv")" = $kib
    check planned 'no line' grep -q '^up to 320 tokens of each sequence.* in bf16 besides: 1.3 MiB' "$temp/out"
}

refusals() {
    generate 1 --prompt a --kv $kv --precision f32
    refused 'f32' 2 "--kv $kv: not with --precision f32"
    generate 1 --prompt a --kv int5
    refused 'int5' 2 '--kv int5: expected bf16, int8 or int4'
    [ "$kv" = int4 ] || return 0
    generate 1 --prompt a --kv int4 --device cuda
    refused 'cuda' 2 '--kv int4: not with --device cuda'
    generate 1 --prompt a --kv int4 --page-tokens 96
    refused 'pages' 2 '--page-tokens 96: --kv int4 wants a multiple of 64'
    for load in auto base; do
        generate 1 --prompt a --kv int4 --resume "$temp/none.kvs" --load $load
        refused "--load $load" 2 "not with --load $load"
    done
}

(run_chain same)
(run_chain resumed beginnings provenance on_disk plans refusals) &
(run_chain awkward)
wait
end_test
