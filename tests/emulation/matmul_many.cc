/* tests/emulation/matmul_many.cc: stands in for kernels/cuda/matmul/matmul_many.c, as there is no cuBLASLt
 * here: each sum is one chain. */
#include "kernels/convert.h"
#include "kernels/cuda/device/cuda_ops.h"

#include "tests/emulation/emulation.h"

static void multiply(const uint16_t *w, const uint16_t *x, int64_t T, int64_t N, int64_t M, float *y,
                     bool add) {
    for (int64_t t = 0; t < T; t++)
        for (int64_t n = 0; n < N; n++) {
            float sum = 0;
            for (int64_t i = 0; i < M; i++)
                sum += float_of_bf16(x[t * M + i]) * float_of_bf16(w[n * M + i]);
            y[t * N + n] = add ? y[t * N + n] + sum : sum;
        }
}

bool cuda_multiply_many_can(const cuda_device *dev, const matrix *w) {
    return dev->base.act == DTYPE_BF16 && w->n_rows > 0 && w->n_cols > 0;
}

void cuda_multiply_many(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add) {
    const uint16_t *weights = static_cast<const uint16_t *>(w->data),
                   *rows = static_cast<const uint16_t *>(x);
    const int64_t N = w->n_rows, M = w->n_cols;
    emulation_enqueue(dev->stream, [=] { multiply(weights, rows, T, N, M, y, add); });
}

void cuda_matmul_close(cuda_device *dev) {
    (void)dev;
}
