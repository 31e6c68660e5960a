#define _GNU_SOURCE /* sched_getaffinity */
#include "src/base/host.h"

#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>

int host_processor_mask(uint64_t mask[HOST_MASK_WORDS]) {
    cpu_set_t set;
    int n = 0;
    memset(mask, 0, HOST_MASK_WORDS * sizeof *mask);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
    for (size_t i = 0; i < 64 * HOST_MASK_WORDS && i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &set)) continue;
        mask[i / 64] |= (uint64_t)1 << i % 64;
        n++;
    }
    return n;
}

int host_unbound_processors(void) {
    uint64_t mask[HOST_MASK_WORDS];
    cpu_set_t bound, all;
    bool is_known = sched_getaffinity(0, sizeof bound, &bound) == 0;
    memset(&all, 0xFF, sizeof all);
    sched_setaffinity(0, sizeof all, &all); /* the system leaves out what this process may not have */
    int n = host_processor_mask(mask);
    if (is_known) sched_setaffinity(0, sizeof bound, &bound);
    return n;
}

void host_yield_to_others(void) {
    enum { NICENESS = 15 };                 /* Linux: a weight of 36 beside 1,024 */
    setpriority(PRIO_PROCESS, 0, NICENESS); /* on Linux, of this thread only */
}
