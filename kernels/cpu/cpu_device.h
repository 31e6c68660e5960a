/* kernels/cpu/cpu_device.h: what the files of the CPU backend share. Everything is Local. */
#pragma once

#include "kernels/cpu/cpu_isa.h"
#include "kernels/device.h"

typedef struct cpu_device {
    device base;
    const cpu_kernels *kernels;
    const cpu_kernels *exact; /* of the same instruction set, for float32 */
    precision precision;
    int n_threads;
    int n_spans; /* of the step */
    const span *spans;
    void *scratch; /* of one operation at a time */
    size_t scratch_bytes;
    status failed; /* the first failure since the last sync, and its text */
    char failed_text[STATUS_TEXT_BYTES];
} cpu_device;

static inline cpu_device *cpu_device_of(device *dev) {
    return (cpu_device *)dev;
}

/* Threads for a loop over n_values numbers: waking them costs more than a small loop. */
static inline int cpu_threads_for(const cpu_device *dev, size_t n_values) {
    enum { SMALL = 16384 };
    return n_values < SMALL ? 1 : dev->n_threads;
}

/* Cache-line aligned memory, in huge pages where it is large; released with free(). NULL, with the bytes
 * wanted in the status text, when the machine has not that much. */
void *cpu_memory_new(size_t bytes);

/* At least `bytes` of cache-line aligned memory with undefined contents, valid until the next operation. NULL
 * when there is not enough: the failure is recorded, and the operation returns. */
void *cpu_device_scratch(cpu_device *dev, size_t bytes);

/* The operations of the other files; see device_ops. */
double cpu_measure_memory(device *dev);
status cpu_matrix_open(device *dev, int64_t n_rows, int64_t n_cols, matrix **out);
void cpu_matrix_load(device *dev, matrix *w, int64_t row0, int64_t n_rows, const void *host_src,
                     dtype src_type);
void cpu_matrix_close(device *dev, matrix *w);
void cpu_embed(device *dev, const matrix *table, const int32_t *host_tokens, int T, float *x);
void cpu_matmul(device *dev, const matrix *w, const void *x, int T, int T_few, float *y);
void cpu_matmul_add(device *dev, const matrix *w, const void *x, int T, int T_few, float *y);
void cpu_matmul_swiglu(device *dev, const matrix *w, const void *x, int T, int T_few, float *gate_up,
                       void *y);

void cpu_rmsnorm(device *dev, const float *x, const float *weight, float eps, int T, int D, void *y);
void cpu_add_bias(device *dev, const float *bias, int T, int N, float *y);
void cpu_rope_table(device *dev, const float *host_inv_freq, float factor, int head_dim, float *cos_sin);
void cpu_kv_append(device *dev, const attention_shape *shape, const qkv_weights *weights,
                   const float *cos_sin, const kv_layer *kv, float *qkv, void *q);
void cpu_take_queries(device *dev, const attention_shape *shape, const qkv_weights *weights, const float *qkv,
                      int row0, int n_rows, float *out);
void cpu_add_moments(device *dev, const attention_shape *shape, const float *queries, int n_rows,
                     double *moments);
void cpu_add_norms(device *dev, const attention_shape *shape, const attend_look *look, attend_norm *norms);
void cpu_add_shares(device *dev, const attention_shape *shape, const attend_look *look,
                    const attend_norm *norms, double *shares, int64_t stride);
void cpu_expect(device *dev, const attention_shape *shape, const attend_look *look, const float *means,
                const float *covariances, double *scores, int64_t stride);
void cpu_value_norms(device *dev, const attention_shape *shape, const attend_look *look, double *norms,
                     int64_t stride);
void cpu_read_codes(device *dev, const kv_format *format, const void *const *pages, int64_t place, int n,
                    int n_parts, void *near);
/* y[T, F] (act) = silu(gate_up[t, 0..F)) * gate_up[t, F..2F). */
void cpu_swiglu(cpu_device *dev, const float *gate_up, int T, int F, void *y);
void cpu_gather_rows(device *dev, const float *x, const int32_t *host_rows, int n, int D, float *out);

void cpu_choose(device *dev, const float *logits, int n, int V, const row_sampling *host_rows,
                row_choice *host_choices);
void cpu_score(device *dev, const float *logits, int n, int V, const int32_t *host_targets,
               float *host_scores);
void cpu_top_logits(device *dev, const float *logits, int n, int V, int k, float *host_values,
                    int32_t *host_ids);

void cpu_attend_part(device *dev, const attention_shape *shape, const kv_layer *kv,
                     const attend_extent *extent, const void *q, float *partials);
void cpu_attend_merge(device *dev, const attention_shape *shape, const attend_extent *extent,
                      const float *partials, void *y);
void cpu_attend(device *dev, const attention_shape *shape, const kv_layer *kv, const void *q, void *y);
