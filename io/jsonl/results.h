/* io/jsonl/results.h: writes out.jsonl, one object a line, one line for each prompt as it ends:
 *
 *     {"id": .., "prompt_token_ids": [..], "text": "..", "tokens": [..], "finish_reason": "eos", "usage":
 * {"prompt_tokens": .., "completion_tokens": ..}, "logprobs": [{"token": .., "logprob": .., "top": [[id,
 * logprob], ..]}, ..]}
 *     {"id": .., "finish_reason": "error", "error": ".."}
 *
 * A line goes to the file whole and at once: a run that is killed keeps the lines of what it finished, and no
 * half line. Invalid UTF-8 becomes U+FFFD. All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct results results;

typedef enum finish_reason {
    FINISH_EOS,    /* an end token */
    FINISH_STOP,   /* a stop text */
    FINISH_LENGTH, /* max_tokens, or the context is full */
    FINISH_ERROR,
} finish_reason;

typedef struct result_logprob {
    int32_t token;
    float logprob; /* natural */
    int n_top;
    const int32_t *top_tokens; /* [n_top], likeliest first */
    const float *top_logprobs;
} result_logprob;

typedef struct result {
    const char *id; /* as in prompt_line */
    bool id_is_json;
    finish_reason finish;
    const char *error; /* of FINISH_ERROR; the members below are not written then */
    const char *text;  /* n_text bytes */
    size_t n_text;
    const int32_t *tokens; /* [n_tokens] generated */
    size_t n_tokens;
    const int32_t *prompt_tokens; /* [n_prompt_tokens], or NULL: only their number is told */
    size_t n_prompt_tokens;
    const result_logprob *logprobs; /* [n_tokens], or NULL */
} result;

/* Be ready to write; done before the model loads, so that a path that cannot be written is refused early. An
 * older file keeps its content until the first line is written over it. No other run can have it open, until
 * results_close, where the file system has advisory locks. /dev/stdout and - are standard output, which is
 * appended to. */
status results_open(const char *path, results **out);

/* Go on with a file of which an earlier run wrote n_bytes with this digest (XXH3, 128 bits: high, low); what
 * follows them is cut off. Refuses a file that does not begin with them. */
status results_reopen(const char *path, int64_t n_bytes, const uint64_t digest[2], results **out);

/* Is there no file at path, or an empty one? */
bool results_are_missing(const char *path);

/* Bytes so far and their digest; -1 for what is not a regular file. */
void results_position(const results *r, int64_t *n_bytes, uint64_t digest[2]);

/* What was written is on the disk. May run in another thread than the writing. */
status results_flush(const results *r);

/* Write one line. Fails when the disk is full, and takes back what it wrote of the line. */
status results_write(results *r, const result *line);

/* Removes the file when it was made here and nothing was written. NULL is fine. */
void results_close(results *r);

/* "eos" and the like, as written. */
const char *finish_reason_name(finish_reason reason);
