#include "io/codec/kv_chunk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"
#include "src/base/memory.h"

/* The bytes of a chunk; false if there can be none such. */
static bool measure(const kv_chunk *chunk, size_t *n_bytes) {
    enum { MOST_LAYERS = 4096 };
    const kv_chunk_shape *shape = &chunk->shape;
    if (shape->type == DTYPE_F16) return false;
    if (shape->n_tokens < 1 || shape->n_kv_heads < 1 || shape->head_dim < 1) return false;
    if (chunk->n_layers < 1 || chunk->n_layers > MOST_LAYERS || chunk->n_parts < 1 ||
        chunk->part < KV_PART_K || (int)chunk->part + chunk->n_parts > N_KV_PARTS)
        return false;
    *n_bytes = dtype_bytes(shape->type) * (size_t)shape->n_tokens;
    return !__builtin_mul_overflow(*n_bytes, (size_t)shape->n_kv_heads, n_bytes) &&
           !__builtin_mul_overflow(*n_bytes, (size_t)shape->head_dim, n_bytes) &&
           !__builtin_mul_overflow(*n_bytes, (size_t)kv_chunk_count_parts(chunk), n_bytes) &&
           *n_bytes <= PTRDIFF_MAX / 2;
}

bool kv_chunk_all_are_valid(const kv_chunk *chunk) {
    size_t n_bytes;
    return chunk->shape.type != DTYPE_U8 && measure(chunk, &n_bytes);
}

size_t kv_chunk_all_bytes(const kv_chunk *chunk) {
    size_t n_bytes = 0;
    bool is_valid = measure(chunk, &n_bytes);
    assert(is_valid);
    return n_bytes;
}

bool kv_chunk_is_valid(const kv_chunk_shape *shape) {
    const kv_chunk chunk = kv_chunk_of(shape, 0, KV_PART_K);
    return kv_chunk_all_are_valid(&chunk);
}

size_t kv_chunk_bytes(const kv_chunk_shape *shape) {
    const kv_chunk chunk = kv_chunk_of(shape, 0, KV_PART_K);
    return kv_chunk_all_bytes(&chunk);
}

void kv_chunk_put(const kv_chunk *chunk, const void *elements, const kv_output *out) {
    const size_t n_tokens = (size_t)chunk->shape.n_tokens, n_heads = (size_t)chunk->shape.n_kv_heads;
    const size_t row_bytes = (size_t)chunk->shape.head_dim * dtype_bytes(chunk->shape.type);
    char *rows = mem_new(n_tokens, row_bytes);
    for (int i = 0; i < kv_chunk_count_parts(chunk); i++)
        for (size_t head = 0; head < n_heads; head++) {
            const char *from = (const char *)elements + ((size_t)i * n_tokens * n_heads + head) * row_bytes;
            for (size_t token = 0; token < n_tokens; token++)
                memcpy(rows + token * row_bytes, from + token * n_heads * row_bytes, row_bytes);
            out->put(out->to,
                     &(kv_rows){kv_chunk_layer(chunk, i), kv_chunk_part(chunk, i), (int)head, 0,
                                chunk->shape.n_tokens},
                     rows);
        }
    free(rows);
}

void kv_chunk_compare(dtype type, const void *elements, const void *coded, size_t n, double *squares,
                      double *errors) {
    for (size_t i = 0; i < n; i++) {
        const double x = (double)float_at(type, elements, i), d = (double)float_at(type, coded, i) - x;
        *squares += x * x;
        *errors += d * d;
    }
}
