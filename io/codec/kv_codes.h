/* io/codec/kv_codes.h: the payload of a lossless frame whose rows are what codes of pages stand for
 * (`--kv int8` and `int4`, kernels/kv_page.h): the codes, entropy coded, in place of the rows (documented in
 * io/snapshot/SNAPSHOT.md). All functions are Local.
 *
 * Nobody says what rows are: they are coded as a page would code them, and are codes where the same bits come
 * back. Rows that are not lie beside them, coded as KV_CODEC_LOSSLESS does: those that a run keeps as they
 * were put, and keys of a group of places that is not whole here, unless what is there comes back by itself.
 */
#pragma once

#include "io/codec/kv_blocks.h"
#include "io/codec/kv_chunk.h"
#include "src/base/memory.h"
#include "src/base/status.h"

/* Append the payload of a chunk of one part of a layer. tokens: [n_tokens] of it; NULL, where nobody knows:
 * keys of int4 are not found then. False: its rows are no codes, as far as a sample of them tells; nothing is
 * appended. */
bool kv_codes_encode(const kv_blocks *blocks, const kv_chunk *chunk, const kv_token *tokens,
                     const void *elements, text_buffer *payload);

/* Decode n_bytes, none of which is trusted, to a chunk of one part of a layer, whichever it is. */
status kv_codes_decode(const kv_blocks *blocks, const uint8_t *payload, size_t n_bytes, const kv_chunk *chunk,
                       void *elements);
