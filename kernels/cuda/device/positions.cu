/* What depends on a row's position: the angles of rope, and a layer's q, k and v on their way to attention
 * and into the pages. Positions come from the tables of the step, so that a recorded launch serves the next
 * step. */
#include <assert.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace {

enum { MAX_HALF = CUDA_MOST_HEAD_DIM / 2, WARPS = 8 };

/* ---- rope_table ---- */

struct rope_frequencies {
    float of_pair[MAX_HALF];
};

/* A thread for each angle. The product is made in float64 and rounded once, as on the CPU. */
__global__ void fill_rope_table(const step_tables step, const rope_frequencies inv_freq, float factor,
                                int half, float *cos_sin) {
    int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    int64_t t = at / half, i = at % half;
    if (t >= step.n_rows) return;
    float angle =
        static_cast<float>(static_cast<double>(step.row_pos[t]) * static_cast<double>(inv_freq.of_pair[i]));
    cos_sin[t * 2 * half + i] = cosf(angle) * factor;
    cos_sin[t * 2 * half + half + i] = sinf(angle) * factor;
}

/* ---- kv_append ---- */

/* By value. */
struct append_job {
    step_tables step;
    int n_heads, n_kv_heads, head_dim;
    qkv_weights weights;
    kv_layer kv;    /* of what is kept as it was put */
    kv_layer codes; /* with has_codes: of these besides */
    bool has_codes;
    const float *cos_sin, *qkv;
};

/* WIDTH neighbours. */
template <int WIDTH, typename E> struct alignas(WIDTH * sizeof(E)) neighbours { E at[WIDTH]; };

/* A lane's elements of one head: pairs i and i + K/2 for i from WIDTH lane on, WIDTH at a time, a warp's
 * width apart; 0 where there are none. */
template <int WIDTH> struct head_part {
    static const int STEPS = MAX_HALF / WARP / WIDTH;
    float low[STEPS][WIDTH], high[STEPS][WIDTH];
};

/* Call body(step, place, column) for what a lane has of a half. */
template <int WIDTH, typename Body> __device__ __forceinline__ void for_each_part(int half, Body body) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll
    for (int s = 0; s < head_part<WIDTH>::STEPS; s++) {
        int i = (s * WARP + lane) * WIDTH;
        if (i < half) body(s, i);
    }
}

template <int WIDTH>
__device__ __forceinline__ void head_load(head_part<WIDTH> &x, const float *from, int half) {
    for_each_part<WIDTH>(half, [&](int s, int i) {
        auto low = *reinterpret_cast<const neighbours<WIDTH, float> *>(from + i);
        auto high = *reinterpret_cast<const neighbours<WIDTH, float> *>(from + half + i);
        for (int k = 0; k < WIDTH; k++) {
            x.low[s][k] = low.at[k];
            x.high[s][k] = high.at[k];
        }
    });
}

template <int WIDTH, typename E>
__device__ __forceinline__ void head_store(const head_part<WIDTH> &x, E *to, int half) {
    for_each_part<WIDTH>(half, [&](int s, int i) {
        neighbours<WIDTH, E> low, high;
        for (int k = 0; k < WIDTH; k++) {
            low.at[k] = static_cast<E>(x.low[s][k]);
            high.at[k] = static_cast<E>(x.high[s][k]);
        }
        *reinterpret_cast<neighbours<WIDTH, E> *>(to + i) = low;
        *reinterpret_cast<neighbours<WIDTH, E> *>(to + half + i) = high;
    });
}

template <int WIDTH>
__device__ __forceinline__ void head_add(head_part<WIDTH> &x, const float *bias, int half) {
    head_part<WIDTH> b = {};
    head_load(b, bias, half);
    for (int s = 0; s < x.STEPS; s++)
        for (int k = 0; k < WIDTH; k++) {
            x.low[s][k] += b.low[s][k];
            x.high[s][k] += b.high[s][k];
        }
}

template <int WIDTH>
__device__ __forceinline__ void head_normalise(head_part<WIDTH> &x, const float *weight, float eps,
                                               int half) {
    head_part<WIDTH> w = {};
    float squares = 0;
    head_load(w, weight, half);
    for (int s = 0; s < x.STEPS; s++)
        for (int k = 0; k < WIDTH; k++)
            squares += x.low[s][k] * x.low[s][k] + x.high[s][k] * x.high[s][k];
    float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(2 * half) + eps);
    for (int s = 0; s < x.STEPS; s++)
        for (int k = 0; k < WIDTH; k++) {
            x.low[s][k] *= scale * w.low[s][k];
            x.high[s][k] *= scale * w.high[s][k];
        }
}

template <int WIDTH>
__device__ __forceinline__ void head_rotate(head_part<WIDTH> &x, const float *cos_sin, int half) {
    head_part<WIDTH> angle = {}; /* low: cosines, high: sines */
    head_load(angle, cos_sin, half);
    for (int s = 0; s < x.STEPS; s++)
        for (int k = 0; k < WIDTH; k++) {
            float a = x.low[s][k], b = x.high[s][k], cosine = angle.low[s][k], sine = angle.high[s][k];
            x.low[s][k] = a * cosine - b * sine;
            x.high[s][k] = b * cosine + a * sine;
        }
}

__device__ __forceinline__ float rounded(float x) {
    return __bfloat162float(__float2bfloat16_rn(x));
}

