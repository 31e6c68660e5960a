/* src/engine.h: a model over all ranks, and the sequences that run through it.
 *
 * Rank 0 submits requests and takes events, one at a time, until there are none; the other ranks serve until
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

#include "mpi/comm.h"
#include "src/base/trace.h"
#include "src/model_config.h"
#include "src/plan.h"
#include "src/stage.h"
#include "src/step.h"

typedef struct engine engine;

typedef struct engine_options {
    const char *model_dir;
    precision precision;
    int n_threads;
    int chunk_tokens, page_tokens;
    int n_sequences;             /* at once */
    int64_t longest_tokens;      /* of any sequence, prompt and generated */
    int64_t wanted_pages;        /* for all that would run at once if there were room */
    uint64_t kv_bytes_per_rank;  /* 0: as wanted, as far as the memory goes */
    uint64_t bytes_per_rank;     /* 0: 90% of this host's available memory, shared by its ranks */
    double head_share;           /* see plan.h */
    const char *layers_per_rank; /* NULL: the best partition */
    double deadline_seconds;     /* of any wait for another rank */
    bool quiet;                  /* no line that says what is loaded */
} engine_options;

/* Load the model, each rank its slice. `config` and `options` count on rank 0 only. Nothing runs
 * yet, so that every failure is a refusal: of what plan_make and weights_open refuse, and of memory that the
 * system does not grant, with the rank and the bytes. Collective. */
status engine_open(comm *c, const model_config *config, const engine_options *options, engine **out);
void engine_close(engine *e); /* Collective. NULL is fine */

typedef struct request {
    int64_t id;            /* the caller's: in the events of this request */
    int64_t sequence_id;   /* keys the sampler with options.seed */
    const int32_t *tokens; /* the prompt, n_tokens > 0; copied */
    int64_t n_tokens;
    int64_t max_tokens; /* to generate, >= 0; 0: the prompt is only read */
    sampling_options sampling;
    int64_t score_from; /* >= 0: score the prompt's tokens from this index (at least 1) on; -1: none */
} request;

typedef enum event_kind {
    EVENT_TOKEN,  /* a token was chosen */
    EVENT_SCORES, /* -log p of some of the prompt's tokens, in order */
    EVENT_READ,   /* the whole prompt was read, and nothing is to be generated */
} event_kind;

typedef struct event {
    event_kind kind;
    int64_t id;            /* the request's */
    int64_t handle;        /* for engine_finish */
    bool is_last;          /* the request is over */
    sampler_choice choice; /* EVENT_TOKEN */
    int64_t n_scores;      /* EVENT_SCORES */
    const float *scores;   /* owned by the engine, until the next call */
} event;

/* Queue a request whose prompt and max_tokens together are at most longest_tokens. Rank 0. Local. */
void engine_submit(engine *e, const request *r);

/* The next event; false when nothing is left. Runs stage 0 meanwhile. Rank 0, while the others serve. */
bool engine_next(engine *e, event *out);

/* The request of an EVENT_TOKEN that was just returned is over before its max_tokens. Rank 0. Local. */
void engine_finish(engine *e, int64_t handle);

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
    slice slice;
} rank_report;

/* Start the clocks of trace and times from zero. Local, on every rank. */
void engine_reset_clocks(engine *e);

/* Times so far. Rank 0. Local. */
engine_times engine_get_times(const engine *e);

/* Rank 0's all[n_ranks] (NULL elsewhere) is filled. Collective. */
void engine_gather_reports(engine *e, rank_report *all);

/* The clock regions of this rank, to enter REGION_TEXT from outside. */
trace *engine_trace(engine *e);

const plan *engine_plan(const engine *e);
const model_config *engine_config(const engine *e);
device *engine_device(const engine *e);
int engine_threads(const engine *e);
