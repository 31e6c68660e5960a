#!/bin/sh
# tests/snapshot/test_own_tables.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: codecs that are not exact where nobody has
# calibrated: tables of what a snapshot itself holds.
#
#   recoded   a snapshot that is there
#   saved     lossless while the run goes on, and recoded at its end, as if by `snapshot recode`
#   goes_on   with the tables that are there, in the same snapshot or in another
#   stays     lossless, and says why: too little text for CacheGen, told to end, nothing computed
#   generic   tables, where those of the text cannot be made, or where they are asked for
#   fails     or is killed on the way: lossless as before
#   memory    that it takes is part of the plan
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

pages 4 >"$all/text"
run_options='--threads 1 --memory-per-rank 400M'

read_text() { # read_text NP OPTIONS...
    np=$1
    shift
    generate "$np" --prompt-file "$all/text" --max-tokens 0 "$@"
}

resume() { # resume NP DIR OPTIONS...
    np=$1 from=$2
    shift 2
    generate "$np" --prompt-file "$all/text" --max-tokens 24 --ignore-eos --temperature 0 --resume "$from" "$@"
}

says() { # says NAME TEXT: the last run, in a NOTE
    check "$1: a NOTE" 'there is none' grep -q "NOTE: .*$2" "$temp/err"
}

says_not() { # says_not NAME TEXT
    if grep -q "NOTE: .*$2" "$temp/err"; then failed "$1: no NOTE" 'there is one'; else ok "$1: no NOTE"; fi
}

is_lossless() { # is_lossless DIR: whole, with nothing else in it
    is_verified "$1" && has_codec "$1" lossless && ! has_codec "$1" 'kvarve:[a-z0-9:]*' && holds_only_named "$1"
}

is_coded() { # is_coded DIR CODEC: all of it, with its tables
    is_verified "$1" && has_codec "$1" "$2" && ! has_codec "$1" lossless && is_tidy "$1"
}

exact() {
    read_text 2 --save "$all/exact.kvs"
    expect 'an exact snapshot' 0
    n_tokens=$("$kvarve" snapshot info "$all/exact.kvs" | sed -n 's/.* \([0-9]*\) rows$/\1/p')
    cp -r "$all/exact.kvs" "$all/twin.kvs"
    run 2 snapshot recode "$all/twin.kvs" --codec kvarve:small:2
    expect 'its recoded twin' 0
    resume 2 "$all/twin.kvs"
    expect 'resumed' 0 && cp "$temp/out" "$all/expected"
}

recoded() {
    for np in 1 3; do
        dir=$temp/own-$np.kvs
        cp -r "$all/exact.kvs" "$dir"
        run $np snapshot recode "$dir" --codec kvarve:small:2
        expect "recoded by $np" 0 || return
        says "recoded by $np" "without --tables, they are made of $n_tokens tokens"
        check "recoded by $np: verified" 'it is not' is_verified "$dir"
        n=$(($(bytes_of "$all/exact.kvs") * 10 / $(bytes_of "$dir")))
        check "recoded by $np: small" "$n tenths" [ "$n" -ge 35 ]
        resume $np "$dir"
        expect "recoded by $np: resumed" 0
    done
    check 'recoded: the same tables by one rank and three' 'others' cmp "$temp"/own-[13].kvs/tables-*.kvt
    before=$(cd "$dir" && echo tables-*.kvt)
    run 1 snapshot recode "$dir" --codec kvarve:small:5
    expect 'recoded more coarsely' 0
    check 'recoded more coarsely: with the tables that are there' 'others' \
        [ "$before" = "$(cd "$dir" && echo tables-*.kvt)" ]
    generate 1 --prompt 'Too little' --max-tokens 3 --ignore-eos --save "$temp/few.kvs"
    keep "$temp/few.kvs"
    run 1 snapshot recode "$temp/few.kvs" --codec cachegen:2
    refused 'recoded: of few tokens' 2 "$temp/few.kvs: its longest sequence has" '--tables'
    kept=
}

