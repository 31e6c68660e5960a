/* Products with few rows, which cost the reading of the weights: at memory speed.
 *
 * Weights go to shared memory by asynchronous copies of 16 bytes, several stages ahead, each to a place of
 * its own lane: a lane waits only for what it copied itself, so that no barrier stands between the weights
 * and the tensor cores. Weights are the operand of 16 rows, x that of 8 columns.
 *
 * Up to 16 rows (multiply_thin) the block holds all slices of its tiles: x comes from the L2 cache into
 * registers, and the slices' sums meet in shared memory. More rows (multiply_wide) would read x too often
 * that way: there, the tiles of a block share x in shared memory, each block has one slice, and a second
 * kernel adds the slices. Both make the same additions in the same order.
 *
 * GATED: the results are silu(gate) * up, found where the sums of both meet: between the slices' sums and y,
 * or in a lane's registers where there is but one slice. */
#include <assert.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/swiglu.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/matmul/matmul_few.cuh"

enum {
    THIN_DEPTH = 3,  /* stages of weights under way */
    WIDE_DEPTH = 4,  /* the same, with the one that is multiplied */
    PASS_ROWS = 64,  /* of x, at most, for one reading of the weights */
    LANE_BYTES = 16, /* of a copy */
    ADD_THREADS = 256
};

/* y[T, N] (+)= x[T, M] * w[N, M]^T, or of that gated_y[T, N / 2]. */
struct few_job {
    few_plan plan;
    const uint16_t *w, *x;
    float *y;
    __nv_bfloat16 *gated_y;
    int N, M, T;
    bool add;
};

/* In a row of y. */
template <bool GATED> static __host__ __device__ __forceinline__ int n_results(const few_job &job) {
    return GATED ? job.N / 2 : job.N;
}

/* Sums of MT * 16 weight rows with TILES * 8 rows of x; the last index as in warp_mma. */
template <int MT, int TILES> struct few_sums { float at[MT][TILES][4]; };

template <int MT> static __host__ __device__ constexpr int stage_bytes() {
    return MT * 16 * FEW_STAGE * 2;
}

static __device__ __forceinline__ uint4 zeros() {
    return make_uint4(0, 0, 0, 0);
}

/* ---- what a warp does ---- */

/* Where the weight rows of a lane begin. */
template <int MT> struct lane_rows { const uint16_t *at[2 * MT]; };

template <int MT, bool GATED>
static __device__ __forceinline__ lane_rows<MT> lane_rows_of(const few_job &job, int row0) {
    lane_rows<MT> rows;
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        int row = few_weight_row(job.N, GATED, row0 + FEW_GROUP * i + few_lane_row(threadIdx.x % WARP));
        rows.at[i] = job.w + static_cast<size_t>(row) * job.M;
    }
    return rows;
}

/* Begin the copy of a lane's part of a stage of weights, as one group. Columns behind the last are 0. */
template <int MT>
static __device__ __forceinline__ void copy_stage(const few_job &job, const lane_rows<MT> &rows, int stage,
                                                  int end, uint4 *to) {
    int lane = threadIdx.x % WARP;
    if (stage < end) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            int column = stage * FEW_STAGE + few_lane_column(lane, part);
            bool valid = column < job.M;
#pragma unroll
            for (int i = 0; i < 2 * MT; i++)
                copy_16_async(to + (2 * i + part) * WARP + lane, rows.at[i] + (valid ? column : 0), valid);
        }
    }
    copy_async_commit();
}

/* sums += weights (one half of a stage, where copy_stage put them) * x (of each 8 rows, the lane's 16 bytes).
 */
template <int MT, int TILES>
static __device__ __forceinline__ void multiply_half(few_sums<MT, TILES> &sums, const uint4 *weights,
                                                     int part, const uint4 (&x)[TILES]) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < MT; i++) {
        uint4 low = weights[(4 * i + part) * WARP + lane], high = weights[(4 * i + 2 + part) * WARP + lane];
        uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            uint32_t x_first[2] = {x[tile].x, x[tile].y}, x_second[2] = {x[tile].z, x[tile].w};
            warp_mma(sums.at[i][tile], first, x_first);
            warp_mma(sums.at[i][tile], second, x_second);
        }
    }
}

/* Call put(row of x, weight row of the tile, sum) for each sum of this lane. */
template <int MT, int TILES, typename Put>
static __device__ __forceinline__ void for_each_sum(const few_sums<MT, TILES> &sums, const Put &put) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                put(8 * tile + lane % 4 * 2 + j % 2, 16 * i + lane / 4 + j / 2 * 8, sums.at[i][tile][j]);
}

