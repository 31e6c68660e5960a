/* The weights of a slice: one pass over the files that reads just the tensors that it needs. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kernels/convert.h"
#include "src/base/alive.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/model/model_private.h"
#include "src/model/rope.h"

enum { READ_BYTES = 16 << 20 };

uint64_t model_weight_bytes(const model_config *c, slice s, precision prec) {
    const uint64_t table = device_matrix_bytes(prec, c->vocab_size, c->d_model);
    uint64_t bytes = slice_embeds(s) ? table : 0;
    for (int l = s.first_layer; l < s.last_layer; l++)
        bytes += layer_weight_bytes(c, l, prec);
    if (slice_has_head(s))
        bytes += (model_head_shares_embedding(c, s) ? 0 : table) + (uint64_t)c->d_model * sizeof(float);
    return bytes;
}

static float *new_vector(model *m, int64_t n, status *st) {
    void *vector = NULL;
    if (*st == STATUS_OK)
        *st = status_at(m->dev->ops->alloc(m->dev, (size_t)n * sizeof(float), &vector), "weights");
    return vector;
}

static matrix *new_matrix(model *m, int64_t n_rows, int64_t n_cols, status *st) {
    matrix *w = NULL;
    if (*st == STATUS_OK) *st = status_at(m->dev->ops->matrix_open(m->dev, n_rows, n_cols, &w), "weights");
    return w;
}

static void take_layer(model *m, int layer_index, status *st) {
    layer *l = &m->layers[layer_index - m->slice.first_layer];
    layer_tensor tensors[LAYER_MAX_TENSORS];
    int n = layer_tensors(&m->config, layer_index, tensors);
    for (const layer_tensor *t = tensors; t < tensors + n; t++) {
        if (t->row0 > 0) continue; /* it lies in that of another one */
        if (t->n_cols)
            *layer_matrix(l, t) = new_matrix(m, t->n_member_rows, t->n_cols, st);
        else
            *layer_vector(l, t) = new_vector(m, t->n_member_rows, st);
    }
}

static status take_weights(model *m) {
    const model_config *c = &m->config;
    status st = STATUS_OK;
    if (slice_embeds(m->slice)) m->embedding = new_matrix(m, c->vocab_size, c->d_model, &st);
    for (int i = m->slice.first_layer; i < m->slice.last_layer; i++)
        take_layer(m, i, &st);
    if (!slice_has_head(m->slice)) return st;
    m->final_norm = new_vector(m, c->d_model, &st);
    m->head = model_head_shares_embedding(c, m->slice) ? m->embedding
                                                       : new_matrix(m, c->vocab_size, c->d_model, &st);
    return st;
}

