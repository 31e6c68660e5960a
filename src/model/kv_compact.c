/* Eviction: the rows that stay move up (kv_cache_evict). */
#include <assert.h>
#include <stdlib.h>

#include "kernels/attend_blocks.h"
#include "src/base/memory.h"
#include "src/model/kv_cache_private.h"

/* What is to become of a layer's places in a slot. */
typedef struct compaction {
    kv_cache *kv;
    int slot, layer;
    int64_t n_kept;
    const int32_t *kept; /* [G, n_kept] */
} compaction;

/* ---- rows before they move ---- */

/* K or V of a head at n places that rise, as dense rows. */
static status gather_head(const compaction *c, kv_part part, int head, const int32_t *places, int64_t n,
                          char *out) {
    const kv_format *f = &c->kv->shape.format, near = kv_near_format(f);
    const size_t row_bytes = kv_cache_row_bytes(c->kv, part);
    status st = STATUS_OK;
    for (int64_t i = 0; st == STATUS_OK && i < n;) {
        const int64_t first = places[i];
        const page_place at = kv_cache_hold_place(c->kv, c->slot, c->layer, first, INT64_MAX, false);
        for (; i < n && places[i] < first + at.n; i++, out += row_bytes) {
            const int ahead = (int)(places[i] - first);
            if (at.near)
                kv_get_rows(&near, at.near, part, head, at.near_place + ahead, 1, out, row_bytes);
            else
                kv_get_rows(f, at.page, part, head, at.place + ahead, 1, out, row_bytes);
        }
        st = kv_cache_leave_place(c->kv, at, KV_TIER_READ);
    }
    return st;
}

/* What moves to the places [first, first + n): keys, head after head, then values. */
static status gather_rows(const compaction *c, int64_t first, int64_t n, char *rows) {
    const int G = c->kv->shape.format.n_heads;
    status st = STATUS_OK;
    for (int i = 0; st == STATUS_OK && i < N_KV_PARTS * G; i++) {
        const kv_part part = (kv_part)(i / G);
        st = gather_head(c, part, i % G, c->kept + i % G * c->n_kept + first, n, rows);
        rows += (size_t)n * kv_cache_row_bytes(c->kv, part);
    }
    return st;
}

static char *room_for_rows(const kv_cache *kv, int64_t n) {
    return mem_new((size_t)(n * kv->shape.format.n_heads),
                   kv_cache_row_bytes(kv, KV_PART_K) + kv_cache_row_bytes(kv, KV_PART_V));
}

/* ---- pages ---- */

/* The first n_put of n rows of each head, that were gathered, into the first places of a page. */
static void put_rows(const kv_cache *kv, const kv_format *f, char *page, int n_put, int n, const char *rows) {
    for (int i = 0; i < N_KV_PARTS * f->n_heads; i++) {
        const kv_part part = (kv_part)(i / f->n_heads);
        const size_t row_bytes = kv_cache_row_bytes(kv, part);
        kv_put_rows(f, page, part, i % f->n_heads, 0, n_put, rows, row_bytes);
        rows += (size_t)n * row_bytes;
    }
}

/* Do these rows lie where they are kept already? */
static bool are_in_place(const compaction *c, int64_t first, int64_t n) {
    bool same = true;
    for (int head = 0; same && head < c->kv->shape.format.n_heads; head++)
        for (int64_t i = first; same && i < first + n; i++)
            same = c->kept[head * c->n_kept + i] == i;
    return same;
}

/* The first place of the block that rows which come are put into. */
static int64_t open_block(const compaction *c) {
    return attend_block_of(c->n_kept) * ATTEND_BLOCK;
}

/* Of n places from `first` on, the first ones that have codes now. In int4 the open block has them when all
 * of it is there. */
static int places_to_put(const compaction *c, int64_t first, int n) {
    const int64_t before = open_block(c) > first ? open_block(c) - first : 0;
    return c->kv->shape.format.layout == KV_INT4 && before < n ? (int)before : n;
}

/* The first n places of an entry get the rows that are kept there. Those come from it or from behind it, so
 * that entries are filled in order; they are read before a page of the sequence's own takes the place of one
 * that is shared. */
