/* src/model/kv_cache.h: the KV cache of a rank's slice: a pool of pages, and the tables that say which of
 * them each running sequence has.
 *
 * All layers take their pages (kernels/kv_page.h) from one pool, made before the run, so that what one layer
 * gives back any other may have. Each layer has a table for each slot: the sequence's places
 * [i * page_tokens, (i + 1) * page_tokens) lie in page table[i]. A position's place is its number, until
 * tokens are evicted. Layers without a window keep all positions, those with one what rows that come may
 * still see. Pages are taken as a sequence grows, and given back as
 * they leave the window and when it is released; stage 0 admits a sequence only when all it may ever need is
 * there, so taking a page never fails.
 *
 * Where pages hold codes, a few places of each sequence lie in memory as they were put, too
 * (src/model/kv_near.h).
 *
 * Eviction is compaction: of a layer without a window each head keeps rows of its own choice, as many as the
 * other heads, which move together to its first places, in their order. So there are never gaps, nobody who
 * reads pages asks what is left in them (a bitmap would have to be read with every page), and the pages
 * behind are free at once. What comes later lies behind what is left: its place is its position less how many
 * were removed. Which position a row was of is not kept: keys are kept after rope.
 *
 * Where not all pages lie in memory (src/model/kv_tier.h), a step's operations see those that
 * src/model/kv_walk.h holds for them. All functions are Local. */
#pragma once

#include <stdint.h>

#include "kernels/device.h"
#include "src/base/status.h"
#include "src/model/kv_tier.h"

typedef struct kv_cache kv_cache;

typedef struct kv_shape {
    kv_format format;
    int n_layers; /* of the slice */
    const int64_t
        *windows;    /* [n_layers] positions that a row sees and that are kept; 0: all. NULL: all of all */
    int64_t n_pages; /* that sequences have at most, all together, of a layer that keeps all positions */
    int n_slots;     /* sequences at once */
    int64_t longest_tokens; /* of a sequence */
    int max_rows;           /* of a step */
    bool evicts;            /* so that a layer with a window may have more pages than one without */
    /* Where pages hold codes: blocks of a sequence that are kept as they were put at the same time. One,
     * another where saves may read it while the sequence goes on, and another where it goes on from what is
     * loaded. */
    int n_near_blocks;
    /* Where the pages of all layers together are more than memory has: records for the others. Borrowed.
     * NULL: all are in memory. */
    const kv_records *records;
    int64_t n_frames; /* pages in memory */
    int n_turn;       /* steps in which every sequence that does not pause has rows */
} kv_shape;

/* Pages that a layer needs of the pool. Where there is a window, no sequence has more than it covers,
 * whatever the step: the blocks (kernels/attend_blocks.h) that it reaches into, and a step's rows. */
int64_t kv_pool_pages(const kv_shape *shape, int64_t window);

/* Bytes that it needs besides, for places as they were put, where pages hold codes. They are always in
 * memory.
 */
uint64_t kv_cache_near_bytes(const kv_shape *shape);

status kv_cache_open(device *dev, const kv_shape *shape, kv_cache **out);
void kv_cache_close(kv_cache *kv); /* NULL is fine */

/* Make room for positions up to `end` of the sequence in this slot, and give back what rows from position
 * `begin` on do not see. Both only grow. */
void kv_cache_extend(kv_cache *kv, int slot, int64_t begin, int64_t end);

/* All rows that there is room for have been appended: between two steps. */
void kv_cache_settle(kv_cache *kv);

/* The sequence in slot `to`, which has no pages yet, begins with the first n_tokens positions of that in
 * slot `from`: whole pages, and of codes whole blocks (ATTEND_BLOCK), which are not copied, and stay until
 * the last of their users gives them back. What `from` keeps must be all that rows from n_tokens on see, and
 * nothing of it evicted. */
void kv_cache_share(kv_cache *kv, int from, int to, int64_t n_tokens);

/* The sequence in this slot has lost a page: what else it has and does not share, and what it takes from now
 * on, is given up (kv_tier.h), so that there is room for others. */
void kv_cache_give_up(kv_cache *kv, int slot);

