/* tests/mpi/test_transport.c: activations that live in a memory of their own cross stages, while the device
 * is as late as it may be. `test_transport fail`: a copy fails, which must end all ranks. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/pipeline.h"
#include "mpi/transport/comm_nccl.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "tests/fixtures/apart_device.h"
#include "tests/fixtures/harness.h"

static comm *ranks;
static device *apart, *cpu;

static const pipeline_sizes limits = {
    .header_bytes = 6000, .x_floats = (size_t)1 << 20, .reply_bytes = sizeof(int), .n_replies = 5};

/* Nothing, one number, all that there is room for, and anything between; MPI sends small and large messages
 * in different ways. */
static size_t x_floats_of(int number) {
    uint64_t state = 500 + (uint64_t)number;
    switch (number % 8) {
    case 0:
        return 0;
    case 3:
        return 1;
    case 5:
        return number % 64 == 5 ? limits.x_floats : 2;
    default:
        return 1 + harness_random(&state) % (number % 2 ? 200 : 30000);
    }
}

/* Large headers may come behind the small ones of later messages. */
static size_t header_bytes_of(int number) {
    return number % 3 ? 8 : limits.header_bytes;
}

static bool is_last(void) {
    return comm_rank(ranks) == comm_size(ranks) - 1;
}

/* ---- what stages do with x, as operations of the device ---- */

static int n_checked, n_wrong;

static float x_value(int number, size_t i, int stage) {
    return (float)((number * 13 + (int)(i % 1000)) % 4096 + stage);
}

static void fill(float *x, size_t n, int number) {
    for (size_t i = 0; i < n; i++)
        x[i] = x_value(number, i, 0);
}

static void check_and_add_one(float *x, size_t n, int number) {
    n_checked++;
    for (size_t i = 0; i < n; i++) {
        n_wrong += x[i] != x_value(number, i, comm_rank(ranks));
        x[i] += 1;
    }
}

static void pass_on(pipeline *p, pipeline_slot *slot, int number) {
    int told;
    memcpy(&told, slot->header, sizeof told);
    CU_ASSERT(told == number && slot->n_x_floats == x_floats_of(number) &&
              slot->n_header_bytes == header_bytes_of(number));
    apart_device_queue(apart, check_and_add_one, slot->x, slot->n_x_floats, number);
    if (is_last()) pipeline_reply(p, &number, sizeof number);
    pipeline_forward(p, slot);
}

static void begin_message(pipeline *p, int number) {
    pipeline_slot *slot = pipeline_begin(p);
    slot->n_x_floats = x_floats_of(number);
    slot->n_header_bytes = header_bytes_of(number);
    memcpy(slot->header, &number, sizeof number);
    apart_device_queue(apart, fill, slot->x, slot->n_x_floats, number);
    pass_on(p, slot, number);
}

static void run_stage_0(pipeline *p, int n) {
    int n_sent = 0, n_taken = 0, in_flight = comm_size(ranks) == 1 ? 1 : limits.n_replies;
    while (n_taken < n) {
        bool room = n_sent < n && n_sent - n_taken < in_flight;
        const int *reply = n_sent > n_taken ? pipeline_take_reply(p, !room) : NULL;
        if (reply) {
            CU_ASSERT(*reply == n_taken);
            n_taken++;
        } else {
            begin_message(p, n_sent++);
        }
    }
}

static void run_messages(pipeline *p, int n) {
    if (comm_rank(ranks) == 0)
        run_stage_0(p, n);
    else
        for (int number = 0; number < n; number++)
            pass_on(p, pipeline_receive(p), number);
}

static pipeline *open_pipeline(device *dev) {
    pipeline *p = NULL;
    CHECK_OK(pipeline_open(ranks, dev, &limits, TRANSPORT_AUTO, &p));
    return p;
}

/* ---- tests ---- */

static void messages_of_a_late_device(void) {
    enum { N = 400 };
    pipeline *p = open_pipeline(apart);
    n_checked = n_wrong = 0;
    int n_waits = apart_device_n_waits(apart);
    run_messages(p, N);
    CU_ASSERT(apart_device_n_waits(apart) == n_waits);
    CHECK_OK(apart->ops->sync(apart));
    CU_ASSERT(n_checked == N && n_wrong == 0);
    pipeline_close(p);
}

static void opened_again(void) {
    for (int round = 0; round < 3; round++) {
        pipeline *p = open_pipeline(apart);
        n_wrong = 0;
        run_messages(p, 4 * round);
        CHECK_OK(apart->ops->sync(apart));
        CU_ASSERT(n_wrong == 0);
        pipeline_close(p);
    }
}

/* The last stage comes to the barrier when it has all messages; the others come at once, with messages that
 * have still to leave their devices. */
static void agreeing_while_messages_leave(void) {
    enum { N = 3 };
    for (int round = 0; round < 10; round++) {
        pipeline *p = open_pipeline(apart);
        n_wrong = 0;
        for (int number = 0; number < N; number++)
            if (comm_rank(ranks) == 0)
                begin_message(p, number + round);
            else
                pass_on(p, pipeline_receive(p), number + round);
        comm_barrier(ranks);
        CHECK_OK(apart->ops->sync(apart));
        CU_ASSERT(n_wrong == 0);
        pipeline_close(p);
    }
}

