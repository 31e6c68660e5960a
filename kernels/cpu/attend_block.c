/* A block's keys and values meet the queries of a tile: scores, softmax row by row, the weighted sum of
 * values. Pages hold both as products read them (KV_PANELS), so that they are multiplied as they lie. */
#include "kernels/cpu/attend_block.h"

enum { GROUP = WEIGH_PANELS * PANEL };

static_assert((int)PANEL == (int)KV_PANEL && (int)KV_PAGE_QUANTUM % GROUP == 0, "a group lies in one page");

/* Panels of a block, whole WEIGH_PANELS. */
typedef struct panel_range {
    int first, last;
} panel_range;

/* What the queries of a tile see of a block. */
typedef struct block_view {
    panel_range all;   /* as far as any of them sees */
    panel_range whole; /* every place of these is seen by every query; the values of the others are copied */
    bool is_alone; /* values that are not finite are among the others: each query needs a copy of its own */
} block_view;

/* ---- what is seen ---- */

static int clip(int place, int first, int last) {
    return place < first ? first : place < last ? place : last;
}

/* As far as it lies in the job's pages. */
static attend_range query_range(const attend_job *job, const attend_tile *tile, int query, int64_t block) {
    const int64_t pos = attend_query_place(job, tile, query);
    const attend_range seen = attend_range_in(pos, job->shape->window, block);
    const bool has_codes = attend_has_codes(job);
    if (!has_codes && !job->codes) return seen;
    const int n_exact = attend_exact_places(pos, block), first = has_codes ? n_exact : 0,
              last = has_codes ? ATTEND_BLOCK : n_exact;
    return (attend_range){clip(seen.first, first, last), clip(seen.last, first, last)};
}

/* Places of a block that the rows of a tile see as they were put. */
static int exact_places(const attend_job *job, const attend_tile *tile, int64_t block) {
    return job->codes ? attend_exact_places(attend_query_place(job, tile, 0), block) : ATTEND_BLOCK;
}

/* The job in the pages where most of a block lies. */
static const attend_job *job_of_block(const attend_job *job, const attend_tile *tile, int64_t block) {
    return exact_places(job, tile, block) < ATTEND_BLOCK ? job->codes : job;
}

static panel_range panels_of(attend_range seen) {
    return (panel_range){seen.first / GROUP * WEIGH_PANELS, (seen.last + GROUP - 1) / GROUP * WEIGH_PANELS};
}

static panel_range whole_panels_of(attend_range seen) {
    return (panel_range){(seen.first + GROUP - 1) / GROUP * WEIGH_PANELS, seen.last / GROUP * WEIGH_PANELS};
}

/* What any of some queries sees, and what all of them see: ranges move forward. */
static attend_range seen_by_any(const attend_job *job, const attend_tile *tile, int query, int n_queries,
                                int64_t block) {
    return (attend_range){query_range(job, tile, query, block).first,
                          query_range(job, tile, query + n_queries - 1, block).last};
}

static attend_range seen_by_all(const attend_job *job, const attend_tile *tile, int64_t block) {
    return (attend_range){query_range(job, tile, tile->n_queries - 1, block).first,
                          query_range(job, tile, 0, block).last};
}

/* ---- keys and values ---- */

/* Where the keys (or values) of a panel begin in their page. */
static const uint32_t *panel_in_page(const attend_job *job, const span *s, int kv_head, int64_t block,
                                     int panel, kv_part part) {
    const int64_t pos = block * ATTEND_BLOCK + panel * PANEL;
    return (const uint32_t *)(const void *)kv_place_in(&job->kv->format, kv_layer_page(job->kv, s->slot, pos),
                                                       part, kv_head,
                                                       (int)(pos % job->kv->format.page_tokens));
}

/* From `panel` on and before `last`, those that lie in the same page. */
static int panels_in_page(const attend_job *job, int64_t block, int panel, int last) {
    const int page_panels = job->kv->format.page_tokens / PANEL;
    const int left = page_panels - (int)((block * BLOCK_PANELS + panel) % page_panels);
    return left < last - panel ? left : last - panel;
}

static uint32_t *copied_values(const attend_job *job, const attend_work *work, int panel) {
    return work->values + (size_t)(panel * job->panel_words) * (size_t)job->width;
}

