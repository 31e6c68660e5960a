#!/bin/sh
# tests/generate/test_batch.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: files of prompts.
#
#   lines        as other programs write them: ids, encodings, keys, one id twice
#   text_file    the text of one prompt in a file
#   short_lines  contexts of many of them that are kept
#   shards       the scripts that share a file out, without Slurm
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"
run_under='timeout 120'

# ---- lines ----

# The text of the n-th result of this id.
text_of() { # text_of FILE ID N
    grep "^{\"id\": $2, " "$1" | sed -n "$3s/.*\"text\": \(\".*\"\), \"tokens\".*/\1/p"
}

lines() {
    cat >"$temp/lines.jsonl" <<'END_OF_LINES'
{"id": 1234567890123456789, "prompt": "The old house", "metadata": {"from": 1}}
{"custom_id": "b", "prompt": "The old house", "n": 1, "top_k": -1}
{"id": "b", "prompt": "The old house"}
{"id": "z\u0000", "prompt": "The \ud800"}
{"id": "c", "prompt": "\u0000"}
{"id": "d", "messages": [{"role": "user", "content": "Hello"}]}
END_OF_LINES
    how='--max-tokens 12 --ignore-eos --temperature 1'
    # shellcheck disable=SC2086 # several words, here and below
    generate 1 --input - --output "$temp/results" $how <"$temp/lines.jsonl"
    expect 'lines of other programs' 3 || return
    for id in 1234567890123456789 '"b"' '"z\\u0000"' '"c"' '"d"'; do
        check "the id $id comes out as it went in" 'it does not' grep -q "^{\"id\": $id, " "$temp/results"
    done
    check 'a zero character' 'not refused' grep -q '^{"id": "c", "finish_reason": "error", .*zero' "$temp/results"
    check 'messages' 'not said what to do' grep -q '^{"id": "d", .*apply_chat_template' "$temp/results"
    check 'one id twice' 'not told' grep -q 'NOTE: --input -: 1 id is there more than once, such as "b"' "$temp/err"
    check 'what is not used' 'not told' grep -q 'NOTE: standard input: "metadata" is not used' "$temp/err"

    # The same draws as that id had by itself, and others for its second line; also over a snapshot.
    text_of "$temp/results" '"b"' 1 >"$temp/first"
    text_of "$temp/results" '"b"' 2 >"$temp/second"
    check 'one id twice: draws' 'the same' [ "$(cat "$temp/first")" != "$(cat "$temp/second")" ]
    sed -n 3p "$temp/lines.jsonl" >"$temp/one.jsonl"
    generate 1 --input "$temp/one.jsonl" --output "$temp/alone" $how
    text_of "$temp/alone" '"b"' 1 >"$temp/text"
    check 'one id once: draws' 'not those that its first line has' \
        grep -qxF -f "$temp/text" "$temp/first" "$temp/second"
    sed -n 1,3p "$temp/lines.jsonl" >"$temp/three.jsonl"
    generate 1 --input "$temp/three.jsonl" --output "$temp/parts" $how \
        --save "$temp/parts.kvs" --save-every 1 --sequences 2 --max-time 0.01s
    expect 'one id twice: stopped early' 75
    generate 1 --input - --output "$temp/parts" $how \
        --save "$temp/parts.kvs" --resume "$temp/parts.kvs" <"$temp/three.jsonl"
    grep '^{"id": [1"][2b]' "$temp/results" | sort >"$temp/expected"
    results_as 'one id twice: resumed from stdin' 0 "$temp/parts" "$temp/expected"

    printf '\376\377\0{' >"$temp/utf16.jsonl"
    generate 1 --input "$temp/utf16.jsonl" --output "$temp/never"
    refused 'prompts in UTF-16' 2 'iconv -f UTF-16 -t UTF-8'
    generate 1 --prompt-file "$temp/utf16.jsonl"
    refused 'a prompt in UTF-16' 2 'iconv -f UTF-16 -t UTF-8'
    cp "$temp/one.jsonl" "$temp/same.jsonl"
    generate 1 --input - --output "$temp/same.jsonl" <"$temp/same.jsonl"
    refused 'results over the prompts on stdin' 2 'this is also the file of --input'
}

