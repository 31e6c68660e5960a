#include "kernels/cuda/device/cuda_staging.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

enum { ALIGNMENT = 256 };

static void free_buffers(cuda_staging *s) {
    cudaFreeHost(s->host);
    cudaFree(s->device);
    if (s->copied) cudaEventDestroy(s->copied);
    *s = (cuda_staging){0};
}

static status make_buffers(cuda_staging *s, size_t bytes) {
    void *host = NULL, *device_memory = NULL;
    cudaError_t code = cudaMallocHost(&host, bytes);
    s->host = host;
    if (code == cudaSuccess) code = cudaMalloc(&device_memory, bytes);
    s->device = device_memory;
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&s->copied, cudaEventDisableTiming);
    s->bytes = bytes;
    s->used = 0;
    if (code == cudaSuccess) return STATUS_OK;
    free_buffers(s);
    return status_fail("out of memory: wanted %zu bytes of pinned memory and of the GPU's: %s", bytes,
                       cuda_error_text(code));
}

status cuda_staging_open(size_t bytes, cuda_staging **out) {
    cuda_staging *s = mem_new(1, sizeof *s);
    status st = make_buffers(s, bytes);
    if (st == STATUS_OK)
        *out = s;
    else
        free(s);
    return st;
}

void cuda_staging_close(cuda_staging *s) {
    if (s) free_buffers(s);
    free(s);
}

static bool grow(cuda_device *dev, cuda_staging *s, size_t bytes) {
    cuda_device_check(dev, cudaStreamSynchronize(dev->stream), "wait for the GPU");
    dev->n_moved++;
    free_buffers(s);
    if (make_buffers(s, bytes + bytes / 2) == STATUS_OK) return true;
    cuda_device_fail(dev, "staging memory", status_text());
    return false;
}

void cuda_staging_rewind(cuda_device *dev, cuda_staging *s) {
    cuda_device_check(dev, cudaEventSynchronize(s->copied), "wait for a copy to the GPU");
    s->used = 0;
}

bool cuda_staging_begin(cuda_device *dev, cuda_staging *s, size_t bytes, char **host,
                        const char **device_memory) {
    if (bytes > s->bytes && !grow(dev, s, bytes)) return false;
    if (s->used + bytes > s->bytes) cuda_staging_rewind(dev, s);
    *host = s->host + s->used;
    *device_memory = s->device + s->used;
    return true;
}

void cuda_staging_end(cuda_device *dev, cuda_staging *s, size_t bytes) {
    cuda_device_check(
        dev,
        cudaMemcpyAsync(s->device + s->used, s->host + s->used, bytes, cudaMemcpyHostToDevice, dev->stream),
        "copy to the GPU");
    cuda_device_check(dev, cudaEventRecord(s->copied, dev->stream), "event");
    s->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (s->used > s->bytes) s->used = s->bytes;
}

void *cuda_staging_send(cuda_device *dev, cuda_staging *s, const void *bytes, size_t n) {
    char *host;
    const char *to;
    if (!cuda_staging_begin(dev, s, n, &host, &to)) return NULL;
    memcpy(host, bytes, n);
    cuda_staging_end(dev, s, n);
    return (void *)(uintptr_t)to;
}
