/* kernels/cpu/lanes_avx2.h: sixteen float32 lanes as two AVX vectors; see lanes_portable.h. Needs AVX2 and
 * FMA. */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/convert.h"

typedef struct lanes {
    __m256 lo, hi;
} lanes;

/* ---- memory ---- */

static inline lanes lanes_set(float x) {
    return (lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline lanes lanes_load(const float *x) {
    return (lanes){_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
}

static inline void lanes_store(float *y, lanes x) {
    _mm256_storeu_ps(y, x.lo);
    _mm256_storeu_ps(y + 8, x.hi);
}

static inline __m256 load_8_bf16(const uint16_t *x) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline lanes lanes_load_bf16(const uint16_t *x) {
    return (lanes){load_8_bf16(x), load_8_bf16(x + 8)};
}

/* Upper halves, rounded to the nearest, ties to even. */
static inline __m256i round_8_bf16(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

static inline void lanes_store_bf16(uint16_t *y, lanes x) {
    __m256i packed = _mm256_packus_epi32(round_8_bf16(x.lo), round_8_bf16(x.hi));
    _mm256_storeu_si256((__m256i *)y, _mm256_permute4x64_epi64(packed, 0xd8));
}

/* ---- arithmetic ---- */

static inline lanes lanes_add(lanes x, lanes y) {
    return (lanes){_mm256_add_ps(x.lo, y.lo), _mm256_add_ps(x.hi, y.hi)};
}

static inline lanes lanes_sub(lanes x, lanes y) {
    return (lanes){_mm256_sub_ps(x.lo, y.lo), _mm256_sub_ps(x.hi, y.hi)};
}

static inline lanes lanes_mul(lanes x, lanes y) {
    return (lanes){_mm256_mul_ps(x.lo, y.lo), _mm256_mul_ps(x.hi, y.hi)};
}

static inline lanes lanes_div(lanes x, lanes y) {
    return (lanes){_mm256_div_ps(x.lo, y.lo), _mm256_div_ps(x.hi, y.hi)};
}

static inline lanes lanes_fma(lanes x, lanes y, lanes z) {
    return (lanes){_mm256_fmadd_ps(x.lo, y.lo, z.lo), _mm256_fmadd_ps(x.hi, y.hi, z.hi)};
}

static inline lanes lanes_if_less(lanes x, lanes y, lanes yes, lanes no) {
    return (lanes){_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(x.lo, y.lo, _CMP_LT_OQ)),
                   _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(x.hi, y.hi, _CMP_LT_OQ))};
}

static inline lanes lanes_max(lanes x, lanes y) {
    return (lanes){_mm256_max_ps(x.lo, y.lo), _mm256_max_ps(x.hi, y.hi)};
}

static inline __m256 pow2_8(__m256 n) {
    __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3f800000)));
}

static inline lanes lanes_pow2(lanes n) {
    return (lanes){pow2_8(n.lo), pow2_8(n.hi)};
}

static inline __m256 keep_8(__m256 x, __m256i index, int first, int last, float other) {
    __m256i in = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), index),
                                     _mm256_cmpgt_epi32(_mm256_set1_epi32(last), index));
    return _mm256_blendv_ps(_mm256_set1_ps(other), x, _mm256_castsi256_ps(in));
}

static inline lanes lanes_keep(lanes x, int first, int last, float other) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (lanes){keep_8(x.lo, index, first, last, other), keep_8(x.hi, index, first - 8, last - 8, other)};
}

