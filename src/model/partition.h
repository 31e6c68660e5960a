/* src/model/partition.h: which layers each stage owns. Pure arithmetic. Local.
 *
 * The slowest stage sets the pace of a pipeline, so the partition minimises its cost, under each rank's
 * memory; among those it takes the one with the least sum of squared costs, so that the other stages are even
 * too. On a chain both are exact by dynamic programming in O(layers^2 * ranks) (arXiv 2311.03703, section 3).
 */
#pragma once

#include <stdint.h>

#include "src/base/status.h"

/* What one thing takes of the stage that it is on. */
typedef struct partition_load {
    double cost; /* in any unit, the same for all */
    uint64_t bytes;
} partition_load;

typedef struct partition_problem {
    int n_layers, n_ranks;
    const partition_load *layers; /* [n_layers] weights and KV cache of each */
    partition_load first;         /* embedding, on the first stage */
    partition_load last;          /* final norm, head and sampler, on the last stage */
    uint64_t both_bytes;  /* of first and last on one rank: less where the head is tied to the embedding */
    uint64_t every_bytes; /* workspace and buffers of any rank */
    uint64_t rank_bytes;  /* the bound; 0: none */
    const char *bound_by; /* where there is one, for people: "as --memory-per-rank says" */
} partition_problem;

/* Stage s owns layers [bounds[s], bounds[s + 1]); bounds has n_ranks + 1 entries. Refuses more ranks than
 * layers, and a model that fits no partition (the text says what would). */
status partition_layers(const partition_problem *problem, int *bounds);

/* What a stage of these layers takes. */
partition_load partition_stage(const partition_problem *problem, int first_layer, int last_layer);

/* Bounds from a user's list "10,12,10". Refuses a list that does not fit the model and the ranks. */
status partition_from_list(const char *list, int n_layers, int n_ranks, int *bounds);
