/* Blocks with AVX2: 64 symbols are two vectors, and BMI2 moves bits. */
#include <immintrin.h>
#include <stdint.h>

static inline uint64_t bits_extract(uint64_t x, uint64_t mask) {
    return _pext_u64(x, mask);
}

static inline uint64_t bits_deposit(uint64_t x, uint64_t mask) {
    return _pdep_u64(x, mask);
}

typedef struct symbols {
    __m256i half[2];
} symbols;

static inline __m256i load(const void *from) {
    return _mm256_loadu_si256(from);
}

static inline void symbols_store(symbols s, uint8_t *to) {
    _mm256_storeu_si256((__m256i *)to, s.half[0]);
    _mm256_storeu_si256((__m256i *)to + 1, s.half[1]);
}

/* The low bytes of 32 words. Packing takes 8 words from the one and 8 from the other by turns. */
static inline __m256i pack(__m256i first, __m256i second) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(first, second), 0xd8);
}

static inline symbols symbols_split(const uint16_t *highs, const uint8_t *bases, uint8_t *signs) {
    symbols s, rest;
    for (int i = 0; i < 2; i++) {
        __m256i exponents[2], others[2];
        for (int j = 0; j < 2; j++) {
            __m256i x = load(highs + 32 * i + 16 * j);
            exponents[j] = _mm256_srli_epi16(_mm256_slli_epi16(x, 1), 8);
            __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(x, 15), 7);
            others[j] = _mm256_or_si256(sign, _mm256_and_si256(x, _mm256_set1_epi16(0x7f)));
        }
        rest.half[i] = pack(others[0], others[1]);
        s.half[i] = _mm256_sub_epi8(pack(exponents[0], exponents[1]), load(bases + 32 * i));
    }
    symbols_store(rest, signs);
    return s;
}

/* 16 high halves from their exponents and the rest. */
static inline __m256i join(__m128i exponents, __m128i signs) {
    __m256i x = _mm256_slli_epi16(_mm256_cvtepu8_epi16(exponents), 7), rest = _mm256_cvtepu8_epi16(signs);
    __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(rest, 7), 15);
    return _mm256_or_si256(x, _mm256_or_si256(sign, _mm256_and_si256(rest, _mm256_set1_epi16(0x7f))));
}

static inline void symbols_join(symbols s, const uint8_t *bases, const uint8_t *signs, uint16_t *highs) {
    for (int i = 0; i < 2; i++) {
        __m256i exponents = _mm256_add_epi8(s.half[i], load(bases + 32 * i)), rest = load(signs + 32 * i);
        __m256i *to = (__m256i *)(highs + 32 * i);
        _mm256_storeu_si256(to, join(_mm256_castsi256_si128(exponents), _mm256_castsi256_si128(rest)));
        _mm256_storeu_si256(to + 1,
                            join(_mm256_extracti128_si256(exponents, 1), _mm256_extracti128_si256(rest, 1)));
    }
}

static inline symbols symbols_all(uint8_t value) {
    __m256i all = _mm256_set1_epi8((char)value);
    return (symbols){{all, all}};
}

static inline uint64_t symbols_equal(symbols s, symbols t) {
    uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(s.half[0], t.half[0]));
    uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(s.half[1], t.half[1]));
    return (uint64_t)high << 32 | low;
}

/* 32 bytes of 0xff or 0, one for each bit. */
static inline __m256i spread(uint32_t mask) {
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)mask), byte);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
}

static inline symbols symbols_set(symbols s, uint64_t mask, symbols t) {
    for (int i = 0; i < 2; i++)
        s.half[i] =
            _mm256_or_si256(s.half[i], _mm256_and_si256(spread((uint32_t)(mask >> (32 * i))), t.half[i]));
    return s;
}

#include "io/codec/kv_block_loops.h"

/* The first two generations of Zen have BMI2, but move bits one by one. */
static bool is_available(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") &&
           !__builtin_cpu_is("znver1") && !__builtin_cpu_is("znver2");
}

const kv_blocks kv_blocks_avx2 = {"avx2",        is_available, blocks_count,
                                  blocks_encode, blocks_check, blocks_decode};
