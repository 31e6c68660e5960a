/* Attention of generated rows: few queries for many keys and values, so that the memory's bandwidth is what
 * counts.
 *
 * A task is a row, a kv head and up to ATTEND_HEADS of its query heads, which are the rows of the tensor
 * cores' matrices. A CTA has a unit of one task: an aligned range of 2^level blocks of positions. Each of its
 * four warps has a quarter of every block, and brings the keys and values of that to shared memory itself: a
 * ring of quanta of 16 positions, several of them under way at any time, without a wait for other warps.
 * Behind each block the four partial results merge, and enter the tree of kernels/attend_blocks.h, of which
 * quarters are the lowest two levels. The units' results are leaves of the same tree's upper part, which
 * attend_merge.cu merges. So a row's bits do not depend on the level.
 *
 * Of pages of codes a quarter of a block is seen as codes, or as it was put: never both. Codes go from shared
 * memory to the tensor cores as whole numbers; scales are factors of scores, and of weights. The tensor cores
 * take the elements of a key in any order, as long as the query's are in the same, and a value's wherever
 * they come out again: so a lane reads 4 codes at once, which in rows lie side by side.
 *
 * A row's position is read from the step's tables on the GPU. The grid knows only an upper bound, a power of
 * two: units behind the position end at once, and a recorded step can be replayed while rows move on. */
#include "kernels/cuda/attend/attend.cuh"
#include "kernels/cuda/attend/attend_merge.h"
#include "kernels/cuda/device/cuda_ops.h"

enum {
    QUARTER = ATTEND_BLOCK / ATTEND_WARPS,
    QUANTA = QUARTER / ATTEND_QUANTUM, /* of a quarter */
    COPIES = 2 * QUANTA,               /* of quanta, in a quarter: its keys, then its values */
    UNIT_LEVELS = 3,
};

typedef struct generated_task {
    int row, head0, n_queries; /* its first query head, and how many */
    int kv_head;
    int64_t pos;
    int slot;
} generated_task;

__device__ __forceinline__ generated_task find_task(const attend_job &job) {
    int parts = (job.group + ATTEND_HEADS - 1) / ATTEND_HEADS, number = static_cast<int>(blockIdx.x);
    int part = number % parts;
    generated_task task;
    task.kv_head = number / parts % job.n_kv_heads;
    task.row = job.first_row + number / parts / job.n_kv_heads;
    task.head0 = task.kv_head * job.group + part * ATTEND_HEADS;
    task.n_queries = min(job.group - part * ATTEND_HEADS, static_cast<int>(ATTEND_HEADS));
    task.pos = job.step.row_pos[task.row];
    task.slot = job.step.row_slot[task.row];
    return task;
}

/* The element of q and y where a query begins. */
__device__ __forceinline__ size_t query_element(const attend_job &job, const generated_task &task, int query,
                                                int width) {
    return (static_cast<size_t>(task.row) * static_cast<size_t>(job.n_heads) +
            static_cast<size_t>(task.head0 + query)) *
           static_cast<size_t>(width);
}

/* ---- copies ---- */

/* What a warp copies of a block: the range that the row sees of it, whether its quarter is seen as codes,
 * and, in lane i, where quantum i % QUANTA of that begins in their pages. */
typedef struct block_source {
    attend_range range;
    bool is_coded;
    size_t begin;
} block_source;

/* An empty range for a block at `end` or behind it. */
template <bool CODED>
__device__ __forceinline__ block_source find_block(const attend_job &job, const generated_task &task,
                                                   int64_t block, int64_t end) {
    int slot = static_cast<int>(threadIdx.x) / WARP * QUARTER +
               static_cast<int>(threadIdx.x) % QUANTA * ATTEND_QUANTUM;
    const int64_t place = block * ATTEND_BLOCK + slot;
    block_source source = {{0, 0}, attend_sees_codes<CODED>(task.pos, place), 0};
    if (block < end) source.range = attend_range_in(task.pos, job.window, block);
    if (slot < source.range.last && slot + ATTEND_QUANTUM > source.range.first)
        source.begin = attend_quantum(CODED && source.is_coded ? job.codes : job.exact, task.slot,
                                      place / ATTEND_QUANTUM, task.kv_head);
    return source;
}

