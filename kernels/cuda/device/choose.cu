/* A token of each row of logits, and scores, so that the logits stay on the device. One block works on a row.
 *
 * A probability is an integer, its 40 binary digits behind the point: sums are exact, whatever their order,
 * and so are all decisions. The filters leave the best tokens of a row; where they end is found by a radix
 * search, digit by digit of the logits' bits, as the key where a count (top_k) or a mass (top_p) is reached.
 * Equal logits at the end go by id, and so does the draw: both look for the id where a sum is reached. */
#include <assert.h>
#include <float.h>
#include <math.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/cuda_staging.h"
#include "kernels/cuda/device/order.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/token_set.h"

namespace {

enum {
    THREADS = 1024,
    PARTS = THREADS / WARP, /* of a row, one for each warp */
    DIGIT_BITS = 11,
    N_BINS = 1 << DIGIT_BITS,
    FRACTION_BITS = 40 /* 2^24 tokens fit */
};
static_assert(int{PARTS} == int{WARP} && N_BINS == 2 * THREADS,
              "a lane for each part, two bins for each thread");

/* Probabilities in fixed point, or a count. */
typedef unsigned long long mass;

/* How a row's token is chosen, ready for use. */
struct choose_args {
    const uint32_t *seen; /* NULL: no penalty */
    double u, top_p;
    mass least; /* tokens of smaller mass go, where the likeliest has 2^FRACTION_BITS */
    int top_k;
    float penalty, inverse_temperature; /* 0: greedy */
    bool is_wanted, wants_log_norm;
};

/* ---- what a block does together ---- */

/* In every thread. */
template <typename Join> __device__ __forceinline__ mass join_block(mass x, const Join &join) {
    __shared__ mass of_warps[PARTS];
    x = warp_join(x, join);
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = x;
    __syncthreads();
    x = warp_join(of_warps[threadIdx.x % WARP], join);
    __syncthreads();
    return x;
}

struct add {
    __device__ __forceinline__ mass operator()(mass a, mass b) const {
        return a + b;
    }
};

struct larger {
    __device__ __forceinline__ mass operator()(mass a, mass b) const {
        return a > b ? a : b;
    }
};

/* The sum over the threads before this one. */
__device__ __forceinline__ mass sum_before(mass own) {
    __shared__ mass of_warps[PARTS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    mass sum = own;
    for (int i = 1; i < WARP; i *= 2) {
        mass left = __shfl_up_sync(0xffffffffu, sum, i);
        if (lane >= i) sum += left;
    }
    if (lane == WARP - 1) of_warps[warp] = sum;
    __syncthreads();
    mass before = warp_join(lane < warp ? of_warps[lane] : 0, add());
    __syncthreads();
    return before + sum - own;
}

/* ---- a row, as the model gave it ---- */

/* exp(x), x <= 0 */
__device__ __forceinline__ mass fixed_exp(float x) {
    return __float2ull_rn(expf(x) * static_cast<float>(1ull << FRACTION_BITS));
}

/* -infinity: there is no number. */
__device__ float max_of_row(const float *logits, int V) {
    mass best = 0;
#pragma unroll 4
    for (int id = threadIdx.x; id < V; id += THREADS)
        if (!isnan(logits[id])) best = larger()(best, order_of(logits[id]));
    best = join_block(best, larger());
    return best ? float_of_order(static_cast<uint32_t>(best)) : -INFINITY;
}

/* log(sum(exp(logit - max))) */
__device__ double log_sum_of_row(const float *logits, int V, float max) {
    if (isinf(max)) return 0;
    mass sum = 0;
#pragma unroll 4
    for (int id = threadIdx.x; id < V; id += THREADS)
        if (!isnan(logits[id])) sum += fixed_exp(logits[id] - max);
    sum = join_block(sum, add());
    return log(static_cast<double>(sum)) - FRACTION_BITS * log(2.0);
}

/* ---- a row's tokens, as they are chosen from ---- */

/* Keys rise with the penalised logits; 0: the token has none. */
struct row_view {
    const float *logits;
    int V;
    const uint32_t *seen;
    float penalty;

    __device__ __forceinline__ uint32_t key(int id) const {
        float logit = logits[id];
        if (!isfinite(logit)) return 0;
        if (seen && seen[id / 32] >> (id % 32) & 1)
            logit = fminf(fmaxf(logit > 0 ? __fdiv_rn(logit, penalty) : logit * penalty, -FLT_MAX), FLT_MAX);
        return order_of(logit);
    }
};

/* The mass of a token relative to the likeliest one's, which is 2^FRACTION_BITS. */
struct softmax {
    float max, inverse_temperature;

    __device__ __forceinline__ mass operator()(uint32_t key) const {
        return fixed_exp(__fmul_rn(float_of_order(key) - max, inverse_temperature));
    }
};

struct count {
    __device__ __forceinline__ mass operator()(uint32_t) const {
        return 1;
    }
};

/* The best tokens: those of larger keys, and of this one the ids up to last_id. */
struct best_tokens {
    uint32_t key;
    int last_id;

    __device__ __forceinline__ bool have(uint32_t k, int id) const {
        return k > key || (k == key && id <= last_id);
    }
};

/* Consecutive ids of one part; the last parts may be empty. */
__device__ __forceinline__ int part_length(int V) {
    return (V + PARTS - 1) / PARTS;
}

/* The sum of measure(key, id) over the row, in every thread, and over each part. */
template <typename Measure>
__device__ mass sum_parts(const row_view &row, const Measure &measure, mass (&parts)[PARTS]) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, length = part_length(row.V);
    const int end = min((warp + 1) * length, row.V);
    mass sum = 0;
#pragma unroll 4
    for (int id = warp * length + lane; id < end; id += WARP) {
        uint32_t key = row.key(id);
        sum += key ? measure(key, id) : 0;
    }
    sum = warp_join(sum, add());
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
    sum = warp_join(parts[lane], add());
    __syncthreads();
    return sum;
}

/* The id with which the sum over ids from 0 on reaches target, which is 1 to the sum over all; parts: as
 * sum_parts left them. */
template <typename Measure>
__device__ int find_id(const row_view &row, const Measure &measure, const mass (&parts)[PARTS], mass target) {
    __shared__ int found;
    const int length = part_length(row.V), run = (length + THREADS - 1) / THREADS;
    int part = 0;
    mass sum = 0;
    for (; sum + parts[part] < target; part++)
        sum += parts[part];
    const int begin = part * length + threadIdx.x * run;
    const int end = min(min(begin + run, (part + 1) * length), row.V);
    mass own = 0;
    for (int id = begin; id < end; id++)
        own += row.key(id) ? measure(row.key(id), id) : 0;
    sum += sum_before(own);
    for (int id = begin; id < end && sum < target; id++) {
        sum += row.key(id) ? measure(row.key(id), id) : 0;
        if (sum >= target) found = id;
    }
    __syncthreads();
    return found;
}

/* ---- filters ---- */

struct bin {
    int number;
    mass above, own; /* of better bins, and of this one */
};

/* The bin in which the sum from the best one down reaches target; `above`: what is before all of them. */
__device__ bin find_bin(const mass (&bins)[N_BINS], mass above, mass target) {
    __shared__ bin found;
    const int better = N_BINS - 1 - 2 * threadIdx.x, worse = better - 1;
    above += sum_before(bins[better] + bins[worse]);
    if (above < target && target <= above + bins[better]) found = {better, above, bins[better]};
    above += bins[better];
    if (above < target && target <= above + bins[worse]) found = {worse, above, bins[worse]};
    __syncthreads();
    bin copy = found;
    __syncthreads();
    return copy;
}

/* The fewest best of `tokens` whose weights, each that of its key, reach target, which is 1 to their sum. */
template <typename Weight>
__device__ best_tokens narrow(const row_view &row, best_tokens tokens, const Weight &weight, mass target) {
    __shared__ mass bins[N_BINS], parts[PARTS];
    uint32_t last = 0, decided = 0; /* its leading bits */
    bin of_last = {0, 0, 0};
    for (int shift = 32 - DIGIT_BITS;; shift = max(shift - DIGIT_BITS, 0)) {
        bins[threadIdx.x] = bins[threadIdx.x + THREADS] = 0;
        __syncthreads();
#pragma unroll 4
        for (int id = threadIdx.x; id < row.V; id += THREADS) {
            uint32_t key = row.key(id);
            if (key && (key & decided) == last && tokens.have(key, id))
                atomicAdd(&bins[key >> shift & (N_BINS - 1)], weight(key));
        }
        __syncthreads();
        of_last = find_bin(bins, of_last.above, target);
        last |= static_cast<uint32_t>(of_last.number) << shift;
        decided = ~0u << shift;
        if (shift == 0) break;
    }
    const mass each = weight(last), n = (target - of_last.above + each - 1) / each;
    if (n * each == of_last.own) return {last, last == tokens.key ? tokens.last_id : row.V};
    const auto is_last = [=](uint32_t key, int) -> mass { return key == last; };
    sum_parts(row, is_last, parts);
    return {last, find_id(row, is_last, parts, n)};
}

/* The sum that a share of `all` asks for: at least 1, at most all. */
__device__ __forceinline__ mass reach_share(double share, mass all) {
    return max(1ull, min(all, static_cast<mass>(ceil(share * static_cast<double>(all)))));
}

/* Among tokens with a logit, of which there are n, the largest max. */
__device__ int draw(const row_view &row, const choose_args &args, mass n, float max) {
    __shared__ mass parts[PARTS];
    const softmax weight = {max, args.inverse_temperature};
    best_tokens left = {0, 0}; /* all */
    if (args.top_k > 0 && static_cast<mass>(args.top_k) < n)
        left = narrow(row, left, count(), static_cast<mass>(args.top_k));
    if (args.top_p < 1) {
        const auto is_left = [=](uint32_t key, int id) { return left.have(key, id) ? weight(key) : 0; };
        left = narrow(row, left, weight, reach_share(args.top_p, sum_parts(row, is_left, parts)));
    }
    const mass least = args.least;
    const auto drawn_from = [=](uint32_t key, int id) {
        const mass own = left.have(key, id) ? weight(key) : 0;
        return own >= least ? own : 0;
    };
    const mass all = sum_parts(row, drawn_from, parts);
    return find_id(row, drawn_from, parts, reach_share(args.u, all));
}

__device__ int choose_token(const row_view &row, const choose_args &args) {
    mass best = 0, n = 0;
#pragma unroll 4
    for (int id = threadIdx.x; id < row.V; id += THREADS) {
        const mass key = row.key(id);
        if (!key) continue;
        best = larger()(best, key << 32 | ~static_cast<uint32_t>(id));
        n++;
    }
    best = join_block(best, larger());
    n = join_block(n, add());
    if (!best) return -1;
    if (args.inverse_temperature == 0) return static_cast<int>(~static_cast<uint32_t>(best));
    return draw(row, args, n, float_of_order(static_cast<uint32_t>(best >> 32)));
}

/* ---- kernels: a block for each row ---- */

/* One block to a multiprocessor: for two of them registers would have to be spilled. */
__global__ void __launch_bounds__(THREADS, 1)
    choose_tokens(const float *logits, int V, const choose_args *rows, row_choice *choices) {
    const float *row = logits + static_cast<size_t>(blockIdx.x) * V;
    const choose_args args = rows[blockIdx.x];
    if (!args.is_wanted) return;
    double log_norm = 0;
    if (args.wants_log_norm) {
        const float max = max_of_row(row, V);
        log_norm = static_cast<double>(max) + static_cast<float>(log_sum_of_row(row, V, max));
    }
    const int token = choose_token({row, V, args.seen, args.penalty}, args);
    if (threadIdx.x == 0) choices[blockIdx.x] = {token, token < 0 ? -INFINITY : row[token], log_norm};
}

__global__ void __launch_bounds__(THREADS)
    score_targets(const float *logits, int V, const int32_t *targets, float *scores) {
    const float *row = logits + static_cast<size_t>(blockIdx.x) * V;
    const int target = targets[blockIdx.x];
    if (target < 0) return;
    const float max = max_of_row(row, V);
    const double log_norm = static_cast<double>(max) + log_sum_of_row(row, V, max);
    if (threadIdx.x == 0)
        scores[blockIdx.x] = static_cast<float>(log_norm - static_cast<double>(row[target]));
}

/* ---- host ---- */

choose_args args_of(const row_sampling *row, const uint32_t *seen) {
    const sampling_options *o = row->options;
    choose_args args = {};
    if (!o) return args;
    args.is_wanted = true;
    args.wants_log_norm = o->n_logprobs > 0;
    args.seen = seen;
    args.u = row->u;
    args.top_p = o->top_p;
    args.least = static_cast<mass>(ceil(ldexp(o->min_p, FRACTION_BITS)));
    args.top_k = static_cast<int>(o->top_k);
    args.penalty = static_cast<float>(o->repetition_penalty);
    if (o->temperature > 0) args.inverse_temperature = static_cast<float>(fmin(1 / o->temperature, FLT_MAX));
    return args;
}

bool has_penalty(const row_sampling *row) {
    return row->options && row->seen;
}

/* The arguments of all rows, and the sets of those with a penalty behind them; NULL: that failed. */
const choose_args *send_rows(cuda_device *dev, int n, int V, const row_sampling *rows) {
    const size_t set_bytes = token_set_words(V) * sizeof(uint32_t);
    size_t bytes = static_cast<size_t>(n) * sizeof(choose_args), at = bytes;
    char *host;
    const char *there;
    for (int i = 0; i < n; i++)
        bytes += has_penalty(&rows[i]) ? set_bytes : 0;
    if (!cuda_staging_begin(dev, dev->tables, bytes, &host, &there)) return nullptr;
    for (int i = 0; i < n; i++) {
        const uint32_t *seen = nullptr;
        if (has_penalty(&rows[i])) {
            memcpy(host + at, rows[i].seen, set_bytes);
            seen = reinterpret_cast<const uint32_t *>(there + at);
            at += set_bytes;
        }
        reinterpret_cast<choose_args *>(host)[i] = args_of(&rows[i], seen);
    }
    cuda_staging_end(dev, dev->tables, bytes);
    return reinterpret_cast<const choose_args *>(there);
}

} // namespace

