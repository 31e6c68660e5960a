#!/bin/sh
# tests/command/test_codec.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: kvarve calibrate, and perplexity behind contexts
# that went through a codec: the same over any number of ranks, nothing lost by a codec that loses nothing, and more
# bits for less divergence by those that do.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

calibrate() { # calibrate NP OPTIONS...
    np=$1
    shift
    run "$np" calibrate --model "$model" --threads 1 --device cpu "$@"
}
score() { # score NP CODEC OPTIONS...: three contexts of 80 tokens, 16 scored behind each
    np=$1 codec=$2
    shift 2
    run "$np" perplexity --model "$model" --threads 1 --device cpu --file "$all/text" --context 80 --scored 16 \
        --windows 3 --context-codec "$codec" "$@"
}
value() { # value NAME: of the last result
    sed -n "s/^$1  *\([^ ]*\).*/\1/p" "$temp/out"
}
# as_printed REPORT: the lines of the result that have these figures
as_printed() {
    tr ',{}' '\n\n\n' <"$1" | awk -F'": *' '
        { sub(/^[ \t]*"/, "", $1) }
        NF == 2 && $2 == "" { group = $1 "." }
        NF == 2 && $2 != "" { of[$1 == "mean" || $1 == "half_interval" ? group $1 : $1] = $2 }
        END {
            printf "tables          %s\n", substr(of["tables_digest"], 2, 16)
            printf "bits            %.4f per element (K %.4f, V %.4f)\n",
                of["bits_per_element"], of["k_bits_per_element"], of["v_bits_per_element"]
            printf "error           K %.3e, V %.3e of their mean squares\n", of["k_error"], of["v_error"]
            if ("tokens_kept_exactly" in of)
                printf "kept otherwise  %.2f%% of tokens exactly, %.2f%% with 8 bits\n",
                    100 * of["tokens_kept_exactly"], 100 * of["tokens_kept_with_8_bits"]
            printf "bytes a token   %.0f exact; changed %.1f\n", of["bytes_per_token"], of["changed_bytes_per_token"]
            printf "nll per token   %.6f exact; changed %+.6f +- %.6f\n",
                of["nll"], of["nll_change.mean"], of["nll_change.half_interval"]
            printf "perplexity      %.4f exact; changed %+.3f%% +- %.3f%%\n", of["perplexity"],
                100 * of["perplexity_change.mean"], 100 * of["perplexity_change.half_interval"]
            printf "divergence      %.3e +- %.3e nats per token\n",
                of["divergence.mean"], of["divergence.half_interval"]
            printf "likeliest token %.2f%% the same; right %.2f%% exact, %.2f%% changed\n", 100 * of["same_likeliest"],
                100 * of["right_likeliest"], 100 * of["changed_right_likeliest"]
            printf "pass keys       %d of %d answered exact, %d changed\n",
                of["answered_keys"], of["pass_keys"], of["changed_answered_keys"]
            printf "nll per digit   %.6f exact; changed %+.6f +- %.6f\n",
                of["digit_nll"], of["digit_nll_change.mean"], of["digit_nll_change.half_interval"]
        }'
}

tables() {
    cat "$page" "$page" "$page" >"$all/text"
    for np in 1 2 3; do
        calibrate $np --sample "$all/text" --sample "$page" --context 100 --windows 3 --output "$all/tables.$np"
        expect "calibrate, $np ranks" 0 || return
        check "calibrate, $np ranks: the file" 'it differs' cmp "$all/tables.1" "$all/tables.$np"
    done
    check 'calibrate: few tokens' 'no NOTE' \
        grep -q 'NOTE: --sample: [1-9][0-9]* tokens are few for bases of 256 numbers' "$temp/err"
    check 'calibrate: says what it did' 'not said' grep -q 'tables of [0-9]* layers from [1-9][0-9]* tokens' "$temp/out"
    calibrate 1 --output "$temp/t"
    refused 'calibrate without samples' 2 'needs --sample'
    calibrate 1 --sample "$page"
    refused 'calibrate without a file' 2 'needs --output'
    calibrate 2 --sample "$page" --context 1000000 --output "$temp/t"
    refused 'calibrate: a window longer than the text' 2 'and a window takes 1000000'
    calibrate 1 --sample "$temp/nowhere" --output "$temp/t"
    refused 'calibrate: no such text' 2 'nowhere'
    check 'calibrate: nothing is written' 'it is' [ ! -e "$temp/t" ]
}

# What a rank takes without samples, and 1 to 2 MiB more: enough for few of them, which are 0.5 MiB, not for all.
memory() {
    how='--layers-per-rank 4,4 --context 100 --sequences 1'
    # shellcheck disable=SC2086 # several words
    run 1 plan --model "$model" --ranks 2 --device cpu --memory-per-rank 250M $how
    most=$(sed -n 's/^fits: the largest rank takes \([0-9]*\).*/\1/p' "$temp/out")
    how="$how --sample $all/text --sample $all/text --memory-per-rank $((most + 4))M --output $temp/t"
    # shellcheck disable=SC2086 # several words
    calibrate 2 --windows 100 $how
    refused 'calibrate: samples beyond the memory' 2 'may take' 'as --memory-per-rank says, but needs' 'or raise that'
    # shellcheck disable=SC2086 # several words
    calibrate 2 --windows 1 $how
    expect 'calibrate: samples within the memory' 0 && ok 'calibrate: samples within the memory'
}

losses() {
    score 1 lossless
    expect 'lossless' 0 || return
    check 'lossless: no divergence' "$(value divergence)" [ "$(value divergence)" = 0.000e+00 ]
    check 'lossless: no change' 'there is one' grep -q '^perplexity .* changed +0.000% +- 0.000%$' "$temp/out"
    score 1 lossless --keys 2
    expect 'lossless, keys' 0 || return
    check 'lossless, keys: some answered' 'not so' \
        grep -q '^pass keys  *\([1-6]\) of 6 answered exact, \1 changed$' "$temp/out"
    check 'lossless, keys: no change' 'there is one' \
        grep -q '^nll per digit  *[0-9.]* exact; changed +0.000000 +- 0.000000$' "$temp/out"
    check 'bytes of a token' 'not so' awk '
        $1 == "bits" { bits = $2 }
        $1 == "bytes" { exit !($4 == 4096 && ($7 - 4096 * bits / 16) ^ 2 < 1) }' "$temp/out"
    score 1 lossless --key-depths 0,100 --add-bos --report "$temp/report"
    expect 'lossless, keys at depths' 0 || return
    check 'lossless, a begin token' 'not so' \
        grep -q '^begin token  *4088 before each context, one of its tokens$' "$temp/out"
    for percent in 0 100; do
        check "lossless, keys at ${percent}%" 'not so' \
            grep -q "^ *{\"percent\": $percent, \"asked\": 3, \"answered\": \([0-3]\), \"changed_answered\": \1}" \
            "$temp/report"
    done
    before=
    for level in 1 2 3 4; do
        score 1 cachegen:$level --tables "$all/tables.1" --keys 1
        expect "cachegen:$level" 0 || return
        cp "$temp/out" "$temp/cachegen.$level"
        now="$(value bits) $(value divergence)"
        [ -z "$before" ] || check "cachegen:$level: fewer bits, more divergence" "$before, then $now" \
            awk -v a="$before" -v b="$now" 'BEGIN { split(a, x); split(b, y); exit !(x[1] > y[1] && x[2] < y[2]) }'
        before=$now
    done
    check 'cachegen: bits' "$(value bits)" awk -v bits="$(value bits)" 'BEGIN { exit !(bits > 1 && bits < 4) }'
    for np in 2 3; do
        score $np cachegen:2 --tables "$all/tables.1" --keys 1 --chunk-tokens 24 --report "$temp/report"
        expect "cachegen:2, $np ranks" 0 || return
        check "cachegen:2, $np ranks" 'another result' cmp "$temp/out" "$temp/cachegen.2"
    done
    as_printed "$temp/report" >"$temp/reported"
    sed -n "s|^\(tables  *\)$all/tables.1, |\1|; 5,\$p" "$temp/out" >"$temp/printed"
    check 'no NOTE of tables or bf16' 'there is one' [ -z "$(grep 'NOTE: --' "$temp/err")" ]
    check 'the report has the figures' "$(diff "$temp/printed" "$temp/reported")" cmp "$temp/printed" "$temp/reported"
}

ours() {
    for kind in fast small; do
        before=
        for level in 1 3 6; do
            score 1 kvarve:$kind:$level --tables "$all/tables.1"
            expect "kvarve:$kind:$level" 0 || return
            cp "$temp/out" "$temp/$kind.$level"
            now="$(value bits) $(value divergence)"
            [ -z "$before" ] || check "kvarve:$kind:$level: fewer bits, more divergence" "$before, then $now" \
                awk -v a="$before" -v b="$now" \
                'BEGIN { split(a, x); split(b, y); exit !(x[1] > y[1] && x[2] < y[2] && y[1] > 1 && y[1] < 8) }'
            before=$now
        done
    done
    check 'kvarve: what it kept otherwise' 'not said' \
        grep -q '^kept otherwise  [0-9.]*% of tokens exactly, [0-9.]*% with 8 bits$' "$temp/fast.3"
    score 1 kvarve:fast:3+base --tables "$all/tables.1" --report "$temp/report"
    expect 'kvarve:fast:3+base' 0 || return
    check 'kvarve:fast:3+base: its base' "$(value bits) $(value divergence)" awk -v base="$(value bits)" \
        -v all="$(sed -n 's/^bits  *\([^ ]*\).*/\1/p' "$temp/fast.3")" 'BEGIN { exit !(base < 0.8 * all) }'
    check 'kvarve:fast:3+base: a NOTE' 'there is none' \
        grep -q 'NOTE: --context-codec .*the base does by itself' "$temp/err"
    check 'kvarve:fast:3+base: the report' 'what was kept is not there' grep -q '"tokens_kept_exactly": ' "$temp/report"
    check 'kvarve: bits are those of the chunk' 'K and V differ' grep -q '(K \([0-9.]*\), V \1)' "$temp/out"
    before=
    for bits in 2.5 3.5; do
        score 1 kvarve:fast:${bits}b --tables "$all/tables.1"
        expect "kvarve:fast:${bits}b" 0 || return
        check "kvarve:fast:${bits}b: its step" 'not said' grep -q '^step  *0[.][0-9]* of a unit$' "$temp/out"
        [ -z "$before" ] || check "kvarve:fast:${bits}b: one more" "$before, then $(value bits)" \
            awk -v a="$before" -v b="$(value bits)" 'BEGIN { exit !(b > a + 0.7 && b < a + 1.3) }'
        before=$(value bits)
    done
    for np in 2 3; do
        score $np kvarve:fast:3 --tables "$all/tables.1" --chunk-tokens 24
        expect "kvarve:fast:3, $np ranks" 0 || return
        for file in "$temp/out" "$temp/fast.3"; do sed '/^bits/d' "$file" >"$file.same"; done # more chunks, more heads
        check "kvarve:fast:3, $np ranks" 'another result' cmp "$temp/out.same" "$temp/fast.3.same"
    done
    score 2 kvarve:small:3 --tables "$all/tables.1" # the second rank's first layer is not predicted
    expect "kvarve:small:3, 2 ranks" 0 || return
    now=$(value bits)
    cp "$temp/small.3" "$temp/out"
    check 'kvarve:small:3, 2 ranks: about as large' "$(value bits) and $now" \
        awk -v a="$(value bits)" -v b="$now" 'BEGIN { exit !(b > 0.85 * a && b < 1.15 * a) }'
}

# noted NAME WHICH: the last run is done, and has this NOTE and not the other
noted() {
    expect "$1" 0 || return
    case $2 in
    tables) has='--tables .*/tables.1: calibrated on another model than ' not='--precision f32' ;;
    f32) has='--precision f32: the elements that cachegen:2 escapes' not='--tables' ;;
    esac
    check "$1: its NOTE" "$(grep NOTE "$temp/err")" grep -q "NOTE: $has" "$temp/err"
    check "$1: no other" "$(grep NOTE "$temp/err")" [ -z "$(grep "NOTE: $not" "$temp/err")" ]
}

