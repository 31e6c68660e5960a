#!/usr/bin/env python3
"""Golden data for the model families: tiny random models and their logits from Hugging Face transformers.

Writes, for every case in CASES, models/<case>/ with
    config.json        as transformers saves it (see "config forms" below)
    model.safetensors  random weights (or shards with model.safetensors.index.json)
    golden.bin         token ids, positions, float32 logits and the mean NLL: see FORMAT.md
    golden.json        for people: versions, margins, and how far each deliberate mistake moves the logits

How to run (only to add a case; the results are committed):
    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tests/golden/make_models.py                  # all cases, about a minute
    venv/bin/python tests/golden/make_models.py --only qwen3     # one case
Python 3.11. Made with the versions above; golden.json of each case says them too.

The golden logits are computed from the directory as written: weights as stored, upcast to float32, eager
attention, one thread. Weights, tokens and config.json come out the same, byte for byte, on every machine
(numpy's RandomState is frozen, its seed is the CRC-32 of the case's name); logits may differ in the last bits
on another processor.

Config forms. Transformers 5 saves `rope_parameters`, `dtype` and, for Qwen, `layer_types`. Almost every
published model has the older form: `rope_theta`, `rope_scaling` (with `rope_type`, or `type` when it is still
older), `torch_dtype`, and `max_window_layers` alone. Both occur here: `form` says which.

What makes an error visible. Norm weights are random around 1, biases are large, queries and keys are scaled so
that attention is far from uniform, and every case lists MISTAKES: the same model with one part done wrong
(window off by one, no rope scaling, ...). A case is refused if any of its mistakes moves the logits by less
than a normalised mean squared error (NMSE) of 1e-3. It is also refused if the rounding of a bf16 computation,
imitated here, moves them by more than 3e-4, or float64 by more than 1e-10: then the bounds of the tests
(1e-3 and 1e-9) would be luck.
"""

import argparse
import json
import os
import struct
import zlib
from dataclasses import dataclass, field

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}


@dataclass
class Case:
    family: str            # model_type
    shape: tuple           # D model width, H query heads, G kv heads, K head width, F MLP width, L layers, V vocabulary
    dtype: str             # of the stored weights
    n_tokens: int
    mistakes: str          # names in MISTAKES, beside those of every case
    form: str = "published"  # or "v5": of config.json
    rope: dict = field(default_factory=dict)  # rope scaling
    theta: float = 10000.0
    extra: dict = field(default_factory=dict)  # further config values
    n_shards: int = 1
    said: dict = field(default_factory=dict)  # what config.json says otherwise than the model is


