/* src/engine/engine_private.h: what engine.c (the run) and engine_open.c (begin and end) share. */
#pragma once

#include "src/engine/engine.h"
#include "src/engine/load_race.h"
#include "src/engine/notes.h"
#include "src/engine/schedule.h"
#include "src/engine/worker.h"

/* A slot that is being loaded, and how far each rank is; and then what refines it, where only bases were. */
typedef struct slot_load {
    session *session; /* NULL: it is not being loaded */
    int64_t number;   /* of this load, counted by all ranks alike */
    int64_t *edges;   /* [ranks] */
    load_race race;
    bool is_over;  /* the slot has another sequence, or none */
    int n_loaded;  /* ranks that are through, and of them */
    int n_coarse;  /* those that loaded bases, and */
    int n_awaited; /* those that have not yet fetched what refines them */
    int64_t coarse_end,
        coarse_tokens; /* the last position of which some rank has a base only, and how many */
    bool is_counted;   /* these are */
    bool has_failed;   /* some stay so */
} slot_load;

/* A step on its way: what to do when its reply comes. */
typedef struct issued_step {
    planned_span *spans;
    int n_spans, n_prompt_rows;
    double begin; /* by the clock */
} issued_step;

/* Where a rank computes, for people: "node07, GPU 0000:17:00.0, bound to 16 processors of NUMA node 1". */
typedef struct rank_place {
    char text[256];
} rank_place;

struct engine {
    worker worker;
    engine_options options;
    model_config config;
    plan plan;
    int max_in_flight;
    int device_index, device_ranks; /* of this rank's device, and how many ranks share it */
    rank_place *places;             /* of all ranks, on rank 0; NULL: no GPUs */
    double load_seconds, clock_begin;

    /* Stage 0 only. */
    schedule *schedule;
    session **sessions; /* by the schedule's sequence number */
    planned_span *planned;
    issued_step *issued; /* a ring of max_in_flight */
    int first_issued, n_issued;
    int32_t *releases; /* slots to name in the next step */
    int n_releases;
    int next_span, next_score; /* of the reply in hand: what was not reported yet */
    int next_choice;
    bool has_reply, reported_any; /* of it */
    session *to_continue;         /* of the event just reported, where it goes on; NULL: none */
    slot_load *loads;             /* by slot */
    int n_loading;                /* slots */
    int64_t n_loads;              /* begun so far, */
    int64_t *load_prompts;        /* [n_loads] for whom, a session's id; */
    int64_t n_loads_told;         /* and of which a rank told the end, counted for each rank */
    int64_t n_unloaded;           /* sessions */
    double seconds_per_row;       /* of the last step of many rows; 0: there was none */
    double last_reply;            /* by the clock */
    engine_loads loaded;          /* so far */
    engine_evictions evicted;     /* so far */
    double waits_since;           /* for a rank to tell of a load, by the clock; 0: one just did */
    load_log log_of_loads;
    char *load_failure;
    session *failed_load;
    bool reported_load_failure;
    note **waiting_notes;
    int n_waiting_notes;
    bool is_paused, stop_wanted, has_stopped;
    uint64_t model_digest[2];
    int prompt_steps_in_flight;
    double phase_begin;
    engine_times times;
};

/* ---- engine_loads.c ---- */

/* All ranks are told to load the first n_tokens of the session into its slot. */
void engine_begin_load(engine *e, int slot, session *s, int64_t n_tokens);

/* A note of the kinds NOTE_LOADING, NOTE_LOADED, NOTE_DROPPED and NOTE_FETCHED. */
void engine_take_load(engine *e, const note *n, int rank);

/* So many rows of the slot's sequence are in a step now: perhaps of one that is being loaded. */
void engine_count_computed(engine *e, int slot, int n_rows);

/* Let the next step have rows of what is being loaded, where loading takes so long that they are ready before
 * it would be there. False: of none. */
bool engine_let_compute(engine *e);

/* Is there a load that is over for its session, but not on every rank? */
bool engine_awaits_loaded(const engine *e);

/* Does the slot have only bases, every rank what refines them, and positions below pos were put into steps:
 * some behind what was cached, so that refining does not hold up the first token? */
bool engine_is_fetched(const engine *e, int slot, int64_t pos);

/* It is refined now, before this position. */
void engine_count_refined(engine *e, int slot, int64_t pos);
