#!/bin/sh
# tests/command/test_devices.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: a GPU generates the same text for any number of
# ranks and before or after a resume, and a context moves between CPU and GPU.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"
options='--max-tokens 8 --ignore-eos --temperature 0.8 --seed 5 --chunk-tokens 32'

# on DEVICE NP ARGUMENTS...
on() {
    device=$1 np=$2
    shift 2
    # shellcheck disable=SC2086 # several words
    generate "$np" --device "$device" --prompt-file "$all/prompt.txt" $options "$@"
}

# The snapshot of $1 ranks on device $2, stopped behind three tokens, in $snapshot.
save_on() {
    snapshot=$temp/$2.kvs
    rm -rf "$snapshot"
    on "$2" "$1" --max-tokens 3 --save "$snapshot"
    expect "saved on $2" 0 || return
    check "saved on $2: verify" 'it is damaged' is_verified "$snapshot"
}

same_text() {
    on cuda 2
    ends_as 'two ranks' 0 "$all/text"
    check 'two ranks: places' 'not said' grep -q '^kvarve: rank 1 on [^ ]*, GPU [^ ]*, .*bound' "$temp/err"
    on cuda 1 --chunk-tokens 7 --page-tokens 32
    ends_as 'other chunks and pages' 0 "$all/text"
    save_on 2 cuda
    on cuda 1 --resume "$snapshot"
    ends_as 'saved by two ranks, gone on from by one' 0 "$all/text"
}

# Not the same bits on the two: the text goes on, and says so.
other_device() {
    save_on 2 cuda
    on cpu 1 --resume "$snapshot"
    expect 'from GPU to CPU' 0 && check 'from GPU to CPU' 'not told' grep -q 'NOTE: .*was computed with' "$temp/err"
    check 'from GPU to CPU: reused' 'it is not' grep -q 'cuda.kvs holds [1-9]' "$temp/err"
    save_on 1 cpu
    on cuda 2 --resume "$snapshot"
    expect 'from CPU to GPU' 0 && check 'from CPU to GPU' 'not told' grep -q 'NOTE: .*was computed with' "$temp/err"
    check 'from CPU to GPU: reused' 'it is not' grep -q 'cpu.kvs holds [1-9]' "$temp/err"
}

# A GPU makes random weights itself, but where it must know their digest: those of the files, that the host makes.
synthetic() {
    how="$run_options --device cuda --prompt Hello --ignore-eos --temperature 0.9 --seed 4 --max-tokens 12"
    run 1 synth --shape tiny "$temp/made"
    expect 'synth' 0 || return
    # shellcheck disable=SC2086 # several words
    for precision in bf16 f32; do
        run 1 generate --model "$temp/made" --precision $precision $how --save "$temp/$precision.kvs"
        expect "synth: files, $precision" 0 || continue
        cp "$temp/out" "$temp/of_files"
        run 1 generate --shape tiny --precision $precision $how
        check "synth: text of files and of the GPU, $precision" 'it differs' cmp "$temp/out" "$temp/of_files"
        run 2 generate --shape tiny --precision $precision $how
        check "synth: the same of two ranks, $precision" 'it differs' cmp "$temp/out" "$temp/of_files"
        run 1 generate --shape tiny --precision $precision $how --resume "$temp/$precision.kvs"
        check "synth: the GPU goes on from a snapshot of files, $precision" 'it does not' [ "$status" -eq 0 ]
    done
}

# A plan asks the GPU for its memory by the rule of a run: the same bound, and as many pages of what is left.
plan_and_run() {
    export EMULATED_GPU_MIB=300 # too little for all of these large pages
    head -c 300 "$page" >"$temp/text"
    asked='--device cuda --sequences 8 --context 8 --page-tokens 8192'
    # shellcheck disable=SC2086 # several words
    run 1 plan --model "$model" $asked
    expect 'plan of a GPU' 0 || return
    check 'plan of a GPU: its bound' 'it is not told' grep -q 'GPU 0 of this host has [1-9][0-9.]* MiB free' "$temp/err"
    check 'plan of a GPU: its pool' 'it is not told' grep -q '^pool of each rank: [1-9][0-9]* pages' "$temp/out"
    is_real=yes
    if grep -q 'has 300.0 MiB free' "$temp/err"; then is_real=; fi
    planned=$(sed -n 's/.*the pools hold \([0-9]*\) tokens.*/\1/p' "$temp/out")
    # shellcheck disable=SC2086
    run 1 perplexity --model "$model" $asked --file "$temp/text"
    expect 'run as planned' 0 || return
    held=$(sed -n 's/.*KV cache for \([0-9]*\) tokens.*/\1/p' "$temp/err")
    check 'plan and run: tokens of the pool' "$planned and $held" [ "$planned" -eq "$held" ]
    if [ ! "$is_real" ]; then check 'plan and run: less than is wanted' 'all' [ "$held" -lt $((8 * 8192)) ]; fi
    asked="$asked --context 100000000"
    # shellcheck disable=SC2086
    run 1 plan --model "$model" $asked
    refused 'plan that no GPU fits' 2 'may take'
    grep '^kvarve: error:' "$temp/err" >"$temp/planned"
    # shellcheck disable=SC2086
    run 1 perplexity --model "$model" $asked --file "$temp/text"
    grep '^kvarve: error:' "$temp/err" >"$temp/ran"
    check 'run that no GPU fits: the same bound' 'another' cmp "$temp/planned" "$temp/ran"
    run 1 plan --model "$model" --device cuda --memory-per-rank 512M
    check 'plan with a bound: no GPU is asked' 'it is' grep -q 'assumed: each rank may take 512.0 MiB' "$temp/err"
    unset EMULATED_GPU_MIB
}

head -c 160 "$page" >"$all/prompt.txt"
temp=$all
on cuda 1
if [ "$status" -eq 2 ] && grep -q 'no usable GPU' "$temp/err"; then
    echo 'skipped: no GPU here'
    exit 77
fi
cp "$temp/out" "$all/text"
run_chain same_text other_device synthetic plan_and_run
end_test
