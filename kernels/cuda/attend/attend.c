#include <assert.h>

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

/* y, or, where that is NULL, partials. */
static void attend(cuda_device *dev, const attention_shape *shape, const kv_layer *kv,
                   const attend_extent *extent, const void *q, float *partials, void *y) {
    assert(extent->last_span <= dev->step.n_spans);
    if (!cuda_attend_can(dev, shape)) {
        cuda_attend_exact(dev, shape, kv, extent, q, partials, y);
        return;
    }
    attend_extent generated = *extent, prompt = *extent;
    const int middle = dev->step.n_generated_spans;
    if (generated.last_span > middle) generated.last_span = middle;
    if (prompt.first_span < middle) prompt.first_span = middle;
    cuda_attend_generated(dev, shape, kv, &generated, q, partials, y);
    cuda_attend_prompt(dev, shape, kv, &prompt, q, partials, y);
}

void cuda_attend_part(device *base, const attention_shape *shape, const kv_layer *kv,
                      const attend_extent *extent, const void *q, float *partials) {
    attend(cuda_device_of(base), shape, kv, extent, q, partials, NULL);
}

void cuda_attend(device *base, const attention_shape *shape, const kv_layer *kv, const void *q, void *y) {
    cuda_device *dev = cuda_device_of(base);
    const attend_extent all = {.last_span = dev->step.n_spans};
    attend(dev, shape, kv, &all, q, NULL, y);
}
