/* kernels/cpu/lanes_portable.h: sixteen float32 lanes in C, as four vectors of the compiler's generic kind.
 *
 * lanes_*.h offer the same operations for different instruction sets, and steps_*.h, on top of them, the
 * steps of tiles; inner_*.h are written in both and are compiled once for each. What is said of an operation
 * here, and in steps_portable.h, holds for all. */
#pragma once

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/convert.h"

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

/* Whole numbers from -128 to 127. */
static inline void lanes_store_int8(int8_t *y, lanes x) {
    float f[16];
    lanes_store(f, x);
    for (int i = 0; i < 16; i++)
        y[i] = (int8_t)bits_of(f[i] + 0x1.8p23f); /* moves them into the low bits */
}

/* Whole numbers below 2^15 as two digits of 8 bits: 256 * upper + lower. */
static inline void lanes_store_digits(int8_t *upper, int8_t *lower, lanes x) {
    float f[16];
    lanes_store(f, x);
    for (int i = 0; i < 16; i++) {
        const int whole = (int)f[i];
        upper[i] = (int8_t)((whole + 128) >> 8);
        lower[i] = (int8_t)whole;
    }
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

/* x < y ? x : y, so y where either is NaN. */
static inline lanes lanes_min(lanes x, lanes y) {
    return lanes_if_less(x, y, x, y);
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
