#!/bin/sh
# tests/snapshot/test_resume.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR FOLDER PART: a context outlives its job.
#
#   make      snapshots of two ranks that were killed in the middle of a prefill, of a decode, and of a batch, one whole
#             prefill, and the results of runs that never stopped; all of it into FOLDER
#   1 2 3 4   go on from copies of these with so many ranks: the same texts and results bit for bit
#   others    other directories, prompts, limits, precisions, codecs and layers per rank, and compacted snapshots
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"
folder=$1 part=$2

# A long prefill of small chunks; a decode whose draws depend on all that came before; a batch of two at once.
prefill_options='--max-tokens 12 --chunk-tokens 64 --ignore-eos'
decode_options='--max-tokens 500 --temperature 0.9 --top-p 0.95 --repetition-penalty 1.15 --seed 11 --ignore-eos'
batch_options='--sequences 2 --ignore-eos --chunk-tokens 128'
read_options='--max-tokens 40 --temperature 0.8 --seed 3 --ignore-eos --logprobs 2'

# ---- make ----

# Prompts longer than the 32 tokens below which nothing is reused.
write_batch() {
    long=', of which she had spoken with so much kindness in the letter that came from the village on the morning of'
    long="$long the day on which they left the house, and which nobody had thought of again until the rain began"
    cat <<END
{"id": "a", "prompt": "The old house", "max_tokens": 30, "logprobs": 3}
{"id": "refused", "prompt": ""}
{"id": "b", "prompt": "It was the best of times$long", "max_tokens": 90, "temperature": 1.1, "repetition_penalty": 1.2}

{"id": 7, "tokens": [$(seq -s , 300 345)], "max_tokens": 300, "logprobs": 2, "temperature": 0.7, "seed": 5}
{"id": "c", "prompt": "Caf\u00e9 \"quoted\" \\\\ \n\t$long", "max_tokens": 250, "stop": ["never there"]}
{"id": "d", "prompt": "only read", "max_tokens": 0}
{"id": "e", "prompt": "She looked out of the window$long", "max_tokens": 120, "logprobs": 1}
{"id": "f", "prompt": "The ship$long", "max_tokens": 150}
END
}

# A text that ends behind 85% of FILE and is nowhere before: the stop text of a decode.
late_text() {
    tr '\n' ' ' <"$1" | awk '{
        for (at = int(length($0) * 0.85); at > 0; at++) {
            text = substr($0, at, 9)
            if (length(text) < 9) exit
            if (text ~ /^[A-Za-z ,]+$/ && index($0, text) == at) { print text; exit }
        }
    }'
}

# shellcheck disable=SC2086 # options are several words
make_references() {
    generate 1 --prompt-file "$folder/long.txt" $prefill_options
    expect 'prefill without a stop' 0 && cp "$temp/out" "$folder/prefill.txt"
    generate 1 --prompt-file "$page" $decode_options
    late_text "$temp/out" >"$folder/stop.txt"
    [ -s "$folder/stop.txt" ] || failed 'stop text' 'there is none in the text of the decode'
    generate 1 --prompt-file "$page" $decode_options --stop "$(cat "$folder/stop.txt")"
    expect 'decode without a stop' 0 && cp "$temp/out" "$folder/decode.txt"
    generate 1 --prompt-file "$page" $read_options
    expect 'a whole prefill and its text' 0 && cp "$temp/out" "$folder/read.txt"
    generate 1 --input "$folder/batch.jsonl" --output "$temp/results" $batch_options
    expect 'batch without a stop' 3 && sort "$temp/results" >"$folder/batch.results"
    check 'a result for each line' 'there is not' [ "$(wc -l <"$folder/batch.results")" -eq 8 ]
}

# is_midway NAME STATE: a sequence is in this state; of a batch some are done and some wait, too.
is_midway() {
    has_state "$folder/$1" "$2" || return
    [ "$1" = batch ] || return 0
    "$kvarve" snapshot info "$folder/$1" >"$temp/info"
    grep -q '^batch *[2-5] of 8 lines done' "$temp/info" && [ "$(grep -c " $2\$" "$temp/info")" -le 2 ]
}

# killed NAME STATE ARGUMENTS...: three runs, each of which goes on from the one before and is killed behind its first
# commit, with a sequence of the snapshot in this state. A first save is due after so many tokens, and holds what is
# there then, however long it takes.
killed() {
    what=$1 state=$2
    shift 2
    rm -rf "${folder:?}/$what"
    for _ in 1 2 3; do generate 2 "$@" --save "$folder/$what" --resume "$folder/$what" --fail-at save-clean:0:kill; done
    if [ "$status" -eq 0 ]; then
        failed "$what" 'the run was not killed'
    else
        check "$what: verify" 'the snapshot is damaged' is_verified "$folder/$what"
        check "$what: $state" 'no sequence is' is_midway "$what" "$state"
    fi
}

