/* With products of bf16 and int8, and those of AMX besides, which shares all else. */
#include "kernels/cpu/steps_avx512.h"

#include "kernels/cpu/inner_amx.h"
#include "kernels/cpu/inner_tables.h"

const cpu_kernels cpu_kernels_avx512[2] = {
    [PRECISION_BF16] = INNER_TABLE("avx512", bf16, TILE_BF16_BYTES),
    [PRECISION_F32] = INNER_TABLE("avx512", f32, 4),
};

const cpu_kernels cpu_kernels_amx[2] = {
    [PRECISION_BF16] = {.isa = "amx",
                        .tile = {2 * AMX_ROWS, AMX_AT_ONCE, TILE_AHEAD_SHARE, TILE_BF16_BYTES, amx_pack_input,
                                 amx_tile},
                        .weigh = amx_weigh,
                        INNER_OTHERS(bf16)},
    [PRECISION_F32] = INNER_TABLE("amx", f32, 4),
};
