/* Eviction: the rows that stay move up (kv_cache_evict). */
#include <assert.h>
#include <stdlib.h>

#include "src/base/memory.h"
#include "src/model/kv_cache_private.h"

/* K or V of a head at places that rise, as dense rows. */
static status gather_rows(kv_cache *kv, int slot, int layer, kv_part part, int head, const int32_t *places,
                          int64_t n, char *out) {
    const kv_format *f = &kv->shape.format;
    const size_t row_bytes = kv_cache_row_bytes(kv, part);
    status st = STATUS_OK;
    for (int64_t i = 0; st == STATUS_OK && i < n;) {
        const int32_t page = places[i] / f->page_tokens;
        const page_place at = kv_cache_hold_place(kv, slot, layer, places[i], INT64_MAX, false);
        for (; i < n && places[i] / f->page_tokens == page; i++)
            kv_get_rows(f, at.page, part, head, places[i] % f->page_tokens, 1, out + (size_t)i * row_bytes,
                        row_bytes);
        st = kv_cache_leave_place(kv, at, KV_TIER_READ);
    }
    return st;
}

/* Do these rows lie where they are kept already? */
static bool are_in_place(const kv_cache *kv, int64_t first, int64_t n, int64_t n_kept, const int32_t *kept) {
    bool same = true;
    for (int head = 0; same && head < kv->shape.format.n_heads; head++, kept += n_kept)
        for (int64_t i = first; same && i < first + n; i++)
            same = kept[i] == i;
    return same;
}

/* The first n places of an entry get the rows that are kept there. Those come from it or from behind it, so
 * that entries are filled in order; they are read before a page of the sequence's own takes the place of one
 * that is shared. */
static status fill_entry(kv_cache *kv, int slot, int layer, int64_t entry, int n, int64_t n_kept,
                         const int32_t *kept, char *rows) {
    const kv_format *f = &kv->shape.format;
    const int64_t first = entry * f->page_tokens;
    int32_t *mine = &kv->layers[layer].tables[slot * kv->table_pages + entry];
    const bool is_shared = kv->n_users[*mine] > 1, is_full = n == f->page_tokens;
    if (are_in_place(kv, first, n, n_kept, kept) && (is_full || !is_shared)) return STATUS_OK;
    status st = STATUS_OK;
    char *at = rows;
    for (int i = 0; st == STATUS_OK && i < N_KV_PARTS * f->n_heads; i++) {
        const kv_part part = (kv_part)(i / f->n_heads);
        const int head = i % f->n_heads;
        st = gather_rows(kv, slot, layer, part, head, kept + head * n_kept + first, n, at);
        at += (size_t)n * kv_cache_row_bytes(kv, part);
    }
    if (st != STATUS_OK) return st;
    if (is_shared) {
        kv_cache_leave_entry(kv, mine);
        *mine = kv_cache_take_page(kv, slot);
    }
    const page_place to = kv_cache_hold_place(kv, slot, layer, first, INT64_MAX, true);
    at = rows;
    for (int i = 0; i < N_KV_PARTS * f->n_heads; i++) {
        const kv_part part = (kv_part)(i / f->n_heads);
        const size_t row_bytes = kv_cache_row_bytes(kv, part);
        kv_put_rows(f, to.page, part, i % f->n_heads, 0, n, at, row_bytes);
        at += (size_t)n * row_bytes;
    }
    return kv_cache_leave_place(kv, to, is_full ? KV_TIER_CLOSED : KV_TIER_OPEN);
}

void kv_cache_evict(kv_cache *kv, int slot, int layer, int64_t n_places, int64_t n_kept,
                    const int32_t *kept) {
    const kv_format *f = &kv->shape.format;
    layer_pages *l = &kv->layers[layer];
    page_range *mine = &l->slots[slot];
    assert(kv->dev->host_memory && !l->near && l->window == 0 && mine->first == 0 && n_kept <= n_places);
    assert(kv_pages_for(n_places, f->page_tokens) == mine->end);
    char *rows = mem_new((size_t)(f->n_heads * f->page_tokens),
                         kv_cache_row_bytes(kv, KV_PART_K) + kv_cache_row_bytes(kv, KV_PART_V));
    status st = STATUS_OK;
    for (int64_t at = 0; at < n_kept && st == STATUS_OK && !kv->gave_up[slot]; at += f->page_tokens) {
        const int64_t n = n_kept - at < f->page_tokens ? n_kept - at : f->page_tokens;
        st = fill_entry(kv, slot, layer, at / f->page_tokens, (int)n, n_kept, kept, rows);
    }
    if (st != STATUS_OK) kv_cache_give_up(kv, slot); /* a page was lost: so is what is left */
    while (mine->end > kv_pages_for(n_kept, f->page_tokens))
        kv_cache_leave_entry(kv, &l->tables[slot * kv->table_pages + --mine->end]);
    l->removed[slot] += n_places - n_kept;
    free(rows);
}
