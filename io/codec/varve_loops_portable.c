/* Tiles on any processor. */
#include <string.h>

#include "io/codec/varve_planes.h"
#include "io/codec/varve_tile_loops.h"

static bool is_available(void) {
    return true;
}

static void sum_pairs(const int16_t *matrix, int n_out, int n_pairs, const int16_t *in, const uint16_t *list,
                      int n_listed, int32_t *out) {
    for (int j = 0; j < n_out; j++) {
        const int16_t *row = matrix + ((size_t)(j / 2) * (size_t)n_pairs * 2 + (size_t)j % 2) * 2;
        uint32_t sums[VARVE_TILE] = {0};
        for (int i = 0; i < n_listed; i++) {
            const int16_t *x = in + (size_t)list[i] * VARVE_TILE * 2, *m = row + (size_t)list[i] * 4;
            for (int t = 0; t < VARVE_TILE; t++)
                sums[t] += (uint32_t)(m[0] * x[2 * t]) + (uint32_t)(m[1] * x[2 * t + 1]);
        }
        memcpy(out + (size_t)j * VARVE_TILE, sums, sizeof sums);
    }
}

static void take(rans_decoder *d, const varve_class *const *classes, int n, uint32_t mask, int8_t *symbols) {
    memset(symbols, 0, (size_t)n * VARVE_TILE);
    for (int c = 0; c < n; c++)
        for (size_t lane = 0; lane < VARVE_TILE; lane++) {
            if (classes[c]->is_silent || !(mask >> lane & 1)) continue;
            const uint32_t slot = classes[c]->slots[rans_peek(d, lane)];
            rans_advance(d, lane, (rans_range){(uint16_t)(slot >> 8 & 0xfff), (uint16_t)(slot >> 20)});
            symbols[(size_t)c * VARVE_TILE + lane] = (int8_t)slot;
        }
}

static void refine(rans_decoder *d, const varve_digits *const *tables, int n, uint32_t mask,
                   const int8_t *bases, int8_t *digits) {
    memset(digits, 0, (size_t)n * VARVE_TILE);
    for (int c = 0; c < n; c++)
        for (size_t lane = 0; lane < VARVE_TILE; lane++) {
            if (!tables[c] || !(mask >> lane & 1)) continue;
            const size_t at = (size_t)c * VARVE_TILE + lane;
            const uint16_t *starts = tables[c]->starts[varve_digits_row(bases[at])];
            const uint32_t number = rans_peek(d, lane);
            const int digit = (number >= starts[0]) + (number >= starts[1]) - 1;
            rans_advance(d, lane, varve_digit_range(starts, digit));
            digits[at] = (int8_t)(bases[at] < 0 ? -digit : digit);
        }
}

const varve_loops varve_loops_portable = {
    "portable", is_available, sum_pairs, take,  refine,   dequantise, round_sums,  turns_of,
    store,      load_rows,    encode,    scale, quantise, rebuild,    add_squares, compare};
