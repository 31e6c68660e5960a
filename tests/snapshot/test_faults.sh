#!/bin/sh
# tests/snapshot/test_faults.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: every step of a save fails, on every rank of two.
#
# Each run goes on from a snapshot in the directory that it saves to, several times. At each site of --fail-at:
#
#   fail     a warning, and the next save works: the text is right, and the directory holds what the manifest names
#   always   no save works: exit status 1, the text is right, and the older snapshot lies there as if nothing was
#   kill     the older snapshot is whole, and a run goes on from it to the right text
#
# A load that fails is refused, and so is what fails while a snapshot is compacted. That each site is really visited
# shows in the line that names it, or in the rank that was killed there. What fails on each rank does so on one of
# them by turns; with KVARVE_LONG on both.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

options="--prompt-file $page --max-tokens 90 --temperature 0.8 --seed 3 --ignore-eos"
older=$all/older
segment_sites='segment-create segment-write segment-flush segment-rename save-note' # of each rank
manifest_sites='manifest-create manifest-write manifest-flush manifest-rename manifest-directory-flush'
first_sites="save-begin save-commit $manifest_sites" # of rank 0 alone

# save_on FAULT: from a copy of the older snapshot, in $dir.
save_on() {
    dir=$temp/snapshot
    rm -rf "$dir"
    cp -r "$older" "$dir"
    # shellcheck disable=SC2086
    generate 2 $options --resume "$dir" --save "$dir" --save-every 25 --fail-at "$1"
}

is_warned() { # is_warned SITE
    grep '^kvarve: WARNING: not saved: ' "$temp/err" | grep -qF "failed on demand at $1,"
}

is_older() { # the snapshot is as it was before the run
    diff -r "$dir" "$older"
}

# Everything of the older snapshot is there; more may be, as after a crash.
has_older() {
    for file in "$older"/*; do
        cmp "$file" "$dir/${file##*/}" || return 1
    done
}

# goes_on NAME: the snapshot is whole, and the run ends as if nothing had been.
goes_on() {
    check "$1: verify" 'the snapshot is damaged' is_verified "$dir"
    # shellcheck disable=SC2086
    generate 1 $options --resume "$dir" --save "$dir"
    ends_as "$1: goes on" 0 "$all/text"
    check "$1: nothing is left behind" 'something is' holds_only_named "$dir"
}

# Killed ranks are said by mpiexec, each in its own way; none of them can end with a text and 0.
was_killed() {
    [ "$status" -ne 0 ] && [ "$status" -ne 124 ] && ! grep -q '^kvarve: error' "$temp/err"
}

save_fails() { # save_fails SITE RANK
    save_on "$1:$2:fail"
    ends_as "$1:$2:fail" 0 "$all/text"
    check "$1:$2:fail: warning" 'there is none' is_warned "$1"
    check "$1:$2:fail: files" 'others than the manifest names' holds_only_named "$dir"
    check "$1:$2:fail: the next one worked" 'it did not' has_state "$dir" length
    check "$1:$2:fail: verify" 'the snapshot is damaged' is_verified "$dir"
    ! is_slow || return 0

    save_on "$1:$2:always"
    ends_as "$1:$2:always" 1 "$all/text"
    check "$1:$2:always: warning" 'there is none' is_warned "$1"
    check "$1:$2:always: error" 'the snapshot before is not named' grep -q 'error:.*the snapshot before it is whole' \
        "$temp/err"
    check "$1:$2:always: files" 'not those before' is_older
}

# save_is_killed SITE RANK: at the first commit, or before. What a killed rank held is not looked at, so that there is
# nothing in it for a slow program.
save_is_killed() {
    ! is_slow || return 0
    save_on "$1:$2:kill"
    check "$1:$2:kill" 'nothing was killed' was_killed
    case $1 in
    manifest-directory-flush | save-clean) ;; # there is a newer one
    *) check "$1:$2:kill: the older snapshot" 'it is damaged' has_older ;;
    esac
    goes_on "$1:$2:kill"
}

