#include "kernels/cpu/steps_avx2.h"

#include "kernels/cpu/inner_tables.h"

const cpu_kernels cpu_kernels_avx2[2] = {
    [PRECISION_BF16] = INNER_TABLE("avx2", bf16, TILE_BF16_BYTES),
    [PRECISION_F32] = INNER_TABLE("avx2", f32, 4),
};
