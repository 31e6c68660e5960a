#include "kernels/cpu/steps_avx512f.h"

#include "kernels/cpu/inner_tables.h"

const cpu_kernels cpu_kernels_avx512f[2] = {
    [PRECISION_BF16] = INNER_TABLE("avx512f", bf16, TILE_BF16_BYTES),
    [PRECISION_F32] = INNER_TABLE("avx512f", f32, 4),
};
