#define _GNU_SOURCE /* CLOCK_MONOTONIC_COARSE: Linux only */
#include "src/base/alive.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifndef CLOCK_MONOTONIC_COARSE
#define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
#endif

static bool (*hook)(void);
static int64_t interval_ns;
static _Atomic int64_t next_ns; /* when it is time to say it again */

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void alive_say(void) {
    if (!hook) return;
    int64_t now = now_ns(), next = atomic_load_explicit(&next_ns, memory_order_relaxed);
    if (now < next || !atomic_compare_exchange_strong(&next_ns, &next, now + interval_ns)) return;
    if (!hook()) atomic_store(&next_ns, 0);
}

void alive_set_hook(bool (*to)(void), double interval_seconds) {
    hook = to;
    interval_ns = (int64_t)(interval_seconds * 1e9);
    atomic_store(&next_ns, 0);
}
