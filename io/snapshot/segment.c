#include "io/snapshot/segment.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/files.h"
#include "io/snapshot/segment_private.h"
#include "src/base/memory.h"

enum { MAX_CHUNK_BYTES = 64 << 20, MAX_WIDTH = 1 << 16 };

/* ---- names ---- */

void segment_make_name(segment_info *info, int64_t save_number) {
    snprintf(info->name, sizeof info->name, "L%03d-%03d.T%08" PRId64 "-%08" PRId64 ".S%04" PRId64 ".h5",
             info->first_layer, info->last_layer, info->row0, info->row0 + info->n_rows, save_number);
}

bool segment_parse_name(const char *name, segment_info *out, int64_t *save_number) {
    segment_info info = {0};
    int64_t row_end, save;
    if (strlen(name) >= SEGMENT_NAME_BYTES) return false;
    if (sscanf(name, "L%9d-%9d.T%18" SCNd64 "-%18" SCNd64 ".S%18" SCNd64, &info.first_layer, &info.last_layer,
               &info.row0, &row_end, &save) != 5)
        return false;
    if (info.first_layer < 0 || info.last_layer <= info.first_layer || info.row0 < 0 ||
        row_end <= info.row0 || save < 1)
        return false;
    info.n_rows = row_end - info.row0;
    segment_make_name(&info, save); /* spaces, signs, more zeros, more text: not the same */
    if (strcmp(info.name, name) != 0) return false;
    *out = info;
    *save_number = save;
    return true;
}

/* ---- shapes ---- */

int segment_chunk_tokens(kv_codec codec, dtype type, int n_kv_heads, int head_dim, int64_t n_rows) {
    const int n = kv_chunking_of(codec, type, n_kv_heads, head_dim).n_tokens;
    return n < n_rows ? n : (int)n_rows;
}

/* The elements of the largest chunk. */
static size_t most_elements(kv_codec codec, dtype type, int n_kv_heads, int head_dim) {
    const kv_chunking by = kv_chunking_of(codec, type, n_kv_heads, head_dim);
    return (size_t)by.n_layers * (size_t)by.n_parts * (size_t)by.n_tokens * (size_t)n_kv_heads *
           (size_t)head_dim;
}

/* Of each thread the elements, frames in the ring, and an encoder's ranges, of 4 bytes for each element and
 * plane. */
size_t segment_write_memory(const kv_coding *how, dtype type, int n_kv_heads, int head_dim, int n_threads) {
    const size_t n = most_elements(how->codec, type, n_kv_heads, head_dim),
                 range_bytes = how->has_base ? 8 : 4;
    return (size_t)n_threads * n * ((1 + SEGMENT_SLOTS_PER_THREAD) * dtype_bytes(type) + range_bytes);
}

/* Of each thread the elements and their frame. */
size_t segment_read_memory(const kv_coding *how, dtype type, int n_kv_heads, int head_dim, int n_threads) {
    return (size_t)n_threads * 2 * dtype_bytes(type) * most_elements(how->codec, type, n_kv_heads, head_dim);
}

static int count_layers(const segment_info *info) {
    return info->last_layer - info->first_layer;
}

static int chunk_parts(const segment_info *info) {
    return segment_is_joint(info) ? N_KV_PARTS : 1;
}

int64_t segment_count_chunks(const segment_info *info) {
    return (info->n_rows - 1) / info->chunk_tokens + 1;
}

/* Chunks of the same rows. */
static int count_beside(const segment_info *info) {
    return N_KV_PARTS / chunk_parts(info) * ((count_layers(info) - 1) / info->chunk_layers + 1);
}

int64_t segment_count_entries(const segment_info *info) {
    return segment_count_chunks(info) * count_beside(info);
}

kv_chunk segment_largest_chunk(const segment_info *info) {
    return (kv_chunk){.shape = {info->type, info->chunk_tokens, info->n_kv_heads, info->head_dim},
                      .first_layer = info->first_layer,
                      .n_layers = info->chunk_layers,
                      .n_parts = chunk_parts(info)};
}

segment_chunk segment_chunk_at(const segment_info *info, int64_t i) {
    const int64_t n_chunks = segment_count_chunks(info), n_parts = N_KV_PARTS / chunk_parts(info);
    const int64_t begin = i % n_chunks * info->chunk_tokens, rest = info->n_rows - begin;
    const int skip = (int)(i / n_chunks / n_parts) * info->chunk_layers, left = count_layers(info) - skip;
    segment_chunk c = {.chunk = segment_largest_chunk(info), .row0 = info->row0 + begin};
    if (rest < info->chunk_tokens) c.chunk.shape.n_tokens = (int32_t)rest;
    c.chunk.first_layer += skip;
    if (left < info->chunk_layers) c.chunk.n_layers = left;
    c.chunk.part = (kv_part)(i / n_chunks % n_parts);
    return c;
}

size_t segment_chunk_max_bytes(const segment_info *info, const kv_chunk *chunk) {
    return info->is_plain ? kv_chunk_all_bytes(chunk) : kv_frame_max_bytes(chunk);
}

uint64_t segment_chunk_checksum(const segment_info *info, const void *bytes, size_t n_bytes) {
    return info->is_plain ? XXH3_64bits(bytes, n_bytes) : kv_frame_checksum(bytes, n_bytes);
}

