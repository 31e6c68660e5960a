/* Attention over paged keys and values; the arithmetic of positions is in kernels/attend_blocks.h.
 *
 * A tile is up to TILE_QUERIES queries (rows times the heads of one kv head) of one span, which read every
 * key and value of a node together. A task is one tile over one unit, an aligned range of blocks; each
 * block's partial results (attend_block.c) enter the tree. Where a tile has several units, their results are
 * merged after all tasks.
 *
 * Of pages of codes (kv_layer) a job reads the near ones, too: it is one job in each of both, over the same
 * tiles.
 *
 * attend_part wants the results of nodes of ATTEND_NODE_LEVEL, attend that of the root; attend_merge takes
 * the nodes for units of the root, whose results are there already. */
#include <omp.h>
#include <stdlib.h>

#include "kernels/cpu/attend_block.h"
#include "src/base/memory.h"

enum { TASKS_PER_THREAD = 4 }; /* so that a thread that is held up delays little */

/* The place of a part of `bytes` in memory that starts at `base`; NULL base: only count. */
static void *take(char *base, size_t *used, size_t bytes) {
    void *at = base ? base + *used : NULL;
    *used += (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return at;
}

static size_t work_layout(const attend_job *job, char *base, attend_work *work) {
    size_t used = 0, rows = 0, weights = 0;
    size_t partials = TILE_QUERIES * job->partial_floats * sizeof(float);
    work->queries = take(base, &used, TILE_QUERIES * (size_t)job->shape->head_dim * job->type_bytes);
    for (const attend_job *of = job; of; of = of->codes) {
        const size_t of_rows = (size_t)of->tile_rows;
        if (of_rows > rows) rows = of_rows;
        if (of_rows * of->weight_bytes > weights) weights = of_rows * of->weight_bytes;
        work->input[attend_has_codes(of)] = take(base, &used, TILE_QUERIES * of->query_bytes);
    }
    work->values = take(base, &used, ATTEND_BLOCK * (size_t)job->width * job->type_bytes);
    work->scales = take(base, &used, job->codes ? ATTEND_BLOCK * sizeof(float) : 0);
    work->factors = take(base, &used, job->codes ? ATTEND_BLOCK * sizeof(float) : 0);
    work->scores = take(base, &used, rows * ATTEND_BLOCK * sizeof(float));
    work->weights = take(base, &used, weights);
    work->partials = take(base, &used, partials);
    work->earlier = take(base, &used, job->codes ? partials : 0);
    work->levels = take(base, &used, (size_t)job->n_levels * partials);
    return used;
}

/* ---- the tree ---- */

/* Add one leaf's partials, which the caller leaves to it, to the walk that has seen `count` leaves. */
static void tree_add(const attend_job *job, float *levels, int64_t count, float *partials, int n_queries) {
    size_t stride = TILE_QUERIES * job->partial_floats;
    for (; count & 1; count >>= 1, levels += stride)
        for (int i = 0; i < n_queries; i++) {
            size_t at = (size_t)i * job->partial_floats;
            job->kernels->merge(levels + at, partials + at, job->width);
        }
    memcpy(levels, partials, (size_t)n_queries * job->partial_floats * sizeof *levels);
}

/* All of the walk's `count` leaves merged, into `partials`. */
static void tree_finish(const attend_job *job, const float *levels, int64_t count, float *partials,
                        int n_queries) {
    size_t stride = TILE_QUERIES * job->partial_floats;
    for (int i = 0; i < n_queries; i++)
        attend_clear_partial(job, partials + (size_t)i * job->partial_floats);
    for (; count; count >>= 1, levels += stride)
        for (int i = 0; count & 1 && i < n_queries; i++) {
            size_t at = (size_t)i * job->partial_floats;
            job->kernels->merge(levels + at, partials + at, job->width);
        }
}

/* A walk that starts behind `count` leaves that no query sees. */
static void tree_skip(const attend_job *job, float *levels, int64_t count, int n_queries) {
    for (; count; count >>= 1, levels += TILE_QUERIES * job->partial_floats)
        for (int i = 0; count & 1 && i < n_queries; i++)
            attend_clear_partial(job, levels + (size_t)i * job->partial_floats);
}

/* ---- tasks ---- */

static size_t query_offset(const attend_job *job, const attend_tile *tile, int kv_head, int query) {
    int flat = tile->query0 + query, row = tile->span->row0 + flat / job->group;
    int head = kv_head * job->group + flat % job->group;
    size_t element =
        ((size_t)row * (size_t)job->shape->n_heads + (size_t)head) * (size_t)job->shape->head_dim;
    return element * job->type_bytes;
}

/* Of n queries, as keys in int4 are; zeros in the padding. */
static void rotate_queries(const attend_job *job, const char *rows, int n, float *to) {
    const int K = job->shape->head_dim;
    for (int i = 0; i < n; i++, to += job->width) {
        for (int k = 0; k < job->width; k++)
            to[k] = k < K ? float_at(DTYPE_BF16, rows, (size_t)(i * K + k)) : 0;
        int4_rotate(to, K);
    }
}

static void pack_queries(const attend_job *job, const attend_work *work, const attend_tile *tile,
                         int kv_head) {
    size_t row_bytes = (size_t)job->shape->head_dim * job->type_bytes;
    for (int i = 0; i < tile->n_queries; i++)
        memcpy(work->queries + (size_t)i * row_bytes, job->q + query_offset(job, tile, kv_head, i),
               row_bytes);
    for (const attend_job *of = job; of; of = of->codes)
        for (int query = 0, n; query < tile->n_queries; query += n) {
            const char *rows = work->queries + (size_t)query * row_bytes;
            char *to = work->input[attend_has_codes(of)] + (size_t)query * of->query_bytes;
            n = attend_queries_at_once(of, tile, query);
            if (of->pages == KV_INT4)
                rotate_queries(of, rows, n, (float *)(void *)to);
            else
                of->tile->pack_input(rows, row_bytes, n, of->shape->head_dim, to);
        }
}

/* Where a query's partial result lies among the job's. */
static size_t partial_at(const attend_job *job, const attend_tile *tile, int kv_head, int query,
                         int64_t node) {
    int flat = tile->query0 + query;
    return attend_partial_at(&job->layout, node, tile->span->row0 + flat / job->group,
                             kv_head * job->group + flat % job->group);
}

static void put_result(const attend_job *job, const attend_tile *tile, int kv_head, const float *partials) {
    for (int i = 0; i < tile->n_queries; i++, partials += job->partial_floats)
        if (job->y)
            job->kernels->finish(partials, job->shape->head_dim,
                                 job->y + query_offset(job, tile, kv_head, i));
        else
            memcpy(job->partials + partial_at(job, tile, kv_head, i, tile->node), partials,
                   job->partial_floats * sizeof *partials);
}

static float *unit_result(const attend_job *job, const attend_tile *tile, int kv_head, int unit) {
    int64_t result = kv_head * job->n_results + tile->result + unit;
    return job->results + (size_t)result * TILE_QUERIES * job->partial_floats;
}

static void attend_unit(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int unit) {
    int64_t start = (int64_t)(tile->first_unit + unit) << job->unit_level;
    const attend_nodes all = {start, start + ((int64_t)1 << job->unit_level)},
                       seen = attend_nodes_common(all, tile->blocks);
    cpu_ahead ahead;
    pack_queries(job, work, tile, kv_head);
    attend_look_ahead(job, tile, kv_head, seen.first, &ahead);
    tree_skip(job, work->levels, seen.first - start, tile->n_queries);
    for (int64_t block = seen.first; block < seen.last; block++) {
        attend_block(job, work, tile, kv_head, block, &ahead);
        tree_add(job, work->levels, block - start, work->partials, tile->n_queries);
    }
    if (tile->n_units == 1) {
        tree_finish(job, work->levels, seen.last - start, work->partials, tile->n_queries);
        put_result(job, tile, kv_head, work->partials);
    } else {
        tree_finish(job, work->levels, seen.last - start, unit_result(job, tile, kv_head, unit),
                    tile->n_queries);
    }
}

/* The given partial results of a node, in work->partials: empty ones of queries that do not see it. */
static float *copy_given(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                         int64_t node) {
    float *partial = work->partials;
    for (int i = 0; i < tile->n_queries; i++, partial += job->partial_floats) {
        const int64_t pos = attend_query_place(job, tile, i);
        const attend_nodes seen = attend_nodes_seen(pos, pos, job->shape->window, ATTEND_NODE_LEVEL);
        if (node < seen.first || node >= seen.last)
            attend_clear_partial(job, partial);
        else
            memcpy(partial, job->given + partial_at(job, tile, kv_head, i, node),
                   job->partial_floats * sizeof *partial);
    }
    return work->partials;
}

/* The units are the leaves of the same tree's upper part. */
static void merge_units(const attend_job *job, const attend_work *work, const attend_tile *tile,
                        int kv_head) {
    tree_skip(job, work->levels, tile->first_unit, tile->n_queries);
    for (int unit = 0; unit < tile->n_units; unit++) {
        float *partials = job->given ? copy_given(job, work, tile, kv_head, tile->first_unit + unit)
                                     : unit_result(job, tile, kv_head, unit);
        tree_add(job, work->levels, tile->first_unit + unit, partials, tile->n_queries);
    }
    tree_finish(job, work->levels, tile->first_unit + tile->n_units, work->partials, tile->n_queries);
    put_result(job, tile, kv_head, work->partials);
}

/* ---- the plan ---- */

/* Behind the last query of the tile that begins with this one, at place `pos`. */
static int tile_end(const attend_job *job, const span *s, int query0, int64_t pos) {
    const int64_t next_block = (attend_block_of(pos) + 1) * ATTEND_BLOCK - span_place(job->shape, s);
    int end = s->n_rows * job->group;
    if (end - query0 > TILE_QUERIES) end = query0 + TILE_QUERIES;
    return job->codes && next_block * job->group < end ? (int)next_block * job->group : end;
}

/* The tiles of a span, from `tile` on; returns how many, also without filling them in, where tile is NULL. */
static int plan_span(const attend_job *job, const span *s, attend_tile *tile) {
    int n_queries = s->n_rows * job->group, n_tiles = 0;
    for (int query0 = 0, end; query0 < n_queries; query0 = end) {
        attend_tile next = {.span = s, .query0 = query0};
        const int64_t pos = attend_query_place(job, &next, 0);
        end = tile_end(job, s, query0, pos);
        next.n_queries = end - query0;
        const int64_t last_pos = attend_query_place(job, &next, next.n_queries - 1);
        const attend_nodes blocks = attend_nodes_seen(pos, last_pos, job->shape->window, 0),
                           nodes = attend_nodes_common(
                               job->extent.nodes,
                               attend_nodes_seen(pos, last_pos, job->shape->window, job->level));
        for (next.node = nodes.first; next.node < nodes.last; next.node++, n_tiles++) {
            const attend_nodes node = {next.node, next.node + 1};
            next.blocks = attend_nodes_common(blocks, attend_nodes_below(node, job->level));
            if (tile) tile[n_tiles] = next;
        }
    }
    return n_tiles;
}

static int plan_spans(const attend_job *job, attend_tile *tiles) {
    int n_tiles = 0;
    for (int i = job->extent.first_span; i < job->extent.last_span; i++)
        n_tiles += plan_span(job, &job->spans[i], tiles ? tiles + n_tiles : NULL);
    return n_tiles;
}

/* Choose units so that the threads have about TASKS_PER_THREAD tasks each. */
static void plan_units(attend_job *job, int n_threads) {
    int64_t n_blocks = 0, end = 0;
    for (const attend_tile *tile = job->tiles; tile < job->tiles + job->n_tiles; tile++) {
        n_blocks += tile->blocks.last - tile->blocks.first;
        if (tile->blocks.last > end) end = tile->blocks.last;
    }
    job->unit_level =
        attend_unit_level(n_blocks * job->shape->n_kv_heads, (int64_t)TASKS_PER_THREAD * n_threads);
    if (job->unit_level > job->level) job->unit_level = job->level;
    if (job->given) job->unit_level = ATTEND_NODE_LEVEL;
    job->n_levels = attend_levels(end);
    for (attend_tile *tile = job->tiles; tile < job->tiles + job->n_tiles; tile++) {
        tile->first_unit = (int)(tile->blocks.first >> job->unit_level);
        tile->n_units = (int)((tile->blocks.last - 1) >> job->unit_level) + 1 - tile->first_unit;
        tile->result = job->n_results;
        if (tile->n_units > 1 && !job->given) job->n_results += tile->n_units;
        if (tile->n_units > job->max_units) job->max_units = tile->n_units;
    }
}

static void run_tasks(const attend_job *job, char *work_memory, size_t work_bytes, int n_threads) {
    const int G = job->shape->n_kv_heads, n_units = job->given ? 0 : job->max_units;
#pragma omp parallel num_threads(n_threads)
    {
        attend_work work;
        work_layout(job, work_memory + (size_t)omp_get_thread_num() * work_bytes, &work);
#pragma omp for schedule(dynamic) collapse(3)
        for (int unit = 0; unit < n_units; unit++)
            for (int i = 0; i < job->n_tiles; i++)
                for (int kv_head = 0; kv_head < G; kv_head++)
                    if (unit < job->tiles[i].n_units) attend_unit(job, &work, &job->tiles[i], kv_head, unit);
        if (job->given || job->max_units > 1) {
#pragma omp for schedule(dynamic) collapse(2)
            for (int i = 0; i < job->n_tiles; i++)
                for (int kv_head = 0; kv_head < G; kv_head++)
                    if (job->given || job->tiles[i].n_units > 1)
                        merge_units(job, &work, &job->tiles[i], kv_head);
        }
    }
}

/* What follows from the job's pages. */
static void look_at_pages(attend_job *job) {
    const int head_dim = job->shape->head_dim;
    assert(!job->kv || job->kv->format.page_tokens % KV_PAGE_QUANTUM == 0);
    job->pages = job->kv ? job->kv->format.layout : KV_PANELS;
    const bool is_int8 = job->pages == KV_INT8, is_int4 = job->pages == KV_INT4;
    job->tile = is_int8 ? &job->kernels->int8_keys : &job->kernels->tile;
    job->tile_rows = is_int4 ? job->kernels->int4_rows : job->tile->rows;
    job->n_words = is_int8 ? kv_int8_key_words(&job->kv->format)
                           : (int)((size_t)head_dim * job->type_bytes / sizeof(uint32_t));
    job->query_bytes =
        is_int4 ? (size_t)job->width * sizeof(float) : (size_t)job->n_words * job->tile->input_word_bytes;
    job->weight_bytes = (size_t)(is_int8   ? ATTEND_BLOCK / INT8_GROUP * INT8_GROUP_WORDS
                                 : is_int4 ? 0
                                           : BLOCK_PANELS * job->panel_words) *
                        job->tile->input_word_bytes;
}

/* Do what the members of the job ask for that the operations fill in. */
static void run_job(cpu_device *dev, attend_job job) {
    const attention_shape *shape = job.shape;
    const kv_layer *kv = job.kv;
    attend_job codes;
    assert(!kv || (kv->format.layout != KV_ROWS && kv_is_coded(&kv->format) == (kv->near != NULL)));
    job.kernels = dev->kernels;
    job.exact = dev->exact;
    job.n_spans = dev->n_spans;
    job.spans = dev->spans;
    assert(job.extent.first_span >= 0 && job.extent.last_span <= job.n_spans);
    job.type_bytes = dtype_bytes(dev->base.kv);
    job.group = shape->n_heads / shape->n_kv_heads;
    job.width = (shape->head_dim + PANEL - 1) / PANEL * PANEL;
    job.partial_floats = attend_partial_floats(shape->head_dim);
    job.panel_words = (int)(PANEL * job.type_bytes / sizeof(uint32_t));
    if (kv && kv->near) {
        job.kv = kv->near;
        job.codes = &codes;
    }
    look_at_pages(&job);
    job.n_tiles = plan_spans(&job, NULL);
    if (!job.n_tiles) return;

    const span *last = &job.spans[job.n_spans - 1];
    job.layout = (attend_partials){job.layout.first_node, 0, last->row0 + last->n_rows, shape->n_heads,
                                   shape->head_dim};
    job.tiles = mem_new((size_t)job.n_tiles, sizeof *job.tiles);
    plan_spans(&job, job.tiles);
    plan_units(&job, dev->n_threads);
    codes = job;
    codes.kv = kv;
    codes.codes = NULL;
    if (job.codes) look_at_pages(&codes);
    attend_work work;
    size_t work_bytes = work_layout(&job, NULL, &work);
    size_t results = (size_t)(job.n_results * shape->n_kv_heads) * TILE_QUERIES * job.partial_floats;
    char *memory = cpu_device_scratch(dev, work_bytes * (size_t)dev->n_threads + results * sizeof(float));
    if (memory) {
        job.results = (float *)(void *)(memory + work_bytes * (size_t)dev->n_threads);
        run_tasks(&job, memory, work_bytes, dev->n_threads);
    }
    free(job.tiles);
}

/* ---- the operations ---- */

void cpu_attend_part(device *base, const attention_shape *shape, const kv_layer *kv,
                     const attend_extent *extent, const void *q, float *partials) {
    run_job(cpu_device_of(base), (attend_job){.shape = shape,
                                              .kv = kv,
                                              .extent = *extent,
                                              .level = ATTEND_NODE_LEVEL,
                                              .q = q,
                                              .partials = partials,
                                              .layout.first_node = extent->nodes.first});
}

void cpu_attend_merge(device *base, const attention_shape *shape, const attend_extent *extent,
                      const float *partials, void *y) {
    assert(attend_extent_is_whole(extent, cpu_device_of(base)->spans, shape));
    run_job(cpu_device_of(base), (attend_job){.shape = shape,
                                              .extent = {extent->first_span, extent->last_span, {0, 1}},
                                              .level = ATTEND_ROOT_LEVEL,
                                              .y = y,
                                              .given = partials,
                                              .layout.first_node = extent->nodes.first});
}

void cpu_attend(device *base, const attention_shape *shape, const kv_layer *kv, const void *q, void *y) {
    run_job(cpu_device_of(base), (attend_job){.shape = shape,
                                              .kv = kv,
                                              .extent = {0, cpu_device_of(base)->n_spans, {0, 1}},
                                              .level = ATTEND_ROOT_LEVEL,
                                              .q = q,
                                              .y = y});
}
