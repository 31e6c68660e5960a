#include "mpi/comm.h"

#include <assert.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mpi/comm_private.h"
#include "mpi/placement/launcher.h"
#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/host.h"
#include "src/base/last_save.h"
#include "src/base/memory.h"

static const double eager_seconds = 0.05; /* a wait turns round and round at first, for the sake of latency */

/* The hooks of the process take no context: who we are. */
static comm *hooked_comm;

static void die_on_all_ranks(const char *text) {
    if (hooked_comm->size > 1)
        fprintf(stderr, "kvarve: error: rank %d on %s: %s\n", hooked_comm->rank, hooked_comm->host, text);
    else
        fprintf(stderr, "kvarve: error: %s\n", text);
    last_save_say();
    fflush(NULL);
    if (hooked_comm->size > 1) {
        /* A launcher (MPICH's) may drop what it has not read by the time of the abort. */
        nanosleep(&(struct timespec){0, 200 * 1000000}, NULL);
        MPI_Abort(MPI_COMM_WORLD, EXIT_CODE_FAILED); /* prints a page about it */
    }
    _Exit(EXIT_CODE_FAILED);
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

/* To each rank that is not told yet, by alive_say. The lock may be with who waits for something long. */
static bool say_to_others(void) {
    comm *c = hooked_comm;
    if (pthread_mutex_trylock(&c->lock) != 0) return false;
    signs_send(c->signs);
    c->last_life = clock_seconds();
    pthread_mutex_unlock(&c->lock);
    return true;
}

/* Of the processors of all ranks on this host, the part in proportion to how many this rank may use. */
static int share_processors(comm *c) {
    typedef struct processors {
        uint64_t mask[HOST_MASK_WORDS];
        int n;
    } processors;
    processors mine = {0}, *all = mem_new((size_t)c->node_size, sizeof *all);
    int n_sum = 0, n_all = 0;
    mine.n = host_processor_mask(mine.mask);
    comm_gather_on_node(c, &mine, sizeof mine, all);
    for (int word = 0; word < HOST_MASK_WORDS; word++) {
        uint64_t any = 0;
        for (int i = 0; i < c->node_size; i++)
            any |= all[i].mask[word];
        n_all += __builtin_popcountll(any);
    }
    for (int i = 0; i < c->node_size; i++)
        n_sum += all[i].n;
    free(all);
    int share = n_sum > 0 ? (int)((long)mine.n * n_all / n_sum) : 1;
    return share > 0 ? share : 1;
}

/* The first wait for the others is one that has a deadline; behind it all of them are here. */
static void join_others(comm *c) {
    MPI_Request request;
    pthread_mutex_lock(&c->lock);
    MPI_Comm_idup(MPI_COMM_WORLD, &c->world, &request);
    comm_finish(c, &request, "the other ranks to start");
    MPI_Comm_split_type(c->world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &c->node);
    MPI_Comm_size(c->node, &c->node_size);
    if (c->size > 1) c->signs = signs_open(c->world, TAG_SIGN);
    c->processors = share_processors(c);
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
    c->deadline_seconds = COMM_DEADLINE_SECONDS;
    MPI_Comm_rank(MPI_COMM_WORLD, &c->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &c->size);
    int length;
    MPI_Get_processor_name(c->host, &length);
    pthread_mutex_init(&c->lock, NULL);
    hooked_comm = c;
    status_set_die_hook(die_on_all_ranks);
    join_others(c);
    comm_set_deadline(c, COMM_DEADLINE_SECONDS);
    *out = c;
    return STATUS_OK;
}

comm *comm_open_alone(void) {
    uint64_t mask[HOST_MASK_WORDS];
    comm *c = mem_new(1, sizeof *c);
    c->world = c->node = MPI_COMM_NULL;
    c->size = c->node_size = 1;
    c->processors = host_processor_mask(mask);
    if (c->processors < 1) c->processors = 1;
    gethostname(c->host, sizeof c->host - 1);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static bool are_taken(void *context) {
    return signs_are_taken(context);
}

/* No sign of life is under way any more once all ranks are here: each has been taken before. */
static void leave_others(comm *c) {
    alive_set_hook(NULL, 0);
    if (c->size == 1) return;
    comm_wait_until(c, are_taken, c->signs, "the other ranks to come to the end");
    comm_barrier(c);
    signs_close(c->signs);
}

void comm_close(comm *c) {
    if (!c) return;
    if (c->world != MPI_COMM_NULL) {
        leave_others(c);
        status_set_die_hook(NULL);
        hooked_comm = NULL;
        MPI_Comm_free(&c->node);
        MPI_Comm_free(&c->world);
        MPI_Finalize();
    }
    pthread_mutex_destroy(&c->lock);
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

/* ---- waits ---- */

void comm_set_deadline(comm *c, double seconds) {
    const double signs_in_a_deadline = 8;
    c->deadline_seconds = seconds;
    alive_set_hook(c->signs ? say_to_others : NULL, seconds / signs_in_a_deadline);
}

/* A process that did not look for so long was stopped, and likely all others with it (a job that is
 * suspended): time begins anew then. */
bool comm_is_late(comm *c, double begin) {
    if (c->size == 1) return false;
    double now = clock_seconds(), last = begin > c->last_look ? begin : c->last_look;
    bool was_stopped = now - last > c->deadline_seconds / 2;
    if ((c->signs && signs_take(c->signs) > 0) || was_stopped) c->last_life = now;
    c->last_look = now;
    return now - (begin > c->last_life ? begin : c->last_life) > c->deadline_seconds;
}

static void die_of_waiting(const comm *c, const char *what) {
    status_die(
        "waited %g s without a sign of life for %s: a rank was lost or hangs (if it is only slow: a larger "
        "--peer-timeout)",
        c->deadline_seconds, what);
}

void comm_watch(comm *c, double begin, const char *what) {
    pthread_mutex_lock(&c->lock);
    bool is_late = comm_is_late(c, begin);
    pthread_mutex_unlock(&c->lock);
    if (is_late) die_of_waiting(c, what);
}

/* The lock is not held all the time: what is waited for may need a message that another thread has still to
 * send. */
double comm_wait_until(comm *c, bool (*ready)(void *context), void *context, const char *what) {
    const struct timespec pause = {0, 200 * 1000};
    double begin = clock_seconds(), waited = 0;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        bool yes = ready(context), is_late = !yes && waited > eager_seconds && comm_is_late(c, begin);
        pthread_mutex_unlock(&c->lock);
        waited = clock_seconds() - begin;
        if (yes) return waited;
        if (is_late) die_of_waiting(c, what);
        /* After a while leave the processor to others: a save may be going on here. */
        if (waited > eager_seconds)
            nanosleep(&pause, NULL);
        else
            sched_yield();
    }
}

static bool is_done(void *request) {
    int done;
    MPI_Test(request, &done, MPI_STATUS_IGNORE);
    return done;
}

void comm_finish(comm *c, MPI_Request *request, const char *what) {
    pthread_mutex_unlock(&c->lock);
    comm_wait_until(c, is_done, request, what);
}

/* ---- collectives ---- */

static void reduce_min(comm *c, const void *mine, void *least, MPI_Datatype type, const char *what) {
    MPI_Request request;
    pthread_mutex_lock(&c->lock);
    MPI_Iallreduce(mine, least, 1, type, MPI_MIN, c->world, &request);
    comm_finish(c, &request, what);
}

bool comm_any_failed(comm *c, status *st) {
    if (c->size == 1) return *st != STATUS_OK;
    int mine = *st == STATUS_OK ? c->size : c->rank, first;
    reduce_min(c, &mine, &first, MPI_INT, "the other ranks to be as far as this one");
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
        comm_finish(c, &request, "what another rank tells all");
    }
}

char *comm_share(comm *c, const void *bytes, size_t *n, int root) {
    const bool is_root = c->rank == root;
    uint64_t size = is_root && bytes ? *n : UINT64_MAX;
    comm_broadcast(c, &size, sizeof size, root);
    if (size == UINT64_MAX) return NULL;
    *n = (size_t)size;
    char *copy = is_root ? mem_copy_text(bytes, *n) : mem_new(*n + 1, 1);
    comm_broadcast(c, copy, *n, root);
    return copy;
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
    comm_finish(c, &request, "what all ranks tell the first");
}

void comm_gather_on_node(comm *c, const void *mine, size_t n_bytes, void *all) {
    MPI_Request request;
    assert(n_bytes <= INT_MAX);
    pthread_mutex_lock(&c->lock);
    MPI_Iallgather(mine, (int)n_bytes, MPI_BYTE, all, (int)n_bytes, MPI_BYTE, c->node, &request);
    comm_finish(c, &request, "what the ranks of this host tell each other");
}

int64_t comm_min(comm *c, int64_t value) {
    int64_t least;
    if (c->size == 1) return value;
    reduce_min(c, &value, &least, MPI_INT64_T, "a number of each rank");
    return least;
}

void comm_barrier(comm *c) {
    MPI_Request request;
    if (c->size == 1) return;
    pthread_mutex_lock(&c->lock);
    MPI_Ibarrier(c->world, &request);
    comm_finish(c, &request, "the other ranks to be as far as this one");
}
