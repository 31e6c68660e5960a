/* kernels/cuda/device/launch.cuh: how a .cu file starts its kernels, and gets at a block's dynamic shared
 * memory: on the GPU, or in the emulation of tests/emulation. */
#pragma once

#include "kernels/cuda/device/cuda_device.h"

#ifdef KVARVE_CUDA_EMULATED
#include <emulation.h>
#endif

/* Start a kernel on a stream. */
template <typename... Parameters, typename... Arguments>
cudaError_t cuda_launch_on(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                           size_t shared_bytes, Arguments... arguments) {
    const size_t always = 48 << 10;
    cudaError_t code = cudaSuccess;
    if (shared_bytes > always)
        code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes));
    if (code != cudaSuccess) {
        cudaGetLastError();
        return code;
    }
#ifdef KVARVE_CUDA_EMULATED
    emulation_launch(stream, grid, block, shared_bytes,
                     [=] { kernel(static_cast<Parameters>(arguments)...); });
#else
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
#endif
    return cudaGetLastError();
}

/* Start a kernel on the device's stream; the failure of a launch is recorded under the name of the operation.
 */
template <typename... Parameters, typename... Arguments>
void cuda_launch(cuda_device *dev, const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                 size_t shared_bytes, Arguments... arguments) {
    cuda_device_check(dev, cuda_launch_on(dev->stream, kernel, grid, block, shared_bytes, arguments...),
                      name);
}

/* The dynamic shared memory of the block. */
__device__ __forceinline__ unsigned char *cuda_shared_memory() {
#ifdef KVARVE_CUDA_EMULATED
    return emulation_shared_memory();
#else
    extern __shared__ __align__(128) unsigned char cuda_dynamic_shared[];
    return cuda_dynamic_shared;
#endif
}
