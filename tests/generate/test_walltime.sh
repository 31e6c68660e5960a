#!/bin/sh
# tests/generate/test_walltime.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: runs that must end before they are done.
#
# Told by a signal to the launcher or to one rank, by --max-time or by a stop file, while the prompt is read, while text
# is generated, or in a batch: they save, say why, and exit with 75; whoever goes on comes to the text of a run that
# never stopped. With KVARVE_LONG more of these meet each other.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

# What each mode runs, and what comes out in the end. A second or two each.
make_expected() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do cat "$page" "$page" "$page"; done >"$all/long"
    for n in 1 2 3 4 5 6; do
        printf '{"id": %d, "prompt": "The house number %d", "max_tokens": 300, "ignore_eos": true}\n' $n $n
    done >"$all/prompts"
    for mode in prefill decode batch; do
        run_mode 1 $mode
        expect "$mode" 0 || return
        result $mode >"$all/$mode.expected"
    done
}

# run_mode NP MODE ARGUMENTS...: with $run_how
run_how=generate
run_mode() {
    np=$1 mode=$2
    shift 2
    case $mode in
    prefill) set -- --prompt-file "$all/long" --max-tokens 40 --chunk-tokens 32 "$@" ;;
    decode) set -- --prompt-file "$page" --max-tokens 900 "$@" ;;
    batch) set -- --input "$all/prompts" --output "$temp/results" --sequences 2 "$@" ;;
    esac
    $run_how "$np" --ignore-eos "$@"
}

start_mode() { # start_mode NP MODE ARGUMENTS...: beside what follows, until wait_job
    run_how=start
    run_mode "$@"
    run_how=generate
}

result() { # result MODE
    if [ "$1" = batch ]; then sort "$temp/results"; else cat "$temp/out"; fi
}

# Is it in the middle of it? Asked without another process: a busy machine must not miss it.
is_under_way() { # is_under_way MODE
    case $1 in
    prefill) [ -e "$dir/manifest.h5" ] ;;
    decode) [ -s "$started/out" ] ;;
    batch) [ -s "$temp/results" ] ;;
    esac
}

# resume_equals NAME NP MODE: go on to the end, and compare.
resume_equals() {
    run_mode "$2" "$3" --save "$dir" --resume "$dir"
    expect "$1: resume" 0 || return
    # Of a batch, what has just begun may not be worth it.
    [ "$3" = batch ] ||
        check "$1: goes on" 'nothing was reused' grep -q 'walltime.kvs holds \([1-9][0-9]* of\|all of it\)' "$temp/err"
    result "$3" >"$temp/result"
    check "$1: result" 'another one than without a stop' cmp "$temp/result" "$all/$3.expected"
}

# stopped NAME WHY: the last run ended early and says why
stopped() {
    expect "$1" 75 || return
    check "$1: why" 'not said' \
        grep -q "^kvarve: stopped early ($2.* and saved; .* go on with --resume $dir\$" "$temp/err"
    check "$1: no error, no warning" 'there is' [ "$(grep -c 'error\|WARNING' "$temp/err")" -eq 0 ]
    check "$1: lock is gone" 'it is there' [ ! -e "$dir/lock" ]
}

stop_by() { # stop_by HOW MODE NP NP-OF-RESUME
    title="$1 in $2, $3 ranks" how=$1 mode=$2 n_ranks=$3
    dir=$temp/walltime.kvs
    rm -rf "$dir" "$temp/stop" "$temp/results"
    : >"$temp/results"
    if [ "$how" = max-time ]; then
        run_mode "$n_ranks" "$mode" --save "$dir" --max-time 0.9s
        stopped "$title" '--max-time 0.9s is '
    else
        start_mode "$n_ranks" "$mode" --save "$dir" --save-every 100 --stop-file "$temp/stop"
        find_ranks
        signal=${how%%-*} why=SIG$signal victim=$rank_0
        case $how in
        *-to-all) victim=$(launcher) ;; # it hands it on
        *-to-one) victim=$other_rank why='a signal to another rank' ;;
        stop-file) why="the stop file $temp/stop is there" ;;
        esac
        wait_for 60 is_under_way "$mode" || failed "$title" 'it does not come to that'
        if [ "$how" = stop-file ]; then : >"$temp/stop"; else kill "-$signal" "$victim"; fi
        wait_job
        stopped "$title" "$why"
        rm -f "$temp/stop"
    fi
    resume_equals "$title" "$4" "$mode"
}

stops_in_prefill() {
    stop_by TERM prefill 1 2
    stop_by USR1-to-all prefill 2 3
    stop_by stop-file prefill 3 1
    is_long || return
    stop_by USR1-to-one prefill 2 1
    stop_by max-time prefill 2 2
}

stops_in_decode() {
    stop_by TERM-to-one decode 3 2
    stop_by USR1 decode 1 1
    stop_by max-time decode 1 2
    is_long || return
    stop_by USR1-to-one decode 2 1
    stop_by stop-file decode 3 1
    stop_by USR1-to-all decode 2 3
}

