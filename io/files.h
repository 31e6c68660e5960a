/* io/files.h: files that are written to last, and files that are read without trust. All functions are Local.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* "dir/name"; released with free(). */
char *file_path(const char *dir, const char *name);

/* Do both paths lead to one file or directory that is there? NULL leads nowhere. */
bool file_is_same(const char *a, const char *b);

/* Open a regular file for reading; its size. Refuses what is missing or something else (a FIFO does not
 * hang).
 */
status file_open_regular(const char *path, int *fd, int64_t *n_bytes);

/* Exactly n bytes at this offset. Refuses a file that is shorter. */
status file_read_at(int fd, const char *path, int64_t offset, void *out, size_t n);

/* The bytes of a regular file of at most max_bytes, a zero byte behind them. Refuses a Git LFS pointer, as
 * such. Released with free(). */
status file_read_all(const char *path, size_t max_bytes, char **bytes, size_t *n);

/* Refuses the beginning of a file, where it is a Git LFS pointer: a few lines that stand for the file itself.
 */
status file_refuse_pointer(const char *path, const char *bytes, size_t n);

/* Have the disk space of n_bytes ready, where the file system can do so. The file's size does not change:
 * what was not used is given back by file_trim. */
status file_reserve(int fd, const char *path, int64_t n_bytes);
status file_trim(int fd, const char *path, int64_t n_bytes);

/* Let the system begin to write this range to the disk, so that less is left for file_flush. A hint. */
void file_start_writeback(int fd, int64_t offset, int64_t n_bytes);

/* Write on, all of it. */
status file_write(int fd, const char *path, const void *bytes, size_t n_bytes);

/* The file holds these bytes, or what it held before: a temporary beside it takes its place. A device or a
 * pipe is written to. */
status file_write_all(const char *path, const void *bytes, size_t n_bytes);

/* Take the advisory lock of a file that is open for writing; it ends when the file is closed, or with the
 * process. NONE: the file system has none. */
typedef enum file_lock_outcome { FILE_LOCK_OURS, FILE_LOCK_HELD, FILE_LOCK_NONE } file_lock_outcome;
file_lock_outcome file_lock(int fd);

/* Until the file's bytes, or the directory's entries, are on the disk. */
status file_flush(int fd, const char *path);
status directory_flush(const char *dir);
