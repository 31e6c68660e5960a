/* Which tensors a slice needs, under Hugging Face's names. */
#include <stdio.h>
#include <stdlib.h>

#include "src/base/memory.h"
#include "src/model/model_private.h"

static const char embedding_name[] = "model.embed_tokens.weight", norm_name[] = "model.norm.weight",
                  head_name[] = "lm_head.weight";

static void want(wanted_list *list, int layer_index, const char *name, int64_t n_rows, int64_t n_cols,
                 int64_t row0, matrix *w, float *vector) {
    list->items = mem_grow(list->items, list->n, sizeof *list->items);
    wanted *item = &list->items[list->n++];
    *item = (wanted){.n_rows = n_rows, .n_cols = n_cols, .row0 = row0, .matrix = w, .vector = vector};
    if (layer_index < 0)
        snprintf(item->name, sizeof item->name, "%s", name);
    else
        snprintf(item->name, sizeof item->name, "model.layers.%d.%s", layer_index, name);
}

/* Of a layer; `l` gives the destinations; NULL: none. */
static void want_layer(wanted_list *list, const model_config *c, int i, layer *l) {
    layer_tensor tensors[LAYER_MAX_TENSORS];
    int n = layer_tensors(c, i, tensors);
    for (const layer_tensor *t = tensors; t < tensors + n; t++)
        want(list, i, t->name, t->n_rows, t->n_cols, t->row0, l && t->n_cols ? *layer_matrix(l, t) : NULL,
             l && !t->n_cols ? *layer_vector(l, t) : NULL);
}

bool model_head_shares_embedding(const model_config *c, slice s) {
    return c->tied_head && slice_embeds(s) && slice_has_head(s);
}

/* A file with one matrix for both may have it under either name. */
static const char *find_table(const model_config *c, const weights *files) {
    bool only_head = c->tied_head && !weights_find(files, embedding_name) && weights_find(files, head_name);
    return only_head ? head_name : embedding_name;
}

/* `table`: the name of the embedding, which is the head's where that is tied. */
static void list_slice(wanted_list *list, const model_config *c, slice s, const model *m, const char *table) {
    if (slice_embeds(s)) want(list, -1, table, c->vocab_size, c->d_model, 0, m ? m->embedding : NULL, NULL);
    for (int i = s.first_layer; i < s.last_layer; i++)
        want_layer(list, c, i, m ? &m->layers[i - s.first_layer] : NULL);
    if (slice_has_head(s)) {
        want(list, -1, norm_name, c->d_model, 0, 0, NULL, m ? m->final_norm : NULL);
        if (!model_head_shares_embedding(c, s)) {
            want(list, -1, c->tied_head ? table : head_name, c->vocab_size, c->d_model, 0, m ? m->head : NULL,
                 NULL);
            list->items[list->n - 1].is_copy = c->tied_head;
        }
    }
}

status model_want_slice(wanted_list *list, const model_config *c, slice s, const model *m,
                        const weights *files) {
    list_slice(list, c, s, m, find_table(c, files));
    for (size_t i = 0; i < list->n; i++) {
        wanted *w = &list->items[i];
        status st = weights_expect(files, w->name, w->n_rows, w->n_cols, &w->tensor);
        if (st != STATUS_OK) return st;
    }
    return STATUS_OK;
}

synthetic_tensor *model_list_tensors(const model_config *c, size_t *n) {
    const slice all = {.first_layer = 0, .last_layer = c->n_layers, .n_layers = c->n_layers};
    wanted_list list = {0};
    list_slice(&list, c, all, NULL, embedding_name);
    synthetic_tensor *tensors = mem_new(list.n, sizeof *tensors);
    for (size_t i = 0; i < list.n; i++) {
        const wanted *w = &list.items[i];
        tensors[i] = (synthetic_tensor){.n_rows = w->n_rows, .n_cols = w->n_cols};
        snprintf(tensors[i].name, sizeof tensors[i].name, "%s", w->name);
    }
    *n = list.n;
    free(list.items);
    return tensors;
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
