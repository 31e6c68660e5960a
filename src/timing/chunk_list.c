#include "src/timing/chunk_list.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
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

void chunk_list_append_equal_time(chunk_list *list, const chunk_model *m, double seconds, int64_t most_rows,
                                  int64_t n_tokens) {
    int64_t pos = list->n > 0 ? list->ends[list->n - 1] : 0;
    while (pos < n_tokens) {
        chunk_list_append(list, rows_of_time(m, pos, seconds, most_rows));
        pos = list->ends[list->n - 1];
    }
}

double chunk_list_seconds(const chunk_list *list, const chunk_model *m, int n_stages, int64_t n_tokens) {
    double sum = 0, most = 0;
    int64_t begin = 0;
    for (int64_t i = 0; begin < n_tokens; i++) {
        int64_t end = i < list->n - 1 && list->ends[i] < n_tokens ? list->ends[i] : n_tokens;
        double seconds = chunk_model_seconds(m, (double)begin, (double)(end - begin));
        sum += seconds;
        most = fmax(most, seconds);
        begin = end;
    }
    return sum + (n_stages - 1) * most;
}

void chunk_list_append_best(chunk_list *list, const chunk_model *m, int n_stages, int64_t most_rows,
                            int64_t n_tokens) {
    assert(list->n == 0);
    double least = INFINITY, shortest = chunk_model_seconds(m, 0, CHUNK_QUANTUM);
    double longest = chunk_model_seconds(m, (double)n_tokens, (double)most_rows);
    for (double seconds = shortest; seconds < 1.1 * longest; seconds *= 1.1) {
        chunk_list tried = {0};
        chunk_list_append_equal_time(&tried, m, seconds, most_rows, n_tokens);
        double needed = chunk_list_seconds(&tried, m, n_stages, n_tokens);
        bool is_better = needed < least;
        if (is_better) least = needed;
        chunk_list_free(is_better ? list : &tried);
        if (is_better) *list = tried;
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
    int64_t end = list->ends[list->n - 1], last = chunk_list_rows_at(list, end);
    if (n_tokens > end) return list->n + (n_tokens - end + last - 1) / last;
    return n_tokens > 0 ? find(list, n_tokens - 1) + 1 : 0;
}
