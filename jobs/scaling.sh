#!/bin/sh
# jobs/scaling.sh: a strong scaling study: the same work over 1, 2, 4 ... ranks, with its tables, plots and report.
#
#     jobs/scaling.sh [kvarve's options]
#     sbatch [-N 2 --ntasks-per-node=4 --gpus-per-node=4 ...] jobs/scaling.sh [kvarve's options]
#
# Four kinds of runs, because they scale differently, REPEATS times in turn:
#   prefill   a prompt up to its first token, in chunks of each size, and of equal time, of at most the largest size
#   save      the same prompt, and its KV cache to disk
#   batch     SEQUENCES texts together, each of TOKENS tokens behind what was saved
#   decode    one such text
# Before them, `kvarve bench --measure` times the steps of each number of ranks, and from that `kvarve plan --predict`
# says how long the runs should take.
#
# The folder OUT gets study.csv (a line for each rank of each run), study.h5 (the same columns), summary.csv (medians),
# and report.md with plots/. A run that fails is reported and left out; its log is in OUT/runs. The same line again runs
# only what is missing. jobs/scaling/report.sh OUT makes all but the runs again; plots want gnuplot, and the HDF5 file
# h5import (jobs/setup.sh --plots installs both).
#
# Arguments are options that kvarve generate, bench and plan share: --model (otherwise the demo's), --shape, --device,
# --weights, ... What may be set before, as in RANKS="1 2 4" jobs/scaling.sh:
#   RANKS             1, 2, 4 ... up to the job's tasks, or without Slurm up to the cores
#   CONTEXTS          tokens of a prompt (512 2048); the model must hold them and a little more
#   CHUNKS            most tokens of a chunk (64 128 256 512)
#   SEQUENCES         of a batch (8)
#   TOKENS            that each of them generates (64)
#   REPEATS           of each run; the median counts (3); more may be asked for later
#   OUT               the folder (scaling)
#   OMP_NUM_THREADS   threads of a rank, the same for any number of ranks: otherwise --cpus-per-task, or else the cores
#                     shared out among the most ranks
#   KVARVE_LAUNCHER, KVARVE_ROOT, modules, GPUs: see jobs/slurm_env.sh
#SBATCH --job-name=scaling
#SBATCH --ntasks=2
#SBATCH --open-mode=append
#SBATCH --output=%x.log
set -u
command=$0
[ -z "${SLURM_JOB_ID-}" ] || command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
command=$(dirname "${command%%scaling.sh*}.")/
. "${KVARVE_ROOT:-$command..}/jobs/study.sh"

# ---- what is asked for ----

# powers N: 1, 2, 4 ... and N.
powers() { awk -v n="$1" 'BEGIN { for (i = 1; i < n; i *= 2) printf "%d ", i; print n }'; }
# smallest NUMBER..., largest NUMBER...
smallest() { printf '%s\n' "$@" | sort -n | head -n 1; }
largest() { printf '%s\n' "$@" | sort -n | tail -n 1; }

ranks=${RANKS:-$(powers "$(mpi_slots)")} contexts=${CONTEXTS:-512 2048} chunks=${CHUNKS:-64 128 256 512}
sequences=${SEQUENCES:-8} tokens=${TOKENS:-64} repeats=${REPEATS:-3} out=${OUT:-scaling}
for number in $ranks $contexts $chunks $sequences $tokens $repeats; do
    case $number in
    *[!0-9]* | 0*) refuse "$number: RANKS, CONTEXTS, CHUNKS, SEQUENCES, TOKENS and REPEATS are numbers above 0" ;;
    esac
done
# shellcheck disable=SC2086 # a word for each number
most_ranks=$(largest $ranks) shortest=$(smallest $contexts) longest=$(largest $contexts) chunk=$(largest $chunks)

if [ -n "${SLURM_JOB_ID-}" ]; then
    [ "$most_ranks" -le "${SLURM_NTASKS:-1}" ] || refuse "RANKS=$ranks: the job has but ${SLURM_NTASKS:-1} task(s)"
    prepare_ranks
    processors=$((SLURM_NTASKS * OMP_NUM_THREADS))
    per_node=$tasks_here
else
    processors=$(mpi_slots)
    mpi_default OMP_NUM_THREADS $((processors > most_ranks ? processors / most_ranks : 1))
    prepare_ranks "$most_ranks"
    per_node=$most_ranks
fi
case " $* " in *" --model"[\ =]* | *" --shape"[\ =]*) ;; *) set -- "$@" --model "$kvarve_root/jobs/demo/model" ;; esac

