/* Attention for any head width in both precisions: the reference on the GPU, and what
 * serves where nothing faster can.
 *
 * First, every row, head and block of ATTEND_BLOCK positions gives a partial result, then these merge. A
 * row's result depends on its position and its sequence only. Positions come from the tables of the step; the
 * number of blocks is rounded up, so that a recorded launch serves later steps. */
#include <assert.h>

#include "kernels/cuda/attend/attend_merge.h"
#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace {

enum {
    THREADS = 128,
    OCTET = 8, /* lanes that share a key */
    N_OCTETS = THREADS / OCTET,
    SCRATCH_BYTES = 64 << 20, /* for partial results, unless one row needs more */
    MAX_ROWS_AT_ONCE = 32768, /* grid.z */
};

/* By value. Row numbers are the step's. */
struct attend_job {
    step_tables step;
    int n_heads, n_kv_heads, head_dim;
    float scale;
    int64_t window;
    kv_layer kv, near;   /* near: where kv's pages hold codes */
    attend_nodes blocks; /* that count, of those that a row sees */
    float *partials;     /* of n_rows rows; the first block is the first that counts */
    attend_partials layout;
};

struct row_place {
    int64_t pos;
    attend_nodes blocks;
    const int32_t *table, *near_table;
};

__device__ __forceinline__ row_place place_of(const attend_job &job, int64_t row) {
    int64_t pos = job.step.row_pos[row];
    return {pos, attend_nodes_common(attend_nodes_seen(pos, pos, job.window, 0), job.blocks),
            kv_layer_table(&job.kv, job.step.row_slot[row]),
            kv_layer_table(&job.near, job.step.row_slot[row])};
}

/* ---- one block ---- */

/* Elements of type E, as they were put. */
template <bool VECTOR, typename E> struct exact_rows {
    typedef E query;

    /* Elements [at, at + 4) of K or V of the position that a block's place `start` + i is; 0 behind its end.
     */
    static __device__ __forceinline__ float4 load(const attend_job &job, const row_place &place,
                                                  int64_t start, int i, int head, kv_part part, int at) {
        const E *row = static_cast<const E *>(job.kv.pages) +
                       kv_pool_element(&job.kv.format, place.table, part,
                                       head / (job.n_heads / job.n_kv_heads), start + i);
        return elements_load<VECTOR>(row + at, job.head_dim - at);
    }
};

/* Codes, and what lies in near pages. */
struct coded_rows {
    typedef __nv_bfloat16 query;

    static __device__ __forceinline__ float4 load(const attend_job &job, const row_place &place,
                                                  int64_t start, int i, int head, kv_part part, int at) {
        const int kv_head = head / (job.n_heads / job.n_kv_heads), left = job.head_dim - at;
        if (i < attend_exact_places(place.pos, attend_block_of(start)))
            return elements_load<false>(
                static_cast<const __nv_bfloat16 *>(job.near.pages) +
                    kv_pool_element(&job.near.format, place.near_table, part, kv_head, start + i) + at,
                left);
        const int page_tokens = job.kv.format.page_tokens, slot = static_cast<int>((start + i) % page_tokens);
        const unsigned char *page =
            static_cast<const unsigned char *>(job.kv.pages) +
            static_cast<size_t>(place.table[(start + i) / page_tokens]) * kv_page_elements(&job.kv.format);
        const unsigned char *codes = page + kv_element(&job.kv.format, part, kv_head, slot) + at;
        const float scale =
            *reinterpret_cast<const float *>(page + kv_row_scale(&job.kv.format, part, kv_head, slot));
        float x[4];
        for (int k = 0; k < 4; k++)
            x[k] = k < left ? int8_decode(codes[k], scale) : 0.0f;
        return make_float4(x[0], x[1], x[2], x[3]);
    }
};

/* Scores of the positions in range; the other ones are -inf. Eight lanes share a key, and read 4 elements
 * each, side by side. */
