/* kernels/sampling.h: how one prompt's tokens are chosen, as plain data; the command line and the lines of a
 * prompt file fill the same structure. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

enum { SAMPLING_MAX_LOGPROBS = 20 };

/* How they apply: op choose (kernels/device.h). */
typedef struct sampling_options {
    double temperature;        /* 0 .. 100; 0 takes the likeliest token */
    int64_t top_k;             /* 0 .. 2^31 - 1 likeliest tokens stay; 0: all */
    double top_p;              /* above 0, up to 1: the fewest tokens of this summed probability stay */
    double min_p;              /* 0, up to below 1: tokens below min_p times the likeliest one's go */
    double repetition_penalty; /* above 0, up to 100; 1 is none (CTRL, arXiv 1909.05858) */
    int64_t seed;              /* 0 .. 2^53 */
    int64_t max_tokens;        /* 0 .. 2^31 - 1 to generate at most; 0: the prompt is only read */
    int64_t n_logprobs;        /* 0 .. SAMPLING_MAX_LOGPROBS likeliest tokens reported; 0: no logprobs */
    bool ignore_eos;           /* go on behind an end token */
} sampling_options;

/* Greedy, no filter, nothing to generate. */
sampling_options sampling_defaults(void);

/* Refuses a value outside the ranges above by its name, also NaN. */
status sampling_check(const sampling_options *options);
