#!/bin/sh
# tests/command/test_command.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: the command as users meet it.
#
#   good runs   the same text for 1, 2 and 3 ranks; stdin, echo, stops, logprobs, results and report in JSON, plan, help
#   bad input   every kind gets one line that says what is wrong, the right exit status, no file half written, no hang
#   lost ranks  one is killed, one is stopped: all are gone within seconds, with a non-zero exit status
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
run_under='timeout 60'

change_config() { # change_config NAME SED-SCRIPT
    change_file "$1" config.json "$2"
}

on_copy() { # on_copy NP: a short run on $model_copy
    generate_on "$model_copy" "$1" --prompt Hello --max-tokens 2
}

# Is every line of this file JSON? The program's own reader says: it knows none of the keys, and says so.
is_json_lines() {
    generate 1 --input "$1" --output "$temp/json.out"
    [ "$(wc -l <"$temp/json.out")" -eq "$(wc -l <"$1")" ] && ! grep -qv 'this key is not known' "$temp/json.out"
}

# ---- good runs ----

good_runs() {
    prompt='It was the best of times'
    for how in '--temperature 0' '--temperature 0.9 --top-p 0.9 --seed 11'; do
        # shellcheck disable=SC2086 # several words
        for np in 1 2 3; do
            generate $np --prompt "$prompt" --max-tokens 24 --ignore-eos $how
            expect "generate $how, $np ranks" 0 || continue
            [ $np -gt 1 ] || cp "$temp/out" "$temp/text"
            check "generate $how, $np ranks" "other text than with 1 rank" cmp "$temp/out" "$temp/text"
        done
    done
    cp "$temp/text" "$temp/sampled"
    # shellcheck disable=SC2086
    generate 2 --prompt "$prompt" --max-tokens 24 --ignore-eos $how --layers-per-rank 1,7 --chunk-tokens 3 \
        --page-tokens 32
    check 'other layers, chunks and pages' 'other text' cmp "$temp/out" "$temp/sampled"

    check 'run is described on stderr' 'no line of the ranks' grep -q 'kvarve: 2 ranks x 1 thread' "$temp/err"
    check 'the way of activations' 'not told' grep -q 'activations by [MN][PC][IC]' "$temp/err"
    check 'table at the end' 'no table' grep -q 'region, seconds' "$temp/err"
    check 'effective options' 'not told' grep -q -- '--layers-per-rank 1,7 ' "$temp/err"

    printf %s "$prompt" >"$temp/prompt"
    # shellcheck disable=SC2086
    generate 1 --prompt-file - --max-tokens 24 --ignore-eos $how <"$temp/prompt"
    check 'prompt from stdin' 'other text' cmp "$temp/out" "$temp/sampled"
    # shellcheck disable=SC2086
    generate 1 --prompt-file "$temp/prompt" --max-tokens 24 --ignore-eos $how --echo
    { cat "$temp/prompt" && cat "$temp/sampled"; } >"$temp/echoed"
    check 'prompt from a file, echo' 'not the prompt and the text' cmp "$temp/out" "$temp/echoed"

    generate 1 --prompt "$prompt" --max-tokens 24 --temperature 0 --ignore-eos
    cp "$temp/out" "$temp/greedy"
    stop=$(cut -c 12-20 "$temp/greedy" | head -n 1)
    generate 2 --prompt "$prompt" --max-tokens 24 --temperature 0 --ignore-eos --stop "never$prompt" --stop "$stop"
    awk -v stop="$stop" 'NR == 1 { print substr($0, 1, index($0, stop) - 1) }' "$temp/greedy" >"$temp/before_stop"
    check 'stop text' 'the text does not end before it' cmp "$temp/out" "$temp/before_stop"

    generate 1 --prompt "$prompt" --max-tokens 0
    check 'no token' 'something was generated' [ "$status" -eq 0 -a "$(wc -c <"$temp/out")" -eq 1 ]

    run 2 generate --model "$model" --threads 1 --prompt "$prompt" --max-tokens 4 --report "$temp/report.json"
    tr -d '\n\t' <"$temp/report.json" >"$temp/report.jsonl"
    echo >>"$temp/report.jsonl"
    check 'report' 'not two ranks' [ "$(grep -c '"first_layer"' "$temp/report.json")" -eq 2 ]
    check 'report is JSON' 'it is not' is_json_lines "$temp/report.jsonl"
    check 'report leaves no other file' 'there is one' [ ! -e "$temp/report.json.tmp" ]
}

write_prompts() {
    cat >"$temp/prompts.jsonl" <<'END'
{"id": "a", "prompt": "The old house", "max_tokens": 5, "logprobs": 3}

{"id": 7, "tokens": [300, 301, 302], "max_tokens": 6, "temperature": 0, "ignore_eos": true}
{"prompt": "Caf\u00e9 \"quoted\" \\ \n\t", "max_tokens": 3, "seed": 5}
{"id": "nothing", "prompt": "only read", "max_tokens": 0}
END
}

