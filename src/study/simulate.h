/* src/study/simulate.h: how long sequences would take over stages, by the scheduler of the real run
 * (src/engine/schedule.h) and the messages of the real pipeline (mpi/pipeline.h). Pure. Local.
 *
 * A stage works on one step at a time; messages reach it in order. As in the pipeline, a rank has
 * PIPELINE_SLOTS slots: a message takes one from when it begins to arrive until it has left again. A link
 * carries one message at a time, for bytes / bandwidth, and it is there `seconds` after that. Stage 0 takes
 * the replies that are there, then makes the next step if no more than one a stage and one besides are on
 * their way, and otherwise waits. So every time follows from times before it, and nothing is left to chance.
 * Each rank has processors of its own. */
#pragma once

#include <stdint.h>

#include "src/timing/chunk_list.h"
#include "src/timing/link_speed.h"
#include "src/timing/step_costs.h"

typedef struct simulation {
    int n_stages;
    const int *n_layers; /* [n_stages] */
    int stages_per_node;
    link_speed within_node, between_nodes;
    step_costs costs;
    double row_bytes; /* of a row's activations in a message */
    int chunk_tokens;
    const chunk_list *chunks; /* NULL: all of chunk_tokens */
    int n_sequences;          /* all at once, all alike: */
    int64_t n_prompt;         /* > 0 tokens */
    int64_t n_cached;         /* < n_prompt of them are in the cache already */
    int64_t n_new;            /* >= 0 tokens to generate */
} simulation;

typedef struct simulation_result {
    double seconds;             /* until the last reply */
    double first_token_seconds; /* until the first reply with a token; 0: none was generated */
    double busy_seconds;        /* of all stages together */
    int64_t n_steps;
    double decode_seconds; /* from when all sequences have a first token until the first one ends */
    int64_t decode_tokens; /* that come meanwhile */
    double decode_busy;    /* seconds that all stages together work meanwhile, about */
} simulation_result;

simulation_result simulate(const simulation *m);

/* The share of the stages' time in which they do not work. */
double simulation_bubble(const simulation *m, const simulation_result *r);