/* A quantum of codes: rows attend_code_stride apart, and their scales behind them. */
template <int WIDTH>
__device__ __forceinline__ void copy_codes(const char *from, int first, attend_range range, uint16_t *to) {
    const int chunks = WIDTH / 16, stride = attend_code_stride(WIDTH);
    int lane = static_cast<int>(threadIdx.x) % WARP;
    char *codes = reinterpret_cast<char *>(to);
#pragma unroll 4
    for (int index = lane; index < ATTEND_QUANTUM * chunks; index += WARP) {
        int row = index / chunks, chunk = index % chunks;
        copy_16_async(codes + row * stride + 16 * chunk, from + ATTEND_SCALE_BYTES + row * WIDTH + 16 * chunk,
                      first + row >= range.first && first + row < range.last);
    }
    if (lane < ATTEND_QUANTUM)
        copy_4_async(codes + ATTEND_QUANTUM * stride + KV_WORD_BYTES * lane, from + KV_WORD_BYTES * lane,
                     first + lane >= range.first && first + lane < range.last);
}

/* Start copy `number` of COPIES of a block. Zeros for positions that the row does not see. */
template <int WIDTH, bool CODED>
__device__ __forceinline__ void start_copy(const attend_job &job, const block_source &source, int number,
                                           uint16_t *ring) {
    const int chunks = WIDTH / 8, slots = attend_slots(WIDTH), quantum = number % QUANTA;
    int lane = static_cast<int>(threadIdx.x) % WARP;
    int first = static_cast<int>(threadIdx.x) / WARP * QUARTER + quantum * ATTEND_QUANTUM;
    const attend_source &pages = CODED && source.is_coded ? job.codes : job.exact;
    const char *begin = attend_pages(pages) + __shfl_sync(0xffffffffu, source.begin, quantum) +
                        (number < QUANTA ? 0 : pages.values);
    uint16_t *to = ring + number % slots * ATTEND_QUANTUM * attend_stride(WIDTH);
    if (CODED && source.is_coded) return copy_codes<WIDTH>(begin, first, source.range, to);
    const uint16_t *from = reinterpret_cast<const uint16_t *>(begin);
#pragma unroll 4
    for (int i = 0; i < ATTEND_QUANTUM * chunks / WARP; i++) {
        int index = lane + WARP * i, row = index / chunks, chunk = index % chunks;
        copy_16_async(to + row * attend_stride(WIDTH) + 8 * chunk, from + row * WIDTH + 8 * chunk,
                      first + row >= source.range.first && first + row < source.range.last);
    }
}

template <int WIDTH>
__device__ __forceinline__ void copy_queries(const attend_job &job, const generated_task &task,
                                             uint16_t *to) {
    const int chunks = WIDTH / 8;
    for (int i = static_cast<int>(threadIdx.x); i < ATTEND_HEADS * chunks; i += ATTEND_THREADS) {
        int query = i / chunks, chunk = i % chunks;
        bool valid = query < task.n_queries;
        copy_16_async(to + query * attend_stride(WIDTH) + 8 * chunk,
                      job.q + query_element(job, task, valid ? query : 0, WIDTH) + 8 * chunk, valid);
    }
}

/* ---- a quarter of a block ---- */

template <int WIDTH> struct quarter_state { float o[WIDTH / 8][4], sum[4], max[2]; };

template <int WIDTH>
__device__ __forceinline__ void multiply_keys(float s[2][4], const uint16_t *q, const uint16_t *k) {
#pragma unroll
    for (int e = 0; e < 4; e++)
        s[0][e] = s[1][e] = 0;
#pragma unroll
    for (int d = 0; d < WIDTH; d += 16) {
        uint32_t a[4], b[4];
        attend_load_queries<WIDTH>(a, q + d);
        attend_load_keys<WIDTH>(b, k + d);
        warp_mma(s[0], a, b);
        warp_mma(s[1], a, b + 2);
    }
}

