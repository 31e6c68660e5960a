#!/bin/sh
# tests/jobs/test_slurm.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: the job scripts under a Slurm that is started here.
#
# A generation that meets its time limit, and a job array of which a task is killed, with its merge; the README's
# example, with a book that is read once; and memory that was asked for. All come to what one run says that was left
# alone. With KVARVE_LONG the time limit comes twice, one is cancelled while it saves, a node fails, and there is a
# scaling study. Skipped where Slurm is not here, or cannot be started.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"
# shellcheck source=tests/fixtures/slurm_cluster.sh
. "$source/tests/fixtures/slurm_cluster.sh"

kvarve=$(cd "$(dirname "$kvarve")" && pwd)/${kvarve##*/} # jobs run elsewhere

# Jobs inherit these. Ranks of several jobs share the processors, and one that waits must not keep them.
unset KVARVE_ROOT KVARVE_LAUNCHER OMP_NUM_THREADS
export OMPI_MCA_mpi_yield_when_idle=1

# ---- a folder that looks like the repository, with a kvarve that can be slow ----

# The user works in $work; the scripts are in $temp/top/jobs, and run $temp/top/build/kvarve.
make_top() {
    work=$temp/work
    mkdir -p "$work" "$temp/top/build"
    ln -s "$source/jobs" "$temp/top/jobs"
    ln -s "$source/README.md" "$temp/top/"
    # Slow: once it runs, rank 0 stands still most of the time, and costs nobody anything. Of an array, tasks 2 and 3.
    cat >"$temp/slow" <<END
#!/bin/sh
if [ "\${OMPI_COMM_WORLD_RANK-\${PMI_RANK-\${SLURM_PROCID-0}}}" -eq 0 ] && [ "\${SLURM_ARRAY_TASK_ID-2}" -ge 2 ]; then
    (
        trap '' TERM USR1
        until [ -n "\$(ls -d *.kvs/lock *.shards/*.kvs/lock)" ]; do sleep 0.05; done
        # Some launchers wait for all who hold what they gave a rank, as this loop does, before they look at its end.
        while [ -e /proc/\$\$/exe ] && kill -STOP \$\$ && sleep 0.3 && kill -CONT \$\$ && sleep 0.01; do :; done
    ) </dev/null >/dev/null 2>&1 &
fi
exec "$kvarve" "\$@"
END
    chmod +x "$temp/slow"
    be_fast
}
be_slow() { ln -sf "$temp/slow" "$temp/top/build/kvarve"; }
be_fast() { ln -sf "$kvarve" "$temp/top/build/kvarve"; }

# ---- jobs ----

# submit OPTIONS-AND-SCRIPT...: from $work; the job is then $job.
submit() {
    job=$(cd "$work" && sbatch --parsable "$@") || failed "sbatch $*" 'it was refused'
}

is_job() { # is_job JOB STATE...: is it in one of these states?
    state=$(field "$1" JobState)
    shift
    case " $* " in *" $state "*) ;; *) return 1 ;; esac
}
is_over() { is_job "$1" COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL; }
field() { # field JOB NAME
    scontrol --oneliner show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p"
}

script_is_gone() { # script_is_gone NUMBER: its old run
    ! grep -q "^slurmstepd: \[$1[].]" /proc/[0-9]*/cmdline
}

# Slurm lets two minutes pass before a job that went back into the queue may begin again: two seconds must, as a node
# refuses what begins in the second in which the old run ended.
hasten() { # hasten JOB
    wait_for 60 is_job "$1" PENDING && wait_for 30 script_is_gone "$(field "$1" JobId)" && sleep 2 &&
        scontrol update "jobid=$1" starttime=now
}

ended() { # ended NAME JOB STATE EXIT-CODES LOG: wait for it, and see how it ended, by one of these codes
    wait_for 300 is_over "$2"
    grep -v '^  \|^--\|^$' "$work/$5" | tail -n 10 >"$temp/err"
    how="$(field "$2" JobState) $(field "$2" ExitCode)"
    for code in $4; do
        [ "$how" != "$3 $code:0" ] || { ok "$1" && return; }
    done
    failed "$1" "it ended as $how, not as $3 $4:0"
}