template <typename Rows>
__device__ __forceinline__ void score_block(const attend_job &job, const row_place &place, int head,
                                            int64_t start, attend_range range, const float *query,
                                            float *scores) {
    int octet = static_cast<int>(threadIdx.x) / OCTET, lane = static_cast<int>(threadIdx.x) % OCTET;
#pragma unroll 4
    for (int i = octet; i < ATTEND_BLOCK; i += N_OCTETS) {
        float sum = 0;
        bool is_seen = i >= range.first && i < range.last;
        if (is_seen) {
            for (int at = 4 * lane; at < job.head_dim; at += 4 * OCTET) {
                float4 k = Rows::load(job, place, start, i, head, KV_PART_K, at);
                const float *q = query + at;
                sum = fmaf(q[3], k.w, fmaf(q[2], k.z, fmaf(q[1], k.y, fmaf(q[0], k.x, sum))));
            }
        }
        for (int step = OCTET / 2; step > 0; step /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane == 0) scores[i] = is_seen ? sum * job.scale : -INFINITY;
    }
}

/* Scores become weights, in `weights`; the block's maximum and sum. Every warp finds both, and writes its own
 * share of the weights. */
__device__ __forceinline__ void weigh_block(const float *scores, float *weights, float *max, float *sum) {
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    float top = -INFINITY, total = 0;
    for (int i = lane; i < ATTEND_BLOCK; i += WARP)
        top = fmaxf(top, scores[i]);
    top = warp_max(top);
    float shift = top == -INFINITY ? 0.0f : top;
    for (int i = 0; i < ATTEND_BLOCK / WARP; i++) {
        float weight = expf(scores[i * WARP + lane] - shift);
        total += weight;
        if (i % (THREADS / WARP) == warp) weights[i * WARP + lane] = weight;
    }
    *max = top;
    *sum = warp_sum(total);
}

/* The weighted sum of values. Threads in a row of `lanes` have 4 elements each; rows of threads share the
 * positions, and their sums are added in order. */
template <typename Rows>
__device__ __forceinline__ void sum_values(const attend_job &job, const row_place &place, int head,
                                           int64_t start, attend_range range, const float *weights,
                                           float *sums, float *values) {
    int lanes = (job.head_dim + 3) / 4, n_groups = THREADS / lanes;
    int group = static_cast<int>(threadIdx.x) / lanes, at = static_cast<int>(threadIdx.x) % lanes * 4;
    float4 sum = make_float4(0, 0, 0, 0);
    if (group < n_groups) {
#pragma unroll 4
        for (int i = range.first + group; i < range.last; i += n_groups) {
            float4 v = Rows::load(job, place, start, i, head, KV_PART_V, at);
            float w = weights[i];
            sum = make_float4(fmaf(w, v.x, sum.x), fmaf(w, v.y, sum.y), fmaf(w, v.z, sum.z),
                              fmaf(w, v.w, sum.w));
        }
        elements_store<true>(sums + 4 * threadIdx.x, sum, 4);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < job.head_dim; i += THREADS) {
        float value = 0;
        for (int g = 0; g < n_groups; g++)
            value += sums[g * lanes * 4 + i];
        values[i] = value;
    }
}

template <typename Rows> __global__ void attend_block(const attend_job job, const typename Rows::query *q) {
    __shared__ float query[CUDA_MOST_HEAD_DIM + 4], scores[ATTEND_BLOCK], weights[ATTEND_BLOCK];
    __shared__ __align__(16) float sums[4 * THREADS];
    int head = static_cast<int>(blockIdx.y), K = job.head_dim;
    int64_t row = job.layout.first_row + static_cast<int64_t>(blockIdx.z);
    row_place place = place_of(job, row);
    int64_t block = place.blocks.first + blockIdx.x, start = block * ATTEND_BLOCK;
    if (block >= place.blocks.last) return;
    attend_range range = attend_range_in(place.pos, job.window, block);

    const typename Rows::query *own = q + (row * job.n_heads + head) * K;
    for (int i = static_cast<int>(threadIdx.x); i < K + 4; i += THREADS)
        query[i] = i < K ? static_cast<float>(own[i]) : 0.0f;
    __syncthreads();
    score_block<Rows>(job, place, head, start, range, query, scores);
    __syncthreads();
    float *partial = job.partials + attend_partial_at(&job.layout, blockIdx.x, row, head), max, sum;
    weigh_block(scores, weights, &max, &sum);
    __syncthreads();
    if (threadIdx.x == 0) {
        partial[ATTEND_PARTIAL_MAX] = max;
        partial[ATTEND_PARTIAL_SUM] = sum;
    }
    sum_values<Rows>(job, place, head, start, range, weights, sums, partial + ATTEND_PARTIAL_VALUES);
}

