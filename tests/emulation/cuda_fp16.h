/* tests/emulation/cuda_fp16.h: stands in for CUDA's: half numbers become floats, exactly. */
#pragma once

#ifdef __cplusplus

#include "tests/emulation/emulation.h"

struct __half {
    unsigned short __x;

    operator float() const {
        unsigned sign = static_cast<unsigned>(__x & 0x8000u) << 16, rest = __x & 0x7fffu;
        if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
        /* the exponent's bias is 15 instead of 127; the product is exact, also of subnormal numbers */
        return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
    }
};

static inline __half __ushort_as_half(unsigned short bits) {
    return {bits};
}
static inline float __half2float(__half x) {
    return x;
}

#endif
