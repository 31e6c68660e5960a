/* src/command/run.h: what the commands that run a model have in common. */
#pragma once

#include "io/synthetic/synthetic.h"
#include "mpi/comm.h"
#include "src/command/options.h"
#include "src/engine/engine.h"
#include "src/engine/stop.h"
#include "src/tokenizer/tokenizer.h"

enum { DEFAULT_MAX_TOKENS = 256 }; /* of --max-tokens */

/* The commands: each is Collective and returns the exit code, the same on every rank; rank 0 prints what went
 * wrong. */
int command_generate(comm *c, const options *o);
int command_perplexity(comm *c, const options *o);
int command_tokenize(comm *c, const options *o);
int command_plan(comm *c, const options *o);
int command_bench(comm *c, const options *o);
int command_calibrate(comm *c, const options *o);
int command_synth(comm *c, const options *o);
int command_snapshot(comm *c, const options *o);

/* What --max-time and --stop-file say. Local. */
stop_limits run_stop_limits(const options *o);

/* Print a failure (on rank 0 only) and return its exit code. Local. */
int run_say_failure(const comm *c, status st);

/* The synthetic model of --shape and --vocab. Local. */
status run_find_shape(const options *o, synthetic_model *out);

/* What to call the model in messages: --model's directory, or --shape's name. Local. */
const char *run_model_name(const options *o);

/* Append its tokenizer.json, from the directory or made. Local. */
status run_read_tokenizer(const options *o, text_buffer *out);

/* The model's config, and its tokenizer when out_tokenizer is not NULL. Local. */
status run_read_model(const options *o, model_config *config, tokenizer **out_tokenizer);

/* Its tokenizer. Local. */
status run_open_tokenizer(const options *o, tokenizer **out);

/* Append the whole file to out, at most 1 GiB; "-" is stdin. Refuses, naming the option that gave the path.
 * Local. */
status run_read_text(const char *option, const char *path, text_buffer *out);

/* The same for a text to be tokenized: a byte order mark is dropped, that of UTF-16 or UTF-32 is refused, and
 * bytes that are not UTF-8 are told. Local. */
status run_read_prompt(const char *option, const char *path, text_buffer *out);

/* --prompt, or all of --prompt-file: one of both is given. Local. */
status run_take_prompt(const options *o, text_buffer *out);

/* --threads, or OMP_NUM_THREADS as batch scripts set it, or this rank's share of the host. Local. */
int run_threads(const comm *c, const options *o);

/* Engine options from the command line. Local. */
engine_options run_engine_options(const comm *c, const options *o, const sizing *s);

/* Where --measured or --chunk-model is given: the best chunks of equal time for prompts of up to n_tokens
 * over n_ranks, of at most --chunk-tokens. Otherwise `out` stays empty. Local. */
status run_make_chunks(const options *o, const model_config *config, int n_ranks, int64_t n_tokens,
                       chunk_list *out);

/* engine_open with such chunks. Collective. */
status run_open_engine(comm *c, const options *o, const model_config *config, engine_options *wanted,
                       engine **out);

/* n tokens for measurements, where any will do: a walk through the vocabulary. Released with free(). Local.
 */
int32_t *run_walk_tokens(const model_config *config, size_t n);

/* Submit n sessions, each of max_tokens behind `depth` of these tokens (at least one), session i from token i
 * on; none is scored or ends early. To be released with sessions_free when they are over. Rank 0. Local. */
session *run_submit_decodes(engine *e, const int32_t *tokens, int64_t depth, int64_t n, int64_t max_tokens);

/* One line on stderr: version, model, ranks, threads; another: the effective options. Rank 0. Local. */
void run_print_begin(const comm *c, const engine *e, const options *o);
