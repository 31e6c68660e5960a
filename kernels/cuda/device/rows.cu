/* The operations that treat every row alone. A row belongs to the blocks of one blockIdx.x, so that its
 * result does not depend on how many there are. */
#include <cuda_fp16.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/swiglu.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace {

enum { THREADS = 256, LISTED_ROWS = 512 };

/* Numbers of rows as a parameter of a kernel: nothing is copied to the GPU first, and a recorded launch keeps
 * them. */
struct row_list {
    int32_t rows[LISTED_ROWS];
};

/* Where a thread begins in its row, and how far it goes from there: its share of the row's groups of four. */
__device__ __forceinline__ int64_t first_column() {
    return 4 * (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x);
}

__device__ __forceinline__ int64_t column_step() {
    return 4 * static_cast<int64_t>(gridDim.y) * blockDim.x;
}

/* Blocks for n_rows of n_cols: THREADS groups of four columns in each. */
dim3 grid_of(int64_t n_rows, int64_t n_cols) {
    int64_t n = (n_cols + 4 * THREADS - 1) / (4 * THREADS), most = 65535;
    return dim3(static_cast<unsigned>(n_rows), static_cast<unsigned>(n < most ? n : most));
}

/* ---- embed, gather_rows ---- */

template <bool VECTOR, typename E>
__global__ void copy_rows(const E *from, const row_list list, int64_t n_cols, float *to) {
    from += list.rows[blockIdx.x] * n_cols;
    to += blockIdx.x * n_cols;
    for (int64_t i = first_column(); i < n_cols; i += column_step())
        elements_store<VECTOR>(to + i, elements_load<VECTOR>(from + i, n_cols - i), n_cols - i);
}

template <typename E>
void launch_copy(cuda_device *dev, const char *name, const void *from, const int32_t *host_rows, int n,
                 int64_t n_cols, float *to) {
    const E *typed = static_cast<const E *>(from);
    for (int first = 0; first < n; first += LISTED_ROWS) {
        row_list list = {};
        int n_listed = n - first < LISTED_ROWS ? n - first : static_cast<int>(LISTED_ROWS);
        memcpy(list.rows, host_rows + first, static_cast<size_t>(n_listed) * sizeof *host_rows);
        float *y = to + first * n_cols;
        auto kernel = elements_are_vectors(n_cols, from, y) ? copy_rows<true, E> : copy_rows<false, E>;
        cuda_launch(dev, name, kernel, grid_of(n_listed, n_cols), dim3(THREADS), 0, typed, list, n_cols, y);
    }
}

/* ---- rmsnorm ---- */

/* The sum of x over the block, in every thread. */
__device__ float block_sum(float x) {
    __shared__ float of_warp[WARP];
    unsigned lane = threadIdx.x % WARP, n_warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_sum(lane < n_warps ? of_warp[lane] : 0.0f);
}

/* A block for a row; it reads x twice, the second time from its cache. */
template <bool VECTOR, typename E>
__global__ void normalise(const float *x, const float *weight, float eps, int64_t n, E *y) {
    float squares = 0;
    x += blockIdx.x * n;
    y += blockIdx.x * n;
#pragma unroll 4
    for (int64_t i = first_column(); i < n; i += column_step()) {
        float4 v = elements_load<VECTOR>(x + i, n - i);
        squares += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(n) + eps);
#pragma unroll 4
    for (int64_t i = first_column(); i < n; i += column_step()) {
        float4 v = elements_load<VECTOR>(x + i, n - i), w = elements_load<VECTOR>(weight + i, n - i);
        v = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
        elements_store<VECTOR>(y + i, v, n - i);
    }
}

template <typename E>
void launch_rmsnorm(cuda_device *dev, const float *x, const float *weight, float eps, int T, int D, void *y) {
    const int most = 512;
    int threads = (D + 4 * WARP - 1) / (4 * WARP) * WARP;
    auto kernel = elements_are_vectors(D, x, y, weight) ? normalise<true, E> : normalise<false, E>;
    cuda_launch(dev, "rmsnorm", kernel, dim3(static_cast<unsigned>(T)),
                dim3(static_cast<unsigned>(threads < most ? threads : most)), 0, x, weight, eps, D,
                static_cast<E *>(y));
}

/* ---- add_bias, swiglu ---- */

template <bool VECTOR> __global__ void add_to_rows(const float *bias, int64_t n_cols, float *y) {
    y += blockIdx.x * n_cols;
    for (int64_t i = first_column(); i < n_cols; i += column_step()) {
        float4 v = elements_load<VECTOR>(y + i, n_cols - i), b = elements_load<VECTOR>(bias + i, n_cols - i);
        elements_store<VECTOR>(y + i, make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w), n_cols - i);
    }
}

