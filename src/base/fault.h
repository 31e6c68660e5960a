/* src/base/fault.h: failures on demand, for tests: `--fail-at SITE[:RANK[:WHAT]]` in builds with tests.
 *
 * Code that may fail asks at its sites; a site costs nothing where KVARVE_FAULTS is not defined. Without RANK
 * (or with an empty one) it is every rank. WHAT is `fail` (the default: once), `always`, `kill` (SIGKILL to
 * itself), `slow` (once, three seconds of work, which says that it is alive) or `hang` (for ever, silently),
 * and may have a count before it: `3fail` fails at the third visit of the site, `3always` from there on.
 * Local. */
#pragma once

#include <stdbool.h>

#include "src/base/status.h"

enum { FAULT_SLOW_SECONDS = 3 };

#ifdef KVARVE_FAULTS

/* Arm this process, which is that rank; NULL disarms. Refuses a site that does not exist, listing those that
 * do, on every rank alike. Call it while no other thread visits a site. */
status fault_arm(const char *text, int rank);

/* STATUS_FAILED with a text that names the site, or STATUS_OK. From any thread. */
status fault_at(const char *site);

#else

static inline status fault_arm(const char *text, int rank) {
    (void)text;
    (void)rank;
    return STATUS_OK;
}

static inline status fault_at(const char *site) {
    (void)site;
    return STATUS_OK;
}

#endif
