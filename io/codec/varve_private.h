/* io/codec/varve_private.h: what encoding and decoding of the codec kvarve share: a tile of tokens on its way
 * through the layers. Local. */
#pragma once

#include "io/codec/varve.h"
#include "io/codec/varve_copies.h"
#include "io/codec/varve_loops.h"

/* The class of a component of a basis. own: what the chunk adds to a layer's levels [numbers]; NULL: nothing.
 */
static inline int varve_component_class(const varve_basis *b, int component, const int8_t *own, int grade,
                                        int step_level) {
    const int level = b->levels[component] + (own ? own[b->first + component] : 0);
    return varve_class_of(level + grade * VARVE_OCTAVE, step_level);
}

/* The grade of a tile by the youngest of its tokens. */
static inline int varve_grade(int32_t age) {
    return age < 32 ? 2 : age < 128 ? 1 : 0;
}

/* The bits of a symbol of a class, where its probabilities are right. */
double varve_class_bits(const varve_class *c);

enum { VARVE_BLOCK = 64 }; /* numbers at a time, whose sums stay in the first cache */

/* 32 tokens, or fewer at the end of a chunk. Numbers are multiples of a unit's 256th, components of a step's
 * 64th; both lie in pairs: [n / 2, TILE, 2]. */
typedef struct varve_tile {
    const varve_tables *tables;
    const varve_loops *loops;
    varve_kind kind;
    int n_numbers;
    int n_tokens;
    int64_t positions[VARVE_TILE];
    const float *turned; /* the frequencies of the turns; NULL before the first */
    float *turns;        /* [width, TILE] */
    int16_t *before;     /* numbers of the layer before, and */
    int16_t *numbers;    /* of this one */
    int16_t *components;
    int16_t *firsts;  /* [tiles, numbers, TILE]: components of the first layer, of copies' sources */
    float *predicted; /* [numbers, TILE] */
    int32_t *sums;    /* [VARVE_BLOCK, TILE] of some numbers */
    uint16_t *list;   /* [numbers / 2] */
    float *row;       /* [2, width]: a token's, and its turns */
    float *room;      /* [width, TILE] */
} varve_tile;

/* n_copied: tokens of a chunk in which some copy others; else 0. */
void varve_tile_open(const varve_tables *t, varve_kind kind, int n_copied, varve_tile *out);
void varve_tile_close(varve_tile *tile);

/* The tile's tokens are n_tokens from now on, whose positions the caller sets. */
void varve_tile_begin(varve_tile *tile, int n_tokens);

/* Go on to this layer's turns, which are mostly those of the layer before. */
void varve_tile_turn(varve_tile *tile, int layer);

/* The bases of a layer, which may be the first of a chunk. */
static inline varve_bases varve_bases_of(varve_kind kind, bool is_first) {
    return kind == VARVE_FAST ? VARVE_PARTS : is_first ? VARVE_JOINT : VARVE_PREDICTED;
}

/* They, and how many. */
const varve_basis *varve_tile_bases(const varve_tile *tile, int layer, bool is_first, int *n);

/* Bases as sums over numbers want them, one behind the other: [n / 2, n / 2, 2, 2], by components. Released
 * with free(). */
int16_t *varve_transpose(const varve_basis *bases, int n_bases);

/* What the layer before says of this one; zeros for the first of a chunk. */
void varve_tile_predict(varve_tile *tile, int layer, bool is_first);

/* What sums over a basis are where components are the numbers: of those from j on, n of in[.., TILE, 2]. */
static inline void varve_sum_same(const int16_t *in, int j, int n, int32_t *sums) {
    for (int i = j; i < j + n; i++)
        for (int t = 0; t < VARVE_TILE; t++)
            *sums++ = in[(i / 2 * VARVE_TILE + t) * 2 + i % 2] * (1 << VARVE_BASIS_BITS);
}

/* Numbers from components and the prediction. */
void varve_tile_rebuild(varve_tile *tile, int layer, bool is_first, float step);

/* Of the chunk's i-th tile in its first layer: these lanes get the components of their sources. */
void varve_tile_copy(varve_tile *tile, int i, const varve_copies *c, uint32_t copies);

/* This layer is the one before from now on. */
void varve_tile_next(varve_tile *tile);

static inline int16_t *varve_pair(int16_t *pairs, int i, int lane) {
    return pairs + ((size_t)(i / 2) * VARVE_TILE + (size_t)lane) * 2 + (size_t)i % 2;
}

/* Elements [heads, TILE, width] of K or V of the tile's tokens from their numbers. */
void varve_tile_store(const varve_tile *tile, int layer, kv_part part, dtype type, void *elements);

/* Values [numbers, TILE] (units, not 256ths) from elements [n_tokens, heads, width]. */
void varve_tile_values(const varve_tile *tile, int layer, kv_part part, dtype type, const void *elements,
                       float *values);

/* Numbers of one lane's token from its elements [heads, width]. */
void varve_tile_load(varve_tile *tile, int layer, kv_part part, int lane, dtype type, const void *elements);

/* Elements [heads, width] of K or V from half of the bytes of a token that is kept with 8 bits. */
void varve_sink_decode(const varve_shape *s, const uint8_t *bytes, dtype type, void *elements);

/* Which of a chunk's rows K or V of a token in a layer of it is. */
static inline size_t varve_row(const varve_chunk *chunk, int layer, int part, int token) {
    return (size_t)(layer * N_KV_PARTS + part) * (size_t)chunk->n_tokens + (size_t)token;
}
