#include "mpi/pipeline.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/comm_private.h"
#include "src/base/memory.h"

enum { LOOKS = 16 }; /* of the progress thread, while a message moves */

typedef enum slot_state { SLOT_FREE, SLOT_RECEIVING, SLOT_IN_USE, SLOT_LEAVING, SLOT_SENDING } slot_state;

/* What goes before the caller's header in a message. */
typedef struct message_head {
    uint64_t n_x_floats;
    uint64_t unused; /* the caller's bytes are aligned for anything */
} message_head;

typedef struct ring_slot {
    pipeline_slot public; /* first, so that a public slot is its ring slot */
    slot_state state;
    message_head *head; /* and the caller's header behind it */
    MPI_Request header_request;
    bool header_is_here, x_is_here; /* SLOT_RECEIVING */
} ring_slot;

typedef struct reply_slot {
    void *data;
    MPI_Request request;
} reply_slot;

struct pipeline {
    comm *comm;
    device *dev;
    pipeline_sizes sizes;
    int stage, n_stages;
    transport *transport; /* NULL with one rank */
    ring_slot slots[PIPELINE_SLOTS];
    int next_use;        /* the slot that the stage computes in next */
    int next_receive;    /* the slot whose receive is posted next: receives match messages in order */
    int next_header;     /* the slot whose header comes next */
    int next_send;       /* the slot whose message leaves next */
    reply_slot *replies; /* last stage: sends; stage 0: receives. With one rank: a queue in memory */
    int next_reply, n_queued;
    void *taken_reply;
    pipeline_stats stats;
    pthread_t progress_thread;
    bool has_progress_thread, progress_stop;
};

size_t pipeline_device_bytes(const pipeline_sizes *sizes) {
    return PIPELINE_SLOTS * sizes->x_floats * sizeof(float);
}

static bool is_last(const pipeline *p) {
    return p->stage == p->n_stages - 1;
}

static int slot_after(int slot) {
    return (slot + 1) % PIPELINE_SLOTS;
}

/* Post receives into the slots that are free, in ring order. Under the lock. */
static void post_receives(pipeline *p) {
    if (p->stage == 0) return;
    for (;;) {
        ring_slot *s = &p->slots[p->next_receive];
        if (s->state != SLOT_FREE) return;
        MPI_Irecv(s->head, (int)(sizeof *s->head + p->sizes.header_bytes), MPI_BYTE, p->stage - 1, TAG_HEADER,
                  p->comm->world, &s->header_request);
        p->transport->ops->begin_receive(p->transport, p->next_receive);
        s->header_is_here = s->x_is_here = false;
        s->state = SLOT_RECEIVING;
        p->next_receive = slot_after(p->next_receive);
    }
}

/* Read the headers that have come, in order. Under the lock. */
static void take_headers(pipeline *p) {
    for (;;) {
        ring_slot *s = &p->slots[p->next_header];
        int done, n;
        MPI_Status received;
        if (s->state != SLOT_RECEIVING || s->header_is_here) return;
        MPI_Test(&s->header_request, &done, &received);
        if (!done) return;
        MPI_Get_count(&received, MPI_BYTE, &n);
        s->public.n_header_bytes = (size_t)n - sizeof *s->head;
        s->public.n_x_floats = (size_t)s->head->n_x_floats;
        s->header_is_here = true;
        p->transport->ops->expect(p->transport, p->next_header, s->public.n_x_floats);
        p->next_header = slot_after(p->next_header);
    }
}

/* Send the messages that may leave, in order. Under the lock. */
static void send_messages(pipeline *p) {
    for (;;) {
        ring_slot *s = &p->slots[p->next_send];
        if (s->state != SLOT_LEAVING || !p->transport->ops->may_send(p->transport, p->next_send)) return;
        s->head->n_x_floats = s->public.n_x_floats;
        /* Over when the next stage has a slot for it: some MPIs take any number of messages off a sender. */
        MPI_Issend(s->head, (int)(sizeof *s->head + s->public.n_header_bytes), MPI_BYTE, p->stage + 1,
                   TAG_HEADER, p->comm->world, &s->header_request);
        p->transport->ops->begin_send(p->transport, p->next_send, s->public.n_x_floats);
        s->state = SLOT_SENDING;
        p->next_send = slot_after(p->next_send);
    }
}

static bool is_sent(pipeline *p, int slot) {
    int done;
    bool x_is_sent = p->transport->ops->test(p->transport, slot);
    MPI_Test(&p->slots[slot].header_request, &done, MPI_STATUS_IGNORE);
    return done && x_is_sent;
}

