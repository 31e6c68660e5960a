#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/files.h"
#include "io/snapshot/segment_private.h"
#include "src/base/fault.h"
#include "src/base/memory.h"

struct segment {
    segment_info info;
    char *path;
    int fd;
    segment_entry *entries;
};

/* ---- opening ---- */

status segment_read_index(int fd, const segment_info *info, const char *path, segment_entry **out) {
    const size_t n_bytes = (size_t)segment_count_entries(info) * sizeof(segment_entry);
    segment_entry *entries = mem_new(n_bytes, 1);
    status st = file_read_at(fd, path, info->index_offset, entries, n_bytes);
    if (st == STATUS_OK) st = segment_check_index(info, entries, path);
    if (st != STATUS_OK) {
        free(entries);
        return st;
    }
    *out = entries;
    return STATUS_OK;
}

status segment_check_digest(int fd, const segment_info *info, const segment_entry *entries,
                            const char *path) {
    uint64_t digest[2];
    status st = segment_digest(fd, info, entries, path, digest);
    if (st != STATUS_OK) return st;
    if (digest[0] == info->digest[0] && digest[1] == info->digest[1]) return STATUS_OK;
    return status_refuse(
        "%s: /index and the rest outside of chunks do not match the manifest's digest: damaged, "
        "or the file of another save",
        path);
}

static status check_size(int64_t n_bytes, const segment_info *info, const char *path) {
    if (n_bytes == info->file_bytes) return STATUS_OK;
    return status_refuse("%s: it has %" PRId64 " bytes, but the manifest says %" PRId64
                         ": truncated, or the file of another save",
                         path, n_bytes, info->file_bytes);
}

status segment_open(const char *dir, const segment_info *info, segment **out) {
    segment s = {.info = *info, .path = file_path(dir, info->name), .fd = -1};
    int64_t n_bytes = 0;
    status st = status_at(fault_at("segment-read"), "%s", s.path);
    if (st == STATUS_OK) st = file_open_regular(s.path, &s.fd, &n_bytes);
    if (st == STATUS_OK) st = check_size(n_bytes, info, s.path);
    if (st == STATUS_OK) st = segment_read_index(s.fd, info, s.path, &s.entries);
    if (st == STATUS_OK) st = segment_check_digest(s.fd, info, s.entries, s.path);
    segment *opened = mem_new(1, sizeof *opened);
    *opened = s;
    if (st != STATUS_OK)
        segment_close(opened);
    else
        *out = opened;
    return st;
}

void segment_close(segment *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    free(s->path);
    free(s->entries);
    free(s);
}

/* ---- chunks ---- */

/* A chunk of one layer and part, and where it lies. */
typedef struct chunk_place {
    int layer;
    kv_part part;
    int64_t row0;
    kv_chunk_shape shape;
    const segment_entry *entry;
} chunk_place;

static chunk_place find_chunk(const segment *s, int layer, kv_part part, int64_t chunk) {
    const int64_t n_chunks = segment_count_chunks(&s->info);
    chunk_place c = {.layer = layer, .part = part};
    c.shape = segment_chunk_shape(&s->info, chunk, &c.row0);
    c.entry = &s->entries[((layer - s->info.first_layer) * N_KV_PARTS + (int)part) * n_chunks + chunk];
    return c;
}

/* Its bytes, which are those that /index means if they have its checksum. */
static status read_bytes(const segment *s, const chunk_place *c, void *bytes) {
    const size_t n = (size_t)c->entry->n_bytes;
    status st = file_read_at(s->fd, "its chunk", (int64_t)c->entry->offset, bytes, n);
    if (st == STATUS_OK && segment_chunk_checksum(&s->info, bytes, n) != c->entry->checksum)
        st = status_refuse("its checksum is not that of /index: damaged");
    return st;
}

/* Its elements. A frame goes to a buffer first. */
static status read_elements(const segment *s, const chunk_place *c, void *frame, void *elements) {
    if (s->info.is_plain) return read_bytes(s, c, elements);
    status st = read_bytes(s, c, frame);
    return st == STATUS_OK ? kv_frame_decode(frame, (size_t)c->entry->n_bytes, &c->shape, elements) : st;
}

static status at_chunk(status st, const segment *s, const chunk_place *c) {
    return status_at(st, "%s: /layers/%d/%s, rows %" PRId64 " to %" PRId64, s->path, c->layer,
                     c->part == KV_PART_K ? "k" : "v", c->row0, c->row0 + c->shape.n_tokens - 1);
}

/* Memory that the bytes of any chunk of the segment fit in. */
static void *new_buffer(const segment *s) {
    int64_t row0;
    const kv_chunk_shape largest = segment_chunk_shape(&s->info, 0, &row0);
    return mem_resize(NULL, segment_chunk_max_bytes(&s->info, &largest), 1);
}

status segment_read(segment *s, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out) {
    const segment_info *info = &s->info;
    assert(layer >= info->first_layer && layer < info->last_layer && row0 >= info->row0 && n_rows >= 0 &&
           row0 + n_rows <= info->row0 + info->n_rows);
    status st = fault_at("segment-read");
    if (st != STATUS_OK) return status_at(st, "%s", s->path);
    const size_t row_bytes = (size_t)info->n_kv_heads * (size_t)info->head_dim * dtype_bytes(info->type);
    char *frame = new_buffer(s), *elements = NULL, *to = out;
    for (int64_t row = row0; row < row0 + n_rows && st == STATUS_OK;) {
        const chunk_place c = find_chunk(s, layer, part, (row - info->row0) / info->chunk_tokens);
        const int64_t skip = row - c.row0, left = row0 + n_rows - row;
        const int64_t n = c.shape.n_tokens - skip < left ? c.shape.n_tokens - skip : left;
        const bool whole = n == c.shape.n_tokens;
        if (!whole && !elements) elements = mem_resize(NULL, (size_t)info->chunk_tokens, row_bytes);
        st = read_elements(s, &c, frame, whole ? to : elements);
        if (st == STATUS_OK && !whole) memcpy(to, elements + (size_t)skip * row_bytes, (size_t)n * row_bytes);
        st = at_chunk(st, s, &c);
        to += (size_t)n * row_bytes;
        row += n;
    }
    free(frame);
    free(elements);
    return st;
}

status segment_verify_layer(segment *s, int layer, int64_t *n_bytes) {
    assert(layer >= s->info.first_layer && layer < s->info.last_layer);
    const int64_t n_chunks = segment_count_chunks(&s->info);
    void *bytes = new_buffer(s);
    status st = status_at(fault_at("segment-read"), "%s", s->path);
    for (int64_t i = 0; i < n_chunks * N_KV_PARTS && st == STATUS_OK; i++) {
        const chunk_place c = find_chunk(s, layer, (kv_part)(i / n_chunks), i % n_chunks);
        const size_t n = (size_t)c.entry->n_bytes;
        st = read_bytes(s, &c, bytes);
        if (st == STATUS_OK && !s->info.is_plain) st = kv_frame_check(bytes, n, &c.shape);
        st = at_chunk(st, s, &c);
        if (st == STATUS_OK) *n_bytes += (int64_t)n;
    }
    free(bytes);
    return st;
}
