#define _GNU_SOURCE /* fallocate, sync_file_range: Linux only, and only hints; F_OFD_SETLK */
#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/alive.h"
#include "src/base/memory.h"

char *file_path(const char *dir, const char *name) {
    text_buffer path = {0};
    text_append(&path, dir, strlen(dir));
    text_append(&path, "/", 1);
    text_append(&path, name, strlen(name));
    return path.data;
}

bool file_is_same(const char *a, const char *b) {
    struct stat x, y;
    return a && b && stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* ---- reading ---- */

status file_open_regular(const char *path, int *fd, int64_t *n_bytes) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return status_refuse("%s: cannot be opened: %s", path, strerror(errno));
    struct stat info;
    status st = STATUS_OK;
    if (fstat(file, &info) != 0)
        st = status_fail("%s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        st = status_refuse("%s: not a regular file", path);
    if (st != STATUS_OK) {
        close(file);
        return st;
    }
    *fd = file;
    *n_bytes = (int64_t)info.st_size;
    return STATUS_OK;
}

status file_read_at(int fd, const char *path, int64_t offset, void *out, size_t n) {
    for (size_t done = 0; done < n;) {
        alive_say();
        ssize_t got = pread(fd, (char *)out + done, n - done, (off_t)(offset + (int64_t)done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return status_fail("%s: cannot be read: %s", path, strerror(errno));
        if (got == 0) return status_refuse("%s: it became shorter while it was read", path);
        done += (size_t)got;
    }
    return STATUS_OK;
}

status file_refuse_pointer(const char *path, const char *bytes, size_t n) {
    static const char begin[] = "version https://git-lfs.";
    if (n < sizeof begin - 1 || memcmp(bytes, begin, sizeof begin - 1) != 0) return STATUS_OK;
    return status_refuse("%s: this is a Git LFS pointer, not the file itself: fetch it (git lfs pull), or "
                         "download the model anew",
                         path);
}

status file_read_all(const char *path, size_t max_bytes, char **bytes, size_t *n) {
    int fd;
    int64_t n_bytes;
    status st = file_open_regular(path, &fd, &n_bytes);
    if (st != STATUS_OK) return st;
    char *data = NULL;
    if ((uint64_t)n_bytes > max_bytes) {
        st = status_refuse("%s: %lld bytes, more than the %zu that such a file may have", path,
                           (long long)n_bytes, max_bytes);
    } else {
        data = mem_new((size_t)n_bytes + 1, 1);
        st = file_read_at(fd, path, 0, data, (size_t)n_bytes);
    }
    close(fd);
    if (st == STATUS_OK) st = file_refuse_pointer(path, data, (size_t)n_bytes);
    if (st != STATUS_OK) {
        free(data);
        return st;
    }
    *bytes = data;
    *n = (size_t)n_bytes;
    return STATUS_OK;
}

/* ---- writing ---- */

status file_reserve(int fd, const char *path, int64_t n_bytes) {
#ifdef FALLOC_FL_KEEP_SIZE
    while (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)n_bytes) != 0) {
        if (errno == EINTR) continue;
        if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
            return status_fail("%s: %.1f MiB cannot be reserved: %s", path, mem_mib((uint64_t)n_bytes),
                               strerror(errno));
        break; /* not on this file system: writing will show */
    }
#else
    (void)fd, (void)path, (void)n_bytes;
#endif
    return STATUS_OK;
}

status file_trim(int fd, const char *path, int64_t n_bytes) {
    if (ftruncate(fd, (off_t)n_bytes) == 0) return STATUS_OK;
    return status_fail("%s: cannot be cut to its size: %s", path, strerror(errno));
}

void file_start_writeback(int fd, int64_t offset, int64_t n_bytes) {
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(fd, (off_t)offset, (off_t)n_bytes, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd, (void)offset, (void)n_bytes;
#endif
}

status file_write(int fd, const char *path, const void *bytes, size_t n_bytes) {
    for (size_t done = 0; done < n_bytes;) {
        alive_say();
        ssize_t put = write(fd, (const char *)bytes + done, n_bytes - done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return status_fail("%s: cannot be written: %s", path, strerror(errno));
        done += (size_t)put;
    }
    return STATUS_OK;
}

status file_write_all(const char *path, const void *bytes, size_t n_bytes) {
    struct stat info;
    bool is_stream = stat(path, &info) == 0 && !S_ISREG(info.st_mode);
    size_t n = strlen(path) + sizeof ".tmp";
    char *temporary = mem_new(n, 1);
    snprintf(temporary, n, "%s%s", path, is_stream ? "" : ".tmp");
    FILE *f = fopen(temporary, "w");
    bool good = f && fwrite(bytes, 1, n_bytes, f) == n_bytes;
    if (f) good = fclose(f) == 0 && good;
    if (!is_stream) good = good && rename(temporary, path) == 0;
    status st = good ? STATUS_OK : status_fail("%s: cannot be written: %s", path, strerror(errno));
    if (!good && !is_stream) unlink(temporary);
    free(temporary);
    return st;
}

status file_flush(int fd, const char *path) {
    while (fsync(fd) != 0)
        if (errno != EINTR)
            return status_fail("%s: cannot be flushed to the disk: %s", path, strerror(errno));
    return STATUS_OK;
}

status directory_flush(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return status_fail("%s: cannot be opened: %s", dir, strerror(errno));
    int code;
    while ((code = fsync(fd)) != 0 && errno == EINTR)
        continue;
    status st = STATUS_OK;
    if (code != 0 && errno != EINVAL) /* EINVAL: a file system that keeps its entries by other means */
        st = status_fail("%s: cannot be flushed to the disk: %s", dir, strerror(errno));
    close(fd);
    return st;
}

/* ---- one writer ---- */

file_lock_outcome file_lock(int fd) {
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
#ifdef F_OFD_SETLK
    int failed = fcntl(fd, F_OFD_SETLK, &all);
    if (failed && errno == EINVAL) failed = fcntl(fd, F_SETLK, &all); /* an older kernel */
#else
    int failed = fcntl(fd, F_SETLK, &all);
#endif
    if (!failed) return FILE_LOCK_OURS;
    return errno == EAGAIN || errno == EACCES ? FILE_LOCK_HELD : FILE_LOCK_NONE;
}
