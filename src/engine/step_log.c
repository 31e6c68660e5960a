#include "src/engine/step_log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

static void append(step_log *log, const step_time *s) {
    if (log->n == log->capacity) {
        log->capacity = 2 * log->capacity + 256;
        log->steps = mem_resize(log->steps, (size_t)log->capacity, sizeof *log->steps);
    }
    log->steps[log->n++] = *s;
}

void step_log_add(step_log *log, int rank, const step *done, const stage_seconds *seconds) {
    double history = 0;
    if (done->n_spans == 0) return;
    for (int i = 0; i < done->n_spans; i++) {
        history += (double)done->spans[i].pos0 / done->n_spans;
        if (done->n_spans > 1 && done->spans[i].n_rows > 1) return;
    }
    append(log, &(step_time){
                    .rank = rank,
                    .n_sequences = done->n_spans,
                    .n_rows = done->spans[0].n_rows,
                    .history = history,
                    .layer_seconds = fmax(seconds->layers, 1e-9),
                    .n_head_rows = seconds->n_head_rows,
                    .head_seconds = seconds->n_head_rows > 0 ? seconds->head : 0,
                });
}

step_log step_log_gather(comm *c, const step_log *mine) {
    int n_ranks = comm_size(c), most = (int)-comm_min(c, -(int64_t)mine->n);
    size_t one = (size_t)most;
    int *counts = mem_new((size_t)n_ranks, sizeof *counts);
    step_time *padded = mem_new(one, sizeof *padded), *all = mem_new(one * (size_t)n_ranks, sizeof *all);
    if (mine->n > 0) memcpy(padded, mine->steps, (size_t)mine->n * sizeof *padded);
    comm_gather(c, &mine->n, sizeof mine->n, counts);
    comm_gather(c, padded, one * sizeof *padded, all);
    step_log gathered = {0};
    for (int r = 0; comm_rank(c) == 0 && r < n_ranks; r++)
        for (int i = 0; i < counts[r]; i++)
            append(&gathered, &all[(size_t)r * one + (size_t)i]);
    free(counts);
    free(padded);
    free(all);
    return gathered;
}

/* ---- medians ---- */

static int compare(double a, double b) {
    return a < b ? -1 : a > b;
}

/* 0 for steps that become one. */
static int compare_kinds(const void *a, const void *b) {
    const step_time *x = a, *y = b;
    if (x->rank != y->rank) return x->rank - y->rank;
    if (x->n_sequences != y->n_sequences) return x->n_sequences - y->n_sequences;
    if (x->n_rows != y->n_rows) return x->n_rows - y->n_rows;
    if (x->n_head_rows != y->n_head_rows) return x->n_head_rows - y->n_head_rows;
    return compare(floor(x->history / 64), floor(y->history / 64));
}

static int by_value(const void *a, const void *b) {
    return compare(*(const double *)a, *(const double *)b);
}

/* The lower of two in the middle: what disturbs a step makes it longer. */
static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[(n - 1) / 2];
}

static step_time merge(const step_time *steps, int n, double *layers, double *head) {
    step_time merged = steps[0];
    merged.history = 0;
    for (int i = 0; i < n; i++) {
        merged.history += steps[i].history / n;
        layers[i] = steps[i].layer_seconds;
        head[i] = steps[i].head_seconds;
    }
    merged.layer_seconds = median(layers, n);
    merged.head_seconds = median(head, n);
    return merged;
}

void step_log_take_medians(step_log *log) {
    double *layers = mem_new((size_t)log->n, sizeof *layers), *head = mem_new((size_t)log->n, sizeof *head);
    if (log->n > 0) qsort(log->steps, (size_t)log->n, sizeof *log->steps, compare_kinds);
    int n_merged = 0;
    for (int i = 0, end; i < log->n; i = end) {
        for (end = i + 1; end < log->n && compare_kinds(&log->steps[i], &log->steps[end]) == 0;)
            end++;
        log->steps[n_merged++] = merge(log->steps + i, end - i, layers, head);
    }
    log->n = n_merged;
    free(layers);
    free(head);
}
