#include "src/study/varve_build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/key_turns.h"
#include "io/codec/varve.h"
#include "io/codec/varve_round.h"
#include "kernels/convert.h"

enum {
    NOMINAL_STEP = -3, /* level of the step for which predictions are made */
    FIRST_STEP = -21,
    LAST_STEP = 9,
    STEPS = 3,   /* levels whose symbols are counted */
    COUNTED = 4, /* every so-manieth token's */
    EXCESS_UNIT = 1024
};

/* ---- matrices: rows of floats ---- */

/* A matrix [n, width]. */
typedef struct matrix {
    float *rows;
    int n, width;
} matrix;

static matrix matrix_new(int64_t n, int width) {
    return (matrix){mem_new((size_t)n * (size_t)width, sizeof(float)), (int)n, width};
}

/* Columns [first, first + n) of a, times the transposed basis [n, n], or times the basis itself. */
static matrix multiply(const linear *l, const matrix *a, int first, const float *basis, int n,
                       bool transposed) {
    const float one = 1, zero = 0;
    matrix out = matrix_new(a->n, n);
    l->sgemm(transposed ? "T" : "N", "N", &n, &a->n, &n, &one, basis, &n, a->rows + first, &a->width, &zero,
             out.rows, &n);
    return out;
}

/* Sums over rows of products of n columns of a with n of b, over the number of rows: [n of a, n of b]. Rows
 * go in parts, whose sums are added in double precision. */
static double *moments(const linear *l, const matrix *a, int first_a, const matrix *b, int first_b, int n) {
    enum { PART = 256 };
    const float one = 1, zero = 0;
    float *part = mem_new((size_t)n * (size_t)n, sizeof *part);
    double *sums = mem_new((size_t)n * (size_t)n, sizeof *sums);
    for (int row = 0; row < a->n; row += PART) {
        const int rows = a->n - row < PART ? a->n - row : PART;
        const float *at = a->rows + (size_t)row * (size_t)a->width + first_a;
        l->sgemm("N", "T", &n, &n, &rows, &one, b->rows + (size_t)row * (size_t)b->width + first_b, &b->width,
                 at, &a->width, &zero, part, &n);
        for (size_t i = 0; i < (size_t)n * (size_t)n; i++)
            sums[i] += (double)part[i] / a->n;
    }
    free(part);
    return sums;
}

/* ---- a layer's numbers ---- */

/* Values of tokens in units, and which tokens are coded as numbers. */
typedef struct layer_values {
    matrix values; /* [n_tokens, numbers] */
    bool *is_ordinary;
    float *means, units[N_KV_PARTS], sink_norm;
} layer_values;

static void layer_values_free(layer_values *v) {
    free(v->values.rows);
    free(v->is_ordinary);
    free(v->means);
}

