/* kernels/cuda/device/warp.cuh: what a warp does together: matrix products on the tensor cores, and copies to
 * shared memory behind its back. sm_80 and newer. Layouts: PTX ISA, "Matrix multiply-accumulate", m16n8k16;
 * lane l has group l / 4 and place l % 4. */
#pragma once

#include "kernels/cuda/device/launch.cuh"

enum { WARP = 32 };

/* c[16, 8] += a[16, 16] * b[16, 8], bf16 with sums in float32.
 * a[0]: row group, columns 2 place, +1; a[1]: row group + 8; a[2], a[3]: the same, columns + 8.
 * b[0]: rows 2 place, +1, column group; b[1]: rows + 8.
 * c[0], c[1]: row group, columns 2 place, +1; c[2], c[3]: row group + 8. */
__device__ __forceinline__ void warp_mma(float c[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_mma(c, a, b);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* c[16, 8] += a[16, 32] * b[32, 8], of bytes, each signed or not, with sums that wrap around.
 * a[0]: row group, columns 4 place to 4 place + 3; a[1]: row group + 8; a[2], a[3]: the same, columns + 16.
 * b[0]: rows 4 place to 4 place + 3, column group; b[1]: rows + 16. c: as above. */
template <bool A_SIGNED, bool B_SIGNED>
__device__ __forceinline__ void warp_mma_bytes(int c[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_mma_bytes(c, a, b, A_SIGNED, B_SIGNED);
#else
#define WARP_MMA_BYTES(a_type, b_type)                                                                       \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." a_type "." b_type                                           \
        ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                         \
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                                     \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
    if constexpr (A_SIGNED && B_SIGNED)
        WARP_MMA_BYTES("s8", "s8");
    else if constexpr (A_SIGNED)
        WARP_MMA_BYTES("s8", "u8");
    else if constexpr (B_SIGNED)
        WARP_MMA_BYTES("u8", "s8");
    else
        WARP_MMA_BYTES("u8", "u8");
#undef WARP_MMA_BYTES
#endif
}

/* Four 8x8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix
 * l / 8 (16 bytes, aligned), and gets of matrix i in r[i] elements 2 place, +1 of row group; _transposed: of
 * column group. */
__device__ __forceinline__ void warp_load_matrices(uint32_t r[4], const void *row) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_load_matrices(r, row, false);
#else
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

__device__ __forceinline__ void warp_load_matrices_transposed(uint32_t r[4], const void *row) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_load_matrices(r, row, true);
#else
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

/* Copy 16 aligned bytes to shared memory, or 16 zero bytes when !valid; there after the group that the thread
 * commits next was waited for, and, for other threads, after a barrier behind that. copy_4_async: 4 bytes. */
__device__ __forceinline__ void copy_16_async(void *to_shared, const void *from, bool valid) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_copy_async(to_shared, from, 16, valid);
#else
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
    int n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(n) : "memory");
#endif
}

__device__ __forceinline__ void copy_4_async(void *to_shared, const void *from, bool valid) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_copy_async(to_shared, from, 4, valid);
#else
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
    int n = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(n) : "memory");
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#ifdef KVARVE_CUDA_EMULATED
    emulation_copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Wait until all but the last N groups of this thread are there. */
template <int N> __device__ __forceinline__ void copy_async_wait() {
#ifdef KVARVE_CUDA_EMULATED
    emulation_copy_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* All lanes' x joined two by two, in every lane, in the same order always. */
template <typename T, typename Join> __device__ __forceinline__ T warp_join(T x, const Join &join) {
    for (int i = WARP / 2; i > 0; i /= 2)
        x = join(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

__device__ __forceinline__ float warp_sum(float x) {
    return warp_join(x, [](float a, float b) { return a + b; });
}

__device__ __forceinline__ float warp_max(float x) {
    return warp_join(x, [](float a, float b) { return fmaxf(a, b); });
}
