#!/bin/sh
# tests/snapshot/test_last_save.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: whatever ends a run that saves before it is
# done, it says where the last good save is: a refusal, a lost rank, a rank that hangs, a signal to all, results or a
# report that cannot be written, a save that fails. tests/engine/test_stop.c has the signals one by one,
# tests/generate/test_walltime.sh what ends with a save.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"
long="--prompt-file $page --max-tokens 3000 --ignore-eos"

is_said() { # is_said NAME: with the last run
    check "$1" 'the last good save is not named' \
        grep -qx "kvarve: the last good save is in $dir (--resume $dir)" "$temp/err"
}

make_saved() {
    generate 1 --prompt-file "$page" --max-tokens 20 --ignore-eos --save "$all/saved"
    expect 'a snapshot' 0
}

# start_saved NP ARGUMENTS...: from a copy of it, until there is text; with --save-every, until a save is said.
start_saved() {
    dir=$temp/last.kvs
    rm -rf "$dir"
    cp -r "$all/saved" "$dir"
    np=$1
    shift
    # shellcheck disable=SC2086 # several words
    start "$np" $long --save "$dir" --resume "$dir" "$@"
    find_ranks
    wait_for 60 [ -s "$started/out" ] || failed "a run of $np ranks" 'it does not come to text'
    [ $# -eq 0 ] || [ "$1" != --save-every ] || wait_for 60 grep -q 'the last good save is' "$started/err" ||
        failed "a run of $np ranks" 'it does not come to a save'
}

by_signals() {
    # Other launchers than Open MPI kill the others outright, who then say nothing: the first save has said it. And
    # only that of Open MPI 4 passes on what ranks say after it got SIGTERM (findings/openmpi_5_drops_last_words.sh).
    every='--save-every 100' every_of_term=$every
    case $("$mpiexec" --version 2>&1) in
    *OpenRTE*) every='' every_of_term='' ;;
    *Open*) every='' ;;
    esac
    for victim in first last; do
        # shellcheck disable=SC2086
        start_saved 3 $every
        if [ $victim = first ]; then kill -KILL "$rank_0"; else kill -KILL "$other_rank"; fi
        wait_job
        check "the $victim rank is killed" "exit status $status" [ "$status" -ne 0 -a "$status" -ne 75 ]
        is_said "the $victim rank is killed"
    done
    start_saved 2 --peer-timeout 2
    kill -STOP "$other_rank"
    wait_job
    expect 'a rank hangs' 1 && is_said 'a rank hangs'
    start_saved 2
    kill -SEGV "$other_rank"
    wait_job
    check 'a rank has a bug' "exit status $status" [ "$status" -ne 0 -a "$status" -ne 75 ]
    is_said 'a rank has a bug'
    # To the launcher, which may kill in a quarter of a second.
    # shellcheck disable=SC2086
    start_saved 2 $every_of_term
    kill -TERM "$(launcher)"
    wait_job
    check 'SIGTERM to all' "exit status $status" [ "$status" -ne 0 ]
    if [ -z "$every_of_term" ]; then
        check 'SIGTERM to all: said at once' 'it is not' \
            grep -qx 'kvarve: SIGTERM: ending with a save, if .*' "$temp/err"
    else
        skipped 'SIGTERM to all: said at once' 'this launcher may drop it'
    fi
    is_said 'SIGTERM to all'
    start_saved 1
    kill -INT "$rank_0"
    wait_job
    check 'Ctrl-C' "exit status $status" [ "$status" -ne 0 ]
    is_said 'Ctrl-C'
}

by_refusals() {
    dir=$temp/last.kvs
    cp -r "$all/saved" "$dir"
    generate 2 --prompt-file "$page" --max-tokens 7000000 --context 8000000 --save "$dir" --resume "$dir" \
        --memory-per-rank 200M
    refused 'no room' 2 'as --memory-per-rank says' && is_said 'no room'
    if [ -w /dev/full ]; then
        echo '{"prompt": "Once", "max_tokens": 2}' >"$temp/prompts"
        generate 1 --input "$temp/prompts" --output /dev/full --save "$dir" --resume "$dir"
        expect 'results that cannot be written' 1 && is_said 'results that cannot be written'
        generate 1 --prompt-file "$page" --max-tokens 30 --save "$dir" --resume "$dir" --report /dev/full
        expect 'a report that cannot be written' 1 && is_said 'a report that cannot be written'
    else
        skipped 'what cannot be written' 'no /dev/full here'
    fi
    if "$kvarve" --help | grep -q -- --fail-at; then
        generate 2 --prompt-file "$page" --max-tokens 40 --save "$dir" --resume "$dir" --fail-at save-commit:0:always
        expect 'saves that fail' 1 && is_said 'saves that fail'
        dir=$temp/never.kvs
        generate 1 --prompt Once --max-tokens 4 --save "$dir" --fail-at save-commit:0:always
        expect 'no save at all' 1 && check 'no save at all' 'it is not said' \
            grep -qx "kvarve: nothing is saved in $dir yet" "$temp/err"
    fi
    # Told by the first save of a run already, as who is killed outright says nothing.
    dir=$temp/first.kvs
    generate 1 --prompt-file "$page" --max-tokens 60 --ignore-eos --save "$dir" --save-every 20
    expect 'the first save' 0 && is_said 'the first save'
}

if [ ! -r /proc/self/comm ]; then
    echo "skipped: no /proc here, where the ranks are found"
    exit 77
fi
run_chain make_saved
run_chain by_signals &
run_chain by_refusals &
wait
end_test
