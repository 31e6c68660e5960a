/* src/snapshot/compact.h: many small segments become few large ones, rows that nobody needs are dropped, and
 * all of it may be coded in another way.
 */
#pragma once

#include "mpi/comm.h"
#include "src/command/options.h"

/* What a snapshot is: its segments and their tables. */
typedef struct compact_size {
    int64_t n_segments, file_bytes, tables_bytes, n_rows; /* file_bytes: with the tables' */
} compact_size;

typedef struct compact_figures {
    compact_size before, now;
} compact_figures;

/* Each rank writes a range of layers of the snapshot o->dir, by the codec o->recode or as it is, as one
 * segment; then rank 0 replaces the manifest and removes the old files. Takes the snapshot's lock. Refuses to
 * code more finely what is coded already. A failure leaves the snapshot as it was, and so
 * does what ends a run (stop_ask): --max-time, --stop-file, and signals that are watched for. `out`: rank
 * 0's. Collective. */
status snapshot_compact(comm *c, const options *o, int n_threads, compact_figures *out);
