#include "src/model/kv_host.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/tier/record_numbers.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/model/kv_tier.h"

/* Copies in one direction are begun by batches, and so many batches are under way at most. */
enum { MOST_BATCHES = 4, BATCH = 32 };

/* What is begun with a record, once at a time. */
typedef struct host_request {
    char *frame;
    bool is_under_way, has_failed;
} host_request;

typedef struct host_batch {
    device_copy *copy;
    int records[BATCH], n;
} host_batch;

/* One direction. Requests wait in their order, the first ones with their place in host memory. */
typedef struct host_way {
    bool is_write;
    int *queue; /* a ring of n_records: [n_left, n_entered), of which [n_left, n_held) have a place held */
    int64_t n_left, n_held, n_entered;
    int64_t n_over; /* of those that left the queue, and hold a place no more */
    host_batch batches[MOST_BATCHES];
    int64_t n_batches, n_batches_over;
    double since; /* in which a batch is under way */
    page_file_flow flow;
} host_way;

struct kv_host {
    kv_host_shape shape;
    char *memory; /* [n_pages + 1] */
    kv_tier *below;
    record_numbers numbers;
    host_request *requests; /* [n_records] */
    host_way out, in;
    char text[STATUS_TEXT_BYTES]; /* of the last failure */
};

/* ---- open and close ---- */

static status pin(const kv_host *h, int32_t n_pages, void **out) {
    status st = fault_at("kv-host-pin");
    if (st == STATUS_OK)
        st = h->shape.dev->ops->alloc_host(h->shape.dev, (size_t)(n_pages + 1) * h->shape.page_bytes, out);
    return st;
}

/* What is asked for; where there is none such, the largest half, quarter ... that is enough. */
static status take_memory(kv_host *h) {
    void *memory = NULL;
    status st = pin(h, h->shape.n_pages, &memory);
    while (st != STATUS_OK && h->shape.n_pages > h->shape.n_least) {
        h->shape.n_pages = h->shape.n_pages / 2 > h->shape.n_least ? h->shape.n_pages / 2 : h->shape.n_least;
        st = pin(h, h->shape.n_pages, &memory);
    }
    if (st != STATUS_OK)
        return status_refuse("%.1f MiB of host memory for KV pages cannot be pinned: %s",
                             mem_mib((uint64_t)(h->shape.n_pages + 1) * h->shape.page_bytes), status_text());
    h->memory = memory;
    return STATUS_OK;
}

static status open_way(kv_host *h, host_way *w) {
    const device_ops *ops = h->shape.dev->ops;
    status st = STATUS_OK;
    w->queue = mem_new((size_t)h->shape.n_records, sizeof *w->queue);
    for (int i = 0; st == STATUS_OK && i < MOST_BATCHES; i++)
        st = ops->copy_open(h->shape.dev, &w->batches[i].copy);
    return st;
}

status kv_host_open(const kv_host_shape *shape, kv_host **out) {
    kv_host *h = mem_new(1, sizeof *h);
    *h = (kv_host){.shape = *shape, .numbers.n_all = shape->n_records, .out.is_write = true};
    assert(shape->file || shape->n_pages == shape->n_records);
    h->requests = mem_new((size_t)shape->n_records, sizeof *h->requests);
    status st = take_memory(h);
    if (st == STATUS_OK) st = open_way(h, &h->out);
    if (st == STATUS_OK) st = open_way(h, &h->in);
    if (st == STATUS_OK)
        st = kv_tier_open(&(kv_tier_shape){.n_pages = shape->n_records,
                                           .n_frames = h->shape.n_pages,
                                           .page_bytes = shape->page_bytes,
                                           .n_turn = shape->n_turn,
                                           .frames = h->memory,
                                           .records = kv_records_of_file(shape->file)},
                          &h->below);
    if (st == STATUS_OK)
        *out = h;
    else
        kv_host_close(h);
    return st;
}

void kv_host_close(kv_host *h) {
    if (!h) return;
    const device_ops *ops = h->shape.dev->ops;
    kv_tier_close(h->below);
    for (host_way *w = &h->out; w; w = w == &h->out ? &h->in : NULL) {
        assert(w->n_over == w->n_entered);
        for (int i = 0; i < MOST_BATCHES; i++)
            ops->copy_close(h->shape.dev, w->batches[i].copy);
        free(w->queue);
    }
    if (h->memory) ops->release_host(h->shape.dev, h->memory);
    record_numbers_release(&h->numbers);
    free(h->requests);
    free(h);
}

int32_t kv_host_n_pages(const kv_host *h) {
    return h->shape.n_pages;
}

/* ---- on its way ---- */

/* What left the queue is over. */
static void end_request(kv_host *h, host_way *w, int record, status st) {
    host_request *r = &h->requests[record];
    r->is_under_way = false;
    r->has_failed = st != STATUS_OK;
    w->n_over++;
    if (r->has_failed) {
        memcpy(h->text, status_text(), sizeof h->text);
        w->flow.n_failed++;
    } else {
        w->flow.n_moved++;
        w->flow.bytes += (int64_t)h->shape.page_bytes;
    }
    kv_tier_leave(h->below, record, w->is_write ? KV_TIER_CLOSED : KV_TIER_READ);
}

