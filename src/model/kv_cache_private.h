/* src/model/kv_cache_private.h: what of a KV cache the files know that make it. */
#pragma once

#include <pthread.h>

#include "src/model/kv_cache.h"
#include "src/model/kv_groups.h"
#include "src/model/kv_near.h"

/* Pages [first, end) of a sequence. */
typedef struct page_range {
    int64_t first, end;
} page_range;

/* What the sequences have of one layer. */
typedef struct layer_pages {
    int64_t window;
    /* [n_slots, table_pages]: of pages; and, for the device, of where they lie, with what the host knows of
     * that where not all are in memory. All is one where memory is the host's, and all pages are there. */
    int32_t *tables, *device_tables, *frames;
    page_range *slots;
    int64_t *removed; /* [n_slots] */
    kv_near *near;    /* NULL: pages hold no codes */
} layer_pages;

struct kv_cache {
    device *dev;
    kv_shape shape;
    size_t page_bytes;
    int64_t table_pages;
    int64_t n_pages; /* of all layers together */
    char *pool;
    int32_t *free; /* ids; the last one is taken next, so that pages still in the caches are used again */
    int64_t n_free;
    int32_t *n_users;  /* [n_pages]: slots whose tables have the page */
    kv_tier *tier;     /* NULL: all pages lie in memory, each at its number */
    kv_groups *groups; /* of int4, else NULL */
    bool *gave_up;     /* [n_slots]: what comes of the sequence is lost, too */
    layer_pages *layers;
    /* A device's memory that is apart is read through `staging`, which holds a page, or a near one; one
     * thread at a time. */
    device_copy *copy;
    char *staging;
    pthread_mutex_t lock;
};

/* Take a free page for an entry of a slot's table; and give that of an entry back, unless others have it. */
int32_t kv_cache_take_page(kv_cache *kv, int slot);
void kv_cache_leave_entry(kv_cache *kv, int32_t *entry);

/* Bytes of one row of K or V of one head. */
size_t kv_cache_row_bytes(const kv_cache *kv, kv_part part);

/* The first positions of [pos, end), which are kept, of one page, all of them read and written in the same
 * way. Where pages may leave memory, it is held until it is left. */
typedef struct page_place {
    int32_t id;
    int place;
    char *page, *near; /* the device's memory; near: as they were put (kv_near.h); NULL: nowhere */
    int near_place;
    int64_t n;
} page_place;

page_place kv_cache_hold_place(const kv_cache *kv, int slot, int layer, int64_t pos, int64_t end,
                               bool to_write);

/* STATUS_FAILED: the page is lost. */
status kv_cache_leave_place(const kv_cache *kv, page_place at, kv_tier_change change);
