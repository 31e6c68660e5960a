/* kernels/cuda/device/cuda_device.h: the CUDA device from inside: what its operations (cuda_ops.h) share.
 * Everything is Local.
 *
 * Host code is C; a .cu file holds kernels and the functions that launch them. All operations go to one
 * stream, in order, and none waits for the GPU but `sync` and copies. A failure is recorded by
 * cuda_device_fail, and `sync` tells the first of them.
 *
 * Configured with KVARVE_CUDA=EMULATED, the same files run on the CPU, for tests: tests/emulation stands in
 * for the CUDA runtime, and runs the blocks of a kernel one after the other, the threads of a block in turn.
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/device.h"

enum { CUDA_MOST_HEAD_DIM = 256 }; /* K: kernels have room for as much */

/* What kernels know of a step's rows and spans: arrays in device memory that begin_step filled. Passed by
 * value. */
typedef struct step_tables {
    int n_rows, n_spans;
    int n_generated;          /* generated rows: the first ones */
    int n_generated_spans;    /* the first spans */
    int64_t last_pos;         /* the largest position of a generated row; -1: there is none */
    const int64_t *row_pos;   /* [n_rows] position */
    const int32_t *row_slot;  /* [n_rows] slot of its sequence */
    const int32_t *span_row0; /* [n_spans + 1] the span's first row; last: n_rows */
    const span *host_spans;   /* [n_spans] host memory: to size grids */
} step_tables;

typedef struct cuda_device {
    device base;
    precision precision;
    int index; /* of the GPU, as the CUDA runtime counts */
    char name[256], processor[32], bus_id[32];
    int n_multiprocessors;
    size_t max_shared_bytes;     /* of a block, when asked for */
    bool has_warpgroup_products; /* Hopper's: warpgroup.cuh */
    cudaStream_t stream;         /* of all operations */
    step_tables step;
    struct cuda_staging *tables, *weight_staging[2];
    int next_weight_staging;
    uint64_t n_moved; /* how often memory that operations know moved: steps recorded before are void then */
    struct cuda_graphs *graphs;
    char *answers; /* device memory for the results of choose, score and top_logits */
    void *scratch; /* device memory, of one operation at a time */
    size_t scratch_bytes;
    struct cublas_state *cublas; /* matmul_many.c */
    pthread_mutex_t recording;   /* held while the stream is recorded: a copy of any thread would be too */
    pthread_mutex_t lock;        /* of the failure */
    status failed;               /* the first failure since the last sync, and its text */
    char failed_text[STATUS_TEXT_BYTES];
} cuda_device;

static inline cuda_device *cuda_device_of(device *dev) {
    return (cuda_device *)dev;
}

/* What a call of the runtime returned, in words. It is told now: a kernel's launch does not find it again. */
static inline const char *cuda_error_text(cudaError_t code) {
    cudaGetLastError();
    return cudaGetErrorString(code);
}

/* Record a failure: "GPU 0 (NAME): WHAT: WHY". */
void cuda_device_fail(cuda_device *dev, const char *what, const char *why);

/* Record what a call of the runtime returned, when it is a failure. */
void cuda_device_check(cuda_device *dev, cudaError_t code, const char *what);

/* Device memory, or the failure that tells how much there is. */
status cuda_device_alloc(const cuda_device *dev, size_t bytes, void **out);

/* At least `bytes` of device memory with undefined contents, aligned to 256 bytes, valid until the next
 * operation. NULL when there is not enough: the failure is recorded, and the operation returns. */
void *cuda_device_scratch(cuda_device *dev, size_t bytes);

/* A weight matrix [n_rows, n_cols], row-major, rows of n_cols elements of the device's act type without gaps.
 */
struct matrix {
    int64_t n_rows, n_cols;
    void *data;
};

#ifdef __cplusplus
}
#endif