# ---- the text of one prompt, in a file ----

text_file() {
    seq 1000 >"$temp/text.txt"
    for np in 1 2; do
        generate $np --prompt 'The sea' --max-tokens 9 --echo --temperature 0 --text "$temp/text.txt"
        expect "--text, $np ranks" 0 || return
        check "--text, $np ranks" 'something on stdout too' [ ! -s "$temp/out" ]
    done
    generate 1 --prompt 'The sea' --max-tokens 9 --echo --temperature 0
    check '--text' 'another text than on stdout' cmp "$temp/out" "$temp/text.txt"
    start 1 --prompt 'The sea' --max-tokens 3000 --ignore-eos --context 4000 --text "$temp/growing.txt"
    check '--text: as it comes' 'not there before the end' wait_for 60 test -s "$temp/growing.txt"
    kill "$job"
    wait_job
    generate 1 --prompt-file "$temp/text.txt" --text "$temp/text.txt"
    refused '--text over the prompt' 2 'this is also the file of --prompt-file'
    generate 1 --prompt '' --text "$temp/never"
    check '--text of a refused run' 'a file is left' [ ! -e "$temp/never" ]
    generate 1 --input "$temp/text.txt" --text "$temp/never"
    refused '--text with --input' 2 '--output is for the results'
    [ ! -w /dev/full ] || {
        generate 1 --prompt 'The sea' --max-tokens 2 --text /dev/full
        check '--text: a full disk' "exit status $status" [ "$status" -eq 1 ]
    }
}

# ---- many short lines whose contexts are kept ----

short_lines() {
    i=0
    while [ $i -lt 300 ]; do
        i=$((i + 1))
        echo "{\"prompt\": \"The house number $i in the long street\", \"max_tokens\": $((i % 3 == 0))}"
    done >"$temp/short.jsonl"
    generate 1 --input "$temp/short.jsonl" --output "$temp/whole" --sequences 8
    sort "$temp/whole" >"$temp/expected"
    generate 1 --input "$temp/short.jsonl" --output "$temp/kept" --sequences 8 --save "$temp/kept.kvs" \
        --report "$temp/report.json"
    results_as 'short lines that are kept' 0 "$temp/kept" "$temp/expected"
    check 'short lines that are kept: one save' 'more' grep -q '"saves":[[:space:]]*1,' "$temp/report.json"
    check 'short lines that are kept: all are there' 'they are not' \
        [ "$("$kvarve" snapshot info "$temp/kept.kvs" | grep -c ' read$')" -eq 200 ]

    # So little room that several saves are needed: fewer than one for every 8 lines.
    generate 1 --input "$temp/short.jsonl" --output "$temp/kept" --sequences 8 --save "$temp/little.kvs" \
        --kv-memory 10M --report "$temp/report.json"
    results_as 'short lines, little room' 0 "$temp/kept" "$temp/expected"
    n=$(sed -n 's/.*"saves":[[:space:]]*\([0-9]*\).*/\1/p' "$temp/report.json")
    check 'short lines, little room: saves' "$n" [ "$n" -gt 1 -a "$n" -lt 14 ]

    # Killed while contexts wait for a save: what it resumes from agrees with the results.
    start 1 --input "$temp/short.jsonl" --output "$temp/killed" --sequences 8 --save "$temp/killed.kvs" --save-every 400
    wait_for_file "$temp/killed.kvs/manifest.h5"
    # shellcheck disable=SC2046 # one word for each
    kill -KILL $(ranks_of "$temp/killed.kvs") 2>/dev/null
    wait_job
    check 'short lines, killed: snapshot' 'it is damaged' is_verified "$temp/killed.kvs"
    generate 2 --input "$temp/short.jsonl" --output "$temp/killed" --sequences 8 --save "$temp/killed.kvs" \
        --resume "$temp/killed.kvs"
    results_as 'short lines, killed and resumed' 0 "$temp/killed" "$temp/expected"
}

# ---- the job scripts, where Slurm is only its variables ----

