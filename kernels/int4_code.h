/* kernels/int4_code.h: numbers rounded to 4 bits, to one of 16 from the least of their range to its largest:
 * K and V (kernels/kv_page.h). Local.
 *
 * Codes are those of what codes stand for: numbers that were decoded, all or some of a range, have the same
 * codes when they are coded again. Of values that holds exactly, as the ends of a range are numbers of it.
 * Keys are rotated before, and come back rotated back and rounded to bf16; so the ends of their ranges are
 * multiples of a unit, and so is what lies between them or further apart: more than what that rounding
 * changes. */
#pragma once

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "kernels/convert.h"

enum {
    INT4_LARGEST = 15,
    INT4_MIDDLE = 8, /* products count codes from it: the input of a sum is rounded, and so they weigh less */
    INT4_MOST = 64,  /* numbers of a range */
};

/* In bf16; NaN, both, where a number is not finite, or they are too far apart for float32. */
typedef struct int4_range {
    uint16_t least, largest;
} int4_range;

static inline float int4_step(int4_range r) {
    return (float_of_bf16(r.largest) - float_of_bf16(r.least)) * (1.0f / INT4_LARGEST);
}

static inline uint16_t int4_decode(uint8_t code, int4_range r) {
    return code == 0              ? r.least
           : code == INT4_LARGEST ? r.largest
                                  : bf16_of_float(float_of_bf16(r.least) + int4_step(r) * (float)code);
}

/* bf16 numbers in their order, as integers; and back, with one zero. */
static inline int16_t int4_rank(uint16_t x) {
    return (int16_t)(x & 0x8000 ? x ^ 0x7fff : x);
}

static inline uint16_t int4_of_rank(int16_t rank) {
    return rank == -1 ? 0 : (uint16_t)(rank < 0 ? rank ^ 0x7fff : rank);
}

static inline int4_range int4_range_of(int n, const uint16_t *x) {
    int16_t least = INT16_MAX, largest = INT16_MIN, magnitude = 0;
    for (int i = 0; i < n; i++) {
        const int16_t rank = int4_rank(x[i]);
        least = rank < least ? rank : least;
        largest = rank > largest ? rank : largest;
        magnitude = (int16_t)(x[i] & 0x7fff) > magnitude ? (int16_t)(x[i] & 0x7fff) : magnitude;
    }
    const int4_range r = {int4_of_rank(least), int4_of_rank(largest)}, nan = {0x7fc0, 0x7fc0};
    const float span = float_of_bf16(r.largest) - float_of_bf16(r.least);
    return magnitude < 0x7f80 && span <= FLT_MAX ? r : nan;
}

/* To a whole number, of magnitudes below 2^22; no -0. */
static inline float int4_nearest(float x) {
    return x + 0x1.8p23f - 0x1.8p23f;
}

/* ---- values ---- */

/* n <= INT4_MOST numbers, all of the range. What a code stands for has that code: where bf16 is finer than
 * the steps it is moved by less than half of one, and where it is coarser it is the number itself. */
static inline int4_range int4_encode(int n, const uint16_t *x, uint8_t *codes) {
    const int4_range r = int4_range_of(n, x);
    const float least = float_of_bf16(r.least), step = int4_step(r), by = step > 0 ? step : 1;
    assert(n <= INT4_MOST);
    for (int i = 0; i < n; i++) {
        const float code = (float_of_bf16(x[i]) - least) / by + 0x1.8p23f; /* rounds, into the low bits */
        codes[i] = step == step ? bits_of(code) & INT4_LARGEST : 0;
    }
    return r;
}

/* ---- keys ---- */

/* x[n] times an orthogonal matrix that is its own inverse: a Hadamard matrix over each `size` elements that
 * follow each other, the largest power of two that divides n. What stands out in some elements is spread over
 * all of them, and products of rows that both went through it are what they were. */
