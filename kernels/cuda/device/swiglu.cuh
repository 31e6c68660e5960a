/* kernels/cuda/device/swiglu.cuh: the gate of the MLP: one function, for the same bits in every kernel. */
#pragma once

#include "kernels/cuda/device/launch.cuh"

/* silu(gate) * up. The sum is not left to be joined with expf's last product, in one kernel or in another. */
__device__ __forceinline__ float swiglu(float gate, float up) {
    return gate / __fadd_rn(1.0f, expf(-gate)) * up;
}
