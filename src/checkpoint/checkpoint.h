/* src/checkpoint/checkpoint.h: rank 0's hand on the snapshot that a run writes to: which positions are new,
 * what the manifest says, and whether it worked.
 *
 * A save begins between two steps: every rank writes the rows that are new as a segment (src/engine/saver.h)
 * beside the run, and when all have told that theirs is on the disk, a thread writes the manifest. A save
 * that fails is a warning: its files go away, what was committed stays, and the next save takes its rows too.
 * All functions are Local, on rank 0. */
#pragma once

#include <stdbool.h>

#include "io/snapshot/manifest.h"
#include "src/engine/engine.h"

typedef struct checkpoint checkpoint;

/* What becomes of a session's sequence in the snapshot. */
typedef enum checkpoint_fate {
    FATE_LIVE, /* waiting or running: described anew with every save */
    FATE_KEPT, /* over, and worth keeping */
    FATE_GONE, /* over, and of no use to anybody */
} checkpoint_fate;

/* The run, as a snapshot sees it. */
typedef struct checkpoint_run {
    void *context;
    checkpoint_fate (*fate)(void *context, int64_t id);
    /* Everything of the sequence but extents and logits; tokens: those whose rows were put into steps, and
     * any that follow. */
    void (*describe)(void *context, int64_t id, manifest_sequence *out);
    void (*describe_batch)(void *context, manifest_batch *out);
    status (*flush_results)(void *context); /* by another thread */
} checkpoint_run;

/* The file of tables that the codec of a run's segments needs; without bytes: it is exact. Borrowed. */
typedef struct checkpoint_tables {
    const void *bytes;
    size_t n_bytes;
    uint64_t digest;
} checkpoint_tables;

/* Take the lock of dir, which is made where it is missing. Refuses a locked directory, one that cannot be
 * written, and to run again where several runs in a row came to nothing. */
status checkpoint_open(const char *dir, const checkpoint_run *run, checkpoint **out);

/* Before anything else: the run's sessions have ids from 0 to n_sessions - 1, `common` is what all manifests
 * of this run say (its sequences and segments are not looked at), and `committed` the manifest of dir
 * (zeroed: there is none). Both are emptied. What dir holds besides is removed. */
void checkpoint_start(checkpoint *c, int64_t n_sessions, manifest *common, const checkpoint_tables *tables,
                      manifest *committed);

/* This run ends before it came to anything: it counts as one that was ended by force, however well it ends
 * (checkpoint_open). */
void checkpoint_was_vain(checkpoint *c);

/* A save that is not over is lost. NULL is fine. */
void checkpoint_close(checkpoint *c);

/* The session continues sequence `source` of the committed manifest, which it replaces, or only begins with
 * its first n_tokens. */
void checkpoint_continue(checkpoint *c, int64_t id, int64_t source);
void checkpoint_begin_with(checkpoint *c, int64_t id, int64_t source, int64_t n_tokens);

/* Begin a save; there must be none on its way. is_last: nothing else runs, so all threads write. */
void checkpoint_begin(checkpoint *c, engine *e, bool is_last);

bool checkpoint_is_busy(const checkpoint *c);

/* Does the save on its way, if there is one, take positions of this session? */
bool checkpoint_reads(const checkpoint *c, int64_t id);

/* The run did so many tokens, read or generated, in so many seconds: for the figures. */
void checkpoint_count_tokens(checkpoint *c, int64_t n_tokens, double seconds);

/* Look after the save on its way; true when it just ended, well or not. */
bool checkpoint_poll(checkpoint *c, engine *e);

/* Is the sequence of this session committed as it stands, as far as it has positions in the cache? */
bool checkpoint_has(const checkpoint *c, int64_t id, int64_t n_tokens);

typedef struct checkpoint_stats {
    int n_saves, n_failed;
    int64_t n_tokens;                     /* positions saved */
    int64_t file_bytes;                   /* of their segments */
    double raw_bytes;                     /* of their K and V */
    double seconds;                       /* from begin to commit, all together */
    double work_seconds;                  /* of them: without the rests that a save beside a run takes */
    double last_work_seconds;             /* of the last one that worked; 0: none yet */
    double begun_at;                      /* the last one, by the clock; or when the checkpoint was opened */
    double busy_since;                    /* 0: not busy */
    double beside_seconds, alone_seconds; /* of the run, with a save beside it, and without */
    int64_t beside_tokens, alone_tokens;  /* done meanwhile */
    char failure[STATUS_TEXT_BYTES];      /* of the last save; "": it worked */
} checkpoint_stats;

checkpoint_stats checkpoint_get_stats(const checkpoint *c);

/* What is committed; save_number 0: nothing yet. */
const manifest *checkpoint_committed(const checkpoint *c);
