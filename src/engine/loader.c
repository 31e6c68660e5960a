#include "src/engine/loader.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/engine/loading.h"
#include "src/engine/notes.h"

struct loader {
    load_source source;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t changed;
    loading *first;   /* to be loaded: the first one now, */
    loading *coarse;  /* then refined: the first one now, if nothing is to be loaded; */
    loading *fetched; /* and to be put in their place */
    loading *in_work;
    int64_t n_loads; /* so far */
};

status loader_advise(status st) {
    char text[STATUS_TEXT_BYTES];
    if (st != STATUS_REFUSED) return st;
    memcpy(text, status_text(), sizeof text);
    return status_refuse("%s; without --resume it is computed afresh", text);
}

static status check_segments(const load_source *from) {
    for (int64_t i = 0; i < from->manifest.n_segments; i++) {
        const segment_info *info = &from->manifest.segments[i];
        segment *s = NULL;
        if (info->first_layer >= from->slice.last_layer || info->last_layer <= from->slice.first_layer)
            continue;
        status st = segment_open(from->dir, from->options.relay, info, NULL, &s);
        segment_close(s);
        if (st != STATUS_OK) return st;
    }
    return STATUS_OK;
}

status loader_open(const char *dir, const char *manifest_bytes, size_t n_bytes, slice s,
                   const load_options *options, kv_cache *kv, mailbox *notes, loader **out) {
    loader *l = mem_new(1, sizeof *l);
    load_source *from = &l->source;
    from->dir = mem_copy_text(dir, strlen(dir));
    from->slice = s;
    from->options = *options;
    from->kv = kv;
    from->notes = notes;
    pthread_mutex_init(&from->lock, NULL);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    status st = manifest_parse(manifest_bytes, n_bytes, dir, &from->manifest);
    if (st == STATUS_OK) st = check_segments(from);
    if (st == STATUS_OK)
        st = snapshot_tables_open(dir, from->options.relay, &from->manifest, s.first_layer, s.last_layer,
                                  &from->tables);
    if (st != STATUS_OK) {
        loader_close(l);
        return loader_advise(st);
    }
    from->decoder = chunk_decoder_open(kv, &from->manifest, &from->tables, s, options->device_bytes);
    *out = l;
    return STATUS_OK;
}

const int32_t *loader_tokens(const loader *l, int64_t source) {
    return l->source.manifest.sequences[source].tokens;
}

/* ---- one after the other, beside the run ---- */

static void tell(loading *w, note_kind kind, status st, double begin) {
    const bool is_end = kind == NOTE_LOADED || kind == NOTE_DROPPED;
    const size_t n_records = is_end && w->from->options.keeps_log ? w->n_pieces : 0;
    const size_t n_bytes = sizeof(note) + n_records * sizeof(load_record);
    note *n = mem_new(n_bytes, 1);
    *n =
        (note){.kind = kind, .st = st, .number = w->slot, .load = w->number, .n_records = (int64_t)n_records};
    if (st != STATUS_OK) memcpy(n->text, status_text(), sizeof n->text);
    n->n_coarse = (int64_t)w->n_coarse;
    n->coarse_end = w->coarse_end;
    n->coarse_tokens = w->coarse_tokens;
    n->seconds = clock_seconds() - begin;
    if (n_records) loading_describe(w, (load_record *)(n + 1));
    mailbox_send(w->from->notes, n, n_bytes);
    free(n);
}

static void append(loading **list, loading *w) {
    while (*list)
        list = &(*list)->next;
    w->next = NULL;
    *list = w;
}

static void take_out(loading **list, const loading *w) {
    while (*list != w)
        list = &(*list)->next;
    *list = w->next;
}

/* The first load; with the lock held before and after. */
static void fill_slot(loader *l) {
    loading *w = l->first;
    l->in_work = w;
    pthread_mutex_unlock(&l->lock);
    const double begin = clock_seconds();
    const status st = loader_advise(loading_run(w));
    tell(w, atomic_load(&l->source.is_closing) ? NOTE_DROPPED : NOTE_LOADED, st, begin);
    pthread_mutex_lock(&l->lock);
    l->first = w->next;
    atomic_fetch_sub(&l->source.n_waiting, 1);
    w->st = STATUS_OK; /* told: what is coarse is refined in any case */
    if (w->n_coarse > 0)
        append(&l->coarse, w);
    else
        loading_free(w);
    l->in_work = NULL;
    pthread_cond_broadcast(&l->changed);
}

