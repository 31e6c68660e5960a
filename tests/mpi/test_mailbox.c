/* tests/mpi/test_mailbox.c: notes to rank 0: intact, in order, from any thread, and beside a pipeline. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/mailbox.h"
#include "mpi/pipeline.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"

static comm *ranks;
static device *dev;

enum { MAX_RANKS = 16, MAX_THREADS = 4, TIMEOUT_SECONDS = 60 };

/* A note says who wrote it and its number there; the rest of its bytes follow from that. */
typedef struct stamp {
    int rank, thread, number;
} stamp;

/* Small ones, with some of 5 MiB between them. */
static size_t size_of(stamp s) {
    uint64_t state = (uint64_t)(s.rank * 1000003 + s.thread * 10007 + s.number);
    if (s.number % 60 == 7) return (size_t)5 << 20;
    return sizeof s + harness_random(&state) % (harness_random(&state) % 4 ? 100 : 100000);
}

static unsigned char byte_of(stamp s, size_t i) {
    return (unsigned char)((size_t)(s.rank * 31 + s.thread * 17 + s.number * 7) + i + (i >> 8));
}

static void send_note(mailbox *m, stamp s) {
    size_t n = size_of(s);
    unsigned char *bytes = mem_new(n, 1);
    for (size_t i = sizeof s; i < n; i++)
        bytes[i] = byte_of(s, i);
    memcpy(bytes, &s, sizeof s);
    mailbox_send(m, bytes, n);
    memset(bytes, 0xEE, n); /* it was copied */
    free(bytes);
}

/* What rank 0 has seen: how many notes of each thread of each rank. */
typedef struct seen {
    int n_notes[MAX_RANKS][MAX_THREADS], n_all;
} seen;

/* Take a note when one is there: is it the next of its writer, and are all its bytes right? */
static bool take_note(mailbox *m, seen *s) {
    size_t n = 0;
    int from = -1;
    unsigned char *bytes = mailbox_take(m, &n, &from);
    if (!bytes) return false;
    stamp who = {0};
    CU_ASSERT(n >= sizeof who);
    memcpy(&who, bytes, n < sizeof who ? n : sizeof who);
    CU_ASSERT(who.rank == from && from >= 0 && from < comm_size(ranks));
    CU_ASSERT(who.thread >= 0 && who.thread < MAX_THREADS);
    CU_ASSERT(who.number == s->n_notes[from % MAX_RANKS][who.thread % MAX_THREADS]++);
    size_t n_wrong = n != size_of(who);
    for (size_t i = sizeof who; i < n && !n_wrong; i++)
        n_wrong += bytes[i] != byte_of(who, i);
    CU_ASSERT(n_wrong == 0);
    free(bytes);
    s->n_all++;
    return true;
}

static void take_until(mailbox *m, seen *s, int n_all) {
    double begin = clock_seconds();
    while (s->n_all < n_all && clock_seconds() - begin < TIMEOUT_SECONDS)
        if (!take_note(m, s)) sched_yield();
    CU_ASSERT_EQUAL(s->n_all, n_all);
}

static bool is_empty(mailbox *m) {
    size_t n;
    int from;
    void *data = mailbox_take(m, &n, &from);
    free(data);
    return !data;
}

/* ---- tests ---- */

static void nothing_sent(void) {
    mailbox *m = mailbox_open(ranks);
    if (comm_rank(ranks) == 0) CU_ASSERT(is_empty(m));
    mailbox_close(m);
    mailbox_close(NULL);
}

/* All is sent before rank 0 takes the first: nobody waits for it. */
static void many_notes(void) {
    enum { N = 200 };
    mailbox *m = mailbox_open(ranks);
    for (int i = 0; i < N; i++)
        send_note(m, (stamp){comm_rank(ranks), 0, i});
    comm_barrier(ranks);
    seen s = {0};
    if (comm_rank(ranks) == 0) {
        take_until(m, &s, N * comm_size(ranks));
        CU_ASSERT(is_empty(m));
    }
    comm_barrier(ranks);
    mailbox_close(m);
}

static void smallest_notes(void) {
    mailbox *m = mailbox_open(ranks);
    for (int round = 0; round < 20; round++) {
        mailbox_send(m, NULL, 0);
        mailbox_send(m, "x", 1);
    }
    int n_taken[MAX_RANKS] = {0};
    double begin = clock_seconds();
    for (int left = 40 * comm_size(ranks); comm_rank(ranks) == 0 && left > 0;) {
        size_t n = 99;
        int from = -1;
        char *data = mailbox_take(m, &n, &from);
        if (!data && clock_seconds() - begin > TIMEOUT_SECONDS) break;
        if (!data) continue;
        CU_ASSERT(from >= 0 && from < comm_size(ranks) && n == (size_t)(n_taken[from]++ % 2));
        CU_ASSERT(n == 0 || *data == 'x');
        free(data);
        left--;
    }
    for (int i = 0; comm_rank(ranks) == 0 && i < comm_size(ranks); i++)
        CU_ASSERT_EQUAL(n_taken[i], 40);
    mailbox_close(m);
}

/* A rank may be in the next mailbox while rank 0 still takes notes of others from this one. */
static void opened_again(void) {
    for (int round = 0; round < 30; round++) {
        mailbox *m = mailbox_open(ranks);
        seen s = {0};
        for (int i = 0; i < round; i++)
            send_note(m, (stamp){comm_rank(ranks), 1, i});
        if (comm_rank(ranks) == 0) take_until(m, &s, round * comm_size(ranks));
        mailbox_close(m);
    }
}

/* What nobody took hinders neither the end, though large notes wait for their receiver, nor the next mailbox.
 */
