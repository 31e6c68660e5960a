/* Attention over paged keys and values; the arithmetic of positions is in kernels/attend_blocks.h.
 *
 * A tile is up to TILE_QUERIES queries (rows times the heads of one kv head) of one span, which read every
 * key and value together. A task is one tile over one unit, an aligned range of blocks. Within a block keys
 * and values are packed, as the weights of two matrix products; for a few queries at a time: scores, softmax
 * row by row, the weighted sum of values; then the block's partial results enter the tree. Where a tile has
 * several units, their results are merged after all tasks.
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
    int panel_words;       /* of the values of a panel's positions */
    size_t weight_bytes;   /* of one query's weights in a block, as input words */
    int unit_level, n_levels;
    int n_tiles, max_units;
    attend_tile *tiles;
    float *results; /* [kv head][n_results][TILE_QUERIES] partials */
    int64_t n_results;
} attend_job;

/* One thread's workspace. */
typedef struct attend_work {
    char *queries;    /* act [TILE_QUERIES][head_dim] */
    char *input;      /* the same, packed tile after tile */
    uint32_t *keys;   /* [BLOCK_PANELS] panels */
    uint32_t *values; /* [width / PANEL] panels of BLOCK_PANELS * panel_words words */
    float *scores;    /* [tile.rows][ATTEND_BLOCK] */
    char *weights;    /* [tile.rows] of weight_bytes */
    float *partials;  /* [TILE_QUERIES] of the present block */
    float *levels;    /* [n_levels][TILE_QUERIES]: what waits in the tree */
} attend_work;

