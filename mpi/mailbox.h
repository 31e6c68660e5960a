/* mpi/mailbox.h: notes from any rank to rank 0, outside of the pipeline's order.
 *
 * A note is a few bytes up to some megabytes and is copied; notes of one rank arrive in their order. Any
 * thread may send, as each call takes the comm's lock. Sending waits for nobody. Notes of one mailbox never
 * mix with those of another, nor with messages of a pipeline. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "mpi/comm.h"

typedef struct mailbox mailbox;

mailbox *mailbox_open(comm *c); /* Collective */

/* Notes that were not taken are thrown away, those on their way included. Collective. NULL is fine. */
void mailbox_close(mailbox *m);

/* From any rank, 0 too. Local. */
void mailbox_send(mailbox *m, const void *note, size_t n_bytes);

/* The next note that has come, released with free(), or NULL; its size and sender. Rank 0. Local. */
void *mailbox_take(mailbox *m, size_t *n_bytes, int *from_rank);