/* Call put(row of x, result of the tile, gate, up) for each result of this lane. */
template <int MT, int TILES, typename Put>
static __device__ __forceinline__ void for_each_pair(const few_sums<MT, TILES> &sums, const Put &put) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                put(8 * tile + lane % 4 * 2 + j, FEW_GROUP * i + lane / 4, sums.at[i][tile][j],
                    sums.at[i][tile][j + 2]);
}

/* ---- results ---- */

static __device__ __forceinline__ void put_sum(const few_job &job, int t, int n, float sum) {
    float *y = job.y + static_cast<size_t>(t) * job.N + n;
    *y = job.add ? *y + sum : sum;
}

static __device__ __forceinline__ void put_gated(const few_job &job, int t, int f, float gate, float up) {
    job.gated_y[static_cast<size_t>(t) * n_results<true>(job) + f] =
        static_cast<__nv_bfloat16>(swiglu(gate, up));
}

/* Those of the slices, `step` apart, from first to last. */
static __device__ __forceinline__ float add_slices(const few_job &job, const float *sums, size_t step) {
    float sum = *sums;
    for (int slice = 1; slice < job.plan.n_slices; slice++)
        sum += sums[slice * step];
    return sum;
}

/* Result n of row t, of the slices' sums; those of its up lie `up` behind. */
template <bool GATED>
static __device__ __forceinline__ void put_result(const few_job &job, int t, int n, const float *sums,
                                                  size_t step, int up) {
    float sum = add_slices(job, sums, step);
    if constexpr (GATED)
        put_gated(job, t, n, sum, add_slices(job, sums + up, step));
    else
        put_sum(job, t, n, sum);
}

/* ---- up to 16 rows ---- */

/* The lane's part of a stage of x. */
template <int TILES>
static __device__ __forceinline__ void load_x(const few_job &job, int stage, int end, uint4 (&x)[2][TILES]) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int part = 0; part < 2; part++)
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            int t = 8 * tile + few_lane_row(lane), column = stage * FEW_STAGE + few_lane_column(lane, part);
            bool valid = t < job.T && column < job.M && stage < end;
            const uint16_t *from = job.x + static_cast<size_t>(t) * job.M + column;
            x[part][tile] = valid ? *reinterpret_cast<const uint4 *>(from) : zeros();
        }
}

/* The slices of the block's tiles are added, and go to y. sums: of each warp [8 TILES, 16 MT], warp_floats
 * apart. */
template <int MT, bool GATED>
static __device__ __forceinline__ void add_thin_slices(const few_job &job, const float *sums,
                                                       int warp_floats) {
    const int rows = 16 * MT, results = GATED ? rows / 2 : rows;
    for (int i = threadIdx.x; i < job.plan.tiles_a_block * job.T * results; i += blockDim.x) {
        int tile = i / (job.T * results), t = i / results % job.T, result = i % results;
        int n = (blockIdx.x * job.plan.tiles_a_block + tile) * results + result;
        if (n >= n_results<GATED>(job)) continue;
        const float *of_tile = sums + static_cast<size_t>(tile) * job.plan.n_slices * warp_floats;
        int row = GATED ? few_gate_row(result) : result;
        put_result<GATED>(job, t, n, of_tile + t * rows + row, warp_floats, FEW_GROUP);
    }
}

template <int MT, int TILES, bool GATED>
static __global__ void __launch_bounds__(MT == 1 ? FEW_MAX_SLICES * WARP : FEW_MAX_SLICES * WARP / 2)
    multiply_thin(few_job job) {
    constexpr int ring_bytes = THIN_DEPTH * stage_bytes<MT>();
    const int warp = threadIdx.x / WARP, slice = few_warp_slice(&job.plan, warp);
    const int row0 = few_warp_tile(&job.plan, blockIdx.x, warp) * 16 * MT;
    int stage = few_slice_stage(&job.plan, slice), end = few_slice_stage(&job.plan, slice + 1);
    const lane_rows<MT> rows = lane_rows_of<MT, GATED>(job, row0);
    uint4 *ring = reinterpret_cast<uint4 *>(cuda_shared_memory() + warp * ring_bytes);
    few_sums<MT, TILES> sums = {};
    uint4 next_x[2][TILES];
    for (int i = 0; i < THIN_DEPTH; i++)
        copy_stage<MT>(job, rows, stage + i, end, ring + i * (stage_bytes<MT>() / LANE_BYTES));
    load_x<TILES>(job, stage, end, next_x);
    for (int slot = 0; stage < end; stage++, slot = slot + 1 < THIN_DEPTH ? slot + 1 : 0) {
        uint4 *weights = ring + slot * (stage_bytes<MT>() / LANE_BYTES);
        uint4 x[2][TILES];
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++)
            x[i / TILES][i % TILES] = next_x[i / TILES][i % TILES];
        load_x<TILES>(job, stage + 1, end, next_x);
        copy_async_wait<THIN_DEPTH - 1>();
        multiply_half<MT, TILES>(sums, weights, 0, x[0]);
        multiply_half<MT, TILES>(sums, weights, 1, x[1]);
        copy_stage<MT>(job, rows, stage + THIN_DEPTH, end, weights);
    }
    copy_async_wait<0>();
    __syncwarp(); /* the warp's ring now takes its sums */
    float *to = reinterpret_cast<float *>(ring);
    for_each_sum(sums, [=](int t, int row, float sum) { to[t * 16 * MT + row] = sum; });
    __syncthreads();
    add_thin_slices<MT, GATED>(job, reinterpret_cast<const float *>(cuda_shared_memory()), ring_bytes / 4);
}

