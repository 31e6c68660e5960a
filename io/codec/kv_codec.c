#include "io/codec/kv_codec.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/codec/kv_codes.h"
#include "io/codec/kv_lossless.h"
#include "io/codec/varve.h"
#include "io/codec/varve_device.h"
#include "kernels/convert.h"

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

/* Exact codecs of one part of one layer make version 1, which older programs read; a frame with a base is
 * version 3, and one of codes (io/codec/kv_codes.h), else as version 1, is version 4. */
enum { FIRST_VERSION = 1, PARTS_VERSION, BASE_VERSION, CODES_VERSION, CHECKSUM_BYTES = sizeof(uint64_t) };

/* As in a file, little-endian. */
typedef struct frame_header {
    char magic[8];
    uint16_t version;
    uint8_t codec, type;
    uint32_t n_tokens, n_kv_heads, head_dim;
    uint64_t payload_bytes;
    uint64_t tables_digest; /* of tables that the codec needs and the frame does not hold; 0: none */
    /* From version 2 on; zeros before. */
    uint16_t first_layer;
    uint8_t n_layers, parts; /* parts: a bit for K, and one for V */
    uint16_t distortion;     /* the upper half of a float32 */
    int16_t level;           /* of the coding */
} frame_header;

/* In version 3, the payload's beginning: of the base, the bytes from the header to its own checksum, and what
 * is left of it without the rest. */
typedef struct base_header {
    uint32_t n_bytes;
    uint16_t distortion, reserved; /* distortion: the upper half of a float32 */
} base_header;

_Static_assert(sizeof(frame_header) == KV_FRAME_HEADER_BYTES, "the header lies in memory as in a file");
_Static_assert(sizeof(frame_header) + sizeof(base_header) == KV_FRAME_LOOK_BYTES, "so does the base's");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the header lies in memory as in a file");
_Static_assert(KV_CODEC_NONE == 0 && KV_CODEC_LOSSLESS == 1 && KV_CODEC_CACHEGEN == 2 && KV_CODEC_FAST == 3 &&
                   KV_CODEC_SMALL == 4,
               "numbers of the format");

static const char magic[8] = {'K', 'V', 'F', 'R', 'A', 'M', 'E', '\n'};

static uint8_t parts_of(const kv_chunk *chunk) {
    return (uint8_t)(((1 << chunk->n_parts) - 1) << chunk->part);
}

size_t kv_frame_max_bytes(const kv_chunk *chunk) {
    return sizeof(frame_header) + kv_chunk_all_bytes(chunk) + CHECKSUM_BYTES;
}

uint64_t kv_frame_checksum(const void *frame, size_t n_bytes) {
    if (n_bytes < sizeof(frame_header) + CHECKSUM_BYTES) return 0;
    return XXH3_64bits(frame, n_bytes - CHECKSUM_BYTES);
}

kv_frame_claim kv_frame_look(const void *frame, size_t n_bytes) {
    frame_header h;
    kv_frame_claim claim = {0};
    if (n_bytes < sizeof h) return claim;
    memcpy(&h, frame, sizeof h);
    claim.n_tokens = h.n_tokens > INT32_MAX ? 0 : (int32_t)h.n_tokens;
    claim.first_layer = h.first_layer;
    claim.n_layers = h.n_layers;
    claim.part = h.parts & 1 ? KV_PART_K : KV_PART_V;
    claim.n_parts = (h.parts & 1) + (h.parts >> 1 & 1);
    claim.distortion = float_of_bf16(h.distortion);
    claim.codec = (kv_codec)h.codec;
    claim.tables_digest = h.tables_digest;
    claim.base_distortion = claim.distortion;
    base_header base;
    if (h.version == BASE_VERSION && n_bytes >= KV_FRAME_LOOK_BYTES) {
        memcpy(&base, (const uint8_t *)frame + sizeof h, sizeof base);
        claim.base_bytes = base.n_bytes;
        claim.base_distortion = float_of_bf16(base.distortion);
    }
    return claim;
}

/* ---- encode ---- */

/* Encoders of a payload: its bytes, which has room for those of the chunk; 0: it would not be smaller. */

static size_t encode_lossless(const kv_chunk *chunk, const kv_token *tokens, const void *elements,
                              uint8_t *payload, bool *are_codes) {
    text_buffer codes = {0};
    if (kv_chunk_count_parts(chunk) != 1) return 0;
    size_t n = kv_lossless_encode(kv_blocks_best(), &chunk->shape, elements, payload);
    *are_codes = kv_codes_encode(kv_blocks_best(), chunk, tokens, elements, &codes) &&
                 codes.n < (n ? n : kv_chunk_bytes(&chunk->shape));
    if (*are_codes) {
        memcpy(payload, codes.data, codes.n);
        n = codes.n;
    }
    free(codes.data);
    return n;
}

