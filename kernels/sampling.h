/* kernels/sampling.h: how one prompt's tokens are chosen, as plain data; the command line and the lines of a
 * prompt file fill the same structure. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

enum { SAMPLING_MAX_LOGPROBS = 20 };

/* How they apply: op choose (kernels/device.h). */
typedef struct sampling_options {
    double temperature;        /* 0 takes the likeliest token */
    int64_t top_k;             /* so many of the likeliest tokens stay; 0: all */
    double top_p;              /* the fewest tokens of this summed probability stay */
    double min_p;              /* tokens below min_p times the likeliest one's go */
    double repetition_penalty; /* 1 is none (CTRL, arXiv 1909.05858) */
    int64_t seed;
    int64_t max_tokens; /* to generate at most; 0: the prompt is only read */
    int64_t n_logprobs; /* likeliest tokens reported; 0: no logprobs */
    bool ignore_eos;    /* go on behind an end token */
} sampling_options;

/* A field of them, for whoever reads, writes or compares all. */
typedef enum sampling_kind { SAMPLING_REAL, SAMPLING_INTEGER, SAMPLING_FLAG } sampling_kind;

typedef struct sampling_field {
    const char *name; /* in files and messages */
    sampling_kind kind;
    size_t offset;           /* of a double, an int64_t or a bool */
    double least, most;      /* of a number */
    bool is_above, is_below; /* the least, or the most, is none itself */
} sampling_field;

/* In the order in which a snapshot's digest of a batch has them. */
enum { N_SAMPLING_FIELDS = 9 };
extern const sampling_field sampling_fields[N_SAMPLING_FIELDS];

/* The field's value, of its kind. */
static inline void *sampling_value(sampling_options *o, const sampling_field *f) {
    return (char *)o + f->offset;
}

/* Greedy, no filter, nothing to generate. */
sampling_options sampling_defaults(void);

/* Refuses a value outside the table's ranges by its name, also NaN. */
status sampling_check(const sampling_options *options);