static inline void int4_rotate(float *x, int n) {
    const int size = n & -n;
    const float scale = 1 / sqrtf((float)size);
    for (int half = 1; half < size; half *= 2)
        for (int first = 0; first < n; first += 2 * half)
            for (int i = first; i < first + half; i++) {
                const float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
    for (int i = 0; i < n; i++)
        x[i] *= scale;
}

enum { INT4_UNITS = 64 };

/* The unit of rotated keys of which this is the largest magnitude, a power of two: it is below INT4_UNITS of
 * it. NaN where it is not finite. */
static inline float int4_unit(float largest) {
    int exponent;
    if (!(largest <= FLT_MAX)) return NAN;
    if (largest < FLT_MIN * 0x1p10f) return FLT_MIN;
    frexpf(largest / (INT4_UNITS - 0.5f), &exponent);
    return ldexpf(1, exponent);
}

static inline float int4_decode_key(uint8_t code, int4_range r) {
    return float_of_bf16(r.least) + int4_step(r) * (float)code;
}

enum { INT4_MOST_KEY = 512 };

/* Of numbers from least to largest, of such a unit. */
static inline int4_range int4_key_range(float least, float largest, float unit) {
    const float first = int4_nearest(least / unit), last = int4_nearest(largest / unit),
                end = last < first + INT4_LARGEST ? first + INT4_LARGEST : last;
    const int4_range r = {bf16_of_float(first * unit), bf16_of_float(end * unit)};
    return r;
}

/* The keys of n <= INT4_MOST places, width <= INT4_MOST_KEY numbers in bf16, row_bytes apart: the range of
 * each element over them, and the codes [n, width]. */
static inline void int4_encode_keys(int n, int width, const char *rows, size_t row_bytes, int4_range *ranges,
                                    uint8_t *codes) {
    float x[INT4_MOST * INT4_MOST_KEY], least[INT4_MOST_KEY], largest[INT4_MOST_KEY], most[INT4_MOST_KEY];
    float steps[INT4_MOST_KEY], magnitude = 0;
    assert(n <= INT4_MOST && width <= INT4_MOST_KEY);
    for (int k = 0; k < n; k++) {
        float *row = x + k * width;
        for (int i = 0; i < width; i++)
            row[i] = float_at(DTYPE_BF16, rows + (size_t)k * row_bytes, (size_t)i);
        int4_rotate(row, width);
        for (int i = 0; i < width; i++) {
            least[i] = k > 0 && least[i] <= row[i] ? least[i] : row[i];
            largest[i] = k > 0 && largest[i] >= row[i] ? largest[i] : row[i];
            most[i] = k > 0 && fabsf(row[i]) <= most[i] ? most[i] : fabsf(row[i]); /* NaN where one is */
        }
    }
    for (int i = 0; i < width; i++)
        magnitude = most[i] <= magnitude ? magnitude : most[i];
    const float unit = int4_unit(magnitude);
    for (int i = 0; i < width; i++) {
        ranges[i] = int4_key_range(least[i], largest[i], unit);
        least[i] = float_of_bf16(ranges[i].least);
        steps[i] = (float_of_bf16(ranges[i].largest) - least[i]) / INT4_LARGEST;
    }
    for (int k = 0; k < n; k++)
        for (int i = 0; i < width; i++) {
            const float code = int4_nearest((x[k * width + i] - least[i]) / steps[i]);
            codes[k * width + i] =
                (uint8_t)(code > 0 ? code < INT4_LARGEST ? code : (float)INT4_LARGEST : 0.0f);
        }
}

/* One of these keys. */
static inline void int4_decode_row(int width, const int4_range *ranges, const uint8_t *codes, uint16_t *row) {
    float key[INT4_MOST_KEY];
    for (int i = 0; i < width; i++)
        key[i] = int4_decode_key(codes[i], ranges[i]);
    int4_rotate(key, width);
    for (int i = 0; i < width; i++)
        row[i] = bf16_of_float(key[i]);
}
