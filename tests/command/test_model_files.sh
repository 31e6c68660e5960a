#!/bin/sh
# tests/command/test_model_files.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: what the program does and says by the files
# of a model.
# The rules themselves are tested in test_config.c, test_weights.c and test_model_check.c.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

# A copy of the demo model, in $copy; generation_config.json holds the argument.
copy_model() {
    copy=$temp/model
    rm -rf "$copy"
    cp -r "$model" "$copy"
    chmod -R u+w "$copy"
    printf '%s\n' "$1" >"$copy/generation_config.json"
}

hello() { # hello ARGUMENTS...
    generate_on "$copy" 1 --prompt Hello --max-tokens 8 "$@"
}

is_text() {
    [ "$status" -eq 0 ] && [ "$(cat "$temp/out")" = "$1" ]
}

notes() { # notes PART: one NOTE, which holds it; or none
    if [ -z "$1" ]; then ! grep NOTE "$temp/err"; else
        [ "$(grep -c NOTE "$temp/err")" = 1 ] && grep "NOTE: .*$1" "$temp/err"
    fi
}

advice() {
    copy_model '{"stop_strings": ["zoz"], "no_repeat_ngram_size": 3, "num_beams": 4}'
    hello
    check 'stop texts of the model' 'another text' is_text ''
    check 'what of its advice is not followed' 'not one note' \
        notes 'generation_config.json: not used: no_repeat_ngram_size, num_beams'
    hello --stop nothing
    check 'stop texts of the command instead' 'another text' is_text zozozozo

    copy_model '{"do_sample": true, "temperature": 0.5, "top_p": 0}'
    hello
    check 'a value that is used and cannot be' 'not refused' [ "$status" -eq 2 ]
    check 'its name' 'not said' grep 'error: .*/generation_config.json: top_p must be above 0' "$temp/err"
    hello --temperature 0
    check 'a value that is not used' 'another text' is_text zozozozo
    check 'that it is not' 'not one note' notes 'top_p must be above 0'
    hello --top-p 0.001
    check 'a value that an option replaces' 'another text' is_text zozozozo
    check 'nothing to say of it' 'a note' notes ''
}

config() {
    copy_model '{}'
    sed -i 's/"rope_theta"/"dual_chunk_attention_config": {"chunk_size": 10}, "rope_theta"/' "$copy/config.json"
    hello
    check 'beyond a context of other attention' 'not one note' notes 'beyond 10 tokens'
    hello --max-tokens 2
    check 'within it' 'a note' notes ''
}

# What cannot be is refused by one line, on all ranks.
refused() { # refused NAME PART
    check "$1" 'not refused' [ "$status" -eq 2 ]
    check "$1, in one line" 'another text' grep "^kvarve: error: .*$2" "$temp/err"
}

paths() {
    run 2 generate --model no-org/no-name --prompt Hello
    refused 'the name of a model' 'hf download no-org/no-name'
    copy_model '{}'
    printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n' >"$copy/tokenizer.json"
    hello
    refused 'a pointer for the tokenizer' '/tokenizer.json: this is a Git LFS pointer'
    mv "$copy/tokenizer.json" "$copy/tokenizer.model"
    hello
    refused 'no tokenizer.json' 'tokenizer.model is not read'
    cp "$model/tokenizer.json" "$copy"
    mv "$copy/model.safetensors" "$copy/pytorch_model.bin"
    run 2 generate --model "$copy" --threads 1 --prompt Hello
    refused 'pickled weights' 'Of pickled weights (pytorch_model.bin) nothing is read'
}

run_chain advice config paths
end_test
