/* src/model/sampler.h: the next token from logits.
 *
 * Order as in Hugging Face: repetition penalty, temperature, top_k, top_p, min_p, then a draw. Temperature 0
 * takes the largest logit; equal logits are ranked by smaller id. Penalised logits are float32. The draw is
 * counter-based (Philox4x32-10; Salmon et al., SC 2011), keyed by (seed, sequence id, position), so that it
 * depends on nothing else. Probabilities are in float64.
 *
 * Where logits stay on a device, its op choose does the same by its own arithmetic: sampler_row says what is
 * asked of it, sampler_finish makes a choice of its answer. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/sampling.h"

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

/* Choose the token at `pos` of a sequence from logits[V]. seen: the token_set of those before pos, for the
 * repetition penalty; may be NULL without one. A logit that is NaN or infinite is never chosen; when all are,
 * the token is -1. */
void sampler_choose(sampler *s, const sampling_options *options, int64_t sequence_id, int64_t pos,
                    const uint32_t *seen, const float *logits, sampler_choice *out);

/* How a device shall choose that token. */
row_sampling sampler_row(const sampling_options *options, int64_t sequence_id, int64_t pos,
                         const uint32_t *seen);

/* What it has found. values and ids [options.n_logprobs, or more]: as op top_logits gives them. */
void sampler_finish(const sampling_options *options, const row_choice *found, const float *values,
                    const int32_t *ids, sampler_choice *out);

/* -log p(target) under softmax(logits[V]), natural. */
double sampler_nll(const float *logits, int V, int32_t target);

/* 32 random bits of stream (seed, sequence id) at pos. */
uint32_t sampler_random(int64_t seed, int64_t sequence_id, int64_t pos);
