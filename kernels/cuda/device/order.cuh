/* kernels/cuda/device/order.cuh: floats as integers in the same order, so that the largest are found bit by
 * bit. */
#pragma once

#include "kernels/cuda/device/launch.cuh"

/* Larger for a larger number, and never 0; both zeros are one number. Not for NaNs. */
__device__ __forceinline__ uint32_t order_of(float x) {
    const uint32_t bits = __float_as_uint(x == 0 ? 0.0f : x), sign = 0x80000000u;
    return bits & sign ? ~bits : bits | sign;
}

__device__ __forceinline__ float float_of_order(uint32_t order) {
    const uint32_t sign = 0x80000000u;
    return __uint_as_float(order & sign ? order & ~sign : ~order);
}
