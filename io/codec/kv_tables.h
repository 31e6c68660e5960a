/* io/codec/kv_tables.h: what the lossy codecs must know of a model, from texts that it has read once: a file
 * that `kvarve calibrate` makes, and that whoever decodes needs too. It goes by its digest.
 *
 * The file: the head, for each layer K's tables of cachegen.h, V's, and the layer's of varve_tables.h, then
 * the classes of those, and the digest. Where nobody has calibrated, a file of another version has generic
 * tables, which CacheGen cannot have: the head, the frequencies of the keys' turns [head width / 2], a
 * varve_scale for each layer (varve_generic.h), and the digest. All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/codec/cachegen.h"
#include "io/codec/varve_generic.h"
#include "kernels/kv_page.h"

/* More than any model needs. */
static const size_t kv_tables_most_bytes = (size_t)1 << 32;

/* What they were made for. */
typedef struct kv_tables_shape {
    int32_t n_layers, n_kv_heads, head_dim;
    uint64_t model_digest[2];
} kv_tables_shape;

typedef struct kv_tables {
    kv_tables_shape shape;
    uint64_t digest;           /* XXH3 (64 bits, seed 0) of all bytes of the file before it; never 0 */
    cachegen_tables *cachegen; /* [n_layers, N_KV_PARTS]; NULL: these are generic */
    varve_tables varve;
} kv_tables;

static inline const cachegen_tables *kv_tables_cachegen(const kv_tables *t, int layer, kv_part part) {
    return &t->cachegen[layer * N_KV_PARTS + (int)part];
}

/* The bytes of a file from those of all layers, in their order, and of the classes behind them. */
void kv_tables_append(const kv_tables_shape *shape, const void *parts, size_t n_bytes, text_buffer *out);

/* The same of generic ones, of all layers. */
void kv_tables_append_generic(const kv_tables_shape *shape, const float *frequencies,
                              const varve_scale *layers, text_buffer *out);

/* "tables-0123456789abcdef.kvt": as a snapshot names them. */
enum { KV_TABLES_NAME_BYTES = 32 };
void kv_tables_name(uint64_t digest, char name[KV_TABLES_NAME_BYTES]);
bool kv_tables_parse_name(const char *name, uint64_t *digest); /* false: no such name */

/* From the bytes of a file. Refuses what is none, or damaged. Release with kv_tables_free. */
status kv_tables_parse(const char *bytes, size_t n_bytes, kv_tables **out);

/* The memory that tables of a file of so many bytes take. */
size_t kv_tables_memory(size_t file_bytes);

/* Refuses what is no such file, naming it. Release with kv_tables_free. */
status kv_tables_open(const char *path, kv_tables **out);
void kv_tables_free(kv_tables *t); /* NULL is fine */

/* Refuses tables of a model of another shape, naming them. */
status kv_tables_check_shape(const kv_tables *t, int n_layers, int n_kv_heads, int head_dim);