static void end_batches(kv_host *h, host_way *w) {
    for (; w->n_batches_over < w->n_batches; w->n_batches_over++) {
        const host_batch *b = &w->batches[w->n_batches_over % MOST_BATCHES];
        bool over = false;
        status st = h->shape.dev->ops->copy_test(h->shape.dev, b->copy, &over);
        if (st == STATUS_OK && !over) return;
        for (int i = 0; i < b->n; i++)
            end_request(h, w, b->records[i], st);
        if (w->n_batches_over + 1 == w->n_batches) w->flow.seconds += clock_seconds() - w->since;
    }
}

static int queued(const kv_host *h, const host_way *w, int64_t i) {
    return w->queue[i % h->shape.n_records];
}

/* Each direction has half of host memory, so that none waits for the other. */
static void hold_places(kv_host *h, host_way *w) {
    while (w->n_held < w->n_entered && w->n_held - w->n_over < (h->shape.n_pages + 1) / 2 &&
           kv_tier_try_hold(h->below, queued(h, w, w->n_held)))
        w->n_held++;
}

/* A record that is lost below has no bytes, or no room for them. */
static status begin_copy(kv_host *h, const host_way *w, device_copy *copy, int record) {
    const size_t bytes = h->shape.page_bytes;
    char *here = h->memory + (size_t)kv_tier_wait(h->below, record, w->is_write) * bytes;
    char *there = h->requests[record].frame, text[STATUS_TEXT_BYTES];
    if (kv_tier_is_lost(h->below, record, text)) return status_fail("%s", text);
    return h->shape.dev->ops->copy_begin(h->shape.dev, copy, w->is_write ? here : there,
                                         w->is_write ? there : here, bytes);
}

/* Of those whose turn it is and whose bytes are there. */
static void begin_batches(kv_host *h, host_way *w) {
    while (w->n_batches - w->n_batches_over < MOST_BATCHES) {
        host_batch *b = &w->batches[w->n_batches % MOST_BATCHES];
        b->n = 0;
        while (b->n < BATCH && w->n_left < w->n_held && kv_tier_is_still(h->below, queued(h, w, w->n_left))) {
            const int record = queued(h, w, w->n_left++);
            status st = begin_copy(h, w, b->copy, record);
            if (st == STATUS_OK)
                b->records[b->n++] = record;
            else
                end_request(h, w, record, st);
        }
        if (b->n == 0) return;
        if (w->n_batches == w->n_batches_over) w->since = clock_seconds();
        w->n_batches++;
    }
}

static void advance(void *self) {
    kv_host *h = self;
    for (host_way *w = &h->out; w; w = w == &h->out ? &h->in : NULL) {
        end_batches(h, w);
        hold_places(h, w);
        begin_batches(h, w);
    }
}

/* ---- as kv_records ---- */

static int take(void *self) {
    kv_host *h = self;
    const int record = record_numbers_take(&h->numbers);
    if (record >= 0) kv_tier_add(h->below, record);
    return record;
}

static void give_back(void *self, int record) {
    kv_host *h = self;
    kv_tier_remove(h->below, record);
    record_numbers_give_back(&h->numbers, record);
}

static page_file_ticket begin(kv_host *h, host_way *w, int record, char *frame) {
    assert(!h->requests[record].is_under_way);
    h->requests[record] = (host_request){.frame = frame, .is_under_way = true};
    w->queue[w->n_entered++ % h->shape.n_records] = record;
    advance(h);
    return (page_file_ticket){.slot = record};
}

/* What the record had is not needed any more, so that it is not read for this. */
static page_file_ticket begin_write(void *self, int record, const void *frame) {
    kv_host *h = self;
    kv_tier_remove(h->below, record);
    kv_tier_add(h->below, record);
    return begin(h, &h->out, record, (char *)frame);
}

static page_file_ticket begin_read(void *self, int record, void *frame) {
    kv_host *h = self;
    return begin(h, &h->in, record, frame);
}

static bool test(void *self, page_file_ticket ticket) {
    const kv_host *h = self;
    if (h->requests[ticket.slot].is_under_way) advance(self);
    return !h->requests[ticket.slot].is_under_way;
}

/* Where none of ours keeps anything else from leaving host memory, and still there is no place for the next
 * one, it is the file that is waited for; or there never will be one, and the record is lost. */
static bool wait_for_place(kv_host *h) {
    if (h->out.n_held > h->out.n_over || h->in.n_held > h->in.n_over) return false;
    host_way *w = h->out.n_held < h->out.n_entered ? &h->out : &h->in;
    kv_tier_hold(h->below, queued(h, w, w->n_held++));
    return true;
}

static status wait(void *self, page_file_ticket ticket, double seconds) {
    kv_host *h = self;
    for (const double begin = clock_seconds(); !test(h, ticket);) {
        if (clock_seconds() - begin > seconds)
            return status_fail("a copy of a KV page between GPU and host is not over after %.0f s", seconds);
        if (!wait_for_place(h)) nanosleep(&(struct timespec){0, 20000}, NULL);
    }
    return h->requests[ticket.slot].has_failed ? status_fail("%s", h->text) : STATUS_OK;
}

static void begin_step(void *self) {
    kv_host *h = self;
    kv_tier_begin_step(h->below);
}

static void measure(void *self, kv_figures *out) {
    const kv_host *h = self;
    *out = kv_tier_measure(h->below);
    out->to_host = h->out.flow;
    out->from_host = h->in.flow;
}

kv_records kv_host_records(kv_host *h) {
    return (kv_records){h,    take, give_back, begin_write, begin_read,
                        test, wait, advance,   begin_step,  measure};
}
