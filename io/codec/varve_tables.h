/* io/codec/varve_tables.h: what the codec kvarve (io/codec/varve.h) must know of a model.
 *
 * The numbers of a token in a layer are its K and V of all kv heads, keys as they were before RoPE turned
 * them, less their means, in units of K or of V. They lie in blocks of heads, those of K before those of V in
 * each. A basis is an orthonormal transform of the numbers of a block (or of its K, or of its V) to
 * components: the principal ones of what it was made for, in order of falling deviation. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/codec/byte_reader.h"
#include "io/codec/rans.h"
#include "kernels/kv_page.h"
#include "src/base/memory.h"
#include "src/base/status.h"

enum {
    VARVE_BLOCK_WIDTH = 256, /* of K of a block, and of V: at most, but one head at least */
    VARVE_MOST_SYMBOL = 126  /* what is larger escapes */
};

typedef struct varve_shape {
    int n_heads, width; /* width is even */
} varve_shape;

static inline int varve_n_numbers(const varve_shape *s) {
    return (int)N_KV_PARTS * s->n_heads * s->width;
}

static inline int varve_block_heads(const varve_shape *s) {
    return s->width < VARVE_BLOCK_WIDTH ? VARVE_BLOCK_WIDTH / s->width : 1;
}

static inline int varve_n_blocks(const varve_shape *s) {
    return (s->n_heads - 1) / varve_block_heads(s) + 1;
}

/* Where the numbers of K or V of a head begin. */
int varve_number(const varve_shape *s, kv_part part, int head);

typedef struct varve_basis {
    int first, n;     /* of numbers [first, first + n); n is even */
    int16_t *pairs;   /* [n / 2, n / 2, 2, 2]: of two numbers at a time, for each two components, their shares
                         in the first number and in the second. NULL: each component is its number */
    int16_t *levels;  /* [n] of components: their deviations are 2^(level / VARVE_OCTAVE) */
    int16_t *shares;  /* as pairs: of numbers of the layer before, their shares in ... */
    float *predicted; /* [n] ... the prediction of each number, in these units. NULL: there is none */
} varve_basis;

typedef enum varve_bases {
    VARVE_PARTS,     /* of K and of V of each block */
    VARVE_JOINT,     /* of each block */
    VARVE_PREDICTED, /* of what is left of each block's numbers behind their prediction from its numbers in
                        the layer before */
    N_VARVE_BASES
} varve_bases;

typedef struct varve_layer {
    float units[N_KV_PARTS];
    float sink_norm;    /* a token whose V is shorter is a sink */
    float *means;       /* [numbers] */
    float *frequencies; /* [width]: the first half, radians that a pair turns by from position to position */
    varve_basis *bases[N_VARVE_BASES]; /* [varve_n_bases] */
} varve_layer;

int varve_n_bases(const varve_shape *s, varve_bases kind);

/* The numbers [*first, *first + *n) of basis i. */
void varve_locate_basis(const varve_shape *s, varve_bases kind, int i, int *first, int *n);

/* Symbols of components of one class, whose deviation is so many steps: -most to most, then the escape. */
typedef struct varve_class {
    int most;
    bool is_silent; /* it has no symbols: they are all 0 */
    uint16_t starts[2 * VARVE_MOST_SYMBOL + 3];
    int8_t shifts[3];           /* what numbers 1, 2, and beyond stand for, less themselves, in 64ths */
    uint32_t slots[RANS_TOTAL]; /* for each number that a stream shows: symbol, start, size (rans_slot) */
} varve_class;

/* Of a class, where the numbers of the digits 0 and 1 begin, those of -1 before them: for each size of a base
 * (io/codec/varve_planes.h). */
typedef struct varve_digits {
    uint16_t starts[VARVE_DIGIT_ROWS][2];
} varve_digits;

typedef struct varve_tables {
    varve_shape shape;
    int n_layers;
    varve_layer *layers;
    varve_class *classes; /* [VARVE_CLASSES] */
    varve_class *coarse;  /* the same of bases, and */
    varve_digits *digits; /* what refines these: io/codec/varve_planes.h */
} varve_tables;

/* A class whose symbols, and at last the escape, have these sizes [2 * most + 2], each at least 1. False:
 * they do not add up. */
bool varve_fill_class(varve_class *c, int most, const uint16_t *sizes);

/* A layer as bytes: from what calibration found. rows: [n, n] of each basis, component by component. */
void varve_append_basis(const float *rows, const int16_t *levels, int n, text_buffer *out);

/* Take the next layer, or the classes, out of bytes, none of which is trusted. Release what was read with
 * varve_tables_free, also after a failure. */
status varve_read_layer(byte_reader *r, const varve_shape *shape, bool is_first, varve_layer *out);
status varve_read_classes(byte_reader *r, varve_class **out);
void varve_tables_free(varve_tables *t); /* zeroed is fine */