# The odd sizes are on purpose: rows and columns that are no multiple of a vector.
CASES = {
    "llama2": Case("llama", (32, 2, 2, 16, 72, 2, 97), "float32", 100, "eps",
                   extra={"rms_norm_eps": 0.02}),
    "llama3": Case("llama", (64, 4, 2, 16, 96, 3, 128), "bfloat16", 200, "heads no_scaling",
                   rope=LLAMA3, theta=500000.0),
    "llama_linear": Case("llama", (32, 2, 2, 16, 64, 4, 96), "bfloat16", 160, "no_scaling",
                         rope={"type": "linear", "factor": 4.0}),
    "llama_yarn": Case("llama", (32, 2, 1, 16, 64, 3, 96), "bfloat16", 220, "no_scaling no_factor",
                       rope={"type": "yarn"} | YARN),
    "llama_yarn_betas": Case("llama", (32, 2, 1, 16, 64, 2, 96), "bfloat16", 220,
                             "no_scaling no_factor yarn_defaults", form="v5",
                             rope={"rope_type": "yarn", "beta_fast": 8.0, "beta_slow": 0.25,
                                   "attention_factor": 1.3} | YARN),
    "llama_yarn_mscale": Case("llama", (32, 2, 1, 16, 64, 2, 96), "bfloat16", 220,
                              "no_scaling no_factor yarn_defaults", form="v5",
                              rope={"rope_type": "yarn", "mscale": 1.5, "mscale_all_dim": 0.25,
                                    "beta_fast": 6.0, "truncate": False} | YARN),
    "mistral": Case("mistral", (48, 6, 2, 8, 80, 3, 111), "float16", 200, "heads no_window window_off",
                    extra={"sliding_window": 48}),
    "mistral_full": Case("mistral", (32, 4, 2, 16, 64, 2, 96), "bfloat16", 120, "heads window_64", form="v5",
                         theta=1000000.0, extra={"sliding_window": None}),
    "mistral_mixed": Case("mistral", (32, 4, 2, 8, 64, 3, 96), "bfloat16", 160,
                          "heads window_off window_everywhere", form="v5",
                          extra={"sliding_window": 24,
                                 "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "qwen2": Case("qwen2", (48, 3, 1, 16, 80, 3, 120), "bfloat16", 150, "no_q_bias no_k_bias no_v_bias window_64",
                  theta=1000000.0, extra={"tie_word_embeddings": True, "use_sliding_window": False,
                                          "sliding_window": 64, "max_window_layers": 1}),
    "qwen2_window": Case("qwen2", (32, 4, 2, 8, 64, 4, 96), "bfloat16", 160,
                         "heads no_window window_off window_everywhere no_q_bias no_k_bias no_v_bias",
                         extra={"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2}),
    "qwen3": Case("qwen3", (48, 4, 2, 16, 80, 3, 104), "bfloat16", 150,
                  "heads no_q_norm no_k_norm q_norm_ones k_norm_ones", form="v5", theta=1000000.0,
                  extra={"tie_word_embeddings": True}),
    "qwen3_window": Case("qwen3", (32, 4, 2, 8, 64, 3, 96), "bfloat16", 160,
                         "heads no_window window_off window_everywhere no_q_norm no_k_norm", form="v5",
                         extra={"use_sliding_window": True, "sliding_window": 24,
                                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "smollm": Case("llama", (48, 6, 3, 8, 80, 3, 96), "bfloat16", 130, "heads",
                   extra={"tie_word_embeddings": True}, n_shards=3),
    "untied": Case("llama", (32, 4, 2, 8, 64, 2, 96), "bfloat16", 110, "tied", said={"tie_word_embeddings": True}),
    "mqa": Case("llama", (32, 4, 1, 8, 64, 2, 96), "float32", 110, "", form="v5"),
    "llama_bias": Case("llama", (32, 2, 1, 16, 64, 2, 96), "bfloat16", 110,
                       "no_q_bias no_k_bias no_v_bias no_o_bias", extra={"attention_bias": True}),
}


# ---------------------------------------------------------------------------------------------- models

def make_config(case):
    """The configuration object; what is written to disk is config_text of it."""
    D, H, G, K, F, L, V = case.shape
    values = dict(hidden_size=D, num_attention_heads=H, num_key_value_heads=G, intermediate_size=F,
                  num_hidden_layers=L, vocab_size=V, max_position_embeddings=256, rms_norm_eps=1e-5,
                  tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, use_cache=True,
                  rope_parameters={"rope_type": case.rope.get("type", "default")} | case.rope
                  | {"rope_theta": case.theta})
    if case.family != "qwen2":
        values["head_dim"] = K
    config = AutoConfig.for_model(case.family, **(values | case.extra))
    config.architectures = [{"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
                             "qwen3": "Qwen3"}[case.family] + "ForCausalLM"]
    return config


def config_text(case, config):
    values = json.loads(config.to_json_string(use_diff=False))
    for key in ("_name_or_path", "transformers_version", "chunk_size_feed_forward", "is_encoder_decoder",
                "output_attentions", "output_hidden_states", "return_dict", "problem_type", "id2label",
                "label2id"):
        values.pop(key, None)
    values["dtype"] = case.dtype
    if case.form == "v5":
        values["transformers_version"] = transformers.__version__
    else:
        values["torch_dtype"] = values.pop("dtype")
        values["rope_theta"] = case.theta
        values["rope_scaling"] = case.rope or None
        values.pop("rope_parameters")
        values.pop("layer_types", None)
        values |= {k: v for k, v in case.extra.items() if k in ("sliding_window", "use_sliding_window")}
        if case.shape[0] == case.shape[1] * case.shape[3]:
            values.pop("head_dim", None)
    return json.dumps(values | case.said, indent=2, sort_keys=True) + "\n"


def random_weight(random, name, shape):
    normal = random.standard_normal(shape)
    if "norm" in name:
        return 1 + 0.35 * normal
    if name.endswith("bias"):
        return 0.4 * normal
    if "embed_tokens" in name:
        return 0.3 * normal
    gain = 1.15 if "q_proj" in name or "k_proj" in name else 1.8 if "lm_head" in name else 1.0
    return gain / shape[1] ** 0.5 * normal


def write_model(case, name, path):
    """Returns the token ids."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    config = make_config(case)
    model = AutoModelForCausalLM.from_config(config)
    for key, parameter in sorted(model.named_parameters()):  # a tied head is not listed
        parameter.data = torch.from_numpy(random_weight(random, key, tuple(parameter.shape)))
    model.to(getattr(torch, case.dtype))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    for old in os.listdir(path):
        os.remove(os.path.join(path, old))
    model.save_pretrained(path, max_shard_size=size * 43 // 100 if case.n_shards == 3 else "1GB")
    os.remove(os.path.join(path, "generation_config.json"))
    with open(os.path.join(path, "config.json"), "w") as f:
        f.write(config_text(case, config))
    shards = [file for file in os.listdir(path) if file.endswith(".safetensors")]
    assert len(shards) == case.n_shards, f"{name}: {shards}"
    for file in shards:
        os.chmod(os.path.join(path, file), 0o644)
    return random.randint(0, case.shape[6], case.n_tokens).astype(np.int32)


def load_model(path, config=None):
    return AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32,
                                                attn_implementation="eager").eval()


@torch.no_grad()
def run_model(model, tokens):
    """Logits [T, V] of every position, float32."""
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    return model(ids, use_cache=False).logits[0].float().numpy()


# -------------------------------------------------------------------------------------------- mistakes
# Each mistake is (edit of the configuration before loading, edit of the loaded model); either may be None.

def layers_of(model):
    return model.model.layers


def set_windows(config, which):
    config.layer_types = [which] * config.num_hidden_layers


def no_window(config):
    config.sliding_window = None
    if hasattr(config, "layer_types"):
        set_windows(config, "full_attention")


def window_off(config):
    config.sliding_window += 1


def window_64(config):
    config.sliding_window = 64
    if hasattr(config, "layer_types"):
        set_windows(config, "sliding_attention")


def no_scaling(config):
    config.rope_parameters = {"rope_type": "default", "rope_theta": config.rope_parameters["rope_theta"]}


def yarn_defaults(config):
    config.rope_parameters = {"rope_type": "yarn", "rope_theta": config.rope_parameters["rope_theta"]} | YARN


def no_factor(model):
    assert model.model.rotary_emb.attention_scaling != 1.0
    model.model.rotary_emb.attention_scaling = 1.0


def wrong_theta(config):
    config.rope_parameters["rope_theta"] *= 2


def scale_eps(model):
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-6


def zero_bias(which):
    def edit(model):
        for layer in layers_of(model):
            getattr(layer.self_attn, which).bias.data.zero_()
    return edit


def head_norm(which, value):
    def edit(model):
        for layer in layers_of(model):
            if value is None:
                setattr(layer.self_attn, which, torch.nn.Identity())
            else:
                getattr(layer.self_attn, which).weight.data.fill_(value)
    return edit


def norms_to_one(which):
    def edit(model):
        norms = [model.model.norm] if which == "norm" else [getattr(layer, which) for layer in layers_of(model)]
        for norm in norms:
            norm.weight.data.fill_(1)
    return edit


def tie_head(model):
    model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()


def head_shape(model):
    config = model.config
    return config.num_attention_heads, config.num_key_value_heads, layers_of(model)[0].self_attn.head_dim


def take_rows(linear, rows):
    linear.weight.data = linear.weight.data[rows].clone()
    if linear.bias is not None:
        linear.bias.data = linear.bias.data[rows].clone()


def heads_dealt_out(model):
    """Query head h reads kv head h % G instead of h / (H / G)."""
    H, G, K = head_shape(model)
    head_at = [0] * H
    for h in range(H):
        head_at[(h % G) * (H // G) + h // G] = h
    rows = torch.cat([torch.arange(h * K, (h + 1) * K) for h in head_at])
    for layer in layers_of(model):
        take_rows(layer.self_attn.q_proj, rows)
        layer.self_attn.o_proj.weight.data = layer.self_attn.o_proj.weight.data[:, rows].clone()


def adjacent_pairs(model):
    """Rope turns elements 2i and 2i + 1 instead of i and i + K/2."""
    H, G, K = head_shape(model)
    order = torch.arange(K).reshape(K // 2, 2).T.reshape(K)
    for layer in layers_of(model):
        attention = layer.self_attn
        for linear, n_heads in ((attention.q_proj, H), (attention.k_proj, G)):
            take_rows(linear, torch.cat([h * K + order for h in range(n_heads)]))
        for norm in ("q_norm", "k_norm"):
            if hasattr(attention, norm):
                getattr(attention, norm).weight.data = getattr(attention, norm).weight.data[order].clone()


MISTAKES = {
    "no_window": (no_window, None),
    "window_off": (window_off, None),
    "window_64": (window_64, None),
    "window_everywhere": (lambda config: set_windows(config, "sliding_attention"), None),
    "no_scaling": (no_scaling, None),
    "no_factor": (None, no_factor),
    "yarn_defaults": (yarn_defaults, None),
    "heads": (None, heads_dealt_out),
    "eps": (None, scale_eps),
    "tied": (None, tie_head),
    "no_q_bias": (None, zero_bias("q_proj")),
    "no_k_bias": (None, zero_bias("k_proj")),
    "no_v_bias": (None, zero_bias("v_proj")),
    "no_o_bias": (None, zero_bias("o_proj")),
    "no_q_norm": (None, head_norm("q_norm", None)),
    "no_k_norm": (None, head_norm("k_norm", None)),
    "q_norm_ones": (None, head_norm("q_norm", 1)),
    "k_norm_ones": (None, head_norm("k_norm", 1)),
    "theta": (wrong_theta, None),
    "pairs": (None, adjacent_pairs),
    "input_norm_ones": (None, norms_to_one("input_layernorm")),
    "mlp_norm_ones": (None, norms_to_one("post_attention_layernorm")),
    "last_norm_ones": (None, norms_to_one("norm")),
}
EVERYWHERE = "theta pairs input_norm_ones mlp_norm_ones last_norm_ones"


def run_mistake(path, mistake, tokens):
    edit_config, edit_model = MISTAKES[mistake]
    config = AutoConfig.from_pretrained(path)
    if edit_config:
        edit_config(config)
    model = load_model(path, config)
    if edit_model:
        edit_model(model)
    return run_model(model, tokens)


def round_bf16(x):
    return x.to(torch.bfloat16).to(torch.float32)


def run_rounded(path, tokens):
    """About what a computation with bf16 matrix inputs, bf16 KV and float32 sums gives."""
    model = load_model(path)
    for parameter in model.parameters():
        parameter.data = round_bf16(parameter.data)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda m, args: (round_bf16(args[0]),))
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                module.register_forward_hook(lambda m, args, out: round_bf16(out))
    return run_model(model, tokens)


def run_float64(path, tokens):
    """Matrix products and the residual stream in float64 (transformers keeps norms and softmax in float32)."""
    return run_model(load_model(path).double(), tokens)


# ---------------------------------------------------------------------------------------------- golden

def nmse(a, b):
    return float(((a.astype(np.float64) - b) ** 2).sum() / (b.astype(np.float64) ** 2).sum())


def mean_nll(logits, tokens):
    """Mean -log p(token | those before it) over all tokens but the first, in nats, from float32 logits."""
    x = logits[:-1].astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), tokens[1:]]))


def pick_positions(n_tokens):
    """Begin and end, and both sides of the edges of pages, chunks and windows."""
    wanted = [0, 1, 15, 16, 23, 24, 25, 31, 47, 48, 49, 63, 64, 65, 100, 127, 128, 191, 192, n_tokens - 2,
              n_tokens - 1]
    return np.array(sorted({p for p in wanted if p < n_tokens}), dtype=np.int32)


def margins(rows):
    """First choice of every row, and how far it is ahead of the second."""
    two = np.sort(rows, axis=1)[:, -2:]
    return rows.argmax(axis=1), two[:, 1] - two[:, 0]


def write_golden(path, tokens, positions, rows, nll, continuation=(), continuation_margins=()):
    """See FORMAT.md."""
    with open(path, "wb") as f:
        f.write(b"KVGOLD1\n")
        f.write(struct.pack("<4id", len(tokens), len(positions), rows.shape[1], len(continuation), nll))
        for array, kind in ((tokens, "<i4"), (positions, "<i4"), (rows, "<f4"), (continuation, "<i4"),
                            (continuation_margins, "<f4")):
            f.write(np.asarray(array).astype(kind).tobytes())


def versions():
    return {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
            "numpy": np.__version__}


def rounded(x):
    return float(f"{x:.4g}")


def make_case(name, case):
    path = os.path.join(HERE, "models", name)
    os.makedirs(path, exist_ok=True)
    tokens = write_model(case, name, path)
    logits = run_model(load_model(path), tokens)
    positions = pick_positions(case.n_tokens)
    rows = logits[positions]
    first, margin = margins(rows)
    write_golden(os.path.join(path, "golden.bin"), tokens, positions, rows, mean_nll(logits, tokens))

    mistakes = {m: nmse(run_mistake(path, m, tokens)[positions], rows)
                for m in (case.mistakes + " " + EVERYWHERE).split()}
    bf16, float64 = (nmse(run(path, tokens)[positions], rows) for run in (run_rounded, run_float64))
    about = {
        "case": name, "model_type": case.family, "weights": case.dtype, "config_form": case.form,
        "versions": versions(), "n_tokens": case.n_tokens, "mean_nll": mean_nll(logits, tokens),
        "logit_std": rounded(rows.std()),
        "nmse_of_bf16_rounding": rounded(bf16), "nmse_of_float64": rounded(float64),
        "nmse_of_mistakes": {m: rounded(e) for m, e in mistakes.items()},
        "positions": [{"position": int(p), "argmax": int(a), "margin": rounded(d)}
                      for p, a, d in zip(positions, first, margin)],
    }
    with open(os.path.join(path, "golden.json"), "w") as f:
        f.write(json.dumps(about, indent=1) + "\n")

    least = min(mistakes, key=mistakes.get)
    print(f"{name:18} bf16 {bf16:.1e}  f64 {float64:.1e}  logit std {rows.std():.2f}  nll {about['mean_nll']:.4f}  "
          f"margin {margin.min():.4f}..{margin.max():.2f}  least mistake {least} {mistakes[least]:.1e}")
    assert mistakes[least] > 1e-3, f"{name}: {least} would hardly be seen"
    assert bf16 < 3e-4 and float64 < 1e-10, f"{name}: rounding alone comes near the bounds"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=CASES, help="make this case alone")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name, case in CASES.items():
        if only in (None, name):
            make_case(name, case)


if __name__ == "__main__":
    main()
