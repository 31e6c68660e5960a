#!/bin/sh
# tests/snapshot/test_coded.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: snapshots by codecs that are not exact.
#
#   base     first, as a part of what is saved: as large, and refined while tokens are generated
#   saves    by each codec: much smaller, with their tables; resumed over 1 to 4 ranks with the same text, and with
#            many bits the text of a run that never stopped
#   reads    by h5py through our plugin: about what an exact snapshot holds
#   over_inexact  what is saved of what is not exact says so
#   distortion  beyond what is allowed is refused, or computed
#   memory   that tables take is part of the plan
#   damage   of chunks and tables is named, and nothing goes on from it
#   recodes  a snapshot that is there, but never more finely; and compacts one as it is
#   kills    in the middle of a recode or of a load: what was there stays, and the next run does it
#   ranks    that find other tables
#   options  that do not fit
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

tables=$all/tables.kvt
pages 4 >"$all/text"
run_options='--threads 1 --memory-per-rank 300M'

calibrate() {
    run 2 calibrate --model "$model" --threads 1 --device cpu --sample "$all/text" --context 100 --output "$tables"
    expect 'calibrate' 0
    generate 2 --prompt-file "$all/text" --max-tokens 0 --save "$all/exact.kvs"
    expect 'an exact snapshot' 0
    n_tokens=$("$kvarve" snapshot info "$all/exact.kvs" | sed -n 's/.* \([0-9]*\) rows$/\1/p')
}

folder_of() { # folder_of CODEC: its snapshot, saved by two ranks
    echo "$all/$(echo "$1" | tr : -).kvs"
}

save() { # save NP CODEC DIR
    generate "$1" --prompt-file "$all/text" --max-tokens 0 --save "$3" --codec "$2" --tables "$tables"
    expect "$2 by $1 ranks" 0
}

resume() { # resume NP DIR OPTIONS...
    np=$1 from=$2
    shift 2
    generate "$np" --prompt-file "$all/text" --max-tokens 24 --ignore-eos --temperature 0 --resume "$from" "$@"
}

says_distortion() { # says_distortion DIR
    "$kvarve" snapshot verify "$1" | grep -q 'left a distortion of at most 0\.'
}

save_and_resume() { # save_and_resume CODEC LEAST: how many times smaller than the exact one, in tenths
    codec=$1 dir=$(folder_of "$1")
    save 2 "$codec" "$dir" || return
    check "$codec: its tables" 'they are not there' cmp "$dir"/tables-*.kvt "$tables"
    check "$codec: verified" 'it is not' is_verified "$dir"
    check "$codec: distortion" 'not said' says_distortion "$dir"
    format=3
    case $codec in *+base) format=4 ;; esac
    check "$codec: format" 'another' grep -qxa "format $format" "$dir/manifest.h5"
    n=$(($(bytes_of "$all/exact.kvs") * 10 / $(bytes_of "$dir")))
    check "$codec: small" "$n tenths" [ "$n" -ge "$2" ]
    resume 2 "$dir"
    expect "$codec: resumed by 2" 0 && cp "$temp/out" "$temp/text"
    check "$codec: a NOTE" 'there is none' grep -q "NOTE: --resume .*came through $codec, or.*may differ" "$temp/err"
    check "$codec: reuse" 'it was not' grep -q "holds $((n_tokens - 1)) of $n_tokens tokens" "$temp/err"
    for np in 1 3 4; do
        resume $np "$dir"
        ends_as "$codec: resumed by $np" 0 "$temp/text"
    done
}

cachegen() {
    save_and_resume cachegen:1 20
}
fast() {
    save_and_resume kvarve:fast:2 30
    save 3 kvarve:fast:2 "$temp/three.kvs" || return # whose chunks are of one layer, whoever has it
    resume 2 "$temp/three.kvs"
    ends_as 'kvarve:fast:2 saved by 3' 0 "$temp/text"
}
small() {
    save_and_resume kvarve:small:2 35
}