saved() {
    for np in 1 2 4; do
        dir=$temp/saved-$np.kvs
        read_text $np --save "$dir" --codec kvarve:small:2 --report "$temp/report"
        expect "saved by $np" 0 || return
        says "saved by $np: before" 'lossless until the end of the run'
        says "saved by $np" "saved-$np.kvs: coded anew by kvarve:small:2"
        check "saved by $np: only its text on stdout" 'more' [ "$(wc -l <"$temp/out")" -le 1 ]
        check "saved by $np: coded" 'it is not' is_coded "$dir" kvarve:small:2
        check "saved by $np: the report" 'another codec' grep -q '"saved_codec": "kvarve:small:2"' "$temp/report"
        check "saved by $np: the report: bytes" 'others' \
            is_reported "$temp/report" recoded_file_bytes "$(bytes_of "$dir")"
        check "saved by $np: its tables" 'others' cmp "$dir"/tables-*.kvt "$all"/twin.kvs/tables-*.kvt
    done
    check 'saved by 2: as if recoded' 'other bytes' [ "$(sum_of "$temp/saved-2.kvs")" = "$(sum_of "$all/twin.kvs")" ]
    for np in 1 3; do
        resume $np "$temp/saved-2.kvs"
        ends_as "saved by 2, resumed by $np" 0 "$all/expected"
    done
    generate 3 --prompt-file "$all/text" --max-tokens 40 --ignore-eos --save "$temp/often.kvs" --save-every 100 \
        --codec kvarve:fast:3+base
    expect 'several saves' 0
    check 'several saves: coded' 'it is not' is_coded "$temp/often.kvs" kvarve:fast:3+base
}

goes_on() {
    cp -r "$all/twin.kvs" "$temp/on.kvs"
    n=20
    for dir in "$temp/on.kvs" "$temp/other.kvs"; do
        n=$((n + 10))
        resume 3 "$temp/on.kvs" --save "$dir" --max-tokens $n --codec kvarve:small:2 --report "$temp/report"
        expect "on in ${dir##*/}" 0
        says_not "on in ${dir##*/}" 'without --tables'
        check "on in ${dir##*/}: coded" 'it is not' is_coded "$dir" kvarve:small:2
        check "on in ${dir##*/}: its tables" 'others' cmp "$dir"/tables-*.kvt "$all"/twin.kvs/tables-*.kvt
        check "on in ${dir##*/}: the report" 'another codec' grep -q '"saved_codec": "kvarve:small:2"' "$temp/report"
    done
    cp -r "$all/exact.kvs" "$temp/exact.kvs"
    resume 1 "$temp/exact.kvs" --save "$temp/exact.kvs" --codec kvarve:small:2
    expect 'on from an exact one' 0
    check 'on from an exact one: all coded' 'it is not' is_coded "$temp/exact.kvs" kvarve:small:2
    flip "$temp"/other.kvs/tables-*.kvt 100000
    keep "$temp/other.kvs"
    resume 2 "$temp/other.kvs" --save "$temp/third.kvs" --max-tokens 50 --codec kvarve:small:2
    refused 'on with damaged tables' 2 other.kvs/tables- 'digest of the tables'
    kept=
}

stays() {
    generate 2 --prompt 'Too little' --max-tokens 3 --ignore-eos --save "$temp/few.kvs" --codec cachegen:2 \
        --report "$temp/report"
    expect 'too little text' 0
    says 'too little text' 'stays lossless: its longest sequence has .* 64 at least.*by --tables$'
    check 'too little text: lossless' 'it is not' is_lossless "$temp/few.kvs"
    check 'too little text: the report' 'another codec' grep -q '"saved_codec": "lossless"' "$temp/report"

    dir=$temp/stopped.kvs
    for np in 1 2; do
        rm -rf "$dir"
        generate $np --prompt-file "$all/text" --max-tokens 2000 --ignore-eos --temperature 0 --save "$dir" \
            --codec kvarve:small:2 --max-time 0.9s
        expect "stopped early, $np ranks" 75 || return
        says "stopped early, $np ranks" 'stays lossless: the run was told to end (--max-time 0.9s .*); kvarve snapshot'
        check "stopped early, $np ranks: lossless" 'it is not' is_lossless "$dir"
    done
    for n in 1 2; do
        resume 2 "$dir" --save "$dir" --max-tokens 700 --codec kvarve:small:2
        expect "stopped early, and on: $n" 0
        check "stopped early, and on: coded: $n" 'it is not' is_coded "$dir" kvarve:small:2
    done

    start 2 --prompt-file "$all/text" --max-tokens 5 --ignore-eos --save "$temp/signal.kvs" --codec kvarve:small:2 \
        --fail-at segment-flush:0:slow
    dir=$temp/signal.kvs
    find_ranks
    wait_for 60 is_saving
    kill -USR1 "$rank_0" || failed 'a signal at the last save' 'it is over'
    wait_job
    expect 'a signal at the last save' 0
    says 'a signal at the last save' 'stays lossless: the run was told to end (SIGUSR1)'
    check 'a signal at the last save: lossless' 'it is not' is_lossless "$dir"
    dir=$temp/recoding.kvs
    start 2 --prompt-file "$all/text" --max-tokens 5 --ignore-eos --save "$dir" --codec kvarve:small:2 \
        --fail-at segment-create:0:2slow
    find_ranks
    wait_for 60 is_recoding
    kill -USR1 "$rank_0" || failed 'a signal while it is recoded' 'it is over'
    wait_job
    expect 'a signal while it is recoded' 0
    says 'a signal while it is recoded' 'stays lossless: the run was told to end (SIGUSR1)'
    check 'a signal while it is recoded: lossless' 'it is not' is_lossless "$dir"
    generate 1 --prompt-file "$all/text" --max-tokens 5 --ignore-eos --resume "$dir" --save "$dir" \
        --codec kvarve:small:2
    expect 'nothing is left' 0
    says 'nothing is left' 'stays lossless: nothing was computed; kvarve snapshot recode'
}
is_saving() {
    ls "$dir"/.L*.tmp
}
is_recoding() { # rank 1, while rank 0 is slow
    find "$dir" -name '*S0002*' | grep .
}

