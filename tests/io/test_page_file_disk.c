/* tests/io/test_page_file_disk.c: page files on disks that fail, lose bytes, or are full. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/tier/page_file_private.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/page_records.h"

/* ---- failures ---- */

/* Each costs one request, in the middle of others. */
static void check_one_fails(page_file *f, const char *fault, bool is_write, const char *part) {
    enum { N = 8 };
    page_file_ticket tickets[N];
    char *buffers[N];
    int records[N], n_failed = 0;
    CHECK_OK(fault_arm(fault, 0));
    for (int i = 0; i < N; i++) {
        buffers[i] = page_file_new_buffer(f);
        fill(buffers[i], page_file_buffer_bytes(f), (uint64_t)i);
        records[i] = page_file_take(f);
        tickets[i] = page_file_begin_write(f, records[i], buffers[i]);
    }
    bool is_good[N];
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < N; i++) {
            status st = page_file_wait(f, tickets[i], patience);
            is_good[i] = st == STATUS_OK;
            if (is_good[i]) continue;
            char where[300];
            snprintf(where, sizeof where, "KV page %d in /", records[i]);
            CU_ASSERT((pass == 0) == is_write && strstr(status_text(), where) != NULL);
            check_failed(st, part);
            n_failed++;
        }
        for (int i = 0; i < N && pass == 0; i++) {
            if (!is_good[i]) {
                check_failed(read_now(f, records[i], buffers[i]), "there is nothing to read");
                CHECK_OK(write_now(f, records[i], buffers[i], (uint64_t)i));
            }
            tickets[i] = page_file_begin_read(f, records[i], buffers[i]);
        }
    }
    CU_ASSERT_EQUAL(n_failed, 1);
    for (int i = 0; i < N; i++) {
        CU_ASSERT(holds(f, records[i], buffers[i], (uint64_t)i));
        free(buffers[i]);
        page_file_give_back(f, records[i]);
    }
    CHECK_OK(fault_arm(NULL, 0));
}

