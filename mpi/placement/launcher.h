/* mpi/placement/launcher.h: what the launcher says of the process that it started.
 *
 * A launcher of another MPI starts its N processes, but this MPI knows nothing of them and makes each the
 * only rank of a run: N runs of the same command. The launcher's variables tell. */
#pragma once

#include <stdbool.h>

#include "src/base/status.h"

/* What the launcher's variables say. */
typedef struct launcher_word {
    const char *variable; /* that says it; NULL: nothing says that there are several */
    long rank, n;         /* this is process `rank` of n; of those that only tell the rank, n is the least */
    bool from_shell;      /* a shell is the launcher's first process, and this one was started from there */
} launcher_word;

/* Before MPI is started, as it may change the variables. What says nothing: variables of an allocation, of a
 * batch script, of a job array. Local. */
launcher_word launcher_read(void);

/* This process's number by a launcher that MPI can ask for the others; -1: there is none. srun alone is none.
 * Local. */
long launcher_rank(void);

/* MPI, which calls itself `library`, made this process the only rank. Refuses one of several, naming the
 * variable that says so; only from a shell (`srun --pty bash`) it may go on, with a notice. Local. */
status launcher_check_alone(const launcher_word *word, const char *library);