/* What must hold, each line of it relying on those before. */
status segment_check(const segment_info *info, const char *where) {
    const char *bad = NULL;
    const int64_t max = INT64_C(1) << 53;
    if (info->first_layer < 0 || info->last_layer <= info->first_layer ||
        info->last_layer > SEGMENT_MAX_LAYERS)
        bad = "range of layers";
    else if (info->row0 < 0 || info->n_rows < 1 || info->row0 > max || info->n_rows > max)
        bad = "range of rows";
    else if (info->n_kv_heads < 1 || info->n_kv_heads > MAX_WIDTH || info->head_dim < 1 ||
             info->head_dim > MAX_WIDTH)
        bad = "number of heads, or their width";
    else if (info->type != DTYPE_BF16 && info->type != DTYPE_F32)
        bad = "type of elements";
    else if ((unsigned)info->codec >= N_KV_CODECS || (info->is_plain && info->codec != KV_CODEC_NONE))
        bad = "codec";
    else if (info->chunk_layers < 1 || info->chunk_layers > count_layers(info) ||
             (info->chunk_layers > 1 && !segment_is_joint(info)))
        bad = "number of layers in a chunk";
    if (bad) return status_refuse("%s: it has an impossible %s", where, bad);

    const int64_t row_bytes = (int64_t)info->n_kv_heads * info->head_dim * (int64_t)dtype_bytes(info->type) *
                              info->chunk_layers * chunk_parts(info);
    const int64_t max_entries = info->file_bytes / (int64_t)sizeof(segment_entry);
    if (info->chunk_tokens < 1 || info->chunk_tokens > info->n_rows ||
        info->chunk_tokens > MAX_CHUNK_BYTES / row_bytes)
        bad = "number of rows in a chunk";
    else if (info->file_bytes < 0 || info->index_offset < 0 || info->index_offset > info->file_bytes)
        bad = "offset of its index";
    else if (segment_count_chunks(info) > max_entries / count_beside(info))
        bad = "number of chunks for its size";
    else if (segment_count_entries(info) * (int64_t)sizeof(segment_entry) >
             info->file_bytes - info->index_offset)
        bad = "offset of its index";
    else if (info->bases_offset < 0 || info->bases_offset > info->file_bytes ||
             (info->has_base && segment_count_entries(info) * (int64_t)sizeof(uint64_t) >
                                    info->file_bytes - info->bases_offset))
        bad = "offset of its bases";
    return bad ? status_refuse("%s: it has an impossible %s", where, bad) : STATUS_OK;
}

/* ---- the index ---- */

static int compare_offsets(const void *a, const void *b) {
    const segment_entry *f = a, *g = b;
    return f->offset < g->offset ? -1 : f->offset > g->offset;
}

/* The entries in order of their place, and /index itself among them; released with free(). */
static segment_entry *sort_entries(const segment_info *info, const segment_entry *entries, bool with_index) {
    const size_t n = (size_t)segment_count_entries(info);
    segment_entry *sorted = mem_new(n + with_index, sizeof *sorted);
    memcpy(sorted, entries, n * sizeof *sorted);
    if (with_index)
        sorted[n] = (segment_entry){.offset = (uint64_t)info->index_offset, .n_bytes = n * sizeof *entries};
    qsort(sorted, n + with_index, sizeof *sorted, compare_offsets);
    return sorted;
}

status segment_check_index(const segment_info *info, const segment_entry *entries, const char *path) {
    const int64_t n = segment_count_entries(info);
    const uint64_t file_bytes = (uint64_t)info->file_bytes;
    for (int64_t i = 0; i < n; i++) {
        const segment_entry *e = &entries[i];
        const segment_chunk c = segment_chunk_at(info, i);
        const size_t most = segment_chunk_max_bytes(info, &c.chunk), least = info->is_plain ? most : 1;
        if (e->n_bytes < least || e->n_bytes > most || e->offset > file_bytes ||
            e->n_bytes > file_bytes - e->offset)
            return status_refuse("%s: /index: the chunk at row %" PRId64
                                 " of layer %d has an impossible place or size: damaged",
                                 path, c.row0, c.chunk.first_layer);
    }
    segment_entry *sorted = sort_entries(info, entries, true);
    bool overlap = false;
    for (int64_t i = 0; i < n && !overlap; i++)
        overlap = sorted[i].n_bytes > sorted[i + 1].offset - sorted[i].offset;
    free(sorted);
    return overlap ? status_refuse("%s: /index: chunks overlap: damaged", path) : STATUS_OK;
}

static status digest_range(const file_reader *file, uint64_t begin, uint64_t end, XXH3_state_t *state) {
    char bytes[16 << 10];
    status st = STATUS_OK;
    for (uint64_t at = begin; at < end && st == STATUS_OK;) {
        size_t n = end - at < sizeof bytes ? (size_t)(end - at) : sizeof bytes;
        st = file_reader_read(file, file->path, (int64_t)at, bytes, n);
        if (st == STATUS_OK) XXH3_128bits_update(state, bytes, n);
        at += n;
    }
    return st;
}

status segment_digest(const file_reader *file, const segment_info *info, const segment_entry *entries,
                      uint64_t digest[2]) {
    const int64_t n = segment_count_entries(info);
    segment_entry *sorted = sort_entries(info, entries, false);
    XXH3_state_t *state = XXH3_createState();
    if (!state) status_die("out of memory: the state of a digest");
    XXH3_128bits_reset(state);
    status st = STATUS_OK;
    uint64_t at = 0;
    for (int64_t i = 0; i < n && st == STATUS_OK; i++) {
        st = digest_range(file, at, sorted[i].offset, state);
        at = sorted[i].offset + sorted[i].n_bytes;
    }
    if (st == STATUS_OK) st = digest_range(file, at, (uint64_t)info->file_bytes, state);
    const XXH128_hash_t hash = XXH3_128bits_digest(state);
    digest[0] = hash.high64;
    digest[1] = hash.low64;
    XXH3_freeState(state);
    free(sorted);
    return st;
}