static size_t encode_cachegen(const kv_coding *how, const kv_tables *tables, const kv_chunk *chunk,
                              const void *elements, uint8_t *payload, double *distortion) {
    assert(kv_chunk_count_parts(chunk) == 1);
    const size_t chunk_bytes = kv_chunk_bytes(&chunk->shape);
    const cachegen_tables *t = kv_tables_cachegen(tables, chunk->first_layer, chunk->part);
    uint8_t *room = mem_new(1, cachegen_max_bytes(&chunk->shape));
    size_t n = cachegen_encode(t, how->level, &chunk->shape, elements, room);
    if (n >= chunk_bytes) n = 0;
    if (n) {
        memcpy(payload, room, n);
        uint8_t *coded = mem_new(1, chunk_bytes);
        status st = cachegen_decode(t, how->level, payload, n, &chunk->shape, coded);
        assert(st == STATUS_OK);
        (void)st;
        double squares = 0, errors = 0;
        kv_chunk_compare(chunk->shape.type, elements, coded, chunk_bytes / dtype_bytes(chunk->shape.type),
                         &squares, &errors);
        *distortion = squares > 0 ? errors / squares : 0;
        free(coded);
    }
    free(room);
    return n;
}

static float distortion_of(const varve_report *r) {
    return r->squares > 0 ? (float)(r->errors / r->squares) : 0;
}

/* With a base, that is followed by room for its checksum, and then by what refines it. */
static size_t encode_varve(const kv_coding *how, const kv_tables *tables, const kv_chunk *chunk,
                           const kv_token *tokens, const void *elements, uint8_t *payload, double *distortion,
                           kv_kept *kept) {
    assert(chunk->n_parts == N_KV_PARTS);
    const varve_chunk shape = {chunk->shape.type, chunk->shape.n_tokens, chunk->first_layer, chunk->n_layers};
    const varve_coding coding = {how->codec == KV_CODEC_FAST ? VARVE_FAST : VARVE_SMALL, how->level,
                                 how->has_base ? VARVE_PLANES : 1};
    varve_report reports[VARVE_PLANES] = {{.n_numbers = 0}};
    text_buffer planes[VARVE_PLANES] = {{0}};
    varve_encode(&tables->varve, &coding, &shape, tokens, elements, planes, reports);
    const size_t extra = how->has_base ? sizeof(base_header) + CHECKSUM_BYTES : 0;
    size_t n = extra + planes[0].n + planes[1].n;
    if (n >= kv_chunk_all_bytes(chunk)) n = 0;
    if (n && how->has_base) {
        const base_header base = {(uint32_t)(sizeof(frame_header) + extra + planes[0].n),
                                  bf16_of_float(distortion_of(&reports[0])), 0};
        memcpy(payload, &base, sizeof base);
        memcpy(payload + sizeof base, planes[0].data, planes[0].n);
        memcpy(payload + extra + planes[0].n, planes[1].data, planes[1].n);
    } else if (n) {
        memcpy(payload, planes[0].data, planes[0].n);
    }
    const varve_report *whole = &reports[coding.n_planes - 1];
    *distortion = (double)distortion_of(whole);
    if (kept && n) {
        kept->n_tokens += (double)chunk->n_layers * chunk->shape.n_tokens;
        kept->n_exact += whole->n_exact;
        kept->n_8bit += whole->n_sinks;
    }
    free(planes[0].data);
    free(planes[1].data);
    return n;
}

static void put_checksum(uint8_t *frame, size_t n_bytes) {
    const uint64_t checksum = kv_frame_checksum(frame, n_bytes);
    memcpy(frame + n_bytes - CHECKSUM_BYTES, &checksum, sizeof checksum);
}

