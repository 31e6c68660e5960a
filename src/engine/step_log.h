/* src/engine/step_log.h: how long a rank's steps took, for `kvarve bench --measure`. */
#pragma once

#include "io/jsonl/step_times.h"
#include "mpi/comm.h"
#include "src/engine/stage.h"

/* Zeroed is empty; release with free(steps). */
typedef struct step_log {
    step_time *steps;
    int n, capacity;
} step_log;

/* Take a step into the log if it is one chunk of one prompt, or single rows of sequences; others tell less.
 * Local. */
void step_log_add(step_log *log, int rank, const step *done, const stage_seconds *seconds);

/* All ranks' logs, one behind the other, on rank 0; nothing elsewhere. Collective. */
step_log step_log_gather(comm *c, const step_log *mine);

/* Steps of one rank, of as many rows and sequences, and of a history within the same 64 positions, become
 * one: the median of their seconds. Local. */
void step_log_take_medians(step_log *log);
