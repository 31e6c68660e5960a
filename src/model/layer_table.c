#include "src/model/layer_table.h"

typedef enum dimension { NONE, D_MODEL, D_MLP, HEAD_DIM, Q_WIDTH, KV_WIDTH } dimension;
typedef enum presence { ALWAYS, QKV_BIAS, QK_NORM, OUTPUT_BIAS } presence;

static const struct {
    const char *name;
    size_t member;
    dimension rows, cols;
    presence when;
} table[] = {
    {"input_layernorm.weight", offsetof(layer, attention_norm), D_MODEL, NONE, ALWAYS},
    {"self_attn.q_proj.weight", offsetof(layer, qkv), Q_WIDTH, D_MODEL, ALWAYS},
    {"self_attn.k_proj.weight", offsetof(layer, qkv), KV_WIDTH, D_MODEL, ALWAYS},
    {"self_attn.v_proj.weight", offsetof(layer, qkv), KV_WIDTH, D_MODEL, ALWAYS},
    {"self_attn.q_proj.bias", offsetof(layer, qkv_bias), Q_WIDTH, NONE, QKV_BIAS},
    {"self_attn.k_proj.bias", offsetof(layer, qkv_bias), KV_WIDTH, NONE, QKV_BIAS},
    {"self_attn.v_proj.bias", offsetof(layer, qkv_bias), KV_WIDTH, NONE, QKV_BIAS},
    {"self_attn.q_norm.weight", offsetof(layer, q_norm), HEAD_DIM, NONE, QK_NORM},
    {"self_attn.k_norm.weight", offsetof(layer, k_norm), HEAD_DIM, NONE, QK_NORM},
    {"self_attn.o_proj.weight", offsetof(layer, output), D_MODEL, Q_WIDTH, ALWAYS},
    {"self_attn.o_proj.bias", offsetof(layer, output_bias), D_MODEL, NONE, OUTPUT_BIAS},
    {"post_attention_layernorm.weight", offsetof(layer, mlp_norm), D_MODEL, NONE, ALWAYS},
    {"mlp.gate_proj.weight", offsetof(layer, gate_up), D_MLP, D_MODEL, ALWAYS},
    {"mlp.up_proj.weight", offsetof(layer, gate_up), D_MLP, D_MODEL, ALWAYS},
    {"mlp.down_proj.weight", offsetof(layer, down), D_MODEL, D_MLP, ALWAYS},
};

_Static_assert(sizeof table / sizeof *table <= LAYER_MAX_TENSORS, "room for all of a layer");

static int64_t size_of(const model_config *c, dimension d) {
    switch (d) {
    case NONE:
        return 0;
    case D_MODEL:
        return c->d_model;
    case D_MLP:
        return c->d_mlp;
    case HEAD_DIM:
        return c->head_dim;
    case Q_WIDTH:
        return (int64_t)c->n_heads * c->head_dim;
    case KV_WIDTH:
        return (int64_t)c->n_kv_heads * c->head_dim;
    }
    return 0;
}

static bool is_present(const model_config *c, presence when) {
    return when == ALWAYS || (when == QKV_BIAS && c->qkv_bias) || (when == QK_NORM && c->qk_norm) ||
           (when == OUTPUT_BIAS && c->output_bias);
}

int layer_tensors(const model_config *c, layer_tensor out[LAYER_MAX_TENSORS]) {
    int n = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!is_present(c, table[i].when)) continue;
        out[n] = (layer_tensor){
            .name = table[i].name,
            .n_rows = size_of(c, table[i].rows),
            .n_cols = size_of(c, table[i].cols),
            .member = table[i].member,
        };
        for (int k = 0; k < n; k++)
            if (out[k].member == out[n].member) out[n].row0 += out[k].n_rows;
        n++;
    }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            if (out[k].member == out[i].member) out[i].n_member_rows += out[k].n_rows;
    return n;
}

double layer_elements(const model_config *c) {
    layer_tensor tensors[LAYER_MAX_TENSORS];
    double elements = 0;
    for (int i = 0, n = layer_tensors(c, tensors); i < n; i++)
        elements += (double)tensors[i].n_rows * (double)tensors[i].n_cols;
    return elements;
}
