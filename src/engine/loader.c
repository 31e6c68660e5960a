#include "src/engine/loader.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/snapshot/snapshot_tables.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/engine/notes.h"

/* A slot to be filled. */
typedef struct load_order {
    struct load_order *next;
    int slot;
    int64_t number; /* of all loads, as rank 0 counts them too */
    int64_t source, n_tokens;
    pthread_rwlock_t writing; /* to the slot's pages, many at once; alone: of what follows */
    int64_t left_out;         /* positions below come from elsewhere */
} load_order;

struct loader {
    char *dir;
    manifest manifest;
    snapshot_tables tables;
    slice slice;
    loader_options options;
    double read_until; /* when what was read so far may be there, by the clock; of the lock */
    kv_cache *kv;
    mailbox *notes;
    pthread_t thread;
    bool has_thread;
    atomic_bool is_closing;
    pthread_mutex_t lock; /* of the orders */
    pthread_cond_t changed;
    load_order *first, **end; /* the first one is being loaded */
    int64_t n_orders;         /* so far */
};

/* What a chunk of a segment holds of an order: rows [row0, row0 + n_rows) are positions from pos0 on. */
typedef struct piece {
    int64_t segment, chunk, row0, n_rows, pos0;
    bool is_done;
} piece;

/* An order as it is worked off, from its last position to the first. */
typedef struct loading {
    loader *l;
    load_order *order;
    segment **segments;                    /* [those of the manifest]; NULL: not needed */
    piece *pieces;                         /* [n_pieces], the last positions first */
    size_t n_pieces, n_done;               /* n_done: all before it are done */
    double told_at, seconds, read_seconds; /* seconds: of all threads; read_seconds: until bytes were there */
    status st;                             /* the first failure, and its text */
    char text[STATUS_TEXT_BYTES];
} loading;

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