machine=$(lscpu | sed -n 's/^Model name: *//p' | head -n 1)
runs=$out/runs
mkdir -p "$runs" || refuse "OUT=$out: that folder cannot be made"

# What the runs in OUT have in common. A folder holds one study; but it may get more repeats.
printf '%s\n' "ranks $ranks" "contexts $contexts" "chunks $chunks" "sequences $sequences" "tokens $tokens" \
    "threads $OMP_NUM_THREADS" "processors $processors" "machine $machine" "options $*" >"$out/settings.new"
if [ -e "$out/settings" ]; then
    differs=$(grep -v '^repeats ' "$out/settings" | diff - "$out/settings.new" | sed -n 's/^< //p' | head -n 1)
    [ -z "$differs" ] || {
        rm "$out/settings.new"
        refuse "OUT=$out holds another study, with '$differs': remove it, or choose another"
    }
fi
echo "repeats $repeats" >>"$out/settings.new"
mv "$out/settings.new" "$out/settings"

# ---- a run of kvarve generate ----

# Any tokens will do: a walk through those that every model has.
write_prompts() { # write_prompts FILE SEQUENCES TOKENS
    awk -v n="$2" -v length_of="$3" 'BEGIN {
        for (id = 0; id < n; id++) {
            printf "{\"id\": \"%d\", \"tokens\": [3", id
            for (i = 1; i < length_of; i++) printf ", %d", 3 + i * 7919 % 250
            print "]}"
        }
    }' >"$1"
}

# generate NAME RANKS SEQUENCES CONTEXT TOKENS OPTION...: the same work whatever the ranks.
generate() {
    name=$1 n=$2 prompts=$runs/prompts-$3x$4.jsonl at_once=$3 context=$4 new=$5
    shift 5
    [ -s "$prompts" ] || write_prompts "$prompts" "$at_once" "$context"
    measure "$name" "$n" generate --input "$prompts" --output /dev/null --max-tokens "$new" --temperature 0 \
        --ignore-eos --sequences "$at_once" --context $((context + new)) "$@"
}

# ---- the study ----

# What each number of ranks was measured to take for a step, and what that predicts. Half of the longest context is far
# enough to tell how times grow, and of a batch the shortest, as each of its sequences must read it.
for n in $ranks; do
    times=$runs/times-r$n.json
    measure "measure-r$n" "$n" bench "$@" --measure "$times" --depths "0,$((longest / 2))" \
        --batch-depths "0,$shortest" --sequences "$sequences" --chunk-tokens "$chunk" --repeats 2
    [ -s "$times" ] || continue
    for context in $contexts; do
        for size in $chunks; do
            plan=$runs/plan-r$n-n$context-c$size
            "$kvarve" plan "$@" --predict --measured "$times" --ranks "$n" --nodes $(((n - 1) / per_node + 1)) \
                --context "$context" --chunk-tokens "$size" --sequences "$sequences" >"$plan.out" 2>"$plan.log" ||
                say "no prediction of $n ranks, $context tokens: $(tail -n 1 "$plan.log")"
        done
    done
done

# In turn, so that a slow hour of the machine is shared by all.
for repeat in $(seq "$repeats"); do
    for context in $contexts; do
        for n in $ranks; do
            point=r$n-n$context
            for size in $chunks; do
                generate "prefill-$point-c$size-$repeat" "$n" 1 "$context" 1 --chunk-tokens "$size" "$@"
            done
            generate "prefill-$point-t$chunk-$repeat" "$n" 1 "$context" 1 --chunk-tokens "$chunk" \
                --measured "$runs/times-r$n.json" "$@"
            kvs=$runs/$point.kvs
            # What goes on from the save needs it again.
            rm -rf "$kvs"
            rest=$point-c$chunk-$repeat
            { [ -s "$runs/batch-$rest.json" ] && [ -s "$runs/decode-$rest.json" ]; } || rm -f "$runs/save-$rest.json"
            generate "save-$rest" "$n" 1 "$context" 0 --chunk-tokens "$chunk" --save "$kvs" "$@"
            generate "batch-$rest" "$n" "$sequences" "$context" "$tokens" --chunk-tokens "$chunk" --resume "$kvs" "$@"
            generate "decode-$rest" "$n" 1 "$context" "$tokens" --chunk-tokens "$chunk" --resume "$kvs" "$@"
            rm -rf "$kvs"
        done
    done
done
say "$n_done runs done, $n_failed failed"

sh "$kvarve_root/jobs/scaling/report.sh" "$out" || exit 1
[ $n_failed -eq 0 ]
