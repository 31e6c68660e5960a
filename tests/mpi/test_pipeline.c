/* tests/mpi/test_pipeline.c: messages from stage to stage, and replies to the first. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/pipeline.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"

static comm *ranks;
static device *dev;

/* A message of the test: its size and all its bytes follow from its number. */
typedef struct sizes {
    size_t n_header_bytes, n_x_floats, n_reply_bytes;
} sizes;

static const pipeline_sizes limits = {
    .header_bytes = 3000, .x_floats = 40000, .reply_bytes = 2000, .n_replies = 5};

static sizes sizes_of(int number) {
    uint64_t state = 1000 + (uint64_t)number;
    sizes s = {
        .n_header_bytes = 4 + harness_random(&state) % (limits.header_bytes - 3),
        .n_x_floats = harness_random(&state) % (harness_random(&state) % 2 ? limits.x_floats + 1 : 100),
        .n_reply_bytes = 4 + harness_random(&state) % (limits.reply_bytes - 3),
    };
    if (number % 7 == 0) s.n_x_floats = 0;
    if (number == 3) s = (sizes){limits.header_bytes, limits.x_floats, limits.reply_bytes};
    return s;
}

static void write_bytes(char *bytes, size_t n, int number, int kind) {
    memcpy(bytes, &number, sizeof number);
    for (size_t i = sizeof number; i < n; i++)
        bytes[i] = (char)((unsigned)number * 31u + (unsigned)kind * 7u + (unsigned)i);
}

static bool check_bytes(const char *bytes, size_t n, int number, int kind) {
    char *expected = mem_new(n, 1);
    write_bytes(expected, n, number, kind);
    bool same = memcmp(expected, bytes, n) == 0;
    free(expected);
    return same;
}

/* Each stage adds one to every number. */
static float x_value(int number, size_t i, int stage) {
    return (float)((number * 13 + (int)(i % 1000)) % 4096 + stage);
}

static bool is_last(void) {
    return comm_rank(ranks) == comm_size(ranks) - 1;
}

static pipeline *open_pipeline(const pipeline_sizes *most) {
    pipeline *p = NULL;
    CHECK_OK(pipeline_open(ranks, dev, most, TRANSPORT_AUTO, &p));
    return p;
}

/* Now and then a stage is slow. */
static void dawdle(uint64_t *state) {
    if (harness_random(state) % 20 == 0) usleep((useconds_t)(harness_random(state) % 3000));
}

/* What every stage does with a message: look at it, change it, reply on the last stage, send it on. */
static void pass_on(pipeline *p, pipeline_slot *slot, int number, uint64_t *state) {
    sizes s = sizes_of(number);
    int stage = comm_rank(ranks);
    CU_ASSERT(slot->n_header_bytes == s.n_header_bytes && slot->n_x_floats == s.n_x_floats);
    CU_ASSERT(check_bytes(slot->header, s.n_header_bytes, number, 0));
    size_t n_wrong = 0;
    for (size_t i = 0; i < s.n_x_floats; i++) {
        n_wrong += slot->x[i] != x_value(number, i, stage);
        slot->x[i] += 1;
    }
    CU_ASSERT(n_wrong == 0);
    dawdle(state);
    if (is_last()) {
        char *reply = mem_new(s.n_reply_bytes, 1);
        write_bytes(reply, s.n_reply_bytes, number, 1);
        pipeline_reply(p, reply, s.n_reply_bytes);
        free(reply);
    }
    pipeline_forward(p, slot);
}

static void begin_message(pipeline *p, int number, uint64_t *state) {
    sizes s = sizes_of(number);
    pipeline_slot *slot = pipeline_begin(p);
    slot->n_header_bytes = s.n_header_bytes;
    slot->n_x_floats = s.n_x_floats;
    write_bytes(slot->header, s.n_header_bytes, number, 0);
    for (size_t i = 0; i < s.n_x_floats; i++)
        slot->x[i] = x_value(number, i, 0);
    pass_on(p, slot, number, state);
}

