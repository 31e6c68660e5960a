/* src/engine/stage.h: what one rank does with one step: its slice of the model over the step's rows, and, on
 * the last stage, the next tokens and the scores. All functions are Local. */
#pragma once

#include "src/engine/probe.h"
#include "src/engine/step.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"

typedef struct stage stage;

/* What a stage did so far, for the table of the run's end. */
typedef struct stage_stats {
    int64_t n_steps, n_rows;
    double weight_bytes; /* weights read: once a step */
    double kv_bytes;     /* K and V read: once a span and query row tile, counted once a span */
    double flops;        /* of matrices and attention */
} stage_stats;

/* Borrows everything but the policy. Steps have at most n_slots sequences and max_rows rows. */
stage *stage_open(const model_config *config, slice s, model *m, kv_cache *kv, const evict_policy *evict,
                  uint64_t weight_bytes, int n_slots, int max_rows, trace *t);
void stage_close(stage *s); /* NULL is fine */

/* The slots that this step names are free. Before anything else of the step. */
void stage_release(stage *s, const step *todo);

/* x[T, D]: this step's rows as the stage before left them; the result stands in x. The reply is written on
 * the last stage and left alone elsewhere. A failure is the device's. */
status stage_run(stage *s, const step *todo, float *x, step_reply *reply);

/* Behind the step, which others may work on meanwhile: evict what is due of its sequences. */
void stage_evict(stage *s, const step *todo);

/* The sequence of `start` takes its slot, and its first n_tokens tokens are in the cache already. */
void stage_start_cached(stage *s, const step_start *start, const int32_t *tokens, int64_t n_tokens);

/* From now on keep the logits of each slot's last position for which any were computed. Last stage. */
status stage_keep_logits(stage *s);

/* Whether those of a slot are the logits of position `pos`. Until the next step. */
bool stage_has_logits(const stage *s, int slot, int64_t pos);

/* They [V], to host memory. A failure is the device's. */
status stage_read_logits(const stage *s, int slot, float *host_logits);

/* Pages of the slot that this rank has lost since it was asked last (src/model/kv_tier.h): why, into
 * text[STATUS_TEXT_BYTES]; false: none. */
bool stage_has_lost(stage *s, int slot, char *text);

/* The sampler's number of the sequence in a slot. */
int64_t stage_sequence_id(const stage *s, int slot);

/* From now on its on_scored is called for rows with a target. Borrowed. */
void stage_use_probe(stage *s, const probe *p);

/* How long the last step took: its layers, with the embedding, and its n_head_rows rows of the head. */
typedef struct stage_seconds {
    double layers, head;
    int n_head_rows;
} stage_seconds;

/* From now on *out is set by each step, which waits for the device once more for it. */
void stage_time_steps(stage *s, stage_seconds *out);

stage_stats stage_get_stats(const stage *s);
