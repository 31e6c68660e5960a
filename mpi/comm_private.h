/* mpi/comm_private.h: what the files of mpi/ share of a communicator. */
#pragma once

#include <mpi.h>
#include <pthread.h>

#include "mpi/comm.h"
#include "mpi/signs.h"

struct comm {
    MPI_Comm world, node; /* all ranks, and those of this rank's host */
    int rank, size, node_size, processors;
    char host[MPI_MAX_PROCESSOR_NAME];
    pthread_mutex_t lock; /* held around every MPI call while other threads may run */
    double deadline_seconds;
    signs *signs;     /* NULL: there are no other ranks yet */
    double last_life; /* when a rank was last heard of, this one too where a thread of its own is at work */
    double last_look; /* of comm_is_late */
};

/* Messages in `world`: those of a pipeline, and signs of life. */
enum { TAG_HEADER = 1, TAG_X = 2, TAG_REPLY = 3, TAG_SIGN = 4 };

/* Call ready(context), under the lock, until it says yes; the seconds that it took. Ends all ranks
 * (status_die) when it is late, naming `what` was waited for. */
double comm_wait_until(comm *c, bool (*ready)(void *context), void *context, const char *what);

/* The same for what was begun in MPI under the lock, which is given away. */
void comm_finish(comm *c, MPI_Request *request, const char *what);

/* Has this rank waited since `begin`, and heard of no other, for longer than the deadline? Under the lock. */
bool comm_is_late(comm *c, double begin);

/* all[node_size][n_bytes] from the ranks of this host, in their order. Collective. */
void comm_gather_on_node(comm *c, const void *mine, size_t n_bytes, void *all);
