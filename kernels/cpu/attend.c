/* Attention over paged keys and values; the arithmetic of positions is in kernels/attend_blocks.h.
 *
 * A tile is up to TILE_QUERIES queries (rows times the heads of one kv head) of one span, which read every
 * key and value together. A task is one tile over one unit, an aligned range of blocks. Within a block:
 * scores of all queries against packed keys, softmax row by row, the weighted sum of values; then the block's
 * partial results enter the tree. Where a tile has several units, their results are merged after all tasks.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "kernels/cpu/cpu_device.h"
#include "src/base/memory.h"

enum {
    TILE_QUERIES = 96,
    BLOCK_PANELS = ATTEND_BLOCK / PANEL,
    TASKS_PER_THREAD = 4, /* so that a thread that is held up delays little */
};

typedef struct attend_tile {
    const span *span;
    int query0, n_queries;           /* of the span's rows times `group` */
    int64_t first_block, last_block; /* that any of the queries sees */
    int first_unit, n_units;
    int64_t result; /* its first unit's place among the results of kv head 0; unused for one unit */
} attend_tile;

typedef struct attend_job {
    const cpu_kernels *kernels;
    const attention_shape *shape;
    const kv_layer *kv;
    const char *q;
    char *y;
    size_t type_bytes;
    int group;             /* query heads of a kv head */
    int width;             /* head_dim rounded up to PANEL */
    size_t partial_floats; /* of one query */
    int n_words;           /* of a key */
    int unit_level, n_levels;
    int n_tiles, max_units;
    attend_tile *tiles;
    float *results; /* [kv head][n_results][TILE_QUERIES] partials */
    int64_t n_results;
} attend_job;

/* One thread's workspace. */
typedef struct attend_work {
    char *queries;   /* act [TILE_QUERIES][head_dim] */
    char *input;     /* the same, packed tile after tile */
    uint32_t *keys;  /* [BLOCK_PANELS] panels */
    char *values;    /* act [ATTEND_BLOCK][width], where head_dim is not a multiple of PANEL */
    float *scores;   /* [TILE_QUERIES][ATTEND_BLOCK] */
    float *partials; /* [TILE_QUERIES] of the present block */
    float *levels;   /* [n_levels][TILE_QUERIES]: what waits in the tree */
} attend_work;

