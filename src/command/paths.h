/* src/command/paths.h: the files of a command line. What a command reads, or keeps, it does not write over.
 * Local. */
#pragma once

#include "mpi/comm.h"
#include "src/command/options.h"

/* Refuses options that read stdin when there are several ranks: not all launchers pass it on whole, some not
 * its end. The same result on every rank. */
status paths_check_stdin(const comm *c, const options *o);

/* Refuses a file that is to be written where it cannot be, is also one of the command's other files, belongs
 * to its model, or is a part of its snapshots. Rank 0. */
status paths_check_written(const options *o);
