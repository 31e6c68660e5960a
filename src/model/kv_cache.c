#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "src/base/memory.h"
#include "src/model/kv_cache_private.h"

/* The first position of the blocks that a row at `pos`, or a later one, reads. */
static int64_t first_read(int64_t window, int64_t pos) {
    return attend_block_of(attend_first_position(pos, window)) * ATTEND_BLOCK;
}

int64_t kv_pool_pages(const kv_shape *s, int64_t window) {
    int page_tokens = s->format.page_tokens;
    if (window == 0) return s->n_pages;
    /* The first page may begin up to a page before the first block, which begins up to a block before. */
    int64_t most = window - 1 + ATTEND_BLOCK - 1 + s->max_rows;
    int64_t each = kv_pages_for(most, page_tokens) + 1, all = kv_pages_for(s->longest_tokens, page_tokens);
    if (each > all) each = all;
    return s->evicts || s->n_slots * each < s->n_pages ? s->n_slots * each : s->n_pages;
}

/* Of whole pages, each of which may begin a near one; where a layer with a window may have more than those,
 * of no bound. */
static kv_near_shape near_shape_of(const kv_shape *s) {
    const int64_t page_tokens = kv_pages_for(s->format.page_tokens, KV_NEAR_TOKENS) * KV_NEAR_TOKENS;
    return (kv_near_shape){
        .format = s->format,
        .n_slots = s->n_slots,
        .n_tokens = s->evicts ? s->n_slots * kv_pages_for(s->longest_tokens, KV_NEAR_TOKENS) * KV_NEAR_TOKENS
                              : s->n_pages * page_tokens,
        .longest_tokens = s->longest_tokens,
        .max_rows = s->max_rows,
        .n_blocks = s->n_near_blocks,
    };
}

uint64_t kv_cache_near_bytes(const kv_shape *s) {
    const kv_format near = kv_near_format(&s->format);
    const kv_near_shape shape = near_shape_of(s);
    return kv_is_coded(&s->format) ? (uint64_t)kv_near_pages(&shape) * kv_page_bytes(&near) : 0;
}

/* ---- open and close ---- */

static status open_staging(kv_cache *kv) {
    const kv_format near = kv_near_format(&kv->shape.format);
    const size_t near_bytes = kv_is_coded(&kv->shape.format) ? kv_page_bytes(&near) : 0;
    void *staging = NULL;
    if (kv->dev->host_memory) return STATUS_OK;
    status st = kv->dev->ops->copy_open(kv->dev, &kv->copy);
    if (st == STATUS_OK)
        st = kv->dev->ops->alloc_host(kv->dev, near_bytes > kv->page_bytes ? near_bytes : kv->page_bytes,
                                      &staging);
    kv->staging = staging;
    return st;
}

static status open_pool(kv_cache *kv) {
    const kv_shape *s = &kv->shape;
    void *pool = NULL;
    for (int l = 0; l < s->n_layers; l++)
        kv->n_pages += kv_pool_pages(s, kv->layers[l].window);
    assert(kv->n_pages <= INT32_MAX);
    const int64_t n_frames = s->records ? s->n_frames + 1 : kv->n_pages; /* and the one of what is lost */
    status st = kv->dev->ops->alloc(kv->dev, (size_t)n_frames * kv->page_bytes, &pool);
    if (st != STATUS_OK) return st;
    kv->pool = pool;
    if (s->records)
        st = kv_tier_open(&(kv_tier_shape){(int32_t)kv->n_pages, (int32_t)s->n_frames, kv->page_bytes,
                                           s->n_turn, kv->dev, kv->pool, *s->records},
                          &kv->tier);
    if (st != STATUS_OK) return st;
    kv->free = mem_new((size_t)kv->n_pages, sizeof *kv->free);
    kv->n_users = mem_new((size_t)kv->n_pages, sizeof *kv->n_users);
    while (kv->n_free < kv->n_pages) {
        kv->free[kv->n_free] = (int32_t)(kv->n_pages - 1 - kv->n_free);
        kv->n_free++;
    }
    return STATUS_OK;
}

static bool has_one_table(const kv_cache *kv) {
    return kv->dev->host_memory && !kv->tier;
}

