/* What sampling needs of logits, so that it need not have them all: the largest, and the sum of exponentials.
 *
 * A row is cut into parts of TOP_PART logits; a block finds the best of its part. Those of the parts are then
 * candidates, cut and searched in the same way, until one block has them all. A logit and its id make one
 * key, all keys differ, and the largest key is the best: there is one result, whatever the order of the
 * search. Sums are in a fixed order of threads, and of parts. */
#include <assert.h>
#include <math.h>

#include "kernels/cuda/warp.cuh"

enum {
    TOP_THREADS = 256,
    TOP_KEYS = 16, /* of a thread */
    TOP_PART = TOP_THREADS * TOP_KEYS
};

/* What a block knows of the logits of its part. */
struct part_sum {
    float max;  /* -infinity: there is no number */
    double sum; /* of exp(logit - max); 0 where max is infinite */
};

/* Result of a row. */
struct top_result {
    float *values, *max_and_log_sum;
    int32_t *ids;
};

/* ---- keys ---- */

/* Larger for a larger logit, then for a smaller id; 0: none. Both zeros are one number. */
static __device__ __forceinline__ uint64_t key_of(float logit, int id) {
    if (isnan(logit)) return 0;
    uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit), sign = 0x80000000u;
    uint32_t rising = bits & sign ? ~bits : bits | sign;
    return static_cast<uint64_t>(rising) << 32 | ~static_cast<uint32_t>(id);
}

static __device__ __forceinline__ float logit_of(uint64_t key) {
    uint32_t rising = static_cast<uint32_t>(key >> 32), sign = 0x80000000u;
    if (!key) return -INFINITY;
    return __uint_as_float(rising & sign ? rising & ~sign : ~rising);
}

static __device__ __forceinline__ int id_of(uint64_t key) {
    return key ? static_cast<int>(~static_cast<uint32_t>(key)) : -1;
}

static __device__ __forceinline__ uint64_t best_of_warp(uint64_t key) {
#ifdef KVARVE_CUDA_EMULATED
    for (int i = WARP / 2; i > 0; i /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, key, i);
        key = other > key ? other : key;
    }
    return key;
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

/* ---- sums ---- */

/* In every thread. */
static __device__ __forceinline__ double sum_of_block(double x) {
    __shared__ double sums[TOP_THREADS / WARP];
    for (int i = WARP / 2; i > 0; i /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = x;
    __syncthreads();
    double sum = 0;
    for (int warp = 0; warp < TOP_THREADS / WARP; warp++)
        sum += sums[warp];
    __syncthreads();
    return sum;
}

static __device__ __forceinline__ float max_of_block(float x) {
    __shared__ float maxima[TOP_THREADS / WARP];
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) maxima[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int warp = 0; warp < TOP_THREADS / WARP; warp++)
        x = fmaxf(x, maxima[warp]);
    __syncthreads();
    return x;
}

static __device__ void sum_part(const uint64_t (&keys)[TOP_KEYS], part_sum *out) {
    float max = max_of_block(logit_of(best_of_thread(keys)));
    double sum = 0;
    if (!isinf(max)) {
#pragma unroll
        for (int i = 0; i < TOP_KEYS; i++)
            sum += static_cast<double>(expf(logit_of(keys[i]) - max));
        sum = sum_of_block(sum);
    }
    if (threadIdx.x == 0) *out = {max, sum};
}

static __device__ void sum_parts(const part_sum *parts, int n_parts, float *max_and_log_sum) {
    float max = -INFINITY;
    double sum = 0;
    for (int i = threadIdx.x; i < n_parts; i += TOP_THREADS)
        max = fmaxf(max, parts[i].max);
    max = max_of_block(max);
    if (!isinf(max)) {
        for (int i = threadIdx.x; i < n_parts; i += TOP_THREADS)
            sum += parts[i].sum * exp(static_cast<double>(parts[i].max) - static_cast<double>(max));
        sum = sum_of_block(sum);
    }
    if (threadIdx.x > 0) return;
    max_and_log_sum[0] = max;
    max_and_log_sum[1] = isinf(max) ? 0 : static_cast<float>(log(sum));
}

/* ---- kernels: block (part, row) ---- */

/* top [n, parts, k], sums [n, parts]. */
static __global__ void __launch_bounds__(TOP_THREADS)
    search_logits(const float *logits, int V, int k, uint64_t *top, part_sum *sums) {
    const float *row = logits + static_cast<size_t>(blockIdx.y) * V;
    size_t part = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    uint64_t keys[TOP_KEYS];
#pragma unroll
    for (int i = 0; i < TOP_KEYS; i++) {
        int id = blockIdx.x * TOP_PART + i * TOP_THREADS + threadIdx.x;
        keys[i] = id < V ? key_of(row[id], id) : 0;
    }
    sum_part(keys, sums + part);
    take_best(keys, k, [=](int i, uint64_t key) { top[part * k + i] = key; });
}

/* candidates [n, n_candidates]; top as above, or NULL: this is the last search, and the results are written.
 */
static __global__ void __launch_bounds__(TOP_THREADS)
    search_candidates(const uint64_t *candidates, int n_candidates, int k, uint64_t *top,
                      const part_sum *sums, int n_sums, top_result result) {
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
    sum_parts(sums + row * n_sums, n_sums, result.max_and_log_sum + 2 * row);
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
                   int32_t *top_ids, float *max_and_log_sum) {
    assert(k >= 1 && k <= DEVICE_MAX_TOP && V > 0);
    const top_result result = {top_values, max_and_log_sum, top_ids};
    int n_sums = parts_of(V), n_parts = n_sums;
    if (n <= 0) return;
    /* Two lists of candidates in turn; the second one is never longer. */
    size_t list = static_cast<size_t>(n) * n_parts * k;
    size_t bytes = static_cast<size_t>(n) * n_sums * sizeof(part_sum) + 2 * list * sizeof(uint64_t);
    part_sum *sums = static_cast<part_sum *>(cuda_device_scratch(dev, bytes));
    if (!sums) return;
    uint64_t *from = reinterpret_cast<uint64_t *>(sums + static_cast<size_t>(n) * n_sums), *to = from + list;
    cuda_launch(dev, "search of logits", search_logits, dim3(n_parts, n), dim3(TOP_THREADS), 0, logits, V, k,
                from, sums);
    for (bool is_last = false; !is_last;) {
        int n_candidates = n_parts * k;
        n_parts = parts_of(n_candidates);
        is_last = n_parts == 1;
        cuda_launch(dev, "search of candidates", search_candidates, dim3(n_parts, n), dim3(TOP_THREADS), 0,
                    from, n_candidates, k, is_last ? nullptr : to, sums, n_sums, result);
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
}

void cuda_top_logits(device *base, const float *logits, int n, int V, int k, float *host_values,
                     int32_t *host_ids, float *host_sums) {
    assert(n <= DEVICE_TOP_ROWS);
    size_t found = static_cast<size_t>(n) * static_cast<size_t>(k);
    cuda_device *dev = cuda_device_of(base);
    float *values = reinterpret_cast<float *>(dev->top), *sums = values + found;
    int32_t *ids = reinterpret_cast<int32_t *>(sums + 2 * n);
    cuda_find_top(dev, logits, n, V, k, values, ids, sums);
    base->ops->copy_out(base, host_values, values, found * sizeof *values);
    base->ops->copy_out(base, host_ids, ids, found * sizeof *ids);
    base->ops->copy_out(base, host_sums, sums, 2 * static_cast<size_t>(n) * sizeof *sums);
}
