#include "src/model/kv_near.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "src/base/memory.h"

enum { NONE = -1, PAGE = KV_NEAR_TOKENS, BLOCK_PAGES = (int)ATTEND_BLOCK / (int)PAGE };

static_assert((int)ATTEND_EXACT_FIRST == (int)PAGE && (int)ATTEND_BLOCK % (int)PAGE == 0,
              "first places and blocks are whole pages");

/* The places of a sequence. */
typedef struct near_slot {
    int64_t begin, stop; /* of the rows that came last; those before `begin` will not see them */
    int64_t end;         /* of all places */
    int64_t low;         /* entries below have no pages, but for the first one of all */
    int64_t pinned_end;  /* `end` when it was pinned; 0: it is not */
} near_slot;

struct kv_near {
    device *dev;
    kv_format format;
    size_t page_bytes;
    int n_slots;
    int64_t table_pages, n_pages;
    char *pool;             /* [n_pages] */
    int32_t *tables;        /* [n_slots, table_pages] */
    int32_t *device_tables; /* the same, for the device; one with them where memory is the host's */
    int32_t *pins;          /* [n_slots, BLOCK_PAGES]: of the open block */
    int32_t *free;          /* [n_pages] */
    int32_t *n_users;       /* [n_pages] */
    int64_t n_free;
    near_slot *slots;
    kv_layer layer;
};

int64_t kv_near_pages(const kv_near_shape *s) {
    const int64_t all = kv_pages_for(s->longest_tokens, PAGE);
    /* Rows of a step may reach into a page more than their number takes. */
    int64_t each = 1 + s->n_blocks * BLOCK_PAGES + 1, step = kv_pages_for(s->max_rows, PAGE);
    if (each > all) {
        each = all;
        step = 0;
    }
    const int64_t n = s->n_slots * each + step, most = kv_pages_for(s->n_tokens, PAGE);
    return n < most ? n : most;
}

static int64_t block_begin(int64_t place) {
    return attend_block_of(place) * ATTEND_BLOCK;
}

static int32_t *table_of(const kv_near *n, int slot) {
    return n->tables + slot * n->table_pages;
}

/* ---- open and close ---- */

status kv_near_open(device *dev, const kv_near_shape *shape, kv_near **out) {
    kv_near *n = mem_new(1, sizeof *n);
    *n = (kv_near){.dev = dev,
                   .format = kv_near_format(&shape->format),
                   .n_slots = shape->n_slots,
                   .table_pages = kv_pages_for(shape->longest_tokens, PAGE),
                   .n_pages = kv_near_pages(shape)};
    n->page_bytes = kv_page_bytes(&n->format);
    const size_t n_slots = (size_t)n->n_slots, n_pages = (size_t)n->n_pages,
                 table_bytes = n_slots * (size_t)n->table_pages * sizeof *n->tables;
    void *pool = NULL, *tables = NULL;
    status st = dev->ops->alloc(dev, n_pages * n->page_bytes, &pool);
    if (st == STATUS_OK) st = dev->ops->alloc(dev, table_bytes, &tables);
    if (st != STATUS_OK) {
        if (pool) dev->ops->release(dev, pool);
        free(n);
        return st;
    }
    n->pool = pool;
    n->device_tables = tables;
    n->tables = dev->host_memory ? n->device_tables : mem_new(1, table_bytes);
    memset(n->tables, NONE, table_bytes);
    n->pins = mem_new(n_slots * BLOCK_PAGES, sizeof *n->pins);
    n->free = mem_new(n_pages, sizeof *n->free);
    n->n_users = mem_new(n_pages, sizeof *n->n_users);
    for (int64_t id = n->n_pages; id > 0;)
        n->free[n->n_free++] = (int32_t)--id;
    n->slots = mem_new(n_slots, sizeof *n->slots);
    n->layer = (kv_layer){.pages = n->pool,
                          .format = n->format,
                          .tables = n->device_tables,
                          .table_pages = (int)n->table_pages};
    *out = n;
    return STATUS_OK;
}

void kv_near_close(kv_near *n) {
    if (!n) return;
    n->dev->ops->release(n->dev, n->pool);
    n->dev->ops->release(n->dev, n->device_tables);
    if (!n->dev->host_memory) free(n->tables);
    free(n->pins);
    free(n->free);
    free(n->n_users);
    free(n->slots);
    free(n);
}

const kv_layer *kv_near_layer(const kv_near *n) {
    return &n->layer;
}

/* ---- pages ---- */

static void leave(kv_near *n, int32_t *id) {
    if (*id != NONE && --n->n_users[*id] == 0) n->free[n->n_free++] = *id;
    *id = NONE;
}

/* Has the entry places of [first, end)? */
static bool has_any(int64_t entry, int64_t first, int64_t end) {
    return first < end && entry * PAGE < end && (entry + 1) * PAGE > first;
}

