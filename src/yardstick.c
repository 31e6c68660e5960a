#include "src/yardstick.h"

#include <omp.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "src/base/clock.h"
#include "src/base/memory.h"

enum {
    READ_WORDS = YARDSTICK_MIB << 17,
    LINE_WORDS = 8,
    STREAMS = 4,
    AHEAD_WORDS = 256, /* of prefetches: beyond the end they do no harm */
    ROWS = 512,
    WIDTH = 2048,
};

/* Each thread sums its part, in several streams, as one stream does not keep the memory busy. */
static uint64_t read_all(const uint64_t *words, int n_threads) {
    uint64_t sum = 0;
#pragma omp parallel num_threads(n_threads) reduction(+ : sum)
    {
        size_t part = READ_WORDS / (size_t)omp_get_num_threads() / STREAMS / LINE_WORDS * LINE_WORDS;
        const uint64_t *mine = words + (size_t)omp_get_thread_num() * part * STREAMS;
        for (size_t i = 0; i < part; i += LINE_WORDS)
            for (size_t s = 0; s < STREAMS; s++) {
                __builtin_prefetch(mine + s * part + i + AHEAD_WORDS);
                for (size_t k = 0; k < LINE_WORDS; k++)
                    sum += mine[s * part + i + k];
            }
    }
    return sum;
}

static double measure_reads(int n_threads) {
    void *memory;
    const size_t bytes = READ_WORDS * sizeof(uint64_t), huge_page = 2 << 20;
    if (posix_memalign(&memory, huge_page, bytes) != 0) return 0;
    madvise(memory, bytes, MADV_HUGEPAGE); /* as the weights lie */
    uint64_t *words = memory, sum = 0;
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (size_t i = 0; i < READ_WORDS; i++)
        words[i] = i;
    double best = 0;
    for (int i = 0; i < 6; i++) {
        double begin = clock_seconds();
        sum += read_all(words, n_threads);
        double rate = (double)bytes / (clock_seconds() - begin);
        if (rate > best) best = rate;
    }
    free(memory);
    return sum ? best : 0; /* the sum is used, so that the reads are made */
}

static double time_matmul(device *dev, const matrix *w, const void *x, float *y) {
    double best = 0;
    for (int i = 0; i < 6; i++) {
        double begin = clock_seconds();
        dev->ops->matmul(dev, w, x, ROWS, 0, y);
        dev->ops->sync(dev);
        double rate = 2.0 * ROWS * WIDTH * WIDTH / (clock_seconds() - begin);
        if (rate > best) best = rate;
    }
    return best;
}

static double measure_matmul(device *dev) {
    matrix *w;
    void *x, *y;
    if (dev->ops->matrix_open(dev, WIDTH, WIDTH, &w) != STATUS_OK) return 0;
    double rate = 0;
    float *values = mem_new((size_t)WIDTH * WIDTH, sizeof *values);
    for (int i = 0; i < WIDTH * WIDTH; i++)
        values[i] = (float)(i % 251 - 125) * 0x1p-7f;
    dev->ops->matrix_load(dev, w, 0, WIDTH, values, DTYPE_F32);
    if (dev->ops->alloc(dev, (size_t)ROWS * WIDTH * sizeof(float), &x) == STATUS_OK) {
        dev->ops->copy_in(dev, x, values, (size_t)ROWS * WIDTH * dtype_bytes(dev->act));
        if (dev->ops->alloc(dev, (size_t)ROWS * WIDTH * sizeof(float), &y) == STATUS_OK) {
            rate = time_matmul(dev, w, x, y);
            dev->ops->release(dev, y);
        }
        dev->ops->release(dev, x);
    }
    free(values);
    dev->ops->matrix_close(dev, w);
    return rate;
}

yardstick yardstick_measure(comm *c, int n_threads, device *dev) {
    comm_barrier(c);
    double mine[2] = {measure_reads(n_threads), 0};
    comm_barrier(c);
    if (dev) mine[1] = measure_matmul(dev);
    double *all = mem_new((size_t)comm_size(c), sizeof mine);
    comm_gather(c, mine, sizeof mine, all);
    yardstick sum = {0, 0};
    for (int i = 0; i < comm_size(c); i++) {
        sum.read_bytes_per_second += all[2 * i];
        sum.matmul_flops += all[2 * i + 1];
    }
    free(all);
    return sum;
}
