#include "src/engine/chunk_decoder.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/codec/varve_device.h"
#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/base/notice.h"

/* Tables on the device, for chunks of a kind. */
typedef struct decoder_image {
    const kv_tables *tables;
    bool is_predicted;
    varve_image image;
    void *memory;
} decoder_image;

/* A chunk on its way: its bytes, here and there, and room for what becomes of them. */
typedef struct decoder_room {
    struct decoder_room *next;
    const chunk_user *user;
    void *piece;
    chunk_rows rows;
    int64_t row0; /* of the chunk */
    varve_job job;
    text_buffer bytes;
    void *here, *there, *room;
    size_t n_bytes, n_room;
} decoder_room;

enum { MOST_CHUNKS = 1024 }; /* decoded together */

/* More chunks at once would come no sooner. */
static const size_t most_useful_bytes = (size_t)1 << 30;

/* What lies in its own memory, here and there: jobs, and then their verdicts. */
typedef struct decoder_lane {
    device_copy *copy;
    char *here, *there;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t changed;
    decoder_room *idle, *waiting, **last; /* last: of those that wait */
    int n_rooms;                          /* of all kinds */
    size_t bytes, most_bytes;             /* of them, on the device; no new one beyond this */
    bool is_full, is_led;                 /* there is no more memory; a thread decodes what waits */
} decoder_lane;

struct chunk_decoder {
    device *dev;
    kv_cache *kv;
    slice slice;
    decoder_image *images;
    int n_images;
    decoder_lane lanes[N_CHUNK_LANES];
};

/* ---- tables ---- */

static bool is_ours(const segment_info *s, slice mine) {
    return segment_is_joint(s) && s->first_layer < mine.last_layer && s->last_layer > mine.first_layer;
}

static const decoder_image *find_image(const chunk_decoder *d, const kv_tables *t, bool is_predicted) {
    for (int i = 0; i < d->n_images; i++)
        if (d->images[i].tables == t && d->images[i].is_predicted == is_predicted) return &d->images[i];
    return NULL;
}

/* The tables of a segment, for all layers that such segments of this slice have. */
static status add_image(chunk_decoder *d, const manifest *m, const segment_info *like, const kv_tables *t) {
    const varve_kind kind = like->codec == KV_CODEC_FAST ? VARVE_FAST : VARVE_SMALL;
    int first = like->first_layer, last = like->last_layer;
    for (const segment_info *s = m->segments; s < m->segments + m->n_segments; s++) {
        if (!is_ours(s, d->slice) || s->tables_digest != like->tables_digest) continue;
        if (s->first_layer < first) first = s->first_layer;
        if (s->last_layer > last) last = s->last_layer;
    }
    decoder_image image = {.tables = t, .is_predicted = kind == VARVE_SMALL};
    text_buffer bytes = {0};
    varve_image_make(&t->varve, kind, first, last, &bytes, &image.image);
    status st = d->dev->ops->alloc(d->dev, bytes.n, &image.memory);
    if (st == STATUS_OK) d->dev->ops->copy_in(d->dev, image.memory, bytes.data, bytes.n);
    free(bytes.data);
    if (st != STATUS_OK) return st;
    image.image.bytes = image.memory;
    d->images = mem_grow(d->images, (size_t)d->n_images, sizeof *d->images);
    d->images[d->n_images++] = image;
    return STATUS_OK;
}

static status open_lane(chunk_decoder *d, decoder_lane *l) {
    const size_t n_bytes = MOST_CHUNKS * (sizeof(varve_job) + sizeof(uint32_t));
    void *here = NULL, *there = NULL;
    status st = d->dev->ops->copy_open(d->dev, &l->copy);
    if (st == STATUS_OK) st = d->dev->ops->alloc_host(d->dev, n_bytes, &here);
    if (st == STATUS_OK) st = d->dev->ops->alloc(d->dev, n_bytes, &there);
    l->here = here;
    l->there = there;
    return st;
}

static status open_all(chunk_decoder *d, const manifest *m, const snapshot_tables *tables) {
    status st = STATUS_OK;
    for (const segment_info *s = m->segments; st == STATUS_OK && s < m->segments + m->n_segments; s++) {
        const kv_tables *t = snapshot_tables_of(tables, s);
        if (is_ours(s, d->slice) && t && !find_image(d, t, s->codec == KV_CODEC_SMALL))
            st = add_image(d, m, s, t);
    }
    for (int i = 0; st == STATUS_OK && i < N_CHUNK_LANES && d->n_images; i++)
        st = open_lane(d, &d->lanes[i]);
    return st == STATUS_OK ? d->dev->ops->sync(d->dev) : st;
}

