# jobs/slurm_env.sh: what the job scripts share: where things are, how ranks start and where they run, and how a run
# that must end early goes on. To be sourced by a POSIX shell inside a Slurm job, as the job scripts do it:
#
#     command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
#     command=${command%%.sbatch*}
#     . "${KVARVE_ROOT:-${command%/jobs/*}}/jobs/slurm_env.sh"
#
# (Slurm runs a copy of a job script, so that $0 says nothing; it remembers where the original lies. A script that was
# copied elsewhere, to be changed, finds the repository by KVARVE_ROOT.)
#
# What may be set before sbatch, which hands its environment on to the job:
#   KVARVE_ROOT       the repository, with kvarve in its build/
#   KVARVE_LAUNCHER   what starts the ranks, with its options, such as "srun --mpi=pmix" or "mpirun --map-by numa".
#                     Otherwise: mpirun where it is, which reads the nodes and tasks of the job from Slurm. Without it,
#                     srun: with the site's own MPI default, or else with pmix.
#   OMP_NUM_THREADS   threads of a rank; otherwise --cpus-per-task, or else an equal part of what the job has there.
#
# Modules: load before sbatch what kvarve was built with. The names differ from site to site:
#   EasyBuild   module load foss HDF5           (JSC, VSC, NHR, SURF, ...; CUDA NCCL for GPUs)
#   Spack       module load gcc openmpi hdf5    (LLNL, CSCS, ...; or: spack load openmpi hdf5)
#   HPE Cray    module load PrgEnv-gnu cray-hdf5 cudatoolkit    (LUMI, Perlmutter, ...; there srun starts the ranks)
#
# GPUs: ask for as many of them as ranks on a node, --ntasks-per-node=4 --gpus-per-node=4. Every rank is shown all of
# its node's: kvarve takes them in turn, and its threads stay near. (With --gpus-per-task ranks may not see each other's
# GPU, and NCCL then goes a longer way.)
# Lustre: a new snapshot spreads its large files over 8 targets, and keeps small ones on one. See snapshot_folder.
# shellcheck shell=sh

