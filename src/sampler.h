/* src/sampler.h: the next token from logits.
 *
 * Order as in Hugging Face: repetition penalty, temperature, top_k, top_p, min_p, then a draw. Temperature 0
 * takes the largest logit; equal logits are ranked by smaller id. The draw is counter-based (Philox4x32-10;
 * Salmon et al., SC 2011), keyed by (seed, sequence id, position), so that it depends on nothing else.
 * Probabilities are in float64. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "src/base/sampling.h"

typedef struct sampler sampler;

typedef struct sampler_choice {
    int32_t token;
    float logprob; /* natural, of the model's own distribution: before penalty, temperature and filters */
    int32_t n_top; /* options.n_logprobs likeliest tokens, best first; 0 unless asked for */
    int32_t top_tokens[SAMPLING_MAX_LOGPROBS];
    float top_logprobs[SAMPLING_MAX_LOGPROBS];
} sampler_choice;

/* Scratch memory for a vocabulary of V tokens. */
sampler *sampler_open(int V);
void sampler_close(sampler *s); /* NULL is fine */

/* Choose the token at `pos` of a sequence from logits[V]. seen[V]: which tokens stand before pos, for the
 * repetition penalty; may be NULL without one. A logit that is NaN or infinite is never chosen; when all are,
 * the token is -1. */
void sampler_choose(sampler *s, const sampling_options *options, int64_t sequence_id, int64_t pos,
                    const bool *seen, const float *logits, sampler_choice *out);

/* The largest logits of a row, and what they sum to: all that some choices need. */
typedef struct sampler_top {
    int n;
    const float *values; /* [n] falling */
    const int32_t *ids;  /* [n] rising among equal values; -1: none */
    float max, log_sum;  /* log(sum(exp(logit - max))) over the whole row */
} sampler_top;

/* How many of the largest of V logits these options need, at most `most`; 0: all logits are needed. Depends
 * on nothing but the options. */
int sampler_top_needed(const sampling_options *options, int V, int most);

/* Choose as sampler_choose does, from at least that many; false when they do not suffice, as numbers among
 * them are missing or infinite. */
bool sampler_choose_top(sampler *s, const sampling_options *options, int64_t sequence_id, int64_t pos,
                        const sampler_top *top, sampler_choice *out);

/* -log p(target) under softmax(logits[V]), natural. */
double sampler_nll(const float *logits, int V, int32_t target);

/* 32 random bits of stream (seed, sequence id) at pos. */
uint32_t sampler_random(int64_t seed, int64_t sequence_id, int64_t pos);
