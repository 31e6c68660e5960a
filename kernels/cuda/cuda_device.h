/* kernels/cuda/cuda_device.h: the CUDA device from inside: what the files of this folder share. Everything is
 * Local.
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

#include "kernels/cuda/cuda_graph.h"
#include "kernels/cuda/cuda_staging.h"
#include "kernels/device.h"

/* What kernels know of a step's rows and spans: arrays in device memory that begin_step filled. Passed by
 * value. */
typedef struct step_tables {
    int n_rows, n_spans, page_tokens;
    int n_generated;           /* generated rows: the first ones */
    int n_generated_spans;     /* the first spans */
    int64_t last_pos;          /* the largest position of a generated row; -1: there is none */
    const int64_t *row_pos;    /* [n_rows] position */
    const int32_t *row_span;   /* [n_rows] number of its span */
    const int32_t *span_row0;  /* [n_spans + 1] the span's first row; last: n_rows */
    const int32_t *span_page0; /* [n_spans] where its page ids begin in page_ids */
    const int32_t *page_ids;   /* of all spans, one after the other */
    const span *host_spans;    /* [n_spans] host memory: to size grids; page_ids in there are not valid */
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
    span *host_spans; /* of the step */
    cuda_staging tables, weight_staging[2];
    int next_weight_staging;
    cuda_graphs graphs;
    char *answers; /* device memory for the results of choose, score and top_logits */
    void *scratch; /* device memory, of one operation at a time */
    size_t scratch_bytes;
    struct cublas_state *cublas; /* matmul_many.c */
    pthread_mutex_t lock;        /* of the failure */
    status failed;               /* the first failure since the last sync, and its text */
    char failed_text[STATUS_TEXT_BYTES];
} cuda_device;

static inline cuda_device *cuda_device_of(device *dev) {
    return (cuda_device *)dev;
}

/* What kvarve_cuda_backend is made of; see device_open and the like. */
status cuda_device_open(precision precision, int index, device **out);
int cuda_device_count(const char **why_none);
uint64_t cuda_device_free_bytes(int index);

/* cuda_profile.c: NVTX ranges, one after the other. */
void cuda_mark(const char *region_name);

/* Record a failure: "GPU 0 (NAME): WHAT: WHY". */
void cuda_device_fail(cuda_device *dev, const char *what, const char *why);

/* Record what a call of the runtime returned, when it is a failure. */
void cuda_device_check(cuda_device *dev, cudaError_t code, const char *what);

/* At least `bytes` of device memory with undefined contents, aligned to 256 bytes, valid until the next
 * operation. NULL when there is not enough: the failure is recorded, and the operation returns. */
void *cuda_device_scratch(cuda_device *dev, size_t bytes);

/* A weight matrix [n_rows, n_cols], row-major, rows of n_cols elements of the device's act type without gaps.
 */
struct matrix {
    int64_t n_rows, n_cols;
    void *data;
};

/* ---- operations, one file each or a few; see device_ops ---- */

/* copies.c: pinned host memory, and copies beside the operations */
status cuda_alloc_host(device *dev, size_t bytes, void **out);
void cuda_release_host(device *dev, void *ptr);
status cuda_copy_open(device *dev, device_copy **out);
void cuda_copy_close(device *dev, device_copy *copy);
status cuda_copy_after(device *dev, device_copy *copy);
status cuda_copy_begin(device *dev, device_copy *copy, void *dst, const void *src, size_t bytes);
status cuda_copy_test(device *dev, device_copy *copy, bool *over);

/* rows.cu */
void cuda_embed(device *dev, const matrix *table, const int32_t *host_tokens, int T, float *x);
void cuda_rmsnorm(device *dev, const float *x, const float *weight, float eps, int T, int D, void *y);
void cuda_add_bias(device *dev, const float *bias, int T, int N, float *y);
void cuda_gather_rows(device *dev, const float *x, const int32_t *host_rows, int n, int D, float *out);
/* y[T, F] (act) = silu(gate_up[t, 0..F)) * gate_up[t, F..2F). */
void cuda_swiglu(cuda_device *dev, const float *gate_up, int T, int F, void *y);
/* n elements at `from`, of any dtype, become the device's act type at `to`; both in device memory. */
void cuda_convert(cuda_device *dev, const void *from, dtype type, int64_t n, void *to);

/* fill.cu */
void cuda_matrix_fill(device *dev, matrix *w, int64_t row0, int64_t n_rows, const level_stream *values,
                      int64_t first);

/* positions.cu */
void cuda_rope_table(device *dev, const float *host_inv_freq, float factor, int head_dim, int n_spans,
                     const span *spans, float *cos_sin);
void cuda_kv_append(device *dev, const attention_shape *shape, const qkv_weights *weights,
                    const float *cos_sin, const kv_layer *kv, float *qkv, void *q);

/* matmul.c: which rows go where: the first T_few to cuda_multiply_few, the rest to cuda_multiply_many; f32,
 * and shapes that these cannot do, to cuda_multiply_exact. `add`: y += instead of y =.
 * cuda_multiply_few_swiglu: y[T, n_rows / 2] (act) has the bits of cuda_multiply_few and cuda_swiglu. */
void cuda_matmul(device *dev, const matrix *w, const void *x, int T, int T_few, float *y);
void cuda_matmul_close(cuda_device *dev);
void cuda_matmul_add(device *dev, const matrix *w, const void *x, int T, int T_few, float *y);
void cuda_matmul_swiglu(device *dev, const matrix *w, const void *x, int T, int T_few, float *gate_up,
                        void *y);
void cuda_multiply_exact(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add);
void cuda_multiply_few(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add);
void cuda_multiply_few_swiglu(cuda_device *dev, const matrix *w, const void *x, int T, void *y);
bool cuda_multiply_few_can(const cuda_device *dev, const matrix *w);
void cuda_multiply_many(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add);
bool cuda_multiply_many_can(const cuda_device *dev, const matrix *w);

/* choose.cu */
void cuda_choose(device *dev, const float *logits, int n, int V, const row_sampling *host_rows,
                 row_choice *host_choices);
void cuda_score(device *dev, const float *logits, int n, int V, const int32_t *host_targets,
                float *host_scores);

/* top_logits.cu; and what op top_logits gives, in device memory: [n, k] and [n, k]. */
void cuda_top_logits(device *dev, const float *logits, int n, int V, int k, float *host_values,
                     int32_t *host_ids);
void cuda_find_top(cuda_device *dev, const float *logits, int n, int V, int k, float *top_values,
                   int32_t *top_ids);

/* attend.c: generated spans go to cuda_attend_generated, the others to cuda_attend_prompt; f32, and head
 * widths that these cannot do, to cuda_attend_exact. Spans [first_span, last_span) of the step. */
void cuda_attend(device *dev, const attention_shape *shape, const kv_layer *kv, const void *q, void *y);
void cuda_attend_exact(cuda_device *dev, const attention_shape *shape, const kv_layer *kv, int first_span,
                       int last_span, const void *q, void *y);
void cuda_attend_generated(cuda_device *dev, const attention_shape *shape, const kv_layer *kv, int first_span,
                           int last_span, const void *q, void *y);
void cuda_attend_prompt(cuda_device *dev, const attention_shape *shape, const kv_layer *kv, int first_span,
                        int last_span, const void *q, void *y);
bool cuda_attend_can(const cuda_device *dev, const attention_shape *shape);

#ifdef __cplusplus
}
#endif