is_text() { # is_text NAME FILE EXPECTED
    check "$1" 'not the text of a run that was left alone' cmp "$work/$2" "$3"
}

is_told() { # is_told NAME FILE TEXT: the log has it
    check "$1" "not in $2: $3" grep -q "$3" "$work/$2"
}

count_runs() { # count_runs LOG: how many began
    grep -c '^== .*, snapshot: ' "$work/$1"
}

has_runs() { # has_runs LOG N
    [ "$(count_runs "$1")" -ge "$2" ]
}

times_reused() { # times_reused LOG N: so many runs went on from what was saved
    [ "$(grep -c '^kvarve: [^ ]* holds [1-9]' "$work/$1")" -eq "$2" ]
}

# What the long jobs do; once before them, so that it is known what comes out. It is twice as much as slow runs get done
# in the time that they are given.
long_options="--prompt-file $page --max-tokens 2000 --ignore-eos $run_options"
expect_long() {
    # shellcheck disable=SC2086 # several words
    run 1 generate --model "$model" $long_options
    expect 'a generation that is left alone' 0 && mv "$temp/out" "$all/long"
}

submit_long() { # submit_long NAME OPTION-OF-SBATCH... -- OPTION...
    name=$1 sbatch_options=
    shift
    while [ "$1" != -- ]; do
        sbatch_options="$sbatch_options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086 # several words
    submit -J "$name" $sbatch_options "$temp/top/jobs/generate.sbatch" $long_options "$@"
}

# ---- a generation through its time limits ----

time_limits() {
    make_top
    be_slow
    # A limit of one minute, and the signal as early as it can be: each run lasts until the controller looks, which it
    # does every half a minute.
    submit_long night -t 1 -n 2 --signal=B:USR1@55 --
    limits=1
    ! is_long || limits=2
    for n in $(seq $limits); do
        wait_for 60 has_runs night.log "$n"
        # The run behind the last limit may take its time.
        if [ "$n" -eq $limits ]; then
            wait_for 60 is_job "$job" PENDING && be_fast && scontrol update "jobid=$job" timelimit=10
        fi
        hasten "$job" || failed "time limit $n" 'it did not go back into the queue'
    done
    ended 'time limits: done' "$job" COMPLETED 0 night.log
    check "time limits: $limits" "$(field "$job" Restarts) of them" [ "$(field "$job" Restarts)" -eq $limits ]
    is_text 'time limits: text' night.txt "$all/long"
    # The log is one story: beginnings of which the later ones go on from the earlier ones.
    check 'time limits: log' 'not a run more than limits' [ "$(count_runs night.log)" -eq $((limits + 1)) ]
    n=$(grep -c '^== .*, job .*: saved, and not done: it goes back into the queue$' "$work/night.log")
    check 'time limits: log says why' 'not each time' [ "$n" -eq $limits ]
    check 'time limits: goes on' 'not each time' times_reused night.log $limits
    check 'time limits: progress' 'it counts below zero' [ "$(grep -c ' of -[0-9]' "$work/night.log")" -eq 0 ]
    check 'time limits: what is left' 'something else' [ "$(cd "$work" && echo *)" = 'night.kvs night.log night.txt' ]
}

# ---- a generation that is cancelled ----

has_manifest() { # has_manifest NAME
    [ -e "$work/$1.kvs/manifest.h5" ]
}
is_saving() { # is_saving NAME: a segment is on its way
    ls "$work/$1.kvs"/.L*.tmp
}

cancelled() {
    make_top
    be_slow
    # SIGTERM to the script alone: save, but do not come back.
    submit_long stopped -n 1 --
    wait_for 60 [ -s "$work/stopped.part.txt" ]
    scancel --batch --signal=TERM "$job"
    ended 'SIGTERM to the script' "$job" FAILED 75 stopped.log
    check 'SIGTERM to the script: the job stays away' 'it was queued again' [ "$(field "$job" Restarts)" -eq 0 ]

    # The next run is told to save and to come back; that save is slow, and in it the job is cancelled.
    submit_long stopped -n 2 -- --fail-at segment-flush:0:slow
    wait_for 60 times_reused stopped.log 1
    scancel --batch --signal=USR1 "$job"
    wait_for 60 is_saving stopped || failed 'scancel in a save' 'it does not save'
    scancel "$job"
    wait_for 60 is_over "$job"
    sleep 2
    check 'scancel in a save: the job stays away' "$(field "$job" JobState)" is_job "$job" CANCELLED
    check 'scancel in a save: snapshot' 'it is damaged' is_verified "$work/stopped.kvs"

    be_fast
    submit_long stopped -n 2 --
    ended 'after scancel: done' "$job" COMPLETED 0 stopped.log
    is_text 'after scancel: text' stopped.txt "$all/long"
    check 'after scancel: goes on' 'not from what was saved' times_reused stopped.log 2
}