static status open_layer(kv_cache *kv, layer_pages *layer) {
    const size_t n_entries = (size_t)kv->shape.n_slots * (size_t)kv->table_pages;
    void *tables = NULL;
    status st = kv->dev->ops->alloc(kv->dev, n_entries * sizeof *layer->tables, &tables);
    if (st != STATUS_OK) return st;
    layer->device_tables = tables;
    layer->tables = has_one_table(kv) ? tables : mem_new(n_entries, sizeof *layer->tables);
    if (!kv->dev->host_memory && kv->tier) {
        layer->frames = mem_new(n_entries, sizeof *layer->frames);
        kv->dev->ops->copy_in(kv->dev, tables, layer->frames, n_entries * sizeof *layer->frames);
    }
    layer->slots = mem_new((size_t)kv->shape.n_slots, sizeof *layer->slots);
    layer->removed = mem_new((size_t)kv->shape.n_slots, sizeof *layer->removed);
    const kv_near_shape near = near_shape_of(&kv->shape);
    return kv_is_coded(&near.format) ? kv_near_open(kv->dev, &near, &layer->near) : STATUS_OK;
}

status kv_cache_open(device *dev, const kv_shape *shape, kv_cache **out) {
    kv_cache *kv = mem_new(1, sizeof *kv);
    kv->dev = dev;
    kv->shape = *shape;
    kv->page_bytes = kv_page_bytes(&shape->format);
    kv->table_pages = kv_pages_for(shape->longest_tokens, shape->format.page_tokens);
    assert(shape->format.type == dev->kv && shape->format.layout == dev->kv_layout);
    pthread_mutex_init(&kv->lock, NULL);
    kv->layers = mem_new((size_t)shape->n_layers, sizeof *kv->layers);
    kv->gave_up = mem_new((size_t)shape->n_slots, sizeof *kv->gave_up);
    for (int l = 0; shape->windows && l < shape->n_layers; l++)
        kv->layers[l].window = shape->windows[l];
    kv->shape.windows = NULL;
    status st = open_staging(kv);
    if (st == STATUS_OK) st = open_pool(kv);
    if (shape->format.layout == KV_INT4)
        kv->groups = kv_groups_open(&shape->format, shape->n_slots, shape->n_layers);
    for (int l = 0; st == STATUS_OK && l < shape->n_layers; l++)
        st = open_layer(kv, &kv->layers[l]);
    st = status_at(st, "KV cache");
    if (st != STATUS_OK) {
        kv_cache_close(kv);
        return st;
    }
    *out = kv;
    return STATUS_OK;
}

void kv_cache_close(kv_cache *kv) {
    if (!kv) return;
    for (layer_pages *layer = kv->layers; layer < kv->layers + kv->shape.n_layers; layer++) {
        if (layer->device_tables) kv->dev->ops->release(kv->dev, layer->device_tables);
        if (!has_one_table(kv)) free(layer->tables);
        free(layer->frames);
        free(layer->slots);
        free(layer->removed);
        kv_near_close(layer->near);
    }
    free(kv->layers);
    kv_groups_close(kv->groups);
    kv_tier_close(kv->tier);
    if (kv->pool) kv->dev->ops->release(kv->dev, kv->pool);
    free(kv->free);
    free(kv->n_users);
    free(kv->gave_up);
    if (kv->staging) kv->dev->ops->release_host(kv->dev, kv->staging);
    if (kv->copy) kv->dev->ops->copy_close(kv->dev, kv->copy);
    pthread_mutex_destroy(&kv->lock);
    free(kv);
}

/* ---- pages of sequences ---- */

void kv_cache_leave_entry(kv_cache *kv, int32_t *entry) {
    if (--kv->n_users[*entry] == 0) {
        if (kv->tier) kv_tier_remove(kv->tier, *entry);
        kv->free[kv->n_free++] = *entry;
    }
    *entry = -1; /* where memory is the host's, a read of what is gone finds no other sequence's page */
}

static void give_back(kv_cache *kv, layer_pages *layer, int slot, int64_t end) {
    int32_t *table = layer->tables + slot * kv->table_pages;
    for (page_range *mine = &layer->slots[slot]; mine->first < end && mine->first < mine->end; mine->first++)
        kv_cache_leave_entry(kv, &table[mine->first]);
}

int32_t kv_cache_take_page(kv_cache *kv, int slot) {
    assert(kv->n_free > 0);
    const int32_t id = kv->free[--kv->n_free];
    if (kv->tier) kv_tier_add(kv->tier, id);
    if (kv->gave_up[slot]) kv_tier_give_up(kv->tier, id);
    kv->n_users[id] = 1;
    return id;
}

