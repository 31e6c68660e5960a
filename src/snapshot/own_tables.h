/* src/snapshot/own_tables.h: tables for the lossy codecs from what a snapshot holds, where nobody has
 * calibrated any: good for this text, and without what only a run of the model tells, how finely each layer
 * should be coded. Where that cannot be, because there is too little text or no linear algebra, they are
 * generic (io/codec/varve_generic.h): those of CacheGen cannot. */
#pragma once

#include "io/codec/kv_coding.h"
#include "io/snapshot/manifest.h"
#include "src/engine/stop.h"

/* Refuses what no tables of this codec can be made of: of CacheGen's a snapshot whose longest sequence has
 * too few tokens, or a machine without linear algebra. Local. */
status own_tables_check(const manifest *m, kv_codec codec);

/* About the memory that making them of so many tokens takes, and having them: at most, of any rank. Local. */
size_t own_tables_memory(dtype type, int n_layers, int n_kv_heads, int head_dim, int64_t n_tokens,
                         int n_threads);

/* The bytes of a file of tables for the codec, the same for the same snapshot: of the beginning of its
 * longest sequence, or generic ones, where those are wanted or nothing else can be made, as a NOTE says.
 * Refuses as own_tables_check and stop_ask do. Released with free(). Local. */
status own_tables_make(const char *dir, const manifest *m, kv_codec codec, bool wants_generic, int n_threads,
                       const stop_limits *limits, char **bytes, size_t *n_bytes);
