#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/snapshot/segment_private.h"
#include "src/base/fault.h"
#include "src/base/memory.h"

struct segment {
    segment_info info;
    const kv_tables *tables;
    file_reader file;
    segment_entry *entries;
    uint64_t *bases; /* the bytes of each chunk's base; NULL: they have none */
};

/* ---- opening ---- */

status segment_read_index(const file_reader *file, const segment_info *info, segment_entry **out) {
    const size_t n_bytes = (size_t)segment_count_entries(info) * sizeof(segment_entry);
    segment_entry *entries = mem_new(n_bytes, 1);
    status st = file_reader_read(file, file->path, info->index_offset, entries, n_bytes);
    if (st == STATUS_OK) st = segment_check_index(info, entries, file->path);
    if (st != STATUS_OK) {
        free(entries);
        return st;
    }
    *out = entries;
    return STATUS_OK;
}

status segment_read_bases(const file_reader *file, const segment_info *info, const segment_entry *entries,
                          uint64_t **out) {
    const size_t n = (size_t)segment_count_entries(info);
    uint64_t *bases = mem_new(n, sizeof *bases);
    status st = file_reader_read(file, file->path, info->bases_offset, bases, n * sizeof *bases);
    for (size_t i = 0; i < n && st == STATUS_OK; i++)
        if (bases[i] < 1 || bases[i] > entries[i].n_bytes)
            st = status_refuse("%s: /bases: chunk %zu has an impossible one: damaged", file->path, i);
    if (st != STATUS_OK) {
        free(bases);
        return st;
    }
    *out = bases;
    return STATUS_OK;
}

status segment_check_digest(const file_reader *file, const segment_info *info, const segment_entry *entries) {
    uint64_t digest[2];
    status st = segment_digest(file, info, entries, digest);
    if (st != STATUS_OK) return st;
    if (digest[0] == info->digest[0] && digest[1] == info->digest[1]) return STATUS_OK;
    return status_refuse(
        "%s: /index and the rest outside of chunks do not match the manifest's digest: damaged, "
        "or the file of another save",
        file->path);
}

static status check_size(int64_t n_bytes, const segment_info *info, const char *path) {
    if (n_bytes == info->file_bytes) return STATUS_OK;
    return status_refuse("%s: it has %" PRId64 " bytes, but the manifest says %" PRId64
                         ": truncated, or the file of another save",
                         path, n_bytes, info->file_bytes);
}

status segment_open(const char *dir, file_relay *relay, const segment_info *info, const kv_tables *tables,
                    segment **out) {
    segment *s = mem_new(1, sizeof *s);
    *s = (segment){.info = *info, .tables = tables, .file = file_reader_of(dir, info->name, relay)};
    status st = status_at(fault_at("segment-read"), "%s", s->file.path);
    if (st == STATUS_OK) st = segment_resume(s);
    if (st == STATUS_OK) st = segment_read_index(&s->file, info, &s->entries);
    if (st == STATUS_OK) st = segment_check_digest(&s->file, info, s->entries);
    if (st == STATUS_OK && info->has_base) st = segment_read_bases(&s->file, info, s->entries, &s->bases);
    if (st != STATUS_OK)
        segment_close(s);
    else
        *out = s;
    return st;
}

void segment_close(segment *s) {
    if (!s) return;
    file_reader_close(&s->file);
    free(s->entries);
    free(s->bases);
    free(s);
}

void segment_pause(segment *s) {
    file_reader_pause(&s->file);
}

status segment_resume(segment *s) {
    int64_t n_bytes = 0;
    if (s->file.fd >= 0) return STATUS_OK;
    status st = file_reader_resume(&s->file, &n_bytes);
    return st == STATUS_OK ? check_size(n_bytes, &s->info, s->file.path) : st;
}

/* ---- chunks ---- */

status segment_at_chunk(status st, const segment *s, int64_t i) {
    const segment_chunk c = segment_chunk_at(&s->info, i);
    const int first = c.chunk.first_layer, last = first + c.chunk.n_layers - 1;
    const int64_t row = c.row0 + c.chunk.shape.n_tokens - 1;
    if (!segment_is_joint(&s->info))
        return status_at(st, "%s: /layers/%d/%s, rows %" PRId64 " to %" PRId64, s->file.path, first,
                         c.chunk.part == KV_PART_K ? "k" : "v", c.row0, row);
    return status_at(st, "%s: /kv, layers %d to %d, rows %" PRId64 " to %" PRId64, s->file.path, first, last,
                     c.row0, row);
}

