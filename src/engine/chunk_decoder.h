/* src/engine/chunk_decoder.h: the device decodes chunks of a snapshot, straight into its pages, where it has
 * an operation for that (kernels/device.h) and memory for their tables, and where all pages are in its memory
 * (src/model/kv_tier.h); else the host does. Local. */
#pragma once

#include "io/snapshot/segment.h"
#include "io/snapshot/snapshot_tables.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"

typedef struct chunk_decoder chunk_decoder;

/* Where rows [row0, row0 + n_rows) of a segment belong: positions from pos0 on. */
typedef struct chunk_rows {
    int slot;
    int64_t row0, n_rows, pos0;
} chunk_rows;

/* Two that may decode at once, each by itself. */
typedef enum chunk_lane { CHUNKS_LOADED, CHUNKS_REFINED, N_CHUNK_LANES } chunk_lane;

/* Whose chunks they are. In any of the threads that put some. */
typedef struct chunk_user {
    void *self;
    /* Rows from position `first` on are to be written: from which position on are they wanted? That may grow
     * until `end`, but whoever has it grow beyond `first` waits for `end`. */
    int64_t (*begin)(void *self, int64_t first);
    void (*end)(void *self);
    /* What became of a chunk: decoded, in its share of these seconds, or damaged, and no row has changed. */
    void (*done)(void *self, void *piece, status st, double seconds);
} chunk_user;

/* For chunks, beside tables, it takes about so many of the device's bytes at most, as they come; one chunk
 * may be larger. Borrows all. NULL: the host decodes, as it does where pages hold codes. */
chunk_decoder *chunk_decoder_open(kv_cache *kv, const manifest *m, const snapshot_tables *tables, slice s,
                                  size_t most_bytes);
void chunk_decoder_close(chunk_decoder *d); /* nothing is being decoded; NULL is fine */

/* What is decoded in a lane from now on comes behind all operations that are queued. By the thread that
 * queues them. */
status chunk_decoder_order(chunk_decoder *d, chunk_lane lane);

/* Give the device a chunk's bytes in the file, or those of its base, which may be released then. Any number
 * of threads put chunks of one user: who finds the device idle waits for what there is by then, and what
 * comes meanwhile is decoded together, behind that; so when no thread is in here any more, all are done.
 * Waits while there is no room. *is_taken: false where the host has to decode them, and nobody is told.
 * Refuses what is damaged, as far as it can be seen. */
status chunk_decoder_put(chunk_decoder *d, chunk_lane lane, const chunk_user *user, void *piece,
                         segment *from, int64_t chunk, const void *bytes, size_t n_bytes,
                         const chunk_rows *rows, bool *is_taken);