# With a base: about as large, and loaded whole the same.
base() {
    for codec in kvarve:fast:2 kvarve:small:2; do
        dir=$(folder_of $codec+base)
        save 2 $codec+base "$dir" && save 2 $codec "$temp/one.kvs" || return
        n=$(($(bytes_of "$dir") * 1000 / $(bytes_of "$temp/one.kvs")))
        check "$codec+base: size" "$n thousandths" [ "$n" -le 1025 ]
        resume 2 "$temp/one.kvs"
        expect "$codec" 0 && cp "$temp/out" "$temp/text"
        for np in 1 2 3; do
            resume $np "$dir"
            ends_as "$codec+base: all of it, by $np" 0 "$temp/text"
        done
        resume 3 "$dir" --fail-at load-see:2
        ends_as "$codec+base: all of it, unseen by one of 3" 0 "$temp/text"
        resume 3 "$dir" --fail-at load-see:2 --load base --max-tokens 100
        expect "$codec+base: refined, unseen by one of 3" 0
        check "$codec+base: refined, unseen by one of 3: before a position" 'not said' \
            grep -q 'was in place before position' "$temp/err"
        check "$codec+base: verified" 'it is not' is_verified "$dir"
        rm -r "$temp/one.kvs"
    done
}

# The base first, what refines it while tokens are generated, or never.
base_first() {
    for codec in kvarve:fast:2 kvarve:small:2; do
        dir=$(folder_of $codec+base)
        slow=$(($(bytes_of "$dir") / 5)) # a second: what refines it takes three
        for np in 1 2 3; do
            resume $np "$dir" --load base --io-bandwidth $((slow / np)) --report "$temp/report.json"
            if [ $np = 1 ]; then
                expect "$codec: the base alone" 0 && cp "$temp/out" "$temp/text"
            else
                ends_as "$codec: the base alone, by $np" 0 "$temp/text"
            fi
            check "$codec: the base alone, by $np: a NOTE" 'there is none' grep -q \
                "NOTE: .*of $((n_tokens - 1)) positions of 1 sequence the base was .*did not come in time" "$temp/err"
            check "$codec: the base alone, by $np: report" 'another' \
                grep -q '"sequences_refined": 0' "$temp/report.json"
            resume $np "$dir" --load base --max-tokens 100 --report "$temp/report.json"
            expect "$codec: refined, by $np" 0
            position=$(sed -n 's/.*was in place before position \([0-9]*\)$/\1/p' "$temp/err")
            check "$codec: refined, by $np: before a position" "$position" \
                [ "${position:-0}" -ge $((n_tokens - 1)) ]
            check "$codec: refined, by $np: report" 'another' \
                grep -q "\"refined_before_position\": $position,\$" "$temp/report.json"
        done
        resume 2 "$dir" --load auto --deadline 0.001s --io-bandwidth $((slow * 12))
        expect "$codec: a deadline" 0
        check "$codec: a deadline: a NOTE" 'there is none' grep -q 'NOTE: .*the base was loaded first' "$temp/err"
    done
    cp -r "$dir" "$temp/on.kvs"
    resume 2 "$temp/on.kvs" --load base --save "$temp/on.kvs"
    expect 'the base first, and on' 0
    check 'the base first, and on: verified' 'it is not' is_verified "$temp/on.kvs"
    check 'the base first, and on: says so' 'it does not' \
        has_state "$temp/on.kvs" 'length, computed over kvarve:small:2+base, base'
    resume 1 "$dir" --load base --save "$temp/other.kvs"
    refused 'the base into another snapshot' 2 '--save of the same snapshot only'
    resume 1 "$all/exact.kvs" --load base
    refused 'no base' 2 '--load base: ' 'has none' '+base'
}

