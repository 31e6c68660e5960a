#include "src/timing/step_costs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/model/layer_table.h"
#include "src/timing/least_squares.h"

double step_costs_decode(const step_costs *costs, double history, int n_sequences) {
    const chunk_model *m = &costs->decode;
    return m->c + n_sequences * (m->g * history + m->b);
}

double step_costs_head(const step_costs *costs, int n_rows) {
    return n_rows > 0 ? costs->head_c + costs->head_row * n_rows : 0;
}

/* ---- from four numbers ---- */

static void take_head_from_layers(step_costs *costs, const model_config *c) {
    double layers = head_elements(c) / mean_layer_elements(c);
    costs->head_c = layers * costs->decode.c;
    costs->head_row = layers * costs->decode.b;
}

static void take_decode_from_prefill(step_costs *costs) {
    const chunk_model *m = &costs->prefill;
    costs->decode = (chunk_model){m->c, m->g + 2 * m->a, m->b + m->a, 0};
}

step_costs step_costs_from_model(const chunk_model *m, const model_config *config) {
    step_costs costs = {.prefill = *m};
    take_decode_from_prefill(&costs);
    take_head_from_layers(&costs, config);
    return costs;
}

/* ---- from measurements ---- */

static double layers_of(const step_times *t, const step_time *s) {
    return t->layers[s->rank];
}

static void fit_prefill(const step_times *t, step_costs *out, int *n) {
    chunk_time *times = mem_new((size_t)t->n_steps, sizeof *times);
    *n = 0;
    for (int i = 0; i < t->n_steps; i++) {
        const step_time *s = &t->steps[i];
        if (s->n_rows > 1)
            times[(*n)++] = (chunk_time){s->history, s->n_rows, s->layer_seconds / layers_of(t, s)};
    }
    out->prefill_error = chunk_model_fit(times, *n, &out->prefill);
    out->prefill_worst = chunk_model_worst(&out->prefill, times, *n);
    free(times);
}

static void fit_decode(const step_times *t, step_costs *out, int *n) {
    double *terms = mem_new(3 * (size_t)t->n_steps, sizeof *terms), found[3];
    double *values = mem_new((size_t)t->n_steps, sizeof *values);
    *n = 0;
    for (int i = 0; i < t->n_steps; i++) {
        const step_time *s = &t->steps[i];
        if (s->n_rows > 1) continue;
        double *row = terms + 3 * (*n);
        row[0] = 1;
        row[1] = s->history * s->n_sequences;
        row[2] = s->n_sequences;
        values[(*n)++] = s->layer_seconds / layers_of(t, s);
    }
    out->decode_error = least_squares_fit(*n, 3, terms, values, found);
    out->decode = (chunk_model){found[0], found[1], found[2], 0};
    free(terms);
    free(values);
}

static void fit_head(const step_times *t, step_costs *out, int *n) {
    double *terms = mem_new(2 * (size_t)t->n_steps, sizeof *terms), found[2];
    double *values = mem_new((size_t)t->n_steps, sizeof *values);
    *n = 0;
    for (int i = 0; i < t->n_steps; i++) {
        const step_time *s = &t->steps[i];
        if (s->n_rows > 1 || s->n_head_rows == 0 || s->head_seconds <= 0) continue;
        terms[2 * (*n)] = 1;
        terms[2 * (*n) + 1] = s->n_head_rows;
        values[(*n)++] = s->head_seconds;
    }
    out->head_error = least_squares_fit(*n, 2, terms, values, found);
    out->head_c = found[0];
    out->head_row = found[1];
    free(terms);
    free(values);
}

status step_costs_fit(const step_times *t, const model_config *config, const char *name, step_costs *out) {
    enum { LEAST = 8 };
    char here[256];
    int n_prefill, n_decode, n_head;
    model_config_describe(config, here, sizeof here);
    if (strcmp(here, t->model) != 0)
        return status_refuse("%s: was measured with another model (%s): measure this one, with kvarve bench "
                             "--measure",
                             name, t->model);
    step_costs costs = {.hop_seconds = t->hop_seconds, .n_ranks = t->n_ranks};
    fit_prefill(t, &costs, &n_prefill);
    if (n_prefill < LEAST || chunk_model_seconds(&costs.prefill, 0, 1) <= 0 || costs.prefill.b <= 0)
        return status_refuse(
            "%s: %d chunks of prompts are too few, or too much alike: measure again, with kvarve "
            "bench --measure",
            name, n_prefill);
    fit_decode(t, &costs, &n_decode);
    if (n_decode == 0) take_decode_from_prefill(&costs);
    fit_head(t, &costs, &n_head);
    if (n_head == 0) take_head_from_layers(&costs, config);
    *out = costs;
    return STATUS_OK;
}

status step_costs_choose(const char *measured, const char *chunk_model_text, const model_config *config,
                         step_costs *out) {
    step_times times;
    chunk_model m;
    status st;
    if (!measured) {
        st = chunk_model_parse("chunk-model", chunk_model_text, &m);
        if (st == STATUS_OK) *out = step_costs_from_model(&m, config);
        return st;
    }
    st = step_times_read(measured, &times);
    if (st != STATUS_OK) return status_at(st, "--measured");
    st = step_costs_fit(&times, config, measured, out);
    step_times_free(&times);
    return status_at(st, "--measured");
}

void step_costs_print(const step_costs *costs) {
    const chunk_model *m = &costs->prefill;
    printf("a layer takes %.3g s once a chunk, %.3g s a position of history, %.3g s a row, and %.3g s x "
           "(2 L x + x^2)\n",
           m->c, m->g, m->b, m->a);
}
