/* src/engine/schedule.h: which rows go through the pipeline next.
 *
 * Stage 0 decides, step by step: a step takes decode rows first, a stage's share of the sequences that
 * decode, so that with at least as many sequences as stages none idles; the rest of its row budget goes to
 * prompts, first come first served, and several short ones may share a step. A waiting sequence enters as
 * soon as a slot is free and the pages for all that it may ever hold are there, so that nothing runs out
 * later. What eviction frees others may have from the next step on. Where some of these are not in memory, it
 * enters when memory has room for its prompt; and if those that run outgrow memory, the last ones pause until
 * there is room for them again. Results do not depend on any of this. Pure. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "src/timing/chunk_list.h"

typedef struct schedule schedule;

typedef struct schedule_limits {
    int n_stages;
    int n_slots;      /* sequences in the cache */
    int chunk_tokens; /* rows of a step */
    int page_tokens;
    int64_t n_pages;        /* of the smallest rank */
    int64_t n_memory_pages; /* of them in memory; 0: all */
} schedule_limits;

/* Rows [pos0, pos0 + n_rows) of a sequence. */
typedef struct planned_span {
    int64_t sequence;
    int slot;
    int64_t pos0;
    int n_rows;
    bool starts;       /* the first rows of the sequence: its slot is new */
    bool ends_prompt;  /* the last row of the prompt, or a decode row, is among them */
    bool is_generated; /* rows of generated tokens: decode rows, and those computed again after a resume */
} planned_span;

/* A sequence with a slot, and its positions [0, n_tokens). */
typedef struct slot_tokens {
    int64_t sequence;
    int slot;
    int64_t n_tokens;
} slot_tokens;

schedule *schedule_open(const schedule_limits *limits);
void schedule_close(schedule *s); /* NULL is fine */

/* Cut prompts at these positions, instead of into chunks of chunk_tokens, which none of them exceeds. A chunk
 * counts as a whole step however few its rows are, and in a step with other rows takes its part of the rest.
 * Copies the list; before the first step. */
void schedule_use_chunks(schedule *s, const chunk_list *chunks);

/* So many slots are for sequences that are held: the others are all that run at once. Before the first step.
 */
void schedule_keep_for_held(schedule *s, int n_slots);

/* The most rows of a prompt that a step takes from this position on. */
int64_t schedule_chunk_rows(const schedule *s, int64_t pos);

/* Would a sequence that has so many places at once ever fit? */
bool schedule_fits(const schedule *s, int64_t n_places);

/* Tokens of a sequence. */
typedef struct schedule_request {
    int64_t n_prompt;    /* known before it runs */
    int64_t n_generated; /* of them the last ones, which an earlier run generated: less than all */
    int64_t n_all;       /* whose K and V it may ever hold */
    int64_t n_cached;    /* of the prompt the first ones, less than all, that are loaded from a snapshot */
    int64_t cut_at;      /* no span has rows on both sides of this position; 0: nobody asks */
    int64_t evict_at;    /* the same; when its positions before are in the cache, */
    int64_t n_left;      /* only so many places of them stay; evict_at 0: all do. */
    int64_t n_behind;    /* From there on it has at most so many places, */
    int64_t evict_every; /* as some go again behind so many positions; 0: never */
} schedule_request;

/* Put a sequence at the end of the queue. Its number. */
int64_t schedule_add(schedule *s, const schedule_request *request);

/* A sequence that just entered and is to be loaded, told once; before schedule_loaded it has no rows in a
 * step, but for those that schedule_let_compute names. False when there is none. */
bool schedule_next_load(schedule *s, slot_tokens *out);
void schedule_loaded(schedule *s, int64_t sequence);

/* While it is loaded, so many of its first rows that no step had yet may be in the next step; not more than
 * are loaded. Behind schedule_loaded it goes on behind all of those. */
void schedule_let_compute(schedule *s, int64_t sequence, int n_rows);

/* The spans of the next step, generated ones first, at most n_slots and chunk_tokens rows in all; 0 when
 * nothing is ready. */
int schedule_next(schedule *s, planned_span *spans);

/* The sequence, all of whose rows came back, goes on with one more row. */
void schedule_continue(schedule *s, int64_t sequence);

/* The sequence, all of whose rows came back, gets no more; its slot and pages stay its own until
 * schedule_finish. */
void schedule_hold(schedule *s, int64_t sequence);

/* The sequence is over, whatever its state, with no rows on their way. Returns its slot, -1 if it had none.
 */
int schedule_finish(schedule *s, int64_t sequence);

/* Sequences that are not over. */
int64_t schedule_n_left(const schedule *s);

/* Is a sequence waiting for a slot or for pages? */
bool schedule_has_waiting(const schedule *s);

/* The i-th sequence that has a slot, in the order in which they entered, with the positions that were put
 * into steps or loaded; false when there are no more. */
bool schedule_running(const schedule *s, int i, slot_tokens *out);