status segment_read_distortion(segment *s, int64_t i, kv_planes planes, float *out) {
    char head[KV_FRAME_LOOK_BYTES];
    const size_t n = s->entries[i].n_bytes < sizeof head ? (size_t)s->entries[i].n_bytes : sizeof head;
    *out = 0;
    if (s->info.is_plain) return STATUS_OK;
    status st = file_reader_read(&s->file, "its chunk", (int64_t)s->entries[i].offset, head, n);
    const kv_frame_claim claim = st == STATUS_OK ? kv_frame_look(head, n) : (kv_frame_claim){0};
    *out = planes == KV_BASE_ONLY ? claim.base_distortion : claim.distortion;
    return segment_at_chunk(st, s, i);
}

size_t segment_chunk_file_bytes(const segment *s, int64_t i, kv_planes planes) {
    return (size_t)(planes == KV_BASE_ONLY && s->bases ? s->bases[i] : s->entries[i].n_bytes);
}

status segment_fetch(segment *s, int64_t i, size_t begin, size_t end, void *bytes) {
    status st = status_at(fault_at("segment-read"), "%s", s->file.path);
    if (st != STATUS_OK) return st;
    st = file_reader_read(&s->file, "its chunk", (int64_t)(s->entries[i].offset + begin), bytes, end - begin);
    return segment_at_chunk(st, s, i);
}

status segment_check_chunk(segment *s, int64_t i, const void *bytes) {
    const segment_entry *entry = &s->entries[i];
    if (segment_chunk_checksum(&s->info, bytes, (size_t)entry->n_bytes) == entry->checksum) return STATUS_OK;
    return segment_at_chunk(status_refuse("its checksum is not that of /index: damaged"), s, i);
}

status segment_decode_rows(segment *s, int64_t i, const void *bytes, size_t n_bytes, void *room,
                           const kv_output *out) {
    const segment_chunk c = segment_chunk_at(&s->info, i);
    const bool is_base = n_bytes < s->entries[i].n_bytes;
    return segment_at_chunk(kv_frame_decode_rows(bytes, n_bytes, is_base, s->tables, &c.chunk, room, out), s,
                            i);
}

status segment_decode(segment *s, int64_t i, const void *bytes, size_t n_bytes, void *elements) {
    return segment_decode_rows(s, i, bytes, n_bytes, elements, NULL);
}

status segment_make_job(segment *s, int64_t i, const void *bytes, size_t n_bytes, text_buffer *to,
                        varve_job *job, segment_chunk *chunk, const kv_tables **tables) {
    const bool is_base = n_bytes < s->entries[i].n_bytes;
    *chunk = segment_chunk_at(&s->info, i);
    *tables = s->tables;
    return segment_at_chunk(kv_frame_make_job(bytes, n_bytes, is_base, s->tables, &chunk->chunk, to, job), s,
                            i);
}

/* A frame goes to a buffer first. */
status segment_read_chunk(segment *s, int64_t i, kv_planes planes, void *elements) {
    const size_t n = segment_chunk_file_bytes(s, i, planes);
    void *frame = s->info.is_plain ? NULL : mem_resize(NULL, n, 1), *bytes = frame ? frame : elements;
    status st = segment_fetch(s, i, 0, n, bytes);
    if (st == STATUS_OK && n == s->entries[i].n_bytes) st = segment_check_chunk(s, i, bytes);
    if (st == STATUS_OK && frame) st = segment_decode(s, i, frame, n, elements);
    free(frame);
    return st;
}

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Where a row of a part of a layer lies among the elements of a chunk that has it, counted in rows. */
static size_t row_of(const kv_chunk *chunk, int layer, int part, int64_t row) {
    const int i = (layer - chunk->first_layer) * chunk->n_parts + part - (int)chunk->part;
    return (size_t)i * (size_t)chunk->shape.n_tokens + (size_t)row;
}

/* What a chunk has of rows [row0, row0 + n_rows), copied to where they belong. */
static void copy_rows(const segment_chunk *c, const char *elements, int64_t row0, int64_t n_rows,
                      const kv_chunk *to, int64_t first, char *out) {
    const kv_chunk_shape row = {to->shape.type, 1, to->shape.n_kv_heads, to->shape.head_dim};
    const size_t row_bytes = kv_chunk_bytes(&row);
    const int64_t begin = most(row0, c->row0), end = least(row0 + n_rows, c->row0 + c->chunk.shape.n_tokens);
    const int layer_end =
        (int)least(to->first_layer + to->n_layers, c->chunk.first_layer + c->chunk.n_layers);
    const int part_end = (int)least((int)to->part + to->n_parts, (int)c->chunk.part + c->chunk.n_parts);
    for (int layer = (int)most(to->first_layer, c->chunk.first_layer); layer < layer_end; layer++)
        for (int part = (int)most(to->part, c->chunk.part); part < part_end; part++)
            memcpy(out + row_of(to, layer, part, first + begin - row0) * row_bytes,
                   elements + row_of(&c->chunk, layer, part, begin - c->row0) * row_bytes,
                   (size_t)(end - begin) * row_bytes);
}

