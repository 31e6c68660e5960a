#include "io/weights/weights.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "io/weights/model_dir.h"
#include "io/weights/weights_header.h"
#include "io/weights/weights_index.h"
#include "src/base/memory.h"
#include "src/base/notice.h"

/* One read: large enough for a parallel file system, small enough to be checked while it is in a cache. */
enum { PIECE_BYTES = 16 << 20 };

typedef struct weights_file {
    char *path;
    int fd; /* -1: not open */
} weights_file;

struct weights {
    char *dir;
    weights_file *files;
    int n_files;
    header_list tensors;     /* of all dtypes, in order of (name, file) */
    const tensor **in_files; /* those of dtypes that are read, in order of (file, offset) */
    size_t n_in_files;
    const char **names; /* of all that the files have, in order */
    size_t n_names;
    uint64_t bytes_read;
    synthetic_values *values; /* of a synthetic model, which has one file that is not there; or NULL */
    int n_threads;            /* that make them */
};

/* ---- opening ---- */

static bool exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

/* A file that is not there stays without a descriptor: perhaps nothing of it is needed. */
static status open_file(weights *w, const char *name) {
    int number = w->n_files++;
    weights_file *file = &w->files[number];
    file->path = file_path(w->dir, name);
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (file->fd < 0 && errno == ENOENT) return STATUS_OK;
    if (file->fd < 0) return status_refuse("%s: cannot be opened: %s", file->path, strerror(errno));
    status st = weights_header_read(file->fd, file->path, number, &w->tensors);
    if (st == STATUS_OK) (void)posix_fadvise(file->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* only advice */
    return st;
}

static int compare_names(const void *a, const void *b) {
    const tensor *s = &((const header_tensor *)a)->t, *t = &((const header_tensor *)b)->t;
    int order = strcmp(s->name, t->name);
    return order ? order : s->file - t->file;
}

static void sort_by_name(header_list *list) {
    if (list->n) qsort(list->items, list->n, sizeof *list->items, compare_names); /* never with NULL */
}

static status open_single(weights *w, const char *name) {
    w->files = mem_new(1, sizeof *w->files);
    status st = open_file(w, name);
    sort_by_name(&w->tensors);
    return st;
}

/* Of tensors with one name, which are neighbours in the order of their files, the last stays. */
static void keep_last(weights *w) {
    header_list *list = &w->tensors;
    size_t n_kept = 0;
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->items[i].t, *next = i + 1 < list->n ? &list->items[i + 1].t : NULL;
        if (next && strcmp(t->name, next->name) == 0) {
            notice_add(
                "%s: tensor \"%.150s\" is in this file too, but that of %s is read, as by transformers",
                w->files[t->file].path, t->name, w->files[next->file].path);
            free((char *)t->name);
        } else {
            list->items[n_kept++] = list->items[i];
        }
    }
    list->n = n_kept;
}

