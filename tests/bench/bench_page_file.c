/* tests/bench/bench_page_file.c: how fast a page file moves records to a disk and back, beside a plain loop
 * of direct IO over a file of the same directory.
 *
 *     bench_page_file FOLDER [MIB [REPEATS]]
 *
 * MIB (256) are written into a new file, written again and read, REPEATS times (5), in every way in turn,
 * from another one each time; each figure is the median, in GB/s. "In place" is what a file does that has
 * been in use for a while: a file system has more to do for what is written first. In brackets, beside the
 * best of the plain loops, which move one record at a time from each of `depth` threads; busy: processors
 * that the whole process takes. */
#define _GNU_SOURCE /* O_DIRECT */
#include <fcntl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/tier/page_file.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

typedef enum pass { FIRST_WRITE, WRITE_IN_PLACE, READ, N_PASSES } pass;

enum { KIB = 1024, MIB = 1 << 20, MOST_REPEATS = 99, MOST_BUFFERS = 64 };

typedef struct way {
    bool is_plain;
    page_file_engine engine;
    size_t record_bytes;
    int depth; /* of a plain loop: threads */
    char name[100];
    double seconds[N_PASSES][MOST_REPEATS], busy_seconds, all_seconds;
} way;

typedef struct bench {
    const char *folder;
    size_t n_bytes;
    char *buffers[MOST_BUFFERS]; /* of MIB bytes or more, so that several are on their way */
} bench;

static void check(status st) {
    if (st == STATUS_OK) return;
    fprintf(stderr, "bench_page_file: %s\n", status_text());
    exit(status_exit_code(st));
}

