#!/bin/sh
# tests/generate/test_text.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: what goes into a prompt and comes out of it, to the
# byte.
#
#   files       byte order marks and zero bytes; through a snapshot too
#   special     begin and end tokens around a prompt, ids that a user can see, special tokens that end a text
#   perplexity  with and without the begin token
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
run_under='timeout 60'
prompt='It was'

greedy() { # greedy ARGUMENTS...: six tokens, of one rank
    generate 1 --max-tokens 6 --temperature 0 "$@"
}

tokenize() { # tokenize ARGUMENTS...
    run 1 tokenize --model "$model" "$@"
}

ids() { # the first column of what tokenize printed, as a list
    awk '{ printf "%s%s", (NR > 1 ? ", " : ""), $1 }' "$temp/out"
}

files() {
    greedy --prompt "$prompt"
    cp "$temp/out" "$temp/text"
    printf '\357\273\277%s' "$prompt" >"$temp/marked"
    greedy --prompt-file "$temp/marked"
    check 'byte order mark' 'another text' cmp "$temp/out" "$temp/text"
    greedy --prompt-file - <"$temp/marked"
    check 'byte order mark on stdin' 'another text' cmp "$temp/out" "$temp/text"
    printf '\377\376I\0t\0' >"$temp/utf16"
    generate 1 --prompt-file "$temp/utf16"
    refused 'UTF-16' 2 "$temp/utf16: is in UTF-16"
    printf '\376\377\0I\0t' >"$temp/utf16"
    run 1 perplexity --model "$model" --file "$temp/utf16"
    refused 'UTF-16 to score' 2 "$temp/utf16: is in UTF-16"

    printf 'It\0was' >"$temp/zero"
    greedy --prompt-file "$temp/zero"
    { cat "$temp/zero" "$temp/out"; } >"$temp/expected"
    greedy --prompt-file "$temp/zero" --echo
    check 'a zero byte, echoed' 'not the prompt and the text' cmp "$temp/out" "$temp/expected"
    greedy --prompt-file "$temp/zero" --save "$temp/zero.kvs"
    run 1 snapshot text "$temp/zero.kvs"
    check 'a zero byte, of a snapshot' 'not the prompt and the text' cmp "$temp/out" "$temp/expected"
    greedy --resume "$temp/zero.kvs" --echo
    check 'a zero byte, resumed' 'not the prompt and the text' cmp "$temp/out" "$temp/expected"
}

special() {
    tokenize --prompt '<|begin_of_text|>Hello there'
    check 'begin token of the prompt' 'there are two, or none' test "$(ids)" = '4088, 39, 502, 78, 452'
    check 'begin token of the prompt' 'no notice' grep -q '^kvarve: NOTE: a prompt holds the tokens itself' "$temp/err"
    tokenize --prompt 'Hello there'
    check 'ids of a prompt' 'others' test "$(ids)" = '4088, 39, 502, 78, 452'
    check 'pieces of a prompt' 'others' test "$(sed -n 5p "$temp/out")" = '     452  " there"'
    printf '\344\275\240\n"\0' >"$temp/odd"
    tokenize --prompt-file "$temp/odd"
    check 'pieces that are no text' 'others' test "$(sed 's/.* //' "$temp/out" | tr -d '\n')" = \
        '"<|begin_of_text|>""\xE4""\xBD""\xA0""\n""\"""\x00"'
    mkdir "$temp/bare"
    ln -s "$model/tokenizer.json" "$temp/bare/"
    run 2 tokenize --model "$temp/bare" --prompt Hello
    check 'ids need tokenizer.json only' 'others' test "$(ids)" = '4088, 39, 502, 78'
    run 1 tokenize --model "$temp/nowhere" --prompt Hello
    refused 'ids of no model' 2 "$temp/nowhere: no such model directory"
    tokenize
    refused 'ids of no prompt' 2 'needs --prompt or --prompt-file'

    cat >"$temp/special.jsonl" <<'END'
{"id": "own", "prompt": "<|begin_of_text|>Hello there", "prompt_token_ids": true}
{"id": "twice", "prompt": "<|begin_of_text|>Hello there", "prompt_token_ids": true, "add_special_tokens": true}
{"id": "none", "prompt": "Hello there", "prompt_token_ids": true, "add_special_tokens": false}
END
    generate 1 --input "$temp/special.jsonl" --max-tokens 1
    for line in 'own 4088, 39, 502, 78, 452' 'twice 4088, 4088, 39, 502, 78, 452' 'none 39, 502, 78, 452'; do
        check "special tokens of a line: ${line%% *}" 'other ids' \
            grep -q "^{\"id\": \"${line%% *}\", \"prompt_token_ids\": \[${line#* }\], \"text\"" "$temp/out"
    done

    change_file flags tokenizer_config.json 's/PreTrainedTokenizerFast"/LlamaTokenizer", "add_eos_token": true/'
    generate_on "$model_copy" 1 --prompt Hello --max-tokens 1 --report "$temp/report"
    check 'an end token behind each prompt' 'it is not there' grep -q '"prompt_tokens":.*5' "$temp/report"
    check 'an end token behind each prompt' 'not said' \
        grep -q '^kvarve: NOTE: the tokenizer ends every prompt with <|end_of_text|>' "$temp/err"
    check 'an end token of tokenizer_config.json' 'not said' grep -q '^kvarve: NOTE: .*: add_eos_token puts' "$temp/err"
}