static status fill_entry(const compaction *c, int64_t entry, int n, char *rows) {
    kv_cache *kv = c->kv;
    const kv_format *f = &kv->shape.format;
    const int64_t first = entry * f->page_tokens;
    int32_t *mine = &kv->layers[c->layer].tables[c->slot * kv->table_pages + entry];
    const bool is_shared = kv->n_users[*mine] > 1, is_full = n == f->page_tokens;
    if (are_in_place(c, first, n) && (is_full || !is_shared)) return STATUS_OK;
    const status st = gather_rows(c, first, n, rows);
    if (st != STATUS_OK) return st;
    if (is_shared) {
        kv_cache_leave_entry(kv, mine);
        *mine = kv_cache_take_page(kv, c->slot);
    }
    const int n_put = places_to_put(c, first, n);
    const page_place to = kv_cache_hold_place(kv, c->slot, c->layer, first, INT64_MAX, true);
    put_rows(kv, f, to.page, n_put, n, rows);
    return kv_cache_leave_place(kv, to, is_full && n_put == n ? KV_TIER_CLOSED : KV_TIER_OPEN);
}

static status fill_entries(const compaction *c) {
    const int page_tokens = c->kv->shape.format.page_tokens;
    char *rows = room_for_rows(c->kv, page_tokens);
    status st = STATUS_OK;
    for (int64_t at = 0; at < c->n_kept && st == STATUS_OK && !c->kv->gave_up[c->slot]; at += page_tokens) {
        const int64_t n = c->n_kept - at < page_tokens ? c->n_kept - at : page_tokens;
        st = fill_entry(c, at / page_tokens, (int)n, rows);
    }
    free(rows);
    return st;
}

/* ---- near pages ---- */

enum { MOST_NEAR = (ATTEND_EXACT_FIRST + ATTEND_BLOCK) / KV_NEAR_TOKENS };

/* Rows of a near page that there is to be: of the first places, or of the open block. */
typedef struct near_rows {
    int64_t first;
    int n;
    char *rows;
} near_rows;

/* The next one behind `place`. */
static near_rows next_near(const compaction *c, int64_t place) {
    const int64_t open = open_block(c), first = place > 0 && place < open ? open : place,
                  left = c->n_kept - first;
    return (near_rows){first, left < KV_NEAR_TOKENS ? (int)left : KV_NEAR_TOKENS, NULL};
}

/* They are read before any row moves, and taken afresh behind. */
static status fill_coded(const compaction *c) {
    kv_near *near = c->kv->layers[c->layer].near;
    const kv_format f = kv_near_format(&c->kv->shape.format);
    near_rows pages[MOST_NEAR];
    int n = 0;
    status st = STATUS_OK;
    for (near_rows p = next_near(c, 0); p.n > 0; p = next_near(c, p.first + p.n)) {
        p.rows = room_for_rows(c->kv, p.n);
        if (st == STATUS_OK) st = gather_rows(c, p.first, p.n, p.rows);
        pages[n++] = p;
    }
    if (st == STATUS_OK) st = fill_entries(c);
    kv_near_release(near, c->slot);
    kv_near_extend(near, c->slot, c->n_kept, c->n_kept);
    for (near_rows *p = pages; p < pages + n; p++) {
        int64_t end = INT64_MAX;
        char *page = kv_near_find(near, c->slot, p->first, &end);
        if (st == STATUS_OK) put_rows(c->kv, &f, page, p->n, p->n, p->rows);
        free(p->rows);
    }
    return st;
}

/* ---- eviction ---- */

void kv_cache_evict(kv_cache *kv, int slot, int layer, int64_t n_places, int64_t n_kept,
                    const int32_t *kept) {
    const compaction c = {kv, slot, layer, n_kept, kept};
    const int page_tokens = kv->shape.format.page_tokens;
    layer_pages *l = &kv->layers[layer];
    page_range *mine = &l->slots[slot];
    assert(kv->dev->host_memory && l->window == 0 && mine->first == 0 && n_kept <= n_places);
    assert(kv_pages_for(n_places, page_tokens) == mine->end);
    if ((l->near ? fill_coded(&c) : fill_entries(&c)) != STATUS_OK)
        kv_cache_give_up(kv, slot); /* a page was lost: so is what is left */
    while (mine->end > kv_pages_for(n_kept, page_tokens))
        kv_cache_leave_entry(kv, &l->tables[slot * kv->table_pages + --mine->end]);
    l->removed[slot] += n_places - n_kept;
}
