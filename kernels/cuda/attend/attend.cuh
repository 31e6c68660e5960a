/* kernels/cuda/attend/attend.cuh: what the attention kernels share: their arguments, tiles in shared memory
 * as operands of the tensor cores, softmax, and partial results.
 *
 * Scores are kept in units of log2: a weight is 2^(score * scale - max), where scale has the factor log2(e)
 * and is positive. Weights go to the tensor cores as bf16, and their sum is that of the rounded ones (the
 * tensor cores' product with a column of ones), so that what rounding does to them cancels where values
 * agree. A position that a row does not see has the weight 0, exactly.
 *
 * Where pages hold codes, places that a row sees as they were put (attend_exact_places) are read from near
 * pages, and the others' codes become bf16 in registers or shared memory: nowhere else are they decoded.
 * CODED: pages hold codes. */
#pragma once

#include "kernels/cuda/attend/attend_map.h"
#include "kernels/cuda/device/warp.cuh"

/* Pages of one kind. */
typedef struct attend_source {
    kv_layer kv;
    int quanta_per_page;
    size_t unit_bytes, values; /* of a kv_page.h's unit; from a quantum's keys to its values, in bytes */
} attend_source;

typedef struct attend_job {
    step_tables step;
    int first_row, n_rows; /* of the spans that are attended to */
    attend_source exact;   /* bf16 */
    attend_source codes;   /* with has_codes: of all places that are not seen as they were put */
    bool has_codes;
    int n_heads, n_kv_heads, group;
    float scale;
    int64_t window;
    const uint16_t *q;
    uint16_t *y;
    float *results; /* partial results, laid out as `layout`; NULL: all goes to y at once */
    attend_partials layout;
} attend_job;

static inline attend_source attend_source_of(const kv_layer *kv) {
    attend_source source = {};
    source.kv = *kv;
    source.kv.near = nullptr; /* host memory */
    source.quanta_per_page = kv->format.page_tokens / ATTEND_QUANTUM;
    source.unit_bytes = kv_unit_bytes(&kv->format);
    source.values = source.unit_bytes *
                    (kv_element(&kv->format, KV_PART_V, 0, 0) - kv_element(&kv->format, KV_PART_K, 0, 0));
    return source;
}

static inline attend_job attend_job_of(const cuda_device *dev, const attention_shape *shape,
                                       const kv_layer *kv, const attend_extent *extent, const void *q,
                                       void *y) {
    const span *first = &dev->step.host_spans[extent->first_span],
               *last = &dev->step.host_spans[extent->last_span - 1];
    attend_job job = {};
    job.step = dev->step;
    job.first_row = first->row0;
    job.n_rows = last->row0 + last->n_rows - first->row0;
    job.has_codes = kv_is_coded(&kv->format);
    job.exact = attend_source_of(job.has_codes ? kv->near : kv);
    if (job.has_codes) job.codes = attend_source_of(kv);
    job.n_heads = shape->n_heads;
    job.n_kv_heads = shape->n_kv_heads;
    job.group = shape->n_heads / shape->n_kv_heads;
    job.scale = shape->scale * 1.44269504f;
    job.window = shape->window;
    job.q = static_cast<const uint16_t *>(q);
    job.y = static_cast<uint16_t *>(y);
    return job;
}

/* ---- numbers ---- */

__device__ __forceinline__ float attend_exp2(float x) {
#ifdef KVARVE_CUDA_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); /* 1 for 0, and 0 for -inf */
    return y;
#endif
}

/* Two numbers as bf16, the first in the lower half. */
__device__ __forceinline__ uint32_t attend_pack(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* ---- pages ---- */

/* Where a quantum of a slot's sequence begins: its keys for a kv head, or their scales. Counted in bytes from
 * the pages' begin. */
__device__ __forceinline__ size_t attend_quantum(const attend_source &source, int slot, int64_t quantum,
                                                 int kv_head) {
    const attend_place at = attend_place_of(quantum, source.quanta_per_page);
    return source.unit_bytes *
           attend_element(&source.kv.format, kv_layer_table(&source.kv, slot), at, kv_head);
}

__device__ __forceinline__ const char *attend_pages(const attend_source &source) {
    return static_cast<const char *>(source.kv.pages);
}

/* Does the row at `pos` see the codes of a place, and not the place as it was put? All of sixteen places from
 * a multiple of sixteen on are alike. */
template <bool CODED> __device__ __forceinline__ bool attend_sees_codes(int64_t pos, int64_t place) {
    return CODED && place % ATTEND_BLOCK >= attend_exact_places(pos, attend_block_of(place));
}

/* ---- codes of int8 ---- */

/* Two codes as bf16, without their scale, which is exact: bytes LOW and HIGH of x, then y. Stored + 128, such
 * a byte has 7 bits of a mantissa, and one that says whether 128 or 256 is too much. */
template <int LOW, int HIGH> __device__ __forceinline__ uint32_t attend_codes(uint32_t x, uint32_t y) {
    const uint32_t bytes = __byte_perm(x, y, LOW | HIGH << 8);
    const uint32_t larger = (bytes & 0x007f007fu) | 0x43004300u, less = (bytes & 0x00800080u) ^ 0xc380c380u;
    uint32_t codes;
#ifdef KVARVE_CUDA_EMULATED
    codes = attend_pack(emulation_bf16_at(&larger, 0) + emulation_bf16_at(&less, 0),
                        emulation_bf16_at(&larger, 1) + emulation_bf16_at(&less, 1));
#else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(codes) : "r"(larger), "r"(0x3f803f80u), "r"(less));
#endif
    return codes;
}

/* Code I of a word, times its scale. */
template <int I> __device__ __forceinline__ float attend_decode(uint32_t word, float scale) {
    /* 2^23 + the byte, without a conversion */
    const float stored = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 | I));
    return __fmul_rn(stored - (0x1p23f + INT8_OFFSET), scale);
}

