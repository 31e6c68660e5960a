/* src/model/kv_near.h: the pages beside those of codes (kv_is_coded) of a layer: of the places that rows see
 * as they were put (attend_exact_places).
 *
 * Of a sequence these are its first places for good, and those of open blocks: that of its last row's
 * successor, which rows that come are put into, and, where places behind were loaded, that of the row behind
 * those. Layers have places of their own, as eviction removes more of one than of another. What lies here is
 * never in a file. A save reads what was in the open block when it began (kv_near_pin), and all else as
 * codes, so that what it finds does not depend on when it looks. All functions are Local, and for the thread
 * that runs steps; but kv_near_find is for any. */
#pragma once

#include <stdint.h>

#include "kernels/device.h"
#include "src/base/status.h"

typedef struct kv_near kv_near;

typedef struct kv_near_shape {
    kv_format format; /* of the pages of codes */
    int n_slots;
    int64_t n_tokens;       /* that sequences have at most, all together */
    int64_t longest_tokens; /* of a sequence */
    int max_rows;           /* of a step */
    int n_blocks;           /* of a sequence that are here at the same time */
} kv_near_shape;

/* Pages of the pool: enough for any steps of such sequences. */
int64_t kv_near_pages(const kv_near_shape *shape);

/* Pages and the operations' tables are in the device's memory. */
status kv_near_open(device *dev, const kv_near_shape *shape, kv_near **out);
void kv_near_close(kv_near *n); /* NULL is fine */

/* As kv_cache_extend, of places, and its rows may also be before those that were loaded, where all up to them
 * come. */
void kv_near_extend(kv_near *n, int slot, int64_t begin, int64_t end);

/* The rows of the last step are over: what none that comes sees is given back. */
void kv_near_settle(kv_near *n);

void kv_near_share(kv_near *n, int from, int to, int64_t n_tokens);
void kv_near_release(kv_near *n, int slot);

/* What kv_near_find finds of this slot stays as it is now, until it is unpinned or released. */
void kv_near_pin(kv_near *n, int slot);
void kv_near_unpin(kv_near *n, int slot);

/* The page (kv_near_format), in the device's memory, of a place that is to be read, or written, as rows are
 * put; NULL: its codes are all that counts. *end is lowered to where that, or the page, ends. */
char *kv_near_find(const kv_near *n, int slot, int64_t place, int64_t *end);

/* That of a place which a row of the last step sees as it was put. */
const char *kv_near_page(const kv_near *n, int slot, int64_t place);

/* For the operations. */
const kv_layer *kv_near_layer(const kv_near *n);
