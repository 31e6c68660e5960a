/* io/file_reader.h: a file that is read where it lies, or, on a rank that does not see it, through one that
 * does (mpi/file_relay.h). Local. */
#pragma once

#include "io/files.h"
#include "mpi/file_relay.h"

typedef struct file_reader {
    char *path;        /* dir/name */
    file_relay *relay; /* borrowed; NULL: this rank sees it */
    int fd;            /* -1: it is not open, or read by another rank */
} file_reader;

/* For file_reader_resume; release with file_reader_close. */
file_reader file_reader_of(const char *dir, const char *name, file_relay *relay);
void file_reader_close(file_reader *r);

/* Open the file, and its size; a pause closes it for a while. Refuses as file_open_regular does. */
status file_reader_resume(file_reader *r, int64_t *n_bytes);
void file_reader_pause(file_reader *r);

/* As file_read_at does; `what` it is, in place of the path. */
status file_reader_read(const file_reader *r, const char *what, int64_t offset, void *out, size_t n);

/* What reads for others, where this rank sees the directory. */
file_relay_source file_reader_source(const char *dir);
