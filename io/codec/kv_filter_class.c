/* The filter itself. It calls nothing of HDF5, so that the plugin needs no library beside it; buffers are
 * malloc's, as HDF5's own are. */
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_filter.h"

static bool read_values(size_t n_values, const unsigned values[], kv_chunk_shape *chunk) {
    if (n_values != N_KV_FILTER_VALUES || !kv_type_from_number(values[0], &chunk->type)) return false;
    chunk->n_tokens = (int32_t)values[1];
    chunk->n_kv_heads = (int32_t)values[2];
    chunk->head_dim = (int32_t)values[3];
    return kv_chunk_is_valid(chunk); /* what is too large for 31 bits is negative now */
}

/* A frame of `chunk` or of fewer tokens; zeros follow. */
static bool decode(const kv_chunk_shape *chunk, const void *frame, size_t n_bytes, uint8_t *elements) {
    kv_chunk_shape stored = *chunk;
    stored.n_tokens = kv_frame_n_tokens(frame, n_bytes);
    if (stored.n_tokens < 1 || stored.n_tokens > chunk->n_tokens) return false;
    if (kv_frame_decode(frame, n_bytes, &stored, elements) != STATUS_OK) return false;
    memset(elements + kv_chunk_bytes(&stored), 0, kv_chunk_bytes(chunk) - kv_chunk_bytes(&stored));
    return true;
}

/* HDF5 hands over *buffer, n_bytes of which are used, and wants it replaced; the used bytes of the new one,
 * or 0. */
static size_t filter(unsigned flags, size_t n_values, const unsigned values[], size_t n_bytes,
                     size_t *buffer_bytes, void **buffer) {
    kv_chunk_shape chunk;
    if (!read_values(n_values, values, &chunk)) return 0;
    bool is_reading = flags & H5Z_FLAG_REVERSE;
    size_t chunk_bytes = kv_chunk_bytes(&chunk), room = is_reading ? chunk_bytes : kv_frame_max_bytes(&chunk);
    if (!is_reading && n_bytes != chunk_bytes) return 0;
    void *out = malloc(room);
    if (!out) return 0;
    size_t n_out;
    if (is_reading)
        n_out = decode(&chunk, *buffer, n_bytes, out) ? chunk_bytes : 0;
    else
        n_out = kv_frame_encode(KV_CODEC_LOSSLESS, &chunk, *buffer, out);
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
