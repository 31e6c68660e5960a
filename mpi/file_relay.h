/* mpi/file_relay.h: the files of a directory, for ranks that do not see it, from ranks that do.
 *
 * A rank that sees them has a thread that reads what others ask for and sends it to them; those that do not
 * see them take turns among such ranks. Any thread may ask; an answer is waited for as long as the comm's
 * deadline allows. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpi/comm.h"
#include "src/base/status.h"

typedef struct file_relay file_relay;

enum { FILE_RELAY_NAME_BYTES = 128 };

/* The memory that answers under way take, of a rank that reads for others. */
enum { FILE_RELAY_BYTES = 16 << 20 };

/* Bytes [offset, offset + n) of a file, and how many it has; n may be 0. By the relay's thread. */
typedef struct file_relay_source {
    status (*read)(void *context, const char *name, int64_t offset, void *out, size_t n, int64_t *file_bytes);
    void *context;
} file_relay_source;

/* NULL: every rank sees the files, or none does. The source, whose context is borrowed, counts where this
 * rank sees them. Refuses where a rank has no thread for it. Collective. */
status file_relay_open(comm *c, bool sees, const file_relay_source *source, file_relay **out);

/* Nobody on this rank asks any more. Collective. NULL is fine. */
void file_relay_close(file_relay *r);

/* Who reads for this rank: itself where it sees the files. Local. */
int file_relay_reader(const file_relay *r, int rank);

/* As the source does it, on the rank that reads for this one; with its refusals, which name that rank. The
 * name is shorter than FILE_RELAY_NAME_BYTES. Local. */
status file_relay_read(file_relay *r, const char *name, int64_t offset, void *out, size_t n,
                       int64_t *file_bytes);