size_t kv_frame_encode(const kv_coding *how, const kv_tables *tables, const kv_chunk *chunk,
                       const kv_token *tokens, const void *elements, void *frame, kv_kept *kept) {
    uint8_t *payload = (uint8_t *)frame + sizeof(frame_header);
    size_t payload_bytes = 0;
    double distortion = 0;
    bool are_codes = false;
    if (how->codec == KV_CODEC_LOSSLESS)
        payload_bytes = encode_lossless(chunk, tokens, elements, payload, &are_codes);
    if (how->codec == KV_CODEC_CACHEGEN)
        payload_bytes = encode_cachegen(how, tables, chunk, elements, payload, &distortion);
    if (how->codec >= KV_CODEC_FAST)
        payload_bytes = encode_varve(how, tables, chunk, tokens, elements, payload, &distortion, kept);
    const kv_codec codec = payload_bytes ? how->codec : KV_CODEC_NONE;
    if (!payload_bytes) {
        payload_bytes = kv_chunk_all_bytes(chunk);
        memcpy(payload, elements, payload_bytes);
    }
    frame_header header = {
        .version = are_codes ? CODES_VERSION : FIRST_VERSION,
        .codec = (uint8_t)codec,
        .type = kv_type_number(chunk->shape.type),
        .n_tokens = (uint32_t)chunk->shape.n_tokens,
        .n_kv_heads = (uint32_t)chunk->shape.n_kv_heads,
        .head_dim = (uint32_t)chunk->shape.head_dim,
        .payload_bytes = payload_bytes,
    };
    if (!kv_codec_is_exact(how->codec) || kv_chunk_count_parts(chunk) != 1) {
        header.version = PARTS_VERSION;
        header.first_layer = (uint16_t)chunk->first_layer;
        header.n_layers = (uint8_t)chunk->n_layers;
        header.parts = parts_of(chunk);
    }
    if (codec != KV_CODEC_NONE && how->has_base) header.version = BASE_VERSION;
    if (!kv_codec_is_exact(codec)) {
        header.tables_digest = tables->digest;
        header.level = (int16_t)how->level;
        header.distortion = bf16_of_float((float)distortion);
    }
    memcpy(header.magic, magic, sizeof magic);
    memcpy(frame, &header, sizeof header);
    const size_t n_bytes = sizeof header + payload_bytes + CHECKSUM_BYTES;
    if (header.version == BASE_VERSION) put_checksum(frame, kv_frame_look(frame, n_bytes).base_bytes);
    put_checksum(frame, n_bytes);
    return n_bytes;
}

/* ---- decode ---- */

static status check_shape(const frame_header *header, const kv_chunk *chunk) {
    const kv_chunk_shape *shape = &chunk->shape;
    dtype type;
    if (!kv_type_from_number(header->type, &type))
        return status_refuse("frame of elements of the unknown type %u", header->type);
    if (type != shape->type || header->n_tokens != (uint32_t)shape->n_tokens ||
        header->n_kv_heads != (uint32_t)shape->n_kv_heads || header->head_dim != (uint32_t)shape->head_dim)
        return status_refuse("frame of %u x %u x %u %s, but %d x %d x %d %s were expected", header->n_tokens,
                             header->n_kv_heads, header->head_dim, dtype_name(type), shape->n_tokens,
                             shape->n_kv_heads, shape->head_dim, dtype_name(shape->type));
    if ((header->version == FIRST_VERSION || header->version == CODES_VERSION) &&
        kv_chunk_count_parts(chunk) == 1)
        return STATUS_OK;
    if (header->first_layer == (uint32_t)chunk->first_layer &&
        header->n_layers == (uint32_t)chunk->n_layers && header->parts == parts_of(chunk))
        return STATUS_OK;
    return status_refuse("frame of parts %u of %u layers from %u on, but %u of %d from %d on were expected",
                         header->parts, header->n_layers, header->first_layer, parts_of(chunk),
                         chunk->n_layers, chunk->first_layer);
}

/* What only some codecs and versions have. */
static status check_extras(const frame_header *h) {
    const bool is_exact = kv_codec_is_exact((kv_codec)h->codec);
    const bool has_layers = h->first_layer || h->n_layers || h->parts;
    if (is_exact && (h->tables_digest || h->level || h->distortion))
        return status_refuse("frame of the codec %s, but with what only others have",
                             kv_codec_name((kv_codec)h->codec));
    if (h->version == FIRST_VERSION && (has_layers || !is_exact))
        return status_refuse("frame of version 1 with what only later ones have");
    if (h->version == CODES_VERSION && (has_layers || h->codec != KV_CODEC_LOSSLESS))
        return status_refuse("frame of version 4 with what it cannot have");
    if (h->version == BASE_VERSION && h->codec < KV_CODEC_FAST)
        return status_refuse("frame of the codec %s with a base, which it cannot have",
                             kv_codec_name((kv_codec)h->codec));
    if (h->codec == KV_CODEC_CACHEGEN && (h->level < 1 || h->level > CACHEGEN_LEVELS))
        return status_refuse("frame of the level %d of CacheGen's", h->level);
    return STATUS_OK;
}

