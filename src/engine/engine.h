/* src/engine/engine.h: a model over all ranks, and the sequences that run through it.
 *
 * Rank 0 submits sessions and takes events, one at a time, until there are none; the other ranks serve until
 * rank 0 stops them:
 *
 *     engine_open(...)                                  all ranks
 *     rank 0:  engine_submit(...) ...                   others:  engine_serve(e)
 *              while (engine_next(e, &ev)) ...
 *              engine_stop(e)
 *     engine_report(...), engine_close(e)               all ranks
 *
 * An error in a running engine (a lost rank, a device failure) ends all ranks. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/snapshot/segment.h"
#include "io/synthetic/synthetic.h"
#include "mpi/comm.h"
#include "mpi/transport/transport.h"
#include "src/base/trace.h"
#include "src/engine/loader.h"
#include "src/engine/notes.h"
#include "src/engine/probe.h"
#include "src/engine/session.h"
#include "src/engine/stage.h"
#include "src/engine/step.h"
#include "src/engine/step_log.h"
#include "src/model/model_config.h"
#include "src/model/plan.h"
#include "src/timing/chunk_list.h"

typedef struct engine engine;

typedef struct engine_options {
    const char *model_dir;
    synthetic_model made; /* instead of what model_dir holds, where it has a name */
    device_kind device;
    int n_threads;
    sizing sizing;            /* without a bound: this rank's share of what its host or GPU has free */
    const chunk_list *chunks; /* where prompts are cut, of at most chunk_tokens each; NULL: by chunk_tokens */
    bool times_steps;         /* keep a log of them, for engine_gather_steps */
    transport_kind transport; /* of activations between ranks */
    bool wants_digest;        /* engine_model_digest, without a snapshot too */
    bool quiet;               /* no line that says what is loaded */
    const char *save_dir;     /* the snapshot that is written to; NULL: none, and sizing.saves is not set */
    kv_coding coding;         /* of what is written */
    const kv_tables *tables;  /* on every rank; NULL: the codec is exact */
    const char *load_dir;     /* the snapshot that sessions refer to; NULL: none */
    bool races_loads;         /* what is cached may be computed where that is faster: */
    double usual_seconds_per_row; /* as it was when the snapshot was made; 0: not known */
    double most_distortion;       /* of what is loaded; 0: no limit */
    loads_base loads_base;
    double deadline_seconds; /* of LOADS_BASE_IF_LATE */
    bool keeps_load_log;     /* engine_log_of_loads */
    double io_bandwidth;     /* bytes a second that a rank reads of a snapshot at most; 0: no limit */
    const char *manifest;    /* the n_manifest bytes of its manifest */
    size_t n_manifest;
} engine_options;

/* Load the model, each rank its slice. `config` and `options` count on rank 0 only, but for the
 * tables. Nothing runs yet, so that every failure is a refusal: of what plan_make, weights_open and
 * loader_open refuse, and of memory that the system does not grant, with the rank and the bytes. Collective.
 */
status engine_open(comm *c, const model_config *config, const engine_options *options, engine **out);
void engine_close(engine *e); /* Collective. NULL is fine */

typedef enum event_kind {
    EVENT_TOKEN,       /* a token was chosen, and appended; or none, as no logit is finite: it is over */
    EVENT_SCORES,      /* -log p of some of the prompt's tokens, in order */
    EVENT_READ,        /* the whole prompt was read, and nothing is to be generated */
    EVENT_STEP,        /* a step of prompts came back, and there is nothing to report of any session */
    EVENT_LOADING,     /* nothing but time went by: what is cached is waited for */
    EVENT_LOAD_FAILED, /* what is cached could not be loaded: status_text() says why. The session stands still
                        */
} event_kind;

typedef struct event {
    event_kind kind;
    session *session;      /* NULL: EVENT_STEP, EVENT_LOADING */
    bool is_last;          /* the session is over */
    sampler_choice choice; /* EVENT_TOKEN */
    int64_t n_scores;      /* EVENT_SCORES */
    const float *scores;   /* owned by the engine, until the next call */
} event;

/* Have it called on this rank from now on; before any session is submitted. Copied. Local. */
void engine_use_probe(engine *e, const probe *p);

/* Queue a session that may have at most longest_tokens. Borrowed until it is over, where it is held until
 * engine_release. Rank 0. Local. */
void engine_submit(engine *e, session *s);

/* The next event; false when nothing is left. Runs stage 0 meanwhile. Rank 0, while the others serve. */
bool engine_next(engine *e, event *out);

/* The session of an EVENT_TOKEN that was just returned is over before its max_tokens. Rank 0. Local. */
void engine_finish(engine *e, session *s);

/* Was the last event the last one of its step? Rank 0. Local. */
bool engine_is_between_steps(const engine *e);

/* No more steps are made, and no loads waited for: engine_next tells what is on its way, then returns false.
 * Rank 0. Local. */
void engine_pause(engine *e);

/* Did a signal ask any rank to end the run? Rank 0. Local. */
bool engine_stop_wanted(engine *e);

/* ---- saving, on rank 0: src/checkpoint/checkpoint.h does it ---- */

/* A session whose K and V are in the cache, on every rank, once all steps so far are through. */
typedef struct engine_cached {
    session *session;
    int slot;
    int64_t n_tokens; /* positions [0, n_tokens) */
} engine_cached;