template <bool VECTOR, typename E> __global__ void gate_rows(const float *gate_up, int64_t n_cols, E *y) {
    const float *gate = gate_up + 2 * blockIdx.x * n_cols, *up = gate + n_cols;
    y += blockIdx.x * n_cols;
    for (int64_t i = first_column(); i < n_cols; i += column_step()) {
        float4 g = elements_load<VECTOR>(gate + i, n_cols - i), u = elements_load<VECTOR>(up + i, n_cols - i);
        g = make_float4(swiglu(g.x, u.x), swiglu(g.y, u.y), swiglu(g.z, u.z), swiglu(g.w, u.w));
        elements_store<VECTOR>(y + i, g, n_cols - i);
    }
}

template <typename E> void launch_swiglu(cuda_device *dev, const float *gate_up, int T, int F, void *y) {
    auto kernel = elements_are_vectors(F, gate_up, y) ? gate_rows<true, E> : gate_rows<false, E>;
    cuda_launch(dev, "swiglu", kernel, grid_of(T, F), dim3(THREADS), 0, gate_up, F, static_cast<E *>(y));
}

/* ---- convert ---- */

template <bool VECTOR, typename From, typename To>
__global__ void convert(const From *from, int64_t n, To *to) {
    int64_t i = 4 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
    if (i + 4 <= n)
        elements_store<VECTOR>(to + i, elements_load<VECTOR>(from + i, 4), 4);
    else if (i < n)
        elements_store<false>(to + i, elements_load<false>(from + i, n - i), n - i);
}

template <typename From, typename To>
void launch_convert(cuda_device *dev, const void *from, int64_t n, void *to) {
    auto kernel = elements_are_vectors(0, from, to) ? convert<true, From, To> : convert<false, From, To>;
    cuda_launch(dev, "convert", kernel, dim3(static_cast<unsigned>((n + 4 * THREADS - 1) / (4 * THREADS))),
                dim3(THREADS), 0, static_cast<const From *>(from), n, static_cast<To *>(to));
}

template <typename To> void convert_to(cuda_device *dev, const void *from, dtype type, int64_t n, void *to) {
    if (type == DTYPE_F32)
        launch_convert<float, To>(dev, from, n, to);
    else if (type == DTYPE_BF16)
        launch_convert<__nv_bfloat16, To>(dev, from, n, to);
    else
        launch_convert<__half, To>(dev, from, n, to);
}

} // namespace

void cuda_embed(device *base, const matrix *table, const int32_t *host_tokens, int T, float *x) {
    auto launch = base->act == DTYPE_F32 ? launch_copy<float> : launch_copy<__nv_bfloat16>;
    launch(cuda_device_of(base), "embed", table->data, host_tokens, T, table->n_cols, x);
}

void cuda_gather_rows(device *base, const float *x, const int32_t *host_rows, int n, int D, float *out) {
    launch_copy<float>(cuda_device_of(base), "gather_rows", x, host_rows, n, D, out);
}

void cuda_rmsnorm(device *base, const float *x, const float *weight, float eps, int T, int D, void *y) {
    if (T == 0) return;
    auto launch = base->act == DTYPE_F32 ? launch_rmsnorm<float> : launch_rmsnorm<__nv_bfloat16>;
    launch(cuda_device_of(base), x, weight, eps, T, D, y);
}

void cuda_add_bias(device *base, const float *bias, int T, int N, float *y) {
    if (T == 0) return;
    auto kernel = elements_are_vectors(N, bias, y) ? add_to_rows<true> : add_to_rows<false>;
    cuda_launch(cuda_device_of(base), "add_bias", kernel, grid_of(T, N), dim3(THREADS), 0, bias, N, y);
}

void cuda_swiglu(cuda_device *dev, const float *gate_up, int T, int F, void *y) {
    if (T == 0) return;
    auto launch = dev->base.act == DTYPE_F32 ? launch_swiglu<float> : launch_swiglu<__nv_bfloat16>;
    launch(dev, gate_up, T, F, y);
}

void cuda_convert(cuda_device *dev, const void *from, dtype type, int64_t n, void *to) {
    if (n == 0) return;
    auto convert = dev->base.act == DTYPE_F32 ? convert_to<float> : convert_to<__nv_bfloat16>;
    convert(dev, from, type, n, to);
}
