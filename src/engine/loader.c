#include "src/engine/loader.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "io/snapshot/snapshot_tables.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/engine/notes.h"

/* A slot to be filled. */
typedef struct load_order {
    struct load_order *next;
    int slot;
    int64_t source, n_tokens;
} load_order;

struct loader {
    char *dir;
    manifest manifest;
    snapshot_tables tables;
    slice slice;
    int n_threads;
    kv_cache *kv;
    mailbox *notes;
    pthread_t thread;
    bool has_thread;
    atomic_bool is_closing;
    pthread_mutex_t lock; /* of the orders */
    pthread_cond_t changed;
    load_order *first, **end; /* the first one is being loaded */
};

/* Rows [row0, row0 + n_rows) of an open segment are positions from pos0 on: what one load moves. */
typedef struct transfer {
    segment *from;
    const segment_info *info;
    int first_layer, last_layer;
    int64_t row0, n_rows, pos0;
    int slot;
} transfer;

status loader_advise(status st) {
    char text[STATUS_TEXT_BYTES];
    if (st != STATUS_REFUSED) return st;
    memcpy(text, status_text(), sizeof text);
    return status_refuse("%s; without --resume it is computed afresh", text);
}

static bool has_layers_of(const segment_info *s, slice mine) {
    return s->first_layer < mine.last_layer && s->last_layer > mine.first_layer;
}

static status check_segments(const loader *l) {
    for (int64_t i = 0; i < l->manifest.n_segments; i++) {
        const segment_info *info = &l->manifest.segments[i];
        segment *s = NULL;
        if (!has_layers_of(info, l->slice)) continue;
        status st = segment_open(l->dir, info, NULL, &s);
        segment_close(s);
        if (st != STATUS_OK) return st;
    }
    return STATUS_OK;
}

status loader_open(const char *dir, const char *manifest_bytes, size_t n_bytes, slice s, int n_threads,
                   kv_cache *kv, mailbox *notes, loader **out) {
    loader *l = mem_new(1, sizeof *l);
    *l = (loader){.dir = mem_copy_text(dir, strlen(dir)), .slice = s, .n_threads = n_threads};
    l->kv = kv;
    l->notes = notes;
    l->end = &l->first;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    status st = manifest_parse(manifest_bytes, n_bytes, dir, &l->manifest);
    if (st == STATUS_OK) st = check_segments(l);
    if (st == STATUS_OK)
        st = snapshot_tables_open(dir, &l->manifest, s.first_layer, s.last_layer, &l->tables);
    if (st != STATUS_OK) {
        loader_close(l);
        return loader_advise(st);
    }
    *out = l;
    return STATUS_OK;
}

const int32_t *loader_tokens(const loader *l, int64_t source) {
    return l->manifest.sequences[source].tokens;
}

/* What a chunk holds of the rows and layers that are wanted, as far as the layers keep them; elements: room
 * for all of it. */
static status move_chunk(const loader *l, const transfer *t, int64_t i, void *elements) {
    const segment_chunk c = segment_chunk_at(t->info, i);
    const int64_t chunk_end = c.row0 + c.chunk.shape.n_tokens, to_pos = t->pos0 - t->row0;
    const int64_t row_end = t->row0 + t->n_rows, end = chunk_end < row_end ? chunk_end : row_end;
    const int n_parts = c.chunk.n_parts, n = kv_chunk_count_parts(&c.chunk);
    const size_t part_bytes = kv_chunk_bytes(&c.chunk.shape);
    const size_t row_bytes = part_bytes / (size_t)c.chunk.shape.n_tokens;
    bool is_read = false;
    for (int k = 0; k < n; k++) {
        const int layer = c.chunk.first_layer + k / n_parts, mine = layer - l->slice.first_layer;
        if (layer < t->first_layer || layer >= t->last_layer) continue;
        int64_t begin = kv_cache_first_kept(l->kv, t->slot, mine) - to_pos;
        if (begin < t->row0) begin = t->row0;
        if (begin < c.row0) begin = c.row0;
        if (begin >= end) continue;
        status st = is_read ? STATUS_OK : segment_read_chunk(t->from, i, elements);
        if (st != STATUS_OK) return st;
        is_read = true;
        kv_cache_write(
            l->kv, t->slot, mine, (kv_part)((int)c.chunk.part + k % n_parts), begin + to_pos, end - begin,
            (const char *)elements + (size_t)k * part_bytes + (size_t)(begin - c.row0) * row_bytes);
    }
    return STATUS_OK;
}

/* Chunks in parallel: each is decoded by one thread, straight before its rows go to their pages. */
static status move_rows(const loader *l, const transfer *t) {
    const segment_chunk largest = segment_chunk_at(t->info, 0);
    status all = STATUS_OK;
    char text[STATUS_TEXT_BYTES];
#pragma omp parallel num_threads(l->n_threads)
    {
        void *elements = mem_resize(NULL, kv_chunk_all_bytes(&largest.chunk), 1);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < segment_count_entries(t->info); i++) {
            if (atomic_load(&l->is_closing)) continue;
            status st = move_chunk(l, t, i, elements);
            if (st == STATUS_OK) continue;
#pragma omp critical(loader_failure)
            if (all == STATUS_OK) {
                memcpy(text, status_text(), sizeof text);
                all = st;
            }
        }
        free(elements);
    }
    return all == STATUS_OK ? all : status_adopt(all, text);
}

