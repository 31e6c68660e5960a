#include "io/synthetic/synthetic_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/files.h"
#include "io/json.h"
#include "kernels/dtype.h"
#include "src/base/alive.h"

/* What a thread makes and writes at once: it stays in the thread's cache, and is enough for a file system. */
enum { PIECE_ELEMENTS = 1 << 20 };

static const char index_name[] = "model.safetensors.index.json";

static void append(text_buffer *out, const char *text) {
    text_append(out, text, strlen(text));
}

/* ---- the plan ---- */

static uint64_t tensor_bytes(const synthetic_tensor *t) {
    return (uint64_t)synthetic_n_elements(t) * dtype_bytes(DTYPE_BF16);
}

/* 8 bytes little-endian length, then JSON, with spaces behind it so that the data are aligned to 8 bytes. */
static void make_header(const synthetic_files *f, synthetic_file *file) {
    char line[256];
    text_buffer json = {0};
    append(&json, "{\"__metadata__\":{\"format\":\"pt\"}");
    uint64_t offset = 0;
    for (size_t i = file->first; i < file->first + file->n; i++) {
        const synthetic_tensor *t = &f->tensors[i];
        char cols[32] = "";
        if (t->n_cols) snprintf(cols, sizeof cols, ",%lld", (long long)t->n_cols);
        snprintf(line, sizeof line,
                 ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[%lld%s],\"data_offsets\":[%llu,%llu]}", t->name,
                 (long long)t->n_rows, cols, (unsigned long long)offset,
                 (unsigned long long)(offset + tensor_bytes(t)));
        append(&json, line);
        offset += tensor_bytes(t);
    }
    append(&json, "}");
    while (json.n % 8)
        append(&json, " ");
    file->n_header = 8 + json.n;
    file->header = mem_new(file->n_header, 1);
    for (int i = 0; i < 8; i++)
        file->header[i] = (char)((uint64_t)json.n >> 8 * i);
    memcpy(file->header + 8, json.data, json.n);
    free(json.data);
    file->n_bytes = file->n_header + offset;
}

synthetic_files synthetic_files_plan(const char *dir, synthetic_tensor *tensors, size_t n_tensors,
                                     uint64_t max_bytes) {
    synthetic_files f = {.dir = dir, .tensors = tensors, .n_tensors = n_tensors};
    f.files = mem_new(f.n_tensors, sizeof *f.files);
    uint64_t used = 0; /* of the last file */
    for (size_t i = 0; i < f.n_tensors; i++) {
        uint64_t bytes = tensor_bytes(&f.tensors[i]);
        if (f.n_files == 0 || used + bytes > max_bytes) {
            f.files[f.n_files++].first = i;
            used = 0;
        }
        f.files[f.n_files - 1].n++;
        used += bytes;
        f.n_data_bytes += bytes;
    }
    for (int i = 0; i < f.n_files; i++) {
        synthetic_file *file = &f.files[i];
        if (f.n_files == 1)
            snprintf(file->name, sizeof file->name, "model.safetensors");
        else
            snprintf(file->name, sizeof file->name, "model-%05d-of-%05d.safetensors", i + 1, f.n_files);
        make_header(&f, file);
    }
    return f;
}

void synthetic_files_free(synthetic_files *f) {
    for (int i = 0; i < f->n_files; i++)
        free(f->files[i].header);
    free(f->files);
    free(f->tensors);
    free(f->made.data);
    *f = (synthetic_files){0};
}

/* ---- writing ---- */

/* Without space the machine failed us; anything else (no right to write, a read-only file system) is about
 * the directory that was given. */
static status cannot_write(const char *path, int error) {
    bool failed = error == ENOSPC || error == EDQUOT || error == EIO || error == EFBIG || error == ENFILE ||
                  error == EMFILE;
    return failed ? status_fail("%s: cannot be written: %s", path, strerror(error))
                  : status_refuse("%s: cannot be written: %s", path, strerror(error));
}

/* 0, or an errno: threads have no status text in common. */
static int write_at(int fd, const void *data, size_t n, uint64_t offset) {
    for (size_t done = 0; done < n;) {
        alive_say();
        ssize_t put = pwrite(fd, (const char *)data + done, n - done, (off_t)(offset + done));
        if (put < 0 && errno != EINTR) return errno;
        if (put > 0) done += (size_t)put;
    }
    return 0;
}

/* Flush and close, after an error or without. */
static status finish(int fd, const char *path, int error) {
    status st = error ? cannot_write(path, error) : file_flush(fd, path);
    if (close(fd) != 0 && st == STATUS_OK) st = cannot_write(path, errno);
    return st;
}

