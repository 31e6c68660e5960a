#!/bin/sh
# tests/command/test_launchers.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: what launchers do to a run, and what it says of
# that.
#
#   alone          started as several processes by another MPI's launcher, which a variable tells: refused; but not
#                  where several are only part of an allocation, of a batch script, or of the shell it is started from
#   processors     a rank bound to few of them, or with OMP_NUM_THREADS=1, on a machine that has more: a note
#   stdin          refused with several ranks, however it is called
#   one code       all ranks end with the same one
#   one writer     of a file of results
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
run_under='timeout 60'
# Whatever this test itself is started by.
unset SLURM_STEP_NUM_TASKS SLURM_PROCID SLURM_CPUS_ON_NODE OMP_NUM_THREADS

with() { # with "NAME=VALUE ..." COMMAND...: in this environment
    (
        for setting in $1; do export "${setting?}"; done
        shift
        "$@"
        exit "$status"
    )
    status=$?
}

short() { # short NP ARGUMENT...
    generate "$1" --prompt Hello --max-tokens 1
}

# ---- alone ----

refused_alone() { # refused_alone NAME PART: the last run was refused, by kvarve or before by MPI itself
    if [ "$status" -ne 0 ] && grep -q 'MPI_Init' "$temp/err"; then
        skipped "$1" 'this MPI refuses it itself'
    else
        refused "$1" 2 "$2" 'launcher of that MPI'
    fi
}

alone() {
    for settings in 'OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK' 'PMI_SIZE=2 PMI_RANK' \
        'MV2_COMM_WORLD_SIZE=2 MV2_COMM_WORLD_RANK' 'SLURM_STEP_NUM_TASKS=2 SLURM_PROCID'; do
        for rank in 0 1; do
            with "$settings=$rank" short 1
            refused_alone "alone, $settings=$rank" "by ${settings%%=*} this is process $rank of 2"
        done
    done
    # Open MPI changes some of them when it starts a daemon for a run of one rank, as it does unless told otherwise.
    for variable in PMIX_RANK PALS_RANKID ALPS_APP_PE FLUX_TASK_RANK; do
        with "$variable=1 OMPI_MCA_ess_singleton_isolated=0" short 1
        refused_alone "alone, $variable=1" "by $variable this is process 1 of 2"
    done
    # Several runs of one command, as a launcher of another MPI makes them.
    echo '{"prompt": "Hello", "max_tokens": 1}' >"$temp/lines"
    for rank in 1 0; do
        with "PMI_SIZE=2 PMI_RANK=$rank" generate 1 --input "$temp/lines" --output "$temp/results"
        check "alone, $rank: no results" 'there are' [ "$status" -eq 2 -a ! -e "$temp/results" ]
    done

    for settings in 'SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_NPROCS=4 SLURM_PROCID=0 SLURM_JOB_NUM_NODES=2' \
        'SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_ID=3 SLURM_PROCID=0' 'SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0' \
        'SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1 PMI_SIZE=1 PMI_RANK=0' 'PMI_SIZE=two PMI_RANK=0' 'PMI_SIZE=2' \
        'PMIX_RANK=0' 'MPI_LOCALNRANKS=2'; do
        # Variables of one launcher may mean something to the MPI that there is.
        if [ "${settings#*PMI}" != "$settings" ] && ! "$mpiexec" --version 2>&1 | grep -q 'Open MPI\|OpenRTE'; then
            skipped "one run, $settings" 'this MPI reads them'
            continue
        fi
        with "$settings" short 1
        expect "one run, $settings" 0 && check "one run, $settings" 'a note' [ "$(grep -c NOTE "$temp/err")" -eq 0 ]
    done
    with 'SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0' run_from_shell
    expect "a run of a launcher's own shell" 0 &&
        check "a run of a launcher's own shell" 'no note' grep -q 'NOTE: by SLURM_STEP_NUM_TASKS' "$temp/err"
    with 'SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1' run_from_shell
    refused "a script of a launcher's second process" 2 'process 1 of 2'
    run 1 plan --model "$model"
    expect 'a plan needs no launcher' 0 && ok 'a plan needs no launcher'
}

# As a script that a launcher started, and that does not become the program (exec).
run_from_shell() {
    # shellcheck disable=SC2016 # for that shell
    sh -c '"$0" "$@"; exit $?' "$kvarve" generate --model "$model" --prompt Hello --max-tokens 1 --threads 1 \
        --memory-per-rank 250M >"$temp/out" 2>"$temp/err"
    status=$?
}

# ---- processors ----

few() { # few NAME WHAT: the last run says so
    expect "$1" 0 && check "$1" 'no note' grep -q "^kvarve: NOTE: .*$2" "$temp/err"
}