good_results() {
    write_prompts
    for np in 1 2 3; do
        generate $np --input "$temp/prompts.jsonl" --output "$temp/results.$np" --ignore-eos
        expect "results, $np ranks" 0 || return
        sort "$temp/results.$np" >"$temp/sorted.$np"
        check "results, $np ranks" 'other results than with 1 rank' cmp "$temp/sorted.$np" "$temp/sorted.1"
    done
    check 'a line for each prompt' 'there are more or fewer' [ "$(wc -l <"$temp/results.1")" -eq 4 ]
    check 'results are JSON' 'they are not' is_json_lines "$temp/results.1"
    check 'numbers stay numbers' 'no id 7' \
        grep -q '^{"id": 7, .*"prompt_tokens": 3, "completion_tokens": 6}}$' "$temp/results.1"
    check 'a line without id has its number' 'no id 4' grep -q '^{"id": 4, ' "$temp/results.1"
    check 'finish reason' 'not "length"' [ "$(grep -c '"finish_reason": "length"' "$temp/results.1")" -eq 4 ]
    # Five tokens, each with its own and three of the likeliest.
    pair='\[[0-9]*, -[0-9.]*\]'
    n=$(grep '"id": "a"' "$temp/results.1" |
        grep -o "{\"token\": [0-9]*, \"logprob\": -[0-9.]*, \"top\": \[$pair, $pair, $pair\]}" | wc -l)
    check 'logprobs' "$n tokens have them, not 5" [ "$n" -eq 5 ]
    generate 2 --input "$temp/prompts.jsonl" --ignore-eos
    sort "$temp/out" >"$temp/sorted.out"
    check 'results on stdout' 'not those of the file' cmp "$temp/sorted.out" "$temp/sorted.1"
    echo 'was here before' >"$temp/older"
    "$kvarve" generate --model "$model" --input "$temp/prompts.jsonl" --ignore-eos >>"$temp/older" 2>"$temp/err"
    check 'results behind other text on stdout' 'it was lost' grep -q 'was here before' "$temp/older"
    generate 1 --input "$temp/prompts.jsonl" --output "$temp/results.1" --ignore-eos --sequences 1
    sort "$temp/results.1" >"$temp/sorted.again"
    check 'one sequence at a time, over older results' 'other results' cmp "$temp/sorted.again" "$temp/sorted.1"
}

good_others() {
    for words in --help -h help 'plan --help' 'generate -h'; do
        # shellcheck disable=SC2086
        run 1 $words
        check "kvarve $words" 'no table of options' grep -q -- '--model PATH' "$temp/out"
    done
    for words in 'snapshot --help' 'snapshot text --help'; do
        # shellcheck disable=SC2086
        run 1 $words
        check "kvarve $words" 'no table of its options' grep -q -- '--id TEXT' "$temp/out"
    done
    for np in 1 2; do
        run $np --version
        n=$(grep -c '^kvarve [0-9]\|^\(MPI\|HDF5\|CUDA\|NCCL\|CPU\)  *[^ ]' "$temp/out")
        check "version, $np ranks" "$n parts, not 6" [ "$n" -eq 6 ]
    done
    run 2 --help
    check 'help fits a terminal' 'a line of more than 120 columns' [ "$(awk 'length > 120' "$temp/out" | wc -l)" -eq 0 ]
    n=$(grep -c '^usage:' "$temp/out")
    check 'help comes once' "it is there $n times" [ "$n" -eq 1 ]

    run 1 plan --model "$model" --ranks 3 --context 4096 --sequences 2 --memory-per-rank 1G
    expect plan 0 && check plan 'not 3 ranks and layers to 7' grep -q '^ *2 *[0-9]*\.\.7 ' "$temp/out"
    check 'plan fits' 'not said' grep -q '^fits: the largest rank takes' "$temp/out"
    check 'plan: what it assumed' 'not said' grep -q 'assumed: each rank may take 1024.0 MiB' "$temp/err"
    check 'plan: its pool' 'not said' grep -q '^pool of each rank: 128 pages (128 are wanted' "$temp/out"
    mkdir -p "$temp/only_config"
    cp "$model/config.json" "$temp/only_config/"
    run 1 plan --model "$model" --sequences 100 --context 64 --device cpu --save "$temp/never.kvs"
    with_save=$(awk '$2 == "0..7" {print $5}' "$temp/out")
    run 1 plan --model "$model" --sequences 100 --context 64 --device cpu
    check 'plan of a run that saves' 'not the logits of 100 sequences more' \
        awk -v more="$with_save" '$2 == "0..7" && more > $5 {found = 1} END {exit !found}' "$temp/out"
    run 1 plan --model "$temp/only_config" --ranks 8 --device cpu
    check 'plan needs config.json only' "exit status $status" [ "$status" -eq 0 ]

    printf 'It was a dark and stormy night; the rain fell in torrents.' >"$temp/novel"
    for np in 1 2; do
        run $np perplexity --model "$model" --file "$temp/novel" --context 16 --stride 8 --threads 1
        expect "perplexity, $np ranks" 0 || continue
        cp "$temp/out" "$temp/perplexity.$np"
    done
    check 'perplexity' 'no number' grep -q '^perplexity *[1-9][0-9.]* ' "$temp/perplexity.1"
    check 'perplexity of 1 and 2 ranks' 'it differs' cmp "$temp/perplexity.1" "$temp/perplexity.2"
}

