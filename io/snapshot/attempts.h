/* io/snapshot/attempts.h: how many runs in a row were ended by force before they had saved anything new.
 *
 * A job that is preempted again and again before its first save would come to nothing for ever. A small file
 * in the snapshot's directory counts: it is there from the start of a run to its first save or its orderly
 * end. Under the snapshot's lock. All functions are Local. */
#pragma once

#define ATTEMPTS_NAME "attempts"

/* A run begins: how many before it, in a row, came to nothing. 0 where the file cannot be written. */
int attempts_begin(const char *dir);

/* Something was saved, or the run ends in order. */
void attempts_end(const char *dir);
