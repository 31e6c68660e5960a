/* io/snapshot/segment.h: one immutable HDF5 file of a snapshot: K and V of a range of layers x a range of
 * rows.
 *
 * Rows are the snapshot's own count of token positions, in the order in which they were saved; which rows
 * hold which positions of which sequence is the manifest's to say. A segment lies in chunks, each of them a
 * frame of io/codec/kv_codec.h or, in a plain segment, its elements as they are: of one part of one layer,
 * or, where the codec takes them together (io/codec/kv_coding.h), of both parts, of some layers. For programs
 * that read it, /layers/<l>/k and /layers/<l>/v are datasets [rows, kv_heads, head_dim], which hold the
 * chunks, or are views of /kv [layers, part, rows, kv_heads, head_dim], which does. /index says where each
 * chunk lies, and its checksum; /bases, how many bytes of its beginning are its base, where the coding has
 * one. Bytes outside of the chunks are covered by a digest that the manifest keeps,
 * so that a flipped bit anywhere is noticed, and a reader fetches just what it needs. The format is
 * documented byte for byte in io/snapshot/SNAPSHOT.md.
 *
 * Writing uses HDF5, which one thread at a time may be in: segments take a lock of the process (io/h5.h).
 * Reading uses none: any number of threads may read one segment. All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/codec/kv_codec.h"
#include "kernels/kv_page.h"
#include "mpi/file_relay.h"

enum { SEGMENT_NAME_BYTES = 96, SEGMENT_MAX_LAYERS = 4096 };

/* All that the manifest knows of a segment. */
typedef struct segment_info {
    char name[SEGMENT_NAME_BYTES]; /* of the file within the snapshot: segment_make_name */
    int first_layer, last_layer;   /* [first, last) */
    int64_t row0, n_rows;
    int n_kv_heads, head_dim;
    dtype type;
    kv_codec codec;
    int level;              /* of the coding (io/codec/kv_coding.h), and */
    bool has_base;          /* the same */
    uint64_t tables_digest; /* 0: it needs none */
    int chunk_tokens;       /* rows of a chunk; the last one may hold fewer */
    int chunk_layers;       /* the same of layers. From here on: set by segment_write */
    bool is_plain;          /* chunks without frames */
    int64_t file_bytes;
    int64_t index_offset; /* of the data of /index in the file, and */
    int64_t bases_offset; /* of /bases; 0: there is none */
    uint64_t digest[2]; /* XXH3, 128 bits, of all bytes of the file outside of chunks, in order: high, low */
} segment_info;

/* How its chunks are coded. */
static inline kv_coding segment_coding(const segment_info *info) {
    return (kv_coding){.codec = info->codec, .level = info->level, .has_base = info->has_base};
}

/* Do chunks hold K and V together? */
static inline bool segment_is_joint(const segment_info *info) {
    return info->codec >= KV_CODEC_FAST;
}

/* Rows of a chunk of this codec, at most n_rows. */
int segment_chunk_tokens(kv_codec codec, dtype type, int n_kv_heads, int head_dim, int64_t n_rows);

/* "L000-012.T00000000-00004096.S0003.h5": layers, rows, and the number of the save, which makes it unlike any
 * name that an older manifest may hold. */
void segment_make_name(segment_info *info, int64_t save_number);

/* Is this exactly a name that segment_make_name makes? Then its layers and rows and the number of the save.
 */
bool segment_parse_name(const char *name, segment_info *out, int64_t *save_number);

/* Refuses numbers that no segment can have, as they come from a file; `where` is for messages. What passes
 * can be computed with: nothing overflows. */
status segment_check(const segment_info *info, const char *where);

/* Where the rows of a segment that is written come from; called by n_threads threads at once. */
typedef struct segment_source {
    /* The elements of a chunk, whose first row is row0. A failure ends the writing. */
    status (*read)(void *context, const kv_chunk *chunk, int64_t row0, void *out);
    /* The tokens of rows [row0, row0 + n_rows). NULL, where an exact codec is all that asks: the rows were
     * not in pages of codes (io/codec/kv_codes.h), as far as anybody knows. */
    void (*describe)(void *context, int64_t row0, int64_t n_rows, kv_token *out);
    void *context;
    const kv_tables *tables; /* of info's digest; NULL: the codec needs none */
} segment_source;

