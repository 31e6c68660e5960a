/* src/model/sampler.h: the next token of a sequence: what op choose of a device (kernels/device.h) is asked,
 * and what becomes of its answer. The draw is counter-based (Philox4x32-10; Salmon et al., SC 2011), keyed by
 * (seed, sequence id, position), so that it depends on nothing else. Local. */
#pragma once

#include <stdint.h>

#include "kernels/device.h"
#include "kernels/sampling.h"

typedef struct sampler_choice {
    int32_t token; /* -1: the model gave no finite logit */
    float logprob; /* natural, of the model's own distribution: before penalty, temperature and filters */
    int32_t n_top; /* options.n_logprobs likeliest tokens, best first; 0 unless asked for */
    int32_t top_tokens[SAMPLING_MAX_LOGPROBS];
    float top_logprobs[SAMPLING_MAX_LOGPROBS];
} sampler_choice;

/* How the token at `pos` of a sequence shall be chosen. seen: the token_set of those before pos, for the
 * repetition penalty; may be NULL without one. Borrows options and seen. */
row_sampling sampler_row(const sampling_options *options, int64_t sequence_id, int64_t pos,
                         const uint32_t *seen);

/* What was found. values and ids [options.n_logprobs, or more]: as op top_logits gives them. */
void sampler_finish(const sampling_options *options, const row_choice *found, const float *values,
                    const int32_t *ids, sampler_choice *out);

/* 32 random bits of stream (seed, sequence id) at pos. */
uint32_t sampler_random(int64_t seed, int64_t sequence_id, int64_t pos);