/* Of a frame with a base: does it lie within the frame? is_base: nothing else is there. */
static status check_base(const void *frame, size_t n_bytes, bool is_base) {
    base_header base;
    if (n_bytes < KV_FRAME_LOOK_BYTES + CHECKSUM_BYTES)
        return status_refuse("frame of %zu bytes, which is shorter than its base's header", n_bytes);
    memcpy(&base, (const uint8_t *)frame + sizeof(frame_header), sizeof base);
    if (base.reserved || base.n_bytes < KV_FRAME_LOOK_BYTES + CHECKSUM_BYTES ||
        (is_base ? base.n_bytes != n_bytes : base.n_bytes > n_bytes - CHECKSUM_BYTES))
        return status_refuse("frame with a base of %u bytes, but there are %zu", base.n_bytes, n_bytes);
    return STATUS_OK;
}

/* All but what the payload means. is_base: the bytes are those of a base only. */
static status check_frame(const void *frame, size_t n_bytes, bool is_base, const kv_chunk *chunk,
                          frame_header *header) {
    if (n_bytes < sizeof *header + CHECKSUM_BYTES)
        return status_refuse("frame of %zu bytes, which is shorter than its header", n_bytes);
    memcpy(header, frame, sizeof *header);
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return status_refuse("no frame: its first bytes are others");
    if (header->version > CODES_VERSION)
        return status_refuse("frame of version %u, this program reads up to %d", header->version,
                             CODES_VERSION);
    if (header->version == 0) return status_refuse("frame of version 0, which does not exist");
    if (is_base && header->version != BASE_VERSION) return status_refuse("frame that has no base");
    uint64_t checksum;
    memcpy(&checksum, (const uint8_t *)frame + n_bytes - CHECKSUM_BYTES, sizeof checksum);
    if (checksum != kv_frame_checksum(frame, n_bytes))
        return status_refuse("the frame's checksum does not match");
    if (!is_base && header->payload_bytes != n_bytes - sizeof *header - CHECKSUM_BYTES)
        return status_refuse("frame with a payload of %llu bytes, but there are %zu",
                             (unsigned long long)header->payload_bytes,
                             n_bytes - sizeof *header - CHECKSUM_BYTES);
    if (header->codec >= N_KV_CODECS)
        return status_refuse("frame of the unknown codec %u: a newer version of this program may read it",
                             header->codec);
    status st = check_extras(header);
    if (st == STATUS_OK && header->version == BASE_VERSION) st = check_base(frame, n_bytes, is_base);
    return st == STATUS_OK ? check_shape(header, chunk) : st;
}

status kv_frame_check(const void *frame, size_t n_bytes, const kv_chunk *chunk) {
    frame_header header = {.version = 0};
    status st = check_frame(frame, n_bytes, false, chunk, &header);
    if (st != STATUS_OK || header.version != BASE_VERSION) return st;
    return check_frame(frame, kv_frame_look(frame, n_bytes).base_bytes, true, chunk, &header);
}

/* Are these the tables that the frame was made with, and do they have what the chunk asks for? */
static status check_tables(const frame_header *header, const kv_tables *t, const kv_chunk *chunk) {
    if (!t || t->digest != header->tables_digest)
        return status_refuse("frame that needs the tables %016" PRIx64 ", which are not there",
                             header->tables_digest);
    if (header->codec == KV_CODEC_CACHEGEN && !t->cachegen)
        return status_refuse("frame of the codec %s, of which generic tables have none",
                             kv_codec_name((kv_codec)header->codec));
    if (t->shape.n_kv_heads == chunk->shape.n_kv_heads && t->shape.head_dim == chunk->shape.head_dim &&
        chunk->first_layer >= 0 && chunk->n_layers <= t->shape.n_layers - chunk->first_layer)
        return STATUS_OK;
    return status_refuse("frame of %d layers from %d on, of %d kv heads of %d, but its tables are for %d, "
                         "of %d of %d",
                         chunk->n_layers, chunk->first_layer, chunk->shape.n_kv_heads, chunk->shape.head_dim,
                         t->shape.n_layers, t->shape.n_kv_heads, t->shape.head_dim);
}

/* The planes of a frame of kvarve's, or the first. */
static int find_planes(const frame_header *header, const uint8_t *frame, size_t n_bytes, bool is_base,
                       varve_plane planes[VARVE_PLANES]) {
    const size_t base_bytes = kv_frame_look(frame, n_bytes).base_bytes;
    planes[0] = (varve_plane){frame + sizeof *header, header->payload_bytes};
    if (header->version != BASE_VERSION) return 1;
    planes[0] = (varve_plane){frame + KV_FRAME_LOOK_BYTES, base_bytes - KV_FRAME_LOOK_BYTES - CHECKSUM_BYTES};
    if (is_base) return 1;
    planes[1] = (varve_plane){frame + base_bytes, n_bytes - CHECKSUM_BYTES - base_bytes};
    return VARVE_PLANES;
}

