/* Attention of prompt rows: flash attention (Dao et al., arXiv 2205.14135), its softmax on line over tiles of
 * positions.
 *
 * A CTA has a tile of queries (attend_map.h) of one kv head, and reads every key and value once for all of
 * them: tiles of positions, aligned to position 0, come by asynchronous copies while the one before is in the
 * tensor cores. Each warp has its own queries, and shares nothing but the tiles with the others.
 *
 * A row's bits depend only on its own queries and on what it sees. The products of a query are a row of the
 * tensor cores' matrices, and rows do not mix. A tile of positions that a query does not see, but others of
 * its warp do, leaves its state: weights 0, and a factor of 1 (or of 0 on a state of zeros).
 *
 * Positions are cut into segments of ATTEND_SEGMENT. Softmax begins anew with each, and their partial results
 * merge in order, whether one CTA walks over all of them or each has its own, as it is where there are few
 * queries behind a long context. */
#include "kernels/cuda/attend.cuh"

enum { ATTEND_SEGMENT = 8192 };

/* What a CTA works on; in shared memory, as registers are scarce. */
typedef struct prompt_place {
    int row0;              /* of the span */
    int query0, n_queries; /* its first query, and the number of queries of the span */
    int kv_head;
    int64_t pos0;       /* of the span */
    int64_t first, end; /* positions that any of its queries sees */
    const int32_t *page_ids;
    int tile, last_tile; /* of positions */
    struct {
        int first, last;           /* tiles that any of its queries sees */
        int first_full, last_full; /* tiles that all of its queries see all of */
    } warps[ATTEND_WARPS];
} prompt_place;

template <int WIDTH, int SIXTEENS> struct prompt_state {
    float o[SIXTEENS][WIDTH / 8][4], sum[SIXTEENS][4], max[SIXTEENS][2];
};

/* ---- where ---- */

/* Of the last query, for those behind it. */
__device__ __forceinline__ int64_t query_pos(const attend_job &job, const prompt_place &place, int query) {
    return place.pos0 + min(query, place.n_queries - 1) / job.group;
}

__device__ static void find_warp(const attend_job &job, int n_queries, int positions, prompt_place *place,
                                 int warp) {
    int query0 = place->query0 + n_queries / ATTEND_WARPS * warp;
    int64_t first = query_pos(job, *place, query0),
            last = query_pos(job, *place, query0 + n_queries / ATTEND_WARPS - 1);
    place->warps[warp].first = static_cast<int>(attend_first_position(first, job.window) / positions);
    place->warps[warp].last = static_cast<int>(last / positions);
    place->warps[warp].first_full =
        static_cast<int>((attend_first_position(last, job.window) + positions - 1) / positions);
    place->warps[warp].last_full = static_cast<int>((first + 1) / positions) - 1;
}

/* False where there is nothing to do. */
__device__ static bool find_place(const attend_job &job, int first_span, int last_span, int n_queries,
                                  int positions, prompt_place *place) {
    const step_tables &step = job.step;
    int number = static_cast<int>(gridDim.x - 1 - blockIdx.x); /* the last, which sees most, first */
    attend_tile tile = attend_find_tile(number, step.span_row0, first_span, last_span, job.group, n_queries);
    place->row0 = step.span_row0[tile.span];
    place->query0 = tile.query0;
    place->n_queries = (step.span_row0[tile.span + 1] - place->row0) * job.group;
    if (tile.query0 >= place->n_queries) return false;
    place->kv_head = static_cast<int>(blockIdx.y);
    place->pos0 = step.row_pos[place->row0];
    place->page_ids = step.page_ids + step.span_page0[tile.span];
    place->first = attend_first_position(query_pos(job, *place, tile.query0), job.window);
    place->end = query_pos(job, *place, tile.query0 + n_queries - 1) + 1;
    if (gridDim.z > 1) { /* one segment */
        int64_t start = static_cast<int64_t>(blockIdx.z) * ATTEND_SEGMENT;
        place->first = max(place->first, start);
        place->end = min(place->end, start + ATTEND_SEGMENT);
    }
    place->tile = static_cast<int>(place->first / positions);
    place->last_tile = static_cast<int>((place->end - 1) / positions);
    for (int warp = 0; warp < ATTEND_WARPS; warp++)
        find_warp(job, n_queries, positions, place, warp);
    return place->first < place->end;
}

