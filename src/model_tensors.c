/* Which tensors a slice needs, under Hugging Face's names. */
#include <stdio.h>
#include <stdlib.h>

#include "src/base/memory.h"
#include "src/model_private.h"

static const char embedding_name[] = "model.embed_tokens.weight", head_name[] = "lm_head.weight";

static void want(wanted_list *list, int layer_index, const char *name, int64_t n_rows, int64_t n_cols,
                 int64_t row0, matrix *w, float *vector) {
    list->items = mem_resize(list->items, list->n + 1, sizeof *list->items);
    wanted *item = &list->items[list->n++];
    *item = (wanted){.n_rows = n_rows, .n_cols = n_cols, .row0 = row0, .matrix = w, .vector = vector};
    if (layer_index < 0)
        snprintf(item->name, sizeof item->name, "%s", name);
    else
        snprintf(item->name, sizeof item->name, "model.layers.%d.%s", layer_index, name);
}

/* The tensors of a layer in Hugging Face's names; `l` gives the destinations, or is zeroed to list them only.
 */
static void want_layer(wanted_list *list, const model_config *c, int i, const layer *l) {
    int64_t q = (int64_t)c->n_heads * c->head_dim, kv = (int64_t)c->n_kv_heads * c->head_dim, D = c->d_model;
    want(list, i, "input_layernorm.weight", D, 0, 0, NULL, l->attention_norm);
    want(list, i, "self_attn.q_proj.weight", q, D, 0, l->qkv, NULL);
    want(list, i, "self_attn.k_proj.weight", kv, D, q, l->qkv, NULL);
    want(list, i, "self_attn.v_proj.weight", kv, D, q + kv, l->qkv, NULL);
    if (c->qkv_bias) {
        want(list, i, "self_attn.q_proj.bias", q, 0, 0, NULL, l->qkv_bias);
        want(list, i, "self_attn.k_proj.bias", kv, 0, q, NULL, l->qkv_bias);
        want(list, i, "self_attn.v_proj.bias", kv, 0, q + kv, NULL, l->qkv_bias);
    }
    if (c->qk_norm) {
        want(list, i, "self_attn.q_norm.weight", c->head_dim, 0, 0, NULL, l->q_norm);
        want(list, i, "self_attn.k_norm.weight", c->head_dim, 0, 0, NULL, l->k_norm);
    }
    want(list, i, "self_attn.o_proj.weight", D, q, 0, l->output, NULL);
    if (c->output_bias) want(list, i, "self_attn.o_proj.bias", D, 0, 0, NULL, l->output_bias);
    want(list, i, "post_attention_layernorm.weight", D, 0, 0, NULL, l->mlp_norm);
    want(list, i, "mlp.gate_proj.weight", c->d_mlp, D, 0, l->gate_up, NULL);
    want(list, i, "mlp.up_proj.weight", c->d_mlp, D, c->d_mlp, l->gate_up, NULL);
    want(list, i, "mlp.down_proj.weight", D, c->d_mlp, 0, l->down, NULL);
}

bool model_head_shares_embedding(const model_config *c, slice s) {
    return c->tied_head && slice_embeds(s) && slice_has_head(s);
}

/* A file with one matrix for both may have it under either name. */
static const char *find_table(const model_config *c, const weights *files) {
    bool only_head = c->tied_head && !weights_find(files, embedding_name) && weights_find(files, head_name);
    return only_head ? head_name : embedding_name;
}

status model_want_slice(wanted_list *list, const model_config *c, slice s, const model *m,
                        const weights *files) {
    const layer none = {0};
    const char *table = find_table(c, files);
    if (slice_embeds(s)) want(list, -1, table, c->vocab_size, c->d_model, 0, m ? m->embedding : NULL, NULL);
    for (int i = s.first_layer; i < s.last_layer; i++)
        want_layer(list, c, i, m ? &m->layers[i - s.first_layer] : &none);
    if (slice_has_head(s)) {
        want(list, -1, "model.norm.weight", c->d_model, 0, 0, NULL, m ? m->final_norm : NULL);
        if (!model_head_shares_embedding(c, s)) {
            want(list, -1, c->tied_head ? table : head_name, c->vocab_size, c->d_model, 0, m ? m->head : NULL,
                 NULL);
            list->items[list->n - 1].is_copy = c->tied_head;
        }
    }
    for (size_t i = 0; i < list->n; i++) {
        wanted *w = &list->items[i];
        status st = weights_expect(files, w->name, w->n_rows, w->n_cols, &w->tensor);
        if (st != STATUS_OK) return st;
    }
    return STATUS_OK;
}

status model_file_bytes(const model_config *config, slice s, weights *files, uint64_t *out) {
    wanted_list list = {0};
    status st = model_want_slice(&list, config, s, NULL, files);
    uint64_t bytes = 0;
    for (size_t i = 0; st == STATUS_OK && i < list.n; i++)
        bytes += list.items[i].tensor->n_bytes;
    free(list.items);
    if (st == STATUS_OK) *out = bytes;
    return st;
}
