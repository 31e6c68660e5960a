/* src/study/tables_build.h: files of tables for the lossy codecs (io/codec/kv_tables.h) from samples of a
 * model's K and V. Local. */
#pragma once

#include "io/codec/kv_tables.h"
#include "src/command/progress.h"
#include "src/engine/stop.h"
#include "src/study/varve_build.h"

/* K and V of layers [first_layer, last_layer), of windows of so many tokens, each of which begins at position
 * 0. */
typedef struct table_samples {
    dtype type;
    int first_layer, last_layer;
    int64_t n_tokens, window_tokens;
    const char *elements; /* [layers, N_KV_PARTS, n_tokens, kv heads, head width] */
    const char *before;   /* the same of the layer before the first one; NULL: there is none */
} table_samples;

/* What is known of the model besides. */
typedef struct table_model {
    int n_layers, n_kv_heads, head_dim;
    const double *importance; /* [n_layers, N_KV_PARTS] (varve_samples) */
    const float *frequencies; /* [head_dim / 2] of keys */
} table_model;

/* The memory that a layer takes while its tables are made, of so many elements of K, and as many of V. */
size_t tables_layer_memory(size_t n_elements);

/* The scales of these layers (kv_tables_append_generic), [layers]. Refuses samples as below. */
status tables_find_scales(const table_model *m, const table_samples *s, varve_scale *out);

/* Append these layers as they stand in a file, computed side by side; add to the counts, from which the
 * classes behind the last layer are made (varve_append_classes). Refuses samples that are not all finite,
 * naming the layer, and as stop_ask does (NULL: nothing ends it), between two layers. The bar, of layers,
 * shows how far it is; NULL: nobody asks. */
status tables_append_layers(const linear *l, const table_model *m, const table_samples *s, int n_threads,
                            const stop_limits *limits, progress *bar, varve_counts *counts, text_buffer *out);
