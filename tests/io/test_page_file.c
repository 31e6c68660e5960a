/* tests/io/test_page_file.c: records of a page file, of every engine: all that may be begun in any order. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/tier/page_file_private.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/page_records.h"

/* ---- open ---- */

static void test_refused(void) {
    const char *dir = harness_fresh_dir();
    page_file *f = NULL;
    char path[200];
    snprintf(path, sizeof path, "%s/absent", dir);
    CHECK_REFUSED(page_file_open(path, 1 << 20, 4096, 8, PAGE_FILE_IO_URING, &f),
                  "No such file or directory");
    snprintf(path, sizeof path, "%s/file", dir);
    harness_write_file(path, "", 0);
    CHECK_REFUSED(page_file_open(path, 1 << 20, 4096, 8, PAGE_FILE_IO_URING, &f), "Not a directory");
    unlink(path);
    CHECK_REFUSED(page_file_open(dir, 8191, 5000, 8, PAGE_FILE_IO_URING, &f),
                  "8191 bytes hold no KV page: one takes 8192");
    CHECK_REFUSED(page_file_open(dir, 0, 1, 8, PAGE_FILE_IO_URING, &f), "0 bytes hold no KV page");
    CHECK_REFUSED(page_file_open(dir, -5, 1, 8, PAGE_FILE_IO_URING, &f), "-5 bytes hold no KV page");
    CHECK_REFUSED(page_file_open(dir, INT64_MAX, 1 << 20, 8, PAGE_FILE_IO_URING, &f), "File too large");
    struct rlimit old;
    CU_ASSERT(getrlimit(RLIMIT_FSIZE, &old) == 0);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 1 << 20, .rlim_max = old.rlim_max});
    CHECK_REFUSED(page_file_open(dir, (1 << 20) + 4096, 4096, 8, PAGE_FILE_IO_URING, &f), "ulimit");
    if (CHECK_OK(page_file_open(dir, 1 << 20, 4096, 8, PAGE_FILE_IO_URING, &f))) page_file_close(f, patience);
    setrlimit(RLIMIT_FSIZE, &old);
    f = NULL;
    const bool is_root = geteuid() == 0;
    CU_ASSERT(chmod(dir, 0555) == 0 &&
              (!is_root || (chmod(harness_temp_dir(), 0755) == 0 && seteuid(65534) == 0)));
    CHECK_REFUSED(page_file_open(dir, 1 << 20, 4096, 8, PAGE_FILE_IO_URING, &f), "Permission denied");
    CU_ASSERT(!is_root || seteuid(0) == 0);
    CU_ASSERT(f == NULL && count_files(dir) == 0);
    page_file_close(NULL, 0);
}

/* Where no ring can be had, threads do its work and say why. */
static void test_fallback(void) {
    const char *dir = harness_fresh_dir();
    int next = open("/dev/null", O_RDONLY);
    struct rlimit old;
    CU_ASSERT(getrlimit(RLIMIT_NOFILE, &old) == 0 && close(next) == 0);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = (rlim_t)next + 1, .rlim_max = old.rlim_max});
    page_file *f = NULL;
    status st = page_file_open(dir, 1 << 20, 4096, 8, PAGE_FILE_IO_URING, &f);
    setrlimit(RLIMIT_NOFILE, &old);
    if (!CHECK_OK(st)) return;
    const char *text = page_file_engine_text(f);
    CU_ASSERT(!strcmp(text, "threads (io_uring: Too many open files)") ||
              !strcmp(text, "threads (io_uring: not in this build)"));
    char *buffer = page_file_new_buffer(f);
    int record = page_file_take(f);
    CHECK_OK(write_now(f, record, buffer, 5));
    CU_ASSERT(holds(f, record, buffer, 5));
    free(buffer);
    page_file_close(f, patience);
}

/* Not even when it is killed. */
static void check_leaves_nothing(page_file_engine engine) {
    const char *dir = harness_fresh_dir();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        page_file *f = NULL;
        if (page_file_open(dir, 64 << 20, 1 << 20, 4, engine, &f) != STATUS_OK) _exit(1);
        char *buffer = page_file_new_buffer(f);
        if (count_files(dir) != 0 || write_now(f, page_file_take(f), buffer, 1) != STATUS_OK) _exit(2);
        for (int record; (record = page_file_take(f)) >= 0;)
            page_file_begin_write(f, record, buffer);
        kill(getpid(), SIGKILL);
    }
    int how = 0;
    CU_ASSERT(waitpid(child, &how, 0) == child && WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    CU_ASSERT_EQUAL(count_files(dir), 0);
}