# ---- bad input ----

bad_options() {
    generate 1 --prompt x --tempratur 1
    refused 'misspelt option' 2 'no option --tempratur; did you mean --temperature?'
    generate 2 --prompt x --top-k many
    refused 'bad value, 2 ranks' 2 '--top-k many'
    run 1 genrate
    refused 'misspelt command' 2 'did you mean generate?'
    generate 1
    refused 'no prompt' 2 '--prompt'
    run 1 generate --prompt x
    refused 'no model' 2 'needs --model DIR'
    run 1 plan --model "$model" --ranks 9
    refused 'plan for more ranks than layers' 2 '9 ranks are more than the model'
    run 1 plan --model "$model" --ranks 2 --memory-per-rank 70M
    refused 'plan that does not fit' 2 'start more ranks'
    generate 2 --prompt x --layers-per-rank 4,5
    refused 'layers that are not there' 2 '--layers-per-rank 4,5'
}

bad_saving() {
    for option in '--save-every 5m' '--max-time 1:00:00' "--stop-file $temp/stop"; do
        # shellcheck disable=SC2086 # several words
        generate 1 --prompt x $option
        refused "${option%% *} without --save" 2 "${option%% *} needs --save"
    done
    generate 2 --prompt x --save "$temp/never.kvs" --max-time 30:00
    refused 'a time that may be minutes or hours' 2 'HH:MM:SS'
    generate 1 --prompt x --save "$temp/never.kvs" --save-every often
    refused 'a time that is none' 2 '--save-every often'
    generate 1 --prompt x --save "$temp/never.kvs" --codec zip
    refused 'unknown codec' 2 '--codec zip: expected none, lossless, cachegen:1 to'
    generate 1 --prompt x --device gpu
    refused 'unknown device' 2 '--device gpu: expected auto, cpu or cuda'
    for np in 1 2; do
        generate $np --prompt x --max-tokens 1 --device cuda
        # With a GPU it runs.
        [ "$status" -eq 0 ] || refused "no GPU, $np ranks" 2 '--device cuda: no usable GPU: '
    done
    run 1 plan --model "$model" --device cuda --context 64
    [ "$status" -eq 0 ] || refused 'no GPU to plan for' 2 'no usable GPU' '--memory-per-rank says'
    generate 1 --save "$temp/never.kvs"
    refused 'nothing to save' 2 '--prompt'
    generate 1 --resume "$temp/never.kvs" --output "$temp/never"
    refused 'results of no input' 2 '--output is for the results of --input'
    generate 2 --prompt x --resume ''
    refused 'resume from no name' 2 "--resume '': expected a path"
    if "$kvarve" --help | grep -q -- --fail-at; then
        generate 2 --prompt x --save "$temp/never.kvs" --fail-at nowhere
        refused 'a failure at no site' 2 'no such site; there are segment-create'
    else
        skipped 'a failure at no site' 'built without failures on demand'
    fi
    run 2 snapshot
    refused 'snapshot without an action' 2 'needs an action first: info, verify, compact, recode or text'
    run 1 snapshot vreify "$temp"
    refused 'misspelt action' 2 'did you mean verify?'
    run 1 snapshot info
    refused 'snapshot of no directory' 2 'needs the directory of a snapshot'
    run 1 snapshot info "$temp" "$temp"
    refused 'snapshots of two directories' 2 'takes one directory'
    run 1 snapshot info "$temp" --codec none
    refused "another action's option" 2 'snapshot info has no option --codec'
    check 'refused options leave nothing' 'they do' [ ! -e "$temp/never.kvs" -a ! -e "$temp/never" ]
}