static void zero_place(const attend_job *job, uint32_t *values, int place) {
    const int per_word = PANEL / job->panel_words;
    const uint32_t keep = per_word == 1 ? 0 : place % 2 ? 0xffff : 0xffff0000;
    uint32_t *at = values + (size_t)(place / per_word) * (size_t)job->width;
    for (int i = 0; i < job->width; i++)
        at[i] &= keep;
}

/* Copy the values of panels, and zeros for places that are not seen: what lies there may be anything, and 0
 * times infinity is not 0. */
static void copy_values(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int64_t block, panel_range panels, attend_range seen) {
    for (int panel = panels.first; panel < panels.last; panel++) {
        uint32_t *to = copied_values(job, work, panel);
        memcpy(to, panel_in_page(job, tile->span, kv_head, block, panel, KV_PART_V),
               (size_t)(job->panel_words * job->width) * sizeof *to);
        for (int i = 0; i < PANEL; i++)
            if (panel * PANEL + i < seen.first || panel * PANEL + i >= seen.last) zero_place(job, to, i);
    }
}

/* The panels before and behind those that all see wholly. */
static void copy_others(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int64_t block, const block_view *view, attend_range seen) {
    copy_values(job, work, tile, kv_head, block, (panel_range){view->all.first, view->whole.first}, seen);
    copy_values(job, work, tile, kv_head, block, (panel_range){view->whole.last, view->all.last}, seen);
}

/* Infinite and NaN alike have an exponent of ones. */
static bool is_finite(const attend_job *job, const attend_work *work, panel_range panels) {
    const uint32_t high = 0x7f800000, low = job->type_bytes == 2 ? 0x7f80 : UINT32_MAX;
    uint32_t n_bad = 0;
    for (int word = panels.first * job->panel_words; word < panels.last * job->panel_words; word++)
        for (int i = 0; i < job->shape->head_dim; i++) {
            const uint32_t bits = work->values[word * job->width + i];
            n_bad += (bits & high) == high || (bits & low) == low;
        }
    return n_bad == 0;
}

static block_view view_block(const attend_job *job, const attend_work *work, const attend_tile *tile,
                             int kv_head, int64_t block) {
    const attend_range any = seen_by_any(job, tile, 0, tile->n_queries, block),
                       all = seen_by_all(job, tile, block);
    block_view view = {.all = panels_of(any), .whole = whole_panels_of(all)};
    if (view.whole.first >= view.whole.last) view.whole = (panel_range){view.all.last, view.all.last};
    copy_others(job, work, tile, kv_head, block, &view, any);
    view.is_alone = (any.first != all.first || any.last != all.last) &&
                    !(is_finite(job, work, (panel_range){view.all.first, view.whole.first}) &&
                      is_finite(job, work, (panel_range){view.whole.last, view.all.last}));
    return view;
}

/* ---- what is read next ---- */

/* Cache lines of a block's keys and values. */
static int block_lines(const attend_job *job) {
    const kv_format *f = &job->kv->format;
    if (job->pages == KV_INT4)
        return ATTEND_BLOCK * (kv_part_stride(f, KV_PART_K) + kv_part_stride(f, KV_PART_V)) / CACHE_LINE;
    if (job->pages == KV_INT8) return BLOCK_PANELS * (job->n_words + job->width / INT8_WORD_COLS);
    return N_KV_PARTS * BLOCK_PANELS * job->panel_words * job->width / PANEL;
}

/* Those of the values lie apart from their codes. */
static void ask_for_scales(const kv_format *f, const char *page, int kv_head, int place, int n_panels) {
    const char *at = page + kv_int8_scales(f, kv_head) + (size_t)place * sizeof(float);
    for (int i = 0; i < n_panels; i++)
        __builtin_prefetch(at + i * CACHE_LINE);
}

/* What was read later is read soon, and later, quarters of the keys and values of a block: those that the row
 * sees, of the last one where `block` is behind it. */