template <int WIDTH>
__device__ __forceinline__ void add_values(const float s[2][4], const uint16_t *v,
                                           quarter_state<WIDTH> &state) {
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
    uint32_t a[4];
    attend_pack_weights(a, s);
    warp_mma(state.sum, a, ones);
#pragma unroll
    for (int d = 0; d < WIDTH; d += 16) {
        uint32_t b[4];
        attend_load_values<WIDTH>(b, v + d);
        warp_mma(state.o[d / 8], a, b);
        warp_mma(state.o[d / 8 + 1], a, b + 2);
    }
}

/* ---- the same of codes ---- */

__device__ __forceinline__ uint32_t word_at(const char *codes) {
    return *reinterpret_cast<const uint32_t *>(codes);
}

/* The scales behind a quantum's codes, of this lane's columns of a product, and of those 8 further. */
template <int WIDTH> __device__ __forceinline__ void load_scales(const char *codes, float scales[2][2]) {
    const char *at = codes + ATTEND_QUANTUM * attend_code_stride(WIDTH) + threadIdx.x % 4 * sizeof(float2);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const float2 two = *reinterpret_cast<const float2 *>(at + n * 4 * sizeof(float2));
        scales[n][0] = two.x;
        scales[n][1] = two.y;
    }
}

template <int WIDTH>
__device__ __forceinline__ void multiply_key_codes(float s[2][4], const uint16_t *q, const char *codes) {
    constexpr int stride = attend_code_stride(WIDTH);
    const int group = static_cast<int>(threadIdx.x) % WARP / 4, place = static_cast<int>(threadIdx.x) % 4;
    float scales[2][2];
    load_scales<WIDTH>(codes, scales);
    q += group * attend_stride(WIDTH) + 4 * place;
    codes += group * stride + 4 * place;
#pragma unroll
    for (int e = 0; e < 4; e++)
        s[0][e] = s[1][e] = 0;
#pragma unroll
    for (int d = 0; d < WIDTH; d += 16) {
        const uint2 low = *reinterpret_cast<const uint2 *>(q + d),
                    high = *reinterpret_cast<const uint2 *>(q + 8 * attend_stride(WIDTH) + d);
        const uint32_t a[4] = {low.x, high.x, low.y, high.y};
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const uint32_t word = word_at(codes + 8 * n * stride + d);
            const uint32_t b[2] = {attend_codes<0, 1>(word, 0), attend_codes<2, 3>(word, 0)};
            warp_mma(s[n], a, b);
        }
    }
#pragma unroll
    for (int e = 0; e < 4; e++) {
        s[0][e] *= scales[0][e % 2];
        s[1][e] *= scales[1][e % 2];
    }
}

/* Byte T of words of four positions: column `group` of a product. */
template <int T>
__device__ __forceinline__ void add_column(const uint32_t a[4], const uint32_t words[4], float o[4]) {
    const uint32_t b[2] = {attend_codes<T, 4 + T>(words[0], words[1]),
                           attend_codes<T, 4 + T>(words[2], words[3])};
    warp_mma(o, a, b);
}

/* Elements d + 4 group to d + 4 group + 3 of values are columns `group` of state.o[d / 8] to [d / 8 + 3]; of
 * the last 16 of an odd number of these, two are columns of two. */
template <int WIDTH>
__device__ __forceinline__ void add_value_codes(const float s[2][4], const char *codes,
                                                quarter_state<WIDTH> &state) {
    constexpr int stride = attend_code_stride(WIDTH), in_fours = WIDTH / 32 * 32;
    const int group = static_cast<int>(threadIdx.x) % WARP / 4, place = static_cast<int>(threadIdx.x) % 4;
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
    float scales[2][2], weights[2][4];
    uint32_t a[4], words[4];
    attend_pack_weights(a, s);
    warp_mma(state.sum, a, ones);
    load_scales<WIDTH>(codes, scales);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        weights[0][e] = s[0][e] * scales[0][e % 2];
        weights[1][e] = s[1][e] * scales[1][e % 2];
    }
    attend_pack_weights(a, weights);
    codes += 2 * place * stride;
