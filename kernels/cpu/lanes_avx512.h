/* kernels/cpu/lanes_avx512.h: sixteen float32 lanes as one AVX-512 vector; see lanes_portable.h. Needs
 * AVX-512 F, BW, DQ and VL; the steps of tiles are in files of their own. */
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

static inline void lanes_store_int8(int8_t *y, lanes x) {
    _mm_storeu_si128((__m128i *)(void *)y, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}

static inline void lanes_store_digits(int8_t *upper, int8_t *lower, lanes x) {
    const __m512i whole = _mm512_cvtps_epi32(x), half = _mm512_set1_epi32(128);
    _mm_storeu_si128((__m128i *)(void *)upper,
                     _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(whole, half), 8)));
    _mm_storeu_si128((__m128i *)(void *)lower, _mm512_cvtepi32_epi8(whole));
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

static inline lanes lanes_min(lanes x, lanes y) {
    return _mm512_min_ps(x, y);
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
