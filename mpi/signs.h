/* mpi/signs.h: signs of life between ranks: empty messages that everybody sends to everybody else, waiting
 * for nobody.
 *
 * A sign is a synchronous send, and to each rank only one is under way: who takes none for hours finds one or
 * two from each other, however many were meant for it. All functions are Local; the caller lets one thread at
 * a time in here. */
#pragma once

#include <mpi.h>
#include <stdbool.h>

typedef struct signs signs;

/* With messages of this tag, which nobody else may use. Borrows `world` until close. */
signs *signs_open(MPI_Comm world, int tag);

/* All that were sent must have been taken, and all ranks be here. NULL is fine. */
void signs_close(signs *s);

/* To each rank that has taken the one before. */
void signs_send(signs *s);

/* How many have come since the last call. */
int signs_take(signs *s);

/* Is none of this rank's under way any more? */
bool signs_are_taken(signs *s);
