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

int layer_tensors(const model_config *c, int layer_index, layer_tensor out[LAYER_MAX_TENSORS]) {
    int n = 0;
    (void)layer_index; /* the layers of these families are alike */
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

uint64_t layer_weight_bytes(const model_config *c, int layer_index, precision p) {
    layer_tensor tensors[LAYER_MAX_TENSORS];
    uint64_t bytes = 0;
    int n = layer_tensors(c, layer_index, tensors);
    for (const layer_tensor *t = tensors; t < tensors + n; t++)
        if (t->row0 == 0) /* others lie in the same member */
            bytes += t->n_cols ? device_matrix_bytes(p, t->n_member_rows, t->n_cols)
                               : (uint64_t)t->n_member_rows * sizeof(float);
    return bytes;
}

double layer_elements(const model_config *c, int layer_index) {
    layer_tensor tensors[LAYER_MAX_TENSORS];
    double elements = 0;
    int n = layer_tensors(c, layer_index, tensors);
    for (const layer_tensor *t = tensors; t < tensors + n; t++)
        elements += (double)t->n_rows * (double)t->n_cols;
    return elements;
}

double mean_layer_elements(const model_config *c) {
    double elements = 0;
    for (int l = 0; l < c->n_layers; l++)
        elements += layer_elements(c, l);
    return elements / c->n_layers;
}

double head_elements(const model_config *c) {
    return (double)c->d_model * c->vocab_size;
}
