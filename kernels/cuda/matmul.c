/* Products with weights: which rows go which way. */
#include "kernels/cuda/cuda_device.h"

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

void cuda_matmul_swiglu(device *base, const matrix *w, const void *x, int T, int T_few, float *gate_up,
                        void *y) {
    multiply(base, w, x, T, T_few, gate_up, false);
    cuda_swiglu(cuda_device_of(base), gate_up, T, (int)(w->n_rows / 2), y);
}
