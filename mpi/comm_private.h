/* mpi/comm_private.h: what the files of mpi/ share of a communicator. */
#pragma once

#include <mpi.h>
#include <pthread.h>

#include "mpi/comm.h"

struct comm {
    MPI_Comm world;
    int rank, size, node_size, processors;
    char host[MPI_MAX_PROCESSOR_NAME];
    pthread_mutex_t lock; /* held around every MPI call while a pipeline is open */
};

/* Messages of a pipeline. */
enum { TAG_HEADER = 1, TAG_X = 2, TAG_REPLY = 3 };
