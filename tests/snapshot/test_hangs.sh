#!/bin/sh
# tests/snapshot/test_hangs.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: a rank that stands still is given up, wherever it
# does: all ranks are gone soon after --peer-timeout, and one of those that waited says for what. A rank that works
# longer than that and says so is waited for; and so is one that was stopped with all others.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

options="--prompt-file $page --max-tokens 20 --ignore-eos --peer-timeout 2"

make_saved() {
    # shellcheck disable=SC2086
    generate 1 $options
    expect 'the text' 0 && cp "$temp/out" "$all/text"
    # shellcheck disable=SC2086
    generate 1 $options --max-tokens 8 --save "$all/saved"
    expect 'a snapshot' 0
}

# hangs NP SITE:RANK WHAT ARGUMENTS...: the text says WHAT was waited for.
hangs() {
    np=$1 fault=$2 what=$3
    shift 3
    dir=$temp/hangs.kvs
    rm -rf "$dir"
    begin=$(date +%s)
    # shellcheck disable=SC2086
    generate "$np" $options --save "$dir" --fail-at "$fault:hang" "$@"
    seconds=$(($(date +%s) - begin))
    expect "np $np, $fault" 1 || return
    check "np $np, $fault: in time" "it took $seconds s" [ $seconds -le 20 ]
    check "np $np, $fault: said" 'it is not' grep -q \
        "^kvarve: error: rank [0-9] on .*: waited 2 s without a sign of life for $what.*: a rank was lost or hangs" \
        "$temp/err"
    case $fault in
    begin:*) ;; # nobody has looked at --save yet
    *) check "np $np, $fault: the last good save" 'it is not said' grep -q \
        "^kvarve: \(the last good save is\|nothing is saved\) in $dir" "$temp/err" ;;
    esac
    check "np $np, $fault: all are gone" 'a rank is left' wait_for 10 is_gone "$dir"
}

in_each_phase() {
    hangs 2 begin:0 'the other ranks'
    hangs 3 weights:2 'the other ranks'
    hangs 3 end:1 'a number of each rank'
}

# Beside its threads that load or save, a rank waits itself, and may be the one that says it.
while_it_saves_or_loads() {
    hangs 2 segment-flush:1 'a \(save to end\|message from the stage before\)'
    hangs 2 save-commit:0 'a message from the stage before'
    hangs 3 load:2 '\(what is cached to be loaded\|a message from the stage before\)' --resume "$all/saved"
    hangs 2 load:0 '\(what is cached to be loaded\|a message from the stage before\)' --resume "$all/saved"
}

works() { # works NP SITE:RANK ARGUMENTS...: three seconds, and says so
    np=$1 fault=$2
    shift 2
    # shellcheck disable=SC2086
    generate "$np" $options --save "$temp/works-$np-$fault.kvs" --fail-at "$fault:slow" "$@"
    ends_as "np $np, $fault works" 0 "$all/text"
}

slow_ranks() {
    works 3 begin:2
    works 2 weights:0
    works 3 end:1
    works 3 segment-flush:2
    works 2 save-commit:0
    works 2 load:1 --resume "$all/saved"
}

# A job that is suspended for longer than --peer-timeout goes on.
suspended() {
    dir=$temp/suspended.kvs
    start 3 --prompt-file "$page" --max-tokens 1500 --ignore-eos --save "$dir" --peer-timeout 2
    find_ranks
    wait_for 60 [ -s "$started/out" ]
    # shellcheck disable=SC2086 # several words
    kill -STOP $all_ranks
    sleep 5
    # shellcheck disable=SC2086
    kill -CONT $all_ranks
    wait_job
    expect 'suspended and continued' 0 && ok 'suspended and continued'
}

if ! "$kvarve" --help | grep -q -- --fail-at; then
    echo 'skipped: without --fail-at in this build'
    exit 77
fi
run_chain make_saved
run_chain in_each_phase slow_ranks &
run_chain while_it_saves_or_loads suspended &
wait
end_test