static void check_system(bool good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

static double busy_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* ---- plain ---- */

static void move_plainly(const bench *b, const way *w, int fd, bool is_write) {
#pragma omp parallel for num_threads(w->depth) schedule(dynamic)
    for (size_t at = 0; at < b->n_bytes; at += w->record_bytes) {
        char *buffer = b->buffers[omp_get_thread_num()];
        const ssize_t n = is_write ? pwrite(fd, buffer, w->record_bytes, (off_t)at)
                                   : pread(fd, buffer, w->record_bytes, (off_t)at);
        check_system(n == (ssize_t)w->record_bytes, "direct IO");
    }
}

static void run_plainly(const bench *b, way *w, int repeat) {
    char path[4096];
    snprintf(path, sizeof path, "%s/bench_page_file.tmp", b->folder);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
    check_system(fd >= 0, path);
    unlink(path);
    check_system(ftruncate(fd, (off_t)b->n_bytes) == 0, path);
    for (int p = 0; p < N_PASSES; p++) {
        const double begin = clock_seconds();
        move_plainly(b, w, fd, p != READ);
        w->seconds[p][repeat] = clock_seconds() - begin;
    }
    close(fd);
}

/* ---- by a page file ---- */

/* One buffer is written from, or read into, as soon as it is free again. */
static void move_records(const bench *b, page_file *f, int n_records, bool is_write) {
    page_file_ticket tickets[MOST_BUFFERS] = {{0}};
    for (int i = 0; i < n_records + MOST_BUFFERS; i++) {
        const int k = i % MOST_BUFFERS;
        if (tickets[k].number) check(page_file_wait(f, tickets[k], 60));
        tickets[k].number = 0;
        if (i < n_records)
            tickets[k] = is_write ? page_file_begin_write(f, i, b->buffers[k])
                                  : page_file_begin_read(f, i, b->buffers[k]);
    }
}

static void run_page_file(const bench *b, way *w, int repeat) {
    page_file *f;
    check(page_file_open(b->folder, (int64_t)b->n_bytes, w->record_bytes, w->depth, w->engine, &f));
    snprintf(w->name, sizeof w->name, "%s%s", page_file_engine_text(f),
             page_file_is_direct(f) ? "" : ", through the page cache");
    const int n_records = page_file_count_records(f);
    for (int i = 0; i < n_records; i++)
        page_file_take(f);
    for (int p = 0; p < N_PASSES; p++) {
        const double begin = clock_seconds();
        move_records(b, f, n_records, p != READ);
        w->seconds[p][repeat] = clock_seconds() - begin;
    }
    page_file_close(f, 60);
}

/* ---- the table ---- */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

enum { MOST_WAYS = 32 };

static int list_ways(way *ways) {
    static const size_t sizes[] = {64 * KIB, MIB};
    static const int depths[] = {1, 8, 32};
    int n = 0;
    for (int s = 0; s < 2; s++)
        for (int d = 0; d < 3; d++) {
            way *plain = &ways[n++];
            *plain = (way){.is_plain = true, .record_bytes = sizes[s], .depth = depths[d]};
            snprintf(plain->name, sizeof plain->name, "plain loop");
            for (int e = 0; e < N_PAGE_FILE_ENGINES; e++)
                ways[n++] =
                    (way){.engine = (page_file_engine)e, .record_bytes = sizes[s], .depth = depths[d]};
        }
    return n;
}

int main(int argc, char **argv) {
    static way ways[MOST_WAYS];
    if (argc < 2) {
        fprintf(stderr, "usage: bench_page_file FOLDER [MIB [REPEATS]]\n");
        return EXIT_CODE_REFUSED;
    }
    const size_t mib = argc > 2 && atol(argv[2]) > 0 ? (size_t)atol(argv[2]) : 256;
    int repeats = argc > 3 ? atoi(argv[3]) : 5;
    if (repeats < 1 || repeats > MOST_REPEATS) repeats = 5;
    bench b = {.folder = argv[1], .n_bytes = mib * MIB};
    for (int i = 0; i < MOST_BUFFERS; i++) {
        b.buffers[i] = aligned_alloc(PAGE_FILE_ALIGNMENT, MIB);
        check_system(b.buffers[i] != NULL, "memory");
        for (size_t k = 0; k < MIB; k++) /* nothing that a disk could make smaller */
            b.buffers[i][k] = (char)(rand() >> 8);
    }
    const int n_ways = list_ways(ways);
    for (int repeat = 0; repeat < repeats; repeat++)
        for (int i = 0; i < n_ways; i++) {
            way *w = &ways[(i + repeat) % n_ways];
            const double before = busy_seconds();
            (w->is_plain ? run_plainly : run_page_file)(&b, w, repeat);
            w->busy_seconds += busy_seconds() - before;
        }

    double best[N_PASSES] = {0};
    for (int i = 0; i < n_ways; i++)
        for (int p = 0; p < N_PASSES; p++) {
            double *seconds = ways[i].seconds[p];
            for (int k = 0; k < repeats; k++)
                ways[i].all_seconds += seconds[k];
            qsort(seconds, (size_t)repeats, sizeof *seconds, by_size);
            const double median = seconds[repeats / 2];
            if (ways[i].is_plain && (best[p] == 0 || median < best[p])) best[p] = median;
        }
    printf("%zu MiB, %d repeats, medians\n\n%-24s %6s %6s  %16s %16s %16s %6s\n", mib, repeats, "", "KiB",
           "depth", "first write GB/s", "in place GB/s", "read GB/s", "busy");
    for (int i = 0; i < n_ways; i++) {
        const way *w = &ways[i];
        printf("%-24s %6zu %6d ", w->name, w->record_bytes / KIB, w->depth);
        for (int p = 0; p < N_PASSES; p++)
            printf(" %9.2f (%3.0f%%)", (double)b.n_bytes / w->seconds[p][repeats / 2] / 1e9,
                   100 * best[p] / w->seconds[p][repeats / 2]);
        printf(" %6.2f\n", w->busy_seconds / w->all_seconds);
    }
    for (int i = 0; i < MOST_BUFFERS; i++)
        free(b.buffers[i]);
    return 0;
}
