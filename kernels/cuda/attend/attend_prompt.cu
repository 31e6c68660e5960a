/* Attention of prompt rows: flash attention (Dao et al., arXiv 2205.14135), its softmax on line over tiles of
 * positions.
 *
 * A CTA has a tile of queries (attend_map.h) of one kv head, and reads every key and value once for all of
 * them: tiles of positions, aligned to position 0, come by asynchronous copies while the one before is in the
 * tensor cores. Each warp has its own queries, and shares nothing but the tiles with the others.
 *
 * A row's bits depend only on its own queries and on what it sees. The products of a query are a row of the
 * tensor cores' matrices, and rows do not mix. A tile of positions that a query does not see, but others of
 * its warp do, leaves its state: weights 0, and a factor of 1 (or of 0 on a state of zeros). */
#include "kernels/cuda/attend/attend_prompt.cuh"

#include "kernels/cuda/attend/attend_merge.h"
#include "kernels/cuda/device/cuda_ops.h"

/* ---- copies ---- */

template <int WIDTH>
__device__ void copy_queries(const attend_job &job, const prompt_place &place, int n, uint16_t *to) {
    const int chunks = WIDTH / 8;
    for (int i = static_cast<int>(threadIdx.x); i < n * chunks; i += ATTEND_THREADS) {
        int row = i / chunks, chunk = i % chunks, query = place.query0 + row;
        bool valid = query < place.n_queries;
        size_t from = query_element(job, place, valid ? query : place.query0, WIDTH);
        copy_16_async(to + row * attend_stride(WIDTH) + 8 * chunk, job.q + from + 8 * chunk, valid);
    }
}

/* The memory of a step: there are two tiles of keys, and two of values, and behind them the scales of both.
 */
template <int WIDTH> __device__ __forceinline__ tile_memory padded_tile(uint16_t *tiles, int step) {
    const int tile_elements = attend_prompt_positions(WIDTH) * attend_stride(WIDTH);
    uint16_t *k = tiles + step % 2 * tile_elements;
    return {k, k + 2 * tile_elements,
            reinterpret_cast<float *>(tiles + 4 * tile_elements) + step % 2 * attend_tile_scales(WIDTH)};
}

/* Where 8 elements of a position are in it. */
template <int WIDTH> struct padded_element {
    __device__ __forceinline__ int operator()(int row, int chunk) const {
        return row * attend_stride(WIDTH) + 8 * chunk;
    }
};

/* ---- one tile of positions ---- */

template <int WIDTH, int SIXTEENS, int N>
__device__ __forceinline__ void multiply_keys(float s[SIXTEENS][N][4], const uint16_t *q, const uint16_t *k) {
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int n = 0; n < N; n++)
            s[i][n][0] = s[i][n][1] = s[i][n][2] = s[i][n][3] = 0;
#pragma unroll
    for (int d = 0; d < WIDTH; d += 16) {
        uint32_t a[SIXTEENS][4];
#pragma unroll
        for (int i = 0; i < SIXTEENS; i++)
            attend_load_queries<WIDTH>(a[i], q + 16 * i * attend_stride(WIDTH) + d);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            attend_load_keys<WIDTH>(b, k + 8 * n * attend_stride(WIDTH) + d);
#pragma unroll
            for (int i = 0; i < SIXTEENS; i++) {
                warp_mma(s[i][n], a[i], b);
                warp_mma(s[i][n + 1], a[i], b + 2);
            }
        }
    }
}

template <int WIDTH, int SIXTEENS, int N>
__device__ __forceinline__ void add_values(const float s[SIXTEENS][N][4], const uint16_t *v,
                                           prompt_state<WIDTH, SIXTEENS> &state) {
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        uint32_t a[SIXTEENS][4];
#pragma unroll
        for (int i = 0; i < SIXTEENS; i++) {
            attend_pack_weights(a[i], &s[i][n]);
            warp_mma(state.sum[i], a[i], ones);
        }
#pragma unroll
        for (int d = 0; d < WIDTH; d += 16) {
            uint32_t b[4];
            attend_load_values<WIDTH>(b, v + 8 * n * attend_stride(WIDTH) + d);
#pragma unroll
            for (int i = 0; i < SIXTEENS; i++) {
                warp_mma(state.o[i][d / 8], a[i], b);
                warp_mma(state.o[i][d / 8 + 1], a[i], b + 2);
            }
        }
    }
}

