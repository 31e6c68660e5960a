/* src/model/rope.h: inverse frequencies of rotary position embeddings (RoPE, arXiv 2104.09864). Local. */
#pragma once

#include "src/model/model_config.h"

/* inv_freq[K/2]: pair i turns by pos * inv_freq[i]. *factor multiplies every cosine and sine (1 except for
 * yarn). In float32, step by step as transformers computes it, so that long contexts agree with it. */
void rope_inverse_frequencies(const model_config *config, float *inv_freq, float *factor);