/* What refines the first coarse one; the same. Only here loads end that were given up. */
static void fetch_rest(loader *l) {
    loading *w = l->coarse;
    l->in_work = w;
    pthread_mutex_unlock(&l->lock);
    const double begin = clock_seconds();
    const status st = loading_fetch_rest(w);
    const bool is_dropped = atomic_load(&w->is_dropped);
    if (w->is_fetched && !is_dropped) tell(w, NOTE_FETCHED, st, begin);
    pthread_mutex_lock(&l->lock);
    if (w->is_fetched || is_dropped) l->coarse = w->next;
    if (is_dropped)
        loading_free(w);
    else if (w->is_fetched)
        append(&l->fetched, w);
    l->in_work = NULL;
    pthread_cond_broadcast(&l->changed);
}

static void *load_beside(void *arg) {
    loader *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!atomic_load(&l->source.is_closing)) {
        if (l->first)
            fill_slot(l);
        else if (l->coarse)
            fetch_rest(l);
        else
            pthread_cond_wait(&l->changed, &l->lock);
    }
    while (l->source.options.keeps_log && l->first) /* what of it nobody will read */
        fill_slot(l);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

void loader_begin(loader *l, const step *order) {
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < order->n_extents; i++) {
        const step_extent *x = &order->extents[i];
        const manifest *m = &l->source.manifest;
        assert(x->source >= 0 && x->source < m->n_sequences && x->pos0 == 0);
        assert(x->n_tokens <= manifest_kv_tokens(&m->sequences[x->source]));
        (void)m;
        kv_cache_extend(l->source.kv, x->slot, x->n_tokens, x->n_tokens);
        atomic_fetch_add(&l->source.n_waiting, 1);
        append(&l->first, loading_new(&l->source, x->slot, ++l->n_loads, x->source, x->n_tokens));
    }
    if (!l->has_thread) l->has_thread = pthread_create(&l->thread, NULL, load_beside, l) == 0;
    while (!l->has_thread && l->first) /* then here, before anything else */
        fill_slot(l);
    while (!l->has_thread && l->coarse)
        fetch_rest(l);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

void loader_leave(loader *l, int slot, int64_t pos) {
    pthread_mutex_lock(&l->lock);
    for (loading *w = l->first; w; w = w->next)
        if (w->slot == slot) loading_leave(w, pos);
    pthread_mutex_unlock(&l->lock);
}

static loading *find(loading *list, int slot) {
    while (list && list->slot != slot)
        list = list->next;
    return list;
}

void loader_refine(loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    loading *w = find(l->fetched, slot);
    if (w) take_out(&l->fetched, w);
    pthread_mutex_unlock(&l->lock);
    if (!w) return; /* this rank's part came whole */
    const double begin = clock_seconds();
    const status st = loading_refine(w);
    if (st != STATUS_OK) tell(w, NOTE_FETCHED, st, begin);
    loading_free(w);
}

bool loader_is_busy(loader *l) {
    pthread_mutex_lock(&l->lock);
    bool is_busy = l->first != NULL;
    pthread_mutex_unlock(&l->lock);
    return is_busy;
}

void loader_settle(loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    while (find(l->first, slot))
        pthread_cond_wait(&l->changed, &l->lock);
    for (loading *w; (w = find(l->coarse, slot));) {
        atomic_store(&w->is_dropped, true);
        if (w != l->in_work) {
            take_out(&l->coarse, w);
            loading_free(w);
        } else {
            pthread_cond_wait(&l->changed, &l->lock);
        }
    }
    for (loading *w; (w = find(l->fetched, slot));) {
        take_out(&l->fetched, w);
        loading_free(w);
    }
    pthread_mutex_unlock(&l->lock);
}

static void free_all(loading *list) {
    while (list) {
        loading *next = list->next;
        loading_free(list);
        list = next;
    }
}

void loader_stop(loader *l) {
    pthread_mutex_lock(&l->lock);
    atomic_store(&l->source.is_closing, true);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (l->has_thread) pthread_join(l->thread, NULL);
    l->has_thread = false;
}

void loader_close(loader *l) {
    if (!l) return;
    loader_stop(l);
    free_all(l->first);
    free_all(l->coarse);
    free_all(l->fetched);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    pthread_mutex_destroy(&l->source.lock);
    chunk_decoder_close(l->source.decoder);
    manifest_free(&l->source.manifest);
    snapshot_tables_close(&l->source.tables);
    free(l->source.dir);
    free(l);
}
