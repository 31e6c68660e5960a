#include "mpi/placement/launcher.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/notice.h"

/* Variables that are set for each process of a parallel start. */
typedef struct start_variables {
    const char *size; /* NULL: only the rank is told */
    const char *rank;
} start_variables;

static const start_variables of_launchers[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}, /* Open MPI, and what is made of it */
    {"PMI_SIZE", "PMI_RANK"}, /* MPICH, Intel MPI, MVAPICH; PALS, Flux, srun --mpi=pmi2 */
    {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"}, /* MVAPICH2's mpirun_rsh */
    {"MVP_COMM_WORLD_SIZE", "MVP_COMM_WORLD_RANK"}, /* MVAPICH's */
    {"JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"},   /* jsrun */
    {NULL, "PMIX_RANK"},                            /* prterun, srun --mpi=pmix */
    {NULL, "PALS_RANKID"},
    {NULL, "ALPS_APP_PE"}, /* aprun */
    {NULL, "FLUX_TASK_RANK"},
};

/* srun sets these for whatever it starts: also for the daemons of another launcher, which pass them on. A
 * batch script and the shell of salloc have others (SLURM_NTASKS). */
static const start_variables of_srun = {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"};

/* The variable's number; -1: it has none. */
static long number_in(const char *variable) {
    const char *text = variable ? getenv(variable) : NULL;
    char *end = NULL;
    errno = 0;
    long n = text ? strtol(text, &end, 10) : -1;
    return text && *text && !*end && errno == 0 && n >= 0 ? n : -1;
}

/* How many processes there are by these variables, at least; 0: they do not say. */
static long processes_by(const start_variables *v) {
    long rank = number_in(v->rank), size = number_in(v->size);
    if (rank < 0) return 0;
    if (v->size) return size > rank ? size : 0;
    return rank > 0 ? rank + 1 : 0;
}

/* Is the process that started this one a shell that the launcher had given this variable? */
static bool shell_has(const char *variable) {
    char path[64], name[64] = "", *entry = NULL;
    size_t room = 0, n = strlen(variable);
    bool has = false;
    snprintf(path, sizeof path, "/proc/%ld/comm", (long)getppid());
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%63s", name) != 1) *name = '\0';
    if (f) fclose(f);
    if (strlen(name) < 2 || strcmp(name + strlen(name) - 2, "sh")) return false;
    snprintf(path, sizeof path, "/proc/%ld/environ", (long)getppid());
    f = fopen(path, "r");
    while (f && !has && getdelim(&entry, &room, '\0', f) > 0)
        has = !strncmp(entry, variable, n) && entry[n] == '=';
    free(entry);
    if (f) fclose(f);
    return has;
}

/* The variables by which there are several processes; NULL: there are not, or nobody says. */
static const start_variables *find_several(void) {
    const start_variables *found = NULL;
    for (size_t i = 0; i < sizeof of_launchers / sizeof *of_launchers; i++) {
        long n = processes_by(&of_launchers[i]);
        if (n == 1) return NULL; /* one was asked for; others are of what that was started from */
        if (n > 1 && !found) found = &of_launchers[i];
    }
    return !found && processes_by(&of_srun) > 1 ? &of_srun : found;
}

long launcher_rank(void) {
    for (size_t i = 0; i < sizeof of_launchers / sizeof *of_launchers; i++)
        if (number_in(of_launchers[i].rank) >= 0) return number_in(of_launchers[i].rank);
    return -1;
}

launcher_word launcher_read(void) {
    const start_variables *v = find_several();
    if (!v) return (launcher_word){0};
    launcher_word word = {v->size ? v->size : v->rank, number_in(v->rank), processes_by(v), false};
    word.from_shell = word.rank == 0 && shell_has(v->rank);
    return word;
}

status launcher_check_alone(const launcher_word *word, const char *library) {
    if (!word->variable) return STATUS_OK;
    if (!word->from_shell)
        return status_refuse("by %s this is process %ld of %ld, but %s made it a run of one rank: start "
                             "kvarve with the launcher "
                             "of that MPI, or take %s out of the environment for a run by itself",
                             word->variable, word->rank, word->n, library, word->variable);
    notice_add("by %s this shell is one of %ld processes, but MPI made it a run of one rank", word->variable,
               word->n);
    return STATUS_OK;
}