#pragma unroll
    for (int d = 0; d < in_fours; d += 32) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[i] = word_at(codes + (i / 2 * 8 + i % 2) * stride + d + 4 * group);
        add_column<0>(a, words, state.o[d / 8]);
        add_column<1>(a, words, state.o[d / 8 + 1]);
        add_column<2>(a, words, state.o[d / 8 + 2]);
        add_column<3>(a, words, state.o[d / 8 + 3]);
    }
    if constexpr (in_fours < WIDTH) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[i] = *reinterpret_cast<const uint16_t *>(codes + (i / 2 * 8 + i % 2) * stride + in_fours +
                                                           2 * group);
        add_column<0>(a, words, state.o[in_fours / 8]);
        add_column<1>(a, words, state.o[in_fours / 8 + 1]);
    }
}

/* ---- all of it ---- */

/* Scores of the quarter become weights. All of its scores are there, so nothing is scaled afterwards. */
template <int WIDTH>
__device__ __forceinline__ void soften(float scale, attend_range range, float s[QUARTER / 8][4],
                                       quarter_state<WIDTH> &state) {
    int start = static_cast<int>(threadIdx.x) / WARP * QUARTER;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (range.first > start || range.last < start + QUARTER)
            attend_mask<QUARTER / 8>(s, half, range.first - start, range.last - start);
        state.max[half] = attend_max<QUARTER / 8>(s, half, scale, -INFINITY);
        attend_weigh<QUARTER / 8>(s, half, scale, attend_shift(state.max[half]));
    }
}

/* Wait for the oldest copy of the warp, work(its number, where it lies), and start another in its place. */
template <int WIDTH, bool CODED, typename Work>
__device__ __forceinline__ void with_copy(const attend_job &job, const block_source &now,
                                          const block_source &next, int number, uint16_t *ring, Work work) {
    const int slots = attend_slots(WIDTH), another = number + slots;
    copy_async_wait<attend_slots(WIDTH) - 1>();
    __syncwarp();
    work(ring + number % slots * ATTEND_QUANTUM * attend_stride(WIDTH));
    __syncwarp();
    start_copy<WIDTH, CODED>(job, another < COPIES ? now : next, another % COPIES, ring);
    copy_async_commit();
}

template <int WIDTH, bool CODED>
__device__ __forceinline__ void attend_quarter(const attend_job &job, const block_source &now,
                                               const block_source &next, const uint16_t *q, uint16_t *ring,
                                               quarter_state<WIDTH> &state) {
    float s[QUARTER / 8][4];
#pragma unroll
    for (int i = 0; i < QUANTA; i++)
        with_copy<WIDTH, CODED>(job, now, next, i, ring, [&](const uint16_t *k) {
            if (CODED && now.is_coded)
                multiply_key_codes<WIDTH>(&s[2 * i], q, reinterpret_cast<const char *>(k));
            else
                multiply_keys<WIDTH>(&s[2 * i], q, k);
        });
    soften<WIDTH>(job.scale, now.range, s, state);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        state.sum[e] = 0;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++)
            state.o[n][e] = 0;
    }
#pragma unroll
    for (int i = 0; i < QUANTA; i++)
        with_copy<WIDTH, CODED>(job, now, next, QUANTA + i, ring, [&](const uint16_t *v) {
            if (CODED && now.is_coded)
                add_value_codes<WIDTH>(&s[2 * i], reinterpret_cast<const char *>(v), state);
            else
                add_values<WIDTH>(&s[2 * i], v, state);
        });
}

/* ---- partial results ---- */

