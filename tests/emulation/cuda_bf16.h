/* tests/emulation/cuda_bf16.h: stands in for CUDA's: bfloat16 and its conversions, by the letter of CUDA: to
 * the nearest, ties to even; a NaN becomes 0x7fff. */
#pragma once

#ifdef __cplusplus

#include "tests/emulation/emulation.h"

struct __nv_bfloat16 {
    unsigned short __x;

    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x) {
        unsigned bits = __float_as_uint(x);
        __x = static_cast<unsigned short>(x != x ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
    operator float() const {
        return __uint_as_float(static_cast<unsigned>(__x) << 16);
    }
};

struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline __nv_bfloat16 __float2bfloat16(float x) {
    return __nv_bfloat16(x);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    return __nv_bfloat16(x);
}
static inline float __bfloat162float(__nv_bfloat16 x) {
    return x;
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) {
    return x.__x;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 x;
    x.__x = bits;
    return x;
}

static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) {
    return {x, y};
}
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) {
    return {x, x};
}
static inline __nv_bfloat162 __float2bfloat162_rn(float x) {
    return {__nv_bfloat16(x), __nv_bfloat16(x)};
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__nv_bfloat16(x), __nv_bfloat16(y)};
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 x) {
    return __floats2bfloat162_rn(x.x, x.y);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 x) {
    return {x.x, x.y};
}
static inline float __low2float(__nv_bfloat162 x) {
    return x.x;
}
static inline float __high2float(__nv_bfloat162 x) {
    return x.y;
}
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 x) {
    return x.x;
}
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 x) {
    return x.y;
}

#endif
