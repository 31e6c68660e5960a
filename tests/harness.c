#include "tests/harness.h"

#include <CUnit/TestDB.h>
#include <CUnit/TestRun.h>
#include <dirent.h>
#include <math.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_SKIPPED = 77 };

static int rank, size;
static bool current_skipped;
static char temp_dir[64];

static void remove_tree(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        unlink(path);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char child[4096];
        snprintf(child, sizeof child, "%s/%s", path, e->d_name);
        remove_tree(child);
    }
    closedir(dir);
    rmdir(path);
}

/* --only NAME, any number of times: the tests to run; without it, all. */
static bool is_wanted(int argc, char **argv, const char *name) {
    bool is_any = true;
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--only") != 0) continue;
        if (!strcmp(argv[i + 1], name)) return true;
        is_any = false;
    }
    return is_any;
}

int harness_run(int *argc, char ***argv, const char *suite_name, CU_TestInfo *tests) {
    int provided, is_started;
    MPI_Initialized(&is_started);
    if (!is_started) MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    snprintf(temp_dir, sizeof temp_dir, "/tmp/kvarve-test-XXXXXX");
    if (!mkdtemp(temp_dir)) MPI_Abort(MPI_COMM_WORLD, 1);

    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite(suite_name, NULL, NULL);
    int passed = 0, failed = 0, skipped = 0;
    for (CU_TestInfo *t = tests; t->pName; t++) {
        if (!is_wanted(*argc, *argv, t->pName)) continue;
        CU_pTest test = CU_add_test(suite, t->pName, t->pTestFunc);
        current_skipped = false;
        CU_run_test(suite, test);
        int mine[2] = {(int)CU_get_number_of_failures(), current_skipped}, all[2];
        MPI_Allreduce(mine, all, 2, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        for (CU_pFailureRecord f = CU_get_failure_list(); mine[0] && f; f = f->pNext)
            printf("rank %d: %s:%u: %s\n", rank, f->strFileName, f->uiLineNumber, f->strCondition);
        fflush(stdout);
        const char *word = all[0] ? "FAILED" : all[1] ? "skipped" : "ok";
        if (rank == 0) printf("%-8s %s / %s (np %d)\n", word, suite_name, t->pName, size);
        failed += all[0] > 0;
        skipped += !all[0] && all[1];
        passed += !all[0] && !all[1];
    }
    if (rank == 0) printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    CU_cleanup_registry();
    remove_tree(temp_dir);
    if (!is_started) MPI_Finalize();
    if (failed || passed + skipped == 0) return 1;
    return passed == 0 ? EXIT_SKIPPED : 0;
}

int harness_rank(void) {
    return rank;
}

int harness_size(void) {
    return size;
}

void harness_skip(const char *format, ...) {
    current_skipped = true;
    if (rank) return;
    va_list args;
    va_start(args, format);
    printf("skipped: ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

const char *harness_source_dir(void) {
    const char *moved_to = getenv("KVARVE_TEST_SOURCE");
    return moved_to ? moved_to : KVARVE_SOURCE_DIR;
}

const char *harness_shared_dir(void) {
    static char dir[4096];
    struct stat info;
    snprintf(dir, sizeof dir, "%s/../shared", harness_source_dir());
    return stat(dir, &info) == 0 ? dir : NULL;
}

bool harness_is_slow(void) {
    return getenv("KVARVE_SLOW") && !harness_is_long();
}

bool harness_is_long(void) {
    return getenv("KVARVE_LONG") != NULL;
}

const char *harness_temp_dir(void) {
    return temp_dir;
}

const char *harness_fresh_dir(void) {
    static char dirs[2][sizeof temp_dir + 20];
    static int n;
    char *dir = dirs[n % 2];
    snprintf(dir, sizeof dirs[0], "%s/dir%d", temp_dir, n++);
    CU_ASSERT(mkdir(dir, 0777) == 0);
    return dir;
}

uint64_t harness_random(uint64_t *state) {
    /* splitmix64 (Steele, Lea, Flood 2014) */
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

float harness_random_normal(uint64_t *state) {
    double u = ((double)(harness_random(state) >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(harness_random(state) >> 11) + 0.5) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

char *harness_read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(bytes + 1);
    size_t got = fread(data, 1, bytes, f);
    fclose(f);
    data[got] = '\0';
    *n = got;
    return data;
}

void harness_write_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(data, 1, n, f) == n;
    if (f) good = fclose(f) == 0 && good;
    CU_ASSERT(good);
}

double harness_nmse(const float *a, const double *b, size_t n) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - b[i];
        if (isnan(d)) return INFINITY;
        error += d * d;
        norm += b[i] * b[i];
    }
    return norm > 0 ? error / norm : error > 0 ? INFINITY : 0;
}

bool harness_check(const char *file, unsigned line, status got, status expected, const char *part) {
    char text[2 * STATUS_TEXT_BYTES];
    bool good = got == expected && (!part || strstr(status_text(), part));
    snprintf(text, sizeof text, "expected status %d%s%s, got %d: %s", (int)expected, part ? " with " : "",
             part ? part : "", (int)got, got ? status_text() : "ok");
    CU_assertImplementation(good ? CU_TRUE : CU_FALSE, line, text, file, "", CU_FALSE);
    return good;
}