# shellcheck disable=SC2086
make_snapshots() {
    killed prefill reading --prompt-file "$folder/long.txt" $prefill_options --save-every 64
    killed batch generating --input "$folder/batch.jsonl" --output "$folder/batch.output" $batch_options \
        --save-every 60
    generate 2 --prompt-file "$page" --max-tokens 0 --logprobs 2 --save "$folder/read"
    expect 'a whole prefill' 0 && check 'read: read' 'it is not' has_state "$folder/read" read
}

# shellcheck disable=SC2086
make_decode() {
    killed decode generating --prompt-file "$page" $decode_options --stop "$(cat "$folder/stop.txt")" \
        --save-every 120
}

# ---- go on ----

# copied NAME: a copy to go on from, in $copy.
copied() {
    rm -rf "${temp:?}/$1" "$temp/$1.output"
    cp -r "$folder/$1" "$temp/$1"
    copy=$temp/$1
}

# shellcheck disable=SC2086
resume_texts() {
    copied decode
    generate "$part" --prompt-file "$page" $decode_options --stop "$(cat "$folder/stop.txt")" --resume "$copy" \
        --save "$copy"
    ends_as "decode on $part" 0 "$folder/decode.txt"
    check "decode on $part: verify" 'the snapshot is damaged' is_verified "$copy"
    check "decode on $part: nothing else" 'there is' holds_only_named "$copy"
    copied read
    generate "$part" --prompt-file "$page" $read_options --resume "$copy" --report "$temp/report.json"
    ends_as "whole prefill on $part" 0 "$folder/read.txt"
    check "whole prefill on $part: it was reused" 'it was not' is_reported "$temp/report.json" reused_tokens 200
}

# shellcheck disable=SC2086
resume_others() {
    copied prefill
    generate "$part" --prompt-file "$folder/long.txt" $prefill_options --resume "$copy" --save "$copy" \
        --save-every 300 --report "$temp/report.json"
    ends_as "prefill on $part" 0 "$folder/prefill.txt"
    check "prefill on $part: it was reused" 'it was not' is_reported "$temp/report.json" reused_tokens 64
    check "prefill on $part: verify" 'the snapshot is damaged' is_verified "$copy"
    copied batch
    cp "$folder/batch.output" "$temp/batch.output"
    generate "$part" --input "$folder/batch.jsonl" --output "$temp/batch.output" $batch_options --resume "$copy" \
        --save "$copy"
    results_as "batch on $part" 3 "$temp/batch.output" "$folder/batch.results"
}

# ---- others ----

# shellcheck disable=SC2086
other_directories() {
    copied decode
    stop=$(cat "$folder/stop.txt")
    # Only the end is missing there when this one is killed, too.
    generate 3 --prompt-file "$page" $decode_options --stop "$stop" --resume "$copy" --save "$temp/second" \
        --save-every 60 --fail-at save-clean:0:kill
    check 'another directory: killed there' 'it was not' [ "$status" -ne 0 ]
    check 'another directory: the first is untouched' 'it is not' diff -r "$copy" "$folder/decode"
    check 'another directory: verify' 'the second is damaged' is_verified "$temp/second"
    rm -r "$copy"
    generate 1 --prompt-file "$page" $decode_options --stop "$stop" --resume "$temp/second" --save "$temp/second"
    ends_as 'from another directory' 0 "$folder/decode.txt"
    # Again, at its end: nothing is left to do, and the text is the same.
    generate 2 --prompt-file "$page" $decode_options --stop "$stop" --resume "$temp/second"
    ends_as 'a snapshot that is done' 0 "$folder/decode.txt"
    generate 2 --prompt-file "$page" $decode_options --stop "$stop" --save "$temp/second"
    refused 'a snapshot is there already' 2 "there is a snapshot already: go on from it with --resume $temp/second"
    generate 2 --prompt-file "$page" $decode_options --resume "$temp/none" --save "$temp/none" --max-tokens 3
    check 'no snapshot yet' 'not told' grep -q 'there is no snapshot yet: starting afresh' "$temp/err"
}

# shellcheck disable=SC2086
other_prompts() {
    copied decode
    generate 3 --resume "$copy"
    ends_as 'no prompt' 0 "$folder/decode.txt"
    copied read
    { cat "$page" && echo 'What did the old man say to her then?'; } >"$temp/longer.txt"
    generate 1 --prompt-file "$temp/longer.txt" $read_options
    cp "$temp/out" "$temp/plain"
    generate 2 --prompt-file "$temp/longer.txt" $read_options --resume "$copy" --report "$temp/report.json"
    ends_as 'longer prompt' 0 "$temp/plain"
    check 'longer prompt: the common part was reused' 'it was not' is_reported "$temp/report.json" reused_tokens 190
    # The same again, with more to generate: first 25 tokens are saved, then there are 40.
    generate 2 --prompt-file "$page" $read_options --resume "$copy" --save "$copy" --max-tokens 25
    expect 'fewer tokens' 0
    generate 1 --prompt-file "$page" $read_options --resume "$copy" --report "$temp/report.json"
    ends_as 'more tokens' 0 "$folder/read.txt"
    check 'more tokens: those before were reused' 'they were not' is_reported "$temp/report.json" reused_tokens 220
}

