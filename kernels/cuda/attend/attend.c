#include "kernels/cuda/attend/attend_map.h"
#include "kernels/cuda/device/cuda_ops.h"

/* Widths that the kernels were compiled for, and shared memory for them. */
bool cuda_attend_can(const cuda_device *dev, const attention_shape *shape) {
    int width = shape->head_dim, group = shape->n_heads / shape->n_kv_heads;
    bool has_width = width == 64 || width == 80 || width == 96 || width == 128 || width == 256;
    if (dev->base.act != DTYPE_BF16 || dev->base.kv != DTYPE_BF16 || !has_width || !(shape->scale > 0))
        return false;
    int n_queries = group < ATTEND_HEADS ? group : ATTEND_HEADS;
    return attend_prompt_bytes(width, 1) <= dev->max_shared_bytes &&
           attend_generated_bytes(width, n_queries, 0) <= dev->max_shared_bytes;
}

void cuda_attend(device *base, const attention_shape *shape, const kv_layer *kv, const void *q, void *y) {
    cuda_device *dev = cuda_device_of(base);
    int n_spans = dev->step.n_spans, n_generated = dev->step.n_generated_spans;
    if (!cuda_attend_can(dev, shape)) {
        cuda_attend_exact(dev, shape, kv, 0, n_spans, q, y);
        return;
    }
    cuda_attend_generated(dev, shape, kv, 0, n_generated, q, y);
    cuda_attend_prompt(dev, shape, kv, n_generated, n_spans, q, y);
}