static void check_faults(page_file_engine engine) {
    page_file *f = open_with(engine, harness_fresh_dir(), 1 << 20, 20000, 4);
    if (!f) return;
    check_one_fails(f, "page-file-write:0:3fail", true, "cannot be written: No space left on device");
    check_one_fails(f, "page-file-read:0:4fail", false,
                    "the file ends within it: 0 of 20480 bytes could be read");
    check_one_fails(f, "page-file-flip:0:5fail", false, "what was read is not what was written (checksum)");
    check_one_fails(f, "page-file-write:0:3fail", true, "cannot be written: No space left on device");
    const page_file_figures figures = page_file_measure(f);
    CU_ASSERT(figures.written.n_failed == 2 && figures.written.n_moved == 4 * 8);
    CU_ASSERT(figures.read.n_failed == 4 && figures.read.bytes == figures.read.n_moved * 20480);
    char *buffer = page_file_new_buffer(f);
    for (int i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(page_file_take(f), i);
    check_failed(read_now(f, page_file_take(f), buffer), "KV page 8 in /"); /* it never held anything */
    CU_ASSERT(strstr(status_text(), "there is nothing to read") != NULL);
    free(buffer);
    page_file_close(f, patience);
}

static void test_faults(void) {
    with_each_engine(check_faults);
}

/* Every bit counts, but for those behind the record. */
static void check_damage(page_file_engine engine) {
    enum { N = 4, RECORD_BYTES = 10000, BUFFER_BYTES = 12288 };
    const char *dir = harness_fresh_dir();
    page_file *f = open_with(engine, dir, N * BUFFER_BYTES, RECORD_BYTES, 4);
    if (!f) return;
    char path[64], *buffer = page_file_new_buffer(f);
    snprintf(path, sizeof path, "/proc/self/fd/%d", find_file(dir));
    int fd = open(path, O_RDWR);
    CU_ASSERT(fd >= 0);
    for (int i = 0; i < N; i++)
        CHECK_OK(write_now(f, page_file_take(f), buffer, (uint64_t)i));
    static const int at[] = {0, 1, 4095, 4096, RECORD_BYTES - 1};
    for (size_t k = 0; k <= sizeof at / sizeof *at; k++) {
        const bool is_behind = k == sizeof at / sizeof *at;
        const off_t offset = 2 * BUFFER_BYTES + (is_behind ? RECORD_BYTES : at[k]);
        char byte;
        CU_ASSERT(pread(fd, &byte, 1, offset) == 1);
        byte ^= (char)(1 << k);
        CU_ASSERT(pwrite(fd, &byte, 1, offset) == 1);
        if (is_behind)
            CHECK_OK(read_now(f, 2, buffer));
        else
            check_failed(read_now(f, 2, buffer), "KV page 2 in /");
        byte ^= (char)(1 << k);
        CU_ASSERT(pwrite(fd, &byte, 1, offset) == 1);
        CU_ASSERT(holds(f, 2, buffer, 2));
    }
    CU_ASSERT(ftruncate(fd, 2 * BUFFER_BYTES + 5000) == 0);
    check_failed(read_now(f, 2, buffer), "the file ends within it: 5000 of 12288 bytes could be read");
    check_failed(read_now(f, 3, buffer), "the file ends within it: 0 of 12288 bytes could be read");
    CU_ASSERT(holds(f, 1, buffer, 1));
    CHECK_OK(write_now(f, 3, buffer, 3));
    CU_ASSERT(holds(f, 3, buffer, 3));
    close(fd);
    free(buffer);
    page_file_close(f, patience);
}

static void test_damage(void) {
    with_each_engine(check_damage);
}

/* How many of 40 records of 100000 bytes are written, the others failing with `part`; those that are can be
 * read, also after they were written again, and so can what `free_some` makes possible. */
static void fill_up(page_file *f, int n_least, int n_most, const char *part, void (*free_some)(void *),
                    void *context) {
    enum { N = 40 };
    char *buffer = page_file_new_buffer(f);
    bool is_good[N];
    int n_good = 0, first_bad = -1;
    for (int i = 0; i < N; i++) {
        CU_ASSERT_EQUAL(page_file_take(f), i);
        status st = write_now(f, i, buffer, (uint64_t)i);
        is_good[i] = st == STATUS_OK;
        n_good += is_good[i];
        CU_ASSERT(is_filled(buffer, page_file_buffer_bytes(f), (uint64_t)i));
        if (is_good[i]) continue;
        check_failed(st, part);
        if (first_bad < 0) first_bad = i;
    }
    CU_ASSERT(n_good >= n_least && n_good <= n_most);
    for (int i = 0; i < N; i++) {
        if (!is_good[i]) continue;
        CU_ASSERT(holds(f, i, buffer, (uint64_t)i));
        CHECK_OK(write_now(f, i, buffer, (uint64_t)i + N));
        CU_ASSERT(holds(f, i, buffer, (uint64_t)i + N));
    }
    free_some(context);
    if (first_bad >= 0) {
        CHECK_OK(write_now(f, first_bad, buffer, 1));
        CU_ASSERT(holds(f, first_bad, buffer, 1));
    }
    free(buffer);
}

static void remove_file(void *path) {
    CU_ASSERT(unlink(path) == 0);
}

static void check_full_disk(page_file_engine engine) {
    const char *dir = harness_fresh_dir();
    if (!mount_small(dir, "tmpfs", 0, "size=2m")) return;
    char other[200];
    snprintf(other, sizeof other, "%s/other", dir);
    harness_write_file(other, dir, 0);
    CU_ASSERT(truncate(other, 0) == 0);
    char *zeros = mem_new(1, 1 << 20);
    harness_write_file(other, zeros, 1 << 20);
    free(zeros);
    page_file *f = open_with(engine, dir, 40 * 102400, 100000, 4);
    if (f) {
        fill_up(f, 9, 11, "cannot be written: No space left on device", remove_file, other);
        page_file_close(f, patience);
    }
    CU_ASSERT(umount2(dir, 0) == 0);
}

static void test_full_disk(void) {
    with_each_engine(check_full_disk);
}

static void set_limit(void *old) {
    setrlimit(RLIMIT_FSIZE, old);
}

/* The last record that begins below the limit is written in part before that is a failure. */
static void check_file_limit(page_file_engine engine) {
    page_file *f = open_with(engine, harness_fresh_dir(), 40 * 102400, 100000, 4);
    if (!f) return;
    struct rlimit old;
    CU_ASSERT(getrlimit(RLIMIT_FSIZE, &old) == 0);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 10 * 102400 + 8192, .rlim_max = old.rlim_max});
    fill_up(f, 10, 10, "cannot be written: File too large", set_limit, &old);
    setrlimit(RLIMIT_FSIZE, &old);
    page_file_close(f, patience);
}

static void test_file_limit(void) {
    with_each_engine(check_file_limit);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"faults", test_faults},         {"damage", test_damage}, {"full disk", test_full_disk},
        {"file limit", test_file_limit}, CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "page file on a disk", tests);
}
