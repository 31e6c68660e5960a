/* src/generate/job.h: one prompt of `kvarve generate` and what becomes of it: its text, its end, its line of
 * results. Rank 0. Local. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "io/jsonl/prompts.h"
#include "io/jsonl/results.h"
#include "src/engine/engine.h"
#include "src/tokenizer/tokenizer.h"

typedef struct job {
    char *id;
    bool id_is_json;
    char *error; /* NULL, or why it does not run */
    token_list prompt;
    text_buffer echo;  /* the prompt's text, when it is to be printed */
    bool tells_prompt; /* the result has the prompt's ids */
    sampling_options sampling;
    int64_t max_tokens; /* sampling.max_tokens, as far as the context goes */
    int n_stops;
    char *stops[PROMPT_MAX_STOPS];
    token_list stop_tokens; /* end it as a stop text does */

    int64_t line;            /* of the batch, from 0; -1: a single prompt */
    int64_t sequence_id;     /* of its draws */
    bool is_kept;            /* its K and V are worth keeping when it is over */
    bool was_written;        /* its result is out, perhaps by an earlier run */
    int64_t n_cached;        /* its first tokens, prompt and generated, that a snapshot holds */
    int64_t handle;          /* of the engine */
    text_buffer prompt_text; /* for snapshots; empty: not made yet */

    token_list generated;
    text_stream stream;
    text_buffer text; /* generated so far */
    size_t n_told;    /* bytes of it that were printed */
    result_logprob *logprobs;
    bool is_over;
    finish_reason finish;
} job;

/* A token was chosen for the job; true when the job is over with it: an end token, a stop token, a stop text
 * (which is cut off), or because is_last says so. */
bool job_take_token(job *j, tokenizer *tok, const model_config *config, const sampler_choice *choice,
                    bool is_last);

/* All tokens so far: prompt, then generated; released with free(). */
int32_t *job_tokens(const job *j, int64_t *n_tokens);

/* Print what can no longer be cut off by a stop text; all of it when the job is over. */
void job_print_text(job *j, FILE *to);

/* Write the job's line of results. */
status job_write_result(const job *j, results *out);

/* Release all but what says that the job is over. */
void job_empty(job *j);

void job_free(job *j);