bad_prompts() {
    generate 2 --prompt ''
    refused 'empty prompt' 2 'the prompt is empty'
    generate 1 --prompt-file /dev/null
    refused 'empty prompt file' 2 'the prompt is empty'
    generate 1 --prompt-file "$temp/missing"
    refused 'no prompt file' 2 "$temp/missing"
    generate 2 --prompt 'These are more words than that.' --context 4
    refused 'prompt longer than the context' 2 'the context holds 4'
    generate 1 --input "$temp/missing" --output "$temp/never"
    refused 'no input file' 2 "$temp/missing"
    check 'no input file, no output' 'it was made' [ ! -e "$temp/never" ]
    generate 1 --input "$temp"
    refused 'input that is a directory' 2 'is a directory'
    generate 1 --input /dev/null
    refused 'no prompts in the input' 2 'no prompts'

    cat >"$temp/bad.jsonl" <<'END'
{"id": "good", "prompt": "The sea", "max_tokens": 2}
{"id": "cut", "prompt":
not JSON at all
{"id": "empty", "prompt": ""}
{"id": "token", "tokens": [4096]}
{"id": "long", "prompt": "one two three four five six seven eight nine ten eleven twelve"}
{"id": "key", "prompt": "x", "max_token": 3}
{"id": "value", "prompt": "x", "temperature": -1}

{"id": "last", "prompt": "The sky", "max_tokens": 2}
END
    for np in 1 3; do
        generate $np --input "$temp/bad.jsonl" --output "$temp/mixed" --context 8
        expect "bad lines, $np ranks" 3 || continue
        check "bad lines, $np ranks: all have a result" 'not 9 lines' [ "$(wc -l <"$temp/mixed")" -eq 9 ]
        n=$(grep -c '"completion_tokens": 2' "$temp/mixed")
        check "bad lines, $np ranks: the others run" "$n ran, not 2" [ "$n" -eq 2 ]
        for part in 'line 2' 'line 3' 'line 4' 'line 5: token 0' 'line 6: the prompt has' 'line 7.*max_token' \
            'line 8.*temperature'; do
            grep '"finish_reason": "error"' "$temp/mixed" | grep -q "$part" || failed 'bad lines' "nothing about $part"
        done
        check "bad lines, $np ranks: said on stderr" 'it is not' grep -q '7 of 9 prompts were refused' "$temp/err"
    done
    check 'results of bad lines are JSON' 'they are not' is_json_lines "$temp/mixed"
    sed -n 4,5p "$temp/bad.jsonl" >"$temp/all_bad.jsonl"
    generate 2 --input "$temp/all_bad.jsonl" --output "$temp/mixed"
    n=$(wc -l <"$temp/mixed")
    check 'only bad lines' "exit status $status, $n results" [ "$status" -eq 3 -a "$n" -eq 2 ]
    check 'only bad lines: said on stderr' 'not the first' \
        grep -q '2 of 2 prompts.*line 1: prompt: it is empty' "$temp/err"
}

# What is no file of prompts at all is one refusal.
bad_formats() {
    echo '{"prompt": "The sea"}' >"$temp/one.jsonl"
    gzip -c "$temp/one.jsonl" >"$temp/packed"
    printf 'id,prompt\n1,The sea\n' >"$temp/table"
    printf '{\n  "prompt": "The sea"\n}\n' >"$temp/indented"
    printf '[\n{"prompt": "The sea"},\n{"prompt": "The sky"}\n]\n' >"$temp/array"
    generate 2 --input "$temp/packed" --output "$temp/never"
    refused 'input: packed' 2 "$temp/packed: is compressed"
    for name in array indented; do
        generate 1 --input "$temp/$name" --output "$temp/never"
        refused "input: $name" 2 "$temp/$name: is JSON over several lines" 'jq -c'
    done
    check 'input of another format: no results' 'there are' [ ! -e "$temp/never" ]
    generate 1 --input "$temp/table"
    check 'input: table' "exit status $status" [ "$status" -eq 3 ]
    check 'input: table: said on stderr' 'it is not' grep -q '2 of 2 prompts.*line 1: not valid JSON' "$temp/err"
    printf '{"prompt": "The sea", "id": null}\n{"prompt": "The sky", "id": null, "custom_id": "z"}\n' >"$temp/null"
    generate 1 --input "$temp/null" --max-tokens 1
    sed 's/, "text".*//' "$temp/out" | tr '\n' ' ' >"$temp/ids"
    check 'null is an id' "$(cat "$temp/ids")" [ "$(cat "$temp/ids")" = '{"id": null {"id": "z" ' ]
}

# Bytes that are not UTF-8 are told wherever they come from.
not_utf8() {
    printf 'The \377sea' >"$temp/bytes"
    generate 1 --prompt-file "$temp/bytes" --max-tokens 1
    check 'not UTF-8: --prompt-file' 'not told' grep -q 'NOTE: --prompt-file .*not UTF-8.* behind 4 others' "$temp/err"
    generate 1 --prompt "$(cat "$temp/bytes")" --max-tokens 1
    check 'not UTF-8: --prompt' 'not told' grep -q 'NOTE: --prompt: .*not UTF-8' "$temp/err"
    run 1 tokenize --model "$model" --prompt-file "$temp/bytes"
    check 'not UTF-8: tokenize' 'not told' grep -q 'NOTE: --prompt-file .*not UTF-8' "$temp/err"
    # shellcheck disable=SC2086 # several words
    run 1 perplexity --model "$model" --file "$temp/bytes" $run_options
    check 'not UTF-8: perplexity' 'not told' grep -q 'NOTE: --file .*not UTF-8' "$temp/err"
    generate 1 --prompt x --max-tokens 1
    check 'UTF-8' 'a note' eval '! grep -q "not UTF-8" "$temp/err"'
    generate 1 --prompt x --stop "$(printf '\377')"
    refused 'stop that is not UTF-8' 2 'expected a text in UTF-8'
}

# What is written over what is read, or over what else is written.
over_others() {
    mkdir "$temp/empty" "$temp/full"
    ln -s "$model/config.json" "$temp/link"
    cp "$temp/prompts.jsonl" "$temp/full/prompts.jsonl"
    ln "$temp/prompts.jsonl" "$temp/hard"
    for name in input output; do
        generate 1 --input "$temp/input" --output "$temp/output" --report "$temp/$name"
        refused "report over --$name" 2 "--report $temp/$name" "the file of --$name"
    done
    generate 1 --input "$temp/prompts.jsonl" --output "$temp/hard"
    refused 'output over the input' 2 "--output $temp/hard" 'the file of --input'
    generate 1 --input - --output "$temp/prompts.jsonl" <"$temp/prompts.jsonl"
    refused 'output over stdin' 2 'the file of --input'
    cp "$temp/prompts.jsonl" "$temp/both"
    "$kvarve" generate --model "$model" --input "$temp/both" >>"$temp/both" 2>"$temp/err"
    check 'stdout behind the input' 'it is written' cmp "$temp/both" "$temp/prompts.jsonl"
    generate 1 --prompt-file "$temp/prompts.jsonl" --text "$temp/prompts.jsonl"
    refused 'text over the prompt' 2 '--text ' 'the file of --prompt-file'
    touch "$temp/figures"
    run 1 bench --shape tiny --measure "$temp/figures" --report "$temp/empty/../figures"
    refused 'report over the figures' 2 'the file of --measure'
    run 1 bench --shape tiny --measure "$temp/new" --report "$temp/new"
    refused 'report over figures that come' 2 'the file of --measure'
    run 1 perplexity --model "$model" --file "$temp/both" --report "$temp/both"
    refused 'report over a text' 2 'the file of --file'
    generate 2 --prompt x --report "$temp/link"
    refused 'report over the model' 2 "--report $temp/link: this is a file of the model"
    generate 1 --prompt x --save "$temp/empty" --report "$temp/empty/manifest.h5"
    refused 'report over a snapshot' 2 "this is a part of the snapshot $temp/empty"
    keep "$temp/full"
    generate 2 --prompt x --save "$temp/full"
    refused 'save into a directory of others' 2 "$temp/full: is no snapshot" 'prompts.jsonl'
    kept=''
    generate 1 --prompt x --max-tokens 1 --save "$temp/empty"
    expect 'save into an empty directory' 0
}

bad_paths() {
    write_prompts
    run 2 generate --model "$temp/nowhere" --prompt x
    refused 'no model directory' 2 "$temp/nowhere: no such model directory"
    # Said before anything is loaded: the model is missing as well.
    run 1 generate --model "$temp/nowhere" --input "$temp/prompts.jsonl" --output "$temp/no/dir/out"
    refused 'output that cannot be written' 2 "$temp/no/dir/out"
    run 1 generate --model "$temp/nowhere" --prompt x --report "$temp/no/dir/report"
    refused 'report that cannot be written' 2 "$temp/no/dir/report"
    over_others
    run 1 generate --model "$temp/nowhere" --input "$temp/prompts.jsonl" --output "$temp/never" \
        --report "$temp/never.json"
    check 'a refused run leaves no file' 'it does' [ ! -e "$temp/never" -a ! -e "$temp/never.json" ]
    echo old >"$temp/kept"
    run 1 generate --model "$temp/nowhere" --input "$temp/prompts.jsonl" --output "$temp/kept"
    check 'a refused run keeps an older file' 'it does not' grep -qx old "$temp/kept"
    if [ -w /dev/full ]; then
        generate 2 --input "$temp/prompts.jsonl" --output /dev/full
        check 'full disk' "exit status $status" [ "$status" -ne 0 -a "$status" -ne 124 ]
        check 'full disk is told' 'it is not' grep -q '^kvarve: error:.*/dev/full' "$temp/err"
        generate 1 --input "$temp/prompts.jsonl" --output /dev/full
        check 'full disk, alone' 'not the last line' eval 'tail -n 1 "$temp/err" | grep -q "^kvarve: error: /dev/full"'
        "$kvarve" generate --model "$model" --prompt x --max-tokens 2 >/dev/full 2>"$temp/err"
        check 'full disk behind stdout' 'no failure' [ $? -eq 1 ]
    else
        skipped 'full disk' 'no /dev/full here'
    fi
}

bad_configs() {
    change_config text_for_number 's/"num_attention_heads": 4/"num_attention_heads": "four"/'
    on_copy 1
    refused 'config: text for a number' 2 'num_attention_heads'
    change_config fraction 's/"hidden_size": 256/"hidden_size": 256.5/'
    on_copy 1
    refused 'config: a fraction' 2 'hidden_size'
    change_config no_heads 's/"num_attention_heads": 4/"num_attention_heads": 0/'
    on_copy 2
    refused 'config: 0 heads' 2 'num_attention_heads'
    change_config heads 's/"num_key_value_heads": 2/"num_key_value_heads": 3/'
    on_copy 1
    refused 'config: heads not divisible' 2 'num_key_value_heads'
    change_config family 's/LlamaForCausalLM/MambaForCausalLM/; s/"model_type": "llama"/"model_type": "mamba"/'
    on_copy 1
    refused 'config: unsupported architecture' 2 'MambaForCausalLM'
    check 'config: supported architectures are listed' 'they are not' \
        grep -q 'LlamaForCausalLM.*Mistral.*Qwen2.*Qwen3' "$temp/err"
    change_config rope 's/"rope_scaling": null/"rope_scaling": {"type": "dynamic", "factor": 2.0}/'
    on_copy 1
    refused 'config: unsupported rope kind' 2 'dynamic'
    change_config quantised 's/"vocab_size"/"quantization_config": {"quant_method": "gptq", "bits": 4}, "vocab_size"/'
    on_copy 1
    refused 'config: quantised model' 2 'quantization_config'
    change_config not_json 's/"vocab_size".*/"vocab_size":/'
    on_copy 2
    refused 'config: not JSON' 2 'config.json'
    change_config shape 's/"intermediate_size": 704/"intermediate_size": 705/'
    on_copy 2
    refused 'config: weights of another shape' 2 'mlp.'
    change_config layers 's/"num_hidden_layers": 8/"num_hidden_layers": 9/'
    on_copy 3
    refused 'config: more layers than weights' 2 'model.layers.8.'
    change_file tokenizer tokenizer.json 's/"merges"/"mergers"/'
    on_copy 1
    refused 'tokenizer without merges' 2 'merges'
    head -c 5000 "$model/tokenizer.json" >"$model_copy/tokenizer.json"
    on_copy 2
    refused 'tokenizer cut off' 2 'tokenizer.json'
    rm "$model_copy/tokenizer.json"
    on_copy 1
    refused 'no tokenizer' 2 'tokenizer.json'
}

bad_weights() {
    own_file cut model.safetensors
    head -c 9000000 "$model/model.safetensors" >"$model_copy/model.safetensors"
    on_copy 2
    refused 'weights cut off' 2 'model.safetensors'
    head -c 100 "$model/model.safetensors" >"$model_copy/model.safetensors"
    on_copy 1
    refused 'weights cut off in the header' 2 'model.safetensors'
    rm "$model_copy/model.safetensors"
    on_copy 2
    refused 'no weights' 2 'model.safetensors'
    for file in "$source"/tests/fuzz/corpus/safetensors/*; do
        case ${file##*/} in
        offsets-past-the-end | overlapping | overflow-product | overflow-bytes | wrong-shape | wrong-dtype) ;;
        duplicate-names | deep | header-longer-than-file | truncated-length) ;;
        *) continue ;;
        esac
        cp "$file" "$model_copy/model.safetensors"
        on_copy 1
        refused "weights: ${file##*/}" 2 'model.safetensors'
    done

    own_file nan model.safetensors
    tensor=model.layers.7.mlp.up_proj.weight # the last layer
    at=$(($(tensor_offset $tensor) + 2000))
    printf '\377\177' | dd of="$model_copy/model.safetensors" bs=1 seek=$at conv=notrunc 2>/dev/null
    for np in 1 3; do
        on_copy $np
        refused "weights: a NaN, $np ranks" 2 "$tensor"
    done
    check 'weights: a NaN is found by the rank that reads it' 'another one is named' grep -q 'rank 2 on' "$temp/err"
}

