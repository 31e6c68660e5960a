/* kernels/kv_page.h: how K and V lie in the memory of a page. Nothing else knows; for C, for CUDA, and for
 * tests.
 *
 * A page is K and V of page_tokens places in one layer: the keys of a kv head, then those of the next head,
 * and behind all keys the values in the same order. Of one head they lie in one of these layouts, of
 * which a backend takes some (struct device):
 *
 * KV_ROWS    place after place.
 * KV_PANELS  in words of 4 bytes, as products of words read them. A key's word has elements that follow each
 *            other along the key, and keys are panels of KV_PANEL places: [words of a key][KV_PANEL]. A
 *            word of values has the same element of places that follow each other: [words of the page's
 *            places][v_width rounded up to KV_PANEL]; what the rounding adds is padding, and undefined.
 * KV_INT8    the same in int8, whose rows outside of pages are bf16. Keys are panels of words of 4 codes in
 *            groups, each behind a word of float32 scales, as int8 weights are (kernels/int8_code.h). The
 *            values of a head are the float32 scales of the page's places, one for each, and then words of
 *            the codes of 4 places. A row that went through a page has the same codes when it is put again.
 * KV_INT4    codes of 4 bits, of rows that are bf16 outside, after KIVI (arXiv 2402.02750, section 3.2). A
 *            rotated key has one range (kernels/int4_code.h) for each element over KV_INT4_PLACES places,
 *            which are put together; a value has one for each KV_INT4_VALUES elements. Of such a group of
 *            places a head has the least numbers of its ranges, then the largest, then words of 8 codes.
 *            Keys are panels of KV_PANEL places, [words of a key][KV_PANEL], and values [words of 8
 *            places][v_width rounded up]. Byte j of a word has the codes j and 4 + j, the first in its low
 *            bits. Ranges are in the order of a key's elements, or [ranges of a value][KV_INT4_PLACES]. A
 *            group some of whose rows went through a page has the same codes when it is put again.
 * KV_INT8_ROWS the codes of KV_INT8, as GPUs read them: of KV_INT8_ROWS_PLACES places a head has the float32
 *            scales, one for each, and then place after place the codes of a key, or of a value. A key has
 *            one scale, however wide it is.
 *
 * The pages of a layer form a pool: page `id` begins id pages behind its begin. Offsets are counted in
 * units: elements of the format's type, or bytes where they hold codes. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/convert.h"
#include "kernels/dtype.h"
#include "kernels/int4_code.h"
#include "kernels/int8_code.h"

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
    KV_NEAR_TOKENS = 64,  /* of a near page, whatever those of codes have */
    KV_PANEL = 16,
    KV_WORD_BYTES = 4,
    KV_INT8_ROWS_PLACES = 16,
    KV_INT4_PLACES = 64, /* page_tokens is a multiple of it in KV_INT4 */
    KV_INT4_VALUES = 64,
    KV_INT4_WORD = 8, /* codes of a word */
};

static_assert((int)KV_NEAR_TOKENS == (int)KV_INT4_PLACES && (int)KV_INT4_PLACES <= (int)INT4_MOST,
              "a group of places is a near page");

typedef enum kv_part { KV_PART_K, KV_PART_V, N_KV_PARTS } kv_part;

typedef enum kv_layout { KV_ROWS, KV_PANELS, KV_INT8, KV_INT4, KV_INT8_ROWS } kv_layout;

typedef struct kv_format {
    dtype type; /* of an element outside of pages */
    kv_layout layout;
    int n_heads;          /* G */
    int k_width, v_width; /* elements of a head's key, which are whole words, and of its value */
    int page_tokens;
} kv_format;

KV_FUNCTION bool kv_is_int8(const kv_format *f) {
    return f->layout == KV_INT8 || f->layout == KV_INT8_ROWS;
}

KV_FUNCTION bool kv_is_coded(const kv_format *f) {
    return kv_is_int8(f) || f->layout == KV_INT4;
}

/* Of the pages of the same rows as they are put. */
KV_FUNCTION kv_format kv_near_format(const kv_format *f) {
    kv_format near = *f;
    near.layout = f->layout == KV_INT8_ROWS ? KV_ROWS : KV_PANELS;
    near.page_tokens = KV_NEAR_TOKENS;
    return near;
}