/* ---- more rows ---- */

/* Begin the copy of the block's part of a stage: x for all of its warps, and the weights of this one. */
template <int TILES>
static __device__ __forceinline__ void copy_wide_stage(const few_job &job, const lane_rows<2> &rows,
                                                       int stage, int end, uint4 *x, uint4 *weights) {
    constexpr int pieces = FEW_STAGE / FEW_VECTOR, threads = FEW_WIDE_WARPS * WARP;
    static_assert(8 * TILES * pieces % threads == 0, "each thread copies as many pieces");
    if (stage < end) {
#pragma unroll
        for (int i = 0; i < 8 * TILES * pieces / threads; i++) {
            int at = i * threads + threadIdx.x, t = at / pieces, piece = at % pieces;
            int column = stage * FEW_STAGE + piece * FEW_VECTOR;
            bool valid = t < job.T && column < job.M;
            size_t from = valid ? static_cast<size_t>(t) * job.M + column : 0;
            copy_16_async(x + few_shared_piece(t, piece), job.x + from, valid);
        }
    }
    copy_stage<2>(job, rows, stage, end, weights);
}

template <int TILES>
static __device__ __forceinline__ void multiply_wide_stage(few_sums<2, TILES> &sums, const uint4 *shared_x,
                                                           const uint4 *weights) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int part = 0; part < 2; part++) {
        uint4 x[TILES];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            x[tile] = shared_x[few_shared_piece(8 * tile + few_lane_row(lane),
                                                few_lane_column(lane, part) / FEW_VECTOR)];
        multiply_half<2, TILES>(sums, weights, part, x);
    }
}

/* Block (x, y): FEW_WIDE_WARPS tiles of 32 rows, slice y. partial [n_slices, T, N]: the slices' sums; NULL:
 * there is but one slice, and y is written. GATED: there is. */
template <int TILES, bool GATED>
static __global__ void __launch_bounds__(FEW_WIDE_WARPS *WARP) multiply_wide(few_job job, float *partial) {
    constexpr int x_vectors = 8 * TILES * FEW_STAGE / FEW_VECTOR, w_vectors = stage_bytes<2>() / LANE_BYTES;
    const int warp = threadIdx.x / WARP, slice = blockIdx.y;
    const int row0 = few_wide_row(blockIdx.x, warp);
    const int begin = few_slice_stage(&job.plan, slice), end = few_slice_stage(&job.plan, slice + 1);
    const lane_rows<2> rows = lane_rows_of<2, GATED>(job, row0);
    uint4 *x_ring = reinterpret_cast<uint4 *>(cuda_shared_memory());
    uint4 *ring = x_ring + WIDE_DEPTH * x_vectors + warp * WIDE_DEPTH * w_vectors;
    few_sums<2, TILES> sums = {};
    for (int i = 0; i < WIDE_DEPTH - 1; i++)
        copy_wide_stage<TILES>(job, rows, begin + i, end, x_ring + i * x_vectors, ring + i * w_vectors);
    for (int stage = begin; stage < end; stage++) {
        int slot = (stage - begin) % WIDE_DEPTH, free_slot = (slot + WIDE_DEPTH - 1) % WIDE_DEPTH;
        copy_async_wait<WIDE_DEPTH - 2>();
        __syncthreads(); /* x is there for all, and none reads the slot of the stage before any more */
        copy_wide_stage<TILES>(job, rows, stage + WIDE_DEPTH - 1, end, x_ring + free_slot * x_vectors,
                               ring + free_slot * w_vectors);
        multiply_wide_stage<TILES>(sums, x_ring + slot * x_vectors, ring + slot * w_vectors);
    }
    copy_async_wait<0>();
    if constexpr (GATED)
        for_each_pair(sums, [&](int t, int result, float gate, float up) {
            int n = few_result_of(row0) + result;
            if (t < job.T && n < n_results<true>(job)) put_gated(job, t, n, gate, up);
        });
    else
        for_each_sum(sums, [&](int t, int row, float sum) {
            int n = row0 + row;
            if (t >= job.T || n >= job.N) return;
            if (partial)
                partial[(static_cast<size_t>(slice) * job.T + t) * job.N + n] = sum;
            else
                put_sum(job, t, n, sum);
        });
}

