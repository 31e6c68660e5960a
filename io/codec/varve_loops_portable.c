#include <string.h>

#include "io/codec/varve_loops.h"

static bool is_available(void) {
    return true;
}

static void sum_pairs(const int16_t *matrix, int n_out, const int16_t *in, const uint16_t *list, int n_listed,
                      int32_t *out) {
    for (int j = 0; j < n_out; j++) {
        uint32_t sums[VARVE_TILE] = {0};
        for (int i = 0; i < n_listed; i++) {
            const int16_t *x = in + (size_t)list[i] * VARVE_TILE * 2;
            const int16_t *m = matrix + ((size_t)list[i] * (size_t)n_out + (size_t)j) * 2;
            for (int t = 0; t < VARVE_TILE; t++)
                sums[t] += (uint32_t)(m[0] * x[2 * t]) + (uint32_t)(m[1] * x[2 * t + 1]);
        }
        memcpy(out + (size_t)j * VARVE_TILE, sums, sizeof sums);
    }
}

static void project(const int16_t *pairs, int n, const float *in, float *out) {
    for (int c = 0; c < n; c++) {
        float *sums = out + (size_t)c * VARVE_TILE;
        memset(sums, 0, VARVE_TILE * sizeof *sums);
        for (int j = 0; j < n; j++) {
            const float share = (float)pairs[((size_t)(c / 2) * (size_t)n + (size_t)j) * 2 + (size_t)c % 2];
            for (int t = 0; t < VARVE_TILE; t++)
                sums[t] += share * in[(size_t)j * VARVE_TILE + (size_t)t];
        }
    }
}

static void take(rans_decoder *d, const uint32_t *slots, uint32_t mask, int8_t *symbols) {
    memset(symbols, 0, VARVE_TILE);
    for (size_t lane = 0; lane < VARVE_TILE; lane++) {
        if (!(mask >> lane & 1)) continue;
        const uint32_t slot = slots[rans_peek(d, lane)];
        rans_advance(d, lane, (rans_range){(uint16_t)(slot >> 8 & 0xfff), (uint16_t)(slot >> 20)});
        symbols[lane] = (int8_t)slot;
    }
}

const varve_loops varve_loops_portable = {"portable", is_available, sum_pairs, project, take};
