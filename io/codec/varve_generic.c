#include "io/codec/varve_generic.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static varve_basis identity(const varve_shape *s, varve_bases kind, int i) {
    varve_basis b = {.pairs = NULL};
    varve_locate_basis(s, kind, i, &b.first, &b.n);
    b.levels = mem_new((size_t)b.n, sizeof *b.levels);
    return b;
}

status varve_read_scale(byte_reader *r, const varve_shape *s, bool is_first, const float *frequencies,
                        varve_layer *out) {
    varve_scale scale;
    byte_reader_take(r, &scale, sizeof scale);
    *out = (varve_layer){.units = {scale.units[KV_PART_K], scale.units[KV_PART_V]},
                         .sink_norm = scale.sink_norm};
    bool good = !r->is_short && isfinite(scale.sink_norm);
    for (int part = 0; part < N_KV_PARTS; part++)
        good = good && isfinite(scale.units[part]) && scale.units[part] > 0;
    if (!good) return status_refuse("generic tables of kvarve that are cut off or damaged");
    out->means = mem_new((size_t)varve_n_numbers(s), sizeof *out->means);
    out->frequencies = mem_new((size_t)s->width / 2, sizeof *out->frequencies);
    memcpy(out->frequencies, frequencies, (size_t)s->width / 2 * sizeof *frequencies);
    for (int kind = VARVE_PARTS; kind <= (is_first ? VARVE_JOINT : VARVE_PREDICTED); kind++) {
        const int n = varve_n_bases(s, (varve_bases)kind);
        out->bases[kind] = mem_new((size_t)n, sizeof *out->bases[kind]);
        for (int i = 0; i < n; i++)
            out->bases[kind][i] = identity(s, (varve_bases)kind, i);
    }
    return STATUS_OK;
}

/* ---- classes ---- */

/* e^-x of 0 <= x < 32: of a 64th by the series of Taylor. */
static double fall(double x) {
    const double y = -x / 64;
    double sum = 1;
    for (int i = 12; i > 0; i--)
        sum = 1 + sum * y / i;
    for (int i = 0; i < 6; i++)
        sum *= sum;
    return sum;
}

/* 2^(class / VARVE_OCTAVE), from the class of components whose deviation is the step. */
static double deviation_of(int class_index) {
    static const double sixths[VARVE_OCTAVE] = {1,
                                                1.1224620483093730,
                                                1.2599210498948732,
                                                1.4142135623730951,
                                                1.5874010519681994,
                                                1.7817974362806785};
    double deviation = 1;
    for (int octave = class_index / VARVE_OCTAVE; octave < VARVE_UNIT_CLASS / VARVE_OCTAVE; octave++)
        deviation /= 2;
    for (int octave = VARVE_UNIT_CLASS / VARVE_OCTAVE; octave < class_index / VARVE_OCTAVE; octave++)
        deviation *= 2;
    return deviation * sixths[class_index % VARVE_OCTAVE];
}

/* A density that falls by e^-step from step to step; what is smaller than zero_share of a step is 0. */
static void make_class(int class_index, varve_class *c) {
    enum { ALL = 1 << 24 }; /* counted, in shares of one */
    static const double zero_share = 0.6;
    const double step = 1.4142135623730951 / deviation_of(class_index);
    double beyond = fall(step * zero_share), left = fall(step / 2);
    int64_t counts[2 * VARVE_MOST_SYMBOL + 2];
    uint16_t sizes[2 * VARVE_MOST_SYMBOL + 2];
    int most = 0;
    while (most < VARVE_MOST_SYMBOL && left * ALL > (double)ALL / (2 * RANS_TOTAL)) {
        most++;
        left *= fall(step);
    }
    c->is_silent = most == 0 || beyond * RANS_TOTAL < 1;
    if (c->is_silent) return;
    counts[most] = (int64_t)((1 - beyond) * ALL);
    for (int size = 1; size <= most; size++) {
        const double next = fall(step * (size + 0.5));
        counts[most + size] = counts[most - size] = (int64_t)((beyond - next) * ALL / 2);
        beyond = next;
    }
    counts[2 * most + 1] = (int64_t)(beyond * ALL);
    rans_share_out(counts, 2 * most + 2, sizes);
    const bool good = varve_fill_class(c, most, sizes);
    assert(good);
    (void)good;
}

varve_class *varve_generic_classes(void) {
    varve_class *classes = mem_new(VARVE_CLASSES, sizeof *classes);
    for (int i = 0; i < VARVE_CLASSES; i++)
        make_class(i, &classes[i]);
    return classes;
}
