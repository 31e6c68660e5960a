/* Blocks with AVX-512: 64 symbols are one vector, and BMI2 moves bits. */
#include <immintrin.h>
#include <stdint.h>

static inline uint64_t bits_extract(uint64_t x, uint64_t mask) {
    return _pext_u64(x, mask);
}

static inline uint64_t bits_deposit(uint64_t x, uint64_t mask) {
    return _pdep_u64(x, mask);
}

typedef __m512i symbols;

static inline symbols symbols_split(const uint16_t *highs, const uint8_t *bases, uint8_t *signs) {
    __m512i exponents[2], rest[2];
    for (int i = 0; i < 2; i++) {
        __m512i x = _mm512_loadu_si512(highs + 32 * i);
        exponents[i] = _mm512_srli_epi16(_mm512_slli_epi16(x, 1), 8);
        __m512i sign = _mm512_slli_epi16(_mm512_srli_epi16(x, 15), 7);
        rest[i] = _mm512_or_si512(sign, _mm512_and_si512(x, _mm512_set1_epi16(0x7f)));
    }
    /* Packing takes 8 words from the one and 8 from the other by turns. */
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    __m512i packed = _mm512_permutexvar_epi64(order, _mm512_packus_epi16(exponents[0], exponents[1]));
    _mm512_storeu_si512(signs, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(rest[0], rest[1])));
    return _mm512_sub_epi8(packed, _mm512_loadu_si512(bases));
}

static inline void symbols_join(symbols s, const uint8_t *bases, const uint8_t *signs, uint16_t *highs) {
    __m512i exponents = _mm512_add_epi8(s, _mm512_loadu_si512(bases));
    for (int i = 0; i < 2; i++) {
        __m256i half = i ? _mm512_extracti64x4_epi64(exponents, 1) : _mm512_castsi512_si256(exponents);
        __m512i x = _mm512_slli_epi16(_mm512_cvtepu8_epi16(half), 7);
        __m512i rest = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(signs + 32 * i)));
        __m512i sign = _mm512_slli_epi16(_mm512_srli_epi16(rest, 7), 15);
        x = _mm512_or_si512(x, _mm512_or_si512(sign, _mm512_and_si512(rest, _mm512_set1_epi16(0x7f))));
        _mm512_storeu_si512(highs + 32 * i, x);
    }
}

static inline void symbols_store(symbols s, uint8_t *to) {
    _mm512_storeu_si512(to, s);
}

static inline symbols symbols_all(uint8_t value) {
    return _mm512_set1_epi8((char)value);
}

static inline uint64_t symbols_equal(symbols s, symbols t) {
    return _mm512_cmpeq_epi8_mask(s, t);
}

static inline symbols symbols_set(symbols s, uint64_t mask, symbols t) {
    return _mm512_mask_mov_epi8(s, mask, t);
}

#include "io/codec/kv_block_loops.h"

static bool is_available(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

const kv_blocks kv_blocks_avx512 = {"avx512",      is_available, blocks_count,
                                    blocks_encode, blocks_check, blocks_decode};
