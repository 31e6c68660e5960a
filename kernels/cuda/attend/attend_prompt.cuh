/* kernels/cuda/attend/attend_prompt.cuh: what the kernels for prompt rows share, whichever tensor core
 * instructions they are made of: what a CTA works on, where a query lies, softmax, and the nodes of a long
 * context.
 *
 * A CTA has a tile of queries (attend_map.h) of one kv head, and walks over tiles of positions, aligned to
 * position 0. A warp has 16 * SIXTEENS of the queries, its lanes hold their scores and values as warp_mma's
 * c.
 *
 * Softmax begins anew with each node (kernels/attend_blocks.h), and their partial results merge in the tree,
 * whether one CTA walks over all of them or each has its own, as it is where there are few queries behind a
 * long context, and where partial results are what is wanted. */
#pragma once

#include "kernels/cuda/attend/attend.cuh"

/* How a step's prompt rows are cut. None of it changes a bit of the results. */
typedef struct prompt_plan {
    int first_span, last_span;
    int sixteens, n_tiles; /* 16s of queries of a warp */
    attend_nodes nodes;    /* that any row sees, as far as they are wanted */
    bool split;            /* a CTA for each node, whose results are those of the job */
    int n_levels;          /* of the tree, that wait in the job's results; otherwise */
} prompt_plan;

/* What a CTA works on; in shared memory, as registers are scarce. */
typedef struct prompt_place {
    int row0;              /* of the span */
    int query0, n_queries; /* its first query, and the number of queries of the span */
    int kv_head;
    int64_t pos0;       /* of the span */
    int64_t first, end; /* positions that any of its queries sees */
    const int32_t *table;
    int tile, last_tile; /* of positions */
    struct {
        int first, last;           /* tiles that any of its queries sees */
        int first_full, last_full; /* tiles that all of its queries see all of */
    } parts[ATTEND_PARTS];         /* of the queries: of a warp, or of several */
} prompt_place;

template <int WIDTH, int SIXTEENS> struct prompt_state {
    float o[SIXTEENS][WIDTH / 8][4], sum[SIXTEENS][4], max[SIXTEENS][2];
};

/* ---- where ---- */

/* Of the last query, for those behind it. */
__device__ __forceinline__ int64_t query_pos(const attend_job &job, const prompt_place &place, int query) {
    return place.pos0 + min(query, place.n_queries - 1) / job.group;
}

/* Of the part that begins with query0. */
__device__ static void find_part(const attend_job &job, int query0, int n_queries, int positions, int part,
                                 prompt_place *place) {
    int64_t first = query_pos(job, *place, query0), last = query_pos(job, *place, query0 + n_queries - 1);
    place->parts[part].first = static_cast<int>(attend_first_position(first, job.window) / positions);
    place->parts[part].last = static_cast<int>(last / positions);
    place->parts[part].first_full =
        static_cast<int>((attend_first_position(last, job.window) + positions - 1) / positions);
    place->parts[part].last_full = static_cast<int>((first + 1) / positions) - 1;
}

