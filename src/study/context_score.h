/* src/study/context_score.h: tokens behind a context in the exact cache, beside the same tokens behind the
 * same context in a cache that was changed: what the last stage keeps of them, and what all of it says.
 * Local, but where said. */
#pragma once

#include "io/codec/kv_codec.h"
#include "io/json.h"
#include "kernels/kv_page.h"
#include "mpi/comm.h"
#include "src/study/pass_keys.h"

/* Bytes and errors of what a rank has coded. */
typedef struct coded_sums {
    double n_elements[N_KV_PARTS], n_bytes[N_KV_PARTS];
    double squares[N_KV_PARTS], errors[N_KV_PARTS]; /* of elements, and of what is decoded less them */
    kv_kept kept;
} coded_sums;

/* Over the scored tokens of a window. */
typedef struct window_score {
    double n, nll, changed_nll;
    double divergence;           /* sum of KL(exact || changed) over next-token distributions, in nats */
    double n_same_top;           /* tokens before which both find the same token likeliest */
    double n_top, n_changed_top; /* and that this token is */
} window_score;

/* The digits of a pass key, in the exact cache [0], and in the changed one [1]. */
typedef struct key_score {
    double n[2], nll[2]; /* tokens; sum over them */
    double n_missed[2];  /* that were not the likeliest */
} key_score;

/* Complete on the last stage, until they are shared. */
typedef struct context_scores {
    int64_t n_windows, n_scored, n_keys; /* tokens and pass keys of each window */
    int vocab_size;
    window_score *windows; /* [n_windows] */
    key_score *keys;       /* [n_windows, n_keys] */
    float **exact;         /* [n_windows]: log-probabilities [n_scored, V] until the changed ones came */
} context_scores;

context_scores context_scores_new(int64_t n_windows, int64_t n_scored, int64_t n_keys, int vocab_size);
void context_scores_free(context_scores *s); /* zeroed is fine */

/* What is kept of n_windows, in bytes, when all of the exact cache comes before any of the changed one. */
uint64_t context_scores_exact_bytes(int64_t n_windows, int64_t n_scored, int vocab_size);

/* The logits [V] before the scored token number `row` of a window, which is target: those of the exact cache
 * come first. Last stage. */
void context_scores_take(context_scores *s, int64_t window, int64_t row, bool is_changed, int32_t target,
                         const float *logits);

/* The logits [V] before a token of the digits of a key, of all windows' [n_windows, n_keys]. Last stage. */
void context_scores_take_key(context_scores *s, int64_t key, bool is_changed, int32_t target,
                             const float *logits);

/* The last stage's scores to every rank. Collective. */
void context_scores_share(context_scores *s, comm *c);

/* Mean over windows, and half of its 95% interval; NaN for one window. */
typedef struct estimate {
    double mean, half;
} estimate;

typedef struct context_result {
    double token_bytes[2]; /* of K and V of a position: in the exact cache [0], and in the changed one [1] */
    bool is_coded;         /* by a codec, which has these: */
    double bits, part_bits[N_KV_PARTS]; /* per element */
    double error[N_KV_PARTS];           /* mean squares, in those of the elements */
    double kept_exact, kept_8bit; /* shares of tokens of layers that kvarve's codecs kept so; NaN of others */

    double nll;                        /* per token, in the exact cache */
    estimate change;                   /* of nll by the change, paired */
    estimate divergence;               /* nats per token */
    double same_top, top, changed_top; /* shares of all tokens */
    int64_t n_windows;

    int64_t n_keys, n_answered[2]; /* of all windows; those of which every token was the likeliest */
    int64_t n_answered_at[PASS_KEYS_MOST][2]; /* of the first keys of all windows, the second, ... */
    double digit_nll;                         /* per digit, in the exact cache */
    estimate digit_change;
} context_result;

/* token_bytes: of K and V of a position in pages of both caches. sums: those of all ranks of what went
 * through a codec, elements of this type, whose bytes then are the changed cache's; NULL: nothing did. */
context_result context_result_of(const context_scores *s, const double token_bytes[2], const coded_sums *sums,
                                 dtype type);
void context_result_print(const context_result *r);               /* on stdout */
void context_result_put(json_writer *w, const context_result *r); /* the same, as members */
