# tests/snapshot_test.sh: what the tests of snapshots with the real program share. To be sourced by a POSIX shell, with
# the arguments KVARVE MPIEXEC MODEL_DIR SOURCE_DIR.
#
# $temp is a folder of this run, which goes away with it; $all is the same in every chain of checks (see run_chain).
# shellcheck shell=sh disable=SC2034 # what is set here is used there
set -u
LC_ALL=C
OMPI_MCA_ess_singleton_isolated=1 # one rank alone starts no daemon: twice as fast
export LC_ALL OMPI_MCA_ess_singleton_isolated

[ $# -ge 4 ] || {
    sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
    exit 2
}
test_name=$(basename "$0" .sh) test_name=${test_name#test_}
kvarve=$1 mpiexec=$2 model=$3 source=$4
shift 4
. "$source/jobs/mpi_env.sh"
mpi_env 4
all=$(mktemp -d) || exit 1
temp=$all shared=
export OMPI_MCA_orte_tmpdir_base="$all" # what a killed job leaves there goes away with the rest

clean_up() {
    if [ -n "$shared" ]; then rm -rf "$shared"; fi
    rm -rf "$all"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

# Ranks that are killed leave their shared memory: let it lie where it is removed.
if shared=$(mktemp -d /dev/shm/kvarve.XXXXXX 2>/dev/null); then
    export OMPI_MCA_btl_vader_backing_directory="$shared"
fi

# ---- results ----

ok() {
    echo "ok       $test_name / $1"
}

failed() { # failed NAME WHY
    echo "FAILED   $test_name / $1: $2"
    if [ -s "$temp/err" ]; then grep -v '^$' "$temp/err" | sed -n '1,12s/^/             /p'; fi
}

skipped() { # skipped NAME WHY
    echo "skipped  $test_name / $1: $2"
}

check() { # check NAME WHY COMMAND...: passed when the command succeeds
    name=$1 why=$2
    shift 2
    if "$@" >"$temp/check" 2>&1; then ok "$name"; else failed "$name" "$why"; fi
}

# In turn, in a folder of their own, with what they print in a file: several such chains may run at once.
run_chain() { # run_chain GROUP...
    temp=$all/$1
    mkdir "$temp"
    export OMPI_MCA_orte_tmpdir_base="$temp" # two jobs that share one remove each other's folders
    for group in "$@"; do $group; done >"$all/$1.log" 2>&1
}

# end_test: print what the chains printed, and exit with the test's status.
end_test() {
    cat "$all"/*.log
    n_ok=$(cat "$all"/*.log | grep -c '^ok ')
    n_failed=$(cat "$all"/*.log | grep -c '^FAILED ')
    n_skipped=$(cat "$all"/*.log | grep -c '^skipped ')
    echo "$n_ok passed, $n_failed failed, $n_skipped skipped"
    if [ "$n_failed" -gt 0 ] || [ $((n_ok + n_skipped)) -eq 0 ]; then exit 1; fi
    if [ "$n_ok" -eq 0 ]; then exit 77; fi
    exit 0
}

# ---- runs ----

# Of every run. So little memory has no room for what is measured behind a run, which would take longer than it.
small='--threads 1 --memory-per-rank 250M'

# run NP ARGUMENTS...: output in $temp/out and $temp/err, exit status in $status. One rank runs without mpiexec.
run() {
    np=$1
    shift
    if [ "$np" -eq 1 ]; then
        timeout 120 "$kvarve" "$@" >"$temp/out" 2>"$temp/err" </dev/null
    else
        timeout 120 "$mpiexec" -n "$np" "$kvarve" "$@" >"$temp/out" 2>"$temp/err" </dev/null
    fi
    status=$?
}

generate() { # generate NP ARGUMENTS...
    np=$1
    shift
    # shellcheck disable=SC2086 # several words
    run "$np" generate --model "$model" $small "$@"
}

# expect NAME STATUS: the last run ended so. Shows stderr otherwise.
expect() {
    if [ "$status" -eq "$2" ]; then return 0; fi
    failed "$1" "exit status $status, not $2"
    return 1
}

# ends_as NAME STATUS FILE: the last run ended so, with this text on stdout.
ends_as() {
    expect "$1" "$2" || return
    if cmp -s "$temp/out" "$3"; then ok "$1"; else failed "$1" 'another text than without a stop'; fi
}

# results_as NAME STATUS RESULTS FILE: the last run ended so, and these results are those of FILE, in any order.
results_as() {
    expect "$1" "$2" || return
    sort "$3" >"$temp/sorted"
    if cmp -s "$temp/sorted" "$4"; then ok "$1"; else failed "$1" 'other results than without a stop'; fi
}

# refused NAME STATUS PART: the last run ended with this status, nothing on stdout, and one line of error that has PART.
refused() {
    expect "$1" "$2" || return
    n=$(grep -c '^kvarve: error:' "$temp/err")
    if [ "$n" -ne 1 ]; then
        failed "$1" "$n lines of error, not 1"
    elif ! grep '^kvarve: error:' "$temp/err" | grep -qF -- "$3"; then
        failed "$1" "no \"$3\" in the error"
    elif [ -s "$temp/out" ]; then
        failed "$1" "something on stdout"
    else
        ok "$1"
    fi
}

# pages N: a long text: the demo's page, N times, with the numbers of the times between.
pages() {
    n_pages=0
    while [ $n_pages -lt "$1" ]; do
        n_pages=$((n_pages + 1))
        printf 'Page %d. ' $n_pages
        cat "$source/jobs/demo/page.txt"
    done
}

# ---- snapshots ----

segments_of() { # segments_of DIR: the names of its files of K and V
    "$kvarve" snapshot info "$1" | sed -n 's/^\(L[^ ]*\.h5\) .*/\1/p' | sort
}

n_segments_of() {
    segments_of "$1" | wc -l
}

is_verified() { # is_verified DIR
    "$kvarve" snapshot verify "$1" --threads 1
}

has_state() { # has_state DIR STATE: a sequence is "reading", "generating", ...
    "$kvarve" snapshot info "$1" | grep -q " $2\$"
}

# holds_only_named DIR: exactly the manifest and what it names.
holds_only_named() {
    {
        echo manifest.h5
        segments_of "$1"
    } | sort >"$temp/named"
    # shellcheck disable=SC2012 # names of our own
    ls -A "$1" | sort >"$temp/there"
    diff "$temp/named" "$temp/there"
}

# is_reported FILE KEY LEAST: a number of a report.
is_reported() {
    n=$(sed -n "s/^.*\"$2\":[[:space:]]*\([0-9]*\).*/\1/p" "$1")
    [ "${n:-0}" -ge "$3" ]
}

# ---- processes ----

# processes_of WORD: those of ours that have it among their arguments.
processes_of() {
    for dir in /proc/[0-9]*; do
        [ "$(cat "$dir/comm" 2>/dev/null)" = "${kvarve##*/}" ] || continue
        cat "$dir/cmdline" 2>/dev/null | tr '\0' '\n' | grep -qxF -- "$1" && echo "${dir#/proc/}"
    done
}

# all_gone WORD: within ten seconds.
all_gone() {
    begin=$(date +%s)
    while [ -n "$(processes_of "$1")" ]; do
        [ $(($(date +%s) - begin)) -lt 10 ] || return 1
        sleep 0.1
    done
}
