/* Attention of prompt rows on Hopper: attend_prompt.cu's, bit by bit the same sums in the same order as far
 * as the tensor cores' allow, on products of warpgroups, with warps of their own for the copies (as
 * FlashAttention-3 has them: Shah et al., arXiv 2407.08608, sections 3.1 and 3.2).
 *
 * A CTA is one warpgroup that copies tiles of keys and values into stages, and one or two that multiply, with
 * 64 queries each. Barriers say of each stage that it is full, or empty again. A warpgroup begins the scores
 * of the next tile and the values of this one together; while the values are added it softens the next
 * scores. */
#include "kernels/cuda/attend/attend_prompt.cuh"
#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/warpgroup.cuh"

enum { PART_QUERIES = 64, PART_WARPS = 4, SCORES = ATTEND_SWIZZLED_ROWS / 8 };

/* The stages in shared memory; number i has the tile of the CTA's step of that number, modulo ATTEND_STAGES.
 */
struct tile_stages {
    uint64_t *full, *empty;
    float *scales;
    uint16_t *tiles;
};

template <int WIDTH> __device__ __forceinline__ uint16_t *keys_of(const tile_stages &stages, int number) {
    return stages.tiles + number % ATTEND_STAGES * 2 * ATTEND_SWIZZLED_ROWS * WIDTH;
}

template <int WIDTH> __device__ __forceinline__ uint16_t *values_of(const tile_stages &stages, int number) {
    return keys_of<WIDTH>(stages, number) + ATTEND_SWIZZLED_ROWS * WIDTH;
}

__device__ __forceinline__ tile_stages find_stages() {
    tile_stages stages;
    stages.full = reinterpret_cast<uint64_t *>(cuda_shared_memory() + ATTEND_PLACE_BYTES);
    stages.empty = stages.full + ATTEND_STAGES;
    stages.scales = reinterpret_cast<float *>(stages.empty + ATTEND_STAGES);
    unsigned char *behind = reinterpret_cast<unsigned char *>(
        stages.scales + ATTEND_STAGES * attend_tile_scales(ATTEND_SWIZZLED_WIDTH));
    uint32_t past = shared_address(behind) % ATTEND_SWIZZLED_ALIGNMENT;
    stages.tiles = reinterpret_cast<uint16_t *>(behind + (ATTEND_SWIZZLED_ALIGNMENT - past));
    return stages;
}

/* ---- the warpgroup that copies ---- */

template <int WIDTH> __device__ __forceinline__ tile_memory memory_of(const tile_stages &stages, int number) {
    return {keys_of<WIDTH>(stages, number), values_of<WIDTH>(stages, number),
            stages.scales + number % ATTEND_STAGES * attend_tile_scales(WIDTH)};
}

template <int WIDTH, bool CODED>
__device__ __forceinline__ void copy_tiles(const attend_job &job, const prompt_place &place,
                                           const tile_stages &stages) {
    const auto element = [](int row, int chunk) { return attend_swizzled_element(row, chunk); };
    int n_steps = place.last_step - place.first_step + 1, thread = static_cast<int>(threadIdx.x) % WARPGROUP;
    for (int i = 0; i < n_steps + ATTEND_COPIES; i++) {
        if (i < n_steps) {
            if (i >= ATTEND_STAGES)
                shared_barrier_wait(stages.empty + i % ATTEND_STAGES, i / ATTEND_STAGES - 1);
            copy_tile<WIDTH, CODED>(job, place,
                                    tile_of<CODED>(job, place, place.first_step + i, ATTEND_SWIZZLED_ROWS),
                                    thread, memory_of<WIDTH>(stages, i), element);
        }
        copy_async_commit();
        if (i < ATTEND_COPIES) continue;
        copy_async_wait<ATTEND_COPIES>();
        const int there = i - ATTEND_COPIES;
        if (CODED && tile_of<CODED>(job, place, place.first_step + there, ATTEND_SWIZZLED_ROWS).is_coded)
            decode_tile<WIDTH>(thread, memory_of<WIDTH>(stages, there), element);
        warpgroup_show();
        shared_barrier_arrive(stages.full + there % ATTEND_STAGES);
    }
}

/* ---- a warpgroup that multiplies ---- */

/* The queries of a warp as operands: q[i] is a of warp_mma for elements 16 i on. */
template <int WIDTH>
__device__ __forceinline__ void load_queries(const attend_job &job, const prompt_place &place,
                                             uint32_t q[WIDTH / 16][4]) {
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int query = place.query0 + 16 * warp + 8 * half + lane / 4;
        bool valid = query < place.n_queries;
        const uint32_t *from = reinterpret_cast<const uint32_t *>(
                                   job.q + query_element(job, place, valid ? query : place.query0, WIDTH)) +
                               lane % 4;
#pragma unroll
        for (int i = 0; i < WIDTH / 16; i++) {
            q[i][half] = valid ? from[8 * i] : 0;
            q[i][half + 2] = valid ? from[8 * i + 4] : 0;
        }
    }
}

