#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "io/snapshot/manifest_private.h"

static const char explanation[] =
    "\n"
    "This is an HDF5 file behind 4096 bytes of text. What the snapshot holds:\n"
    "    h5dump -d /manifest manifest.h5\n"
    "The cache itself, as plain arrays [row, kv_head, head_dim], with kvarve's plugin on HDF5_PLUGIN_PATH:\n"
    "    h5dump -d /layers/0/k -s 0,0,0 -c 1,1,8 manifest.h5\n"
    "    python3 -c 'import h5py; print(h5py.File(\"manifest.h5\")[\"/layers/0/k\"][0:4])'\n";

/* ---- digests ---- */

void manifest_digest_text(const uint64_t digest[2], char text[MANIFEST_DIGEST_BYTES]) {
    snprintf(text, MANIFEST_DIGEST_BYTES, "%016" PRIx64 "%016" PRIx64, digest[0], digest[1]);
}

/* The lines that the digest covers. */
static int write_head(const manifest_block *block, char text[MANIFEST_BLOCK_BYTES]) {
    return snprintf(text, MANIFEST_BLOCK_BYTES,
                    "kvarve snapshot manifest\nformat %d\nbytes %" PRId64 "\nmanifest %" PRId64 " %" PRId64
                    "\n",
                    block->format, block->file_bytes, block->json_offset, block->json_bytes);
}

static void compute_digest(const manifest_block *block, const char *rest, uint64_t digest[2]) {
    char head[MANIFEST_BLOCK_BYTES];
    const int n_head = write_head(block, head);
    XXH3_state_t *state = XXH3_createState();
    if (!state) status_die("out of memory: the state of a digest");
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, rest, (size_t)(block->file_bytes - MANIFEST_BLOCK_BYTES));
    XXH3_128bits_update(state, head, (size_t)n_head);
    const XXH128_hash_t hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    digest[0] = hash.high64;
    digest[1] = hash.low64;
}

/* ---- the block ---- */

static void write_block(const manifest_block *block, char text[MANIFEST_BLOCK_BYTES]) {
    char digest[MANIFEST_DIGEST_BYTES];
    manifest_digest_text(block->digest, digest);
    memset(text, 0, MANIFEST_BLOCK_BYTES);
    int n = write_head(block, text);
    snprintf(text + n, (size_t)(MANIFEST_BLOCK_BYTES - n), "digest %s\n%s", digest, explanation);
}

void manifest_block_make(manifest_block *block, const char *rest, char text[MANIFEST_BLOCK_BYTES]) {
    compute_digest(block, rest, block->digest);
    write_block(block, text);
}

status manifest_block_parse(const char *bytes, size_t n_bytes, const char *name, manifest_block *out) {
    char text[MANIFEST_BLOCK_BYTES + 1] = {0}, expected[MANIFEST_BLOCK_BYTES];
    memcpy(text, bytes, n_bytes < MANIFEST_BLOCK_BYTES ? n_bytes : MANIFEST_BLOCK_BYTES);
    manifest_block block = {0};
    int n_head = 0;
    if (sscanf(text, "kvarve snapshot manifest format %9d%n", &block.format, &n_head) != 1 ||
        block.format < 1)
        return status_refuse("%s: not the manifest of a kvarve snapshot, or damaged", name);
    if (block.format > MANIFEST_NEWEST_FORMAT)
        return status_refuse("%s: format %d, but this program reads up to %d: use a newer kvarve", name,
                             block.format, MANIFEST_NEWEST_FORMAT);
    if (sscanf(text + n_head,
               " bytes %18" SCNd64 " manifest %18" SCNd64 " %18" SCNd64 " digest %16" SCNx64 "%16" SCNx64,
               &block.file_bytes, &block.json_offset, &block.json_bytes, &block.digest[0],
               &block.digest[1]) != 5)
        return status_refuse("%s: its first lines are damaged", name);
    if (block.file_bytes != (int64_t)n_bytes)
        return status_refuse("%s: it has %zu bytes, but says that it has %" PRId64 ": truncated, or damaged",
                             name, n_bytes, block.file_bytes);
    write_block(&block, expected);
    if (block.file_bytes < MANIFEST_BLOCK_BYTES || memcmp(text, expected, MANIFEST_BLOCK_BYTES) != 0)
        return status_refuse("%s: its first %d bytes are damaged", name, MANIFEST_BLOCK_BYTES);
    if (block.json_offset < MANIFEST_BLOCK_BYTES || block.json_bytes < 0 ||
        block.json_offset > block.file_bytes || block.json_bytes > block.file_bytes - block.json_offset)
        return status_refuse("%s: /manifest lies outside of the file: damaged", name);
    *out = block;
    return STATUS_OK;
}

status manifest_block_check_digest(const manifest_block *block, const char *bytes, const char *name) {
    uint64_t digest[2];
    compute_digest(block, bytes + MANIFEST_BLOCK_BYTES, digest);
    if (digest[0] == block->digest[0] && digest[1] == block->digest[1]) return STATUS_OK;
    return status_refuse("%s: it does not match its digest: damaged", name);
}
