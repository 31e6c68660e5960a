/* What a manifest says of a segment (20 bytes), then the file. Unless the first byte says otherwise,
 * checksums and digest are made right, so that what they cover is reached too. */
#include <fcntl.h>
#include <string.h>
#include <xxhash.h>

#include "io/snapshot/segment_private.h"
#include "tests/fixtures/rows.h"
#include "tests/fuzz/fuzz_dir.h"

enum { HEAD_BYTES = 20, LEAVE_CHECKSUMS = 1, LEAVE_DIGEST = 2 };

static segment_info read_info(const uint8_t *head, size_t n_file) {
    uint16_t row0, n_rows, chunk_tokens;
    uint32_t index_offset;
    memcpy(&row0, head + 6, 2);
    memcpy(&n_rows, head + 8, 2);
    memcpy(&chunk_tokens, head + 10, 2);
    memcpy(&index_offset, head + 12, 4);
    return (segment_info){.name = "input",
                          .first_layer = head[1],
                          .last_layer = head[1] + head[2] % 8,
                          .row0 = row0,
                          .n_rows = n_rows,
                          .n_kv_heads = head[3] % 32,
                          .head_dim = head[4] % 32,
                          .type = head[5] & 1 ? DTYPE_BF16 : DTYPE_F32,
                          .codec = (kv_codec)(head[5] >> 1 & 1),
                          .is_plain = head[5] >> 2 & 1,
                          .has_base = head[5] >> 3 & 1,
                          .chunk_tokens = chunk_tokens,
                          .chunk_layers = 1,
                          .file_bytes = (int64_t)n_file,
                          .index_offset = index_offset,
                          .bases_offset = index_offset / 2};
}

/* Give each chunk that lies where it may the checksum of its bytes in /index, and a frame itself the same. */
static void mend_checksums(const segment_info *info, uint8_t *file) {
    const size_t n = (size_t)segment_count_entries(info);
    segment_entry *entries = malloc(n * sizeof *entries);
    memcpy(entries, file + info->index_offset, n * sizeof *entries);
    if (segment_check_index(info, entries, "here") == STATUS_OK) {
        for (size_t i = 0; i < n; i++) {
            const size_t n_bytes = entries[i].n_bytes, n_own = info->is_plain ? 0 : 8;
            if (n_bytes < n_own) continue;
            uint8_t *chunk = file + entries[i].offset;
            entries[i].checksum = XXH3_64bits(chunk, n_bytes - n_own);
            memcpy(chunk + n_bytes - n_own, &entries[i].checksum, n_own);
        }
        memcpy(file + info->index_offset, entries, n * sizeof *entries);
    }
    free(entries);
}

/* Only refusals, and those in words. */
static int is_good(status st) {
    fuzz_check(st != STATUS_FAILED, "bad bytes are refused");
    if (st != STATUS_OK) fuzz_check_text(status_text());
    return st == STATUS_OK;
}

static void mend_digest(segment_info *info) {
    char path[128];
    segment_entry *entries;
    const file_reader file = {.path = path, .fd = open(fuzz_dir_file("input", path), O_RDONLY)};
    fuzz_check(file.fd >= 0, "the file is there");
    if (is_good(segment_read_index(&file, info, &entries))) {
        fuzz_check(segment_digest(&file, info, entries, info->digest) == STATUS_OK,
                   "a checked index has a digest");
        fuzz_check(segment_check_digest(&file, info, entries) == STATUS_OK, "a digest is the same again");
        free(entries);
    }
    close(file.fd);
}

/* A layer that verifies can be read, in pieces and whole, and one that does not verify cannot. */
static void read_layer(segment *s, const segment_info *info, int layer) {
    int64_t n_bytes = 0;
    const int verified = is_good(rows_verify_layer(s, info, layer, &n_bytes));
    fuzz_check(n_bytes <= info->file_bytes, "chunks lie within the file");
    const size_t row_bytes = (size_t)info->n_kv_heads * (size_t)info->head_dim * dtype_bytes(info->type);
    char *whole = malloc((size_t)info->n_rows * row_bytes), *piece = malloc((size_t)info->n_rows * row_bytes);
    int n_read = 0;
    for (int part = 0; part < N_KV_PARTS; part++) {
        if (!is_good(segment_read(s, layer, (kv_part)part, info->row0, info->n_rows, whole))) continue;
        n_read++;
        const int64_t skip = info->n_rows / 3, n = info->n_rows / 2;
        fuzz_check(segment_read(s, layer, (kv_part)part, info->row0 + skip, n, piece) == STATUS_OK,
                   "what is read whole is read in pieces");
        fuzz_check(memcmp(piece, whole + (size_t)skip * row_bytes, (size_t)n * row_bytes) == 0,
                   "a piece is a part of the whole");
    }
    fuzz_check(verified || n_read < N_KV_PARTS, "what does not verify is not read");
    free(whole);
    free(piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < HEAD_BYTES) return 0;
    segment_info info = read_info(data, n - HEAD_BYTES);
    if (!is_good(segment_check(&info, "here"))) return 0;
    uint8_t *file = malloc(n);
    memcpy(file, data + HEAD_BYTES, n - HEAD_BYTES);
    if (!(data[0] & LEAVE_CHECKSUMS)) mend_checksums(&info, file);
    fuzz_dir_write("input", file, n - HEAD_BYTES);
    free(file);
    if (!(data[0] & LEAVE_DIGEST)) mend_digest(&info);
    segment *s;
    if (!is_good(segment_open(fuzz_dir(), NULL, &info, NULL, &s))) return 0;
    for (int layer = info.first_layer; layer < info.last_layer; layer++)
        read_layer(s, &info, layer);
    for (int64_t i = 0; i < segment_count_entries(&info); i++) {
        const segment_chunk c = segment_chunk_at(&info, i);
        void *elements = malloc(kv_chunk_all_bytes(&c.chunk));
        is_good(segment_read_chunk(s, i, KV_BASE_ONLY, elements));
        free(elements);
    }
    segment_close(s);
    return 0;
}