static void test_leaves_nothing(void) {
    with_each_engine(check_leaves_nothing);
}

/* ---- records ---- */

static int by_number(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

static void test_numbers(void) {
    enum { N = 300 };
    record_numbers numbers = {.n_all = N};
    int free_ones[N], n_free = 0;
    uint64_t seed = 11;
    for (int i = 0; i < N; i++)
        CU_ASSERT_EQUAL(record_numbers_take(&numbers), i);
    CU_ASSERT_EQUAL(record_numbers_take(&numbers), -1);
    bool is_free[N] = {0};
    for (int round = 0; round < 20000; round++) {
        const bool more = harness_random(&seed) % 1000 < (uint64_t)(round / 2000 % 2 ? 300 : 700);
        if (more) {
            int number = (int)(harness_random(&seed) % N);
            if (is_free[number]) continue;
            record_numbers_give_back(&numbers, number);
            is_free[number] = true;
            free_ones[n_free++] = number;
            continue;
        }
        qsort(free_ones, (size_t)n_free, sizeof *free_ones, by_number);
        const int expected = n_free ? free_ones[0] : -1, got = record_numbers_take(&numbers);
        CU_ASSERT_EQUAL(got, expected);
        if (got < 0 || got != expected) continue;
        is_free[got] = false;
        memmove(free_ones, free_ones + 1, (size_t)--n_free * sizeof *free_ones);
    }
    record_numbers_release(&numbers);
}

static void check_cap(page_file_engine engine) {
    const char *dir = harness_fresh_dir();
    const int64_t cap = 10 * 65536 + 65535;
    page_file *f = open_with(engine, dir, cap, 65000, 4);
    if (!f) return;
    CU_ASSERT(page_file_buffer_bytes(f) == 65536 && page_file_count_records(f) == 10);
    char *buffer = page_file_new_buffer(f);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 10; i++) {
            CU_ASSERT_EQUAL(page_file_take(f), i);
            CHECK_OK(write_now(f, i, buffer, (uint64_t)i));
        }
        CU_ASSERT_EQUAL(page_file_take(f), -1);
        for (int i = 9; i >= 0; i--)
            page_file_give_back(f, i);
    }
    struct stat info;
    CU_ASSERT(fstat(find_file(dir), &info) == 0 && info.st_size <= cap);
    CU_ASSERT(info.st_blocks * 512 >= 10 * 65536 && info.st_blocks * 512 <= cap);
    const page_file_figures figures = page_file_measure(f);
    CU_ASSERT(figures.written.n_moved == 30 && figures.written.bytes == 30 * 65536 &&
              figures.read.n_moved == 0);
    CU_ASSERT(figures.written.seconds > 0 && figures.read.seconds == 0);
    CU_ASSERT(figures.waited_seconds >= figures.written.seconds * 0.5);
    free(buffer);
    page_file_close(f, patience);
}

static void test_cap(void) {
    with_each_engine(check_cap);
}

/* ---- histories ---- */

enum { MOST_BEGUN = 48 };

typedef struct begun {
    page_file_ticket ticket;
    char *buffer;
    bool is_write;
    uint64_t seed; /* of what is written, or must be read */
} begun;

/* What the file should hold. */
typedef struct history {
    page_file *f;
    uint64_t random, last_seed;
    uint64_t *seeds; /* of each record as of the requests begun; 0: nothing was written */
    bool *is_taken;
    begun begun[MOST_BEGUN];
    int n_begun, n_wrong;
} history;

static int below(history *h, int n) {
    return (int)(harness_random(&h->random) % (uint64_t)n);
}

static void end_one(history *h) {
    const int i = below(h, h->n_begun);
    begun *b = &h->begun[i];
    if (below(h, 2))
        while (!page_file_test(h->f, b->ticket))
            usleep(50);
    h->n_wrong += page_file_wait(h->f, b->ticket, patience) != STATUS_OK ||
                  !page_file_test(h->f, b->ticket) ||
                  !is_filled(b->buffer, page_file_buffer_bytes(h->f), b->seed);
    begun last = h->begun[--h->n_begun];
    h->begun[h->n_begun] = *b;
    h->begun[i] = last;
}

