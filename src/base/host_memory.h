/* src/base/host_memory.h: how much memory is really there for new processes of this host, by every limit that
 * binds this one: the host itself, control groups (v1 and v2, its own and all above that can be seen),
 * Slurm's --mem, and the limits of the process (ulimit). Swap counts as none, and what the page cache would
 * give back as free. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct host_memory_limit {
    uint64_t room; /* bytes that may still be taken by all whom it binds, together */
    bool is_own;   /* it binds this process alone; otherwise also those of this host that have the same key */
    uint64_t key[2]; /* what it is a limit of */
    char text[400];  /* for people: which limit, and its figures */
} host_memory_limit;

/* Nested groups have two each; more than that are not looked at. */
enum { HOST_MEMORY_LIMITS = 32 };

/* All of them; returns how many. `root` stands before every path that is looked at, "" but for tests. The
 * environment is Slurm's. Local. */
int host_memory_limits(const char *root, host_memory_limit out[HOST_MEMORY_LIMITS]);
