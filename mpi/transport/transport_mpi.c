/* x by MPI, from host memory to host memory. */
#include <stdlib.h>

#include "mpi/comm_private.h"
#include "mpi/transport/transport.h"
#include "src/base/memory.h"

typedef struct mpi_transport {
    transport base;
    comm *comm;
    int n_slots;
    size_t x_floats;
    float **x;
    MPI_Request *requests; /* [n_slots] */
    bool *receiving;       /* [n_slots] */
} mpi_transport;

/* Operations are over when they return, so that there is nothing to wait for. */
static void ignore_slot(transport *t, int slot) {
    (void)t, (void)slot;
}

/* The receive is posted already: MPI tells how much came. */
static void ignore_size(transport *t, int slot, size_t n_floats) {
    (void)t, (void)slot, (void)n_floats;
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
    mpi_transport *t = (mpi_transport *)base;
    MPI_Isend(t->x[slot], (int)n_floats, MPI_FLOAT, t->comm->rank + 1, TAG_X, t->comm->world,
              &t->requests[slot]);
    t->receiving[slot] = false;
}

/* Before the message's header is here: a receive that waits for its message spares MPI a step. */
static void begin_receive(transport *base, int slot) {
    mpi_transport *t = (mpi_transport *)base;
    MPI_Irecv(t->x[slot], (int)t->x_floats, MPI_FLOAT, t->comm->rank - 1, TAG_X, t->comm->world,
              &t->requests[slot]);
    t->receiving[slot] = true;
}

static bool test(transport *base, int slot) {
    mpi_transport *t = (mpi_transport *)base;
    int over;
    MPI_Test(&t->requests[slot], &over, MPI_STATUS_IGNORE);
    return over;
}

static void close_transport(transport *base) {
    mpi_transport *t = (mpi_transport *)base;
    for (int i = 0; i < t->n_slots; i++) {
        if (t->receiving[i] && t->requests[i] != MPI_REQUEST_NULL) MPI_Cancel(&t->requests[i]);
        MPI_Wait(&t->requests[i], MPI_STATUS_IGNORE);
    }
    free(t->x);
    free(t->requests);
    free(t->receiving);
    free(t);
}

static const transport_ops mpi_ops = {
    .name = "MPI",
    .close = close_transport,
    .watch = watch,
    .mark = ignore_slot,
    .may_send = may_send,
    .begin_send = begin_send,
    .begin_receive = begin_receive,
    .expect = ignore_size,
    .test = test,
    .accept = ignore_slot,
};

status transport_mpi_open(const transport_config *config, transport **out) {
    size_t n = (size_t)config->n_slots;
    mpi_transport *t = mem_new(1, sizeof *t);
    *t = (mpi_transport){
        .base = {&mpi_ops},
        .comm = config->comm,
        .n_slots = config->n_slots,
        .x_floats = config->x_floats,
        .x = mem_new(n, sizeof *t->x),
        .requests = mem_new(n, sizeof *t->requests),
        .receiving = mem_new(n, sizeof *t->receiving),
    };
    for (int i = 0; i < config->n_slots; i++) {
        t->x[i] = config->x[i];
        t->requests[i] = MPI_REQUEST_NULL;
    }
    *out = &t->base;
    return STATUS_OK;
}
