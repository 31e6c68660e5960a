#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/codec/kv_filter.h"
#include "io/files.h"
#include "io/h5.h"
#include "io/snapshot/segment_private.h"
#include "src/base/alive.h"
#include "src/base/fault.h"
#include "src/base/memory.h"

/* Chunks go to the file in the order of layers, parts, rows. Threads encode them into a ring of slots;
 * whichever is free when the next one of the order is ready writes it. Nobody spins: the model computes
 * meanwhile. */
enum { WRITEBACK_BYTES = 16 << 20 };

typedef struct encoded_chunk {
    char *bytes; /* as they go to the file */
    size_t n_bytes, base_bytes;
    uint64_t checksum;
    bool is_ready; /* to be written */
} encoded_chunk;

typedef struct writer {
    const segment_info *info;
    const segment_source *source;
    char *path; /* the temporary one */
    hid_t file;
    hid_t dataset;  /* where chunks go now; negative: none */
    hid_t creation; /* properties of the datasets */
    hid_t type, space;
    int fd; /* our own view of the file */
    int64_t n_entries;
    segment_entry *index;        /* [n_entries]: one for each chunk */
    uint64_t *bases;             /* [n_entries]: bytes of each chunk's base */
    uint64_t n_written, n_begun; /* bytes written, and of these begun to reach the disk */

    pthread_mutex_t lock; /* of what follows, and of is_ready */
    pthread_cond_t changed;
    encoded_chunk *slots; /* chunk i is in slot i % n_slots */
    int64_t n_slots;
    int64_t next_encoded, next_written; /* chunks */
    bool is_writing;                    /* one of the threads is */
    status st;                          /* the first failure of any of them, and its text */
    char text[STATUS_TEXT_BYTES];
} writer;

/* ---- the file ---- */

static status create_file(writer *w) {
    status st = status_at(fault_at("segment-create"), "%s", w->path);
    if (st != STATUS_OK) return st;
    if (unlink(w->path) != 0 && errno != ENOENT) /* left by a job that died */
        return status_fail("%s: cannot be removed: %s", w->path, strerror(errno));
    h5_lock();
    hid_t access = h5_file_access(), creation = h5_file_creation();
    w->file = H5Fcreate(w->path, H5F_ACC_EXCL, creation, access);
    if (w->file < 0 || h5_create_group(w->file, "/layers") < 0) st = h5_fail(w->path, "cannot be created");
    H5Pclose(creation);
    H5Pclose(access);
    h5_unlock();
    return st;
}

static status reserve_space(writer *w) {
    w->fd = open(w->path, O_RDWR | O_CLOEXEC);
    if (w->fd < 0) return status_fail("%s: cannot be opened: %s", w->path, strerror(errno));
    const int64_t dataset_bytes = 4096, chunk_bytes = 64;                  /* of metadata, at most */
    const int64_t usual_share = kv_codec_is_exact(w->info->codec) ? 1 : 4; /* of others: far less yet */
    const kv_chunk largest = segment_largest_chunk(w->info);
    const int64_t most = (int64_t)segment_chunk_max_bytes(w->info, &largest);
    const int64_t n_datasets = (int64_t)N_KV_PARTS * (w->info->last_layer - w->info->first_layer);
    return file_reserve(w->fd, w->path,
                        w->n_entries * (most / usual_share + chunk_bytes) + (n_datasets + 2) * dataset_bytes);
}

/* A plain dataset is one stretch of the file from the beginning. */
static herr_t set_layout(const writer *w, int rank, const hsize_t *chunk) {
    if (!w->info->is_plain) return H5Pset_chunk(w->creation, rank, chunk);
    herr_t code = H5Pset_alloc_time(w->creation, H5D_ALLOC_TIME_EARLY);
    return code < 0 ? code : H5Pset_fill_time(w->creation, H5D_FILL_TIME_NEVER);
}

/* Of what chunks take together, there is one dataset: [layers, parts, rows, heads, width]. Else one for each
 * part of each layer: [rows, heads, width], the last of these. */
enum { MOST_DIMS = 5, ROWS_DIM = 2 };

static int first_dim(const writer *w) {
    return segment_is_joint(w->info) ? 0 : ROWS_DIM;
}

