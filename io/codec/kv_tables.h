/* io/codec/kv_tables.h: what the lossy codecs must know of a model, from texts that it has read once: a file
 * that `kvarve calibrate` makes, and that whoever decodes needs too. It goes by its digest.
 *
 * The file: the head, for each layer K's tables of cachegen.h, V's, and the layer's of varve_tables.h, then
 * the classes of those, and the digest. All functions are Local. */
#pragma once

#include <stdint.h>

#include "io/codec/cachegen.h"
#include "io/codec/varve_tables.h"
#include "kernels/kv_page.h"

/* What they were made for. */
typedef struct kv_tables_shape {
    int32_t n_layers, n_kv_heads, head_dim;
    uint64_t model_digest[2];
} kv_tables_shape;

typedef struct kv_tables {
    kv_tables_shape shape;
    uint64_t digest;           /* XXH3 (64 bits, seed 0) of all bytes of the file before it; never 0 */
    cachegen_tables *cachegen; /* [n_layers, N_KV_PARTS] */
    varve_tables varve;
} kv_tables;

static inline const cachegen_tables *kv_tables_cachegen(const kv_tables *t, int layer, kv_part part) {
    return &t->cachegen[layer * N_KV_PARTS + (int)part];
}

/* The bytes of a file from those of all layers, in their order, and of the classes behind them. */
void kv_tables_append(const kv_tables_shape *shape, const void *parts, size_t n_bytes, text_buffer *out);

/* Refuses what is no such file, naming it. Release with kv_tables_free. */
status kv_tables_open(const char *path, kv_tables **out);
void kv_tables_free(kv_tables *t); /* NULL is fine */
