/* tests/golden.h: reads tests/golden/models (format: tests/golden/FORMAT.md). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct golden {
    int32_t n_tokens, n_positions, n_vocabulary, n_continued;
    double mean_nll;
    const int32_t *tokens, *positions; /* into bytes */
    const float *logits;
    const int32_t *continued;
    const float *margins;
    char *bytes; /* released with free() */
} golden;

/* False, after a CUnit failure, when the file is not there or not in the format. */
bool golden_read(const char *path, golden *out);

/* NULL-terminated names of the tiny models. */
extern const char *const golden_models[];
