#include "mpi/signs.h"

#include <stdlib.h>

#include "src/base/memory.h"

struct signs {
    MPI_Comm world;
    int tag, rank, size;
    MPI_Request incoming;
    MPI_Request *outgoing; /* [size] */
};

static void post(signs *s) {
    MPI_Irecv(NULL, 0, MPI_BYTE, MPI_ANY_SOURCE, s->tag, s->world, &s->incoming);
}

signs *signs_open(MPI_Comm world, int tag) {
    signs *s = mem_new(1, sizeof *s);
    *s = (signs){.world = world, .tag = tag};
    MPI_Comm_rank(world, &s->rank);
    MPI_Comm_size(world, &s->size);
    s->outgoing = mem_new((size_t)s->size, sizeof *s->outgoing);
    for (int i = 0; i < s->size; i++)
        s->outgoing[i] = MPI_REQUEST_NULL;
    post(s);
    return s;
}

void signs_close(signs *s) {
    if (!s) return;
    MPI_Cancel(&s->incoming);
    MPI_Wait(&s->incoming, MPI_STATUS_IGNORE);
    free(s->outgoing);
    free(s);
}

void signs_send(signs *s) {
    for (int i = 1; i < s->size; i++) {
        int to = (s->rank + i) % s->size, is_taken;
        MPI_Test(&s->outgoing[to], &is_taken, MPI_STATUS_IGNORE);
        if (is_taken) MPI_Issend(NULL, 0, MPI_BYTE, to, s->tag, s->world, &s->outgoing[to]);
    }
}

int signs_take(signs *s) {
    for (int n = 0;; n++) {
        int is_here;
        MPI_Test(&s->incoming, &is_here, MPI_STATUS_IGNORE);
        if (!is_here) return n;
        post(s);
    }
}

bool signs_are_taken(signs *s) {
    int all;
    MPI_Testall(s->size, s->outgoing, &all, MPI_STATUSES_IGNORE);
    return all;
}
