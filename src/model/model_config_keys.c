/* Keys of config.json that change the numbers of other kinds of model. */
#include <math.h>
#include <string.h>

#include "src/base/notice.h"
#include "src/model/model_config_private.h"

/* Each with the value at which it changes nothing. What shows itself by a tensor (biases, norms, experts'
 * weights) is found there, in model_check.c. */
static void refuse_foreign(json_object *root, const model_config *c) {
    const struct {
        const char *key;
        double neutral;
    } keys[] = {
        /* scores and logits */
        {"attn_logit_softcapping", 0},
        {"final_logit_softcapping", 0},
        {"attention_multiplier", 1 / sqrt(c->head_dim)},
        {"query_pre_attn_scalar", c->head_dim},
        {"softmax_scale", 1 / sqrt(c->head_dim)},
        {"attn_temperature_tuning", 0},
        {"key_multiplier", 1},
        {"clip_qkv", 0},
        {"logits_scaling", 1},
        {"logit_scale", 1},
        {"lm_head_multiplier", 1},
        {"dim_model_base", c->d_model},
        /* the residual stream */
        {"embedding_multiplier", 1},
        {"scale_emb", 1},
        {"residual_multiplier", 1},
        {"scale_depth", sqrt(c->n_layers)},
        {"attention_in_multiplier", 1},
        {"attention_out_multiplier", 1},
        {"mlp_multipliers", 1},
        {"swiglu_limit", 0},
        {"use_parallel_residual", 0},
        {"parallel_attn", 0},
        {"apply_residual_connection_post_layernorm", 0},
        /* positions, and who sees whom */
        {"alibi", 0},
        {"no_rope_layers", 1},
        {"no_rope_layer_interval", 0},
        {"rope_interleave", 0},
        {"rope_interleaved", 0},
        {"rotary_pct", 1},
        {"use_mrope", 0},
        {"attention_chunk_size", 0},
        {"is_causal", 1},
        {"use_bidirectional_attention", 0},
        /* experts, and layers that differ */
        {"num_experts", 0},
        {"num_local_experts", 0},
        {"n_routed_experts", 0},
        {"moe_num_experts", 0},
        {"per_layer_config", 0},
        {"is_encoder_decoder", 0},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const cJSON *item = json_find(root, keys[i].key);
        if (json_item_is_neutral(item, keys[i].neutral) || model_family_uses(c->family, keys[i].key))
            continue;
        char value[32] = "";
        if (cJSON_IsNumber(item)) snprintf(value, sizeof value, "%.9g: ", item->valuedouble);
        json_refuse(
            root, keys[i].key,
            "%sother kinds of model compute otherwise by this key, which a %s here does not: if it is a "
            "leftover, remove it",
            value, model_family_name(c->family));
    }
}

static void note_unused(json_object *root, const model_config *c) {
    if (!model_family_uses(c->family, "sliding_window") &&
        !json_item_is_neutral(json_find(root, "sliding_window"), 0))
        notice_add(
            "%s: sliding_window is not used: in a %s every position sees all before it, as in transformers",
            root->file, model_family_name(c->family));
    const cJSON *code = json_find(root, "auto_map");
    if (cJSON_GetObjectItemCaseSensitive(code, "AutoModelForCausalLM"))
        notice_add("%s: auto_map names code of the model's own, which is not run: it is computed as any %s",
                   root->file, model_family_name(c->family));
}

void model_config_check_keys(json_object *root, const model_config *c) {
    refuse_foreign(root, c);
    note_unused(root, c);
}