static void move_ahead(const attend_job *job, const attend_tile *tile, int kv_head, int64_t block,
                       cpu_ahead *ahead) {
    enum { QUARTERS = AHEAD_PLACES / N_KV_PARTS, QUARTER_PANELS = BLOCK_PANELS / QUARTERS };
    if (block >= tile->blocks.last) block = tile->blocks.last - 1;
    job = job_of_block(job, tile, block);
    const kv_format *f = &job->kv->format;
    const panel_range seen = panels_of(query_range(job, tile, 0, block));
    for (int i = 0; i < QUARTERS; i++) {
        const int panel = i * QUARTER_PANELS;
        const int64_t pos =
            block * ATTEND_BLOCK + (panel >= seen.first && panel < seen.last ? panel : seen.last - 1) * PANEL;
        const char *page = kv_layer_page(job->kv, tile->span->slot, pos);
        if (job->pages == KV_INT8)
            ask_for_scales(f, page, kv_head, (int)(pos % f->page_tokens), QUARTER_PANELS);
        for (int part = 0; part < N_KV_PARTS; part++) {
            const int at = i * N_KV_PARTS + part;
            ahead->at[at].soon = ahead->at[at].later;
            ahead->at[at].later = kv_place_in(f, page, (kv_part)part, kv_head, (int)(pos % f->page_tokens));
        }
    }
    ahead->n_lines = 0;
}

void attend_look_ahead(const attend_job *job, const attend_tile *tile, int kv_head, int64_t block,
                       cpu_ahead *ahead) {
    const int share = job->kernels->tile.ahead_share;
    const attend_job *first = job_of_block(job, tile, block);
    *ahead = (cpu_ahead){.n_lines = 0};
    if (tile->span->n_rows > 1) return;
    if (share)
        ahead->softmax_lines =
            block_lines(first) / share / (attend_queries_at_once(first, tile, 0) * BLOCK_PANELS);
    move_ahead(job, tile, kv_head, block, ahead);
    move_ahead(job, tile, kv_head, block + 1, ahead);
    cpu_ahead_lines(ahead, block_lines(first));
}

/* ---- one block ---- */

static void score(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                  int64_t block, int query, int n_queries, panel_range panels, cpu_ahead *ahead) {
    const char *input = work->input[attend_has_codes(job)] + (size_t)query * job->query_bytes;
    for (int panel = panels.first, n; panel < panels.last; panel += n) {
        n = panels_in_page(job, block, panel, panels.last);
        job->tile->multiply(input, n_queries,
                            panel_in_page(job, tile->span, kv_head, block, panel, KV_PART_K),
                            (size_t)job->n_words * PANEL, n, job->n_words, ahead, false,
                            work->scores + panel * PANEL, ATTEND_BLOCK);
    }
}

/* Weights of one query, and 0 for what others of its tile see. */
static void fill_weights(const attend_job *job, const attend_tile *tile, int query, int64_t block,
                         panel_range shared, cpu_ahead *ahead, float *scores, char *weights, float *partial) {
    attend_range own = query_range(job, tile, query, block);
    attend_clear_partial(job, partial);
    if (own.first / PANEL > shared.first || own.last <= (shared.last - 1) * PANEL)
        memset(weights, 0, job->weight_bytes);
    if (own.first < own.last)
        job->kernels->softmax(scores, own.first, own.last, job->shape->scale, ahead, weights, partial);
}

/* Of the queries from `query` on, whose weights begin with row `row`. */
static void weigh(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                  int64_t block, const block_view *view, int row, int query, int n_queries,
                  panel_range panels, cpu_ahead *ahead) {
    float *sums = work->partials + (size_t)query * job->partial_floats + ATTEND_PARTIAL_VALUES;
    for (int panel = panels.first, n; panel < panels.last; panel += n) {
        const bool whole = panel >= view->whole.first && panel < view->whole.last;
        const int end = whole                       ? view->whole.last
                        : panel < view->whole.first ? view->whole.first
                                                    : view->all.last,
                  last = end < panels.last ? end : panels.last;
        const size_t at = (size_t)(panel * job->panel_words) * job->kernels->tile.input_word_bytes;
        n = whole ? panels_in_page(job, block, panel, last) : last - panel;
        job->kernels->weigh(
            work->weights + (size_t)row * job->weight_bytes + at, job->weight_bytes, n_queries,
            whole ? panel_in_page(job, tile->span, kv_head, block, panel, KV_PART_V)
                  : copied_values(job, work, panel),
            (size_t)job->width, job->width / PANEL, n * job->panel_words, ahead, sums, job->partial_floats);
    }
}