/* A file that does not exist yet. */
static int create(synthetic_files *f, const char *name, const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) text_append(&f->made, name, strlen(name) + 1);
    return fd;
}

status synthetic_files_create(synthetic_files *f, int i) {
    const synthetic_file *file = &f->files[i];
    char *path = file_path(f->dir, file->name);
    status st = STATUS_OK;
    int fd = create(f, file->name, path);
    if (fd < 0) {
        st = cannot_write(path, errno);
    } else {
        st = file_reserve(fd, path, (int64_t)file->n_bytes);
        int error = st == STATUS_OK ? write_at(fd, file->header, file->n_header, 0) : 0;
        if (close(fd) != 0 && !error) error = errno;
        if (error) st = cannot_write(path, error);
    }
    free(path);
    return st;
}

/* One file that is being filled, by all threads. */
typedef struct filling {
    const synthetic_values *values;
    int fd;
    int n_threads;
    int error; /* the first, of any thread; the others then stop */
    synthetic_tell *tell;
    void *context;
} filling;

static void fill_tensor(filling *g, const synthetic_tensor *t, uint64_t offset) {
    const int64_t n = synthetic_n_elements(t), n_pieces = (n + PIECE_ELEMENTS - 1) / PIECE_ELEMENTS;
#pragma omp parallel num_threads(g->n_threads)
    {
        uint16_t *piece = mem_new(n < PIECE_ELEMENTS ? (size_t)n : PIECE_ELEMENTS, sizeof *piece);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_pieces; i++) {
            int error;
#pragma omp atomic read
            error = g->error;
            if (error) continue;
            int64_t first = i * PIECE_ELEMENTS,
                    count = n - first < PIECE_ELEMENTS ? n - first : PIECE_ELEMENTS;
            size_t bytes = (size_t)count * sizeof *piece;
            synthetic_values_make(g->values, t->name, first, count, 1, piece);
            error = write_at(g->fd, piece, bytes, offset + (uint64_t)first * sizeof *piece);
            if (error) {
#pragma omp atomic write
                g->error = error;
            } else {
#pragma omp critical(synthetic_files_tell)
                g->tell(g->context, bytes);
            }
        }
        free(piece);
    }
}

status synthetic_files_fill(const synthetic_files *f, int i, const synthetic_values *v, int n_threads,
                            synthetic_tell *tell, void *context) {
    const synthetic_file *file = &f->files[i];
    char *path = file_path(f->dir, file->name);
    filling g = {.values = v, .n_threads = n_threads, .tell = tell, .context = context};
    g.fd = open(path, O_WRONLY | O_CLOEXEC);
    status st = g.fd < 0 ? cannot_write(path, errno) : STATUS_OK;
    uint64_t offset = file->n_header;
    for (size_t k = file->first; st == STATUS_OK && !g.error && k < file->first + file->n; k++) {
        fill_tensor(&g, &f->tensors[k], offset);
        offset += tensor_bytes(&f->tensors[k]);
    }
    if (g.fd >= 0) st = finish(g.fd, path, g.error);
    free(path);
    return st;
}

status synthetic_files_write_text(synthetic_files *f, const char *name, const text_buffer *text) {
    char *path = file_path(f->dir, name);
    int fd = create(f, name, path);
    status st = fd < 0 ? cannot_write(path, errno) : finish(fd, path, write_at(fd, text->data, text->n, 0));
    free(path);
    return st;
}

status synthetic_files_write_index(synthetic_files *f) {
    if (f->n_files == 1) return STATUS_OK;
    text_buffer json = {0};
    json_writer w = {.out = &json};
    json_open(&w, NULL, '{');
    json_open_line(&w, "metadata", '{');
    json_put_integer(&w, "total_size", (int64_t)f->n_data_bytes);
    json_close(&w);
    json_open(&w, "weight_map", '{');
    for (int i = 0; i < f->n_files; i++)
        for (size_t k = f->files[i].first; k < f->files[i].first + f->files[i].n; k++)
            json_put_text(&w, f->tensors[k].name, f->files[i].name);
    json_close(&w);
    json_close(&w);
    append(&json, "\n");
    status st = synthetic_files_write_text(f, index_name, &json);
    free(json.data);
    return st;
}

void synthetic_files_remove(synthetic_files *f) {
    for (size_t at = 0; at < f->made.n; at += strlen(f->made.data + at) + 1) {
        char *path = file_path(f->dir, f->made.data + at);
        (void)unlink(path);
        free(path);
    }
    f->made.n = 0;
}
