#include "kernels/cpu/steps_portable.h"

#include "kernels/cpu/inner_tables.h"

const cpu_kernels cpu_kernels_portable[2] = {
    [PRECISION_BF16] = INNER_TABLE("portable", bf16, TILE_BF16_BYTES),
    [PRECISION_F32] = INNER_TABLE("portable", f32, 4),
};
