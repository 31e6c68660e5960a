/* mpi/pipeline.h: messages that walk the stages in order, 0 to P-1, and replies from the last stage to stage
 * 0.
 *
 * A message is a header (host bytes that say what the step is) and the activations x of the step (float32,
 * device memory). Each rank owns a ring of slots: while one is computed in place, the next is being received
 * and the last one sent, and a thread keeps them moving while the stage computes. Headers and replies go by
 * MPI, x by a transport (mpi/transport/transport.h), which knows when a device is done with it: a stage
 * forwards a message as soon as its operations are queued. A stage sees messages in the order in which stage
 * 0 sent them, and replies reach stage 0 in that order. A slot is free again when the next stage has one for
 * its message, so that no more than PIPELINE_SLOTS messages lie between two stages, whatever MPI buffers.
 * With one rank nothing is sent, and a reply is handed over in memory.
 *
 * All functions are Local but for open and close; waits have the comm's deadline. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"
#include "mpi/comm.h"
#include "mpi/transport/transport.h"

typedef struct pipeline pipeline;

typedef struct pipeline_sizes {
    size_t header_bytes; /* the most that a header takes */
    size_t x_floats;     /* the most that x takes */
    size_t reply_bytes;  /* the most that a reply takes */
    int n_replies;       /* the most that may be on their way: messages in flight */
} pipeline_sizes;

typedef struct pipeline_slot {
    void *header;                      /* header_bytes of room */
    float *x;                          /* device memory, room for x_floats: for operations of the device */
    size_t n_header_bytes, n_x_floats; /* of the message in it: set before pipeline_forward */
} pipeline_slot;

enum { PIPELINE_SLOTS = 3 };

/* Bytes that a pipeline takes on the device of a rank: for plans. */
size_t pipeline_device_bytes(const pipeline_sizes *sizes);

/* Borrows c and dev until close. Refuses when memory runs out, messages that MPI cannot send, and a transport
 * that cannot be (transport_choose). Collective. */
status pipeline_open(comm *c, device *dev, const pipeline_sizes *sizes, transport_kind wanted,
                     pipeline **out);

/* How x crosses, for people; NULL with one rank. Local. */
const char *pipeline_transport(const pipeline *p);

/* All messages must have been received. Collective. NULL is fine. */
void pipeline_close(pipeline *p);

/* Stage 0: a slot to fill; waits until one is free. */
pipeline_slot *pipeline_begin(pipeline *p);

/* Stages > 0: the next message; waits for it. */
pipeline_slot *pipeline_receive(pipeline *p);

/* The same, but NULL as soon as there is something else to do, where no message has come. `looks_away` is
 * called again and again, under the comm's lock: it sends nothing. */
pipeline_slot *pipeline_receive_or(pipeline *p, bool (*looks_away)(const void *context), const void *context);

/* Send the slot's message to the next stage and give the slot back; the last stage just gives it back. All
 * operations that use its x are queued; they need not be over. */
void pipeline_forward(pipeline *p, pipeline_slot *slot);

/* Last stage: send a reply to stage 0. The bytes are copied. */
void pipeline_reply(pipeline *p, const void *data, size_t n_bytes);

/* Stage 0: the next reply, owned by the pipeline until the next call; NULL when there is none yet and !wait.
 */
const void *pipeline_take_reply(pipeline *p, bool wait);

/* Seconds this rank waited so far: for a free slot, for a message, for a reply. And bytes sent, headers and
 * x. */
typedef struct pipeline_stats {
    double send_wait, receive_wait, reply_wait;
    double bytes_sent;
    long n_messages;
} pipeline_stats;

pipeline_stats pipeline_get_stats(const pipeline *p);
