#include "kernels/cuda/device/cuda_device.h"

#include <string.h>

enum { MIB = 1 << 20 };

/* ---- failures ---- */

static void record_failure(cuda_device *dev, status st) {
    pthread_mutex_lock(&dev->lock);
    if (!dev->failed) memcpy(dev->failed_text, status_text(), sizeof dev->failed_text);
    if (!dev->failed) dev->failed = st;
    pthread_mutex_unlock(&dev->lock);
}

void cuda_device_fail(cuda_device *dev, const char *what, const char *why) {
    record_failure(dev, status_fail("GPU %d (%s): %s: %s", dev->index, dev->name, what, why));
}

void cuda_device_check(cuda_device *dev, cudaError_t code, const char *what) {
    if (code != cudaSuccess) cuda_device_fail(dev, what, cuda_error_text(code));
}

/* ---- memory ---- */

status cuda_device_alloc(const cuda_device *dev, size_t bytes, void **out) {
    if (cudaMalloc(out, bytes ? bytes : 1) == cudaSuccess) return STATUS_OK;
    size_t free_bytes = 0, all_bytes = 0;
    cudaGetLastError(); /* it was told: the next call begins afresh */
    cudaMemGetInfo(&free_bytes, &all_bytes);
    return status_fail("out of memory: wanted %zu bytes of GPU %d (%s), which has %zu MiB free of %zu; use "
                       "more GPUs, or ask "
                       "for less (context, sequences, KV memory)",
                       bytes, dev->index, dev->name, free_bytes / MIB, all_bytes / MIB);
}

void *cuda_device_scratch(cuda_device *dev, size_t bytes) {
    if (bytes <= dev->scratch_bytes) return dev->scratch;
    dev->n_moved++;
    cudaFree(dev->scratch); /* waits for the operations that use it */
    dev->scratch = NULL;
    dev->scratch_bytes = 0;
    void *memory = NULL;
    status st = cuda_device_alloc(dev, bytes, &memory);
    if (st != STATUS_OK) {
        record_failure(dev, st);
        return NULL;
    }
    dev->scratch = memory;
    dev->scratch_bytes = bytes;
    return memory;
}