# Each line begins with the saved document; the one without it computes all of its own.
write_questions() {
    document=$(sed 's/\\/\\\\/g; s/"/\\"/g; s/$/\\n/' "$page" | tr -d '\n')
    for question in 'Who was at the door?' 'What was the weather like?' 'Why did she laugh?'; do
        printf '{"prompt": "%s%s", "max_tokens": 20}\n' "$document" "$question"
    done
    echo '{"prompt": "Something else", "max_tokens": 20}'
}

# shellcheck disable=SC2086
other_questions() {
    copied read
    write_questions >"$temp/questions.jsonl"
    generate 1 --input "$temp/questions.jsonl" --output "$temp/plain" --sequences 3
    sort "$temp/plain" >"$temp/plain.sorted"
    generate 2 --input "$temp/questions.jsonl" --output "$temp/results" --sequences 3 --resume "$copy" --save "$copy" \
        --report "$temp/report.json"
    results_as 'questions about a saved document' 0 "$temp/results" "$temp/plain.sorted"
    check 'questions: each reused the document' 'not all did' is_reported "$temp/report.json" reused_tokens 570
    check 'questions: the document is kept' 'it is gone' is_verified "$copy"
    generate 1 --prompt-file "$page" $read_options --resume "$copy"
    ends_as 'the document after the questions' 0 "$folder/read.txt"
}

# shellcheck disable=SC2086
other_forms() {
    generate 1 --prompt-file "$page" $read_options --precision f32
    cp "$temp/out" "$temp/plain"
    generate 2 --prompt-file "$page" $read_options --precision f32 --max-tokens 15 --save "$temp/f32"
    generate 3 --prompt-file "$page" $read_options --precision f32 --resume "$temp/f32"
    ends_as 'f32' 0 "$temp/plain"
    generate 2 --prompt-file "$page" $read_options --resume "$temp/f32"
    refused 'f32 for bf16' 2 'run with --precision f32'

    copied prefill
    generate 3 --prompt-file "$folder/long.txt" $prefill_options --resume "$copy" --save "$copy" --codec none
    ends_as 'another codec' 0 "$folder/prefill.txt"
    for codec in none lossless; do
        "$kvarve" snapshot info "$copy" >"$temp/info"
        check "two codecs: $codec" 'it is not there' grep -q "^L.* $codec\$" "$temp/info"
    done
    check 'two codecs: verify' 'it is damaged' is_verified "$copy"
    generate 2 --prompt-file "$folder/long.txt" $prefill_options --resume "$copy"
    ends_as 'two codecs' 0 "$folder/prefill.txt"
}

# shellcheck disable=SC2086
other_layers() {
    generate 4 --prompt-file "$page" $read_options --max-tokens 30 --layers-per-rank 1,4,1,2 --save "$temp/uneven" \
        --save-every 10
    expect 'uneven layers' 0
    n=$(n_segments_of "$temp/uneven")
    check 'uneven layers: several saves' "$n segments" [ "$n" -ge 8 ]
    for np in 1 3; do
        run $np snapshot compact "$temp/uneven" --threads 1
        expect "compact on $np" 0
        check "compact on $np: one segment for each" 'there are others' [ "$(n_segments_of "$temp/uneven")" -eq $np ]
        check "compact on $np: verify" 'it is damaged' is_verified "$temp/uneven"
        check "compact on $np: nothing else" 'there is' holds_only_named "$temp/uneven"
        # Not saved: the next one compacts the same.
        generate $((np + 1)) --prompt-file "$page" $read_options --resume "$temp/uneven"
        ends_as "compacted on $np" 0 "$folder/read.txt"
    done
    generate 4 --prompt-file "$page" $read_options --resume "$temp/uneven" --save "$temp/uneven" \
        --layers-per-rank 2,1,4,1
    ends_as 'other uneven layers' 0 "$folder/read.txt"
    # Of many sequences, of which some are over: other rows for those that are left.
    copied batch
    cp "$folder/batch.output" "$temp/batch.output"
    run 3 snapshot compact "$copy" --threads 1
    generate 2 --input "$folder/batch.jsonl" --output "$temp/batch.output" $batch_options --resume "$copy"
    results_as 'compacted batch' 3 "$temp/batch.output" "$folder/batch.results"
    run 2 snapshot verify "$temp/uneven"
    check 'other uneven layers: verify on 2' 'it is damaged' [ "$status" -eq 0 ]
}

case $part in
make)
    rm -rf "$folder"
    mkdir -p "$folder"
    pages 12 >"$folder/long.txt"
    write_batch >"$folder/batch.jsonl"
    run_chain make_references &
    run_chain make_snapshots &
    wait
    run_chain make_decode
    ;;
[1-4])
    run_chain resume_texts &
    run_chain resume_others &
    wait
    ;;
others)
    run_chain other_directories other_prompts &
    run_chain other_questions other_forms other_layers &
    wait
    ;;
esac
end_test