/* Of what was rounded to bf16, NaN or infinite where any of it is: as kv_put_rows finds it. */
template <int WIDTH> __device__ __forceinline__ float head_largest(const head_part<WIDTH> &x) {
    uint32_t largest = 0; /* bits of magnitudes, which are in order, NaN behind infinity */
    for (int s = 0; s < x.STEPS; s++)
        for (int k = 0; k < WIDTH; k++)
            largest = max(largest, max(__float_as_uint(rounded(x.low[s][k])) & 0x7fffffffu,
                                       __float_as_uint(rounded(x.high[s][k])) & 0x7fffffffu));
    return __uint_as_float(warp_join(largest, [](uint32_t a, uint32_t b) { return max(a, b); }));
}

/* The same codes as kv_put_rows makes of the same rows. */
template <int WIDTH>
__device__ __forceinline__ void head_encode(const append_job &job, const head_part<WIDTH> &x, kv_part part,
                                            int head, int64_t t) {
    const kv_format &f = job.codes.format;
    const int64_t pos = job.step.row_pos[t];
    const int32_t page = kv_layer_table(&job.codes, job.step.row_slot[t])[pos / f.page_tokens];
    const int place = static_cast<int>(pos % f.page_tokens), half = job.head_dim / 2;
    unsigned char *to =
        static_cast<unsigned char *>(job.codes.pages) + static_cast<size_t>(page) * kv_page_elements(&f);
    const float scale = int8_code_scale(head_largest(x));
    if (threadIdx.x % WARP == 0) *reinterpret_cast<float *>(to + kv_row_scale(&f, part, head, place)) = scale;
    to += kv_element(&f, part, head, place);
    for_each_part<WIDTH>(half, [&](int s, int i) {
        for (int k = 0; k < WIDTH; k++) {
            to[i + k] = int8_encode(rounded(x.low[s][k]), scale);
            to[half + i + k] = int8_encode(rounded(x.high[s][k]), scale);
        }
    });
}

/* A warp for each head of a row. */
template <int WIDTH, typename E> __global__ void append_heads(const append_job job, E *pages, E *q) {
    int H = job.n_heads, G = job.n_kv_heads, K = job.head_dim, heads = H + 2 * G;
    int64_t number = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP;
    int64_t t = number / heads;
    int head = static_cast<int>(number % heads);
    if (t >= job.step.n_rows) return;

    head_part<WIDTH> x = {};
    head_load(x, job.qkv + number * K, K / 2);
    if (job.weights.bias) head_add(x, job.weights.bias + head * K, K / 2);
    const float *norm = head < H ? job.weights.q_norm : head < H + G ? job.weights.k_norm : nullptr;
    if (norm) head_normalise(x, norm, job.weights.norm_eps, K / 2);
    if (head < H + G) head_rotate(x, job.cos_sin + t * K, K / 2);

    E *to;
    if (head < H) {
        to = q + (t * H + head) * K;
    } else {
        const int32_t *table = kv_layer_table(&job.kv, job.step.row_slot[t]);
        const kv_part part = head < H + G ? KV_PART_K : KV_PART_V;
        to = pages + kv_pool_element(&job.kv.format, table, part, (head - H) % G, job.step.row_pos[t]);
        if constexpr (sizeof(E) == sizeof(uint16_t))
            if (job.has_codes) head_encode(job, x, part, (head - H) % G, t);
    }
    head_store(x, to, K / 2);
}

template <typename E> void launch_append(cuda_device *dev, const append_job &job, void *pages, void *q) {
    int64_t n = static_cast<int64_t>(job.step.n_rows) * (job.n_heads + 2 * job.n_kv_heads);
    auto kernel = job.head_dim % 4 == 0 ? append_heads<2, E> : append_heads<1, E>;
    cuda_launch(dev, "kv_append", kernel, dim3(static_cast<unsigned>((n + WARPS - 1) / WARPS)),
                dim3(WARPS * WARP), 0, job, static_cast<E *>(pages), static_cast<E *>(q));
}

} // namespace

void cuda_rope_table(device *base, const float *host_inv_freq, float factor, int head_dim, float *cos_sin) {
    const int threads = 128;
    cuda_device *dev = cuda_device_of(base);
    assert(head_dim <= CUDA_MOST_HEAD_DIM);
    if (dev->step.n_rows == 0) return;
    int half = head_dim / 2;
    rope_frequencies inv_freq = {};
    memcpy(inv_freq.of_pair, host_inv_freq, static_cast<size_t>(half) * sizeof *host_inv_freq);
    int64_t n = static_cast<int64_t>(dev->step.n_rows) * half;
    cuda_launch(dev, "rope_table", fill_rope_table, dim3(static_cast<unsigned>((n + threads - 1) / threads)),
                dim3(threads), 0, dev->step, inv_freq, factor, half, cos_sin);
}

void cuda_kv_append(device *base, const attention_shape *shape, const qkv_weights *weights,
                    const float *cos_sin, const kv_layer *kv, float *qkv, void *q) {
    cuda_device *dev = cuda_device_of(base);
    assert(shape->head_dim <= CUDA_MOST_HEAD_DIM && base->act == base->kv);
    if (dev->step.n_rows == 0) return;
    append_job job = {dev->step,
                      shape->n_heads,
                      shape->n_kv_heads,
                      shape->head_dim,
                      *weights,
                      kv->near ? *kv->near : *kv,
                      *kv,
                      kv->near != nullptr,
                      cos_sin,
                      qkv};
    auto launch = base->kv == DTYPE_F32 ? launch_append<float> : launch_append<__nv_bfloat16>;
    launch(dev, job, job.kv.pages, q);
}
