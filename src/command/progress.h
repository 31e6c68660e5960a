/* src/command/progress.h: how far a long run is, on stderr: a bar in a terminal, a line every few seconds in
 * a log. Rank 0. Local. */
#pragma once

#include <stdbool.h>

typedef struct progress {
    const char *unit; /* of what is done, as in "tokens"; borrowed */
    bool in_terminal, shown;
    double begin, last; /* seconds */
} progress;

progress progress_begin(const char *unit);

/* So much is done now, of `all` at most. Prints when it is time to: the share, the text, the speed, the time
 * left. */
void progress_update(progress *p, double done, double all, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Take the bar away. */
void progress_end(progress *p);