static header_tensor *find(const weights *w, const char *name) {
    size_t low = 0, high = w->tensors.n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, w->tensors.items[middle].t.name);
        if (order == 0) return &w->tensors.items[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* What the index names and no file has, so that it can be told where it should be. */
static void add_missing(weights *w, const weights_index *index) {
    header_list missing = {.items = mem_new(index->n_entries, sizeof *missing.items)};
    for (size_t i = 0; i < index->n_entries; i++) {
        const index_entry *entry = &index->entries[i];
        if (find(w, entry->tensor)) continue;
        int file = 0;
        while (strcmp(index->files[file], entry->file) != 0)
            file++;
        missing.items[missing.n++] = (header_tensor){
            .t = {.name = mem_copy_text(entry->tensor, strlen(entry->tensor)), .file = file},
            .is_missing = true,
        };
    }
    size_t n = w->tensors.n + missing.n;
    w->tensors.items = mem_resize(w->tensors.items, n, sizeof *w->tensors.items);
    memcpy(w->tensors.items + w->tensors.n, missing.items, missing.n * sizeof *missing.items);
    w->tensors.n = w->tensors.capacity = n;
    free(missing.items);
    sort_by_name(&w->tensors);
}

static status open_shards(weights *w, const char *index_path) {
    weights_index index = {0};
    status st = weights_index_read(index_path, &index);
    w->files = mem_new((size_t)index.n_files, sizeof *w->files);
    for (int i = 0; i < index.n_files && st == STATUS_OK; i++)
        st = open_file(w, index.files[i]);
    sort_by_name(&w->tensors);
    keep_last(w);
    if (st == STATUS_OK) add_missing(w, &index);
    weights_index_free(&index);
    return st;
}

static int compare_places(const void *a, const void *b) {
    const tensor *s = *(const tensor *const *)a, *t = *(const tensor *const *)b;
    if (s->file != t->file) return s->file - t->file;
    if (s->offset != t->offset) return s->offset < t->offset ? -1 : 1;
    return s->n_bytes < t->n_bytes ? -1 : s->n_bytes > t->n_bytes;
}

static bool is_read(const header_tensor *item) {
    return !item->unread_dtype && !item->is_missing;
}

static void order_by_place(weights *w) {
    w->in_files = mem_new(w->tensors.n, sizeof *w->in_files);
    w->names = mem_new(w->tensors.n, sizeof *w->names);
    for (size_t i = 0; i < w->tensors.n; i++)
        if (!w->tensors.items[i].is_missing) w->names[w->n_names++] = w->tensors.items[i].t.name;
    for (size_t i = 0; i < w->tensors.n; i++)
        if (is_read(&w->tensors.items[i])) w->in_files[w->n_in_files++] = &w->tensors.items[i].t;
    qsort(w->in_files, w->n_in_files, sizeof *w->in_files, compare_places);
}

status weights_open(const char *model_dir, weights **out) {
    static const char single[] = "model.safetensors";
    weights *w = mem_new(1, sizeof *w);
    w->dir = mem_copy_text(model_dir, strlen(model_dir));
    char *single_path = file_path(model_dir, single);
    char *index_path = file_path(model_dir, "model.safetensors.index.json");
    bool is_single = exists(single_path), is_sharded = exists(index_path);
    status st;
    if (is_single && is_sharded)
        notice_add(
            "%s is read, as by transformers, and the shards of %s beside it are not: remove one of the two",
            single_path, index_path);
    if (is_single)
        st = open_single(w, single);
    else if (is_sharded)
        st = open_shards(w, index_path);
    else
        st = model_dir_refuse(model_dir,
                              "model.safetensors, or model.safetensors.index.json with its shards,");
    free(single_path);
    free(index_path);
    if (st == STATUS_OK) {
        order_by_place(w);
        *out = w;
    } else {
        weights_close(w);
    }
    return st;
}

static void append_synthetic(header_list *list, const synthetic_tensor *t, uint64_t offset) {
    header_tensor *item = &list->items[list->n++];
    item->t = (tensor){
        .name = mem_copy_text(t->name, strlen(t->name)),
        .type = DTYPE_BF16,
        .n_dims = t->n_cols ? 2 : 1,
        .shape = {t->n_rows, t->n_cols},
        .offset = offset,
        .n_bytes = (uint64_t)synthetic_n_elements(t) * dtype_bytes(DTYPE_BF16),
    };
}

weights *weights_open_synthetic(const synthetic_model *m, const synthetic_tensor *tensors, size_t n_tensors,
                                int n_threads) {
    weights *w = mem_new(1, sizeof *w);
    w->dir = mem_copy_text(m->name, strlen(m->name));
    w->files = mem_new(1, sizeof *w->files);
    w->files[w->n_files++] = (weights_file){mem_copy_text(m->name, strlen(m->name)), -1};
    w->values = synthetic_values_open(m);
    w->n_threads = n_threads;
    w->tensors.items = mem_new(n_tensors, sizeof *w->tensors.items);
    uint64_t offset = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        append_synthetic(&w->tensors, &tensors[i], offset);
        offset += w->tensors.items[i].t.n_bytes;
    }
    sort_by_name(&w->tensors);
    order_by_place(w);
    return w;
}

void weights_close(weights *w) {
    if (!w) return;
    for (int i = 0; i < w->n_files; i++) {
        if (w->files[i].fd >= 0) close(w->files[i].fd);
        free(w->files[i].path);
    }
    synthetic_values_close(w->values);
    header_list_free(&w->tensors);
    free(w->in_files);
    free(w->names);
    free(w->files);
    free(w->dir);
    free(w);
}

/* ---- finding ---- */

const char *weights_dir(const weights *w) {
    return w->dir;
}

const tensor *weights_find(const weights *w, const char *name) {
    const header_tensor *found = find(w, name);
    return found && is_read(found) ? &found->t : NULL;
}

static void describe_shape(const int64_t *shape, int n_dims, char *text, size_t bytes) {
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < n_dims; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + used, bytes - used, "]");
}

status weights_expect(const weights *w, const char *name, int64_t n_rows, int64_t n_cols,
                      const tensor **out) {
    const header_tensor *found = find(w, name);
    if (!found) return status_refuse("%s: tensor \"%s\" is missing", w->dir, name);
    const tensor *t = &found->t;
    const char *path = w->files[t->file].path;
    if (found->is_missing && w->files[t->file].fd < 0)
        return status_refuse(
            "%s: this file of the model is missing (the index says that tensor \"%s\" is in it)", path, name);
    if (found->is_missing)
        return status_refuse("%s: tensor \"%s\" is not in this file, as the index says, nor in another", path,
                             name);
    if (found->unread_dtype)
        return status_refuse("%s: tensor \"%s\" is of dtype %s; bf16, f16 and f32 can be read", path, name,
                             found->unread_dtype);
    const int64_t wanted[] = {n_rows, n_cols};
    int n_dims = n_cols ? 2 : 1;
    if (t->n_dims != n_dims || memcmp(t->shape, wanted, (size_t)n_dims * sizeof *wanted) != 0) {
        char is[100], should[100];
        describe_shape(t->shape, t->n_dims, is, sizeof is);
        describe_shape(wanted, n_dims, should, sizeof should);
        return status_refuse("%s: tensor \"%s\" has shape %s, but %s is expected from config.json", path,
                             name, is, should);
    }
    *out = t;
    return STATUS_OK;
}

