#!/bin/sh
# tests/snapshot/test_snapshot_refused.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: what a snapshot refuses.
#
#   others   a snapshot of other weights, another tokenizer, shape, precision, format or batch
#   damage   a flipped bit, a file that is cut, missing, exchanged, empty or no file
#   locks    two jobs at once, a job that was killed, a look into a snapshot that changes
#
# Refused is: exit status 2, one line that names file and object, nothing changed in the snapshot, every rank gone.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

# Two saves by two ranks, the second without compression, and the same once more with other draws: its last two
# segments have the names and sizes of the first's, and each other's.
make_snapshots() {
    base=$all/base.kvs
    generate 2 --prompt-file "$page" --layers-per-rank 4,4 --max-tokens 0 --save "$base"
    expect 'save' 0 || return
    cp -r "$base" "$all/other.kvs"
    generate 2 --prompt-file "$page" --layers-per-rank 4,4 --max-tokens 40 --ignore-eos --codec none --save "$base" \
        --resume "$base"
    expect 'second save' 0 || return
    generate 2 --prompt-file "$page" --layers-per-rank 4,4 --max-tokens 40 --ignore-eos --codec none --seed 5 \
        --save "$all/other.kvs" --resume "$all/other.kvs"
    expect 'another snapshot' 0 || return
    packed=L004-008.T00000000-00000203.S0001.h5 plain_a=L000-004.T00000203-00000242.S0002.h5
    plain_b=L004-008.T00000203-00000242.S0002.h5
    ls "$base/$packed" "$base/$plain_a" "$all/other.kvs/$plain_b" >"$temp/check" || return
    check 'segments of the same size' 'they are not' [ "$(file_bytes "$base/$plain_a")" -eq \
        "$(file_bytes "$base/$plain_b")" -a "$(file_bytes "$base/$plain_b")" -eq \
        "$(file_bytes "$all/other.kvs/$plain_b")" ]
}

# A copy in $copy, on which nothing may change.
copy_snapshot() {
    copy=$temp/copy.kvs
    rm -rf "$copy"
    cp -r "$base" "$copy"
}

given_model=$model

# resume NP ARGUMENTS...: go on from the copy with this model, and save to it too.
resume() {
    np=$1
    shift
    generate "$np" --prompt-file "$page" --max-tokens 60 --ignore-eos --resume "$copy" --save "$copy" \
        --model "$given_model" "$@"
}

resume_refused() { # resume_refused NAME PART...: on 1 and 3 ranks
    title=$1
    shift
    keep "$copy"
    for np in 1 3; do
        resume $np
        refused "$title, $np ranks" 2 "$@"
    done
}

# ---- others ----

other_model() { # other_model NAME FILE SED-SCRIPT PART...
    title=$1
    change_file model "$2" "$3"
    shift 3
    resume_refused "$title" "$@"
}

other_models() {
    given_model=$temp/model
    copy_snapshot
    own_file model config.json
    generate 1 --prompt-file "$page" --max-tokens 60 --ignore-eos --resume "$copy" --model "$given_model"
    expect 'a copy of the model is the model' 0 && ok 'a copy of the model is the model'

    for tensor in model.embed_tokens.weight model.layers.0.self_attn.q_proj.weight \
        model.layers.7.mlp.down_proj.weight; do
        own_file model model.safetensors
        flip "$given_model/model.safetensors" $(($(tensor_offset $tensor) + 1000))
        resume_refused "one weight of $tensor" copy.kvs 'of another model' 'weights or rope' 'give the model'
    done
    other_model 'another epsilon' config.json 's/"rms_norm_eps": 1e-05/"rms_norm_eps": 1.1e-05/' copy.kvs \
        'of another model'
    other_model 'another rope' config.json 's/"rope_theta": 100000.0/"rope_theta": 100001.0/' copy.kvs \
        'of another model'
    other_model 'one token of the tokenizer' tokenizer.json 's/<|reserved_0|>/<|reserved_Z|>/' copy.kvs \
        'another tokenizer'
    two_layers model
    keep "$copy"
    for np in 1 2; do
        resume $np
        refused "another shape, $np ranks" 2 copy.kvs '8 layers' '2 layers' 'give the model'
    done
    given_model=$model
}

