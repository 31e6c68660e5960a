/* src/engine/step.h: the message that tells every stage what a step is, and the reply of the last stage.
 *
 * Both are flat bytes between ranks of one program; they are written by stage 0 and read by all others, and
 * the other way round. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/sampling.h"
#include "src/model/sampler.h"

typedef enum step_kind {
    STEP_ROWS,   /* releases first, then starts, then rows through the layers */
    STEP_LOAD,   /* starts, whose first positions come from the snapshot */
    STEP_REFINE, /* extents whose base alone was loaded get what refines it */
    STEP_SAVE,   /* positions to be written to the snapshot */
    STEP_HURRY,  /* what is being saved is waited for now */
    STEP_STOP,
} step_kind;

typedef enum span_want {
    WANT_NOTHING, /* more rows of the prompt follow, or nobody asks */
    WANT_TOKEN,   /* sample the token behind the last row */
    WANT_SCORES,  /* -log p(target) of the rows that have a target */
    WANT_LOGITS,  /* those of the last row are kept for a save; nothing is told */
} span_want;

/* A sequence takes a slot. */
typedef struct step_start {
    int32_t slot;
    int64_t sequence_id; /* of the sampler */
    sampling_options sampling;
    int64_t evict_at; /* tokens are evicted when so many are in the cache; 0: none are */
} step_start;

typedef struct step_span {
    int32_t slot, n_rows;
    span_want want;
    int64_t pos0;
    bool is_generated; /* all of its tokens; such spans come first */
    bool is_probed;    /* behind its last row the probe is called */
} step_span;

/* Positions [pos0, pos0 + n_tokens) of the sequence in a slot. STEP_SAVE: they become the snapshot's next
 * rows, in the order of the step. STEP_LOAD: they come from the manifest's sequence number `source`. */
typedef struct step_extent {
    int32_t slot;
    int64_t pos0, n_tokens;
    int64_t source;
} step_extent;

/* What STEP_SAVE says besides. */
typedef struct step_save {
    int64_t number;  /* of the save; from 1 */
    int64_t row0;    /* of the first extent */
    int32_t is_last; /* nothing else runs any more: write with all threads */
} step_save;

typedef struct step {
    step_kind kind;
    int n_releases, n_starts, n_spans, n_rows, n_extents;
    step_save save;
    int32_t *releases;
    step_start *starts;
    step_span *spans;
    step_extent *extents;
    int32_t *tokens;  /* [n_rows] */
    int32_t *targets; /* [n_rows] the token that follows, -1: not scored */
} step;

enum { NO_TARGET = -1 };

/* An empty step with room for what the limits allow; step_free releases it. */
step step_new(int n_slots, int max_rows);
void step_free(step *s);
void step_clear(step *s);

/* The most bytes that step_write produces; its result is how many it did. */
size_t step_max_bytes(int n_slots, int max_rows);
size_t step_write(const step *s, void *out);

/* Read a step that step_write wrote into one made with the same limits. */
void step_read(const void *bytes, size_t n_bytes, step *out);

/* The reply: one choice per WANT_TOKEN span and one score per row with a target, in the order of the step. */
typedef struct step_reply {
    int32_t n_choices, n_scores;
    sampler_choice *choices;
    float *scores;
} step_reply;

step_reply step_reply_new(int n_slots, int max_rows);
void step_reply_free(step_reply *r);
size_t step_reply_max_bytes(int n_slots, int max_rows);
size_t step_reply_write(const step_reply *r, void *out);
void step_reply_read(const void *bytes, step_reply *out);
