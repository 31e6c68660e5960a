/* mpi/comm_nccl.h: x from GPU to GPU by NCCL. Only comm_nccl.c knows NCCL and CUDA; without KVARVE_HAVE_NCCL
 * it is not built, and nothing but transport_nccl_is_built_in may be called. */
#pragma once

#include "mpi/transport.h"

bool transport_nccl_is_built_in(void); /* Local */

/* Refuses, with the reason: a device that is no CUDA device, or two ranks that share a GPU, as NCCL cannot
 * serve them. Collective. */
status transport_nccl_check(comm *c, device *dev);

/* A communicator for each pair of neighbours. Fails when NCCL cannot be set up within the deadline.
 * Collective, and the same status on every rank. */
status transport_nccl_open(const transport_config *config, transport **out);

/* "2.28.9": of the library in use. Local. */
const char *transport_nccl_version(void);
