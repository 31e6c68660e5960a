/* mpi/placement/memory_share.h: what each rank may take of its host's memory.
 *
 * A limit is shared by those ranks of the host that it binds: all of them by the host's own, those in a
 * control group by that group's, and nobody by a limit of the process. The least counts. */
#pragma once

#include <stdint.h>

#include "mpi/comm.h"

typedef struct memory_share {
    uint64_t bytes; /* that a rank may take; UINT64_MAX: nothing is known */
    char text[640]; /* "MemAvailable (/proc/meminfo) on node07 leaves each of 4 ranks there" */
} memory_share;

/* The least of all ranks' shares, the same on every rank. Collective. */
memory_share memory_share_find(comm *c);

/* The same for n ranks on a host like this one. Local. */
memory_share memory_share_of_host(int n_ranks);
