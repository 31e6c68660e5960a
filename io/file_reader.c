#include "io/file_reader.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

file_reader file_reader_of(const char *dir, const char *name, file_relay *relay) {
    return (file_reader){.path = file_path(dir, name), .relay = relay, .fd = -1};
}

void file_reader_close(file_reader *r) {
    file_reader_pause(r);
    free(r->path);
    r->path = NULL;
}

static const char *name_of(const file_reader *r) {
    return strrchr(r->path, '/') + 1;
}

status file_reader_resume(file_reader *r, int64_t *n_bytes) {
    if (r->relay) return file_relay_read(r->relay, name_of(r), 0, NULL, 0, n_bytes);
    return file_open_regular(r->path, &r->fd, n_bytes);
}

void file_reader_pause(file_reader *r) {
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
}

status file_reader_read(const file_reader *r, const char *what, int64_t offset, void *out, size_t n) {
    int64_t n_bytes;
    if (r->relay)
        return status_at(file_relay_read(r->relay, name_of(r), offset, out, n, &n_bytes), "%s", what);
    return file_read_at(r->fd, what, offset, out, n);
}

static status read_for_others(void *context, const char *name, int64_t offset, void *out, size_t n,
                              int64_t *file_bytes) {
    file_reader r = file_reader_of(context, name, NULL);
    status st = file_reader_resume(&r, file_bytes);
    if (st == STATUS_OK) st = file_reader_read(&r, r.path, offset, out, n);
    file_reader_close(&r);
    return st;
}

file_relay_source file_reader_source(const char *dir) {
    return (file_relay_source){read_for_others, (void *)dir};
}
