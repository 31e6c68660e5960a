/* src/snapshot/own_tables.h: tables for the lossy codecs from what a snapshot holds, where nobody has
 * calibrated any: good for this text, and without what only a run of the model tells, how finely each layer
 * should be coded. */
#pragma once

#include "io/snapshot/manifest.h"
#include "src/engine/stop.h"

/* Refuses a snapshot whose longest sequence has too few tokens for that. Local. */
status own_tables_check(const manifest *m);

/* About the memory that making them of so many tokens takes, and having them: at most, of any rank. Local. */
size_t own_tables_memory(dtype type, int n_layers, int n_kv_heads, int head_dim, int64_t n_tokens,
                         int n_threads);

/* The bytes of a file of tables, the same for the same snapshot: of the beginning of its longest sequence, as
 * a NOTE says. Refuses a snapshot of too few tokens, and as stop_ask does. Released with free(). Local. */
status own_tables_make(const char *dir, const manifest *m, int n_threads, const stop_limits *limits,
                       char **bytes, size_t *n_bytes);
