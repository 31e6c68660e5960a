#!/bin/sh
# tests/jobs/test_scaling.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: jobs/scaling.sh on a tiny shape over 1 and 2 ranks:
# its tables, the same in CSV and HDF5, its plots and its report; a run that fails, and the same line again. Skipped
# where gnuplot, h5import or h5dump is not here.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

for program in gnuplot h5import h5dump; do
    command -v $program >/dev/null || {
        echo "skipped: $program is not here (jobs/setup.sh --tests)"
        exit 77
    }
done
kvarve=$(cd "$(dirname "$kvarve")" && pwd)/${kvarve##*/}
unset KVARVE_ROOT SLURM_JOB_ID
export OMP_NUM_THREADS=1

# ---- a folder that looks like the repository, and a launcher that can refuse a run ----

make_top() {
    top=$temp/top
    mkdir -p "$top/build"
    ln -s "$source/jobs" "$top/jobs"
    ln -s "$kvarve" "$top/build/kvarve"
    cat >"$temp/launch" <<END
#!/bin/sh
case "\$*" in *decode-r2-*)
    [ ! -e "$temp/broken" ] || {
        echo "kvarve: error: broken on purpose" >&2
        exit 9
    }
    ;;
esac
exec "$mpiexec" "\$@"
END
    chmod +x "$temp/launch"
}

study() { # study VARIABLE=VALUE...: as the others are, in $temp/out and $temp/err, exit status in $status
    (cd "$temp" && env KVARVE_LAUNCHER="$temp/launch" RANKS="1 2" CONTEXTS=128 CHUNKS="32 64" SEQUENCES=2 TOKENS=8 \
        REPEATS=1 "$@" "$top/jobs/scaling.sh" --shape tiny) >"$temp/out" 2>"$temp/err"
    status=$?
}

# ---- what a table holds ----

# rows KIND RANKS: lines of the table.
rows() { awk -F , -v kind="$1" -v n="$2" '$1 == kind && $2 == n' "$temp/scaling/study.csv" | wc -l; }

has_rows() { # has_rows LINES-OF-DECODE-ON-2: three kinds of chunks for prefill, a line for each rank
    [ "$(rows prefill 1) $(rows prefill 2)" = "3 6" ] && [ "$(rows save 1) $(rows save 2)" = "1 2" ] &&
        [ "$(rows batch 1) $(rows batch 2)" = "1 2" ] && [ "$(rows decode 1) $(rows decode 2)" = "1 $1" ]
}

# By name: the work is what was asked for, and its time is not more than that of its parts.
has_figures() {
    awk -F , '
        NR == 1 { for (i = 1; i <= NF; i++) of[$i] = i; n = NF; next }
        NF != n || $of["context"] != 128 || $of["threads"] != 1 || $of["seconds"] <= 0 { bad = 1 }
        $of["rank"] >= $of["ranks"] || $of["compute"] <= 0 || $of["c"] == "nan" { bad = 1 }
        $of["kind"] == "prefill" && ($of["tokens"] != 128 || $of["seconds"] != $of["first_token_seconds"]) { bad = 1 }
        $of["kind"] == "prefill" && ($of["bound"] <= 0 || $of["bound"] > 1) { bad = 1 }
        { all = $of["compute"] + $of["wait"] + $of["transfer"] + $of["save"] + $of["rest"] }
        all < 0.9 * $of["seconds"] { bad = 1 }
        $of["ranks"] == 2 && ($of["rank"] ? $of["wait"] : $of["transfer"]) <= 0 { bad = 1 }
        $of["kind"] == "save" && $of["save"] <= 0 && $of["rank"] == 0 { bad = 1 }
        $of["kind"] == "decode" && $of["tokens"] != 7 { bad = 1 } # the first comes with the prompt
        $of["kind"] == "batch" && ($of["tokens"] < 8 || $of["sequences"] != 2) { bad = 1 }
        $of["kind"] != "save" && $of["predicted_seconds"] <= 0 { bad = 1 }
        bad { print; exit }
        END { exit bad }' "$temp/scaling/study.csv"
}

# The best of the fewest ranks is what the others stand beside.
has_summary() {
    awk -F , '
        NR == 1 { for (i = 1; i <= NF; i++) of[$i] = i; next }
        $of["best"] && $of["ranks"] == 1 && $of["efficiency"] != 1 { bad = 1 }
        $of["best"] && $of["kind"] == "prefill" { seconds[$of["ranks"]] = $of["seconds"]; speedup = $of["speedup"] }
        $of["kind"] == "decode" && $of["ranks"] == 2 && $of["bound"] != 0.5 { bad = 1 }
        END { exit bad || (speedup - seconds[1] / seconds[2]) ^ 2 > 1e-8 }' "$temp/scaling/summary.csv"
}

# ---- HDF5, plots, report ----

same_in_hdf5() {
    for column in $(head -n 1 "$temp/scaling/study.csv" | tr , ' '); do
        awk -F , -v name="$column" '
            NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i; next }
            { print $at }' "$temp/scaling/study.csv" >"$temp/column"
        h5dump -d "/study/$column" -y -w 0 -m %.9g "$temp/scaling/study.h5" |
            sed -n '/DATA {/,/}/p' | sed '1d;/}/d' | tr -d ' "' | tr , '\n' | sed '/^$/d' >"$temp/stored"
        paste "$temp/column" "$temp/stored" | awk -v name="$column" '
            $1 == $2 { next }
            NF != 2 || $1 + 0 != $2 + 0 || $1 ~ /^[a-z]/ { print name ": " $0; bad = 1 }
            END { exit bad || NR == 0 }' || return 1
    done
}

