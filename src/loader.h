/* src/loader.h: K and V of a rank's layers out of a snapshot, saved by any number of ranks, into its pages.
 */
#pragma once

#include "io/manifest.h"
#include "src/kv_cache.h"
#include "src/model.h"

typedef struct loader loader;

/* Read the manifest (the bytes of its file, the same on every rank) and check that the segments of this slice
 * are there and whole, but for the content of their frames. Local. */
status loader_open(const char *dir, const char *manifest_bytes, size_t n_bytes, slice s, int n_threads,
                   loader **out);
void loader_close(loader *l); /* NULL is fine */

/* Fill the slot's positions [0, n_tokens) from the manifest's sequence number `source`, which has that many.
 * Refuses what does not match its checksum, naming the file and the object. Local. */
status loader_load(loader *l, kv_cache *kv, int slot, int64_t source, int64_t n_tokens);

/* The tokens of a sequence of the manifest. Local. */
const int32_t *loader_tokens(const loader *l, int64_t source);

/* Behind the text of a refusal: what the user can do about a snapshot that cannot be read. Local. */
status loader_advise(status st);
