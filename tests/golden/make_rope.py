#!/usr/bin/env python3
"""Golden inverse frequencies of rope from Hugging Face transformers: writes rope.h beside this script.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0
    venv/bin/python tests/golden/make_rope.py
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

SHAPE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 256,
         "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 32, "max_position_embeddings": 131072}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

# The old form has rope_theta and rope_scaling, the new one rope_parameters.
CASES = {
    "default": {},
    "theta": {"rope_theta": 500000.0},
    "new form": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "wide heads": {"rope_theta": 1000000.0, "head_dim": 128},
    "narrow heads": {"head_dim": 2},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear below 1": {"rope_scaling": {"type": "linear", "factor": 0.5}},
    "low theta": {"rope_theta": 1.5},
    "part of a head": {"partial_rotary_factor": 0.5},
    "no type": {"rope_scaling": {"factor": 4.0}},
    "both types": {"rope_scaling": {"rope_type": "default", "type": "linear", "factor": 4.0}},
    "both forms": {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}},
    "linear 2.5": {"rope_theta": 25000.5, "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "llama 3.1": {"rope_theta": 500000.0, "head_dim": 128,
                  "rope_scaling": LLAMA3 | {"rope_type": "llama3", "factor": 8.0}},
    "llama 3.2": {"rope_theta": 500000.0, "rope_scaling": LLAMA3 | {"rope_type": "llama3", "factor": 32.0}},
    "llama 3 outside": {"rope_theta": 500000.0, "original_max_position_embeddings": 4096,
                        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.5,
                                         "high_freq_factor": 5.0, "original_max_position_embeddings": 8192}},
    "llama 3 below 1": {"rope_scaling": LLAMA3 | {"rope_type": "llama3", "factor": 0.5}},
    "yarn": {"rope_theta": 1000000.0, "head_dim": 128,
             "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    "yarn new form": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0,
                                          "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                                          "original_max_position_embeddings": 4096}},
    "yarn betas": {"rope_scaling": {"rope_type": "yarn", "factor": 16.0, "beta_fast": 20, "beta_slow": 2,
                                    "attention_factor": 1.25, "original_max_position_embeddings": 2048}},
    "yarn mscale": {"rope_scaling": {"rope_type": "yarn", "factor": 40, "mscale": 0.707, "mscale_all_dim": 1.0,
                                     "original_max_position_embeddings": 4096}},
    "yarn one mscale": {"rope_scaling": {"rope_type": "yarn", "factor": 40, "mscale": 0.707,
                                         "original_max_position_embeddings": 4096}},
    "yarn null factor": {"rope_scaling": {"rope_type": "yarn", "factor": None, "beta_fast": None,
                                          "original_max_position_embeddings": 4096}},
    "yarn null factor below 1": {"rope_scaling": {"rope_type": "yarn", "factor": None,
                                                  "original_max_position_embeddings": 262144}},
    "yarn no ramp": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 11, "beta_slow": 11,
                                      "original_max_position_embeddings": 64}},
    "yarn low theta": {"rope_theta": 100.0,
                       "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 2000, "beta_slow": 0.25,
                                        "original_max_position_embeddings": 65536}},
}


def frequencies(values):
    values = json.loads(json.dumps(values))  # a copy: the configuration keeps and changes what it gets
    config = AutoConfig.for_model(**values)
    kind = config.rope_parameters["rope_type"]
    function = LlamaRotaryEmbedding.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    return function(config)


def main():
    lines = ["/* Written by make_rope.py with Hugging Face transformers: do not edit. */",
             "static const struct rope_golden {",
             "    const char *name, *config;",
             "    int n;",
             "    float factor, inv_freq[64];",
             "} rope_golden[] = {"]
    for name, extra in CASES.items():
        values = SHAPE | extra
        inv_freq, factor = frequencies(values)
        text = json.dumps(values).replace('"', '\\"')
        lines.append(f'    {{"{name}", "{text}", {len(inv_freq)}, {float(factor).hex()}f,')
        lines.append("     {" + ", ".join(f"{float(f).hex()}f" for f in inv_freq) + "}},")
    lines.append("};")
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "rope.h"), "w") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
