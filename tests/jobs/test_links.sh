#!/bin/sh
# tests/jobs/test_links.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: jobs/links.sh: its table and plots, a codec that fails,
# the same line again, more of it, and what is refused. Skipped where gnuplot is not here.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

command -v gnuplot >/dev/null || {
    echo "skipped: gnuplot is not here (jobs/setup.sh --tests)"
    exit 77
}
unset KVARVE_ROOT SLURM_JOB_ID
export OMP_NUM_THREADS=1

# study [VARIABLE=VALUE...] SCRIPT [OPTION...]: its output is in $temp/out and $temp/err, its exit status in $status.
study() {
    (cd "$temp" && env CODECS='lossless kvarve:small:3' LINKS='1 0.02' REPEATS=1 CONTEXT=64 CALIBRATED=1 \
        KVARVE_LAUNCHER="$all/launch" "$@" --model "$model" --memory-per-rank 250M) >"$temp/out" 2>"$temp/err"
    status=$?
}

# What is certain: every position is loaded or computed; full loads all but the last, as fast as the link at most (but
# for a tenth: files have more than K and V); and recompute none.
has_figures() {
    awk -F , '
        NR == 1 { for (i = 1; i <= NF; i++) of[$i] = i; n = NF; next }
        NF != n || $of["seconds"] !~ /^[0-9.]+$/ || $of["seconds"] <= 0 { bad = 1 }
        { sum = $of["loaded"] + $of["computed"]; tokens = tokens ? tokens : sum }
        sum != tokens || sum < 100 || $of["computed"] < 1 { bad = 1 }
        $of["load"] == "recompute" { n_recompute++; bad = bad || $of["loaded"] != 0; next }
        { bytes[$of["codec"]] = $of["bytes"]; n_rows[$of["load"], $of["gbit_per_second"]]++ }
        $of["load"] == "full" && $of["computed"] != 1 { bad = 1 }
        $of["load"] == "full" && $of["seconds"] < 0.9 * $of["bytes"] * 8 / ($of["gbit_per_second"] * 1e9) { bad = 1 }
        bad { print; exit }
        END {
            exit bad || NR != 10 || n_recompute != 1 || bytes["kvarve:small:3"] >= bytes["lossless"] ||
                n_rows["full", "0.02"] != 2 || n_rows["full", "1"] != 2 || n_rows["auto", "0.02"] != 2
        }' "$table"
}

says() { # says NAME STATUS TEXT: the last study ended so, and said that
    check "$1" "$status: $(tail -n 3 "$temp/err")" grep -q -e "$3" "$temp/err"
    check "$1: exit code" "$status" [ "$status" = "$2" ]
}

a_study() {
    top=$temp/top table=$temp/links/links.csv links=$temp/top/jobs/links.sh
    mkdir -p "$top/build"
    ln -s "$source/jobs" "$top/jobs"
    ln -s "$(cd "$(dirname "$kvarve")" && pwd)/${kvarve##*/}" "$top/build/kvarve"

    study CODECS='lossless nothing:1 kvarve:small:3' "$links" --sample "$page" --file "$page"
    says 'a codec that fails' 1 'recode-nothing-1 failed with exit code 2: .*nothing:1: expected'
    check 'the table' "$(cat "$table")" has_figures
    check 'printed too' "$(cat "$temp/out")" grep -q '^  lossless  *full  *0.02  *[0-9.]*  *[0-9.]*  *[0-9]*  *1$' \
        "$temp/out"
    for form in png svg; do
        check "links.$form" 'it is not there, or empty' [ -s "$temp/links/links.$form" ]
    done
    cp "$table" "$temp/first.csv"
    study "$links" --sample "$page" --file "$page"
    check 'again: exit code' "$status" [ "$status" = 0 ]
    check 'again: nothing runs' "$(cat "$temp/err")" [ ! -s "$temp/err" ]
    check 'again: the same' 'the table differs' cmp "$table" "$temp/first.csv"
    study LINKS='0.02 1 2' LOADS=full "$links" --sample "$page" --file "$page"
    check 'one more link: its runs' "$(cat "$temp/err")" [ "$(cut -d ' ' -f 4 "$temp/err" | tr '\n' ' ')" = \
        'lossless-full-2-1 kvarve-small-3-full-2-1 ' ]
}

# A link over which all of it would take ten seconds or more: computing it, as --load auto does, takes a tenth of one.
other_tables() {
    study CODECS=kvarve:small:3 LINKS=0.0002 LOADS=auto TABLES=../a_study/links/tables.kvt "$links" --file "$page"
    check 'tables that are there: exit code' "$status" [ "$status" = 0 ]
    check 'tables that are there: no others' "$(cat "$temp/err")" [ "$(cut -d ' ' -f 4 "$temp/err" | tr '\n' ' ')" = \
        'save recode-kvarve-small-3 recompute-1 kvarve-small-3-auto-0.0002-1 ' ]
    check 'a slow link: computed' "$(cat "$temp/links/links.csv")" grep -q \
        '^kvarve:small:3,auto,0.0002,[0-9]*,[0-9.]*,[0-9]*,[1-9][0-9][0-9]*$' "$temp/links/links.csv"
    study CODECS='kvarve:small:3 kvarve:small:3+base' LINKS=1 LOADS='auto base' TABLES=../a_study/links/tables.kvt \
        "$links" --file "$page"
    small='kvarve-small-3'
    check 'a base: only where there is one' "$(cat "$temp/err")" [ "$(cut -d ' ' -f 4 "$temp/err" | tr '\n' ' ')" = \
        "recode-$small+base $small-auto-1-1 $small+base-auto-1-1 $small+base-base-1-1 " ]
    check 'a base: its row' "$(cat "$temp/links/links.csv")" \
        grep -q '^kvarve:small:3+base,base,1,' "$temp/links/links.csv"
}

refusals() {
    study OUT=../a_study/links "$links" --sample "$page" --file "$page" --threads 1
    says 'another study in the folder' 2 ': ../a_study/links holds another study'
    study "$links" --sample "$page"
    says 'no file' 2 '--file TEXT is missing'
    study "$links" --sample "$page" --file nowhere
    says 'a file that is not there' 2 '--file nowhere: cannot be read'
    study "$links" --file "$page"
    says 'neither samples nor tables' 2 '--sample TEXT is missing'
    study TABLES=some.kvt "$links" --sample "$page" --file "$page"
    says 'samples and tables' 2 'and there is TABLES=some.kvt'
    study LINKS='1 0' "$links" --sample "$page" --file "$page"
    says 'no link' 2 'LINKS=1 0: 0 is no number of Gbit/s above 0'
    study LOADS='full fast' "$links" --sample "$page" --file "$page"
    says 'no way to load' 2 'LOADS=full fast: fast is none of full, auto and base'
    study REPEATS=0 "$links" --sample "$page" --file "$page"
    says 'no repeats' 2 '0: REPEATS, CALIBRATED and CONTEXT are numbers above 0'
}

# One rank needs no launcher, which would take longer than it.
printf '#!/bin/sh\nshift 2 # -n 1\nexec "$@"\n' >"$all/launch"
chmod +x "$all/launch"
run_chain a_study
run_chain other_tables
run_chain refusals
end_test