static void weigh_each_alone(const attend_job *job, const attend_work *work, const attend_tile *tile,
                             int kv_head, int64_t block, const block_view *view, int query, int n_queries,
                             panel_range panels) {
    for (int i = 0; i < n_queries; i++) {
        copy_others(job, work, tile, kv_head, block, view, query_range(job, tile, query + i, block));
        weigh(job, work, tile, kv_head, block, view, i, query + i, 1, panels, NULL);
    }
}

static void attend_block_of_elements(const attend_job *job, const attend_work *work, const attend_tile *tile,
                                     int kv_head, int64_t block, cpu_ahead *ahead) {
    const block_view view = view_block(job, work, tile, kv_head, block);
    for (int query = 0, n; query < tile->n_queries; query += n, ahead = NULL) {
        n = attend_queries_at_once(job, tile, query);
        const panel_range panels = panels_of(seen_by_any(job, tile, query, n, block));
        score(job, work, tile, kv_head, block, query, n, panels, ahead);
        for (int i = 0; i < n; i++)
            fill_weights(job, tile, query + i, block, panels, ahead, work->scores + i * ATTEND_BLOCK,
                         work->weights + (size_t)i * job->weight_bytes,
                         work->partials + (size_t)(query + i) * job->partial_floats);
        if (view.is_alone)
            weigh_each_alone(job, work, tile, kv_head, block, &view, query, n, panels);
        else
            weigh(job, work, tile, kv_head, block, &view, 0, query, n, panels, ahead);
    }
}

/* ---- one block in int8 ---- */

static void copy_scales(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int64_t block, panel_range panels) {
    const kv_format *f = &job->kv->format;
    for (int panel = panels.first, n; panel < panels.last; panel += n) {
        const int64_t pos = block * ATTEND_BLOCK + panel * PANEL;
        n = panels_in_page(job, block, panel, panels.last);
        memcpy(work->scales + panel * PANEL,
               kv_layer_page(job->kv, tile->span->slot, pos) + kv_int8_scales(f, kv_head) +
                   (size_t)(pos % f->page_tokens) * sizeof *work->scales,
               (size_t)(n * PANEL) * sizeof *work->scales);
    }
}

/* Codes of places that are not seen may be anything: they are whole numbers, and their weights 0. */
static void weigh_codes(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                        int64_t block, int query, int n_queries, panel_range panels, cpu_ahead *ahead) {
    float *sums = work->partials + (size_t)query * job->partial_floats + ATTEND_PARTIAL_VALUES;
    for (int group = 0; group < ATTEND_BLOCK / INT8_GROUP; group++) {
        const uint32_t *words[WEIGH_INT8_PIECES] = {NULL};
        bool is_seen = false;
        for (int i = 0; i < WEIGH_INT8_PIECES; i++) {
            const int panel = (group * WEIGH_INT8_PIECES + i) * WEIGH_PANELS;
            if (panel < panels.first || panel >= panels.last) continue;
            words[i] = panel_in_page(job, tile->span, kv_head, block, panel, KV_PART_V);
            is_seen = true;
        }
        if (is_seen)
            job->kernels->weigh_int8(
                work->weights + (size_t)(group * INT8_GROUP_WORDS) * job->tile->input_word_bytes,
                job->weight_bytes, n_queries, words, job->width / PANEL, ahead, sums, job->partial_floats);
    }
}

static void attend_block_of_int8(const attend_job *job, const attend_work *work, const attend_tile *tile,
                                 int kv_head, int64_t block, cpu_ahead *ahead) {
    copy_scales(job, work, tile, kv_head, block,
                panels_of(seen_by_any(job, tile, 0, tile->n_queries, block)));
    attend_range seen = {0, 0};
    float unit = job->kernels->factors_int8(work->scales, seen.first, seen.last, work->factors);
    for (int query = 0, n; query < tile->n_queries; query += n, ahead = NULL) {
        n = attend_queries_at_once(job, tile, query);
        const panel_range panels = panels_of(seen_by_any(job, tile, query, n, block));
        score(job, work, tile, kv_head, block, query, n, panels, ahead);
        for (int i = 0; i < n; i++) {
            const attend_range own = query_range(job, tile, query + i, block);
            float *partial = work->partials + (size_t)(query + i) * job->partial_floats;
            if (own.first != seen.first || own.last != seen.last)
                unit = job->kernels->factors_int8(work->scales, own.first, own.last, work->factors);
            seen = own;
            attend_clear_partial(job, partial);
            job->kernels->softmax_int8(work->scores + i * ATTEND_BLOCK, own.first, own.last,
                                       job->shape->scale, work->factors, unit, ahead,
                                       work->weights + (size_t)i * job->weight_bytes, partial);
        }
        weigh_codes(job, work, tile, kv_head, block, query, n, panels, ahead);
    }
}