# A model of random weights: the same text from its files and from memory, and nothing of it where it is refused.
synthetic() {
    made=$temp/made
    how='--prompt Hello --max-tokens 12 --temperature 0.9 --seed 4 --ignore-eos'
    run 2 synth --shape tiny "$made"
    expect 'synth' 0 || return
    check 'synth: its line' 'none' grep -q 'made: tiny, 1.05 million parameters, .* GB/s$' "$temp/out"
    # shellcheck disable=SC2086 # several words
    for np in 1 3; do
        generate_on "$made" $np $how --save "$temp/made.$np.kvs"
        cp "$temp/out" "$temp/of_files"
        run $np generate --shape tiny $run_options $how
        check "synth: text of files and memory, $np ranks" 'it differs' cmp "$temp/out" "$temp/of_files"
    done
    check 'synth: text' 'there is none' [ "$(wc -w <"$temp/of_files")" -ge 5 ]
    # shellcheck disable=SC2086
    run 2 generate --shape tiny $run_options --resume "$temp/made.1.kvs" --max-tokens 14
    check 'synth: memory goes on from a snapshot of files' 'it does not' [ "$status" -eq 0 -a -s "$temp/out" ]
    run 1 synth --shape tiny --seed 1 "$temp/seeded"
    cmp -s "$made/model.safetensors" "$temp/seeded/model.safetensors"
    check 'synth: another seed' 'the same weights' [ $? -eq 1 ]
    run 2 bench --shape tiny --vocab 300 --depths 0 --repeats 1 --threads 1
    check 'bench of a shape' 'no decode' grep -q '^decode, 1 sequence' "$temp/out"
    run 1 plan --shape llama-70b --ranks 8 --device cpu
    check 'plan of a shape' 'not 80 layers on 8 ranks' grep -q '^ *7 *[0-9]*\.\.79 ' "$temp/out"

    run 2 synth --shape tiny "$made"
    refused 'synth over a model' 2 'it holds a model already'
    run 1 synth --shape tiny "$temp/no/such/place"
    refused 'synth into no directory' 2 "$temp/no/such/place"
    run 2 synth --shape tiny "$temp/of_files"
    refused 'synth into a file' 2 'of_files'
    run 1 bench --shape tiny --model "$made"
    refused 'shape and model' 2 'one of --model and --shape, not both'
    mkdir "$temp/tight"
    # A limit of 1 MB for a file stands for a full disk.
    # shellcheck disable=SC3045 # not every shell has it
    for place in tight/new tight; do
        (
            trap '' XFSZ
            ulimit -f 2000
            exec "$kvarve" synth --shape tiny "$temp/$place" --threads 2
        ) >"$temp/out" 2>"$temp/err"
        status=$?
        refused "synth without room, $place" 1 'model.safetensors: cannot be written: File too large'
        check "synth without room, $place: nothing is left" 'something is' [ -z "$(ls -A "$temp/tight")" ]
    done
    check 'synth without room keeps what was there' 'the directory is gone' [ -d "$temp/tight" ]
}