/* Where position `row`'s elements from d on are in a tile, but for the swizzling within eight rows. */
__device__ __forceinline__ constexpr int bytes_before(int row, int d) {
    return ((d / ATTEND_SWIZZLED_WIDTH * ATTEND_SWIZZLED_ROWS + row) * ATTEND_SWIZZLED_WIDTH +
            d % ATTEND_SWIZZLED_WIDTH) *
           static_cast<int>(sizeof(uint16_t));
}

/* Begin s = q k^T for tile number `number`, when it is there. */
template <int WIDTH>
__device__ __forceinline__ void begin_scores(const tile_stages &stages, int number,
                                             const uint32_t q[WIDTH / 16][4], float s[SCORES][4]) {
    shared_barrier_wait(stages.full + number % ATTEND_STAGES, number / ATTEND_STAGES);
    uint64_t k = warpgroup_matrix(keys_of<WIDTH>(stages, number));
    warpgroup_begin();
#pragma unroll
    for (int d = 0; d < WIDTH; d += 16)
        warpgroup_mma<false>(s, q[d / 16], warpgroup_part(k, bytes_before(0, d)), d > 0);
    warpgroup_commit();
}

/* Begin o += weights * v, of a tile that is there. */
template <int WIDTH>
__device__ __forceinline__ void begin_values(const tile_stages &stages, int number,
                                             const uint32_t weights[SCORES / 2][4], float o[WIDTH / 8][4]) {
    uint64_t v = warpgroup_matrix(values_of<WIDTH>(stages, number));
    warpgroup_begin();
#pragma unroll
    for (int n = 0; n < SCORES / 2; n++)
#pragma unroll
        for (int d = 0; d < WIDTH; d += ATTEND_SWIZZLED_WIDTH)
            warpgroup_mma<true>(o + d / 8, weights[n], warpgroup_part(v, bytes_before(16 * n, d)), true);
    warpgroup_commit();
}

/* Tile number `number` is not needed any more: by the first lane, for the warp. */
__device__ __forceinline__ void leave_tile(const tile_stages &stages, int number) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) shared_barrier_arrive(stages.empty + number % ATTEND_STAGES);
}

/* Tiles that none of the warpgroup's queries sees. */
__device__ __forceinline__ void pass_tiles(const tile_stages &stages, int number, int end) {
#pragma unroll 1
    for (; number < end; number++) {
        shared_barrier_wait(stages.full + number % ATTEND_STAGES, number / ATTEND_STAGES);
        leave_tile(stages, number);
    }
}

/* Scores of step `number` become weights beside the new maximum. */
template <int WIDTH, bool CODED>
__device__ __forceinline__ void soften_tile(const attend_job &job, const prompt_place &place, int part,
                                            int number, float s[SCORES][4], prompt_state<WIDTH, 1> &state,
                                            float factor[1][2]) {
    float(&of_one)[1][SCORES][4] = reinterpret_cast<float(&)[1][SCORES][4]>(*s);
    const prompt_tile tile = tile_of<CODED>(job, place, place.first_step + number, ATTEND_SWIZZLED_ROWS);
    if (!is_full<CODED>(place, part, tile)) mask_tile<1, SCORES, CODED>(job, place, tile, of_one);
    soften<WIDTH, 1, SCORES>(job.scale, of_one, state, factor);
}

/* Weights become operands, and count in their sum. */
template <int WIDTH>
__device__ __forceinline__ void pack_tile(const float s[SCORES][4], uint32_t weights[SCORES / 2][4],
                                          prompt_state<WIDTH, 1> &state) {
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
#pragma unroll
    for (int n = 0; n < SCORES / 2; n++) {
        attend_pack_weights(weights[n], s + 2 * n);
        warp_mma(state.sum[0], weights[n], ones);
    }
}

