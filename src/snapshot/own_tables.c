#include "src/snapshot/own_tables.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/snapshot/snapshot_tables.h"
#include "src/base/alive.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/model/rope.h"
#include "src/study/tables_build.h"

/* More tokens make better tables, but are all in memory at once. */
enum { FEWEST_TOKENS = 64, MOST_TOKENS = 2048 };

static const manifest_sequence *find_longest(const manifest *m) {
    const manifest_sequence *longest = NULL;
    for (const manifest_sequence *q = m->sequences; q < m->sequences + m->n_sequences; q++)
        if (!longest || manifest_kv_tokens(q) > manifest_kv_tokens(longest)) longest = q;
    return longest;
}

/* Of one segment: its rows of the sequence's first n_tokens go to their places among the samples. */
static status read_segment(const char *dir, const manifest *m, const segment_info *info,
                           const snapshot_tables *tables, const manifest_sequence *q, const table_samples *to,
                           char *elements) {
    const size_t row_bytes = (size_t)(m->n_kv_heads * m->head_dim) * dtype_bytes(m->type);
    segment *s = NULL;
    status st = segment_open(dir, NULL, info, snapshot_tables_of(tables, info), &s);
    for (const manifest_extent *e = q->extents; st == STATUS_OK && e < q->extents + q->n_extents; e++) {
        const int64_t left = to->n_tokens - e->pos0, n = left < e->n_tokens ? left : e->n_tokens;
        const int64_t begin = e->row0 > info->row0 ? e->row0 : info->row0;
        const int64_t row_end = e->row0 + n, segment_end = info->row0 + info->n_rows;
        const int64_t n_rows = (row_end < segment_end ? row_end : segment_end) - begin;
        for (int layer = info->first_layer; n_rows > 0 && st == STATUS_OK && layer < info->last_layer;
             layer++)
            for (int part = 0; st == STATUS_OK && part < N_KV_PARTS; part++) {
                const int64_t row =
                    (int64_t)(layer * N_KV_PARTS + part) * to->n_tokens + e->pos0 + begin - e->row0;
                st = segment_read(s, layer, (kv_part)part, begin, n_rows, elements + (size_t)row * row_bytes);
                alive_say();
            }
    }
    segment_close(s);
    return st;
}

static status read_samples(const char *dir, const manifest *m, const manifest_sequence *q,
                           const table_samples *s, char *elements) {
    snapshot_tables tables;
    status st = snapshot_tables_open(dir, NULL, m, 0, m->n_layers, &tables);
    for (int64_t i = 0; st == STATUS_OK && i < m->n_segments; i++)
        st = read_segment(dir, m, &m->segments[i], &tables, q, s, elements);
    snapshot_tables_close(&tables);
    return st;
}

/* As the manifest tells it; of a model that scales them, about. They need not be exact: what was turned back
 * by them is turned again. */
static float *frequencies_of(const manifest *m) {
    model_config config = {.head_dim = m->head_dim, .rope = {.kind = ROPE_DEFAULT}};
    double *theta = &config.rope.theta;
    float *out = mem_new((size_t)m->head_dim / 2, sizeof *out), factor;
    if (sscanf(m->rope, "theta %lf", theta) == 1 && *theta > 1 && isfinite(*theta))
        rope_inverse_frequencies(&config, out, &factor);
    return out;
}

/* The bases of a layer, beside which nothing in a file of tables is large. */
static size_t layer_bytes(int n_kv_heads, int head_dim) {
    const varve_shape shape = {n_kv_heads, head_dim};
    size_t bytes = 0;
    for (int kind = 0; kind < N_VARVE_BASES; kind++)
        for (int i = 0; i < varve_n_bases(&shape, (varve_bases)kind); i++) {
            int first, n;
            varve_locate_basis(&shape, (varve_bases)kind, i, &first, &n);
            bytes += (size_t)n * (size_t)n * sizeof(int16_t) * (kind == VARVE_PREDICTED ? 2 : 1);
        }
    return bytes;
}

size_t own_tables_memory(dtype type, int n_layers, int n_kv_heads, int head_dim, int64_t n_tokens,
                         int n_threads) {
    const size_t n =
        (size_t)(n_tokens < MOST_TOKENS ? n_tokens : MOST_TOKENS) * (size_t)(n_kv_heads * head_dim);
    const size_t file = (size_t)n_layers * layer_bytes(n_kv_heads, head_dim);
    const int n_beside = n_threads < n_layers ? n_threads : n_layers;
    return (size_t)n_layers * N_KV_PARTS * n * dtype_bytes(type) + (size_t)n_beside * tables_layer_memory(n) +
           2 * file + kv_tables_memory(file);
}

