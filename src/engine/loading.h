/* src/engine/loading.h: the K and V of one slot on their way out of a snapshot into its pages.
 *
 * Chunks are read and decoded in parallel, from the last position to the first. Where only the base of some
 * was loaded (io/codec/varve_planes.h), the rest of them is fetched behind that, into memory, and takes its
 * place in the pages when it is told to, between two steps. Local. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "io/snapshot/manifest.h"
#include "io/snapshot/segment.h"
#include "io/snapshot/snapshot_tables.h"
#include "mpi/mailbox.h"
#include "src/engine/chunk_decoder.h"
#include "src/engine/load_log.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"

/* Of chunks that have a base, is that loaded first? */
typedef enum loads_base {
    LOADS_NO_BASE,
    LOADS_BASE_IF_LATE, /* where it looks as if all would not be there by the deadline */
    LOADS_BASE,
} loads_base;

typedef struct load_options {
    int n_threads;
    size_t device_bytes;     /* of a device's memory, that decoding there may take */
    bool spares_processors;  /* which compute the model */
    double bytes_per_second; /* to be read at most; 0: no limit */
    double most_distortion;  /* that a frame may have measured; 0: no limit */
    loads_base loads_base;
    double deadline_seconds; /* from the beginning of a load on */
    bool keeps_log;          /* of every chunk, for rank 0 */
    file_relay *relay;       /* borrowed; NULL: this rank sees the snapshot */
} load_options;

/* Where all loads of a rank come from. */
typedef struct load_source {
    char *dir;
    manifest manifest;
    snapshot_tables tables;
    slice slice;
    load_options options;
    kv_cache *kv;
    chunk_decoder *decoder; /* NULL: the host decodes */
    mailbox *notes;
    atomic_bool is_closing;
    atomic_int n_waiting; /* loads that are not done: what refines others waits for them */
    pthread_mutex_t lock;
    double read_until; /* when what was read so far may be there, by the clock; of the lock */
} load_source;

typedef struct load_piece load_piece;

typedef struct loading {
    struct loading *next; /* of the loader's */
    load_source *from;
    int slot;
    int64_t number; /* of all loads, as rank 0 counts them too */
    int64_t source, n_tokens;
    double begin;                          /* by the clock */
    pthread_rwlock_t writing;              /* to the slot's pages, many at once; alone: of what follows */
    int64_t left_out;                      /* positions below come from elsewhere, */
    int64_t left_out_before;               /* as it was when this began */
    int64_t device_begin;                  /* a device writes rows from there on; INT64_MAX: it does not */
    atomic_bool is_dropped;                /* nobody wants what is not loaded yet */
    chunk_user user;                       /* of the decoder */
    segment **segments;                    /* [those of the manifest]; NULL: not needed */
    load_piece *pieces;                    /* [n_pieces], the last positions first */
    size_t n_pieces, n_done;               /* n_done: all before it are done */
    size_t n_coarse;                       /* of which only the base was loaded: */
    int64_t coarse_end, coarse_tokens;     /* the last of these positions, and how many there are */
    bool is_fetched;                       /* what refines them, as far as it can be had */
    _Atomic int64_t bytes_read;            /* of the files, and */
    _Atomic int64_t bytes_left;            /* of pieces of which nothing was read */
    double told_at, seconds, read_seconds; /* seconds: of all threads; read_seconds: until bytes were there */
    status st;                             /* the first failure, and its text */
    char text[STATUS_TEXT_BYTES];
} loading;

/* By the thread that queues the device's operations. */
loading *loading_new(load_source *from, int slot, int64_t number, int64_t source, int64_t n_tokens);
void loading_free(loading *w);

/* Load all pieces; rank 0 hears on the way how far it is. */
status loading_run(loading *w);

/* What became of each of its n_pieces: [n_pieces]. */
void loading_describe(loading *w, load_record *out);

/* Fetch what refines the coarse pieces, until another load waits. What is damaged stays coarse: the failure
 * tells the first of it. */
status loading_fetch_rest(loading *w);

/* Put what was fetched in its place. What cannot be decoded stays coarse, as above. */
status loading_refine(loading *w);

/* Positions below are computed from now on; waits for what a device writes of them. From any thread. */
void loading_leave(loading *w, int64_t pos);
