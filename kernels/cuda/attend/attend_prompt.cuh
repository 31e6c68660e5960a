/* kernels/cuda/attend/attend_prompt.cuh: what the kernels for prompt rows share, whichever tensor core
 * instructions they are made of: what a CTA works on, where a query lies, softmax, and the nodes of a long
 * context.
 *
 * A CTA has a tile of queries (attend_map.h) of one kv head, and walks over tiles of positions, aligned to
 * position 0. A warp has 16 * SIXTEENS of the queries, its lanes hold their scores and values as warp_mma's
 * c.
 *
 * Where pages hold codes, a row sees its own block (kernels/attend_blocks.h) as it was put. The queries of a
 * CTA are of one block or of two: then it reads the first of these twice, as it was put for the rows that are
 * in it, and behind that as codes for the others. So a CTA's way is a number of steps, each through a tile of
 * positions of one kind, and every row sees the same tiles in the same order as in any other company.
 *
 * Softmax begins anew with each node (kernels/attend_blocks.h), and their partial results merge in the tree,
 * whether one CTA walks over all of them or each has its own, as it is where there are few queries behind a
 * long context, and where partial results are what is wanted. */
#pragma once

#include <limits.h>

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
    int slot;
    int first_step, last_step;
    int own, own_end;   /* tiles of the first query's block; without codes behind all */
    int n_again, again; /* so many of the steps, from own_end on, are through tiles from `again` on */
    struct {
        int first, last;           /* steps that any of its queries sees something in */
        int first_full, last_full; /* tiles that all of its queries see all of */
    } parts[ATTEND_PARTS];         /* of the queries: of a warp, or of several */
} prompt_place;

/* What a step goes through: that of its number, unless it is one of those again, or behind them. */
typedef struct prompt_tile {
    int number; /* of positions */
    bool is_coded;
} prompt_tile;

template <int WIDTH, int SIXTEENS> struct prompt_state {
    float o[SIXTEENS][WIDTH / 8][4], sum[SIXTEENS][4], max[SIXTEENS][2];
};

/* ---- where ---- */

/* Of the last query, for those behind it. */
__device__ __forceinline__ int64_t query_pos(const attend_job &job, const prompt_place &place, int query) {
    return place.pos0 + min(query, place.n_queries - 1) / job.group;
}

/* The first step that is not before a tile, and the last that is not behind one. */
__device__ __forceinline__ int first_step(const prompt_place &place, int tile) {
    return tile < place.own_end ? tile : tile + place.n_again;
}
template <bool CODED> __device__ __forceinline__ int last_step(const prompt_place &place, int tile) {
    if (!CODED) return tile;
    if (tile >= place.own_end) return tile + place.n_again;
    return place.n_again > 0 && tile >= place.again ? place.own_end + tile - place.again : tile;
}

template <bool CODED>
__device__ __forceinline__ prompt_tile tile_of(const attend_job &job, const prompt_place &place, int step,
                                               int positions) {
    const int past = step - place.own_end;
    if (!CODED) return {step, false};
    if (past >= place.n_again) return {step - place.n_again, false};
    if (past >= 0) return {place.again + past, true};
    return {step, attend_sees_codes<CODED>(query_pos(job, place, place.query0),
                                           static_cast<int64_t>(step) * positions)};
}

/* The steps; n_queries of the CTA. */
__device__ static void find_steps(const attend_job &job, int n_queries, int positions, prompt_place *place) {
    const int64_t first = query_pos(job, *place, place->query0),
                  last = query_pos(job, *place, place->query0 + n_queries - 1);
    const int a_block = ATTEND_BLOCK / positions, last_tile = static_cast<int>((place->end - 1) / positions);
    place->n_again = 0;
    place->own = 0;
    place->own_end = INT_MAX;
    place->first_step = static_cast<int>(place->first / positions);
    if (job.has_codes) {
        place->own = static_cast<int>(attend_block_of(first)) * a_block;
        place->own_end = place->own + a_block;
        const int exact = attend_block_of(first) == 0 ? ATTEND_EXACT_FIRST / positions : 0;
        place->again = max(place->own + exact, place->first_step);
        if (attend_block_of(last) > attend_block_of(first) && last_tile >= place->own)
            place->n_again = max(place->own_end - place->again, 0);
        place->first_step = first_step(*place, place->first_step);
    }
    place->last_step = last_step<true>(*place, last_tile);
}