/* All but what the payload means, and has the codec what it needs? */
static status check_all(const void *frame, size_t n_bytes, bool is_base, const kv_tables *tables,
                        const kv_chunk *chunk, frame_header *header) {
    status st = check_frame(frame, n_bytes, is_base, chunk, header);
    if (st == STATUS_OK && !kv_codec_is_exact((kv_codec)header->codec))
        st = check_tables(header, tables, chunk);
    if (st == STATUS_OK && header->codec >= KV_CODEC_FAST &&
        (chunk->n_parts != N_KV_PARTS || chunk->n_layers > VARVE_MOST_LAYERS))
        st = status_refuse("frame of the codec %s of %d parts of %d layers",
                           kv_codec_name((kv_codec)header->codec), chunk->n_parts, chunk->n_layers);
    return st;
}

static varve_chunk varve_chunk_of(const kv_chunk *chunk) {
    return (varve_chunk){chunk->shape.type, chunk->shape.n_tokens, chunk->first_layer, chunk->n_layers};
}

/* Payloads of codecs other than kvarve's. */
static status decode_whole(const frame_header *header, const uint8_t *payload, const kv_tables *tables,
                           const kv_chunk *chunk, void *elements) {
    if (header->codec != KV_CODEC_NONE && kv_chunk_count_parts(chunk) != 1)
        return status_refuse("frame of the codec %s of more than one part of a layer",
                             kv_codec_name((kv_codec)header->codec));
    if (header->codec == KV_CODEC_CACHEGEN)
        return cachegen_decode(kv_tables_cachegen(tables, chunk->first_layer, chunk->part), header->level,
                               payload, header->payload_bytes, &chunk->shape, elements);
    if (header->version == CODES_VERSION)
        return kv_codes_decode(kv_blocks_best(), payload, header->payload_bytes, chunk, elements);
    if (header->codec == KV_CODEC_LOSSLESS)
        return kv_lossless_decode(kv_blocks_best(), payload, header->payload_bytes, &chunk->shape, elements);
    if (header->payload_bytes != kv_chunk_all_bytes(chunk))
        return status_refuse("frame whose raw payload has %llu bytes instead of %zu",
                             (unsigned long long)header->payload_bytes, kv_chunk_all_bytes(chunk));
    memcpy(elements, payload, kv_chunk_all_bytes(chunk));
    return STATUS_OK;
}

status kv_frame_decode_rows(const void *frame, size_t n_bytes, bool is_base, const kv_tables *tables,
                            const kv_chunk *chunk, void *elements, const kv_output *out) {
    frame_header header;
    varve_plane planes[VARVE_PLANES];
    status st = check_all(frame, n_bytes, is_base, tables, chunk, &header);
    if (st != STATUS_OK) return st;
    if (header.codec >= KV_CODEC_FAST) {
        const int n_planes = find_planes(&header, frame, n_bytes, is_base, planes);
        const varve_chunk shape = varve_chunk_of(chunk);
        return out ? varve_decode_rows(&tables->varve, planes, n_planes, &shape, out)
                   : varve_decode(&tables->varve, planes, n_planes, &shape, elements);
    }
    st = decode_whole(&header, (const uint8_t *)frame + sizeof header, tables, chunk, elements);
    if (st == STATUS_OK && out) kv_chunk_put(chunk, elements, out);
    return st;
}

status kv_frame_decode(const void *frame, size_t n_bytes, const kv_tables *tables, const kv_chunk *chunk,
                       void *elements) {
    return kv_frame_decode_rows(frame, n_bytes, false, tables, chunk, elements, NULL);
}

status kv_frame_decode_base(const void *frame, size_t n_bytes, const kv_tables *tables, const kv_chunk *chunk,
                            void *elements) {
    return kv_frame_decode_rows(frame, n_bytes, true, tables, chunk, elements, NULL);
}

status kv_frame_make_job(const void *frame, size_t n_bytes, bool is_base, const kv_tables *tables,
                         const kv_chunk *chunk, text_buffer *bytes, varve_job *job) {
    frame_header header;
    varve_plane planes[VARVE_PLANES];
    *job = (varve_job){.n_tokens = 0};
    status st = check_all(frame, n_bytes, is_base, tables, chunk, &header);
    if (st != STATUS_OK || header.codec < KV_CODEC_FAST) return st;
    const int n_planes = find_planes(&header, frame, n_bytes, is_base, planes);
    const varve_chunk shape = varve_chunk_of(chunk);
    return varve_job_make(&tables->varve, planes, n_planes, &shape, bytes, job);
}
