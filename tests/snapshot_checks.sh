# tests/snapshot_checks.sh: what the tests of snapshots from outside share. To be sourced by a POSIX shell, with the
# name of the test in $suite and in $kvarve, $mpiexec, $model and $source what is tested, and what it needs.
# shellcheck shell=sh disable=SC2154,SC2034 # assigned, and used, by who sources this
LC_ALL=C
OMPI_MCA_ess_singleton_isolated=1 # one rank alone starts no daemon: twice as fast
export LC_ALL OMPI_MCA_ess_singleton_isolated

all=$(mktemp -d) || exit 1
trap 'rm -rf "$all"' EXIT
trap 'exit 1' INT TERM HUP
page=$source/jobs/demo/page.txt

# ---- what came of it ----

ok() {
    echo "ok       $suite / $1"
}

failed() { # failed NAME WHY
    echo "FAILED   $suite / $1: $2"
    grep -v '^  \|^$' "$temp/err" | sed -n '1,8s/^/             /p'
}

check() { # check NAME WHY COMMAND...: passed when the command succeeds
    name=$1 why=$2
    shift 2
    if "$@" >"$temp/check" 2>&1; then ok "$name"; else failed "$name" "$why"; fi
}

# In turn, in a folder of their own, with what they print in a file: several such chains may run at once.
run_chain() { # run_chain GROUP...
    temp=$all/$1
    mkdir "$temp" "$temp/mpi"
    # Open MPI makes and removes folders in there: jobs that end and begin at once must not share them.
    TMPDIR=$temp/mpi
    export TMPDIR
    : >"$temp/err"
    for group in "$@"; do $group; done >"$all/$1.log" 2>&1
    : >"$temp/ended"
}

# What all chains printed, and whether nothing failed.
finish() {
    for log in "$all"/*.log; do
        chain=${log%.log}
        [ ! -d "$chain" ] || [ -e "$chain/ended" ] || echo "FAILED   $suite / ${chain##*/}: it broke off" >>"$log"
    done
    cat "$all"/*.log
    n_failed=$(cat "$all"/*.log | grep -c '^FAILED ')
    echo "$(cat "$all"/*.log | grep -c '^ok ') passed, $n_failed failed"
    [ "$n_failed" -eq 0 ]
}

# ---- runs ----

# run NP ARGUMENTS...: output in $temp/out and $temp/err, exit status in $status. One rank runs without mpiexec.
run() {
    np=$1
    shift
    if [ "$np" -eq 1 ]; then
        timeout 120 "$kvarve" "$@" >"$temp/out" 2>"$temp/err"
    else
        timeout 120 "$mpiexec" -n "$np" "$kvarve" "$@" >"$temp/out" 2>"$temp/err"
    fi
    status=$?
}

generate() { # generate NP ARGUMENTS...
    np=$1
    shift
    run "$np" generate --model "$model" --threads 1 "$@"
}

# The same beside what follows, as process $job, until it is waited for with `wait_job`.
start() { # start NP ARGUMENTS...
    np=$1
    shift
    : >"$temp/err"
    if [ "$np" -eq 1 ]; then
        TMPDIR=$temp timeout 120 "$kvarve" generate --model "$model" --threads 1 "$@" \
            >"$temp/out" 2>"$temp/err" &
    else
        TMPDIR=$temp timeout 120 "$mpiexec" -n "$np" "$kvarve" generate --model "$model" --threads 1 "$@" \
            >"$temp/out" 2>"$temp/err" &
    fi
    job=$!
}

wait_job() {
    wait "$job"
    status=$?
}

# Is it so within 60 seconds?
wait_for() { # wait_for COMMAND...
    n_waits=0
    while [ $n_waits -lt 3000 ]; do
        "$@" >"$temp/wait" 2>&1 && return 0
        sleep 0.02
        n_waits=$((n_waits + 1))
    done
    return 1
}

# The ranks that have this word among their arguments; first started, first listed.
ranks_of() {
    printf '%s\n' "$1" >"$temp/word"
    grep -lzxFf "$temp/word" /proc/[0-9]*/cmdline 2>/dev/null | tr -dc '0-9\n' | sort -n | while read -r pid; do
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${kvarve##*/}" ] && echo "$pid"
    done
}

# Who is who in the run that saves to $dir, before it begins: rank 0 holds the lock, and says so in it.
find_ranks() {
    wait_for [ -e "$dir/lock" ]
    rank_0=$(sed 's/.* pid=\([0-9]*\) .*/\1/' "$dir/lock")
    all_ranks=$(ranks_of "$dir")
    other_rank=$(echo "$all_ranks" | grep -vx "$rank_0" | tail -n 1)
}

is_gone() { # is_gone WORD
    [ -z "$(ranks_of "$1")" ]
}

# ---- what they did ----

expect() { # expect NAME STATUS: the last run ended so
    if [ "$status" -eq "$2" ]; then return 0; fi
    failed "$1" "exit status $status, not $2"
    return 1
}

# All files below, with their content.
fingerprint() {
    (cd "$1" && find . | sort && find . -type f -exec cksum {} + | sort -k 3)
}

keep() { # keep DIR: `refused` sees that nothing changes in there
    kept=$1
    fingerprint "$kept" >"$temp/kept"
}

# refused NAME PART...: the last run ended with status 2 and one line of error that has all parts, what is kept is as it
# was, and no rank is left.
refused() {
    name=$1
    shift
    expect "$name" 2 || return
    n=$(grep -c '^kvarve: error:' "$temp/err")
    if [ "$n" -ne 1 ]; then
        failed "$name" "$n lines of error, not 1"
        return
    fi
    for part; do
        grep '^kvarve: error:' "$temp/err" | grep -qF -- "$part" && continue
        failed "$name" "no \"$part\" in the error"
        return
    done
    if [ -n "${kept-}" ]; then
        fingerprint "$kept" >"$temp/now"
        if ! cmp -s "$temp/kept" "$temp/now"; then
            failed "$name" "something changed in ${kept##*/}"
            return
        fi
        if ! wait_for is_gone "$kept"; then
            failed "$name" 'a rank is still there'
            return
        fi
    fi
    ok "$name"
}

flip() { # flip FILE OFFSET: one bit of the byte there is another one now
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059 # the format is the byte
    printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

file_bytes() {
    wc -c <"$1" | tr -d ' '
}
