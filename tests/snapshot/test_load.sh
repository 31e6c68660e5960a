#!/bin/sh
# tests/snapshot/test_load.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: what is cached, loaded over links of many speeds, and
# computed where that is faster (--load auto): the same text however it came.
#
#   slow     the more is computed the slower the link is, over 1 to 3 ranks, of several lines at once
#   log      what became of each chunk
#   unseen   ranks that do not see the snapshot, for which others read
#   damage   what cannot be loaded is computed, and said; --load full refuses it
#   options  that do not fit
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

pages 6 >"$all/text"
saved=$all/saved.kvs
run_options='--threads 1 --memory-per-rank 300M'

# Read page by page, in a segment each, so that it is loaded piece by piece.
save() {
    for n in 1 2 3 4 5 6; do
        pages $n >"$temp/begin"
        generate 2 --prompt-file "$temp/begin" --max-tokens 0 --resume "$saved" --save "$saved"
        expect "a snapshot of $n pages" 0
    done
    generate 2 --prompt-file "$all/text" --max-tokens 20 --ignore-eos --temperature 0 --resume "$saved" --save "$saved"
    expect 'a snapshot' 0
    check 'a snapshot: segments' "$(n_segments_of "$saved")" [ "$(n_segments_of "$saved")" -ge 12 ]
    generate 1 --prompt-file "$all/text" --max-tokens 40 --ignore-eos --temperature 0
    expect 'never stopped' 0 && cp "$temp/out" "$all/whole"
    awk 'BEGIN { ORS = "\\n" } { gsub(/["\\]/, "\\\\&"); print }' "$all/text" >"$all/escaped"
    for n in 1 2; do
        printf '{"id": %d, "prompt": "%s", "max_tokens": 40}\n' $n "$(cat "$all/escaped")"
    done >"$all/twice.jsonl"
}

resume() { # resume NP DIR OPTIONS...
    np=$1 dir=$2
    shift 2
    generate "$np" --prompt-file "$all/text" --max-tokens 40 --ignore-eos --temperature 0 --resume "$dir" "$@"
}

computed() { # how many positions of what was cached
    sed -n 's/.*of what was cached, [0-9]* positions were loaded and \([0-9]*\) computed.*/\1/p' "$temp/err"
}

loaded() {
    sed -n 's/.*of what was cached, \([0-9]*\) positions were loaded and .*/\1/p' "$temp/err"
}

cached() {
    sed -n 's/^kvarve: .* holds \([0-9]*\) of [0-9]* tokens of .*/\1/p' "$temp/err"
}

# The table at the end, and the report, tell the same.
is_told_everywhere() {
    for figure in "loaded_tokens\": $(loaded)" "recomputed_tokens\": $(computed)"; do
        grep -q "^ *\"$figure,\$" "$temp/report.json" || return 1
    done
    grep -q ": $(loaded) tokens were not computed but loaded" "$temp/err"
}

slow() {
    for np in $some; do
        resume $np "$saved" --load auto --io-bandwidth $((4000 / np))K --report "$temp/report.json"
        ends_as "auto, $np ranks, both" 0 "$all/whole"
        check "auto, $np ranks, both: loaded" "$(loaded)" [ "$(loaded)" -gt 0 ]
        check "auto, $np ranks, both: told" 'not the same everywhere' is_told_everywhere
        # How much is computed of what is there at once is for test_load_race to say, and for the machine's load here.
        resume $np "$saved" --load auto
        ends_as "auto, $np ranks" 0 "$all/whole"
        check "auto, $np ranks: all of it" "$(loaded) and $(computed)" [ $(($(loaded) + $(computed))) -eq "$(cached)" ]
        resume $np "$saved" --load auto --io-bandwidth 30K
        ends_as "auto, $np ranks, a slow link" 0 "$all/whole"
        check "auto, $np ranks, a slow link: computed" "$(computed)" [ "$(computed)" -gt 500 ]
    done
    resume 2 "$saved" --load full --io-bandwidth 1M
    ends_as 'full, a slow link' 0 "$all/whole"
    check 'full, a slow link: all loaded' 'not said' grep -q 'tokens were not computed but loaded' "$temp/err"
    resume 2 "$saved" --load recompute --io-bandwidth 1K
    ends_as 'recompute' 0 "$all/whole"
    check 'recompute: nothing loaded' 'something' [ -z "$(grep 'but loaded' "$temp/err")" ]
}

