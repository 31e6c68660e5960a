#include "src/kv_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

typedef struct page_list {
    int32_t *ids;
    int64_t n, capacity;
} page_list;

struct kv_cache {
    device *dev;
    kv_shape shape;
    size_t page_bytes;
    char *pool;
    page_list free; /* the last one is taken next, so that pages still in the caches are used again */
    page_list *slots;
};

size_t kv_page_bytes(const kv_shape *s, dtype type) {
    return 2 * (size_t)s->n_kv_heads * (size_t)s->page_tokens * (size_t)s->head_dim * dtype_bytes(type);
}

int64_t kv_pages_for(int64_t n_tokens, int page_tokens) {
    return (n_tokens + page_tokens - 1) / page_tokens;
}

static void push_page(page_list *list, int32_t id) {
    if (list->n == list->capacity) {
        list->capacity = 2 * list->capacity + 16;
        list->ids = mem_resize(list->ids, (size_t)list->capacity, sizeof *list->ids);
    }
    list->ids[list->n++] = id;
}

status kv_cache_open(device *dev, const kv_shape *shape, kv_cache **out) {
    kv_cache *kv = mem_new(1, sizeof *kv);
    kv->dev = dev;
    kv->shape = *shape;
    kv->page_bytes = kv_page_bytes(shape, dev->kv);
    kv->slots = mem_new((size_t)shape->n_slots, sizeof *kv->slots);
    void *pool = NULL;
    size_t bytes = (size_t)shape->n_layers * (size_t)shape->n_pages * kv->page_bytes;
    status st = status_at(dev->ops->alloc(dev, bytes, &pool), "KV cache");
    if (st != STATUS_OK) {
        kv_cache_close(kv);
        return st;
    }
    kv->pool = pool;
    for (int64_t id = shape->n_pages - 1; id >= 0; id--)
        push_page(&kv->free, (int32_t)id);
    *out = kv;
    return STATUS_OK;
}

void kv_cache_close(kv_cache *kv) {
    if (!kv) return;
    for (int slot = 0; slot < kv->shape.n_slots; slot++)
        free(kv->slots[slot].ids);
    free(kv->slots);
    free(kv->free.ids);
    if (kv->pool) kv->dev->ops->release(kv->dev, kv->pool);
    free(kv);
}

void kv_cache_extend(kv_cache *kv, int slot, int64_t n_tokens) {
    page_list *mine = &kv->slots[slot];
    while (mine->n < kv_pages_for(n_tokens, kv->shape.page_tokens)) {
        assert(kv->free.n > 0);
        push_page(mine, kv->free.ids[--kv->free.n]);
    }
}

void kv_cache_release(kv_cache *kv, int slot) {
    page_list *mine = &kv->slots[slot];
    while (mine->n > 0)
        push_page(&kv->free, mine->ids[--mine->n]);
}

int64_t kv_cache_free_pages(const kv_cache *kv) {
    return kv->free.n;
}

const int32_t *kv_cache_page_ids(const kv_cache *kv, int slot) {
    return kv->slots[slot].ids;
}

int kv_cache_page_tokens(const kv_cache *kv) {
    return kv->shape.page_tokens;
}

/* Where K or V of one head begins in the page that holds `pos`, and how many positions of [pos, end) it
 * holds. */
static char *find_rows(const kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int head,
                       int64_t pos, int64_t end, int64_t *n) {
    int64_t page_tokens = kv->shape.page_tokens, at = pos % page_tokens;
    size_t row_bytes = (size_t)kv->shape.head_dim * dtype_bytes(kv->dev->kv);
    size_t id = (size_t)layer * (size_t)kv->shape.n_pages + (size_t)page_ids[pos / page_tokens];
    size_t row =
        ((size_t)part * (size_t)kv->shape.n_kv_heads + (size_t)head) * (size_t)page_tokens + (size_t)at;
    *n = page_tokens - at < end - pos ? page_tokens - at : end - pos;
    return kv->pool + id * kv->page_bytes + row * row_bytes;
}

/* A page holds the positions of a head together; outside, the heads of a position are together. */
status kv_cache_read(const kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int64_t pos0,
                     int64_t n_tokens, void *out) {
    size_t row_bytes = (size_t)kv->shape.head_dim * dtype_bytes(kv->dev->kv);
    size_t G = (size_t)kv->shape.n_kv_heads;
    status st = STATUS_OK;
    for (int64_t pos = pos0, n = 0; st == STATUS_OK && pos < pos0 + n_tokens; pos += n)
        for (size_t head = 0; st == STATUS_OK && head < G; head++) {
            const char *from = find_rows(kv, page_ids, layer, part, (int)head, pos, pos0 + n_tokens, &n);
            char *to = (char *)out + ((size_t)(pos - pos0) * G + head) * row_bytes;
            st = kv->dev->ops->copy_out_beside(kv->dev, to, G * row_bytes, from, row_bytes, row_bytes,
                                               (size_t)n);
        }
    return st;
}

void kv_cache_write(kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int64_t pos0,
                    int64_t n_tokens, const void *in) {
    size_t row_bytes = (size_t)kv->shape.head_dim * dtype_bytes(kv->dev->kv);
    size_t G = (size_t)kv->shape.n_kv_heads;
    char *rows = mem_new((size_t)kv->shape.page_tokens, row_bytes);
    for (int64_t pos = pos0, n; pos < pos0 + n_tokens; pos += n) {
        const char *from = (const char *)in + (size_t)(pos - pos0) * G * row_bytes;
        for (size_t head = 0; head < G; head++) {
            char *to = find_rows(kv, page_ids, layer, part, (int)head, pos, pos0 + n_tokens, &n);
            for (size_t i = 0; i < (size_t)n; i++)
                memcpy(rows + i * row_bytes, from + (i * G + head) * row_bytes, row_bytes);
            kv->dev->ops->copy_in(kv->dev, to, rows, (size_t)n * row_bytes);
        }
    }
    free(rows);
}

kv_layer kv_cache_layer(const kv_cache *kv, int layer, int n_spans, const span *spans) {
    return (kv_layer){
        .pages = kv->pool + (size_t)layer * (size_t)kv->shape.n_pages * kv->page_bytes,
        .page_bytes = kv->page_bytes,
        .page_tokens = kv->shape.page_tokens,
        .n_spans = n_spans,
        .spans = spans,
    };
}
