/* io/jsonl/prompts.h: the lines of a prompts.jsonl file, one at a time.
 *
 * Each line is an object with either "prompt" (text) or "tokens" (array of token ids), and optionally
 *     id, or custom_id      any JSON value, repeated in the result; default: the number of the line
 *     max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, logprobs, ignore_eos
 *                           as in kernels/sampling.h; top_k may be -1 (all), logprobs true (1) or false (0)
 *     stop                  a text or an array of texts that end the generation
 *     stop_token_ids        tokens that do
 *     add_special_tokens    whether the tokenizer's begin token and the like are added as it says; by default
 *                           those are that the prompt does not hold itself
 *     prompt_token_ids      true: the result has the prompt's ids
 *     n                     1
 *     metadata              anything; not used
 *
 * Other keys are refused. A line that is refused does not disturb the others, and its result has its id as
 * far as that can be read. Blank lines are skipped: spaces, tabs and carriage returns; a byte order mark
 * before a line, CRLF and a last line without an end are accepted. What is not used, or read as U+FFFD, is
 * told by one notice at the end of the file. All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/sampling.h"
#include "src/base/status.h"

enum { PROMPT_MAX_STOPS = 16, PROMPT_MAX_LINE_BYTES = 64 << 20 };

typedef struct prompts prompts;

/* What the tokenizer puts around a text. */
typedef enum prompt_special { SPECIAL_MISSING, SPECIAL_ALL, SPECIAL_NONE } prompt_special;

typedef struct prompt_line {
    int64_t line;    /* its number in the file, from 1, blank ones counted */
    char *error;     /* NULL, or why this line is refused: one line that names file, line and key */
    char *id;        /* always set, also of a refused line */
    bool id_is_json; /* the id is no text but a value as it was written: 7, 1.50, "\u0000" */
    char *text;      /* the prompt, n_text bytes and a zero byte, never empty; NULL when tokens are given */
    size_t n_text;
    int32_t *tokens; /* n_tokens > 0 ids from 0 on, or NULL; the vocabulary's end is not checked here */
    size_t n_tokens;
    prompt_special special;    /* whether special tokens go around the text */
    bool tells_prompt;         /* the result has the prompt's ids */
    sampling_options sampling; /* checked; what the line does not say is from the defaults */
    bool has_stops;            /* the line says which: they replace those of the command */
    int n_stops;
    char *stops[PROMPT_MAX_STOPS]; /* none is empty */
    int32_t *stop_tokens;          /* n_stop_tokens ids from 0 on, or NULL */
    size_t n_stop_tokens;
} prompt_line;

/* Open a file or a pipe; "-" is standard input. Refuses a path that cannot be read. */
status prompts_open(const char *path, prompts **out);
const char *prompts_name(const prompts *p); /* for messages; owned by p */
void prompts_close(prompts *p);             /* NULL is fine */

/* The next line that is not blank; *more is false at the end, and *out is not set then. Fails only when the
 * file cannot be read, or its first line shows that it is in another encoding or format. Release the line
 * with prompt_line_free. */
status prompts_next(prompts *p, const sampling_options *defaults, prompt_line *out, bool *more);
void prompt_line_free(prompt_line *line);