/* Entries [first, end) of a slot's table are new. */
static void send_entries(const kv_cache *kv, const layer_pages *layer, int slot, int64_t first, int64_t end) {
    const size_t at = (size_t)(slot * kv->table_pages + first);
    if (end > first && !kv->tier && !kv->dev->host_memory)
        kv->dev->ops->copy_in(kv->dev, layer->device_tables + at, layer->tables + at,
                              (size_t)(end - first) * sizeof *layer->tables);
}

static void extend_layer(kv_cache *kv, layer_pages *layer, int slot, int64_t begin, int64_t end) {
    int page_tokens = kv->shape.format.page_tokens;
    int32_t *table = layer->tables + slot * kv->table_pages;
    page_range *mine = &layer->slots[slot];
    begin -= layer->removed[slot];
    end -= layer->removed[slot];
    const int64_t first = first_read(layer->window, begin) / page_tokens,
                  last = kv_pages_for(end, page_tokens);
    give_back(kv, layer, slot, first);
    if (mine->first == mine->end && mine->first < first) mine->first = mine->end = first;
    int64_t had = mine->end;
    assert(last <= kv->table_pages);
    while (mine->end < last)
        table[mine->end++] = kv_cache_take_page(kv, slot);
    send_entries(kv, layer, slot, had, mine->end);
    if (layer->near) kv_near_extend(layer->near, slot, begin, end);
}

void kv_cache_extend(kv_cache *kv, int slot, int64_t begin, int64_t end) {
    for (int l = 0; l < kv->shape.n_layers; l++)
        extend_layer(kv, &kv->layers[l], slot, begin, end);
}

void kv_cache_settle(kv_cache *kv) {
    for (int l = 0; l < kv->shape.n_layers; l++)
        if (kv->layers[l].near) kv_near_settle(kv->layers[l].near);
}

void kv_cache_pin(kv_cache *kv, int slot) {
    for (int l = 0; l < kv->shape.n_layers; l++)
        if (kv->layers[l].near) kv_near_pin(kv->layers[l].near, slot);
}

void kv_cache_unpin(kv_cache *kv, int slot) {
    for (int l = 0; l < kv->shape.n_layers; l++)
        if (kv->layers[l].near) kv_near_unpin(kv->layers[l].near, slot);
}

void kv_cache_share(kv_cache *kv, int from, int to, int64_t n_tokens) {
    const int page_tokens = kv->shape.format.page_tokens;
    assert(n_tokens % page_tokens == 0 && from != to);
    for (layer_pages *layer = kv->layers; layer < kv->layers + kv->shape.n_layers; layer++) {
        const page_range *theirs = &layer->slots[from];
        page_range *mine = &layer->slots[to];
        const int64_t first = first_read(layer->window, n_tokens) / page_tokens;
        assert(mine->first == mine->end && theirs->first <= first && theirs->end >= n_tokens / page_tokens);
        assert(layer->removed[from] == 0);
        *mine = (page_range){first, n_tokens / page_tokens};
        for (int64_t i = mine->first; i < mine->end; i++) {
            const int32_t id = layer->tables[from * kv->table_pages + i];
            kv->n_users[id]++;
            layer->tables[to * kv->table_pages + i] = id;
        }
        send_entries(kv, layer, to, mine->first, mine->end);
        if (layer->near) kv_near_share(layer->near, from, to, n_tokens);
    }
}

void kv_cache_give_up(kv_cache *kv, int slot) {
    kv->gave_up[slot] = true;
    for (const layer_pages *layer = kv->layers; layer < kv->layers + kv->shape.n_layers; layer++) {
        const int32_t *table = layer->tables + slot * kv->table_pages;
        for (int64_t i = layer->slots[slot].first; i < layer->slots[slot].end; i++)
            if (kv->n_users[table[i]] == 1) kv_tier_give_up(kv->tier, table[i]);
    }
}

void kv_cache_release(kv_cache *kv, int slot) {
    kv->gave_up[slot] = false;
    if (kv->groups) kv_groups_drop(kv->groups, slot);
    for (layer_pages *layer = kv->layers; layer < kv->layers + kv->shape.n_layers; layer++) {
        give_back(kv, layer, slot, INT64_MAX);
        layer->slots[slot] = (page_range){0};
        layer->removed[slot] = 0;
        if (layer->near) kv_near_release(layer->near, slot);
    }
}