# What is measured, and what is made of that: predictions, and chunks of equal time.
measured() {
    run 1 bench --shape tiny --vocab 300 --prefill 32,64 --depths 0,16 --batch-depths 8 --sequences 3 --repeats 2
    expect 'bench of several' 0
    check 'bench of several' 'not all rows' test "$(grep -c '^prefill [0-9]* tokens\|^decode,' "$temp/out")" -eq 7
    check 'bench of several' 'no profile' grep -q "^rank 0's time  *prefill  *prefill .* decode" "$temp/out"
    run 1 bench --shape tiny --vocab 300 --prefill none --depths 0 --batch-depths 0 --sequences 3 --repeats 1
    expect 'bench of decodes behind nothing' 0
    run 1 bench --shape tiny --prefill 0
    expect 'bench of nothing' 2

    times=$temp/times.json
    run 2 bench --shape tiny --vocab 300 --measure "$times" --depths 0,64 --batch-depths 0,40 --sequences 3 \
        --chunk-tokens 64 --repeats 1 --threads 1
    expect 'measured steps' 0
    check 'measured steps' 'no file' grep -q '"hop_seconds"' "$times"
    run 1 plan --shape tiny --vocab 300 --predict --measured "$times" --ranks 4 --context 500 --device cpu
    expect 'prediction' 0
    check 'prediction' 'not 1, 2 and 4 ranks, twice' test "$(grep -c '^ *[124] .*%$' "$temp/out")" -eq 6
    run 1 plan --shape llama-70b --predict --chunk-model 1e-3,1e-9,1e-5,1e-10 --ranks 128 --nodes 16 \
        --link 25GB/s,2us --device cpu
    expect 'prediction from four numbers' 0
    check 'more ranks than layers' 'not said' grep -q '^ *128 *16  128 ranks are more than the' "$temp/out"
    for np in 1 3; do
        for chunks in '' "--measured $times" '--chunk-model 1e-4,1e-6,1e-6,1e-5'; do
            # shellcheck disable=SC2086
            run $np generate --shape tiny --vocab 300 --prompt-file "$source/tests/command/test_command.sh" \
                --max-tokens 5 --chunk-tokens 128 $run_options $chunks
            if [ -z "$chunks" ]; then cp "$temp/out" "$temp/of_equal_length"; fi
            check "chunks of equal time: text, $np ranks${chunks:+, }${chunks%% *}" 'it differs' \
                cmp "$temp/out" "$temp/of_equal_length"
        done
    done
    run 2 plan --shape tiny --predict --measured "$times" --device cpu
    refused 'measurements of another model' 2 "--measured: $times: was measured with another model"
    run 2 generate --shape tiny --prompt a --measured "$temp/no.json"
    refused 'no measurements' 2 "--measured: $temp/no.json"
    echo '{"format": 1}' >"$temp/no.json"
    run 2 bench --shape tiny --measured "$temp/no.json"
    refused 'a file of no measurements' 2 'no.json: model'
    run 2 bench --shape tiny --measure "$temp/no/such/place"
    refused 'measure into no directory' 2 "--measure $temp/no/such/place"
    run 1 bench --shape tiny --measure "$temp/more.json" --depths 8000
    refused 'measure beyond the context' 2 'the model holds 8192 positions'
}