/* The element of q and y where a query begins. */
__device__ __forceinline__ size_t query_element(const attend_job &job, const prompt_place &place, int query,
                                                int width) {
    int row = place.row0 + query / job.group, head = place.kv_head * job.group + query % job.group;
    return (static_cast<size_t>(row) * static_cast<size_t>(job.n_heads) + static_cast<size_t>(head)) *
           static_cast<size_t>(width);
}

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

/* One tile of keys, and two tiles behind it one of values; zeros for positions that no query sees. The lanes
 * look up a quantum's page each. */
template <int WIDTH>
__device__ __forceinline__ void copy_tile(const attend_job &job, const prompt_place &place, int tile,
                                          uint16_t *k) {
    const int positions = attend_prompt_positions(WIDTH), quanta = positions / ATTEND_QUANTUM,
              chunks = WIDTH / 8;
    int thread = static_cast<int>(threadIdx.x);
    int64_t start = static_cast<int64_t>(tile) * positions;
    int first = static_cast<int>(max(place.first - start, static_cast<int64_t>(0)));
    int last = static_cast<int>(min(place.end - start, static_cast<int64_t>(positions)));
    int slot = thread % quanta * ATTEND_QUANTUM;
    size_t element = 0;
    if (slot < last && slot + ATTEND_QUANTUM > first) {
        attend_place at =
            attend_place_of(static_cast<int64_t>(tile) * quanta + thread % quanta, job.quanta_per_page);
        element =
            attend_element(place.page_ids, at, job.page_elements, job.step.page_tokens, place.kv_head, WIDTH);
    }
#pragma unroll 4
    for (int i = 0; i < positions * chunks / ATTEND_THREADS; i++) {
        int index = thread + i * ATTEND_THREADS, row = index / chunks, chunk = index % chunks;
        const uint16_t *from = job.pages + __shfl_sync(0xffffffffu, element, row / ATTEND_QUANTUM) +
                               (row % ATTEND_QUANTUM * WIDTH + 8 * chunk);
        int to = row * attend_stride(WIDTH) + 8 * chunk;
        copy_16_async(k + to, from, row >= first && row < last);
        copy_16_async(k + 2 * positions * attend_stride(WIDTH) + to, from + job.page_elements / 2,
                      row >= first && row < last);
    }
}

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

template <int SIXTEENS, int N>
__device__ __forceinline__ void mask_tile(const attend_job &job, const prompt_place &place, int tile,
                                          float s[SIXTEENS][N][4]) {
    const int64_t none = 0, all = 8 * N, start = tile * all;
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int64_t pos =
                query_pos(job, place, place.query0 + 16 * (SIXTEENS * warp + i) + 8 * half + lane / 4);
            int64_t first = attend_first_position(pos, job.window);
            attend_mask<N>(s[i], half, static_cast<int>(min(max(first - start, none), all)),
                           static_cast<int>(min(max(pos + 1 - start, none), all)));
        }
}

/* Scores become weights; the state is scaled to the new maximum. */
template <int WIDTH, int SIXTEENS, int N>
__device__ __forceinline__ void soften(float scale, float s[SIXTEENS][N][4],
                                       prompt_state<WIDTH, SIXTEENS> &state) {
    float factor[SIXTEENS][2];
    bool same = true;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float max = attend_max<N>(s[i], half, scale, state.max[i][half]), shift = attend_shift(max);
            factor[i][half] = attend_exp2(state.max[i][half] - shift);
            same = same && factor[i][half] == 1.0f;
            state.max[i][half] = max;
            attend_weigh<N>(s[i], half, scale, shift);
        }
    if (__all_sync(0xffffffffu, same)) return; /* a product by 1 changes no bit */
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            state.sum[i][e] *= factor[i][e / 2];
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++)
                state.o[i][n][e] *= factor[i][e / 2];
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

/* ---- the end of a segment ---- */

template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void clear_state(prompt_state<WIDTH, SIXTEENS> &state) {
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++) {
        state.max[i][0] = state.max[i][1] = -INFINITY;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            state.sum[i][e] = 0;
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++)
                state.o[i][n][e] = 0;
        }
    }
}

/* The partial result of query `query` in one of the slots: of a segment, or 0: of all so far, 1: of the
 * present. */