# A snapshot that holds all that is asked for is looked at like any other.
nothing_left() {
    copy_snapshot
    generate 2 --prompt-file "$page" --max-tokens 40 --ignore-eos --resume "$copy"
    expect 'nothing left' 0 && check 'nothing left' 'it is not said' grep -q 'nothing is left to compute' "$temp/err"
    cp "$temp/out" "$temp/text"
    generate 1 --prompt-file "$page" --max-tokens 60 --ignore-eos --resume "$copy"
    text=$(head -c "$(wc -c <"$temp/text")" "$temp/out" | head -c -1)
    check 'nothing left: the text' 'another' [ "$text" = "$(cat "$temp/text")" ]
    printf '{"prompt": "It was", "max_tokens": 2}\n' >"$temp/lines"
    generate 1 --input "$temp/lines" --output "$temp/results" --save "$temp/batch.kvs"
    expect 'a batch' 0

    given_model=$temp/model
    own_file model model.safetensors
    flip "$given_model/model.safetensors" $(($(tensor_offset model.layers.7.mlp.down_proj.weight) + 1000))
    keep "$copy"
    for np in 1 2; do
        resume $np --max-tokens 40
        refused "nothing left, another model, $np ranks" 2 copy.kvs 'of another model'
        generate $np --input "$temp/lines" --output "$temp/results" --resume "$temp/batch.kvs" --model "$given_model"
        refused "nothing left of a batch, another model, $np ranks" 2 batch.kvs 'of another model'
    done
    given_model=$model
    resume 1 --max-tokens 40 --weights int8
    refused 'nothing left, int8 weights' 2 copy.kvs 'weights in bf16'
    kept=''
    truncate -s -8 "$copy/$plain_a"
    keep "$copy"
    resume 2 --max-tokens 40
    refused 'nothing left, a file that is cut' 2 "copy.kvs/$plain_a" 'truncated'
}

other_runs() {
    copy_snapshot
    keep "$copy"
    for np in 1 3; do
        resume $np --precision f32
        refused "another precision, $np ranks" 2 copy.kvs '--precision bf16'
    done
    for np in 1 3; do
        resume $np --weights int8
        refused "int8 weights, $np ranks" 2 copy.kvs 'weights in bf16' '--weights bf16'
    done
    generate 2 --prompt-file "$page" --max-tokens 4 --ignore-eos --weights int8 --save "$temp/int8.kvs"
    expect 'save with int8 weights' 0
    generate 1 --prompt-file "$page" --max-tokens 9 --ignore-eos --resume "$temp/int8.kvs"
    refused 'bf16 weights' 2 int8.kvs 'weights in int8' '--weights int8'
    generate 1 --prompt-file "$page" --max-tokens 9 --ignore-eos --weights int8
    cp "$temp/out" "$temp/whole"
    generate 1 --prompt-file "$page" --max-tokens 9 --ignore-eos --weights int8 --resume "$temp/int8.kvs"
    expect 'int8 weights again' 0 && check 'int8 weights again' 'another text' cmp "$temp/out" "$temp/whole"
    resume 1 --context 100
    refused 'the prompt is longer than the context' 2 '203 tokens' 'raise --context'
    generate 1 --resume "$copy" --save "$copy" --context 100
    refused 'the prompt of the snapshot is longer than the context' 2 '203 tokens' 'raise --context'
    printf 9 | dd of="$copy/manifest.h5" bs=1 seek=32 conv=notrunc 2>"$temp/check"
    check 'format 9' 'it does not say so' grep -qx 'format 9' -a "$copy/manifest.h5"
    resume_refused 'a newer format' copy.kvs/manifest.h5 'format 9' 'use a newer kvarve'

    copy_snapshot
    keep "$copy"
    for np in 1 3; do
        generate $np --prompt-file "$page" --save "$copy"
        refused "a snapshot is there already, $np ranks" 2 copy.kvs '--resume'
    done
    generate 1 --prompt-file "$page" --save "$temp/no/dir/a.kvs"
    refused 'the directory above is missing' 2 no/dir/a.kvs 'does not exist'
    generate 1 --prompt-file "$page" --resume "$copy/manifest.h5"
    refused 'resume of a plain file' 2 copy.kvs/manifest.h5 'a snapshot is a directory'
    generate 1 --prompt-file "$page" --save "$copy/manifest.h5"
    refused 'save to a plain file' 2 copy.kvs/manifest.h5 'a snapshot is a directory'
    generate 1 --resume "$temp/nothing.kvs"
    refused 'nothing to go on from, and no prompt' 2 nothing.kvs '--prompt'
}

