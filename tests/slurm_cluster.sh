# tests/slurm_cluster.sh: a Slurm of our own: a controller and four nodes on this machine, in the temporary folder $all
# of the caller, who has `wait_for` too. To be sourced by a POSIX shell.
#
# No part of it is shared with a Slurm that runs here, or with another test's: other ports, its own configuration and
# folders, no munge, no cgroups.
# shellcheck shell=sh disable=SC2154 # what is set there is used here

# Why there can be none here; nothing when there can.
slurm_obstacle() {
    PATH=$PATH:/usr/sbin:/sbin
    for program in slurmctld slurmd sbatch scontrol squeue scancel srun; do
        command -v $program >/dev/null || {
            echo "$program is not here"
            return
        }
    done
    [ "$(id -u)" -eq 0 ] || echo 'only root can start Slurm'
}

is_free() { # is_free PORT: nobody listens on it
    ! grep -qi "^ *[0-9]*: [0-9A-F]*:$(printf %04X "$1") " /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# The first of five ports for us, below those that the system gives out by itself. Tests that begin at the same time,
# and one that tries again, begin to look in different places.
free_ports() { # free_ports ATTEMPT
    port=$((20000 + ($$ * 13 + $1 * 977) % 10000))
    until is_free $port && is_free $((port + 1)) && is_free $((port + 2)) && is_free $((port + 3)) &&
        is_free $((port + 4)); do
        port=$((port + 5))
    done
    echo $port
}

write_slurm_conf() { # write_slurm_conf PORT
    # To be quick, the scheduler looks every second, and what should end has 10 seconds. Some files outside our folders
    # are named by the job: its number must not be one of another Slurm (FirstJobId).
    cat <<END
ClusterName=kvarve
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$1
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdPidFile=$slurm/slurmd.%n.pid
SlurmdLogFile=$slurm/slurmd.%n.log
SlurmdSpoolDir=$slurm/spool.%n
StateSaveLocation=$slurm/state
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
SlurmdParameters=config_overrides
SlurmdTimeout=60
ReturnToService=1
KillWait=10
MinJobAge=600
JobRequeue=1
FirstJobId=$((1 + $$ % 60000 * 1000))
NodeName=n[0-3] NodeHostname=localhost NodeAddr=127.0.0.1 Port=$(($1 + 1))-$(($1 + 4)) CPUs=4 RealMemory=2000 \
    State=UNKNOWN
PartitionName=main Nodes=n0,n1 Default=YES MaxTime=INFINITE State=UP
PartitionName=pair Nodes=n2,n3 MaxTime=INFINITE State=UP
END
}

slurm_is_up() {
    [ "$(sinfo --noheader --Node --format=%T | grep -c '^idle')" -eq 4 ]
}

# Start it; fails when it does not come up.
slurm_start() {
    slurm=$all/slurm
    for attempt in 1 2 3; do
        rm -rf "$slurm"
        mkdir -p "$slurm/state"
        export SLURM_CONF="$slurm/slurm.conf"
        write_slurm_conf "$(free_ports $attempt)" >"$SLURM_CONF"
        slurmctld -i >"$slurm/start.log" 2>&1
        for node in n0 n1 n2 n3; do
            mkdir "$slurm/spool.$node"
            slurmd -N $node >>"$slurm/start.log" 2>&1
        done
        wait_for 30 slurm_is_up && return
        tail -n 3 "$slurm"/*.log
        slurm_stop
    done
    return 1
}

# Ours are the processes that were started with our configuration in their environment, which jobs inherit.
slurm_processes() {
    for process in /proc/[0-9]*; do
        [ "$process" = /proc/$$ ] || ! grep -qzxF "SLURM_CONF=$SLURM_CONF" "$process/environ" 2>/dev/null ||
            echo "${process#/proc/}"
    done
}

slurm_daemons_are_gone() {
    for pid_file in "$slurm"/*.pid; do
        # One that ended, but was not fetched by whoever it belongs to, has no program.
        if [ -e "$pid_file" ] && [ -e "/proc/$(cat "$pid_file")/exe" ]; then return 1; fi
    done
}

slurm_stop() {
    for pid_file in "$slurm"/*.pid; do
        [ ! -e "$pid_file" ] || kill "$(cat "$pid_file")"
    done 2>/dev/null
    wait_for 10 slurm_daemons_are_gone
    # shellcheck disable=SC2046 # one word for each
    kill -KILL $(slurm_processes) 2>/dev/null
}
