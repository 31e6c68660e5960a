/* tests/nccl_stand_in.h: what mpi/transport/comm_nccl.c and its test call of CUDA and NCCL, by threads and
 * sockets: for machines without GPUs.
 *
 * A stream is a thread; an event counts its records; device memory is host memory. A communicator of two
 * ranks is a socket. It is stricter than NCCL: what is given to a communicator that is not done with the last
 * thing is an error, as are counts that differ; what is given comes to the stream some time later; and a send
 * is over only when it was received. */
#pragma once

#include <stdbool.h>

typedef enum stand_in_fault {
    STAND_IN_ERROR, /* communicators tell of an asynchronous error */
    STAND_IN_HANG,  /* what is on the stream is never over, and nor is ncclCommAbort */
} stand_in_fault;

/* From now on, in this process. */
void stand_in_fail(stand_in_fault fault);

/* From now on the module with NCCL cannot be loaded in this process, or can be again. */
void stand_in_hide(bool hidden);
