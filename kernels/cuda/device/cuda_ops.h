/* kernels/cuda/device/cuda_ops.h: the operations of the CUDA device, one file each or a few; see device_ops.
 * All are Local. */
#pragma once

#include "kernels/cuda/device/cuda_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* cuda_backend.c: what kvarve_cuda_backend is made of; see device_open and the like. */
status cuda_device_open(precision precision, int index, device **out);
int cuda_device_count(const char **why_none);
uint64_t cuda_device_free_bytes(int index);

/* cuda_profile.c: NVTX ranges, one after the other. */
void cuda_mark(const char *region_name);

/* cuda_graph.c */
bool cuda_replay(device *dev, const void *x);
void cuda_record_end(device *dev);

/* copies.c: pinned host memory, copies beside the operations, and fences between these */
status cuda_alloc_host(device *dev, size_t bytes, void **out);
void cuda_release_host(device *dev, void *ptr);
status cuda_copy_open(device *dev, device_copy **out);
void cuda_copy_close(device *dev, device_copy *copy);
status cuda_copy_after(device *dev, device_copy *copy);
status cuda_copy_begin(device *dev, device_copy *copy, void *dst, const void *src, size_t bytes);
status cuda_copy_test(device *dev, device_copy *copy, bool *over);
status cuda_fence_open(device *dev, device_fence **out);
void cuda_fence_close(device *dev, device_fence *fence);
void cuda_fence_set(device *dev, device_fence *fence);
bool cuda_fence_passed(device *dev, device_fence *fence);
/* The stream of a copy, of the GPU that the caller's thread uses from now on. */
cudaStream_t cuda_copy_stream(device *dev, device_copy *copy);

/* codec/varve.cu */
status cuda_decode_chunks(device *dev, device_copy *copy, const kv_format *format, const varve_job *jobs,
                          const varve_job *there, int n);

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
void cuda_rope_table(device *dev, const float *host_inv_freq, float factor, int head_dim, float *cos_sin);
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
 * widths that these cannot do, to cuda_attend_exact. Those three give y of the extent's rows; or, where that
 * is NULL, partials, as attend_part. */
void cuda_attend_part(device *dev, const attention_shape *shape, const kv_layer *kv,
                      const attend_extent *extent, const void *q, float *partials);
void cuda_attend(device *dev, const attention_shape *shape, const kv_layer *kv, const void *q, void *y);
void cuda_attend_exact(cuda_device *dev, const attention_shape *shape, const kv_layer *kv,
                       const attend_extent *extent, const void *q, float *partials, void *y);
void cuda_attend_generated(cuda_device *dev, const attention_shape *shape, const kv_layer *kv,
                           const attend_extent *extent, const void *q, float *partials, void *y);
void cuda_attend_prompt(cuda_device *dev, const attention_shape *shape, const kv_layer *kv,
                        const attend_extent *extent, const void *q, float *partials, void *y);
/* attend_merge.cu */
void cuda_attend_merge(device *dev, const attention_shape *shape, const attend_extent *extent,
                       const float *partials, void *y);
/* Whether the fast ones serve. */
bool cuda_attend_can(const cuda_device *dev, const attention_shape *shape);

#ifdef __cplusplus
}
#endif