other_batches() {
    for n in 1 2 3 4; do
        echo "{\"id\": $n, \"prompt\": \"The house number $n\", \"max_tokens\": $((n * 4)), \"ignore_eos\": true}"
    done >"$temp/prompts"
    base=$temp/base.kvs copy=$temp/copy.kvs results=$temp/copy.kvs/results
    # Results within the snapshot's directory: what is kept, they are too.
    generate 2 --input "$temp/prompts" --output "$temp/results" --sequences 1 --save "$base"
    expect 'save of a batch' 0 || return
    for how in changed cut; do
        copy_snapshot
        cp "$temp/results" "$results"
        case $how in
        changed) flip "$results" 100 ;;
        cut) truncate -s -1 "$results" ;;
        esac
        keep "$copy"
        for np in 1 3; do
            generate $np --input "$temp/prompts" --output "$results" --resume "$copy" --save "$copy"
            refused "results are $how, $np ranks" 2 copy.kvs/results 'does not begin with' 'without --resume'
        done
    done
    generate 1 --resume "$copy"
    refused 'a batch without --input' 2 copy.kvs '--input' 'again'
    # No results at all are not the wrong ones: all lines are done again.
    generate 2 --input "$temp/prompts" --output "$temp/again" --resume "$copy"
    expect 'results are missing' 0
    check 'results are missing: said' 'not said' grep -q 'again: holds no results: all lines are done again' "$temp/err"
    sort "$temp/results" >"$temp/sorted"
    check 'results are missing: done again' 'others' sh -c "sort '$temp/again' | cmp -s - '$temp/sorted'"
}

# ---- damage ----

index_offset() { # index_offset SEGMENT: as the manifest tells
    grep -a -A 6 "\"file\": \"$1\"" "$base/manifest.h5" | sed -n 's/.*"index_offset": \([0-9]*\).*/\1/p' | head -n 1
}

damaged_manifests() {
    for at in 3 45 2000 4100 9000 $(($(file_bytes "$base/manifest.h5") - 1)); do
        copy_snapshot
        flip "$copy/manifest.h5" $at
        resume_refused "manifest with a flipped bit at $at" copy.kvs/manifest.h5 damaged
    done
    copy_snapshot
    truncate -s -1 "$copy/manifest.h5"
    resume_refused 'manifest cut off' copy.kvs/manifest.h5 truncated 'without --resume'
    : >"$copy/manifest.h5"
    resume_refused 'empty manifest' copy.kvs/manifest.h5 'not the manifest'
    cp "$page" "$copy/manifest.h5"
    resume_refused 'manifest that is no HDF5 file' copy.kvs/manifest.h5 'not the manifest'
    cp "$base/$packed" "$copy/manifest.h5"
    resume_refused 'manifest that is a segment' copy.kvs/manifest.h5 'not the manifest'
    rm "$copy/manifest.h5"
    mkdir "$copy/manifest.h5"
    resume_refused 'manifest that is a directory' copy.kvs/manifest.h5 'not a regular file'
    rmdir "$copy/manifest.h5"
    mkfifo "$copy/manifest.h5"
    resume_refused 'manifest that is a FIFO' copy.kvs/manifest.h5 'not a regular file'
}

