/* tests/mpi/test_waits.c: how long ranks wait for each other: as long as one says that it is alive, and the
 * deadline after the last time. tests/snapshot/test_hangs.sh has the same of whole runs. */
#include <mpi.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "mpi/comm.h"
#include "mpi/signs.h"
#include "src/base/alive.h"
#include "src/base/clock.h"
#include "tests/fixtures/harness.h"

static comm *ranks;
static const double deadline = 1, usual = COMM_DEADLINE_SECONDS;

static void nap(double seconds) {
    nanosleep(&(struct timespec){(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)}, NULL);
}

static bool is_last(void) {
    return comm_rank(ranks) == comm_size(ranks) - 1;
}

/* ---- signs ---- */

/* Take signs until all of all ranks are taken; how many there were. */
static int take_all(signs *s, MPI_Comm world) {
    MPI_Request all_are_here;
    bool has_entered = false;
    for (int n = 0, is_over = 0;; nap(0.001)) {
        n += signs_take(s);
        if (!has_entered && signs_are_taken(s)) {
            MPI_Ibarrier(world, &all_are_here);
            has_entered = true;
        }
        if (has_entered) MPI_Test(&all_are_here, &is_over, MPI_STATUS_IGNORE);
        if (is_over) return n + signs_take(s);
    }
}

/* However often all but the first say it: one is under way, and one may be taken before. */
static void one_sign_under_way(void) {
    int rank = comm_rank(ranks), n_senders = comm_size(ranks) - 1 - (rank > 0);
    MPI_Comm world;
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    signs *s = signs_open(world, 7);
    for (int i = 0; rank > 0 && i < 10000; i++)
        signs_send(s);
    MPI_Barrier(world);
    int n = take_all(s, world);
    CU_ASSERT(n >= n_senders && n <= 2 * n_senders);
    CU_ASSERT(signs_take(s) == 0 && signs_are_taken(s));
    MPI_Barrier(world);
    if (rank == 0) signs_send(s);
    CU_ASSERT(take_all(s, world) == (rank > 0));
    signs_close(s);
    MPI_Comm_free(&world);
}

/* ---- waits ---- */

static jmp_buf after_death;
static char last_words[STATUS_TEXT_BYTES];

static void note_death(const char *text) {
    snprintf(last_words, sizeof last_words, "%s", text);
    longjmp(after_death, 1);
}

static void *work(void *seconds) {
    for (double begin = clock_seconds(); clock_seconds() - begin < *(const double *)seconds; nap(0.01))
        alive_say();
    return NULL;
}

/* Each rank works in its turn, and the others wait all the time, in MPI or for their own threads. */
static void who_works_is_waited_for(void) {
    double seconds = 2 * deadline;
    comm_barrier(ranks);
    comm_set_deadline(ranks, deadline);
    for (int turn = 0; turn < comm_size(ranks); turn++) {
        int value = turn;
        if (turn == comm_rank(ranks)) work(&seconds);
        comm_broadcast(ranks, &value, sizeof value, turn);
        CU_ASSERT(value == turn);
    }
    pthread_t thread;
    if (is_last()) CU_ASSERT(pthread_create(&thread, NULL, work, &seconds) == 0);
    for (double begin = clock_seconds(); clock_seconds() - begin < 2 * deadline; nap(0.001))
        comm_watch(ranks, begin, "a thread");
    if (is_last()) pthread_join(thread, NULL);
    comm_set_deadline(ranks, usual);
    comm_barrier(ranks);
}

/* Threads may say it while their rank is in MPI, and it costs little. */
static void said_by_threads(void) {
    enum { N = 4, TIMES = 1000000 };
    pthread_t threads[N];
    double seconds = 1;
    comm_barrier(ranks);
    comm_set_deadline(ranks, 4 * deadline);
    for (int i = 0; i < N; i++)
        CU_ASSERT(pthread_create(&threads[i], NULL, work, &seconds) == 0);
    for (int i = 0; i < 200; i++)
        CU_ASSERT(comm_min(ranks, i) == i);
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    comm_set_deadline(ranks, usual);
    double begin = clock_seconds();
    for (int i = 0; i < TIMES; i++)
        alive_say();
    printf("rank %d: %.1f ns to say nothing\n", comm_rank(ranks), 1e9 * (clock_seconds() - begin) / TIMES);
    comm_barrier(ranks);
}

/* The last rank works for a while, and then says nothing any more. The last test, as ranks do not die in
 * others so. */
static void a_silent_rank_is_given_up(void) {
    static double begin;
    double seconds = deadline;
    if (comm_size(ranks) == 1) {
        harness_skip("one rank waits for nobody");
        return;
    }
    comm_barrier(ranks);
    begin = clock_seconds();
    if (is_last()) {
        comm_set_deadline(ranks, deadline); /* of its signs */
        work(&seconds);
        comm_set_deadline(ranks, usual);
        nap(6 * deadline);
        comm_barrier(ranks);
    } else {
        comm_set_deadline(ranks, deadline);
        status_set_die_hook(note_death);
        if (setjmp(after_death) == 0) comm_barrier(ranks);
        status_set_die_hook(NULL);
        comm_set_deadline(ranks, usual);
        double waited = clock_seconds() - begin;
        CU_ASSERT(waited >= 1.5 * deadline && waited < 6 * deadline); /* a busy machine may stop us */
        CU_ASSERT(strstr(last_words, "waited 1 s without a sign of life for the other ranks") != NULL);
        CU_ASSERT(strstr(last_words, "was lost or hangs") && strstr(last_words, "--peer-timeout"));
    }
    comm_barrier(ranks); /* which the one that was left is before */
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"one sign under way", one_sign_under_way},
        {"who works is waited for", who_works_is_waited_for},
        {"said by threads", said_by_threads},
        {"a silent rank is given up", a_silent_rank_is_given_up},
        CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "waits", tests);
    comm_close(ranks);
    return code;
}
