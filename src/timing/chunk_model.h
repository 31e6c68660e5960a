/* src/timing/chunk_model.h: how long a layer takes for a chunk of a prompt, and which chunks take equally
 * long. Pure. Local.
 *
 * A chunk of x rows behind a history of L positions takes
 *
 *     t(L, x) = c + g L + b x + a (2 L x + x^2)     seconds in each layer
 *
 * c once a chunk: its weights are read, kernels start; g a position of the history: its K and V are read; b a
 * row: matrices; a: attention, where the rows see L x + x^2 / 2 positions together. For P equal stages, a
 * prompt whose chunks take t_j in a stage takes sum(t_j) + (P - 1) max(t_j): chunks of equal time waste
 * least. */
#pragma once

#include <stdint.h>

#include "src/base/status.h"

typedef struct chunk_model {
    double c, g, b, a; /* seconds, none negative */
} chunk_model;

double chunk_model_seconds(const chunk_model *m, double history, double rows);

/* A measurement. */
typedef struct chunk_time {
    double history, rows, seconds; /* seconds > 0 */
} chunk_time;

/* The model that is nearest to the measurements by the squares of relative errors; returns the root of their
 * mean. Terms that the measurements do not tell apart are 0. */
double chunk_model_fit(const chunk_time *times, int n, chunk_model *out);

/* The largest of the relative errors. */
double chunk_model_worst(const chunk_model *m, const chunk_time *times, int n);

/* Rows that take this many seconds behind this history: the positive root of t(L, x) = seconds,
 *     x = (-(b + 2 a L) + sqrt((b + 2 a L)^2 + 4 a (seconds - c - g L))) / 2 a
 * 0 when c + g L alone takes as long, INFINITY when rows cost nothing. */
double chunk_model_rows(const chunk_model *m, double history, double seconds);

/* The best efficiency E* that a prompt of n tokens can have over n equal stages, whatever its chunks are:
 *     E* = W / (sqrt(W) + sqrt(c' (P - 1)))^2
 * for W = b n + a n^2, the work itself, and c' = c + g n / 2, what a chunk costs besides in the mean. */
double chunk_model_bound(const chunk_model *m, double n_tokens, int n_stages);

/* "C,G,B,A" as given to an option. Refuses, naming it. */
status chunk_model_parse(const char *option, const char *text, chunk_model *out);