/* Add the tiles of the CTA's steps [first, last] to the state, all of one node. */
template <int WIDTH, bool CODED>
__device__ __forceinline__ void attend_tiles(const attend_job &job, const prompt_place &place,
                                             const tile_stages &stages, int part, int first, int last,
                                             const uint32_t q[WIDTH / 16][4], prompt_state<WIDTH, 1> &state) {
    int begin = max(first, place.parts[part].first - place.first_step);
    int end = min(last, place.parts[part].last - place.first_step);
    if (begin > end) return pass_tiles(stages, first, last + 1);
    pass_tiles(stages, first, begin);
    float s[SCORES][4], factor[1][2];
    uint32_t weights[SCORES / 2][4];
    begin_scores<WIDTH>(stages, begin, q, s);
    warpgroup_wait<0>();
    warpgroup_pin<SCORES>(s);
    soften_tile<WIDTH, CODED>(job, place, part, begin, s, state, factor);
    pack_tile<WIDTH>(s, weights, state);
#pragma unroll 1
    for (int number = begin; number < end; number++) {
        begin_scores<WIDTH>(stages, number + 1, q, s);
        begin_values<WIDTH>(stages, number, weights, state.o[0]);
        warpgroup_wait<1>();
        warpgroup_pin<SCORES>(s);
        soften_tile<WIDTH, CODED>(job, place, part, number + 1, s, state, factor);
        warpgroup_wait<0>();
        warpgroup_pin<WIDTH / 8>(state.o[0]);
        leave_tile(stages, number);
        scale_state<WIDTH, 1>(factor, state);
        pack_tile<WIDTH>(s, weights, state);
    }
    begin_values<WIDTH>(stages, end, weights, state.o[0]);
    warpgroup_wait<0>();
    warpgroup_pin<WIDTH / 8>(state.o[0]);
    leave_tile(stages, end);
    pass_tiles(stages, end + 1, last + 1);
}

template <int WIDTH, bool CODED>
__device__ __forceinline__ void attend_all_nodes(const attend_job &job, const prompt_plan &plan,
                                                 const prompt_place &place, const tile_stages &stages) {
    const int tiles_a_node = ATTEND_NODE / ATTEND_SWIZZLED_ROWS;
    int part = static_cast<int>(threadIdx.x) / WARPGROUP;
    uint32_t q[WIDTH / 16][4];
    load_queries<WIDTH>(job, place, q);
    for (int step = place.first_step; step <= place.last_step;) {
        int node = tile_of<CODED>(job, place, step, ATTEND_SWIZZLED_ROWS).number / tiles_a_node;
        int last = min(place.last_step, last_step<CODED>(place, (node + 1) * tiles_a_node - 1));
        prompt_state<WIDTH, 1> state;
        clear_state<WIDTH, 1>(state);
        attend_tiles<WIDTH, CODED>(job, place, stages, part, step - place.first_step, last - place.first_step,
                                   q, state);
        end_node<WIDTH, 1>(job, plan, place, node, state);
        step = last + 1;
    }
}

/* ---- the kernel ---- */

/* Registers: the multiprocessor has 168 for each of the threads of three warpgroups, and 224 for those of two
 * when the third makes do with 56. */
template <int WIDTH, int PARTS, bool CODED>
__global__ void __launch_bounds__((PARTS + 1) * WARPGROUP, 1)
    attend_hopper_kernel(const attend_job job, const prompt_plan plan) {
    static_assert(attend_prompt_positions(WIDTH) == ATTEND_SWIZZLED_ROWS, "tiles are as elsewhere");
    prompt_place &place = *reinterpret_cast<prompt_place *>(cuda_shared_memory());
    tile_stages stages = find_stages();
    bool any =
        threadIdx.x == 0 && find_place(job, plan, PARTS * PART_QUERIES, PARTS, ATTEND_SWIZZLED_ROWS, &place);
    if (threadIdx.x == 0)
        for (int i = 0; i < ATTEND_STAGES; i++) {
            shared_barrier_init(stages.full + i, WARPGROUP);
            shared_barrier_init(stages.empty + i, PARTS * PART_WARPS);
        }
    if (!__syncthreads_or(any)) return;
    if (threadIdx.x >= PARTS * WARPGROUP) {
        if (PARTS == 2) warpgroup_give_registers<56>();
        copy_tiles<WIDTH, CODED>(job, place, stages);
    } else {
        if (PARTS == 2) warpgroup_take_registers<224>();
        attend_all_nodes<WIDTH, CODED>(job, plan, place, stages);
    }
}

template <int WIDTH, bool CODED>
static void launch(cuda_device *dev, const attend_job &job, const prompt_plan &plan, dim3 grid,
                   int n_queries) {
    const int parts = n_queries / PART_QUERIES;
    auto kernel = parts == 1 ? attend_hopper_kernel<WIDTH, 1, CODED> : attend_hopper_kernel<WIDTH, 2, CODED>;
    cuda_launch(dev, "attend", kernel, grid, dim3(static_cast<unsigned>(parts + 1) * WARPGROUP),
                attend_hopper_bytes(WIDTH), job, plan);
}

void attend_launch_hopper(cuda_device *dev, const attend_job &job, const prompt_plan &plan, int width,
                          dim3 grid, int n_queries) {
    auto start = width == 64 ? (job.has_codes ? launch<64, true> : launch<64, false>)
                             : (job.has_codes ? launch<128, true> : launch<128, false>);
    start(dev, job, plan, grid, n_queries);
}
