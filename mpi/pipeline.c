#include "mpi/pipeline.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/comm_private.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

enum { TAG_HEADER = 1, TAG_X = 2, TAG_REPLY = 3 };
enum { HEADER_REQUEST, X_REQUEST, N_REQUESTS };
enum { LOOKS = 16 }; /* of the progress thread, while a message moves */

static const double eager_seconds = 0.05; /* a wait turns round and round at first, for the sake of latency */

typedef enum slot_state { SLOT_FREE, SLOT_RECEIVING, SLOT_IN_USE, SLOT_SENDING } slot_state;

typedef struct ring_slot {
    pipeline_slot public; /* first, so that a public slot is its ring slot */
    slot_state state;
    MPI_Request requests[N_REQUESTS];
} ring_slot;

typedef struct reply_slot {
    void *data;
    MPI_Request request;
} reply_slot;

struct pipeline {
    comm *comm;
    device *dev;
    pipeline_sizes sizes;
    double deadline_seconds;
    int stage, n_stages;
    ring_slot slots[PIPELINE_SLOTS];
    int next_use;        /* the slot that the stage computes in next */
    int next_receive;    /* the slot whose receive is posted next: receives match messages in order */
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

/* Post receives into the slots that are free, in ring order. Under the lock. */
static void post_receives(pipeline *p) {
    if (p->stage == 0) return;
    for (;;) {
        ring_slot *s = &p->slots[p->next_receive];
        if (s->state != SLOT_FREE) return;
        int from = p->stage - 1;
        MPI_Irecv(s->public.header, (int)p->sizes.header_bytes, MPI_BYTE, from, TAG_HEADER, p->comm->world,
                  &s->requests[HEADER_REQUEST]);
        MPI_Irecv(s->public.x, (int)p->sizes.x_floats, MPI_FLOAT, from, TAG_X, p->comm->world,
                  &s->requests[X_REQUEST]);
        s->state = SLOT_RECEIVING;
        p->next_receive = (p->next_receive + 1) % PIPELINE_SLOTS;
    }
}

/* Let MPI move and free the slots whose sends are over. Under the lock. */
static void pump(pipeline *p) {
    if (p->n_stages == 1) return;
    for (int i = 0; i < PIPELINE_SLOTS; i++) {
        ring_slot *s = &p->slots[i];
        int done = 0;
        MPI_Status statuses[N_REQUESTS];
        if (s->state == SLOT_SENDING) MPI_Testall(N_REQUESTS, s->requests, &done, statuses);
        if (done) s->state = SLOT_FREE;
    }
    post_receives(p);
    int flag;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, p->comm->world, &flag, MPI_STATUS_IGNORE);
}

/* Is a message on its way out, or has the header of one come and x not yet? Under the lock. */
static bool is_moving(const pipeline *p) {
    for (int i = 0; i < PIPELINE_SLOTS; i++) {
        const ring_slot *s = &p->slots[i];
        int header_is_here = 0, x_is_here = 0;
        if (s->state == SLOT_SENDING) return true;
        if (s->state != SLOT_RECEIVING) continue;
        MPI_Request_get_status(s->requests[HEADER_REQUEST], &header_is_here, MPI_STATUS_IGNORE);
        MPI_Request_get_status(s->requests[X_REQUEST], &x_is_here, MPI_STATUS_IGNORE);
        if (header_is_here && !x_is_here) return true;
    }
    return false;
}

/* While the stage computes, a rendezvous of a large message needs somebody in MPI on both sides. Each look
 * moves only some pieces of it, so there are many looks while something moves. */
static void *progress_main(void *arg) {
    pipeline *p = arg;
    const struct timespec pause = {0, 300 * 1000};
    for (;;) {
        nanosleep(&pause, NULL);
        if (pthread_mutex_trylock(&p->comm->lock) != 0) continue; /* the stage is in MPI itself */
        bool stop = p->progress_stop;
        if (!stop) pump(p);
        for (int i = 1; i < LOOKS && !stop && is_moving(p); i++)
            pump(p);
        pthread_mutex_unlock(&p->comm->lock);
        if (stop) return NULL;
    }
}

static void wait_beyond_deadline(const pipeline *p, const char *what) {
    status_die("waited %.0f s for %s: a rank was lost or hangs", p->deadline_seconds, what);
}

/* Call `ready` (under the lock) until it says yes; adds the time to *seconds. */
static void wait_until(pipeline *p, bool (*ready)(pipeline *), double *seconds, const char *what) {
    const struct timespec pause = {0, 200 * 1000};
    double begin = clock_seconds();
    for (;;) {
        pthread_mutex_lock(&p->comm->lock);
        pump(p);
        bool yes = ready(p);
        pthread_mutex_unlock(&p->comm->lock);
        if (yes) break;
        /* After a while leave the processor to others: a save may be going on here. */
        if (clock_seconds() - begin > eager_seconds)
            nanosleep(&pause, NULL);
        else
            sched_yield();
        if (clock_seconds() - begin > p->deadline_seconds) wait_beyond_deadline(p, what);
    }
    *seconds += clock_seconds() - begin;
}

