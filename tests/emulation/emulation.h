/* tests/emulation/emulation.h: what CUDA kernels are written in, on the CPU: where a thread is, what the
 * threads of a block and of a warp do together, and the functions that CUDA adds to C++.
 *
 * The blocks of a launch run one after the other. The threads of a block are fibers: one runs until it waits
 * for others, at a barrier or in an operation of its warp. To show mistakes that a GPU would hide:
 * - a warp goes as far as it can before the next one starts, and so does each of its lanes; every other block
 *   runs its warps and lanes from last to first;
 * - dynamic shared memory is NaN at the start of every block (static shared memory is not);
 * - an asynchronous copy happens only when it is waited for; until then NaN lies there;
 * - threads that wait for others that have ended, or that wait elsewhere, end the program with a message.
 *
 * All state is the host thread's own: two host threads may launch at the same time. */
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "tests/emulation/cuda_runtime.h"

#define __shared__ static thread_local

/* ---- the running thread ---- */

struct emulation_place {
    uint3 thread, block, block_size, grid;
};
extern __thread emulation_place emulation_at;

#define threadIdx emulation_at.thread
#define blockIdx  emulation_at.block
#define blockDim  emulation_at.block_size
#define gridDim   emulation_at.grid

/* Its number in its block; its lane is that modulo 32. */
static inline unsigned emulation_thread_number() {
    return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}

/* ---- launching ---- */

/* Run body() as every thread of every block, when it is its turn in the stream, or when the graph is launched
 * that this host thread captures. A launch that no GPU would take ends the program. */
void emulation_launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes,
                      std::function<void()> body);
unsigned char *emulation_shared_memory();
size_t emulation_shared_bytes();

/* The failure that was asked for, of this call, or success. */
cudaError_t emulation_demanded(emulation_call call);

/* End the program: where, and what was wrong. */
[[noreturn]] void emulation_fail(const char *what);

/* The running thread waits, and lets others run, until it holds. */
void emulation_wait_until(const std::function<bool()> &holds);

/* The other warps run as far as they can. */
void emulation_let_others_run();

/* Do something in the order of the stream: now, unless the device is late, or when the graph is launched that
 * is being captured. */
void emulation_enqueue(cudaStream_t stream, std::function<void()> operation);

/* ---- the block ---- */

/* All threads of the block meet; for how many of them the predicate holds. */
int emulation_barrier(bool predicate);

static inline void __syncthreads() {
    emulation_barrier(false);
}
static inline int __syncthreads_count(int predicate) {
    return emulation_barrier(predicate != 0);
}
static inline int __syncthreads_or(int predicate) {
    return emulation_barrier(predicate != 0) > 0;
}
static inline int __syncthreads_and(int predicate) {
    return emulation_barrier(predicate == 0) == 0;
}

/* ---- the warp ---- */

/* What one lane brings to an operation of its warp, and what it gets. */
struct emulation_request {
    uint64_t value;
    unsigned source; /* lane */
    const void *a, *b;
    void *out;
};

/* The lanes of `mask` are there: lanes[i] is NULL for others. */
typedef void emulation_operation(emulation_request *const lanes[32], unsigned mask);

/* The lanes of `mask` meet in one operation; the last to come does it for all. */
void emulation_meet(unsigned mask, emulation_operation *operation, emulation_request *own);

emulation_operation emulation_exchange, emulation_vote, emulation_nothing;

void emulation_mma(float c[4], const uint32_t a[4], const uint32_t b[2]);
void emulation_mma_bytes(int c[4], const uint32_t a[4], const uint32_t b[2], bool a_signed, bool b_signed);
void emulation_load_matrices(uint32_t r[4], const void *row, bool transposed);

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulation_request own = {};
    emulation_meet(mask, emulation_nothing, &own);
}

/* x of lane `source`; poison when that is not in the mask. */
template <typename T> T emulation_shuffle(unsigned mask, T x, unsigned source) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves up to 8 bytes");
    emulation_request own = {};
    memcpy(&own.value, &x, sizeof x);
    own.source = source;
    emulation_meet(mask, emulation_exchange, &own);
    memcpy(&x, &own.value, sizeof x);
    return x;
}

static inline unsigned emulation_lane() {
    return emulation_thread_number() % 32;
}

template <typename T> T __shfl_sync(unsigned mask, T x, int source, int width = 32) {
    unsigned w = static_cast<unsigned>(width), lane = emulation_lane();
    return emulation_shuffle(mask, x, lane / w * w + static_cast<unsigned>(source) % w);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T x, int flip, int width = 32) {
    unsigned w = static_cast<unsigned>(width), lane = emulation_lane(),
             other = lane ^ static_cast<unsigned>(flip);
    return emulation_shuffle(mask, x, other / w > lane / w ? lane : other);
}
template <typename T> T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32) {
    unsigned w = static_cast<unsigned>(width), lane = emulation_lane();
    return emulation_shuffle(mask, x, lane % w < delta ? lane : lane - delta);
}
template <typename T> T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32) {
    unsigned w = static_cast<unsigned>(width), lane = emulation_lane();
    return emulation_shuffle(mask, x, lane % w + delta >= w ? lane : lane + delta);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emulation_request own = {};
    own.value = predicate != 0;
    emulation_meet(mask, emulation_vote, &own);
    return static_cast<unsigned>(own.value);
}
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}