# ---- a node that fails ----

is_unlocked() { # is_unlocked NAME: nobody holds its lock
    holder=$(sed 's/.* pid=\([0-9]*\) .*/\1/' "$work/$1.kvs/lock") || return 0
    [ ! -e "/proc/$holder/exe" ]
}

node_down() {
    make_top
    be_slow
    # Here srun starts the ranks, if it can.
    ! srun --mpi=list 2>&1 | grep -q pmix || export KVARVE_LAUNCHER='srun --mpi=pmix'
    submit_long moved -p pair -n 2 -N 1 -- --save-every 20
    unset KVARVE_LAUNCHER
    wait_for 60 has_manifest moved || failed 'node down' 'nothing was saved before it'
    node=$(field "$job" BatchHost)
    scontrol update "nodename=$node" state=down reason=test
    # The node is only said to be down: its ranks live a little longer, and then hold the lock.
    wait_for 60 is_unlocked moved || failed 'node down' 'rank 0 is still there'
    be_fast
    hasten "$job" || failed 'node down' 'the job did not go back into the queue'
    ended 'node down: done' "$job" COMPLETED 0 moved.log
    check 'node down: on another node' "on $node again" [ "$(field "$job" BatchHost)" != "$node" ]
    is_text 'node down: text' moved.txt "$all/long"
    # srun ends with 0 there.
    check 'node down: not taken for done' 'it was' [ "$(grep -c ': done, with exit code 0$' "$work/moved.log")" -eq 1 ]
    check 'node down: goes on' 'not from what was saved' times_reused moved.log 1
    scontrol update "nodename=$node" state=resume
}

# ---- an array, and its merge ----

# 14 prompts, an empty line, one that is refused (by task 1 of 4), and one without an id: its line's number is that.
write_prompts() {
    for n in 1 2 3 4 5 6 7; do
        printf '{"id": "a%d", "prompt": "The house number %d", "max_tokens": %d}\n' $n $n $((60 * n))
        [ $n -ne 4 ] || printf '\n{"prompt": "It was a dark night"}\n{"id": "no", "promt": "x"}\n'
        printf '{"id": "b%d", "prompt": "In the year 18%d0", "max_tokens": 150}\n' $n $n
    done
}

has_saved_result() { # has_saved_result I: this task has saved after it has written a line
    "$kvarve" snapshot info "$work/p.shards/$1.kvs" | grep -q '^batch  *[1-9]'
}

last_decoded() { # last_decoded LOG: tokens that the last run has generated; one before may have been killed at its end
    sed -n '/^== .*: on /{h;d};H;${x;p}' "$work/$1" |
        sed -n 's/.*; decode \([0-9]*\) tokens.*/\1/p; s/.*nothing is left to compute.*/0/p' | tail -n 1 | grep . ||
        echo 999999
}

# In one order, and without the name of the file that a refused line is in.
sort_results() {
    sed 's/"error": "[^:]*: line/"error": "line/' "$1" | sort
}

