/* tests/base/test_fault.c: failures on demand: what arms, which visits fail, and that threads share the
 * count. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "tests/fixtures/harness.h"

static const char *const sites[] = {"segment-create",
                                    "segment-write",
                                    "segment-flush",
                                    "segment-rename",
                                    "segment-read",
                                    "tables-write",
                                    "manifest-create",
                                    "manifest-write",
                                    "manifest-flush",
                                    "manifest-rename",
                                    "manifest-directory-flush",
                                    "lock",
                                    "save-begin",
                                    "save-note",
                                    "save-commit",
                                    "save-clean",
                                    "load-see",
                                    "load",
                                    "decoder-room",
                                    "begin",
                                    "weights",
                                    "page-file-write",
                                    "page-file-read",
                                    "page-file-flip",
                                    "end"};
enum { N_SITES = sizeof sites / sizeof *sites, N_VISITS = 6 };

/* Of N_VISITS visits, those that fail, as a text of . and F. */
static const char *visits(const char *site) {
    static char seen[N_VISITS + 1];
    for (int i = 0; i < N_VISITS; i++) {
        status st = fault_at(site);
        seen[i] = st == STATUS_OK ? '.' : 'F';
        if (st != STATUS_OK) CU_ASSERT(st == STATUS_FAILED && strstr(status_text(), site));
    }
    return seen;
}

static void not_armed(void) {
    for (int i = 0; i < N_SITES; i++)
        CU_ASSERT_STRING_EQUAL(visits(sites[i]), "......");
}

static void one_site(void) {
    for (int i = 0; i < N_SITES; i++) {
        for (int k = 0; k < N_SITES; k++) {
            CHECK_OK(fault_arm(sites[i], 0));
            CU_ASSERT_STRING_EQUAL(visits(sites[k]), k == i ? "F....." : "......");
        }
    }
    CHECK_OK(fault_arm(NULL, 0));
    CU_ASSERT_STRING_EQUAL(visits("load"), "......");
}

