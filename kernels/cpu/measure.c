/* How fast this machine reads its memory. */
#include <omp.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu_device.h"
#include "src/base/clock.h"

enum {
    READ_WORDS = MEASURE_MIB << 17,
    LINE_WORDS = 8,
    STREAMS = 4,
    AHEAD_WORDS = 256, /* of prefetches: beyond the end they do no harm */
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

double cpu_measure_memory(device *base) {
    int n_threads = cpu_device_of(base)->n_threads;
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