/* Let messages move and free the slots whose sends are over, the oldest first. Under the lock. */
static void pump(pipeline *p) {
    if (p->n_stages == 1) return;
    p->transport->ops->watch(p->transport);
    send_messages(p);
    take_headers(p);
    for (int i = 0, slot = p->next_use; i < PIPELINE_SLOTS; i++, slot = slot_after(slot)) {
        ring_slot *s = &p->slots[slot];
        if (s->state == SLOT_SENDING && is_sent(p, slot)) s->state = SLOT_FREE;
        if (s->state == SLOT_RECEIVING && s->header_is_here && !s->x_is_here)
            s->x_is_here = p->transport->ops->test(p->transport, slot);
    }
    post_receives(p);
    int flag;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, p->comm->world, &flag, MPI_STATUS_IGNORE);
}

/* Is a message on its way out, or has the header of one come and x not yet? Under the lock. */
static bool is_moving(const pipeline *p) {
    for (int i = 0; i < PIPELINE_SLOTS; i++) {
        const ring_slot *s = &p->slots[i];
        if (s->state == SLOT_SENDING) return true;
        if (s->state == SLOT_RECEIVING && s->header_is_here && !s->x_is_here) return true;
    }
    return false;
}

/* While the stage computes, a rendezvous of a large message needs somebody in MPI on both sides. Each look
 * moves only some pieces of it, so there are many looks while something moves; but fewer and fewer while
 * nothing does, as each takes the processor from the stage where a rank is bound to one for each thread. */
static void *progress_main(void *arg) {
    enum { SHORTEST_NS = 300 * 1000, LONGEST_NS = 8 * SHORTEST_NS };
    pipeline *p = arg;
    struct timespec pause = {0, SHORTEST_NS};
    for (bool stop = false; !stop;) {
        bool moves = false;
        nanosleep(&pause, NULL);
        if (pthread_mutex_trylock(&p->comm->lock) == 0) {
            stop = p->progress_stop;
            for (int i = 0; i < LOOKS && !stop && (i == 0 || moves); i++) {
                pump(p);
                moves = is_moving(p);
            }
            pthread_mutex_unlock(&p->comm->lock);
        } else {
            moves = true; /* the stage is in MPI itself */
        }
        if (moves)
            pause.tv_nsec = SHORTEST_NS;
        else if (pause.tv_nsec < LONGEST_NS)
            pause.tv_nsec *= 2;
    }
    return NULL;
}

/* What is waited for, while messages move. */
typedef struct condition {
    pipeline *p;
    bool (*is_met)(pipeline *);
} condition;

static bool pump_and_look(void *context) {
    const condition *wanted = context;
    pump(wanted->p);
    return wanted->is_met(wanted->p);
}

/* Call `ready` (under the lock) until it says yes; adds the time to *seconds. */
static void wait_until(pipeline *p, bool (*ready)(pipeline *), double *seconds, const char *what) {
    *seconds += comm_wait_until(p->comm, pump_and_look, &(condition){p, ready}, what);
}

static bool take_free_slot(pipeline *p) {
    ring_slot *s = &p->slots[p->next_use];
    if (s->state != SLOT_FREE) return false;
    s->state = SLOT_IN_USE;
    return true;
}

static bool take_message(pipeline *p) {
    ring_slot *s = &p->slots[p->next_use];
    if (s->state != SLOT_RECEIVING || !s->header_is_here || !s->x_is_here) return false;
    p->transport->ops->accept(p->transport, p->next_use);
    s->state = SLOT_IN_USE;
    return true;
}

/* What may end the wait for a message, besides one. */
typedef struct distraction {
    pipeline *p;
    bool (*looks_away)(const void *context);
    const void *context;
    bool has_message;
} distraction;

static bool take_message_or_look(void *context) {
    distraction *d = context;
    pump(d->p);
    d->has_message = take_message(d->p);
    return d->has_message || d->looks_away(d->context);
}

static bool reply_is_done(pipeline *p) {
    int done;
    MPI_Test(&p->replies[p->next_reply].request, &done, MPI_STATUS_IGNORE);
    return done;
}

static pipeline_slot *use_next(pipeline *p) {
    ring_slot *s = &p->slots[p->next_use];
    p->next_use = slot_after(p->next_use);
    return &s->public;
}

