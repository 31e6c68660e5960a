/* kernels/kv_page.h: how K and V lie in the memory of a page. Nothing else knows; for C, for CUDA, and for
 * tests.
 *
 * A page is K and V of page_tokens places in one layer: the keys of a kv head, then those of the next head,
 * and behind all keys the values in the same order. Of one head they lie in one of two layouts, which a
 * backend chooses (struct device):
 *
 * KV_ROWS    place after place.
 * KV_PANELS  in words of 4 bytes, as products of words read them. A key's word has elements that follow each
 *            other along the key, and keys are panels of KV_PANEL places: [words of a key][KV_PANEL]. A
 *            word of values has the same element of places that follow each other: [words of the page's
 *            places][v_width rounded up to KV_PANEL]; what the rounding adds is padding, and undefined.
 *
 * The pages of a layer form a pool: page `id` begins id pages behind its begin. Offsets are counted in
 * elements of the format's type. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

/* Functions that CUDA kernels call as well, and that C++ can evaluate in compilation. */
#if defined __CUDACC__
#define KV_FUNCTION __host__ __device__ constexpr static inline
#elif defined __cplusplus
#define KV_FUNCTION constexpr static inline
#else
#define KV_FUNCTION static inline
#endif

enum {
    KV_PAGE_QUANTUM = 32, /* page_tokens is a multiple of it */
    KV_PANEL = 16,
    KV_WORD_BYTES = 4,
};

typedef enum kv_part { KV_PART_K, KV_PART_V, N_KV_PARTS } kv_part;

typedef enum kv_layout { KV_ROWS, KV_PANELS } kv_layout;

typedef struct kv_format {
    dtype type; /* of an element */
    kv_layout layout;
    int n_heads;          /* G */
    int k_width, v_width; /* elements of a head's key, which are whole words, and of its value */
    int page_tokens;
} kv_format;

/* Of usual attention, with keys and values of head_dim elements. */
KV_FUNCTION kv_format kv_format_of(dtype type, kv_layout layout, int n_heads, int head_dim, int page_tokens) {
    kv_format format = {type, layout, n_heads, head_dim, head_dim, page_tokens};
    return format;
}

KV_FUNCTION int kv_part_width(const kv_format *f, kv_part part) {
    return part == KV_PART_K ? f->k_width : f->v_width;
}

/* Elements of a head that the page has room for, for each place. */
KV_FUNCTION int kv_part_stride(const kv_format *f, kv_part part) {
    if (part == KV_PART_K) return f->k_width;
    return f->layout == KV_ROWS ? f->v_width : (f->v_width + KV_PANEL - 1) / KV_PANEL * KV_PANEL;
}

KV_FUNCTION size_t kv_page_elements(const kv_format *f) {
    return (size_t)f->n_heads * (size_t)f->page_tokens *
           (size_t)(kv_part_stride(f, KV_PART_K) + kv_part_stride(f, KV_PART_V));
}

KV_FUNCTION int kv_word_elements(const kv_format *f) {
    return f->type == DTYPE_F32 ? 1 : 2;
}

/* Where K or V of a head at a place of the page begins, counted from the page's begin: its first element. In
 * rows, places that follow each other lie kv_part_stride apart. In panels, keys from a multiple of KV_PANEL
 * places on begin with that of the first, and values from a whole word on with that of its first. */
KV_FUNCTION size_t kv_element(const kv_format *f, kv_part part, int head, int place) {
    size_t keys = part == KV_PART_K ? 0 : (size_t)f->n_heads * (size_t)f->page_tokens * (size_t)f->k_width;
    const int word = kv_word_elements(f), together = part == KV_PART_K ? KV_PANEL : word;
    const int inside = f->layout == KV_ROWS ? 0 : place % together;
    return keys + (size_t)(head * f->page_tokens + place - inside) * (size_t)kv_part_stride(f, part) +
           (size_t)(part == KV_PART_K ? inside * word : inside);
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

/* ---- pages in host memory ---- */

static inline char *kv_place_in(const kv_format *f, const void *page, kv_part part, int head, int place) {
    return (char *)page + kv_element(f, part, head, place) * dtype_bytes(f->type);
}

/* K or V of a head at one place: n pieces of so many bytes, that are `step` bytes apart. */
typedef struct kv_pieces {
    size_t bytes, step;
    int n;
} kv_pieces;

static inline kv_pieces kv_pieces_of(const kv_format *f, kv_part part) {
    const size_t bytes = dtype_bytes(f->type), width = (size_t)kv_part_width(f, part);
    if (f->layout == KV_ROWS) return (kv_pieces){width * bytes, 0, 1};
    if (part == KV_PART_V) return (kv_pieces){bytes, KV_WORD_BYTES, (int)width};
    return (kv_pieces){KV_WORD_BYTES, KV_PANEL * KV_WORD_BYTES, (int)(width * bytes / KV_WORD_BYTES)};
}

/* Pieces from what lies from_step apart to what lies to_step apart. */
static inline void kv_move(const kv_pieces *p, char *to, size_t to_step, const char *from, size_t from_step) {
    for (int i = 0; i < p->n; i++, to += to_step, from += from_step)
        if (p->bytes == sizeof(uint16_t))
            memcpy(to, from, sizeof(uint16_t));
        else if (p->bytes == sizeof(uint32_t))
            memcpy(to, from, sizeof(uint32_t));
        else
            memcpy(to, from, p->bytes);
}

/* K or V of a head at n places from `place` on, all of this page: rows of elements, row_bytes apart, into the
 * page and out of it. */
static inline void kv_put_rows(const kv_format *f, void *page, kv_part part, int head, int place, int n,
                               const void *rows, size_t row_bytes) {
    const kv_pieces p = kv_pieces_of(f, part);
    for (int i = 0; i < n; i++)
        kv_move(&p, kv_place_in(f, page, part, head, place + i), p.step,
                (const char *)rows + (size_t)i * row_bytes, p.bytes);
}

static inline void kv_get_rows(const kv_format *f, const void *page, kv_part part, int head, int place, int n,
                               void *rows, size_t row_bytes) {
    const kv_pieces p = kv_pieces_of(f, part);
    for (int i = 0; i < n; i++)
        kv_move(&p, (char *)rows + (size_t)i * row_bytes, p.bytes,
                kv_place_in(f, page, part, head, place + i), p.step);
}
