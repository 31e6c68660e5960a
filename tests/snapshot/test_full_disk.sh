#!/bin/sh
# tests/snapshot/test_full_disk.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: no room and no permission cost the save, never
# the run.
#
#   full        a file system of 20 MB that fills up in the middle of a run that saves often
#   full again  one that has no room for the first save
#   read-only   the directory may no longer be written to between two saves
#   removed     the directory is gone between two saves
#   lost lock   another job took the snapshot over between two saves
#
# Each time: a warning, nothing half written is left, the text is right, and what was committed goes on.

# Mounts of our own, which nobody else sees and which go with us: root has the right to that, and often everybody.
test_folder=$(dirname "$0")
if [ "${KVARVE_OWN_MOUNTS-}" = '' ]; then
    export KVARVE_OWN_MOUNTS=none
    for how in --mount '--user --map-root-user --mount'; do
        # shellcheck disable=SC2086 # several words
        if unshare $how mount -t tmpfs none "$test_folder" 2>/dev/null; then
            export KVARVE_OWN_MOUNTS=yes
            exec unshare $how sh "$0" "$@"
        fi
    done
fi
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

options='--temperature 0.8 --seed 9 --ignore-eos --codec none'
prompt="--prompt-file $all/prompt.txt --max-tokens 20 --chunk-tokens 128" # its cache is 7 MB
decode="--prompt-file $page --max-tokens 700"        # takes a second or so

# failed_to_save NAME PART: the run told so, and ended to its last word.
failed_to_save() {
    ends_as "$1" 1 "$2"
    check "$1: warning" "none has \"$3\"" grep -q "^kvarve: WARNING: not saved: .*$3" "$temp/err"
    check "$1: one error" 'none or more' [ "$(grep -c '^kvarve: error:' "$temp/err")" -eq 1 ]
}

# ---- full ----

# shellcheck disable=SC2086
full() {
    disk=$temp/disk
    mkdir "$disk"
    if [ "$KVARVE_OWN_MOUNTS" != yes ] || ! mount -t tmpfs -o size=20m none "$disk"; then
        skipped 'full' 'nothing may be mounted here'
        return
    fi
    head -c 15000000 /dev/zero >"$disk/of_others"
    generate 2 $prompt $options --save "$disk/s" --save-every 300
    failed_to_save 'full' "$all/prompt.result" 'No space left on device'
    check 'full: what was saved before is named' 'it is not' grep -q 'error:.*the snapshot before it is whole' \
        "$temp/err"
    check 'full: files' 'others than the manifest names' holds_only_named "$disk/s"
    check 'full: verify' 'the snapshot is damaged' is_verified "$disk/s"
    generate 3 $prompt $options --resume "$disk/s" --report "$temp/report.json"
    ends_as 'full: goes on elsewhere' 0 "$all/prompt.result"
    check 'full: what was saved is reused' 'it is not' is_reported "$temp/report.json" reused_tokens 300

    generate 1 $prompt $options --resume "$disk/s" --save "$disk/s"
    failed_to_save 'still full' "$all/prompt.result" 'No space left on device'
    check 'still full: verify' 'the snapshot is damaged' is_verified "$disk/s"
    rm "$disk/of_others"
    generate 2 $prompt $options --resume "$disk/s" --save "$disk/s"
    ends_as 'space again' 0 "$all/prompt.result"
    check 'space again: it is saved' 'it is not' has_state "$disk/s" length
    check 'space again: verify' 'the snapshot is damaged' is_verified "$disk/s"
    check 'space again: files' 'others than the manifest names' holds_only_named "$disk/s"
    umount "$disk"
}

