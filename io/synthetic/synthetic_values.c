/* The elements of synthetic tensors: a counter is hashed, and its bits are looked up in a table of the normal
 * distribution. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/synthetic/synthetic.h"
#include "kernels/convert.h"

enum { ELEMENTS_AT_ONCE = 1 << 16 }; /* of a thread */

/* The distribution is that of N_LEVELS equally likely values, finer than bf16 but for the smallest. */
struct synthetic_values {
    uint64_t seed;
    double output_deviation;
    double
        normal[N_LEVELS / 2]; /* quantiles at p = 1/2 + (i + 1/2) / N_LEVELS; the lower half mirrors them */
};

static const double deviation = 0.02;

/* ---- the normal distribution ---- */

/* The quantile q(p) solves q' = r, r' = q r^2, where r is one over the density. Additions and products only:
 * every machine finds the same bits, whatever its mathematical library. */
static void step_quantile(double *q, double *r, double h) {
    double q1 = *r, r1 = *q * *r * *r;
    double qa = *q + h / 2 * q1, ra = *r + h / 2 * r1;
    double q2 = ra, r2 = qa * ra * ra;
    double qb = *q + h / 2 * q2, rb = *r + h / 2 * r2;
    double q3 = rb, r3 = qb * rb * rb;
    double qc = *q + h * q3, rc = *r + h * r3;
    double q4 = rc, r4 = qc * rc * rc;
    *q += h / 6 * (q1 + 2 * q2 + 2 * q3 + q4);
    *r += h / 6 * (r1 + 2 * r2 + 2 * r3 + r4);
}

static void fill_quantiles(double *normal) {
    enum { STEPS = 16 }; /* from one level to the next: the last of them is then right to 1e-6 */
    double q = 0, r = 2.5066282746310002; /* sqrt(2 pi) */
    for (int i = 0; i < N_LEVELS / 2; i++) {
        double width = (i ? 1.0 : 0.5) / N_LEVELS; /* the first is half a level from the middle */
        for (int s = 0; s < STEPS; s++)
            step_quantile(&q, &r, width / STEPS);
        normal[i] = q;
    }
}

synthetic_values *synthetic_values_open(const synthetic_model *m) {
    synthetic_values *v = mem_new(1, sizeof *v);
    v->seed = m->seed;
    v->output_deviation = deviation / sqrt(2.0 * m->n_layers);
    fill_quantiles(v->normal);
    return v;
}

void synthetic_values_close(synthetic_values *v) {
    free(v);
}

/* ---- elements ---- */

/* What each level stands for in a tensor of this deviation. */
static void fill_levels(const synthetic_values *v, double scale, uint16_t *levels) {
    for (int i = 0; i < N_LEVELS / 2; i++) {
        levels[N_LEVELS / 2 + i] = bf16_of_float((float)(scale * v->normal[i]));
        levels[N_LEVELS / 2 - 1 - i] = bf16_of_float((float)(-scale * v->normal[i]));
    }
}

static void make_part(const level_stream *stream, int64_t first, int64_t n, uint16_t *out) {
    const uint16_t *levels = stream->levels;
    int64_t i = first, end = first + n;
    for (; i < end && i % LEVEL_LANES; i++)
        *out++ = levels[level_index(level_word(stream->key, i / LEVEL_LANES), (int)(i % LEVEL_LANES))];
    for (; i + LEVEL_LANES <= end; i += LEVEL_LANES, out += LEVEL_LANES) {
        uint64_t word = level_word(stream->key, i / LEVEL_LANES);
        for (int lane = 0; lane < LEVEL_LANES; lane++)
            out[lane] = levels[level_index(word, lane)];
    }
    for (; i < end; i++)
        *out++ = levels[level_index(level_word(stream->key, i / LEVEL_LANES), (int)(i % LEVEL_LANES))];
}

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static void make_ones(int64_t n, uint16_t *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = 0x3F80;
}

bool synthetic_values_stream(const synthetic_values *v, const char *name, level_stream *out) {
    if (ends_with(name, "norm.weight")) return false;
    bool adds_to_stream = ends_with(name, ".o_proj.weight") || ends_with(name, ".down_proj.weight");
    out->key = XXH3_64bits_withSeed(name, strlen(name), v->seed);
    fill_levels(v, adds_to_stream ? v->output_deviation : deviation, out->levels);
    return true;
}

void synthetic_values_make(const synthetic_values *v, const char *name, int64_t first, int64_t n,
                           int n_threads, uint16_t *out) {
    level_stream stream;
    if (!synthetic_values_stream(v, name, &stream)) {
        make_ones(n, out);
        return;
    }
    int64_t n_parts = (n + ELEMENTS_AT_ONCE - 1) / ELEMENTS_AT_ONCE;
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t part = 0; part < n_parts; part++) {
        int64_t begin = part * ELEMENTS_AT_ONCE, left = n - begin;
        make_part(&stream, first + begin, left < ELEMENTS_AT_ONCE ? left : ELEMENTS_AT_ONCE, out + begin);
    }
}
