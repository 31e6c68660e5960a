#include "src/kv_cache.h"

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
    kv->page_bytes = kv_page_bytes(shape, dev->kv);
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

/* Rows of one page, which holds the positions of a head together; outside, the heads of a position are
 * together. What lies between those of two heads is fetched with them: the model may write it meanwhile, and
 * nobody looks at it. */
static status read_page(const kv_cache *kv, const char *rows, int64_t n, char *out) {
    size_t row_bytes = (size_t)kv->shape.head_dim * dtype_bytes(kv->dev->kv),
           G = (size_t)kv->shape.n_kv_heads;
    size_t head_bytes = (size_t)kv->shape.page_tokens * row_bytes;
    status st = fetch(kv, rows, (G - 1) * head_bytes + (size_t)n * row_bytes, &rows);
    for (size_t head = 0; st == STATUS_OK && head < G; head++)
        for (size_t i = 0; i < (size_t)n; i++)
            memcpy(out + (i * G + head) * row_bytes, rows + head * head_bytes + i * row_bytes, row_bytes);
    return st;
}

status kv_cache_read(kv_cache *kv, const int32_t *page_ids, int layer, kv_part part, int64_t pos0,
                     int64_t n_tokens, void *out) {
    size_t all_bytes = (size_t)(kv->shape.n_kv_heads * kv->shape.head_dim) * dtype_bytes(kv->dev->kv);
    status st = STATUS_OK;
    if (!kv->dev->host_memory) pthread_mutex_lock(&kv->lock);
    for (int64_t pos = pos0, n = 0; st == STATUS_OK && pos < pos0 + n_tokens; pos += n) {
        const char *rows = find_rows(kv, page_ids, layer, part, 0, pos, pos0 + n_tokens, &n);
        st = read_page(kv, rows, n, (char *)out + (size_t)(pos - pos0) * all_bytes);
    }
    if (!kv->dev->host_memory) pthread_mutex_unlock(&kv->lock);
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
