/* kernels/cuda/matmul/matmul_few.cuh: how a product of few rows is cut up: which part of the weights each
 * warp takes, and in which order. For kernels and for host tests.
 *
 * The weights [N, M] are cut into tiles of rows and into slices of columns; a warp takes one tile of one
 * slice, stage after stage. A sum is that of its slices from first to last, and a slice is one chain over its
 * stages. All of this depends on N and M only: so the bits of a row never depend on how many rows there are.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef __CUDACC__
#ifndef __host__
#define __host__
#define __device__
#endif
#endif

enum {
    FEW_VECTOR = 8,       /* bf16 in the 16 bytes that a lane takes at once; M is a multiple */
    FEW_STAGE = 64,       /* columns of a stage: of a row, one line of the cache */
    FEW_HALF = 32,        /* a stage is two halves: columns that the 4 lanes of a row take side by side */
    FEW_GROUP = 8,        /* rows of a tile that the lanes take side by side */
    FEW_MAX_SLICES = 16,  /* the warps of the largest block */
    FEW_LEAST_WARPS = 4,  /* in a block */
    FEW_LEAST_STAGES = 2, /* in a slice, where there is more than one */
    FEW_WIDE_WARPS = 8,   /* of a block with one slice, for more rows of x */
    FEW_WIDE_ROWS = 32,   /* weight rows of each of them */
    /* What is rounded up to whole stages, or to whole blocks, is still an int. */
    FEW_MOST_COLUMNS = INT32_MAX - FEW_STAGE + 1,
    FEW_MOST_ROWS = INT32_MAX - 2 * FEW_WIDE_WARPS * FEW_WIDE_ROWS
};

typedef struct few_plan {
    int n_stages;      /* of M, the last one maybe in part */
    int n_slices;      /* 1, 2, 4, 8 or 16 */
    int tile_rows;     /* of a warp: 16 or 32 */
    int n_tiles;       /* of N, the last one maybe in part */
    int tiles_a_block; /* where a block holds all slices of its tiles: tiles_a_block * n_slices warps */
} few_plan;

__host__ __device__ static inline int few_parts(int n, int part) {
    return (n + (part - 1)) / part; /* n + part may be too large */
}

/* Enough warps that their copies under way fill the way to memory: of a GPU with 4.8 TB/s and 1 us, 5 MB; a
 * warp of 32 rows has 12 KiB. Fewer rows to a tile where the weights have few, so that more blocks share the
 * work. */
__host__ __device__ static inline few_plan few_plan_of(int N, int M) {
    const int enough_rows = 768 * 32, few_rows = 96 * 32;
    few_plan p;
    p.n_stages = few_parts(M, FEW_STAGE);
    p.tile_rows = N < few_rows ? 16 : 32;
    p.n_tiles = few_parts(N, p.tile_rows);
    p.n_slices = 1;
    while (p.n_slices < FEW_MAX_SLICES && (int64_t)p.n_slices * N < (int64_t)enough_rows &&
           p.n_stages >= 2 * p.n_slices * FEW_LEAST_STAGES)
        p.n_slices *= 2;
    p.tiles_a_block = p.n_slices < FEW_LEAST_WARPS ? FEW_LEAST_WARPS / p.n_slices : 1;
    return p;
}

/* Slice i has the stages from this on, up to where slice i + 1 begins. */
__host__ __device__ static inline int few_slice_stage(const few_plan *p, int slice) {
    return (int)((int64_t)p->n_stages * slice / p->n_slices);
}

/* Of a block with all slices: warp -> its tile, counted over all blocks, and its slice. */
__host__ __device__ static inline int few_warp_tile(const few_plan *p, int block, int warp) {
    return block * p->tiles_a_block + warp / p->n_slices;
}

__host__ __device__ static inline int few_warp_slice(const few_plan *p, int warp) {
    return warp % p->n_slices;
}

/* Of a block with one slice: the first weight row of a warp. */
__host__ __device__ static inline int few_wide_row(int block, int warp) {
    return (block * FEW_WIDE_WARPS + warp) * FEW_WIDE_ROWS;
}

/* Rows of tiles are counted over all of them. Where the results are silu(gate) * up, the weights [2F, M] are
 * F gate rows, then F up rows, and tiles take them in an order of their own: FEW_GROUP gate rows, then their
 * up rows. So a lane that has the sum of a gate has that of its up. As many tiles as without hold all of
 * them: neither the cuts nor the order of additions change.
 *
 * Result f comes from tile row few_gate_row(f) and the one that is FEW_GROUP behind it. */
__host__ __device__ static inline int few_gate_row(int f) {
    return f / FEW_GROUP * (2 * FEW_GROUP) + f % FEW_GROUP;
}

__host__ __device__ static inline int few_result_of(int tile_row) {
    return tile_row / (2 * FEW_GROUP) * FEW_GROUP + tile_row % FEW_GROUP;
}

/* Tile row -> weight row. Behind the last, that one again: its sums go nowhere. */
__host__ __device__ static inline int few_weight_row(int N, bool gated, int tile_row) {
    int n_results = gated ? N / 2 : N, result = gated ? few_result_of(tile_row) : tile_row;
    bool is_up = gated && tile_row % (2 * FEW_GROUP) >= FEW_GROUP;
    return (result < n_results ? result : n_results - 1) + (is_up ? n_results : 0);
}

/* The weight row (of FEW_GROUP) and the first column (of the stage) of the FEW_VECTOR columns that a lane
 * takes. The matrix product takes columns in an order of its own: the one that has a lane's 16 bytes side by
 * side. As both of its operands are in the same order, the sum is over the same products. */
__host__ __device__ static inline int few_lane_row(int lane) {
    return lane / 4;
}

__host__ __device__ static inline int few_lane_column(int lane, int part) {
    return part * FEW_HALF + lane % 4 * FEW_VECTOR;
}

/* Where 16 bytes of x lie in a stage in shared memory: row after row, each of 8 such pieces; those of odd
 * rows change halves, so that the lanes that read together (two rows, half a stage) use every bank once. */
__host__ __device__ static inline int few_shared_piece(int row, int piece) {
    return row * (FEW_STAGE / FEW_VECTOR) + (piece ^ (row % 2 * 4));
}