/* The i-th of them; false when there are no more. Local. */
bool engine_cached_at(const engine *e, int i, engine_cached *out);

/* Every rank writes these positions as a segment; each tells the end of it by a NOTE_SEGMENT. Sequences that
 * are in the list must not be released before all did. */
void engine_begin_save(engine *e, const step_save *save, const step_extent *extents, int n_extents);

/* The save on its way need not spare the run any more: it is waited for. Local. */
void engine_hurry_save(engine *e);

/* A moment of rank 0, which waits since `begin` (clock_seconds) for `what` the ranks load or save. Local;
 * ends all ranks when that is overdue (comm_watch). */
void engine_wait(engine *e, double begin, const char *what);

/* The next NOTE_SEGMENT or NOTE_LOGITS, released with free(); NULL when none has come. Local. */
note *engine_take_note(engine *e);

/* The K and V of a held session that is over may go. Local. */
void engine_release(engine *e, session *s);

/* Is a session waiting for a slot, or for pages? Local. */
bool engine_has_waiting(const engine *e);

/* What became of cached positions: loaded by some rank at least, or only computed; and in how many seconds,
 * and by what was seen of both, in how many at best, all or none loaded, or some. Of how many sequences the
 * base was loaded first, of how many positions, and of how many sequences what refines it was put in its
 * place, and before which positions of theirs: from the first to the last. Rank 0. Local. */
typedef struct engine_loads {
    int64_t n_loads, n_loaded, n_computed;
    double seconds, best_seconds;
    int64_t n_coarse, n_from_base, n_refined, first_refined, last_refined;
    int64_t n_unrefined;  /* sequences of which some stays coarse, as what refines it is damaged */
    int64_t n_recomputed; /* rows so far of cached positions, of loads that are not over too */
} engine_loads;

engine_loads engine_get_loads(const engine *e);

/* Where options.keeps_load_log: the loads that ended, and, after engine_stop, those that it gave up. Rank 0.
 * Local. */
const load_log *engine_log_of_loads(const engine *e);

/* Sessions with cached tokens that are not loaded yet. Local. */
int64_t engine_n_unloaded(const engine *e);

/* Sequences in the cache at most, those that are over too. Local. */
int engine_n_slots(const engine *e);

/* What --evict has left of prompts so far: places of them, before and after, in a layer without a window (the
 * mean over these), and bytes in all layers without one. Rank 0. Local. */
typedef struct engine_evictions {
    int64_t n_sequences, n_places;
    double n_kept, bytes, kept_bytes;
    int64_t n_again; /* times that it was at work behind them */
} engine_evictions;

engine_evictions engine_get_evictions(const engine *e);

/* Run this rank's stage until rank 0 stops the engine. Ranks > 0. */
void engine_serve(engine *e);

/* Let the others leave engine_serve. Rank 0, with nothing left. */
void engine_stop(engine *e);

/* How the run went, for the table and the report. */
typedef struct engine_times {
    double seconds;             /* since the clocks were started */
    double prefill_seconds;     /* while prompt rows were on their way */
    double decode_seconds;      /* while only decode rows were */
    int64_t prompt_tokens;      /* read */
    int64_t decode_tokens;      /* came within decode_seconds */
    int64_t mixed_tokens;       /* came within prefill_seconds */
    double first_token_seconds; /* the first of all; 0 before */
} engine_times;

/* What a rank tells of itself. */
typedef struct rank_report {
    trace trace;
    double seconds;
    stage_stats stage;
    uint64_t weight_bytes, kv_bytes, total_bytes, file_bytes;
    double load_seconds;
    double bytes_sent;
    kv_figures kv;        /* of KV pages that memory has no room for */
    bool has_kv_host;     /* some are in host memory, or go through it */
    char kv_file_by[128]; /* what moved those on the disk, for people; "": none are there */
    slice slice;
} rank_report;

/* Start the clocks of trace and times from zero. Local, on every rank. */
void engine_reset_clocks(engine *e);

/* Times so far. Rank 0. Local. */
engine_times engine_get_times(const engine *e);

/* Rank 0's all[n_ranks] (NULL elsewhere) is filled. Collective. */
void engine_gather_reports(engine *e, rank_report *all);

/* Where options.times_steps: what every rank's steps took since the clocks were started, on rank 0; to be
 * released with free(steps). Collective. */
step_log engine_gather_steps(engine *e);

/* The most rows of a prompt that a step takes from this position on. Rank 0. Local. */
int64_t engine_chunk_rows(const engine *e, int64_t pos);

/* The clock regions of this rank, to enter REGION_TEXT from outside. */
trace *engine_trace(engine *e);

/* XXH3, 128 bits (high, low), of the config and all weights; rank 0, where a snapshot or
 * wants_digest asked for it. */
const uint64_t *engine_model_digest(const engine *e);

const plan *engine_plan(const engine *e);
const plan_bound *engine_bound(const engine *e); /* of each rank */
const model_config *engine_config(const engine *e);
device *engine_device(const engine *e);
const char *engine_processor(const engine *e); /* what computes */

/* Host, GPU and processors of a rank, for people; NULL where the CPU computes. Rank 0. */
const char *engine_rank_place(const engine *e, int rank);

int engine_threads(const engine *e);
const char *engine_transport(const engine *e); /* for people; NULL with one rank */
