/* src/study/measure.h: `kvarve bench --measure FILE`: how long steps take, for predictions and for chunks of
 * equal time. */
#pragma once

#include "mpi/comm.h"
#include "src/command/options.h"

/* Prompts are read in chunks of 16, 32 ... --chunk-tokens rows at each of --depths, and 1, 2, 4 ...
 * --sequences decode behind them; every rank's steps are timed while all ranks work, and the medians of
 * --repeats passes are written (io/jsonl/step_times.h). Returns the exit code. Collective. */
int measure_steps(comm *c, const options *o);
