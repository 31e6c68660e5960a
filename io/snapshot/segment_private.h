/* io/snapshot/segment_private.h: what the writer and the reader of segments share, and what a fuzzer needs of
 * them. */
#pragma once

#include "io/file_reader.h"
#include "io/snapshot/segment.h"

/* Chunks that a writer has under way for each of its threads. */
enum { SEGMENT_SLOTS_PER_THREAD = 4 };

/* An entry of /index, as in the file: what a chunk takes there. 64 bits each, little-endian. */
typedef struct segment_entry {
    uint64_t offset, n_bytes, checksum;
} segment_entry;

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "files are little-endian, and are read as they are");

/* How many chunks there are along the rows; the most that one can have of tokens and layers; and the most
 * bytes that a chunk takes in the file, and the checksum of its bytes there. */
int64_t segment_count_chunks(const segment_info *info);
kv_chunk segment_largest_chunk(const segment_info *info);
size_t segment_chunk_max_bytes(const segment_info *info, const kv_chunk *chunk);
uint64_t segment_chunk_checksum(const segment_info *info, const void *bytes, size_t n_bytes);

/* Refuses entries that do not lie within the file, one beside the other, and beside /index. */
status segment_check_index(const segment_info *info, const segment_entry *entries, const char *path);

/* The digest of the file's bytes outside of the chunks, whose entries have been checked. */
status segment_digest(const file_reader *file, const segment_info *info, const segment_entry *entries,
                      uint64_t digest[2]);

/* segment_open in its steps, of a file that is open already; the caller keeps it, and releases the entries
 * and, of a segment whose chunks have a base, how many bytes of each those are, with free(). */
status segment_read_index(const file_reader *file, const segment_info *info, segment_entry **entries);
status segment_read_bases(const file_reader *file, const segment_info *info, const segment_entry *entries,
                          uint64_t **bases);
status segment_check_digest(const file_reader *file, const segment_info *info, const segment_entry *entries);
