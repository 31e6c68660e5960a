/* kernels/cuda/device/warpgroup.cuh: what the four warps of a warpgroup do together on Hopper (sm_90a, and
 * nothing else): matrix products that run behind their back, and barriers in shared memory. PTX ISA,
 * "Asynchronous warpgroup level matrix instructions" and "mbarrier". */
#pragma once

#include "kernels/cuda/device/warp.cuh"

enum { WARPGROUP = 4 * WARP };

__device__ __forceinline__ uint32_t shared_address(const void *at) {
#ifdef KVARVE_CUDA_EMULATED
    return emulation_shared_address(at);
#else
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
#endif
}

/* ---- products ---- */

/* The descriptor of a matrix in shared memory: rows of 128 bytes with swizzled chunks (attend_map.h), at an
 * address aligned to 1024 bytes, eight rows. Both strides are that of eight rows: with 64 columns only one of
 * them is looked at, keys' and values' each another. */
__device__ __forceinline__ uint64_t warpgroup_matrix(const void *at) {
    const uint64_t eight_rows = 1024 >> 4, swizzle_128 = 1;
    return shared_address(at) >> 4 | eight_rows << 16 | eight_rows << 32 | swizzle_128 << 62;
}

/* The part of it that begins `bytes` behind: columns of a row, up to 96, or multiples of eight rows. */
__device__ __forceinline__ uint64_t warpgroup_part(uint64_t whole, int bytes) {
    return whole + static_cast<uint64_t>(bytes >> 4);
}

/* Begin c[64, 64] = a[64, 16] * b[16, 64], or with `add` c += ...; bf16 with sums in float32. a and c: warp w
 * has rows 16 w on, in the layouts of warp_mma, c of 8 columns at a time. b: a matrix of 64 rows, whose
 * columns are multiplied (b's transposed: keys), or with BY_ROWS one of 16 rows, whose rows are (values).
 * From here until it was waited for, nobody may touch a, b, and c, but products on the same c. */
template <bool BY_ROWS>
__device__ __forceinline__ void warpgroup_mma(float c[8][4], const uint32_t a[4], uint64_t b, bool add) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_warpgroup_mma(c, a, b, add, BY_ROWS);
#else
    asm volatile("{.reg .pred add;\n"
                 "setp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
                 "{%32,%33,%34,%35}, %36, add, 1, 1, %38;}"
                 : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
                   "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
                   "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
                   "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
                   "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
                   "+f"(c[7][2]), "+f"(c[7][3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),
                   "n"(BY_ROWS ? 1 : 0));
#endif
}

/* Before the first product, and before those on registers that anything else wrote. */
__device__ __forceinline__ void warpgroup_begin() {
#ifdef KVARVE_CUDA_EMULATED
    emulation_warpgroup_begin();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

/* What was begun since the last is a group. */
__device__ __forceinline__ void warpgroup_commit() {
#ifdef KVARVE_CUDA_EMULATED
    emulation_warpgroup_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* Wait until all but the last N groups are done. */
template <int N> __device__ __forceinline__ void warpgroup_wait() {
#ifdef KVARVE_CUDA_EMULATED
    emulation_warpgroup_wait(N);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

/* The compiler, which takes c for final where a product begins, shall not move its uses across this. */
template <int N> __device__ __forceinline__ void warpgroup_pin(float c[N][4]) {
#ifndef KVARVE_CUDA_EMULATED
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])::"memory");
#else
    (void)c;
#endif
}

/* What this thread wrote to shared memory, or waited for, may be read by products, behind a barrier. */
__device__ __forceinline__ void warpgroup_show() {
#ifndef KVARVE_CUDA_EMULATED
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* Registers of each thread of the warpgroup from here on: fewer than the kernel was started with, or more,
 * that others gave. */
template <int N> __device__ __forceinline__ void warpgroup_give_registers() {
#ifndef KVARVE_CUDA_EMULATED
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N> __device__ __forceinline__ void warpgroup_take_registers() {
#ifndef KVARVE_CUDA_EMULATED
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

/* ---- barriers: 8 bytes in shared memory, which count arrivals and go from phase to phase ---- */

/* By one thread, with a __syncthreads before the first use. */
__device__ __forceinline__ void shared_barrier_init(uint64_t *barrier, int n_arrivals) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_shared_barrier_init(barrier, n_arrivals);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_arrivals)
                 : "memory");
#endif
}

/* What the thread did before is seen by those who wait. */
__device__ __forceinline__ void shared_barrier_arrive(uint64_t *barrier) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_shared_barrier_arrive(barrier);
#else
    asm volatile("{.reg .b64 state;\n"
                 "mbarrier.arrive.shared::cta.b64 state, [%0];}" ::"r"(shared_address(barrier))
                 : "memory");
#endif
}

/* Wait for the end of phase number `phase`, which is the present one, or the one before. */
__device__ __forceinline__ void shared_barrier_wait(uint64_t *barrier, int phase) {
#ifdef KVARVE_CUDA_EMULATED
    emulation_shared_barrier_wait(barrier, phase);
#else
    asm volatile("{.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;}" ::"r"(shared_address(barrier)),
                 "r"(phase % 2)
                 : "memory");
#endif
}