int64_t kv_cache_free_pages(const kv_cache *kv) {
    return kv->n_free;
}

int64_t kv_cache_first_kept(const kv_cache *kv, int slot, int layer) {
    return kv->layers[layer].slots[slot].first * kv->shape.format.page_tokens;
}

kv_layer kv_cache_layer(const kv_cache *kv, int layer) {
    const layer_pages *l = &kv->layers[layer];
    return (kv_layer){kv->pool, kv->shape.format, l->device_tables, (int)kv->table_pages,
                      l->near ? kv_near_layer(l->near) : NULL};
}

/* ---- rows out of and into pages ---- */

const int32_t *kv_cache_table(const kv_cache *kv, int slot, int layer) {
    return kv->layers[layer].tables + slot * kv->table_pages;
}

int64_t kv_cache_end_page(const kv_cache *kv, int slot, int layer) {
    return kv->layers[layer].slots[slot].end;
}

const int64_t *kv_cache_removed(const kv_cache *kv, int layer) {
    return kv->layers[layer].removed;
}

device *kv_cache_device(const kv_cache *kv) {
    return kv->dev;
}

const kv_shape *kv_cache_shape(const kv_cache *kv) {
    return &kv->shape;
}

kv_tier *kv_cache_tier(const kv_cache *kv) {
    return kv->tier;
}

void kv_cache_set_frames(kv_cache *kv, int slot, int layer, int64_t first, int64_t n, const int32_t *frames) {
    const layer_pages *l = &kv->layers[layer];
    const size_t at = (size_t)(slot * kv->table_pages + first), bytes = (size_t)n * sizeof *frames;
    int32_t *known = kv->dev->host_memory ? l->device_tables : l->frames;
    if (!memcmp(known + at, frames, bytes)) return;
    memcpy(known + at, frames, bytes);
    if (!kv->dev->host_memory) kv->dev->ops->copy_in(kv->dev, l->device_tables + at, known + at, bytes);
}

page_place kv_cache_hold_place(const kv_cache *kv, int slot, int layer, int64_t pos, int64_t end,
                               bool to_write) {
    const int64_t page_tokens = kv->shape.format.page_tokens,
                  page_end = (pos / page_tokens + 1) * page_tokens;
    const int32_t id = kv_cache_table(kv, slot, layer)[pos / page_tokens];
    assert(pos >= kv_cache_first_kept(kv, slot, layer));
    if (page_end < end) end = page_end;
    const kv_near *all_near = kv->layers[layer].near;
    char *near = all_near ? kv_near_find(all_near, slot, pos, &end) : NULL;
    if (kv->tier) kv_tier_hold(kv->tier, id);
    const int32_t frame = kv->tier ? kv_tier_wait(kv->tier, id, to_write) : id;
    return (page_place){.id = id,
                        .place = (int)(pos % page_tokens),
                        .page = kv->pool + (size_t)frame * kv->page_bytes,
                        .near = near,
                        .near_place = (int)(pos % KV_NEAR_TOKENS),
                        .n = end - pos};
}

status kv_cache_leave_place(const kv_cache *kv, page_place at, kv_tier_change change) {
    char text[STATUS_TEXT_BYTES];
    if (!kv->tier) return STATUS_OK;
    kv_tier_leave(kv->tier, at.id, change);
    return kv_tier_is_lost(kv->tier, at.id, text) ? status_fail("%s", text) : STATUS_OK;
}

/* Bytes of a page in a device's own memory, copied from or to the staging, with the lock held. */
static status copy_staged(const kv_cache *kv, char *to, const char *from, size_t bytes) {
    const device_ops *ops = kv->dev->ops;
    bool over = false;
    status st = ops->copy_begin(kv->dev, kv->copy, to, from, bytes);
    while (st == STATUS_OK && !over)
        st = ops->copy_test(kv->dev, kv->copy, &over);
    return st;
}

size_t kv_cache_row_bytes(const kv_cache *kv, kv_part part) {
    return (size_t)kv_part_width(&kv->shape.format, part) * dtype_bytes(kv->shape.format.type);
}

static void get_rows(const kv_cache *kv, page_place at, kv_part part, char *out) {
    const kv_format near = kv_near_format(&kv->shape.format), *f = at.near ? &near : &kv->shape.format;
    const size_t row_bytes = kv_cache_row_bytes(kv, part), all_bytes = (size_t)f->n_heads * row_bytes;
    for (int head = 0; head < f->n_heads; head++)
        kv_get_rows(f, at.near ? at.near : at.page, part, head, at.near ? at.near_place : at.place, (int)at.n,
                    out + (size_t)head * row_bytes, all_bytes);
}

