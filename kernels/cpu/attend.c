/* Attention over paged keys and values; the arithmetic of positions is in kernels/attend_blocks.h.
 *
 * A tile is up to TILE_QUERIES queries (rows times the heads of one kv head) of one span, which read every
 * key and value together. A task is one tile over one unit, an aligned range of blocks; each block's partial
 * results (attend_block.c) enter the tree. Where a tile has several units, their results are merged after all
 * tasks.
 */
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
    size_t used = 0, words = (size_t)job->n_words, rows = (size_t)job->score_rows;
    size_t partials = TILE_QUERIES * job->partial_floats * sizeof(float);
    work->queries = take(base, &used, TILE_QUERIES * (size_t)job->shape->head_dim * job->type_bytes);
    work->input = take(base, &used, TILE_QUERIES * words * job->kernels->tile.input_word_bytes);
    work->keys = take(base, &used, ATTEND_BLOCK * words * sizeof(uint32_t));
    work->values = take(base, &used, ATTEND_BLOCK * (size_t)job->width * job->type_bytes);
    work->scores = take(base, &used, rows * ATTEND_BLOCK * sizeof(float));
    work->weights = take(base, &used, rows * job->weight_bytes);
    work->partials = take(base, &used, partials);
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

static void pack_queries(const attend_job *job, const attend_work *work, const attend_tile *tile,
                         int kv_head) {
    size_t row_bytes = (size_t)job->shape->head_dim * job->type_bytes;
    for (int i = 0; i < tile->n_queries; i++)
        memcpy(work->queries + (size_t)i * row_bytes, job->q + query_offset(job, tile, kv_head, i),
               row_bytes);
    for (int query = 0; query < tile->n_queries;) {
        int n = attend_queries_at_once(job, tile, query);
        job->kernels->tile.pack_input(
            work->queries + (size_t)query * row_bytes, row_bytes, n, job->shape->head_dim,
            work->input + (size_t)(query * job->n_words) * job->kernels->tile.input_word_bytes);
        query += n;
    }
}

static void put_result(const attend_job *job, const attend_tile *tile, int kv_head, const float *partials) {
    for (int i = 0; i < tile->n_queries; i++)
        job->kernels->finish(partials + (size_t)i * job->partial_floats, job->shape->head_dim,
                             job->y + query_offset(job, tile, kv_head, i));
}

static float *unit_result(const attend_job *job, const attend_tile *tile, int kv_head, int unit) {
    int64_t result = kv_head * job->n_results + tile->result + unit;
    return job->results + (size_t)result * TILE_QUERIES * job->partial_floats;
}

static void attend_unit(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int unit) {
    int64_t start = (int64_t)(tile->first_unit + unit) << job->unit_level;
    int64_t block = start > tile->first_block ? start : tile->first_block;
    int64_t end = start + ((int64_t)1 << job->unit_level);
    if (end > tile->last_block + 1) end = tile->last_block + 1;
    pack_queries(job, work, tile, kv_head);
    tree_skip(job, work->levels, block - start, tile->n_queries);
    for (; block < end; block++) {
        attend_block(job, work, tile, kv_head, block);
        tree_add(job, work->levels, block - start, work->partials, tile->n_queries);
    }
    if (tile->n_units == 1) {
        tree_finish(job, work->levels, end - start, work->partials, tile->n_queries);
        put_result(job, tile, kv_head, work->partials);
    } else {
        tree_finish(job, work->levels, end - start, unit_result(job, tile, kv_head, unit), tile->n_queries);
    }
}

/* The units are the leaves of the same tree's upper part. */
static void merge_units(const attend_job *job, const attend_work *work, const attend_tile *tile,
                        int kv_head) {
    tree_skip(job, work->levels, tile->first_unit, tile->n_queries);
    for (int unit = 0; unit < tile->n_units; unit++)
        tree_add(job, work->levels, tile->first_unit + unit, unit_result(job, tile, kv_head, unit),
                 tile->n_queries);
    tree_finish(job, work->levels, tile->first_unit + tile->n_units, work->partials, tile->n_queries);
    put_result(job, tile, kv_head, work->partials);
}

/* ---- the plan ---- */

static int tiles_of_span(const attend_job *job, const span *s) {
    return (s->n_rows * job->group + TILE_QUERIES - 1) / TILE_QUERIES;
}

