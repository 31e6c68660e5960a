#!/bin/sh
# tests/snapshot/test_snapshot_command.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: kvarve snapshot info, verify, text and
# compact.
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"

# A prompt in three saves of two ranks, and a batch of which a line is done, two have begun, and two wait.
make_snapshots() {
    base=$all/base.kvs batch=$all/batch.kvs
    for n in 0 20 40; do
        generate 2 --prompt-file "$page" --layers-per-rank 5,3 --max-tokens $n --ignore-eos --save "$base" \
            --resume "$base"
        expect "save $n" 0 || return
    done
    cat "$page" "$temp/out" >"$all/text" # that ends with a newline of its own
    generate 1 --prompt-file "$page" --max-tokens 60 --ignore-eos
    cp "$temp/out" "$all/whole"
    # The first save of each run is due after so many tokens, and holds what is there then, however long it takes: at
    # 10 tokens two lines have begun; 30 tokens later the first one is over, the third has begun, and two wait.
    n=0
    for id in '"a"' '"B and more"' 3 '"z\u00e4h"' '"a line\nand more"'; do
        n=$((n + 1))
        printf '{"id": %s, "prompt": "The house", "max_tokens": %d, "ignore_eos": true, "seed": %d}\n' "$id" \
            $((n == 1 ? 4 : 400)) $n
    done >"$all/prompts"
    for every in 10 30; do
        generate 1 --input "$all/prompts" --output "$all/results" --sequences 2 --resume "$batch" --save "$batch" \
            --save-every $every --fail-at manifest-rename:0:2kill
        check "a batch is stopped, $every" "exit status $status" [ "$status" -gt 100 -a -e "$batch/manifest.h5" ]
    done
    generate 1 --input "$all/prompts" --sequences 2
    cp "$temp/out" "$all/whole_results"
}

snapshot() { # snapshot NP ACTION DIR ARGUMENTS...
    np=$1
    shift
    run "$np" snapshot "$@"
}

# Every row of the table that begins with this word ends its columns where the heading does.
is_aligned() { # is_aligned HEADING
    sed 's/ä/a/g' "$temp/out" | awk -v heading="$1" '
        $1 == heading { inside = 1; last = length($0); sub(/ +[a-z]+$/, ""); width = length($0); rows = 0; next }
        inside && NF == 0 { inside = 0 }
        inside { rows++; behind = substr($0, width + 1, 2) }
        inside && (substr($0, width, 1) !~ /[0-9x]/ || (behind != "" && behind != "  ")) { bad = 1 }
        END { exit bad || rows == 0 }'
}

info() {
    snapshot 1 info "$base"
    expect info 0 || return
    for part in "^snapshot  *.*/base.kvs, format 1, save 3$" '^model  *[^ ]*model$' \
        'digest [0-9a-f]\{32\}, rope theta' \
        '^tokenizer  *digest [0-9a-f]\{32\}$' '^cache  *8 layers x 2 kv heads x 64, bf16, .* 242 rows$' \
        '^saved  *20.* UTC on .* by kvarve [0-9.]*, 2 ranks, .* computed$' '--max-tokens 40 ' \
        '^0  *203  *40  *242  *0.9  length$' '^L000-005.*S0001.h5  *0..4  *203 .*x  lossless$' '^all  .*x$'; do
        check "info: $part" 'not there' grep -q -- "$part" "$temp/out"
    done
    check 'info: six segments' 'more or fewer' [ "$(grep -c '^L00' "$temp/out")" -eq 6 ]
    grep '^L00' "$temp/out" | sed 's/\(L[^.]*\)\.\(T[^.]*\).*/\2 \1/' >"$temp/order"
    check 'info: segments in order' 'they are not' sort -c "$temp/order"
    check 'info: columns of segments' 'not aligned' is_aligned segment
    check 'info: nothing on stderr' 'something' [ "$(grep -c kvarve "$temp/err")" -eq 0 ]
    snapshot 3 info "$base"
    check 'info, 3 ranks' 'not once' [ "$(grep -c '^snapshot' "$temp/out")" -eq 1 ]
    snapshot 1 info "$batch"
    expect 'info of a batch' 0 || return
    check 'info of a batch' 'no lines done' grep -q '^batch  *1 of 5 lines done$' "$temp/out"
    check 'info of a batch: states' 'nothing is generating' grep -q '  generating$' "$temp/out"
    check 'info of a batch: columns of sequences' 'not aligned' is_aligned sequence
}

