/* io/codec/kv_lossless.h: the payload of KV_CODEC_LOSSLESS (documented in io/snapshot/SNAPSHOT.md): exponents
 * by a Huffman tree, everything else as it is. Of a chunk of u8, which io/codec/kv_codes.h makes, all is as
 * exponents are. All functions are Local. */
#pragma once

#include "io/codec/kv_blocks.h"
#include "io/codec/kv_chunk.h"
#include "src/base/status.h"

/* Encode; the bytes of the payload, which has room for the chunk's own bytes and 8 more. 0: it would not be
 * smaller than the chunk; what was written is of no use then. */
size_t kv_lossless_encode(const kv_blocks *blocks, const kv_chunk_shape *shape, const void *elements,
                          uint8_t *payload);

/* Decode n_bytes, none of which is trusted, to a chunk of this shape. */
status kv_lossless_decode(const kv_blocks *blocks, const uint8_t *payload, size_t n_bytes,
                          const kv_chunk_shape *shape, void *elements);