chunk_decoder *chunk_decoder_open(kv_cache *kv, const manifest *m, const snapshot_tables *tables, slice s,
                                  size_t most_bytes) {
    const size_t most = most_bytes < most_useful_bytes ? most_bytes : most_useful_bytes;
    device *dev = kv_cache_device(kv);
    if (!dev->ops->decode_chunks || kv_cache_tier(kv) || kv_is_coded(&kv_cache_shape(kv)->format))
        return NULL;
    chunk_decoder *d = mem_new(1, sizeof *d);
    *d = (chunk_decoder){.dev = dev, .kv = kv, .slice = s};
    for (int i = 0; i < N_CHUNK_LANES; i++) {
        decoder_lane *l = &d->lanes[i];
        pthread_mutex_init(&l->lock, NULL);
        pthread_cond_init(&l->changed, NULL);
        l->last = &l->waiting;
        l->most_bytes = i == CHUNKS_LOADED ? most / 4 * 3 : most / 4; /* what refines may take its time */
    }
    const status st = open_all(d, m, tables);
    if (st != STATUS_OK)
        notice_add("what is cached is decoded by processors, and not by the GPU: %s", status_text());
    if (st == STATUS_OK && d->n_images) return d;
    chunk_decoder_close(d);
    return NULL;
}

static void room_free(chunk_decoder *d, decoder_room *r) {
    d->dev->ops->release_host(d->dev, r->here);
    d->dev->ops->release(d->dev, r->there);
    d->dev->ops->release(d->dev, r->room);
    free(r->bytes.data);
    free(r);
}

void chunk_decoder_close(chunk_decoder *d) {
    if (!d) return;
    for (int i = 0; i < N_CHUNK_LANES; i++) {
        decoder_lane *l = &d->lanes[i];
        for (decoder_room *r = l->idle, *next; r; r = next) {
            next = r->next;
            room_free(d, r);
        }
        d->dev->ops->copy_close(d->dev, l->copy);
        d->dev->ops->release_host(d->dev, l->here);
        d->dev->ops->release(d->dev, l->there);
        pthread_cond_destroy(&l->changed);
        pthread_mutex_destroy(&l->lock);
    }
    for (int i = 0; i < d->n_images; i++)
        d->dev->ops->release(d->dev, d->images[i].memory);
    free(d->images);
    free(d);
}

status chunk_decoder_order(chunk_decoder *d, chunk_lane lane) {
    return d->dev->ops->copy_after(d->dev, d->lanes[lane].copy);
}

/* ---- room ---- */

/* At least as much as that, and some for the next, as taking and releasing waits for the device; what was
 * there is gone. */
static status reserve(chunk_decoder *d, decoder_room *r, size_t n_bytes, size_t n_room) {
    const device_ops *ops = d->dev->ops;
    status st = STATUS_OK;
    if (n_bytes > r->n_bytes) {
        n_bytes += n_bytes / 4;
        ops->release_host(d->dev, r->here);
        ops->release(d->dev, r->there);
        r->here = r->there = NULL;
        r->n_bytes = 0;
        st = fault_at("decoder-room");
        if (st == STATUS_OK) st = ops->alloc_host(d->dev, n_bytes, &r->here);
        if (st == STATUS_OK) st = ops->alloc(d->dev, n_bytes, &r->there);
        if (st == STATUS_OK) r->n_bytes = n_bytes;
    }
    if (st == STATUS_OK && n_room > r->n_room) {
        n_room += n_room / 16;
        ops->release(d->dev, r->room);
        r->room = NULL;
        r->n_room = 0;
        st = ops->alloc(d->dev, n_room, &r->room);
        if (st == STATUS_OK) r->n_room = n_room;
    }
    return st;
}

/* One that is idle, or a new one while the device has memory for more, or else the next that is idle again.
 * NULL: there is not even one. */
