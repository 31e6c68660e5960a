/* io/codec/varve_planes.h: symbols of the codec kvarve in two planes: a base, three times as coarse, which
 * can be decoded by itself, and a digit that refines it, symbol = 3 * base + digit.
 *
 * Both are entropy coded by what the symbol's class says of it: the base by the class's probabilities added
 * up, the digit by those that are left where the base is known, so that the two take together what the symbol
 * would take (the chain rule of entropy). Digits go by three sizes of the base, 0, 1, and beyond, and count
 * from it towards 0 and away. Local. */
#pragma once

#include "io/codec/varve_tables.h"

/* The nearest third. */
static inline int varve_base_of(int symbol) {
    return (symbol < 0 ? symbol - 1 : symbol + 1) / VARVE_PLANE_RATIO;
}

/* Of a row of starts: the numbers of a digit. */
static inline rans_range varve_digit_range(const uint16_t starts[2], int digit) {
    const uint16_t begin = digit < 0 ? 0 : starts[digit], end = digit > 0 ? RANS_TOTAL : starts[digit + 1];
    return (rans_range){begin, (uint16_t)(end - begin)};
}

/* From the tables' classes, those of bases, whose shifts are 64ths of the coarser step, and the digits. */
void varve_make_planes(varve_tables *t);