static void load_vector(model *m, const wanted *w, const void *data) {
    size_t n = (size_t)w->n_rows;
    float *values = mem_new(n, sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = float_at(w->tensor->type, data, i);
    m->dev->ops->copy_in(m->dev, w->vector + w->row0, values, n * sizeof *values);
    free(values);
}

static void add_digest(XXH128_hash_t hash, uint64_t digest[2]) {
    digest[0] += hash.high64;
    digest[1] += hash.low64;
}

/* Weights of a synthetic model are made by the device, if it can: nothing is copied then. */
static bool fill_tensor(model *m, const wanted *w, weights *files) {
    level_stream values;
    if (!w->matrix || !m->dev->ops->matrix_fill || !weights_take_stream(files, w->tensor, &values))
        return false;
    m->dev->ops->matrix_fill(m->dev, w->matrix, w->row0, w->n_rows, &values, 0);
    return true;
}

/* hash: NULL, or where the tensor's bytes are digested, for which the host must have them. */
static status load_tensor(model *m, const wanted *w, weights *files, void *buffer, XXH3_state_t *hash) {
    alive_say();
    if (!hash && fill_tensor(m, w, files)) return STATUS_OK;
    int64_t cols = w->n_cols ? w->n_cols : 1;
    int64_t rows_at_once = READ_BYTES / (cols * (int64_t)dtype_bytes(w->tensor->type));
    if (rows_at_once < 1 || w->vector) rows_at_once = w->vector ? w->n_rows : 1;
    for (int64_t row = 0; row < w->n_rows; row += rows_at_once) {
        int64_t n = w->n_rows - row < rows_at_once ? w->n_rows - row : rows_at_once;
        alive_say();
        status st = weights_read(files, w->tensor, row * cols, n * cols, buffer);
        if (st != STATUS_OK) return st;
        if (hash) XXH3_128bits_update(hash, buffer, (size_t)(n * cols) * dtype_bytes(w->tensor->type));
        if (w->matrix)
            m->dev->ops->matrix_load(m->dev, w->matrix, w->row0 + row, n, buffer, w->tensor->type);
        else
            load_vector(m, w, buffer);
    }
    return STATUS_OK;
}

const uint64_t model_int8_digest[2] = {0x696e743820776569, 0x67687473206f6620}; /* any two numbers */

/* What of the config changes the arithmetic, as a text. */
static void digest_config(const model_config *c, uint64_t digest[2]) {
    char text[1024];
    const rope_config *r = &c->rope;
    int n =
        snprintf(text, sizeof text,
                 "%d layers %d width %d heads %d %d %d mlp %d vocabulary %d eps %.9g biases %d %d norms %d "
                 "tied %d rope %d %.17g %.17g %.17g %.17g %.17g %.17g %.17g %.17g %.17g %.17g %d window %lld",
                 (int)c->family, c->n_layers, c->d_model, c->n_heads, c->n_kv_heads, c->head_dim, c->d_mlp,
                 c->vocab_size, (double)c->rms_norm_eps, c->qkv_bias, c->output_bias, c->qk_norm,
                 c->tied_head, (int)r->kind, r->theta, r->factor, r->original_positions, r->low_freq_factor,
                 r->high_freq_factor, r->beta_fast, r->beta_slow, r->attention_factor, r->mscale,
                 r->mscale_all_dim, r->truncate, (long long)c->window);
    assert(n > 0 && (size_t)n < sizeof text);
    add_digest(XXH3_128bits(text, (size_t)n), digest);
    for (int i = 0; i < c->n_layers; i++)
        if (c->is_windowed[i]) add_digest(XXH3_128bits_withSeed("windowed", 8, (uint64_t)i), digest);
}

static status load_and_digest(model *m, const wanted *w, weights *files, void *buffer, uint64_t digest[2]) {
    if (!digest || w->is_copy) return load_tensor(m, w, files, buffer, NULL);
    XXH3_state_t *hash = XXH3_createState();
    XXH3_128bits_reset(hash);
    XXH3_128bits_update(hash, w->name, strlen(w->name) + 1);
    status st = load_tensor(m, w, files, buffer, hash);
    add_digest(XXH3_128bits_digest(hash), digest);
    XXH3_freeState(hash);
    return st;
}

static int by_file_offset(const void *a, const void *b) {
    const tensor *x = ((const wanted *)a)->tensor, *y = ((const wanted *)b)->tensor;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static status load_weights(model *m, weights *files, uint64_t digest[2]) {
    wanted_list list = {0};
    status st = model_want_slice(&list, &m->config, m->slice, m, files);
    if (st == STATUS_OK) qsort(list.items, list.n, sizeof *list.items, by_file_offset);
    /* A row longer than READ_BYTES is read whole. */
    int64_t row = m->config.d_mlp > m->config.d_model ? m->config.d_mlp : m->config.d_model;
    if (model_get_widths(&m->config).qkv > row) row = model_get_widths(&m->config).qkv;
    size_t bytes = (size_t)row * sizeof(float) > READ_BYTES ? (size_t)row * sizeof(float) : READ_BYTES;
    void *buffer = mem_new(1, bytes);
    if (st == STATUS_OK) st = fault_at("weights");
    for (size_t i = 0; st == STATUS_OK && i < list.n; i++)
        st = load_and_digest(m, &list.items[i], files, buffer, digest);
    free(buffer);
    free(list.items);
    return st == STATUS_OK ? m->dev->ops->sync(m->dev) : st;
}

status model_open(const model_config *config, slice s, int max_rows, weights *files, device *dev, trace *t,
                  uint64_t digest[2], model **out) {
    const int most_head_dim = dev->ops->most_head_dim;
    if (most_head_dim > 0 && config->head_dim > most_head_dim)
        return status_refuse("--device %s: it takes heads of %d numbers at most, and this model's have %d: "
                             "give --device cpu",
                             dev->ops->name, most_head_dim, config->head_dim);
    model *m = mem_new(1, sizeof *m);
    *m = (model){.config = *config, .slice = s, .max_rows = max_rows, .dev = dev, .trace = t};
    m->layers = mem_new((size_t)(s.last_layer - s.first_layer), sizeof *m->layers);
    m->inverse_frequencies = mem_new((size_t)config->head_dim / 2, sizeof(float));
    rope_inverse_frequencies(config, m->inverse_frequencies, &m->rope_factor);
    status st = take_weights(m);
    if (st == STATUS_OK) st = model_take_workspace(m);
    if (st == STATUS_OK) st = load_weights(m, files, digest);
    if (digest && slice_embeds(s)) digest_config(config, digest);
    if (st != STATUS_OK) {
        model_close(m);
        return st;
    }
    *out = m;
    return STATUS_OK;
}

static void release(model *m, void *memory) {
    if (memory) m->dev->ops->release(m->dev, memory);
}

static void close_matrix(model *m, matrix *w) {
    if (w) m->dev->ops->matrix_close(m->dev, w);
}

static void close_layer(model *m, int layer_index) {
    layer *l = &m->layers[layer_index - m->slice.first_layer];
    layer_tensor tensors[LAYER_MAX_TENSORS];
    int n = layer_tensors(&m->config, layer_index, tensors);
    for (const layer_tensor *t = tensors; t < tensors + n; t++) {
        if (t->row0 > 0) continue;
        if (t->n_cols)
            close_matrix(m, *layer_matrix(l, t));
        else
            release(m, *layer_vector(l, t));
    }
}

void model_close(model *m) {
    if (!m) return;
    for (int i = m->slice.first_layer; i < m->slice.last_layer; i++)
        close_layer(m, i);
    if (m->head != m->embedding) close_matrix(m, m->head);
    close_matrix(m, m->embedding);
    void *memory[] = {m->final_norm, m->wide,   m->cos_sin, m->act,     m->narrow,
                      m->head_rows,  m->logits, m->kept,    m->partials};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        release(m, memory[i]);
    if (m->answer) m->dev->ops->release_host(m->dev, m->answer);
    free(m->inverse_frequencies);
    free(m->layers);
    free(m);
}
