#!/bin/sh
# tests/generate/test_window.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: layers with a window give back the pages behind
# it, and nobody notices: the same tokens and probabilities as of a run that keeps all, because it saves.
#
#   runs     over 1 to 3 ranks, in several chunks and pages, several lines at once
#   resumes  from a snapshot, of which such layers load the window only
#   plans    what the pools take
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

make_windowed "$all/model"
model=$all/model

batch() { # batch NP OPTIONS...: the results, in the order of the lines
    np=$1
    shift
    rm -f "$temp/results.jsonl"
    generate "$np" --input "$lines" --output "$temp/results.jsonl" --sequences 2 "$@"
    sort "$temp/results.jsonl" >"$temp/sorted.jsonl"
}

same() { # same NAME NP OPTIONS...: as the run that kept all
    name=$1
    shift
    batch "$@"
    expect "$name" 0 && check "$name" 'other results' cmp "$temp/sorted.jsonl" "$all/expected.jsonl"
}

keep_all() {
    lines=$all/lines.jsonl
    write_lines 4 1100 250 20 >"$lines"
    batch 1 --save "$temp/all.kvs"
    expect 'a run that keeps all' 0 && cp "$temp/sorted.jsonl" "$all/expected.jsonl"
}

runs() {
    lines=$all/lines.jsonl
    same 'one rank' 1
    same 'small chunks, small pages' 1 --chunk-tokens 48 --page-tokens 32
    same 'two ranks, large pages' 2 --page-tokens 224
    same 'three ranks, a saving of all' 3 --save "$temp/three.kvs" --chunk-tokens 100
}

resumes() {
    lines=$temp/lines.jsonl
    write_lines 1 1100 0 0 >"$lines"
    generate 2 --input "$lines" --output "$temp/read.jsonl" --save "$temp/read.kvs"
    expect 'a prompt that is read' 0
    write_lines 1 1100 0 20 >"$lines"
    head -n 1 "$all/expected.jsonl" >"$temp/first.jsonl"
    for np in 1 3; do
        batch $np --resume "$temp/read.kvs"
        expect "resumed by $np" 0 || continue
        check "resumed by $np: reuse" 'it was not' grep -q 'holds 1099 of 1100 tokens' "$temp/err"
        check "resumed by $np" 'other results' cmp "$temp/sorted.jsonl" "$temp/first.jsonl"
    done
}

kv_mib() { # kv_mib OPTIONS...: of a sequence of 8192 tokens
    run 1 plan --model "$model" --ranks 1 --context 8192 --max-tokens 64 --sequences 1 "$@"
    awk '/^ *0 +0\.\.7 / { print int($4 * 10) }' "$temp/out"
}

# Two layers keep 8192 tokens, six 96 of a window, up to 255 before it, a chunk of 512 and what fills up pages of 64.
plans() {
    whole=$(kv_mib --save "$temp/never.kvs")
    check 'plan of a run that saves' 'it is not said' \
        grep -q '^6 of 8 layers have a window of 96 .*a run that saves keeps all' "$temp/out"
    some=$(kv_mib)
    check 'plan' 'it is not said' grep -q '^6 of 8 layers have a window of 96 .*at most 960 tokens' "$temp/out"
    want=$((whole * (2 * 8192 + 6 * 960) / (8 * 8192)))
    check 'plan: memory' "$some of $whole, not $want" [ "$some" -ge $((want - 1)) -a "$some" -le $((want + 1)) ]
}

run_chain keep_all
run_chain runs &
run_chain resumes &
run_chain plans &
wait
end_test