/* The place of a part of `bytes` in memory that starts at `base`; NULL base: only count. */
static void *take(char *base, size_t *used, size_t bytes) {
    void *at = base ? base + *used : NULL;
    *used += (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return at;
}

static size_t work_layout(const attend_job *job, char *base, attend_work *work) {
    size_t used = 0, words = (size_t)job->n_words, rows = (size_t)job->kernels->tile.rows;
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

/* ---- keys and values ---- */

static const char *kv_at(const attend_job *job, const span *s, int64_t pos, int kv_head, bool is_v) {
    const kv_layer *kv = job->kv;
    size_t page = (size_t)s->page_ids[pos / kv->page_tokens], slot = (size_t)(pos % kv->page_tokens);
    size_t head = (size_t)kv_head + (is_v ? (size_t)job->shape->n_kv_heads : 0);
    size_t element = (head * (size_t)kv->page_tokens + slot) * (size_t)job->shape->head_dim;
    return (const char *)kv->pages + page * kv->page_bytes + element * job->type_bytes;
}

/* The keys (or values) at the positions of one panel of a block: n rows of row_bytes, in one page; fewer than
 * PANEL where the span ends. */
typedef struct panel_rows {
    const char *at;
    size_t row_bytes;
    int n;
} panel_rows;

static panel_rows rows_of_panel(const attend_job *job, const span *s, int kv_head, int64_t block, int panel,
                                bool is_v) {
    int64_t pos = block * ATTEND_BLOCK + panel * PANEL, left = s->pos0 + s->n_rows - pos;
    return (panel_rows){.at = kv_at(job, s, pos, kv_head, is_v),
                        .row_bytes = (size_t)job->shape->head_dim * job->type_bytes,
                        .n = left < PANEL ? (int)left : PANEL};
}

/* Read keys (or values) of panels of a block once from end to end. With few queries memory is what they wait
 * for, and it delivers one long sweep faster than the same lines among arithmetic: decode gains a third. */
static void sweep(const attend_job *job, const span *s, int kv_head, int64_t block, int panel0, int panel1,
                  bool is_v) {
    for (int panel = panel0; panel < panel1; panel++) {
        panel_rows rows = rows_of_panel(job, s, kv_head, block, panel, is_v);
        const volatile char *at = rows.at;
        for (size_t byte = 0; byte < (size_t)rows.n * rows.row_bytes; byte += CACHE_LINE)
            (void)at[byte];
    }
}

static int block_words(const attend_job *job) {
    return BLOCK_PANELS * job->panel_words;
}

/* Pack the values of panels [panel0, panel1) of a block; positions from the span's end on are zeros. */
static void pack_values(const attend_job *job, const attend_work *work, const span *s, int kv_head,
                        int64_t block, int panel0, int panel1) {
    for (int panel = panel0; panel < panel1; panel++) {
        panel_rows v = rows_of_panel(job, s, kv_head, block, panel, true);
        job->kernels->pack_values(v.at, v.row_bytes, v.n, job->shape->head_dim,
                                  work->values + panel * job->panel_words * PANEL,
                                  (size_t)block_words(job) * PANEL);
    }
}

static void pack_keys(const attend_job *job, const attend_work *work, const span *s, int kv_head,
                      int64_t block, int panel) {
    panel_rows k = rows_of_panel(job, s, kv_head, block, panel, false);
    job->kernels->pack_panel(k.at, k.row_bytes, k.n, job->n_words,
                             work->keys + (size_t)panel * (size_t)job->n_words * PANEL);
}

/* ---- one block ---- */

static int64_t query_pos(const attend_job *job, const attend_tile *tile, int query) {
    return tile->span->pos0 + (tile->query0 + query) / job->group;
}

static attend_range query_range(const attend_job *job, const attend_tile *tile, int query, int64_t block) {
    return attend_range_in(query_pos(job, tile, query), job->shape->window, block);
}

static void clear_partial(const attend_job *job, float *partial) {
    memset(partial, 0, job->partial_floats * sizeof *partial);
    partial[PARTIAL_MAX] = -INFINITY;
}

/* The panels that any of some queries sees. */
typedef struct panel_range {
    int first, last;
} panel_range;

static panel_range panels_of(const attend_job *job, const attend_tile *tile, int query, int n_queries,
                             int64_t block) {
    int first = query_range(job, tile, query, block).first,
        last = query_range(job, tile, query + n_queries - 1, block).last; /* ranges move forward */
    return (panel_range){first / PANEL, (last + PANEL - 1) / PANEL};
}

/* Weights of one query, and 0 for what others of its tile see. */
static void fill_weights(const attend_job *job, const attend_tile *tile, int query, int64_t block,
                         panel_range shared, float *scores, char *weights, float *partial) {
    attend_range own = query_range(job, tile, query, block);
    clear_partial(job, partial);
    if (own.first / PANEL > shared.first || own.last <= (shared.last - 1) * PANEL)
        memset(weights, 0, job->weight_bytes);
    if (own.first < own.last)
        job->kernels->softmax(scores, own.first, own.last, job->shape->scale, weights, partial);
}

static void weigh(const attend_job *job, const attend_work *work, int row, int query, int n_queries,
                  panel_range panels) {
    size_t at = (size_t)(panels.first * job->panel_words);
    job->kernels->weigh(
        work->weights + (size_t)row * job->weight_bytes + at * job->kernels->tile.input_word_bytes,
        job->weight_bytes, n_queries, work->values + at * PANEL, (size_t)block_words(job) * PANEL,
        job->width / PANEL, (panels.last - panels.first) * job->panel_words,
        work->partials + (size_t)query * job->partial_floats + PARTIAL_VALUES, job->partial_floats);
}

/* Infinite and NaN alike have an exponent of ones. */
static bool is_finite(const attend_job *job, const uint32_t *values, panel_range panels) {
    const uint32_t high = 0x7f800000, low = job->type_bytes == 2 ? 0x7f80 : UINT32_MAX;
    uint32_t n_bad = 0;
    for (int dim = 0; dim < job->width; dim += PANEL, values += block_words(job) * PANEL)
        for (int i = panels.first * job->panel_words * PANEL; i < panels.last * job->panel_words * PANEL; i++)
            n_bad += (values[i] & high) == high || (values[i] & low) == low;
    return n_bad == 0;
}

static void zero_position(const attend_job *job, uint32_t *values, int position) {
    int per_word = PANEL / job->panel_words;
    uint32_t keep = per_word == 1 ? 0 : position % 2 ? 0xffff : 0xffff0000;
    uint32_t *at = values + position / per_word * PANEL;
    for (int dim = 0; dim < job->width; dim += PANEL, at += block_words(job) * PANEL)
        for (int i = 0; i < PANEL; i++)
            at[i] &= keep;
}

/* 0 times infinity is not 0: a query must not meet such values at positions that it does not see. */
static void weigh_alone(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int64_t block, int row, int query, panel_range panels) {
    attend_range own = query_range(job, tile, query, block);
    pack_values(job, work, tile->span, kv_head, block, panels.first, panels.last);
    for (int i = panels.first * PANEL; i < panels.last * PANEL; i++)
        if (i < own.first || i >= own.last) zero_position(job, work->values, i);
    weigh(job, work, row, query, 1, panels);
}

/* A few queries over a block whose keys and values are packed. */
static void attend_queries(const attend_job *job, const attend_work *work, const attend_tile *tile,
                           int kv_head, int64_t block, int query, int n_queries, bool finite) {
    panel_range panels = panels_of(job, tile, query, n_queries, block);
    size_t key_words = (size_t)job->n_words * PANEL;
    job->kernels->tile.multiply(
        work->input + (size_t)(query * job->n_words) * job->kernels->tile.input_word_bytes, n_queries,
        work->keys + (size_t)panels.first * key_words, key_words, panels.last - panels.first, job->n_words,
        false, work->scores + panels.first * PANEL, ATTEND_BLOCK);
    for (int i = 0; i < n_queries; i++)
        fill_weights(job, tile, query + i, block, panels, work->scores + i * ATTEND_BLOCK,
                     work->weights + (size_t)i * job->weight_bytes,
                     work->partials + (size_t)(query + i) * job->partial_floats);
    if (finite) {
        weigh(job, work, 0, query, n_queries, panels);
        return;
    }
    for (int i = 0; i < n_queries; i++)
        weigh_alone(job, work, tile, kv_head, block, i, query + i, panels);
    pack_values(job, work, tile->span, kv_head, block, panels.first, panels.last);
}

/* Every query of the tile sees whole panels, or up to the last position that there is. */
static bool all_see_panels(const attend_job *job, const attend_tile *tile, int64_t block) {
    attend_range a = query_range(job, tile, 0, block), b = query_range(job, tile, tile->n_queries - 1, block);
    int64_t end = tile->span->pos0 + tile->span->n_rows - block * ATTEND_BLOCK;
    return a.first == b.first && a.last == b.last && a.first % PANEL == 0 &&
           (a.last % PANEL == 0 || a.last == end);
}

static void attend_block(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                         int64_t block) {
    panel_range all = panels_of(job, tile, 0, tile->n_queries, block);
    if (tile->n_queries <= job->kernels->tile.rows) {
        sweep(job, tile->span, kv_head, block, all.first, all.last, false);
        sweep(job, tile->span, kv_head, block, all.first, all.last, true);
    }
    for (int panel = all.first; panel < all.last; panel++) {
        pack_keys(job, work, tile->span, kv_head, block, panel);
        pack_values(job, work, tile->span, kv_head, block, panel, panel + 1);
    }
    bool finite = all_see_panels(job, tile, block) || is_finite(job, work->values, all);
    for (int query = 0; query < tile->n_queries;) {
        int left = tile->n_queries - query,
            n = left < job->kernels->tile.rows ? left : job->kernels->tile.rows;
        attend_queries(job, work, tile, kv_head, block, query, n, finite);
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
            n = left < job->kernels->tile.rows ? left : job->kernels->tile.rows;
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
    job.panel_words = (int)(PANEL * job.type_bytes / sizeof(uint32_t));
    job.weight_bytes = (size_t)(BLOCK_PANELS * job.panel_words) * job.kernels->tile.input_word_bytes;
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
