/* src/base/process.h: processes of this host. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* When a process started, in clock ticks since this host did: with its pid, the name of one process. 0 when
 * there is none that runs, or the system does not tell. */
int64_t process_start_ticks(long pid);

/* Does the process that had this pid and these start_ticks (0: not known) still run? */
bool process_is_alive(long pid, int64_t start_ticks);
