/* The largest logits of a row, which are listed beside a token.
 *
 * A row is cut into parts of TOP_PART logits; a block finds the best of its part. Those of the parts are then
 * candidates, cut and searched in the same way, until one block has them all. A logit and its id make one
 * key, all keys differ, and the largest key is the best: there is one result, whatever the order of the
 * search. */
#include <assert.h>
#include <math.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/order.cuh"
#include "kernels/cuda/device/warp.cuh"

enum {
    TOP_THREADS = 256,
    TOP_KEYS = 16, /* of a thread */
    TOP_PART = TOP_THREADS * TOP_KEYS
};

/* Result of a row. */
struct top_result {
    float *values;
    int32_t *ids;
};

/* ---- keys ---- */

/* Larger for a larger logit, then for a smaller id; 0: none. */
static __device__ __forceinline__ uint64_t key_of(float logit, int id) {
    if (!isfinite(logit)) return 0;
    return static_cast<uint64_t>(order_of(logit)) << 32 | ~static_cast<uint32_t>(id);
}

static __device__ __forceinline__ float logit_of(uint64_t key) {
    return key ? float_of_order(static_cast<uint32_t>(key >> 32)) : -INFINITY;
}

static __device__ __forceinline__ int id_of(uint64_t key) {
    return key ? static_cast<int>(~static_cast<uint32_t>(key)) : -1;
}

static __device__ __forceinline__ uint64_t best_of_warp(uint64_t key) {
#ifdef KVARVE_CUDA_EMULATED
    return warp_join(key, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
#else
    uint32_t high = static_cast<uint32_t>(key >> 32), low = static_cast<uint32_t>(key);
    uint32_t best = __reduce_max_sync(0xffffffffu, high);
    low = __reduce_max_sync(0xffffffffu, high == best ? low : 0);
    return static_cast<uint64_t>(best) << 32 | low;
#endif
}

static __device__ __forceinline__ uint64_t best_of_thread(const uint64_t (&keys)[TOP_KEYS]) {
    uint64_t best = 0;
#pragma unroll
    for (int i = 0; i < TOP_KEYS; i++)
        best = keys[i] > best ? keys[i] : best;
    return best;
}

/* Call put(i, key) in one thread for the i-th largest of the block's keys, i < k; takes them out of keys. */
template <typename Put>
static __device__ __forceinline__ void take_best(uint64_t (&keys)[TOP_KEYS], int k, const Put &put) {
    __shared__ uint64_t bests[2][TOP_THREADS / WARP]; /* in turn, so that one barrier is enough */
    uint64_t own = best_of_thread(keys);
    for (int i = 0; i < k; i++) {
        uint64_t best = best_of_warp(own);
        if (threadIdx.x % WARP == 0) bests[i % 2][threadIdx.x / WARP] = best;
        __syncthreads();
        for (int warp = 0; warp < TOP_THREADS / WARP; warp++)
            best = bests[i % 2][warp] > best ? bests[i % 2][warp] : best;
        if (threadIdx.x == 0) put(i, best);
        if (own != best || !best) continue;
#pragma unroll
        for (int j = 0; j < TOP_KEYS; j++)
            keys[j] = keys[j] == best ? 0 : keys[j];
        own = best_of_thread(keys);
    }
}

/* ---- kernels: block (part, row) ---- */

/* top [n, parts, k]. */
static __global__ void __launch_bounds__(TOP_THREADS)
    search_logits(const float *logits, int V, int k, uint64_t *top) {
    const float *row = logits + static_cast<size_t>(blockIdx.y) * V;
    size_t part = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    uint64_t keys[TOP_KEYS];
#pragma unroll
    for (int i = 0; i < TOP_KEYS; i++) {
        int id = blockIdx.x * TOP_PART + i * TOP_THREADS + threadIdx.x;
        keys[i] = id < V ? key_of(row[id], id) : 0;
    }
    take_best(keys, k, [=](int i, uint64_t key) { top[part * k + i] = key; });
}

/* candidates [n, n_candidates]; top as above, or NULL: this is the last search, and the results are written.
 */
static __global__ void __launch_bounds__(TOP_THREADS)
    search_candidates(const uint64_t *candidates, int n_candidates, int k, uint64_t *top, top_result result) {
    size_t row = blockIdx.y, part = row * gridDim.x + blockIdx.x;
    uint64_t keys[TOP_KEYS];
#pragma unroll
    for (int i = 0; i < TOP_KEYS; i++) {
        int at = blockIdx.x * TOP_PART + i * TOP_THREADS + threadIdx.x;
        keys[i] = at < n_candidates ? candidates[row * n_candidates + at] : 0;
    }
    if (top) {
        take_best(keys, k, [=](int i, uint64_t key) { top[part * k + i] = key; });
        return;
    }
    take_best(keys, k, [=](int i, uint64_t key) {
        result.values[row * k + i] = logit_of(key);
        result.ids[row * k + i] = id_of(key);
    });
}

/* ---- host ---- */

static int parts_of(int n) {
    return (n + TOP_PART - 1) / TOP_PART;
}

void cuda_find_top(cuda_device *dev, const float *logits, int n, int V, int k, float *top_values,
                   int32_t *top_ids) {
    assert(k >= 1 && k <= DEVICE_MAX_TOP && V > 0);
    const top_result result = {top_values, top_ids};
    int n_parts = parts_of(V);
    if (n <= 0) return;
    /* Two lists of candidates in turn; the second one is never longer. */
    size_t list = static_cast<size_t>(n) * n_parts * k;
    uint64_t *from = static_cast<uint64_t *>(cuda_device_scratch(dev, 2 * list * sizeof(uint64_t)));
    if (!from) return;
    uint64_t *to = from + list;
    cuda_launch(dev, "search of logits", search_logits, dim3(n_parts, n), dim3(TOP_THREADS), 0, logits, V, k,
                from);
    for (bool is_last = false; !is_last;) {
        int n_candidates = n_parts * k;
        n_parts = parts_of(n_candidates);
        is_last = n_parts == 1;
        cuda_launch(dev, "search of candidates", search_candidates, dim3(n_parts, n), dim3(TOP_THREADS), 0,
                    from, n_candidates, k, is_last ? nullptr : to, result);
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
}

void cuda_top_logits(device *base, const float *logits, int n, int V, int k, float *host_values,
                     int32_t *host_ids) {
    assert(n <= DEVICE_TOP_ROWS);
    size_t found = static_cast<size_t>(n) * static_cast<size_t>(k);
    cuda_device *dev = cuda_device_of(base);
    float *values = reinterpret_cast<float *>(dev->answers);
    int32_t *ids = reinterpret_cast<int32_t *>(values + found);
    cuda_find_top(dev, logits, n, V, k, values, ids);
    base->ops->copy_out(base, host_values, values, found * sizeof *values);
    base->ops->copy_out(base, host_ids, ids, found * sizeof *ids);
}
