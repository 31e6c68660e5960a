# jobs/study.sh: what the studies share (jobs/scaling.sh, jobs/codecs.sh, ...): where things are, runs that leave a
# log, what stands in their reports, and plots. To be sourced by a POSIX shell, in a job of Slurm or without one, as
# they do it:
#
#     command=$0
#     [ -z "${SLURM_JOB_ID-}" ] || command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
#     command=$(dirname "${command%%scaling.sh*}.")/
#     . "${KVARVE_ROOT:-$command..}/jobs/study.sh"
#
# which makes $command the folder that the script lies in. Slurm runs a copy of it: see jobs/slurm_env.sh.
# shellcheck shell=sh
LC_ALL=C
export LC_ALL

if [ -n "${SLURM_JOB_ID-}" ]; then
    . "${KVARVE_ROOT:-$command..}/jobs/slurm_env.sh"
else
    kvarve_root=${KVARVE_ROOT:-$(cd "$command.." && pwd)}
    kvarve=$kvarve_root/build/kvarve
    . "$kvarve_root/jobs/mpi_env.sh"

    say() { printf '== %s: %s\n' "$(date '+%F %T')" "$*" >&2; }

    refuse() {
        say "$*"
        exit 2
    }

    # prepare_ranks RANKS: from here on $launcher, several words, starts up to as many. A job prepares all of its own.
    # shellcheck disable=SC2120 # which are not here
    prepare_ranks() {
        [ -x "$kvarve" ] || refuse "$kvarve is not there: build it (jobs/setup.sh), or set KVARVE_ROOT"
        mpi_env "$1"
        launcher=${KVARVE_LAUNCHER:-$(mpi_launcher)}
    }
fi

n_done=0 n_failed=0

# open_study DIR SETTINGS: the folder gets one study, with its $runs.
open_study() {
    out=$1 runs=$1/runs
    mkdir -p "$runs" || refuse "$out: that folder cannot be made"
    if [ -e "$out/settings" ] && [ "$2" != "$(cat "$out/settings")" ]; then
        refuse "$out holds another study: remove it, or choose another"
    fi
    printf '%s\n' "$2" >"$out/settings"
}

# run NAME RANKS COMMAND ARGUMENT...: what it prints is in the script's folder $runs, in NAME.out and NAME.log.
# shellcheck disable=SC2154
run() {
    name=$1 n=$2
    shift 2
    say "$name"
    # shellcheck disable=SC2086 # several words
    $launcher -n "$n" "$kvarve" "$@" </dev/null >"$runs/$name.out" 2>"$runs/$name.log" && return
    status=$?
    n_failed=$((n_failed + 1))
    say "$name failed with exit code $status: $(grep '^kvarve' "$runs/$name.log" | tail -n 1)"
    return $status
}

# measure NAME RANKS COMMAND ARGUMENT...: the same once: done is what has left its report, NAME.json.
measure() {
    [ ! -s "$runs/$1.json" ] || return 0
    run "$@" --report "$runs/$1.part" || {
        rm -f "$runs/$name.part"
        return $status
    }
    [ -s "$runs/$name.part" ] || {
        n_failed=$((n_failed + 1))
        say "$name failed: it has left no report"
        return 1
    }
    n_done=$((n_done + 1))
    mv "$runs/$name.part" "$runs/$name.json"
}

# number, mean or half REPORT KEY: what the report of perplexity with a changed cache has of that name.
line_of() {
    sed -n "/\"changed_cache\"/,\$s/^ *\"$2\": *//p" "$1" | head -n 1
}
number() { line_of "$@" | sed 's/,$//'; }
mean() { line_of "$@" | sed 's/.*"mean": *\([^,}]*\).*/\1/'; }
half() { line_of "$@" | sed 's/.*"half_interval": *\([^,}]*\).*/\1/'; }

# draw STUDY TABLE [ASSIGNMENTS]: plots of the table, by jobs/STUDY/plot.gp, beside it.
# shellcheck disable=SC2154
draw() {
    command -v gnuplot >/dev/null || {
        say "no plots: gnuplot is not here (jobs/setup.sh --plots)"
        return
    }
    for form in png svg; do
        gnuplot -e "form='$form'; table='$2'; plot_file='${2%.csv}.$form'; ${3-}" "$kvarve_root/jobs/study.gp" \
            "$kvarve_root/jobs/$1/plot.gp" 2>"$runs/plot.log" || refuse "no plot: $(cat "$runs/plot.log")"
    done
}
