# jobs/mpi_env.sh: what MPIs must be told on one machine or in a container. To be sourced by a POSIX shell.
#
#     . jobs/mpi_env.sh
#     mpi_env 4            # before an mpirun of up to 4 ranks
#
# Only environment variables are set, one of the user's own is never overwritten, and another MPI ignores them all.
# Names with PRTE and smsc are those of Open MPI 5, those with I_MPI Intel MPI's, the others those of Open MPI 4.
# shellcheck shell=sh

# mpi_default NAME VALUE: export NAME=VALUE unless the user has set it.
mpi_default() {
    eval "[ -n \"\${$1+set}\" ]" || export "$1=$2"
}

# How many ranks Open MPI starts here before it refuses: the tasks of a Slurm job, otherwise the cores (not hardware
# threads) that this process may use.
mpi_slots() {
    if [ -n "${SLURM_NTASKS-}" ]; then
        echo "$SLURM_NTASKS"
        return
    fi
    mpi_cpus=$(unset OMP_NUM_THREADS OMP_THREAD_LIMIT && nproc) # which would tell of these instead
    mpi_cores=$(lscpu -p=SOCKET,CORE 2>/dev/null | grep -v '^#' | sort -u | wc -l)
    if [ "$mpi_cores" -ge 1 ] && [ "$mpi_cores" -lt "$mpi_cpus" ]; then
        echo "$mpi_cores"
    else
        echo "$mpi_cpus"
    fi
}

# mpi_env RANKS: prepare the environment for an mpirun of up to RANKS ranks.
mpi_env() {
    # The ranks share their cores with OpenMP threads: without this a rank of a job of two would have one core for all
    # of its threads.
    mpi_default OMPI_MCA_hwloc_base_binding_policy none
    mpi_default PRTE_MCA_hwloc_default_binding_policy none

    # mpirun refuses to run as root, but in a container there is often nobody else.
    if [ "$(id -u)" -eq 0 ]; then
        mpi_default OMPI_ALLOW_RUN_AS_ROOT 1
        mpi_default OMPI_ALLOW_RUN_AS_ROOT_CONFIRM 1
    fi

    # More ranks than cores: allow it, and let a rank that waits give its core to one that works.
    if [ "$1" -gt "$(mpi_slots)" ]; then
        mpi_default OMPI_MCA_rmaps_base_oversubscribe 1
        mpi_default PRTE_MCA_rmaps_default_mapping_policy :oversubscribe
        mpi_default OMPI_MCA_mpi_yield_when_idle 1
        mpi_default I_MPI_THREAD_YIELD 2
    fi

    # A system-call filter (Docker, Podman) usually forbids that one process reads another's memory, and Open MPI finds
    # that out too late: have it copy through shared memory instead.
    if grep -q '^Seccomp:[[:space:]]*2' /proc/self/status 2>/dev/null; then
        mpi_default OMPI_MCA_btl_vader_single_copy_mechanism none
        mpi_default OMPI_MCA_smsc '^cma'
    fi
}

# What starts the ranks here: with each of them `-n RANKS PROGRAM` does.
mpi_launcher() {
    for mpi_name in mpirun mpiexec srun; do
        if command -v $mpi_name >/dev/null; then
            echo $mpi_name
            return
        fi
    done
    echo mpirun
}
