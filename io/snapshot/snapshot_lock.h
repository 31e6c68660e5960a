/* io/snapshot/snapshot_lock.h: who may change a snapshot: one job at a time.
 *
 * The lock is the file NAME.kvs/lock, which says host, pid, start time of the process and when it was taken,
 * held by an advisory lock that ends with the process, and touched regularly while it is held, for file
 * systems on which advisory locks do not reach other hosts. It appears and changes as a whole: it is written
 * beside and linked, or renamed over a dead one. Rank 0 holds it. All functions are Local. */
#pragma once

#include <stdbool.h>

#include "src/base/status.h"

typedef struct snapshot_lock snapshot_lock;

/* Make the directory when it is missing, and take its lock. A lock of a job that is gone is taken over, with
 * a line on stderr: on this host when its process is gone, and on another when nobody touched the lock for a
 * while (this waits and watches it). Refuses with the holder's host, pid and time, and what cannot be
 * written. */
status snapshot_lock_take(const char *dir, snapshot_lock **out);

/* Is it the lock's name in its directory, or that of a file beside it? */
bool snapshot_lock_is_name(const char *name);

/* Fails when the lock is no longer ours: the directory was removed, or this process slept so long that
 * another took over. Ask before what is in the snapshot is replaced. */
status snapshot_lock_check(const snapshot_lock *lock);

/* Release, and remove the file; the directory too when nothing else is in it. NULL is fine. */
void snapshot_lock_release(snapshot_lock *lock);
