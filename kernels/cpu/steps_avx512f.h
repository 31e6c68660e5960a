/* kernels/cpu/steps_avx512f.h: the steps of tiles with no more than AVX-512 F, BW, DQ and VL, as processors
 * from Skylake to Ice Lake have it: those of steps_avx2.h, twice as wide. */
#pragma once

#include "kernels/cpu/lanes_avx512.h"

#include "kernels/cpu/steps_of_pairs.h"

/* ---- one step of a tile ---- */

enum { TILE_ROWS = 6, TILE_PANELS = 4, TILE_PANELS_OF_MANY = 2, TILE_BF16_BYTES = 8, TILE_AHEAD_SHARE = 0 };

static inline tile_words tile_load(bool bf16, const uint32_t *panel) {
    __m512i words = _mm512_loadu_si512(panel);
    if (!bf16) return (tile_words){_mm512_castsi512_ps(words), lanes_set(0)};
    __m512i odd = _mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u));
    return (tile_words){_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), _mm512_castsi512_ps(odd)};
}

/* ---- one step of a tile with int8 weights: columns 0 and 2 of a word, then 1 and 3, as pairs of int16 ----
 */

enum { INT8_TILE_ROWS = 4, INT8_TILE_PANELS = 2, INT8_MOST_ROWS = 4, INT8_PANELS_OF_MOST = 2 };

typedef __m512i int8_sums;

typedef struct int8_words {
    __m512i even, odd;
} int8_words;

static inline void int8_pack(lanes whole, char *words) {
    __m256i x = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(whole));
    x = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(x, 0xd8), 0xd8); /* 0 1 2 3 to 0 2 1 3 */
    _mm256_storeu_si256((__m256i *)(void *)words, x);
}

static inline int8_sums int8_begin(int32_t first) {
    return _mm512_set1_epi32(first);
}

static inline int8_words int8_load(const uint32_t *panel) {
    __m512i words = _mm512_loadu_si512(panel);
    return (int8_words){_mm512_and_si512(words, _mm512_set1_epi16(255)), _mm512_srli_epi16(words, 8)};
}

static inline int8_sums int8_step(int8_sums acc, const char *input, int8_words words) {
    const int *pairs = (const int *)(const void *)input;
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(words.even, _mm512_set1_epi32(pairs[0])));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(words.odd, _mm512_set1_epi32(pairs[1])));
}

static inline int8_sums int8_step_digit(int8_sums acc, const char *input, int8_words words) {
    return int8_step(acc, input, words);
}

static inline lanes int8_end(int8_sums acc) {
    return _mm512_cvtepi32_ps(acc);
}

/* ---- one step of a product with codes of int4, in sums of int16, which have room for two of them ---- */

enum { INT4_ROWS = 4, INT4_PANELS = 2 };

typedef __m512i int4_sums;

typedef struct int4_words {
    __m512i first, second; /* the first and the second 4 codes of each word */
} int4_words;

static inline int4_sums int4_begin(void) {
    return _mm512_setzero_si512();
}

static inline int4_words int4_load(const uint32_t *panel) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i words = _mm512_loadu_si512(panel);
    return (int4_words){_mm512_and_si512(words, mask), _mm512_and_si512(_mm512_srli_epi16(words, 4), mask)};
}

static inline int4_sums int4_add(int4_sums acc, const int8_t *input, int4_words words) {
    const int *x = (const int *)(const void *)input;
    __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(words.first, _mm512_set1_epi32(x[0])),
                                     _mm512_maddubs_epi16(words.second, _mm512_set1_epi32(x[1])));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

static inline lanes int4_end(int4_sums upper, int4_sums lower) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(upper, 8), lower));
}
