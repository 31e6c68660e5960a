#include "src/model/kv_walk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

/* An entry of a slot's table, and the page there. */
typedef struct walk_page {
    int slot;
    int32_t entry, page;
} walk_page;

/* Pages of a layer that are needed at the same time: [first, end) of the way's. */
typedef struct walk_unit {
    int layer;
    bool is_append; /* those that rows are appended to; else of a part of attention: */
    kv_extent extent;
    size_t first, end;
} walk_unit;

/* All that a step needs, in order. */
typedef struct walk_way {
    walk_page *pages;
    size_t n_pages, n_held;
    walk_unit *units;
    size_t n_units, n_over;
} walk_way;

/* The spans of a step, kept to expect others like it. */
typedef struct past_step {
    int n_spans;
    span *spans;
} past_step;

enum { MOST_PAST = 64 };

struct kv_walk {
    kv_cache *kv;
    kv_tier *tier;
    const kv_shape *shape;
    int64_t *windows;
    int n_spans;
    const span *spans;
    walk_way now, expected; /* what of `expected` is held is held besides */
    span *next;             /* [n_next] what is expected; n_next 0: nothing is */
    int n_next;
    past_step past[MOST_PAST]; /* a ring; step i is at i % MOST_PAST */
    int64_t n_steps;
    int64_t *ends;     /* [slots] where the last span of each ended */
    int32_t *frames;   /* [table_pages], of the pages of a slot */
    walk_unit *append; /* of the layer that was entered */
    bool has_part;     /* units[n_over - 1] is a part that was handed out */
};

int64_t kv_walk_least_frames(const kv_shape *shape) {
    const int page_tokens = shape->format.page_tokens;
    const int64_t longest = shape->longest_tokens, node = ATTEND_NODE;
    const int64_t part = kv_pages_for(longest < node ? longest : node, page_tokens) + 1,
                  before = shape->format.layout == KV_INT4 ? kv_pages_for(ATTEND_BLOCK, page_tokens) : 0;
    return 2 * part + kv_pages_for(shape->max_rows, page_tokens) + (2 + before) * shape->n_slots;
}

kv_walk *kv_walk_open(kv_cache *kv, const int64_t *windows) {
    kv_walk *w = mem_new(1, sizeof *w);
    w->kv = kv;
    w->tier = kv_cache_tier(kv);
    w->shape = kv_cache_shape(kv);
    w->windows = mem_new((size_t)w->shape->n_layers, sizeof *w->windows);
    w->ends = mem_new((size_t)w->shape->n_slots, sizeof *w->ends);
    w->frames = mem_new((size_t)kv_pages_for(w->shape->longest_tokens, w->shape->format.page_tokens),
                        sizeof *w->frames);
    memcpy(w->windows, windows, (size_t)w->shape->n_layers * sizeof *w->windows);
    return w;
}

/* ---- what a step needs ---- */

/* Those that there are: what is expected may be of a sequence that is no more, or further behind. */
static void add_pages(const kv_walk *w, walk_way *way, int layer, int slot, int64_t place, int64_t end) {
    const int page_tokens = w->shape->format.page_tokens;
    const int32_t *table = kv_cache_table(w->kv, slot, layer);
    const int64_t first = kv_cache_first_kept(w->kv, slot, layer),
                  last = kv_cache_end_page(w->kv, slot, layer);
    for (int64_t i = (place > first ? place : first) / page_tokens;
         i < kv_pages_for(end, page_tokens) && i < last; i++) {
        way->pages = mem_grow(way->pages, way->n_pages, sizeof *way->pages);
        way->pages[way->n_pages++] = (walk_page){slot, (int32_t)i, table[i]};
    }
}

static walk_unit *add_unit(walk_way *way, int layer) {
    way->units = mem_grow(way->units, way->n_units, sizeof *way->units);
    walk_unit *unit = &way->units[way->n_units++];
    *unit = (walk_unit){.layer = layer, .first = way->n_pages};
    return unit;
}

/* The place of a span's first row in a layer. */
static int64_t place_of(const kv_walk *w, int layer, const span *s) {
    return s->pos0 - kv_cache_removed(w->kv, layer)[s->slot];
}

/* Of those up to `place`, the first one that a step's rows write to: in int4 the codes of all of a block come
 * with its last row. */
static int64_t first_written(const kv_walk *w, int64_t place) {
    return w->shape->format.layout == KV_INT4 ? place - place % ATTEND_BLOCK : place;
}

