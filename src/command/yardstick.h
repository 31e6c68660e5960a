/* src/command/yardstick.h: what this machine can do, measured: to stand beside what a run achieved. */
#pragma once

#include "src/engine/engine.h"

typedef struct yardstick {
    double read_bytes_per_second; /* memory reads of all ranks together; 0: not measured */
    double matmul_flops;          /* per second, of all ranks together; 0: not measured */
} yardstick;

/* All ranks measure at the same time, for some tenths of a second each, with MEASURE_MIB of memory for a
 * moment; rank 0 gets the sums. Nothing is measured where a rank may not take so much. Collective. */
yardstick yardstick_measure(comm *c, engine *e, bool with_matmul);
