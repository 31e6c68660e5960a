#!/bin/sh
# tests/generate/test_evict.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: --evict, by which a part of the KV cache stays.
#
#   same     the same tokens and probabilities over 1 to 3 ranks, by any chunks and pages, alone and beside others,
#            with hardly any memory, with pages on a disk, with layers that have a window
#   codes    the same where pages hold codes
#   again    a long generation stays within its budget, the same way
#   whole    where all places stay, as without it
#   resumed  what is loaded is evicted, as if it had been computed
#   said     what was removed, in a NOTE, the report and the plan; behind contexts that are scored
#   refused  policies, budgets, what it does not go with
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

prompts() { # prompts LENGTHS MOST STEP: a line each, of so many tokens to come, each STEP more than the one before
    awk -v lengths="$1" -v most="$2" -v step="$3" 'BEGIN {
        n = split(lengths, length_of)
        for (i = 1; i <= n; i++) {
            printf "{\"id\": %d, \"max_tokens\": %d, \"ignore_eos\": true, ", i, most + step * i
            printf "\"logprobs\": 2, \"tokens\": [300"
            for (k = 1; k < length_of[i]; k++) printf ", %d", 10 + (k * k + 7 * i) % 4000
            print "]}"
        }
    }'
}

lines=$all/lines.jsonl
prompts '1800 1200 700 100' 8 4 >"$lines"

make_windowed "$all/windowed"

batch() { # batch MODEL NP OPTIONS...: the results, in the order of the lines
    on=$1 np=$2
    shift 2
    rm -f "$temp/results.jsonl"
    generate_on "$on" "$np" --device cpu --input "$lines" --output "$temp/results.jsonl" --sequences 3 "$@"
    [ ! -e "$temp/results.jsonl" ] || sort "$temp/results.jsonl" >"$temp/sorted.jsonl"
}

as_before() { # as_before NAME MODEL NP OPTIONS...: the results in $temp/expected.jsonl
    name=$1
    shift
    batch "$@"
    expect "$name" 0 && check "$name" 'other results' cmp "$temp/sorted.jsonl" "$temp/expected.jsonl"
}

differs() {
    ! cmp -s "$1" "$2"
}

first() { # first NAME MODEL OPTIONS...: what others are compared with
    name=$1 on=$2
    shift 2
    batch "$on" 1
    cp "$temp/sorted.jsonl" "$temp/exact.jsonl"
    batch "$on" 1 "$@"
    expect "$name" 0 && check "$name" 'nothing was removed' differs "$temp/exact.jsonl" "$temp/sorted.jsonl"
    cp "$temp/sorted.jsonl" "$temp/expected.jsonl"
}

same() {
    policies='window:4,200 h2o:0.3 snapkv:0.3 pyramid:0.3 expected:0.3'
    if is_slow; then policies='h2o:0.3 expected:0.3'; fi
    for policy in $policies; do
        first "$policy" "$model" --evict $policy
        as_before "$policy, 2 ranks, small chunks, small pages" "$model" 2 --evict $policy --chunk-tokens 48 \
            --page-tokens 32 --threads 1
        as_before "$policy, alone, hardly any memory" "$model" 3 --evict $policy --sequences 1 --chunk-tokens 700 \
            --page-tokens 96 --kv-memory 3500K
        case $policy in h2o*) continue ;; esac
        as_before "$policy, a disk" "$model" 2 --evict $policy --kv-memory 3M --kv-disk "$all:64M"
        check "$policy, a disk: it is read" 'nothing was' \
            awk '/KV pages on disks:/ { split($0, word, /[: ]+/); found = $5 > 0 && $10 > 0 } END { exit !found }' \
            "$temp/err"
    done
}

codes() {
    kinds='int8 int4'
    if is_slow; then kinds=int4; fi
    for kv in $kinds; do
        policies='expected:0.3 window:4,200 h2o:0.3 pyramid:0.3'
        if is_slow; then policies='expected:0.3'; fi
        for policy in $policies; do
            first "$kv, $policy" "$model" --kv $kv --evict $policy
            as_before "$kv, $policy, 2 ranks, small chunks, small pages" "$model" 2 --kv $kv --evict $policy \
                --chunk-tokens 48 --page-tokens 64 --threads 1
            as_before "$kv, $policy, 3 ranks, alone, hardly any memory" "$model" 3 --kv $kv --evict $policy \
                --sequences 1 --chunk-tokens 700 --page-tokens 256 --kv-memory 4M
        done
    done
    ! is_slow || return 0
    first 'int8, windows' "$all/windowed" --kv int8 --evict pyramid:0.3
    as_before 'int8, windows, 3 ranks, small chunks' "$all/windowed" 3 --kv int8 --evict pyramid:0.3 --chunk-tokens 100
    first 'int8, in memory' "$model" --kv int8 --evict expected:0.3
    as_before 'int8, a disk' "$model" 2 --kv int8 --evict expected:0.3 --chunk-tokens 64 --page-tokens 256 \
        --kv-memory 4300K --kv-disk "$all:64M"
    check 'int8, a disk: it is read' 'nothing was' \
        awk '/KV pages on disks:/ { split($0, word, /[: ]+/); found = $5 > 0 && $10 > 0 } END { exit !found }' \
        "$temp/err"
}