bad_memory() {
    generate 2 --prompt 'Hello there' --memory-per-rank 60M
    refused 'memory per rank too small' 2 '--memory-per-rank'
    generate 1 --prompt 'Hello there' --kv-memory 10K
    refused 'KV memory too small' 2 'raise --kv-memory'
    # Granted by the plan, but not by the system: the KV cache of four million tokens is 4 GiB and more on each rank.
    # shellcheck disable=SC3045 # not every shell has it
    if { (ulimit -v 4000000 && "$kvarve" --help); } >/dev/null 2>&1; then
        (
            ulimit -v 4000000
            generate 3 --prompt 'Hello there' --max-tokens 4000000 --context 4000100 --memory-per-rank 1T
            exit "$status"
        )
        check 'out of memory' "exit status $?" [ $? -eq 2 ]
        check 'out of memory: which rank, and how much' 'not told' \
            grep -q '^kvarve: error: rank [0-2] on .*wanted [0-9]* ' "$temp/err"
        check 'out of memory: said once' 'it is not' [ "$(grep -c '^kvarve: error:' "$temp/err")" -eq 1 ]
    else
        skipped 'out of memory' 'the program does not start with 4 GB of addresses (as with AddressSanitizer)'
    fi

    two_layers two_layers
    echo '{"tokens": [1, 2, 3], "max_tokens": 2}' >"$temp/tokens.jsonl"
    generate_on "$model_copy" 3 --input "$temp/tokens.jsonl"
    refused 'more ranks than layers' 2 "3 ranks are more than the model's 2 layers"
}