/* Write dir/info->name, first under a temporary name (a dot before it), flushed to the disk and only then
 * renamed, and fill in the rest of info. With KV_CODEC_NONE the segment is plain: any HDF5 program reads it.
 * After a failure (a full disk, ...) nothing is left of it. */
status segment_write(const char *dir, segment_info *info, const segment_source *source, int n_threads);

/* The memory that writing takes, in so many threads, of a codec that is not exact; and reading. */
size_t segment_write_memory(const kv_coding *how, dtype type, int n_kv_heads, int head_dim, int n_threads);
size_t segment_read_memory(const kv_coding *how, dtype type, int n_kv_heads, int head_dim, int n_threads);

typedef struct segment segment;

/* Open for reading and check all but the frames' content: size, digest, index. Refuses what does not match
 * info (which has passed segment_check), naming the file and the object. The tables, of info's digest, are
 * borrowed; NULL: there are none, and what needs them is not to be read. So is the relay; NULL: this rank
 * sees dir. */
status segment_open(const char *dir, file_relay *relay, const segment_info *info, const kv_tables *tables,
                    segment **out);
void segment_close(segment *s); /* NULL is fine */

/* For a while nothing is fetched: the file need not be open. */
void segment_pause(segment *s);
status segment_resume(segment *s);

/* Its chunks, from 0 on: in the order of layers, parts, rows. */
int64_t segment_count_entries(const segment_info *info);

/* What one of them holds: rows [row0, row0 + chunk.shape.n_tokens). */
typedef struct segment_chunk {
    kv_chunk chunk;
    int64_t row0;
} segment_chunk;

segment_chunk segment_chunk_at(const segment_info *info, int64_t i);

/* The bytes that a chunk, or as much of it as is wanted, takes in the file. Of a chunk that has no base, here
 * and below, all is wanted. */
size_t segment_chunk_file_bytes(const segment *s, int64_t i, kv_planes planes);

/* The distortion that a chunk's frame says it has, unchecked; of a plain one 0. */
status segment_read_distortion(segment *s, int64_t i, kv_planes planes, float *out);

/* Put the file, the object and the rows of a chunk before the recorded text, and pass `st` on. */
status segment_at_chunk(status st, const segment *s, int64_t i);

/* The elements of a chunk. Refuses one that does not match its checksum, naming file, object and rows. */
status segment_read_chunk(segment *s, int64_t i, kv_planes planes, void *elements);

/* The same in steps: bytes [begin, end) of a chunk in the file; is all of it what it should be; and, where
 * the segment is not plain, the elements of all of it, or of its base. */
status segment_fetch(segment *s, int64_t i, size_t begin, size_t end, void *bytes);
status segment_check_chunk(segment *s, int64_t i, const void *bytes);
status segment_decode(segment *s, int64_t i, const void *bytes, size_t n_bytes, void *elements);

/* The same, some rows after others, as kv_frame_decode_rows puts them. */
status segment_decode_rows(segment *s, int64_t i, const void *bytes, size_t n_bytes, void *room,
                           const kv_output *out);

/* Such bytes as a device decodes them (io/codec/varve_device.h); what they hold, and the tables that they
 * need. job->n_tokens: 0 where a device does not. */
status segment_make_job(segment *s, int64_t i, const void *bytes, size_t n_bytes, text_buffer *to,
                        varve_job *job, segment_chunk *chunk, const kv_tables **tables);

/* Rows [row0, row0 + n_rows), which the segment must have, of the layers and parts of `to`: they become its
 * rows from `first` on. Refuses as segment_read_chunk does. Whole chunks are read fastest. */
status segment_read_into(segment *s, int64_t row0, int64_t n_rows, const kv_chunk *to, int64_t first,
                         void *elements);

/* The same of one part of one layer: out[n_rows, kv_heads, head_dim]. */
status segment_read(segment *s, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out);

/* Check a chunk without decoding it; adds the bytes that it takes in the file to *n_bytes. */
status segment_verify_chunk(segment *s, int64_t i, int64_t *n_bytes);
