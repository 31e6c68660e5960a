#include "io/codec/varve_round.h"

#include <math.h>

/* A bit is worth this much of a step's square. */
static const double bit_price = 0.115;

double varve_fall(int class_index) {
    const double deviation = exp2((double)(class_index - VARVE_UNIT_CLASS) / VARVE_OCTAVE);
    return sqrt(2) / deviation;
}

/* The bits of the symbols 0 and 1, and how many more each further one takes. */
varve_rounding varve_rounding_of(int class_index) {
    const double fall = varve_fall(class_index);
    const double zero_bits = -log2(-expm1(-fall / 2)), more_bits = fall / log(2);
    const double one_bits = fall / 2 / log(2) - log2(-expm1(-fall) / 2);
    return (varve_rounding){(float)(0.5 + bit_price / 2 * (one_bits - zero_bits)),
                            (float)(0.5 - bit_price / 2 * more_bits)};
}