/* ---- the kernel ---- */

template <int WIDTH, int SIXTEENS, bool CODED>
__global__ void __launch_bounds__(ATTEND_THREADS)
    attend_prompt_kernel(const attend_job job, const prompt_plan plan) {
    constexpr int positions = attend_prompt_positions(WIDTH), n_queries = attend_prompt_queries(SIXTEENS);
    constexpr int tiles_a_node = ATTEND_NODE / positions;
    constexpr int N = positions / 8;
    static_assert(sizeof(prompt_place) <= ATTEND_PLACE_BYTES, "the place has its place");
    const int thread = static_cast<int>(threadIdx.x), warp = thread / WARP;
    prompt_place &place = *reinterpret_cast<prompt_place *>(cuda_shared_memory());
    uint16_t *q = reinterpret_cast<uint16_t *>(cuda_shared_memory() + ATTEND_PLACE_BYTES);
    uint16_t *k = q + n_queries * attend_stride(WIDTH); /* two tiles, and two of values */
    bool any = threadIdx.x == 0 && find_place(job, plan, n_queries, ATTEND_WARPS, positions, &place);
    if (!__syncthreads_or(any)) return;
    int step = place.first_step;
    copy_queries<WIDTH>(job, place, n_queries, q);
    copy_tile<WIDTH, CODED>(job, place, tile_of<CODED>(job, place, step, positions), thread,
                            padded_tile<WIDTH>(k, step), padded_element<WIDTH>());
    copy_async_commit();
    q += 16 * SIXTEENS * attend_stride(WIDTH) * warp;

    prompt_state<WIDTH, SIXTEENS> state;
    clear_state<WIDTH, SIXTEENS>(state);
    for (; step <= place.last_step; step++) {
        const prompt_tile tile = tile_of<CODED>(job, place, step, positions);
        copy_async_wait<0>();
        if (CODED && tile.is_coded)
            decode_tile<WIDTH>(thread, padded_tile<WIDTH>(k, step), padded_element<WIDTH>());
        __syncthreads(); /* the tile is there, and no warp reads the one before any more */
        if (step < place.last_step)
            copy_tile<WIDTH, CODED>(job, place, tile_of<CODED>(job, place, step + 1, positions), thread,
                                    padded_tile<WIDTH>(k, step + 1), padded_element<WIDTH>());
        copy_async_commit();
        if (step >= place.parts[warp].first && step <= place.parts[warp].last) {
            float s[SIXTEENS][N][4];
            multiply_keys<WIDTH, SIXTEENS, N>(s, q, padded_tile<WIDTH>(k, step).k);
            if (!is_full<CODED>(place, warp, tile)) mask_tile<SIXTEENS, N, CODED>(job, place, tile, s);
            float factor[SIXTEENS][2];
            soften<WIDTH, SIXTEENS, N>(job.scale, s, state, factor);
            scale_state<WIDTH, SIXTEENS>(factor, state);
            add_values<WIDTH, SIXTEENS, N>(s, padded_tile<WIDTH>(k, step).v, state);
        }
        const int node = tile.number / tiles_a_node;
        if (step == last_step<CODED>(place, (node + 1) * tiles_a_node - 1) || step == place.last_step) {
            end_node<WIDTH, SIXTEENS>(job, plan, place, node, state);
            clear_state<WIDTH, SIXTEENS>(state);
        }
    }
}

/* ---- launching ---- */

static int tiles_of(const cuda_device *dev, const attend_job *job, const prompt_plan *plan, int n_queries) {
    const span *last = &dev->step.host_spans[plan->last_span - 1];
    return attend_first_tile(plan->last_span, last->row0 + last->n_rows, job->group, n_queries) -
           attend_first_tile(plan->first_span, job->first_row, job->group, n_queries);
}

static bool uses_hopper(const cuda_device *dev, int width) {
    return attend_has_hopper(width) && dev->has_warpgroup_products;
}

