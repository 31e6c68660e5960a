#!/bin/sh
# tests/command/test_plan.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: a plan with the sizes of a run says what the run
# says: of each rank its layers, and bytes of weights, of KV cache and of all; and how many tokens the pools hold.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

context=108 n_new=8

# A line for each rank, and the pools: of the plan that was printed, and of the run that was reported.
planned() {
    awk '/^ *[0-9]+ +[0-9]+\.\.[0-9]+ / { print $2, $3, $4, $7 }' "$temp/out"
    sed -n 's/.*the pools hold \([0-9]*\) tokens.*/\1 tokens/p' "$temp/out"
}

ran() {
    tr ',{}' '\n\n\n' <"$temp/report.json" | awk -F: '
        { gsub(/[" \t]/, "", $1); value[$1] = $2 }
        $1 == "planned_bytes" {
            printf "%d..%d %.1f %.1f %.1f\n", value["first_layer"], value["last_layer"] - 1,
                value["weight_bytes"] / 1048576, value["kv_bytes"] / 1048576, $2 / 1048576
        }'
    sed -n 's/^kvarve: .* KV cache for \([0-9]*\) tokens.*/\1 tokens/p' "$temp/err"
}

compare() { # compare NAME NP PLAN-OPTIONS...: with the last run, of NP ranks
    what=$1 np=$2
    shift 2
    expect "$what: run" 0 || return
    ran >"$temp/ran"
    check "$what: report" 'it is not of all ranks' [ "$(wc -l <"$temp/ran")" -eq $((np + 1)) ]
    run 1 plan --model "$model" --ranks "$np" --memory-per-rank 250M "$@"
    planned >"$temp/planned"
    check "$what" "planned: $(tr '\n' ';' <"$temp/planned") run: $(tr '\n' ';' <"$temp/ran")" \
        cmp "$temp/planned" "$temp/ran"
}

same() { # same NAME NP OPTIONS...: of the run and of its plan; with four sequences
    what=$1 np=$2
    shift 2
    generate "$np" --input "$temp/prompts.jsonl" --output "$temp/results.jsonl" --report "$temp/report.json" \
        --sequences 4 "$@"
    compare "$what" "$np" --sequences 4 --context $context --max-tokens $n_new "$@"
}

# Fewer pages than are wanted, as the plan on stdout says.
is_bounded() {
    awk '/^pool of each rank:/ { exit !($5 < substr($7, 2) + 0) }' "$temp/out"
}

batches() {
    write_lines 4 $((context - n_new)) 0 $n_new >"$temp/prompts.jsonl"
    same 'one rank' 1
    same 'two ranks' 2
    same 'chunks and pages' 3 --chunk-tokens 64 --page-tokens 32
    same 'layers as told' 3 --layers-per-rank 1,2,5
    same 'f32' 2 --precision f32
    same 'int8' 2 --device cpu --weights int8
    same 'a run that saves' 2 --save "$temp/saved.kvs"
    same 'KV memory' 2 --kv-memory 700K
    check 'KV memory: a bound' 'it is none' is_bounded
    same 'a disk' 2 --chunk-tokens 32 --kv-memory 900K --kv-disk "$temp:64M"
    check 'a disk: what memory holds' 'it is not said' grep -q 'in memory .* [1-9][0-9]* of them' "$temp/out"
    run 1 plan --model "$model" --ranks 2 --sequences 4 --context $context --max-tokens $n_new --memory-per-rank 250M
    most=$(sed -n 's/^fits: the largest rank takes \([0-9.]*\) of.*/\1/p' "$temp/out")
    same 'memory' 2 --memory-per-rank "$(awk -v most="$most" 'BEGIN { printf "%d", most * 1024 - 300 }')K"
    check 'memory: a bound' 'it is none' is_bounded
    write_lines 7 $((context - n_new)) 0 $n_new >"$temp/prompts.jsonl"
    same 'more lines than sequences' 2
}

texts() {
    head -c 2000 "$page" >"$temp/text"
    # shellcheck disable=SC2086 # several words
    run 2 perplexity --model "$model" $run_options --file "$temp/text" --context $context --sequences 2 \
        --report "$temp/report.json"
    compare 'perplexity' 2 --sequences 2 --context $context --max-tokens $context # all rows pass the head
}

run_chain batches &
run_chain texts &
wait
end_test