status loader_open(const char *dir, const char *manifest_bytes, size_t n_bytes, slice s,
                   const loader_options *options, kv_cache *kv, mailbox *notes, loader **out) {
    loader *l = mem_new(1, sizeof *l);
    *l = (loader){.dir = mem_copy_text(dir, strlen(dir)), .slice = s, .options = *options};
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

/* ---- an order ---- */

/* The pieces of rows [begin, end) of a segment, which are positions from pos0 on. */
static void add_pieces(loading *w, int64_t number, int64_t begin, int64_t end, int64_t pos0) {
    const segment_info *info = &w->l->manifest.segments[number];
    for (int64_t i = 0; i < segment_count_entries(info); i++) {
        const segment_chunk c = segment_chunk_at(info, i);
        const int64_t chunk_end = c.row0 + c.chunk.shape.n_tokens;
        const int64_t a = c.row0 > begin ? c.row0 : begin, b = chunk_end < end ? chunk_end : end;
        if (a >= b || c.chunk.first_layer >= w->l->slice.last_layer ||
            c.chunk.first_layer + c.chunk.n_layers <= w->l->slice.first_layer)
            continue;
        w->pieces = mem_grow(w->pieces, w->n_pieces, sizeof *w->pieces);
        w->pieces[w->n_pieces++] = (piece){number, i, a, b - a, pos0 + (a - begin), false};
    }
}

/* What of the order's rows a segment holds; it is opened if it holds any. */
static status find_in_segment(loading *w, int64_t number) {
    const segment_info *info = &w->l->manifest.segments[number];
    const manifest_sequence *q = &w->l->manifest.sequences[w->order->source];
    const size_t n_before = w->n_pieces;
    for (int64_t i = 0; i < q->n_extents && q->extents[i].pos0 < w->order->n_tokens; i++) {
        const manifest_extent *x = &q->extents[i];
        const int64_t left = w->order->n_tokens - x->pos0, n = left < x->n_tokens ? left : x->n_tokens;
        int64_t begin = x->row0 > info->row0 ? x->row0 : info->row0, end = x->row0 + n;
        if (end > info->row0 + info->n_rows) end = info->row0 + info->n_rows;
        if (begin < end) add_pieces(w, number, begin, end, x->pos0 + (begin - x->row0));
    }
    if (w->n_pieces == n_before) return STATUS_OK;
    return segment_open(w->l->dir, info, snapshot_tables_of(&w->l->tables, info), &w->segments[number]);
}

static int last_first(const void *a, const void *b) {
    const piece *x = a, *y = b;
    const int64_t x_end = x->pos0 + x->n_rows, y_end = y->pos0 + y->n_rows;
    if (x_end != y_end) return x_end > y_end ? -1 : 1;
    if (x->segment != y->segment) return x->segment < y->segment ? -1 : 1;
    return x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

/* The rows of a piece go to their pages, as far as the layers keep them and nothing else writes them. */
static void place(const loading *w, const piece *p, const segment_chunk *c, const char *elements) {
    const loader *l = w->l;
    const int64_t to_pos = p->pos0 - p->row0, end = p->row0 + p->n_rows;
    const size_t part_bytes = kv_chunk_bytes(&c->chunk.shape);
    const size_t row_bytes = part_bytes / (size_t)c->chunk.shape.n_tokens;
    pthread_rwlock_rdlock(&w->order->writing);
    for (int k = 0; k < kv_chunk_count_parts(&c->chunk); k++) {
        const int layer = kv_chunk_layer(&c->chunk, k), mine = layer - l->slice.first_layer;
        if (layer < l->slice.first_layer || layer >= l->slice.last_layer) continue;
        int64_t begin = kv_cache_first_kept(l->kv, w->order->slot, mine) - to_pos;
        if (begin < w->order->left_out - to_pos) begin = w->order->left_out - to_pos;
        if (begin < p->row0) begin = p->row0;
        if (begin >= end) continue;
        kv_cache_write(l->kv, w->order->slot, mine, kv_chunk_part(&c->chunk, k), begin + to_pos, end - begin,
                       elements + (size_t)k * part_bytes + (size_t)(begin - c->row0) * row_bytes);
    }
    pthread_rwlock_unlock(&w->order->writing);
}

/* Does any layer still want one of its positions? */
static bool is_wanted(const loading *w, const piece *p, const segment_chunk *c) {
    bool any = false;
    pthread_rwlock_rdlock(&w->order->writing);
    const int64_t end = p->pos0 + p->n_rows;
    for (int layer = c->chunk.first_layer; layer < c->chunk.first_layer + c->chunk.n_layers; layer++)
        if (layer >= w->l->slice.first_layer && layer < w->l->slice.last_layer)
            any |= end > w->order->left_out &&
                   end > kv_cache_first_kept(w->l->kv, w->order->slot, layer - w->l->slice.first_layer);
    pthread_rwlock_unlock(&w->order->writing);
    return any;
}

/* No faster than it may be: until a link of that speed would have brought the chunk too. False: nobody wants
 * it any more. */
static bool hold_back(const loading *w, const piece *p, const segment_chunk *c) {
    enum { SLICE_US = 20000 };
    loader *l = w->l;
    const double seconds =
        (double)segment_chunk_file_bytes(w->segments[p->segment], p->chunk) / l->options.bytes_per_second;
    pthread_mutex_lock(&l->lock);
    const double now = clock_seconds(), begin = l->read_until > now ? l->read_until : now;
    const double until = l->read_until = begin + seconds;
    pthread_mutex_unlock(&l->lock);
    bool wanted = true;
    while (wanted && clock_seconds() < until && !atomic_load(&l->is_closing)) {
        const double left = (until - clock_seconds()) * 1e6;
        usleep(left < SLICE_US ? (useconds_t)(left > 0 ? left : 0) : SLICE_US);
        wanted = is_wanted(w, p, c);
    }
    pthread_mutex_lock(&l->lock);
    if (!wanted) l->read_until -= seconds;
    pthread_mutex_unlock(&l->lock);
    return wanted;
}

static status check_distortion(const loading *w, segment *from, int64_t chunk) {
    const double most = w->l->options.most_distortion;
    float found = 0;
    status st = most > 0 ? segment_read_distortion(from, chunk, &found) : STATUS_OK;
    if (st != STATUS_OK || !(most > 0) || found <= most) return st;
    return segment_at_chunk(
        status_refuse("the codec has left a distortion of %.3g, more than --max-distortion %.3g", found,
                      most),
        from, chunk);
}

static status move_piece(loading *w, const piece *p, void *elements, double *read_seconds) {
    const segment_chunk c = segment_chunk_at(&w->l->manifest.segments[p->segment], p->chunk);
    segment *from = w->segments[p->segment];
    const double begin = clock_seconds();
    if (!is_wanted(w, p, &c)) return STATUS_OK;
    if (w->l->options.bytes_per_second > 0 && !hold_back(w, p, &c)) return STATUS_OK;
    *read_seconds += clock_seconds() - begin;
    status st = check_distortion(w, from, p->chunk);
    if (st == STATUS_OK) st = segment_read_chunk(from, p->chunk, elements, read_seconds);
    if (st == STATUS_OK) place(w, p, &c, elements);
    return st;
}

/* Of all threads one at a time. Rank 0 hears now and then how far it is. A GPU computes beside whatever the
 * processors do. */
static void end_piece(loading *w, piece *p, status st) {
    static const double pause_seconds = 0.01;
    if (st != STATUS_OK && w->st == STATUS_OK) {
        memcpy(w->text, status_text(), sizeof w->text);
        w->st = st;
    }
    p->is_done = true;
    while (w->n_done < w->n_pieces && w->pieces[w->n_done].is_done)
        w->n_done++;
    const double now = clock_seconds();
    if (w->n_done == w->n_pieces || now - w->told_at < pause_seconds) return;
    const piece *next = &w->pieces[w->n_done];
    const note report = {.kind = NOTE_LOADING,
                         .number = w->order->slot,
                         .load = w->order->number,
                         .edge = next->pos0 + next->n_rows,
                         .idle_share = w->l->options.spares_processors ? w->read_seconds / w->seconds : 1};
    mailbox_send(w->l->notes, &report, sizeof report);
    w->told_at = now;
}

/* The most that a chunk of them has. */
static size_t room_for(const loading *w) {
    size_t most = 1;
    for (int64_t i = 0; i < w->l->manifest.n_segments; i++) {
        if (!w->segments[i]) continue;
        const segment_chunk c = segment_chunk_at(&w->l->manifest.segments[i], 0);
        if (kv_chunk_all_bytes(&c.chunk) > most) most = kv_chunk_all_bytes(&c.chunk);
    }
    return most;
}

/* In parallel: each is decoded by one thread, straight before its rows go to their pages. */
static void move_pieces(loading *w) {
    const size_t room = room_for(w);
#pragma omp parallel num_threads(w->l->options.n_threads)
    {
        void *elements = mem_resize(NULL, room, 1);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < w->n_pieces; i++) {
            if (atomic_load(&w->l->is_closing)) continue;
            double read_seconds = 0, begin = clock_seconds();
            status st = move_piece(w, &w->pieces[i], elements, &read_seconds);
#pragma omp critical(loader_end)
            {
                w->read_seconds += read_seconds;
                w->seconds += clock_seconds() - begin;
                end_piece(w, &w->pieces[i], st);
            }
        }
        free(elements);
    }
}

static status load(loader *l, load_order *o) {
    loading w = {.l = l, .order = o, .told_at = clock_seconds()};
    w.segments = mem_new((size_t)l->manifest.n_segments, sizeof(segment *));
    w.st = fault_at("load");
    if (w.st != STATUS_OK) memcpy(w.text, status_text(), sizeof w.text);
    for (int64_t i = 0; w.st == STATUS_OK && i < l->manifest.n_segments; i++) {
        if (has_layers_of(&l->manifest.segments[i], l->slice)) w.st = find_in_segment(&w, i);
        if (w.st != STATUS_OK) memcpy(w.text, status_text(), sizeof w.text);
    }
    if (w.st == STATUS_OK && w.n_pieces) {
        qsort(w.pieces, w.n_pieces, sizeof *w.pieces, last_first);
        move_pieces(&w);
    }
    for (int64_t i = 0; i < l->manifest.n_segments; i++)
        segment_close(w.segments[i]);
    free(w.segments);
    free(w.pieces);
    return w.st == STATUS_OK ? STATUS_OK : loader_advise(status_adopt(w.st, w.text));
}

/* ---- one after the other, beside the run ---- */

static void fill_slot(loader *l, load_order *o) {
    double begin = clock_seconds();
    note loaded = {.kind = NOTE_LOADED, .number = o->slot, .load = o->number};
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
    pthread_rwlock_destroy(&o->writing);
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
        load_order *o = l->first;
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
    *o = (load_order){.slot = x->slot, .number = ++l->n_orders, .source = x->source, .n_tokens = x->n_tokens};
    pthread_rwlock_init(&o->writing, NULL);
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

void loader_leave(loader *l, int slot, int64_t pos) {
    pthread_mutex_lock(&l->lock);
    for (load_order *o = l->first; o; o = o->next) {
        if (o->slot != slot) continue;
        pthread_rwlock_wrlock(&o->writing);
        if (pos > o->left_out) o->left_out = pos;
        pthread_rwlock_unlock(&o->writing);
    }
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
