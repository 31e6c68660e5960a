/* x by MPI, through host memory: a copy out of the device, a message, a copy into the next device. All three
 * go on beside the operations of the devices, each begun by whoever tests a slot next. */
#include <stdlib.h>

#include "mpi/comm_private.h"
#include "mpi/transport/transport.h"
#include "src/base/memory.h"

typedef enum staged_state { IDLE, COPYING_OUT, SENDING, RECEIVING, COPYING_IN } staged_state;

typedef struct staged_slot {
    staged_state state;
    float *x, *host; /* device memory; as much of pinned host memory */
    size_t n_floats; /* COPYING_OUT: to send */
    device_copy *copy;
    MPI_Request request;
} staged_slot;

typedef struct staged_transport {
    transport base;
    comm *comm;
    device *dev;
    int n_slots;
    size_t x_floats;
    int next_send; /* the slot whose message goes to MPI next: MPI matches by order */
    staged_slot *slots;
} staged_transport;

static void need(status st) {
    if (st != STATUS_OK) status_die("activations between stages: %s", status_text());
}

static staged_slot *slot_of(transport *t, int slot) {
    return &((staged_transport *)t)->slots[slot];
}

static void mark(transport *base, int slot) {
    device *dev = ((staged_transport *)base)->dev;
    need(dev->ops->copy_after(dev, slot_of(base, slot)->copy));
}

static void begin_copy(staged_transport *t, staged_slot *s, float *to, const float *from, size_t n_floats) {
    if (n_floats) need(t->dev->ops->copy_begin(t->dev, s->copy, to, from, n_floats * sizeof(float)));
}

static bool copy_is_over(staged_transport *t, staged_slot *s) {
    bool over = false;
    need(t->dev->ops->copy_test(t->dev, s->copy, &over));
    return over;
}

/* Others look after what moves. */
static void watch(transport *t) {
    (void)t;
}

static bool may_send(transport *t, int slot) {
    (void)t, (void)slot;
    return true;
}

static void begin_send(transport *base, int slot, size_t n_floats) {
    staged_slot *s = slot_of(base, slot);
    s->n_floats = n_floats;
    begin_copy((staged_transport *)base, s, s->host, s->x, n_floats);
    s->state = COPYING_OUT;
}

static void begin_receive(transport *base, int slot) {
    staged_transport *t = (staged_transport *)base;
    staged_slot *s = &t->slots[slot];
    MPI_Irecv(s->host, (int)t->x_floats, MPI_FLOAT, t->comm->rank - 1, TAG_X, t->comm->world, &s->request);
    s->state = RECEIVING;
}

/* The receive is posted already: MPI tells how much came. */
static void expect(transport *base, int slot, size_t n_floats) {
    (void)base, (void)slot, (void)n_floats;
}

static bool leave_device(staged_transport *t, int slot) {
    staged_slot *s = &t->slots[slot];
    if (slot != t->next_send || !copy_is_over(t, s)) return false;
    MPI_Isend(s->host, (int)s->n_floats, MPI_FLOAT, t->comm->rank + 1, TAG_X, t->comm->world, &s->request);
    t->next_send = (t->next_send + 1) % t->n_slots;
    s->state = SENDING;
    return true;
}

static bool enter_device(staged_transport *t, staged_slot *s) {
    int came, n_floats;
    MPI_Status received;
    MPI_Test(&s->request, &came, &received);
    if (!came) return false;
    MPI_Get_count(&received, MPI_FLOAT, &n_floats);
    begin_copy(t, s, s->x, s->host, (size_t)n_floats);
    s->state = COPYING_IN;
    return true;
}

static bool test(transport *base, int slot) {
    staged_transport *t = (staged_transport *)base;
    staged_slot *s = &t->slots[slot];
    if (s->state == COPYING_OUT && !leave_device(t, slot)) return false;
    if (s->state == RECEIVING && !enter_device(t, s)) return false;
    int over = s->state == IDLE;
    if (s->state == SENDING) MPI_Test(&s->request, &over, MPI_STATUS_IGNORE);
    if (s->state == COPYING_IN) over = copy_is_over(t, s);
    if (over) s->state = IDLE;
    return over;
}

/* The host has seen the end of the copy, so that operations see it too. */
static void accept_slot(transport *base, int slot) {
    (void)base, (void)slot;
}

static void close_transport(transport *base) {
    staged_transport *t = (staged_transport *)base;
    for (int i = 0; i < t->n_slots; i++) {
        staged_slot *s = &t->slots[i];
        if (s->state == RECEIVING && s->request != MPI_REQUEST_NULL) MPI_Cancel(&s->request);
        MPI_Wait(&s->request, MPI_STATUS_IGNORE);
        t->dev->ops->copy_close(t->dev, s->copy);
        if (s->host) t->dev->ops->release_host(t->dev, s->host);
    }
    free(t->slots);
    free(t);
}

static const transport_ops staged_ops = {
    .name = "MPI through host memory",
    .close = close_transport,
    .watch = watch,
    .mark = mark,
    .may_send = may_send,
    .begin_send = begin_send,
    .begin_receive = begin_receive,
    .expect = expect,
    .test = test,
    .accept = accept_slot,
};

static status open_slot(staged_transport *t, staged_slot *s) {
    void *host = NULL;
    status st = t->dev->ops->copy_open(t->dev, &s->copy);
    if (st == STATUS_OK) st = t->dev->ops->alloc_host(t->dev, t->x_floats * sizeof(float), &host);
    s->host = host;
    return status_at(st, "activations between stages");
}

status transport_staged_open(const transport_config *config, transport **out) {
    staged_transport *t = mem_new(1, sizeof *t);
    *t = (staged_transport){
        .base = {&staged_ops},
        .comm = config->comm,
        .dev = config->dev,
        .n_slots = config->n_slots,
        .x_floats = config->x_floats,
        .slots = mem_new((size_t)config->n_slots, sizeof *t->slots),
    };
    for (int i = 0; i < t->n_slots; i++) {
        t->slots[i].x = config->x[i];
        t->slots[i].request = MPI_REQUEST_NULL;
    }
    status st = STATUS_OK;
    for (int i = 0; st == STATUS_OK && i < t->n_slots; i++)
        st = open_slot(t, &t->slots[i]);
    if (st != STATUS_OK) {
        close_transport(&t->base);
        return st;
    }
    *out = &t->base;
    return STATUS_OK;
}
