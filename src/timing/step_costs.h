/* src/timing/step_costs.h: how long the steps of a model take, for predictions and for chunks of equal time:
 * from measurements, or from four numbers. Local. */
#pragma once

#include "io/jsonl/step_times.h"
#include "src/model/model_config.h"
#include "src/timing/chunk_model.h"

/* A step takes a stage n_layers times the seconds of a layer, and the last stage those of the head. */
typedef struct step_costs {
    chunk_model prefill; /* of a layer, a chunk of a prompt */
    chunk_model decode;  /* of a layer, one row of each of some sequences: their histories add up, a is 0 */
    double head_c, head_row; /* of the head and the sampler: a step that has rows for them, and such a row */
    double hop_seconds;      /* from stage to stage and back to the first, beside the bytes; 0: not known */
    int n_ranks;             /* that were measured; 0: nothing was */
    double prefill_error, prefill_worst; /* of the fit: root of the mean square, and largest relative error */
    double decode_error, head_error;
} step_costs;

/* Seconds of a layer for one row each of n sequences, and of the head for n rows. */
double step_costs_decode(const step_costs *costs, double history, int n_sequences);
double step_costs_head(const step_costs *costs, int n_rows);

/* What fits the measurements best. Refuses, naming `name`, where they are too few, or of another model. */
status step_costs_fit(const step_times *times, const model_config *config, const char *name, step_costs *out);

/* From the chunk model alone: a decode row is a chunk of one row, and the head takes as long as so many
 * layers of the mean as have its number of matrix elements. */
step_costs step_costs_from_model(const chunk_model *m, const model_config *config);

/* As --measured FILE or --chunk-model C,G,B,A say: one of both is not NULL. */
status step_costs_choose(const char *measured, const char *chunk_model_text, const model_config *config,
                         step_costs *out);

/* One line on stdout: what a layer takes for a chunk. */
void step_costs_print(const step_costs *costs);
