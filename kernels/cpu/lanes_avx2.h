/* kernels/cpu/lanes_avx2.h: sixteen float32 lanes as two AVX vectors; see lanes_portable.h. Needs AVX2 and
 * FMA. */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/convert.h"

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

static inline void store_16_int8(int8_t *y, __m256i lo, __m256i hi) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)y, bytes);
}

static inline void lanes_store_int8(int8_t *y, lanes x) {
    store_16_int8(y, _mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
}

static inline void lanes_store_digits(int8_t *upper, int8_t *lower, lanes x) {
    const __m256i half = _mm256_set1_epi32(128), lo = _mm256_cvtps_epi32(x.lo), hi = _mm256_cvtps_epi32(x.hi);
    const __m256i upper_lo = _mm256_srai_epi32(_mm256_add_epi32(lo, half), 8),
                  upper_hi = _mm256_srai_epi32(_mm256_add_epi32(hi, half), 8);
    store_16_int8(upper, upper_lo, upper_hi);
    store_16_int8(lower, _mm256_sub_epi32(lo, _mm256_slli_epi32(upper_lo, 8)),
                  _mm256_sub_epi32(hi, _mm256_slli_epi32(upper_hi, 8)));
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

static inline lanes lanes_min(lanes x, lanes y) {
    return (lanes){_mm256_min_ps(x.lo, y.lo), _mm256_min_ps(x.hi, y.hi)};
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
