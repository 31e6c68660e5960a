#include "io/snapshot/snapshot_tables.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file_reader.h"
#include "src/base/fault.h"
#include "src/base/memory.h"

static const kv_tables *find(const snapshot_tables *t, uint64_t digest) {
    for (int i = 0; i < t->n; i++)
        if (t->all[i]->digest == digest) return t->all[i];
    return NULL;
}

const kv_tables *snapshot_tables_of(const snapshot_tables *t, const segment_info *info) {
    return find(t, info->tables_digest);
}

size_t snapshot_tables_bytes_of(const char *dir, const manifest *m, int64_t i) {
    const uint64_t digest = m->segments[i].tables_digest;
    char name[KV_TABLES_NAME_BYTES];
    struct stat file;
    if (digest == 0) return 0;
    for (int64_t k = 0; k < i; k++)
        if (m->segments[k].tables_digest == digest) return 0;
    kv_tables_name(digest, name);
    char *path = file_path(dir, name);
    const bool is_there = stat(path, &file) == 0;
    free(path);
    return is_there ? (size_t)file.st_size : 0;
}

/* All of a file. */
static status read_all(const char *dir, file_relay *relay, const char *name, char **bytes, size_t *n) {
    file_reader r = file_reader_of(dir, name, relay);
    int64_t n_bytes = 0;
    status st = file_reader_resume(&r, &n_bytes);
    if (st == STATUS_OK && (uint64_t)n_bytes > kv_tables_most_bytes)
        st = status_refuse("%s: %lld bytes are too many for tables", r.path, (long long)n_bytes);
    if (st == STATUS_OK) {
        *n = (size_t)n_bytes;
        *bytes = mem_resize(NULL, *n + 1, 1);
        st = file_reader_read(&r, r.path, 0, *bytes, *n);
    }
    file_reader_close(&r);
    return st;
}

static status open_one(const char *dir, file_relay *relay, const manifest *m, uint64_t digest,
                       snapshot_tables *out) {
    char name[KV_TABLES_NAME_BYTES];
    kv_tables *t = NULL;
    kv_tables_name(digest, name);
    char *bytes = NULL;
    size_t n = 0;
    status st = read_all(dir, relay, name, &bytes, &n);
    if (st == STATUS_OK) st = status_at(kv_tables_parse(bytes, n, &t), "%s/%s", dir, name);
    free(bytes);
    if (st == STATUS_OK) {
        out->all = mem_resize(out->all, (size_t)out->n + 1, sizeof(kv_tables *));
        out->all[out->n++] = t;
        st = kv_tables_check_shape(t, m->n_layers, m->n_kv_heads, m->head_dim);
        if (st == STATUS_OK && t->digest != digest) st = status_refuse("the tables of another digest");
        st = status_at(st, "%s/%s", dir, name);
    }
    return st;
}

status snapshot_tables_open(const char *dir, file_relay *relay, const manifest *m, int first_layer,
                            int last_layer, snapshot_tables *out) {
    status st = STATUS_OK;
    *out = (snapshot_tables){0};
    for (int64_t i = 0; st == STATUS_OK && i < m->n_segments; i++) {
        const segment_info *s = &m->segments[i];
        const bool is_needed = s->first_layer < last_layer && s->last_layer > first_layer && s->tables_digest;
        if (is_needed && !find(out, s->tables_digest)) st = open_one(dir, relay, m, s->tables_digest, out);
    }
    return st;
}

void snapshot_tables_close(snapshot_tables *t) {
    for (int i = 0; i < t->n; i++)
        kv_tables_free(t->all[i]);
    free(t->all);
    *t = (snapshot_tables){0};
}

static status write_flushed(const char *path, const void *bytes, size_t n_bytes) {
    status st = status_at(fault_at("tables-write"), "%s", path);
    if (st != STATUS_OK) return st;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return status_fail("%s: cannot be created: %s", path, strerror(errno));
    st = file_write(fd, path, bytes, n_bytes);
    if (st == STATUS_OK) st = file_flush(fd, path);
    close(fd);
    return st;
}

status snapshot_tables_put(const char *dir, uint64_t digest, const void *bytes, size_t n_bytes) {
    char name[KV_TABLES_NAME_BYTES], temporary[KV_TABLES_NAME_BYTES + 8];
    struct stat there;
    kv_tables_name(digest, name);
    snprintf(temporary, sizeof temporary, ".%s.tmp", name);
    char *path = file_path(dir, name), *from = file_path(dir, temporary);
    status st = STATUS_OK;
    if (stat(path, &there) != 0 || (size_t)there.st_size != n_bytes) {
        st = write_flushed(from, bytes, n_bytes);
        if (st == STATUS_OK && rename(from, path) != 0)
            st = status_fail("%s: cannot be renamed: %s", from, strerror(errno));
        if (st == STATUS_OK) st = directory_flush(dir);
        if (st != STATUS_OK) unlink(from);
    }
    free(path);
    free(from);
    return st;
}
