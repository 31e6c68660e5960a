/* kernels/cpu/lanes_portable.h: sixteen float32 lanes in C, as four vectors of the compiler's generic kind.
 *
 * lanes_*.h offer the same operations for different instruction sets; inner_*.h are written in them and are
 * compiled once for each. What is said of an operation here holds for all. */
#pragma once

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/convert.h"

typedef float float4 __attribute__((vector_size(16)));
typedef int32_t int4 __attribute__((vector_size(16)));

typedef struct lanes {
    float4 a, b, c, d;
} lanes;

/* ---- memory: any alignment ---- */

static inline lanes lanes_set(float x) {
    float4 v = {x, x, x, x};
    return (lanes){v, v, v, v};
}

static inline lanes lanes_load(const float *x) {
    lanes y;
    memcpy(&y, x, sizeof y);
    return y;
}

static inline void lanes_store(float *y, lanes x) {
    memcpy(y, &x, sizeof x);
}

static inline lanes lanes_load_bf16(const uint16_t *x) {
    float y[16];
    for (int i = 0; i < 16; i++)
        y[i] = float_of_bf16(x[i]);
    return lanes_load(y);
}

/* To the nearest, ties to even; NaN stays NaN. */
static inline void lanes_store_bf16(uint16_t *y, lanes x) {
    float f[16];
    lanes_store(f, x);
    for (int i = 0; i < 16; i++)
        y[i] = bf16_of_float(f[i]);
}

/* ---- arithmetic ---- */

static inline lanes lanes_add(lanes x, lanes y) {
    return (lanes){x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d};
}

static inline lanes lanes_sub(lanes x, lanes y) {
    return (lanes){x.a - y.a, x.b - y.b, x.c - y.c, x.d - y.d};
}

static inline lanes lanes_mul(lanes x, lanes y) {
    return (lanes){x.a * y.a, x.b * y.b, x.c * y.c, x.d * y.d};
}

static inline lanes lanes_div(lanes x, lanes y) {
    return (lanes){x.a / y.a, x.b / y.b, x.c / y.c, x.d / y.d};
}

/* x * y + z, rounded once where the instruction set can. */
static inline lanes lanes_fma(lanes x, lanes y, lanes z) {
    return lanes_add(lanes_mul(x, y), z);
}

static inline float4 float4_choose(int4 mask, float4 yes, float4 no) {
    return (float4)((mask & (int4)yes) | (~mask & (int4)no));
}

/* x < y ? yes : no. */
static inline lanes lanes_if_less(lanes x, lanes y, lanes yes, lanes no) {
    return (lanes){float4_choose(x.a < y.a, yes.a, no.a), float4_choose(x.b < y.b, yes.b, no.b),
                   float4_choose(x.c < y.c, yes.c, no.c), float4_choose(x.d < y.d, yes.d, no.d)};
}

/* x > y ? x : y, so y where either is NaN. */
static inline lanes lanes_max(lanes x, lanes y) {
    return lanes_if_less(y, x, x, y);
}

/* 2^n, n the low bits of each lane's bits: -126 <= n <= 127. */
static inline lanes lanes_pow2(lanes n) {
    const int4 one = {0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000};
    return (lanes){(float4)(((int4)n.a << 23) + one), (float4)(((int4)n.b << 23) + one),
                   (float4)(((int4)n.c << 23) + one), (float4)(((int4)n.d << 23) + one)};
}

/* Lanes [first, last) of x, `other` in the rest. */
static inline lanes lanes_keep(lanes x, int first, int last, float other) {
    float y[16];
    lanes_store(y, x);
    for (int i = 0; i < 16; i++)
        y[i] = i >= first && i < last ? y[i] : other;
    return lanes_load(y);
}

