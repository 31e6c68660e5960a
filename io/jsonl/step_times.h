/* io/jsonl/step_times.h: a file of measured times of steps, which `kvarve bench --measure` writes and
 * predictions are made from. JSON:
 *
 *     {"format": 1, "model": "...", "processor": "...", "threads": 1, "hop_seconds": 2e-05,
 *      "ranks": [{"layers": 4}, ...],
 *      "steps": [{"rank": 0, "sequences": 1, "history": 0, "rows": 512, "layer_seconds": 0.1,
 *                 "head_rows": 0, "head_seconds": 0}, ...]}
 *
 * All functions are Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* What one rank did in a step: of each of n_sequences so many rows behind a history, which is the mean over
 * the sequences. Rows of 1 are decode. Plain data: ranks may send its bytes to each other. */
typedef struct step_time {
    int rank, n_sequences, n_rows;
    double history;
    double layer_seconds; /* all layers of the rank; on the first rank the embedding too */
    int n_head_rows;      /* rows that passed the head: only on the last rank */
    double head_seconds;  /* theirs, until the tokens were chosen */
} step_time;

typedef struct step_times {
    char model[256], processor[128];
    int n_threads; /* of a rank */
    double
        hop_seconds; /* from stage to stage, and back to the first: what passes beside the ranks' own work */
    int n_ranks;
    int *layers; /* [n_ranks] */
    int n_steps;
    step_time *steps;
} step_times;

void step_times_free(step_times *t);

/* Replace the file, whole or not at all. */
status step_times_write(const step_times *t, const char *path);

/* Refuses what is not such a file, naming the place. Release with step_times_free. */
status step_times_read(const char *path, step_times *out);

/* The same from the bytes; `name` is for messages. */
status step_times_parse(const char *bytes, size_t n, const char *name, step_times *out);