# Lines that are being loaded, computed and generated at once, and saved meanwhile.
lines() {
    awk 'BEGIN {
        for (i = 0; i < 4; i++) {
            printf "{\"id\": %d, \"max_tokens\": %d, \"ignore_eos\": true, \"tokens\": [300", i, 10 + 5 * i
            for (k = 1; k < 700 - 150 * i; k++) printf ", %d", 10 + (k * k + 7 * i) % 4000
            print "]}"
        }
    }' >"$temp/lines.jsonl"
    sed 's/"max_tokens": [0-9]*/"max_tokens": 0/' "$temp/lines.jsonl" >"$temp/read.jsonl"
    generate 2 --input "$temp/read.jsonl" --output "$temp/o" --save "$temp/lines.kvs"
    expect 'lines that are read' 0
    generate 1 --input "$temp/lines.jsonl" --output "$temp/o"
    expect 'lines' 0 && sort "$temp/o" >"$temp/whole"
    for np in ${some#1 }; do
        rm -f "$temp/o"
        generate $np --input "$temp/lines.jsonl" --output "$temp/o" --resume "$temp/lines.kvs" --sequences 3 \
            --load auto --io-bandwidth 100K --save "$temp/again-$np.kvs" --save-every 5
        results_as "lines by $np" 0 "$temp/o" "$temp/whole"
        check "lines by $np: computed" "$(computed)" [ "$(computed)" -gt 100 ]
        check "lines by $np: verified" 'it is not' is_verified "$temp/again-$np.kvs"
    done
}

# All layers of all positions, by each rank its own, in one way or another.
log() {
    for np in $some; do
        check_log $np 4000 loaded
        check_log $np 30 computed
        check_stopped_log $np
    done
    generate 1 --prompt x --load-log "$temp/log.csv"
    refused '--load-log alone' 2 '--load-log is for --resume'
}

check_log() { # check_log NP KBYTES WAY: over a link of that speed, so that some come this way at least
    np=$1 title="a log, $1 ranks, $3"
    resume $np "$saved" --load auto --io-bandwidth $(($2 / np))K --load-log "$temp/log.csv"
    ends_as "$title" 0 "$all/whole"
    check_chunks "$title" "$3"
}

# Of a run that ends before all is there, two lines that are loaded one after the other: what of them was dropped.
check_stopped_log() { # check_stopped_log NP
    title="a log, $1 ranks, stopped"
    rm -rf "$temp/stopped.kvs" "$temp/o"
    generate $1 --input "$all/twice.jsonl" --output "$temp/o" --sequences 2 --resume "$saved" --load full \
        --io-bandwidth 50K --max-time 0.01s --save "$temp/stopped.kvs" --load-log "$temp/log.csv"
    expect "$title" 75 || return
    check_chunks "$title" dropped
}

check_chunks() { # check_chunks NAME WAY: of all that is cached, by each rank its own layers, some in this way
    title=$1
    awk -F, -v n="$(cached)" -v computed="$(computed)" -v way="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) of[$i] = i; next }
        {
            for (l = $of["first_layer"]; l <= $of["last_layer"]; l++) {
                seen[l] += $of["last_position"] - $of["first_position"] + 1
                if (l in owner && owner[l] != $of["rank"]) bad = "two ranks have a layer"
                owner[l] = $of["rank"]
            }
            ways[$of["way"]]++
            if ($of["way"] == "computed" && $of["last_position"] >= computed) bad = "computed, but not said"
            if ($of["way"] == "loaded" && ($of["bytes"] <= 0 || $of["read_seconds"] <= 0)) bad = "loaded of nothing"
            if ($of["way"] == "computed" && $of["bytes"] != 0) bad = "bytes that nobody read"
        }
        END {
            for (l in seen) { n_layers++; if (seen[l] != 2 * n) bad = "layer " l ": " seen[l] " of " 2 * n }
            if (n_layers != 8 || !ways[way] || ways["failed"]) bad = bad " ways"
            if (bad) print bad
        }' "$temp/log.csv" >"$temp/bad"
    check "$title: of every chunk" "$(cat "$temp/bad")" [ ! -s "$temp/bad" ]
}