pipeline_slot *pipeline_begin(pipeline *p) {
    assert(p->stage == 0);
    wait_until(p, take_free_slot, &p->stats.send_wait, "the next stage to take a message");
    return use_next(p);
}

pipeline_slot *pipeline_receive_or(pipeline *p, bool (*looks_away)(const void *context),
                                   const void *context) {
    assert(p->stage > 0);
    distraction d = {p, looks_away, context, false};
    p->stats.receive_wait +=
        comm_wait_until(p->comm, take_message_or_look, &d, "a message from the stage before");
    return d.has_message ? use_next(p) : NULL;
}

static bool never(const void *context) {
    (void)context;
    return false;
}

pipeline_slot *pipeline_receive(pipeline *p) {
    return pipeline_receive_or(p, never, NULL);
}

void pipeline_forward(pipeline *p, pipeline_slot *slot) {
    ring_slot *s = (ring_slot *)slot;
    assert(s->state == SLOT_IN_USE && slot->n_header_bytes <= p->sizes.header_bytes &&
           slot->n_x_floats <= p->sizes.x_floats);
    pthread_mutex_lock(&p->comm->lock);
    if (p->transport) p->transport->ops->mark(p->transport, (int)(s - p->slots));
    if (is_last(p)) {
        s->state = SLOT_FREE;
    } else {
        s->state = SLOT_LEAVING;
        p->stats.bytes_sent += (double)(slot->n_header_bytes + slot->n_x_floats * sizeof(float));
        p->stats.n_messages++;
    }
    pump(p);
    pthread_mutex_unlock(&p->comm->lock);
}

void pipeline_reply(pipeline *p, const void *data, size_t n_bytes) {
    assert(is_last(p) && n_bytes <= p->sizes.reply_bytes);
    if (p->n_stages == 1) {
        assert(p->n_queued < p->sizes.n_replies);
        memcpy(p->replies[(p->next_reply + p->n_queued++) % p->sizes.n_replies].data, data, n_bytes);
        return;
    }
    double waited = 0;
    wait_until(p, reply_is_done, &waited, "stage 0 to take a reply");
    reply_slot *r = &p->replies[p->next_reply];
    memcpy(r->data, data, n_bytes);
    pthread_mutex_lock(&p->comm->lock);
    MPI_Isend(r->data, (int)n_bytes, MPI_BYTE, 0, TAG_REPLY, p->comm->world, &r->request);
    pthread_mutex_unlock(&p->comm->lock);
    p->next_reply = (p->next_reply + 1) % p->sizes.n_replies;
    p->stats.send_wait += waited;
}

static void post_reply_receive(pipeline *p, reply_slot *r) {
    MPI_Irecv(r->data, (int)p->sizes.reply_bytes, MPI_BYTE, p->n_stages - 1, TAG_REPLY, p->comm->world,
              &r->request);
}

const void *pipeline_take_reply(pipeline *p, bool wait) {
    assert(p->stage == 0);
    reply_slot *r = &p->replies[p->next_reply];
    if (p->n_stages == 1) {
        if (p->n_queued == 0) return NULL;
        p->n_queued--;
    } else {
        pthread_mutex_lock(&p->comm->lock);
        pump(p);
        bool here = reply_is_done(p);
        pthread_mutex_unlock(&p->comm->lock);
        if (!here && !wait) return NULL;
        if (!here) wait_until(p, reply_is_done, &p->stats.reply_wait, "a reply from the last stage");
    }
    void *data = r->data;
    r->data = p->taken_reply;
    p->taken_reply = data;
    if (p->n_stages > 1) {
        pthread_mutex_lock(&p->comm->lock);
        post_reply_receive(p, r);
        pthread_mutex_unlock(&p->comm->lock);
    }
    p->next_reply = (p->next_reply + 1) % p->sizes.n_replies;
    return p->taken_reply;
}

const char *pipeline_transport(const pipeline *p) {
    return p->transport ? p->transport->ops->name : NULL;
}

pipeline_stats pipeline_get_stats(const pipeline *p) {
    return p->stats;
}

static status open_slots(pipeline *p) {
    for (int i = 0; i < PIPELINE_SLOTS; i++) {
        ring_slot *s = &p->slots[i];
        s->header_request = MPI_REQUEST_NULL;
        s->head = mem_new(1, sizeof *s->head + p->sizes.header_bytes);
        s->public.header = s->head + 1;
        void *x = NULL;
        status st = p->dev->ops->alloc(p->dev, p->sizes.x_floats * sizeof(float), &x);
        if (st != STATUS_OK) return status_at(st, "activations between stages");
        s->public.x = x;
    }
    return STATUS_OK;
}

