/* src/base/alive.h: whoever works long says now and then that it is alive. Other ranks wait for a silent one
 * no longer than --peer-timeout (mpi/comm.h).
 *
 * It is said by the loop that does the work, so that it ends when the work hangs; and not by a loop that
 * waits for another rank. State of the process. Local. */
#pragma once

#include <stdbool.h>

/* Most calls only look at a coarse clock. From any thread. */
void alive_say(void);

/* alive_say calls it when these seconds are over since the last time that it returned true: the others know.
 * NULL: never. Set it while no other thread says anything. */
void alive_set_hook(bool (*hook)(void), double interval_seconds);
