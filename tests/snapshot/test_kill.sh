#!/bin/sh
# tests/snapshot/test_kill.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: kill -9 at any moment loses nothing that was
# committed.
#
# Runs that save often are killed, one of their ranks or all of them, and gone on from with another number of ranks, to
# the same text or results as those of a run that never stopped. The moments are spread over the whole run: half of them
# over all of its time, half over the time from when it locks the snapshot.
#
#   KVARVE_KILL_ROUNDS   how many; 4 unless said, 24 with KVARVE_LONG
#   KVARVE_KILL_SEED     of the moments; 1 unless said
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"
usual_rounds=4
! is_long || usual_rounds=24
rounds=${KVARVE_KILL_ROUNDS-$usual_rounds} seed=${KVARVE_KILL_SEED-1}

prompt_options="--prompt-file $all/prompt.txt --max-tokens 300 --ignore-eos --temperature 0.9 --top-k 100 --seed 4"
batch_options="--input $all/batch.jsonl --sequences 2 --ignore-eos"
often='--chunk-tokens 64 --save-every 50'

# Prompts longer than the 32 tokens below which nothing is reused.
write_batch() {
    long='the journey, of which she had spoken in the letter that came from the village on the morning of the day on'
    long="$long which they left the house, and which nobody had thought of again until the rain began"
    for n in 1 2 3 4 5 6 7 8 9; do
        printf '{"id": %d, "prompt": "The %d. day of %s", "max_tokens": %d, "logprobs": %d}\n' $n $n "$long" \
            $((20 + n * 37 % 80)) $((n % 3))
    done
    printf '{"id": "refused", "prompt": ""}\n{"id": "document", "prompt": "A text to keep", "max_tokens": 0}\n'
}

# The plan: a line for each round: kind of run, ranks, who is killed, from when and at which share of the time, and the
# ranks that go on.
draw_rounds() {
    awk -v n="$rounds" -v seed="$seed" 'BEGIN {
        srand(seed)
        for (i = 0; i < n; i++) {
            np = 1 + int(rand() * 3)
            victim = int(i / 2) % 2 ? "all" : int(rand() * np)
            share = rand()
            after = 1 + (np + int(rand() * 3)) % 4
            from = (i + int(i / 2) + int(i / 4)) % 2 ? "lock" : "start" # each of the 8 kinds once in 8 rounds
            print (i % 2 ? "batch" : "prompt"), np, victim, from, share, after
        }
    }'
}

# ---- one round ----

# start_run NP ARGUMENTS...: it saves to $temp/snapshot, by which its processes are known.
start_run() {
    rm -rf "$temp/snapshot"
    start "$@" --save "$temp/snapshot" --resume "$temp/snapshot"
}

seconds_now() {
    date +%s.%N
}

# The run's arguments, with a file of results of our own for a batch.
arguments_of() { # arguments_of KIND
    if [ "$1" = batch ]; then echo "$batch_options --output $temp/results"; else echo "$prompt_options"; fi
}

# measure KIND NP: how long such a run takes from its start, and from its lock: $start_seconds, $lock_seconds.
measure() {
    times=$temp/seconds.$1.$2
    if [ ! -s "$times" ]; then
        begin=$(seconds_now)
        # shellcheck disable=SC2046,SC2086
        start_run "$2" $(arguments_of "$1") $often
        wait_for_file "$temp/snapshot/lock"
        locked=$(seconds_now)
        wait_job
        echo "$begin $locked $(seconds_now)" | awk '{ printf "%.3f %.3f\n", $3 - $1, $3 - $2 }' >"$times"
    fi
    read -r start_seconds lock_seconds <"$times"
}

# shorten KIND NP: such a run was over before it could be killed: others take the processors at one time, and not at
# another.
shorten() {
    times=$temp/seconds.$1.$2
    awk '{ printf "%.3f %.3f\n", $1 * 0.85, $2 * 0.85 }' "$times" >"$times.new"
    mv "$times.new" "$times"
}