static void begin_one(history *h, int record, bool is_write) {
    if (h->n_begun == MOST_BEGUN) end_one(h);
    begun *b = &h->begun[h->n_begun++];
    if (!b->buffer) b->buffer = page_file_new_buffer(h->f);
    b->is_write = is_write;
    if (is_write) {
        b->seed = h->seeds[record] = ++h->last_seed;
        fill(b->buffer, page_file_buffer_bytes(h->f), b->seed);
        b->ticket = page_file_begin_write(h->f, record, b->buffer);
    } else {
        b->seed = h->seeds[record];
        memset(b->buffer, 0xEE, page_file_buffer_bytes(h->f));
        b->ticket = page_file_begin_read(h->f, record, b->buffer);
    }
}

static void go_on(history *h, int n_records, int n_steps) {
    for (int step = 0; step < n_steps; step++) {
        const int what = below(h, 10), record = below(h, n_records);
        if (what < 2) {
            const int got = page_file_take(h->f);
            int expected = 0;
            while (expected < n_records && h->is_taken[expected])
                expected++;
            CU_ASSERT_EQUAL(got, expected == n_records ? -1 : expected);
            if (got >= 0) h->is_taken[got] = true;
        } else if (what == 2 && h->is_taken[record]) {
            page_file_give_back(h->f, record);
            h->is_taken[record] = false;
            h->seeds[record] = 0;
        } else if (what < 6 && h->is_taken[record]) {
            begin_one(h, record, true);
        } else if (what < 9 && h->is_taken[record] && h->seeds[record]) {
            begin_one(h, record, false);
        } else if (h->n_begun > 0) {
            end_one(h);
        }
    }
}

static void run_history(page_file_engine engine, const char *dir, size_t record_bytes, int depth,
                        int n_steps) {
    enum { N_RECORDS = 24 };
    const size_t buffer_bytes =
        (record_bytes + PAGE_FILE_ALIGNMENT - 1) / PAGE_FILE_ALIGNMENT * PAGE_FILE_ALIGNMENT;
    page_file *f = open_with(engine, dir, (int64_t)(N_RECORDS * buffer_bytes), record_bytes, depth);
    if (!f) return;
    history h = {.f = f, .random = record_bytes + (uint64_t)depth};
    h.seeds = mem_new(N_RECORDS, sizeof *h.seeds);
    h.is_taken = mem_new(N_RECORDS, sizeof *h.is_taken);
    go_on(&h, N_RECORDS, n_steps);
    while (h.n_begun > 0)
        end_one(&h);
    CU_ASSERT_EQUAL(h.n_wrong, 0);
    const page_file_figures figures = page_file_measure(f);
    CU_ASSERT(figures.written.n_failed == 0 && figures.read.n_failed == 0 && figures.read.n_moved > 0);
    for (int i = 0; i < MOST_BEGUN; i++)
        free(h.begun[i].buffer);
    free(h.seeds);
    free(h.is_taken);
    page_file_close(f, patience);
}

static void check_histories(page_file_engine engine) {
    const char *dir = harness_fresh_dir();
    const int n_steps = harness_is_slow() ? 800 : 3000;
    run_history(engine, dir, 4096, 1, n_steps);
    run_history(engine, dir, 5000, 3, n_steps);
    run_history(engine, dir, 65536, 32, n_steps);
    run_history(engine, dir, 1 << 20, 8, n_steps / 5);
}

static void test_histories(void) {
    with_each_engine(check_histories);
}

/* In memory, where the system has such a place, and where it takes no direct IO. */
static void check_in_memory(page_file_engine engine) {
    char shm[] = "/dev/shm/kvarve-test-XXXXXX";
    if (mkdtemp(shm)) {
        run_history(engine, shm, 5000, 8, 1000);
        CU_ASSERT(rmdir(shm) == 0);
    }
    const char *dir = harness_fresh_dir();
    if (!mount_small(dir, "ramfs", 0, NULL)) return;
    page_file *f = open_with(engine, dir, 1 << 20, 4096, 4);
    if (f) {
        CU_ASSERT(!page_file_is_direct(f));
        page_file_close(f, patience);
        run_history(engine, dir, 5000, 8, 1000);
    }
    CU_ASSERT(umount2(dir, 0) == 0);
}