notes() {
    score 2 cachegen:2 --tables "$all/tables.1" --weights int8
    noted 'tables of other weights' tables
    score 2 cachegen:2 --tables "$all/tables.1" --precision f32
    noted 'rounded escapes' f32
    score 1 lossless --precision f32
    check 'lossless in f32: no NOTE of escapes' 'there is one' [ -z "$(grep 'NOTE: --precision f32: the' "$temp/err")" ]
}

bad() {
    score 2 cachegen:5 --tables "$all/tables.1"
    refused 'no such level' 2 'expected none, lossless, cachegen:1 to cachegen:4, kvarve:fast:1 to'
    score 1 zstd
    refused 'no such codec' 2 '--context-codec zstd: expected'
    for codec in kvarve kvarve:fast kvarve:fast: kvarve:small:a kvarve:small:0 kvarve:small:33 kvarve:tiny:1 \
        cachegen: kvarve:small:b kvarve:small:0b kvarve:small:1.1 kvarve:small:1bit kvarve:small:infb; do
        score 1 $codec --tables "$all/tables.1"
        refused "no codec: $codec" 2 "--context-codec $codec: expected"
    done
    score 1 cachegen:1
    refused 'no tables' 2 'needs --tables FILE, which kvarve calibrate makes'
    score 2 cachegen:1 --tables "$page"
    refused 'other tables' 2 "page.txt: no tables of kvarve calibrate"
    head -c 1000 "$all/tables.1" >"$temp/cut"
    score 1 cachegen:1 --tables "$temp/cut"
    refused 'tables that are cut off' 2 'cut: the digest of the tables does not match'
    run 1 perplexity --shape tiny --threads 1 --file "$page" --context 8 --scored 8 --context-codec cachegen:1 \
        --tables "$all/tables.1"
    refused 'tables of another model' 2 'the model has 4, 2 of 32'
    score 2 lossless --keys 3
    refused 'keys: no room' 2 'the sentences of 3 pass keys take ' ' tokens of a context of 80: raise'
    score 1 lossless --key-depths 50,10
    refused 'keys that do not rise' 2 '--key-depths 50,10: expected them to rise'
    run 1 perplexity --model "$model" --file "$page" --tables "$all/tables.1"
    refused 'tables for nothing' 2 '--tables is for --context-codec'
}

run_chain tables
run_chain memory &
run_chain losses &
run_chain ours &
run_chain notes &
run_chain bad &
wait
end_test
