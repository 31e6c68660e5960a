#include "src/command/yardstick.h"

#include <stdlib.h>

#include "src/base/clock.h"
#include "src/base/memory.h"

enum {
    ROWS = 512,
    WIDTH = 2048,
};

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

/* The measurement must not break the bound. The same on every rank. */
static bool has_room(const engine *e) {
    const plan *p = engine_plan(e);
    uint64_t most = 0, bound = engine_bound(e)->bytes;
    for (int i = 0; i < p->n_ranks; i++)
        if (p->ranks[i].total_bytes > most) most = p->ranks[i].total_bytes;
    return bound == 0 || most + ((uint64_t)MEASURE_MIB << 20) <= bound;
}

yardstick yardstick_measure(comm *c, engine *e, bool with_matmul) {
    yardstick sum = {0, 0};
    device *dev = engine_device(e);
    if (!has_room(e)) return sum;
    comm_barrier(c);
    double mine[2] = {dev->ops->measure_memory(dev), 0};
    comm_barrier(c);
    if (with_matmul) mine[1] = measure_matmul(dev);
    double *all = mem_new((size_t)comm_size(c), sizeof mine);
    comm_gather(c, mine, sizeof mine, all);
    for (int i = 0; i < comm_size(c); i++) {
        sum.read_bytes_per_second += all[2 * i];
        sum.matmul_flops += all[2 * i + 1];
    }
    free(all);
    return sum;
}