/* Block (x, y): of row y. */
template <bool GATED>
static __global__ void __launch_bounds__(ADD_THREADS) add_wide_slices(few_job job, const float *partial) {
    int t = blockIdx.y, n = blockIdx.x * ADD_THREADS + threadIdx.x;
    if (n >= n_results<GATED>(job)) return;
    put_result<GATED>(job, t, n, partial + static_cast<size_t>(t) * job.N + n,
                      static_cast<size_t>(job.T) * job.N, n_results<GATED>(job));
}

/* ---- host ---- */

template <int MT, int TILES, bool GATED> static void launch_thin(cuda_device *dev, const few_job &job) {
    int n_warps = job.plan.tiles_a_block * job.plan.n_slices;
    int n_blocks = few_parts(job.plan.n_tiles, job.plan.tiles_a_block);
    size_t shared = static_cast<size_t>(n_warps) * THIN_DEPTH * stage_bytes<MT>();
    cuda_launch(dev, "product with few rows", multiply_thin<MT, TILES, GATED>, dim3(n_blocks),
                dim3(n_warps * WARP), shared, job);
}

/* The slices' sums are the same whether gated or not. */
template <int TILES, bool GATED> static void launch_wide(cuda_device *dev, const few_job &job) {
    auto multiply = multiply_wide<TILES, GATED>;
    float *partial = nullptr;
    if (job.plan.n_slices > 1) {
        size_t n = static_cast<size_t>(job.plan.n_slices) * job.T * job.N;
        partial = static_cast<float *>(cuda_device_scratch(dev, n * sizeof *partial));
        if (!partial) return;
        multiply = multiply_wide<TILES, false>;
    }
    size_t shared =
        WIDE_DEPTH * static_cast<size_t>(8 * TILES * FEW_STAGE * 2 + FEW_WIDE_WARPS * stage_bytes<2>());
    dim3 grid(few_parts(job.N, few_wide_row(1, 0)), job.plan.n_slices);
    cuda_launch(dev, "product with some rows", multiply, grid, dim3(FEW_WIDE_WARPS * WARP), shared, job,
                partial);
    if (partial)
        cuda_launch(dev, "sum of slices", add_wide_slices<GATED>,
                    dim3(few_parts(n_results<GATED>(job), ADD_THREADS), job.T), dim3(ADD_THREADS), 0, job,
                    partial);
}

template <bool GATED> static void multiply_pass(cuda_device *dev, const few_job &job) {
    bool small = job.plan.tile_rows == 16;
    if (job.T > 32)
        launch_wide<8, GATED>(dev, job);
    else if (job.T > 16)
        launch_wide<4, GATED>(dev, job);
    else if (job.T > 8)
        small ? launch_thin<1, 2, GATED>(dev, job) : launch_thin<2, 2, GATED>(dev, job);
    else
        small ? launch_thin<1, 1, GATED>(dev, job) : launch_thin<2, 1, GATED>(dev, job);
}

bool cuda_multiply_few_can(const cuda_device *dev, const matrix *w) {
    return dev->base.act == DTYPE_BF16 && w->n_cols > 0 && w->n_cols % FEW_VECTOR == 0 &&
           w->n_cols <= FEW_MOST_COLUMNS && w->n_rows <= FEW_MOST_ROWS;
}

/* PASS_ROWS rows for each reading of the weights. */
template <bool GATED>
static void multiply_few(cuda_device *dev, const matrix *w, const void *x, int T, few_job job) {
    assert(cuda_multiply_few_can(dev, w));
    job.N = static_cast<int>(w->n_rows);
    job.M = static_cast<int>(w->n_cols);
    job.plan = few_plan_of(job.N, job.M);
    job.w = static_cast<const uint16_t *>(w->data);
    job.x = static_cast<const uint16_t *>(x);
    for (int row0 = 0; row0 < T; row0 += PASS_ROWS) {
        job.T = T - row0 < PASS_ROWS ? T - row0 : PASS_ROWS;
        multiply_pass<GATED>(dev, job);
        job.x += static_cast<size_t>(job.T) * job.M;
        if constexpr (GATED)
            job.gated_y += static_cast<size_t>(job.T) * n_results<true>(job);
        else
            job.y += static_cast<size_t>(job.T) * job.N;
    }
}

void cuda_multiply_few(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add) {
    few_job job = {};
    job.y = y;
    job.add = add;
    multiply_few<false>(dev, w, x, T, job);
}

void cuda_multiply_few_swiglu(cuda_device *dev, const matrix *w, const void *x, int T, void *y) {
    assert(w->n_rows % 2 == 0);
    few_job job = {};
    job.gated_y = static_cast<__nv_bfloat16 *>(y);
    multiply_few<true>(dev, w, x, T, job);
}
