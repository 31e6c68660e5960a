/* io/codec/kv_chunk.h: a chunk of K or V of one layer: [n_tokens, n_kv_heads, head_dim] elements. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

typedef struct kv_chunk_shape {
    dtype type; /* DTYPE_BF16 or DTYPE_F32 */
    int32_t n_tokens, n_kv_heads, head_dim;
} kv_chunk_shape;

/* Whether there can be such a chunk: to be asked of a shape that comes from a file, before any of the
 * functions below. */
bool kv_chunk_is_valid(const kv_chunk_shape *shape);

/* Bytes of the elements of a chunk that is valid. */
size_t kv_chunk_bytes(const kv_chunk_shape *shape);