stops_in_batch() {
    stop_by USR1-to-one batch 3 2
    stop_by max-time batch 3 1
    is_long || return
    stop_by USR1-to-all batch 2 3
    stop_by stop-file batch 2 1
    stop_by TERM batch 2 2
}

# What is cached would take minutes to load: it stays where it is, and nothing is lost.
stop_in_load() { # stop_in_load HOW NP NP-OF-RESUME
    title="$1 in a load, $2 ranks" how=$1 n_ranks=$2 why=SIG$1
    dir=$temp/walltime.kvs
    if [ "$how" = USR1-to-one ]; then why='a signal to another rank'; fi
    rm -rf "$dir"
    cp -r "$temp/read.kvs" "$dir"
    begin=$(date +%s)
    if [ "$how" = max-time ]; then
        why='--max-time 00:00:06 is '
        run_mode "$n_ranks" prefill --save "$dir" --resume "$dir" --io-bandwidth 20K --max-time 6s
    elif [ "$how" = no-time ]; then # over before the first event
        why='--max-time 0.01s is reached'
        run_mode "$n_ranks" prefill --save "$dir" --resume "$dir" --io-bandwidth 20K --max-time 0.01s
    else
        start_mode "$n_ranks" prefill --save "$dir" --resume "$dir" --io-bandwidth 20K --stop-file "$temp/stop"
        find_ranks
        wait_for 60 grep -q 'holds [0-9]* of' "$started/err" || failed "$title" 'it does not come to that'
        if [ "$how" = stop-file ]; then
            why="the stop file $temp/stop is there"
            : >"$temp/stop"
        else
            victim=$rank_0
            if [ "$how" = USR1-to-one ]; then victim=$other_rank; fi
            kill "-${how%%-*}" "$victim"
        fi
        wait_job
        rm -f "$temp/stop"
    fi
    seconds=$(($(date +%s) - begin))
    stopped "$title" "$why"
    check "$title: at once" "$seconds s" [ $seconds -le 30 ]
    check "$title: verified" 'it is not' is_verified "$dir"
    resume_equals "$title" "$3" prefill
}

# start_and_stop MODE ARGUMENTS...: one rank, as soon as it loads.
start_and_stop() {
    start_mode 1 "$@" --stop-file "$temp/stop"
    wait_for 60 grep -q 'holds [0-9]* of' "$started/err" || failed "$1" 'it does not come to a load'
    : >"$temp/stop"
    wait_job
    rm -f "$temp/stop"
}

stops_in_load() {
    generate 2 --prompt-file "$all/long" --max-tokens 0 --save "$temp/read.kvs"
    expect 'a prompt that is read' 0 || return
    stop_in_load USR1 1 2
    stop_in_load USR1-to-one 3 1
    stop_in_load stop-file 2 1
    stop_in_load max-time 2 2
    stop_in_load no-time 1 2
    dir=$temp/other.kvs
    start_and_stop prefill --resume "$temp/read.kvs" --io-bandwidth 20K --save "$dir"
    expect 'a stop in a load, into another snapshot' 75
    check 'a stop in a load, into another snapshot: a NOTE' 'there is none' \
        grep -q "NOTE: --resume $temp/read.kvs: what it holds of 1 prompts was not yet loaded" "$temp/err"
    # Such runs would follow each other for ever.
    dir=$temp/walltime.kvs
    rm -rf "$dir"
    cp -r "$temp/read.kvs" "$dir"
    for n in 1 2 3; do
        start_and_stop prefill --resume "$dir" --io-bandwidth 20K --save "$dir"
        stopped "in vain, run $n" "the stop file $temp/stop is there"
    done
    run_mode 1 prefill --resume "$dir" --io-bandwidth 20K --save "$dir"
    refused 'in vain, again' 2 'the last 3 runs ended before they had saved anything new'
    resume_equals 'in vain, with time' 1 prefill
}

# ---- at the end, and twice ----

is_saving() {
    ls "$dir"/.L*.tmp
}

stop_when_done() {
    for np in 1 2; do
        dir=$temp/walltime.kvs
        rm -rf "$dir"
        start $np --prompt-file "$page" --max-tokens 5 --ignore-eos --save "$dir" --fail-at segment-flush:0:slow
        find_ranks
        wait_for 60 is_saving
        kill -USR1 "$rank_0" || failed "a signal when all is done, $np ranks" 'it is over'
        wait_job
        expect "a signal when all is done, $np ranks" 0 && ok "a signal when all is done, $np ranks"
    done
}

# A launcher may leave its ranks a fifth of a second, too little for a save: then the last one counts.
term_to_launcher() {
    title='SIGTERM to the launcher' dir=$temp/walltime.kvs
    rm -rf "$dir"
    start_mode 2 decode --save "$dir" --save-every 100
    find_ranks
    wait_for 60 [ -e "$dir/manifest.h5" ]
    kill -TERM "$(launcher)"
    wait_job
    check "$title" "exit status $status" [ "$status" -ne 0 -a "$status" -ne 124 ]
    # Open MPI 5 drops what ranks say after it, but the first save has said it too.
    check "$title: where it goes on" 'not said' \
        grep -qF "kvarve: the last good save is in $dir (--resume $dir)" "$temp/err"
    wait_for 10 is_gone "$dir" || failed "$title" 'a rank is left'
    resume_equals "$title" 1 decode
}

