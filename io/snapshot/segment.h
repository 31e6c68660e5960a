/* io/snapshot/segment.h: one immutable HDF5 file of a snapshot: K and V of a range of layers x a range of
 * rows.
 *
 * Rows are the snapshot's own count of token positions, in the order in which they were saved; which rows
 * hold which positions of which sequence is the manifest's to say. Within a segment, /layers/<l>/k and
 * /layers/<l>/v are datasets [rows, kv_heads, head_dim], in chunks along the rows, each of them a frame of
 * io/codec/kv_codec.h or, in a plain segment, its elements as they are; /index says where each chunk lies,
 * and its checksum. Bytes outside of the chunks are covered by a digest that the manifest keeps, so that a
 * flipped bit anywhere is noticed, and a reader fetches just what it needs. The format is documented byte for
 * byte in io/snapshot/SNAPSHOT.md.
 *
 * Writing uses HDF5, which one thread at a time may be in: segments take a lock of the process (io/h5.h).
 * Reading uses none: any number of threads may read one segment. All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/codec/kv_codec.h"
#include "kernels/kv_page.h"

enum { SEGMENT_NAME_BYTES = 96, SEGMENT_MAX_LAYERS = 4096 };

/* All that the manifest knows of a segment. */
typedef struct segment_info {
    char name[SEGMENT_NAME_BYTES]; /* of the file within the snapshot: segment_make_name */
    int first_layer, last_layer;   /* [first, last) */
    int64_t row0, n_rows;
    int n_kv_heads, head_dim;
    dtype type;
    kv_codec codec;
    int chunk_tokens; /* rows of a chunk; the last one may hold fewer */
    bool is_plain;    /* chunks without frames. From here on: set by segment_write */
    int64_t file_bytes;
    int64_t index_offset; /* of the data of /index in the file */
    uint64_t digest[2]; /* XXH3, 128 bits, of all bytes of the file outside of chunks, in order: high, low */
} segment_info;

/* Rows of a chunk that make good frames (about half a MiB), at most n_rows. */
int segment_chunk_tokens(dtype type, int n_kv_heads, int head_dim, int64_t n_rows);

/* "L000-012.T00000000-00004096.S0003.h5": layers, rows, and the number of the save, which makes it unlike any
 * name that an older manifest may hold. */
void segment_make_name(segment_info *info, int64_t save_number);

/* Is this exactly a name that segment_make_name makes? Then its layers and rows and the number of the save.
 */
bool segment_parse_name(const char *name, segment_info *out, int64_t *save_number);

/* Refuses numbers that no segment can have, as they come from a file; `where` is for messages. What passes
 * can be computed with: nothing overflows. */
status segment_check(const segment_info *info, const char *where);

/* Where the rows of a segment that is written come from: out[n_rows, kv_heads, head_dim] of rows
 * [row0, row0 + n_rows). Called by n_threads threads at once. A failure ends the writing. */
typedef struct segment_source {
    status (*read)(void *context, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out);
    void *context;
} segment_source;

/* Write dir/info->name, first under a temporary name (a dot before it), flushed to the disk and only then
 * renamed, and fill in the rest of info. With KV_CODEC_NONE the segment is plain: any HDF5 program reads it.
 * After a failure (a full disk, ...) nothing is left of it. */
status segment_write(const char *dir, segment_info *info, const segment_source *source, int n_threads);

typedef struct segment segment;

/* Open for reading and check all but the frames' content: size, digest, index. Refuses what does not match
 * info (which has passed segment_check), naming the file and the object. */
status segment_open(const char *dir, const segment_info *info, segment **out);
void segment_close(segment *s); /* NULL is fine */

/* out[n_rows, kv_heads, head_dim] of rows [row0, row0 + n_rows), which the segment must have. Refuses a chunk
 * that does not match its checksum, naming file, dataset and rows. Whole chunks are read fastest. */
status segment_read(segment *s, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out);

/* Check every chunk of one layer; adds the bytes that they take in the file to *n_bytes. */
status segment_verify_layer(segment *s, int layer, int64_t *n_bytes);