/* Of the part that begins with query0. */
__device__ static void find_part(const attend_job &job, int query0, int n_queries, int positions, int part,
                                 prompt_place *place) {
    int64_t first = query_pos(job, *place, query0), last = query_pos(job, *place, query0 + n_queries - 1);
    const int first_tile = static_cast<int>(attend_first_position(first, job.window) / positions);
    place->parts[part].first = first_step(*place, first_tile);
    place->parts[part].last = last_step<true>(*place, static_cast<int>(last / positions));
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
    place->slot = step.row_slot[place->row0];
    place->first = attend_first_position(query_pos(job, *place, tile.query0), job.window);
    place->end = query_pos(job, *place, tile.query0 + n_queries - 1) + 1;
    if (plan.split) {
        int64_t start = (plan.nodes.first + blockIdx.z) * ATTEND_NODE;
        place->first = max(place->first, start);
        place->end = min(place->end, start + ATTEND_NODE);
    }
    find_steps(job, n_queries, positions, place);
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

/* Which rows of a tile any query sees, and where quantum `quantum` of it begins. */
typedef struct tile_source {
    int first, last;
    size_t begin;
} tile_source;

__device__ __forceinline__ tile_source find_tile(const prompt_place &place, const attend_source &pages,
                                                 int tile, int positions, int quantum) {
    const int64_t start = static_cast<int64_t>(tile) * positions;
    const int slot = quantum * ATTEND_QUANTUM;
    tile_source source = {static_cast<int>(max(place.first - start, static_cast<int64_t>(0))),
                          static_cast<int>(min(place.end - start, static_cast<int64_t>(positions))), 0};
    if (slot < source.last && slot + ATTEND_QUANTUM > source.first)
        source.begin = attend_quantum(pages, place.slot, (start + slot) / ATTEND_QUANTUM, place.kv_head);
    return source;
}

/* A tile of keys and values in shared memory, and where their scales lie that are codes yet: of the keys,
 * then of the values. */
typedef struct tile_memory {
    uint16_t *k, *v;
    float *scales;
} tile_memory;

/* One tile of keys and one of values, by thread number `thread` of ATTEND_THREADS; zeros for positions that
 * no query sees. element(row, chunk): where 8 elements of a position belong. The lanes look up a quantum's
 * page each. */
template <int WIDTH, typename Element>
__device__ __forceinline__ void copy_exact(const attend_job &job, const prompt_place &place, int tile,
                                           int thread, const tile_memory &to, const Element &element) {
    const int positions = attend_prompt_positions(WIDTH), quanta = positions / ATTEND_QUANTUM,
              chunks = WIDTH / 8;
    const tile_source source = find_tile(place, job.exact, tile, positions, thread % quanta);
#pragma unroll 4
    for (int i = 0; i < positions * chunks / ATTEND_THREADS; i++) {
        int index = thread + i * ATTEND_THREADS, row = index / chunks, chunk = index % chunks;
        const char *from = attend_pages(job.exact) +
                           __shfl_sync(0xffffffffu, source.begin, row / ATTEND_QUANTUM) +
                           (row % ATTEND_QUANTUM * WIDTH + 8 * chunk) * static_cast<int>(sizeof(uint16_t));
        const bool valid = row >= source.first && row < source.last;
        copy_16_async(to.k + element(row, chunk), from, valid);
        copy_16_async(to.v + element(row, chunk), from + job.exact.values, valid);
    }
}

/* The row of a tile of codes that is a thread's: of keys, or of values; none: -1. */
template <int WIDTH> __device__ __forceinline__ int row_of_thread(int thread) {
    const int positions = attend_prompt_positions(WIDTH);
    return thread < 2 * positions ? thread % positions : -1;
}

/* The same of codes: each warp brings its own threads' rows. Codes lie in the second half of what the row
 * will take in bf16. */
template <int WIDTH, typename Element>
__device__ __forceinline__ void copy_codes(const attend_job &job, const prompt_place &place, int tile,
                                           int thread, const tile_memory &to, const Element &element) {
    const int positions = attend_prompt_positions(WIDTH), chunks = WIDTH / 16, lane = thread % WARP;
    const int own = row_of_thread<WIDTH>(thread), row0 = own - lane;
    if (own < 0) return;
    const bool of_values = thread >= positions;
    const tile_source source =
        find_tile(place, job.codes, tile, positions, row0 / ATTEND_QUANTUM + lane % (WARP / ATTEND_QUANTUM));
    const char *pages = attend_pages(job.codes) + (of_values ? job.codes.values : 0);
    uint16_t *rows = of_values ? to.v : to.k;
#pragma unroll 1
    for (int i = 0; i < chunks; i++) {
        const int index = lane + i * WARP, row = index / chunks, chunk = index % chunks;
        const char *from = pages + __shfl_sync(0xffffffffu, source.begin, row / ATTEND_QUANTUM) +
                           ATTEND_SCALE_BYTES + row % ATTEND_QUANTUM * WIDTH + 16 * chunk;
        copy_16_async(rows + element(row0 + row, chunks + chunk), from,
                      row0 + row >= source.first && row0 + row < source.last);
    }
    copy_4_async(to.scales + thread,
                 pages + __shfl_sync(0xffffffffu, source.begin, lane / ATTEND_QUANTUM) +
                     lane % ATTEND_QUANTUM * KV_WORD_BYTES,
                 own >= source.first && own < source.last);
}

/* What was copied so, and is there for this thread, becomes bf16: every thread has a row, from its begin to
 * its end, so that no code is overwritten before it is read. */
template <int WIDTH, typename Element>
__device__ __forceinline__ void decode_tile(int thread, const tile_memory &tile, const Element &element) {
    const int row = row_of_thread<WIDTH>(thread);
    __syncwarp(); /* what other lanes copied is there */
    if (row < 0) return;
    uint16_t *rows = thread >= attend_prompt_positions(WIDTH) ? tile.v : tile.k;
    const float scale = tile.scales[thread];
#pragma unroll 2
    for (int i = 0; i < WIDTH / 16; i++) {
        uint4 values[2];
        attend_decode_16(*reinterpret_cast<const uint4 *>(rows + element(row, WIDTH / 16 + i)), scale,
                         values);
        *reinterpret_cast<uint4 *>(rows + element(row, 2 * i)) = values[0];
        *reinterpret_cast<uint4 *>(rows + element(row, 2 * i + 1)) = values[1];
    }
}

template <int WIDTH, bool CODED, typename Element>
__device__ __forceinline__ void copy_tile(const attend_job &job, const prompt_place &place, prompt_tile tile,
                                          int thread, const tile_memory &to, const Element &element) {
    if (CODED && tile.is_coded)
        copy_codes<WIDTH>(job, place, tile.number, thread, to, element);
    else
        copy_exact<WIDTH>(job, place, tile.number, thread, to, element);
}

/* ---- one tile of positions ---- */

/* Do all of a part's queries see all of a step's tile? */
template <bool CODED>
__device__ __forceinline__ bool is_full(const prompt_place &place, int part, prompt_tile tile) {
    return tile.number >= place.parts[part].first_full && tile.number <= place.parts[part].last_full &&
           (!CODED || place.n_again == 0 || tile.number < place.own);
}

template <int SIXTEENS, int N, bool CODED>
__device__ __forceinline__ void mask_tile(const attend_job &job, const prompt_place &place, prompt_tile tile,
                                          float s[SIXTEENS][N][4]) {
    const int64_t none = 0, all = 8 * N, start = tile.number * all;
    int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int64_t pos =
                query_pos(job, place, place.query0 + 16 * (SIXTEENS * warp + i) + 8 * half + lane / 4);
            int64_t first = attend_first_position(pos, job.window);
            const int64_t last = attend_sees_codes<CODED>(pos, start) == tile.is_coded ? pos + 1 : start;
            attend_mask<N>(s[i], half, static_cast<int>(min(max(first - start, none), all)),
                           static_cast<int>(min(max(last - start, none), all)));
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
