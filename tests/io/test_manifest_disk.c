/* tests/io/test_manifest_disk.c: manifests on disks that fail, and files that no manifest needs. */
#define _GNU_SOURCE /* unshare */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/snapshot/manifest.h"
#include "io/snapshot/manifest_private.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/manifest_samples.h"

/* ---- segments that are needed, and files that are not ---- */

static void test_drop_unused(void) {
    manifest m = make_base(2, 100);
    m.n_segments = 10;
    m.segments = mem_new(10, sizeof *m.segments);
    for (int i = 0; i < 10; i++)
        m.segments[i] = make_segment(&m, 0, 2, 10 * i, 10, 1);
    m.n_sequences = 2;
    m.sequences = mem_new(2, sizeof *m.sequences);
    m.sequences[0] = make_sequence(&m, 0, 30, 0);
    m.sequences[1] = make_sequence(&m, 1, 30, 0);
    add_extents(&m.sequences[0], 2, (manifest_extent[]){{0, 11, 19}, {11, 1, 99}}); /* 1, 2, 9 */
    add_extents(&m.sequences[1], 2, (manifest_extent[]){{0, 10, 40}, {10, 5, 25}}); /* 4, 2 */
    manifest_drop_unused(&m);
    static const int kept[] = {1, 2, 4, 9};
    CU_ASSERT_EQUAL(m.n_segments, 4);
    for (int i = 0; i < 4 && i < m.n_segments; i++)
        CU_ASSERT_EQUAL(m.segments[i].row0, 10 * kept[i]);
    CHECK_OK(manifest_check_rows(&m, "here"));
    m.sequences[0].n_extents = m.sequences[1].n_extents = 0;
    manifest_drop_unused(&m);
    CU_ASSERT_EQUAL(m.n_segments, 0);
    manifest_free(&m);
}

static void test_remove_unnamed(void) {
    static const char *const kept[] = {"lock",
                                       "manifest.h5",
                                       "L000-003.T00000000-00000010.S0001.h5",
                                       "notes.txt",
                                       "L000-003.h5",
                                       ".L000-003.tmp",
                                       ".hidden.tmp",
                                       "xL000-003.T00000000-00000010.S0009.h5",
                                       "L000-003.T00000000-00000010.S0009.h5.bak",
                                       ".L000-003.T00000000-00000010.S0009.h5.bak",
                                       "L000-003.T00000000-00000010.S9.h5"};
    static const char *const removed[] = {
        "L000-003.T00000000-00000010.S0002.h5", ".L000-003.T00000000-00000010.S0001.h5.tmp",
        ".L000-003.T00000000-00000010.S0007.h5.tmp", ".manifest.h5.tmp", ".manifest.h5.old"};
    const char *dir = harness_fresh_dir();
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        harness_write_file(path_of(dir, kept[i]), "", 0);
    for (size_t i = 0; i < sizeof removed / sizeof *removed; i++)
        harness_write_file(path_of(dir, removed[i]), "", 0);
    CU_ASSERT(mkdir(path_of(dir, "L000-003.T00000000-00000099.S0002.h5"), 0777) == 0);
    manifest m = make_full();
    manifest_remove_unnamed_files(dir, &m);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        CU_ASSERT(access(path_of(dir, kept[i]), F_OK) == 0);
    CU_ASSERT_EQUAL(count_files(dir), sizeof kept / sizeof *kept + 1);
    manifest_remove_unnamed_files(dir, NULL);
    CU_ASSERT(access(path_of(dir, kept[2]), F_OK) != 0);
    CU_ASSERT_EQUAL(count_files(dir), sizeof kept / sizeof *kept);
    manifest_remove_unnamed_files(path_of(dir, "missing"), NULL);
    manifest_free(&m);
}

/* ---- writing that fails ---- */