static int compare_floats(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Where a few tokens have values far smaller than usual, those are sinks. */
static void find_sinks(const varve_samples *s, const varve_shape *shape, layer_values *out) {
    static const double most = 0.05;
    const size_t n = (size_t)shape->n_heads * (size_t)shape->width;
    float *norms = mem_new(2 * (size_t)s->n_tokens, sizeof *norms), *sorted = norms + s->n_tokens;
    int64_t n_sorted = 0, n_below = 0;
    for (int64_t t = 0; t < s->n_tokens; t++) {
        const char *v = (const char *)s->elements[KV_PART_V] + (size_t)t * n * dtype_bytes(s->type);
        norms[t] = (float)varve_norm(s->type, v, n);
        out->is_ordinary[t] = t % s->window_tokens >= VARVE_EXACT_POSITIONS;
        if (out->is_ordinary[t]) sorted[n_sorted++] = norms[t];
    }
    qsort(sorted, (size_t)n_sorted, sizeof *sorted, compare_floats);
    const float bound = (float)varve_sink_share * sorted[n_sorted / 2];
    while (n_below < n_sorted && sorted[n_below] < bound)
        n_below++;
    if ((double)n_below <= most * (double)n_sorted) out->sink_norm = bound;
    for (int64_t t = 0; t < s->n_tokens; t++)
        out->is_ordinary[t] &= norms[t] >= out->sink_norm;
    free(norms);
}

static void read_token(const varve_samples *s, const varve_shape *shape, const float *frequencies, int64_t t,
                       float *values) {
    const int width = shape->width;
    float *turns = mem_new((size_t)width, sizeof *turns);
    key_turns_of(frequencies, width, t % s->window_tokens, turns);
    for (int part = 0; part < N_KV_PARTS; part++)
        for (int head = 0; head < shape->n_heads; head++) {
            float *x = values + varve_number(shape, (kv_part)part, head);
            for (int i = 0; i < width; i++)
                x[i] =
                    float_at(s->type, s->elements[part],
                             ((size_t)t * (size_t)shape->n_heads + (size_t)head) * (size_t)width + (size_t)i);
            if (part == KV_PART_K) key_turn_back(turns, width, x);
        }
    free(turns);
}

/* K or V, of a number. */
static kv_part part_of(const varve_shape *shape, int number) {
    for (int head = 0; head < shape->n_heads; head++) {
        const int k = varve_number(shape, KV_PART_K, head);
        if (number >= k && number < k + shape->width) return KV_PART_K;
    }
    return KV_PART_V;
}

static layer_values read_values(const varve_samples *s, const varve_shape *shape, const float *frequencies) {
    const int n = varve_n_numbers(shape);
    layer_values out = {.values = matrix_new(s->n_tokens, n)};
    double *sums = mem_new(2 * (size_t)n, sizeof *sums), *squares = sums + n, n_ordinary = 0;
    double energy[N_KV_PARTS] = {0};
    out.is_ordinary = mem_new((size_t)s->n_tokens, sizeof *out.is_ordinary);
    out.means = mem_new((size_t)n, sizeof *out.means);
    find_sinks(s, shape, &out);
    for (int64_t t = 0; t < s->n_tokens; t++) {
        float *row = out.values.rows + t * n;
        read_token(s, shape, frequencies, t, row);
        for (int j = 0; out.is_ordinary[t] && j < n; j++) {
            sums[j] += (double)row[j];
            squares[j] += (double)row[j] * (double)row[j];
        }
        n_ordinary += out.is_ordinary[t];
    }
    for (int j = 0; j < n; j++) {
        out.means[j] = (float)(sums[j] / n_ordinary);
        energy[part_of(shape, j)] += squares[j] / n_ordinary - pow(sums[j] / n_ordinary, 2);
    }
    for (int part = 0; part < N_KV_PARTS; part++) {
        const double unit = sqrt(energy[part] * N_KV_PARTS / n) / s->importance[part];
        out.units[part] = unit > 0 ? (float)unit : 1;
    }
    for (int64_t t = 0; t < s->n_tokens; t++)
        for (int j = 0; j < n; j++) {
            float *x = &out.values.rows[t * n + j];
            *x = (*x - out.means[j]) / out.units[part_of(shape, j)];
        }
    free(sums);
    return out;
}

/* The rows of tokens that are ordinary. */
static matrix ordinary_rows(const matrix *m, const bool *is_ordinary) {
    matrix out = matrix_new(m->n, m->width);
    out.n = 0;
    for (int t = 0; t < m->n; t++)
        if (is_ordinary[t])
            memcpy(out.rows + (size_t)out.n++ * (size_t)m->width, m->rows + (size_t)t * (size_t)m->width,
                   (size_t)m->width * sizeof(float));
    return out;
}

/* ---- bases ---- */

/* Principal components of columns [first, first + n), component by component, and their levels. */
static float *find_basis(const linear *l, const matrix *m, int first, int n, int16_t *levels) {
    double *covariance = moments(l, m, first, m, first, n), *values = mem_new((size_t)n, sizeof *values);
    const int n_work = 64 * n;
    double *work = mem_new((size_t)n_work, sizeof *work);
    float *rows = mem_new((size_t)n * (size_t)n, sizeof *rows);
    int info = 0;
    l->dsyev("V", "U", &n, covariance, &n, values, work, &n_work, &info);
    if (info != 0) status_die("the principal components of %d numbers were not found", n);
    for (int c = 0; c < n; c++) { /* they come in rising order */
        const double *vector = covariance + (size_t)(n - 1 - c) * (size_t)n;
        levels[c] = (int16_t)lrint(VARVE_OCTAVE * 0.5 * log2(fmax(values[n - 1 - c], 1e-12)));
        for (int j = 0; j < n; j++)
            rows[(size_t)c * (size_t)n + (size_t)j] = (float)vector[j];
    }
    free(covariance);
    free(values);
    free(work);
    return rows;
}

static void count_symbols(const matrix *components, const int16_t *levels, varve_counts *counts) {
    for (int step = FIRST_STEP; step <= LAST_STEP; step += STEPS) {
        const float unit = (float)exp2((double)step / VARVE_OCTAVE);
        for (int c = 0; c < components->width; c++) {
            const int class_index = varve_class_of(levels[c], step);
            const varve_rounding rounding = varve_rounding_of(class_index);
            for (int t = 0; t < components->n; t += COUNTED) {
                const float x = components->rows[(size_t)t * (size_t)components->width + (size_t)c] / unit;
                const int size = abs(varve_round(&rounding, x));
                counts->symbols[class_index][size <= VARVE_MOST_SYMBOL ? size : VARVE_MOST_SYMBOL + 1]++;
                if (size > 0 && size <= VARVE_MOST_SYMBOL)
                    counts->excess[class_index][size < 3 ? size - 1 : 2] +=
                        lrintf((fabsf(x) - (float)size) * EXCESS_UNIT);
            }
        }
    }
}

/* The basis of columns [first, first + n), as bytes, and its symbols. */
static void append_basis(const linear *l, const matrix *m, int first, int n, varve_counts *counts,
                         text_buffer *out) {
    int16_t *levels = mem_new((size_t)n, sizeof *levels);
    float *rows = find_basis(l, m, first, n, levels);
    matrix components = multiply(l, m, first, rows, n, true);
    count_symbols(&components, levels, counts);
    varve_append_basis(rows, levels, n, out);
    free(components.rows);
    free(rows);
    free(levels);
}

/* ---- the prediction ---- */

/* Columns [first, first + n) as they are decoded at the nominal step, where they are coded at all. */
static matrix decode(const linear *l, const layer_values *v, int first, int n) {
    const float unit = (float)exp2((double)NOMINAL_STEP / VARVE_OCTAVE);
    matrix ordinary = ordinary_rows(&v->values, v->is_ordinary);
    int16_t *levels = mem_new((size_t)n, sizeof *levels);
    float *basis = find_basis(l, &ordinary, first, n, levels);
    matrix components = multiply(l, &v->values, first, basis, n, true);
    for (int t = 0; t < components.n; t++)
        for (int c = 0; v->is_ordinary[t] && c < n; c++) {
            float *x = &components.rows[(size_t)t * (size_t)n + (size_t)c];
            const varve_rounding rounding = varve_rounding_of(varve_class_of(levels[c], NOMINAL_STEP));
            *x = (float)varve_round(&rounding, *x / unit) * unit;
        }
    matrix out = multiply(l, &components, 0, basis, n, false);
    free(components.rows);
    free(ordinary.rows);
    free(basis);
    free(levels);
    return out;
}

/* The shares of the numbers before in columns from `first` on that leave least: [n, n], by number; rounded to
 * 8 bits, with their units. */
static void find_prediction(const linear *l, const matrix *before, const matrix *values, int first,
                            int8_t *shares, float *units) {
    static const double ridge = 1e-3;
    const int n = before->width;
    double *own = moments(l, before, 0, before, 0, n), *both = moments(l, values, first, before, 0, n),
           trace = 0;
    int info = 0;
    for (int j = 0; j < n; j++)
        trace += own[(size_t)j * (size_t)n + (size_t)j];
    for (int j = 0; j < n; j++)
        own[(size_t)j * (size_t)n + (size_t)j] += ridge * trace / n + 1e-12;
    l->dposv("U", &n, &n, own, &n, both, &n, &info); /* `both` is its columns: one for each number */
    if (info != 0) status_die("a prediction of %d numbers was not found", n);
    for (int j = 0; j < n; j++) {
        const double *column = both + (size_t)j * (size_t)n;
        double largest = 0;
        for (int i = 0; i < n; i++)
            largest = fmax(largest, fabs(column[i]));
        units[j] = (float)(largest / 127);
        for (int i = 0; i < n; i++)
            shares[(size_t)j * (size_t)n + (size_t)i] =
                largest > 0 ? (int8_t)lrint(column[i] / largest * 127) : 0;
    }
    free(own);
    free(both);
}

/* The prediction of columns from `first` on, from the same ones of the layer before as they are decoded, and
 * the basis of what is left of them. */
static void append_predicted(const linear *l, const matrix *before, const matrix *values, int first,
                             varve_counts *counts, text_buffer *out) {
    const int n = before->width;
    int8_t *shares = mem_new((size_t)n * (size_t)n, sizeof *shares);
    float *units = mem_new((size_t)n, sizeof *units), *real = mem_new((size_t)n * (size_t)n, sizeof *real);
    find_prediction(l, before, values, first, shares, units);
    text_append(out, (const char *)units, (size_t)n * sizeof *units);
    text_append(out, (const char *)shares, (size_t)n * (size_t)n);
    for (size_t i = 0; i < (size_t)n * (size_t)n; i++)
        real[i] = shares[i] * units[i / (size_t)n];
    matrix rest = multiply(l, before, 0, real, n, true);
    for (size_t i = 0; i < (size_t)rest.n * (size_t)n; i++)
        rest.rows[i] = values->rows[i / (size_t)n * (size_t)values->width + (size_t)first + i % (size_t)n] -
                       rest.rows[i];
    append_basis(l, &rest, 0, n, counts, out);
    free(rest.rows);
    free(shares);
    free(units);
    free(real);
}

/* ---- all of it ---- */

void varve_build_layer(const linear *l, const varve_shape *shape, const varve_samples *samples,
                       const varve_samples *before, const float *frequencies, varve_counts *counts,
                       text_buffer *out) {
    layer_values v = read_values(samples, shape, frequencies);
    matrix rows = ordinary_rows(&v.values, v.is_ordinary);
    text_append(out, (const char *)v.units, sizeof v.units);
    text_append(out, (const char *)&v.sink_norm, sizeof v.sink_norm);
    text_append(out, (const char *)v.means, (size_t)rows.width * sizeof *v.means);
    text_append(out, (const char *)frequencies, (size_t)shape->width / 2 * sizeof *frequencies);
    for (int kind = VARVE_PARTS; kind <= VARVE_JOINT; kind++)
        for (int i = 0, first, n; i < varve_n_bases(shape, (varve_bases)kind); i++) {
            varve_locate_basis(shape, (varve_bases)kind, i, &first, &n);
            append_basis(l, &rows, first, n, counts, out);
        }
    layer_values b = {.units = {0}};
    if (before) b = read_values(before, shape, frequencies);
    for (int i = 0, first, n; before && i < varve_n_bases(shape, VARVE_PREDICTED); i++) {
        varve_locate_basis(shape, VARVE_PREDICTED, i, &first, &n);
        matrix decoded = decode(l, &b, first, n), decoded_rows = ordinary_rows(&decoded, v.is_ordinary);
        append_predicted(l, &decoded_rows, &rows, first, counts, out);
        free(decoded.rows);
        free(decoded_rows.rows);
    }
    if (before) layer_values_free(&b);
    free(rows.rows);
    layer_values_free(&v);
}

/* Of the few tokens that a text may have, the squares around their means are too small by one of them; of
 * one, they are nothing, and those around 0 must do. */
varve_scale varve_build_scale(const varve_shape *shape, const varve_samples *samples,
                              const float *frequencies) {
    const size_t n = (size_t)samples->n_tokens * (size_t)(shape->n_heads * shape->width);
    layer_values v = read_values(samples, shape, frequencies);
    varve_scale out = {.sink_norm = v.sink_norm};
    double n_ordinary = 0;
    for (int64_t t = 0; t < samples->n_tokens; t++)
        n_ordinary += v.is_ordinary[t];
    for (int part = 0; part < N_KV_PARTS; part++) {
        const double around_0 = varve_norm(samples->type, samples->elements[part], n) / sqrt((double)n);
        const double unit = n_ordinary < 2 ? around_0 / samples->importance[part]
                                           : (double)v.units[part] * sqrt(n_ordinary / (n_ordinary - 1));
        out.units[part] = unit > 0 ? (float)unit : 1;
    }
    layer_values_free(&v);
    return out;
}

void varve_counts_add(const varve_counts *more, varve_counts *counts) {
    for (int i = 0; i < VARVE_CLASSES; i++) {
        for (int k = 0; k < VARVE_MOST_SYMBOL + 2; k++)
            counts->symbols[i][k] += more->symbols[i][k];
        for (int k = 0; k < 3; k++)
            counts->excess[i][k] += more->excess[i][k];
    }
}

/* What a Laplacian distribution of the class's deviation says, for so many symbols: what was counted
 * outweighs it, where there was something to count. */
static void add_expected(int class_index, int64_t n, int64_t *symbols) {
    const double fall = varve_fall(class_index);
    double left = (double)n * exp(-fall / 2); /* of this size and larger */
    symbols[0] += llrint((double)n - left);
    for (int size = 1; size <= VARVE_MOST_SYMBOL; size++) {
        symbols[size] += llrint(left * -expm1(-fall));
        left *= exp(-fall);
    }
    symbols[VARVE_MOST_SYMBOL + 1] += llrint(left);
}

static void append_class(int class_index, const int64_t *counted, const int64_t *excess, text_buffer *out) {
    enum { SILENT = 4000, EXPECTED = 4000 }; /* not one symbol in so many is another than 0 */
    int64_t symbols[VARVE_MOST_SYMBOL + 2];
    int64_t all = 0, escapes, counts[2 * VARVE_MOST_SYMBOL + 2];
    uint16_t sizes[2 * VARVE_MOST_SYMBOL + 2];
    int most = 0;
    memcpy(symbols, counted, sizeof symbols);
    add_expected(class_index, EXPECTED, symbols);
    for (int i = 0; i < VARVE_MOST_SYMBOL + 2; i++)
        all += symbols[i];
    for (int i = 1; i <= VARVE_MOST_SYMBOL; i++)
        if (symbols[i] > all / (8 * RANS_TOTAL)) most = i;
    if (all - symbols[0] <= all / SILENT) most = 0;
    escapes = all;
    for (int i = 0; i <= most; i++) {
        counts[most + i] = counts[most - i] = i == 0 ? symbols[0] : symbols[i] / 2;
        escapes -= symbols[i];
    }
    counts[2 * most + 1] = escapes;
    const uint8_t size = (uint8_t)most;
    text_append(out, (const char *)&size, sizeof size);
    for (int i = 0; i < 3; i++) {
        int64_t n = i < 2 ? counted[i + 1] : 0;
        for (int k = 3; i == 2 && k <= VARVE_MOST_SYMBOL; k++)
            n += counted[k];
        const double shift = n ? 64.0 * (double)excess[i] / (double)n / EXCESS_UNIT : 0;
        const int8_t rounded = (int8_t)lrint(fmin(fmax(shift, -31), 31));
        text_append(out, (const char *)&rounded, sizeof rounded);
    }
    if (most == 0) return;
    rans_share_out(counts, 2 * most + 2, sizes);
    text_append(out, (const char *)sizes, (size_t)(2 * most + 2) * sizeof *sizes);
}

void varve_append_classes(const varve_counts *counts, text_buffer *out) {
    for (int i = 0; i < VARVE_CLASSES; i++)
        append_class(i, counts->symbols[i], counts->excess[i], out);
}
