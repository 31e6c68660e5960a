/* io/codec/varve_loops.h: the inner loops of the codec kvarve, over tiles of 32 tokens: one table for each
 * instruction set. What decoding needs gives the same bits in all of them. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/codec/rans.h"
#include "io/codec/varve_round.h"
#include "io/codec/varve_tables.h"
#include "kernels/convert.h"

/* K or V of one head of a tile's tokens: numbers are `unit` each and lie around the means; keys turn by
 * cosines and sines [width, TILE] (io/codec/key_turns.h, by token), values do not (NULL). Elements are rows
 * [width], a token's `stride` bytes behind the one's before. */
typedef struct varve_rows {
    int width, n_tokens;
    const float *means; /* [width] */
    float unit;
    const float *turns;
    dtype type;
    size_t stride;
    float *room; /* [width, TILE] */
} varve_rows;

typedef struct varve_loops {
    const char *isa;
    bool (*is_available)(void);

    /* out[n_out, TILE] = sum over the n_listed pairs p of the list, of n_pairs: matrix[j / 2, p, j % 2, 0] *
     * in[p, t, 0] + matrix[j / 2, p, j % 2, 1] * in[p, t, 1], for number j and token t; what overflows wraps
     * around. n_out is even. */
    void (*sum_pairs)(const int16_t *matrix, int n_out, int n_pairs, const int16_t *in, const uint16_t *list,
                      int n_listed, int32_t *out);

    /* symbols[n, TILE] = the next ones of each lane that the mask has, of these classes; 0 in others. */
    void (*take)(rans_decoder *d, const varve_class *const *classes, int n, uint32_t mask, int8_t *symbols);

    /* digits[n, TILE] of bases[n, TILE]: the next ones of each lane that the mask has, by these tables; where
     * that is NULL, and in other lanes, 0. */
    void (*refine)(rans_decoder *d, const varve_digits *const *tables, int n, uint32_t mask,
                   const int8_t *bases, int8_t *digits);

    /* components[n / 2, TILE, 2] of symbols[n, TILE], by varve_component. */
    void (*dequantise)(const varve_class *const *classes, int n, const int8_t *symbols, int16_t *components);

    /* numbers[n / 2, TILE, 2] = sums[n, TILE] * scale + predicted[n, TILE], by varve_round_number. */
    void (*round_sums)(const int32_t *sums, float scale, const float *predicted, int n, int16_t *numbers);

    /* turns[width, TILE] of the tokens at positions[TILE], by key_turns_of. */
    void (*turns)(const float *frequencies, int width, const int64_t *positions, float *turns);

    /* Elements from numbers[width / 2, TILE, 2], and values[width, TILE] (in units) from elements. */
    void (*store)(const varve_rows *rows, const int16_t *numbers, void *elements);
    void (*load)(const varve_rows *rows, const void *elements, float *values);

    /* The same bytes as rans_encode, of the symbols of whole rows: n is a multiple of TILE. */
    size_t (*encode)(const rans_range *symbols, size_t n, uint8_t *out);

    /* What is only for encoding, too: other instruction sets give other last bits. */

    /* numbers[n / 2, TILE, 2] = values[n, TILE] less predicted[n, TILE], which are VARVE_NUMBER_UNITths, as
     * multiples of a unit of each token, by which sums over an orthonormal basis do not overflow; the units
     * are not finite where a value is not. */
    void (*scale)(const float *values, const float *predicted, int n, int16_t *numbers, float *units);

    /* Of components sums[n, TILE] in these units: steps[n, TILE], symbols[n, TILE] by the rounding of each
     * one's class, the largest[TILE] of them so far, and to errors[TILE] what is lost. */
    void (*quantise)(const int32_t *sums, int n, const float *units, const uint8_t *classes,
                     const varve_rounding *roundings, float *steps, int16_t *symbols, int16_t *largest,
                     float *errors);

    /* components[n / 2, TILE, 2] of symbols[n, TILE] up to VARVE_LARGEST_SYMBOL of these of all classes. */
    void (*rebuild)(const varve_class *all, const uint8_t *classes, int n, const int16_t *symbols,
                    int16_t *components);

    /* Add to squares[n] those of steps[n, TILE], each times the share[TILE] of its token. */
    void (*add_squares)(const float *steps, const float *shares, int n, double *squares);

    /* Add to squares[TILE] those of values[n, TILE], and to errors[TILE] those of what numbers [n / 2, TILE,
     * 2] of this unit differ from them. */
    void (*compare)(const float *values, const int16_t *numbers, float unit, int n, float *squares,
                    float *errors);
} varve_loops;

/* Best first; NULL at the end. */
extern const varve_loops *const varve_loops_all[];

/* The best that this processor has. */
const varve_loops *varve_loops_best(void);

extern const varve_loops varve_loops_portable;
