#!/bin/sh
# jobs/scaling/report.sh OUT: from the runs of a study (see jobs/scaling.sh) its tables, plots and report:
#   OUT/study.csv     a line for each rank of each run (columns: see the report)
#   OUT/study.h5      the same: /study has one dataset for each column
#   OUT/summary.csv   a line for each kind of run: medians, speedup, efficiency, bound, prediction
#   OUT/plots/        PNG and SVG
#   OUT/report.md     what comes of it
# Plots want gnuplot, study.h5 wants h5import (jobs/setup.sh --plots installs both); without them the rest is made.
set -eu
LC_ALL=C
export LC_ALL
[ $# -eq 1 ] || {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
out=$1
say() { printf '%s\n' "$*" >&2; }
refuse() {
    say "$0: $*"
    exit 2
}
[ -s "$out/settings" ] || refuse "$out: no study is in there (jobs/scaling.sh makes one)"
setting() { sed -n "s/^$1 //p" "$out/settings"; }
ranks=$(setting ranks) contexts=$(setting contexts) chunks=$(setting chunks)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ---- tables ----

# In the order of what they are about: the names have no zeros before their numbers.
reports() {
    for kind in prefill save batch decode; do
        find "$out/runs" -name "$kind-*.json" -exec basename {} \; |
            sort -t - -k 2.2,2n -k 3.2,3n -k 4.1,4.1 -k 4.2,4n -k 5,5n
    done | sed "s|^|$out/runs/|"
}

write_tables() {
    reports >"$work/reports"
    [ -s "$work/reports" ] || refuse "$out: no run has succeeded; $out/runs has their logs"
    { find "$out/runs" -name 'plan-*.out' && cat "$work/reports"; } >"$work/inputs"
    # One awk must see all of them, however many they are: as its arguments, which it takes from the list.
    awk -v threads="$(setting threads)" -v n_batch="$(setting sequences)" -v list="$work/inputs" -f "$here/rows.awk" \
        >"$work/study.csv"
    awk -f "$here/summary.awk" "$work/study.csv" >"$work/summary.csv"
    cp "$work/study.csv" "$work/summary.csv" "$out/"
}

# Every column becomes a dataset: whole numbers, texts, or else doubles.
write_hdf5() {
    n=$(($(wc -l <"$work/study.csv") - 1))
    set --
    for column in $(head -n 1 "$work/study.csv" | tr , ' '); do
        awk -F , -v name="$column" '
            NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i }
            NR > 1 { print $at }' "$work/study.csv" >"$work/column.$column"
        {
            echo "PATH /study/$column"
            case $column in
            kind) echo "INPUT-CLASS STR" ;;
            ranks | threads | context | chunk_tokens | equal_time | sequences | repeat | tokens | rank)
                printf '%s\n' "INPUT-CLASS TEXTIN" "INPUT-SIZE 64" "OUTPUT-CLASS IN" "OUTPUT-SIZE 64"
                ;;
            *) printf '%s\n' "INPUT-CLASS TEXTFP" "INPUT-SIZE 64" "OUTPUT-CLASS FP" "OUTPUT-SIZE 64" ;;
            esac
            [ "$column" = kind ] || printf '%s\n' "RANK 1" "DIMENSION-SIZES $n" "OUTPUT-BYTE-ORDER LE"
        } >"$work/config.$column"
        set -- "$@" "$work/column.$column" -c "$work/config.$column"
    done
    h5import "$@" -o "$work/study.h5" >"$work/h5import.log" 2>&1 ||
        refuse "h5import: $(head -n 1 "$work/h5import.log")"
    mv "$work/study.h5" "$out/study.h5"
}

# ---- plots ----

# The mean over the repeats of where each rank's time went.
write_stacks() { # write_stacks CONTEXT
    awk -F , -v OFS=, -v context="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) of[$i] = i; next }
        $of["context"] != context || $of["kind"] == "prefill" { next }
        {
            at = $of["kind"] OFS $of["rank"] " of " $of["ranks"]
            if (!n[at]++) line[++n_lines] = at
            for (k = 1; k <= 5; k++) sum[at, k] += $(of["compute"] + k - 1)
        }
        END {
            for (i = 1; i <= n_lines; i++) {
                at = line[i]
                printf "%s", at
                for (k = 1; k <= 5; k++) printf ",%.6f", sum[at, k] / n[at]
                print ""
            }
        }' "$work/study.csv"
}

# The measured steps of prompts: tokens of the chunk, of its history, and milliseconds of a layer.
write_steps() {
    awk -v OFS=, '
        { number = $0; sub(/^[^:]*:[ \t]*/, "", number); number += 0 }
        /"layers":/ { layers[n_ranks++] = number }
        /"rank":/ { rank = number }
        /"sequences":/ { sequences = number }
        /"history":/ { history = number }
        /"rows":/ { rows = number }
        /"layer_seconds":/ { if (sequences == 1 && rows > 1) print rows, history, number / layers[rank] * 1000 }' "$1"
}

# model NAME: of the numbers that were measured on the fewest ranks.
fewest=${ranks%% *}
model() {
    awk -F , -v name="$1" -v ranks="$fewest" '
        NR == 1 { for (i = 1; i <= NF; i++) of[$i] = i; next }
        $of["ranks"] == ranks { print $of[name]; exit }' "$work/study.csv"
}

write_plots() {
    # The longest that there are runs of: those of the longest context may have failed.
    longest=$(awk -F , 'NR > 1 && $1 != "prefill" { print $4 }' "$work/study.csv" | sort -n | tail -n 1)
    write_stacks "$longest" >"$work/stacks.csv"
    [ ! -s "$out/runs/times-r$fewest.json" ] || write_steps "$out/runs/times-r$fewest.json" >"$work/steps.csv"
    simulated=
    [ ! -s "$out/simulated.csv" ] || simulated="; simulated='$out/simulated.csv'"
    rm -rf "$out/plots"
    mkdir "$out/plots"
    fitted=
    [ "$(model c)" = nan ] || fitted="; c=$(model c); g=$(model g); b=$(model b); a=$(model a)"
    for form in png svg; do
        # It warns of every point that is not there.
        gnuplot -e "form='$form'; data='$work'; plots='$out/plots'; ranks='$ranks'; contexts='$contexts'" \
            -e "chunks='$chunks'; longest=${longest:-0}$fitted$simulated" "$here/plots.gp" 2>"$work/gnuplot.log" ||
            say "a plot is missing: gnuplot: $(grep -v 'warning\|^$' "$work/gnuplot.log" | tail -n 1)"
    done
}

# ---- all of it ----

write_tables
if command -v h5import >/dev/null; then
    write_hdf5
else
    say "study.h5 is left out: h5import is not here (jobs/setup.sh --plots)"
fi
if command -v gnuplot >/dev/null; then
    write_plots
else
    say "plots are left out: gnuplot is not here (jobs/setup.sh --plots)"
fi
sh "$here/markdown.sh" "$out" >"$work/report.md"
mv "$work/report.md" "$out/report.md"
say "$out/report.md"
