/* io/snapshot/snapshot_tables.h: the tables that a snapshot keeps beside its segments, for those whose codec
 * needs them (io/codec/kv_tables.h): files with their digest in the name. Local. */
#pragma once

#include "io/snapshot/manifest.h"

typedef struct snapshot_tables {
    kv_tables **all; /* [n] */
    int n;
} snapshot_tables;

/* Open those that the segments with any of layers [first_layer, last_layer) need. Refuses what is not there,
 * damaged, or of a model of another shape, naming it. Release with snapshot_tables_close, also then. The
 * relay is NULL where this rank sees dir. */
status snapshot_tables_open(const char *dir, file_relay *relay, const manifest *m, int first_layer,
                            int last_layer, snapshot_tables *out);
void snapshot_tables_close(snapshot_tables *t); /* zeroed is fine */

/* NULL: the segment needs none. */
const kv_tables *snapshot_tables_of(const snapshot_tables *t, const segment_info *info);

/* The bytes of the file of tables that segment i needs; 0: it needs none, or those of a segment before it, or
 * they are not there. The sum over all segments is what a snapshot's tables take. */
size_t snapshot_tables_bytes_of(const char *dir, const manifest *m, int64_t i);

/* Put the bytes of a file of tables into a snapshot, flushed to the disk, unless they are there. Under the
 * snapshot's lock, and before a manifest names them. */
status snapshot_tables_put(const char *dir, uint64_t digest, const void *bytes, size_t n_bytes);
