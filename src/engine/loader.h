/* src/engine/loader.h: K and V of a rank's layers out of a snapshot, saved by any number of ranks, into its
 * pages.
 *
 * The saver's twin: loads are begun and go on beside the run, in their order, each from its last position to
 * the first. Notes tell rank 0 how far each is, and its end. Until then nothing may read the slot's
 * positions, but for the first ones, where they are computed (loader_leave). */
#pragma once

#include <stdbool.h>

#include "src/engine/loading.h"
#include "src/engine/step.h"

typedef struct loader loader;

/* Read the manifest (the bytes of its file, the same on every rank) and check that the segments of this slice
 * are there and whole, but for the content of their frames. Borrows kv and notes. Local. */
status loader_open(const char *dir, const char *manifest_bytes, size_t n_bytes, slice s,
                   const load_options *options, kv_cache *kv, mailbox *notes, loader **out);

/* What is being loaded is given up, and told by NOTE_DROPPED: with keeps_log, of what was not begun, too.
 * Nothing is begun any more. Local. */
void loader_stop(loader *l);

/* The same, if it was not stopped. NULL is fine. Local. */
void loader_close(loader *l);

/* Take the order of a STEP_LOAD: fill each extent's slot from position 0 on, from the manifest's sequence
 * `source`, which has that many positions. What does not match its checksum is refused by the note, which
 * names the file and the object. Local. */
void loader_begin(loader *l, const step *order);

/* Positions of this slot below `pos` are computed from now on: what is not in their pages stays out. From any
 * thread; waits for no reading. Local. */
void loader_leave(loader *l, int slot, int64_t pos);

/* Put what refines this slot in its place: behind NOTE_FETCHED, and between two steps. Another note of that
 * kind tells of a failure. Local. */
void loader_refine(loader *l, int slot);

/* Is there a load that is not over? What refines it does not count. Local. */
bool loader_is_busy(loader *l);

/* Wait until nothing is loaded into this slot any more, and give up what refines it: before its pages are
 * released. Local. */
void loader_settle(loader *l, int slot);

/* The tokens of a sequence of the manifest. Local. */
const int32_t *loader_tokens(const loader *l, int64_t source);

/* Behind the text of a refusal: what the user can do about a snapshot that cannot be read. Local. */
status loader_advise(status st);
