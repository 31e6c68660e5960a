/* tests/mpi/test_comm.c: agreement, broadcast, gather and minimum over the ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/comm.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"

static comm *c;

static void test_ranks(void) {
    CU_ASSERT(comm_rank(c) == harness_rank() && comm_size(c) == harness_size());
    CU_ASSERT(comm_node_size(c) >= 1 && comm_node_size(c) <= comm_size(c));
    CU_ASSERT(comm_processors(c) >= 1);
}

static void test_nobody_failed(void) {
    status st = STATUS_OK;
    CU_ASSERT(!comm_any_failed(c, &st) && st == STATUS_OK);
}

/* A text of the rank, so long that what stands before it does not fit. */
static status fail_at_length(int rank, size_t n) {
    char *text = mem_new(n + 1, 1);
    memset(text, 'a' + rank, n);
    status st = rank % 2 ? status_refuse("%s", text) : status_fail("%s", text);
    free(text);
    return st;
}

static void check_failure_of(int rank, status st) {
    char where[32];
    snprintf(where, sizeof where, "rank %d on ", rank);
    CU_ASSERT(st == (rank % 2 ? STATUS_REFUSED : STATUS_FAILED));
    CU_ASSERT((strncmp(status_text(), where, strlen(where)) == 0) == (comm_size(c) > 1));
    CU_ASSERT(strchr(status_text(), 'a' + rank) != NULL && strlen(status_text()) < STATUS_TEXT_BYTES);
    /* The same text everywhere. */
    char mine[STATUS_TEXT_BYTES] = "", first[STATUS_TEXT_BYTES];
    snprintf(mine, sizeof mine, "%s", status_text());
    memcpy(first, mine, sizeof first);
    comm_broadcast(c, first, sizeof first, 0);
    CU_ASSERT(!strcmp(mine, first));
}

static void test_one_failed(void) {
    for (int failed = 0; failed < comm_size(c); failed++) {
        status st = comm_rank(c) == failed ? fail_at_length(failed, 3) : STATUS_OK;
        CU_ASSERT(comm_any_failed(c, &st));
        check_failure_of(failed, st);
    }
}

static void test_several_failed(void) {
    for (int first = 0; first < comm_size(c); first++) {
        status st = comm_rank(c) >= first ? fail_at_length(comm_rank(c), STATUS_TEXT_BYTES) : STATUS_OK;
        CU_ASSERT(comm_any_failed(c, &st));
        check_failure_of(first, st);
    }
}

static void test_fail_after_adoption(void) {
    for (int round = 0; round < 3; round++) {
        status st = comm_rank(c) == 0 && round == 1 ? status_refuse("second") : STATUS_OK;
        CU_ASSERT(comm_any_failed(c, &st) == (round == 1));
        CU_ASSERT(st == (round == 1 ? STATUS_REFUSED : STATUS_OK));
    }
}

static void test_broadcast(void) {
    const size_t sizes[] = {0, 1, 4096, 3000001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int root = 0; root < comm_size(c); root++) {
            char *data = mem_new(sizes[i] + 1, 1), *expected = mem_new(sizes[i] + 1, 1);
            uint64_t state = 7u * i + (uint64_t)root;
            for (size_t k = 0; k < sizes[i]; k++)
                expected[k] = (char)harness_random(&state);
            if (comm_rank(c) == root) memcpy(data, expected, sizes[i]);
            comm_broadcast(c, data, sizes[i], root);
            CU_ASSERT(memcmp(data, expected, sizes[i] + 1) == 0);
            free(data);
            free(expected);
        }
    }
}

static void test_gather(void) {
    enum { N = 5 };
    int mine[N], *all = comm_rank(c) == 0 ? mem_new((size_t)comm_size(c), sizeof mine) : NULL;
    for (int i = 0; i < N; i++)
        mine[i] = 100 * comm_rank(c) + i;
    comm_gather(c, mine, sizeof mine, all);
    for (int i = 0; all && i < N * comm_size(c); i++)
        CU_ASSERT(all[i] == 100 * (i / N) + i % N);
    free(all);
}

static void test_min(void) {
    int rank = comm_rank(c), size = comm_size(c);
    CU_ASSERT(comm_min(c, (int64_t)1 << 40) == (int64_t)1 << 40);
    CU_ASSERT(comm_min(c, INT64_MIN + rank) == INT64_MIN);
    CU_ASSERT(comm_min(c, INT64_MAX - rank) == INT64_MAX - (size - 1));
    for (int least = 0; least < size; least++)
        CU_ASSERT(comm_min(c, rank == least ? -5 : rank) == -5);
    comm_barrier(c);
}

/* By itself, whether MPI runs or not: the same functions, and nobody is waited for. */
static void test_alone(void) {
    comm *alone = comm_open_alone();
    int64_t value = 7, all = 0;
    status st = STATUS_OK;
    CU_ASSERT(comm_rank(alone) == 0 && comm_size(alone) == 1 && comm_node_size(alone) == 1);
    CU_ASSERT(comm_processors(alone) >= 1 && comm_min(alone, -3) == -3);
    comm_broadcast(alone, &value, sizeof value, 0);
    comm_gather(alone, &value, sizeof value, &all);
    comm_barrier(alone);
    CU_ASSERT(value == 7 && all == 7 && !comm_any_failed(alone, &st));
    st = status_refuse("no such file");
    CU_ASSERT(comm_any_failed(alone, &st) && st == STATUS_REFUSED && !strcmp(status_text(), "no such file"));
    comm_close(alone);
    CU_ASSERT(comm_min(c, comm_rank(c)) == 0); /* the ranks are still there */
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"ranks", test_ranks},
        {"nobody failed", test_nobody_failed},
        {"one rank failed", test_one_failed},
        {"several ranks failed, with long texts", test_several_failed},
        {"a failure does not stay", test_fail_after_adoption},
        {"broadcast from each rank", test_broadcast},
        {"gather", test_gather},
        {"minimum", test_min},
        {"a process by itself", test_alone},
        CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &c) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "comm", tests);
    comm_close(NULL);
    comm_close(c);
    return code;
}
