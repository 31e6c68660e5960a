/* src/snapshot/compact.h: many small segments become few large ones, rows that nobody needs are dropped, and
 * all of it may be coded in another way.
 */
#pragma once

#include "mpi/comm.h"
#include "src/command/options.h"

/* Each rank writes a range of layers of the snapshot o->dir, by the codec o->recode or as it is, as one
 * segment; then rank 0 replaces the manifest and removes the old files. Takes the snapshot's lock. Refuses to
 * code more finely what is coded already. A failure leaves the snapshot as it was. Rank 0 prints what it did.
 * Collective. */
status snapshot_compact(comm *c, const options *o, int n_threads);
