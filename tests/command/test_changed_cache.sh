#!/bin/sh
# tests/command/test_changed_cache.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: kvarve perplexity --kv int8, beside the exact
# cache of the same run: what is exact and what is not, over any number of ranks, beside a codec too; what it keeps; and
# what is refused. tests/command/test_codec.sh is about caches that a codec changes.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

score() { # score NP OPTIONS...: three contexts of 400 tokens, 16 scored behind each
    np=$1
    shift
    run "$np" perplexity --model "$model" --threads 1 --device cpu --file "$all/text" --context 400 --scored 16 "$@"
}
value() { # value NAME FILE: the figure of this name in a result
    sed -n "s/^$1  *\([^ ]*\).*/\1/p" "$2"
}
planned() { # planned REPORT: bytes of the first rank's plan
    sed -n 's/^ *"planned_bytes": \([0-9]*\),$/\1/p' "$1" | head -n 1
}

figures() {
    score 1 --windows 3 --keys 1 --context-codec none
    expect 'exact twice' 0 || return
    cp "$temp/out" "$temp/exact"
    some='1 2 4'
    if is_slow; then some='1 4'; fi
    for np in $some; do
        score $np --windows 3 --keys 1 --kv int8 --chunk-tokens $((16 + 24 * np)) --report "$temp/report.$np"
        expect "int8, $np ranks" 0 || return
        cp "$temp/out" "$temp/int8.$np"
        check "int8, $np ranks: the same" "$(diff "$temp/int8.1" "$temp/out")" cmp "$temp/int8.1" "$temp/out"
    done
    check 'int8: beside what' "$(cat "$temp/out")" [ "$(sed -n 's/^[a-z]* cache  *//p' "$temp/out")" = "bf16
int8" ]
    check 'int8: bytes of a token' "$(cat "$temp/out")" \
        grep -q '^bytes a token  *4096 exact; changed 2176.0$' "$temp/out"
    for name in 'nll per token' 'perplexity' 'nll per digit'; do
        check "int8: exact $name" "$(cat "$temp/exact" "$temp/out")" \
            [ "$(value "$name" "$temp/out")" = "$(value "$name" "$temp/exact")" ]
    done
    check 'int8: some divergence' "$(value divergence "$temp/out")" \
        awk -v d="$(value divergence "$temp/out")" 'BEGIN { exit !(d > 1e-6 && d < 1e-2) }'
    check 'int8: all keys' "$(cat "$temp/out")" grep -q '^pass keys  *3 of 3 answered exact, 3 changed$' "$temp/out"
    for text in '"exact_kv": "bf16"' '"kv": "int8"' '"changed_bytes_per_token": 2176' '"exact_seconds": [0-9]' \
        '"digit_nll_change": {"mean": ' '{"percent": 50, "asked": 3, "answered": 3, "changed_answered": 3}'; do
        check "int8: the report has $text" "$(cat "$temp/report.4")" grep -q "^ *$text" "$temp/report.4"
    done
    check 'int8: two engines are said' "$(grep NOTE "$temp/err")" \
        grep -q 'NOTE: these are times of the changed' "$temp/err"

    score 2 --windows 3 --keys 1 --kv int8 --context-codec none
    expect 'int8 and a codec' 0 || return
    for line in '^nll per token' '^divergence' '^nll per digit'; do
        check "int8 and a codec that loses nothing: $line" "$(cat "$temp/out")" \
            grep -q -x "$(grep "$line" "$temp/int8.1")" "$temp/out"
    done
    check 'int8 and a codec: its bits' "$(cat "$temp/out")" grep -q '^bits  *16[.]' "$temp/out"
}

# Distributions of 16 tokens in float32 for each window: of a bound that is asked for, in both engines.
memory() {
    for n in 1 3; do
        score 1 --windows $n --kv int8 --sequences 1 --memory-per-rank 1G --report "$temp/report.$n"
        expect "planned, $n windows" 0 || return
    done
    check 'planned: what is kept' "$(planned "$temp/report.3") and $(planned "$temp/report.1")" \
        [ $(($(planned "$temp/report.3") - $(planned "$temp/report.1"))) = $((2 * 16 * 4096 * 4)) ]
    score 1 --context 20 --scored 256 --windows 2 --kv int8 \
        --memory-per-rank $(($(planned "$temp/report.1") / 1048576 + 2))M
    refused 'no room for what is kept' 2 'may take' 'as --memory-per-rank says'
    check 'no room: what takes less' "$(cat "$temp/err")" grep -q \
        'NOTE: --kv int8: .* of 512 tokens are kept .*, 8.0 MiB in .*: fewer --windows or --scored' "$temp/err"
}

bad() {
    score 1 --keys 1 --kv bf16
    refused 'an exact cache' 2 '--keys is for a changed cache: give --context-codec, --evict, or --kv int8 or int4'
    score 1 --stride 8 --kv int8
    refused 'a stride' 2 '--stride is not for a changed cache'
    score 1 --tables "$page" --kv int8
    refused 'tables' 2 '--tables is for --context-codec, which is not given'
    score 2 --kv int8 --report "$temp"
    refused 'a report that is a folder' 2 'report'
}

for _ in 1 2 3 4 5 6 7; do cat "$page"; done >"$all/text"
run_chain figures &
run_chain memory &
run_chain bad &
wait
end_test