/* What the rows of a span see in these nodes. */
static void add_seen(const kv_walk *w, walk_way *way, int layer, const span *s, attend_nodes nodes) {
    const int64_t place = place_of(w, layer, s), end = place + s->n_rows,
                  seen = attend_first_position(place, w->windows[layer]);
    const int64_t first = nodes.first * ATTEND_NODE, last = nodes.last * ATTEND_NODE;
    add_pages(w, way, layer, s->slot, seen > first ? seen : first, end < last ? end : last);
}

static attend_nodes nodes_of(const kv_walk *w, int layer, const span *s) {
    const int64_t place = place_of(w, layer, s);
    return attend_nodes_seen(place, place + s->n_rows - 1, w->windows[layer], ATTEND_NODE_LEVEL);
}

/* Spans together, as long as they take no more than a quarter of what is left of memory; one that takes more
 * node after node.
 */
static void add_parts(const kv_walk *w, walk_way *way, int layer, size_t n_appended, int n_spans,
                      const span *spans) {
    const size_t n_frames = (size_t)w->shape->n_frames, most = (n_frames - n_appended) / 4;
    for (int i = 0, end; i < n_spans; i = end) {
        walk_unit *unit = add_unit(way, layer);
        attend_nodes all = nodes_of(w, layer, &spans[i]);
        add_seen(w, way, layer, &spans[i], all);
        for (end = i + 1; end < n_spans && way->n_pages - unit->first <= most; end++) {
            const attend_nodes next = nodes_of(w, layer, &spans[end]);
            const size_t before = way->n_pages;
            add_seen(w, way, layer, &spans[end], next);
            if (way->n_pages - unit->first > most) {
                way->n_pages = before;
                break;
            }
            if (next.first < all.first) all.first = next.first;
            if (next.last > all.last) all.last = next.last;
        }
        unit->extent = (kv_extent){{i, end, all}, all};
        unit->end = way->n_pages;
        if (unit->end - unit->first <= most) continue;
        way->n_pages = unit->first;
        way->n_units--;
        for (int64_t node = all.first; node < all.last; node++) {
            unit = add_unit(way, layer);
            unit->extent = (kv_extent){{i, end, {node, node + 1}}, all};
            add_seen(w, way, layer, &spans[i], unit->extent.part.nodes);
            unit->end = way->n_pages;
        }
    }
}

static void make_way(const kv_walk *w, walk_way *way, int n_spans, const span *spans) {
    way->n_pages = way->n_held = way->n_units = way->n_over = 0;
    for (int layer = 0; layer < w->shape->n_layers; layer++) {
        walk_unit *unit = add_unit(way, layer);
        unit->is_append = true;
        for (const span *s = spans; s < spans + n_spans; s++)
            add_pages(w, way, layer, s->slot, first_written(w, place_of(w, layer, s)),
                      place_of(w, layer, s) + s->n_rows);
        unit->end = way->n_pages;
        add_parts(w, way, layer, unit->end - unit->first, n_spans, spans);
    }
}

/* Keep the step that begins, in the place of the oldest. */
static const past_step *remember(kv_walk *w) {
    past_step *p = &w->past[w->n_steps++ % MOST_PAST];
    free(p->spans);
    *p = (past_step){w->n_spans, mem_new((size_t)w->n_spans, sizeof *p->spans)};
    memcpy(p->spans, w->spans, (size_t)w->n_spans * sizeof *p->spans);
    for (const span *s = w->spans; s < w->spans + w->n_spans; s++)
        w->ends[s->slot] = s->pos0 + s->n_rows;
    return p;
}

static bool has_same_slots(const past_step *a, const past_step *b) {
    bool same = a->n_spans == b->n_spans;
    for (int i = 0; same && i < a->n_spans; i++)
        same = a->spans[i].slot == b->spans[i].slot;
    return same;
}

/* What came behind the last step with the slots of the one that begins, each sequence from where it is now.
 */
static void expect_next(kv_walk *w) {
    const past_step *now = remember(w), *model = now;
    for (int64_t i = w->n_steps - 2; i >= 0 && i > w->n_steps - MOST_PAST && model == now; i--)
        if (has_same_slots(&w->past[i % MOST_PAST], now)) model = &w->past[(i + 1) % MOST_PAST];
    free(w->next);
    w->n_next = model->n_spans;
    w->next = mem_new((size_t)w->n_next, sizeof *w->next);
    for (int i = 0; i < w->n_next; i++) {
        w->next[i] = model->spans[i];
        w->next[i].pos0 = w->ends[w->next[i].slot];
    }
    make_way(w, &w->expected, w->n_next, w->next);
}

/* ---- holding ---- */

