/* Tiles with AVX2: 32 tokens are four vectors. */
#include <immintrin.h>
#include <stddef.h>

#include "io/codec/varve_tile_loops.h"

enum { LANES = 8, VECTORS = VARVE_TILE / LANES };

static inline __m256i load(const void *from) {
    return _mm256_loadu_si256(from);
}

static inline __m256i broadcast(const int16_t *pair) {
    return _mm256_castps_si256(_mm256_broadcast_ss((const float *)(const void *)pair));
}

/* Two numbers at a time keep eight sums in registers; the inputs come from the first cache, and the rows of
 * the matrix one behind the other. */
static void sum_pairs(const int16_t *matrix, int n_out, int n_pairs, const int16_t *in, const uint16_t *list,
                      int n_listed, int32_t *out) {
    for (int j = 0; j < n_out; j += 2) {
        const int16_t *row = matrix + (size_t)j * (size_t)n_pairs * 2;
        __m256i sums[2][VECTORS] = {0};
        for (int i = 0; i < n_listed; i++) {
            const int16_t *from = in + (size_t)list[i] * VARVE_TILE * 2, *pairs = row + (size_t)list[i] * 4;
            const __m256i first = broadcast(pairs), second = broadcast(pairs + 2);
            for (int v = 0; v < VECTORS; v++) {
                const __m256i x = load(from + 2 * LANES * v);
                sums[0][v] = _mm256_add_epi32(sums[0][v], _mm256_madd_epi16(x, first));
                sums[1][v] = _mm256_add_epi32(sums[1][v], _mm256_madd_epi16(x, second));
            }
        }
        for (int v = 0; v < 2 * VECTORS; v++)
            _mm256_storeu_si256((__m256i *)(out + (size_t)j * VARVE_TILE) + v,
                                sums[v / VECTORS][v % VECTORS]);
    }
}

/* All ones in the lanes of the mask's lowest bits. */
static inline __m256i spread(uint32_t mask) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)mask), bit), bit);
}

/* Words that lie one behind the other, the next to each of four lanes of the mask, to 32 bits. */
static inline __m128i expand(const uint8_t *words, uint32_t mask) {
    enum { O = -1 };
    static const int8_t orders[16][16] = {
        {O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O}, {0, 1, O, O, O, O, O, O, O, O, O, O, O, O, O, O},
        {O, O, O, O, 0, 1, O, O, O, O, O, O, O, O, O, O}, {0, 1, O, O, 2, 3, O, O, O, O, O, O, O, O, O, O},
        {O, O, O, O, O, O, O, O, 0, 1, O, O, O, O, O, O}, {0, 1, O, O, O, O, O, O, 2, 3, O, O, O, O, O, O},
        {O, O, O, O, 0, 1, O, O, 2, 3, O, O, O, O, O, O}, {0, 1, O, O, 2, 3, O, O, 4, 5, O, O, O, O, O, O},
        {O, O, O, O, O, O, O, O, O, O, O, O, 0, 1, O, O}, {0, 1, O, O, O, O, O, O, O, O, O, O, 2, 3, O, O},
        {O, O, O, O, 0, 1, O, O, O, O, O, O, 2, 3, O, O}, {0, 1, O, O, 2, 3, O, O, O, O, O, O, 4, 5, O, O},
        {O, O, O, O, O, O, O, O, 0, 1, O, O, 2, 3, O, O}, {0, 1, O, O, O, O, O, O, 2, 3, O, O, 4, 5, O, O},
        {O, O, O, O, 0, 1, O, O, 2, 3, O, O, 4, 5, O, O}, {0, 1, O, O, 2, 3, O, O, 4, 5, O, O, 6, 7, O, O}};
    return _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)(const void *)words),
                            _mm_loadu_si128((const __m128i *)(const void *)orders[mask]));
}

/* A stream's states, and which of their lanes the mask has. */
static inline void load_states(const rans_decoder *d, uint32_t mask, __m256i *states, __m256i *has) {
    for (int v = 0; v < VECTORS; v++) {
        states[v] = load(d->states + LANES * v);
        has[v] = spread(mask >> LANES * v);
    }
}

static inline void store_states(rans_decoder *d, const uint8_t *words, const __m256i *states) {
    d->next = words;
    for (int v = 0; v < VECTORS; v++)
        _mm256_storeu_si256((__m256i *)(void *)(d->states + LANES * v), states[v]);
}

/* Eight states at a time: by the slots of the numbers that they show, on to the next states, of which those
 * that `has` keeps and that are too low get words. */
static inline __m256i advance(__m256i state, __m256i slot, __m256i has, const uint8_t **words) {
    const __m256i low = _mm256_set1_epi32(RANS_TOTAL - 1);
    const __m256i start = _mm256_and_si256(_mm256_srli_epi32(slot, 8), low);
    const __m256i above = _mm256_sub_epi32(_mm256_and_si256(state, low), start);
    __m256i next = _mm256_mullo_epi32(_mm256_srli_epi32(slot, 20), _mm256_srli_epi32(state, RANS_BITS));
    next = _mm256_blendv_epi8(state, _mm256_add_epi32(next, above), has);
    const __m256i is_low = _mm256_cmpeq_epi32(_mm256_srli_epi32(next, 16), _mm256_setzero_si256());
    const __m256i refilled = _mm256_and_si256(is_low, has);
    const uint32_t lanes = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(refilled));
    const uint8_t *upper = *words + 2 * __builtin_popcount(lanes & 15);
    const __m256i more = _mm256_set_m128i(expand(upper, lanes >> 4), expand(*words, lanes & 15));
    *words += 2 * __builtin_popcount(lanes);
    return _mm256_blendv_epi8(next, _mm256_or_si256(_mm256_slli_epi32(next, 16), more), refilled);
}