/* Is all of the chunk wanted, and in one piece? */
static bool is_whole(const segment_chunk *c, int64_t row0, int64_t n_rows) {
    return kv_chunk_count_parts(&c->chunk) == 1 && row0 <= c->row0 &&
           row0 + n_rows >= c->row0 + c->chunk.shape.n_tokens;
}

/* The chunks of rows that are wanted, of the layers and parts whose first chunk is `begin`. */
static status read_rows(segment *s, int64_t begin, int64_t row0, int64_t n_rows, const kv_chunk *to,
                        int64_t first, char *out, void *room) {
    const int64_t chunk = s->info.chunk_tokens;
    const size_t row_bytes = kv_chunk_bytes(&to->shape) / (size_t)to->shape.n_tokens;
    status st = STATUS_OK;
    for (int64_t i = (row0 - s->info.row0) / chunk;
         st == STATUS_OK && i * chunk < row0 + n_rows - s->info.row0; i++) {
        const segment_chunk c = segment_chunk_at(&s->info, begin + i);
        const bool whole = is_whole(&c, row0, n_rows);
        char *here = whole ? out + row_of(to, c.chunk.first_layer, (int)c.chunk.part, first + c.row0 - row0) *
                                       row_bytes
                           : room;
        st = segment_read_chunk(s, begin + i, KV_ALL_PLANES, here);
        if (st == STATUS_OK && !whole) copy_rows(&c, room, row0, n_rows, to, first, out);
    }
    return st;
}

status segment_read_into(segment *s, int64_t row0, int64_t n_rows, const kv_chunk *to, int64_t first,
                         void *elements) {
    const segment_info *info = &s->info;
    const kv_chunk largest = segment_largest_chunk(info);
    assert(to->first_layer >= info->first_layer && to->first_layer + to->n_layers <= info->last_layer &&
           row0 >= info->row0 && n_rows >= 0 && row0 + n_rows <= info->row0 + info->n_rows);
    void *room = mem_resize(NULL, kv_chunk_all_bytes(&largest), 1);
    status st = STATUS_OK;
    for (int64_t i = 0; n_rows && st == STATUS_OK && i < segment_count_entries(info);
         i += segment_count_chunks(info)) {
        const kv_chunk c = segment_chunk_at(info, i).chunk;
        if (c.first_layer < to->first_layer + to->n_layers && c.first_layer + c.n_layers > to->first_layer &&
            (int)c.part < (int)to->part + to->n_parts && (int)c.part + c.n_parts > (int)to->part)
            st = read_rows(s, i, row0, n_rows, to, first, elements, room);
    }
    free(room);
    return st;
}

status segment_read(segment *s, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out) {
    const segment_info *info = &s->info;
    const kv_chunk_shape rows = {info->type, (int32_t)n_rows, info->n_kv_heads, info->head_dim};
    const kv_chunk to = kv_chunk_of(&rows, layer, part);
    return segment_read_into(s, row0, n_rows, &to, 0, out);
}

/* Is it of the codec and tables that the manifest names, and its base as long as /bases says? What the codec
 * would make larger is stored as it is. */
static status check_codec(const segment *s, int64_t i, const void *frame, size_t n_bytes) {
    const segment_info *info = &s->info;
    const kv_frame_claim claim = kv_frame_look(frame, n_bytes);
    const size_t base = segment_chunk_file_bytes(s, i, KV_BASE_ONLY);
    if (base != (claim.base_bytes ? claim.base_bytes : n_bytes))
        return status_refuse("frame with a base of %zu bytes, but /bases says %zu", claim.base_bytes, base);
    if (claim.codec == KV_CODEC_NONE) return STATUS_OK;
    if (claim.codec == info->codec && claim.tables_digest == info->tables_digest) return STATUS_OK;
    return status_refuse(
        "frame of the codec %s and the tables %016" PRIx64 ", but the manifest says %s and %016" PRIx64,
        kv_codec_name(claim.codec), claim.tables_digest, kv_codec_name(info->codec), info->tables_digest);
}

status segment_verify_chunk(segment *s, int64_t i, int64_t *n_bytes) {
    const segment_chunk c = segment_chunk_at(&s->info, i);
    const size_t n = (size_t)s->entries[i].n_bytes;
    void *bytes = mem_resize(NULL, n, 1);
    status st = segment_fetch(s, i, 0, n, bytes);
    if (st == STATUS_OK) st = segment_check_chunk(s, i, bytes);
    if (st == STATUS_OK && !s->info.is_plain) {
        st = kv_frame_check(bytes, n, &c.chunk);
        if (st == STATUS_OK) st = check_codec(s, i, bytes, n);
        st = segment_at_chunk(st, s, i);
    }
    if (st == STATUS_OK) *n_bytes += (int64_t)n;
    free(bytes);
    return st;
}
