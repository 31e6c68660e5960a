/* src/engine/session.h: one prompt, what is generated behind it, how that is drawn, and where its beginning
 * comes from. Rank 0.
 *
 * The caller makes it and releases it; the engine has it on loan from engine_submit on, appends to its
 * tokens, and says when it is over. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "kernels/sampling.h"
#include "src/tokenizer/token_list.h"

typedef struct session {
    int64_t id;         /* the caller's */
    token_list tokens;  /* the prompt, and what is generated behind it: by an earlier run, then by this one */
    int64_t n_prompt;   /* of them, above 0 */
    int64_t max_tokens; /* to generate in all, >= 0; 0: the prompt is only read */
    sampling_options sampling;
    int64_t sequence_id; /* keys its draws, with the seed */
    int64_t score_from;  /* >= 0: score the prompt's tokens from this index (at least 1) on; -1: none */
    int64_t n_cached;    /* the first tokens, less than all, whose K and V are loaded ... */
    int64_t source;      /* ... from this sequence of the manifest */
    int64_t probe_at; /* above 0: the probe is called when so many of the prompt's tokens are in the cache */
    int64_t
        evict_at; /* the same of eviction, with --evict; 0: behind all that is known of it, if it generates */
    bool is_held; /* when it is over, its K and V stay until engine_release */

    /* The engine's. */
    int64_t handle;       /* its number in the schedule; -1: it was never submitted */
    int64_t n_known;      /* tokens when it was submitted */
    int64_t n_recomputed; /* of n_cached the first ones, which were computed all the same */
    bool had_base;        /* some of the others were loaded as a base alone */
    char *failure;        /* what became of its K and V, where they are none any more; NULL: nothing */
} session;

/* One that is only read, of a copy of these tokens, greedy, not scored. */
session session_new(const int32_t *tokens, int64_t n_tokens);

/* Releases what it holds; and n of them with their memory. */
void session_free(session *s);
void sessions_free(session *s, int64_t n);

static inline int64_t session_n_generated(const session *s) {
    return (int64_t)s->tokens.n - s->n_prompt;
}

/* Tokens that it may ever have. */
static inline int64_t session_most_tokens(const session *s) {
    return s->n_prompt + s->max_tokens;
}
