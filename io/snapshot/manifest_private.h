/* io/snapshot/manifest_private.h: what the writer and the reader of manifests share, and what a fuzzer needs
 * of them.
 *
 * The file: a block of text, then an HDF5 file with arrays and a JSON text that refers to them. The block
 * says where the text lies and the text where the arrays lie, so that reading needs no HDF5. */
#pragma once

#include "io/snapshot/manifest.h"
#include "src/base/memory.h"

#define MANIFEST_NAME           "manifest.h5"
#define MANIFEST_TEMPORARY_NAME ".manifest.h5.tmp"
#define MANIFEST_OLD_NAME       ".manifest.h5.old" /* while a new one takes its place */
#define MANIFEST_KEYS           "after rope"       /* how K is kept: as attention reads it */

/* ---- the block (io/snapshot/manifest_block.c) ---- */

enum { MANIFEST_BLOCK_BYTES = 4096 };

typedef struct manifest_block {
    int format;
    int64_t file_bytes;
    int64_t json_offset, json_bytes; /* in the file */
    uint64_t digest[2];              /* of all behind the block, and of the lines above */
} manifest_block;

/* Fill in the digest, where `rest` is what follows the block, and make the block. */
void manifest_block_make(manifest_block *block, const char *rest, char text[MANIFEST_BLOCK_BYTES]);

/* From the beginning of a file; all but the digest is checked. Refuses a newer format. */
status manifest_block_parse(const char *bytes, size_t n_bytes, const char *name, manifest_block *out);
status manifest_block_check_digest(const manifest_block *block, const char *bytes, const char *name);

/* ---- the arrays ---- */

typedef enum manifest_array {
    MANIFEST_TOKENS,      /* int32: of each sequence */
    MANIFEST_TEXT,        /* bytes: the prompt's and the generated text of each sequence */
    MANIFEST_LOGPROBS,    /* manifest_logprob */
    MANIFEST_IS_DONE,     /* uint8, 0 or 1: of each line of the batch */
    MANIFEST_LAST_LOGITS, /* float32: rows of vocab_size */
    N_MANIFEST_ARRAYS
} manifest_array;

/* Name in the HDF5 file, and bytes of an element. */
const char *manifest_array_name(manifest_array a);
size_t manifest_element_bytes(manifest_array a);

_Static_assert(sizeof(manifest_logprob) == 8, "as in the file");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "files are little-endian, and are read as they are");

/* ---- the JSON text ---- */

/* All elements of the arrays, as they go to the file; the caller frees the data of each
 * (io/snapshot/manifest_json.c).
 */
void manifest_gather(const manifest *m, text_buffer arrays[N_MANIFEST_ARRAYS]);

/* The text; offsets[a]: where array a lies in the file. */
void manifest_write_json(const manifest *m, const text_buffer arrays[N_MANIFEST_ARRAYS],
                         const int64_t offsets[N_MANIFEST_ARRAYS], text_buffer *out);

/* manifest_parse, of a file of which the JSON text is known already (io/snapshot/manifest_read.c). */
status manifest_parse_json(const char *json, size_t n_json, const char *file, size_t file_bytes,
                           const char *name, manifest *out);

/* ---- rows (io/snapshot/manifest_rows.c) ---- */

/* Refuses segments that overlap, and positions of which not every layer has the rows. */
status manifest_check_rows(const manifest *m, const char *name);