/* Sixteen codes of a row become what they stand for, in bf16. */
__device__ __forceinline__ void attend_decode_16(uint4 codes, float scale, uint4 values[2]) {
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    uint32_t pairs[8];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        pairs[2 * i] = attend_pack(attend_decode<0>(words[i], scale), attend_decode<1>(words[i], scale));
        pairs[2 * i + 1] = attend_pack(attend_decode<2>(words[i], scale), attend_decode<3>(words[i], scale));
    }
    values[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    values[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
}

/* ---- tiles in shared memory, rows attend_stride(WIDTH) apart, as operands of warp_mma ---- */

/* 16 queries by 16 elements from `tile` on: a. */
template <int WIDTH>
__device__ __forceinline__ void attend_load_queries(uint32_t a[4], const uint16_t *tile) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
    warp_load_matrices(a, tile + attend_lane_element(WIDTH, lane));
}

/* 16 positions by 16 elements of keys: b of the first 8 positions, and b of the others. */
template <int WIDTH> __device__ __forceinline__ void attend_load_keys(uint32_t b[4], const uint16_t *tile) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
    warp_load_matrices(b, tile + attend_lane_key(WIDTH, lane));
}

/* 16 positions by 16 elements of values: b of the first 8 elements, and b of the others. */
template <int WIDTH> __device__ __forceinline__ void attend_load_values(uint32_t b[4], const uint16_t *tile) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
    warp_load_matrices_transposed(b, tile + attend_lane_element(WIDTH, lane));
}

/* ---- softmax of a warp's 16 queries; layout of c of warp_mma ---- */

/* Scores of queries group (half 0) and group + 8 (half 1) outside of their ranges of columns become -inf. */
template <int N> __device__ __forceinline__ void attend_mask(float s[N][4], int half, int first, int last) {
    int place = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int column = 8 * n + 2 * place + i;
            if (column < first || column >= last) s[n][2 * half + i] = -INFINITY;
        }
}

/* The largest scaled score of a query, or `max` where that is larger. */
template <int N>
__device__ __forceinline__ float attend_max(const float s[N][4], int half, float scale, float max) {
    float top = fmaxf(s[0][2 * half], s[0][2 * half + 1]);
#pragma unroll
    for (int n = 1; n < N; n++)
        top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    return fmaxf(top * scale, max);
}

/* What is subtracted from scores: no difference of infinities where nothing is seen. */
__device__ __forceinline__ float attend_shift(float max) {
    return max == -INFINITY ? 0.0f : max;
}

template <int N>
__device__ __forceinline__ void attend_weigh(float s[N][4], int half, float scale, float shift) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            s[n][2 * half + i] = attend_exp2(fmaf(s[n][2 * half + i], scale, -shift));
}

/* Weights of 16 positions, s[0] and s[1], as a of warp_mma. */
__device__ __forceinline__ void attend_pack_weights(uint32_t a[4], const float s[2][4]) {
    a[0] = attend_pack(s[0][0], s[0][1]);
    a[1] = attend_pack(s[0][2], s[0][3]);
    a[2] = attend_pack(s[1][0], s[1][1]);
    a[3] = attend_pack(s[1][2], s[1][3]);
}

/* ---- partial results of one query, its values spread over the lanes of a warp: v[i] is value lane + 32 i.
 * EXACT: exponents are of e and accurate; otherwise of 2, and fast ---- */

template <int N> struct attend_partial { float max, sum, v[N]; };

template <int N> __device__ __forceinline__ attend_partial<N> attend_neutral() {
    attend_partial<N> p;
    p.max = -INFINITY;
    p.sum = 0;
#pragma unroll
    for (int i = 0; i < N; i++)
        p.v[i] = 0;
    return p;
}

/* 1 for equal ones: no difference of infinities. */
template <bool EXACT> __device__ __forceinline__ float attend_factor(float max, float larger) {
    return max == larger ? 1.0f : EXACT ? expf(max - larger) : attend_exp2(max - larger);
}

