/* io/snapshot/snapshot_lock_private.h: the lock with other intervals, and as if elsewhere: for its test. */
#pragma once

#include <stdbool.h>

#include "io/snapshot/snapshot_lock.h"

typedef struct snapshot_lock_rules {
    double touch_seconds; /* a holder touches the lock that often */
    double watch_seconds; /* nobody touched it for so long: the holder is gone */
    const char *host;     /* NULL: this one */
    bool no_advisory;     /* as on a file system without advisory locks */
    bool no_links;        /* as on a file system without hard links */
    double *clock;        /* NULL: the machine's; otherwise a pause only moves this on, by its seconds */
} snapshot_lock_rules;

status snapshot_lock_take_within(const char *dir, const snapshot_lock_rules *rules, snapshot_lock **out);
