/* src/study/varve_build.h: tables of the codec kvarve (io/codec/varve_tables.h) from samples of a model's K
 * and V. Local. */
#pragma once

#include "io/codec/varve_generic.h"
#include "kernels/dtype.h"
#include "src/study/linear.h"

/* K and V of a layer: elements [n_tokens, heads, width] each, of windows of so many tokens, each of which
 * begins at position 0. */
typedef struct varve_samples {
    dtype type;
    int64_t n_tokens, window_tokens;
    const void *elements[N_KV_PARTS];
    double importance[N_KV_PARTS]; /* how much finer than by their size they are coded; 1: not at all */
} varve_samples;

/* How often symbols came, by the class of their component: of ranks' counts, the sums are those of all. */
typedef struct varve_counts {
    int64_t symbols[VARVE_CLASSES][VARVE_MOST_SYMBOL + 2]; /* by size; the last: larger ones */
    int64_t excess[VARVE_CLASSES][3]; /* of components of size 1, 2, more: less their symbol, in 1024ths */
} varve_counts;

/* Append a layer's bytes, as varve_read_layer takes them, and count its symbols. before: samples of the layer
 * before; NULL for the first. frequencies: [width / 2] of its keys. */
void varve_build_layer(const linear *l, const varve_shape *shape, const varve_samples *samples,
                       const varve_samples *before, const float *frequencies, varve_counts *counts,
                       text_buffer *out);

/* What generic tables have of a layer: of samples from one token on. */
varve_scale varve_build_scale(const varve_shape *shape, const varve_samples *samples,
                              const float *frequencies);

void varve_counts_add(const varve_counts *more, varve_counts *counts);

/* Append the classes' bytes. */
void varve_append_classes(const varve_counts *counts, text_buffer *out);
