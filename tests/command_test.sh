# tests/command_test.sh: what the tests of the program from outside share. To be sourced by a POSIX shell, with the
# arguments KVARVE MPIEXEC MODEL_DIR SOURCE_DIR; those behind them stay in "$@".
#
# A test is chains of groups of checks. $temp is the folder of a chain, $all that of the test; both go away with it.
# shellcheck shell=sh disable=SC2034 # what is set here is used there
set -u
LC_ALL=C
OMPI_MCA_ess_singleton_isolated=1 # one rank alone starts no daemon: twice as fast
export LC_ALL OMPI_MCA_ess_singleton_isolated

[ $# -ge 4 ] || {
    sed -n '2,${/^#/!q;/^# shellcheck/q;s/^# \{0,1\}//p;}' "$0"
    exit 2
}
test_name=$(basename "$0" .sh) test_name=${test_name#test_}
kvarve=$1 mpiexec=$2
model=$(cd "$3" && pwd) || exit 2
source=$(cd "$4" && pwd) || exit 2
shift 4
page=$source/jobs/demo/page.txt
. "$source/jobs/mpi_env.sh"
mpi_env 4 # the most ranks that a test starts
exec </dev/null

all=$(mktemp -d) || exit 1
# Ranks that are killed leave their shared memory: let it lie where it is removed.
if shared=$(mktemp -d /dev/shm/kvarve.XXXXXX 2>/dev/null); then
    export OMPI_MCA_btl_vader_backing_directory="$shared"
fi
trap 'rm -rf "$all" ${shared:+"$shared"}' EXIT
trap 'exit 1' INT TERM HUP

# ---- results ----

ok() {
    echo "ok       $test_name / $1"
}

failed() { # failed NAME WHY: with what the last run said, but for its tables
    echo "FAILED   $test_name / $1: $2"
    grep -v '^  \|^$' "$temp/err" | sed -n '1,12s/^/             /p'
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
    temp=$all/$1 kept=
    # Open MPI makes and removes folders in there: jobs that end and begin at once must not share them.
    export TMPDIR="$temp/mpi"
    mkdir "$temp" "$TMPDIR"
    : >"$temp/err"
    for group in "$@"; do $group; done >"$all/$1.log" 2>&1
    : >"$temp/ended"
}

# end_test: print what the chains printed, and exit with the test's status.
end_test() {
    for log in "$all"/*.log; do
        chain=${log%.log}
        [ -e "$chain/ended" ] || echo "FAILED   $test_name / ${chain##*/}: it broke off" >>"$log"
    done
    cat "$all"/*.log >"$all/printed"
    cat "$all/printed"
    n_ok=$(grep -c '^ok ' "$all/printed")
    n_failed=$(grep -c '^FAILED ' "$all/printed")
    n_skipped=$(grep -c '^skipped ' "$all/printed")
    echo "$n_ok passed, $n_failed failed, $n_skipped skipped"
    if [ "$n_failed" -gt 0 ] || [ $((n_ok + n_skipped)) -eq 0 ]; then exit 1; fi
    if [ "$n_ok" -eq 0 ]; then exit 77; fi
    exit 0
}

# Is the program many times slower than the one that users run? What only does more of the same is left out then. For
# the night there is time for all.
is_slow() {
    [ -n "${KVARVE_SLOW-}" ] && ! is_long
}

is_long() {
    [ -n "${KVARVE_LONG-}" ]
}

# ---- runs ----

# Of each run that generates. So little memory has no room for what is measured behind a run, which would take longer
# than it.
run_options='--threads 1 --memory-per-rank 250M'
run_under='timeout 120'   # what starts each run; timeout makes it a process group

# become NP ARGUMENTS...: this shell becomes the run. One rank runs without mpiexec.
become() {
    np=$1
    shift
    if [ "$np" -gt 1 ]; then set -- "$mpiexec" -n "$np" "$kvarve" "$@"; else set -- "$kvarve" "$@"; fi
    # shellcheck disable=SC2086 # several words
    exec $run_under "$@" >"$temp/out" 2>"$temp/err"
}

# run NP ARGUMENTS...: output in $temp/out and $temp/err, exit status in $status.
run() {
    (become "$@")
    status=$?
}

generate_on() { # generate_on MODEL NP ARGUMENTS...
    on=$1 np=$2
    shift 2
    # shellcheck disable=SC2086
    run "$np" generate --model "$on" $run_options "$@"
}

generate() { # generate NP ARGUMENTS...
    generate_on "$model" "$@"
}

# start NP ARGUMENTS...: the same beside what follows, as the process group $job with its output in $started, until
# wait_job makes it the last run.
start() {
    started=$temp/started
    rm -rf "$started"
    mkdir "$started"
    (
        temp=$started TMPDIR=$started np=$1
        shift
        # shellcheck disable=SC2086
        become "$np" generate --model "$model" $run_options "$@"
    ) &
    job=$!
}

wait_job() {
    wait "$job" 2>/dev/null # the shell would tell of a killed one
    status=$?
    mv "$started/out" "$started/err" "$temp/"
}

wait_for() { # wait_for SECONDS COMMAND...: is it so within that time?
    deadline=$(($(date +%s) + $1))
    shift
    until "$@" >"$temp/wait" 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.02
    done
}

# ---- their ranks ----

# ranks_of WORD: the processes of ours that have it among their arguments; first started, first listed.
ranks_of() {
    for process in /proc/[0-9]*; do
        read -r comm <"$process/comm" && [ "$comm" = "${kvarve##*/}" ] || continue
        tr '\0' '\n' <"$process/cmdline" | grep -qxF -- "$1" && echo "${process#/proc/}"
    done 2>/dev/null | sort -n
}

