/* io/codec/kv_codec.h: a chunk of K or V of one layer as a frame of bytes in a file, and back.
 *
 * A frame is a header and a payload, all
 * little-endian, versioned and checksummed, and says itself how it is to be decoded: what a frame holds is
 * documented byte for byte in io/snapshot/SNAPSHOT.md. All functions are Local and may run in any number of
 * threads at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/codec/kv_chunk.h"
#include "src/base/status.h"

typedef enum kv_codec {
    KV_CODEC_NONE,     /* the elements as they are */
    KV_CODEC_LOSSLESS, /* sign and fraction as they are, exponents entropy coded */
    N_KV_CODECS
} kv_codec;

/* "none", "lossless". */
const char *kv_codec_name(kv_codec codec);
bool kv_codec_find(const char *name, kv_codec *out); /* false: no such name */

/* The number of an element type in files: 0 for f32, 1 for bf16. */
uint8_t kv_type_number(dtype type);
bool kv_type_from_number(unsigned number, dtype *out); /* false: no such number */

/* The most that a frame of a chunk takes. */
size_t kv_frame_max_bytes(const kv_chunk_shape *shape);

/* Encode a chunk; the bytes of the frame. A chunk that the codec would make larger is stored as it is. The
 * frame has room for kv_frame_max_bytes. */
size_t kv_frame_encode(kv_codec codec, const kv_chunk_shape *shape, const void *elements, void *frame);

/* The checksum that a frame carries, of all of its other bytes. Frames of fewer bytes than a header: 0. */
uint64_t kv_frame_checksum(const void *frame, size_t n_bytes);

/* The tokens that a frame claims to hold, unchecked; 0 if it is too short to say. */
int32_t kv_frame_n_tokens(const void *frame, size_t n_bytes);

/* Decode n_bytes, none of which is trusted, that must be a frame of this shape. Refuses a newer version,
 * another shape, and whatever does not match its checksum; elements may be overwritten then. */
status kv_frame_decode(const void *frame, size_t n_bytes, const kv_chunk_shape *shape, void *elements);

/* Check a frame as kv_frame_decode does, without decoding it: shape and checksum. */
status kv_frame_check(const void *frame, size_t n_bytes, const kv_chunk_shape *shape);
