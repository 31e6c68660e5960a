/* kernels/cuda/device/elements.cuh: numbers of a device's types, four neighbours at a time, as floats. */
#pragma once

#include "kernels/cuda/device/launch.cuh"

template <typename E> struct alignas(4 * sizeof(E)) elements_4 { E at[4]; };

/* Whether rows of n_cols elements behind these pointers can be read and written as vectors. It changes how
 * memory is reached, never what is computed in which order. */
static inline bool elements_are_vectors(int64_t n_cols, const void *a, const void *b,
                                        const void *c = nullptr) {
    uintptr_t all =
        reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(c);
    return n_cols % 4 == 0 && all % 16 == 0;
}

/* x[0 .. 4), where only `left` are there: the others are 0. VECTOR: all four are, and x is aligned to them.
 */
template <bool VECTOR, typename E> __device__ __forceinline__ float4 elements_load(const E *x, int64_t left) {
    elements_4<E> v;
    if (VECTOR)
        v = *reinterpret_cast<const elements_4<E> *>(x);
    else
        for (int i = 0; i < 4; i++)
            v.at[i] = i < left ? x[i] : E{};
    return make_float4(static_cast<float>(v.at[0]), static_cast<float>(v.at[1]), static_cast<float>(v.at[2]),
                       static_cast<float>(v.at[3]));
}

template <bool VECTOR, typename E>
__device__ __forceinline__ void elements_store(E *y, float4 x, int64_t left) {
    elements_4<E> v = {{static_cast<E>(x.x), static_cast<E>(x.y), static_cast<E>(x.z), static_cast<E>(x.w)}};
    if (VECTOR)
        *reinterpret_cast<elements_4<E> *>(y) = v;
    else
        for (int i = 0; i < 4 && i < left; i++)
            y[i] = v.at[i];
}
