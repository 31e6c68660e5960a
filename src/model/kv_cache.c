#include "src/model/kv_cache.h"

#include <assert.h>
#include <pthread.h>
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
    /* A device's memory that is apart is read through `staging`, which holds K or V of a page; one thread at
     * a time. */
    device_copy *copy;
    char *staging;
    pthread_mutex_t lock;
};

static void push_page(page_list *list, int32_t id) {
    if (list->n == list->capacity) {
        list->capacity = 2 * list->capacity + 16;
        list->ids = mem_resize(list->ids, (size_t)list->capacity, sizeof *list->ids);
    }
    list->ids[list->n++] = id;
}

static status open_staging(kv_cache *kv) {
    void *staging = NULL;
    if (kv->dev->host_memory) return STATUS_OK;
    status st = kv->dev->ops->copy_open(kv->dev, &kv->copy);
    if (st == STATUS_OK) st = kv->dev->ops->alloc_host(kv->dev, kv->page_bytes / N_KV_PARTS, &staging);
    kv->staging = staging;
    return st;
}

status kv_cache_open(device *dev, const kv_shape *shape, kv_cache **out) {
    kv_cache *kv = mem_new(1, sizeof *kv);
    kv->dev = dev;
    kv->shape = *shape;
    kv->page_bytes = kv_page_bytes(&shape->format);
    assert(shape->format.type == dev->kv);
    kv->slots = mem_new((size_t)shape->n_slots, sizeof *kv->slots);
    void *pool = NULL;
    size_t bytes = (size_t)shape->n_layers * (size_t)shape->n_pages * kv->page_bytes;
    pthread_mutex_init(&kv->lock, NULL);
    status st = dev->ops->alloc(dev, bytes, &pool);
    kv->pool = pool;
    if (st == STATUS_OK) st = open_staging(kv);
    st = status_at(st, "KV cache");
    if (st != STATUS_OK) {
        kv_cache_close(kv);
        return st;
    }
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
    if (kv->staging) kv->dev->ops->release_host(kv->dev, kv->staging);
    if (kv->copy) kv->dev->ops->copy_close(kv->dev, kv->copy);
    pthread_mutex_destroy(&kv->lock);
    free(kv);
}

void kv_cache_extend(kv_cache *kv, int slot, int64_t n_tokens) {
    page_list *mine = &kv->slots[slot];
    while (mine->n < kv_pages_for(n_tokens, kv->shape.format.page_tokens)) {
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
    return kv->shape.format.page_tokens;
}

static char *layer_pool(const kv_cache *kv, int layer) {
    return kv->pool + (size_t)layer * (size_t)kv->shape.n_pages * kv->page_bytes;
}

/* Where K or V of one head begins in the page that holds `pos`, and how many positions of [pos, end) it
 * holds. */
static char *find_rows(const kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int head,
                       int64_t pos, int64_t end, int64_t *n) {
    const kv_format *f = &kv->shape.format;
    int64_t left = f->page_tokens - pos % f->page_tokens;
    *n = left < end - pos ? left : end - pos;
    return layer_pool(kv, layer) + kv_pool_element(f, page_ids, part, head, pos) * dtype_bytes(f->type);
}

/* Bytes of a page as the host can read them: where they are, or copied to the staging, with the lock held. */
static status fetch(const kv_cache *kv, const char *from, size_t bytes, const char **out) {
    const device_ops *ops = kv->dev->ops;
    bool over = kv->dev->host_memory;
    status st = over ? STATUS_OK : ops->copy_begin(kv->dev, kv->copy, kv->staging, from, bytes);
    *out = over ? from : kv->staging;
    while (st == STATUS_OK && !over)
        st = ops->copy_test(kv->dev, kv->copy, &over);
    return st;
}

/* Bytes of one row of K or V of one head. */
static size_t row_bytes_of(const kv_cache *kv, kv_part part) {
    return (size_t)kv_part_width(&kv->shape.format, part) * dtype_bytes(kv->shape.format.type);
}

/* Rows of one page, which holds the positions of a head together; outside, the heads of a position are
 * together. What lies between those of two heads is fetched with them: the model may write it meanwhile, and
 * nobody looks at it. */
static status read_page(const kv_cache *kv, kv_part part, const char *rows, int64_t n, char *out) {
    const kv_format *f = &kv->shape.format;
    size_t row_bytes = row_bytes_of(kv, part), G = (size_t)f->n_heads;
    size_t head_bytes = (size_t)f->page_tokens * row_bytes;
    status st = fetch(kv, rows, (G - 1) * head_bytes + (size_t)n * row_bytes, &rows);
    for (size_t head = 0; st == STATUS_OK && head < G; head++)
        for (size_t i = 0; i < (size_t)n; i++)
            memcpy(out + (i * G + head) * row_bytes, rows + head * head_bytes + i * row_bytes, row_bytes);
    return st;
}

status kv_cache_read(kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int64_t pos0,
                     int64_t n_tokens, void *out) {
    size_t all_bytes = (size_t)kv->shape.format.n_heads * row_bytes_of(kv, part);
    status st = STATUS_OK;
    if (!kv->dev->host_memory) pthread_mutex_lock(&kv->lock);
    for (int64_t pos = pos0, n = 0; st == STATUS_OK && pos < pos0 + n_tokens; pos += n) {
        const char *rows = find_rows(kv, page_ids, layer, part, 0, pos, pos0 + n_tokens, &n);
        st = read_page(kv, part, rows, n, (char *)out + (size_t)(pos - pos0) * all_bytes);
    }
    if (!kv->dev->host_memory) pthread_mutex_unlock(&kv->lock);
    return st;
}

void kv_cache_write(kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int64_t pos0,
                    int64_t n_tokens, const void *in) {
    size_t row_bytes = row_bytes_of(kv, part), G = (size_t)kv->shape.format.n_heads;
    char *rows = mem_new((size_t)kv->shape.format.page_tokens, row_bytes);
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
    return (kv_layer){layer_pool(kv, layer), kv->shape.format, n_spans, spans};
}
