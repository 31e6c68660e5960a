/* kernels/convert.h: float32 from and to the 16-bit types, one number at a time. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float float_of_bf16(uint16_t x) {
    return float_of((uint32_t)x << 16);
}

/* To the nearest, ties to even; a NaN stays one (quiet, with its upper bits). */
static inline uint16_t bf16_of_float(float x) {
    uint32_t bits = bits_of(x);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1);
    uint32_t quiet = bits | 0x400000u;
    return (uint16_t)((x != x ? quiet : rounded) >> 16);
}

/* Exact. The exponent is moved by a multiplication, which also normalises subnormal numbers. */
static inline float float_of_f16(uint16_t x) {
    uint32_t magnitude = x & 0x7fffu;
    uint32_t bits = bits_of(float_of(magnitude << 13) * 0x1p112f);
    bits |= magnitude >= 0x7c00 ? 0x7f800000u : 0; /* infinity and NaN */
    return float_of(bits | (uint32_t)(x & 0x8000) << 16);
}

/* Element i of an array of this type, which need not be aligned. */
static inline float float_at(dtype type, const void *elements, size_t i) {
    const char *from = (const char *)elements + i * dtype_bytes(type);
    uint16_t half;
    uint32_t bits;
    if (type == DTYPE_F32) {
        memcpy(&bits, from, sizeof bits);
        return float_of(bits);
    }
    memcpy(&half, from, sizeof half);
    return type == DTYPE_BF16 ? float_of_bf16(half) : float_of_f16(half);
}

/* Round x to element i of an array of f32 or bf16. */
static inline void put_float_at(dtype type, void *elements, size_t i, float x) {
    if (type == DTYPE_F32)
        ((float *)elements)[i] = x;
    else
        ((uint16_t *)elements)[i] = bf16_of_float(x);
}