array() {
    make_top
    be_slow
    write_prompts >"$work/p.jsonl"
    options="--ignore-eos --sequences 1 $run_options"
    # shellcheck disable=SC2086 # several words, here and below
    run 1 generate --model "$model" --input "$work/p.jsonl" --output "$temp/whole" $options
    expect 'array: a run that is left alone' 3 || return
    sort_results "$temp/whole" >"$temp/expected"

    submit "$temp/top/jobs/batch.sbatch" p.jsonl $options --save-every 20
    array=$job
    submit "--dependency=afterany:$array" "$temp/top/jobs/merge.sbatch" p.jsonl
    merge=$job
    wait_for 90 has_saved_result 2 || failed 'array' 'task 2 has not saved a result'
    # shellcheck disable=SC2046 # one word for each
    kill -KILL $(ranks_of p.shards/2.kvs)
    # The last task has the number of the whole array; its time is up, the others' is not.
    wait_for 90 has_saved_result 3 || failed 'array' 'task 3 has not saved a result'
    scancel --batch --signal=USR1 "${array}_3"
    be_fast # before it begins again
    hasten "${array}_3" || failed 'array' 'task 3 did not go back into the queue'
    ended 'array: a task through its time limit' "${array}_3" COMPLETED 0 batch-3.log
    check 'array: the task goes on' "$(last_decoded batch-3.log) tokens" \
        [ "$(last_decoded batch-3.log)" -le $((150 + 300 + 420 - 150)) ]
    # Open MPI's launcher says it as a shell does, Hydra the signal alone.
    ended 'array: a task that was killed' "${array}_2" FAILED '137 9' batch-2.log
    ended 'array: a task with a line that is refused' "${array}_1" FAILED 3 batch-1.log
    ended 'array: another task' "${array}_0" COMPLETED 0 batch-0.log
    check 'array: only one goes back into the queue' 'others do' [ "$(field "${array}_0" Restarts)" -eq 0 ]
    ended 'array: merge without a shard' "$merge" FAILED 2 merge.log
    check 'array: merge without a shard: no results' 'there are' [ ! -e "$work/p.results.jsonl" ]
    check 'array: merge says what to do' 'not said' \
        grep -q ': not done: 2\. .*: sbatch --array=2 jobs/batch.sbatch p.jsonl$' "$work/merge.log"

    # That, and for one that is done.
    submit --array=0,2 "$temp/top/jobs/batch.sbatch" p.jsonl $options
    array=$job
    submit "--dependency=afterany:$array" "$temp/top/jobs/merge.sbatch" p.jsonl
    ended 'array: run again' "${array}_2" COMPLETED 0 batch-2.log
    ended 'array: run again, but done' "${array}_0" COMPLETED 0 batch-0.log
    check 'array: nothing to do for what is done' 'not said' \
        grep -q 'shard 0 of p.jsonl was done already' "$work/batch-0.log"
    check 'array: the finished line is not done again' "$(last_decoded batch-2.log) tokens" \
        [ "$(last_decoded batch-2.log)" -le $((120 + 240 + 150 + 150 - 120)) ]
    ended 'array: merge' "$job" COMPLETED 0 merge.log
    sort_results "$work/p.results.jsonl" >"$temp/merged"
    check 'array: results' 'other ones than of a run that was left alone' cmp "$temp/merged" "$temp/expected"
    check 'array: merge counts' 'not said' \
        grep -q ': 16 results in p.results.jsonl, 1 of them errors$' "$work/merge.log"

    # Other prompts are not mixed in.
    echo >>"$work/p.jsonl"
    submit --array=0 "$temp/top/jobs/batch.sbatch" p.jsonl $options
    ended 'array: other prompts' "$job" FAILED 2 batch-0.log
}

# ---- the README's example: a generation, a batch, and a book with questions ----

jobs_here() { # the jobs that were submitted from $temp/top, and their states
    scontrol --oneliner show job | grep -F " WorkDir=$temp/top " | sed 's/ .* JobState=\([A-Z_]*\) .*/ \1/'
}
all_are_over() {
    [ "$(jobs_here | grep -c 'PENDING\|RUNNING\|COMPLETING\|CONFIGURING')" -eq 0 ]
}