/* The values of a quarter of codes: add_value_codes says which is where. */
template <int WIDTH>
__device__ __forceinline__ void put_coded_values(const quarter_state<WIDTH> &state, int half, float *values) {
    constexpr int in_fours = WIDTH / 32 * 32;
    const int place = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int e = 2 * half + i;
#pragma unroll
        for (int n = 0; n < in_fours / 8; n += 4)
            *reinterpret_cast<float4 *>(values + 8 * n + 4 * (2 * place + i)) =
                make_float4(state.o[n][e], state.o[n + 1][e], state.o[n + 2][e], state.o[n + 3][e]);
        if constexpr (in_fours < WIDTH)
            *reinterpret_cast<float2 *>(values + in_fours + 2 * (2 * place + i)) =
                make_float2(state.o[in_fours / 8][e], state.o[in_fours / 8 + 1][e]);
    }
}

/* To shared memory [warp][query], attend_staged_floats apart. */
template <int WIDTH, bool CODED>
__device__ __forceinline__ void put_quarter(const quarter_state<WIDTH> &state, bool is_coded, int n_queries,
                                            float *staged) {
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int query = 8 * half + lane / 4;
        if (query >= n_queries) continue;
        float *at = staged + (warp * n_queries + query) * attend_staged_floats(WIDTH);
        if (lane % 4 == 0)
            at[ATTEND_PARTIAL_MAX] = state.max[half], at[ATTEND_PARTIAL_SUM] = state.sum[2 * half];
        at += ATTEND_PARTIAL_VALUES;
        if (CODED && is_coded) {
            put_coded_values<WIDTH>(state, half, at);
            continue;
        }
        at += lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++)
            *reinterpret_cast<float2 *>(at + 8 * n) =
                make_float2(state.o[n][2 * half], state.o[n][2 * half + 1]);
    }
}

/* The result of a unit, or of all. */
template <int WIDTH>
__device__ __forceinline__ void put_unit(const attend_job &job, const generated_task &task, int query,
                                         int64_t unit, const attend_partial<attend_per_lane(WIDTH)> &p) {
    if (job.results)
        attend_put(job.results + attend_partial_at(&job.layout, unit, task.row, task.head0 + query), p,
                   WIDTH);
    else
        attend_finish(reinterpret_cast<__nv_bfloat16 *>(job.y) + query_element(job, task, query, WIDTH), p,
                      WIDTH);
}

/* ---- the kernel ---- */

template <int WIDTH, bool CODED>
__global__ void __launch_bounds__(ATTEND_THREADS, 2)
    attend_generated_kernel(const attend_job job, int level) {
    constexpr int stride = attend_stride(WIDTH), slots = attend_slots(WIDTH), N = attend_per_lane(WIDTH);
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int64_t unit = job.layout.first_node + blockIdx.y;
    const generated_task task = find_task(job);
    const attend_nodes blocks = attend_blocks_of(task.pos, job.window, unit, level);
    if (blocks.first >= blocks.last) return;
    uint16_t *q = reinterpret_cast<uint16_t *>(cuda_shared_memory());
    uint16_t *ring = q + ATTEND_HEADS * stride,
             *ring_end = ring + ATTEND_WARPS * slots * ATTEND_QUANTUM * stride;
    float *staged = reinterpret_cast<float *>(ring_end);
    const int staged_quarter = task.n_queries * attend_staged_floats(WIDTH);
    float *levels = staged + ATTEND_WARPS * staged_quarter;
    ring += warp * slots * ATTEND_QUANTUM * stride;

    block_source now = find_block<CODED>(job, task, blocks.first, blocks.last);
    block_source next = find_block<CODED>(job, task, blocks.first + 1, blocks.last);
    copy_queries<WIDTH>(job, task, q); /* in one group with the first keys */
#pragma unroll
    for (int i = 0; i < slots; i++) {
        start_copy<WIDTH, CODED>(job, now, i, ring);
        copy_async_commit();
    }
    int count = static_cast<int>(blocks.first - (unit << level)); /* that are not seen */
    for (int query = warp; query < task.n_queries; query += ATTEND_WARPS)
        attend_skip_leaves<N>(levels + query * level * attend_level_floats(N), count);
    copy_async_wait<attend_slots(WIDTH) - 1>();
    __syncthreads(); /* the queries are there */

    for (int64_t block = blocks.first; block < blocks.last; block++, count++) {
        quarter_state<WIDTH> state;
        attend_quarter<WIDTH, CODED>(job, now, next, q, ring, state);
        const bool is_coded = now.is_coded;
        now = next;
        next = find_block<CODED>(job, task, block + 2, blocks.last); /* known when it is needed */
        __syncthreads(); /* the partial results before were read */
        put_quarter<WIDTH, CODED>(state, is_coded, task.n_queries, staged);
        __syncthreads();
        for (int query = warp; query < task.n_queries; query += ATTEND_WARPS) {
            float *own = levels + query * level * attend_level_floats(N);
            attend_partial<N> p =
                attend_merge_quarters<N>(staged + query * attend_staged_floats(WIDTH), staged_quarter, WIDTH);
            if (block + 1 < blocks.last)
                attend_add_leaf(own, count, p);
            else
                put_unit<WIDTH>(job, task, query, unit, attend_last_leaf(own, count, p));
        }
    }
}