/* Rows of one page in a device's own memory, which holds the positions of a head together. What lies between
 * those of two heads is fetched with them: the model may write it meanwhile, and nobody looks at it. */
static status fetch_rows(const kv_cache *kv, page_place at, kv_part part, char *out) {
    const kv_format near = kv_near_format(&kv->shape.format), *f = at.near ? &near : &kv->shape.format;
    const int first = at.near ? at.near_place : at.place, last = first + (int)at.n - 1;
    char **page = at.near ? &at.near : &at.page;
    assert(f->layout == KV_ROWS || f->layout == KV_INT8_ROWS);
    const size_t begin = kv_is_coded(f) ? kv_row_scale(f, part, 0, first - first % KV_INT8_ROWS_PLACES)
                                        : kv_element(f, part, 0, first) * kv_unit_bytes(f),
                 end = (kv_element(f, part, f->n_heads - 1, last) + (size_t)kv_part_width(f, part)) *
                       kv_unit_bytes(f);
    const status st = copy_staged(kv, kv->staging + begin, *page + begin, end - begin);
    *page = kv->staging;
    if (st == STATUS_OK) get_rows(kv, at, part, out);
    return st;
}

status kv_cache_read(kv_cache *kv, int slot, int layer, kv_part part, int64_t pos0, int64_t n_tokens,
                     void *out) {
    const int64_t end = pos0 + n_tokens;
    const size_t all_bytes = (size_t)kv->shape.format.n_heads * kv_cache_row_bytes(kv, part);
    status st = STATUS_OK;
    if (!kv->dev->host_memory) pthread_mutex_lock(&kv->lock);
    for (int64_t pos = pos0, n = 0; st == STATUS_OK && pos < end; pos += n) {
        const page_place at = kv_cache_hold_place(kv, slot, layer, pos, end, false);
        char *to = (char *)out + (size_t)(pos - pos0) * all_bytes;
        n = at.n;
        if (kv->dev->host_memory)
            get_rows(kv, at, part, to);
        else
            st = fetch_rows(kv, at, part, to);
        const status left = kv_cache_leave_place(kv, at, KV_TIER_READ);
        if (st == STATUS_OK) st = left;
    }
    if (!kv->dev->host_memory) pthread_mutex_unlock(&kv->lock);
    return st;
}

/* Behind what is queued, where all pages are there; where not, before the page may leave, and what is lost
 * stays as it is. */
static void send_rows(kv_cache *kv, int32_t id, char *to, const char *from, size_t bytes) {
    if (!kv->tier) {
        kv->dev->ops->copy_in(kv->dev, to, from, bytes);
        return;
    }
    if (kv_tier_is_lost(kv->tier, id, NULL)) return;
    pthread_mutex_lock(&kv->lock);
    memcpy(kv->staging, from, bytes);
    if (copy_staged(kv, to, kv->staging, bytes) != STATUS_OK) status_die("%s", status_text());
    pthread_mutex_unlock(&kv->lock);
}

/* Codes of rows into a page of a device's own memory: groups of places as a whole, or else scales and codes
 * apart. */
static void send_codes(kv_cache *kv, const page_place *at, kv_part part, int head, const char *rows) {
    enum { GROUP = KV_INT8_ROWS_PLACES };
    const kv_format *f = &kv->shape.format;
    const int end = at->place + (int)at->n, width = kv_part_width(f, part);
    char *page = mem_new(kv->page_bytes, 1);
    kv_put_rows(f, page, part, head, at->place, (int)at->n, rows, kv_cache_row_bytes(kv, part));
    for (int place = at->place, n; place < end; place += n) {
        const int whole = place % GROUP ? 0 : (end - place) / GROUP * GROUP, to_end = GROUP - place % GROUP;
        const size_t scales = kv_row_scale(f, part, head, place), codes = kv_element(f, part, head, place);
        n = whole ? whole : to_end < end - place ? to_end : end - place;
        if (whole) {
            send_rows(kv, at->id, at->page + scales, page + scales,
                      (size_t)n * (size_t)kv_part_stride(f, part));
            continue;
        }
        send_rows(kv, at->id, at->page + scales, page + scales, (size_t)n * KV_WORD_BYTES);
        send_rows(kv, at->id, at->page + codes, page + codes, (size_t)(n * width));
    }
    free(page);
}

