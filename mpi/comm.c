#include "mpi/comm.h"

#include <assert.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/comm_private.h"
#include "mpi/placement/launcher.h"
#include "src/base/clock.h"
#include "src/base/host.h"
#include "src/base/last_save.h"
#include "src/base/memory.h"

static const double eager_seconds = 0.05; /* a wait turns round and round at first, for the sake of latency */

/* MPI's abort takes no context, so the die hook needs to know who we are. */
static const comm *die_comm;

static void die_on_all_ranks(const char *text) {
    if (die_comm->size > 1)
        fprintf(stderr, "kvarve: error: rank %d on %s: %s\n", die_comm->rank, die_comm->host, text);
    else
        fprintf(stderr, "kvarve: error: %s\n", text);
    last_save_say();
    fflush(NULL);
    if (die_comm->size > 1) MPI_Abort(MPI_COMM_WORLD, EXIT_CODE_FAILED); /* prints a page about it */
    _Exit(EXIT_CODE_FAILED);
}

/* Of the processors of all ranks on this host, the part in proportion to how many this rank may use. */
static int share_processors(MPI_Comm node) {
    uint64_t mine[HOST_MASK_WORDS], all[HOST_MASK_WORDS];
    int n_mine = host_processor_mask(mine), n_sum, n_all = 0;
    MPI_Allreduce(&n_mine, &n_sum, 1, MPI_INT, MPI_SUM, node);
    MPI_Allreduce(mine, all, HOST_MASK_WORDS, MPI_UINT64_T, MPI_BOR, node);
    for (int i = 0; i < HOST_MASK_WORDS; i++)
        n_all += __builtin_popcountll(all[i]);
    int share = n_sum > 0 ? (int)((long)n_mine * n_all / n_sum) : 1;
    return share > 0 ? share : 1;
}

void comm_describe_mpi(char *text, size_t n) {
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(library, &length);
    library[strcspn(library, ",\r\n")] = '\0'; /* its name and version; much may follow */
    snprintf(text, n, "%.200s", library);
}

/* Is this process alone because it was to be, or because another MPI's launcher started it? */
static status check_alone(const launcher_word *word) {
    char library[256];
    int size;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size > 1) return STATUS_OK;
    comm_describe_mpi(library, sizeof library);
    return launcher_check_alone(word, library);
}

status comm_open(int *argc, char ***argv, comm **out) {
    launcher_word word = launcher_read();
    int provided;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS)
        return status_fail("MPI could not be started");
    if (provided < MPI_THREAD_SERIALIZED) {
        MPI_Finalize();
        return status_fail("this MPI library offers thread level %d, but kvarve needs MPI_THREAD_SERIALIZED",
                           provided);
    }
    status st = check_alone(&word);
    if (st != STATUS_OK) {
        MPI_Finalize();
        return st;
    }
    comm *c = mem_new(1, sizeof *c);
    MPI_Comm_dup(MPI_COMM_WORLD, &c->world);
    MPI_Comm_rank(c->world, &c->rank);
    MPI_Comm_size(c->world, &c->size);
    int length;
    MPI_Get_processor_name(c->host, &length);
    MPI_Comm node;
    MPI_Comm_split_type(c->world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &c->node_size);
    c->processors = share_processors(node);
    MPI_Comm_free(&node);
    pthread_mutex_init(&c->lock, NULL);
    die_comm = c;
    status_set_die_hook(die_on_all_ranks);
    *out = c;
    return STATUS_OK;
}

comm *comm_open_alone(void) {
    uint64_t mask[HOST_MASK_WORDS];
    comm *c = mem_new(1, sizeof *c);
    c->world = MPI_COMM_NULL;
    c->size = c->node_size = 1;
    c->processors = host_processor_mask(mask);
    if (c->processors < 1) c->processors = 1;
    gethostname(c->host, sizeof c->host - 1);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void comm_close(comm *c) {
    if (!c) return;
    pthread_mutex_destroy(&c->lock);
    if (c->world != MPI_COMM_NULL) {
        status_set_die_hook(NULL);
        die_comm = NULL;
        MPI_Comm_free(&c->world);
        MPI_Finalize();
    }
    free(c);
}

int comm_rank(const comm *c) {
    return c->rank;
}

int comm_size(const comm *c) {
    return c->size;
}

int comm_node_size(const comm *c) {
    return c->node_size;
}

int comm_processors(const comm *c) {
    return c->processors;
}

/* Collectives hold the lock as the pipeline does, as its thread must not be in MPI at the same time; but not
 * while they wait: another rank may come to the collective only when it has a message that this rank's
 * pipeline has still to send. */
static void finish(comm *c, MPI_Request *request) {
    const struct timespec pause = {0, 200 * 1000};
    double begin = clock_seconds();
    for (;;) {
        int done;
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        pthread_mutex_unlock(&c->lock);
        if (done) return;
        if (clock_seconds() - begin > eager_seconds)
            nanosleep(&pause, NULL);
        else
            sched_yield();
        pthread_mutex_lock(&c->lock);
    }
}

static void reduce_min(comm *c, const void *mine, void *least, MPI_Datatype type) {
    MPI_Request request;
    pthread_mutex_lock(&c->lock);
    MPI_Iallreduce(mine, least, 1, type, MPI_MIN, c->world, &request);
    finish(c, &request);
}

bool comm_any_failed(comm *c, status *st) {
    if (c->size == 1) return *st != STATUS_OK;
    int mine = *st == STATUS_OK ? c->size : c->rank, first;
    reduce_min(c, &mine, &first, MPI_INT);
    if (first == c->size) return false;
    struct {
        status st;
        char text[STATUS_TEXT_BYTES];
    } failure = {*st, ""};
    if (c->rank == first) {
        status_at(*st, "rank %d on %s", c->rank, c->host);
        snprintf(failure.text, sizeof failure.text, "%s", status_text());
    }
    comm_broadcast(c, &failure, sizeof failure, first);
    *st = status_adopt(failure.st, failure.text);
    return true;
}

void comm_broadcast(comm *c, void *data, size_t n_bytes, int root) {
    const size_t piece = (size_t)1 << 30; /* MPI counts are ints */
    for (size_t at = 0; c->size > 1 && at < n_bytes; at += piece) {
        size_t n = n_bytes - at < piece ? n_bytes - at : piece;
        MPI_Request request;
        pthread_mutex_lock(&c->lock);
        MPI_Ibcast((char *)data + at, (int)n, MPI_BYTE, root, c->world, &request);
        finish(c, &request);
    }
}

void comm_gather(comm *c, const void *mine, size_t n_bytes, void *all) {
    MPI_Request request;
    if (c->size == 1) {
        memcpy(all, mine, n_bytes);
        return;
    }
    assert(n_bytes <= INT_MAX);
    pthread_mutex_lock(&c->lock);
    MPI_Igather(mine, (int)n_bytes, MPI_BYTE, all, (int)n_bytes, MPI_BYTE, 0, c->world, &request);
    finish(c, &request);
}

int64_t comm_min(comm *c, int64_t value) {
    int64_t least;
    if (c->size == 1) return value;
    reduce_min(c, &value, &least, MPI_INT64_T);
    return least;
}

void comm_barrier(comm *c) {
    MPI_Request request;
    if (c->size == 1) return;
    pthread_mutex_lock(&c->lock);
    MPI_Ibarrier(c->world, &request);
    finish(c, &request);
}
