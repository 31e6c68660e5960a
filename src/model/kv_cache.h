/* src/model/kv_cache.h: the KV cache of a rank's slice: a pool of pages, and which of them each running
 * sequence owns.
 *
 * The pool is one allocation, made before the run: n_pages pages (kernels/kv_page.h) for every layer of the
 * slice, layer behind layer; a sequence's
 * positions [i * page_tokens, (i + 1) * page_tokens) lie in the same id on every layer. Pages are taken as a
 * sequence grows and given back when it is released; stage 0 admits a sequence only when all it may ever need
 * is there, so taking a page never fails. All functions are Local. */
#pragma once

#include <stdint.h>

#include "kernels/device.h"
#include "src/base/status.h"

typedef struct kv_cache kv_cache;

typedef struct kv_shape {
    int n_layers; /* of the slice */
    kv_format format;
    int64_t n_pages;
    int n_slots; /* sequences at once */
} kv_shape;

status kv_cache_open(device *dev, const kv_shape *shape, kv_cache **out);
void kv_cache_close(kv_cache *kv); /* NULL is fine */

/* Make room for positions [0, n_tokens) of the sequence in this slot. */
void kv_cache_extend(kv_cache *kv, int slot, int64_t n_tokens);

/* Give all pages of the slot back. */
void kv_cache_release(kv_cache *kv, int slot);

/* Pages that no sequence owns. */
int64_t kv_cache_free_pages(const kv_cache *kv);

/* The slot's page ids, in order of positions; valid until the slot is extended or released. */
const int32_t *kv_cache_page_ids(const kv_cache *kv, int slot);

int kv_cache_page_tokens(const kv_cache *kv);

/* Copy rows of one layer of the slice (0-based) out of or into pages, in any number of threads: positions
 * [pos0, pos0 + n_tokens), K or V, as dense [n_tokens, G, K] host elements. page_ids are those of the
 * sequence, from its position 0 on. Rows that exist never change, so that any thread may read them while the
 * model appends others. */
status kv_cache_read(kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int64_t pos0,
                     int64_t n_tokens, void *out);
void kv_cache_write(kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int64_t pos0,
                    int64_t n_tokens, const void *in);

/* The pages of one layer of the slice (0-based), for the operations of a step. Spans stay the caller's. */
kv_layer kv_cache_layer(const kv_cache *kv, int layer, int n_spans, const span *spans);