# Saved anew, as exactly as can be, it is still what the codec had left of it; and so is what goes on from that.
over_inexact() {
    from=$(folder_of kvarve:small:2)
    for n in 1 2; do
        to=$temp/over-$n.kvs
        resume 2 "$from" --save "$to" --max-tokens ${n}0
        expect "${to##*/} of ${from##*/}" 0
        check "${to##*/}: a NOTE" 'there is none' \
            grep -q 'NOTE: --resume .* came through kvarve:small:2, or was' "$temp/err"
        check "${to##*/}: says so" 'it does not' has_state "$to" 'length, computed over kvarve:small:2'
        check "${to##*/}: its segments do not" 'they do' has_codec "$to" lossless
        from=$to
    done
    run 1 snapshot compact "$to"
    check 'compacted: says so' 'it does not' has_state "$to" 'length, computed over kvarve:small:2'
    resume 1 "$to" --load recompute --save "$to" --max-tokens 30
    expect 'computed again, where the rows stay' 0
    check 'computed again, where the rows stay: says so' 'it does not' \
        has_state "$to" 'length, computed over kvarve:small:2'
    resume 1 "$to" --load recompute --save "$temp/again-exact.kvs" --max-tokens 35
    check 'computed again, elsewhere: exact' 'it is not' has_state "$temp/again-exact.kvs" length
    resume 1 "$(folder_of kvarve:small:2)" --load auto --io-bandwidth 1K --save "$temp/computed.kvs"
    check 'all computed by auto: exact' 'it is not' has_state "$temp/computed.kvs" length
}