static prompt_plan plan_prompt(const cuda_device *dev, const attend_job *job, const attend_extent *extent,
                               int width) {
    const size_t most_split_bytes = static_cast<size_t>(256) << 20;
    const int64_t wanted = 2 * dev->n_multiprocessors;
    prompt_plan plan = {};
    plan.first_span = extent->first_span;
    plan.last_span = extent->last_span;
    const int64_t n_nodes = attend_last_pos(dev, extent) / ATTEND_NODE + 1;
    plan.nodes.last = n_nodes;
    if (!job->y) plan.nodes = attend_nodes_common(plan.nodes, extent->nodes);
    const bool has_two = width <= 128 && attend_prompt_bytes(width, 2) <= dev->max_shared_bytes &&
                         (!job->has_codes || uses_hopper(dev, width)); /* beside codes registers are few */
    plan.sixteens = has_two ? 2 : 1;
    plan.n_tiles = tiles_of(dev, job, &plan, attend_prompt_queries(plan.sixteens));
    if (plan.sixteens == 2 && static_cast<int64_t>(plan.n_tiles) * job->n_kv_heads < wanted) {
        plan.sixteens = 1;
        plan.n_tiles = tiles_of(dev, job, &plan, attend_prompt_queries(1));
    }
    size_t split_bytes = static_cast<size_t>(n_nodes) * attend_node_floats(&job->layout) * sizeof(float);
    plan.split = !job->y || (n_nodes > 1 && split_bytes <= most_split_bytes &&
                             static_cast<int64_t>(plan.n_tiles) * job->n_kv_heads < wanted);
    plan.n_levels = attend_levels(n_nodes - 1); /* the last node waits nowhere */
    return plan;
}

template <int WIDTH, bool CODED>
static void start_prompt(cuda_device *dev, const attend_job &job, const prompt_plan &plan) {
    dim3 grid(static_cast<unsigned>(plan.n_tiles), static_cast<unsigned>(job.n_kv_heads),
              plan.split ? static_cast<unsigned>(plan.nodes.last - plan.nodes.first) : 1);
    size_t bytes = attend_prompt_bytes(WIDTH, plan.sixteens);
    constexpr int most = WIDTH <= 128 && !CODED ? 2 : 1;
    if (uses_hopper(dev, WIDTH))
        return attend_launch_hopper(dev, job, plan, WIDTH, grid, attend_prompt_queries(plan.sixteens));
    auto kernel =
        plan.sixteens == 1 ? attend_prompt_kernel<WIDTH, 1, CODED> : attend_prompt_kernel<WIDTH, most, CODED>;
    cuda_launch(dev, "attend", kernel, grid, dim3(ATTEND_THREADS), bytes, job, plan);
}

template <int WIDTH>
static void launch_prompt(cuda_device *dev, attend_job job, const attend_extent *extent,
                          attend_merging merging) {
    job.layout = {0, job.first_row, job.n_rows, job.n_heads, WIDTH};
    prompt_plan plan = plan_prompt(dev, &job, extent, WIDTH);
    if (plan.n_tiles < 1 || plan.nodes.first >= plan.nodes.last) return;
    if (!job.y) {
        job.results = merging.partials;
        job.layout = merging.partials_layout;
    } else if (plan.nodes.last > 1) {
        size_t slots = static_cast<size_t>(plan.split ? plan.nodes.last : plan.n_levels + 1);
        job.results = static_cast<float *>(
            cuda_device_scratch(dev, slots * attend_node_floats(&job.layout) * sizeof(float)));
        if (!job.results) return;
    }
    auto start = job.has_codes ? start_prompt<WIDTH, true> : start_prompt<WIDTH, false>;
    start(dev, job, plan);
    if (!job.y || !plan.split) return;
    merging.leaves = job.results;
    merging.layout = job.layout;
    merging.level = ATTEND_NODE_LEVEL;
    merging.nodes = plan.nodes;
    attend_launch_merge(dev, &merging);
}

void cuda_attend_prompt(cuda_device *dev, const attention_shape *shape, const kv_layer *kv,
                        const attend_extent *extent, const void *q, float *partials, void *y) {
    if (extent->first_span >= extent->last_span) return;
    attend_job job = attend_job_of(dev, shape, kv, extent, q, y);
    attend_merging merging = attend_merging_of(dev, shape, extent, partials, y);
    switch (shape->head_dim) {
    case 64:
        return launch_prompt<64>(dev, job, extent, merging);
    case 80:
        return launch_prompt<80>(dev, job, extent, merging);
    case 96:
        return launch_prompt<96>(dev, job, extent, merging);
    case 128:
        return launch_prompt<128>(dev, job, extent, merging);
    case 256:
        return launch_prompt<256>(dev, job, extent, merging);
    }
}