/* ---- launching ---- */

/* The units' results lie in scratch memory: what they are to become is in `merging`, as far as the units do
 * not matter. Where there is only one unit of all that rows see, it is the result. */
template <int WIDTH>
static void launch_generated(cuda_device *dev, attend_job job, attend_nodes blocks, attend_merging merging) {
    int n_queries = job.group < ATTEND_HEADS ? job.group : static_cast<int>(ATTEND_HEADS);
    int64_t parts = (job.group + ATTEND_HEADS - 1) / ATTEND_HEADS,
            n_tasks = job.n_rows * job.n_kv_heads * parts;
    int level = attend_level_of(blocks.last - blocks.first, n_tasks, 4 * dev->n_multiprocessors,
                                attend_levels_that_fit(WIDTH, n_queries, dev->max_shared_bytes, UNIT_LEVELS));
    const attend_nodes units = {blocks.first >> level, blocks.last >> level};
    const int64_t n_units = units.last - units.first;
    job.layout = {units.first, job.first_row, job.n_rows, job.n_heads, WIDTH};
    if (n_units > 1 || !merging.y) {
        size_t bytes = static_cast<size_t>(n_units) * attend_node_floats(&job.layout) * sizeof(float);
        job.results = static_cast<float *>(cuda_device_scratch(dev, bytes));
        if (!job.results) return;
    }
    auto kernel =
        job.has_codes ? attend_generated_kernel<WIDTH, true> : attend_generated_kernel<WIDTH, false>;
    cuda_launch(dev, "attend", kernel, dim3(static_cast<unsigned>(n_tasks), static_cast<unsigned>(n_units)),
                dim3(ATTEND_THREADS), attend_generated_bytes(WIDTH, n_queries, level), job, level);
    if (!job.results) return;
    merging.leaves = job.results;
    merging.layout = job.layout;
    merging.level = level;
    merging.nodes = units;
    attend_launch_merge(dev, &merging);
}

void cuda_attend_generated(cuda_device *dev, const attention_shape *shape, const kv_layer *kv,
                           const attend_extent *extent, const void *q, float *partials, void *y) {
    attend_nodes blocks = {0, attend_rounded_blocks(dev->step.last_pos)};
    if (!y) blocks = attend_nodes_common(blocks, attend_nodes_below(extent->nodes, ATTEND_NODE_LEVEL));
    if (extent->first_span >= extent->last_span || blocks.first >= blocks.last) return;
    attend_job job = attend_job_of(dev, shape, kv, extent, q, y);
    attend_merging merging = attend_merging_of(dev, shape, extent, partials, y);
    switch (shape->head_dim) {
    case 64:
        return launch_generated<64>(dev, job, blocks, merging);
    case 80:
        return launch_generated<80>(dev, job, blocks, merging);
    case 96:
        return launch_generated<96>(dev, job, blocks, merging);
    case 128:
        return launch_generated<128>(dev, job, blocks, merging);
    case 256:
        return launch_generated<256>(dev, job, blocks, merging);
    }
}
