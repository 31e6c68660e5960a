/* Pinned host memory, copies between it and the GPU that run beside the operations (those of a device_copy on
 * a stream of their own, so that they wait for no others), and fences between operations.
 *
 * These may be called from threads that the runtime does not know yet, so each begins by naming the GPU. */
#include <stdlib.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "src/base/memory.h"

struct device_copy {
    cudaStream_t stream;
    cudaEvent_t operations; /* those queued when copy_after was called */
    cudaEvent_t over;       /* the copy */
};

static status copy_status(cudaError_t code, const char *what) {
    return code == cudaSuccess ? STATUS_OK : status_fail("cuda: %s: %s", what, cuda_error_text(code));
}

static cudaError_t use_gpu(device *dev) {
    return cudaSetDevice(cuda_device_of(dev)->index);
}

status cuda_alloc_host(device *dev, size_t bytes, void **out) {
    void *memory = NULL;
    cudaError_t code = use_gpu(dev);
    if (code == cudaSuccess) code = cudaHostAlloc(&memory, bytes ? bytes : 1, cudaHostAllocDefault);
    if (code != cudaSuccess)
        return status_fail("cuda: %zu bytes of pinned host memory: %s", bytes, cuda_error_text(code));
    *out = memory;
    return STATUS_OK;
}

void cuda_release_host(device *dev, void *ptr) {
    use_gpu(dev);
    if (ptr) cudaFreeHost(ptr);
}

static cudaError_t make_copy(device_copy *copy) {
    cudaError_t code = cudaStreamCreateWithFlags(&copy->stream, cudaStreamNonBlocking);
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&copy->operations, cudaEventDisableTiming);
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&copy->over, cudaEventDisableTiming);
    return code;
}

status cuda_copy_open(device *dev, device_copy **out) {
    device_copy *copy = mem_new(1, sizeof *copy);
    cudaError_t code = use_gpu(dev);
    if (code == cudaSuccess) code = make_copy(copy);
    if (code != cudaSuccess) {
        cuda_copy_close(dev, copy);
        return copy_status(code, "a stream for copies");
    }
    *out = copy;
    return STATUS_OK;
}

void cuda_copy_close(device *dev, device_copy *copy) {
    if (!copy) return;
    use_gpu(dev);
    if (copy->over) cudaEventDestroy(copy->over);
    if (copy->operations) cudaEventDestroy(copy->operations);
    if (copy->stream) cudaStreamDestroy(copy->stream);
    free(copy);
}

/* The stream waits as of now: what is recorded in the event later does not change that. */
status cuda_copy_after(device *dev, device_copy *copy) {
    cudaError_t code = use_gpu(dev);
    if (code == cudaSuccess) code = cudaEventRecord(copy->operations, cuda_device_of(dev)->stream);
    if (code == cudaSuccess) code = cudaStreamWaitEvent(copy->stream, copy->operations, 0);
    return copy_status(code, "order of a copy");
}

status cuda_copy_begin(device *dev, device_copy *copy, void *dst, const void *src, size_t bytes) {
    cudaError_t code = use_gpu(dev);
    if (code == cudaSuccess && bytes)
        code = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, copy->stream);
    if (code == cudaSuccess) code = cudaEventRecord(copy->over, copy->stream);
    return copy_status(code, "begin of a copy");
}

cudaStream_t cuda_copy_stream(device *dev, device_copy *copy) {
    use_gpu(dev); /* where that fails, so does what follows */
    return copy->stream;
}

status cuda_copy_test(device *dev, device_copy *copy, bool *over) {
    cudaError_t code = use_gpu(dev);
    if (code == cudaSuccess) code = cudaEventQuery(copy->over);
    *over = code == cudaSuccess;
    if (code != cudaErrorNotReady) return copy_status(code, "copy");
    cudaGetLastError(); /* "not ready" is no error that a kernel's launch should find */
    return STATUS_OK;
}

/* ---- fences ---- */

struct device_fence {
    cudaEvent_t event;
};

status cuda_fence_open(device *dev, device_fence **out) {
    device_fence *fence = mem_new(1, sizeof *fence);
    cudaError_t code = use_gpu(dev);
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&fence->event, cudaEventDisableTiming);
    if (code != cudaSuccess) {
        free(fence);
        return copy_status(code, "a fence");
    }
    *out = fence;
    return STATUS_OK;
}

void cuda_fence_close(device *dev, device_fence *fence) {
    if (!fence) return;
    use_gpu(dev);
    cudaEventDestroy(fence->event);
    free(fence);
}

void cuda_fence_set(device *dev, device_fence *fence) {
    cuda_device_check(cuda_device_of(dev), cudaEventRecord(fence->event, cuda_device_of(dev)->stream),
                      "fence");
}

bool cuda_fence_passed(device *dev, device_fence *fence) {
    cudaError_t code = use_gpu(dev);
    if (code == cudaSuccess) code = cudaEventQuery(fence->event);
    if (code == cudaErrorNotReady) {
        cudaGetLastError(); /* as in cuda_copy_test */
        return false;
    }
    cuda_device_check(cuda_device_of(dev), code, "fence");
    return true;
}