static status open_transport(pipeline *p, transport_kind wanted) {
    transport_kind kind;
    status st = transport_choose(p->comm, p->dev, wanted, &kind);
    if (st != STATUS_OK || p->n_stages == 1) return st;
    float *x[PIPELINE_SLOTS];
    for (int i = 0; i < PIPELINE_SLOTS; i++)
        x[i] = p->slots[i].public.x;
    transport_config config = {
        .comm = p->comm,
        .dev = p->dev,
        .n_slots = PIPELINE_SLOTS,
        .x = x,
        .x_floats = p->sizes.x_floats,
    };
    return transport_open(&config, kind, &p->transport);
}

static void open_replies(pipeline *p) {
    p->taken_reply = mem_new(1, p->sizes.reply_bytes);
    p->replies = mem_new((size_t)p->sizes.n_replies, sizeof *p->replies);
    for (int i = 0; i < p->sizes.n_replies; i++) {
        p->replies[i].data = mem_new(1, p->sizes.reply_bytes);
        p->replies[i].request = MPI_REQUEST_NULL;
        if (p->stage == 0 && p->n_stages > 1) post_reply_receive(p, &p->replies[i]);
    }
}

/* MPI counts what a message holds in an int. */
static status check_sizes(const pipeline_sizes *s) {
    size_t most = s->x_floats > s->reply_bytes ? s->x_floats : s->reply_bytes;
    if (s->header_bytes + sizeof(message_head) > most) most = s->header_bytes + sizeof(message_head);
    if (most <= INT_MAX) return STATUS_OK;
    return status_refuse(
        "a step would send %zu numbers in one message, and MPI takes %d: lower --chunk-tokens", most,
        INT_MAX);
}

status pipeline_open(comm *c, device *dev, const pipeline_sizes *sizes, transport_kind wanted,
                     pipeline **out) {
    pipeline *p = mem_new(1, sizeof *p);
    *p = (pipeline){.comm = c, .dev = dev, .sizes = *sizes, .stage = c->rank, .n_stages = c->size};
    status st = open_slots(p);
    if (st == STATUS_OK && p->n_stages > 1) st = check_sizes(sizes);
    if (!comm_any_failed(c, &st)) st = open_transport(p, wanted);
    if (st != STATUS_OK) {
        p->n_stages = 1; /* nothing is on its way */
        pipeline_close(p);
        return st;
    }
    open_replies(p);
    if (p->n_stages > 1) {
        post_receives(p);
        p->has_progress_thread = pthread_create(&p->progress_thread, NULL, progress_main, p) == 0;
    }
    *out = p;
    return STATUS_OK;
}

static void cancel(MPI_Request *request) {
    if (*request == MPI_REQUEST_NULL) return;
    MPI_Cancel(request);
    MPI_Wait(request, MPI_STATUS_IGNORE);
}

static bool all_is_sent(pipeline *p) {
    for (int i = 0; i < PIPELINE_SLOTS; i++)
        if (p->slots[i].state == SLOT_LEAVING || p->slots[i].state == SLOT_SENDING) return false;
    for (int i = 0; is_last(p) && i < p->sizes.n_replies; i++) {
        int done;
        MPI_Test(&p->replies[i].request, &done, MPI_STATUS_IGNORE);
        if (!done) return false;
    }
    return true;
}

static void finish_sends(pipeline *p) {
    double waited = 0;
    wait_until(p, all_is_sent, &waited, "the last messages to be taken");
}

void pipeline_close(pipeline *p) {
    if (!p) return;
    if (p->has_progress_thread) {
        pthread_mutex_lock(&p->comm->lock);
        p->progress_stop = true;
        pthread_mutex_unlock(&p->comm->lock);
        pthread_join(p->progress_thread, NULL);
    }
    if (p->transport) finish_sends(p);
    transport_close(p->transport);
    for (int i = 0; i < PIPELINE_SLOTS; i++) {
        ring_slot *s = &p->slots[i];
        if (s->state == SLOT_RECEIVING) cancel(&s->header_request);
        free(s->head);
        if (s->public.x) p->dev->ops->release(p->dev, s->public.x);
    }
    for (int i = 0; p->replies && i < p->sizes.n_replies; i++) {
        if (p->stage == 0) cancel(&p->replies[i].request);
        free(p->replies[i].data);
    }
    free(p->replies);
    free(p->taken_reply);
    free(p);
}
