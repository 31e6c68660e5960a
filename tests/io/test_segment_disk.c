/* tests/io/test_segment_disk.c: segments on disks that fail, and from sources that do. */
#define _GNU_SOURCE /* unshare */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/snapshot/segment_private.h"
#include "src/base/fault.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/segment_samples.h"

/* ---- writing that fails ---- */

static void check_failed(status st, const char *part) {
    CU_ASSERT_EQUAL(st, STATUS_FAILED);
    CU_ASSERT(strstr(status_text(), part) != NULL);
    if (!strstr(status_text(), part)) printf("expected \"%s\": %s\n", part, status_text());
}

static void test_failing_source(void) {
    const char *dir = harness_fresh_dir();
    for (int n_threads = 1; n_threads <= 3; n_threads++)
        for (int fail_at = 1; fail_at <= 12; fail_at += 11) { /* the first and the last chunk */
            pattern p = small_pattern();
            p.fail_at = fail_at;
            const segment_info before = p.info;
            check_failed(write_pattern(dir, &p, n_threads), "a page is lost");
            CU_ASSERT(memcmp(&before, &p.info, sizeof before) == 0);
            CU_ASSERT_EQUAL(count_files(dir), 0);
        }
}

/* Failures on demand: at every step nothing is left, and the next one is written. */
static void test_faults(void) {
    static const char *const sites[] = {"segment-create", "segment-write", "segment-write::9fail",
                                        "segment-flush", "segment-rename"};
    const char *dir = harness_fresh_dir();
    pattern p = small_pattern();
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        CHECK_OK(fault_arm(sites[i], 0));
        const segment_info before = p.info;
        check_failed(write_pattern(dir, &p, 2), p.info.name);
        check_failed(STATUS_FAILED, "failed on demand");
        CU_ASSERT(memcmp(&before, &p.info, sizeof before) == 0);
        CU_ASSERT_EQUAL(count_files(dir), 0);
    }
    CHECK_OK(write_pattern(dir, &p, 2));
    segment *s = NULL;
    CHECK_OK(fault_arm("segment-read", 0));
    check_failed(segment_open(dir, NULL, &p.info, NULL, &s), "failed on demand");
    if (!CHECK_OK(segment_open(dir, NULL, &p.info, NULL, &s))) return;
    char row[2 * 8 * 2];
    CHECK_OK(fault_arm("segment-read", 0));
    check_failed(segment_read(s, 1, KV_PART_K, 40, 1, row), "failed on demand");
    CHECK_OK(segment_read(s, 1, KV_PART_K, 40, 1, row));
    segment_close(s);
    CHECK_OK(fault_arm(NULL, 0));
}

/* Files that this process holds open; -1 where that cannot be seen. */
static int count_open(void) {
    return access("/proc/self/fd", R_OK) == 0 ? count_files("/proc/self/fd") : -1;
}

/* A file beyond a limit: HDF5's own writing fails, here and there, and the next file is good again. */
static void check_file_limit(kv_codec codec) {
    const char *dir = harness_fresh_dir();
    struct rlimit old;
    CU_ASSERT(getrlimit(RLIMIT_FSIZE, &old) == 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    pattern good = make_pattern(DTYPE_BF16, codec, 0, 2, 0, 200, 4, 64, 64), p;
    CHECK_OK(write_pattern(dir, &good, 1));
    const int n_open = count_open();
    for (int64_t limit = 0; limit < good.info.file_bytes; limit += good.info.file_bytes / 40) {
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = (rlim_t)limit, .rlim_max = old.rlim_max});
        p = make_pattern(DTYPE_BF16, codec, 0, 2, 0, 200, 4, 64, 64);
        segment_make_name(&p.info, 4);
        check_failed(write_pattern(dir, &p, 2), "File too large");
        setrlimit(RLIMIT_FSIZE, &old);
        CU_ASSERT_EQUAL(count_files(dir), 1);
    }
    CU_ASSERT_EQUAL(count_open(), n_open);
    CHECK_OK(write_pattern(dir, &p, 1));
    CHECK_OK(check_all(dir, &p.info));
    CHECK_OK(check_all(dir, &good.info));
    signal(SIGXFSZ, handler);
}

static void test_file_limit(void) {
    check_file_limit(KV_CODEC_LOSSLESS);
    check_file_limit(KV_CODEC_NONE);
}

static void test_full_disk(void) {
    const char *dir = harness_fresh_dir();
    if (!mount_small(dir, "tmpfs", 0, "size=1m")) return;
    pattern p = make_pattern(DTYPE_BF16, KV_CODEC_LOSSLESS, 0, 2, 0, 2000, 4, 64, 64);
    const int n_open = count_open();
    for (int i = 0; i < 3; i++) {
        check_failed(write_pattern(dir, &p, 2), "No space left on device");
        CU_ASSERT_EQUAL(count_files(dir), 0);
    }
    CU_ASSERT_EQUAL(count_open(), n_open);
    pattern small = small_pattern();
    CHECK_OK(write_pattern(dir, &small, 1));
    CHECK_OK(check_all(dir, &small.info));
    umount2(dir, MNT_DETACH);
}

static void test_read_only(void) {
    const char *dir = harness_fresh_dir();
    pattern p = small_pattern();
    if (geteuid() == 0) {
        if (!mount_small(dir, "tmpfs", MS_RDONLY, "size=1m")) return;
        check_failed(write_pattern(dir, &p, 1), "Read-only file system");
        umount2(dir, MNT_DETACH);
    } else {
        CU_ASSERT(chmod(dir, 0555) == 0);
        check_failed(write_pattern(dir, &p, 1), "Permission denied");
        CU_ASSERT(chmod(dir, 0755) == 0);
    }
    CU_ASSERT_EQUAL(count_files(dir), 0);
    check_failed(write_pattern(path_of(dir, "missing"), &p, 1), "No such file or directory");
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"a source that fails", test_failing_source},      {"failures on demand", test_faults},
        {"a limit on the file's size", test_file_limit},   {"a full disk", test_full_disk},
        {"a directory that is read-only", test_read_only}, CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "segment on a disk", tests);
}