# dumps DIR ROWS FILE: the first rows of K of layer 0 by h5dump, with the plugin and nothing else of ours.
dumps() {
    HDF5_PLUGIN_PATH=$(dirname "$kvarve")/plugin h5dump -d /layers/0/k -s 0,0,0 -c "$2,1,8" "$1/manifest.h5" \
        >"$temp/dump" && tail -n +2 "$temp/dump" >"$3"
}

generic() {
    few='It was too little text, they said, to make tables of'
    generate 1 --prompt "$few" --max-tokens 24 --ignore-eos --temperature 0 --save "$temp/exact.kvs"
    generate 1 --prompt "$few" --max-tokens 24 --ignore-eos --temperature 0 --save "$temp/few.kvs" \
        --codec kvarve:fast:3 --report "$temp/report"
    expect 'too little text' 0
    says 'too little text: before' 'lossless until the end of the run'
    says 'too little text' 'few.kvs: coded with generic tables, as .*: its longest sequence has .* 64 at least'
    says 'too little text' 'few.kvs: coded anew by kvarve:fast:3'
    check 'too little text: coded' 'it is not' is_coded "$temp/few.kvs" kvarve:fast:3
    check 'too little text: the report' 'another codec' grep -q '"saved_codec": "kvarve:fast:3"' "$temp/report"
    n=$(file_bytes "$temp"/few.kvs/tables-*.kvt)
    check 'too little text: small tables' "$n bytes" [ "$n" -lt 1000 ]
    for np in 1 3; do
        generate $np --prompt "$few" --max-tokens 40 --ignore-eos --temperature 0 --resume "$temp/few.kvs"
        expect "too little text: resumed by $np" 0
        says "too little text: resumed by $np" 'few.kvs'
        [ $np = 1 ] && cp "$temp/out" "$temp/one"
        check "too little text: resumed by $np" 'another text' cmp "$temp/out" "$temp/one"
    done
    if command -v h5dump >"$temp/which"; then
        for n in 4 30; do
            check "too little text: h5dump of $n rows" 'it fails' dumps "$temp/few.kvs" $n "$temp/few.$n"
            check "too little text: h5dump of $n exact rows" 'it fails' dumps "$temp/exact.kvs" $n "$temp/exact.$n"
        done
        check 'too little text: h5dump: the first rows are exact' 'they are not' cmp "$temp/few.4" "$temp/exact.4"
        check 'too little text: h5dump: the others are not' 'they are' eval '! cmp -s "$temp/few.30" "$temp/exact.30"'
    else
        skipped 'too little text: h5dump' 'it is not here'
    fi
    run 3 snapshot recode "$temp/few.kvs" --codec kvarve:fast:5
    expect 'too little text: recoded more coarsely' 0
    says_not 'too little text: recoded more coarsely' 'generic tables'

    cp -r "$all/exact.kvs" "$temp/asked.kvs"
    run 2 snapshot recode "$temp/asked.kvs" --codec kvarve:small:2+base --tables generic
    expect 'asked for' 0
    says 'asked for' 'asked.kvs: coded with generic tables: those of kvarve calibrate'
    check 'asked for: coded' 'it is not' is_coded "$temp/asked.kvs" kvarve:small:2+base
    n=$(($(bytes_of "$all/exact.kvs") * 10 / $(bytes_of "$temp/asked.kvs")))
    check 'asked for: small' "$n tenths" [ "$n" -ge 20 ]
    generate 2 --prompt-file "$all/text" --max-tokens 0 --save "$temp/saved.kvs" --codec kvarve:small:2+base \
        --tables generic
    expect 'asked for by a run' 0
    says 'asked for by a run: before' '--tables generic: what is saved is lossless until the end'
    check 'asked for by a run: as if recoded' 'other bytes' \
        [ "$(sum_of "$temp/saved.kvs")" = "$(sum_of "$temp/asked.kvs")" ]
    generate 1 --prompt "$few" --save "$temp/none.kvs" --codec cachegen:2 --tables generic
    refused 'asked for CacheGen' 2 '--tables generic is for kvarve:fast and kvarve:small' 'each channel'

    run 1 perplexity --model "$model" --file "$all/text" --context-codec kvarve:fast:3 --tables generic
    refused 'asked for where nothing is saved' 2 '--tables generic is for what is saved'

    mkdir "$temp/alone"
    cp "$kvarve" "$temp/alone"
    cp -r "$all/exact.kvs" "$temp/alone.kvs"
    with=$kvarve kvarve=$temp/alone/${kvarve##*/}
    run 1 snapshot recode "$temp/alone.kvs" --codec kvarve:small:2
    expect 'no linear algebra' 0
    says 'no linear algebra' 'alone.kvs: coded with generic tables, as .*kvarve_linear.so'
    check 'no linear algebra: coded' 'it is not' is_coded "$temp/alone.kvs" kvarve:small:2
    kvarve=$with
}

fails() {
    dir=$temp/failed.kvs
    read_text 2 --save "$dir" --codec kvarve:small:2 --fail-at tables-write --report "$temp/report"
    expect_error 'a recode that fails' 1 'stays lossless' tables-write 'kvarve snapshot recode' &&
        ok 'a recode that fails'
    check 'a recode that fails: lossless' 'it is not' is_lossless "$dir"
    check 'a recode that fails: the report' 'another codec' grep -q '"saved_codec": "lossless"' "$temp/report"
    for site in tables-write:0:kill manifest-rename:0:2kill; do
        rm -rf "$dir"
        read_text 2 --save "$dir" --codec kvarve:small:2 --fail-at $site
        check "killed at $site" "exit status $status" [ "$status" -ne 0 -a "$status" -ne 124 ]
        wait_for 10 is_gone "$dir" || failed "killed at $site" 'a rank is left'
        check "killed at $site: verified" 'it is not' is_verified "$dir"
        check "killed at $site: lossless" 'it is not' has_codec "$dir" lossless
        run 1 snapshot recode "$dir" --codec kvarve:small:2
        expect "killed at $site: and recoded" 0
        check "killed at $site: and recoded: coded" 'it is not' is_coded "$dir" kvarve:small:2
    done
    read_text 2 --save "$temp/lost.kvs" --codec kvarve:small:2 --fail-at segment-write:0:always
    expect_error 'a save that fails' 1 'nothing was saved' && ok 'a save that fails'
    says_not 'a save that fails' 'stays lossless'
}

needs() { # needs OPTIONS...: MiB, at least
    read_text 1 --memory-per-rank 70M --save "$temp/none.kvs" "$@"
    sed -n 's/.*the largest needs at least \([0-9]*\)[.0-9]* MiB.*/\1/p' "$temp/err"
}

memory() {
    exact=$(needs)
    check 'memory: exact' "$exact" [ "${exact:-0}" -gt 70 ]
    n=$(needs --codec kvarve:small:2)
    least=$(($(file_bytes "$all"/twin.kvs/tables-*.kvt) >> 19)) # that they are made of, and twice themselves
    check 'memory: with a recode' "$n MiB" [ "${n:-0}" -ge $((exact + least)) ]
}

run_chain exact
run_chain recoded goes_on &
run_chain saved memory &
run_chain stays &
run_chain generic &
run_chain fails &
wait
end_test