static void hold_ahead(kv_walk *w, walk_way *way) {
    kv_tier_advance(w->tier);
    while (way->n_held < way->n_pages && kv_tier_try_hold(w->tier, way->pages[way->n_held].page))
        way->n_held++;
}

void kv_walk_rest(kv_walk *w) {
    for (size_t i = 0; i < w->expected.n_held; i++)
        kv_tier_leave(w->tier, w->expected.pages[i].page, KV_TIER_READ);
    w->expected.n_held = w->expected.n_pages = 0;
    w->n_next = 0;
}

/* Tell the operations where the unit's pages are, once they are there: of each slot they follow each other.
 */
static void show_frames(kv_walk *w, const walk_unit *unit) {
    const walk_page *end = w->now.pages + unit->end;
    for (const walk_page *first = w->now.pages + unit->first, *p = first; p < end; first = p) {
        for (; p < end && p->slot == first->slot && p->entry - first->entry == p - first; p++)
            w->frames[p - first] = kv_tier_wait(w->tier, p->page, unit->is_append);
        kv_cache_set_frames(w->kv, first->slot, unit->layer, first->entry, p - first, w->frames);
    }
}

/* All pages of the unit are there, and those behind it are on their way. */
static void need(kv_walk *w, const walk_unit *unit) {
    walk_way *way = &w->now;
    hold_ahead(w, way);
    for (; way->n_held < unit->end; way->n_held++) {
        const walk_page *p = &way->pages[way->n_held];
        kv_tier_hold(w->tier, p->page);
        if (kv_tier_is_lost(w->tier, p->page, NULL)) kv_cache_give_up(w->kv, p->slot);
    }
    if (way->n_held == way->n_pages) hold_ahead(w, &w->expected);
    show_frames(w, unit);
}

bool kv_walk_announce(kv_walk *w, int n_spans, const span *spans) {
    bool is_expected = n_spans == w->n_next;
    for (int i = 0; is_expected && i < n_spans; i++)
        is_expected = spans[i].slot == w->next[i].slot && spans[i].pos0 == w->next[i].pos0;
    if (!is_expected) kv_walk_rest(w);
    return is_expected;
}

void kv_walk_begin(kv_walk *w, int n_spans, const span *spans) {
    kv_tier_begin_step(w->tier);
    w->n_spans = n_spans;
    w->spans = spans;
    make_way(w, &w->now, n_spans, spans);
    hold_ahead(w, &w->now); /* what was expected is not to leave before it is held again */
    kv_walk_rest(w);
    hold_ahead(w, &w->now);
    expect_next(w);
}

void kv_walk_enter(kv_walk *w, int layer) {
    w->append = &w->now.units[w->now.n_over++];
    assert(w->append->is_append && w->append->layer == layer);
    need(w, w->append);
}

/* Rows were appended: a page that ends with what is there for good, or before, is full. */
static void leave_appended(kv_walk *w) {
    const walk_page *p = w->now.pages + w->append->first;
    for (const span *s = w->spans; s < w->spans + w->n_spans; s++)
        for (; p < w->now.pages + w->append->end && p->slot == s->slot; p++)
            kv_tier_leave_later(w->tier, p->page,
                                ((int64_t)p->entry + 1) * w->shape->format.page_tokens <=
                                        first_written(w, place_of(w, w->append->layer, s) + s->n_rows)
                                    ? KV_TIER_CLOSED
                                    : KV_TIER_OPEN);
    assert(p == w->now.pages + w->append->end);
}

bool kv_walk_next(kv_walk *w, kv_extent *out) {
    walk_way *way = &w->now;
    if (w->has_part)
        for (size_t i = way->units[way->n_over - 1].first; i < way->units[way->n_over - 1].end; i++)
            kv_tier_leave_later(w->tier, way->pages[i].page, KV_TIER_READ);
    w->has_part = way->n_over < way->n_units && !way->units[way->n_over].is_append;
    if (!w->has_part) leave_appended(w);
    kv_tier_fence(w->tier);
    if (!w->has_part) return false;
    walk_unit *unit = &way->units[way->n_over++];
    need(w, unit);
    *out = unit->extent;
    return true;
}

void kv_walk_close(kv_walk *w) {
    if (!w) return;
    kv_walk_rest(w);
    for (walk_way *way = &w->now; way; way = way == &w->now ? &w->expected : NULL) {
        free(way->pages);
        free(way->units);
    }
    for (int i = 0; i < MOST_PAST; i++)
        free(w->past[i].spans);
    free(w->next);
    free(w->ends);
    free(w->windows);
    free(w->frames);
    free(w);
}