static void which_visits(void) {
    static const struct {
        const char *text;
        int rank;
        const char *expected;
    } rows[] = {
        {"lock", 3, "F....."},           {"lock:0", 0, "F....."},         {"lock:0", 1, "......"},
        {"lock:12", 12, "F....."},       {"lock:12", 1, "......"},        {"lock:0:fail", 0, "F....."},
        {"lock:0:1fail", 0, "F....."},   {"lock:0:3fail", 0, "..F..."},   {"lock:2:3fail", 0, "......"},
        {"lock:0:always", 0, "FFFFFF"},  {"lock:0:4always", 0, "...FFF"}, {"lock::fail", 7, "F....."},
        {"lock:", 1, "F....."},          {"lock:1:kill", 0, "......"},    {"lock::7kill", 0, "......"},
        {"lock:0:100fail", 0, "......"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_OK(fault_arm(rows[i].text, rows[i].rank));
        CU_ASSERT_STRING_EQUAL(visits("lock"), rows[i].expected);
        CU_ASSERT_STRING_EQUAL(visits("load"), "......");
    }
    CHECK_OK(fault_arm(NULL, 0));
}

static void bad_texts(void) {
    static const char *const no_site[] = {"",    ":",     ":0",      "Lock",      "lock ",
                                          "loc", "locks", "segment", "lock,load", "%s%n"};
    for (size_t i = 0; i < sizeof no_site / sizeof *no_site; i++) {
        CHECK_REFUSED(fault_arm(no_site[i], 0), "no such site; there are segment-create, ");
        for (int k = 0; k < N_SITES; k++)
            CU_ASSERT(strstr(status_text(), sites[k]) != NULL);
    }
    static const char *const bad[] = {"lock:x",          "lock:-1",
                                      "lock:0x1",        "lock:1 ",
                                      "lock:0:",         "lock:0:fails",
                                      "lock:0:Fail",     "lock:0:0fail",
                                      "lock:0:-1fail",   "lock:0:3",
                                      "lock:0:fail3",    "lock:0:fail:1",
                                      "lock:9999999999", "lock:0:9999999999fail",
                                      "lock:fail"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_REFUSED(fault_arm(bad[i], 0), "expected SITE[:RANK[:WHAT]]");
        CHECK_REFUSED(fault_arm(bad[i], 1), bad[i]); /* on every rank alike */
        CU_ASSERT_STRING_EQUAL(visits("lock"), "......");
    }
}

static void kill_itself(void) {
    CHECK_OK(fault_arm("save-commit:0:2kill", 0));
    pid_t child = fork();
    if (child == 0) {
        bool good = fault_at("save-commit") == STATUS_OK && fault_at("lock") == STATUS_OK;
        if (good) (void)fault_at("save-commit");
        _exit(1);
    }
    int how = 0;
    CU_ASSERT(waitpid(child, &how, 0) == child && WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    CHECK_OK(fault_arm(NULL, 0));
}

static int n_said;

static bool count_said(void) {
    n_said++;
    return true;
}

/* It says that it is alive. */
static void slow_once(void) {
    CHECK_OK(fault_arm("segment-write:0:2slow", 0));
    double begin = clock_seconds();
    CHECK_OK(fault_at("segment-write"));
    CU_ASSERT(clock_seconds() - begin < 0.5);
    begin = clock_seconds();
    alive_set_hook(count_said, 0.1);
    CHECK_OK(fault_at("segment-write"));
    alive_set_hook(NULL, 0);
    double waited = clock_seconds() - begin;
    CU_ASSERT(n_said > 10 && n_said < 100);
    CU_ASSERT(waited > FAULT_SLOW_SECONDS - 0.01 && waited < FAULT_SLOW_SECONDS + 10);
    begin = clock_seconds();
    CHECK_OK(fault_at("segment-write"));
    CU_ASSERT(clock_seconds() - begin < 0.5);
    CHECK_OK(fault_arm(NULL, 0));
}

/* And says nothing, whatever signals come. */
static void hang_for_ever(void) {
    CHECK_OK(fault_arm("end:0:hang", 0));
    pid_t child = fork();
    if (child == 0) {
        signal(SIGUSR1, SIG_IGN);
        alive_set_hook(count_said, 0.01);
        (void)fault_at("end");
        _exit(1);
    }
    usleep(200000);
    kill(child, SIGCONT);
    usleep(200000);
    int how = 0;
    CU_ASSERT(waitpid(child, &how, WNOHANG) == 0);
    kill(child, SIGKILL);
    CU_ASSERT(waitpid(child, &how, 0) == child && WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    CHECK_OK(fault_arm(NULL, 0));
}

enum { N_THREADS = 8, VISITS_OF_A_THREAD = 20000 };

static void *visit_often(void *arg) {
    long *n_failed = arg;
    for (int i = 0; i < VISITS_OF_A_THREAD; i++)
        *n_failed += fault_at("segment-write") != STATUS_OK;
    return NULL;
}

static long failures_of_threads(const char *text) {
    pthread_t threads[N_THREADS];
    long n_failed[N_THREADS] = {0}, sum = 0;
    CHECK_OK(fault_arm(text, 0));
    for (int i = 0; i < N_THREADS; i++)
        CU_ASSERT(pthread_create(&threads[i], NULL, visit_often, &n_failed[i]) == 0);
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum += n_failed[i];
    }
    CHECK_OK(fault_arm(NULL, 0));
    return sum;
}

static void many_threads(void) {
    CU_ASSERT_EQUAL(failures_of_threads("segment-write:0:fail"), 1);
    CU_ASSERT_EQUAL(failures_of_threads("segment-write:0:77777fail"), 1);
    CU_ASSERT_EQUAL(failures_of_threads("segment-write:0:120001always"),
                    N_THREADS * VISITS_OF_A_THREAD - 120000);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"not armed", not_armed},         {"one site", one_site},         {"which visits", which_visits},
        {"bad texts", bad_texts},         {"kill itself", kill_itself},   {"slow once", slow_once},
        {"hang for ever", hang_for_ever}, {"many threads", many_threads}, CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "fault", tests);
}
