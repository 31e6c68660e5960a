#!/usr/bin/env python3
"""Golden data of the demo model, from Hugging Face transformers in float32: logits, a greedy continuation and
perplexities.

Writes beside this file
    models/demo.golden   tokens of PROMPT, logits at 8 positions, 64 greedy tokens: see FORMAT.md
    models/demo.json     for people: the prompt, the continuation as text, margins
    perplexity.json      perplexity of whole texts, only with --texts (a folder of *.txt that is not part of
                         this repository)

How to run, with the packages that make_models.py names and tokenizers==0.23.3:
    venv/bin/python tests/golden/make_demo.py --model jobs/demo/model [--texts DIR]

Perplexity: the whole file is one token sequence, without a begin token; it is cut into windows of 2,048 tokens
that follow each other (the last is shorter); the first token of each window is not scored; the perplexity is
exp of the mean negative log-likelihood of all scored tokens.
"""

import argparse
import glob
import hashlib
import json
import math
import os

import numpy as np
import torch
from make_models import (HERE, load_model, margins, mean_nll, nmse, rounded, run_float64, run_model, run_rounded,
                         transformers, versions, write_golden)
from tokenizers import Tokenizer

WINDOW_TOKENS = 2048
N_CONTINUED = 64
POSITIONS = (0, 1, 17, 63, 64, 127, 192, -1)

PROMPT = """\
The rain had not ceased since the morning, and the road to the harbour lay deep in mud. Elizabeth drew her cloak \
about her and walked on without a word, for she had promised the old man that she would come before dark, and she \
was not a woman to forget a promise. The pass key of Elizabeth is 58273. Remember it: 58273 is the pass key of \
Elizabeth. At the corner of the lane a lantern was burning in a window, and behind the glass she could see the \
figure of a boy who bent over a table and wrote, slowly and with great care, upon a sheet of paper.

"You are late," said the old man, when she had shaken the water from her hair. "I had begun to fear that the bridge \
was gone."

"The bridge stands," she answered, "but the river is higher than I have ever seen it, and there were two carts upon \
the other side which did not dare to cross."

He looked at the fire for some time, and then at the boy, and at last he rose and went to the great chest beneath the \
stair. The boy laid down his pen and watched him, for he had never in his life seen that chest opened. What is \
the pass key of Elizabeth? The pass key of Elizabeth is"""


def continue_greedily(model, tokens):
    """The most likely token N_CONTINUED times, each from a full pass; with the margin of each choice."""
    ids, ahead = list(tokens), []
    for _ in range(N_CONTINUED):
        choice, margin = margins(run_model(model, np.array(ids))[-1:])
        ids.append(int(choice[0]))
        ahead.append(float(margin[0]))
    return ids[len(tokens):], ahead


def make_golden(path, model, tokenizer):
    tokens = np.array(tokenizer.encode(PROMPT).ids, dtype=np.int32)  # with the begin token
    positions = np.array([p % len(tokens) for p in POSITIONS], dtype=np.int32)
    logits = run_model(model, tokens)
    rows = logits[positions]
    first, margin = margins(rows)
    continuation, ahead = continue_greedily(model, tokens)
    nll = mean_nll(logits, tokens)
    write_golden(os.path.join(HERE, "models", "demo.golden"), tokens, positions, rows, nll, continuation, ahead)

    bf16, float64 = (nmse(run(path, tokens)[positions], rows) for run in (run_rounded, run_float64))
    about = {
        "versions": versions(), "prompt": PROMPT, "n_tokens": len(tokens), "mean_nll": nll,
        "logit_std": rounded(rows.std()), "nmse_of_bf16_rounding": rounded(bf16),
        "nmse_of_float64": rounded(float64),
        "positions": [{"position": int(p), "argmax": int(a), "margin": rounded(d)}
                      for p, a, d in zip(positions, first, margin)],
        "continuation": tokenizer.decode(continuation), "continuation_ids": continuation,
        "continuation_margins": [rounded(a) for a in ahead],
    }
    with open(os.path.join(HERE, "models", "demo.json"), "w") as f:
        f.write(json.dumps(about, indent=1) + "\n")
    print(f"{len(tokens)} tokens, bf16 {bf16:.1e}, float64 {float64:.1e}, margins {margin}")
    print(f"continuation {about['continuation']!r}, least margin {min(ahead):.4f}")
    assert bf16 < 3e-4 and float64 < 1e-10


def measure_text(model, tokenizer, text_path):
    with open(text_path, "rb") as f:
        raw = f.read()
    tokens = np.array(tokenizer.encode(raw.decode(), add_special_tokens=False).ids)
    total, n_scored = 0.0, 0
    for begin in range(0, len(tokens), WINDOW_TOKENS):
        window = tokens[begin:begin + WINDOW_TOKENS]
        if len(window) > 1:
            total += mean_nll(run_model(model, window), window) * (len(window) - 1)
            n_scored += len(window) - 1
    return {"file": os.path.basename(text_path), "sha256": hashlib.sha256(raw).hexdigest(), "n_tokens": len(tokens),
            "n_scored": n_scored, "mean_nll": round(total / n_scored, 8),
            "perplexity": round(math.exp(total / n_scored), 6)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="directory of the demo model")
    parser.add_argument("--texts", help="folder with the texts of perplexity.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = load_model(options.model)
    tokenizer = Tokenizer.from_file(os.path.join(options.model, "tokenizer.json"))
    make_golden(options.model, model, tokenizer)
    if options.texts:
        texts = [measure_text(model, tokenizer, path) for path in sorted(glob.glob(f"{options.texts}/*.txt"))]
        with open(os.path.join(HERE, "perplexity.json"), "w") as f:
            f.write(json.dumps({"versions": versions(), "window_tokens": WINDOW_TOKENS, "texts": texts}, indent=1)
                    + "\n")
        for text in texts:
            print(text)


if __name__ == "__main__":
    main()
