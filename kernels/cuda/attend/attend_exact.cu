/* Attention for any head width up to MAX_HEAD_DIM in both precisions: the reference on the GPU, and what
 * serves where nothing faster can.
 *
 * First, every row, head and block of ATTEND_BLOCK positions gives a partial result: the largest score, the
 * sum of the weights, the weighted sum of the values. Then they merge in the tree of attend_blocks.h. A row's
 * result depends on its position and its sequence only. Positions come from the tables of the step; the
 * number of blocks is rounded up, so that a recorded launch serves later steps. */
#include <assert.h>

#include "kernels/attend_blocks.h"
#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace {

enum {
    MAX_HEAD_DIM = 256,
    THREADS = 128,
    OCTET = 8, /* lanes that share a key */
    N_OCTETS = THREADS / OCTET,
    MAX_LEVELS = 32,          /* of the tree: any number of blocks */
    AT_ONCE = 8,              /* partial results that are loaded before they are merged */
    SCRATCH_BYTES = 64 << 20, /* for partial results, unless one row needs more */
    MAX_ROWS_AT_ONCE = 32768, /* grid.z */
};

/* By value. Row numbers are the step's. */
struct attend_job {
    step_tables step;
    int n_heads, n_kv_heads, head_dim;
    float scale;
    int64_t window;
    kv_layer kv;
    int row0, n_rows, n_blocks; /* blocks: from the first that the row sees */
    float *partials;            /* [n_rows][n_heads][n_blocks][2 + head_dim]: maximum, sum, values */
};

struct row_place {
    int64_t pos, first_block;
    int n_blocks; /* that it sees */
    const int32_t *table;
};

__device__ __forceinline__ row_place place_of(const attend_job &job, int64_t row) {
    int64_t pos = job.step.row_pos[row], first = attend_block_of(attend_first_position(pos, job.window));
    return {pos, first, static_cast<int>(attend_block_of(pos) - first + 1),
            kv_layer_table(&job.kv, job.step.row_slot[row])};
}

__device__ __forceinline__ float *partial_of(const attend_job &job, int64_t row, int head, int block) {
    int64_t number = ((row - job.row0) * job.n_heads + head) * job.n_blocks + block;
    return job.partials + number * (2 + job.head_dim);
}

/* ---- one block ---- */

template <typename E>
__device__ __forceinline__ const E *kv_at(const attend_job &job, const E *pages, const row_place &place,
                                          int64_t pos, int head, kv_part part) {
    int kv_head = head / (job.n_heads / job.n_kv_heads);
    return pages + kv_pool_element(&job.kv.format, place.table, part, kv_head, pos);
}

/* Scores of the positions in range; the other ones are -inf. Eight lanes share a key, and read 4 elements
 * each, side by side. */
