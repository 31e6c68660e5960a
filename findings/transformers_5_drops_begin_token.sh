#!/bin/sh
# findings/transformers_5_drops_begin_token.sh: transformers 5 no longer puts the begin token that `add_bos_token: true` in
# tokenizer_config.json asks for, where there is a tokenizer.json; 4.57 does. The same directory gives other prompts.
#
# Seen with transformers 4.57.6 and 5.24.0 (PyPI) and tokenizers as they bring it, for the classes LlamaTokenizerFast and
# LlamaTokenizer with a tokenizer.json without a post-processor, as many converted models have it. No warning says so:
#     transformers 4.57.6: LlamaTokenizerFast ['<s>', 'a', 'b'] LlamaTokenizer ['<s>', 'a', 'b']
#     transformers 5.24.0: LlamaTokenizerFast ['a', 'b'] LlamaTokenizer ['a', 'b']
#
# Exit status: 0 as described, 1 if not, 77 if the packages cannot be installed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error

cat >"$work/tokens.py" <<'END'
import json, os, sys, tempfile
import transformers
from tokenizers import Tokenizer, models
bpe = Tokenizer(models.BPE(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}, merges=[], unk_token="<unk>"))
bpe.add_special_tokens(["<unk>", "<s>", "</s>"])
seen = []
for name in ("LlamaTokenizerFast", "LlamaTokenizer"):
    with tempfile.TemporaryDirectory() as folder:
        bpe.save(os.path.join(folder, "tokenizer.json"))
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
            json.dump({"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                       "add_bos_token": True, "add_eos_token": False}, file)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        seen.append(f"{name} {tokenizer.convert_ids_to_tokens(tokenizer('ab').input_ids)}")
print(f"transformers {transformers.__version__}:", *seen)
END

for version in 4.57.6 5.24.0; do
    python3 -m venv "$work/$version" &&
        "$work/$version/bin/pip" -q install "transformers==$version" protobuf sentencepiece >"$work/log" 2>&1 || exit 77
    "$work/$version/bin/python" "$work/tokens.py" 2>"$work/err" | tee -a "$work/seen"
done
cat >"$work/expected" <<'END'
transformers 4.57.6: LlamaTokenizerFast ['<s>', 'a', 'b'] LlamaTokenizer ['<s>', 'a', 'b']
transformers 5.24.0: LlamaTokenizerFast ['a', 'b'] LlamaTokenizer ['a', 'b']
END
cmp "$work/seen" "$work/expected"
