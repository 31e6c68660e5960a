#include "io/synthetic/synthetic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The dimensions of Llama 3.2 1B, Llama 3.1 8B and Llama 3.1 70B, and one for tests. */
static const synthetic_model shapes[] = {
    {"tiny", 4, 128, 4, 2, 32, 384, 1024, false, 8192, 10000, 0, 0},
    {"llama-100m", 12, 768, 12, 4, 64, 2048, 32000, true, 131072, 500000, 32, 0},
    {"llama-1b", 16, 2048, 32, 8, 64, 8192, 128256, true, 131072, 500000, 32, 0},
    {"llama-8b", 32, 4096, 32, 8, 128, 14336, 128256, false, 131072, 500000, 8, 0},
    {"llama-70b", 80, 8192, 64, 8, 128, 28672, 128256, false, 131072, 500000, 8, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

void synthetic_append_names(text_buffer *out) {
    for (size_t i = 0; i < N_SHAPES; i++) {
        if (i) text_append(out, ", ", 2);
        text_append(out, shapes[i].name, strlen(shapes[i].name));
    }
}

status synthetic_find(const char *shape, synthetic_model *out) {
    for (size_t i = 0; i < N_SHAPES; i++) {
        if (strcmp(shape, shapes[i].name) != 0) continue;
        *out = shapes[i];
        return STATUS_OK;
    }
    text_buffer names = {0};
    synthetic_append_names(&names);
    status st = status_refuse("--shape %.100s: there is no such shape; there are %s", shape, names.data);
    free(names.data);
    return st;
}

/* ---- config.json ---- */

void synthetic_append_config(const synthetic_model *m, text_buffer *out) {
    char text[2048], scaling[256] = "null";
    if (m->rope_factor > 0)
        snprintf(scaling, sizeof scaling,
                 "{\"factor\": %.1f, \"high_freq_factor\": 4.0, \"low_freq_factor\": 1.0, "
                 "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}",
                 m->rope_factor);
    int n = snprintf(text, sizeof text,
                     "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"attention_bias\": false,\n"
                     "  \"attention_dropout\": 0.0,\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n"
                     "  \"head_dim\": %d,\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": %d,\n"
                     "  \"initializer_range\": 0.02,\n  \"intermediate_size\": %d,\n"
                     "  \"max_position_embeddings\": %lld,\n  \"mlp_bias\": false,\n"
                     "  \"model_type\": \"llama\",\n  \"num_attention_heads\": %d,\n"
                     "  \"num_hidden_layers\": %d,\n  \"num_key_value_heads\": %d,\n"
                     "  \"pretraining_tp\": 1,\n  \"rms_norm_eps\": 1e-05,\n  \"rope_scaling\": %s,\n"
                     "  \"rope_theta\": %.1f,\n  \"tie_word_embeddings\": %s,\n"
                     "  \"torch_dtype\": \"bfloat16\",\n  \"use_cache\": true,\n  \"vocab_size\": %d\n}\n",
                     SYNTHETIC_BEGIN_TOKEN, SYNTHETIC_END_TOKEN, m->head_dim, m->d_model, m->d_mlp,
                     (long long)m->max_positions, m->n_heads, m->n_layers, m->n_kv_heads, scaling,
                     m->rope_theta, m->tied_head ? "true" : "false", m->vocab_size);
    text_append(out, text, (size_t)n);
}

int64_t synthetic_n_elements(const synthetic_tensor *t) {
    return t->n_rows * (t->n_cols ? t->n_cols : 1);
}
