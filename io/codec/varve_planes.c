#include "io/codec/varve_planes.h"

#include <stdlib.h>

#include "io/codec/varve_loops.h"

static int size_of(const varve_class *c, int symbol) {
    return abs(symbol) > c->most ? 0 : c->starts[symbol + c->most + 1] - c->starts[symbol + c->most];
}

/* What bases of this size and of larger ones, where it is the last, stand for, less their size. */
static int8_t shift_of(const varve_class *c, int base, bool and_beyond) {
    int64_t n = 0, sum = 0;
    for (int symbol = VARVE_PLANE_RATIO * base - 1; symbol <= c->most; symbol++) {
        if (!and_beyond && varve_base_of(symbol) != base) break;
        const int off = varve_component(c->shifts, symbol) -
                        VARVE_PLANE_RATIO * VARVE_SYMBOL_UNIT * varve_base_of(symbol);
        const int64_t weight = size_of(c, symbol) + size_of(c, -symbol);
        n += weight;
        sum += weight * off;
    }
    if (n == 0) return 0;
    return (int8_t)(sum / (n * VARVE_PLANE_RATIO));
}

static void coarsen(const varve_class *c, varve_class *coarse, varve_digits *digits) {
    uint16_t sizes[2 * VARVE_MOST_SYMBOL + 2] = {0};
    int64_t counts[VARVE_DIGIT_ROWS][VARVE_PLANE_RATIO] = {0};
    const int most = varve_base_of(c->most);
    for (int symbol = -c->most; symbol <= c->most; symbol++) {
        const int base = varve_base_of(symbol), digit = symbol - VARVE_PLANE_RATIO * base;
        sizes[base + most] = (uint16_t)(sizes[base + most] + size_of(c, symbol));
        counts[varve_digits_row(base)][1 + (base < 0 ? -digit : digit)] += size_of(c, symbol);
    }
    sizes[2 * most + 1] = (uint16_t)(RANS_TOTAL - c->starts[2 * c->most + 1]);
    varve_fill_class(coarse, most, sizes);
    for (int i = 0; i < 3; i++)
        coarse->shifts[i] = shift_of(c, i + 1, i == 2);
    for (int row = 0; row < VARVE_DIGIT_ROWS; row++) {
        uint16_t shares[VARVE_PLANE_RATIO];
        rans_share_out(counts[row], VARVE_PLANE_RATIO, shares);
        digits->starts[row][0] = shares[0];
        digits->starts[row][1] = (uint16_t)(shares[0] + shares[1]);
    }
}

void varve_make_planes(varve_tables *t) {
    t->coarse = mem_new(VARVE_CLASSES, sizeof *t->coarse);
    t->digits = mem_new(VARVE_CLASSES, sizeof *t->digits);
    for (int i = 0; i < VARVE_CLASSES; i++)
        if (t->classes[i].is_silent)
            t->coarse[i].is_silent = true;
        else
            coarsen(&t->classes[i], &t->coarse[i], &t->digits[i]);
}
