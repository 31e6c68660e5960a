/* io/codec/varve_payload.h: the bytes of a chunk of the codec kvarve, taken apart. Local. */
#pragma once

#include "io/codec/byte_reader.h"
#include "io/codec/varve.h"
#include "io/codec/varve_copies.h"

enum { VARVE_COPIES = 64, VARVE_OWN_LEVELS = 128, VARVE_KINDS = VARVE_COPIES - 1 };

/* As in a file, little-endian. Behind it: runs [n_runs], the tiles' grades [n_tiles] and zeros to a multiple
 * of 4 bytes, where the kind has VARVE_COPIES those (varve_copies.h), where it has VARVE_OWN_LEVELS what is
 * added to the tables' levels [n_layers, numbers], of 1 byte each, marks [n_marks] in rising order, what they
 * keep, escapes [n_escapes] of 2 bytes, the stream. Of a chunk in two planes this is the base, with symbols
 * and escapes of bases, and the other plane is a stream of digits. */
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

/* Bytes of K or V of a token in a layer, and of both where it is kept with 8 bits. */
static inline size_t varve_token_bytes(const varve_shape *s, dtype type) {
    return (size_t)s->n_heads * (size_t)s->width * dtype_bytes(type);
}

static inline size_t varve_sink_bytes(const varve_shape *s) {
    return (size_t)N_KV_PARTS * (size_t)s->n_heads * (sizeof(float) + (size_t)s->width);
}

/* What is left of each part. */
typedef struct varve_payload {
    varve_head head;    /* kind: a varve_kind */
    float step;         /* of what is decoded */
    int64_t *positions; /* [n_tokens] */
    varve_copies copies;
    byte_reader grades, own, marks, kept, escapes;
    byte_reader streams[VARVE_PLANES]; /* [n_planes], each with its head */
    uint32_t mark;                     /* the next one; UINT32_MAX behind the last */
    uint32_t n_marks;                  /* that were taken */
} varve_payload;

/* Of the first n_planes of a chunk, none of which is trusted; false: they are damaged. Release with
 * varve_payload_close, also then. */
bool varve_payload_open(const varve_shape *shape, const varve_plane *planes, int n_planes,
                        const varve_chunk *chunk, varve_payload *out);
void varve_payload_close(varve_payload *p);

/* The next tile's grade; false: there is none such. */
bool varve_payload_grade(varve_payload *p, int *grade);

/* Of the first n_tokens of a tile, those that are coded in a layer; false: the marks of the others, which are
 * the next ones, are not in their order. */
bool varve_payload_coded(const varve_payload *p, int tile, int layer, int n_tokens, uint32_t *coded);

/* Of a tile's tokens that are coded in the chunk's first layer, those that copy; false: what they cannot. */
bool varve_payload_copies(varve_payload *p, int tile, int grade, uint32_t coded, uint32_t *copies);

/* The next mark is one of this layer. */
static inline bool varve_payload_is_at(const varve_payload *p, int tile, int layer) {
    return p->mark >> 6 == varve_mark(tile, layer, 0, false) >> 6;
}

/* The token of the next mark: its lane, and its elements of both parts [N_KV_PARTS, heads, width]; then the
 * one behind it is the next. */
int varve_payload_take_kept(varve_payload *p, const varve_shape *shape, dtype type, void *elements);

/* Was all of it used, but for the streams? */
bool varve_payload_is_over(const varve_payload *p);