static void get_dims(const segment_info *info, hsize_t dims[MOST_DIMS]) {
    dims[0] = (hsize_t)(info->last_layer - info->first_layer);
    dims[1] = N_KV_PARTS;
    dims[ROWS_DIM] = (hsize_t)info->n_rows;
    dims[3] = (hsize_t)info->n_kv_heads;
    dims[4] = (hsize_t)info->head_dim;
}

/* What all datasets have in common. With the lock. */
static status make_properties(writer *w) {
    const segment_info *info = w->info;
    const int first = first_dim(w), rank = MOST_DIMS - first;
    hsize_t dims[MOST_DIMS], chunk[MOST_DIMS];
    get_dims(info, dims);
    get_dims(info, chunk);
    chunk[0] = (hsize_t)info->chunk_layers;
    chunk[ROWS_DIM] = (hsize_t)info->chunk_tokens;
    const kv_chunk largest = segment_largest_chunk(info);
    w->type = h5_element_type(info->type);
    w->space = H5Screate_simple(rank, dims + first, NULL);
    w->creation = h5_element_creation(info->type);
    if (w->type < 0 || w->space < 0 || w->creation < 0 || set_layout(w, rank, chunk + first) < 0)
        return h5_fail(w->path, "its datasets cannot be described");
    if (info->is_plain) return STATUS_OK;
    status st = kv_filter_register();
    return st == STATUS_OK ? kv_filter_set(w->creation, &largest) : st;
}

static herr_t write_attributes(const writer *w, hid_t dataset, int layer, kv_part part) {
    const int64_t layer_number = layer;
    herr_t code = h5_write_integers(dataset, "layer", &layer_number, 1);
    if (code >= 0) code = h5_write_text(dataset, "part", part == KV_PART_K ? "keys" : "values");
    if (code >= 0) code = h5_write_integers(dataset, "row0", &w->info->row0, 1);
    if (code >= 0) code = h5_write_text(dataset, "dimensions", "row, kv_head, head_dim");
    if (code >= 0) code = h5_write_text(dataset, "units", "1");
    return code;
}

/* HDF5 may hold the end of what was written to it until then. With the lock. */
static status end_dataset(writer *w) {
    if (w->dataset < 0) return STATUS_OK;
    herr_t code = H5Dclose(w->dataset);
    w->dataset = -1;
    return code < 0 ? h5_fail(w->path, "cannot be written") : STATUS_OK;
}

/* "/layers/3/k", in the group of its layer, which is made with K. With the lock. */
static bool name_part(const writer *w, int layer, kv_part part, char name[40]) {
    char group[32];
    snprintf(group, sizeof group, "/layers/%d", layer);
    snprintf(name, 40, "%s/%s", group, part == KV_PART_K ? "k" : "v");
    return part != KV_PART_K || h5_create_group(w->file, group) >= 0;
}

/* The dataset of this layer and part; the one before is complete. With the lock. */
static status begin_part(writer *w, int layer, kv_part part) {
    char name[40];
    status st = end_dataset(w);
    if (st != STATUS_OK) return st;
    w->dataset = name_part(w, layer, part, name)
                     ? H5Dcreate2(w->file, name, w->type, w->space, H5P_DEFAULT, w->creation, H5P_DEFAULT)
                     : -1;
    if (w->dataset < 0 || write_attributes(w, w->dataset, layer, part) < 0)
        return h5_fail(w->path, "cannot be written");
    return STATUS_OK;
}

/* The one dataset of all of them. With the lock. */
static status begin_joint(writer *w) {
    const int64_t first_layer = w->info->first_layer;
    w->dataset = H5Dcreate2(w->file, "/kv", w->type, w->space, H5P_DEFAULT, w->creation, H5P_DEFAULT);
    const bool good =
        w->dataset >= 0 && h5_write_integers(w->dataset, "first_layer", &first_layer, 1) >= 0 &&
        h5_write_integers(w->dataset, "row0", &w->info->row0, 1) >= 0 &&
        h5_write_text(w->dataset, "dimensions", "layer, part (keys, values), row, kv_head, head_dim") >= 0 &&
        h5_write_text(w->dataset, "units", "1") >= 0;
    return good ? STATUS_OK : h5_fail(w->path, "cannot be written");
}