/* x times f of the earlier, y times g of the later: one rounding order wherever partial results merge. */
__device__ __forceinline__ float attend_blend(float x, float f, float y, float g) {
    return fmaf(x, f, __fmul_rn(y, g));
}

template <bool EXACT = false, int N>
__device__ __forceinline__ attend_partial<N> attend_merge(const attend_partial<N> &earlier,
                                                          const attend_partial<N> &later) {
    if (attend_partial_is_empty(earlier.max, earlier.sum)) return later;
    if (attend_partial_is_empty(later.max, later.sum)) return earlier;
    attend_partial<N> p;
    p.max = fmaxf(earlier.max, later.max);
    float f = attend_factor<EXACT>(earlier.max, p.max), g = attend_factor<EXACT>(later.max, p.max);
    p.sum = attend_blend(earlier.sum, f, later.sum, g);
#pragma unroll
    for (int i = 0; i < N; i++)
        p.v[i] = attend_blend(earlier.v[i], f, later.v[i], g);
    return p;
}

/* From and to memory, as attend_blocks.h has them. */
template <int N> __device__ __forceinline__ attend_partial<N> attend_get(const float *at, int width) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
    attend_partial<N> p;
    p.max = at[ATTEND_PARTIAL_MAX];
    p.sum = at[ATTEND_PARTIAL_SUM];
#pragma unroll
    for (int i = 0; i < N; i++)
        p.v[i] = lane + WARP * i < width ? at[ATTEND_PARTIAL_VALUES + lane + WARP * i] : 0;
    return p;
}

template <int N>
__device__ __forceinline__ void attend_put(float *at, const attend_partial<N> &p, int width) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
    if (lane == 0) at[ATTEND_PARTIAL_MAX] = p.max, at[ATTEND_PARTIAL_SUM] = p.sum;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane + WARP * i < width) at[ATTEND_PARTIAL_VALUES + lane + WARP * i] = p.v[i];
}

/* Four of them, so many floats apart, as one subtree. */
template <int N, bool EXACT = false>
__device__ __forceinline__ attend_partial<N> attend_merge_quarters(const float *at, int floats, int width) {
    return attend_merge<EXACT>(
        attend_merge<EXACT>(attend_get<N>(at, width), attend_get<N>(at + floats, width)),
        attend_merge<EXACT>(attend_get<N>(at + 2 * floats, width), attend_get<N>(at + 3 * floats, width)));
}

/* The query's result. */
template <bool EXACT = false, int N, typename E>
__device__ __forceinline__ void attend_finish(E *y, const attend_partial<N> &p, int width) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
    float inverse = 1.0f / p.sum;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane + WARP * i < width)
            y[lane + WARP * i] = static_cast<E>(EXACT ? p.v[i] / p.sum : p.v[i] * inverse);
}

/* ---- the tree of kernels/attend_blocks.h: what waits at each level, every lane for itself ---- */

template <int N>
__device__ __forceinline__ void attend_put_level(float *levels, int level, const attend_partial<N> &p) {
    float *at = levels + level * attend_level_floats(N) + static_cast<int>(threadIdx.x) % WARP;
    at[0] = p.max;
    at[WARP] = p.sum;
#pragma unroll
    for (int i = 0; i < N; i++)
        at[(i + 2) * WARP] = p.v[i];
}

template <int N>
__device__ __forceinline__ attend_partial<N> attend_get_level(const float *levels, int level) {
    const float *at = levels + level * attend_level_floats(N) + static_cast<int>(threadIdx.x) % WARP;
    attend_partial<N> p;
    p.max = at[0];
    p.sum = at[WARP];
#pragma unroll
    for (int i = 0; i < N; i++)
        p.v[i] = at[(i + 2) * WARP];
    return p;
}

/* A walk that starts behind `count` leaves that are not seen. */
template <int N> __device__ __forceinline__ void attend_skip_leaves(float *levels, int count) {
    for (int level = 0; count >> level; level++)
        if (count >> level & 1) attend_put_level(levels, level, attend_neutral<N>());
}

/* Add a leaf to a walk that has seen `count` leaves. */
template <bool EXACT = false, int N>
__device__ __forceinline__ void attend_add_leaf(float *levels, int count, attend_partial<N> leaf) {
    int level = 0;
    for (; count >> level & 1; level++)
        leaf = attend_merge<EXACT>(attend_get_level<N>(levels, level), leaf);
    attend_put_level(levels, level, leaf);
}

/* All of a walk of `count` leaves, and one more, the last. */
template <bool EXACT = false, int N>
__device__ __forceinline__ attend_partial<N> attend_last_leaf(float *levels, int count,
                                                              attend_partial<N> leaf) {
    for (int level = 0; count >> level; level++)
        if (count >> level & 1) leaf = attend_merge<EXACT>(attend_get_level<N>(levels, level), leaf);
    return leaf;
}