__device__ __forceinline__ float *result_of(const attend_job &job, size_t slot, size_t element, int width) {
    size_t first = static_cast<size_t>(job.first_row) * static_cast<size_t>(job.n_heads);
    size_t n = static_cast<size_t>(job.n_rows) * static_cast<size_t>(job.n_heads);
    return job.results + (slot * n + element / static_cast<size_t>(width) - first) *
                             static_cast<size_t>(width + ATTEND_RESULT);
}

/* o[n][2 half], o[n][2 half + 1] are elements 8 n + 2 place and the next. */
template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void put_state(const attend_job &job, const prompt_place &place,
                                          const prompt_state<WIDTH, SIXTEENS> &state, size_t slot) {
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = place.query0 + 16 * (SIXTEENS * warp + i) + 8 * half + lane / 4;
            if (query >= place.n_queries) continue;
            float *at = result_of(job, slot, query_element(job, place, query, WIDTH), WIDTH);
            if (lane % 4 == 0) at[WIDTH] = state.max[i][half], at[WIDTH + 1] = state.sum[i][2 * half];
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++) {
                at[8 * n + lane % 4 * 2] = state.o[i][n][2 * half];
                at[8 * n + lane % 4 * 2 + 1] = state.o[i][n][2 * half + 1];
            }
        }
}

/* The result of queries that see one segment only. */
template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void finish_state(const attend_job &job, const prompt_place &place,
                                             const prompt_state<WIDTH, SIXTEENS> &state) {
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = place.query0 + 16 * (SIXTEENS * warp + i) + 8 * half + lane / 4;
            if (query >= place.n_queries) continue;
            float inverse = 1.0f / state.sum[i][2 * half];
            uint16_t *y = job.y + query_element(job, place, query, WIDTH) + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++) {
                const float *o = &state.o[i][n][2 * half];
                *reinterpret_cast<uint32_t *>(y + 8 * n) = attend_pack(o[0] * inverse, o[1] * inverse);
            }
        }
}

/* Slots 0 and 1 of the warp's queries become slot 0, or the result; four queries at a time are under way. */
template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void merge_slots(const attend_job &job, const prompt_place &place, bool is_last) {
    enum { AT_ONCE = 4 };
    int query0 = place.query0 + 16 * SIXTEENS * (static_cast<int>(threadIdx.x) / WARP);
    int end = min(query0 + 16 * SIXTEENS, place.n_queries);
#pragma unroll 1
    for (; query0 < end; query0 += AT_ONCE) {
        attend_partial<WIDTH> earlier[AT_ONCE], later[AT_ONCE];
        __syncwarp(); /* what other lanes wrote is there */
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            size_t element = query_element(job, place, min(query0 + i, end - 1), WIDTH);
            earlier[i] = attend_get<WIDTH>(result_of(job, 0, element, WIDTH));
            later[i] = attend_get<WIDTH>(result_of(job, 1, element, WIDTH));
        }
        __syncwarp(); /* all lanes have read what one writes */
#pragma unroll
        for (int i = 0; i < AT_ONCE && query0 + i < end; i++) {
            size_t element = query_element(job, place, query0 + i, WIDTH);
            attend_partial<WIDTH> p = attend_merge<WIDTH>(earlier[i], later[i]);
            if (is_last)
                attend_finish<WIDTH>(job.y + element, p);
            else
                attend_put<WIDTH>(result_of(job, 0, element, WIDTH), p);
        }
    }
    __syncwarp();
}

template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void end_segment(const attend_job &job, const prompt_place &place, int64_t segment,
                                            const prompt_state<WIDTH, SIXTEENS> &state) {
    bool is_first = segment == place.first / ATTEND_SEGMENT,
         is_last = segment == (place.end - 1) / ATTEND_SEGMENT;
    if (gridDim.z > 1) {
        put_state<WIDTH, SIXTEENS>(job, place, state, blockIdx.z);
    } else if (is_first && is_last) {
        finish_state<WIDTH, SIXTEENS>(job, place, state);
    } else {
        put_state<WIDTH, SIXTEENS>(job, place, state, is_first ? 0 : 1);
        if (!is_first) merge_slots<WIDTH, SIXTEENS>(job, place, is_last);
    }
}

/* ---- kernels ---- */