# kill_run VICTIM: a rank by number, or all.
kill_run() {
    ranks=$(ranks_of "$temp/snapshot") # in the order of their numbers, as mpiexec starts them
    # shellcheck disable=SC2086 # several words
    if [ "$1" = all ]; then
        kill -s KILL -- -$job $ranks
    else
        victim=$(echo "$ranks" | sed -n "$(($1 + 1))p")
        kill -s KILL -- "${victim:--$job}" # all, when this rank is not there yet
    fi 2>/dev/null
}

# What the snapshot looks like after the kill: at the end, before the first commit, in a save, or between two.
moment_of() {
    if [ "$1" -eq 0 ] || [ "$1" -eq 3 ]; then
        echo end
    elif [ ! -e "$temp/snapshot/manifest.h5" ]; then
        if [ -e "$temp/snapshot/lock" ]; then echo first; else echo start; fi
    else
        rm -f "$temp/snapshot/lock"
        if holds_only_named "$temp/snapshot" >/dev/null; then echo between; else echo save; fi
    fi
}

check_result() { # check_result NAME KIND
    if [ "$2" = batch ]; then
        results_as "$1" 3 "$temp/results" "$all/batch.results"
    else
        ends_as "$1" 0 "$all/prompt.result"
    fi
}

one_round() { # one_round NUMBER KIND NP VICTIM FROM SHARE NP
    number=$1 kind=$2 victim=$4 from=$5 share=$6 np_after=$7
    round="$number: $kind on $3, $victim killed at $share from $from, on $np_after"
    measure "$kind" "$3"
    # shellcheck disable=SC2046,SC2086
    start_run "$3" $(arguments_of "$kind") $often
    all_of_it=$start_seconds
    if [ "$from" = lock ]; then
        wait_for_file "$temp/snapshot/lock"
        all_of_it=$lock_seconds
    fi
    sleep "$(echo "$all_of_it $share" | awk '{ printf "%.3f", $1 * $2 * 1.05 }')"
    kill_run "$victim"
    wait_job
    if ! wait_for 10 is_gone "$temp/snapshot"; then
        failed "$round" "a process is left: $(ranks_of "$temp/snapshot")"
        # shellcheck disable=SC2046
        kill -KILL $(ranks_of "$temp/snapshot")
    fi
    moment=$(moment_of $status)
    echo "$moment" >>"$temp/moments"
    if [ "$moment" = end ]; then
        shorten "$kind" "$3"
        check_result "$round: no kill" "$kind"
    fi
    if [ -e "$temp/snapshot/manifest.h5" ]; then
        check "$round ($moment): verify" 'it is damaged' is_verified "$temp/snapshot"
    fi
    # shellcheck disable=SC2046
    generate "$np_after" $(arguments_of "$kind") --save "$temp/snapshot" --resume "$temp/snapshot"
    check_result "$round ($moment)" "$kind"
    check "$round: nothing else" 'something is left' holds_only_named "$temp/snapshot"
}

# Every second round, from the first or the second one on.
half_of_rounds() {
    number=0
    while read -r line <&3; do
        number=$((number + 1))
        # shellcheck disable=SC2086
        if [ $((number % 4 / 2)) -eq "$1" ]; then one_round $number $line; fi
    done 3<"$all/rounds"
}
one_half() { half_of_rounds 0; }
other_half() { half_of_rounds 1; }

# ---- all of them ----

references() {
    # shellcheck disable=SC2086
    generate 1 $prompt_options
    expect 'the text without a stop' 0 && cp "$temp/out" "$all/prompt.result"
    # shellcheck disable=SC2046
    generate 1 $(arguments_of batch)
    expect 'the results without a stop' 3 && sort "$temp/results" >"$all/batch.results"
}

if [ ! -r /proc/self/comm ]; then
    echo "skipped: no /proc here, where the ranks are found"
    exit 77
fi
pages 2 >"$all/prompt.txt"
write_batch >"$all/batch.jsonl"
draw_rounds >"$all/rounds"
run_chain references
run_chain one_half &
run_chain other_half &
wait
echo "$rounds rounds with KVARVE_KILL_SEED=$seed; the kills fell"
count_moments() { cat "$all"/*/moments | grep -cx "$1"; }
echo "  $(count_moments start) before the snapshot was locked, $(count_moments first) before the first commit," \
    "$(count_moments save) in a later save, $(count_moments between) between two saves," \
    "$(count_moments end) behind the end"
end_test
