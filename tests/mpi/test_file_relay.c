/* tests/mpi/test_file_relay.c: files of ranks that see them, read by those that do not: every byte, from many
 * threads at once, with refusals and files larger than a message. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/file_relay.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"

static comm *ranks;

/* A file that nobody wrote: "f7" has 7 MiB and a few bytes, which follow from their places. */
static int64_t size_of(int file) {
    return ((int64_t)file << 20) + 13 * file;
}

static unsigned char byte_of(int file, int64_t at) {
    return (unsigned char)(at * 7 + (at >> 12) + file);
}

static atomic_int n_read; /* on this rank */

static status read_made(void *context, const char *name, int64_t offset, void *out, size_t n,
                        int64_t *file_bytes) {
    const int file = atoi(name + 1);
    CU_ASSERT(context == &n_read && name[0] == 'f');
    atomic_fetch_add(&n_read, 1);
    if (file == 9) return status_refuse("%s: there is no such file", name);
    *file_bytes = size_of(file);
    if (offset + (int64_t)n > size_of(file)) return status_fail("%s: it ends before", name);
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)out)[i] = byte_of(file, offset + (int64_t)i);
    return STATUS_OK;
}

static const file_relay_source made = {read_made, &n_read};

static void check_read(file_relay *r, int file, int64_t offset, size_t n) {
    char name[8] = {'f', (char)('0' + file)};
    unsigned char *bytes = mem_new(n + 1, 1);
    int64_t n_bytes = 0;
    size_t n_wrong = 0;
    bytes[n] = 77;
    CHECK_OK(file_relay_read(r, name, offset, bytes, n, &n_bytes));
    for (size_t i = 0; i < n; i++)
        n_wrong += bytes[i] != byte_of(file, offset + (int64_t)i);
    CU_ASSERT(n_wrong == 0 && bytes[n] == 77 && n_bytes == size_of(file));
    free(bytes);
}

static void check_refusals(file_relay *r, int reader) {
    char text[32], byte;
    int64_t n_bytes;
    snprintf(text, sizeof text, "read by rank %d: f9: there is no", reader);
    CHECK_REFUSED(file_relay_read(r, "f9", 0, &byte, 1, &n_bytes), text);
    CHECK_REFUSED(file_relay_read(r, "f9", 0, NULL, 0, &n_bytes), text);
    CU_ASSERT(file_relay_read(r, "f1", size_of(1), &byte, 1, &n_bytes) == STATUS_FAILED &&
              strstr(status_text(), "f1: it ends before"));
    check_read(r, 1, size_of(1) - 1, 1);
}

static void *read_much(void *relay) {
    uint64_t state = (uint64_t)(uintptr_t)&state;
    for (int i = 0; i < 40; i++) {
        const int file = (int)(harness_random(&state) % 4);
        const int64_t offset = file ? (int64_t)(harness_random(&state) % (uint64_t)size_of(file)) : 0;
        const uint64_t left = (uint64_t)(size_of(file) - offset);
        check_read(relay, file, offset, (size_t)(harness_random(&state) % (left < 50000 ? left + 1 : 50000)));
    }
    return NULL;
}

static bool sees(unsigned mask, int rank) {
    return mask >> rank & 1;
}

static void check_rank(file_relay *r, unsigned mask) {
    enum { N_THREADS = 5 };
    const int mine = file_relay_reader(r, comm_rank(ranks));
    pthread_t threads[N_THREADS];
    CU_ASSERT(sees(mask, mine));
    if (sees(mask, comm_rank(ranks))) {
        CU_ASSERT(mine == comm_rank(ranks));
        return;
    }
    check_read(r, 3, 0, (size_t)size_of(3));
    check_read(r, 0, 0, 0);
    check_refusals(r, mine);
    for (int i = 0; i < N_THREADS; i++)
        CU_ASSERT(pthread_create(&threads[i], NULL, read_much, r) == 0);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
}

/* Whoever sees the files reads them, and only for those that do not. */
static void every_set(void) {
    const int n = comm_size(ranks);
    for (unsigned mask = 1; mask + 1 < 1U << n; mask++) {
        file_relay *r = NULL;
        int readers[16] = {0}, n_turns = 0, n_seeing = __builtin_popcount(mask);
        atomic_store(&n_read, 0);
        CHECK_OK(file_relay_open(ranks, sees(mask, comm_rank(ranks)), &made, &r));
        if (!r) continue;
        check_rank(r, mask);
        for (int rank = 0; rank < n; rank++)
            readers[file_relay_reader(r, rank)]++;
        for (int rank = 0; rank < n; rank++)
            n_turns += readers[rank] > (n - n_seeing + n_seeing - 1) / n_seeing + 1;
        CU_ASSERT(n_turns == 0); /* they take turns */
        file_relay_close(r);
        CU_ASSERT((atomic_load(&n_read) > 0) ==
                  (sees(mask, comm_rank(ranks)) && readers[comm_rank(ranks)] > 1));
    }
}

static void not_needed(void) {
    file_relay *r = (file_relay *)&made;
    CHECK_OK(file_relay_open(ranks, true, &made, &r));
    CU_ASSERT(r == NULL);
    CHECK_OK(file_relay_open(ranks, false, &made, &r));
    CU_ASSERT(r == NULL);
    file_relay_close(NULL);
}

/* Of two at once, each has its own questions; and nobody need ask. */
static void two_at_once(void) {
    const bool mine = comm_rank(ranks) == 0;
    file_relay *one = NULL, *two = NULL;
    CHECK_OK(file_relay_open(ranks, mine, &made, &one));
    CHECK_OK(file_relay_open(ranks, mine, &made, &two));
    if (!mine) check_read(one, 2, 1000, 2000);
    if (!mine) check_read(two, 1, 1000, 2000);
    file_relay_close(one);
    if (!mine) check_read(two, 1, 0, 10);
    file_relay_close(two);
    CHECK_OK(file_relay_open(ranks, mine, &made, &one));
    file_relay_close(one);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"not needed", not_needed},
                           {"every set", every_set},
                           {"two at once", two_at_once},
                           CU_TEST_INFO_NULL};
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "file relay", tests);
    comm_close(ranks);
    return code;
}