/* Fill the tiles, and choose units so that the threads have about TASKS_PER_THREAD tasks each. */
static void plan_tiles(attend_job *job, int n_threads) {
    int64_t n_blocks = 0, last_block = 0;
    attend_tile *tile = job->tiles;
    for (int i = 0; i < job->n_spans; i++) {
        const span *s = &job->spans[i];
        int n_queries = s->n_rows * job->group;
        for (int query0 = 0; query0 < n_queries; query0 += TILE_QUERIES, tile++) {
            *tile = (attend_tile){.span = s, .query0 = query0};
            tile->n_queries = n_queries - query0 < TILE_QUERIES ? n_queries - query0 : TILE_QUERIES;
            int64_t first = attend_first_position(attend_query_pos(job, tile, 0), job->shape->window);
            tile->first_block = attend_block_of(first);
            tile->last_block = attend_block_of(attend_query_pos(job, tile, tile->n_queries - 1));
            n_blocks += tile->last_block + 1 - tile->first_block;
            if (tile->last_block > last_block) last_block = tile->last_block;
        }
    }
    job->unit_level =
        attend_unit_level(n_blocks * job->shape->n_kv_heads, (int64_t)TASKS_PER_THREAD * n_threads);
    job->n_levels = attend_levels(last_block + 1);
    for (tile = job->tiles; tile < job->tiles + job->n_tiles; tile++) {
        tile->first_unit = (int)(tile->first_block >> job->unit_level);
        tile->n_units = (int)(tile->last_block >> job->unit_level) + 1 - tile->first_unit;
        tile->result = job->n_results;
        if (tile->n_units > 1) job->n_results += tile->n_units;
        if (tile->n_units > job->max_units) job->max_units = tile->n_units;
    }
}

static void run_tasks(const attend_job *job, char *work_memory, size_t work_bytes, int n_threads) {
    int G = job->shape->n_kv_heads;
#pragma omp parallel num_threads(n_threads)
    {
        attend_work work;
        work_layout(job, work_memory + (size_t)omp_get_thread_num() * work_bytes, &work);
#pragma omp for schedule(dynamic) collapse(3)
        for (int unit = 0; unit < job->max_units; unit++)
            for (int i = 0; i < job->n_tiles; i++)
                for (int kv_head = 0; kv_head < G; kv_head++)
                    if (unit < job->tiles[i].n_units) attend_unit(job, &work, &job->tiles[i], kv_head, unit);
        if (job->max_units > 1) {
#pragma omp for schedule(dynamic) collapse(2)
            for (int i = 0; i < job->n_tiles; i++)
                for (int kv_head = 0; kv_head < G; kv_head++)
                    if (job->tiles[i].n_units > 1) merge_units(job, &work, &job->tiles[i], kv_head);
        }
    }
}

void cpu_attend(device *base, const attention_shape *shape, const kv_layer *kv, const void *q, void *y) {
    cpu_device *dev = cpu_device_of(base);
    attend_job job = {.kernels = dev->kernels, .shape = shape, .kv = kv, .q = q, .y = y};
    job.n_spans = dev->n_spans;
    job.spans = dev->spans;
    job.type_bytes = dtype_bytes(base->kv);
    job.group = shape->n_heads / shape->n_kv_heads;
    job.width = (shape->head_dim + PANEL - 1) / PANEL * PANEL;
    job.partial_floats = (size_t)(PARTIAL_VALUES + job.width);
    job.n_words = (int)((size_t)shape->head_dim * job.type_bytes / sizeof(uint32_t));
    job.panel_words = (int)(PANEL * job.type_bytes / sizeof(uint32_t));
    job.weight_bytes = (size_t)(BLOCK_PANELS * job.panel_words) * job.kernels->tile.input_word_bytes;
    job.score_rows = job.group < TILE_QUERIES ? job.group : TILE_QUERIES;
    if (job.score_rows < job.kernels->tile.rows) job.score_rows = job.kernels->tile.rows;
    for (int i = 0; i < job.n_spans; i++)
        job.n_tiles += tiles_of_span(&job, &job.spans[i]);
    if (!job.n_tiles) return;

    job.tiles = mem_new((size_t)job.n_tiles, sizeof *job.tiles);
    plan_tiles(&job, dev->n_threads);
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
