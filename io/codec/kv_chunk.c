#include "io/codec/kv_chunk.h"

#include <assert.h>

/* The bytes of a chunk; false if there can be none such. */
static bool measure(const kv_chunk_shape *shape, size_t *n_bytes) {
    if (shape->type != DTYPE_BF16 && shape->type != DTYPE_F32) return false;
    if (shape->n_tokens < 1 || shape->n_kv_heads < 1 || shape->head_dim < 1) return false;
    *n_bytes = dtype_bytes(shape->type) * (size_t)shape->n_tokens;
    return !__builtin_mul_overflow(*n_bytes, (size_t)shape->n_kv_heads, n_bytes) &&
           !__builtin_mul_overflow(*n_bytes, (size_t)shape->head_dim, n_bytes) && *n_bytes <= PTRDIFF_MAX / 2;
}

static bool measure_all(const kv_chunk *chunk, size_t *n_bytes) {
    enum { MOST_LAYERS = 4096 };
    if (chunk->n_layers < 1 || chunk->n_layers > MOST_LAYERS || chunk->n_parts < 1 ||
        chunk->part < KV_PART_K || (int)chunk->part + chunk->n_parts > N_KV_PARTS)
        return false;
    return measure(&chunk->shape, n_bytes) &&
           !__builtin_mul_overflow(*n_bytes, (size_t)kv_chunk_count_parts(chunk), n_bytes) &&
           *n_bytes <= PTRDIFF_MAX / 2;
}

bool kv_chunk_is_valid(const kv_chunk_shape *shape) {
    size_t n_bytes;
    return measure(shape, &n_bytes);
}

size_t kv_chunk_bytes(const kv_chunk_shape *shape) {
    size_t n_bytes = 0;
    bool is_valid = measure(shape, &n_bytes);
    assert(is_valid);
    return n_bytes;
}

bool kv_chunk_all_are_valid(const kv_chunk *chunk) {
    size_t n_bytes;
    return measure_all(chunk, &n_bytes);
}

size_t kv_chunk_all_bytes(const kv_chunk *chunk) {
    size_t n_bytes = 0;
    bool is_valid = measure_all(chunk, &n_bytes);
    assert(is_valid);
    return n_bytes;
}