/* Rows into a page of a device's own memory. */
static void send_to_page(kv_cache *kv, const page_place *at, kv_part part, int head, const char *rows) {
    const kv_format *f = &kv->shape.format, near = kv_near_format(f);
    const size_t bytes = (size_t)at->n * kv_cache_row_bytes(kv, part);
    if (at->near) /* which stays where it is */
        kv->dev->ops->copy_in(kv->dev, kv_place_in(&near, at->near, part, head, at->near_place), rows, bytes);
    if (kv_is_coded(f))
        send_codes(kv, at, part, head, rows);
    else
        send_rows(kv, at->id, kv_place_in(f, at->page, part, head, at->place), rows, bytes);
}

/* In int4: group by group, when all rows of it are there. What rows see as it was put has no codes yet, or
 * none ever. */
static void put_groups(kv_cache *kv, int slot, int layer, kv_part part, int head, int64_t pos,
                       const page_place *at, const char *rows) {
    const size_t row_bytes = kv_cache_row_bytes(kv, part);
    if (at->near) return;
    for (int i = 0, n; i < (int)at->n; i += n) {
        const int place = at->place + i, to_end = KV_INT4_PLACES - place % KV_INT4_PLACES;
        n = (int)at->n - i < to_end ? (int)at->n - i : to_end;
        char *whole =
            kv_groups_add(kv->groups, slot, layer, part, head, pos + i, n, rows + (size_t)i * row_bytes);
        if (whole)
            kv_put_rows(&kv->shape.format, at->page, part, head, place - place % KV_INT4_PLACES,
                        KV_INT4_PLACES, whole, row_bytes);
        free(whole);
    }
}

void kv_cache_write_rows(kv_cache *kv, int slot, int layer, kv_part part, int head, int64_t pos0,
                         int64_t n_tokens, const void *in) {
    const kv_format *f = &kv->shape.format, near = kv_near_format(f);
    const size_t row_bytes = kv_cache_row_bytes(kv, part);
    for (int64_t pos = pos0, n; pos < pos0 + n_tokens; pos += n) {
        const page_place at = kv_cache_hold_place(kv, slot, layer, pos, pos0 + n_tokens, true);
        const char *from = (const char *)in + (size_t)(pos - pos0) * row_bytes;
        n = at.n;
        const bool is_host = kv->dev->host_memory;
        if (at.near && is_host)
            kv_put_rows(&near, at.near, part, head, at.near_place, (int)n, from, row_bytes);
        if (kv->groups)
            put_groups(kv, slot, layer, part, head, pos, &at, from);
        else if (is_host)
            kv_put_rows(f, at.page, part, head, at.place, (int)n, from, row_bytes);
        else
            send_to_page(kv, &at, part, head, from);
        kv_cache_leave_place(kv, at, KV_TIER_OPEN); /* whoever reads it hears of a page that is lost */
    }
}

void kv_cache_write(kv_cache *kv, int slot, int layer, kv_part part, int64_t pos0, int64_t n_tokens,
                    const void *in) {
    const size_t row_bytes = kv_cache_row_bytes(kv, part), G = (size_t)kv->shape.format.n_heads;
    char *rows = mem_new((size_t)n_tokens, row_bytes);
    for (size_t head = 0; head < G; head++) {
        for (size_t i = 0; i < (size_t)n_tokens; i++)
            memcpy(rows + i * row_bytes, (const char *)in + (i * G + head) * row_bytes, row_bytes);
        kv_cache_write_rows(kv, slot, layer, part, (int)head, pos0, n_tokens, rows);
    }
    free(rows);
}

const void *kv_cache_hold(kv_cache *kv, int slot, int layer, int64_t entry) {
    return kv_cache_hold_place(kv, slot, layer, entry * kv->shape.format.page_tokens, INT64_MAX, false).page;
}

status kv_cache_leave(kv_cache *kv, int slot, int layer, int64_t entry) {
    return kv_cache_leave_place(kv, (page_place){.id = kv_cache_table(kv, slot, layer)[entry]}, KV_TIER_READ);
}

const void *kv_cache_near(const kv_cache *kv, int slot, int layer, int64_t place) {
    return kv_near_page(kv->layers[layer].near, slot, place);
}
