/* src/model/kv_walk.h: the way of a step through the pages of its sequences, where not all lie in memory
 * (src/model/kv_tier.h).
 *
 * Attention reads them layer after layer, and the nodes (kernels/attend_blocks.h) of a layer's sequences one
 * after the other. Pages are held from as far ahead of where they are needed as there is memory for, behind
 * the end of the step too: what came after the last step of the same sequences is expected to come again. All
 * functions are Local. */
#pragma once

#include <stdbool.h>

#include "src/model/kv_cache.h"

typedef struct kv_walk kv_walk;

/* Pages that must be in memory at least, for a cache of this shape: those of a part of attention, and as many
 * again, so that something is read ahead; and those that rows are appended to. */
int64_t kv_walk_least_frames(const kv_shape *shape);

/* windows[those of the cache]: what rows see. Borrows kv, copies windows. */
kv_walk *kv_walk_open(kv_cache *kv, const int64_t *windows);
void kv_walk_close(kv_walk *w); /* NULL is fine */

/* The spans of the step that comes, before its pages are taken, and others given back (kv_cache_extend).
 * False: another one was expected, and nothing is held for that any more. */
bool kv_walk_announce(kv_walk *w, int n_spans, const span *spans);

/* Begin this step, whose spans have their pages. Borrows spans until its end. */
void kv_walk_begin(kv_walk *w, int n_spans, const span *spans);

/* The layers in their order, 0-based in the slice: the pages that rows are appended to are there, until
 * kv_walk_next says that the layer is over. */
void kv_walk_enter(kv_walk *w, int layer);

/* A part of a layer's attention whose pages are there. */
typedef struct kv_extent {
    attend_extent part;
    attend_nodes all; /* that the rows of its spans see: they come in order, and are merged behind the last */
} kv_extent;

/* The next part, of the layer that was entered; false: it is over. What the operations that are queued by now
 * have read and written is not held any more, once they are over. */
bool kv_walk_next(kv_walk *w, kv_extent *out);

/* No pages are held beyond the steps: before a slot is released, and before tokens of it are evicted. */
void kv_walk_rest(kv_walk *w);