template <bool VECTOR, typename E>
__device__ __forceinline__ void score_block(const attend_job &job, const E *pages, const row_place &place,
                                            int head, int64_t start, attend_range range, const float *query,
                                            float *scores) {
    int octet = static_cast<int>(threadIdx.x) / OCTET, lane = static_cast<int>(threadIdx.x) % OCTET;
#pragma unroll 4
    for (int i = octet; i < ATTEND_BLOCK; i += N_OCTETS) {
        float sum = 0;
        bool is_seen = i >= range.first && i < range.last;
        if (is_seen) {
            const E *key = kv_at(job, pages, place, start + i, head, KV_PART_K);
            for (int at = 4 * lane; at < job.head_dim; at += 4 * OCTET) {
                float4 k = elements_load<VECTOR>(key + at, job.head_dim - at);
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
template <bool VECTOR, typename E>
__device__ __forceinline__ void sum_values(const attend_job &job, const E *pages, const row_place &place,
                                           int head, int64_t start, attend_range range, const float *weights,
                                           float *sums, float *values) {
    int lanes = (job.head_dim + 3) / 4, n_groups = THREADS / lanes;
    int group = static_cast<int>(threadIdx.x) / lanes, at = static_cast<int>(threadIdx.x) % lanes * 4;
    float4 sum = make_float4(0, 0, 0, 0);
    if (group < n_groups) {
#pragma unroll 4
        for (int i = range.first + group; i < range.last; i += n_groups) {
            const E *value = kv_at(job, pages, place, start + i, head, KV_PART_V);
            float4 v = elements_load<VECTOR>(value + at, job.head_dim - at);
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

template <bool VECTOR, typename E>
__global__ void attend_block(const attend_job job, const E *pages, const E *q) {
    __shared__ float query[MAX_HEAD_DIM + 4], scores[ATTEND_BLOCK], weights[ATTEND_BLOCK];
    __shared__ __align__(16) float sums[4 * THREADS];
    int block = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y), K = job.head_dim;
    int64_t row = job.row0 + static_cast<int64_t>(blockIdx.z);
    row_place place = place_of(job, row);
    if (block >= place.n_blocks) return;
    attend_range range = attend_range_in(place.pos, job.window, place.first_block + block);
    int64_t start = (place.first_block + block) * ATTEND_BLOCK;

    const E *own = q + (row * job.n_heads + head) * K;
    for (int i = static_cast<int>(threadIdx.x); i < K + 4; i += THREADS)
        query[i] = i < K ? static_cast<float>(own[i]) : 0.0f;
    __syncthreads();
    score_block<VECTOR>(job, pages, place, head, start, range, query, scores);
    __syncthreads();
    float *partial = partial_of(job, row, head, block), max, sum;
    weigh_block(scores, weights, &max, &sum);
    __syncthreads();
    if (threadIdx.x == 0) {
        partial[0] = max;
        partial[1] = sum;
    }
    sum_values<VECTOR>(job, pages, place, head, start, range, weights, sums, partial + 2);
}

/* ---- the tree ---- */

/* Of one element of the values. */
struct attend_partial {
    float max, sum, value;
};

__device__ __forceinline__ bool partial_is_empty(attend_partial p) {
    return p.max == -INFINITY && p.sum == 0;
}

__device__ __forceinline__ attend_partial partial_merge(attend_partial earlier, attend_partial later) {
    if (partial_is_empty(earlier)) return later;
    if (partial_is_empty(later)) return earlier;
    float max = fmaxf(earlier.max, later.max); /* factor 1 for equal ones: no difference of infinities */
    float f1 = earlier.max == max ? 1.0f : expf(earlier.max - max);
    float f2 = later.max == max ? 1.0f : expf(later.max - max);
    return {max, fmaf(earlier.sum, f1, later.sum * f2), fmaf(earlier.value, f1, later.value * f2)};
}

/* A thread for each element of a row and head: a binary counter walks over the row's blocks. */
template <typename E> __global__ void merge_blocks(const attend_job job, E *y) {
    attend_partial levels[MAX_LEVELS];
    int i = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.y), K = job.head_dim;
    int64_t row = job.row0 + static_cast<int64_t>(blockIdx.z);
    if (i >= K) return;
    const attend_partial empty = {-INFINITY, 0, 0};
    row_place place = place_of(job, row);
    for (int level = 0; level < MAX_LEVELS; level++)
        levels[level] = empty;
    for (int block0 = 0; block0 < place.n_blocks; block0 += AT_ONCE) {
        attend_partial loaded[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int block = block0 + k < place.n_blocks ? block0 + k : block0;
            const float *p = partial_of(job, row, head, block);
            loaded[k] = {p[0], p[1], p[2 + i]};
        }
        for (int k = 0; k < AT_ONCE && block0 + k < place.n_blocks; k++) {
            int64_t count = place.first_block + block0 + k;
            int level = 0;
            attend_partial sum = loaded[k];
            for (; count & 1; count >>= 1)
                sum = partial_merge(levels[level++], sum);
            levels[level] = sum;
        }
    }
    attend_partial all = empty;
    int level = 0;
    for (int64_t count = place.first_block + place.n_blocks; count; count >>= 1, level++)
        if (count & 1) all = partial_merge(levels[level], all);
    y[(row * job.n_heads + head) * K + i] = static_cast<E>(all.value / all.sum);
}

/* ---- launching ---- */

template <typename E>
void launch_attend(cuda_device *dev, const attend_job &job, const void *pages, const void *q, void *y) {
    unsigned heads = static_cast<unsigned>(job.n_heads), rows = static_cast<unsigned>(job.n_rows);
    unsigned threads = static_cast<unsigned>((job.head_dim + WARP - 1) / WARP * WARP);
    auto kernel =
        elements_are_vectors(job.head_dim, pages, pages) ? attend_block<true, E> : attend_block<false, E>;
    cuda_launch(dev, "attend", kernel, dim3(static_cast<unsigned>(job.n_blocks), heads, rows), dim3(THREADS),
                0, job, static_cast<const E *>(pages), static_cast<const E *>(q));
    cuda_launch(dev, "attend", merge_blocks<E>, dim3(1, heads, rows), dim3(threads), 0, job,
                static_cast<E *>(y));
}

/* Blocks that any row of these spans can see. */
int64_t count_blocks(const span *spans, int n_spans, int64_t window) {
    int64_t last = 0;
    for (int i = 0; i < n_spans; i++) {
        int64_t pos = spans[i].pos0 + spans[i].n_rows - 1;
        if (pos > last) last = pos;
    }
    int64_t n = attend_rounded_blocks(last), in_window = (window - 1 + ATTEND_BLOCK - 1) / ATTEND_BLOCK + 1;
    return window > 0 && in_window < n ? in_window : n;
}

} // namespace

void cuda_attend_exact(cuda_device *dev, const attention_shape *shape, const kv_layer *kv, int first_span,
                       int last_span, const void *q, void *y) {
    assert(shape->head_dim <= MAX_HEAD_DIM && dev->base.act == dev->base.kv);
    if (first_span >= last_span) return;
    const span *spans = dev->step.host_spans, *last = &spans[last_span - 1];
    int end = last->row0 + last->n_rows;
    int64_t n_blocks = count_blocks(spans + first_span, last_span - first_span, shape->window);
    size_t row_bytes = static_cast<size_t>(shape->n_heads) * static_cast<size_t>(n_blocks) *
                       static_cast<size_t>(2 + shape->head_dim) * sizeof(float);
    size_t at_once = SCRATCH_BYTES / row_bytes, most = MAX_ROWS_AT_ONCE;
    at_once = at_once < 1 ? 1 : at_once < most ? at_once : most;
    attend_job job = {dev->step,
                      shape->n_heads,
                      shape->n_kv_heads,
                      shape->head_dim,
                      shape->scale,
                      shape->window,
                      *kv,
                      spans[first_span].row0,
                      0,
                      static_cast<int>(n_blocks),
                      nullptr};
    int rows_at_once =
        end - job.row0 < static_cast<int>(at_once) ? end - job.row0 : static_cast<int>(at_once);
    job.partials =
        static_cast<float *>(cuda_device_scratch(dev, static_cast<size_t>(rows_at_once) * row_bytes));
    if (!job.partials) return;
    auto launch = dev->base.kv == DTYPE_F32 ? launch_attend<float> : launch_attend<__nv_bfloat16>;
    for (; job.row0 < end; job.row0 += job.n_rows) {
        job.n_rows = end - job.row0 < rows_at_once ? end - job.row0 : rows_at_once;
        launch(dev, job, kv->pages, q, y);
    }
}
