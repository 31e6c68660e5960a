/* Ranks that each have a processor of their own, as far as time goes, on a machine that has fewer: to be
 * loaded before kvarve (LD_PRELOAD), which must have one thread a rank.
 *
 * Every parallel region of the CPU backend takes KVARVE_DILATE times the processor time that it used: the
 * rest is slept. Ranks then need so much less of a processor each, while what they say to each other takes
 * the time that it takes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef void region(void *);
typedef void run_parallel(region *body, void *data, unsigned n_threads, unsigned flags);

run_parallel GOMP_parallel;

static double clock_seconds(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Sleeping is for times that the system can keep: the debt is paid when it is one. */
static void pay(double *debt) {
    const double least = 5e-4;
    if (*debt < least) return;
    double begin = clock_seconds(CLOCK_MONOTONIC);
    struct timespec t = {(time_t)*debt, (long)(1e9 * (*debt - (double)(time_t)*debt))};
    nanosleep(&t, NULL);
    *debt -= clock_seconds(CLOCK_MONOTONIC) - begin;
}

void GOMP_parallel(region *body, void *data, unsigned n_threads, unsigned flags) {
    static run_parallel *original;
    static double factor, debt;
    if (!original) {
        *(void **)&original = dlsym(RTLD_NEXT, "GOMP_parallel");
        const char *text = getenv("KVARVE_DILATE");
        factor = text ? strtod(text, NULL) : 1;
    }
    double begin = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    original(body, data, n_threads, flags);
    debt += (factor - 1) * (clock_seconds(CLOCK_THREAD_CPUTIME_ID) - begin);
    pay(&debt);
}