# ---- lost ranks ----

# lose_rank NAME SIGNAL NP: start a long run, send one of its ranks the signal when text comes, and see that all end.
lose_rank() {
    report=$temp/$2.json
    start "$3" --prompt Once --context 50000 --max-tokens 49000 --ignore-eos --peer-timeout 3 --report "$report"
    wait_for 20 has_text
    victim=$(ranks_of "$report" | tail -n 1)
    if [ -z "$victim" ]; then
        failed "$1" 'no rank is there'
        return
    fi
    kill "-$2" "$victim"
    begin=$(date +%s)
    wait_job
    wait_for 20 is_gone "$report"
    seconds=$(($(date +%s) - begin))
    check "$1: exit status" "it is $status" [ "$status" -ne 0 -a "$status" -ne 124 ]
    check "$1: all are gone" "it took $seconds s" [ $seconds -le 10 ]
    check "$1: no report" 'it was written' [ ! -e "$report" ]
}

has_text() { # the started run
    [ "$(wc -c <"$started/out")" -ge 20 ]
}

lost_ranks() {
    if [ ! -r /proc/self/comm ]; then
        skipped 'lost ranks' 'no /proc here'
        return
    fi
    lose_rank 'a rank is killed' KILL 3
    lose_rank 'a rank hangs' STOP 2
    check 'a rank hangs: said by another' 'it is not' grep -q '^kvarve: error: rank [01] on .*waited 3 s' "$temp/err"
}

# ---- without MPI ----

# In a step of Slurm that MPI cannot ask, it ends the process: what needs no ranks does not begin with it.
without_mpi() {
    dir=$temp/one.kvs
    generate 1 --prompt 'It was the best of' --max-tokens 8 --save "$dir"
    expect 'a snapshot to look into' 0 || return
    set -- SLURM_JOB_ID=77 SLURM_JOBID=77 SLURM_STEP_ID=0 SLURM_STEPID=0 SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 \
        SLURM_NPROCS=2 SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NODEID=0 SLURM_NNODES=1 SLURM_NODELIST=nowhere
    # Open MPI cannot be started at all with these.
    set -- "$@" OMPI_MCA_ess=pmi OMPI_MCA_mca_base_component_path=/nowhere
    run_under="env $*"
    run 1 generate --model "$model" --prompt x --device cpu --threads 1
    if [ "$status" -eq 0 ]; then
        skipped 'without MPI' 'this MPI starts all the same'
        run_under='timeout 120'
        return
    fi
    for words in --help --version 'generate --help' "plan --model $model --device cpu" \
        "tokenize --model $model --prompt x" "snapshot info $dir" \
        "snapshot text $dir" "snapshot verify $dir" "snapshot compact $dir" "synth --shape tiny $temp/made_alone"; do
        # shellcheck disable=SC2086 # several words
        run 1 $words
        expect "without MPI: $words" 0 &&
            check "without MPI: $words" 'nothing is said' [ -s "$temp/out" -o -s "$temp/err" ]
    done
    run 1 plan --model "$model" --ranks 9
    refused 'without MPI: a bad plan' 2 '9 ranks are more than the model'
    run_under='timeout 120'
}

run_chain good_runs bad_options bad_saving bad_memory &
run_chain good_results good_others bad_prompts bad_formats not_utf8 bad_paths &
run_chain synthetic without_mpi &
is_slow || run_chain bad_configs bad_weights measured & # parts that have tests of their own
wait
run_chain lost_ranks # alone, as it takes the time
end_test