# next_ranks: the ranks that the next site fails on, in $ranks.
turn=0
next_ranks() {
    turn=$((1 - turn))
    ranks=$turn
    ! is_long || ranks='0 1'
}

fail_at_segments() {
    for site in $segment_sites; do
        next_ranks
        for rank in $ranks; do
            save_fails "$site" "$rank"
            save_is_killed "$site" "$rank"
        done
    done
}

fail_at_manifests() {
    for site in $first_sites; do
        save_fails "$site" 0
        save_is_killed "$site" 0
    done
    # What is not removed now is removed later.
    for kind in fail always; do
        save_on save-clean:0:$kind
        ends_as "save-clean:0:$kind" 0 "$all/text"
        check "save-clean:0:$kind: verify" 'the snapshot is damaged' is_verified "$dir"
    done
    save_is_killed save-clean 0
    for kind in fail always; do
        save_on lock:0:$kind
        refused "lock:0:$kind" 1 'failed on demand at lock,'
        check "lock:0:$kind: files" 'not those before' is_older
    done
    save_is_killed lock 0
}

fail_at_loads() {
    for fault in load: segment-read: segment-read:2fail segment-read:always; do
        site=${fault%%:*} kind=${fault#*:}
        next_ranks
        for rank in $ranks; do
            save_on "$site:$rank${kind:+:$kind}"
            refused "$site:$rank:$kind" 2 "failed on demand at $site,"
            check "$site:$rank:$kind: files" 'not those before' is_older
            check "$site:$rank:$kind: all are gone" 'a rank is left' wait_for 10 is_gone "$dir"
        done
    done
    save_is_killed load 0
    save_is_killed load 1
    for rank in 0 1; do
        # shellcheck disable=SC2086
        generate 2 $options --resume "$older" --fail-at load:$rank:slow --peer-timeout 2
        ends_as "a load that is longer than --peer-timeout, rank $rank" 0 "$all/text"
    done
}

# ---- snapshot compact and verify ----

compact_on() { # compact_on FAULT
    dir=$temp/compacted
    rm -rf "$dir"
    cp -r "$older" "$dir"
    run 2 snapshot compact "$dir" --threads 1 --fail-at "$1"
}

fail_at_compaction() {
    for fault in segment-create:0 segment-write:1 segment-flush:0 segment-rename:1 segment-read:0 segment-read:1 \
        lock:0 manifest-create:0 manifest-write:0 manifest-flush:0 manifest-rename:0 manifest-directory-flush:0; do
        compact_on "$fault"
        refused "compact $fault" 1 "failed on demand at ${fault%:*},"
        check "compact $fault: files" 'not those before' is_older
    done
    for fault in segment-rename:1:kill manifest-rename:0:kill manifest-directory-flush:0:kill; do
        compact_on "$fault"
        check "compact $fault" 'nothing was killed' was_killed
        check "compact $fault: verify" 'the snapshot is damaged' is_verified "$dir"
        run 1 snapshot compact "$dir" --threads 1
        expect "compact after $fault" 0
        check "compact after $fault: files" 'others than the manifest names' holds_only_named "$dir"
    done
    run 2 snapshot verify "$older" --threads 1 --fail-at segment-read:1
    expect_error 'verify segment-read:1' 2 'failed on demand at segment-read,' && ok 'verify segment-read:1'
}

# ---- all of them ----

prepare() {
    # shellcheck disable=SC2086
    generate 1 $options
    expect 'the text without a failure' 0 && cp "$temp/out" "$all/text"
    # shellcheck disable=SC2086
    generate 2 $options --max-tokens 10 --save "$older" --save-every 100
    expect 'the older snapshot' 0
    n=$(n_segments_of "$older")
    check 'the older snapshot: several segments' "there are $n" [ "$n" -ge 4 ]
}

run_chain prepare
run_chain fail_at_segments fail_at_compaction &
run_chain fail_at_manifests fail_at_loads &
wait
end_test
