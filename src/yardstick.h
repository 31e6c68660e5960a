/* src/yardstick.h: what this machine can do, measured: to stand beside what a run achieved. */
#pragma once

#include "kernels/device.h"
#include "mpi/comm.h"

typedef struct yardstick {
    double read_bytes_per_second; /* memory reads of all ranks together; 0: not measured */
    double matmul_flops;          /* per second, of all ranks together; 0: not measured */
} yardstick;

/* All ranks measure at the same time, for some tenths of a second each, with MEASURE_MIB of memory for a
 * moment; rank 0 gets the sums. Collective. */
yardstick yardstick_measure(comm *c, device *dev, bool with_matmul);