/* Of usual attention, with keys and values of head_dim elements. */
KV_FUNCTION kv_format kv_format_of(dtype type, kv_layout layout, int n_heads, int head_dim, int page_tokens) {
    kv_format format = {type, layout, n_heads, head_dim, head_dim, page_tokens};
    return format;
}

KV_FUNCTION int kv_part_width(const kv_format *f, kv_part part) {
    return part == KV_PART_K ? f->k_width : f->v_width;
}

/* Words of a key in int8, those of the scales of its groups among them. */
KV_FUNCTION int kv_int8_key_words(const kv_format *f) {
    return (f->k_width + INT8_GROUP - 1) / INT8_GROUP + (f->k_width + INT8_WORD_COLS - 1) / INT8_WORD_COLS;
}

/* Elements of a value in panels, or of a key in int4, and of its padding. */
KV_FUNCTION int kv_padded_value(const kv_format *f) {
    return (f->v_width + KV_PANEL - 1) / KV_PANEL * KV_PANEL;
}

KV_FUNCTION int kv_padded_key(const kv_format *f) {
    return (f->k_width + KV_PANEL - 1) / KV_PANEL * KV_PANEL;
}

/* In int4, ranges of a group of places. */
KV_FUNCTION int kv_int4_ranges(const kv_format *f, kv_part part) {
    return part == KV_PART_K ? kv_padded_key(f)
                             : (f->v_width + KV_INT4_VALUES - 1) / KV_INT4_VALUES * KV_INT4_PLACES;
}

/* Units of a head that the page has room for, for each place. */
KV_FUNCTION int kv_part_stride(const kv_format *f, kv_part part) {
    if (f->layout == KV_INT8)
        return part == KV_PART_K ? kv_int8_key_words(f) * KV_WORD_BYTES : KV_WORD_BYTES + kv_padded_value(f);
    if (f->layout == KV_INT4)
        return kv_int4_ranges(f, part) * (int)sizeof(int4_range) / KV_INT4_PLACES +
               (part == KV_PART_K ? kv_padded_key(f) : kv_padded_value(f)) / 2;
    if (f->layout == KV_INT8_ROWS) return KV_WORD_BYTES + kv_part_width(f, part);
    if (part == KV_PART_K) return f->k_width;
    return f->layout == KV_ROWS ? f->v_width : kv_padded_value(f);
}

/* Units of a page. */
KV_FUNCTION size_t kv_page_elements(const kv_format *f) {
    return (size_t)f->n_heads * (size_t)f->page_tokens *
           (size_t)(kv_part_stride(f, KV_PART_K) + kv_part_stride(f, KV_PART_V));
}

/* Elements of a word. */
KV_FUNCTION int kv_word_elements(const kv_format *f) {
    return f->layout == KV_INT8 ? INT8_WORD_COLS : f->type == DTYPE_F32 ? 1 : 2;
}

/* In int8, where the scales of a head's values begin. */
KV_FUNCTION size_t kv_int8_scales(const kv_format *f, int head) {
    return (size_t)f->page_tokens * ((size_t)f->n_heads * (size_t)kv_part_stride(f, KV_PART_K) +
                                     (size_t)head * (size_t)kv_part_stride(f, KV_PART_V));
}

/* Where K or V of a head at a place of the page begins, counted from the page's begin: its first element, or
 * code, or of a key in int8 panels its first scale, or in int4 its group. In rows, places that follow each
 * other lie kv_part_stride apart; in int8 rows as many bytes as a row has elements, in groups of their own.
 * In panels, keys from a multiple of KV_PANEL places on begin with that of the first, and values from a whole
 * word on with that of its first. */
KV_FUNCTION size_t kv_element(const kv_format *f, kv_part part, int head, int place) {
    if (f->layout == KV_INT8 && part == KV_PART_V)
        return kv_int8_scales(f, head) + (size_t)f->page_tokens * KV_WORD_BYTES +
               (size_t)(place - place % INT8_WORD_COLS) * (size_t)kv_padded_value(f) +
               (size_t)(place % INT8_WORD_COLS);
    size_t keys = part == KV_PART_K
                      ? 0
                      : (size_t)f->n_heads * (size_t)f->page_tokens * (size_t)kv_part_stride(f, KV_PART_K);
    const int word = kv_word_elements(f), together = part == KV_PART_K ? KV_PANEL : word;
    if (f->layout == KV_INT4)
        return keys + (size_t)(head * f->page_tokens + place - place % KV_INT4_PLACES) *
                          (size_t)kv_part_stride(f, part);
    if (f->layout == KV_INT8_ROWS) {
        const int group = KV_INT8_ROWS_PLACES, inside = place % group;
        return keys + (size_t)(head * f->page_tokens + place - inside) * (size_t)kv_part_stride(f, part) +
               (size_t)(group * KV_WORD_BYTES + inside * kv_part_width(f, part));
    }
    const int inside = f->layout == KV_ROWS ? 0 : place % together;
    return keys + (size_t)(head * f->page_tokens + place - inside) * (size_t)kv_part_stride(f, part) +
           (size_t)(part == KV_PART_K ? inside * word : inside);
}

