#!/bin/sh
# jobs/links.sh: how long it takes to the first token, when a long context that was saved by each codec is loaded over
# links of many speeds, as a table and a plot.
#
#     jobs/links.sh --sample TEXT [--sample TEXT ...] --file TEXT [kvarve's options]
#     sbatch [-n 8 ...] jobs/links.sh --sample TEXT --file TEXT --model DIR [kvarve's options]
#
# Tables are calibrated on the samples. The file is the context: it is read once and saved exactly, and the snapshots of
# the other codecs are made from that one. Other options go to all runs: --model (otherwise the demo's) or --shape,
# --device, --weights, ...
#
# A link is how fast EACH RANK may read (--io-bandwidth): two ranks have two of them, and each loads its own layers. The
# files themselves are read from where OUT lies, which must be faster. The clock runs from when the model is there and
# the snapshot is open, as in a server: its manifest and tables, which are those of all contexts, were read before.
#
# The folder OUT gets tables.kvt, a snapshot for each codec, links.csv (a line for each codec, way to load and link;
# medians; one without codec and link for computing all), links.png and links.svg, which want gnuplot (jobs/setup.sh
# --plots). A run that fails is reported and left out; its log is in OUT/runs. The same line again runs only what is
# missing, also with more LINKS, CODECS, LOADS or REPEATS. What may be set before, as in REPEATS=1 jobs/links.sh:
#   LINKS             Gbit/s of each rank (0.1 0.4 1 3 10)
#   CODECS            of snapshots (none lossless cachegen:2 kvarve:fast:3 kvarve:small:3)
#   LOADS             full: load all of it; auto: compute its beginning meanwhile, where that is sooner; base: of codecs
#                     with one, as kvarve:fast:3+base, that first (full auto)
#   REPEATS           of each run; the median counts (3)
#   TABLES            that kvarve calibrate has written; no --sample then
#   CALIBRATED        windows of each sample (4)
#   CONTEXT           tokens of such a window (1024)
#   OUT               the folder (links)
#   KVARVE_LAUNCHER, KVARVE_ROOT, modules, GPUs: see jobs/slurm_env.sh
#SBATCH --job-name=links
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --output=%x.log
set -u
command=$0
[ -z "${SLURM_JOB_ID-}" ] || command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
command=$(dirname "${command%%links.sh*}.")/
. "${KVARVE_ROOT:-$command..}/jobs/study.sh"
. "$kvarve_root/jobs/codecs/texts.sh"

codecs=${CODECS:-none lossless cachegen:2 kvarve:fast:3 kvarve:small:3} loads=${LOADS:-full auto}
links=${LINKS:-0.1 0.4 1 3 10} repeats=${REPEATS:-3} calibrated=${CALIBRATED:-4} window=${CONTEXT:-1024}

bytes_per_second() { # bytes_per_second GBIT: of a link
    awk -v gbit="$1" 'BEGIN { if (gbit ~ /^[0-9]*[.]?[0-9]+$/ && gbit > 0) printf "%.0f", gbit * 1e9 / 8 }'
}
for link in $links; do
    [ "$(bytes_per_second "$link")" ] || refuse "LINKS=$links: $link is no number of Gbit/s above 0"
done
for load in $loads; do
    case $load in full | auto | base) ;; *) refuse "LOADS=$loads: $load is none of full, auto and base" ;; esac
done
for number in "$repeats" "$calibrated" "$window"; do
    case $number in
    '' | *[!0-9]* | 0*) refuse "$number: REPEATS, CALIBRATED and CONTEXT are numbers above 0" ;;
    esac
done
[ -n "$file" ] || refuse "--file TEXT is missing: the context"
[ -r "$file" ] || refuse "--file $file: cannot be read"
if [ -n "${TABLES-}" ]; then
    [ -z "$samples" ] || refuse "--sample is for tables that are to be made, and there is TABLES=$TABLES"
else
    [ -n "$samples" ] || refuse "--sample TEXT is missing: what tables are calibrated on (or set TABLES)"
fi
case " $* " in *" --model"[\ =]* | *" --shape"[\ =]*) ;; *) set -- "$@" --model "$kvarve_root/jobs/demo/model" ;; esac
open_study "${OUT:-links}" "$ranks ranks
${TABLES:-$calibrated $window $samples}
$file
$*"