static void check_kept(const char *dir, const manifest *m, const char *part) {
    manifest other = make_full(), got = {0};
    other.save_number = 4;
    CU_ASSERT_EQUAL(manifest_write(dir, &other), STATUS_FAILED);
    CU_ASSERT(strstr(status_text(), part) != NULL);
    if (!strstr(status_text(), part)) printf("expected \"%s\": %s\n", part, status_text());
    if (CHECK_OK(manifest_read(dir, &got))) check_same(m, &got);
    CU_ASSERT_EQUAL(count_files(dir), 1);
    manifest_free(&got);
    manifest_free(&other);
}

/* Failures on demand: at every step the old one stays, or none. */
static void test_faults(void) {
    static const char *const sites[] = {"manifest-create", "manifest-write", "manifest-flush",
                                        "manifest-rename", "manifest-directory-flush"};
    manifest m = make_full();
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        const char *dir = harness_fresh_dir();
        CHECK_OK(fault_arm(sites[i], 0));
        CU_ASSERT_EQUAL(manifest_write(dir, &m), STATUS_FAILED);
        CU_ASSERT_EQUAL(count_files(dir), 0);
        CHECK_OK(manifest_write(dir, &m));
        CHECK_OK(fault_arm(sites[i], 0));
        check_kept(dir, &m, "failed on demand");
    }
    CHECK_OK(fault_arm(NULL, 0));
    manifest_free(&m);
}

static void test_file_limit(void) {
    const char *dir = harness_fresh_dir();
    manifest m;
    write_small(dir, &m);
    struct rlimit old;
    CU_ASSERT(getrlimit(RLIMIT_FSIZE, &old) == 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < 6000; limit += 1999) {
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = limit, .rlim_max = old.rlim_max});
        check_kept(dir, &m, "File too large");
        setrlimit(RLIMIT_FSIZE, &old);
    }
    signal(SIGXFSZ, handler);
    CHECK_OK(manifest_write(dir, &m));
    manifest_free(&m);
}

static void test_full_disk(void) {
    const char *dir = harness_fresh_dir();
    if (!mount_small(dir, "tmpfs", 0, "size=64k")) return;
    manifest m;
    write_small(dir, &m);
    struct stat info;
    CU_ASSERT(stat(path_of(dir, "manifest.h5"), &info) == 0);
    char filler[1024] = "";
    FILE *f = fopen(path_of(dir, "lock"), "wb");
    if (f) {
        setvbuf(f, NULL, _IONBF, 0);
        while (fwrite(filler, 1, sizeof filler, f) == sizeof filler)
            continue;
        fclose(f);
    }
    manifest got = {0};
    CU_ASSERT_EQUAL(manifest_write(dir, &m), STATUS_FAILED);
    CU_ASSERT(strstr(status_text(), "No space left on device") != NULL);
    if (CHECK_OK(manifest_read(dir, &got))) check_same(&m, &got);
    manifest_free(&got);
    CU_ASSERT_EQUAL(count_files(dir), 2);
    umount2(dir, MNT_DETACH);
    manifest_free(&m);
}

static void test_read_only(void) {
    const char *dir = harness_fresh_dir();
    manifest m;
    write_small(dir, &m);
    if (geteuid() == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount(dir, dir, NULL, MS_BIND, NULL) != 0 ||
            mount(NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) != 0)
            harness_skip("no file system can be mounted here: %s", strerror(errno));
        else
            check_kept(dir, &m, "Read-only file system");
        umount2(dir, MNT_DETACH);
    } else {
        CU_ASSERT(chmod(dir, 0555) == 0);
        check_kept(dir, &m, "Permission denied");
        CU_ASSERT(chmod(dir, 0755) == 0);
    }
    manifest_free(&m);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"segments that nobody needs", test_drop_unused},
        {"files that nobody names", test_remove_unnamed},
        {"failures on demand", test_faults},
        {"a limit on the file's size", test_file_limit},
        {"a full disk", test_full_disk},
        {"a directory that is read-only", test_read_only},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "manifest on a disk", tests);
}