/* Stage 0 sends n messages, as many at once as replies may be on their way, and takes all replies. */
static void run_stage_0(pipeline *p, int n, uint64_t *state) {
    int n_sent = 0, n_taken = 0;
    while (n_taken < n) {
        bool room = n_sent < n && n_sent - n_taken < limits.n_replies;
        const void *reply = n_sent > n_taken ? pipeline_take_reply(p, !room) : NULL;
        CU_ASSERT(room || reply != NULL);
        if (reply) {
            CU_ASSERT(check_bytes(reply, sizes_of(n_taken).n_reply_bytes, n_taken, 1));
            n_taken++;
        } else {
            begin_message(p, n_sent++, state);
        }
    }
    CU_ASSERT(pipeline_take_reply(p, false) == NULL);
}

static bool always(const void *context) {
    (void)context;
    return true;
}

/* Odd ones by whoever has something else to do all the time. */
static pipeline_slot *receive(pipeline *p, int number) {
    pipeline_slot *slot = NULL;
    if (number % 2 == 0) return pipeline_receive(p);
    while (!slot)
        slot = pipeline_receive_or(p, always, NULL);
    return slot;
}

static void run_messages(pipeline *p, int n) {
    uint64_t state = 77 + (uint64_t)comm_rank(ranks);
    if (comm_rank(ranks) == 0) {
        run_stage_0(p, n, &state);
        return;
    }
    for (int number = 0; number < n; number++)
        pass_on(p, receive(p, number), number, &state);
}

/* ---- tests ---- */

static void messages_arrive_in_order_and_intact(void) {
    enum { N = 600 };
    pipeline *p = open_pipeline(&limits);
    run_messages(p, N);
    pipeline_stats stats = pipeline_get_stats(p);
    double bytes = 0;
    for (int i = 0; i < N && !is_last(); i++)
        bytes += (double)(sizes_of(i).n_header_bytes + sizes_of(i).n_x_floats * sizeof(float));
    CU_ASSERT(stats.bytes_sent == bytes && stats.n_messages == (is_last() ? 0 : N));
    CU_ASSERT(stats.receive_wait >= 0 && stats.send_wait >= 0 && stats.reply_wait >= 0);
    pipeline_close(p);
}

/* The ranks may agree on other things while a pipeline is open, and open one after the other. */
static void opened_again(void) {
    for (int round = 0; round < 4; round++) {
        pipeline *p = open_pipeline(&limits);
        for (int i = 0; i < 200; i++) {
            CU_ASSERT(comm_min(ranks, comm_rank(ranks)) == 0);
            comm_barrier(ranks);
        }
        run_messages(p, 3 * round);
        int value = comm_rank(ranks);
        comm_broadcast(ranks, &value, sizeof value, 0);
        CU_ASSERT(value == 0);
        pipeline_close(p);
    }
    pipeline_close(NULL);
    CU_ASSERT(pipeline_device_bytes(&limits) == PIPELINE_SLOTS * limits.x_floats * sizeof(float));
}

static void refused_by_one_rank(void) {
    pipeline_sizes huge = limits;
    pipeline *p = NULL;
    if (is_last()) huge.x_floats = (size_t)1 << 50;
    status st = pipeline_open(ranks, dev, &huge, TRANSPORT_AUTO, &p);
    CU_ASSERT(st == STATUS_FAILED && p == NULL &&
              strstr(status_text(), "activations between stages") != NULL);
    char who[32];
    snprintf(who, sizeof who, "rank %d on", comm_size(ranks) - 1);
    CU_ASSERT((strstr(status_text(), who) != NULL) == (comm_size(ranks) > 1));
}

static void too_large_for_mpi(void) {
    pipeline_sizes large = limits;
    pipeline *p = NULL;
    large.reply_bytes = (size_t)1 << 31;
    if (comm_size(ranks) > 1)
        CHECK_REFUSED(pipeline_open(ranks, dev, &large, TRANSPORT_AUTO, &p), "lower --chunk-tokens");
    CU_ASSERT(p == NULL);
}

/* Large messages through stages that each take a while: the time is near that of a pipeline, (n + P - 1)
 * steps, and far from n * P. Sleeping stages leave the processors to MPI, as many fewer processors than ranks
 * would not. */
