/* src/yardstick.h: what this machine can do, measured: to stand beside what a run achieved. */
#pragma once

#include "kernels/device.h"
#include "mpi/comm.h"

typedef struct yardstick {
    double read_bytes_per_second; /* memory reads of all ranks together; 0: not measured */
    double matmul_flops;          /* per second, of all ranks together; 0: not measured */
} yardstick;

enum { YARDSTICK_MIB = 256 }; /* that each rank takes for a moment: past the caches */

/* All ranks measure at the same time with their threads, for some tenths of a second each; rank 0 gets the
 * sums. dev NULL: reads only. Collective. */
yardstick yardstick_measure(comm *c, int n_threads, device *dev);