# ---- snapshots ----

plain() { printf %s "$1" | tr : -; } # plain CODEC: for the name of a file
kvs=$out/part.kvs                    # one that is not done

# is_made CODEC: is its snapshot there, or else can it be made?
is_made() {
    made=$out/$(plain "$1").kvs
    [ ! -e "$made" ] || return 0
    rm -rf "$kvs"
    cp -r "$out/lossless.kvs" "$kvs" || refuse "$out/lossless.kvs: there is no room for another"
    codec=$1
    set -- --codec "$1"
    case $codec in none) ;; *) set -- "$@" --tables "$tables" ;; esac
    run "recode-$(plain "$codec")" 1 snapshot recode "$kvs" "$@" && mv "$kvs" "$made"
}

tables=${TABLES:-$out/tables.kvt}
[ -n "${TABLES-}" ] || calibrate "$calibrated" "$window" "$@" || exit 1
[ -e "$out/lossless.kvs" ] || {
    rm -rf "$kvs"
    run save "$ranks" generate "$@" --prompt-file "$file" --max-tokens 0 --save "$kvs" &&
        mv "$kvs" "$out/lossless.kvs"
} || exit 1
there=
for codec in $codecs; do
    if is_made "$codec"; then there="$there $codec"; fi
done
rm -rf "$kvs"

# ---- runs: in turn, so that a slow hour of the machine is shared by all ----

first_token() { # first_token NAME CODEC OPTION...
    name=$1 from=$out/$(plain "$2").kvs
    shift 2
    measure "$name" "$ranks" generate --prompt-file "$file" --max-tokens 1 --temperature 0 --resume "$from" "$@"
}

for repeat in $(seq "$repeats"); do
    first_token "recompute-$repeat" lossless --load recompute "$@"
    for link in $links; do
        for codec in $there; do
            for load in $loads; do
                case $load,$codec in base,*+base | full,* | auto,*) ;; *) continue ;; esac
                first_token "$(plain "$codec")-$load-$link-$repeat" "$codec" --load "$load" \
                    --io-bandwidth "$(bytes_per_second "$link")" "$@"
            done
        done
    done
done

# ---- what came out ----

# row NAME COLUMNS: with the medians of its runs: seconds to the first token, tokens loaded, tokens computed.
row() {
    for repeat in $(seq "$repeats"); do
        [ ! -s "$runs/$1-$repeat.json" ] || awk '
            { of[$1] = $2 + 0 }
            END { print of["\"first_token_seconds\":"], of["\"loaded_tokens\":"], of["\"prompt_tokens\":"] }
            ' "$runs/$1-$repeat.json"
    done | sort -g | awk -v columns="$2" '
        { seconds[NR] = $1; loaded[NR] = $2; computed[NR] = $3 }
        END {
            low = int((NR + 1) / 2)
            high = int(NR / 2) + 1
            if (NR) printf "%s,%.6f,%d,%d\n", columns, (seconds[low] + seconds[high]) / 2, loaded[low], computed[low]
        }'
}

segment_bytes() { wc -c "$1"/L*.h5 | awk 'END { print $1 }'; } # segment_bytes SNAPSHOT

table=$out/links.csv
{
    echo codec,load,gbit_per_second,bytes,seconds,loaded,computed
    for codec in $there; do
        bytes=$(segment_bytes "$out/$(plain "$codec").kvs")
        for load in $loads; do
            for link in $(printf '%s\n' "$links" | tr -s ' \n' '\n\n' | sort -gu); do
                row "$(plain "$codec")-$load-$link" "$codec,$load,$link,$bytes"
            done
        done
    done
    row recompute ,recompute,,
} >"$table"
[ "$(wc -l <"$table")" -gt 1 ] || refuse "no run has succeeded; their logs are in $runs"

awk -F , '
    BEGIN { form = "  %-16s %-10s %15s %10s %14s %9s %9s\n" }
    NR == 1 { printf form, "codec", "load", "Gbit/s per rank", "MiB", "first token, s", "loaded", "computed"; next }
    { printf form, $1, $2, $3, $4 == "" ? "" : sprintf("%.1f", $4 / 2 ^ 20), sprintf("%.3f", $5), $6, $7 }' "$table"
draw links "$table"
[ $n_failed -eq 0 ]