void cuda_choose(device *base, const float *logits, int n, int V, const row_sampling *host_rows,
                 row_choice *host_choices) {
    assert(n <= DEVICE_TOP_ROWS && V > 0);
    cuda_device *dev = cuda_device_of(base);
    if (n <= 0) return;
    const choose_args *rows = send_rows(dev, n, V, host_rows);
    if (!rows) return;
    row_choice *choices = reinterpret_cast<row_choice *>(dev->answers);
    cuda_launch(dev, "choose", choose_tokens, dim3(n), dim3(THREADS), 0, logits, V, rows, choices);
    base->ops->copy_out(base, host_choices, choices, static_cast<size_t>(n) * sizeof *choices);
}

void cuda_score(device *base, const float *logits, int n, int V, const int32_t *host_targets,
                float *host_scores) {
    assert(n <= DEVICE_TOP_ROWS && V > 0);
    cuda_device *dev = cuda_device_of(base);
    if (n <= 0) return;
    const size_t bytes = static_cast<size_t>(n) * sizeof(int32_t);
    const void *targets = cuda_staging_send(dev, dev->tables, host_targets, bytes);
    if (!targets) return;
    float *scores = reinterpret_cast<float *>(dev->answers);
    cuda_launch(dev, "score", score_targets, dim3(n), dim3(THREADS), 0, logits, V,
                static_cast<const int32_t *>(targets), scores);
    base->ops->copy_out(base, host_scores, scores, static_cast<size_t>(n) * sizeof *scores);
}
