/* mpi/comm.h: the ranks of a run, how they agree, and how they end together.
 *
 * Standard MPI-3.1 at thread level SERIALIZED: MPI is called by one thread at a time, under the comm's lock.
 * Owner: the command; one comm a process.
 *
 * Every wait for another rank has a deadline, --peer-timeout: when none was heard of for so long, all ranks
 * are ended (status_die). Who works so long that others would wait for it says that it is alive
 * (src/base/alive.h): that goes to all ranks, and prolongs all waits of all of them. Once nobody works any
 * more, and still somebody waits, a rank was lost or hangs. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct comm comm;

enum { COMM_DEADLINE_SECONDS = 600 }; /* until comm_set_deadline */

/* Start MPI. From here on status_die ends every rank, naming this rank and its host. Refuses a process that
 * was started as one of several and became a rank by itself (mpi/placement/launcher.h). Collective. */
status comm_open(int *argc, char ***argv, comm **out);

/* The comm of a process by itself, without MPI: for what needs no ranks, as MPI may end a process that no
 * launcher started, such as one in an allocation of Slurm. Local. */
comm *comm_open_alone(void);

/* What the MPI library calls itself, in at most n bytes; MPI need not be started. Local. */
void comm_describe_mpi(char *text, size_t n);

/* Release and finalize MPI. Collective. NULL is fine. */
void comm_close(comm *c);

/* How long a wait for another rank may last without a sign of life, the same on every rank. Local. */
void comm_set_deadline(comm *c, double seconds);

/* In a loop that waits since `begin` (clock_seconds) for what other ranks or threads do: ends all ranks when
 * that is overdue, naming `what` is waited for. Local. */
void comm_watch(comm *c, double begin, const char *what);

int comm_rank(const comm *c);      /* Local */
int comm_size(const comm *c);      /* Local */
int comm_node_size(const comm *c); /* ranks that share this rank's host. Local */

/* This rank's fair share of the processors that the ranks of its host may run on together, at least 1: all of
 * its own when the launcher bound each rank to other ones. Local */
int comm_processors(const comm *c);

/* Did any rank fail? When true, every rank's *st and status_text() are those of the first rank that failed,
 * with the rank and host in the text when there are several ranks. Call it with no MPI call pending.
 * Collective. */
bool comm_any_failed(comm *c, status *st);

/* Bytes of rank `root` to every rank. Collective. */
void comm_broadcast(comm *c, void *data, size_t n_bytes, int root);

/* A copy of rank root's *n bytes, with a zero byte behind them, and how many they are, on every rank:
 * released with free(). NULL there is NULL everywhere. Collective. */
char *comm_share(comm *c, const void *bytes, size_t *n, int root);

/* Rank 0 receives all[size][n_bytes]; `all` may be NULL elsewhere. Collective. */
void comm_gather(comm *c, const void *mine, size_t n_bytes, void *all);

/* The smallest of the ranks' values, on every rank. Collective. */
int64_t comm_min(comm *c, int64_t value);

/* Wait for every rank. Collective. */
void comm_barrier(comm *c);
