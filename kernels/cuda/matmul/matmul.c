/* Products with weights: which rows go which way. */
#include <assert.h>

#include "kernels/cuda/device/cuda_ops.h"

/* Rows [first, last) of x and y. Whether rows are few is a property of them, and not of their number. */
static void multiply_rows(cuda_device *dev, const matrix *w, const void *x, int first, int last, bool are_few,
                          float *y, bool add) {
    if (first >= last) return;
    size_t row_bytes = (size_t)w->n_cols * dtype_bytes(dev->base.act);
    const void *from = (const char *)x + (size_t)first * row_bytes;
    float *to = y + (size_t)first * (size_t)w->n_rows;
    if (are_few && cuda_multiply_few_can(dev, w))
        cuda_multiply_few(dev, w, from, last - first, to, add);
    else if (!are_few && cuda_multiply_many_can(dev, w))
        cuda_multiply_many(dev, w, from, last - first, to, add);
    else
        cuda_multiply_exact(dev, w, from, last - first, to, add);
}

static void multiply(device *base, const matrix *w, const void *x, int T, int T_few, float *y, bool add) {
    cuda_device *dev = cuda_device_of(base);
    multiply_rows(dev, w, x, 0, T_few, true, y, add);
    multiply_rows(dev, w, x, T_few, T, false, y, add);
}

void cuda_matmul(device *dev, const matrix *w, const void *x, int T, int T_few, float *y) {
    multiply(dev, w, x, T, T_few, y, false);
}

void cuda_matmul_add(device *dev, const matrix *w, const void *x, int T, int T_few, float *y) {
    multiply(dev, w, x, T, T_few, y, true);
}

/* The kernels for few rows apply swiglu themselves; of the other rows gate_up is made first. */
void cuda_matmul_swiglu(device *base, const matrix *w, const void *x, int T, int T_few, float *gate_up,
                        void *y) {
    assert(w->n_rows % 2 == 0);
    cuda_device *dev = cuda_device_of(base);
    int n_fused = cuda_multiply_few_can(dev, w) ? T_few : 0;
    size_t fused = (size_t)n_fused, F = (size_t)w->n_rows / 2;
    if (n_fused > 0) cuda_multiply_few_swiglu(dev, w, x, n_fused, y);
    multiply_rows(dev, w, x, n_fused, T_few, true, gate_up, false);
    multiply_rows(dev, w, x, T_few, T, false, gate_up, false);
    cuda_swiglu(dev, gate_up + fused * 2 * F, T - n_fused, (int)F,
                (char *)y + fused * F * dtype_bytes(base->act));
}
