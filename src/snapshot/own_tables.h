/* src/snapshot/own_tables.h: tables for the lossy codecs from what a snapshot holds, where nobody has
 * calibrated any: good for this text, and without what only a run of the model tells, how finely each layer
 * should be coded. */
#pragma once

#include "io/snapshot/manifest.h"

/* The bytes of a file of tables, the same for the same snapshot: of the beginning of its longest sequence, as
 * a NOTE says. Refuses a snapshot of too few tokens. Released with free(). Local. */
status own_tables_make(const char *dir, const manifest *m, int n_threads, char **bytes, size_t *n_bytes);