template <int WIDTH, int SIXTEENS>
__global__ void __launch_bounds__(ATTEND_THREADS)
    attend_prompt_kernel(const attend_job job, int first_span, int last_span) {
    constexpr int positions = attend_prompt_positions(WIDTH), n_queries = attend_prompt_queries(SIXTEENS);
    constexpr int N = positions / 8, tile_elements = positions * attend_stride(WIDTH);
    static_assert(sizeof(prompt_place) <= ATTEND_PLACE_BYTES, "the place has its place");
    int warp = static_cast<int>(threadIdx.x) / WARP;
    prompt_place &place = *reinterpret_cast<prompt_place *>(cuda_shared_memory());
    uint16_t *q = reinterpret_cast<uint16_t *>(cuda_shared_memory() + ATTEND_PLACE_BYTES);
    uint16_t *k = q + n_queries * attend_stride(WIDTH); /* two tiles, and two of values */
    bool any = threadIdx.x == 0 && find_place(job, first_span, last_span, n_queries, positions, &place);
    if (!__syncthreads_or(any)) return;
    int tile = place.tile;
    copy_queries<WIDTH>(job, place, n_queries, q);
    copy_tile<WIDTH>(job, place, tile, k + tile % 2 * tile_elements);
    copy_async_commit();
    q += 16 * SIXTEENS * attend_stride(WIDTH) * warp;

    prompt_state<WIDTH, SIXTEENS> state;
    clear_state<WIDTH, SIXTEENS>(state);
    for (; tile <= place.last_tile; tile++) {
        copy_async_wait<0>();
        __syncthreads(); /* the tile is there, and no warp reads the one before any more */
        if (tile < place.last_tile)
            copy_tile<WIDTH>(job, place, tile + 1, k + (tile + 1) % 2 * tile_elements);
        copy_async_commit();
        if (tile >= place.warps[warp].first && tile <= place.warps[warp].last) {
            float s[SIXTEENS][N][4];
            multiply_keys<WIDTH, SIXTEENS, N>(s, q, k + tile % 2 * tile_elements);
            if (tile < place.warps[warp].first_full || tile > place.warps[warp].last_full)
                mask_tile<SIXTEENS, N>(job, place, tile, s);
            soften<WIDTH, SIXTEENS, N>(job.scale, s, state);
            add_values<WIDTH, SIXTEENS, N>(s, k + (2 + tile % 2) * tile_elements, state);
        }
        if ((tile + 1) % (ATTEND_SEGMENT / positions) == 0 || tile == place.last_tile) {
            end_segment<WIDTH, SIXTEENS>(job, place, tile / (ATTEND_SEGMENT / positions), state);
            clear_state<WIDTH, SIXTEENS>(state);
        }
    }
}

/* A warp merges the segments of one query, in order. */
template <int WIDTH>
__global__ void __launch_bounds__(ATTEND_THREADS) attend_segments_kernel(const attend_job job) {
    int warp = static_cast<int>(threadIdx.x) / WARP;
    int64_t query = static_cast<int64_t>(blockIdx.x) * ATTEND_WARPS + warp;
    if (query >= static_cast<int64_t>(job.n_rows) * job.n_heads) return;
    int64_t pos = job.step.row_pos[job.first_row + query / job.n_heads];
    size_t element = static_cast<size_t>(static_cast<int64_t>(job.first_row) * job.n_heads + query) * WIDTH;
    int64_t last = pos / ATTEND_SEGMENT;
    attend_partial<WIDTH> p = attend_neutral<WIDTH>();
#pragma unroll 4
    for (int64_t i = attend_first_position(pos, job.window) / ATTEND_SEGMENT; i <= last; i++)
        p = attend_merge<WIDTH>(p, attend_get<WIDTH>(result_of(job, static_cast<size_t>(i), element, WIDTH)));
    attend_finish<WIDTH>(job.y + element, p);
}

/* ---- launching ---- */

/* How a step's prompt rows are cut. None of it changes a bit of the results. */
typedef struct prompt_plan {
    int sixteens, n_tiles; /* 16s of queries of a warp */
    int n_segments;        /* of the longest span */
    bool split;            /* a CTA for each segment */
    size_t result_bytes;
} prompt_plan;