static bool take_free_slot(pipeline *p) {
    ring_slot *s = &p->slots[p->next_use];
    if (s->state != SLOT_FREE) return false;
    s->state = SLOT_IN_USE;
    return true;
}

static bool take_message(pipeline *p) {
    ring_slot *s = &p->slots[p->next_use];
    int done;
    if (s->state != SLOT_RECEIVING) return false;
    MPI_Status statuses[N_REQUESTS];
    MPI_Testall(N_REQUESTS, s->requests, &done, statuses);
    if (!done) return false;
    int n;
    MPI_Get_count(&statuses[HEADER_REQUEST], MPI_BYTE, &n);
    s->public.n_header_bytes = (size_t)n;
    MPI_Get_count(&statuses[X_REQUEST], MPI_FLOAT, &n);
    s->public.n_x_floats = (size_t)n;
    s->state = SLOT_IN_USE;
    return true;
}

static bool reply_is_done(pipeline *p) {
    int done;
    MPI_Test(&p->replies[p->next_reply].request, &done, MPI_STATUS_IGNORE);
    return done;
}

static pipeline_slot *use_next(pipeline *p) {
    ring_slot *s = &p->slots[p->next_use];
    p->next_use = (p->next_use + 1) % PIPELINE_SLOTS;
    return &s->public;
}

pipeline_slot *pipeline_begin(pipeline *p) {
    assert(p->stage == 0);
    wait_until(p, take_free_slot, &p->stats.send_wait, "the next stage to take a message");
    return use_next(p);
}

pipeline_slot *pipeline_receive(pipeline *p) {
    assert(p->stage > 0);
    wait_until(p, take_message, &p->stats.receive_wait, "a message from the stage before");
    return use_next(p);
}

void pipeline_forward(pipeline *p, pipeline_slot *slot) {
    ring_slot *s = (ring_slot *)slot;
    assert(s->state == SLOT_IN_USE && slot->n_header_bytes <= p->sizes.header_bytes &&
           slot->n_x_floats <= p->sizes.x_floats);
    pthread_mutex_lock(&p->comm->lock);
    if (is_last(p)) {
        s->state = SLOT_FREE;
    } else {
        int to = p->stage + 1;
        MPI_Isend(slot->header, (int)slot->n_header_bytes, MPI_BYTE, to, TAG_HEADER, p->comm->world,
                  &s->requests[HEADER_REQUEST]);
        MPI_Isend(slot->x, (int)slot->n_x_floats, MPI_FLOAT, to, TAG_X, p->comm->world,
                  &s->requests[X_REQUEST]);
        s->state = SLOT_SENDING;
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

pipeline_stats pipeline_get_stats(const pipeline *p) {
    return p->stats;
}

static status open_slots(pipeline *p) {
    for (int i = 0; i < PIPELINE_SLOTS; i++) {
        ring_slot *s = &p->slots[i];
        for (int k = 0; k < N_REQUESTS; k++)
            s->requests[k] = MPI_REQUEST_NULL;
        s->public.header = mem_new(1, p->sizes.header_bytes);
        void *x = NULL;
        status st = p->dev->ops->alloc(p->dev, p->sizes.x_floats * sizeof(float), &x);
        if (st != STATUS_OK) return status_at(st, "activations between stages");
        s->public.x = x;
    }
    return STATUS_OK;
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

status pipeline_open(comm *c, device *dev, const pipeline_sizes *sizes, double deadline_seconds,
                     pipeline **out) {
    pipeline *p = mem_new(1, sizeof *p);
    *p = (pipeline){.comm = c,
                    .dev = dev,
                    .sizes = *sizes,
                    .deadline_seconds = deadline_seconds,
                    .stage = c->rank,
                    .n_stages = c->size};
    status st = open_slots(p);
    if (comm_any_failed(c, &st)) {
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

void pipeline_close(pipeline *p) {
    if (!p) return;
    if (p->has_progress_thread) {
        pthread_mutex_lock(&p->comm->lock);
        p->progress_stop = true;
        pthread_mutex_unlock(&p->comm->lock);
        pthread_join(p->progress_thread, NULL);
    }
    for (int i = 0; i < PIPELINE_SLOTS; i++) {
        ring_slot *s = &p->slots[i];
        MPI_Status statuses[N_REQUESTS];
        if (s->state == SLOT_SENDING) MPI_Waitall(N_REQUESTS, s->requests, statuses);
        if (s->state == SLOT_RECEIVING)
            for (int k = 0; k < N_REQUESTS; k++)
                cancel(&s->requests[k]);
        free(s->public.header);
        if (s->public.x) p->dev->ops->release(p->dev, s->public.x);
    }
    for (int i = 0; p->replies && i < p->sizes.n_replies; i++) {
        if (p->stage == 0)
            cancel(&p->replies[i].request);
        else
            MPI_Wait(&p->replies[i].request, MPI_STATUS_IGNORE);
        free(p->replies[i].data);
    }
    free(p->replies);
    free(p->taken_reply);
    free(p);
}
