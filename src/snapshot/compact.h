/* src/snapshot/compact.h: many small segments become few large ones, and rows that nobody needs are dropped.
 */
#pragma once

#include "io/codec/kv_codec.h"
#include "mpi/comm.h"

/* Each rank writes a range of layers, with the codec, as one segment; then rank 0 replaces the manifest and
 * removes the old files. Takes the snapshot's lock. A failure leaves the snapshot as it was. Rank 0 prints
 * what it did. Collective. */
status snapshot_compact(comm *c, const char *dir, kv_codec codec, int n_threads);
