#include "mpi/mailbox.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/comm_private.h"
#include "src/base/memory.h"

enum { TAG_NOTE = 1 };

typedef struct note {
    struct note *next;
    void *data;
    size_t n_bytes;
    MPI_Request request; /* of its sending; not on rank 0 */
} note;

struct mailbox {
    comm *comm;
    MPI_Comm
        world; /* of its own, so that no message of a pipeline or of the next mailbox is taken for a note */
    note *first, **end; /* rank 0: its own notes, to be taken; elsewhere: notes on their way, in order */
    void *receiving;    /* rank 0: a note of another rank that is on its way in; NULL: none */
    size_t n_receiving_bytes;
    int receiving_from;
    MPI_Request receive_request;
    long n_sent, n_taken, n_all; /* of all ranks, on rank 0 when it closes */
};

mailbox *mailbox_open(comm *c) {
    mailbox *m = mem_new(1, sizeof *m);
    m->comm = c;
    m->end = &m->first;
    MPI_Request request;
    pthread_mutex_lock(&c->lock);
    MPI_Comm_idup(c->world, &m->world, &request);
    comm_finish(c, &request, "the other ranks to begin a run");
    return m;
}

static void drop_first(mailbox *m) {
    note *n = m->first;
    m->first = n->next;
    if (!m->first) m->end = &m->first;
    free(n);
}

/* Release the notes that are sent. Under the lock. */
static void reap(mailbox *m) {
    while (m->first) {
        int done;
        MPI_Test(&m->first->request, &done, MPI_STATUS_IGNORE);
        if (!done) return;
        free(m->first->data);
        drop_first(m);
    }
}

void mailbox_send(mailbox *m, const void *data, size_t n_bytes) {
    assert(n_bytes <= INT_MAX); /* MPI counts are ints */
    note *n = mem_new(1, sizeof *n);
    n->data = mem_new(n_bytes, 1);
    n->n_bytes = n_bytes;
    if (n_bytes) memcpy(n->data, data, n_bytes);
    pthread_mutex_lock(&m->comm->lock);
    if (m->comm->rank != 0) {
        MPI_Isend(n->data, (int)n_bytes, MPI_BYTE, 0, TAG_NOTE, m->world, &n->request);
        reap(m);
    }
    *m->end = n;
    m->end = &n->next;
    m->n_sent++;
    pthread_mutex_unlock(&m->comm->lock);
}

static void *take_own(mailbox *m, size_t *n_bytes, int *from_rank) {
    if (!m->first) return NULL;
    void *data = m->first->data;
    *n_bytes = m->first->n_bytes;
    *from_rank = 0;
    drop_first(m);
    return data;
}

/* One note at a time comes in, so that notes stay in order, and MPI is never waited for. */
static void *take_from_others(mailbox *m, size_t *n_bytes, int *from_rank) {
    int here = 0;
    if (!m->receiving) {
        MPI_Message message;
        MPI_Status about;
        MPI_Improbe(MPI_ANY_SOURCE, TAG_NOTE, m->world, &here, &message, &about);
        if (!here) return NULL;
        int n;
        MPI_Get_count(&about, MPI_BYTE, &n);
        m->receiving = mem_new((size_t)n, 1);
        m->n_receiving_bytes = (size_t)n;
        m->receiving_from = about.MPI_SOURCE;
        MPI_Imrecv(m->receiving, n, MPI_BYTE, &message, &m->receive_request);
    }
    MPI_Test(&m->receive_request, &here, MPI_STATUS_IGNORE);
    if (!here) return NULL;
    void *data = m->receiving;
    *n_bytes = m->n_receiving_bytes;
    *from_rank = m->receiving_from;
    m->receiving = NULL;
    return data;
}

static void *take(mailbox *m, size_t *n_bytes, int *from_rank) {
    void *data = take_own(m, n_bytes, from_rank);
    if (!data && m->comm->size > 1) data = take_from_others(m, n_bytes, from_rank);
    m->n_taken += data != NULL;
    return data;
}

void *mailbox_take(mailbox *m, size_t *n_bytes, int *from_rank) {
    assert(m->comm->rank == 0);
    pthread_mutex_lock(&m->comm->lock);
    void *data = take(m, n_bytes, from_rank);
    pthread_mutex_unlock(&m->comm->lock);
    return data;
}

/* Is nothing on its way any more? Rank 0 throws away what comes. */
static bool is_empty(void *context) {
    mailbox *m = context;
    if (m->comm->rank != 0) {
        reap(m);
        return !m->first;
    }
    size_t n_bytes;
    int from_rank;
    for (void *data; m->n_taken < m->n_all && (data = take(m, &n_bytes, &from_rank));)
        free(data);
    return m->n_taken == m->n_all;
}

void mailbox_close(mailbox *m) {
    if (!m) return;
    MPI_Request request;
    pthread_mutex_lock(&m->comm->lock);
    MPI_Ireduce(&m->n_sent, &m->n_all, 1, MPI_LONG, MPI_SUM, 0, m->world, &request);
    comm_finish(m->comm, &request, "the other ranks to end a run");
    comm_wait_until(m->comm, is_empty, m, "the last notes to rank 0");
    pthread_mutex_lock(&m->comm->lock);
    MPI_Comm_free(&m->world);
    pthread_mutex_unlock(&m->comm->lock);
    free(m);
}