second_term() {
    dir=$temp/walltime.kvs
    rm -rf "$dir"
    generate 2 --prompt-file "$page" --max-tokens 0 --save "$dir"
    expect 'two SIGTERM' 0 || return
    cp -r "$dir" "$temp/committed.kvs"
    for np in 1 2; do
        rm -rf "$dir"
        cp -r "$temp/committed.kvs" "$dir"
        fingerprint "$dir" >"$temp/before"
        start_mode $np decode --save "$dir" --resume "$dir" --fail-at segment-flush:0:slow
        find_ranks
        wait_for 60 is_under_way decode
        kill -TERM "$rank_0"
        wait_for 60 is_saving # a second is left
        kill -TERM "$rank_0"
        wait_job
        check "two SIGTERM, $np ranks" "exit status $status" \
            [ "$status" -ne 0 -a "$status" -ne 75 -a "$status" -ne 124 ]
        check "two SIGTERM, $np ranks: said" 'not said' grep -q 'second SIGTERM: ended without a save' "$temp/err"
        wait_for 10 is_gone "$dir" || failed "two SIGTERM, $np ranks" 'a rank is left'
        (cd "$dir" && rm -f lock attempts .L*.tmp L*S0002.h5)
        fingerprint "$dir" >"$temp/after"
        check "two SIGTERM, $np ranks: what was committed" 'it changed' cmp "$temp/before" "$temp/after"
        resume_equals "after two SIGTERM, $np ranks" $((3 - np)) decode
    done
}

# ---- --max-time ----

# The job of a script, again and again, each time with a second beside what a start takes: some launchers are slow.
loop() {
    for np in 1 2; do
        dir=$temp/walltime.kvs
        rm -rf "$dir"
        begin=$(date +%s%N)
        generate $np --prompt Once --max-tokens 0
        expect "a short run, $np ranks" 0 || continue
        limit=$(awk -v ns=$(($(date +%s%N) - begin)) 'BEGIN { printf "%.1fs", 1.1 + ns / 1e9 }')
        n_runs=0 status=75
        while [ $status -eq 75 ] && [ $n_runs -lt 40 ]; do
            run_mode $np prefill --save "$dir" --resume "$dir" --max-time "$limit"
            n_runs=$((n_runs + 1))
        done
        expect "runs of $limit, $np ranks" 0 || continue
        check "short runs, $np ranks: more than one" 'it is not' [ $n_runs -gt 1 ]
        check "short runs, $np ranks" 'another text' cmp "$temp/out" "$all/prefill.expected"
    done
}

# The first save is made early, and slow: time for another such one is kept.
slow_saves() {
    dir=$temp/walltime.kvs
    rm -rf "$dir"
    begin=$(date +%s)
    generate 1 --prompt-file "$page" --max-tokens 6000 --ignore-eos --save "$dir" --max-time 5s \
        --fail-at segment-flush:0:slow
    seconds=$(($(date +%s) - begin))
    stopped 'slow saves' '--max-time 00:00:05 is near: '
    kept_seconds=$(sed -n 's/.* and \([0-9]*\)[.0-9]* s are kept for the save.*/\1/p' "$temp/err")
    check 'slow saves: time is kept back' "${kept_seconds:-no} s" [ "${kept_seconds:-0}" -ge 1 ]
    check 'slow saves: in time' "$seconds s" [ $seconds -le 5 ]
}

# However short the time: a chunk is done, so that the next run goes on from there.
short_time() {
    dir=$temp/walltime.kvs
    rm -rf "$dir"
    for n in 1 2; do
        run_mode 2 prefill --save "$dir" --resume "$dir" --max-time 0.01s
        stopped "no time, run $n" '--max-time 0.01s is reached'
        run 1 snapshot info "$dir"
        sed -n 's/^cache.* \([0-9]*\) rows$/\1/p' "$temp/out" >"$temp/rows$n"
    done
    check 'no time: some of it is done' 'no more rows' [ "$(cat "$temp/rows1")" -lt "$(cat "$temp/rows2")" ]
    : >"$temp/stop"
    for np in 1 2; do
        keep "$dir"
        run_mode $np decode --save "$temp/never.kvs" --stop-file "$temp/stop"
        refused "a stop file that is there already, $np ranks" 2 "--stop-file $temp/stop" 'there already' 'remove it'
        check 'a stop file that is there already: nothing is made' 'it is' [ ! -e "$temp/never.kvs" ]
    done
}

run_chain make_expected
run_chain stops_in_prefill short_time &
run_chain stops_in_decode stop_when_done term_to_launcher &
run_chain stops_in_batch second_term &
run_chain stops_in_load &
run_chain loop slow_saves &
wait
end_test
