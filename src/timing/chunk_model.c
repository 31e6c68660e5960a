#include "src/timing/chunk_model.h"

#include <math.h>
#include <stdlib.h>

#include "src/base/memory.h"
#include "src/timing/least_squares.h"

double chunk_model_seconds(const chunk_model *m, double history, double rows) {
    return m->c + m->g * history + m->b * rows + m->a * (2 * history + rows) * rows;
}

double chunk_model_fit(const chunk_time *times, int n, chunk_model *out) {
    enum { TERMS = 4 };
    double *terms = mem_new((size_t)n * TERMS, sizeof *terms), *values = mem_new((size_t)n, sizeof *values);
    double found[TERMS];
    for (int i = 0; i < n; i++) {
        double L = times[i].history, x = times[i].rows, *row = terms + (size_t)i * TERMS;
        row[0] = 1;
        row[1] = L;
        row[2] = x;
        row[3] = (2 * L + x) * x;
        values[i] = times[i].seconds;
    }
    double error = least_squares_fit(n, TERMS, terms, values, found);
    *out = (chunk_model){found[0], found[1], found[2], found[3]};
    free(terms);
    free(values);
    return error;
}

double chunk_model_worst(const chunk_model *m, const chunk_time *times, int n) {
    double worst = 0;
    for (int i = 0; i < n; i++) {
        double error = fabs(chunk_model_seconds(m, times[i].history, times[i].rows) / times[i].seconds - 1);
        if (error > worst) worst = error;
    }
    return worst;
}

double chunk_model_rows(const chunk_model *m, double history, double seconds) {
    double left = seconds - m->c - m->g * history, slope = m->b + 2 * m->a * history;
    if (left <= 0) return 0;
    /* The root as 2 left / (slope + ...): it holds for a = 0 too, and nothing cancels. */
    return 2 * left / (slope + sqrt(slope * slope + 4 * m->a * left));
}

double chunk_model_bound(const chunk_model *m, double n_tokens, int n_stages) {
    double work = (m->b + m->a * n_tokens) * n_tokens, once = m->c + m->g * n_tokens / 2;
    double root = sqrt(work) + sqrt(once * (n_stages - 1));
    return root > 0 ? work / (root * root) : 1;
}

status chunk_model_parse(const char *option, const char *text, chunk_model *out) {
    double values[4] = {0};
    const char *at = text;
    for (int i = 0; i < 4; i++) {
        char *end;
        values[i] = strtod(at, &end);
        if (end == at || !(values[i] >= 0 && values[i] <= 1e9) || *end != (i < 3 ? ',' : '\0'))
            return status_refuse(
                "--%s %s: expected C,G,B,A: four numbers, the seconds that a layer takes once a "
                "chunk, a position of history, a row, and a pair of them",
                option, text);
        at = end + 1;
    }
    if (values[2] <= 0)
        return status_refuse("--%s %s: the third number, seconds of a row in a layer, must be above 0",
                             option, text);
    *out = (chunk_model){values[0], values[1], values[2], values[3]};
    return STATUS_OK;
}
