#!/bin/sh
# tests/jobs/test_recall.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: jobs/recall.sh: its table, with an exact and with a
# changed cache, and what is refused; and jobs/pages.sh: its table and plots.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
unset KVARVE_ROOT SLURM_JOB_ID
export OMP_NUM_THREADS=1

# study SCRIPT [ARGUMENT...]: its output is in $temp/out and $temp/err, its exit status in $status.
study() {
    (cd "$temp" && KVARVE_LAUNCHER="$all/launch" "$@") >"$temp/out" 2>"$temp/err"
    status=$?
}

says() { # says NAME STATUS TEXT: the last study ended so, and said that
    check "$1" "$status: $(tail -n 3 "$temp/err")" grep -q -e "$3" "$temp/err"
    check "$1: exit code" "$status" [ "$status" = "$2" ]
}

rows() { # rows FILE CONDITION N: so many of a table's lines, which are all but the first, are so
    awk -F , "NR > 1 { n++ } NR > 1 && ($2) { good++ } END { exit n != $3 || good != n }" "$1"
}

tables() {
    run 1 calibrate --model "$model" --sample "$page" --windows 2 --context 100 --threads 1 --output "$all/page.kvt"
    expect 'tables' 0 && ok 'tables'
}

recall() {
    study "$recall" --model "$model" --lengths '160 200' --depths '20 90' --prompts '1 2' --csv found.csv \
        "$page" "$page" "$page" -- --threads 1 --add-bos
    check 'exact: exit code' "$status: $(cat "$temp/err")" [ "$status" = 0 ]
    check 'exact: the table' "$(cat "$temp/found.csv")" rows "$temp/found.csv" '$1 ~ /^(160|200)$/ &&
        $2 ~ /^(20|90)$/ && $3 == ($1 == 160 ? 1 : 2) && $4 <= $3 && $4 == $5 && $6 == 4096 && $7 == $6 && !$8' 4
    check 'exact: some are found' "$(cat "$temp/out")" grep -q '^ *all  *6  *[1-6]  *[0-9]*%$' "$temp/out"
    check 'exact: bytes' "$(cat "$temp/out")" grep -q '^ *200  4096 bytes a token$' "$temp/out"

    study "$recall" --model "$model" --lengths 160 --depths 50 --prompts 1 --scored 40 --ranks 1 --keep kept "$page" \
        -- --context-codec cachegen:4 --tables "$all/page.kvt" --threads 1
    check 'changed: exit code' "$status: $(cat "$temp/err")" [ "$status" = 0 ]
    check 'changed: the table' "$(cat "$temp/kept/recall.csv")" rows "$temp/kept/recall.csv" \
        '$3 == 1 && $5 <= 1 && $6 == 4096 && $7 < 1024 && $7 > 256 && $8 != 0 && $10 > 0' 1
    check 'changed: beside the exact' "$(cat "$temp/out")" grep -q \
        '^ *160  4096 bytes a token; changed [0-9]*, negative log-likelihood [+-][0-9.]* +- nan$' "$temp/out"
    study "$recall" --model "$model" --lengths 160 --depths 50 --prompts 1 --scored 40 --ranks 1 --keep kept "$page" \
        -- --context-codec cachegen:4 --tables "$all/page.kvt" --threads 1
    check 'again: nothing runs' "$(cat "$temp/err")" [ ! -s "$temp/err" ]
    study "$recall" --keep kept "$page"
    says 'another study in the folder' 2 'kept holds another study'
}

# As --kv bf16 is exact, and int8 is not.
formats() {
    study "$recall" --model "$model" --lengths 400 --depths 50 --prompts 1 --scored 40 --csv found.csv \
        "$page" "$page" "$page" -- --threads 1 --device cpu --kv bf16
    check 'bf16: exact' "$(cat "$temp/err" "$temp/found.csv")" rows "$temp/found.csv" '$7 == 4096 && !$8' 1
    check 'bf16: bytes' "$(cat "$temp/out")" grep -q '^ *400  4096 bytes a token$' "$temp/out"
    study "$recall" --model "$model" --lengths 400 --depths 50 --prompts 1 --scored 40 --csv found.csv \
        "$page" "$page" "$page" -- --threads 1 --device cpu --kv=int8
    check 'int8: changed' "$(cat "$temp/err" "$temp/found.csv")" rows "$temp/found.csv" \
        '$6 == 4096 && $7 == 2176 && $8 != 0 && $10 > 0' 1
    check 'int8: beside the exact' "$(cat "$temp/out")" grep -q '^ *400  4096 bytes a token; changed 2176, ' "$temp/out"
}