/* In int8 rows, where the scale of a head's row lies. */
KV_FUNCTION size_t kv_row_scale(const kv_format *f, kv_part part, int head, int place) {
    const int group = KV_INT8_ROWS_PLACES, inside = place % group;
    return kv_element(f, part, head, place - inside) - (size_t)((group - inside) * KV_WORD_BYTES);
}

/* kv_element counted from the begin of the layer's pool, for a position of the sequence with this table of
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

static inline size_t kv_unit_bytes(const kv_format *f) {
    return kv_is_coded(f) ? 1 : dtype_bytes(f->type);
}

static inline size_t kv_page_bytes(const kv_format *f) {
    return kv_page_elements(f) * kv_unit_bytes(f);
}

/* ---- pages in host memory ---- */

static inline char *kv_place_in(const kv_format *f, const void *page, kv_part part, int head, int place) {
    return (char *)page + kv_element(f, part, head, place) * kv_unit_bytes(f);
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

/* ---- the same in int8 ---- */

/* A scale and its codes: in rows side by side; else n words, KV_PANEL words apart of keys, or n codes a word
 * apart of values. */
typedef struct kv_int8_group {
    char *scale, *codes;
    int first, n; /* elements of the row */
} kv_int8_group;

/* The group that begins with element `first`: a value is one, and so is a key in rows. */
static inline kv_int8_group kv_int8_group_at(const kv_format *f, const void *page, kv_part part, int head,
                                             int place, int first) {
    char *at = kv_place_in(f, page, part, head, place);
    if (f->layout == KV_INT8_ROWS)
        return (kv_int8_group){(char *)page + kv_row_scale(f, part, head, place), at, 0,
                               kv_part_width(f, part)};
    if (part == KV_PART_V)
        return (kv_int8_group){(char *)page + kv_int8_scales(f, head) + (size_t)place * KV_WORD_BYTES, at, 0,
                               f->v_width};
    const int step = KV_PANEL * KV_WORD_BYTES, left = f->k_width - first;
    at += first / INT8_GROUP * INT8_GROUP_WORDS * step;
    return (kv_int8_group){at, at + step, first, left < INT8_GROUP ? left : INT8_GROUP};
}

/* The code of element first + i. */
static inline uint8_t *kv_int8_code(const kv_format *f, const kv_int8_group *g, kv_part part, int i) {
    const int at = f->layout == KV_INT8_ROWS ? i
                   : part == KV_PART_V       ? i * KV_WORD_BYTES
                                       : i / INT8_WORD_COLS * KV_PANEL * KV_WORD_BYTES + i % INT8_WORD_COLS;
    return (uint8_t *)g->codes + at;
}

/* bf16 rows in and out. As the largest magnitude comes back as it was, so do scale and codes: what is got can
 * be put again. A row with numbers that are not finite is NaN, all of its group. */
static inline void kv_put_int8(const kv_format *f, void *page, kv_part part, int head, int place,
                               const uint16_t *row) {
    kv_int8_group g;
    for (int at = 0; at < kv_part_width(f, part); at += g.n) {
        uint16_t largest = 0;
        g = kv_int8_group_at(f, page, part, head, place, at);
        for (int i = at; i < at + g.n; i++)
            largest = (row[i] & 0x7fff) > largest ? row[i] & 0x7fff : largest;
        const float scale = int8_code_scale(float_of_bf16(largest));
        memcpy(g.scale, &scale, sizeof scale);
        for (int i = 0; i < g.n; i++)
            *kv_int8_code(f, &g, part, i) = int8_encode(float_of_bf16(row[at + i]), scale);
        for (int i = g.n; f->layout == KV_INT8 && part == KV_PART_K && i % INT8_WORD_COLS; i++)
            *kv_int8_code(f, &g, part, i) = INT8_OFFSET;
    }
}

static inline void kv_get_int8(const kv_format *f, const void *page, kv_part part, int head, int place,
                               uint16_t *row) {
    kv_int8_group g;
    for (int at = 0; at < kv_part_width(f, part); at += g.n) {
        float scale;
        g = kv_int8_group_at(f, page, part, head, place, at);
        memcpy(&scale, g.scale, sizeof scale);
        for (int i = 0; i < g.n; i++)
            row[at + i] = bf16_of_float(int8_decode(*kv_int8_code(f, &g, part, i), scale));
    }
}

/* ---- the same in int4 ---- */

/* A group of places of a head, and element i of the one at `place`, which counts from the first of all. */
typedef struct kv_int4_group {
    uint16_t *least, *largest;
    uint8_t *codes;
} kv_int4_group;

static inline kv_int4_group kv_int4_group_at(const kv_format *f, const void *page, kv_part part, int head,
                                             int place) {
    uint16_t *least = (uint16_t *)(void *)kv_place_in(f, page, part, head, place);
    uint16_t *largest = least + kv_int4_ranges(f, part);
    return (kv_int4_group){least, largest, (uint8_t *)(largest + kv_int4_ranges(f, part))};
}

static inline int kv_int4_range_of(kv_part part, int place, int i) {
    return part == KV_PART_K ? i : i / KV_INT4_VALUES * KV_INT4_PLACES + place % KV_INT4_PLACES;
}

/* The byte of its code, and by how many bits it is shifted there. */
static inline uint8_t *kv_int4_code(const kv_format *f, const kv_int4_group *g, kv_part part, int place,
                                    int i, int *shift) {
    const int at = place % KV_INT4_PLACES, along = part == KV_PART_K ? i : at, word = along / KV_INT4_WORD;
    const int words = part == KV_PART_K ? at / KV_PANEL * KV_PANEL * (kv_padded_key(f) / KV_INT4_WORD) +
                                              word * KV_PANEL + at % KV_PANEL
                                        : word * kv_padded_value(f) + i;
    *shift = along % KV_INT4_WORD / 4 * 4;
    return g->codes + words * KV_WORD_BYTES + along % 4;
}

/* The word of this code, of KV_INT4_WORD codes that are `step` apart. */
static inline void kv_put_int4_word(const kv_format *f, const kv_int4_group *g, kv_part part, int place,
                                    int i, const uint8_t *codes, int step) {
    int shift;
    uint8_t *word = kv_int4_code(f, g, part, place, i, &shift);
    for (int j = 0; j < KV_WORD_BYTES; j++)
        word[j] = (uint8_t)(codes[j * step] | codes[(KV_WORD_BYTES + j) * step] << 4);
}

static inline void kv_put_int4_range(const kv_int4_group *g, kv_part part, int place, int i, int4_range r) {
    g->least[kv_int4_range_of(part, place, i)] = r.least;
    g->largest[kv_int4_range_of(part, place, i)] = r.largest;
}

/* The KV_INT4_PLACES rows from `place` on. */
static inline void kv_put_int4_keys(const kv_format *f, void *page, int head, int place, const char *rows,
                                    size_t row_bytes) {
    const kv_int4_group g = kv_int4_group_at(f, page, KV_PART_K, head, place);
    const int4_range zeros = {0, 0};
    int4_range ranges[INT4_MOST_KEY];
    uint8_t codes[KV_INT4_PLACES * INT4_MOST_KEY], padded[INT4_MOST_KEY + KV_PANEL] = {0};
    int4_encode_keys(KV_INT4_PLACES, f->k_width, rows, row_bytes, ranges, codes);
    for (int i = 0; i < kv_padded_key(f); i++)
        kv_put_int4_range(&g, KV_PART_K, place, i, i < f->k_width ? ranges[i] : zeros);
    for (int k = 0; k < KV_INT4_PLACES; k++) {
        memcpy(padded, codes + k * f->k_width, (size_t)f->k_width);
        for (int i = 0; i < kv_padded_key(f); i += KV_INT4_WORD)
            kv_put_int4_word(f, &g, KV_PART_K, place + k, i, padded + i, 1);
    }
}

static inline void kv_put_int4_values(const kv_format *f, void *page, int head, int place, const char *rows,
                                      size_t row_bytes) {
    const kv_int4_group g = kv_int4_group_at(f, page, KV_PART_V, head, place);
    uint16_t x[KV_INT4_VALUES];
    uint8_t codes[KV_INT4_PLACES * KV_INT4_VALUES];
    for (int i = 0; i < f->v_width; i += KV_INT4_VALUES) {
        const int left = f->v_width - i, n = left < KV_INT4_VALUES ? left : KV_INT4_VALUES;
        for (int k = 0; k < KV_INT4_PLACES; k++) {
            memcpy(x, rows + (size_t)k * row_bytes + (size_t)i * sizeof *x, (size_t)n * sizeof *x);
            kv_put_int4_range(&g, KV_PART_V, place + k, i, int4_encode(n, x, codes + k * KV_INT4_VALUES));
        }
        for (int k = 0; k < KV_INT4_PLACES; k += KV_INT4_WORD)
            for (int at = 0; at < n; at++)
                kv_put_int4_word(f, &g, KV_PART_V, place + k, i + at, codes + k * KV_INT4_VALUES + at,
                                 KV_INT4_VALUES);
    }
}

static inline void kv_get_int4(const kv_format *f, const void *page, kv_part part, int head, int place,
                               uint16_t *row) {
    const kv_int4_group g = kv_int4_group_at(f, page, part, head, place);
    int4_range ranges[INT4_MOST_KEY];
    uint8_t codes[INT4_MOST_KEY];
    for (int i = 0, shift; i < kv_part_width(f, part); i++) {
        const int range = kv_int4_range_of(part, place, i);
        const uint8_t *byte = kv_int4_code(f, &g, part, place, i, &shift),
                      code = (*byte >> shift) & INT4_LARGEST;
        const int4_range r = {g.least[range], g.largest[range]};
        if (part == KV_PART_V) {
            row[i] = int4_decode(code, r);
        } else {
            codes[i] = code;
            ranges[i] = r;
        }
    }
    if (part == KV_PART_K) int4_decode_row(f->k_width, ranges, codes, row);
}

/* ---- rows, whatever the layout ---- */

/* K or V of a head at n places from `place` on, all of this page: rows of elements, row_bytes apart, into the
 * page, in int4 whole groups of places, and out of it. */
static inline void kv_put_rows(const kv_format *f, void *page, kv_part part, int head, int place, int n,
                               const void *rows, size_t row_bytes) {
    if (f->layout == KV_INT4) {
        assert(place % KV_INT4_PLACES == 0 && n % KV_INT4_PLACES == 0);
        for (int i = 0; i < n; i += KV_INT4_PLACES)
            (part == KV_PART_K ? kv_put_int4_keys : kv_put_int4_values)(
                f, page, head, place + i, (const char *)rows + (size_t)i * row_bytes, row_bytes);
        return;
    }
    if (kv_is_int8(f)) {
        for (int i = 0; i < n; i++)
            kv_put_int8(f, page, part, head, place + i,
                        (const uint16_t *)(const void *)((const char *)rows + (size_t)i * row_bytes));
        return;
    }
    const kv_pieces p = kv_pieces_of(f, part);
    for (int i = 0; i < n; i++)
        kv_move(&p, kv_place_in(f, page, part, head, place + i), p.step,
                (const char *)rows + (size_t)i * row_bytes, p.bytes);
}

static inline void kv_get_rows(const kv_format *f, const void *page, kv_part part, int head, int place, int n,
                               void *rows, size_t row_bytes) {
    if (kv_is_int8(f)) {
        for (int i = 0; i < n; i++)
            kv_get_int8(f, page, part, head, place + i,
                        (uint16_t *)(void *)((char *)rows + (size_t)i * row_bytes));
        return;
    }
    if (f->layout == KV_INT4) {
        for (int i = 0; i < n; i++)
            kv_get_int4(f, page, part, head, place + i,
                        (uint16_t *)(void *)((char *)rows + (size_t)i * row_bytes));
        return;
    }
    const kv_pieces p = kv_pieces_of(f, part);
    for (int i = 0; i < n; i++)
        kv_move(&p, (char *)rows + (size_t)i * row_bytes, p.bytes,
                kv_place_in(f, page, part, head, place + i), p.step);
}