/* Their file: generic where there is no linear algebra to be done (NULL). */
static status append_tables(const linear *l, const manifest *m, const table_samples *s, int n_threads,
                            const stop_limits *limits, text_buffer *out) {
    const kv_tables_shape shape = {
        m->n_layers, m->n_kv_heads, m->head_dim, {m->model_digest[0], m->model_digest[1]}};
    double *importance = mem_new((size_t)m->n_layers * N_KV_PARTS, sizeof *importance);
    for (int i = 0; i < m->n_layers * (int)N_KV_PARTS; i++)
        importance[i] = 1;
    float *frequencies = frequencies_of(m);
    const table_model model = {m->n_layers, m->n_kv_heads, m->head_dim, importance, frequencies};
    varve_counts *counts = mem_new(1, sizeof *counts);
    varve_scale *scales = mem_new((size_t)m->n_layers, sizeof *scales);
    text_buffer layers = {0};
    progress bar = progress_begin("layers");
    status st = l ? tables_append_layers(l, &model, s, n_threads, limits, &bar, counts, &layers)
                  : tables_find_scales(&model, s, scales);
    progress_end(&bar);
    if (st == STATUS_OK && l) {
        varve_append_classes(counts, &layers);
        kv_tables_append(&shape, layers.data, layers.n, out);
    } else if (st == STATUS_OK) {
        kv_tables_append_generic(&shape, frequencies, scales, out);
    }
    free(layers.data);
    free(scales);
    free(counts);
    free(frequencies);
    free(importance);
    return st;
}

/* Refuses where there can be no tables but generic ones. */
static status load_linear(const manifest *m, const linear **out) {
    const manifest_sequence *q = find_longest(m);
    const int64_t n = q ? manifest_kv_tokens(q) : 0;
    if (n >= FEWEST_TOKENS) return linear_load(out);
    return status_refuse("its longest sequence has %lld tokens, and tables of a text are made of %d at least",
                         (long long)n, FEWEST_TOKENS);
}

status own_tables_check(const manifest *m, kv_codec codec) {
    const linear *l;
    char why[STATUS_TEXT_BYTES];
    if (codec != KV_CODEC_CACHEGEN || load_linear(m, &l) == STATUS_OK) return STATUS_OK;
    memcpy(why, status_text(), sizeof why);
    return status_refuse("%s: give those of kvarve calibrate by --tables", why);
}

/* NULL: they are to be generic, as a NOTE says. */
static status choose_linear(const char *dir, const manifest *m, kv_codec codec, bool wants_generic,
                            const linear **out) {
    status st = status_at(own_tables_check(m, codec), "%s", dir);
    *out = NULL;
    if (st != STATUS_OK || (!wants_generic && load_linear(m, out) == STATUS_OK)) return st;
    notice_add(
        "%s: coded with generic tables%s%s: those of kvarve calibrate, which know the model, would take "
        "far fewer bits",
        dir, wants_generic ? "" : ", as there is nothing to make better ones of: ",
        wants_generic ? "" : status_text());
    return STATUS_OK;
}

status own_tables_make(const char *dir, const manifest *m, kv_codec codec, bool wants_generic, int n_threads,
                       const stop_limits *limits, char **bytes, size_t *n_bytes) {
    const linear *l = NULL;
    status st = choose_linear(dir, m, codec, wants_generic, &l);
    const manifest_sequence *q = find_longest(m);
    const int64_t n_saved = q ? manifest_kv_tokens(q) : 0;
    if (st == STATUS_OK && n_saved < 1) st = status_refuse("%s: it holds no tokens", dir);
    if (st != STATUS_OK) return st;
    const int64_t n = n_saved < MOST_TOKENS ? n_saved : MOST_TOKENS;
    const size_t row_bytes = (size_t)(m->n_kv_heads * m->head_dim) * dtype_bytes(m->type);
    if (l)
        notice_add("%s: without --tables, they are made of %lld tokens of what it holds: "
                   "tables of kvarve calibrate know the model, and leave smaller errors in as many bits",
                   dir, (long long)n);
    char *elements = mem_new((size_t)m->n_layers * N_KV_PARTS * (size_t)n, row_bytes);
    const table_samples s = {m->type, 0, m->n_layers, n, n, elements, NULL};
    text_buffer file = {0};
    st = read_samples(dir, m, q, &s, elements);
    if (st == STATUS_OK) st = status_at(append_tables(l, m, &s, n_threads, limits, &file), "%s", dir);
    free(elements);
    if (st != STATUS_OK) return st;
    *bytes = file.data;
    *n_bytes = file.n;
    return STATUS_OK;
}