/* Sum and maximum over the lanes by halves: lane i with lane i + 8, then i + 4, i + 2, i + 1. */
static inline float lanes_sum(lanes x) {
    float4 s = (x.a + x.c) + (x.b + x.d);
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static inline float lanes_max_of(lanes x) {
    float f[16];
    lanes_store(f, x);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            f[i] = f[i] > f[i + half] ? f[i] : f[i + half];
    return f[0];
}

/* panel[word][row]: 16 words of 16 rows, row_bytes apart. */
static inline void lanes_transpose(const char *rows, size_t row_bytes, uint32_t *panel) {
    for (size_t row = 0; row < 16; row++)
        for (size_t word = 0; word < 16; word++)
            memcpy(panel + word * 16 + row, rows + row * row_bytes + word * 4, 4);
}

/* ---- one step of a tile: acc += one input word * 16 weight words ---- */

enum { TILE_ROWS = 2, TILE_PANELS = 1, TILE_PANELS_OF_MANY = 1, TILE_BF16_BYTES = 8 };

typedef struct tile_words {
    lanes even, odd; /* of bf16 pairs; f32 is in `even` */
} tile_words;

/* A bf16 pair is packed as two floats. */
static inline void tile_pack(bool bf16, uint32_t word, char *input) {
    const uint32_t pair[2] = {word << 16, word & 0xffff0000u};
    memcpy(input, bf16 ? pair : &word, bf16 ? 8 : 4);
}

/* Sixteen inputs of one row: bf16 pairs are two floats, and need not be rounded. */
static inline void tile_store_inputs(bool bf16, char *input, lanes x) {
    (void)bf16;
    lanes_store((float *)(void *)input, x);
}

/* Sixteen words, each of one element of both. */
static inline void lanes_pair(const uint16_t *even, const uint16_t *odd, uint32_t *words) {
    for (int i = 0; i < 16; i++)
        words[i] = even[i] | (uint32_t)odd[i] << 16;
}

static inline tile_words tile_load(bool bf16, const uint32_t *panel) {
    if (!bf16) return (tile_words){lanes_load((const float *)panel), lanes_set(0)};
    uint32_t even[16], odd[16];
    for (int i = 0; i < 16; i++) {
        even[i] = panel[i] << 16;
        odd[i] = panel[i] & 0xffff0000u;
    }
    tile_words words;
    memcpy(&words.even, even, sizeof even);
    memcpy(&words.odd, odd, sizeof odd);
    return words;
}

static inline lanes tile_step(bool bf16, lanes acc, const char *input, tile_words words) {
    float x[2];
    memcpy(x, input, bf16 ? 8 : 4);
    acc = lanes_fma(lanes_set(x[0]), words.even, acc);
    return bf16 ? lanes_fma(lanes_set(x[1]), words.odd, acc) : acc;
}

/* ---- one step of a tile with int8 weights, whose words hold 4 of an output as weight + 128 ---- */

enum { INT8_TILE_ROWS = 2, INT8_TILE_PANELS = 1 };

/* Of 128 steps at most: all in whole numbers. An input number is two signed digits, upper and lower byte; as
 * float32 has no room for the sum of the numbers, but for those of the digits, they are summed apart. */
typedef struct int8_sums {
    lanes upper, lower;
    int32_t first;
} int8_sums;

typedef struct int8_words {
    lanes of[4]; /* columns */
} int8_words;

/* 16 whole numbers up to 2^14 become the 4 input words of 8 bytes that belong to 4 words of weights. */
static inline void int8_pack(lanes whole, char *words) {
    float x[16];
    lanes_store(x, whole);
    for (int i = 0; i < 16; i++) {
        int value = (int)x[i];
        int8_t upper = (int8_t)((value + 128) >> 8), lower = (int8_t)(value - 256 * upper);
        memcpy(words + i / 4 * 8 + i % 4, &upper, 1);
        memcpy(words + i / 4 * 8 + 4 + i % 4, &lower, 1);
    }
}

/* A sum that begins with `first`. */
static inline int8_sums int8_begin(int32_t first) {
    return (int8_sums){lanes_set(0), lanes_set(0), first};
}

static inline int8_words int8_load(const uint32_t *panel) {
    int4 four[4];
    int8_words words;
    memcpy(four, panel, sizeof four);
    for (int col = 0; col < 4; col++)
        words.of[col] = (lanes){__builtin_convertvector(four[0] >> (8 * col) & 255, float4),
                                __builtin_convertvector(four[1] >> (8 * col) & 255, float4),
                                __builtin_convertvector(four[2] >> (8 * col) & 255, float4),
                                __builtin_convertvector(four[3] >> (8 * col) & 255, float4)};
    return words;
}

/* acc += an input word times the weights + 128. */
static inline int8_sums int8_step(int8_sums acc, const char *input, int8_words words) {
    int8_t digits[8];
    memcpy(digits, input, sizeof digits);
    for (int col = 0; col < 4; col++) {
        acc.upper = lanes_fma(lanes_set(digits[col]), words.of[col], acc.upper);
        acc.lower = lanes_fma(lanes_set(digits[4 + col]), words.of[col], acc.lower);
    }
    return acc;
}

static inline float4 int8_end_4(float4 upper, float4 lower, int32_t first) {
    int4 sum = __builtin_convertvector(upper, int4) * 256 + __builtin_convertvector(lower, int4) + first;
    return __builtin_convertvector(sum, float4);
}

/* The sum as a float32, rounded once. */
static inline lanes int8_end(int8_sums acc) {
    return (lanes){
        int8_end_4(acc.upper.a, acc.lower.a, acc.first), int8_end_4(acc.upper.b, acc.lower.b, acc.first),
        int8_end_4(acc.upper.c, acc.lower.c, acc.first), int8_end_4(acc.upper.d, acc.lower.d, acc.first)};
}
