/* How many bytes a file of tables has (4 bytes), the file, and then a frame that is coded by them: any bytes,
 * with digest and checksums made right, so that what they cover is reached. */
#include <string.h>
#include <xxhash.h>

#include "io/codec/kv_codec.h"
#include "io/codec/kv_tables.h"
#include "tests/fuzz/fuzz.h"

/* Of a frame (io/snapshot/SNAPSHOT.md). */
enum {
    TYPE_AT = 11,
    SHAPE_AT = 12,
    PAYLOAD_BYTES_AT = 24,
    TABLES_AT = 32,
    CHECKSUM_BYTES = 8,
    MAX_CHUNK_BYTES = 1 << 18
};

/* Only refusals, and those in words. */
static int is_good(status st) {
    fuzz_check(st != STATUS_FAILED, "bad bytes are refused");
    if (st != STATUS_OK) fuzz_check_text(status_text());
    return st == STATUS_OK;
}

static void put_checksum(uint8_t *frame, size_t n) {
    const uint64_t checksum = kv_frame_checksum(frame, n);
    memcpy(frame + n - CHECKSUM_BYTES, &checksum, sizeof checksum);
}

/* The base's checksum is one of the bytes that the frame's covers. */
static void mend_frame(uint8_t *frame, size_t n, uint64_t tables_digest) {
    const uint64_t payload_bytes = n - KV_FRAME_HEADER_BYTES - CHECKSUM_BYTES;
    memcpy(frame + PAYLOAD_BYTES_AT, &payload_bytes, sizeof payload_bytes);
    memcpy(frame + TABLES_AT, &tables_digest, sizeof tables_digest);
    const size_t base_bytes = kv_frame_look(frame, n).base_bytes;
    if (base_bytes >= KV_FRAME_LOOK_BYTES + CHECKSUM_BYTES && base_bytes <= n - CHECKSUM_BYTES)
        put_checksum(frame, base_bytes);
    put_checksum(frame, n);
}

/* The chunk that a frame claims to be of; false if none is claimed that a fuzzer has time for. */
static int read_chunk(const uint8_t *frame, size_t n, kv_chunk *chunk) {
    const kv_frame_claim claim = kv_frame_look(frame, n);
    int32_t shape[3];
    memcpy(shape, frame + SHAPE_AT, sizeof shape);
    *chunk = (kv_chunk){.shape = {DTYPE_F32, shape[0], shape[1], shape[2]},
                        .first_layer = claim.first_layer,
                        .n_layers = claim.n_layers,
                        .part = claim.part,
                        .n_parts = claim.n_parts};
    return kv_type_from_number(frame[TYPE_AT], &chunk->shape.type) && claim.n_layers > 0 &&
           claim.n_parts > 0 && kv_chunk_all_are_valid(chunk) && kv_chunk_all_bytes(chunk) <= MAX_CHUNK_BYTES;
}

/* What decodes is well by all others that look at it. */
static void decode(const kv_tables *tables, const uint8_t *frame, size_t n, const kv_chunk *chunk) {
    const size_t base_bytes = kv_frame_look(frame, n).base_bytes;
    void *elements = malloc(kv_chunk_all_bytes(chunk));
    text_buffer bytes = {0};
    varve_job job;
    const int decodes = is_good(kv_frame_decode(frame, n, tables, chunk, elements)),
              has_job = is_good(kv_frame_make_job(frame, n, false, tables, chunk, &bytes, &job));
    fuzz_check(!decodes || has_job, "what decodes can be given to a device");
    fuzz_check(!decodes || is_good(kv_frame_check(frame, n, chunk)), "what decodes is checked well");
    if (base_bytes > 0 && base_bytes <= n) {
        const int has_base = is_good(kv_frame_decode_base(frame, base_bytes, tables, chunk, elements));
        fuzz_check(!decodes || has_base, "what decodes has a base that does");
    }
    free(bytes.data);
    free(elements);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    uint32_t n_tables;
    if (n < sizeof n_tables + CHECKSUM_BYTES) return 0;
    memcpy(&n_tables, data, sizeof n_tables);
    data += sizeof n_tables, n -= sizeof n_tables;
    if (n_tables < CHECKSUM_BYTES || n_tables > n) return 0;
    char *file = malloc(n_tables);
    memcpy(file, data, n_tables);
    const uint64_t digest = XXH3_64bits(file, n_tables - CHECKSUM_BYTES);
    memcpy(file + n_tables - CHECKSUM_BYTES, &digest, sizeof digest);
    data += n_tables, n -= n_tables;
    kv_tables *tables;
    kv_chunk chunk;
    if (is_good(kv_tables_parse(file, n_tables, &tables))) {
        uint8_t *frame = malloc(n ? n : 1); /* of its own, so that a sanitizer sees a read past the end */
        if (n) memcpy(frame, data, n);
        if (n >= KV_FRAME_LOOK_BYTES + CHECKSUM_BYTES && read_chunk(frame, n, &chunk)) {
            mend_frame(frame, n, tables->digest);
            decode(tables, frame, n, &chunk);
        }
        free(frame);
        kv_tables_free(tables);
    }
    free(file);
    return 0;
}