static void test_in_memory(void) {
    with_each_engine(check_in_memory);
}

/* Direct, where a file of this directory can be opened so. */
static void test_direct(void) {
    const char *dir = harness_fresh_dir();
    char path[200];
    snprintf(path, sizeof path, "%s/file", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    page_file *f = open_with(PAGE_FILE_THREADS, dir, 1 << 20, 4096, 4);
    if (!f) return;
    CU_ASSERT_EQUAL(page_file_is_direct(f), fd >= 0);
    CU_ASSERT_EQUAL((fcntl(find_file(dir), F_GETFL) & O_DIRECT) != 0, fd >= 0);
    if (fd >= 0) close(fd);
    page_file_close(f, patience);
}

/* ---- order ---- */

/* One record, written and read again and again without a wait. */
static void check_order(page_file_engine engine) {
    enum { N = 100 };
    page_file *f = open_with(engine, harness_fresh_dir(), 1 << 20, 4096, 16);
    if (!f) return;
    const int record = page_file_take(f), other = page_file_take(f);
    begun all[3 * N];
    for (int i = 0; i < 3 * N; i++) {
        begun *b = &all[i];
        b->buffer = page_file_new_buffer(f);
        b->seed = (uint64_t)(i / 3);
        fill(b->buffer, 4096, i % 3 ? 0 : b->seed);
        if (i % 3 == 0) b->ticket = page_file_begin_write(f, record, b->buffer);
        if (i % 3 == 1) b->ticket = page_file_begin_write(f, other, b->buffer);
        if (i % 3 == 2) b->ticket = page_file_begin_read(f, record, b->buffer);
    }
    for (int i = 3 * N - 1; i >= 0; i--) {
        CHECK_OK(page_file_wait(f, all[i].ticket, patience));
        CU_ASSERT(i % 3 != 2 || is_filled(all[i].buffer, 4096, all[i].seed));
        free(all[i].buffer);
    }
    page_file_close(f, patience);
}

static void test_order(void) {
    with_each_engine(check_order);
}

/* Many more than are under way at once; and to begin them waits for nothing. */
static void check_overflow(page_file_engine engine) {
    enum { N = 1000 };
    page_file *f = open_with(engine, harness_fresh_dir(), N * 4096, 4096, 2);
    if (!f) return;
    page_file_ticket tickets[N];
    char *buffers[N];
    for (int i = 0; i < N; i++) {
        buffers[i] = page_file_new_buffer(f);
        fill(buffers[i], 4096, (uint64_t)i);
    }
    CHECK_OK(fault_arm("page-file-write:0:slow", 0));
    const double start = clock_seconds();
    for (int i = 0; i < N; i++)
        tickets[i] = page_file_begin_write(f, page_file_take(f), buffers[i]);
    CU_ASSERT(clock_seconds() - start < 1 && !page_file_test(f, tickets[N - 1]));
    for (int i = 0; i < N; i++)
        CHECK_OK(page_file_wait(f, tickets[i], patience));
    CHECK_OK(fault_arm(NULL, 0));
    for (int i = 0; i < N; i++)
        tickets[i] = page_file_begin_read(f, i, memset(buffers[i], 0, 4096));
    for (int i = 0; i < N; i++) {
        CHECK_OK(page_file_wait(f, tickets[i], patience));
        CU_ASSERT(is_filled(buffers[i], 4096, (uint64_t)i));
        free(buffers[i]);
    }
    page_file_close(f, patience);
}

static void test_overflow(void) {
    with_each_engine(check_overflow);
}

/* A wait ends at its deadline, and may be begun again; a close drops what has not begun. */
static void check_late(page_file_engine engine) {
    page_file *f = open_with(engine, harness_fresh_dir(), 1 << 20, 4096, 1);
    if (!f) return;
    char *buffer = page_file_new_buffer(f), *other = page_file_new_buffer(f);
    const int record = page_file_take(f);
    CHECK_OK(write_now(f, record, buffer, 1));
    CHECK_OK(fault_arm("page-file-read:0:slow", 0));
    memset(buffer, 0, 4096);
    page_file_ticket ticket = page_file_begin_read(f, record, buffer);
    const double start = clock_seconds();
    check_failed(page_file_wait(f, ticket, 0.2), "KV page 0 in /");
    CU_ASSERT(strstr(status_text(), "not read after 0.2 s") != NULL && !page_file_test(f, ticket));
    CU_ASSERT(clock_seconds() - start > 0.19 && clock_seconds() - start < 1.5);
    CHECK_OK(page_file_wait(f, ticket, patience));
    CU_ASSERT(page_file_test(f, ticket) && is_filled(buffer, 4096, 1));
    CHECK_OK(fault_arm("page-file-read:0:slow", 0));
    page_file_begin_read(f, record, buffer);
    usleep(100 * 1000);
    for (int i = 0; i < 5; i++)
        page_file_begin_read(f, record, memset(other, 0, 4096));
    page_file_close(f, patience);
    CU_ASSERT(is_filled(buffer, 4096, 1) && other[0] == 0 && !memcmp(other, other + 1, 4095));
    CHECK_OK(fault_arm(NULL, 0));
    free(buffer);
    free(other);
}

/* At any moment: with nothing begun, and with all of it, or some, under way or over. */
static void check_closes(page_file_engine engine) {
    const char *dir = harness_fresh_dir();
    for (int round = 0; round < 200; round++) {
        page_file *f = open_with(engine, dir, 1 << 20, 4096, 4);
        if (!f) return;
        char *buffer = page_file_new_buffer(f);
        for (int i = 0; i < round % 6; i++)
            page_file_begin_write(f, page_file_take(f), buffer);
        usleep((useconds_t)(round % 7 * 50));
        page_file_close(f, patience);
        free(buffer);
    }
}

static void test_closes(void) {
    with_each_engine(check_closes);
}

static void test_late(void) {
    with_each_engine(check_late);
}

/* A disk that never answers ends the program when the file is closed. */
static void check_hangs(page_file_engine engine) {
    const char *dir = harness_fresh_dir();
    CHECK_OK(fault_arm("page-file-write:0:hang", 0));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        page_file *f = NULL;
        if (freopen("/dev/null", "w", stderr) &&
            page_file_open(dir, 1 << 20, 4096, 4, engine, &f) == STATUS_OK) {
            page_file_begin_write(f, page_file_take(f), page_file_new_buffer(f));
            usleep(200 * 1000);
            page_file_close(f, 0.2);
        }
        _exit(7);
    }
    int how = 0;
    CU_ASSERT(waitpid(child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == EXIT_CODE_FAILED);
    CHECK_OK(fault_arm(NULL, 0));
}

static void test_hangs(void) {
    with_each_engine(check_hangs);
}

/* What the system may say of a request, as the engines take it. */
static void test_advance(void) {
    page_request r = {.is_write = true};
    CU_ASSERT(!page_request_advance(&r, 16384, -EINTR) && r.n_moved == 0);
    CU_ASSERT(!page_request_advance(&r, 16384, 4096) && r.n_moved == 4096);
    CU_ASSERT(!page_request_advance(&r, 16384, 5000) && r.n_moved == 8192); /* to where direct IO can go on */
    CU_ASSERT(!page_request_advance(&r, 16384, -EAGAIN) && r.n_moved == 8192);
    CU_ASSERT(page_request_advance(&r, 16384, 8192) && r.outcome == PAGE_MOVED);
    r = (page_request){.is_write = true};
    CU_ASSERT(page_request_advance(&r, 16384, 100) && r.outcome == PAGE_SHORT && r.n_moved == 100);
    r = (page_request){.is_write = true, .n_moved = 4096};
    CU_ASSERT(page_request_advance(&r, 16384, -EIO) && r.outcome == PAGE_SYSTEM_FAILED && r.error == EIO);
    r = (page_request){.is_write = false};
    int n_again = 0;
    while (!page_request_advance(&r, 16384, -EAGAIN))
        n_again++;
    CU_ASSERT(r.outcome == PAGE_SYSTEM_FAILED && r.error == EAGAIN && n_again == 1000);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"refused", test_refused},     {"fallback", test_fallback}, {"leaves nothing", test_leaves_nothing},
        {"numbers", test_numbers},     {"cap", test_cap},           {"histories", test_histories},
        {"in memory", test_in_memory}, {"direct", test_direct},     {"order", test_order},
        {"overflow", test_overflow},   {"late", test_late},         {"closes", test_closes},
        {"hangs", test_hangs},         {"advance", test_advance},   CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "page file", tests);
}