# Ranks that do not see it: of what is loaded, and of what is damaged.
unseen() {
    for np in 2 3; do
        blind=$((np - 1))
        title="unseen by rank $blind of $np"
        resume $np "$saved" --fail-at load-see:$blind
        ends_as "$title" 0 "$all/whole"
        check "$title: said" 'it is not' \
            grep -q "NOTE: --resume $saved: 1 of $np ranks do not see it: rank $blind (rank 0 reads for it)" \
            "$temp/err"
        resume $np "$saved" --fail-at load-see:$blind --load auto --io-bandwidth 200K --save "$temp/$np$blind.kvs"
        ends_as "$title, auto" 0 "$all/whole"
        check "$title, auto: computed" "$(computed)" [ "$(computed)" -gt 0 ]
        check "$title: verified" 'it is not' is_verified "$temp/$np$blind.kvs"
    done
    dir=$temp/bad.kvs
    for which in 1p '$p'; do
        rm -rf "$dir"
        cp -r "$saved" "$dir"
        segment=$(segments_of "$dir" | sed -n "$which")
        flip "$dir/$segment" $(($(file_bytes "$dir/$segment") / 2))
        resume 2 "$dir" --fail-at load-see:1
        refused "unseen, a damaged $segment" 2 "$segment: /layers/" damaged
        rm "$dir/$segment"
        resume 2 "$dir" --fail-at load-see:1
        refused "unseen, without $segment" 2 "$segment: cannot be opened"
    done
}

# The row behind its last.
end_of() { # end_of SEGMENT
    echo "$1" | sed 's/.*T[0-9]*-0*\([0-9]*\).*/\1/'
}

says_damage() { # says_damage NAME SEGMENT
    check "$1: a NOTE" 'there is none' grep -q "NOTE: .*$2: /layers/.*damaged.*computed again" "$temp/err"
}

damage() {
    dir=$temp/bad.kvs
    cp -r "$saved" "$dir"
    segment=$(segments_of "$dir" | head -n 1)
    flip "$dir/$segment" $(($(file_bytes "$dir/$segment") / 2))
    for np in 1 2; do
        resume $np "$dir"
        refused "damage, full, $np ranks" 2 "$segment: /layers/" damaged
        resume $np "$dir" --load auto
        ends_as "damage, auto, $np ranks" 0 "$all/whole"
        # On a busy machine all of its rows may be computed before a rank comes to read them: then nobody knows.
        [ "$(computed)" -ge "$(end_of "$segment")" ] || says_damage "damage, auto, $np ranks" "$segment"
    done
}

# Of the rows in the middle, and of the last: what is computed is all that is missing.
damage_behind() {
    rows=$("$kvarve" snapshot info "$saved" | sed -n 's/.* \([0-9]*\) rows$/\1/p')
    for segment in $(segments_of "$saved" | sed -n '5p; $p'); do
        dir=$temp/behind.kvs
        rm -rf "$dir"
        cp -r "$saved" "$dir"
        flip "$dir/$segment" $(($(file_bytes "$dir/$segment") / 2))
        end=$(end_of "$segment")
        for np in 1 2; do
            resume $np "$dir" --load auto --io-bandwidth $((8000 / np))K
            ends_as "damage in $segment, auto, $np ranks" 0 "$all/whole"
            check "damage in $segment, auto, $np ranks: computed" "$(computed) of $rows, damage before $end" \
                [ "$(computed)" -ge $((end < rows ? end - 64 : rows - 65)) ]
            # The last rows are read first, and so is what is wrong with them.
            [ "$end" -lt "$rows" ] || says_damage "damage in $segment, auto, $np ranks" "$segment"
        done
    done
}

options() {
    resume 1 "$saved" --deadline 0.001s
    expect 'a deadline' 0
    check 'a deadline: a NOTE' 'there is none' \
        grep -q 'NOTE: --deadline 0.001 s: the first token came after' "$temp/err"
    resume 1 "$saved" --deadline 1h
    check 'a deadline that is met' 'a NOTE' [ -z "$(grep 'NOTE: --deadline' "$temp/err")" ]
    generate 1 --prompt x --load auto
    refused '--load alone' 2 '--load is for --resume, which is not given'
    generate 1 --prompt x --io-bandwidth 1M
    refused '--io-bandwidth alone' 2 '--io-bandwidth is for --resume'
    generate 1 --prompt x --resume "$saved" --load fast
    refused '--load fast' 2 '--load fast: expected full, auto, base or recompute'
    generate 1 --prompt x --resume "$saved" --io-bandwidth 0
    refused '--io-bandwidth 0' 2 '--io-bandwidth 0'
}

some='1 2 3'
if is_slow; then some=2; fi
run_chain save
run_chain slow &
run_chain lines &
run_chain damage damage_behind options &
run_chain unseen log &
wait
end_test