# Of a sequence that is exact up to a position, what is used up to there is exact.
exact_beginning() {
    dir=$temp/begins.kvs
    pages 2 >"$temp/two"
    generate 1 --prompt-file "$temp/two" --max-tokens 0 --save "$dir"
    expect 'an exact beginning' 0
    resume 1 "$dir" --save "$dir" --codec kvarve:small:2 --tables "$tables" --max-tokens 5
    expect 'goes on by kvarve:small:2' 0
    resume 1 "$dir" --save "$temp/all-of-it.kvs" --max-tokens 10
    check 'all of it: says so' 'it does not' has_state "$temp/all-of-it.kvs" 'length, computed over kvarve:small:2'
    echo 'Something else.' >>"$temp/two"
    for from in "$dir" "$temp/all-of-it.kvs"; do
        to=$temp/begun-${from##*/}
        generate 2 --prompt-file "$temp/two" --max-tokens 5 --ignore-eos --resume "$from" --save "$to"
        expect "what is exact of ${from##*/}" 0
        check "what is exact of ${from##*/}: reused" 'it is not' grep -q 'holds [1-9][0-9]* of' "$temp/err"
        check "what is exact of ${from##*/}: is" 'it is not' has_state "$to" length
    done
}

# With many bits, what comes back is nearly what was saved: the same text as of a run that never stopped, as far as no
# two tokens are about as likely (the first such pair is behind 20 tokens).
near() {
    generate 1 --prompt-file "$all/text" --max-tokens 16 --ignore-eos --temperature 0
    expect 'never stopped' 0 && cp "$temp/out" "$temp/whole"
    for codec in kvarve:fast:6b kvarve:small:6b; do
        rm -rf "$temp/near.kvs"
        save 2 $codec "$temp/near.kvs" || continue
        generate 3 --prompt-file "$all/text" --max-tokens 16 --ignore-eos --temperature 0 --resume "$temp/near.kvs"
        ends_as "$codec: the same text" 0 "$temp/whole"
    done
}

# In two saves, with what was read before; then on by another codec, in the same snapshot.
goes_on() {
    dir=$temp/on.kvs
    generate 2 --prompt-file "$all/text" --max-tokens 20 --ignore-eos --temperature 0 --save "$dir" \
        --codec kvarve:small:2 --tables "$tables" --save-every 150
    expect 'several saves' 0 && cp "$temp/out" "$temp/text"
    check 'several saves: segments' 'too few' [ "$(n_segments_of "$dir")" -ge 4 ]
    for codec in kvarve:fast:1 lossless; do
        given=
        [ $codec = lossless ] || given="--tables $tables"
        # shellcheck disable=SC2086 # several words
        generate 3 --prompt-file "$all/text" --max-tokens 40 --ignore-eos --temperature 0 --resume "$dir" \
            --save "$dir" --codec $codec $given
        expect "on by $codec" 0
        check "on by $codec: verified" 'it is not' is_verified "$dir"
    done
    check 'on: what was generated before' 'another text' cmp -n "$(($(file_bytes "$temp/text") - 1))" "$temp/out" \
        "$temp/text"
}

reads() {
    python=
    for candidate in python3 /usr/bin/python3; do
        [ -n "$python" ] || ! "$candidate" -c 'import h5py' 2>"$temp/check" || python=$candidate
    done
    if [ -z "$python" ]; then
        skipped h5py 'it is not here (package python3-h5py)'
        return
    fi
    cat >"$temp/read.py" <<'END'
import sys, h5py, numpy
def rows(folder, layer, part):
    with h5py.File(folder + "/manifest.h5") as f:
        return f[f"/layers/{layer}/{part}"][:].astype("f8")
exact, coded, most = sys.argv[1], sys.argv[2], float(sys.argv[3])
for layer in range(8):
    for part in "kv":
        x, y = rows(exact, layer, part), rows(coded, layer, part)
        error = ((x - y) ** 2).sum() / (x ** 2).sum()
        if not error <= most or error == 0:
            sys.exit(f"layer {layer}, {part}: {error}")
import glob
for name in glob.glob(coded + "/L*.h5"):
    with h5py.File(name) as f:
        for layer in f["layers"]:
            for part in "kv":
                data = f["layers"][layer][part]
                row = int(data.attrs["row0"])
                if not numpy.array_equal(data[:], rows(coded, layer, part)[row:row + len(data)].astype(data.dtype)):
                    sys.exit(f"{name}: {layer}, {part}")
END
    HDF5_PLUGIN_PATH=$(dirname "$kvarve")/plugin
    export HDF5_PLUGIN_PATH
    for codec in cachegen:1 kvarve:fast:2 kvarve:small:2; do
        dir=$(folder_of $codec)
        check "h5py: $codec" 'other numbers' "$python" "$temp/read.py" "$all/exact.kvs" "$dir" 0.2
        cp -r "$dir" "$temp/no.kvs"
        mkdir "$temp/elsewhere"
        mv "$temp"/no.kvs/tables-*.kvt "$temp/elsewhere/"
        if "$python" "$temp/read.py" "$all/exact.kvs" "$temp/no.kvs" 0.2 2>"$temp/err"; then
            failed "h5py: $codec without its tables" 'it was read'
        else
            check "h5py: $codec without its tables" 'not said' grep -q 'filter: tables-.*set KVARVE_TABLES' "$temp/err"
        fi
        check "h5py: $codec, tables elsewhere" 'other numbers' env KVARVE_TABLES="$temp/elsewhere" \
            "$python" "$temp/read.py" "$all/exact.kvs" "$temp/no.kvs" 0.2
        rm -r "$temp/no.kvs" "$temp/elsewhere"
    done
}

damage() {
    good=$(folder_of kvarve:small:2)
    dir=$temp/bad.kvs
    cp -r "$good" "$dir"
    segment=$(segments_of "$dir" | head -n 1)
    flip "$dir/$segment" $(($(file_bytes "$dir/$segment") / 2))
    run 1 snapshot verify "$dir"
    expect_error 'a flipped bit: verify' 2 "$segment: /kv, layers 0 to 3, rows " damaged && ok 'a flipped bit: verify'
    resume 2 "$dir"
    refused 'a flipped bit: resume' 2 "$segment: /kv, layers 0 to 3, rows " damaged
    rm -r "$dir"
    cp -r "$good" "$dir"
    flip "$dir"/tables-*.kvt 100000
    run 2 snapshot verify "$dir"
    expect_error 'damaged tables: verify' 2 tables- 'digest of the tables' && ok 'damaged tables: verify'
    resume 1 "$dir"
    refused 'damaged tables: resume' 2 tables- 'digest of the tables'
    rm "$dir"/tables-*.kvt
    run 1 snapshot verify "$dir"
    expect_error 'no tables: verify' 2 tables- && ok 'no tables: verify'
    resume 3 "$dir"
    refused 'no tables: resume' 2 tables-
}

# The second rank finds other tables by the same name: those of the first count.
other_tables() {
    mkdir "$temp/first" "$temp/second"
    cp "$tables" "$temp/first/t.kvt"
    cp "$all/text" "$temp/second/t.kvt"
    for what in generate recode; do
        dir=$temp/one.kvs
        set -- "$kvarve" snapshot recode "$dir" --codec kvarve:small:9 --tables t.kvt --threads 1
        [ $what = recode ] || set -- "$kvarve" generate --model "$model" --device cpu --threads 1 \
            --memory-per-rank 300M --prompt-file "$all/text" --max-tokens 0 --save "$dir" --codec kvarve:small:2 \
            --tables t.kvt
        "$mpiexec" -n 1 -wdir "$temp/first" "$@" : -n 1 -wdir "$temp/second" "$@" >"$temp/out" 2>"$temp/err"
        status=$?
        expect "other tables: $what" 0
        check "other tables: $what: verified" 'it is not' is_verified "$dir"
        resume 1 "$dir"
        expect "other tables: $what: resumed" 0 && ok "other tables: $what: resumed"
    done
}

# Tables and chunks in work are part of what a rank takes.
needs() { # needs DIR OPTIONS...: MiB, at least
    from=$1
    shift
    resume 1 "$from" --memory-per-rank 70M "$@"
    sed -n 's/.*the largest needs at least \([0-9]*\)[.0-9]* MiB.*/\1/p' "$temp/err"
}
memory() {
    n_tables=$(($(file_bytes "$tables") >> 20))
    exact=$(needs "$all/exact.kvs")
    check 'memory: an exact snapshot' "$exact" [ "${exact:-0}" -gt 70 ]
    n=$(needs "$(folder_of kvarve:small:2)")
    check 'memory: tables of a snapshot' "$n MiB" [ "${n:-0}" -ge $((exact + n_tables)) ]
    n=$(needs "$all/exact.kvs" --save "$temp/coded.kvs" --codec kvarve:small:2 --tables "$tables")
    check 'memory: tables to save with' "$n MiB" [ "${n:-0}" -ge $((exact + 2 * n_tables)) ]
}

# What a codec has bent too far is refused, or computed.
distortion() {
    dir=$(folder_of kvarve:small:2)
    generate 1 --prompt-file "$all/text" --max-tokens 24 --ignore-eos --temperature 0
    cp "$temp/out" "$temp/whole"
    for np in 1 3; do
        resume $np "$dir" --max-distortion 0.0001
        refused "distortion, $np ranks" 2 ': /kv, layers ' 'left a distortion of 0.' 'more than --max-distortion 0.0001'
        resume $np "$dir" --max-distortion 0.0001 --load auto
        ends_as "distortion, auto, $np ranks" 0 "$temp/whole"
        check "distortion, auto, $np ranks: a NOTE" 'there is none' \
            grep -q 'NOTE: .*left a distortion of 0.*computed again' "$temp/err"
        resume $np "$dir" --max-distortion 0.5
        ends_as "distortion, $np ranks, as much as there is" 0 "$temp/text"
    done
}

recode() { # recode NP DIR CODEC OPTIONS...
    np=$1 dir=$2 codec=$3
    shift 3
    run "$np" snapshot recode "$dir" --codec "$codec" "$@"
}

recodes() {
    dir=$temp/again.kvs
    cp -r "$all/exact.kvs" "$dir"
    cp "$(folder_of kvarve:small:2)"/tables-*.kvt "$dir" # left over from a job that died, and damaged since
    flip "$dir"/tables-*.kvt 1000
    recode 2 "$dir" kvarve:small:2 --tables "$tables"
    expect 'recode: exact to kvarve:small:2' 0 || return
    check 'recode: as if it had been saved so' 'other bytes' \
        [ "$(cat "$dir"/L*.h5 | cksum)" = "$(cat "$(folder_of kvarve:small:2)"/L*.h5 | cksum)" ]
    check 'recode: verified' 'it is not' is_verified "$dir"
    check 'recode: tables' 'they are not there' cmp "$dir"/tables-*.kvt "$tables"
    keep "$dir"
    for codec in kvarve:small:1 kvarve:fast:1 lossless none; do
        given=
        case $codec in kvarve*) given="--tables $tables" ;; esac
        # shellcheck disable=SC2086
        recode 1 "$dir" $codec $given
        refused "recode: kvarve:small:2 to $codec" 2 'coded by kvarve:small:2' "$codec would be larger" 'not come back'
    done
    kept=
    cp -r "$(folder_of cachegen:1)" "$temp/other.kvs"
    keep "$temp/other.kvs"
    recode 2 "$temp/other.kvs" kvarve:small:6b --tables "$tables"
    refused 'recode: another codec, but larger' 2 'MiB instead of ' 'no better'
    kept='' dir=$temp/again.kvs
    run 3 snapshot compact "$dir"
    expect 'compact: as it is' 0
    check 'compact: as it is: the codec' 'another' has_codec "$dir" kvarve:small:2
    check 'compact: as it is: a NOTE' 'there is none' grep -q 'NOTE: .*coded a second time' "$temp/err"
    recode 2 "$dir" kvarve:fast:6+base --tables "$tables"
    expect 'recode: kvarve:small:2 to kvarve:fast:6+base' 0
    check 'recode: with a base' 'it has none' has_codec "$dir" kvarve:fast:6+base
    run 1 snapshot compact "$dir"
    expect 'compact: with a base' 0
    check 'compact: with a base: the codec' 'another' has_codec "$dir" kvarve:fast:6+base
    check 'recode: coarser' 'no NOTE' grep -q 'NOTE: .*coded a second time' "$temp/err"
    check 'recode: coarser: verified' 'it is not' is_verified "$dir"
    resume 2 "$dir"
    expect 'recode: resumed' 0 && ok 'recode: resumed'
    check 'recode: only what is named' 'more' is_tidy "$dir"
}
# Before anything new is named, the old is whole, and behind that the new.
kills() {
    for site in segment-write segment-rename tables-write manifest-write manifest-rename manifest-directory-flush; do
        dir=$temp/killed.kvs
        rm -rf "$dir"
        cp -r "$all/exact.kvs" "$dir"
        recode 2 "$dir" kvarve:small:2 --tables "$tables" --fail-at $site:0:kill
        check "a recode killed at $site" "exit status $status" [ "$status" -ne 0 -a "$status" -ne 124 ]
        wait_for 10 is_gone "$dir" || failed "a recode killed at $site" 'a rank is left'
        check "a recode killed at $site: verified" 'it is not' is_verified "$dir"
        if [ $site != manifest-directory-flush ]; then
            recode 2 "$dir" kvarve:small:2 --tables "$tables"
            expect "a recode killed at $site: and again" 0
        fi
        check "a recode killed at $site: as if it had not been" 'other bytes' \
            [ "$(sum_of "$dir")" = "$(sum_of "$(folder_of kvarve:small:2)")" ]
    done
    cp -r "$(folder_of kvarve:small:2+base)" "$temp/loaded.kvs"
    keep "$temp/loaded.kvs"
    for how in full base; do
        for visit in 1 4; do
            resume 3 "$temp/loaded.kvs" --load $how --fail-at segment-read:1:${visit}kill
            check "a load ($how) killed at chunk $visit" "exit status $status" [ "$status" -ne 0 -a "$status" -ne 124 ]
            wait_for 10 is_gone "$temp/loaded.kvs" || failed "a load ($how) killed at chunk $visit" 'a rank is left'
            fingerprint "$temp/loaded.kvs" >"$temp/now"
            check "a load ($how) killed at chunk $visit: nothing changed" 'it did' cmp "$temp/now" "$temp/kept"
        done
    done
    kept=
}