/* The place of a part of `bytes` in memory that starts at `base`; NULL base: only count. */
static void *take(char *base, size_t *used, size_t bytes) {
    void *at = base ? base + *used : NULL;
    *used += (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return at;
}

static size_t work_layout(const attend_job *job, char *base, attend_work *work) {
    size_t used = 0, width = (size_t)job->width, words = (size_t)job->n_words;
    size_t partials = TILE_QUERIES * job->partial_floats * sizeof(float);
    work->queries = take(base, &used, TILE_QUERIES * (size_t)job->shape->head_dim * job->type_bytes);
    work->input = take(base, &used, TILE_QUERIES * words * job->kernels->input_word_bytes);
    work->keys = take(base, &used, ATTEND_BLOCK * words * sizeof(uint32_t));
    work->values = take(base, &used, ATTEND_BLOCK * width * job->type_bytes);
    work->scores = take(base, &used, TILE_QUERIES * ATTEND_BLOCK * sizeof(float));
    work->partials = take(base, &used, partials);
    work->levels = take(base, &used, (size_t)job->n_levels * partials);
    return used;
}

/* ---- keys and values ---- */

static const char *kv_at(const attend_job *job, const span *s, int64_t pos, int kv_head, bool is_v) {
    const kv_layer *kv = job->kv;
    size_t page = (size_t)s->page_ids[pos / kv->page_tokens], slot = (size_t)(pos % kv->page_tokens);
    size_t head = (size_t)kv_head + (is_v ? (size_t)job->shape->n_kv_heads : 0);
    size_t element = (head * (size_t)kv->page_tokens + slot) * (size_t)job->shape->head_dim;
    return (const char *)kv->pages + page * kv->page_bytes + element * job->type_bytes;
}

/* Pack the keys of panels [panel0, panel1) of a block; positions from `end` on are zeros. */
static void pack_keys(const attend_job *job, const span *s, int kv_head, int64_t block, int panel0,
                      int panel1, int64_t end, uint32_t *keys) {
    size_t row_bytes = (size_t)job->shape->head_dim * job->type_bytes;
    for (int panel = panel0; panel < panel1; panel++) {
        int64_t pos = block * ATTEND_BLOCK + panel * PANEL;
        int n = end - pos < PANEL ? (int)(end - pos) : PANEL;
        job->kernels->pack_panel(kv_at(job, s, pos, kv_head, false), row_bytes, n, job->n_words,
                                 keys + (size_t)panel * (size_t)job->n_words * PANEL);
    }
}

/* A copy of the values at [first, last) of a block, rows of `width`. */
static void copy_values(const attend_job *job, const span *s, int kv_head, int64_t block, int first, int last,
                        char *values) {
    size_t row_bytes = (size_t)job->shape->head_dim * job->type_bytes,
           stride = (size_t)job->width * job->type_bytes;
    for (int i = first; i < last; i++) {
        char *to = values + (size_t)i * stride;
        memcpy(to, kv_at(job, s, block * ATTEND_BLOCK + i, kv_head, true), row_bytes);
        memset(to + row_bytes, 0, stride - row_bytes);
    }
}

/* The values from position i of a block on: where they are, and up to which position (at most `last`) they
 * lie in one piece. */
static int value_run(const attend_job *job, const attend_work *work, const span *s, int kv_head,
                     int64_t block, int i, int last, const char **v) {
    if (job->width != job->shape->head_dim) {
        *v = work->values + (size_t)i * (size_t)job->width * job->type_bytes;
        return last;
    }
    int64_t pos = block * ATTEND_BLOCK + i, left = job->kv->page_tokens - pos % job->kv->page_tokens;
    *v = kv_at(job, s, pos, kv_head, true);
    return left < last - i ? i + (int)left : last;
}

/* Read keys (or values) of a block once from end to end. With few queries memory is what they wait for, and
 * it delivers one long sweep faster than the same lines among arithmetic: decode gains a third. */
static void sweep(const attend_job *job, const span *s, int kv_head, int64_t block, attend_range range,
                  bool is_v) {
    size_t row_bytes = (size_t)job->shape->head_dim * job->type_bytes;
    for (int i = range.first / PANEL * PANEL; i < range.last; i += PANEL) { /* a panel lies in one page */
        size_t n = range.last - i < PANEL ? (size_t)(range.last - i) : PANEL;
        const volatile char *at = kv_at(job, s, block * ATTEND_BLOCK + i, kv_head, is_v);
        for (size_t byte = 0; byte < n * row_bytes; byte += CACHE_LINE)
            (void)at[byte];
    }
}

/* ---- one block ---- */

static int64_t query_pos(const attend_job *job, const attend_tile *tile, int query) {
    return tile->span->pos0 + (tile->query0 + query) / job->group;
}

static attend_range query_range(const attend_job *job, const attend_tile *tile, int query, int64_t block) {
    return attend_range_in(query_pos(job, tile, query), job->shape->window, block);
}

static void weigh_run(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                      int64_t block, int query, int n_queries, attend_range range) {
    float *values = work->partials + (size_t)query * job->partial_floats + PARTIAL_VALUES;
    for (int i = range.first; i < range.last;) {
        const char *v;
        int end = value_run(job, work, tile->span, kv_head, block, i, range.last, &v);
        job->kernels->weigh(work->scores + (size_t)query * ATTEND_BLOCK + i, ATTEND_BLOCK, n_queries, v,
                            (size_t)job->width, end - i, job->width, values, job->partial_floats);
        i = end;
    }
}

/* The queries of one inner tile share the positions that all of them see; what stands before and behind is
 * added by each alone, so that every query adds its own positions, in order, and no other. Ranges move
 * forward from query to query. */
static void weigh_values(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                         int64_t block, int query, int n_queries) {
    attend_range shared = {query_range(job, tile, query + n_queries - 1, block).first,
                           query_range(job, tile, query, block).last};
    for (int i = query; i < query + n_queries; i++) {
        attend_range own = query_range(job, tile, i, block);
        if (shared.first < shared.last) own.last = shared.first;
        weigh_run(job, work, tile, kv_head, block, i, 1, own);
    }
    if (shared.first >= shared.last) return;
    weigh_run(job, work, tile, kv_head, block, query, n_queries, shared);
    for (int i = query; i < query + n_queries; i++) {
        attend_range own = query_range(job, tile, i, block);
        own.first = shared.last;
        weigh_run(job, work, tile, kv_head, block, i, 1, own);
    }
}

static void clear_partial(const attend_job *job, float *partial) {
    memset(partial, 0, job->partial_floats * sizeof *partial);
    partial[PARTIAL_MAX] = -INFINITY;
}

static void attend_block(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                         int64_t block) {
    const span *s = tile->span;
    attend_range all = {query_range(job, tile, 0, block).first,
                        query_range(job, tile, tile->n_queries - 1, block).last};
    int panel0 = all.first / PANEL, panel1 = (all.last + PANEL - 1) / PANEL;
    if (tile->n_queries <= job->kernels->tile_rows) {
        sweep(job, s, kv_head, block, all, false);
        sweep(job, s, kv_head, block, all, true);
    }
    pack_keys(job, s, kv_head, block, panel0, panel1, s->pos0 + s->n_rows, work->keys);
    if (job->width != job->shape->head_dim)
        copy_values(job, s, kv_head, block, all.first, all.last, work->values);

    size_t panel_words = (size_t)job->n_words * PANEL;
    for (int query = 0; query < tile->n_queries;) {
        int left = tile->n_queries - query,
            n = left < job->kernels->tile_rows ? left : job->kernels->tile_rows;
        const char *input = work->input + (size_t)(query * job->n_words) * job->kernels->input_word_bytes;
        float *scores = work->scores + (size_t)query * ATTEND_BLOCK;
        job->kernels->tile(input, n, work->keys + (size_t)panel0 * panel_words, panel_words, panel1 - panel0,
                           job->n_words, false, scores + panel0 * PANEL, ATTEND_BLOCK);
        for (int i = 0; i < n; i++) {
            attend_range own = query_range(job, tile, query + i, block);
            float *partial = work->partials + (size_t)(query + i) * job->partial_floats;
            clear_partial(job, partial);
            if (own.first < own.last)
                job->kernels->softmax(scores + i * ATTEND_BLOCK, own.first, own.last, job->shape->scale,
                                      partial);
        }
        weigh_values(job, work, tile, kv_head, block, query, n);
        query += n;
    }
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
        clear_partial(job, partials + (size_t)i * job->partial_floats);
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
            clear_partial(job, levels + (size_t)i * job->partial_floats);
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
        int left = tile->n_queries - query,
            n = left < job->kernels->tile_rows ? left : job->kernels->tile_rows;
        job->kernels->pack_input(
            work->queries + (size_t)query * row_bytes, row_bytes, n, job->shape->head_dim,
            work->input + (size_t)(query * job->n_words) * job->kernels->input_word_bytes);
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
    for (int i = 0; i < job->kv->n_spans; i++) {
        const span *s = &job->kv->spans[i];
        int n_queries = s->n_rows * job->group;
        for (int query0 = 0; query0 < n_queries; query0 += TILE_QUERIES, tile++) {
            *tile = (attend_tile){.span = s, .query0 = query0};
            tile->n_queries = n_queries - query0 < TILE_QUERIES ? n_queries - query0 : TILE_QUERIES;
            int64_t first = attend_first_position(query_pos(job, tile, 0), job->shape->window);
            tile->first_block = attend_block_of(first);
            tile->last_block = attend_block_of(query_pos(job, tile, tile->n_queries - 1));
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
    job.type_bytes = dtype_bytes(base->kv);
    job.group = shape->n_heads / shape->n_kv_heads;
    job.width = (shape->head_dim + PANEL - 1) / PANEL * PANEL;
    job.partial_floats = (size_t)(PARTIAL_VALUES + job.width);
    job.n_words = (int)((size_t)shape->head_dim * job.type_bytes / sizeof(uint32_t));
    for (int i = 0; i < kv->n_spans; i++)
        job.n_tiles += tiles_of_span(&job, &kv->spans[i]);
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