is_gone() { # is_gone WORD: no rank has it
    [ -z "$(ranks_of "$1")" ]
}

# ---- how they ended ----

# expect NAME STATUS: the last run ended so. Shows what it said otherwise.
expect() {
    if [ "$status" -eq "$2" ]; then return 0; fi
    failed "$1" "exit status $status, not $2"
    return 1
}

# expect_error NAME STATUS PART...: it ended so, with one line of error, which has all parts.
expect_error() ( # a shell of its own, as $name is the caller's
    expect "$1" "$2" || return
    name=$1
    shift 2
    n=$(grep -c '^kvarve: error:' "$temp/err")
    if [ "$n" -ne 1 ]; then
        failed "$name" "$n lines of error, not 1"
        return 1
    fi
    for part; do
        grep '^kvarve: error:' "$temp/err" | grep -qF -- "$part" && continue
        failed "$name" "no \"$part\" in the error"
        return 1
    done
)

# refused NAME STATUS PART...: the same, and it did nothing else: there is nothing on stdout, what is kept is as it was,
# and no rank is left that has to do with it.
refused() {
    expect_error "$@" || return
    if [ -s "$temp/out" ]; then
        failed "$1" 'something on stdout'
    elif [ -n "$kept" ] && ! fingerprint "$kept" | cmp -s - "$temp/kept"; then
        failed "$1" "something changed in ${kept##*/}"
    elif [ -n "$kept" ] && ! wait_for 10 is_gone "$kept"; then
        failed "$1" 'a rank is still there'
    else
        ok "$1"
    fi
}

keep() { # keep DIR: `refused` sees that nothing changes in there
    kept=$1
    fingerprint "$kept" >"$temp/kept"
}

# fingerprint DIR: all files below, with their content.
fingerprint() {
    (cd "$1" && find . | sort && find . -type f -exec cksum {} + | sort -k 3)
}

# ---- other models ----

# copy_model NAME: the model again, in $temp/NAME, as links to its files.
copy_model() {
    model_copy=$temp/$1
    mkdir -p "$model_copy"
    ln -sf "$model"/* "$model_copy/"
}

own_file() { # own_file NAME FILE: such a model, with a real copy of this file
    copy_model "$1"
    rm "$model_copy/$2"
    cp "$model/$2" "$model_copy/$2"
    chmod u+w "$model_copy/$2"
}

change_file() { # change_file NAME FILE SED-SCRIPT: such a model, in which the script has changed this file
    own_file "$1" "$2"
    sed "$3" "$model/$2" >"$model_copy/$2"
    ! cmp -s "$model_copy/$2" "$model/$2" || failed "$1" "the script changed nothing in $2"
}

# two_layers NAME: another model, of two layers, in $temp/NAME.
two_layers() {
    model_copy=$temp/$1
    rm -rf "$model_copy"
    mkdir "$model_copy"
    ln -s "$source"/tests/golden/models/llama2/*.safetensors "$source/tests/golden/models/llama2/config.json" \
        "$model/tokenizer.json" "$model_copy/"
}

# tensor_offset NAME: where its data begin in the model's only file.
tensor_offset() {
    n=$(od -An -tu8 -N8 "$model/model.safetensors" | tr -d ' ')
    begin=$(tail -c +9 "$model/model.safetensors" | head -c "$n" | tr -d ' \n' | grep -o "\"$1\":{[^}]*}" |
        sed 's/.*"data_offsets":\[\([0-9]*\),.*/\1/')
    echo $((8 + n + begin))
}