flipped_segments() {
    copy_snapshot
    flip "$copy/$packed" $(($(file_bytes "$copy/$packed") / 2))
    resume_refused 'flipped bit in a frame' "copy.kvs/$packed: /layers/" ', rows 0 to 202' damaged 'without --resume'
    copy_snapshot
    first_chunk=$(od -An -tu8 -j "$(index_offset "$plain_b")" -N 8 "$copy/$plain_b")
    flip "$copy/$plain_b" $((first_chunk + 100))
    resume_refused 'flipped bit in a plain chunk' "copy.kvs/$plain_b: /layers/" ', rows 203 to 241' damaged
    for at in 0 2 9; do
        copy_snapshot
        flip "$copy/$packed" $(($(index_offset "$packed") + at))
        resume_refused "flipped bit in the index at $at" "copy.kvs/$packed: /index" damaged
    done
    copy_snapshot
    flip "$copy/$packed" 20
    resume_refused 'flipped bit in the head' "copy.kvs/$packed: " damaged
}

damaged_segments() {
    copy_snapshot
    truncate -s -1 "$copy/$packed"
    resume_refused 'segment cut off' "copy.kvs/$packed" truncated 'without --resume'
    : >"$copy/$packed"
    resume_refused 'empty segment' "copy.kvs/$packed" 'has 0 bytes'
    rm "$copy/$packed"
    resume_refused 'missing segment' "copy.kvs/$packed" 'No such file'
    mkdir "$copy/$packed"
    resume_refused 'segment that is a directory' "copy.kvs/$packed" 'not a regular file'
    rmdir "$copy/$packed"
    mkfifo "$copy/$packed"
    resume_refused 'segment that is a FIFO' "copy.kvs/$packed" 'not a regular file'
    copy_snapshot
    mv "$copy/$plain_a" "$temp/exchanged"
    mv "$copy/$plain_b" "$copy/$plain_a"
    mv "$temp/exchanged" "$copy/$plain_b"
    resume_refused 'two segments exchanged' "copy.kvs/L00" 'T00000203-00000242' 'the file of another save'
    copy_snapshot
    cp "$all/other.kvs/$plain_b" "$copy/"
    resume_refused 'segment of another snapshot' "copy.kvs/$plain_b" 'the file of another save'
}

# ---- locks ----

# Long enough to be met at work.
start_long_run() { # start_long_run NP DIR TOKENS
    start "$1" --prompt-file "$page" --max-tokens "$3" --ignore-eos --save "$2" --resume "$2" \
        --save-every 50
}

has_segments() {
    [ -e "$1/manifest.h5" ]
}

two_jobs() {
    generate 1 --prompt-file "$page" --max-tokens 1200 --ignore-eos
    cp "$temp/out" "$temp/whole"
    dir=$temp/shared.kvs
    start_long_run 2 "$dir" 1200
    find_ranks
    wait_for 60 has_segments "$dir" || failed 'two jobs' 'the first saves nothing'
    # Held still, so that it is not over before the others have tried.
    # shellcheck disable=SC2086 # several processes
    kill -STOP $all_ranks
    begin=$(date +%s)
    generate 1 --prompt-file "$page" --max-tokens 1200 --save "$dir" --resume "$dir"
    seconds=$(($(date +%s) - begin))
    refused 'a second job' 2 shared.kvs/lock 'in use' "on $(uname -n) since 20" 'name another one'
    check 'a second job: at once' "it took $seconds s" [ $seconds -le 10 ]
    check 'a second job: the process is named' "it is not $rank_0" grep -q "locked by process $rank_0 on" "$temp/err"
    run 2 snapshot compact "$dir"
    refused 'compact during a run' 2 shared.kvs/lock 'in use'
    # shellcheck disable=SC2086
    kill -CONT $all_ranks
    look_meanwhile
    wait_job
    expect 'the first job goes on' 0 && check 'the first job goes on' 'other text' cmp "$temp/out" "$temp/whole"
    check 'the lock is gone' 'it is there' [ ! -e "$dir/lock" ]
    run 1 snapshot verify "$dir"
    expect 'the snapshot of the first job' 0 && ok 'the snapshot of the first job'
}

