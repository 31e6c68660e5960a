#include "io/codec/kv_codec.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/codec/kv_lossless.h"

/* ---- names and numbers ---- */

static const char *const codec_names[N_KV_CODECS] = {
    [KV_CODEC_NONE] = "none", [KV_CODEC_LOSSLESS] = "lossless"};

const char *kv_codec_name(kv_codec codec) {
    return codec_names[codec];
}

bool kv_codec_find(const char *name, kv_codec *out) {
    for (int i = 0; i < N_KV_CODECS; i++)
        if (!strcmp(name, codec_names[i])) {
            *out = (kv_codec)i;
            return true;
        }
    return false;
}

/* Element types by their number in files. */
static const dtype types[] = {DTYPE_F32, DTYPE_BF16};

uint8_t kv_type_number(dtype type) {
    return type == DTYPE_F32 ? 0 : 1;
}

bool kv_type_from_number(unsigned number, dtype *out) {
    if (number >= sizeof types / sizeof *types) return false;
    *out = types[number];
    return true;
}

/* ---- the frame: header, payload, checksum ---- */

enum { FRAME_VERSION = 1, CHECKSUM_BYTES = sizeof(uint64_t) };

/* As in a file, little-endian. */
typedef struct frame_header {
    char magic[8];
    uint16_t version;
    uint8_t codec, type;
    uint32_t n_tokens, n_kv_heads, head_dim;
    uint64_t payload_bytes;
    uint64_t tables_digest; /* of tables that the codec needs and the frame does not hold; 0: none */
    uint64_t reserved;      /* 0 */
} frame_header;

_Static_assert(sizeof(frame_header) == 48, "the header lies in memory as in a file");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the header lies in memory as in a file");
_Static_assert(KV_CODEC_NONE == 0 && KV_CODEC_LOSSLESS == 1, "numbers of the format");

static const char magic[8] = {'K', 'V', 'F', 'R', 'A', 'M', 'E', '\n'};

size_t kv_frame_max_bytes(const kv_chunk_shape *shape) {
    return sizeof(frame_header) + kv_chunk_bytes(shape) + CHECKSUM_BYTES;
}

uint64_t kv_frame_checksum(const void *frame, size_t n_bytes) {
    if (n_bytes < sizeof(frame_header) + CHECKSUM_BYTES) return 0;
    return XXH3_64bits(frame, n_bytes - CHECKSUM_BYTES);
}

size_t kv_frame_encode(kv_codec codec, const kv_chunk_shape *shape, const void *elements, void *frame) {
    uint8_t *payload = (uint8_t *)frame + sizeof(frame_header);
    size_t payload_bytes = 0;
    if (codec == KV_CODEC_LOSSLESS)
        payload_bytes = kv_lossless_encode(kv_blocks_best(), shape, elements, payload);
    if (payload_bytes == 0) {
        codec = KV_CODEC_NONE;
        payload_bytes = kv_chunk_bytes(shape);
        memcpy(payload, elements, payload_bytes);
    }
    frame_header header = {
        .version = FRAME_VERSION,
        .codec = (uint8_t)codec,
        .type = kv_type_number(shape->type),
        .n_tokens = (uint32_t)shape->n_tokens,
        .n_kv_heads = (uint32_t)shape->n_kv_heads,
        .head_dim = (uint32_t)shape->head_dim,
        .payload_bytes = payload_bytes,
    };
    memcpy(header.magic, magic, sizeof magic);
    memcpy(frame, &header, sizeof header);
    size_t n_bytes = sizeof header + payload_bytes + CHECKSUM_BYTES;
    uint64_t checksum = kv_frame_checksum(frame, n_bytes);
    memcpy(payload + payload_bytes, &checksum, sizeof checksum);
    return n_bytes;
}

/* ---- decode ---- */

int32_t kv_frame_n_tokens(const void *frame, size_t n_bytes) {
    frame_header header;
    if (n_bytes < sizeof header) return 0;
    memcpy(&header, frame, sizeof header);
    return header.n_tokens > INT32_MAX ? 0 : (int32_t)header.n_tokens;
}

static status check_shape(const frame_header *header, const kv_chunk_shape *shape) {
    dtype type;
    if (!kv_type_from_number(header->type, &type))
        return status_refuse("frame of elements of the unknown type %u", header->type);
    if (type == shape->type && header->n_tokens == (uint32_t)shape->n_tokens &&
        header->n_kv_heads == (uint32_t)shape->n_kv_heads && header->head_dim == (uint32_t)shape->head_dim)
        return STATUS_OK;
    return status_refuse("frame of %u x %u x %u %s, but %d x %d x %d %s were expected", header->n_tokens,
                         header->n_kv_heads, header->head_dim, dtype_name(type), shape->n_tokens,
                         shape->n_kv_heads, shape->head_dim, dtype_name(shape->type));
}

/* All but what the payload means. */
static status check_frame(const void *frame, size_t n_bytes, const kv_chunk_shape *shape,
                          frame_header *header) {
    if (n_bytes < sizeof *header + CHECKSUM_BYTES)
        return status_refuse("frame of %zu bytes, which is shorter than its header", n_bytes);
    memcpy(header, frame, sizeof *header);
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return status_refuse("no frame: its first bytes are others");
    if (header->version > FRAME_VERSION)
        return status_refuse("frame of version %u, this program reads up to %d", header->version,
                             FRAME_VERSION);
    if (header->version == 0) return status_refuse("frame of version 0, which does not exist");
    uint64_t checksum;
    memcpy(&checksum, (const uint8_t *)frame + n_bytes - CHECKSUM_BYTES, sizeof checksum);
    if (checksum != kv_frame_checksum(frame, n_bytes))
        return status_refuse("the frame's checksum does not match");
    if (header->payload_bytes != n_bytes - sizeof *header - CHECKSUM_BYTES)
        return status_refuse("frame with a payload of %llu bytes, but there are %zu",
                             (unsigned long long)header->payload_bytes,
                             n_bytes - sizeof *header - CHECKSUM_BYTES);
    if (header->codec >= N_KV_CODECS)
        return status_refuse("frame of the unknown codec %u: a newer version of this program may read it",
                             header->codec);
    if (header->tables_digest || header->reserved)
        return status_refuse("frame with reserved bytes that are not zero");
    return check_shape(header, shape);
}

status kv_frame_check(const void *frame, size_t n_bytes, const kv_chunk_shape *shape) {
    frame_header header;
    return check_frame(frame, n_bytes, shape, &header);
}

status kv_frame_decode(const void *frame, size_t n_bytes, const kv_chunk_shape *shape, void *elements) {
    frame_header header;
    status st = check_frame(frame, n_bytes, shape, &header);
    if (st != STATUS_OK) return st;
    const uint8_t *payload = (const uint8_t *)frame + sizeof header;
    if (header.codec == KV_CODEC_LOSSLESS)
        return kv_lossless_decode(kv_blocks_best(), payload, header.payload_bytes, shape, elements);
    if (header.payload_bytes != kv_chunk_bytes(shape))
        return status_refuse("frame whose raw payload has %llu bytes instead of %zu",
                             (unsigned long long)header.payload_bytes, kv_chunk_bytes(shape));
    memcpy(elements, payload, kv_chunk_bytes(shape));
    return STATUS_OK;
}
