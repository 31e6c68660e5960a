/* kernels/cpu/steps_portable.h: the steps of tiles in the lanes of lanes_portable.h. */
#pragma once

#include "kernels/cpu/lanes_portable.h"

#include "kernels/cpu/steps_of_pairs.h"

/* ---- one step of a tile: acc += one input word * 16 weight words ---- */

enum { TILE_ROWS = 2, TILE_PANELS = 1, TILE_PANELS_OF_MANY = 1, TILE_BF16_BYTES = 8, TILE_AHEAD_SHARE = 0 };

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

/* ---- one step of a tile with int8 weights, whose words hold 4 of an output as weight + 128 ---- */

enum { INT8_TILE_ROWS = 2, INT8_TILE_PANELS = 1, INT8_MOST_ROWS = 2, INT8_PANELS_OF_MOST = 1 };

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

/* The same, of an input word of one digit: numbers up to 127. */
static inline int8_sums int8_step_digit(int8_sums acc, const char *input, int8_words words) {
    int8_t digits[4];
    memcpy(digits, input + sizeof digits, sizeof digits);
    for (int col = 0; col < 4; col++)
        acc.lower = lanes_fma(lanes_set(digits[col]), words.of[col], acc.lower);
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

/* ---- one step of a product with codes of int4: 8 whole numbers of 8 bits times a word of each lane ---- */

enum { INT4_ROWS = 1, INT4_PANELS = 1 };

typedef struct int4_sums {
    int4 of[4];
} int4_sums;

typedef struct int4_words {
    int4 of[4];
} int4_words;

static inline int4_sums int4_begin(void) {
    return (int4_sums){{{0}}};
}

static inline int4_words int4_load(const uint32_t *panel) {
    int4_words words;
    memcpy(&words, panel, sizeof words);
    return words;
}

/* acc += input[j] * code j, over the 8 of a word. */
static inline int4_sums int4_add(int4_sums acc, const int8_t *input, int4_words words) {
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++)
            acc.of[i] += (words.of[i] >> (j % 4 * 8 + j / 4 * 4) & 15) * input[j];
    return acc;
}

/* 256 * upper + lower. */
static inline lanes int4_end(int4_sums upper, int4_sums lower) {
    float4 y[4];
    for (int i = 0; i < 4; i++)
        y[i] = __builtin_convertvector(upper.of[i] * 256 + lower.of[i], float4);
    return (lanes){y[0], y[1], y[2], y[3]};
}
