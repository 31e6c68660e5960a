/* A block's keys and values meet the queries of a tile: scores, softmax row by row, the weighted sum of
 * values.
 *
 * For several rows keys and values are packed first, as the weights of two matrix products, and then serve a
 * few queries at a time. For one row memory is the limit, and what is packed would go out of the nearest
 * cache before it is used once: keys and values are taken as they lie. The sums are the same. */
#include "kernels/cpu/attend_block.h"

/* ---- keys and values ---- */

static const char *kv_at(const attend_job *job, const span *s, int64_t pos, int kv_head, kv_part part) {
    const kv_layer *kv = job->kv;
    return (const char *)kv->pages +
           kv_pool_element(&kv->format, kv_layer_table(kv, s->slot), part, kv_head, pos) * job->type_bytes;
}

enum { GROUP = WEIGH_PANELS * PANEL };

/* Panels of a block. */
typedef struct panel_range {
    int first, last;
} panel_range;

/* The keys (or values) at the positions of one panel of a block: n rows of row_bytes, in one page; fewer than
 * PANEL where the span ends, and none behind it. */
typedef struct panel_rows {
    const char *at;
    size_t row_bytes;
    int n;
} panel_rows;

static panel_rows rows_of_panel(const attend_job *job, const span *s, int kv_head, int64_t block, int panel,
                                kv_part part) {
    int64_t pos = block * ATTEND_BLOCK + panel * PANEL, left = s->pos0 + s->n_rows - pos;
    size_t row_bytes = (size_t)kv_part_width(&job->kv->format, part) * job->type_bytes;
    if (left <= 0) return (panel_rows){job->kv->pages, row_bytes, 0};
    return (panel_rows){kv_at(job, s, pos, kv_head, part), row_bytes, left < PANEL ? (int)left : PANEL};
}

/* Read the keys and values of a block's panels once. With few queries memory is what they wait for, and it
 * delivers a sweep faster than the same lines among arithmetic; most of all one of several places at once, as
 * what lies together of one kv head ends before the processor has noticed that it is read in order. */
static void sweep(const attend_job *job, const span *s, int kv_head, int64_t block, panel_range panels) {
    enum { SWEEP_PANELS = 4, PLACES = BLOCK_PANELS / SWEEP_PANELS };
    for (int first = panels.first; first < panels.first + SWEEP_PANELS; first++) {
        const volatile char *at[2 * PLACES];
        int n = 0;
        for (int panel = first; panel < panels.last; panel += SWEEP_PANELS) {
            at[n++] = rows_of_panel(job, s, kv_head, block, panel, KV_PART_K).at;
            at[n++] = rows_of_panel(job, s, kv_head, block, panel, KV_PART_V).at;
        }
        const size_t bytes = PANEL * (size_t)job->shape->head_dim * job->type_bytes;
        for (size_t byte = 0; byte < bytes; byte += CACHE_LINE)
            for (int i = 0; i < n; i++)
                (void)at[i][byte];
    }
}

static int block_words(const attend_job *job) {
    return BLOCK_PANELS * job->panel_words;
}

/* Pack the values of panels [panel0, panel1) of a block; positions from the span's end on are zeros. */
static void pack_values(const attend_job *job, const attend_work *work, const span *s, int kv_head,
                        int64_t block, int panel0, int panel1) {
    for (int panel = panel0; panel < panel1; panel++) {
        panel_rows v = rows_of_panel(job, s, kv_head, block, panel, KV_PART_V);
        job->kernels->pack_values(v.at, v.row_bytes, v.n, job->shape->head_dim,
                                  work->values + panel * job->panel_words * PANEL,
                                  (size_t)block_words(job) * PANEL);
    }
}

static void pack_keys(const attend_job *job, const attend_work *work, const span *s, int kv_head,
                      int64_t block, int panel) {
    panel_rows k = rows_of_panel(job, s, kv_head, block, panel, KV_PART_K);
    job->kernels->pack_panel(k.at, k.row_bytes, k.n, job->n_words,
                             work->keys + (size_t)panel * (size_t)job->n_words * PANEL);
}

/* ---- one block ---- */

static attend_range query_range(const attend_job *job, const attend_tile *tile, int query, int64_t block) {
    return attend_range_in(attend_query_pos(job, tile, query), job->shape->window, block);
}

/* Whole WEIGH_PANELS, as far as any of some queries sees. */
static panel_range panels_of(const attend_job *job, const attend_tile *tile, int query, int n_queries,
                             int64_t block) {
    int first = query_range(job, tile, query, block).first,
        last = query_range(job, tile, query + n_queries - 1, block).last; /* ranges move forward */
    return (panel_range){first / GROUP * WEIGH_PANELS, (last + GROUP - 1) / GROUP * WEIGH_PANELS};
}

/* Weights of one query, and 0 for what others of its tile see. */
static void fill_weights(const attend_job *job, const attend_tile *tile, int query, int64_t block,
                         panel_range shared, float *scores, char *weights, float *partial) {
    attend_range own = query_range(job, tile, query, block);
    attend_clear_partial(job, partial);
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
        work->partials + (size_t)query * job->partial_floats + ATTEND_PARTIAL_VALUES, job->partial_floats);
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

