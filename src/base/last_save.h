/* src/base/last_save.h: what a run that saves leaves when it ends early, so that every way of ending says it:
 * a refusal, a failure on any rank, a lost rank, a signal, a bug. State of the process, as signals are. */
#pragma once

#include <stdbool.h>

/* From here on this run saves to the snapshot `dir`, which holds a good one when the file `manifest` is
 * there. A signal that would end the process says so first, and then ends it all the same. One that may come
 * to all ranks at once (SIGTERM) does so only where `speaks`. Local. */
void last_save_watch(const char *dir, const char *manifest, bool speaks);

/* One line on stderr: where the last good save is, or that there is none; nothing when this run does not
 * save. A signal's handler may call it. Local. */
void last_save_say(void);

/* The same from the handler of a signal that may come to all ranks, behind `text`: only where `speaks`. */
void last_save_say_signal(const char *text);
