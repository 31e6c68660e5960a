/* io/snapshot/lock_holder.h: the line in a snapshot's lock that says who holds it:
 *
 *   host=node7 pid=4711 process_start=123456 taken=2026-11-21T09:30:00Z
 *
 * process_start is in clock ticks since the host started (0: not known). All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LOCK_HOST_BYTES = 256, LOCK_TAKEN_BYTES = sizeof "2026-11-21T09:30:00Z", LOCK_LINE_BYTES = 512 };

typedef struct lock_holder {
    char host[LOCK_HOST_BYTES];
    long pid;
    int64_t process_start;
    char taken[LOCK_TAKEN_BYTES];
} lock_holder;

/* This process, now. */
lock_holder lock_holder_self(void);

/* The line, with its newline; returns its bytes. */
size_t lock_holder_write(const lock_holder *h, char line[LOCK_LINE_BYTES]);

/* Of n bytes that must be such a line and nothing else; none of them is trusted. */
bool lock_holder_parse(const char *bytes, size_t n, lock_holder *out);