enough() { # enough NAME: it says nothing
    expect "$1" 0 && check "$1" 'a note' [ "$(grep -c NOTE "$temp/err")" -eq 0 ]
}

processors() {
    run_options=
    if [ "$(nproc)" -lt 2 ] || ! command -v taskset >/dev/null; then
        skipped processors 'one processor, or no taskset'
        return
    fi
    usual_under=$run_under
    first=$(taskset -cp $$ | sed 's/.*: \([0-9]*\).*/\1/')
    short 1
    enough 'processors: all'
    with OMP_NUM_THREADS=1 short 1
    few 'processors: OMP_NUM_THREADS=1' 'OMP_NUM_THREADS=1 leaves a rank 1 thread'
    with OMP_NUM_THREADS=1 generate 1 --prompt Hello --max-tokens 1 --threads 1
    enough 'processors: --threads 1'
    with 'OMP_NUM_THREADS=1 SLURM_CPUS_ON_NODE=1' short 1
    enough 'processors: an allocation of one'
    run_under="$usual_under taskset -c $first"
    short 1
    few 'processors: bound to one' 'bound to 1 processor, .* --bind-to none'
    generate 1 --prompt Hello --max-tokens 1 --threads 1
    enough 'processors: bound to one, --threads 1'
    with SLURM_CPUS_ON_NODE=1 short 1
    enough 'processors: bound to the one of an allocation'
    run_under=$usual_under
}

# ---- stdin ----

from_stdin() {
    echo 'Hello' >"$temp/text"
    for name in - /dev/stdin; do
        for option in --prompt-file --input; do
            generate 2 $option $name <"$temp/text"
            refused "stdin, $option $name" 2 "$option $name: standard input" 'a file, with mpirun'
        done
        run 2 perplexity --model "$model" --file $name --threads 1 <"$temp/text"
        refused "stdin, --file $name" 2 "--file $name: standard input"
    done
    generate 2 --prompt - --max-tokens 1
    expect 'a prompt that is a dash' 0 && ok 'a prompt that is a dash'
}

# ---- one code, one writer ----

# codes NAME CODE ARGUMENT...: two ranks end with it, each; their text goes to $text_to
codes() {
    name=$1 code=$2
    shift 2
    rm -f "$temp"/code.*
    # shellcheck disable=SC2016,SC2086 # for that shell; several words
    $run_under "$mpiexec" -n 2 sh -c 'to=$1 && shift && "$@" >"$to"; echo $? >"$0.$$"; exit 0' "$temp/code" "$text_to" \
        "$kvarve" "$@" >"$temp/out" 2>"$temp/err"
    found=$(cat "$temp"/code.* | tr '\n' ' ')
    check "one code: $name" "$found" [ "$found" = "$code $code " ]
}
text_to=/dev/null

one_code() {
    codes 'done' 0 generate --model "$model" --prompt Hello --max-tokens 1 --threads 1 --memory-per-rank 250M
    codes 'bad option' 2 generate --model "$model" --prompt Hello --top-k many
    codes 'refused' 2 generate --model "$temp/nowhere" --prompt Hello
    codes 'bad command' 2 genrate
    printf '{"prompt": "x", "max_tokens": 1}\nbad\n' >"$temp/lines"
    codes 'bad lines' 3 generate --model "$model" --input "$temp/lines" --threads 1 --memory-per-rank 250M
    codes 'stopped early' 75 generate --model "$model" --prompt-file "$page" --chunk-tokens 16 --threads 1 \
        --save "$temp/early.kvs" --max-time 0.01s
    if [ -w /dev/full ]; then
        text_to=/dev/full
        codes 'full disk behind stdout, which only rank 0 writes to' 1 perplexity --model "$model" --file "$page" \
            --threads 1
    fi
}

one_writer() {
    echo '{"prompt": "Once", "max_tokens": 49000, "ignore_eos": true}' >"$temp/long"
    echo '{"prompt": "Once", "max_tokens": 1}' >"$temp/lines"
    start 1 --input "$temp/long" --output "$temp/results" --context 50000 --memory-per-rank 1G
    wait_for 20 [ -e "$temp/results" ]
    generate 2 --input "$temp/lines" --output "$temp/results"
    refused 'one writer' 2 "$temp/results: another run writes its results there"
    kill "$job"
    wait_job
    generate 2 --input "$temp/lines" --output "$temp/results"
    check 'one writer: after its end' "exit status $status" [ "$status" -eq 0 -a "$(wc -l <"$temp/results")" -eq 1 ]
}

run_chain alone processors &
run_chain from_stdin one_code one_writer &
wait
end_test
