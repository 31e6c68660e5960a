/* io/codec/kv_codec.h: a chunk of the KV cache as a frame of bytes in a file, and back.
 *
 * A frame is a header and a payload, all little-endian, versioned and checksummed, and says itself how it is
 * to be decoded, but for the tables that some codecs need: those it names by their digest. What a frame holds
 * is documented byte for byte in io/snapshot/SNAPSHOT.md. All functions are Local and may run in any number
 * of threads at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/codec/kv_chunk.h"
#include "io/codec/kv_coding.h"
#include "kernels/varve_code.h"
#include "src/base/status.h"

/* The number of an element type in files: 0 for f32, 1 for bf16. */
uint8_t kv_type_number(dtype type);
bool kv_type_from_number(unsigned number, dtype *out); /* false: no such number */

/* The most that a frame of a chunk takes. */
size_t kv_frame_max_bytes(const kv_chunk *chunk);

/* Tokens of layers that kvarve's codecs took, and that they did not code but kept otherwise. */
typedef struct kv_kept {
    double n_tokens, n_exact, n_8bit;
} kv_kept;

/* Encode a chunk; the bytes of the frame, which has room for kv_frame_max_bytes. A chunk that the codec would
 * make larger is stored as it is. tokens: [n_tokens] of the chunk; exact codecs need neither these
 * nor tables, but keys of int4 pages are found only where tokens are known (io/codec/kv_codes.h). Adds to
 * *kept (NULL: nobody asks). */
size_t kv_frame_encode(const kv_coding *how, const kv_tables *tables, const kv_chunk *chunk,
                       const kv_token *tokens, const void *elements, void *frame, kv_kept *kept);

/* The checksum that a frame carries, of all of its other bytes. Frames of fewer bytes than a header: 0. */
uint64_t kv_frame_checksum(const void *frame, size_t n_bytes);

/* Of a header; and of a frame with a base, also what that says of itself. */
enum { KV_FRAME_HEADER_BYTES = 48, KV_FRAME_LOOK_BYTES = 56 };

/* What a frame says of itself, in its header, unchecked. */
typedef struct kv_frame_claim {
    int32_t n_tokens;
    int first_layer, n_layers; /* n_layers 0: of one part of one layer, which it does not name */
    kv_part part;
    int n_parts;
    float distortion; /* the squares of what differs, beside those of all: of the elements, or of the numbers
                         that kvarve's codecs make of them */
    kv_codec codec;
    uint64_t tables_digest; /* 0: it needs none */
    size_t base_bytes;      /* that its base takes, from the first on; 0: it has none */
    float base_distortion;  /* of the base alone; of a frame without one that of all */
} kv_frame_claim;

/* KV_FRAME_LOOK_BYTES are enough; zeros, if it is too short to say. */
kv_frame_claim kv_frame_look(const void *frame, size_t n_bytes);

/* Decode n_bytes, none of which is trusted, that must be a frame of this chunk. Refuses a newer version,
 * another shape, other tables, and whatever does not match its checksum; elements may be overwritten then.
 * tables: NULL if there are none. */
status kv_frame_decode(const void *frame, size_t n_bytes, const kv_tables *tables, const kv_chunk *chunk,
                       void *elements);

/* How much of a frame is wanted. */
typedef enum kv_planes { KV_ALL_PLANES, KV_BASE_ONLY } kv_planes;

/* The same of the base of a frame: its first n_bytes, which are all that it takes. */
status kv_frame_decode_base(const void *frame, size_t n_bytes, const kv_tables *tables, const kv_chunk *chunk,
                            void *elements);

/* The same of a frame, or the base of one, some rows after others: where its codec is one of kvarve's,
 * straight as they are decoded, and what was put before something is refused is worth nothing; of others all
 * elements come first. `elements` is room for them. out NULL: they stay there, whatever the codec. */
status kv_frame_decode_rows(const void *frame, size_t n_bytes, bool is_base, const kv_tables *tables,
                            const kv_chunk *chunk, void *elements, const kv_output *out);

/* A frame, or the base of one, for a device to decode (io/codec/varve_device.h), as far as it can be checked
 * here; job->n_tokens is 0 where its codec is not one of kvarve's. */
status kv_frame_make_job(const void *frame, size_t n_bytes, bool is_base, const kv_tables *tables,
                         const kv_chunk *chunk, text_buffer *bytes, varve_job *job);

/* Check a frame as kv_frame_decode does, without decoding it: shape and checksum, and those of its base. */
status kv_frame_check(const void *frame, size_t n_bytes, const kv_chunk *chunk);