/* The place of a CTA of n_queries queries in n_parts equal parts. False where there is nothing to do. */
__device__ static bool find_place(const attend_job &job, const prompt_plan &plan, int n_queries, int n_parts,
                                  int positions, prompt_place *place) {
    const step_tables &step = job.step;
    int number = static_cast<int>(gridDim.x - 1 - blockIdx.x); /* the last, which sees most, first */
    attend_tile tile =
        attend_find_tile(number, step.span_row0, plan.first_span, plan.last_span, job.group, n_queries);
    place->row0 = step.span_row0[tile.span];
    place->query0 = tile.query0;
    place->n_queries = (step.span_row0[tile.span + 1] - place->row0) * job.group;
    if (tile.query0 >= place->n_queries) return false;
    place->kv_head = static_cast<int>(blockIdx.y);
    place->pos0 = step.row_pos[place->row0];
    place->table = kv_layer_table(&job.kv, step.row_slot[place->row0]);
    place->first = attend_first_position(query_pos(job, *place, tile.query0), job.window);
    place->end = query_pos(job, *place, tile.query0 + n_queries - 1) + 1;
    if (plan.split) {
        int64_t start = (plan.nodes.first + blockIdx.z) * ATTEND_NODE;
        place->first = max(place->first, start);
        place->end = min(place->end, start + ATTEND_NODE);
    }
    place->tile = static_cast<int>(place->first / positions);
    place->last_tile = static_cast<int>((place->end - 1) / positions);
    for (int i = 0; i < n_parts; i++)
        find_part(job, place->query0 + n_queries / n_parts * i, n_queries / n_parts, positions, i, place);
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

/* One tile of keys and one of values, by thread number `thread` of ATTEND_THREADS; zeros for positions that
 * no query sees. element(row, chunk): where 8 elements of a position belong. The lanes look up a quantum's
 * page each. */
template <int WIDTH, typename Element>
__device__ __forceinline__ void copy_tile(const attend_job &job, const prompt_place &place, int tile,
                                          int thread, uint16_t *k, uint16_t *v, const Element &element) {
    const int positions = attend_prompt_positions(WIDTH), quanta = positions / ATTEND_QUANTUM,
              chunks = WIDTH / 8;
    int64_t start = static_cast<int64_t>(tile) * positions;
    int first = static_cast<int>(max(place.first - start, static_cast<int64_t>(0)));
    int last = static_cast<int>(min(place.end - start, static_cast<int64_t>(positions)));
    int slot = thread % quanta * ATTEND_QUANTUM;
    size_t found = 0, values = kv_element(&job.kv.format, KV_PART_V, 0, 0); /* behind the keys */
    if (slot < last && slot + ATTEND_QUANTUM > first) {
        attend_place at =
            attend_place_of(static_cast<int64_t>(tile) * quanta + thread % quanta, job.quanta_per_page);
        found = attend_element(&job.kv.format, place.table, at, place.kv_head);
    }
#pragma unroll 4
    for (int i = 0; i < positions * chunks / ATTEND_THREADS; i++) {
        int index = thread + i * ATTEND_THREADS, row = index / chunks, chunk = index % chunks;
        const uint16_t *from = job.pages + __shfl_sync(0xffffffffu, found, row / ATTEND_QUANTUM) +
                               (row % ATTEND_QUANTUM * WIDTH + 8 * chunk);
        int to = element(row, chunk);
        copy_16_async(k + to, from, row >= first && row < last);
        copy_16_async(v + to, from + values, row >= first && row < last);
    }
}

/* ---- one tile of positions ---- */

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

/* Scores become weights beside the new maximum; factor: what the state is to be scaled by. */
template <int WIDTH, int SIXTEENS, int N>
__device__ __forceinline__ void soften(float scale, float s[SIXTEENS][N][4],
                                       prompt_state<WIDTH, SIXTEENS> &state, float factor[SIXTEENS][2]) {
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float max = attend_max<N>(s[i], half, scale, state.max[i][half]), shift = attend_shift(max);
            factor[i][half] = attend_exp2(state.max[i][half] - shift);
            state.max[i][half] = max;
            attend_weigh<N>(s[i], half, scale, shift);
        }
}