# shellcheck disable=SC2086
full_from_the_start() {
    disk=$temp/small
    mkdir "$disk"
    if [ "$KVARVE_OWN_MOUNTS" != yes ] || ! mount -t tmpfs -o size=200k none "$disk"; then
        skipped 'full from the start' 'nothing may be mounted here'
        return
    fi
    generate 2 $prompt $options --save "$disk/s" --save-every 300
    failed_to_save 'full from the start' "$all/prompt.result" 'No space left on device'
    check 'full from the start: nothing was saved' 'another error' grep -q 'error:.*nothing was saved before it' \
        "$temp/err"
    check 'full from the start: nothing is left' 'something is' [ -z "$(ls -A "$disk")" ]
    dd if=/dev/zero of="$disk/filler" bs=1k 2>"$temp/dd"
    generate 2 $prompt $options --save "$disk/s"
    refused 'no room for a lock' 1 'No space left on device'
    umount "$disk"
}

# ---- without permission ----

# Root may write anywhere: take this right from it.
without_rights=
if [ "$(id -u)" -eq 0 ]; then without_rights='setpriv --bounding-set -dac_override,-dac_read_search,-fowner'; fi

# start_decode DIR: saves often; comes back behind the first commit.
start_decode() {
    with_rights=$run_under run_under="$without_rights $run_under"
    # shellcheck disable=SC2086
    start 2 $decode $options --save "$1" --save-every 60
    run_under=$with_rights
    wait_for_file "$1/manifest.h5"
}

# shellcheck disable=SC2086
read_only() {
    dir=$temp/read_only
    if ! $without_rights true 2>/dev/null; then
        skipped 'read-only directory' 'root cannot do without its rights here'
        return
    fi
    start_decode "$dir"
    chmod a-w "$dir"
    wait_job
    failed_to_save 'read-only directory' "$all/decode.result" 'Permission denied'
    check 'read-only directory: verify' 'the snapshot is damaged' is_verified "$dir"
    chmod u+w "$dir"
    generate 3 $decode $options --resume "$dir" --save "$dir"
    ends_as 'read-only directory: goes on' 0 "$all/decode.result"
    check 'read-only directory: files' 'others than the manifest names' holds_only_named "$dir"
}

# shellcheck disable=SC2086
removed() {
    dir=$temp/removed
    start_decode "$dir"
    mv "$dir" "$dir.gone" # at once: what is emptied bit by bit may be written to meanwhile
    wait_job
    failed_to_save 'removed directory' "$all/decode.result" "$dir"
    check 'removed directory: it stays so' 'something is there' [ ! -e "$dir" ]
    generate 2 $decode $options --resume "$dir" --save "$dir"
    ends_as 'removed directory: afresh' 0 "$all/decode.result"
    check 'removed directory: verify' 'the snapshot is damaged' is_verified "$dir"
}

# A user takes the lock for a dead job's, removes it, and starts a second run: the first one must keep its hands off.
# It stands still meanwhile: its end must not come before the second has the lock.
# shellcheck disable=SC2046,SC2086
lost_lock() {
    dir=$temp/lost_lock
    start_decode "$dir"
    kill -STOP $(ranks_of "$dir")
    rm -f "$dir/lock"
    generate 1 $decode $options --resume "$dir" --save "$dir"
    check 'lost lock: the second run' "exit status $status" [ "$status" -eq 0 ]
    check 'lost lock: text of the second run' 'another one' cmp "$temp/out" "$all/decode.result"
    kill -CONT $(ranks_of "$dir")
    wait_job
    failed_to_save 'lost lock' "$all/decode.result" 'the lock is no longer ours'
    check 'lost lock: verify' 'the snapshot is damaged' is_verified "$dir"
    generate 1 $decode $options --resume "$dir" --save "$dir"
    ends_as 'lost lock: goes on' 0 "$all/decode.result"
    check 'lost lock: files' 'others than the manifest names' holds_only_named "$dir"
}

# ---- all of them ----

references() {
    # shellcheck disable=SC2086
    generate 1 $prompt $options
    expect 'the text without a save' 0 && cp "$temp/out" "$all/prompt.result"
    # shellcheck disable=SC2086
    generate 1 $decode $options
    expect 'the long text without a save' 0 && cp "$temp/out" "$all/decode.result"
}

pages 8 >"$all/prompt.txt"
run_chain references
run_chain full full_from_the_start &
run_chain read_only removed lost_lock &
wait
end_test