/* ---- one block in int4 ---- */

enum { GROUP_PANELS = KV_INT4_PLACES / PANEL };

/* In the place of a query's scores: 0 of what it does not see of the panels. */
static void weights_of_scores(const attend_job *job, const attend_tile *tile, int query, int64_t block,
                              panel_range panels, cpu_ahead *ahead, float *scores, float *partial) {
    const attend_range own = query_range(job, tile, query, block);
    const bool is_empty = own.first >= own.last;
    const int first = panels.first * PANEL, last = panels.last * PANEL,
              begin = is_empty ? last : own.first / PANEL * PANEL,
              end = is_empty ? last : (own.last + PANEL - 1) / PANEL * PANEL;
    attend_clear_partial(job, partial);
    if (!is_empty)
        job->exact->softmax(scores, own.first, own.last, job->shape->scale, ahead, scores, partial);
    memset(scores + first, 0, (size_t)(begin - first) * sizeof *scores);
    memset(scores + end, 0, (size_t)(last - end) * sizeof *scores);
}

static void attend_block_of_int4(const attend_job *job, const attend_work *work, const attend_tile *tile,
                                 int kv_head, int64_t block, cpu_ahead *ahead) {
    for (int query = 0, n; query < tile->n_queries; query += n, ahead = NULL) {
        n = attend_queries_at_once(job, tile, query);
        const attend_range any = seen_by_any(job, tile, query, n, block);
        const panel_range groups = {any.first / KV_INT4_PLACES * GROUP_PANELS,
                                    (any.last + KV_INT4_PLACES - 1) / KV_INT4_PLACES * GROUP_PANELS};
        const float *queries =
            (const float *)(const void *)(work->input[true] + (size_t)query * job->query_bytes);
        float *partials = work->partials + (size_t)query * job->partial_floats;
        for (int i = groups.first; i < groups.last; i += GROUP_PANELS)
            job->kernels->score_int4(queries, n, job->width,
                                     panel_in_page(job, tile->span, kv_head, block, i, KV_PART_K), ahead,
                                     work->scores + i * PANEL, ATTEND_BLOCK);
        for (int i = 0; i < n; i++)
            weights_of_scores(job, tile, query + i, block, groups, ahead, work->scores + i * ATTEND_BLOCK,
                              partials + (size_t)i * job->partial_floats);
        for (int i = groups.first; i < groups.last; i += GROUP_PANELS)
            job->kernels->weigh_int4(work->scores + i * PANEL, ATTEND_BLOCK, n, job->width,
                                     panel_in_page(job, tile->span, kv_head, block, i, KV_PART_V), ahead,
                                     partials + ATTEND_PARTIAL_VALUES, job->partial_floats);
    }
}

void attend_block(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                  int64_t block, cpu_ahead *ahead) {
    if (tile->span->n_rows == 1)
        move_ahead(job, tile, kv_head, block + 2, ahead);
    else
        ahead = NULL;
    const int n_exact = exact_places(job, tile, block);
    if (n_exact > 0)
        attend_block_of_elements(job, work, tile, kv_head, block, n_exact < ATTEND_BLOCK ? NULL : ahead);
    if (n_exact == ATTEND_BLOCK) return;
    const size_t n_floats = (size_t)tile->n_queries * job->partial_floats;
    if (n_exact > 0) memcpy(work->earlier, work->partials, n_floats * sizeof *work->earlier);
    (job->codes->pages == KV_INT4 ? attend_block_of_int4 : attend_block_of_int8)(job->codes, work, tile,
                                                                                 kv_head, block, ahead);
    for (size_t at = 0; n_exact > 0 && at < n_floats; at += job->partial_floats)
        job->kernels->merge(work->earlier + at, work->partials + at, job->width);
}
