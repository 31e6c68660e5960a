/* mpi/transport/comm_nccl.h: x from GPU to GPU by NCCL. Only comm_nccl.c knows NCCL and CUDA; it is a module,
 * kvarve_nccl.so, where it is built (KVARVE_HAVE_NCCL). */
#pragma once

#include "mpi/transport/transport.h"

/* What the module shows, as kvarve_nccl_backend. */
typedef struct nccl_backend {
    /* Refuses, with the reason, an old NCCL, or two ranks that share a GPU, as NCCL cannot serve them. On
     * every rank the device is a CUDA device. Collective. */
    status (*check)(comm *c, device *dev);

    /* A communicator for each pair of neighbours. Fails when NCCL cannot be set up within the deadline.
     * Collective, and the same status on every rank. */
    status (*open)(const transport_config *config, transport **out);
} nccl_backend;

/* nccl_module.c */
bool nccl_is_built(void); /* Local */

/* Load the module, once or again. Refuses, with the reason, where it was not built or cannot be loaded.
 * Local. */
status nccl_load(const nccl_backend **out);
