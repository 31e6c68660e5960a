/* kernels/cpu/cpu_isa.h: the inner kernels, one constant table for each instruction set and precision.
 *
 * All loops that carry arithmetic are here; the drivers (matrix.c, attend.c, rows.c) hold the threads, the
 * blocking and the pages. Every kernel computes an output by one fixed sequence of operations, whatever is
 * computed beside it. Tables may differ from each other in the last bits.
 *
 * A *word* is 4 bytes along a dot product: two bf16, one f32 or four int8. A *panel* holds 16 outputs (matrix
 * rows, or positions of keys) as [n_words][16] words, 64-byte aligned. `act` arrays have the table's
 * precision. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/int8_code.h"

enum { PANEL = 16, CACHE_LINE = 64 };

/* Positions of a block that weigh's sums may take together: calls begin and end at multiples of as many
 * panels, so that a sum does not depend on which others are taken beside it. */
enum { WEIGH_PANELS = 2, WEIGH_INT8_PIECES = INT8_GROUP / (WEIGH_PANELS * PANEL) };

/* What memory is asked for beside arithmetic that waits for it. A processor fetches ahead by itself where it
 * sees memory read in order, best at several places at once, and begins anew where what lies together ends;
 * and it has but few lines under way that it was asked for. So what is read soon is asked for line by line at
 * several places in turn, into the nearest cache, and what is read after that into the next. These are hints:
 * where nothing lies there, or other things, nothing is lost but time. */
enum { AHEAD_PLACES = 8 };

typedef struct cpu_ahead {
    struct {
        const char *soon, *later;
    } at[AHEAD_PLACES];
    size_t n_lines;    /* that were asked for */
    int softmax_lines; /* to ask for beside the softmax of a panel */
} cpu_ahead;

static inline void cpu_ahead_line(const cpu_ahead *ahead, size_t line) {
    enum { NEXT_CACHE = 2, NEAREST_CACHE = 3 };
    const size_t byte = line / AHEAD_PLACES * CACHE_LINE;
    __builtin_prefetch(ahead->at[line % AHEAD_PLACES].soon + byte, 0, NEAREST_CACHE);
    __builtin_prefetch(ahead->at[line % AHEAD_PLACES].later + byte, 0, NEXT_CACHE);
}

static inline void cpu_ahead_lines(cpu_ahead *ahead, int n) {
    for (int i = 0; i < n; i++)
        cpu_ahead_line(ahead, ahead->n_lines++);
}

/* Products of few rows with some panels. */
typedef struct cpu_tile {
    int rows;                /* most of a call */
    int panels;              /* that a call walks beside each other */
    int ahead_share;         /* of so many lines of cpu_ahead it leaves one to others; 0: none */
    size_t input_word_bytes; /* of one packed input word of one row */

    /* input[n_words][n_rows] = the words of rows of act[n_cols], row_bytes apart; an odd bf16 is padded with
     * 0. */
    void (*pack_input)(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input);

    /* out[n_rows][n_panels * PANEL] (ld floats apart) = or += input * panels^T over n_words, summed in order
     * of the words. Panels are panel_words apart. ahead: NULL, or what is asked for meanwhile. */
    void (*multiply)(const void *input, int n_rows, const uint32_t *panels, size_t panel_words, int n_panels,
                     int n_words, cpu_ahead *ahead, bool add, float *out, size_t ld);
} cpu_tile;

