#include "src/engine/chunk_decoder.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/codec/varve_device.h"
#include "src/base/alive.h"
#include "src/base/memory.h"
#include "src/base/notice.h"

/* Tables on the device, for chunks of a kind. */
typedef struct decoder_image {
    const kv_tables *tables;
    bool is_predicted;
    varve_image image;
    void *memory;
} decoder_image;

/* A user's: a chunk that was taken, its bytes, here and there, and room for what becomes of them. */
typedef struct decoder_room {
    device_copy *copy;
    const decoder_image *image;
    int64_t row0; /* of the chunk */
    varve_job job;
    text_buffer bytes;
    void *here, *there, *room;
    size_t n_bytes, n_room;
} decoder_room;

struct chunk_decoder {
    device *dev;
    kv_cache *kv;
    slice slice;
    decoder_image *images;
    decoder_room *rooms; /* [n_users] */
    int n_images, n_users;
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

static status open_all(chunk_decoder *d, const manifest *m, const snapshot_tables *tables) {
    status st = STATUS_OK;
    for (const segment_info *s = m->segments; st == STATUS_OK && s < m->segments + m->n_segments; s++) {
        const kv_tables *t = snapshot_tables_of(tables, s);
        if (is_ours(s, d->slice) && t && !find_image(d, t, s->codec == KV_CODEC_SMALL))
            st = add_image(d, m, s, t);
    }
    for (int i = 0; st == STATUS_OK && i < d->n_users && d->n_images; i++)
        st = d->dev->ops->copy_open(d->dev, &d->rooms[i].copy);
    return st == STATUS_OK ? d->dev->ops->sync(d->dev) : st;
}

chunk_decoder *chunk_decoder_open(kv_cache *kv, const manifest *m, const snapshot_tables *tables, slice s,
                                  int n_users) {
    device *dev = kv_cache_device(kv);
    if (!dev->ops->decode_chunk) return NULL;
    chunk_decoder *d = mem_new(1, sizeof *d);
    *d = (chunk_decoder){.dev = dev, .kv = kv, .slice = s, .n_users = n_users};
    d->rooms = mem_new((size_t)n_users, sizeof *d->rooms);
    const status st = open_all(d, m, tables);
    if (st != STATUS_OK)
        notice_add("what is cached is decoded by processors, and not by the GPU: %s", status_text());
    if (st == STATUS_OK && d->n_images) return d;
    chunk_decoder_close(d);
    return NULL;
}

void chunk_decoder_close(chunk_decoder *d) {
    if (!d) return;
    for (int i = 0; i < d->n_users; i++) {
        decoder_room *r = &d->rooms[i];
        d->dev->ops->copy_close(d->dev, r->copy);
        d->dev->ops->release_host(d->dev, r->here);
        d->dev->ops->release(d->dev, r->there);
        d->dev->ops->release(d->dev, r->room);
        free(r->bytes.data);
    }
    for (int i = 0; i < d->n_images; i++)
        d->dev->ops->release(d->dev, d->images[i].memory);
    free(d->images);
    free(d->rooms);
    free(d);
}

/* ---- chunks ---- */

status chunk_decoder_order(chunk_decoder *d, int first, int last) {
    status st = STATUS_OK;
    for (int i = first; st == STATUS_OK && i < last; i++)
        st = d->dev->ops->copy_after(d->dev, d->rooms[i].copy);
    return st;
}

/* At least as much as that; what was there is gone. */
static status reserve(chunk_decoder *d, decoder_room *r, size_t n_bytes, size_t n_room) {
    const device_ops *ops = d->dev->ops;
    status st = STATUS_OK;
    if (n_bytes > r->n_bytes) {
        ops->release_host(d->dev, r->here);
        ops->release(d->dev, r->there);
        r->here = r->there = NULL;
        r->n_bytes = 0;
        st = ops->alloc_host(d->dev, n_bytes, &r->here);
        if (st == STATUS_OK) st = ops->alloc(d->dev, n_bytes, &r->there);
        if (st == STATUS_OK) r->n_bytes = n_bytes;
    }
    if (st == STATUS_OK && n_room > r->n_room) {
        ops->release(d->dev, r->room);
        r->room = NULL;
        r->n_room = 0;
        st = ops->alloc(d->dev, n_room, &r->room);
        if (st == STATUS_OK) r->n_room = n_room;
    }
    return st;
}

/* Of a layer of the slice: behind the job's bytes, the pages of the rows. */
static varve_place place_of(const chunk_decoder *d, decoder_room *r, const chunk_rows *rows, int layer) {
    const kv_layer pages = kv_cache_layer(d->kv, layer);
    const int64_t end = rows->pos0 + rows->n_rows, kept = kv_cache_first_kept(d->kv, rows->slot, layer);
    int64_t begin = rows->begin > rows->pos0 ? rows->begin : rows->pos0;
    if (kept > begin) begin = kept;
    if (begin >= end) return (varve_place){.pages = NULL};
    const int64_t shift = rows->pos0 - (rows->row0 - r->row0), first = begin / pages.format.page_tokens;
    const int64_t n = (end - 1) / pages.format.page_tokens + 1 - first;
    const varve_place place = {pages.pages, begin - shift, end - shift, shift, first, (int64_t)r->bytes.n};
    text_append(&r->bytes, (const char *)(kv_cache_table(d->kv, rows->slot, layer) + first),
                (size_t)n * sizeof(int32_t));
    return place;
}

static void put_places(const chunk_decoder *d, decoder_room *r, const chunk_rows *rows) {
    text_append(&r->bytes, "\0\0", (sizeof(int32_t) - r->bytes.n % sizeof(int32_t)) % sizeof(int32_t));
    for (int i = 0; i < r->job.n_layers; i++) {
        const int layer = r->job.first_layer + i;
        if (layer < d->slice.first_layer || layer >= d->slice.last_layer) continue;
        const varve_place place = place_of(d, r, rows, layer - d->slice.first_layer);
        memcpy(r->bytes.data + r->job.places + (size_t)i * sizeof place, &place, sizeof place);
    }
}

/* What put_places appends, at most. */
static size_t places_bytes(const chunk_decoder *d, const varve_job *job, int64_t n_rows) {
    const int64_t n = kv_pages_for(n_rows, kv_cache_layer(d->kv, 0).format.page_tokens) + 1;
    return ((size_t)n * (size_t)job->n_layers + 1) * sizeof(int32_t);
}

status chunk_decoder_take(chunk_decoder *d, int user, segment *from, int64_t chunk, const void *bytes,
                          size_t n_bytes, const chunk_rows *rows, bool *is_taken) {
    decoder_room *r = &d->rooms[user];
    const kv_tables *tables = NULL;
    segment_chunk c;
    *is_taken = false;
    r->bytes.n = 0;
    status st = segment_make_job(from, chunk, bytes, n_bytes, &r->bytes, &r->job, &c, &tables);
    if (st != STATUS_OK || r->job.n_tokens == 0) return st;
    r->row0 = c.row0;
    r->image = find_image(d, tables, r->job.is_predicted);
    if (!r->image) return STATUS_OK;
    const varve_shape *shape = &tables->varve.shape;
    if (reserve(d, r, r->bytes.n + places_bytes(d, &r->job, rows->n_rows), varve_job_room(&r->job, shape)) !=
        STATUS_OK) {
        notice_add("some of what is cached is decoded by processors, and not by the GPU: %s", status_text());
        return STATUS_OK;
    }
    varve_job_settle(&r->job, shape, r->there, r->room);
    *is_taken = true;
    return STATUS_OK;
}

static status wait_for(chunk_decoder *d, const decoder_room *r) {
    enum { PAUSE_US = 50 };
    bool over = false;
    status st = d->dev->ops->copy_test(d->dev, r->copy, &over);
    for (; st == STATUS_OK && !over; st = d->dev->ops->copy_test(d->dev, r->copy, &over)) {
        usleep(PAUSE_US);
        alive_say();
    }
    return st;
}

/* There and back: the verdict comes to where the bytes began. */
status chunk_decoder_place(chunk_decoder *d, int user, const chunk_rows *rows) {
    const device_ops *ops = d->dev->ops;
    const kv_format format = kv_cache_layer(d->kv, 0).format;
    decoder_room *r = &d->rooms[user];
    put_places(d, r, rows);
    assert(r->bytes.n <= r->n_bytes);
    memcpy(r->here, r->bytes.data, r->bytes.n);
    status st = ops->copy_begin(d->dev, r->copy, r->there, r->here, r->bytes.n);
    if (st == STATUS_OK) st = ops->decode_chunk(d->dev, r->copy, &format, &r->image->image, &r->job);
    if (st == STATUS_OK) st = ops->copy_begin(d->dev, r->copy, r->here, r->job.is_bad, sizeof *r->job.is_bad);
    if (st == STATUS_OK) st = wait_for(d, r);
    if (st == STATUS_OK)
        return *(const uint32_t *)r->here ? status_refuse("a chunk of kvarve that is damaged") : STATUS_OK;
    /* What was begun may still read what the next chunk writes. */
    char text[STATUS_TEXT_BYTES];
    memcpy(text, status_text(), sizeof text);
    if (ops->copy_begin(d->dev, r->copy, NULL, NULL, 0) == STATUS_OK) (void)wait_for(d, r);
    return status_adopt(st, text);
}