ends() {
    # Greedy, this is " a very good thing, and". A comma that is a special token is no part of it.
    comma=$(grep -o '", *": [0-9]*\|",": [0-9]*' "$model/tokenizer.json" | head -n 1 | sed 's/.*: //')
    added="{\"id\": $comma, \"content\": \",\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false,"
    change_file comma tokenizer.json "s/\"added_tokens\": \[/&$added \"normalized\": false, \"special\": true}, /"
    for stop in ',' ' a,'; do
        generate_on "$model_copy" 1 --prompt "$prompt" --max-tokens 6 --temperature 0 --stop "$stop"
        cp "$temp/out" "$temp/out.$stop"
    done
    check 'a stop text that is a special token' 'it goes on' test "$(cat "$temp/out.,")" = ' a very good thing'
    check 'a stop text with a special token' 'it ends' test "$(cat "$temp/out. a,")" = ' a very good thing and'
    check 'a stop text with a special token' 'not said' grep -q '^kvarve: NOTE: the stop text  a, holds' "$temp/err"

    echo "{\"prompt\": \"$prompt\", \"temperature\": 0, \"stop_token_ids\": [$comma]}" >"$temp/stop.jsonl"
    generate 1 --input "$temp/stop.jsonl" --output "$temp/stopped"
    check 'a stop token' 'it goes on' grep -q '"text": " a very good thing", .*"finish_reason": "stop"' "$temp/stopped"
    echo "{\"prompt\": \"$prompt\", \"stop_token_ids\": [4096]}" >"$temp/stop.jsonl"
    generate 1 --input "$temp/stop.jsonl"
    check 'a stop token that is not there' 'not refused' grep -q 'there is no token 4096, but 0 to 4095' "$temp/out"
    generate_on "$model_copy" 1 --prompt "$prompt" --max-tokens 3 --temperature 0 --stop , \
        --save "$temp/stop.kvs"
    generate_on "$model_copy" 1 --resume "$temp/stop.kvs" --max-tokens 6
    check 'a stop token, resumed' 'it goes on' test "$(cat "$temp/out")" = ' a very good thing'
}

# scored ARGUMENTS...: "TOKENS SCORED WINDOWS NLL"
scored() {
    run 1 perplexity --model "$model" --file "$temp/novel" --threads 1 --precision f32 "$@"
    awk '/^tokens/ { n = $2; s = $6 } /^windows/ { w = $2 } /^nll/ { print n, s, w, $4 }' "$temp/out"
}

perplexity() {
    printf 'It was a dark and stormy night; the rain fell in torrents.' >"$temp/novel"
    all=$(scored)
    check 'perplexity without the begin token' 'not said' grep -q '^begin token  *none (--add-bos' "$temp/out"
    with=$(scored --add-bos)
    check 'perplexity with the begin token' 'not said' grep -q '^begin token  *4088 before each window' "$temp/out"
    check 'each token is scored behind it' "$all, then $with" test "${with%% *}" -eq "$(echo "$with" | cut -d' ' -f2)"
    check 'the begin token changes the score' "$all, then $with" test "${all##* }" != "${with##* }"
    # The text with the begin token in it, scored as it is, has the same tokens at the same places.
    { printf '<|begin_of_text|>' && cat "$temp/novel"; } >"$temp/begun"
    mv "$temp/begun" "$temp/novel"
    written=$(scored)
    check 'as one that is written there' "$written, not $with" test "${written##* }" = "${with##* }"
}

windows() {
    printf 'It was a dark and stormy night; the rain fell in torrents.' >"$temp/novel"
    with=$(scored --add-bos --context 5)
    n=${with%% *}
    check 'windows with the begin token' "$with" test "$with" = "$n $n $(((n + 3) / 4)) ${with##* }"
    with=$(scored --add-bos --context 9 --stride 4)
    check 'windows that overlap, with the begin token' "$with" test "$with" = "$n $n $(((n - 1) / 4)) ${with##* }"
    run 1 perplexity --model "$model" --file "$temp/novel" --add-bos --context 8 --stride 8
    refused 'no room for the begin token' 2 'at most the context without the begin token, 7'
    change_file no_begin config.json 's/"bos_token_id": 4088/"bos_token_id": null/' # absent: 1
    rm "$model_copy/tokenizer.json" "$model_copy/generation_config.json"
    sed 's/{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, //g' "$model/tokenizer.json" \
        >"$model_copy/tokenizer.json"
    run 1 perplexity --model "$model_copy" --file "$temp/novel" --add-bos
    refused 'no begin token' 2 'has no begin token'
}

run_chain files &
run_chain special ends perplexity windows &
wait
end_test