size_t weights_n_names(const weights *w) {
    return w->n_names;
}

const char *weights_name(const weights *w, size_t i) {
    assert(i < w->n_names);
    return w->names[i];
}

size_t weights_count(const weights *w) {
    return w->n_in_files;
}

const tensor *weights_at(const weights *w, size_t i) {
    assert(i < w->n_in_files);
    return w->in_files[i];
}

/* ---- reading ---- */

/* An exponent of all ones is an infinity or a NaN (IEEE 754; bf16 is the upper half of f32). */
static bool any_not_finite16(const uint16_t *x, size_t n, uint16_t exponent) {
    unsigned found = 0;
    for (size_t i = 0; i < n; i++)
        found |= (x[i] & exponent) == exponent;
    return found;
}

static bool any_not_finite32(const uint32_t *x, size_t n) {
    unsigned found = 0;
    for (size_t i = 0; i < n; i++)
        found |= (x[i] & 0x7F800000u) == 0x7F800000u;
    return found;
}

static bool any_not_finite(const void *x, dtype type, size_t n) {
    if (type == DTYPE_F32) return any_not_finite32(x, n);
    return any_not_finite16(x, n, type == DTYPE_BF16 ? 0x7F80 : 0x7C00);
}

/* Elements x[n] are first, first + 1, ... of the tensor. */
static status check_finite(const weights *w, const tensor *t, int64_t first, const void *x, size_t n) {
    if (!any_not_finite(x, t->type, n)) return STATUS_OK;
    size_t i = 0, step = dtype_bytes(t->type);
    while (!any_not_finite((const char *)x + i * step, t->type, 1))
        i++;
    return status_refuse("%s: tensor \"%s\" has a NaN or an infinity at element %lld", w->files[t->file].path,
                         t->name, (long long)first + (long long)i);
}

static status read_piece(weights *w, const tensor *t, uint64_t offset, void *dst, size_t bytes) {
    const weights_file *file = &w->files[t->file];
    status st = file_read_at(file->fd, file->path, (int64_t)offset, dst, bytes);
    if (st != STATUS_OK) return status_at(st, "tensor \"%s\"", t->name);
    w->bytes_read += bytes;
    return STATUS_OK;
}

status weights_read(weights *w, const tensor *t, int64_t first, int64_t n, void *dst) {
    const size_t element = dtype_bytes(t->type);
    assert(first >= 0 && n >= 0 && (uint64_t)first + (uint64_t)n <= t->n_bytes / element);
    if (w->values) {
        synthetic_values_make(w->values, t->name, first, n, w->n_threads, dst);
        w->bytes_read += (uint64_t)n * element;
        return STATUS_OK;
    }
    const int64_t per_piece = (int64_t)(PIECE_BYTES / element);
    char *to = dst;
    status st = STATUS_OK;
    for (int64_t at = first, left = n; left > 0 && st == STATUS_OK;) {
        int64_t count = left < per_piece ? left : per_piece;
        size_t bytes = (size_t)count * element;
        st = read_piece(w, t, t->offset + (uint64_t)at * element, to, bytes);
        if (st == STATUS_OK) st = check_finite(w, t, at, to, (size_t)count);
        at += count;
        left -= count;
        to += bytes;
    }
    return st;
}

/* Pieces that fit a cache of the processor together. */
status weights_compare(weights *w, const tensor *a, const tensor *b, bool *same) {
    enum { COMPARE_BYTES = 1 << 20 };
    *same = a->type == b->type && a->n_dims == b->n_dims &&
            memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof *a->shape) == 0;
    const int64_t element = (int64_t)dtype_bytes(a->type), n = (int64_t)a->n_bytes / element;
    char *x = mem_new(2, COMPARE_BYTES), *y = x + COMPARE_BYTES;
    status st = STATUS_OK;
    for (int64_t at = 0, count; *same && at < n; at += count) {
        count = n - at < COMPARE_BYTES / element ? n - at : COMPARE_BYTES / element;
        st = weights_read(w, a, at, count, x);
        if (st == STATUS_OK) st = weights_read(w, b, at, count, y);
        if (st != STATUS_OK) break;
        *same = memcmp(x, y, (size_t)(count * element)) == 0;
    }
    free(x);
    return st;
}

bool weights_take_stream(weights *w, const tensor *t, level_stream *out) {
    if (!w->values || !synthetic_values_stream(w->values, t->name, out)) return false;
    w->bytes_read += t->n_bytes;
    return true;
}

uint64_t weights_bytes_read(const weights *w) {
    return w->bytes_read;
}
