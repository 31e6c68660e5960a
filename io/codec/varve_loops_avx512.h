/* io/codec/varve_loops_avx512.h: tiles with AVX-512: 32 tokens are two vectors. A file that includes it has
 * defined multiply_add(sums, x, y): to each sum of 32 bits, both products of a pair of 16 bits. Local. */
#pragma once

#include "io/codec/varve_tile_loops.h"

enum { LANES = 16, VECTORS = VARVE_TILE / LANES };

static inline __m512i broadcast(const int16_t *pair) {
    return _mm512_set1_epi32((int)word_at(pair, 0));
}

/* Eight numbers at a time keep sixteen sums in registers, so that no sum waits for the one before; at the end
 * some may be the same. */
static void sum_pairs(const int16_t *matrix, int n_out, int n_pairs, const int16_t *in, const uint16_t *list,
                      int n_listed, int32_t *out) {
    enum { ROWS = 4 };
    for (int j = 0; j < n_out; j += 2 * ROWS) {
        const int n_rows = (n_out - j) / 2;
        const int16_t *rows[ROWS];
        __m512i sums[2 * ROWS][VECTORS];
        for (int k = 0; k < 2 * ROWS; k++) {
            const int row = j / 2 + (k / 2 < n_rows ? k / 2 : n_rows - 1);
            rows[k / 2] = matrix + (size_t)row * (size_t)n_pairs * 4;
            sums[k][0] = sums[k][1] = _mm512_setzero_si512();
        }
        for (int i = 0; i < n_listed; i++) {
            const int16_t *from = in + (size_t)list[i] * VARVE_TILE * 2;
            const __m512i x = _mm512_loadu_si512(from), y = _mm512_loadu_si512(from + 2 * LANES);
            for (int k = 0; k < 2 * ROWS; k++) {
                const __m512i pair = broadcast(rows[k / 2] + (size_t)list[i] * 4 + k % 2 * 2);
                sums[k][0] = multiply_add(sums[k][0], x, pair);
                sums[k][1] = multiply_add(sums[k][1], y, pair);
            }
        }
        for (int k = 0; k < 2 * ROWS; k++) {
            if (k / 2 >= n_rows) continue;
            _mm512_storeu_si512(out + (size_t)(j + k) * VARVE_TILE, sums[k][0]);
            _mm512_storeu_si512(out + (size_t)(j + k) * VARVE_TILE + LANES, sums[k][1]);
        }
    }
}

static inline void load_states(const rans_decoder *d, __m512i *states) {
    for (int v = 0; v < VECTORS; v++)
        states[v] = _mm512_loadu_si512(d->states + LANES * v);
}

static inline void store_states(rans_decoder *d, const uint8_t *words, const __m512i *states) {
    d->next = words;
    for (int v = 0; v < VECTORS; v++)
        _mm512_storeu_si512(d->states + LANES * v, states[v]);
}

/* Sixteen states at a time: by the slots of the numbers that they show, on to the next states, of which those
 * that are too low get words. */
static inline __m512i advance(__m512i state, __m512i slot, __mmask16 has, const uint8_t **words) {
    const __m512i low = _mm512_set1_epi32(RANS_TOTAL - 1);
    const __m512i start = _mm512_and_si512(_mm512_srli_epi32(slot, 8), low);
    const __m512i above = _mm512_sub_epi32(_mm512_and_si512(state, low), start);
    const __m512i whole =
        _mm512_mullo_epi32(_mm512_srli_epi32(slot, 20), _mm512_srli_epi32(state, RANS_BITS));
    const __m512i next = _mm512_mask_add_epi32(state, has, whole, above);
    const __mmask16 is_low = _mm512_mask_cmplt_epu32_mask(has, next, _mm512_set1_epi32(1 << 16));
    const __m512i some = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)*words));
    *words += 2 * __builtin_popcount(is_low);
    return _mm512_mask_or_epi32(next, is_low, _mm512_slli_epi32(next, 16),
                                _mm512_maskz_expand_epi32(is_low, some));
}