# As many short ones as run at once, a little longer than what lies in the first near page of each.
short() {
    lines=$temp/short.jsonl
    prompts '60 60 60 60 60 60 60 60 60 60 60 60 60 60 60 60' 10 0 >"$lines"
    for kv in int8 int4; do
        batch "$model" 1 --kv $kv --evict expected:0.5 --sequences 16
        expect "short, $kv" 0
    done
}

# So little memory holds a prompt, but not what comes behind it.
again() {
    lines=$temp/long.jsonl
    prompts '300 260 100' 380 40 >"$lines"
    policies='expected:0.5 h2o:0.5 window:4,150 pyramid:0.5'
    if is_slow; then policies='h2o:0.5'; fi
    for policy in $policies; do
        first "again, $policy" "$model" --evict $policy --evict-every 64
        as_before "again, $policy, 3 ranks, alone, hardly any memory" "$model" 3 --evict $policy --evict-every 64 \
            --sequences 1 --chunk-tokens 48 --page-tokens 32 --kv-memory 700K
        check "again, $policy: said" 'not' \
            grep -q 'of K and V; and again 20 times, behind every 64 tokens: ' "$temp/err"
        batch "$model" 3 --evict $policy --sequences 1 --page-tokens 32 --kv-memory 700K
        refused "again, $policy: once only" 2 '--kv-memory 0.7 MiB holds'
    done
    batch "$model" 1 --evict expected:4096 --evict-every 64
    check 'again, all stays: said' 'not' \
        grep -q 'of K and V; and again 0 times, behind every 64 tokens$' "$temp/err"
    ! is_slow || return 0
    first 'again, int4' "$model" --kv int4 --evict expected:0.5 --evict-every 100
    as_before 'again, int4, 2 ranks, alone' "$model" 2 --kv int4 --evict expected:0.5 --evict-every 100 --sequences 1
}

others() {
    first 'windows' "$all/windowed" --evict pyramid:0.3
    as_before 'windows, 3 ranks, small chunks' "$all/windowed" 3 --evict pyramid:0.3 --chunk-tokens 100
    make_windowed "$all/wide"
    sed -i 's/"sliding_window": 96/"sliding_window": 1024/' "$all/wide/config.json"
    batch "$all/wide" 1 --evict window:4,124
    expect 'windows that keep more than what stays' 0 && ok 'windows that keep more than what stays'
    make_windowed "$all/nowhere"
    sed -i 's/full_attention/sliding_attention/g' "$all/nowhere/config.json"
    batch "$all/nowhere" 1 --evict window:4,124
    refused 'windows everywhere' 2 '--evict: all layers of this model have a sliding window'
    batch "$all/windowed" 1 --evict window:4,300
    check 'windows: two layers' 'other bytes' grep -q 'is 1.0 of 3.7 MiB' "$temp/err"
}

whole() {
    batch "$model" 1
    cp "$temp/sorted.jsonl" "$temp/expected.jsonl"
    for policy in window:900,900 h2o:1.0 snapkv:100% pyramid:1800 expected:5000; do
        as_before "$policy" "$model" 2 --evict $policy
    done
    check 'all stays: said' 'not' \
        grep -q 'NOTE: --evict expected:5000: .* 4 sequences kept 3800 of 3800 .* of K and V$' "$temp/err"
}

text() { # text FILE NP OPTIONS...: of greedy text, in $temp/FILE
    to=$temp/$1 np=$2
    shift 2
    generate "$np" --device cpu --prompt-file "$temp/page.txt" --max-tokens 24 --temperature 0 --ignore-eos "$@"
    cp "$temp/out" "$to"
}

