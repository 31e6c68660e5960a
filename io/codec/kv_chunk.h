/* io/codec/kv_chunk.h: what a frame holds: K or V, or both, of some tokens in one layer or several. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "kernels/kv_page.h"

/* K or V of one layer: [n_tokens, n_kv_heads, head_dim] elements. */
typedef struct kv_chunk_shape {
    dtype type; /* DTYPE_BF16 or DTYPE_F32; DTYPE_U8 within the lossless codec */
    int32_t n_tokens, n_kv_heads, head_dim;
} kv_chunk_shape;

/* Whether there can be such a chunk in a file: to be asked of a shape that comes from one, before any of the
 * functions below. */
bool kv_chunk_is_valid(const kv_chunk_shape *shape);

/* Bytes of the elements of a chunk that is valid, or of u8. */
size_t kv_chunk_bytes(const kv_chunk_shape *shape);

/* Elements [n_layers, n_parts, n_tokens, n_kv_heads, head_dim] of layers from first_layer on, and of parts
 * from `part` on. */
typedef struct kv_chunk {
    kv_chunk_shape shape; /* of one part of one layer */
    int32_t first_layer, n_layers;
    kv_part part;
    int n_parts;
} kv_chunk;

/* One part of one layer. */
static inline kv_chunk kv_chunk_of(const kv_chunk_shape *shape, int layer, kv_part part) {
    return (kv_chunk){*shape, layer, 1, part, 1};
}

static inline int kv_chunk_count_parts(const kv_chunk *chunk) {
    return chunk->n_layers * chunk->n_parts;
}

/* Which layer, and which part of it, the i-th of them is. */
static inline int kv_chunk_layer(const kv_chunk *chunk, int i) {
    return chunk->first_layer + i / chunk->n_parts;
}

static inline kv_part kv_chunk_part(const kv_chunk *chunk, int i) {
    return (kv_part)((int)chunk->part + i % chunk->n_parts);
}

/* Bytes of all its elements, and whether they are a number that can be, as above. */
bool kv_chunk_all_are_valid(const kv_chunk *chunk);
size_t kv_chunk_all_bytes(const kv_chunk *chunk);

/* Of a head of a part of a layer, a chunk's tokens from `token` on: rows [n_tokens, head_dim]. */
typedef struct kv_rows {
    int layer;
    kv_part part;
    int head;
    int32_t token, n_tokens;
} kv_rows;

/* Where a chunk's elements go, some rows after others, in the thread that has them. */
typedef struct kv_output {
    void *to;
    void (*put)(void *to, const kv_rows *which, const void *rows);
} kv_output;

/* Put all elements of a chunk. */
void kv_chunk_put(const kv_chunk *chunk, const void *elements, const kv_output *out);

/* Of n elements and what a codec has made of them: adds their squares, and those of the differences. */
void kv_chunk_compare(dtype type, const void *elements, const void *coded, size_t n, double *squares,
                      double *errors);

/* A token's position in its text, and how many positions of the text are known behind it. */
typedef struct kv_token {
    int32_t position, age;
} kv_token;
