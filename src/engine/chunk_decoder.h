/* src/engine/chunk_decoder.h: the device decodes chunks of a snapshot, straight into its pages, where it has
 * an operation for that (kernels/device.h) and memory for their tables; else the host does. Local. */
#pragma once

#include "io/snapshot/segment.h"
#include "io/snapshot/snapshot_tables.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"

typedef struct chunk_decoder chunk_decoder;

/* Where rows [row0, row0 + n_rows) of a segment belong: positions from pos0 on, of which those below `begin`
 * are not wanted. */
typedef struct chunk_rows {
    int slot;
    int64_t row0, n_rows, pos0, begin;
} chunk_rows;

/* For n_users threads at once. Borrows all. NULL: the host decodes. */
chunk_decoder *chunk_decoder_open(kv_cache *kv, const manifest *m, const snapshot_tables *tables, slice s,
                                  int n_users);
void chunk_decoder_close(chunk_decoder *d); /* NULL is fine */

/* What users [first, last) decode from now on comes behind all operations that are queued. By the thread that
 * queues them. */
status chunk_decoder_order(chunk_decoder *d, int first, int last);

/* Take a chunk's bytes in the file, or those of its base, whose rows (at most these) are then to be placed.
 * *is_taken: false where the host has to decode them. Refuses what is damaged, as far as it can be seen. */
status chunk_decoder_take(chunk_decoder *d, int user, segment *from, int64_t chunk, const void *bytes,
                          size_t n_bytes, const chunk_rows *rows, bool *is_taken);

/* Decode what the user has taken, and wait for it. What is damaged is refused, and no row changes. */
status chunk_decoder_place(chunk_decoder *d, int user, const chunk_rows *rows);