static decoder_room *take_room(decoder_lane *l) {
    pthread_mutex_lock(&l->lock);
    decoder_room *r = NULL;
    bool is_new = false;
    while (!l->idle && !is_new && (!l->is_full || l->n_rooms > 0)) {
        is_new = !l->is_full && (l->n_rooms == 0 || (l->bytes < l->most_bytes && l->n_rooms < MOST_CHUNKS));
        if (!is_new) pthread_cond_wait(&l->changed, &l->lock);
    }
    if (is_new) {
        r = mem_new(1, sizeof *r);
        l->n_rooms++;
    } else if (l->idle) {
        r = l->idle;
        l->idle = r->next;
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}

static void give_room(decoder_lane *l, decoder_room *r) {
    pthread_mutex_lock(&l->lock);
    r->next = l->idle;
    l->idle = r;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* A room for the job and its places; NULL: the host has to decode. */
static decoder_room *find_room(chunk_decoder *d, decoder_lane *l, size_t n_bytes, size_t n_room) {
    for (decoder_room *r = take_room(l); r; r = take_room(l)) {
        const size_t before = r->n_bytes + r->n_room;
        const status st = reserve(d, r, n_bytes, n_room);
        pthread_mutex_lock(&l->lock);
        l->bytes += r->n_bytes + r->n_room - before;
        const bool is_news = st != STATUS_OK && !l->is_full;
        if (st != STATUS_OK) {
            l->is_full = true;
            l->n_rooms--;
            l->bytes -= r->n_bytes + r->n_room;
            pthread_cond_broadcast(&l->changed);
        }
        pthread_mutex_unlock(&l->lock);
        if (st == STATUS_OK) return r;
        if (is_news)
            notice_add("the GPU has little memory to decode what is cached (%s): it decodes less at a time, "
                       "or processors do",
                       status_text());
        room_free(d, r);
    }
    return NULL;
}

/* ---- chunks ---- */

/* Of a layer of the slice: behind the job's bytes, the pages of the rows, those of positions from wanted on.
 */
static varve_place place_of(const chunk_decoder *d, decoder_room *r, int64_t wanted, int layer) {
    const chunk_rows *rows = &r->rows;
    const kv_layer pages = kv_cache_layer(d->kv, layer);
    const int64_t end = rows->pos0 + rows->n_rows, kept = kv_cache_first_kept(d->kv, rows->slot, layer);
    int64_t begin = wanted > rows->pos0 ? wanted : rows->pos0;
    if (kept > begin) begin = kept;
    if (begin >= end) return (varve_place){.pages = NULL};
    const int64_t shift = rows->pos0 - (rows->row0 - r->row0), first = begin / pages.format.page_tokens;
    const int64_t n = (end - 1) / pages.format.page_tokens + 1 - first;
    const varve_place place = {pages.pages, begin - shift, end - shift, shift, first, (int64_t)r->bytes.n};
    text_append(&r->bytes, (const char *)(kv_cache_table(d->kv, rows->slot, layer) + first),
                (size_t)n * sizeof(int32_t));
    return place;
}

static void put_places(const chunk_decoder *d, decoder_room *r, int64_t wanted) {
    text_append(&r->bytes, "\0\0", (sizeof(int32_t) - r->bytes.n % sizeof(int32_t)) % sizeof(int32_t));
    for (int i = 0; i < r->job.n_layers; i++) {
        const int layer = r->job.first_layer + i;
        if (layer < d->slice.first_layer || layer >= d->slice.last_layer) continue;
        const varve_place place = place_of(d, r, wanted, layer - d->slice.first_layer);
        memcpy(r->bytes.data + r->job.places + (size_t)i * sizeof place, &place, sizeof place);
    }
}

/* What put_places appends, at most. */
static size_t places_bytes(const chunk_decoder *d, const varve_job *job, int64_t n_rows) {
    const int64_t n = kv_pages_for(n_rows, kv_cache_layer(d->kv, 0).format.page_tokens) + 1;
    return ((size_t)n * (size_t)job->n_layers + 1) * sizeof(int32_t);
}

static status wait_for(chunk_decoder *d, const decoder_lane *l) {
    enum { PAUSE_US = 50 };
    bool over = false;
    status st = d->dev->ops->copy_test(d->dev, l->copy, &over);
    for (; st == STATUS_OK && !over; st = d->dev->ops->copy_test(d->dev, l->copy, &over)) {
        usleep(PAUSE_US);
        alive_say();
    }
    return st;
}

static uint32_t *verdicts(char *memory) {
    return (uint32_t *)(memory + MOST_CHUNKS * sizeof(varve_job));
}

/* Bytes of the chunks, and then jobs, go there; the verdicts come back. */
static status decode_all(chunk_decoder *d, decoder_lane *l, decoder_room *first, int n) {
    const device_ops *ops = d->dev->ops;
    const kv_format format = kv_cache_layer(d->kv, 0).format;
    varve_job *jobs = (varve_job *)l->here;
    status st = STATUS_OK;
    int i = 0;
    for (decoder_room *r = first; st == STATUS_OK && r; r = r->next, i++) {
        assert(r->bytes.n <= r->n_bytes);
        memcpy(r->here, r->bytes.data, r->bytes.n);
        r->job.is_bad = verdicts(l->there) + i;
        jobs[i] = r->job;
        st = ops->copy_begin(d->dev, l->copy, r->there, r->here, r->bytes.n);
    }
    if (st == STATUS_OK) st = ops->copy_begin(d->dev, l->copy, l->there, l->here, (size_t)n * sizeof *jobs);
    if (st == STATUS_OK)
        st = ops->decode_chunks(d->dev, l->copy, &format, jobs, (const varve_job *)l->there, n);
    if (st == STATUS_OK)
        st = ops->copy_begin(d->dev, l->copy, verdicts(l->here), verdicts(l->there),
                             (size_t)n * sizeof(uint32_t));
    if (st == STATUS_OK) st = wait_for(d, l);
    if (st == STATUS_OK) return st;
    /* What was begun may still read what the next chunks write. */
    char text[STATUS_TEXT_BYTES];
    memcpy(text, status_text(), sizeof text);
    if (ops->copy_begin(d->dev, l->copy, NULL, NULL, 0) == STATUS_OK) (void)wait_for(d, l);
    return status_adopt(st, text);
}

/* All of one user. Their rooms are idle then. */
static void decode_batch(chunk_decoder *d, decoder_lane *l, decoder_room *first, int n) {
    const chunk_user *user = first->user;
    const double begin = clock_seconds();
    int64_t first_pos = INT64_MAX;
    for (const decoder_room *r = first; r; r = r->next) {
        assert(r->user == user);
        if (r->rows.pos0 < first_pos) first_pos = r->rows.pos0;
    }
    const int64_t wanted = user->begin(user->self, first_pos);
    for (decoder_room *r = first; r; r = r->next)
        put_places(d, r, wanted);
    const status st = decode_all(d, l, first, n);
    user->end(user->self);
    const double seconds = (clock_seconds() - begin) / n;
    char text[STATUS_TEXT_BYTES];
    if (st != STATUS_OK) memcpy(text, status_text(), sizeof text);
    decoder_room *r = first, *next;
    for (int i = 0; i < n; r = next, i++) {
        next = r->next;
        const bool is_bad = st == STATUS_OK && verdicts(l->here)[i];
        user->done(user->self, r->piece,
                   is_bad            ? status_refuse("a chunk of kvarve that is damaged")
                   : st != STATUS_OK ? status_adopt(st, text)
                                     : STATUS_OK,
                   seconds);
        give_room(l, r);
    }
}

/* Behind what waits; who finds nobody decoding decodes until nothing waits. */
static void submit(chunk_decoder *d, decoder_lane *l, decoder_room *r) {
    pthread_mutex_lock(&l->lock);
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
    if (!l->is_led) {
        l->is_led = true;
        while (l->waiting) {
            decoder_room *first = l->waiting;
            int n = 0;
            for (decoder_room *other = first; other; other = other->next)
                n++;
            l->waiting = NULL;
            l->last = &l->waiting;
            pthread_mutex_unlock(&l->lock);
            decode_batch(d, l, first, n);
            pthread_mutex_lock(&l->lock);
        }
        l->is_led = false;
    }
    pthread_mutex_unlock(&l->lock);
}

status chunk_decoder_put(chunk_decoder *d, chunk_lane lane, const chunk_user *user, void *piece,
                         segment *from, int64_t chunk, const void *bytes, size_t n_bytes,
                         const chunk_rows *rows, bool *is_taken) {
    decoder_lane *l = &d->lanes[lane];
    const kv_tables *tables = NULL;
    text_buffer packed = {0};
    varve_job job;
    segment_chunk c;
    *is_taken = false;
    status st = segment_make_job(from, chunk, bytes, n_bytes, &packed, &job, &c, &tables);
    const decoder_image *image =
        st == STATUS_OK && job.n_tokens > 0 ? find_image(d, tables, job.is_predicted) : NULL;
    decoder_room *r = image ? find_room(d, l, packed.n + places_bytes(d, &job, rows->n_rows),
                                        varve_job_room(&job, &image->image))
                            : NULL;
    if (!r) {
        free(packed.data);
        return st;
    }
    free(r->bytes.data);
    r->user = user;
    r->piece = piece;
    r->rows = *rows;
    r->row0 = c.row0;
    r->bytes = packed;
    r->job = job;
    varve_job_settle(&r->job, &image->image, r->there, r->room);
    submit(d, l, r);
    *is_taken = true;
    return STATUS_OK;
}
