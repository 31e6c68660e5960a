/* io/codec/varve_round.h: which symbol a component gets when the codec kvarve encodes: where the next smaller
 * one costs fewer bits than the error is worth, that one. Local. */
#pragma once

#include <math.h>

#include "kernels/varve_code.h"

/* By how much the density of a Laplacian distribution with the deviation of the class falls, in nats a step.
 */
double varve_fall(int class_index);

/* Of a class, in steps: 0 below `zero`, else up from `half` behind a whole number. */
typedef struct varve_rounding {
    float zero, half;
} varve_rounding;

/* From a Laplacian distribution with the deviation of the class. */
varve_rounding varve_rounding_of(int class_index);

/* The symbol of a component of so many steps: what is larger than VARVE_LARGEST_SYMBOL is one more, and so is
 * a NaN. */
static inline int varve_round(const varve_rounding *r, float x) {
    const float size = fabsf(x), up = size + r->half;
    const float most = up < VARVE_LARGEST_SYMBOL + 1 ? up : VARVE_LARGEST_SYMBOL + 1;
    const int symbol = most < 1 ? 1 : (int)most;
    return size < r->zero ? 0 : x < 0 ? -symbol : symbol;
}