/* A stream's last bytes, behind which a vector would read, are taken one lane at a time. */
static void take(rans_decoder *d, const varve_class *const *classes, int n, uint32_t mask, int8_t *symbols) {
    __m512i states[VECTORS];
    const uint8_t *words = d->next;
    int c = 0;
    load_states(d, states);
    for (; c < n && d->end - words >= 2 * VARVE_TILE; c++) {
        if (classes[c]->is_silent) {
            memset(symbols + c * VARVE_TILE, 0, VARVE_TILE);
            continue;
        }
        for (int v = 0; v < VECTORS; v++) {
            const __mmask16 has = (__mmask16)(mask >> LANES * v);
            const __m512i number = _mm512_and_si512(states[v], _mm512_set1_epi32(RANS_TOTAL - 1));
            const __m512i slot = _mm512_i32gather_epi32(number, classes[c]->slots, 4);
            states[v] = advance(states[v], slot, has, &words);
            _mm_storeu_si128((__m128i *)(void *)(symbols + c * VARVE_TILE + LANES * v),
                             _mm512_maskz_cvtepi32_epi8(has, slot));
        }
    }
    store_states(d, words, states);
    if (c < n) varve_loops_portable.take(d, classes + c, n - c, mask, symbols + c * VARVE_TILE);
}

static void refine(rans_decoder *d, const varve_digits *const *tables, int n, uint32_t mask,
                   const int8_t *bases, int8_t *digits) {
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi32(1);
    __m512i states[VECTORS];
    const uint8_t *words = d->next;
    int c = 0;
    load_states(d, states);
    for (; c < n && d->end - words >= 2 * VARVE_TILE; c++) {
        if (!tables[c]) {
            memset(digits + c * VARVE_TILE, 0, VARVE_TILE);
            continue;
        }
        const __m512i starts =
            _mm512_setr_epi32((int)word_at(tables[c]->starts, 0), (int)word_at(tables[c]->starts, 1),
                              (int)word_at(tables[c]->starts, 2), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        for (int v = 0; v < VECTORS; v++) {
            const __mmask16 has = (__mmask16)(mask >> LANES * v);
            const __m512i base = _mm512_cvtepi8_epi32(
                _mm_loadu_si128((const __m128i *)(const void *)(bases + c * VARVE_TILE + LANES * v)));
            const __m512i row =
                _mm512_min_epi32(_mm512_abs_epi32(base), _mm512_set1_epi32(VARVE_DIGIT_ROWS - 1));
            const __m512i both = _mm512_permutexvar_epi32(row, starts);
            const __m512i first = _mm512_and_si512(both, _mm512_set1_epi32(0xffff)),
                          second = _mm512_srli_epi32(both, 16);
            const __m512i number = _mm512_and_si512(states[v], _mm512_set1_epi32(RANS_TOTAL - 1));
            const __mmask16 is_below_first = _mm512_cmplt_epi32_mask(number, first),
                            is_below_second = _mm512_cmplt_epi32_mask(number, second);
            const __m512i begin = _mm512_mask_blend_epi32(
                is_below_second, second, _mm512_mask_blend_epi32(is_below_first, first, zero));
            const __m512i end =
                _mm512_mask_blend_epi32(is_below_second, _mm512_set1_epi32(RANS_TOTAL),
                                        _mm512_mask_blend_epi32(is_below_first, second, first));
            const __m512i slot = _mm512_or_si512(_mm512_slli_epi32(begin, 8),
                                                 _mm512_slli_epi32(_mm512_sub_epi32(end, begin), 20));
            __m512i digit = _mm512_mask_sub_epi32(one, is_below_second, one, one);
            digit = _mm512_mask_sub_epi32(digit, is_below_first, digit, one);
            digit = _mm512_mask_sub_epi32(digit, _mm512_cmplt_epi32_mask(base, zero), zero, digit);
            states[v] = advance(states[v], slot, has, &words);
            _mm_storeu_si128((__m128i *)(void *)(digits + c * VARVE_TILE + LANES * v),
                             _mm512_maskz_cvtepi32_epi8(has, digit));
        }
    }
    store_states(d, words, states);
    if (c < n)
        varve_loops_portable.refine(d, tables + c, n - c, mask, bases + c * VARVE_TILE,
                                    digits + c * VARVE_TILE);
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("popcnt");
}
