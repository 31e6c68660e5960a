/* Any bytes as a frame of a KV chunk, with a right checksum, so that they reach the decoder; and as the
 * elements of a chunk. Every instruction set must do the same. */
#include <string.h>

#include "io/codec/kv_codec.h"
#include "io/codec/kv_codes.h"
#include "io/codec/kv_lossless.h"
#include "tests/fixtures/rows.h"
#include "tests/fuzz/fuzz.h"

enum {
    HEADER_BYTES = 48,
    CHECKSUM_BYTES = 8,
    VERSION_AT = 8,
    CODES_VERSION = 4,
    SHAPE_AT = 11,
    PAYLOAD_BYTES_AT = 24,
    MAX_CHUNK_BYTES = 1 << 18
};

/* The shape that a frame claims; false if none is claimed that a fuzzer has time for. */
static int read_shape(const uint8_t *frame, kv_chunk_shape *shape) {
    int32_t n[3];
    memcpy(n, frame + SHAPE_AT + 1, sizeof n);
    *shape = (kv_chunk_shape){DTYPE_F32, n[0], n[1], n[2]};
    return kv_type_from_number(frame[SHAPE_AT], &shape->type) && kv_chunk_is_valid(shape) &&
           kv_chunk_bytes(shape) <= MAX_CHUNK_BYTES;
}

/* Payload bytes, checksum and version as they must be. */
static void mend(uint8_t *frame, size_t n) {
    uint64_t payload_bytes = n - HEADER_BYTES - CHECKSUM_BYTES;
    const uint8_t version = frame[VERSION_AT] == CODES_VERSION ? CODES_VERSION : 1;
    memcpy(frame, (const uint8_t[]){'K', 'V', 'F', 'R', 'A', 'M', 'E', '\n', version, 0}, 10);
    memset(frame + PAYLOAD_BYTES_AT + 8, 0, 16);
    memcpy(frame + PAYLOAD_BYTES_AT, &payload_bytes, sizeof payload_bytes);
    uint64_t checksum = kv_frame_checksum(frame, n);
    memcpy(frame + n - CHECKSUM_BYTES, &checksum, sizeof checksum);
}

static void check_payload(const kv_blocks *blocks, const uint8_t *payload, size_t n, bool is_codes,
                          const kv_chunk_shape *shape, status wanted, const void *elements) {
    const kv_chunk chunk = kv_chunk_of(shape, 0, KV_PART_K);
    void *other = malloc(kv_chunk_bytes(shape));
    fuzz_check((is_codes ? kv_codes_decode(blocks, payload, n, &chunk, other)
                         : kv_lossless_decode(blocks, payload, n, shape, other)) == wanted,
               "instruction sets agree on a frame");
    if (wanted == STATUS_OK)
        fuzz_check(!memcmp(other, elements, kv_chunk_bytes(shape)), "instruction sets decode alike");
    free(other);
}

static void check_frame(const uint8_t *frame, size_t n) {
    kv_chunk_shape shape;
    if (!read_shape(frame, &shape)) return;
    void *elements = malloc(kv_chunk_bytes(&shape));
    status st = rows_frame_decode(frame, n, &shape, elements);
    if (st != STATUS_OK) fuzz_check_text(status_text());
    if (st == STATUS_OK)
        fuzz_check(rows_frame_check(frame, n, &shape) == STATUS_OK, "what decodes is checked well");
    for (int i = 0; kv_blocks_all[i]; i++)
        if (frame[10] == KV_CODEC_LOSSLESS && kv_blocks_all[i]->is_available())
            check_payload(kv_blocks_all[i], frame + HEADER_BYTES, n - HEADER_BYTES - CHECKSUM_BYTES,
                          frame[VERSION_AT] == CODES_VERSION, &shape, st, elements);
    free(elements);
}

/* The bytes as elements: the first says of which shape. */
static void check_elements(const uint8_t *data, size_t n) {
    if (n < 5) return;
    int32_t row = 1 + data[0] / 2, n_tokens = (int32_t)(n - 1) / (4 * row);
    kv_chunk_shape shape = {data[0] % 2 ? DTYPE_F32 : DTYPE_BF16, n_tokens, 1, row};
    if (n_tokens < 1) return;
    size_t room = rows_frame_max_bytes(&shape), n_wanted = 0;
    uint8_t *payload = malloc(room), *wanted = malloc(room), *back = malloc(kv_chunk_bytes(&shape));
    for (int i = 0; kv_blocks_all[i]; i++) {
        if (!kv_blocks_all[i]->is_available()) continue;
        size_t n_payload = kv_lossless_encode(kv_blocks_all[i], &shape, data + 1, payload);
        if (n_wanted == 0) memcpy(wanted, payload, n_wanted = n_payload);
        fuzz_check(n_payload == n_wanted && !memcmp(payload, wanted, n_wanted),
                   "instruction sets encode alike");
    }
    size_t n_frame = rows_frame_encode(KV_CODEC_LOSSLESS, &shape, data + 1, payload);
    fuzz_check(n_frame <= room, "a frame has a largest size");
    fuzz_check(rows_frame_decode(payload, n_frame, &shape, back) == STATUS_OK, "what is encoded decodes");
    fuzz_check(!memcmp(back, data + 1, kv_chunk_bytes(&shape)), "elements come back");
    free(payload);
    free(wanted);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    check_elements(data, n);
    uint8_t *frame = calloc(n ? n : 1, 1);
    if (n) memcpy(frame, data, n);
    const kv_chunk_shape any = {DTYPE_BF16, 3, 1, 2};
    uint8_t room[12];
    if (rows_frame_decode(frame, n, &any, room) != STATUS_OK) fuzz_check_text(status_text());
    if (n >= HEADER_BYTES + CHECKSUM_BYTES) {
        mend(frame, n);
        check_frame(frame, n);
    }
    free(frame);
    return 0;
}
