#include "src/chunk_list.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "src/base/memory.h"

void chunk_list_append(chunk_list *list, int64_t n_rows) {
    assert(n_rows > 0);
    if (list->n == list->capacity) {
        list->capacity = 2 * list->capacity + 64;
        list->ends = mem_resize(list->ends, (size_t)list->capacity, sizeof *list->ends);
    }
    list->ends[list->n] = (list->n > 0 ? list->ends[list->n - 1] : 0) + n_rows;
    list->n++;
}

void chunk_list_free(chunk_list *list) {
    free(list->ends);
    *list = (chunk_list){0};
}

static int64_t rows_of_time(const chunk_model *m, int64_t history, double seconds, int64_t most) {
    double rows = chunk_model_rows(m, (double)history, seconds);
    if (!(rows < (double)most)) return most;
    int64_t rounded = (int64_t)round(rows / CHUNK_QUANTUM) * CHUNK_QUANTUM;
    int64_t least = most < CHUNK_QUANTUM ? most : CHUNK_QUANTUM;
    if (rounded < least) return least;
    return rounded < most ? rounded : most;
}

void chunk_list_append_equal_time(chunk_list *list, const chunk_model *m, int64_t first_rows,
                                  int64_t n_tokens) {
    double seconds = chunk_model_seconds(m, 0, (double)first_rows);
    int64_t pos = list->n > 0 ? list->ends[list->n - 1] : 0;
    while (pos < n_tokens) {
        chunk_list_append(list, rows_of_time(m, pos, seconds, first_rows));
        pos = list->ends[list->n - 1];
    }
}

/* The first chunk that ends behind pos, or the last. */
static int64_t find(const chunk_list *list, int64_t pos) {
    assert(list->n > 0);
    int64_t low = 0, high = list->n - 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (list->ends[middle] > pos)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int64_t chunk_list_rows_at(const chunk_list *list, int64_t pos) {
    int64_t i = find(list, pos);
    return list->ends[i] - (i > 0 ? list->ends[i - 1] : 0);
}

int64_t chunk_list_count(const chunk_list *list, int64_t n_tokens) {
    return n_tokens > 0 ? find(list, n_tokens - 1) + 1 : 0;
}