kvarve_root=${KVARVE_ROOT:-${command%/jobs/*}}
kvarve=$kvarve_root/build/kvarve
. "$kvarve_root/jobs/mpi_env.sh"

# A task of an array goes by its array's number: one of the tasks has that of the whole array as its own.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

# One line of the job's log, which tells a story of several runs.
say() {
    printf '== %s, job %s, run %d: %s\n' "$(date '+%F %T')" "$job" $((${SLURM_RESTART_COUNT:-0} + 1)) "$*" >&2
}

refuse() {
    say "$*"
    exit 2
}

# has_option NAME ARGUMENT...: is --NAME among these?
has_option() {
    wanted=--$1
    shift
    for argument; do
        case $argument in "$wanted" | "$wanted"=*) return 0 ;; esac
    done
    return 1
}

# count_prompts FILE: its lines that kvarve does not take for blank.
count_prompts() {
    LC_ALL=C awk '{ sub(/^\357\273\277/, "") } /[^ \t\r]/ { n++ } END { print n + 0 }' "$1"
}

# ---- ranks ----

# Open MPI makes and removes folders in there: jobs that end and begin at once on a node must not share them.
mpi_folder=${TMPDIR:-/tmp}/kvarve-$SLURM_JOB_ID
trap 'rmdir "$mpi_folder" 2>/dev/null' EXIT

# The tasks of this node, of a list such as 4(x2),3. It is the first of the job.
tasks_here=${SLURM_TASKS_PER_NODE:-1}
tasks_here=${tasks_here%%[!0-9]*}

# Slurm may give a task more processors than -c asked for, as where memory is shared out by processors. Then two
# variables differ, and srun, or an mpirun that uses it, ends with "set by two different environment variables".
settle_cpus() {
    tres=$(printf '%s\n' "${SLURM_TRES_PER_TASK-}" | tr , '\n')
    asked=$(printf '%s\n' "$tres" | sed -n 's/^cpu[:=]\([0-9]*\)$/\1/p')
    [ -n "$asked" ] || return 0
    mpi_default SLURM_CPUS_PER_TASK "$asked"
    [ "$asked" -eq "$SLURM_CPUS_PER_TASK" ] ||
        say "NOTE: SLURM_TRES_PER_TASK has cpu=$asked, SLURM_CPUS_PER_TASK is $SLURM_CPUS_PER_TASK: the latter counts"
    SLURM_TRES_PER_TASK=$(printf '%s\n' "$tres" | grep -v '^cpu[:=]' | paste -sd, -)
    [ -n "$SLURM_TRES_PER_TASK" ] || unset SLURM_TRES_PER_TASK
}

bind_ranks() {
    settle_cpus
    # srun does not take this over from sbatch by itself.
    [ -z "${SLURM_CPUS_PER_TASK-}" ] || mpi_default SRUN_CPUS_PER_TASK "$SLURM_CPUS_PER_TASK"
    threads=${SLURM_CPUS_PER_TASK:-$((${SLURM_CPUS_ON_NODE:-1} / tasks_here))}
    if [ "$threads" -gt 1 ]; then mpi_default OMP_NUM_THREADS "$threads"; else mpi_default OMP_NUM_THREADS 1; fi

    # With GPUs, kvarve binds by itself, to what is near the rank's own: it must see all of them.
    if [ -n "${SLURM_GPUS_ON_NODE-}${SLURM_JOB_GPUS-}" ]; then
        mpi_default SLURM_GPU_BIND none
        return
    fi
    # Without, a rank's weights and cache should lie in the memory that is near its threads: as many ranks to each NUMA
    # domain, neighbours of the pipeline beside each other. srun does that by itself (task/affinity). A job that does
    # not have all of the node's domains is left as it is.
    domains=$(lscpu --parse=NODE 2>/dev/null | grep -v '^#' | sort -u | wc -l)
    if [ "$domains" -lt 2 ] || [ $((tasks_here % domains)) -ne 0 ]; then return; fi
    [ "${SLURM_CPUS_ON_NODE:-0}" -ge "$(nproc --all)" ] || return 0
    mpi_default OMPI_MCA_rmaps_base_mapping_policy "ppr:$((tasks_here / domains)):numa"
    mpi_default OMPI_MCA_hwloc_base_binding_policy numa
    mpi_default PRTE_MCA_rmaps_default_mapping_policy "ppr:$((tasks_here / domains)):numa"
    mpi_default PRTE_MCA_hwloc_default_binding_policy numa
}

choose_launcher() {
    if command -v mpirun >/dev/null; then
        echo mpirun
    elif scontrol show config | grep -q '^MpiDefault *= *none' && srun --mpi=list 2>&1 | grep -q pmix; then
        echo srun --mpi=pmix
    else
        echo srun
    fi
}

# prepare_ranks: from here on $launcher, several words, starts up to as many ranks as the job has tasks.
prepare_ranks() {
    [ -x "$kvarve" ] || refuse "$kvarve is not there: build it (jobs/setup.sh), or set KVARVE_ROOT before sbatch"
    bind_ranks
    mpi_default OMPI_MCA_orte_tmpdir_base "$mpi_folder"
    mpi_default PRTE_MCA_prte_tmpdir_base "$mpi_folder"
    mpi_env "${SLURM_NTASKS:-1}"
    launcher=${KVARVE_LAUNCHER:-$(choose_launcher)}
}

# start_ranks ARGUMENT...: this shell becomes kvarve with these arguments, one rank for each task of the job.
start_ranks() {
    prepare_ranks
    has_option model "$@" || has_option shape "$@" || set -- "$@" --model "$kvarve_root/jobs/demo/model"
    # shellcheck disable=SC2086 # several words
    exec $launcher -n "${SLURM_NTASKS:-1}" "$kvarve" "$@"
}

# ---- runs that go on ----

# snapshot_folder DIR: make it when it is missing, and tell Lustre how to lay out its files: one file is one rank's part
# of a save, gigabytes for a long context. What is small, as most saves on the way are, stays on one target.
snapshot_folder() {
    [ ! -e "$1" ] || return 0
    mkdir -p "$1"
    if command -v lfs >/dev/null && lfs getstripe -d "$1" >/dev/null 2>&1; then
        lfs setstripe -E 256M -c 1 -E -1 -c 8 -S 4M "$1" || say "lfs setstripe failed; $1 is as its folder is"
    fi
}

early=no cancelled=no

# How a run is told to end: by a file, which all launchers let through. Not before it holds the lock: a stop file that
# is there when kvarve begins is refused as one that was forgotten.
ask_to_stop() {
    until [ -e "$snapshot/lock" ] || ! kill -0 "$ranks" 2>/dev/null; do sleep 0.2; done
    : >"$stop_file"
}
on_time_up() {
    early=yes
    say "its time is nearly up: it saves"
    ask_to_stop
}
on_cancel() {
    cancelled=yes
    say "SIGTERM: it ends"
    ask_to_stop
}

# run_on SNAPSHOT ARGUMENT...: kvarve generate with these arguments, as one of the runs that it takes: goes on from
# SNAPSHOT where that is there, saves to it every 15 minutes (another --save-every among the arguments counts), before
# the end of its time, and at its end. Returns when it is done (0, or 3 for lines that were refused). Otherwise this is
# the end of the script: what had to end early is put back into the queue under the same job number.
run_on() {
    snapshot=$1
    shift
    stop_file=$snapshot.stop
    # From here on a signal is not the end of this shell; before kvarve is there to be told, it is only remembered.
    trap 'early=yes' USR1
    trap 'cancelled=yes' TERM
    rm -f "$stop_file"
    snapshot_folder "$snapshot"
    say "on $SLURM_JOB_NODELIST, ranks: ${SLURM_NTASKS:-1}, snapshot: $snapshot"
    start_ranks generate --save "$snapshot" --resume "$snapshot" --save-every 15m --stop-file "$stop_file" "$@" &
    ranks=$!
    trap on_time_up USR1
    trap on_cancel TERM
    [ $early = no ] || on_time_up
    [ $cancelled = no ] || on_cancel
    # A signal ends `wait` early, but not the ranks.
    while :; do
        wait "$ranks"
        status=$?
        { [ $status -gt 128 ] && kill -0 "$ranks" 2>/dev/null; } || break
    done
    rm -f "$stop_file"
    # srun may end with 0 when a node is lost. Who has come to his end has given back his lock.
    [ $status -ne 0 ] || [ ! -e "$snapshot/lock" ] || status=1
    case $status in
    0 | 3)
        say "done, with exit code $status"
        return $status
        ;;
    75) [ $cancelled = yes ] || queue_again ;;
    esac
    say "ended with exit code $status; submitted again, it goes on from what was saved last"
    exit $status
}

queue_again() {
    say 'saved, and not done: it goes back into the queue'
    # This ends the script, by a signal a moment later.
    trap - TERM
    scontrol requeue "$job" && sleep 60
    say 'it could not be put back into the queue: submit it again'
}