static void not_taken(void) {
    for (int round = 0; round < 3; round++) {
        mailbox *m = mailbox_open(ranks);
        seen s = {0};
        for (int i = 0; i < 10; i++) /* number 7 is large */
            send_note(m, (stamp){comm_rank(ranks), 0, i});
        if (comm_rank(ranks) == 0) take_until(m, &s, round * comm_size(ranks));
        mailbox_close(m);
    }
}

static void two_at_once(void) {
    enum { N = 100 };
    mailbox *even = mailbox_open(ranks), *odd = mailbox_open(ranks);
    for (int i = 0; i < 2 * N; i++)
        send_note(i % 2 ? odd : even, (stamp){comm_rank(ranks), i % 2, i / 2});
    seen of_odd = {0}, of_even = {0};
    if (comm_rank(ranks) == 0) {
        take_until(odd, &of_odd, N * comm_size(ranks));
        take_until(even, &of_even, N * comm_size(ranks));
        CU_ASSERT(of_odd.n_notes[0][0] == 0 && of_even.n_notes[0][1] == 0);
    }
    mailbox_close(even);
    mailbox_close(odd);
}

typedef struct writer {
    mailbox *m;
    int thread, n_notes;
} writer;

static void *write_notes(void *arg) {
    const writer *w = arg;
    for (int i = 0; i < w->n_notes; i++) {
        send_note(w->m, (stamp){comm_rank(ranks), w->thread, i});
        if (i % 16 == 0) usleep(200);
    }
    return NULL;
}

static void from_threads(void) {
    enum { N = 150, N_THREADS = 3 };
    mailbox *m = mailbox_open(ranks);
    pthread_t threads[N_THREADS];
    writer writers[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        writers[i] = (writer){m, i, N};
        CU_ASSERT(pthread_create(&threads[i], NULL, write_notes, &writers[i]) == 0);
    }
    seen s = {0};
    if (comm_rank(ranks) == 0) take_until(m, &s, N * N_THREADS * comm_size(ranks));
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    mailbox_close(m);
}

/* ---- beside a pipeline ---- */

static const pipeline_sizes limits = {
    .header_bytes = sizeof(int), .x_floats = 50000, .reply_bytes = 2 * sizeof(int), .n_replies = 4};

static void check_message(const pipeline_slot *slot, int number) {
    CU_ASSERT(slot->n_header_bytes == sizeof number && !memcmp(slot->header, &number, sizeof number));
    size_t n_wrong = slot->n_x_floats != limits.x_floats;
    for (size_t i = 0; i < slot->n_x_floats; i++)
        n_wrong += slot->x[i] != (float)(number + (int)(i % 100));
    CU_ASSERT(n_wrong == 0);
}

static void pass_on(pipeline *p, pipeline_slot *slot, int number) {
    check_message(slot, number);
    if (comm_rank(ranks) == comm_size(ranks) - 1)
        pipeline_reply(p, (int[2]){number, -number}, 2 * sizeof(int));
    pipeline_forward(p, slot);
}

/* Stage 0 sends and takes messages, with a look into the mailbox at each step. */
static void run_stage_0(pipeline *p, mailbox *m, seen *s, int n) {
    int n_sent = 0, n_replied = 0;
    while (n_replied < n) {
        take_note(m, s);
        bool room = n_sent < n && n_sent - n_replied < limits.n_replies;
        const int *reply = n_sent > n_replied ? pipeline_take_reply(p, !room) : NULL;
        if (reply) {
            CU_ASSERT(reply[0] == n_replied && reply[1] == -n_replied);
            n_replied++;
            continue;
        }
        pipeline_slot *slot = pipeline_begin(p);
        memcpy(slot->header, &n_sent, sizeof n_sent);
        slot->n_header_bytes = sizeof n_sent;
        slot->n_x_floats = limits.x_floats;
        for (size_t i = 0; i < limits.x_floats; i++)
            slot->x[i] = (float)(n_sent + (int)(i % 100));
        pass_on(p, slot, n_sent++);
    }
}

/* Each rank sends notes from its stage and from a thread of its own while messages pass. */
static void beside_a_pipeline(void) {
    enum { N = 200, N_THREAD = 240 };
    pipeline *p = NULL;
    CHECK_OK(pipeline_open(ranks, dev, &limits, TRANSPORT_AUTO, &p));
    mailbox *m = mailbox_open(ranks);
    writer w = {m, 1, N_THREAD};
    pthread_t thread;
    seen s = {0};
    CU_ASSERT(pthread_create(&thread, NULL, write_notes, &w) == 0);
    if (comm_rank(ranks) == 0) run_stage_0(p, m, &s, N);
    for (int i = 0; comm_rank(ranks) > 0 && i < N; i++) {
        send_note(m, (stamp){comm_rank(ranks), 0, i});
        pass_on(p, pipeline_receive(p), i);
    }
    pthread_join(thread, NULL);
    if (comm_rank(ranks) == 0) take_until(m, &s, N_THREAD * comm_size(ranks) + N * (comm_size(ranks) - 1));
    mailbox_close(m);
    pipeline_close(p);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"nothing sent", nothing_sent},
        {"many notes", many_notes},
        {"smallest notes", smallest_notes},
        {"opened again", opened_again},
        {"not taken", not_taken},
        {"two at once", two_at_once},
        {"from threads", from_threads},
        {"beside a pipeline", beside_a_pipeline},
        CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    if (cpu_device_open(PRECISION_F32, 1, NULL, &dev) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "mailbox", tests);
    dev->ops->close(dev);
    comm_close(ranks);
    return code;
}
