#!/bin/sh
# tests/jobs/test_codecs.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: jobs/codecs.sh: its table and plots, a run that fails,
# and the same line again. Skipped where gnuplot is not here.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

command -v gnuplot >/dev/null || {
    echo "skipped: gnuplot is not here (jobs/setup.sh --tests)"
    exit 77
}
unset KVARVE_ROOT SLURM_JOB_ID
export OMP_NUM_THREADS=1

study() { # study CODECS [OPTION...]: as the others are, in $temp/out and $temp/err, exit status in $status
    codecs=$1
    shift
    (cd "$temp" && env CODECS="$codecs" CONTEXT=80 SCORED=8 WINDOWS=2 CALIBRATED=2 KEYS=1 \
        KVARVE_LAUNCHER="$mpiexec" "$top/jobs/codecs.sh" --model "$model" --sample sample.txt "$@") \
        >"$temp/out" 2>"$temp/err"
    status=$?
}

has_figures() { # by name: every number is one, and coarser is smaller and worse
    awk -F , '
        NR == 1 { for (i = 1; i <= NF; i++) of[$i] = i; n = NF; next }
        NF != n || $of["bits_per_element"] <= 0 || $of["pass_keys"] != 2 { bad = 1 }
        $of["divergence"] !~ /^[0-9.e-]+$/ { bad = 1 }
        $of["divergence_half"] !~ /^[0-9.e-]+$/ || $of["coded_answered_keys"] !~ /^[012]$/ { bad = 1 }
        { bits[$1] = $of["bits_per_element"]; divergence[$1] = $of["divergence"] }
        END {
            exit bad || NR != 4 || bits["cachegen:1"] <= bits["cachegen:4"] || bits["lossless"] <= bits["cachegen:1"] ||
                divergence["cachegen:4"] <= divergence["cachegen:1"] || divergence["lossless"] != 0
        }' "$table"
}

a_study() {
    top=$temp/top table=$temp/codecs/codecs.csv
    mkdir -p "$top/build"
    ln -s "$source/jobs" "$top/jobs"
    ln -s "$(cd "$(dirname "$kvarve")" && pwd)/${kvarve##*/}" "$top/build/kvarve"
    cat "$page" "$page" "$page" >"$temp/sample.txt"

    study 'lossless cachegen:1 cachegen:4 nothing:1' --file "$page"
    check 'a run that fails: exit code' "$status: $(tail -n 3 "$temp/err")" [ "$status" = 1 ]
    check 'a run that fails: is named' "$(tail -n 3 "$temp/err")" \
        grep -q 'nothing-1 failed with exit code 2: .*--context-codec nothing:1: expected' "$temp/err"
    check 'the table' "$(cat "$table")" has_figures
    check 'printed too' "$(cat "$temp/out")" grep -q '^  cachegen:4  *[0-9.]*  *[0-9.e-]* +- ' "$temp/out"
    for form in png svg; do
        check "codecs.$form" 'it is not there, or empty' [ -s "$temp/codecs/codecs.$form" ]
    done
    cp "$table" "$temp/first.csv"
    study 'lossless cachegen:1 cachegen:4' --file "$page"
    check 'again: exit code' "$status" [ "$status" = 0 ]
    check 'again: nothing runs' "$(cat "$temp/err")" [ ! -s "$temp/err" ]
    check 'again: the same' 'the table differs' cmp "$table" "$temp/first.csv"
    study lossless --file "$temp/sample.txt"
    check 'another study in the folder' "$status: $(cat "$temp/err")" \
        grep -q ': codecs holds another study' "$temp/err"
    study lossless
    check 'no file' "$status: $(cat "$temp/err")" grep -q -e '--file TEXT is missing' "$temp/err"
}

run_chain a_study
end_test