template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void scale_state(const float factor[SIXTEENS][2],
                                            prompt_state<WIDTH, SIXTEENS> &state) {
    bool same = true;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
        same = same && factor[i][0] == 1.0f && factor[i][1] == 1.0f;
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

/* ---- the end of a node ---- */

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

/* The partial result of a query in one of the job's slots: of a node, or what waits at a level of the tree,
 * or, behind these, of the present node. */
__device__ __forceinline__ float *result_of(const attend_job &job, const prompt_place &place, int slot,
                                            int query) {
    return job.results + attend_partial_at(&job.layout, slot, place.row0 + query / job.group,
                                           place.kv_head * job.group + query % job.group);
}

/* o[n][2 half], o[n][2 half + 1] are elements 8 n + 2 place and the next. */
template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void put_state(const attend_job &job, const prompt_place &place,
                                          const prompt_state<WIDTH, SIXTEENS> &state, int slot) {
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = place.query0 + 16 * (SIXTEENS * warp + i) + 8 * half + lane / 4;
            if (query >= place.n_queries) continue;
            float *at = result_of(job, place, slot, query);
            if (lane % 4 == 0)
                at[ATTEND_PARTIAL_MAX] = state.max[i][half], at[ATTEND_PARTIAL_SUM] = state.sum[i][2 * half];
            at += ATTEND_PARTIAL_VALUES + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++)
                *reinterpret_cast<float2 *>(at + 8 * n) =
                    make_float2(state.o[i][n][2 * half], state.o[i][n][2 * half + 1]);
        }
}

/* The result of queries that see one node only. */
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

/* The partial results of `node`, which the warp has put behind the levels, enter the tree of nodes from
 * `first` on, or are the last of it. Four queries at a time are under way. */
template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void merge_node(const attend_job &job, const prompt_plan &plan,
                                           const prompt_place &place, int node, int first, bool is_last) {
    enum { AT_ONCE = 4, N = attend_per_lane(WIDTH) };
    int query0 = place.query0 + 16 * SIXTEENS * (static_cast<int>(threadIdx.x) / WARP);
    int end = min(query0 + 16 * SIXTEENS, place.n_queries);
    __syncwarp(); /* what other lanes wrote is there */
#pragma unroll 1
    for (; query0 < end; query0 += AT_ONCE) {
        attend_partial<N> p[AT_ONCE], earlier[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            p[i] = attend_get<N>(result_of(job, place, plan.n_levels, min(query0 + i, end - 1)), WIDTH);
        int level = 0;
#pragma unroll 1
        for (; node >> level && (is_last || node >> level & 1); level++) {
            if (!(node >> level & 1) || node >> level << level <= first) continue; /* nothing waits there */
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                earlier[i] = attend_get<N>(result_of(job, place, level, min(query0 + i, end - 1)), WIDTH);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                p[i] = attend_merge(earlier[i], p[i]);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE && query0 + i < end; i++)
            if (is_last)
                attend_finish(reinterpret_cast<__nv_bfloat16 *>(job.y) +
                                  query_element(job, place, query0 + i, WIDTH),
                              p[i], WIDTH);
            else
                attend_put(result_of(job, place, level, query0 + i), p[i], WIDTH);
    }
    __syncwarp(); /* all lanes have read what others write next */
}

template <int WIDTH, int SIXTEENS>
__device__ __forceinline__ void end_node(const attend_job &job, const prompt_plan &plan,
                                         const prompt_place &place, int node,
                                         const prompt_state<WIDTH, SIXTEENS> &state) {
    int first = static_cast<int>(place.first / ATTEND_NODE),
        last = static_cast<int>((place.end - 1) / ATTEND_NODE);
    if (plan.split) {
        put_state<WIDTH, SIXTEENS>(job, place, state, node);
    } else if (first == last) {
        finish_state<WIDTH, SIXTEENS>(job, place, state);
    } else if (node % 2 == 0 && node < last) { /* it waits at the lowest level */
        put_state<WIDTH, SIXTEENS>(job, place, state, 0);
    } else {
        put_state<WIDTH, SIXTEENS>(job, place, state, plan.n_levels);
        merge_node<WIDTH, SIXTEENS>(job, plan, place, node, first, node == last);
    }
}

/* attend_hopper.cu: start the kernel for heads of `width` elements, 64 or 128, and n_queries queries of a
 * CTA, 64 or 128. */
void attend_launch_hopper(cuda_device *dev, const attend_job &job, const prompt_plan &plan, int width,
                          dim3 grid, int n_queries);