typedef struct cpu_kernels {
    const char *isa;
    cpu_tile tile;
    cpu_tile int8_tile; /* of bf16 inputs and panels of int8 weights, whole groups in a call */
    cpu_tile int8_keys; /* of queries and keys in int8 (KV_INT8): the same, with coarser inputs */

    /* panel[n_words][PANEL] = the words of n_rows <= PANEL rows, row_bytes apart; further rows are 0. */
    void (*pack_panel)(const void *rows, size_t row_bytes, int n_rows, int n_words, uint32_t *panel);

    /* Weights exp(scale * score - max) of the scores [first, last) of one query's block, as input words of
     * one row that begin with score 0; whole panels are written, with weight 0 beside the range. */
    void (*softmax)(const float *scores, int first, int last, float scale, cpu_ahead *ahead, void *weights,
                    float *partial);

    /* For at most tile.rows rows:
     * values[n_rows][n_panels * PANEL] (ld floats apart) += weights (input words of rows that are row_bytes
     * apart) * n_words words [n_panels * PANEL] of values, word_step words apart, in order of the words, each
     * sum one chain with what is there. The words are those of whole WEIGH_PANELS. */
    void (*weigh)(const void *weights, size_t row_bytes, int n_rows, const uint32_t *words, size_t word_step,
                  int n_panels, int n_words, cpu_ahead *ahead, float *values, size_t ld);

    /* Of values in int8, whose scales in a block are these: factors[ATTEND_BLOCK] by which the weights of the
     * places [first, last) are whole numbers of the unit that is returned, and 0 beside them. */
    float (*factors_int8)(const float *scales, int first, int last, float *factors);

    /* softmax, of weights times such factors, to int8_tile's input words of a whole block: each INT8_GROUP
     * places are a group. */
    void (*softmax_int8)(const float *scores, int first, int last, float scale, const float *factors,
                         float unit, cpu_ahead *ahead, void *words, float *partial);

    /* For at most int8_keys.rows rows: values[n_rows][n_panels * PANEL] (ld floats apart) += a group of such
     * words (of rows that are row_bytes apart) * the codes. words[i]: the next WEIGH_PANELS of the group,
     * [n_panels * PANEL] words for each 4 places; NULL where all weights are 0. The sum of a group is taken
     * in whole numbers: every instruction set has the same. */
    void (*weigh_int8)(const void *weights, size_t row_bytes, int n_rows,
                       const uint32_t *const words[WEIGH_INT8_PIECES], int n_panels, cpu_ahead *ahead,
                       float *values, size_t ld);

    /* A group of places in int4 (KV_INT4), keys or values of `width` elements, padding among them; for at
     * most int4_rows rows. scores[n_rows][KV_INT4_PLACES] (ld floats apart) of the queries [n_rows][width];
     * and sums[n_rows][width] (ld floats apart) += weights[n_rows][KV_INT4_PLACES] (weights_ld apart) * the
     * values, none of which counts where its weight is 0. What meets codes is rounded to whole numbers: a
     * query to one digit of 8 bits, a weight to two. */
    int int4_rows;
    void (*score_int4)(const float *queries, int n_rows, int width, const void *keys, cpu_ahead *ahead,
                       float *scores, size_t ld);
    void (*weigh_int4)(const float *weights, size_t weights_ld, int n_rows, int width, const void *values,
                       cpu_ahead *ahead, float *sums, size_t ld);

    /* later = earlier and later, partial results (attend_blocks.h), merged, exactly by m = max(m1, m2), e =
     * sum e_j exp(m_j - m), same for the values (DistAttention, arXiv 2401.02669). An empty one changes no
     * bit. */
    void (*merge)(const float *earlier, float *later, int width);

    /* y[n] (act) = values / sum. */
    void (*finish)(const float *partial, int n, void *y);

    /* As device_ops, for one row. */
    void (*rmsnorm)(const float *x, const float *weight, float eps, int n, void *y);
    void (*swiglu)(const float *gate, const float *up, int n, void *y);

    void (*store)(const float *x, int n, void *y); /* y[n] (act) = x, to the nearest */

    /* y = exp(x), the function of every kernel above: within 2 ulp for x in [-87, 88]; 0 below, exp(88)
     * above; NaN stays NaN. */
    void (*exp)(const float *x, int n, float *y);
} cpu_kernels;

/* Indexed by precision, BF16 or F32; that of BF16 is also for INT8. */
extern const cpu_kernels cpu_kernels_portable[2], cpu_kernels_avx2[2], cpu_kernels_avx512[2],
    cpu_kernels_avx512f[2], cpu_kernels_amx[2];

/* The table that this processor can run: the best for NULL, else by name; NULL when there is none. */
const cpu_kernels *cpu_isa_find(const char *isa, precision p);
