"""The weights of a Llama model directory (kvarve synth, Hugging Face) as a GGUF file in bf16, for llama.cpp.

    python3 make_gguf.py MODEL_DIR OUT.gguf        needs the packages gguf and numpy

The file has no vocabulary: it is for measurements, which need none. llama.cpp's own convert_hf_to_gguf.py makes files
to talk to, but knows only the tokenizers that it knows.
"""

import json
import pathlib
import sys

import gguf
import numpy

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}


def tensors(path):
    """(name, bf16 as uint16 in its shape) of a safetensors file."""
    raw = numpy.memmap(path, dtype=numpy.uint8, mode="r")
    header_bytes = int.from_bytes(raw[:8].tobytes(), "little")
    for name, info in json.loads(raw[8 : 8 + header_bytes].tobytes()).items():
        if name == "__metadata__":
            continue
        if info["dtype"] != "BF16":
            sys.exit(f"{path}: {name} is {info['dtype']}, not BF16")
        first, last = (8 + header_bytes + at for at in info["data_offsets"])
        yield name, raw[first:last].view(numpy.uint16).reshape(info["shape"])


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[rest]}"


def interleave(rows, n_heads):
    """Rope pairs (i, i + half) of Hugging Face to the neighbours (2 i, 2 i + 1) of this format."""
    n, width = rows.shape
    return rows.reshape(n_heads, 2, n // n_heads // 2, width).swapaxes(1, 2).reshape(n, width)


def add_config(out, config):
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_key_length(head_dim)
    out.add_value_length(head_dim)
    out.add_rope_dimension_count(head_dim)
    out.add_rope_freq_base(config["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_tokenizer_model("none")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def main(model_dir, path):
    folder = pathlib.Path(model_dir)
    config = json.loads((folder / "config.json").read_text())
    out = gguf.GGUFWriter(path, "llama")
    add_config(out, config)
    for file in sorted(folder.glob("*.safetensors")):
        for name, values in tensors(file):
            if "q_proj" in name:
                values = interleave(values, config["num_attention_heads"])
            elif "k_proj" in name:
                values = interleave(values, config["num_key_value_heads"])
            if values.ndim == 1:
                out.add_tensor(gguf_name(name), (values.astype(numpy.uint32) << 16).view(numpy.float32))
            else:
                bytes_of_rows = numpy.ascontiguousarray(values).view(numpy.uint8)
                out.add_tensor(gguf_name(name), bytes_of_rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
