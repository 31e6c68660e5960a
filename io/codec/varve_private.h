/* io/codec/varve_private.h: what encoding and decoding of the codec kvarve share: the payload's head, and a
 * tile of tokens on its way through the layers. Local. */
#pragma once

#include "io/codec/varve.h"
#include "io/codec/varve_loops.h"

enum { VARVE_NUMBER_UNIT = 256, VARVE_GRADES = 3, VARVE_OWN_LEVELS = 128 };

/* As in a file, little-endian. Behind it: runs [n_runs], the tiles' grades [n_tiles] and zeros to a multiple
 * of 4 bytes, where the kind has VARVE_OWN_LEVELS what is added to the tables' levels [n_layers, numbers], of
 * 1 byte each, marks [n_marks] in rising order, what they keep, escapes [n_escapes] of 2 bytes, the stream.
 * Of a chunk in two planes this is the base, with symbols and escapes of bases, and the other plane is a
 * stream of digits. */
typedef struct varve_head {
    float step;
    int16_t step_level;
    uint8_t kind, n_planes;
    uint32_t n_runs, n_marks, n_escapes;
} varve_head;

/* Tokens [first, ...) up to the next run have positions from `position` on. */
typedef struct varve_run {
    uint32_t first, position;
} varve_run;

/* A token of a layer that is not coded: tile, layer of the chunk (7 bits), lane (5), and whether it is kept
 * exactly (1): its K, then its V, as elements; or for each head of K and then of V a float32 and as many
 * numbers of 8 bits as it is wide, whose unit that is. */
static inline uint32_t varve_mark(int tile, int layer, int lane, bool is_exact) {
    return (uint32_t)tile << 13 | (uint32_t)layer << 6 | (uint32_t)lane << 1 | is_exact;
}

/* Steps of tiles by the youngest of their tokens: the step times this, and classes further up. */
extern const float varve_grade_factors[VARVE_GRADES];
extern const int varve_grade_classes[VARVE_GRADES];

/* The class of a component of a basis. own: what the chunk adds to a layer's levels [numbers]; NULL: nothing.
 */
static inline int varve_component_class(const varve_basis *b, int component, const int8_t *own, int grade,
                                        int step_level) {
    const int level = b->levels[component] + (own ? own[b->first + component] : 0);
    return varve_class_of(level + varve_grade_classes[grade], step_level);
}

static inline int varve_grade(int32_t age) {
    return age < 32 ? 2 : age < 128 ? 1 : 0;
}

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
    float *predicted; /* [numbers, TILE] */
    int32_t *sums;    /* sums of some numbers */
    uint16_t *list;   /* [numbers / 2] */
    float *row;       /* [2, width]: a token's, and its turns */
    float *room;      /* [width, TILE] */
} varve_tile;

void varve_tile_open(const varve_tables *t, varve_kind kind, varve_tile *out);
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

/* What the layer before says of this one; zeros for the first of a chunk. */
void varve_tile_predict(varve_tile *tile, int layer, bool is_first);

/* Numbers from components and the prediction. */
void varve_tile_rebuild(varve_tile *tile, int layer, bool is_first, float step);

/* This layer is the one before from now on. */
void varve_tile_next(varve_tile *tile);

static inline int16_t *varve_pair(int16_t *pairs, int i, int lane) {
    return pairs + ((size_t)(i / 2) * VARVE_TILE + (size_t)lane) * 2 + (size_t)i % 2;
}

/* Elements [n_tokens, heads, width] of K or V of the tile's tokens from their numbers, and their values
 * [numbers, TILE] (units, not 256ths) from elements. */
void varve_tile_store(const varve_tile *tile, int layer, kv_part part, dtype type, void *elements);
void varve_tile_values(const varve_tile *tile, int layer, kv_part part, dtype type, const void *elements,
                       float *values);

/* Numbers of one lane's token from its elements [heads, width]. */
void varve_tile_load(varve_tile *tile, int layer, kv_part part, int lane, dtype type, const void *elements);

/* Bytes of a token of a layer that is kept with 8 bits, and elements [heads, width] of K or V from its half
 * of them. */
static inline size_t varve_sink_bytes(const varve_shape *s) {
    return (size_t)N_KV_PARTS * (size_t)s->n_heads * (sizeof(float) + (size_t)s->width);
}
void varve_sink_decode(const varve_shape *s, const uint8_t *bytes, dtype type, void *elements);

/* Bytes of K or V of a token in a layer. */
static inline size_t varve_token_bytes(const varve_shape *s, dtype type) {
    return (size_t)s->n_heads * (size_t)s->width * dtype_bytes(type);
}

/* Which of a chunk's rows K or V of a token in a layer of it is. */
static inline size_t varve_row(const varve_chunk *chunk, int layer, int part, int token) {
    return (size_t)(layer * N_KV_PARTS + part) * (size_t)chunk->n_tokens + (size_t)token;
}