static inline float lanes_sum(lanes x) {
    __m256 s = _mm256_add_ps(x.lo, x.hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static inline float lanes_max_of(lanes x) {
    __m256 s = _mm256_max_ps(x.lo, x.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

/* 8 words of 8 rows. */
static inline void transpose_8(const char *rows, size_t row_bytes, uint32_t *panel) {
    __m256 x[8], y[8];
    for (size_t i = 0; i < 8; i++)
        x[i] = _mm256_loadu_ps((const float *)(const void *)(rows + i * row_bytes));
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm256_shuffle_ps(y[i + j], y[i + j + 2], 0x44);
            x[i + 2 * j + 1] = _mm256_shuffle_ps(y[i + j], y[i + j + 2], 0xee);
        }
    for (size_t i = 0; i < 4; i++) {
        float *to = (float *)panel + i * 16;
        _mm256_storeu_ps(to, _mm256_permute2f128_ps(x[i], x[i + 4], 0x20));
        _mm256_storeu_ps(to + 4 * 16, _mm256_permute2f128_ps(x[i], x[i + 4], 0x31));
    }
}

static inline void lanes_transpose(const char *rows, size_t row_bytes, uint32_t *panel) {
    for (size_t row = 0; row < 16; row += 8)
        for (size_t word = 0; word < 16; word += 8)
            transpose_8(rows + row * row_bytes + word * 4, row_bytes, panel + word * 16 + row);
}

/* ---- one step of a tile ---- */

enum { TILE_ROWS = 5, TILE_PANELS = 2, TILE_PANELS_OF_MANY = 1, TILE_BF16_BYTES = 8 };

typedef struct tile_words {
    lanes even, odd;
} tile_words;

static inline void tile_pack(bool bf16, uint32_t word, char *input) {
    const uint32_t pair[2] = {word << 16, word & 0xffff0000u};
    memcpy(input, bf16 ? pair : &word, bf16 ? 8 : 4);
}

/* Sixteen inputs of one row: bf16 pairs are two floats, and need not be rounded. */
static inline void tile_store_inputs(bool bf16, char *input, lanes x) {
    (void)bf16;
    lanes_store((float *)(void *)input, x);
}

/* Sixteen words, each of one element of both. */
static inline void lanes_pair(const uint16_t *even, const uint16_t *odd, uint32_t *words) {
    for (int i = 0; i < 16; i += 8) {
        __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(even + i)));
        __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(odd + i)));
        _mm256_storeu_si256((__m256i *)(words + i), _mm256_or_si256(low, _mm256_slli_epi32(high, 16)));
    }
}

static inline __m256 even_8(__m256 words) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(words), 16));
}

static inline __m256 odd_8(__m256 words) {
    return _mm256_and_ps(words, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000u)));
}

static inline tile_words tile_load(bool bf16, const uint32_t *panel) {
    lanes words = lanes_load((const float *)panel);
    if (!bf16) return (tile_words){words, lanes_set(0)};
    return (tile_words){{even_8(words.lo), even_8(words.hi)}, {odd_8(words.lo), odd_8(words.hi)}};
}

static inline lanes tile_step(bool bf16, lanes acc, const char *input, tile_words words) {
    float x[2];
    memcpy(x, input, bf16 ? 8 : 4);
    acc = lanes_fma(lanes_set(x[0]), words.even, acc);
    return bf16 ? lanes_fma(lanes_set(x[1]), words.odd, acc) : acc;
}

/* ---- one step of a tile with int8 weights: columns 0 and 2 of a word, then 1 and 3, as pairs of int16 ----
 */

enum { INT8_TILE_ROWS = 4, INT8_TILE_PANELS = 1 };

typedef struct int8_sums {
    __m256i lo, hi;
} int8_sums;

typedef struct int8_words {
    __m256i even_lo, odd_lo, even_hi, odd_hi;
} int8_words;

static inline void int8_pack(lanes whole, char *words) {
    __m256i x = _mm256_packs_epi32(_mm256_cvtps_epi32(whole.lo), _mm256_cvtps_epi32(whole.hi));
    x = _mm256_permute4x64_epi64(x, 0xd8);
    x = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(x, 0xd8), 0xd8); /* 0 1 2 3 to 0 2 1 3 */
    _mm256_storeu_si256((__m256i *)words, x);
}

static inline int8_sums int8_begin(int32_t first) {
    return (int8_sums){_mm256_set1_epi32(first), _mm256_set1_epi32(first)};
}

static inline int8_words int8_load(const uint32_t *panel) {
    __m256i lo = _mm256_loadu_si256((const __m256i *)panel);
    __m256i hi = _mm256_loadu_si256((const __m256i *)panel + 1);
    const __m256i even = _mm256_set1_epi16(255);
    return (int8_words){_mm256_and_si256(lo, even), _mm256_srli_epi16(lo, 8), _mm256_and_si256(hi, even),
                        _mm256_srli_epi16(hi, 8)};
}

static inline int8_sums int8_step(int8_sums acc, const char *input, int8_words words) {
    const int *pairs = (const int *)(const void *)input;
    __m256i even = _mm256_set1_epi32(pairs[0]), odd = _mm256_set1_epi32(pairs[1]);
    acc.lo = _mm256_add_epi32(acc.lo, _mm256_madd_epi16(words.even_lo, even));
    acc.hi = _mm256_add_epi32(acc.hi, _mm256_madd_epi16(words.even_hi, even));
    acc.lo = _mm256_add_epi32(acc.lo, _mm256_madd_epi16(words.odd_lo, odd));
    acc.hi = _mm256_add_epi32(acc.hi, _mm256_madd_epi16(words.odd_hi, odd));
    return acc;
}

static inline lanes int8_end(int8_sums acc) {
    return (lanes){_mm256_cvtepi32_ps(acc.lo), _mm256_cvtepi32_ps(acc.hi)};
}
