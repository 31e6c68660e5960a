/* src/tokenizer/merge.h: byte-pair merging of a run of symbols (token ids).
 *
 * Of all neighbours that have a merge, the one of lowest rank is merged, the leftmost of equal ones, until
 * none has one (Sennrich et al. 2016). Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/hash_map.h"

typedef struct merge {
    int32_t left, right;
    uint32_t rank;
    int32_t result;
} merge;

typedef struct merge_table {
    hash_map merges; /* by pair of symbols */
    hash_map joints; /* set of pairs of first symbols that can ever stand at a merge's seam */
} merge_table;

/* Two symbols as a key of the table. */
static inline uint64_t merge_pair(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* A table with room for n merges. */
void merge_table_init(merge_table *table, size_t n);
void merge_table_free(merge_table *table);

/* Add a merge; of two for the same pair the later counts. */
void merge_table_add(merge_table *table, merge added);

/* Say that a merge's left part may end in symbol `left` and its right part begin with symbol `right`. */
void merge_table_add_joint(merge_table *table, int32_t left, int32_t right);

/* Whether any merge can reach over the seam between two neighbouring symbols; if not, a run may be cut there
 * without changing the result. */
static inline bool merge_table_joins(const merge_table *table, int32_t left, int32_t right) {
    return hash_map_find(&table->joints, merge_pair(left, right)) != 0;
}

/* Merge n symbols in place; returns how many are left. Takes O(n log n). */
size_t merge_run(const merge_table *table, int32_t *ids, size_t n);