/* ---- launching ---- */

template <typename Rows>
void launch_blocks(cuda_device *dev, const attend_job &job, int n_blocks, const void *q) {
    dim3 grid(static_cast<unsigned>(n_blocks), static_cast<unsigned>(job.n_heads),
              static_cast<unsigned>(job.layout.n_rows));
    cuda_launch(dev, "attend", attend_block<Rows>, grid, dim3(THREADS), 0, job,
                static_cast<const typename Rows::query *>(q));
}

template <typename E>
void launch_exact(cuda_device *dev, const attend_job &job, int n_blocks, const void *q) {
    auto launch = elements_are_vectors(job.head_dim, job.kv.pages, job.kv.pages)
                      ? launch_blocks<exact_rows<true, E>>
                      : launch_blocks<exact_rows<false, E>>;
    launch(dev, job, n_blocks, q);
}

/* Rows whose partial results are in scratch memory at the same time. */
int rows_at_once(size_t row_bytes, int n_rows) {
    int64_t n = static_cast<int64_t>(SCRATCH_BYTES / row_bytes), most = MAX_ROWS_AT_ONCE;
    n = n < 1 ? 1 : n < most ? n : most;
    return n < n_rows ? static_cast<int>(n) : n_rows;
}

/* Any row sees at most so many of these. */
int64_t most_seen(attend_nodes blocks, int64_t window) {
    int64_t n = blocks.last - blocks.first, in_window = (window - 1 + ATTEND_BLOCK - 1) / ATTEND_BLOCK + 1;
    return window > 0 && in_window < n ? in_window : n;
}

} // namespace

void cuda_attend_exact(cuda_device *dev, const attention_shape *shape, const kv_layer *kv,
                       const attend_extent *extent, const void *q, float *partials, void *y) {
    assert(shape->head_dim <= CUDA_MOST_HEAD_DIM && dev->base.act == dev->base.kv);
    if (extent->first_span >= extent->last_span) return;
    attend_merging merging = attend_merging_of(dev, shape, extent, partials, y);
    attend_nodes blocks = {0, attend_rounded_blocks(attend_last_pos(dev, extent))};
    if (!y) blocks = attend_nodes_common(blocks, attend_nodes_below(extent->nodes, ATTEND_NODE_LEVEL));
    if (blocks.first >= blocks.last) return;
    const int64_t n_blocks = most_seen(blocks, shape->window);
    attend_job job = {dev->step,
                      shape->n_heads,
                      shape->n_kv_heads,
                      shape->head_dim,
                      shape->scale,
                      shape->window,
                      *kv,
                      kv->near ? *kv->near : *kv,
                      blocks,
                      nullptr,
                      {0, merging.first_row, 1, shape->n_heads, shape->head_dim}};
    size_t row_bytes = static_cast<size_t>(n_blocks) * attend_node_floats(&job.layout) * sizeof(float);
    int end = merging.first_row + merging.n_rows, at_once = rows_at_once(row_bytes, merging.n_rows);
    job.partials = static_cast<float *>(cuda_device_scratch(dev, static_cast<size_t>(at_once) * row_bytes));
    if (!job.partials) return;
    auto launch = kv->near                    ? launch_blocks<coded_rows>
                  : dev->base.kv == DTYPE_F32 ? launch_exact<float>
                                              : launch_exact<__nv_bfloat16>;
    merging.exact = merging.from_first = true;
    merging.leaves = job.partials;
    merging.nodes = blocks;
    for (; job.layout.first_row < end; job.layout.first_row += job.layout.n_rows) {
        job.layout.n_rows = end - job.layout.first_row < at_once ? end - job.layout.first_row : at_once;
        launch(dev, job, static_cast<int>(n_blocks), q);
        merging.first_row = job.layout.first_row;
        merging.n_rows = job.layout.n_rows;
        merging.layout = job.layout;
        attend_launch_merge(dev, &merging);
    }
}