/* Every query of the tile sees whole groups, or up to the last position that there is. */
static bool all_see_panels(const attend_job *job, const attend_tile *tile, int64_t block) {
    attend_range a = query_range(job, tile, 0, block), b = query_range(job, tile, tile->n_queries - 1, block);
    int64_t end = tile->span->pos0 + tile->span->n_rows - block * ATTEND_BLOCK;
    return a.first == b.first && a.last == b.last && a.first % GROUP == 0 &&
           (a.last % GROUP == 0 || a.last == end);
}

/* ---- one row, whose queries all see the same ---- */

/* From `panel` on, those that lie in the same page. */
static int panels_in_page(const attend_job *job, int64_t block, int panel) {
    const int page_panels = job->kv->format.page_tokens / PANEL;
    return page_panels - (int)((block * BLOCK_PANELS + panel) % page_panels);
}

static void score_row(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                      int64_t block, panel_range panels) {
    const size_t input_bytes = (size_t)job->n_words * job->kernels->tile.input_word_bytes;
    for (int panel = panels.first, n; panel < panels.last; panel += n) {
        const panel_rows k = rows_of_panel(job, tile->span, kv_head, block, panel, KV_PART_K);
        if (k.n == 0) return;
        n = panels_in_page(job, block, panel);
        if (n > panels.last - panel) n = panels.last - panel;
        for (int query = 0, some; query < tile->n_queries; query += some) {
            some = attend_queries_at_once(job, tile, query);
            job->kernels->score_rows(work->input + (size_t)query * input_bytes, some, k.at, k.row_bytes,
                                     n * PANEL, job->n_words, work->keys,
                                     work->scores + query * ATTEND_BLOCK + panel * PANEL, ATTEND_BLOCK);
        }
    }
}

/* The values of a group that the row sees in part, or that lies in two pages, or whose width is no whole
 * number of panels. */
static void weigh_packed(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                         int64_t block, panel_range group) {
    attend_range own = query_range(job, tile, 0, block);
    pack_values(job, work, tile->span, kv_head, block, group.first, group.last);
    for (int i = group.first * PANEL; i < group.last * PANEL; i++)
        if (i < own.first || i >= own.last) zero_position(job, work->values, i);
    for (int query = 0, n; query < tile->n_queries; query += n) {
        n = attend_queries_at_once(job, tile, query);
        weigh(job, work, query, query, n, group);
    }
}

/* Those of whole groups in one page, which lie together. */
static void weigh_as_they_lie(const attend_job *job, const attend_work *work, const attend_tile *tile,
                              int kv_head, int64_t block, panel_range panels) {
    const panel_rows v = rows_of_panel(job, tile->span, kv_head, block, panels.first, KV_PART_V);
    const size_t at = (size_t)(panels.first * job->panel_words) * job->kernels->tile.input_word_bytes;
    for (int query = 0, n; query < tile->n_queries; query += n) {
        n = attend_queries_at_once(job, tile, query);
        job->kernels->weigh_rows(work->weights + (size_t)query * job->weight_bytes + at, job->weight_bytes, n,
                                 v.at, v.row_bytes, (panels.last - panels.first) * PANEL, job->width,
                                 work->partials + (size_t)query * job->partial_floats + ATTEND_PARTIAL_VALUES,
                                 job->partial_floats);
    }
}

static void weigh_row(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                      int64_t block, panel_range panels) {
    const attend_range own = query_range(job, tile, 0, block);
    const int end_whole = job->width == job->shape->head_dim ? own.last / GROUP * WEIGH_PANELS : 0;
    for (int panel = panels.first, n; panel < panels.last; panel += n) {
        n = panels_in_page(job, block, panel) / WEIGH_PANELS * WEIGH_PANELS;
        if (n > end_whole - panel) n = end_whole - panel;
        if (n > 0 && panel * PANEL >= own.first) {
            weigh_as_they_lie(job, work, tile, kv_head, block, (panel_range){panel, panel + n});
        } else {
            n = WEIGH_PANELS;
            weigh_packed(job, work, tile, kv_head, block, (panel_range){panel, panel + n});
        }
    }
}

static void attend_row(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                       int64_t block) {
    const panel_range panels = panels_of(job, tile, 0, 1, block);
    sweep(job, tile->span, kv_head, block, panels);
    score_row(job, work, tile, kv_head, block, panels);
    for (int i = 0; i < tile->n_queries; i++)
        fill_weights(job, tile, i, block, panels, work->scores + i * ATTEND_BLOCK,
                     work->weights + (size_t)i * job->weight_bytes,
                     work->partials + (size_t)i * job->partial_floats);
    weigh_row(job, work, tile, kv_head, block, panels);
}

static void attend_rows(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int64_t block) {
    panel_range all = panels_of(job, tile, 0, tile->n_queries, block);
    for (int panel = all.first; panel < all.last; panel++) {
        pack_keys(job, work, tile->span, kv_head, block, panel);
        pack_values(job, work, tile->span, kv_head, block, panel, panel + 1);
    }
    bool finite = all_see_panels(job, tile, block) || is_finite(job, work->values, all);
    for (int query = 0, n; query < tile->n_queries; query += n) {
        n = attend_queries_at_once(job, tile, query);
        attend_queries(job, work, tile, kv_head, block, query, n, finite);
    }
}

void attend_block(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                  int64_t block) {
    if (tile->span->n_rows == 1)
        attend_row(job, work, tile, kv_head, block);
    else
        attend_rows(job, work, tile, kv_head, block);
}