/* Part of a layer as a view of the one dataset. With the lock. */
static status write_view(writer *w, int layer, kv_part part) {
    char name[40];
    hsize_t dims[MOST_DIMS], begin[MOST_DIMS] = {(hsize_t)(layer - w->info->first_layer), (hsize_t)part};
    get_dims(w->info, dims);
    dims[0] = dims[1] = 1;
    hid_t view = H5Screate_simple(MOST_DIMS - ROWS_DIM, dims + ROWS_DIM, NULL), from = H5Scopy(w->space);
    hid_t creation = h5_element_creation(w->info->type);
    bool good = name_part(w, layer, part, name) &&
                H5Sselect_hyperslab(from, H5S_SELECT_SET, begin, NULL, dims, NULL) >= 0 &&
                H5Pset_layout(creation, H5D_VIRTUAL) >= 0 &&
                H5Pset_virtual(creation, view, ".", "/kv", from) >= 0;
    hid_t dataset = good ? H5Dcreate2(w->file, name, w->type, view, H5P_DEFAULT, creation, H5P_DEFAULT) : -1;
    good = dataset >= 0 && write_attributes(w, dataset, layer, part) >= 0;
    if (dataset >= 0) H5Dclose(dataset);
    H5Pclose(creation);
    H5Sclose(from);
    H5Sclose(view);
    return good ? STATUS_OK : h5_fail(w->path, "cannot be written");
}

static status write_views(writer *w) {
    status st = STATUS_OK;
    h5_lock();
    for (int layer = w->info->first_layer; layer < w->info->last_layer; layer++)
        for (int part = 0; part < N_KV_PARTS && st == STATUS_OK; part++)
            st = write_view(w, layer, (kv_part)part);
    h5_unlock();
    return st;
}

/* Does the file hold this frame here? Its last bytes tell, as its checksum is among them. */
static bool frame_is_at(const writer *w, haddr_t offset, const encoded_chunk *frame) {
    char bytes[64];
    const size_t n = frame->n_bytes < sizeof bytes ? frame->n_bytes : sizeof bytes, skip = frame->n_bytes - n;
    return pread(w->fd, bytes, n, (off_t)(offset + skip)) == (ssize_t)n &&
           memcmp(bytes, frame->bytes + skip, n) == 0;
}

/* Write a frame; *offset: where it lies. HDF5 puts it at the end of the file, unless it has a gap to fill or
 * something of its own to add: then HDF5 is asked, which looks through all chunks of the dataset. With the
 * lock. */
static status write_frame(const writer *w, const hsize_t *at, const encoded_chunk *frame, haddr_t *offset) {
    hsize_t n_bytes = frame->n_bytes;
    unsigned mask;
    if (H5Fget_eoa(w->file, offset) < 0 ||
        H5Dwrite_chunk(w->dataset, H5P_DEFAULT, 0, at, frame->n_bytes, frame->bytes) < 0)
        return h5_fail(w->path, "cannot be written");
    if (!frame_is_at(w, *offset, frame) &&
        H5Dget_chunk_info_by_coord(w->dataset, at, &mask, offset, &n_bytes) < 0)
        return h5_fail(w->path, "cannot be written");
    assert(n_bytes == frame->n_bytes);
    return STATUS_OK;
}

/* Write a chunk of a plain dataset; *offset: where it lies. With the lock. */
static status write_rows(const writer *w, const hsize_t *at, const encoded_chunk *rows, haddr_t *offset) {
    const hsize_t row_bytes =
        (hsize_t)w->info->n_kv_heads * (hsize_t)w->info->head_dim * dtype_bytes(w->info->type);
    const hsize_t dims[3] = {rows->n_bytes / row_bytes, (hsize_t)w->info->n_kv_heads,
                             (hsize_t)w->info->head_dim};
    const haddr_t begin = H5Dget_offset(w->dataset);
    *offset = begin + at[0] * row_bytes;
    hid_t memory = H5Screate_simple(3, dims, NULL);
    bool good = begin != HADDR_UNDEF &&
                H5Sselect_hyperslab(w->space, H5S_SELECT_SET, at, NULL, dims, NULL) >= 0 &&
                H5Dwrite(w->dataset, w->type, memory, w->space, H5P_DEFAULT, rows->bytes) >= 0;
    status st = good ? STATUS_OK : h5_fail(w->path, "cannot be written");
    H5Sclose(memory);
    return st;
}