# Whatever comes first: what is not exact must not become exact by itself.
mixed() {
    dir=$temp/mixed.kvs
    n=0
    for codec in none lossless kvarve:fast:2; do
        n=$((n + 1))
        given='' on=''
        case $codec in kvarve*) given="--tables $tables" ;; esac
        [ $n -eq 1 ] || on="--resume $dir"
        pages $n >"$temp/pages"
        # shellcheck disable=SC2086
        generate 1 --prompt-file "$temp/pages" --max-tokens 0 $on --save "$dir" --codec $codec $given
        expect "mixed: $codec" 0
    done
    keep "$dir"
    run 2 snapshot compact "$dir"
    refused 'mixed: compact' 2 'coded in different ways' '--codec'
    kept=
    pages 4 >"$temp/pages"
    generate 1 --prompt-file "$temp/pages" --max-tokens 0 --resume "$dir" --save "$dir" --codec kvarve:small:2 \
        --tables "$tables"
    expect 'mixed: kvarve:small:2' 0
    generate 1 --prompt-file "$temp/pages" --max-tokens 1 --resume "$dir" --save "$temp/after-mixed.kvs"
    expect 'mixed: what goes on from two codecs' 0
    check 'mixed: what goes on from two codecs: says so' 'it does not' \
        has_state "$temp/after-mixed.kvs" 'computed over kvarve:fast:2 and others'
    check 'mixed: what goes on from two codecs: a NOTE' 'there is none' \
        grep -q 'NOTE: --resume .* came through kvarve:fast:2 and others, or was' "$temp/err"
}