/* Of the n_places that a layer (0-based) without a window has of the sequence in this slot, each head keeps
 * n_kept: kept[G, n_kept], which rise. Pages of its own are written: one that others share is taken anew
 * where a row moves into it, as admission has to provide for. What is lost of it is lost all the same. Host
 * memory only.
 *
 * Where pages hold codes, a row moves as rows that come would have seen it: as it was put if it was among the
 * first places or in the open block (attend_exact_places), else as its codes say, whatever else there is of
 * it. Rows that come see it so again, but for one that moves out of the first places or the open block, of
 * which they see codes, as of one that has been passed by. Codes are those of the rows that now lie together.
 * Nobody reads the slot meanwhile. */
void kv_cache_evict(kv_cache *kv, int slot, int layer, int64_t n_places, int64_t n_kept, const int32_t *kept);

/* Positions of each slot that a layer has removed so, for the operations: [n_slots]. */
const int64_t *kv_cache_removed(const kv_cache *kv, int layer);

/* Give all pages of the slot back: those that no other sequence shares are free. */
void kv_cache_release(kv_cache *kv, int slot);

/* Pages that no sequence has. */
int64_t kv_cache_free_pages(const kv_cache *kv);

/* The first place of the sequence in this slot that a layer still keeps. */
int64_t kv_cache_first_kept(const kv_cache *kv, int slot, int layer);

/* Rows that exist now, and that those which come see as they were put, are read so, until they are unpinned
 * or the slot is released: by a save, which goes on beside the run. */
void kv_cache_pin(kv_cache *kv, int slot);
void kv_cache_unpin(kv_cache *kv, int slot);

/* Copy rows of one layer of the slice (0-based) out of or into the pages of the sequence in this slot, in any
 * number of threads: places [pos0, pos0 + n_tokens), which are kept, K or V, as dense [n_tokens, G, K] host
 * elements: where pages hold codes, those that rows behind the last one see as they were put
 * (attend_exact_places) are read so, and the others as their codes say; these have the same codes when they
 * are written. Fails where one of the pages is lost. Rows that exist never change, but for those that are
 * refined between two steps (src/engine/loader.h), so that any thread may read them while the model appends
 * others, as long as the slot is not released. */
status kv_cache_read(kv_cache *kv, int slot, int layer, kv_part part, int64_t pos0, int64_t n_tokens,
                     void *out);
void kv_cache_write(kv_cache *kv, int slot, int layer, kv_part part, int64_t pos0, int64_t n_tokens,
                    const void *in);

/* The same of one head: rows [n_tokens, K]. */
void kv_cache_write_rows(kv_cache *kv, int slot, int layer, kv_part part, int head, int64_t pos0,
                         int64_t n_tokens, const void *in);

/* A page of a slot's table, in host memory, which stays there until it is left; and leave it. Fails where it
 * is lost. */
const void *kv_cache_hold(kv_cache *kv, int slot, int layer, int64_t entry);
status kv_cache_leave(kv_cache *kv, int slot, int layer, int64_t entry);

/* Where pages hold codes: the page in kv_near_format that has a place which a row of the last step, or one
 * that comes, sees as it was put. */
const void *kv_cache_near(const kv_cache *kv, int slot, int layer, int64_t place);

/* A slot's table of one layer of the slice (0-based), in host memory, and behind which entry it ends; and the
 * device of it all. */
const int32_t *kv_cache_table(const kv_cache *kv, int slot, int layer);
int64_t kv_cache_end_page(const kv_cache *kv, int slot, int layer);
device *kv_cache_device(const kv_cache *kv);

/* What it was opened with, but for the windows; and where its pages lie: NULL, all in memory. */
const kv_shape *kv_cache_shape(const kv_cache *kv);
kv_tier *kv_cache_tier(const kv_cache *kv);

/* Operations that are queued from now on find the pages of n entries from `first` on in these frames. */
void kv_cache_set_frames(kv_cache *kv, int slot, int layer, int64_t first, int64_t n, const int32_t *frames);

/* The pages and tables of one layer of the slice (0-based), for the operations of a step. */
kv_layer kv_cache_layer(const kv_cache *kv, int layer);
