#define _GNU_SOURCE /* sched_getaffinity */
#include "src/base/host.h"

#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* The number in a file of one number; UINT64_MAX when there is none ("max"). */
static uint64_t read_number(const char *path) {
    uint64_t value = UINT64_MAX;
    FILE *f = fopen(path, "r");
    if (!f) return UINT64_MAX;
    if (fscanf(f, "%" SCNu64, &value) != 1) value = UINT64_MAX;
    fclose(f);
    return value;
}

static uint64_t room_in_group(const char *limit_path, const char *used_path) {
    uint64_t limit = read_number(limit_path), used = read_number(used_path);
    if (limit == UINT64_MAX || used == UINT64_MAX) return UINT64_MAX;
    return limit > used ? limit - used : 0;
}

uint64_t host_available_bytes(void) {
    uint64_t available = UINT64_MAX, kib;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1) available = kib * 1024;
    if (f) fclose(f);
    uint64_t v2 = room_in_group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current");
    uint64_t v1 = room_in_group("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                                "/sys/fs/cgroup/memory/memory.usage_in_bytes");
    if (v2 < available) available = v2;
    if (v1 < available) available = v1;
    return available == UINT64_MAX ? 0 : available;
}

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
