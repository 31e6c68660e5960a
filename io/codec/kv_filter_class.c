/* The filter itself. It calls nothing of HDF5, so that the plugin needs no library beside it; buffers are
 * malloc's, as HDF5's own are. */
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_filter.h"
#include "io/codec/kv_tables_search.h"

static bool read_values(size_t n_values, const unsigned values[], kv_chunk *chunk) {
    const bool is_joint = n_values == MOST_KV_FILTER_VALUES;
    if (n_values != N_KV_FILTER_VALUES && !is_joint) return false;
    if (!kv_type_from_number(values[0], &chunk->shape.type)) return false;
    chunk->shape.n_tokens = (int32_t)values[1];
    chunk->shape.n_kv_heads = (int32_t)values[2];
    chunk->shape.head_dim = (int32_t)values[3];
    chunk->n_layers = is_joint ? (int32_t)values[4] : 1;
    chunk->n_parts = is_joint ? (int)values[5] : 1;
    return kv_chunk_all_are_valid(chunk); /* what is too large for 31 bits is negative now */
}

/* What a frame claims to hold of a chunk: it is at the end of a dataset, perhaps. */
static bool read_claim(const kv_chunk *chunk, const kv_frame_claim *claim, kv_chunk *stored) {
    *stored = *chunk;
    stored->shape.n_tokens = claim->n_tokens;
    if (claim->n_layers > 0) {
        stored->first_layer = claim->first_layer;
        stored->n_layers = claim->n_layers;
        stored->part = claim->part;
        stored->n_parts = claim->n_parts;
    }
    return claim->n_tokens >= 1 && claim->n_tokens <= chunk->shape.n_tokens &&
           stored->n_layers <= chunk->n_layers && stored->n_parts == chunk->n_parts;
}

/* A frame of `chunk`, or of less; zeros follow. */
static bool decode(const kv_chunk *chunk, const void *frame, size_t n_bytes, uint8_t *elements) {
    kv_chunk stored;
    const kv_frame_claim claim = kv_frame_look(frame, n_bytes);
    if (!read_claim(chunk, &claim, &stored)) return false;
    const kv_tables *tables = claim.tables_digest ? kv_tables_search(claim.tables_digest) : NULL;
    if (kv_frame_decode(frame, n_bytes, tables, &stored, elements) != STATUS_OK) return false;
    const int n = kv_chunk_count_parts(&stored);
    const size_t from_bytes = kv_chunk_bytes(&stored.shape), to_bytes = kv_chunk_bytes(&chunk->shape);
    for (int i = n - 1; i >= 0; i--) {
        uint8_t *part = elements + (size_t)i * to_bytes;
        memmove(part, elements + (size_t)i * from_bytes, from_bytes);
        memset(part + from_bytes, 0, to_bytes - from_bytes);
    }
    memset(elements + (size_t)n * to_bytes, 0, kv_chunk_all_bytes(chunk) - (size_t)n * to_bytes);
    return true;
}

/* HDF5 hands over *buffer, n_bytes of which are used, and wants it replaced; the used bytes of the new one,
 * or 0. */
static size_t filter(unsigned flags, size_t n_values, const unsigned values[], size_t n_bytes,
                     size_t *buffer_bytes, void **buffer) {
    static const kv_coding lossless = {.codec = KV_CODEC_LOSSLESS};
    kv_chunk chunk = {.n_parts = 0};
    if (!read_values(n_values, values, &chunk)) return 0;
    bool is_reading = flags & H5Z_FLAG_REVERSE;
    size_t chunk_bytes = kv_chunk_all_bytes(&chunk),
           room = is_reading ? chunk_bytes : kv_frame_max_bytes(&chunk);
    if (!is_reading && n_bytes != chunk_bytes) return 0;
    void *out = malloc(room);
    if (!out) return 0;
    size_t n_out;
    if (is_reading)
        n_out = decode(&chunk, *buffer, n_bytes, out) ? chunk_bytes : 0;
    else
        n_out = kv_frame_encode(&lossless, NULL, &chunk, NULL, *buffer, out, NULL);
    if (!n_out) {
        free(out);
        return 0;
    }
    free(*buffer);
    *buffer = out;
    *buffer_bytes = room;
    return n_out;
}

const H5Z_class2_t kv_filter_class = {
    .version = H5Z_CLASS_T_VERS,
    .id = KV_FILTER_ID,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "kvarve frames of KV cache",
    .filter = filter,
};