static double time_slow_stages(int n, double step_seconds, size_t x_floats) {
    const pipeline_sizes large = {.header_bytes = 8, .x_floats = x_floats, .reply_bytes = 4, .n_replies = 5};
    pipeline *p = open_pipeline(&large);
    int n_sent = 0, n_taken = 0, stage = comm_rank(ranks),
        in_flight = comm_size(ranks) == 1 ? 1 : large.n_replies;
    comm_barrier(ranks);
    double begin = clock_seconds();
    while (stage == 0 ? n_taken < n : n_sent < n) {
        if (stage == 0 && n_sent > n_taken &&
            pipeline_take_reply(p, n_sent == n || n_sent - n_taken == in_flight)) {
            n_taken++;
            continue;
        }
        pipeline_slot *slot = stage == 0 ? pipeline_begin(p) : pipeline_receive(p);
        slot->n_header_bytes = 8;
        slot->n_x_floats = x_floats;
        usleep((useconds_t)(step_seconds * 1e6));
        if (is_last()) pipeline_reply(p, &n_sent, sizeof n_sent);
        pipeline_forward(p, slot);
        n_sent++;
    }
    double seconds = clock_seconds() - begin;
    comm_barrier(ranks);
    pipeline_close(p);
    return seconds;
}

static void transfers_overlap_with_compute(void) {
    enum { N = 16 };
    const double step = 0.03;
    int P = comm_size(ranks);
    double bound = (N + P - 1) * step, sum = N * P * step, best = sum * 10;
    for (int attempt = 0; attempt < 6; attempt++) { /* other programs may take the processors for a moment */
        double seconds = time_slow_stages(N, step, (size_t)2 << 20);
        comm_broadcast(ranks, &seconds, sizeof seconds, 0);
        if (seconds < best) best = seconds;
        if (best < bound + 0.4 * (sum - bound)) break;
    }
    if (comm_rank(ranks) == 0)
        printf("%d messages of 8 MiB, stages of %.0f ms: %.3f s; a pipeline's bound %.3f s, one after the "
               "other %.3f s\n",
               N, 1e3 * step, best, bound, sum);
    CU_ASSERT(best >= 0.99 * bound);
    /* Ranks that share a processor copy in each other's time: then the figures are for people only. */
    bool has_own_processors =
        comm_processors(ranks) * comm_node_size(ranks) <= (int)sysconf(_SC_NPROCESSORS_ONLN);
    CU_ASSERT(P == 1 || !has_own_processors || best < bound + 0.4 * (sum - bound));
}

/* ---- a rank that is lost ---- */

static jmp_buf after_death;
static char last_words[STATUS_TEXT_BYTES];

static void note_death(const char *text) {
    snprintf(last_words, sizeof last_words, "%s", text);
    longjmp(after_death, 1);
}

/* Nobody sends: every rank gives up when the deadline is over. The last test, as ranks do not die in others
 * so. */
static void waits_end_with_the_deadline(void) {
    if (comm_size(ranks) == 1) {
        pipeline *alone = open_pipeline(&limits);
        CU_ASSERT(pipeline_take_reply(alone, true) == NULL);
        pipeline_close(alone);
        return;
    }
    static pipeline *p;
    static double begin;
    p = open_pipeline(&limits);
    comm_barrier(ranks);
    begin = clock_seconds();
    comm_set_deadline(ranks, 0.5);
    status_set_die_hook(note_death);
    if (setjmp(after_death) == 0) {
        if (comm_rank(ranks) == 0)
            pipeline_take_reply(p, true);
        else
            pipeline_receive(p);
    }
    double seconds = clock_seconds() - begin;
    CU_ASSERT(seconds >= 0.5 && seconds < 3);
    const char *what =
        comm_rank(ranks) == 0 ? "a reply from the last stage" : "a message from the stage before";
    CU_ASSERT(strstr(last_words, what) && strstr(last_words, "lost or hangs"));
    status_set_die_hook(NULL);
    comm_set_deadline(ranks, COMM_DEADLINE_SECONDS);
    comm_barrier(ranks);
    pipeline_close(p);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"messages arrive in order and intact", messages_arrive_in_order_and_intact},
        {"opened again", opened_again},
        {"refused by one rank", refused_by_one_rank},
        {"too large for MPI", too_large_for_mpi},
        {"transfers overlap with compute", transfers_overlap_with_compute},
        {"waits end with the deadline", waits_end_with_the_deadline},
        CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    if (cpu_device_open(PRECISION_F32, 1, NULL, &dev) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "pipeline", tests);
    dev->ops->close(dev);
    comm_close(ranks);
    return code;
}
