/* io/codec/varve.h: the codec kvarve: K and V of some layers of some tokens in few bits, from what the
 * layers of a model have in common (io/codec/varve_tables.h).
 *
 * Keys are turned back to before RoPE, the means are taken away, and what is left goes through a basis that
 * was calibrated, to be rounded to multiples of one step, the same everywhere: where a component's deviation
 * is small beside it, most of its symbols are 0. They are entropy coded with 64 tables by the ratio of
 * deviation and step, so that every step has its tables. A chunk of another domain, whose components deviate
 * otherwise than those that the tables were made from, says how each does, for a byte of it: fewer bits, and
 * fewer errors, as less is rounded to 0 that should not be. VARVE_FAST does so for K and for V by itself,
 * layer by layer; VARVE_SMALL for both together, behind a linear prediction from the layer before as it is
 * decoded, from the second layer of a chunk on.
 *
 * Some tokens of a layer are kept otherwise. The first four positions of a text, and what does not fit: as
 * they are. Sinks, tokens behind the first ones to which heads attend although their values are nearly
 * nothing: with 8 bits; a step that is small for all others bends them too far; and so are tokens of which
 * the bases, made from other texts, would lose too much. The last 32 positions have a quarter of the step,
 * and the 96 before them half: most rows that come attend to those.
 *
 * In a model's first layer K before RoPE and V follow from the token alone. A token that came before in its
 * chunk copies there what that has (io/codec/varve_copies.h), and costs next to nothing; that they are alike
 * is seen from the elements, so that nobody needs to know tokens, and a model in which it is otherwise copies
 * nothing.
 *
 * A chunk may be coded in two planes (io/codec/varve_planes.h): the base, which can be decoded by itself, is
 * three times as coarse, and what refines it makes of it what one plane would have held. Layers that are
 * predicted from a coarse one drift: of VARVE_SMALL, a base alone has more errors than one plane of its step.
 *
 * Symbols are in tiles of 32 tokens, layer by layer, each token a lane of one stream (io/codec/rans.h). What
 * is decoded is the same bits on every processor: sums are of integers, and what is left is float32 in a
 * fixed order. All functions are Local; any number of threads may use one varve_tables. */
#pragma once

#include "io/codec/kv_chunk.h"
#include "io/codec/varve_planes.h"
#include "kernels/dtype.h"

enum { VARVE_MOST_LAYERS = 128, VARVE_EXACT_POSITIONS = 4 };

typedef enum varve_kind { VARVE_FAST, VARVE_SMALL, N_VARVE_KINDS } varve_kind;

/* A token is taken for a sink where its values have less than this share of the layer's median norm. */
static const double varve_sink_share = 0.4;

/* The root of the sum of squares of n elements. */
double varve_norm(dtype type, const void *elements, size_t n);

/* How a chunk is coded: with a step of 2^(step_level / VARVE_OCTAVE), in 1 plane or in VARVE_PLANES. */
typedef struct varve_coding {
    varve_kind kind;
    int step_level, n_planes;
} varve_coding;

/* Elements [n_layers, N_KV_PARTS, n_tokens, heads, width] of layers from first_layer on. */
typedef struct varve_chunk {
    dtype type; /* DTYPE_BF16 or DTYPE_F32 */
    int32_t n_tokens, first_layer, n_layers;
} varve_chunk;

/* What became of a chunk. */
typedef struct varve_report {
    double n_numbers, squares,
        errors;              /* of tokens that are coded: of their numbers, and of the differences */
    double n_exact, n_sinks; /* tokens of layers */
} varve_report;

/* Bits of an element at this step, by the tables, in chunks of so many layers: of tokens that are coded, with
 * no finer step, and without what stands in front of the symbols. */
double varve_expected_bits(const varve_tables *t, varve_kind kind, int step_level, int n_layers);

/* Append each plane of a chunk to one of planes, and add to one of reports what becomes of the chunk with it
 * and those before: [how->n_planes]. */
void varve_encode(const varve_tables *t, const varve_coding *how, const varve_chunk *chunk,
                  const kv_token *tokens, const void *elements, text_buffer *planes, varve_report *reports);

/* The bytes of a plane. */
typedef struct varve_plane {
    const void *bytes;
    size_t n_bytes;
} varve_plane;

/* Decode the first n_planes of those that the chunk was coded to, none of which is trusted, as a chunk of
 * this shape: tile after tile, layer after layer. What was put before something is refused is worth nothing.
 */
status varve_decode_rows(const varve_tables *t, const varve_plane *planes, int n_planes,
                         const varve_chunk *chunk, const kv_output *out);

/* The same, to elements. */
status varve_decode(const varve_tables *t, const varve_plane *planes, int n_planes, const varve_chunk *chunk,
                    void *elements);