text() {
    snapshot 1 text "$base"
    check text 'not the prompt and what follows it' cmp "$temp/out" "$all/text"
    snapshot 2 text "$base" --id 0
    check 'text --id, 2 ranks' 'not the prompt and what follows it' cmp "$temp/out" "$all/text"
    snapshot 1 text "$batch"
    check 'text of a batch' 'not a line for each' [ "$(grep -c '^--- ' "$temp/out")" -eq 2 ]
    check 'text of a batch: prompts' 'not there' [ "$(grep -c '^The house' "$temp/out")" -eq 2 ]
    snapshot 1 info "$batch"
    id=$(sed -n '/^sequence/,/^$/p' "$temp/out" | sed -n '2s/  .*//p')
    snapshot 1 text "$batch" --id "$id"
    check "text --id" 'not one prompt' [ "$status" -eq 0 -a "$(grep -c '^The house' "$temp/out")" -eq 1 ]
    for np in 1 3; do
        snapshot $np text "$batch" --id nobody
        refused "text of an id that is not there, $np ranks" 2 'no sequence with --id nobody' \
            "snapshot info $batch lists them"
    done
}

verify() {
    for np in 1 3; do
        snapshot $np verify "$base" --threads 2
        expect "verify, $np ranks" 0 || continue
        check "verify, $np ranks" 'no speed' \
            grep -q '/base.kvs: 6 segments, 0.[67] MiB of chunks read in [0-9.]* s: [0-9.]* GB/s$' "$temp/out"
        check "verify, $np ranks: result" 'none' grep -qx 'every checksum matches' "$temp/out"
    done
    for file in "$base"/L*; do
        name=${file##*/}
        rm -rf "$temp/damaged.kvs"
        cp -r "$base" "$temp/damaged.kvs"
        flip "$temp/damaged.kvs/$name" $(($(file_bytes "$file") * 2 / 5)) # in a frame
        rows=$(echo "$name" | sed 's/.*\.T0*\([0-9][0-9]*\)-.*/\1/')
        snapshot 1 verify "$temp/damaged.kvs" --threads 3
        expect_error "verify: a flipped bit in $name" 2 'damaged objects: 1)' &&
            check "verify: a flipped bit in $name" 'another object is named' grep -q \
                "^kvarve: error: .*damaged.kvs/$name: /layers/[0-7]/[kv], rows $rows to [0-9]*: .*damaged" "$temp/err"
    done
    # Two more objects, one of another file: the last of 6 segments is read by the last of 3 ranks.
    flip "$temp/damaged.kvs/L000-005.T00000000-00000203.S0001.h5" 100000
    rm "$temp/damaged.kvs/L005-008.T00000000-00000203.S0001.h5"
    for np in 1 3; do
        snapshot $np verify "$temp/damaged.kvs"
        expect_error "verify: three damaged objects, $np ranks" 2 'damaged objects: 3)' &&
            check "verify: three damaged objects, $np ranks" 'none is named' grep -q \
                '^kvarve: error: .*damaged.kvs/L00.*h5: ' "$temp/err"
        check "verify: not all well, $np ranks" 'it says so' grep -qv 'every checksum' "$temp/out"
    done
    flip "$temp/damaged.kvs/manifest.h5" 5000
    for action in info verify text compact; do
        snapshot 1 $action "$temp/damaged.kvs"
        refused "$action: damaged manifest" 2 'damaged.kvs/manifest.h5: ' ': damaged'
    done
}

# go_on NAME NP: the snapshot $copy goes on to the text of a run that never stopped.
go_on() {
    generate "$2" --prompt-file "$page" --max-tokens 60 --ignore-eos --resume "$copy" --save "$copy"
    expect "$1" 0 || return
    check "$1: reused" 'it is not' grep -q 'holds 242 of 243 tokens' "$temp/err"
    check "$1: text" 'another one' cmp "$temp/out" "$all/whole"
}

compact() {
    copy=$temp/copy.kvs
    for np in 1 3; do
        rm -rf "$copy"
        cp -r "$base" "$copy"
        snapshot $np compact "$copy"
        expect "compact, $np ranks" 0 || continue
        check "compact, $np ranks" 'not told' \
            grep -q "copy.kvs: 6 segments of 0.[0-9] MiB are now $np of 0.[0-9] MiB; 242 of 242 rows kept; " "$temp/out"
        find "$copy" -name 'L*' >"$temp/files"
        check "compact, $np ranks: files" "not $np" [ "$(wc -l <"$temp/files")" -eq "$np" ]
        check "compact, $np ranks: nothing else" 'there is' [ "$(find "$copy" | wc -l)" -eq $((np + 2)) ]
        snapshot 1 verify "$copy"
        expect "verify after compact, $np ranks" 0 && ok "verify after compact, $np ranks"
        go_on "resume after compact, $np ranks" $((4 - np))
    done
    snapshot 2 compact "$copy" --codec none
    check 'compact --codec none' 'not raw' grep -q '2 of 1.0 MiB; 262 of 262 rows' "$temp/out"

    # Lines that are done have left rows behind.
    cp -r "$batch" "$temp/batch.kvs"
    cp "$all/results" "$temp/results"
    snapshot 2 compact "$temp/batch.kvs"
    expect 'compact drops rows' 0 || return
    rows=$(sed -n 's/.*; \([0-9]* of [0-9]*\) rows kept.*/\1/p' "$temp/out")
    check 'compact drops rows' "$rows are kept" [ "${rows%% *}" -lt "${rows##* }" ]
    generate 3 --input "$all/prompts" --output "$temp/results" --sequences 2 --resume "$temp/batch.kvs" \
        --save "$temp/batch.kvs"
    expect 'a batch after compact' 0 || return
    sort "$temp/results" >"$temp/sorted"
    sort "$all/whole_results" >"$temp/expected"
    check 'a batch after compact' 'other results' cmp "$temp/sorted" "$temp/expected"
}

compact_fails() {
    copy=$temp/copy.kvs
    for site in segment-create segment-write:1 segment-flush:0 segment-rename:1 manifest-create manifest-write \
        manifest-flush manifest-rename; do
        rm -rf "$copy"
        cp -r "$base" "$copy"
        fingerprint "$copy" >"$temp/before"
        snapshot 2 compact "$copy" --fail-at $site
        refused "compact with a disk that fails at $site" 1 copy.kvs 'failed on demand'
        fingerprint "$copy" >"$temp/after"
        check "compact with a disk that fails at $site: the old state" 'something changed' \
            cmp "$temp/before" "$temp/after"
    done
    for site in segment-rename:1 manifest-rename:0 manifest-directory-flush:0; do
        rm -rf "$copy"
        cp -r "$base" "$copy"
        snapshot 2 compact "$copy" --fail-at $site:kill
        [ "$status" -ne 0 ] || failed "compact killed at $site" 'it is not'
        snapshot 2 compact "$copy"
        expect "compact after one that was killed at $site" 0 &&
            check "compact after one that was killed at $site" 'files are left' [ "$(find "$copy" | wc -l)" -eq 4 ]
    done
    go_on 'resume after that' 1
}

bad_words() {
    snapshot 1 inffo "$base"
    refused 'misspelt action' 2 'no action inffo; did you mean info?'
    snapshot 1 delete "$base"
    refused 'no such action' 2 'no action delete; there are info, verify, compact, recode and text'
    snapshot 1
    refused 'no action' 2 'needs an action first: info, verify, compact, recode or text'
    for action in info verify text compact; do
        for np in 1 3; do
            snapshot $np $action "$temp/no.kvs"
            refused "$action: DIR is missing, $np ranks" 2 'no.kvs'
        done
        check "$action: DIR is missing, and not made" 'it was' [ ! -e "$temp/no.kvs" ]
        snapshot 1 $action
        refused "$action: no DIR" 2 "snapshot $action needs the directory of a snapshot"
        snapshot 1 $action "$page"
        refused "$action: DIR is a file" 2 "page.txt"
        snapshot 1 $action "$base" "$batch"
        refused "$action: two DIRs" 2 "one directory, not $batch as well"
    done
    snapshot 1 verify "$base" --id 0
    refused 'an option of another action' 2 '--id'
}

run_chain make_snapshots
run_chain compact &
run_chain compact_fails &
run_chain info text verify &
run_chain bad_words &
wait
end_test
