/* src/timing/chunk_list.h: where prompts are cut into chunks, fixed before a run. Pure. Local. */
#pragma once

#include <stdint.h>

#include "src/timing/chunk_model.h"

/* Sizes are multiples of this, which kernels like, as far as sizes are chosen here. */
enum { CHUNK_QUANTUM = 16 };

/* Chunks one behind the other, from position 0 on. Zeroed is empty. */
typedef struct chunk_list {
    int64_t *ends; /* [n] chunk i ends before this position, where the next one begins */
    int64_t n, capacity;
} chunk_list;

void chunk_list_append(chunk_list *list, int64_t n_rows);
void chunk_list_free(chunk_list *list);

/* Append chunks up to n_tokens that take about these seconds each by the model: the nearest multiple of
 * CHUNK_QUANTUM, but at least that, and at most most_rows. */
void chunk_list_append_equal_time(chunk_list *list, const chunk_model *m, double seconds, int64_t most_rows,
                                  int64_t n_tokens);

/* To an empty list append the chunks of equal time that are best for a prompt of n_tokens over equal stages:
 * times are tried in steps of a tenth, and the least chunk_list_seconds counts. */
void chunk_list_append_best(chunk_list *list, const chunk_model *m, int n_stages, int64_t most_rows,
                            int64_t n_tokens);

/* Seconds of a prompt of n_tokens > 0 over equal stages of one layer: the sum over chunks, and n_stages - 1
 * times the longest. */
double chunk_list_seconds(const chunk_list *list, const chunk_model *m, int n_stages, int64_t n_tokens);

/* The size of the chunk that holds this position; behind the last one, that of the last. The list is not
 * empty. */
int64_t chunk_list_rows_at(const chunk_list *list, int64_t pos);

/* How many chunks a prompt of n_tokens takes. */
int64_t chunk_list_count(const chunk_list *list, int64_t n_tokens);
