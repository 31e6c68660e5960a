/* src/base/host.h: the processors of this machine. Local. */
#pragma once

#include <stdint.h>

/* Which processors this process may run on (its affinity), one bit each, and how many those are. */
enum { HOST_MASK_WORDS = 16 };
int host_processor_mask(uint64_t mask[HOST_MASK_WORDS]);

/* How many it could run on if nobody had bound it: those of its control group. For a moment the calling
 * thread may run on all of them. */
int host_unbound_processors(void);

/* From now on the calling thread, and those that it starts, step back behind others: where all processors are
 * busy it gets a few percent of one, and where one is idle all of that. */
void host_yield_to_others(void);