options() {
    for codec in kvarve kvarve:fast kvarve:fast:0 kvarve:small:10 kvarve:small:9b cachegen cachegen:5 lossy none:1 \
        lossless+base cachegen:2+base kvarve:fast:2+bas kvarve:fast:2+base+base; do
        generate 1 --prompt x --save "$temp/x.kvs" --codec $codec --tables "$tables"
        refused "--codec $codec" 2 "--codec $codec: expected none, lossless, cachegen:1"
    done
    generate 1 --prompt x --codec kvarve:small:2
    refused 'a codec for nothing' 2 '--codec needs --save'
    generate 1 --prompt x --save "$temp/x.kvs" --tables "$tables"
    refused 'tables for nothing' 2 '--tables is for codecs that are not exact'
    generate 1 --prompt x --save "$temp/x.kvs" --codec kvarve:small:2 --tables "$all/text"
    refused 'no tables in the file' 2 "--tables $all/text: " 'no tables of kvarve calibrate'
    two_layers two
    generate_on "$model_copy" 2 --prompt x --save "$temp/x.kvs" --codec kvarve:small:2 --tables "$tables"
    refused "another model's tables" 2 'tables for 8 layers' 'the model has 2'
    run 1 snapshot recode "$all/exact.kvs"
    refused 'recode without a codec' 2 'kvarve snapshot recode needs --codec'
    run 1 snapshot compact "$all/exact.kvs" --tables "$tables"
    refused 'compact with tables alone' 2 '--tables is for --codec'
}

run_chain calibrate
run_chain cachegen &
run_chain fast base base_first &
run_chain small damage distortion memory &
wait
run_chain goes_on reads &
run_chain near &
run_chain recodes mixed other_tables over_inexact exact_beginning &
run_chain options &
run_chain kills &
wait
end_test