/* ---- asynchronous copies of 16 bytes, or 4: see warp.cuh ---- */

void emulation_copy_async(void *to, const void *from, unsigned bytes, bool valid);
void emulation_copy_commit();
void emulation_copy_wait(int n);

/* ---- Hopper: see warpgroup.cuh ---- */

uint32_t emulation_shared_address(const void *at);
void emulation_warpgroup_begin();
void emulation_warpgroup_mma(float c[8][4], const uint32_t a[4], uint64_t b, bool add, bool by_rows);
void emulation_warpgroup_commit();
void emulation_warpgroup_wait(int n);
void emulation_shared_barrier_init(uint64_t *barrier, int n_arrivals);
void emulation_shared_barrier_arrive(uint64_t *barrier);
void emulation_shared_barrier_wait(uint64_t *barrier, int phase);

/* warpgroup.cc on a block that has ended. */
void emulation_warpgroup_end(unsigned n_threads);

/* Number i of packed bf16 numbers. */
static inline float emulation_bf16_at(const void *packed, unsigned i) {
    uint32_t word;
    memcpy(&word, static_cast<const char *>(packed) + i / 2 * sizeof word, sizeof word);
    word = i % 2 ? word & 0xffff0000u : word << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

/* ---- memory ---- */

template <typename T> T __ldg(const T *at) {
    return *at;
}
template <typename T> T __ldcg(const T *at) {
    return *at;
}
template <typename T> T __ldcs(const T *at) {
    return *at;
}
template <typename T> void __stcs(T *at, T x) {
    *at = x;
}
template <typename T> void __stcg(T *at, T x) {
    *at = x;
}

/* Blocks and threads take turns: atomic as they are. */
template <typename T> T atomicAdd(T *at, T x) {
    T before = *at;
    *at = before + x;
    return before;
}
template <typename T> T atomicMax(T *at, T x) {
    T before = *at;
    *at = before < x ? x : before;
    return before;
}
template <typename T> T atomicMin(T *at, T x) {
    T before = *at;
    *at = x < before ? x : before;
    return before;
}
template <typename T> T atomicExch(T *at, T x) {
    T before = *at;
    *at = x;
    return before;
}
template <typename T> T atomicCAS(T *at, T expected, T x) {
    T before = *at;
    if (before == expected) *at = x;
    return before;
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

/* ---- numbers ---- */

template <typename To, typename From> To emulation_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline unsigned __float_as_uint(float x) {
    return emulation_bits<unsigned>(x);
}
static inline int __float_as_int(float x) {
    return emulation_bits<int>(x);
}
static inline float __uint_as_float(unsigned x) {
    return emulation_bits<float>(x);
}
static inline float __int_as_float(int x) {
    return emulation_bits<float>(x);
}

template <typename T> T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T> T max(T a, T b) {
    return a < b ? b : a;
}

static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline float __frsqrt_rn(float x) {
    return static_cast<float>(1.0 / sqrt(static_cast<double>(x)));
}
#define __expf expf /* the C library has other functions of these names */
#define __logf logf
static inline float __fdividef(float x, float y) {
    return x / y;
}
static inline float __fdiv_rn(float x, float y) {
    return x / y;
}
static inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
static inline float __frcp_rn(float x) {
    return 1.0f / x;
}
static inline float __fmaf_rn(float x, float y, float z) {
    return fmaf(x, y, z);
}
static inline float __fadd_rn(float x, float y) {
    return x + y;
}
static inline float __fsub_rn(float x, float y) {
    return x - y;
}
static inline float __fmul_rn(float x, float y) {
    return x * y;
}
static inline double __dmul_rn(double x, double y) {
    return x * y;
}
static inline float __double2float_rn(double x) {
    return static_cast<float>(x);
}
static inline float __int2float_rn(int x) {
    return static_cast<float>(x);
}
static inline int __float2int_rn(float x) {
    return static_cast<int>(rintf(x));
}
static inline unsigned long long __float2ull_rn(float x) {
    return static_cast<unsigned long long>(rintf(x));
}
/* Byte i of the result is that of x, then y, whose number is in the nibble i of `select`. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned select) {
    const uint64_t both = x | static_cast<uint64_t>(y) << 32;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; i++)
        result |= static_cast<unsigned>(both >> 8 * (select >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
