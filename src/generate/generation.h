/* src/generate/generation.h: what the files of `kvarve generate` share on rank 0: the prompts (prompts.c),
 * what a snapshot knows of them (resume.c), what goes into one (save.c) and how it is coded
 * (recode.c), and the run (generate.c). */
#pragma once

#include "io/snapshot/manifest.h"
#include "src/checkpoint/checkpoint.h"
#include "src/command/chosen_coding.h"
#include "src/command/options.h"
#include "src/command/report.h"
#include "src/command/sizing.h"
#include "src/engine/stop.h"
#include "src/generate/job.h"

/* What of a snapshot a job uses. */
typedef struct past_match {
    int64_t source;   /* sequence of its manifest; -1: none */
    int64_t n_tokens; /* that have K and V there and that the job begins with */
    bool replaces;    /* the job goes on from all of it, and takes its place in the next save */
} past_match;

typedef struct generation {
    const options *options;
    model_config config;
    tokenizer *tok;
    uint64_t tokenizer_digest[2];
    results *out;     /* NULL: a single prompt, whose text goes to ... */
    FILE *text;       /* ... stdout or --text */
    bool text_is_new; /* there was no such file */
    job *jobs;
    int64_t n_jobs, n_failed;
    char first_failure[STATUS_TEXT_BYTES];
    sizing sizing; /* of the n_runnable jobs that are not over */
    int64_t context, max_new_tokens, n_runnable;
    run_summary summary;
    double begin;
    int64_t decode_done;
    bool has_begun_text; /* of a single prompt */

    /* --resume */
    char *past_bytes; /* of the manifest; NULL: there is none */
    size_t n_past_bytes;
    manifest past;
    bool continues_batch;  /* the same prompts as those that the snapshot was made for */
    past_match *matches;   /* [n_jobs] */
    int64_t reused_tokens; /* of all prompts */
    int64_t asked_tokens;  /* that could be reused, too, but --evict asks for their queries */
    int64_t known_tokens;

    /* --save */
    checkpoint *save;     /* NULL: nothing is saved */
    chosen_coding chosen; /* of what is saved while it runs; on every rank */
    bool save_goes_on;    /* it is the snapshot of --resume, and holds something */
    uint64_t batch_digest[2];
    session **to_release; /* whose pages a save still reads */
    int n_to_release;
    int64_t n_given_up;      /* contexts that were to be kept */
    int64_t saved_at_tokens; /* tokens done when the last save began */
    stop_limits limits;
    const char *stop_reason; /* NULL: the run goes, or went, to its end */
    bool began_late;         /* there was a reason to stop before the first event */
    double longest_step_seconds, last_event;
    int64_t done_at_last_event;
} generation;

/* ---- prompts.c ---- */

/* The jobs from the command line or the file of prompts. Refuses what no job can come from; a line of a file
 * that is refused becomes a job with an error. Local. */
status generate_read_prompts(generation *g);

/* A new job, empty. */
job *generate_add_job(generation *g);

/* Options that were given on the command line replace those of s. Local. */
sampling_options generate_override_sampling(const options *o, sampling_options s);

/* A line that was refused, if it was. Local. */
void generate_count_failure(generation *g, const job *j);

/* Does the job's prompt fit the model and the context? How many tokens may follow? Local. */
status generate_check_job(generation *g, job *j);

/* Add up what the jobs that are not over take. Local. */
void generate_add_up(generation *g);

/* ---- resume.c ---- */

/* Read the manifest of --resume, if there is one, and refuse one of another model or tokenizer as far as that
 * can be said without the weights. Local. */
status generate_read_past(generation *g);

/* A job for what the snapshot holds, when there is no prompt. Local. */
status generate_take_past_prompt(generation *g);

/* What the past knows of the jobs: those that are done, those that go on, those that begin alike. Local. */
void generate_match_past(generation *g);

/* Weights other than those of the snapshot are refused: rank 0, after the model was loaded. Local. */
status generate_check_weights(const generation *g, const engine *e);

/* What codecs that are not exact keep in a rank's host memory, beside the model, is part of what it takes.
 * Rank 0. Local. */
void generate_count_coded(const generation *g, engine_options *wanted);

/* ---- save.c ---- */

/* What a snapshot calls the pages of this run. */
const char *generate_pages(const options *o);

/* Take the lock of --save; before its manifest is read. Local. */
status generate_open_save(generation *g);

/* The model is loaded: the first save may begin. Local. */
void generate_start_save(generation *g, engine *e, const char *effective_options);

/* Between two steps: begin saves that are due, and look after the one on its way. Local. */
void generate_poll_saves(generation *g, engine *e);

/* The job is over: its pages go when no save needs them any more. Local. */
void generate_release(generation *g, engine *e, job *j);

/* Nothing moves: is it because pages must be saved first? Then see to it; false: there is nothing left.
 * Local. */
bool generate_make_room(generation *g, engine *e);

/* Why the run must end before it is done, or NULL. Local. */
const char *generate_stop_reason(generation *g, engine *e);

/* After the last event: save what is not saved. Fails when that did not work. Local. */
status generate_last_save(generation *g, engine *e);

/* ---- recode.c ---- */

/* --codec with its tables: those of --tables, or else of the snapshot of --resume. Where there are none, what
 * is saved is lossless until the end. After generate_read_past. Local. */
status generate_choose_coding(generation *g);

/* Is it so? On every rank. Local. */
bool generate_recodes(const generation *g);

/* Say so, before the run. Local. */
void generate_announce_recode(const generation *g);

/* What is saved stays lossless where it should not: a NOTE that says why. Local. */
void generate_note_lossless(const generation *g, const char *why);

/* The run has ended, on rank 0 with this status. Where all went well and nothing told it to end, do as
 * `kvarve snapshot recode` does, with tables of what was saved; otherwise a NOTE. A failure leaves the
 * lossless snapshot. The checkpoint is closed, after its figures were taken. Collective. */
status generate_recode(generation *g, comm *c, engine *e, status st);
