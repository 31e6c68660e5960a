/* io/codec/varve_copies.h: tokens of a chunk of the codec kvarve that copy an earlier one in the first layer
 * of the chunk: in a model's first layer K before RoPE and V follow from the token alone, so that tokens that
 * come again have there what they had before.
 *
 * A copy has no symbols: its components, of each plane, are those of its source. That is coded itself, and of
 * a tile with the same grade, so that they count steps of the copy's own tile. Local. */
#pragma once

#include "io/codec/byte_reader.h"
#include "src/base/memory.h"

typedef struct varve_copies {
    int n_tokens;
    int32_t
        *sources;    /* [n_tokens]: of a copy an earlier token, of others -1. NULL: the chunk has no copies */
    uint8_t *grades; /* [n_tokens]: of what may be a source its tile's and 1, of others 0 */
} varve_copies;

/* Nothing copies yet. */
void varve_copies_open(int n_tokens, varve_copies *out);
void varve_copies_clear(varve_copies *c);
void varve_copies_close(varve_copies *c); /* zeroed is fine */

/* As in a payload: a word of 4 bytes for each tile, in which a copy has the bit of its lane; then of every
 * copy its source, in as few bits as hold the chunk's last token, from the lowest ones on, and zeros to a
 * multiple of 4 bytes. */
void varve_copies_append(const varve_copies *c, text_buffer *out);

/* The same back; false: there is no such token. */
bool varve_copies_read(byte_reader *r, varve_copies *c);

/* Go on to the next tile, of this grade: the tokens that copy, of those that are coded. False: one is not
 * coded, or its source is none, such as a token behind it. */
bool varve_copies_settle(varve_copies *c, int tile, int grade, uint32_t coded, uint32_t *copies);