static int tiles_of(const cuda_device *dev, const attend_job *job, int first_span, int last_span,
                    int n_queries) {
    const span *last = &dev->step.host_spans[last_span - 1];
    return attend_first_tile(last_span, last->row0 + last->n_rows, job->group, n_queries) -
           attend_first_tile(first_span, job->first_row, job->group, n_queries);
}

static prompt_plan plan_prompt(const cuda_device *dev, const attend_job *job, int first_span, int last_span,
                               int width) {
    const size_t most_split_bytes = static_cast<size_t>(256) << 20;
    const int64_t wanted = 2 * dev->n_multiprocessors;
    prompt_plan plan = {};
    int64_t end = 0;
    for (int i = first_span; i < last_span; i++) {
        const span *s = &dev->step.host_spans[i];
        end = s->pos0 + s->n_rows > end ? s->pos0 + s->n_rows : end;
    }
    plan.n_segments = static_cast<int>((end + ATTEND_SEGMENT - 1) / ATTEND_SEGMENT);
    plan.sixteens = width > 128 || attend_prompt_bytes(width, 2) > dev->max_shared_bytes ? 1 : 2;
    plan.n_tiles = tiles_of(dev, job, first_span, last_span, attend_prompt_queries(plan.sixteens));
    if (plan.sixteens == 2 && static_cast<int64_t>(plan.n_tiles) * job->n_kv_heads < wanted) {
        plan.sixteens = 1;
        plan.n_tiles = tiles_of(dev, job, first_span, last_span, attend_prompt_queries(1));
    }
    size_t slot_bytes = static_cast<size_t>(job->n_rows) * static_cast<size_t>(job->n_heads) *
                        static_cast<size_t>(width + ATTEND_RESULT) * sizeof(float);
    plan.split = plan.n_segments > 1 && static_cast<int64_t>(plan.n_tiles) * job->n_kv_heads < wanted &&
                 slot_bytes * static_cast<size_t>(plan.n_segments) <= most_split_bytes;
    plan.result_bytes =
        plan.n_segments == 1 ? 0 : slot_bytes * static_cast<size_t>(plan.split ? plan.n_segments : 2);
    return plan;
}

template <int WIDTH>
static void launch_prompt(cuda_device *dev, attend_job job, int first_span, int last_span) {
    prompt_plan plan = plan_prompt(dev, &job, first_span, last_span, WIDTH);
    if (plan.n_tiles < 1) return;
    if (plan.result_bytes) {
        job.results = static_cast<float *>(cuda_device_scratch(dev, plan.result_bytes));
        if (!job.results) return;
    }
    dim3 grid(static_cast<unsigned>(plan.n_tiles), static_cast<unsigned>(job.n_kv_heads),
              plan.split ? static_cast<unsigned>(plan.n_segments) : 1);
    size_t bytes = attend_prompt_bytes(WIDTH, plan.sixteens);
    if (plan.sixteens == 1)
        cuda_launch(dev, "attend", attend_prompt_kernel<WIDTH, 1>, grid, dim3(ATTEND_THREADS), bytes, job,
                    first_span, last_span);
    else
        cuda_launch(dev, "attend", attend_prompt_kernel < WIDTH, WIDTH <= 128 ? 2 : 1 >, grid,
                    dim3(ATTEND_THREADS), bytes, job, first_span, last_span);
    if (!plan.split) return;
    int64_t n_queries = static_cast<int64_t>(job.n_rows) * job.n_heads;
    cuda_launch(dev, "attend", attend_segments_kernel<WIDTH>,
                dim3(static_cast<unsigned>((n_queries + ATTEND_WARPS - 1) / ATTEND_WARPS)),
                dim3(ATTEND_THREADS), 0, job);
}

void cuda_attend_prompt(cuda_device *dev, const attention_shape *shape, const kv_layer *kv, int first_span,
                        int last_span, const void *q, void *y) {
    if (first_span >= last_span) return;
    attend_job job = attend_job_of(dev, shape, kv, first_span, last_span, q, y);
    switch (shape->head_dim) {
    case 64:
        return launch_prompt<64>(dev, job, first_span, last_span);
    case 80:
        return launch_prompt<80>(dev, job, first_span, last_span);
    case 96:
        return launch_prompt<96>(dev, job, first_span, last_span);
    case 128:
        return launch_prompt<128>(dev, job, first_span, last_span);
    case 256:
        return launch_prompt<256>(dev, job, first_span, last_span);
    }
}
