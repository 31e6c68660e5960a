/* mpi/transport/transport.h: how the activations x of messages cross from a stage to the next one.
 *
 * A pipeline has slots, each with an x in device memory; it moves headers and replies itself, by MPI, and
 * has a transport move x. There are three:
 *     mpi      from x to x, where the device's memory is host memory
 *     staged   by MPI through pinned host memory, with copies that run beside the device's operations
 *     nccl     from GPU to GPU, beside the operations too
 *
 * A slot's x is used in turns. On the sending side the stage's operations write it; mark says that they are
 * all queued; then it is sent. On the receiving side it is received; accept says that operations are queued
 * from now on; mark that they all are; then the slot may receive again, or its x is sent on. So the
 * transport, not its caller, sees to it that x is never read before it is written, nor overwritten before it
 * is read, however late the device is; and a stage may go on to its next message while this one is still
 * computed.
 *
 * Messages are begun in order, slot after slot, round and round: begin_send as they are sent, begin_receive
 * as slots become free, expect as headers come. All functions are called under the comm's lock. A failure
 * while something moves, or a transfer that outlives the deadline, ends all ranks (status_die). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"
#include "mpi/comm.h"

typedef enum transport_kind {
    TRANSPORT_AUTO,
    TRANSPORT_MPI,
    TRANSPORT_NCCL,
    N_TRANSPORT_KINDS
} transport_kind;

/* "auto", "mpi", "nccl": as the user asks for it. Local. */
const char *transport_kind_name(transport_kind kind);

typedef struct transport transport;

/* Every function but close is Local, and none waits. */
typedef struct transport_ops {
    const char *name;            /* for people */
    void (*close)(transport *t); /* Collective; nothing is moving but receives that no message came for */

    /* See that all goes on: called again and again while the pipeline is open, also while nobody tests. */
    void (*watch)(transport *t);

    /* The operations that use the slot's x are all queued. In the thread that queues operations. */
    void (*mark)(transport *t, int slot);

    /* May the slot's message be sent now? Where a receiver that waits is dear, not before the operations are
     * over.
     */
    bool (*may_send)(transport *t, int slot);

    /* Send the first n_floats of x to the next stage: what they are when the operations before mark are over.
     */
    void (*begin_send)(transport *t, int slot, size_t n_floats);

    /* The next message goes to this slot; and, once its header told, has this size. */
    void (*begin_receive)(transport *t, int slot);
    void (*expect)(transport *t, int slot, size_t n_floats);

    /* Is what was begun in the slot over, as far as the host need wait? Also moves it on. */
    bool (*test)(transport *t, int slot);

    /* Operations that are queued from now on find in x what was received. In the thread that queues them,
     * after test said yes. */
    void (*accept)(transport *t, int slot);
} transport_ops;

/* Every transport begins with this. */
struct transport {
    const transport_ops *ops;
};

typedef struct transport_config {
    comm *comm;
    device *dev;
    int n_slots;
    float *const *x; /* [n_slots] device memory, needed until close; the array only while opening */
    size_t x_floats; /* room in each */
} transport_config;

/* What AUTO is for this device: NCCL where every rank can load it, the device is a CUDA device and no two
 * ranks share a GPU, otherwise MPI; the others are themselves. Refuses NCCL where it cannot be, with the
 * reason. Collective. */
status transport_choose(comm *c, device *dev, transport_kind wanted, transport_kind *out);

/* `kind` is what transport_choose gave. Collective. */
status transport_open(const transport_config *config, transport_kind kind, transport **out);
void transport_close(transport *t); /* Collective. NULL is fine */

/* What follows is for transport_open.c: one function for each transport, which opens it. Their failures are
 * this rank's alone, and then nothing is left open. */
status transport_mpi_open(const transport_config *config, transport **out);    /* Local */
status transport_staged_open(const transport_config *config, transport **out); /* Local */
