#!/usr/bin/env python3
"""kvarve beside Hugging Face transformers on a whole model: the same tokens?

    compare_transformers.py MODEL_DIR TEXT_FILE [--kvarve build/kvarve] [--tokens 64] [--long 2000]
                            [--chat-template FILE.jinja] [--bfloat16-up-to 512]

Three prompts: the first sentence of a story, the same as a question in the model's chat template, and the first --long
tokens of TEXT_FILE. Each is continued greedily by --tokens tokens, end tokens passed over, by transformers in float32
and bfloat16 and by kvarve with --precision f32 and bf16. Prompts are given to both as token ids.

kvarve in f32 must choose the tokens of transformers in float32. In bf16 the two may part where two tokens are about as
likely. At the first place where they do, the distance of the two tokens' logits in float32 must be below the
distance that rounding alone makes: twice the largest difference between the logits of transformers in float32 and of
the same with inputs of matrices, keys and values rounded to bfloat16. Exit code 1 where this does not hold. Prompts
of more than --bfloat16-up-to tokens are not continued by transformers in bfloat16, which takes long on processors
without such instructions. A model without a chat template, where none is given, has two prompts. Both are said.

Needs torch and transformers 5 (tests/golden/make_models.py says how to install them), and memory for the model in
float32 and bfloat16. It takes minutes for a model of 135M parameters on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

STORY = "The old lighthouse keeper climbed the stairs one last time, and at the top he"


def make_prompts(tokenizer, text_file, n_long):
    prompts = {"plain": tokenizer(STORY).input_ids}
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": "What happens next? " + STORY}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts["chat"] = tokenizer(text, add_special_tokens=False).input_ids
    else:
        print("no chat template: the prompt in its form is left out")
    with open(text_file, encoding="utf-8") as f:
        prompts["long"] = tokenizer(f.read(12 * n_long)).input_ids[:n_long]
    return prompts


def continue_greedily(model, ids, n):
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                         max_new_tokens=n, eos_token_id=-1, pad_token_id=0)
    return out[0, len(ids):].tolist()


@torch.no_grad()
def logits_after(model, ids):
    return model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1].float()


def round_inputs(model):
    """About what a computation in bfloat16 with float32 sums gives."""
    def to_bfloat16(x):
        return x.to(torch.bfloat16).float()

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args: (to_bfloat16(args[0]),))
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                module.register_forward_hook(lambda _, args, out: to_bfloat16(out))
    for parameter in model.parameters():
        parameter.data = to_bfloat16(parameter.data)
    return model


def run_kvarve(program, model_dir, prompts, n, precision):
    with tempfile.TemporaryDirectory() as temp:
        lines, results = os.path.join(temp, "prompts.jsonl"), os.path.join(temp, "results.jsonl")
        with open(lines, "w") as f:
            for name, ids in prompts.items():
                f.write(json.dumps({"id": name, "tokens": ids, "max_tokens": n, "ignore_eos": True}) + "\n")
        subprocess.run([program, "generate", "--model", model_dir, "--input", lines, "--output", results, "--device",
                        "cpu", "--temperature", "0", "--precision", precision],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(results) as f:
            return {r["id"]: r["tokens"] for r in map(json.loads, f)}


def first_difference(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model_dir")
    parser.add_argument("text_file")
    parser.add_argument("--kvarve", default="build/kvarve")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--bfloat16-up-to", type=int, default=512)
    parser.add_argument("--chat-template", help="where the tokenizer has none")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir)
    if args.chat_template:
        with open(args.chat_template, encoding="utf-8") as f:
            tokenizer.chat_template = f.read()
    prompts = make_prompts(tokenizer, args.text_file, args.long)

    load = lambda kind: AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=kind).eval()
    model = load(torch.float32)
    exact = {name: continue_greedily(model, ids, args.tokens) for name, ids in prompts.items()}
    with_bfloat16 = [name for name, ids in prompts.items() if len(ids) <= args.bfloat16_up_to]
    low = load(torch.bfloat16)
    rounded = {name: continue_greedily(low, prompts[name], args.tokens) for name in with_bfloat16}
    del low
    imitated = round_inputs(load(torch.float32))
    ours = {p: run_kvarve(args.kvarve, args.model_dir, prompts, args.tokens, p) for p in ("f32", "bf16")}

    def compare(what, name, got, wanted, is_exact):
        at = first_difference(got, wanted)
        if at is None and len(got) == len(wanted):
            print(f"{what:40} {name:6} {len(prompts[name]):5} tokens: {len(got)} of {len(wanted)} are the same")
            return True
        if at is None:
            print(f"{what:40} {name:6} {len(got)} tokens, not {len(wanted)}")
            return False
        ids = prompts[name] + wanted[:at]
        logits = logits_after(model, ids)
        gap = abs(float(logits[got[at]] - logits[wanted[at]]))
        noise = float((logits - logits_after(imitated, ids)).abs().max())
        good = not is_exact and gap < 2 * noise
        print(f"{what:40} {name:6} {len(prompts[name]):5} tokens: the same up to {at} of {len(wanted)}; there the two "
              f"choices are {gap:.4f} apart in float32, and rounding moves logits by up to {noise:.4f}"
              f"{'' if good else ': MORE THAN ROUNDING'}")
        return good

    good = True
    for name in prompts:
        good &= compare("kvarve f32, transformers float32", name, ours["f32"][name], exact[name], True)
        good &= compare("kvarve bf16, transformers float32", name, ours["bf16"][name], exact[name], False)
        if name in with_bfloat16:
            compare("kvarve bf16, transformers bfloat16", name, ours["bf16"][name], rounded[name], False)
            compare("transformers bfloat16, its float32", name, rounded[name], exact[name], False)
        else:
            print(f"transformers bfloat16 {name:24} not run: more than {args.bfloat16_up_to} tokens")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