static void chosen_by_the_device(void) {
    transport_kind kind = TRANSPORT_AUTO;
    CHECK_OK(transport_choose(ranks, cpu, TRANSPORT_AUTO, &kind));
    CU_ASSERT(kind == TRANSPORT_MPI);
    CHECK_OK(transport_choose(ranks, apart, TRANSPORT_AUTO, &kind));
    CU_ASSERT(kind == TRANSPORT_MPI);
    CHECK_OK(transport_choose(ranks, apart, TRANSPORT_MPI, &kind));
    CU_ASSERT(kind == TRANSPORT_MPI);
    const char *why = nccl_is_built() ? "between GPUs" : "without NCCL";
    CHECK_REFUSED(transport_choose(ranks, cpu, TRANSPORT_NCCL, &kind), why);
    pipeline *p = NULL;
    CHECK_REFUSED(pipeline_open(ranks, cpu, &limits, TRANSPORT_NCCL, &p), "--transport nccl");
    CU_ASSERT(p == NULL);

    device *devices[] = {cpu, apart};
    const char *names[] = {"MPI", "MPI through host memory"};
    for (int i = 0; i < 2; i++) {
        p = open_pipeline(devices[i]);
        if (comm_size(ranks) == 1)
            CU_ASSERT(pipeline_transport(p) == NULL)
        else
            CU_ASSERT_STRING_EQUAL(pipeline_transport(p), names[i]);
        pipeline_close(p);
    }
}

static jmp_buf after_death;
static char last_words[STATUS_TEXT_BYTES];

static void note_death(const char *text) {
    snprintf(last_words, sizeof last_words, "%s", text);
    longjmp(after_death, 1);
}

/* Rank 1 takes no message: its slots and those of rank 0 are full at last, whatever MPI would buffer, and
 * rank 0 gives up, as do all that wait behind rank 1. What was sent is still there then. */
static void waits_end_with_the_deadline(void) {
    if (comm_size(ranks) == 1) return;
    enum { FIRST = 5, MANY = 50 }; /* a large message is among them */
    const double deadline = 2;
    static pipeline *p;
    static int n_sent;
    p = open_pipeline(apart);
    n_wrong = 0;
    comm_barrier(ranks);
    double begin = clock_seconds();
    if (comm_rank(ranks) != 1) comm_set_deadline(ranks, deadline);
    status_set_die_hook(note_death);
    if (setjmp(after_death) == 0) {
        if (comm_rank(ranks) == 0)
            for (n_sent = 0; n_sent < MANY; n_sent++)
                begin_message(p, FIRST + n_sent);
        if (comm_rank(ranks) > 1) pipeline_receive(p);
    }
    status_set_die_hook(NULL);
    comm_set_deadline(ranks, COMM_DEADLINE_SECONDS);
    if (comm_rank(ranks) != 1) {
        CU_ASSERT(clock_seconds() - begin >= deadline && clock_seconds() - begin < 10 * deadline);
        CU_ASSERT(strstr(last_words, comm_rank(ranks) == 0 ? "the next stage to take a message"
                                                           : "a message from the stage before") != NULL);
    }
    comm_broadcast(ranks, &n_sent, sizeof n_sent, 0);
    CU_ASSERT(n_sent >= 2 * PIPELINE_SLOTS - 1 && n_sent <= 2 * PIPELINE_SLOTS);
    for (int i = 0; i < n_sent; i++)
        if (comm_rank(ranks) > 0)
            pass_on(p, pipeline_receive(p), FIRST + i);
        else
            CU_ASSERT(*(const int *)pipeline_take_reply(p, true) == FIRST + i);
    CHECK_OK(apart->ops->sync(apart));
    CU_ASSERT(n_wrong == 0);
    pipeline_close(p);
}

/* ---- a failure, which ends this program ---- */

static void a_copy_fails(void) {
    pipeline *p = open_pipeline(apart);
    if (comm_rank(ranks) == 0) apart_device_fail_copies(apart);
    run_messages(p, 10);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"messages of a late device", messages_of_a_late_device},
        {"opened again", opened_again},
        {"agreeing while messages leave", agreeing_while_messages_leave},
        {"chosen by the device", chosen_by_the_device},
        {"waits end with the deadline", waits_end_with_the_deadline},
        CU_TEST_INFO_NULL,
    };
    CU_TestInfo failing[] = {{"a copy fails", a_copy_fails}, CU_TEST_INFO_NULL};
    bool fails = argc > 1 && !strcmp(argv[1], "fail");
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    if (cpu_device_open(PRECISION_F32, 1, NULL, &cpu) != STATUS_OK) return 1;
    if (apart_device_open((size_t)512 << 20, &apart) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "transport", fails ? failing : tests);
    apart->ops->close(apart);
    cpu->ops->close(cpu);
    comm_close(ranks);
    return code;
}