refusals() {
    study "$recall" --help
    check 'help' "$(cat "$temp/out")" grep -q '^  --depths "N..."' "$temp/out"
    study "$recall"
    says 'no text' 2 'name a text'
    study "$recall" nowhere
    says 'no such text' 2 'cannot read nowhere'
    study "$recall" --seed 1 "$page"
    says 'no such option' 2 'unknown option --seed'
    study "$recall" --lengths
    says 'no value' 2 '--lengths needs a value'
    study "$recall" --prompts many "$page"
    says 'no number' 2 'many: --lengths, --depths, --prompts'
    study "$recall" --lengths 64 "$page"
    says 'shorter than the question' 2 '--lengths 64: expected more than --scored, 64'
    study "$recall" --model "$model" --lengths 500 "$page"
    says 'a short text' 1 '500 failed with exit code 2: .*has 202 tokens, and a window takes 500'
    study "$recall" --model "$model" --lengths 8200 "$page"
    says 'longer than the model' 1 'are 8200 tokens: the model was made for 8192 positions'
    study "$recall" --model "$model" --depths '90 20' "$page"
    says 'depths that fall' 1 '--key-depths 90,20: expected them to rise'
}

pages() {
    command -v gnuplot >/dev/null || {
        skipped 'pages' 'gnuplot is not here (jobs/setup.sh --tests)'
        return
    }
    export LENGTHS='400 430' SCORED=40 WINDOWS=2 DEPTHS=50
    study env RESULTS=here SETTINGS="int8 --kv int8 --device cpu
half --evict window:4,180
coded --context-codec cachegen:4 --tables $all/page.kvt
none --context-codec nothing:1" "$top/jobs/pages.sh" "$model" "$page" "$page" "$page" "$page" \
        "$page" -- --threads 1
    says 'a setting that fails' 1 '400 failed with exit code 2: .*--context-codec nothing:1: expected'
    check 'the table' "$(cat "$temp/pages/pages.csv")" rows "$temp/pages/pages.csv" '$2 ~ /^4[03]0$/ && $8 == 2 &&
        $9 <= 2 && $10 <= 2 && ($1 == "exact" && NR <= 3 && $3 == 4096 && $4 == 0 && $9 == $10 ||
        $1 == "int8" && $3 == 2176 && $6 > 0 && $6 < 0.01 || $1 == "coded" && $3 < 1024 && $6 > 0.01 ||
        $1 == "half" && $3 > 1800 && $3 < 2200 && $6 > 0.01)' 8
    check 'printed too' "$(cat "$temp/out")" grep -q '^  coded  *430  *[0-9]*  *[+-][0-9.]* +- [0-9.]*  *[0-2] of 2$' \
        "$temp/out"
    for form in png svg; do
        check "pages.$form" 'it is not there, or empty' [ -s "$temp/pages/pages.$form" ]
    done
    for form in csv svg; do
        check "results: $form" 'another' cmp "$temp/pages/pages.$form" "$top/jobs/pages/results/here.$form"
    done
    study "$top/jobs/pages.sh" "$model"
    says 'no text' 2 'name a model and a text'
}

# One rank needs no launcher, which would take longer than it.
printf '#!/bin/sh\nshift 2 # -n 1\nexec "$@"\n' >"$all/launch"
chmod +x "$all/launch"
top=$all/top
recall=$top/jobs/recall.sh
mkdir -p "$top/build" "$top/jobs/pages"
ln -s "$source"/jobs/*.* "$top/jobs"
ln -s "$source/jobs/pages/plot.gp" "$top/jobs/pages"
ln -s "$(cd "$(dirname "$kvarve")" && pwd)/${kvarve##*/}" "$top/build/kvarve"
run_chain tables
run_chain recall
run_chain formats
run_chain refusals
run_chain pages
end_test
