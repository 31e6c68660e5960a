/* Weights that the GPU makes itself: elements of a counter-based stream (kernels/level_stream.h). */
#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/cuda_staging.h"
#include "kernels/cuda/device/elements.cuh"

namespace {

enum { THREADS = 256, BLOCKS_PER_MULTIPROCESSOR = 8 };

/* Elements first, ... of the stream become to[0 .. n). A thread makes one word after the other; with VECTOR,
 * words begin where elements of `to` do that can be written together. */
template <bool VECTOR, typename E>
__global__ void fill(uint64_t key, const __nv_bfloat16 *levels, int64_t first, int64_t n, E *to) {
    __shared__ float table[N_LEVELS];
    for (int i = static_cast<int>(threadIdx.x); i < N_LEVELS; i += THREADS)
        table[i] = static_cast<float>(levels[i]);
    __syncthreads();
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    int64_t i = first / LEVEL_LANES + static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    for (; i * LEVEL_LANES < first + n; i += step) {
        const uint64_t word = level_word(key, i);
        const int64_t at = i * LEVEL_LANES - first; /* below 0 where the first word begins before `first` */
        elements_4<E> made;
        for (int lane = 0; lane < LEVEL_LANES; lane++)
            made.at[lane] = static_cast<E>(table[level_index(word, lane)]);
        if (VECTOR && at + LEVEL_LANES <= n)
            *reinterpret_cast<elements_4<E> *>(to + at) = made;
        else
            for (int lane = 0; lane < LEVEL_LANES; lane++)
                if (at + lane >= 0 && at + lane < n) to[at + lane] = made.at[lane];
    }
}

template <typename E>
void launch_fill(cuda_device *dev, uint64_t key, const void *levels, int64_t first, int64_t n, E *to) {
    const int64_t n_words = (first + n - 1) / LEVEL_LANES - first / LEVEL_LANES + 1;
    const int64_t wanted = (n_words + THREADS - 1) / THREADS;
    const int64_t most = static_cast<int64_t>(BLOCKS_PER_MULTIPROCESSOR) * dev->n_multiprocessors;
    auto kernel = elements_are_vectors(first, to, nullptr) ? fill<true, E> : fill<false, E>;
    cuda_launch(dev, "matrix_fill", kernel, dim3(static_cast<unsigned>(wanted < most ? wanted : most)),
                dim3(THREADS), 0, key, static_cast<const __nv_bfloat16 *>(levels), first, n, to);
}

} // namespace

void cuda_matrix_fill(device *base, matrix *w, int64_t row0, int64_t n_rows, const level_stream *values,
                      int64_t first) {
    cuda_device *dev = cuda_device_of(base);
    const int64_t n = n_rows * w->n_cols, at = row0 * w->n_cols;
    if (n == 0) return;
    const void *levels =
        cuda_staging_send(dev, dev->weight_staging[0], values->levels, sizeof values->levels);
    if (!levels) return;
    if (base->act == DTYPE_F32)
        launch_fill(dev, values->key, levels, first, n, static_cast<float *>(w->data) + at);
    else
        launch_fill(dev, values->key, levels, first, n, static_cast<__nv_bfloat16 *>(w->data) + at);
}