is_png() { # is_png FILE: its first and last chunk, and more than an empty page
    [ "$(head -c 16 "$1" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a0000000d49484452 ] &&
        [ "$(tail -c 8 "$1" | od -An -tx1 | tr -d ' \n')" = 49454e44ae426082 ] && [ "$(wc -c <"$1")" -gt 8000 ]
}
is_svg() { # is_svg FILE: all of it, with lines and words
    head -n 1 "$1" | grep -q '^<?xml' && tail -n 2 "$1" | grep -q '^</svg>' && grep -q '<path' "$1" &&
        grep -q '<text' "$1"
}

has_plots() {
    for plot in scaling speed time chunks model; do
        is_png "$temp/scaling/plots/$plot.png" && is_svg "$temp/scaling/plots/$plot.svg" &&
            grep -q "](plots/$plot.png)" "$temp/scaling/report.md" || return 1
    done
    # Words of the study, not of the script alone.
    grep -q 'bound E\*, 128 tokens' "$temp/scaling/plots/scaling.svg" && grep -q '1 of 2' "$temp/scaling/plots/time.svg"
}

# Every median of a prefill and the numbers of the model stand in the report.
has_report() {
    awk -F , '$1 == "prefill" { printf "%.3f\n", $8 }' "$temp/scaling/summary.csv" >"$temp/numbers"
    awk -F , 'NR > 1 { print $15 }' "$temp/scaling/study.csv" | sort -u >>"$temp/numbers"
    while read -r number; do
        grep -q "| \(\*\*\)\{0,1\}$number\(\*\*\)\{0,1\} |" "$temp/scaling/report.md" || return 1
    done <"$temp/numbers"
    [ -s "$temp/numbers" ] && grep -q 'LlamaForCausalLM: 4 layers' "$temp/scaling/report.md"
}

# ---- groups ----

says() { grep -qF -- "$1" "$temp/err"; }

one_run_fails() {
    make_top
    : >"$temp/broken"
    study
    expect 'a run that fails' 1 || return
    check 'a run that fails is reported' 'not in the log' \
        says 'decode-r2-n128-c64-1 failed with exit code 9: kvarve: error: broken on purpose'
    check 'the others are not lost' 'other rows' has_rows 0
    check 'the report names it' 'it does not' grep -q '^- decode-r2-n128-c64-1: .*on purpose' "$temp/scaling/report.md"
}

again() {
    rm -f "$temp/broken"
    study
    expect 'the same line again' 0 || return
    # What had failed, and the save that it goes on from.
    check 'the same line again runs what is missing' 'it ran something else' says '2 runs done, 0 failed'
    check 'the table has all rows' 'other rows' has_rows 2
    check 'the table has figures' 'a wrong one' has_figures
    check 'the summary compares' 'a wrong figure' has_summary
    check 'HDF5 has the same figures' 'others' same_in_hdf5
    check 'plots' 'one is missing, broken, or not in the report' has_plots
    check 'report' 'a figure is missing' has_report
    check 'nothing has failed any more' 'the report says so' sh -c "! grep -q 'What failed' '$temp/scaling/report.md'"
    cp "$temp/scaling/study.csv" "$temp/before.csv"
    study
    check 'a study that is done runs nothing' 'it does' says '0 runs done, 0 failed'
    check 'a study that is done stays' 'its table changed' cmp "$temp/before.csv" "$temp/scaling/study.csv"
}

more_repeats() {
    study REPEATS=2
    expect 'more repeats' 0 || return
    check 'more repeats are run, and no others' 'others' says '12 runs done, 0 failed'
    check 'more repeats come to the table' 'they do not' [ "$(rows prefill 1) $(rows decode 2)" = "6 4" ]
}

another_study() {
    study CHUNKS="16 64"
    if expect 'other settings' 2; then
        check 'other settings are refused' 'not a clear line' says "holds another study, with 'chunks 32 64'"
    fi
    check 'other settings change nothing' 'the table' cmp "$temp/before.csv" "$temp/scaling/study.csv"
    study RANKS=0
    if expect 'no ranks' 2; then check 'no ranks are refused' 'not a clear line' says '0: RANKS, CONTEXTS'; fi
}

# Where neither gnuplot nor h5import is, there are tables and a report all the same.
without_plots() {
    mkdir "$temp/bin"
    for program in sh awk sed sort find basename cp mv rm mkdir mktemp head tail tr cat wc grep ls uniq dirname; do
        ln -s "$(command -v $program)" "$temp/bin/"
    done
    rm -rf "$temp/scaling/plots"
    (PATH=$temp/bin && "$top/jobs/scaling/report.sh" "$temp/scaling") >"$temp/out" 2>"$temp/err"
    status=$?
    if expect 'without gnuplot' 0; then
        check 'without gnuplot plots are left out' 'not a clear line' says 'plots are left out: gnuplot is not here'
        check 'without gnuplot there is a report' 'it shows plots, or no table' \
            sh -c "! grep -q plots/scaling '$temp/scaling/report.md' && grep -q '^| 2 | 128 ' '$temp/scaling/report.md'"
    fi
}

run_chain one_run_fails again another_study more_repeats without_plots
end_test
