/* src/command/progress.h: how far a long run is, on stderr: a bar in a terminal, a line every few seconds in
 * a log. Rank 0. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    bool in_terminal, shown;
    double begin, last; /* seconds */
    int64_t prompt_total, decode_total;
} progress;

/* Totals are what there is to do at most; 0: nothing of the kind. */
progress progress_begin(int64_t prompt_total, int64_t decode_total);

/* So much is done now; prints when it is time to. */
void progress_update(progress *p, int64_t prompt_done, int64_t decode_done);

/* Take the bar away. */
void progress_end(progress *p);