resumed() {
    cat "$page" "$page" "$page" "$page" >"$temp/page.txt"
    generate 1 --device cpu --prompt-file "$temp/page.txt" --max-tokens 0 --save "$temp/page.kvs"
    expect 'saved' 0
    for policy in window:4,200 snapkv:0.2 expected:0.2; do
        text computed 1 --evict $policy
        text loaded 1 --evict $policy --resume "$temp/page.kvs"
        expect "$policy: loaded" 0
        grep -q 'of K and V' "$temp/err" || failed "$policy: loaded" 'nothing was'
        text again 3 --evict $policy --resume "$temp/page.kvs" --load auto --chunk-tokens 100
        check "$policy: loaded, 3 ranks" 'other text' cmp "$temp/loaded" "$temp/again"
        case $policy in expected*) continue ;; esac # it goes by queries that are not loaded
        check "$policy: loaded as computed" 'other text' cmp "$temp/loaded" "$temp/computed"
    done
    text loaded 1 --evict expected:5000 --resume "$temp/page.kvs"
    check 'all stays: nothing is computed again' 'it is' \
        sh -c "! grep -q 'NOTE: --evict: .* computed again' '$temp/err'"
    for most in 24 150; do # the prompt has some 800 tokens
        generate 1 --device cpu --prompt-file "$temp/page.txt" --max-tokens $most --temperature 0 --ignore-eos \
            --evict expected:900 --evict-every 64 --resume "$temp/page.kvs"
        expect "some go later, $most tokens" 0
        cp "$temp/err" "$temp/later.$most"
    done
    check 'none go as long as it runs: nothing is computed again' 'it is' \
        sh -c "! grep -q 'NOTE: --evict: .* computed again' '$temp/later.24'"
    check 'some go later: computed again' 'nothing is' \
        grep -q 'NOTE: --evict: [0-9]* tokens that .*page.kvs holds are computed again' "$temp/later.150"
    text loaded 1 --evict expected:0.2 --resume "$temp/page.kvs"
    check 'computed again: said' 'not' grep -q 'NOTE: --evict: [0-9]* tokens that .*page.kvs holds are computed again' \
        "$temp/err"
}

said() {
    batch "$model" 2 --evict expected:0.5 --report "$temp/report.json"
    check 'a NOTE' 'none' grep -q 'NOTE: --evict expected:50%: in a layer, 4 sequences kept 1950 of 3800 places' \
        "$temp/err"
    check 'the report' 'it does not say so' grep -q '"policy": "expected:50%"' "$temp/report.json"
    check 'the table' 'no row' grep -q '^  eviction ' "$temp/err"
    run 1 plan --model "$model" --evict expected:0.5 --memory-per-rank 400M --context 4352
    check 'the plan' 'it does not say so' \
        grep -q 'takes 16.0 MiB while its prompt of 4096 tokens is read, and then 9.0 MiB with 256 ' "$temp/out"
    run 1 plan --model "$model" --evict expected:0.5 --evict-every 128 --memory-per-rank 400M --context 4352
    check 'the plan, again' 'it does not say so' \
        grep -q 'and then at most, as places go again behind every 128, 8.5 MiB with 256 ' "$temp/out"
    run 1 perplexity --model "$model" --device cpu --file "$temp/page.txt" --context 700 --scored 50 --windows 1 \
        --evict expected:0.5 --kv int8
    check 'behind a context in int8' 'no score' sh -c "grep -q '^changed cache   int8' '$temp/out' &&
        grep -q '^evicted         all but expected:50%' '$temp/out'"
    for budget in 1.0 0.2; do
        run 1 perplexity --model "$model" --device cpu --file "$temp/page.txt" --context 700 --scored 50 --windows 1 \
            --evict snapkv:$budget --report "$temp/$budget.json"
        expect "behind a context: $budget" 0
    done
    check 'behind a context: all stays' 'another score' grep -q '"divergence": {"mean": 0,' "$temp/1.0.json"
    check 'behind a context: a part' 'the same score' differs "$temp/1.0.json" "$temp/0.2.json"
}

refusals() {
    for policy in none expected expected: expected:0 expected:0% h2o:101% snapkv:1.5 pyramid:100 window:4 window:4,0; do
        generate 1 --prompt a --evict $policy
        refused "$policy" 2 "--evict $policy: expected "
    done
    generate 1 --prompt a --evict h2o:0.5 --device cuda
    refused 'cuda' 2 '--evict: not with --device cuda'
    generate 1 --prompt a --evict h2o:0.5 --save "$temp/none.kvs"
    refused '--save' 2 '--evict: not with --save'
    generate 1 --prompt a --evict h2o:0.5 --kv-disk "$all:1G"
    refused 'h2o, a disk' 2 '--evict h2o reads all keys twice: not with --kv-disk'
    generate 1 --prompt a --evict snapkv:0.5 --resume "$temp/none.kvs" --load base
    refused '--load base' 2 '--evict: not with --load base or --deadline'
    generate 1 --prompt a --evict-every 64
    refused 'every, without' 2 '--evict-every is for --evict, which is not given'
    generate 1 --prompt a --evict snapkv:0.5 --evict-every 63
    refused 'every 63' 2 '--evict-every 63: expected'
}

(run_chain same) &
(run_chain codes again short) &
(run_chain others whole resumed said refusals)
wait
end_test
