#include <math.h>

#include "io/codec/varve_private.h"

double varve_class_bits(const varve_class *c) {
    double bits = 0;
    for (int i = 0; !c->is_silent && i < 2 * c->most + 2; i++) {
        const double share = (double)(c->starts[i + 1] - c->starts[i]) / RANS_TOTAL;
        bits -= share * log2(share);
    }
    return bits;
}

double varve_expected_bits(const varve_tables *t, varve_kind kind, int step_level, int n_layers) {
    double bits[VARVE_CLASSES], all = 0;
    for (int i = 0; i < VARVE_CLASSES; i++)
        bits[i] = varve_class_bits(&t->classes[i]);
    for (int layer = 0; layer < t->n_layers; layer++) {
        const varve_bases of = varve_bases_of(kind, layer % n_layers == 0);
        const varve_basis *bases = t->layers[layer].bases[of];
        for (int i = 0; i < varve_n_bases(&t->shape, of); i++)
            for (int c = 0; c < bases[i].n; c++)
                all += bits[varve_class_of(bases[i].levels[c], step_level)];
    }
    return all / t->n_layers / varve_n_numbers(&t->shape);
}
