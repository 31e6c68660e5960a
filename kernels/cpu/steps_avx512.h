/* kernels/cpu/steps_avx512.h: the steps of tiles where a processor multiplies pairs of bf16 and quadruples of
 * int8: AVX-512 BF16 and VNNI. */
#pragma once

#include "kernels/cpu/lanes_avx512.h"

/* ---- one step of a tile: a bf16 pair is multiplied as it is ---- */

enum { TILE_ROWS = 6, TILE_PANELS = 4, TILE_PANELS_OF_MANY = 4, TILE_BF16_BYTES = 4, TILE_AHEAD_SHARE = 4 };

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

enum { INT8_TILE_ROWS = 3, INT8_TILE_PANELS = 4, INT8_MOST_ROWS = 4, INT8_PANELS_OF_MOST = 2 };

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

/* The same with inputs of one digit. */
static inline int8_sums int8_step_digit(int8_sums acc, const char *input, int8_words words) {
    const int digit = ((const int *)(const void *)input)[1];
    acc.lower = (int16_lanes)_mm512_dpbusd_epi32((__m512i)acc.lower, words, _mm512_set1_epi32(digit));
    return acc;
}

static inline lanes int8_end(int8_sums acc) {
    return _mm512_cvtepi32_ps((__m512i)((acc.upper << 8) + acc.lower));
}

/* ---- one step of a product with codes of int4 ---- */

enum { INT4_ROWS = 4, INT4_PANELS = 2 };

typedef int16_lanes int4_sums;

typedef struct int4_words {
    __m512i first, second; /* the first and the second 4 codes of each word */
} int4_words;

static inline int4_sums int4_begin(void) {
    return (int4_sums)_mm512_setzero_si512();
}

static inline int4_words int4_load(const uint32_t *panel) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i words = _mm512_loadu_si512(panel);
    return (int4_words){_mm512_and_si512(words, mask), _mm512_and_si512(_mm512_srli_epi16(words, 4), mask)};
}

static inline int4_sums int4_add(int4_sums acc, const int8_t *input, int4_words words) {
    const int *x = (const int *)(const void *)input;
    __m512i first = _mm512_dpbusd_epi32((__m512i)acc, words.first, _mm512_set1_epi32(x[0]));
    return (int4_sums)_mm512_dpbusd_epi32(first, words.second, _mm512_set1_epi32(x[1]));
}

static inline lanes int4_end(int4_sums upper, int4_sums lower) {
    return _mm512_cvtepi32_ps((__m512i)((upper << 8) + lower));
}
