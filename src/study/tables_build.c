#include "src/study/tables_build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"
#include "src/base/alive.h"
#include "src/base/memory.h"

static status check_samples(const table_model *m, const table_samples *s) {
    const size_t n = N_KV_PARTS * (size_t)s->n_tokens * (size_t)(m->n_kv_heads * m->head_dim);
    for (int layer = s->first_layer; layer < s->last_layer; layer++)
        for (size_t i = 0; i < n; i++)
            if (!isfinite(float_at(s->type, s->elements, (size_t)(layer - s->first_layer) * n + i)))
                return status_refuse(
                    "keys or values of layer %d are not finite: no tables can be made of such", layer);
    return STATUS_OK;
}

/* K and V of a layer, or of the one before the first. */
static varve_samples samples_of(const table_model *m, const table_samples *s, int layer) {
    const size_t row_bytes = (size_t)(m->n_kv_heads * m->head_dim) * dtype_bytes(s->type),
                 part_bytes = (size_t)s->n_tokens * row_bytes;
    const char *k = layer < s->first_layer
                        ? s->before
                        : s->elements + (size_t)(layer - s->first_layer) * N_KV_PARTS * part_bytes;
    const double *importance = m->importance + layer * N_KV_PARTS;
    return (varve_samples){s->type,
                           s->n_tokens,
                           s->window_tokens,
                           {k, k + part_bytes},
                           {importance[KV_PART_K], importance[KV_PART_V]}};
}

static void append_layer(const linear *l, const table_model *m, const table_samples *s, int layer,
                         varve_counts *counts, text_buffer *out) {
    const varve_shape shape = {m->n_kv_heads, m->head_dim};
    const int n_channels = m->n_kv_heads * m->head_dim;
    const size_t n = (size_t)s->n_tokens * (size_t)n_channels;
    const varve_samples own = samples_of(m, s, layer);
    float *values = mem_new(n, sizeof *values);
    for (int part = 0; part < N_KV_PARTS; part++) {
        for (size_t i = 0; i < n; i++)
            values[i] = float_at(s->type, own.elements[part], i);
        cachegen_build(values, s->n_tokens, s->window_tokens, n_channels, cachegen_bin(layer, m->n_layers),
                       out);
    }
    free(values);
    const varve_samples before = layer > 0 ? samples_of(m, s, layer - 1) : own;
    varve_build_layer(l, &shape, &own, layer > 0 ? &before : NULL, m->frequencies, counts, out);
}

/* Its numbers and those of the layer before, those of them that are ordinary, what is decoded of these, and
 * components. */
size_t tables_layer_memory(size_t n_elements) {
    enum { MATRICES = 8 };
    return MATRICES * N_KV_PARTS * n_elements * sizeof(float);
}

status tables_find_scales(const table_model *m, const table_samples *s, varve_scale *out) {
    const varve_shape shape = {m->n_kv_heads, m->head_dim};
    status st = check_samples(m, s);
    for (int layer = s->first_layer; st == STATUS_OK && layer < s->last_layer; layer++) {
        const varve_samples own = samples_of(m, s, layer);
        out[layer - s->first_layer] = varve_build_scale(&shape, &own, m->frequencies);
        alive_say();
    }
    return st;
}

status tables_append_layers(const linear *l, const table_model *m, const table_samples *s, int n_threads,
                            const stop_limits *limits, progress *bar, varve_counts *counts,
                            text_buffer *out) {
    const int n = s->last_layer - s->first_layer;
    status st = check_samples(m, s);
    if (st != STATUS_OK) return st;
    text_buffer *layers = mem_new((size_t)n, sizeof *layers);
    varve_counts *each = mem_new((size_t)n, sizeof *each);
    char why[STATUS_TEXT_BYTES];
    int n_made = 0;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
    for (int i = 0; i < n; i++) {
        const status asked = limits ? stop_ask(limits) : STATUS_OK;
        if (asked == STATUS_OK) append_layer(l, m, s, s->first_layer + i, &each[i], &layers[i]);
        alive_say();
#pragma omp critical(tables_progress)
        {
            n_made += asked == STATUS_OK;
            if (asked != STATUS_OK) memcpy(why, status_text(), sizeof why);
            if (asked != STATUS_OK) st = asked;
            if (bar) progress_update(bar, n_made, n, "made tables of %d of %d layers", n_made, n);
        }
    }
    for (int i = 0; i < n; i++) {
        varve_counts_add(&each[i], counts);
        if (layers[i].n) text_append(out, layers[i].data, layers[i].n);
        free(layers[i].data);
    }
    free(layers);
    free(each);
    return st == STATUS_OK ? STATUS_OK : status_adopt(st, why);
}
