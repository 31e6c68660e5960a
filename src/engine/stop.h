/* src/engine/stop.h: when a run must end before it is done: signals, --max-time, and a stop file.
 *
 * SIGUSR1 and SIGTERM ask for an end at the next step, with a save; a second SIGTERM ends this process at
 * once, with what was committed. State of the process, as signals are. */
#pragma once

#include <stdbool.h>

#include "src/base/status.h"

/* Handle the signals from here on; before, they end the process as usual. Local. */
void stop_watch_signals(void);

/* Did a signal ask this process to end? Local. */
bool stop_was_signalled(void);

/* What rank 0 watches for besides. */
typedef struct stop_limits {
    double max_seconds;    /* since the process started; infinity: no end */
    const char *stop_file; /* NULL: none */
} stop_limits;

/* Refuses a stop file that is there already. Local. */
status stop_check(const stop_limits *limits);

/* Why the run must end now (a text for people), or NULL: a signal, the stop file, or not more than
 * `reserve_seconds` left of max_seconds. Looks at the file four times a second at most. The text is the
 * module's, until the next call. Rank 0. Local. */
const char *stop_reason(const stop_limits *limits, double reserve_seconds);

/* Refuses, with such a reason, once the run must end. From any thread, on any rank: of signals, this rank's.
 * Local.
 */
status stop_ask(const stop_limits *limits);

/* Seconds since the process started; where the system does not tell, since the first call. Local. */
double stop_process_seconds(void);