# No lock is needed to look at a snapshot that changes; verify takes its time.
look_meanwhile() {
    n_looks=0 n_good=0
    until is_gone "$dir"; do
        run 1 snapshot verify "$dir" --fail-at segment-read:0:slow
        expect "snapshot verify during a run" 0 && n_good=$((n_good + 1))
        for action in info text; do
            run 1 snapshot $action "$dir"
            expect "snapshot $action during a run" 0 && n_good=$((n_good + 1))
        done
        n_looks=$((n_looks + 3))
    done
    check "looks during a run" "$n_good of $n_looks are good" [ $n_looks -gt 0 -a $n_looks -eq $n_good ]
}

# Segments that nobody needs any more go away during a run, which is not over before anyone has looked: it takes its
# time where they go first.
look_at_batch() {
    for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
        printf '{"id": %d, "prompt": "The house number %d", "max_tokens": 120, "ignore_eos": true}\n' $n $n
    done >"$temp/lines"
    dir=$temp/batch.kvs
    start 1 --input "$temp/lines" --output "$temp/results" --sequences 2 --save "$dir" --save-every 20 \
        --fail-at save-clean:0:slow
    wait_for 60 has_segments "$dir" || failed 'looks at a batch' 'nothing is saved'
    look_meanwhile
    wait_job
    expect 'a batch that is looked at' 0 && ok 'a batch that is looked at'
}

killed_job() {
    dir=$temp/killed.kvs
    generate 2 --prompt-file "$page" --max-tokens 1200 --ignore-eos --save "$dir" --save-every 50 \
        --fail-at manifest-rename:0:2kill
    check 'a killed job leaves its lock' 'it does not' [ "$status" -ne 0 -a -e "$dir/lock" ]
    for np in 1 3; do
        cp -r "$dir" "$temp/killed$np.kvs"
        generate $np --prompt-file "$page" --max-tokens 1200 --ignore-eos --save "$temp/killed$np.kvs" \
            --resume "$temp/killed$np.kvs"
        expect "after a killed job, $np ranks" 0 || continue
        check "a stale lock is taken over, $np ranks" 'not said' \
            grep -q "killed$np.kvs/lock: taken over from process [0-9]* on $(uname -n) since .* gone" "$temp/err"
        check "after a killed job, $np ranks" 'other text' cmp "$temp/out" "$temp/whole"
    done
}

# Another job has taken over: what it saves is not to be touched.
lost_lock() {
    dir=$temp/lost.kvs
    start_long_run 1 "$dir" 2000
    wait_for 60 has_segments "$dir" || failed 'a lost lock' 'nothing is saved'
    rm "$dir/lock"
    cp "$base"/* "$dir/"
    fingerprint "$dir" | grep -F "$(cd "$base" && ls)" >"$temp/before"
    wait_job
    expect 'a lost lock' 1 && check 'a lost lock' 'not said' grep -q 'WARNING: not saved: .*lost.kvs/lock' "$temp/err"
    fingerprint "$dir" | grep -F "$(cd "$base" && ls)" >"$temp/after"
    check 'a lost lock: what another saved is whole' 'it changed' cmp "$temp/before" "$temp/after"
}

run_chain make_snapshots
run_chain two_jobs look_at_batch killed_job lost_lock &
run_chain flipped_segments &
run_chain other_models other_runs &
run_chain damaged_manifests nothing_left &
run_chain damaged_segments other_batches &
wait
end_test