/* The rows of an order that this segment holds, if it has any: it is opened once for all of them. */
static status load_from(const loader *l, const segment_info *info, const load_order *o) {
    const manifest_sequence *q = &l->manifest.sequences[o->source];
    transfer t = {
        .info = info,
        .first_layer = info->first_layer > l->slice.first_layer ? info->first_layer : l->slice.first_layer,
        .last_layer = info->last_layer < l->slice.last_layer ? info->last_layer : l->slice.last_layer,
        .slot = o->slot,
    };
    status st = STATUS_OK;
    for (int64_t i = 0; st == STATUS_OK && i < q->n_extents && q->extents[i].pos0 < o->n_tokens; i++) {
        const manifest_extent *x = &q->extents[i];
        int64_t n = o->n_tokens - x->pos0 < x->n_tokens ? o->n_tokens - x->pos0 : x->n_tokens;
        int64_t begin = x->row0 > info->row0 ? x->row0 : info->row0, end = x->row0 + n;
        if (end > info->row0 + info->n_rows) end = info->row0 + info->n_rows;
        if (begin >= end) continue;
        t.row0 = begin;
        t.n_rows = end - begin;
        t.pos0 = x->pos0 + (begin - x->row0);
        if (!t.from) st = segment_open(l->dir, info, snapshot_tables_of(&l->tables, info), &t.from);
        if (st == STATUS_OK) st = move_rows(l, &t);
    }
    segment_close(t.from);
    return st;
}

static status load(const loader *l, const load_order *o) {
    status st = fault_at("load");
    for (int64_t i = 0; st == STATUS_OK && i < l->manifest.n_segments; i++)
        if (has_layers_of(&l->manifest.segments[i], l->slice)) st = load_from(l, &l->manifest.segments[i], o);
    return loader_advise(st);
}

/* ---- one after the other, beside the run ---- */

static void fill_slot(const loader *l, const load_order *o) {
    double begin = clock_seconds();
    note loaded = {.kind = NOTE_LOADED, .number = o->slot};
    loaded.st = load(l, o);
    if (loaded.st != STATUS_OK) memcpy(loaded.text, status_text(), sizeof loaded.text);
    loaded.seconds = clock_seconds() - begin;
    mailbox_send(l->notes, &loaded, sizeof loaded);
}

/* Take the first order away, with the lock held. */
static void drop_first(loader *l) {
    load_order *o = l->first;
    l->first = o->next;
    if (!l->first) l->end = &l->first;
    free(o);
    pthread_cond_broadcast(&l->changed);
}

static void *load_beside(void *arg) {
    loader *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!atomic_load(&l->is_closing)) {
        if (!l->first) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        const load_order *o = l->first;
        pthread_mutex_unlock(&l->lock);
        fill_slot(l, o);
        pthread_mutex_lock(&l->lock);
        drop_first(l);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static load_order *order_of(loader *l, const step_extent *x) {
    load_order *o = mem_new(1, sizeof *o);
    assert(x->source >= 0 && x->source < l->manifest.n_sequences && x->pos0 == 0);
    assert(x->n_tokens <= manifest_kv_tokens(&l->manifest.sequences[x->source]));
    kv_cache_extend(l->kv, x->slot, x->n_tokens, x->n_tokens);
    *o = (load_order){.slot = x->slot, .source = x->source, .n_tokens = x->n_tokens};
    return o;
}

void loader_begin(loader *l, const step *order) {
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < order->n_extents; i++) {
        *l->end = order_of(l, &order->extents[i]);
        l->end = &(*l->end)->next;
    }
    if (!l->has_thread) l->has_thread = pthread_create(&l->thread, NULL, load_beside, l) == 0;
    while (!l->has_thread && l->first) { /* then here, before anything else */
        fill_slot(l, l->first);
        drop_first(l);
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

bool loader_is_busy(loader *l) {
    pthread_mutex_lock(&l->lock);
    bool is_busy = l->first != NULL;
    pthread_mutex_unlock(&l->lock);
    return is_busy;
}

void loader_settle(loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    for (const load_order *o = l->first; o;) {
        if (o->slot != slot) {
            o = o->next;
            continue;
        }
        pthread_cond_wait(&l->changed, &l->lock);
        o = l->first;
    }
    pthread_mutex_unlock(&l->lock);
}

void loader_close(loader *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    atomic_store(&l->is_closing, true);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (l->has_thread) pthread_join(l->thread, NULL);
    while (l->first)
        drop_first(l);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    manifest_free(&l->manifest);
    snapshot_tables_close(&l->tables);
    free(l->dir);
    free(l);
}