# task I N: task I of an array of N does its shard of p.jsonl; options of the launcher are left out.
task() {
    (
        cd "$temp/work" || exit
        PATH=$temp/bin:$PATH
        export KVARVE_ROOT="$temp/top" KVARVE_LAUNCHER="$temp/bin/launch" SLURM_JOB_ID="$$$1" SLURM_ARRAY_TASK_ID="$1"
        export SLURM_ARRAY_TASK_MAX="$(($2 - 1))" SLURM_ARRAY_JOB_ID=$$ SLURM_JOB_NODELIST=here SLURM_NTASKS=1
        # shellcheck disable=SC2086 # several words
        exec sh "$source/jobs/batch.sbatch" p.jsonl --max-tokens 2 $run_options
    ) >"$temp/out" 2>"$temp/err"
    status=$?
}
merge() {
    (
        cd "$temp/work" || exit
        PATH=$temp/bin:$PATH
        export KVARVE_ROOT="$temp/top" SLURM_JOB_ID=$$
        exec sh "$source/jobs/merge.sbatch" p.jsonl
    ) >"$temp/out" 2>"$temp/err"
    status=$?
}

shards() {
    mkdir -p "$temp/work" "$temp/bin" "$temp/top/build"
    ln -s "$source/jobs" "$temp/top/jobs"
    ln -s "$(cd "$(dirname "$kvarve")" && pwd)/${kvarve##*/}" "$temp/top/build/kvarve"
    printf '#!/bin/sh\n' >"$temp/bin/scontrol"
    # shellcheck disable=SC2016 # for the script
    printf '#!/bin/sh\nenv | grep "^S[A-Z]*_.*PER_TASK=" | sort >"%s"\nshift 2\nexec "$@"\n' "$temp/cpus" \
        >"$temp/bin/launch"
    chmod +x "$temp/bin"/*

    # More tasks than prompts, and lines that are blank to kvarve, each in its own way, or only look so.
    {
        printf '{"prompt": "The sea"}\n \t \r\n\357\273\277\n\f\n'
        printf '\357\273\277{"prompt": "The sky"}\n\302\240\n'
    } >"$temp/work/p.jsonl"
    for i in 0 1 2 3 4 5 6 7; do
        task $i 8
        case $i in 3 | 5) code=3 ;; *) code=0 ;; esac
        check "shards: task $i of 8" "exit status $status, not $code" [ "$status" -eq $code ]
    done
    check 'shards: one without lines' 'not said' grep -q 'shard 7 of p.jsonl has no lines: it is done' "$temp/err"
    merge
    check 'shards: merge' "exit status $status" [ "$status" -eq 0 ]
    check 'shards: merge: results' 'not 4, 2 of them errors' \
        grep -q ': 4 results in p.results.jsonl, 2 of them errors$' "$temp/err"

    # No hard links.
    rm -r "$temp/work"/p.shards
    printf '#!/bin/sh\nexit 1\n' >"$temp/bin/ln"
    chmod +x "$temp/bin/ln"
    for i in 0 1; do
        task $i 2
        check "no hard links: task $i" "exit status $status" [ "$status" -eq $((3 * i)) ]
        check "no hard links: task $i: told by the first" 'it is not so' \
            [ "$(grep -c 'NOTE: there are no hard links' "$temp/err")" -eq $((1 - i)) ]
    done
    merge
    check 'no hard links: merge' "exit status $status" [ "$status" -eq 0 ]

    # Two figures for the processors of a task.
    rm -r "$temp/work"/p.shards
    export SLURM_CPUS_PER_TASK=2 SLURM_TRES_PER_TASK=cpu=1,gres/gpu:1
    task 0 1
    unset SLURM_CPUS_PER_TASK SLURM_TRES_PER_TASK
    check 'processors of a task: told' 'it is not' grep -q 'SLURM_CPUS_PER_TASK is 2: the latter counts' "$temp/err"
    printf 'SLURM_CPUS_PER_TASK=2\nSLURM_TRES_PER_TASK=gres/gpu:1\nSRUN_CPUS_PER_TASK=2\n' >"$temp/expected"
    check 'processors of a task: settled' 'they are not' cmp "$temp/cpus" "$temp/expected"

    echo ' ' >"$temp/work/p.jsonl"
    task 0 1
    check 'no prompts at all' "exit status $status" [ "$status" -eq 2 ]
}

run_chain lines text_file &
run_chain shards &
is_slow || run_chain short_lines &
wait
end_test