readme() {
    make_top
    work=$temp/top
    # Lustre's tool, as it is on a Lustre file system.
    mkdir "$temp/bin"
    printf '#!/bin/sh\necho "$@" >>"%s"\n' "$temp/lfs-calls" >"$temp/bin/lfs"
    chmod +x "$temp/bin/lfs"
    awk '/^```bash$/ { on = 1; next } /^```$/ { on = 0 } on' "$source/README.md" >"$temp/example"
    (cd "$work" && PATH=$temp/bin:$PATH sh -eu "$temp/example") >"$temp/err" 2>&1 ||
        failed 'README: example' 'it failed'
    wait_for 120 all_are_over
    jobs_here >"$temp/err"
    # A generation, four tasks, a merge, a book, three questions.
    check 'README: all jobs are done' 'one is not' [ "$(grep -c ' COMPLETED$' "$temp/err")" -eq 10 ]
    check 'README: no more jobs' 'there are' [ "$(wc -l <"$temp/err")" -eq 10 ]

    run_options=
    generate 1 --prompt 'It was a dark and stormy night' --max-tokens 600
    is_text 'README: generation' night.txt "$temp/out"
    generate 1 --input "$work/prompts.jsonl" --output "$temp/whole"
    sort_results "$temp/whole" >"$temp/expected"
    sort_results "$work/prompts.results.jsonl" >"$temp/merged"
    check 'README: results' 'other ones than of one run' cmp "$temp/merged" "$temp/expected"
    for answer in "$work"/ask-*.txt; do
        asked=$(sed -n 's/^== .*: on [^:]*: "\(.*\)"$/\1/p' "${answer%.txt}.log")
        { cat "$page" && printf '%s' "$asked"; } >"$temp/prompt"
        generate 1 --prompt-file "$temp/prompt" --max-tokens 40
        is_text "README: $asked" "${answer##*/}" "$temp/out"
        check "README: $asked: the book is not read again" 'it is' \
            grep -q '^kvarve: page.kvs holds [1-9]' "${answer%.txt}.log"
    done
    check 'Lustre: new snapshots are spread' 'they are not' grep -q '^setstripe .* night.kvs$' "$temp/lfs-calls"
}

# ---- a scaling study, over the ranks of a job ----

scaling() {
    make_top
    export CONTEXTS=128 CHUNKS=64 SEQUENCES=2 TOKENS=4 REPEATS=1
    submit -n 2 "$temp/top/jobs/scaling.sh" --shape tiny
    ended 'scaling' "$job" COMPLETED 0 scaling.log
    check 'scaling: all runs' 'others' grep -q ': 12 runs done, 0 failed$' "$work/scaling.log"
    check 'scaling: report' 'not of the ranks of the job' grep -qx '# Strong scaling over 1 and 2 ranks' \
        "$work/scaling/report.md"
}

# ---- what a job may take of its node ----

# There are no control groups here: Slurm's word binds, also where much more memory is there.
memory() {
    make_top
    cat >"$work/memory.sbatch" <<END
#!/bin/sh
"$kvarve" plan --model "$model" --ranks 2 --device cpu || exit
"$mpiexec" -n 2 "$kvarve" generate --model "$model" --prompt Hello --max-tokens 4 --device cpu --threads 1
END
    submit -J node -N 1 -n 2 --mem=300M -o node.log memory.sbatch
    ended 'memory of a node: done' "$job" COMPLETED 0 node.log
    word="MiB, 90% of what Slurm's --mem (SLURM_MEM_PER_NODE=300) on .* leaves each of 2 ranks there\$"
    is_told 'memory of a node: plan' node.log "^kvarve: assumed: .* may take 135.0 $word"
    is_told 'memory of a node: run' node.log "^kvarve: each rank may take 135.0 $word"
    submit -J cpus -N 1 -n 2 --mem-per-cpu=200M -o cpus.log memory.sbatch
    ended 'memory of processors: done' "$job" COMPLETED 0 cpus.log
    word="MiB, 90% of what Slurm's --mem-per-cpu (SLURM_MEM_PER_CPU=200, SLURM_CPUS_ON_NODE=2) on .* leaves each"
    is_told 'memory of processors: plan' cpus.log "^kvarve: assumed: .* may take 180.0 $word"
    is_told 'memory of processors: run' cpus.log "^kvarve: each rank may take 180.0 $word"
}

obstacle=$(slurm_obstacle)
PATH=$PATH:/usr/sbin:/sbin
if [ -n "$obstacle" ]; then
    echo "skipped: $obstacle"
    exit 77
fi
temp=$all
trap 'slurm_stop; rm -rf "$all" ${shared:+"$shared"}' EXIT
slurm_start || {
    echo 'skipped: Slurm does not start here'
    exit 77
}
run_chain expect_long
run_chain time_limits &
run_chain array &
run_chain readme &
run_chain memory &
if is_long; then
    run_chain cancelled &
    run_chain node_down &
    run_chain scaling &
fi
wait
end_test