/* A dataset of numbers of each chunk, with the dimensions [layers, parts, chunks, n_each], or without the
 * last. Where it lies. */
static status write_numbers(writer *w, const char *name, const char *what, hsize_t n_each,
                            const void *numbers, int64_t *offset) {
    const hsize_t n_chunks = (hsize_t)segment_count_chunks(w->info);
    const hsize_t n_parts = segment_is_joint(w->info) ? 1 : N_KV_PARTS;
    const hsize_t dims[4] = {(hsize_t)w->n_entries / n_chunks / n_parts, n_parts, n_chunks, n_each};
    char text[128];
    snprintf(text, sizeof text, "%s, chunk, its %s",
             segment_is_joint(w->info) ? "layers of a chunk, 1" : "layer, part (k, v)", what);
    h5_lock();
    status st = end_dataset(w);
    hid_t space = H5Screate_simple(n_each > 1 ? 4 : 3, dims, NULL), creation = h5_dataset_creation();
    if (st == STATUS_OK)
        w->dataset = H5Dcreate2(w->file, name, H5T_STD_U64LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    bool good = w->dataset >= 0 &&
                H5Dwrite(w->dataset, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers) >= 0 &&
                h5_write_text(w->dataset, "dimensions", text) >= 0;
    if (st == STATUS_OK && !good) st = h5_fail(w->path, "cannot be written");
    if (good) *offset = (int64_t)H5Dget_offset(w->dataset);
    H5Pclose(creation);
    H5Sclose(space);
    h5_unlock();
    return st;
}

static status write_index(writer *w, segment_info *done) {
    status st =
        write_numbers(w, "/index", "(offset in the file, bytes, checksum)", 3, w->index, &done->index_offset);
    if (st != STATUS_OK || !w->info->has_base) return st;
    return write_numbers(w, "/bases", "base's bytes", 1, w->bases, &done->bases_offset);
}

static status close_file(writer *w) {
    if (w->file < 0) return STATUS_OK;
    h5_lock();
    if (w->dataset >= 0) H5Dclose(w->dataset);
    if (w->creation >= 0) H5Pclose(w->creation);
    if (w->space >= 0) H5Sclose(w->space);
    if (w->type >= 0) H5Tclose(w->type);
    status st = H5Fclose(w->file) >= 0 ? STATUS_OK : h5_fail(w->path, "cannot be written");
    h5_unlock();
    w->file = w->dataset = w->creation = w->space = w->type = -1;
    return st;
}

/* Nothing stays of the file. HDF5 may be unable to write what it still holds, and keeps the file open then:
 * so its space is given back first, and again. */
static void abandon_file(writer *w) {
    char text[STATUS_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", status_text());
    if (w->fd >= 0) (void)!ftruncate(w->fd, 0);
    (void)close_file(w);
    if (w->fd >= 0) (void)!ftruncate(w->fd, 0);
    unlink(w->path);
    (void)status_adopt(STATUS_FAILED, text); /* of the failure that led here */
}

/* ---- chunks ---- */

static status encode_chunk(const writer *w, int64_t i, void *elements, encoded_chunk *out) {
    const segment_info *info = w->info;
    const segment_source *from = w->source;
    const segment_chunk c = segment_chunk_at(info, i);
    const kv_coding how = segment_coding(info);
    status st = from->read(from->context, &c.chunk, c.row0, info->is_plain ? out->bytes : elements);
    if (st != STATUS_OK) return st;
    kv_token *tokens = NULL;
    if (from->describe && !info->is_plain) {
        tokens = mem_new((size_t)c.chunk.shape.n_tokens, sizeof *tokens);
        from->describe(from->context, c.row0, c.chunk.shape.n_tokens, tokens);
    }
    out->n_bytes = info->is_plain
                       ? kv_chunk_all_bytes(&c.chunk)
                       : kv_frame_encode(&how, from->tables, &c.chunk, tokens, elements, out->bytes, NULL);
    out->base_bytes = info->is_plain ? 0 : kv_frame_look(out->bytes, out->n_bytes).base_bytes;
    out->checksum = segment_chunk_checksum(info, out->bytes, out->n_bytes);
    free(tokens);
    return st;
}

static status write_chunk(writer *w, int64_t i, const encoded_chunk *c) {
    const segment_chunk what = segment_chunk_at(w->info, i);
    const bool is_joint = segment_is_joint(w->info);
    const hsize_t at[MOST_DIMS] = {[0] = (hsize_t)(what.chunk.first_layer - w->info->first_layer),
                                   [ROWS_DIM] = (hsize_t)(what.row0 - w->info->row0)};
    haddr_t offset = 0;
    alive_say();
    status st = status_at(fault_at("segment-write"), "%s", w->path);
    h5_lock();
    if (st == STATUS_OK && is_joint && i == 0) st = begin_joint(w);
    if (st == STATUS_OK && !is_joint && what.row0 == w->info->row0)
        st = begin_part(w, what.chunk.first_layer, what.chunk.part);
    if (st == STATUS_OK)
        st = (w->info->is_plain ? write_rows : write_frame)(w, at + first_dim(w), c, &offset);
    h5_unlock();
    w->index[i] = (segment_entry){.offset = offset, .n_bytes = c->n_bytes, .checksum = c->checksum};
    w->bases[i] = c->base_bytes ? c->base_bytes : c->n_bytes;
    w->n_written += c->n_bytes;
    if (w->n_written - w->n_begun >= WRITEBACK_BYTES) {
        file_start_writeback(w->fd, (int64_t)w->n_begun, (int64_t)(w->n_written - w->n_begun));
        w->n_begun = w->n_written;
    }
    return st;
}

/* The steps of a thread; each is called with the lock, and gives it away while it works. */

static void end_step(writer *w, status st) {
    pthread_mutex_lock(&w->lock);
    if (st != STATUS_OK && w->st == STATUS_OK) {
        w->st = st;
        snprintf(w->text, sizeof w->text, "%s", status_text());
    }
    pthread_cond_broadcast(&w->changed);
}

static void step_encode(writer *w, void *elements) {
    const int64_t i = w->next_encoded++;
    encoded_chunk *slot = &w->slots[i % w->n_slots];
    pthread_mutex_unlock(&w->lock);
    status st = encode_chunk(w, i, elements, slot);
    end_step(w, st);
    slot->is_ready = st == STATUS_OK;
}

static void step_write(writer *w) {
    const int64_t i = w->next_written;
    encoded_chunk *slot = &w->slots[i % w->n_slots];
    w->is_writing = true;
    pthread_mutex_unlock(&w->lock);
    status st = write_chunk(w, i, slot);
    end_step(w, st);
    w->is_writing = slot->is_ready = false;
    w->next_written++;
}

static void *run_thread(void *writer_of_all) {
    writer *w = writer_of_all;
    const kv_chunk largest = segment_largest_chunk(w->info);
    void *elements = mem_resize(NULL, kv_chunk_all_bytes(&largest), 1);
    pthread_mutex_lock(&w->lock);
    while (w->st == STATUS_OK && w->next_written < w->n_entries) {
        if (!w->is_writing && w->slots[w->next_written % w->n_slots].is_ready)
            step_write(w);
        else if (w->next_encoded < w->n_entries && w->next_encoded < w->next_written + w->n_slots)
            step_encode(w, elements);
        else
            pthread_cond_wait(&w->changed, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    free(elements);
    return NULL;
}

/* This thread is one of them; where no more can be had, fewer do. */
static status write_chunks(writer *w, int n_threads) {
    pthread_t *threads = mem_new((size_t)n_threads, sizeof *threads);
    int n_started = 0;
    while (n_started < n_threads - 1 && pthread_create(&threads[n_started], NULL, run_thread, w) == 0)
        n_started++;
    run_thread(w);
    for (int i = 0; i < n_started; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    return w->st == STATUS_OK ? STATUS_OK : status_adopt(w->st, w->text);
}

/* ---- all of it ---- */

static void open_writer(writer *w, const char *dir, int n_threads) {
    const kv_chunk largest = segment_largest_chunk(w->info);
    char name[SEGMENT_NAME_BYTES + 8];
    snprintf(name, sizeof name, ".%s.tmp", w->info->name);
    w->path = file_path(dir, name);
    w->file = w->dataset = w->creation = w->type = w->space = -1;
    w->fd = -1;
    w->n_entries = segment_count_entries(w->info);
    w->index = mem_new((size_t)w->n_entries, sizeof *w->index);
    w->bases = mem_new((size_t)w->n_entries, sizeof *w->bases);
    w->n_slots = (int64_t)n_threads * SEGMENT_SLOTS_PER_THREAD;
    if (w->n_slots > w->n_entries) w->n_slots = w->n_entries;
    w->slots = mem_new((size_t)w->n_slots, sizeof *w->slots);
    for (int64_t i = 0; i < w->n_slots; i++)
        w->slots[i].bytes = mem_resize(NULL, segment_chunk_max_bytes(w->info, &largest), 1);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
}

static void close_writer(writer *w) {
    if (w->fd >= 0) close(w->fd);
    for (int64_t i = 0; i < w->n_slots; i++)
        free(w->slots[i].bytes);
    free(w->slots);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w->index);
    free(w->bases);
    free(w->path);
}

static status write_file(writer *w, int n_threads, segment_info *done) {
    status st = create_file(w);
    if (st == STATUS_OK) st = reserve_space(w);
    if (st == STATUS_OK) {
        h5_lock();
        st = make_properties(w);
        h5_unlock();
    }
    if (st == STATUS_OK) st = write_chunks(w, n_threads);
    if (st == STATUS_OK && segment_is_joint(w->info)) st = write_views(w);
    if (st == STATUS_OK) st = write_index(w, done);
    return st;
}

/* What only the finished file can tell; its end has no space in reserve. */
static status finish_info(writer *w, segment_info *info) {
    struct stat file;
    if (fstat(w->fd, &file) != 0) return status_fail("%s: %s", w->path, strerror(errno));
    info->file_bytes = (int64_t)file.st_size;
    status st = file_trim(w->fd, w->path, info->file_bytes);
    if (st == STATUS_OK) st = segment_check_index(info, w->index, w->path);
    if (st == STATUS_OK)
        st = segment_digest(&(file_reader){.path = w->path, .fd = w->fd}, info, w->index, info->digest);
    return st;
}

static status flush_and_rename(writer *w, const char *dir) {
    status st = status_at(fault_at("segment-flush"), "%s", w->path);
    if (st == STATUS_OK) st = file_flush(w->fd, w->path);
    if (st == STATUS_OK) st = status_at(fault_at("segment-rename"), "%s", w->path);
    if (st != STATUS_OK) return st;
    char *path = file_path(dir, w->info->name);
    if (rename(w->path, path) != 0)
        st = status_fail("%s: cannot be renamed: %s", w->path, strerror(errno));
    else if ((st = directory_flush(dir)) != STATUS_OK)
        unlink(path);
    free(path);
    return st;
}

status segment_write(const char *dir, segment_info *info, const segment_source *source, int n_threads) {
    segment_info done = *info;
    const int n_layers = done.last_layer - done.first_layer;
    done.chunk_layers = kv_chunking_of(done.codec, done.type, done.n_kv_heads, done.head_dim).n_layers;
    if (done.chunk_layers > n_layers) done.chunk_layers = n_layers;
    done.is_plain = done.codec == KV_CODEC_NONE;
    writer w = {.info = &done, .source = source};
    open_writer(&w, dir, n_threads);
    status st = write_file(&w, n_threads, &done);
    if (st == STATUS_OK) st = close_file(&w);
    if (st == STATUS_OK) st = finish_info(&w, &done);
    if (st == STATUS_OK) st = flush_and_rename(&w, dir);
    if (st == STATUS_OK)
        *info = done;
    else
        abandon_file(&w);
    close_writer(&w);
    return st;
}
