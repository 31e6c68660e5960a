/* Blocks on any processor: 64 symbols are 8 planes of 64 bits. */
#include <stdint.h>
#include <string.h>

static inline uint64_t bits_extract(uint64_t x, uint64_t mask) {
    uint64_t out = 0;
    for (int n = 0; mask; mask &= mask - 1)
        out |= (x >> __builtin_ctzll(mask) & 1) << n++;
    return out;
}

static inline uint64_t bits_deposit(uint64_t x, uint64_t mask) {
    uint64_t out = 0;
    for (; mask; mask &= mask - 1, x >>= 1)
        out |= mask & -mask & -(x & 1);
    return out;
}

/* Bit j of plane b is bit b of symbol j. */
typedef struct symbols {
    uint64_t planes[8];
} symbols;

/* Transpose 8 x 8 bits: bit c of byte r becomes bit r of byte c. */
static inline uint64_t transpose(uint64_t x) {
    uint64_t t = (x ^ x >> 7) & 0x00aa00aa00aa00aa;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000cccc0000cccc;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000f0f0f0f0;
    return x ^ t ^ t << 28;
}

static inline symbols symbols_load(const uint8_t *from) {
    symbols s = {{0}};
    for (int i = 0; i < 8; i++) {
        uint64_t x;
        memcpy(&x, from + 8 * i, 8);
        x = transpose(x);
        for (int b = 0; b < 8; b++)
            s.planes[b] |= (x >> (8 * b) & 0xff) << (8 * i);
    }
    return s;
}

static inline void symbols_store(symbols s, uint8_t *to) {
    for (int i = 0; i < 8; i++) {
        uint64_t x = 0;
        for (int b = 0; b < 8; b++)
            x |= (s.planes[b] >> (8 * i) & 0xff) << (8 * b);
        x = transpose(x);
        memcpy(to + 8 * i, &x, 8);
    }
}

static inline symbols symbols_split(const uint16_t *highs, const uint8_t *bases, uint8_t *signs) {
    uint8_t bytes[64];
    for (int i = 0; i < 64; i++) {
        bytes[i] = (uint8_t)((highs[i] >> 7) - bases[i]);
        signs[i] = (uint8_t)((highs[i] >> 8 & 0x80) | (highs[i] & 0x7f));
    }
    return symbols_load(bytes);
}

static inline void symbols_join(symbols s, const uint8_t *bases, const uint8_t *signs, uint16_t *highs) {
    uint8_t bytes[64];
    symbols_store(s, bytes);
    for (int i = 0; i < 64; i++) {
        uint8_t exponent = (uint8_t)(bytes[i] + bases[i]);
        highs[i] = (uint16_t)((signs[i] & 0x80) << 8 | exponent << 7 | (signs[i] & 0x7f));
    }
}

static inline symbols symbols_all(uint8_t value) {
    symbols s;
    for (int b = 0; b < 8; b++)
        s.planes[b] = value >> b & 1 ? UINT64_MAX : 0;
    return s;
}

static inline uint64_t symbols_equal(symbols s, symbols t) {
    uint64_t different = 0;
    for (int b = 0; b < 8; b++)
        different |= s.planes[b] ^ t.planes[b];
    return ~different;
}

static inline symbols symbols_set(symbols s, uint64_t mask, symbols t) {
    for (int b = 0; b < 8; b++)
        s.planes[b] |= mask & t.planes[b];
    return s;
}

#include "io/codec/kv_block_loops.h"

static bool is_available(void) {
    return true;
}

const kv_blocks kv_blocks_portable = {"portable",    is_available, blocks_count,
                                      blocks_encode, blocks_check, blocks_decode};