static void give_back(kv_near *n, int slot) {
    near_slot *s = &n->slots[slot];
    const int64_t open = block_begin(s->end), begin = block_begin(s->begin);
    for (int64_t i = s->low; i < kv_pages_for(s->end, PAGE); i++)
        if (i > 0 && !has_any(i, begin, s->stop) && !has_any(i, open, s->end))
            leave(n, &table_of(n, slot)[i]);
    s->low = (begin < open ? begin : open) / PAGE;
}

/* Entries [first, end) of a slot's table, for the operations that come. */
static void send_entries(const kv_near *n, int slot, int64_t first, int64_t end) {
    const size_t at = (size_t)(slot * n->table_pages + first);
    if (end > first && !n->dev->host_memory)
        n->dev->ops->copy_in(n->dev, n->device_tables + at, n->tables + at,
                             (size_t)(end - first) * sizeof *n->tables);
}

/* Pages for the places [begin, end) that have none. */
static void take(kv_near *n, int slot, int64_t begin, int64_t end) {
    int64_t first_new = 0, end_new = 0;
    for (int64_t i = begin / PAGE; i < kv_pages_for(end, PAGE); i++) {
        int32_t *id = &table_of(n, slot)[i];
        if (*id != NONE) continue;
        assert(n->n_free > 0);
        *id = n->free[--n->n_free];
        n->n_users[*id] = 1;
        if (end_new == 0) first_new = i;
        end_new = i + 1;
    }
    send_entries(n, slot, first_new, end_new);
}

void kv_near_extend(kv_near *n, int slot, int64_t begin, int64_t end) {
    near_slot *s = &n->slots[slot];
    s->begin = begin;
    s->stop = end;
    if (end > s->end) s->end = end;
    give_back(n, slot);
    take(n, slot, 0, 1);
    take(n, slot, block_begin(s->end), s->end);
    take(n, slot, block_begin(begin), end);
}

void kv_near_settle(kv_near *n) {
    for (int slot = 0; slot < n->n_slots; slot++) {
        n->slots[slot].begin = n->slots[slot].stop;
        give_back(n, slot);
    }
}

void kv_near_share(kv_near *n, int from, int to, int64_t n_tokens) {
    assert(n_tokens > 0 && n_tokens % ATTEND_BLOCK == 0 && n->slots[to].end == 0);
    n->slots[to] = (near_slot){n_tokens, n_tokens, n_tokens, n_tokens / PAGE, 0};
    const int32_t first = *table_of(n, to) = *table_of(n, from);
    n->n_users[first]++;
    send_entries(n, to, 0, 1);
}

void kv_near_release(kv_near *n, int slot) {
    kv_near_unpin(n, slot);
    for (int64_t i = 0; i < kv_pages_for(n->slots[slot].end, PAGE); i++)
        leave(n, &table_of(n, slot)[i]);
    n->slots[slot] = (near_slot){0};
}

/* ---- reading ---- */

static int32_t *pins_of(const kv_near *n, int slot) {
    return n->pins + slot * BLOCK_PAGES;
}

void kv_near_pin(kv_near *n, int slot) {
    near_slot *s = &n->slots[slot];
    const int64_t first = block_begin(s->end) / PAGE;
    kv_near_unpin(n, slot);
    s->pinned_end = s->end;
    for (int64_t i = first; i < kv_pages_for(s->end, PAGE); i++) {
        const int32_t id = table_of(n, slot)[i];
        n->n_users[id]++;
        pins_of(n, slot)[i - first] = id;
    }
}

void kv_near_unpin(kv_near *n, int slot) {
    near_slot *s = &n->slots[slot];
    if (s->pinned_end == 0) return; /* another thread may look at it */
    for (int64_t i = 0; i < kv_pages_for(s->pinned_end % ATTEND_BLOCK, PAGE); i++)
        leave(n, &pins_of(n, slot)[i]);
    s->pinned_end = 0;
}

static char *page_of(const kv_near *n, int32_t id) {
    assert(id != NONE);
    return n->pool + (size_t)id * n->page_bytes;
}

char *kv_near_find(const kv_near *n, int slot, int64_t place, int64_t *end) {
    const near_slot *s = &n->slots[slot];
    const bool is_pinned = place < s->pinned_end;
    const int64_t open = block_begin(is_pinned ? s->pinned_end : s->end);
    const bool is_open = place >= open, is_first = place < ATTEND_EXACT_FIRST;
    const int64_t last = is_open || is_first ? (place / PAGE + 1) * PAGE : open;
    if (last < *end) *end = last;
    if (!is_open && !is_first) return NULL;
    return page_of(n, is_open && is_pinned ? pins_of(n, slot)[(place - open) / PAGE]
                                           : table_of(n, slot)[place / PAGE]);
}

const char *kv_near_page(const kv_near *n, int slot, int64_t place) {
    return page_of(n, table_of(n, slot)[place / PAGE]);
}
