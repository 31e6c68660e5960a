/* kernels/cpu/lanes_avx512.h: sixteen float32 lanes as one AVX-512 vector; see lanes_portable.h. Needs
 * AVX-512 F, BW, DQ, VL, BF16 and VNNI. */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef __m512 lanes;

/* ---- memory ---- */

static inline lanes lanes_set(float x) {
    return _mm512_set1_ps(x);
}

static inline lanes lanes_load(const float *x) {
    return _mm512_loadu_ps(x);
}

static inline void lanes_store(float *y, lanes x) {
    _mm512_storeu_ps(y, x);
}

static inline lanes lanes_load_bf16(const uint16_t *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Not vcvtneps2bf16, which loses subnormal numbers: a value is stored alike by every instruction set. */
static inline void lanes_store_bf16(uint16_t *y, lanes x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)y, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

/* ---- arithmetic ---- */

static inline lanes lanes_add(lanes x, lanes y) {
    return _mm512_add_ps(x, y);
}

static inline lanes lanes_sub(lanes x, lanes y) {
    return _mm512_sub_ps(x, y);
}

static inline lanes lanes_mul(lanes x, lanes y) {
    return _mm512_mul_ps(x, y);
}

static inline lanes lanes_div(lanes x, lanes y) {
    return _mm512_div_ps(x, y);
}

static inline lanes lanes_fma(lanes x, lanes y, lanes z) {
    return _mm512_fmadd_ps(x, y, z);
}

static inline lanes lanes_if_less(lanes x, lanes y, lanes yes, lanes no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes);
}

static inline lanes lanes_max(lanes x, lanes y) {
    return _mm512_max_ps(x, y);
}

static inline lanes lanes_pow2(lanes n) {
    __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(0x3f800000)));
}

static inline lanes lanes_keep(lanes x, int first, int last, float other) {
    const __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 in = _mm512_cmpge_epi32_mask(index, _mm512_set1_epi32(first)) &
                   _mm512_cmplt_epi32_mask(index, _mm512_set1_epi32(last));
    return _mm512_mask_blend_ps(in, _mm512_set1_ps(other), x);
}

static inline float lanes_sum(lanes x) {
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static inline float lanes_max_of(lanes x) {
    __m256 s = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

/* By quarters: pairs of rows, pairs of pairs, then the 128-bit quarters of four and of eight rows. */
static inline void lanes_transpose(const char *rows, size_t row_bytes, uint32_t *panel) {
    __m512i x[16], y[16];
    for (size_t i = 0; i < 16; i++)
        x[i] = _mm512_loadu_si512(rows + i * row_bytes);
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            y[i + j] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0x88);
            y[i + j + 4] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0xdd);
        }
    for (size_t j = 0; j < 8; j++) {
        _mm512_storeu_si512(panel + j * 16, _mm512_shuffle_i32x4(y[j], y[j + 8], 0x88));
        _mm512_storeu_si512(panel + (j + 8) * 16, _mm512_shuffle_i32x4(y[j], y[j + 8], 0xdd));
    }
}

/* ---- one step of a tile: a bf16 pair is multiplied as it is ---- */

enum { TILE_ROWS = 6, TILE_PANELS = 4, TILE_PANELS_OF_MANY = 4, TILE_BF16_BYTES = 4 };

typedef __m512i tile_words;

static inline void tile_pack(bool bf16, uint32_t word, char *input) {
    (void)bf16;
    memcpy(input, &word, sizeof word);
}

/* Sixteen inputs of one row: bf16 pairs are words of their own. */
static inline void tile_store_inputs(bool bf16, char *input, lanes x) {
    if (bf16)
        _mm256_storeu_si256((__m256i *)(void *)input, (__m256i)_mm512_cvtneps_pbh(x));
    else
        _mm512_storeu_ps(input, x);
}

/* Sixteen words, each of one element of both. */
static inline void lanes_pair(const uint16_t *even, const uint16_t *odd, uint32_t *words) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)even));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)odd));
    _mm512_storeu_si512(words, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

static inline tile_words tile_load(bool bf16, const uint32_t *panel) {
    (void)bf16;
    return _mm512_loadu_si512(panel);
}

static inline lanes tile_step(bool bf16, lanes acc, const char *input, tile_words words) {
    __m512i x = _mm512_set1_epi32(*(const int *)(const void *)input);
    return bf16 ? _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)words)
                : _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(words), acc);
}

/* ---- one step of a tile with int8 weights: an input number is two signed digits, upper and lower byte ----
 */

enum { INT8_TILE_ROWS = 3, INT8_TILE_PANELS = 4 };

/* Of 16 integers: GCC 12 copies a sum of type __m512i around every step. */
typedef int32_t int16_lanes __attribute__((vector_size(64)));

typedef struct int8_sums {
    int16_lanes upper, lower;
} int8_sums;

typedef __m512i int8_words;

static inline void int8_pack(lanes whole, char *words) {
    __m512i x = _mm512_cvtps_epi32(whole);
    __m128i upper = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8));
    __m128i lower = _mm512_cvtepi32_epi8(x);
    _mm_storeu_si128((__m128i *)words, _mm_unpacklo_epi32(upper, lower));
    _mm_storeu_si128((__m128i *)words + 1, _mm_unpackhi_epi32(upper, lower));
}

static inline int8_sums int8_begin(int32_t first) {
    return (int8_sums){(int16_lanes)_mm512_setzero_si512(), (int16_lanes)_mm512_set1_epi32(first)};
}

static inline int8_words int8_load(const uint32_t *panel) {
    return _mm512_loadu_si512(panel);
}

static inline int8_sums int8_step(int8_sums acc, const char *input, int8_words words) {
    const int *digits = (const int *)(const void *)input;
    acc.upper = (int16_lanes)_mm512_dpbusd_epi32((__m512i)acc.upper, words, _mm512_set1_epi32(digits[0]));
    acc.lower = (int16_lanes)_mm512_dpbusd_epi32((__m512i)acc.lower, words, _mm512_set1_epi32(digits[1]));
    return acc;
}

static inline lanes int8_end(int8_sums acc) {
    return _mm512_cvtepi32_ps((__m512i)((acc.upper << 8) + acc.lower));
}