/* As bytes, what four vectors hold; packing goes by halves of them. */
static inline void store_bytes(const __m256i *found, int8_t *bytes) {
    const __m256i first = _mm256_packs_epi32(found[0], found[1]),
                  second = _mm256_packs_epi32(found[2], found[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)(void *)bytes,
                        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order));
}

/* A stream's last bytes, behind which a vector would read, are taken one lane at a time. */
static void take(rans_decoder *d, const varve_class *const *classes, int n, uint32_t mask, int8_t *symbols) {
    __m256i states[VECTORS], has[VECTORS], found[VECTORS];
    const uint8_t *words = d->next;
    int c = 0;
    load_states(d, mask, states, has);
    for (; c < n && d->end - words >= 2 * VARVE_TILE; c++) {
        if (classes[c]->is_silent) {
            memset(symbols + c * VARVE_TILE, 0, VARVE_TILE);
            continue;
        }
        for (int v = 0; v < VECTORS; v++) {
            const __m256i number = _mm256_and_si256(states[v], _mm256_set1_epi32(RANS_TOTAL - 1));
            const __m256i slot = _mm256_i32gather_epi32((const int *)classes[c]->slots, number, 4);
            states[v] = advance(states[v], slot, has[v], &words);
            found[v] = _mm256_and_si256(_mm256_srai_epi32(_mm256_slli_epi32(slot, 24), 24), has[v]);
        }
        store_bytes(found, symbols + c * VARVE_TILE);
    }
    store_states(d, words, states);
    if (c < n) varve_loops_portable.take(d, classes + c, n - c, mask, symbols + c * VARVE_TILE);
}

/* For each digit's number, the slot of its range, by the starts of its row. */
static inline __m256i digit_slots(__m256i first, __m256i second, __m256i is_below_first,
                                  __m256i is_below_second) {
    const __m256i zero = _mm256_setzero_si256(), total = _mm256_set1_epi32(RANS_TOTAL);
    const __m256i begin =
        _mm256_blendv_epi8(second, _mm256_blendv_epi8(first, zero, is_below_first), is_below_second);
    const __m256i end =
        _mm256_blendv_epi8(total, _mm256_blendv_epi8(second, first, is_below_first), is_below_second);
    return _mm256_or_si256(_mm256_slli_epi32(begin, 8), _mm256_slli_epi32(_mm256_sub_epi32(end, begin), 20));
}

static void refine(rans_decoder *d, const varve_digits *const *tables, int n, uint32_t mask,
                   const int8_t *bases, int8_t *digits) {
    const __m256i one = _mm256_set1_epi32(1), last_row = _mm256_set1_epi32(VARVE_DIGIT_ROWS - 1);
    __m256i states[VECTORS], has[VECTORS], found[VECTORS];
    const uint8_t *words = d->next;
    int c = 0;
    load_states(d, mask, states, has);
    for (; c < n && d->end - words >= 2 * VARVE_TILE; c++) {
        if (!tables[c]) {
            memset(digits + c * VARVE_TILE, 0, VARVE_TILE);
            continue;
        }
        const int rows[VARVE_DIGIT_ROWS] = {(int)word_at(tables[c]->starts, 0),
                                            (int)word_at(tables[c]->starts, 1),
                                            (int)word_at(tables[c]->starts, 2)};
        const __m256i starts = _mm256_setr_epi32(rows[0], rows[1], rows[2], 0, 0, 0, 0, 0);
        for (int v = 0; v < VECTORS; v++) {
            const __m256i base = _mm256_cvtepi8_epi32(
                _mm_loadl_epi64((const __m128i *)(const void *)(bases + c * VARVE_TILE + LANES * v)));
            const __m256i row = _mm256_min_epi32(_mm256_abs_epi32(base), last_row);
            const __m256i both = _mm256_permutevar8x32_epi32(starts, row);
            const __m256i first = _mm256_and_si256(both, _mm256_set1_epi32(0xffff)),
                          second = _mm256_srli_epi32(both, 16);
            const __m256i number = _mm256_and_si256(states[v], _mm256_set1_epi32(RANS_TOTAL - 1));
            const __m256i is_below_first = _mm256_cmpgt_epi32(first, number),
                          is_below_second = _mm256_cmpgt_epi32(second, number); /* -1 where it is so */
            const __m256i slot = digit_slots(first, second, is_below_first, is_below_second);
            const __m256i digit = _mm256_add_epi32(one, _mm256_add_epi32(is_below_first, is_below_second));
            states[v] = advance(states[v], slot, has[v], &words);
            found[v] = _mm256_and_si256(_mm256_sign_epi32(digit, _mm256_or_si256(base, one)), has[v]);
        }
        store_bytes(found, digits + c * VARVE_TILE);
    }
    store_states(d, words, states);
    if (c < n)
        varve_loops_portable.refine(d, tables + c, n - c, mask, bases + c * VARVE_TILE,
                                    digits + c * VARVE_TILE);
}

static bool is_available(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("popcnt");
}

const varve_loops varve_loops_avx2 = {"avx2",     is_available, sum_pairs,   take,      refine, dequantise,
                                      round_sums, turns_of,     store,       load_rows, encode, scale,
                                      quantise,   rebuild,      add_squares, compare};
