/* kernels/cpu/int8.h: matrices in int8, with a float32 scale for each INT8_GROUP weights of a row. The panel:
 * cpu_isa.h. Everything is Local. */
#pragma once

#include "kernels/cpu/cpu_isa.h"

/* Words of a row: the scales of its groups, and the weights. */
int64_t int8_words(int64_t n_cols);

/* Round groups of one row to int8: columns [col0, col0 + n_cols) of row `row` of the panel, col0 a multiple
 * of INT8_GROUP, and the end too unless it is the row's. A weight is off by half of its group's scale at
 * most, and that is 1/127 of its largest weight, or the least normal number. A group with a number that is
 * not finite becomes NaN. */
void int8_put_row(uint32_t *panel, int row, int64_t col0, int64_t n_cols, const float *weights);

/* x[n_cols] = the row's weights as they are multiplied. */
void int8_get_row(const uint32_t *panel, int row, int64_t n_cols, float *x);
