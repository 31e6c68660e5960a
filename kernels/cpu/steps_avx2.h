/* kernels/cpu/steps_avx2.h: the steps of tiles in the lanes of lanes_avx2.h; see steps_portable.h. */
#pragma once

#include "kernels/cpu/lanes_avx2.h"

#include "kernels/cpu/steps_of_pairs.h"

/* ---- one step of a tile ---- */

enum { TILE_ROWS = 5, TILE_PANELS = 2, TILE_PANELS_OF_MANY = 1, TILE_BF16_BYTES = 8, TILE_AHEAD_SHARE = 0 };

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

/* ---- one step of a tile with int8 weights: columns 0 and 2 of a word, then 1 and 3, as pairs of int16 ----
 */

enum { INT8_TILE_ROWS = 4, INT8_TILE_PANELS = 1, INT8_MOST_ROWS = 4, INT8_PANELS_OF_MOST = 1 };

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

static inline int8_sums int8_step_digit(int8_sums acc, const char *input, int8_words words) {
    return int8_step(acc, input, words);
}

static inline lanes int8_end(int8_sums acc) {
    return (lanes){_mm256_cvtepi32_ps(acc.lo), _mm256_cvtepi32_ps(acc.hi)};
}

/* ---- one step of a product with codes of int4, in sums of int16, which have room for two of them ---- */

enum { INT4_ROWS = 2, INT4_PANELS = 1 };

typedef struct int4_sums {
    __m256i lo, hi;
} int4_sums;

typedef struct int4_words {
    __m256i first_lo, first_hi, second_lo, second_hi; /* the first and the second 4 codes of each word */
} int4_words;

static inline int4_sums int4_begin(void) {
    return (int4_sums){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

static inline int4_words int4_load(const uint32_t *panel) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i lo = _mm256_loadu_si256((const __m256i *)panel);
    __m256i hi = _mm256_loadu_si256((const __m256i *)panel + 1);
    return (int4_words){_mm256_and_si256(lo, mask), _mm256_and_si256(hi, mask),
                        _mm256_and_si256(_mm256_srli_epi16(lo, 4), mask),
                        _mm256_and_si256(_mm256_srli_epi16(hi, 4), mask)};
}

static inline __m256i int4_add_8(__m256i acc, __m256i x0, __m256i first, __m256i x1, __m256i second) {
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(first, x0), _mm256_maddubs_epi16(second, x1));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline int4_sums int4_add(int4_sums acc, const int8_t *input, int4_words words) {
    const int *x = (const int *)(const void *)input;
    __m256i x0 = _mm256_set1_epi32(x[0]), x1 = _mm256_set1_epi32(x[1]);
    return (int4_sums){int4_add_8(acc.lo, x0, words.first_lo, x1, words.second_lo),
                       int4_add_8(acc.hi, x0, words.first_hi, x1, words.second_hi)};
}

static inline lanes int4_end(int4_sums upper, int4_sums lower) {
    return (lanes){_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(upper.lo, 8), lower.lo)),
                   _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(upper.hi, 8), lower.hi))};
}
