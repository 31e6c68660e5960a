/* io/codec/varve_loops.h: the inner loops of the codec kvarve, over tiles of 32 tokens: one table for each
 * instruction set. What decoding needs gives the same bits in all of them. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/codec/rans.h"

enum { VARVE_TILE = RANS_LANES };

typedef struct varve_loops {
    const char *isa;
    bool (*is_available)(void);

    /* out[n_out, TILE] = sum over n_listed pairs p of the list: matrix[p, j, 0] * in[p, t, 0] +
     * matrix[p, j, 1] * in[p, t, 1], for number j and token t; what overflows wraps around. */
    void (*sum_pairs)(const int16_t *matrix, int n_out, const int16_t *in, const uint16_t *list, int n_listed,
                      int32_t *out);

    /* out[n, TILE] = components of in[n, TILE], by the transposed pairs of a basis [n / 2, n, 2], in units of
     * 2^VARVE_BASIS_BITS. For encoding: other instruction sets give other last bits. */
    void (*project)(const int16_t *pairs, int n, const float *in, float *out);

    /* The next symbol of each lane that the mask has; 0 in others. slots: rans_slot of each number. */
    void (*take)(rans_decoder *d, const uint32_t *slots, uint32_t mask, int8_t *symbols);
} varve_loops;

/* Best first; NULL at the end. */
extern const varve_loops *const varve_loops_all[];

/* The best that this processor has. */
const varve_loops *varve_loops_best(void);
