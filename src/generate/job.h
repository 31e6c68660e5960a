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
    char *error;       /* NULL, or why it does not run */
    session session;   /* its max_tokens: sampling.max_tokens, as far as the context goes */
    text_buffer echo;  /* the prompt's text, when it is to be printed */
    bool tells_prompt; /* the result has the prompt's ids */
    int n_stops;
    char *stops[PROMPT_MAX_STOPS];
    token_list stop_tokens; /* end it as a stop text does */

    int64_t line;            /* of the batch, from 0; -1: a single prompt */
    bool is_kept;            /* its K and V are worth keeping when it is over */
    bool was_written;        /* its result is out, perhaps by an earlier run */
    text_buffer prompt_text; /* for snapshots; empty: not made yet */

    char *inexact;   /* of what it goes on from (io/snapshot/manifest.h); NULL: nothing is */
    int64_t n_exact; /* positions before that */
    char *pages;     /* the same of its pages */

    text_stream stream;
    text_buffer text; /* generated so far */
    size_t n_printed; /* bytes of it that were printed */
    result_logprob *logprobs;
    bool is_over;
    finish_reason finish;
} job;

/* All that was wanted of the job's session is done. */
void job_take_end(job *j);

/* A token was chosen for the job's session, which has it, unless it is none; true when the job is over with
 * it: an end token, a stop token, a stop text (which is cut off), or because is_last says so. */
bool job_take_token(job *j, tokenizer *tok, const model_config *config, const sampler_choice *choice,
                    bool is_last);

/* Print what can no longer be cut off by a stop text; all of it when the job is over. */
void job_print_text(job *j, FILE *to);

/* Write the job's line of results. */
status job_write_result(const job *j, results *out);

/* Release all but what says that the job is over. */
void job_empty(job *j);

void job_free(job *j);
