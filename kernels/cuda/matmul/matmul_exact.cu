/* Products of any shape in both precisions: the reference on the GPU, and what serves where nothing faster
 * can. An output is the sum over the lanes of a warp; a lane adds its groups of four columns in order. So
 * nothing depends on the other rows. */
#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace {

enum { WARPS = 4, OUTPUTS = 4 /* of a row, by one warp */ };

struct exact_job {
    int64_t n_rows, n_cols; /* of w */
    int T;
    float *y;
    bool add;
};

__device__ __forceinline__ float add_products(float sum, float4 a, float4 b) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* y[t0 .. t0 + ROWS, r0 .. r0 + OUTPUTS), as far as it exists, by a warp; what does not is computed from what
 * is there, and forgotten. */
template <bool VECTOR, int ROWS, typename E>
__device__ __forceinline__ void multiply_tile(const exact_job &job, const E *w, const E *x, int64_t t0,
                                              int64_t r0) {
    int lane = static_cast<int>(threadIdx.x) % WARP;
    float sums[ROWS][OUTPUTS] = {};
    const E *w_rows[OUTPUTS], *x_rows[ROWS];
    for (int r = 0; r < OUTPUTS; r++)
        w_rows[r] = w + (r0 + r < job.n_rows ? r0 + r : r0) * job.n_cols;
    for (int t = 0; t < ROWS; t++)
        x_rows[t] = x + (t0 + t < job.T ? t0 + t : t0) * job.n_cols;

#pragma unroll 2
    for (int64_t i = 4 * lane; i < job.n_cols; i += 4 * WARP) {
        float4 weights[OUTPUTS];
        for (int r = 0; r < OUTPUTS; r++)
            weights[r] = elements_load<VECTOR>(w_rows[r] + i, job.n_cols - i);
        for (int t = 0; t < ROWS; t++) {
            float4 inputs = elements_load<VECTOR>(x_rows[t] + i, job.n_cols - i);
            for (int r = 0; r < OUTPUTS; r++)
                sums[t][r] = add_products(sums[t][r], inputs, weights[r]);
        }
    }
    for (int t = 0; t < ROWS; t++)
        for (int r = 0; r < OUTPUTS; r++) {
            float sum = warp_sum(sums[t][r]);
            float *y = job.y + (t0 + t) * job.n_rows + r0 + r;
            if (lane == 0 && t0 + t < job.T && r0 + r < job.n_rows) *y = job.add ? *y + sum : sum;
        }
}

template <bool VECTOR, int ROWS, typename E>
__global__ void multiply(const exact_job job, const E *w, const E *x) {
    int64_t r0 = (static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP) * OUTPUTS;
    if (r0 >= job.n_rows) return;
    for (int64_t t0 = static_cast<int64_t>(blockIdx.y) * ROWS; t0 < job.T;
         t0 += static_cast<int64_t>(gridDim.y) * ROWS)
        multiply_tile<VECTOR, ROWS>(job, w, x, t0, r0);
}

template <int ROWS, typename E>
void launch_rows(cuda_device *dev, const exact_job &job, const E *w, const E *x) {
    const int64_t most = 65535;
    int64_t per_block = WARPS * OUTPUTS, columns = (job.n_rows + per_block - 1) / per_block;
    int64_t rows = (job.T + ROWS - 1) / ROWS;
    auto kernel = elements_are_vectors(job.n_cols, w, x) ? multiply<true, ROWS, E> : multiply<false, ROWS, E>;
    cuda_launch(dev, "matmul", kernel,
                dim3(static_cast<unsigned>(columns), static_cast<unsigned>(rows < most ? rows : most)),
                dim3(WARPS * WARP), 0, job, w, x);
}

template <typename E>
void launch_multiply(cuda_device *dev, const exact_job &job, const void *w, const void *x) {
    auto launch = job.T == 1 ? launch_rows<1, E> : launch_rows<4, E>;
    launch(dev, job, static_cast<const E *>(w), static_cast<const E *>(x));
}

} // namespace

void cuda_multiply_exact(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add) {
    if (T == 0 || w->n_rows == 0) return;
    const exact_job job = {w->n_rows, w->n_cols, T, y, add};
    auto launch = dev->base.act == DTYPE_F32 ? launch_multiply<float> : launch_multiply<__nv_bfloat16>;
    launch(dev, job, w->data, x);
}
