/* kernels/kv_page.h: how K and V lie in the memory of a page. Nothing else knows; for C, for CUDA, and for
 * tests.
 *
 * A page is K and V of page_tokens places in one layer: the keys of a kv head place after place, then those
 * of the next head, and behind all keys the values in the same order. The pages of a layer form a pool: page
 * `id` begins id pages behind its begin. Offsets are counted in elements of the format's type. Pure
 * arithmetic. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

/* Functions that CUDA kernels call as well, and that C++ can evaluate in compilation. */
#if defined __CUDACC__
#define KV_FUNCTION __host__ __device__ constexpr static inline
#elif defined __cplusplus
#define KV_FUNCTION constexpr static inline
#else
#define KV_FUNCTION static inline
#endif

enum { KV_PAGE_QUANTUM = 16 }; /* page_tokens is a multiple of it */

typedef enum kv_part { KV_PART_K, KV_PART_V, N_KV_PARTS } kv_part;

typedef struct kv_format {
    dtype type;           /* of an element */
    int n_heads;          /* G */
    int k_width, v_width; /* elements of a head's key, and of its value */
    int page_tokens;
} kv_format;

/* Of usual attention, with keys and values of head_dim elements. */
KV_FUNCTION kv_format kv_format_of(dtype type, int n_heads, int head_dim, int page_tokens) {
    kv_format format = {type, n_heads, head_dim, head_dim, page_tokens};
    return format;
}

KV_FUNCTION int kv_part_width(const kv_format *f, kv_part part) {
    return part == KV_PART_K ? f->k_width : f->v_width;
}

KV_FUNCTION size_t kv_page_elements(const kv_format *f) {
    return (size_t)f->n_heads * (size_t)f->page_tokens * (size_t)(f->k_width + f->v_width);
}

/* Where the element begins, counted from that of its page: of K or V of a head at a place of the page. Places
 * that follow each other lie kv_part_width apart. */
KV_FUNCTION size_t kv_element(const kv_format *f, kv_part part, int head, int place) {
    size_t keys = part == KV_PART_K ? 0 : (size_t)f->n_heads * (size_t)f->page_tokens * (size_t)f->k_width;
    return keys + (size_t)(head * f->page_tokens + place) * (size_t)kv_part_width(f, part);
}

/* The same counted from the begin of the layer's pool, for a position of the sequence with this table of
 * pages. */
KV_FUNCTION size_t kv_pool_element(const kv_format *f, const int32_t *table, kv_part part, int head,
                                   int64_t pos) {
    size_t page = (size_t)table[pos / f->page_tokens];
    return page * kv_page_elements(f) + kv_element(f, part, head, (int)(pos % f->page_tokens));
}

/* Pages that n_tokens positions take. */
KV_FUNCTION int64_t kv_pages_for(int64_t n_tokens, int page_tokens) {
    return (n_tokens + page_tokens - 1) / page_tokens;
}

static inline size_t kv_page_bytes(const kv_format *f) {
    return kv_page_elements(f) * dtype_bytes(f->type);
}
