/* tests/engine/test_stop.c: signals, --max-time and the stop file: each asks for an end, and says why. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/last_save.h"
#include "src/engine/stop.h"
#include "tests/fixtures/harness.h"

static const stop_limits no_limits = {.max_seconds = INFINITY};

/* ---- signals, each in a process of its own ---- */

/* The exit status of a child that runs body, or 1000 + the signal that ended it; its stderr goes to a file.
 */
static int run_child(int (*body)(void)) {
    char path[128];
    snprintf(path, sizeof path, "%s/stderr", harness_temp_dir());
    fflush(stdout); /* or the child, if it ends by exit, prints it again */
    pid_t child = fork();
    if (child == 0) {
        if (!freopen(path, "w", stderr)) _exit(99);
        setvbuf(stderr, NULL, _IONBF, 0);
        _exit(body());
    }
    int how = 0;
    waitpid(child, &how, 0);
    return WIFSIGNALED(how) ? 1000 + WTERMSIG(how) : WEXITSTATUS(how);
}

static char *child_stderr(void) {
    char path[128];
    size_t n;
    snprintf(path, sizeof path, "%s/stderr", harness_temp_dir());
    return harness_read_file(path, &n);
}

static bool is_reason(const char *expected) {
    const char *reason = stop_reason(&no_limits, 0);
    return reason && expected ? !strcmp(reason, expected) : !reason && !expected;
}

static int not_watched_terminate(void) {
    raise(SIGTERM);
    return 50;
}

static int not_watched_told(void) {
    raise(SIGUSR1);
    return 50;
}

static int told(void) {
    stop_watch_signals();
    if (stop_was_signalled() || !is_reason(NULL)) return 10;
    raise(SIGUSR1);
    if (!stop_was_signalled() || !is_reason("SIGUSR1")) return 11;
    raise(SIGUSR1); /* again and again: still only asked */
    raise(SIGUSR1);
    return stop_was_signalled() && is_reason("SIGUSR1") ? 42 : 12;
}

static int terminated(void) {
    stop_watch_signals();
    raise(SIGTERM);
    return stop_was_signalled() && is_reason("SIGTERM") ? 42 : 11;
}

static int told_then_terminated(void) {
    stop_watch_signals();
    raise(SIGUSR1);
    raise(SIGTERM);
    return stop_was_signalled() && is_reason("SIGTERM") ? 42 : 11;
}

static int terminated_then_told(void) {
    stop_watch_signals();
    raise(SIGTERM);
    raise(SIGUSR1);
    return stop_was_signalled() && is_reason("SIGTERM") ? 42 : 11;
}

static int terminated_twice(void) {
    stop_watch_signals();
    raise(SIGTERM);
    if (!stop_was_signalled()) return 11;
    raise(SIGTERM);
    return 12;
}

/* A read that waits goes on behind a signal. */
static int reading(void) {
    stop_watch_signals();
    int ends[2];
    char byte = 0;
    if (pipe(ends) != 0) return 10;
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        usleep(50000);
        kill(parent, SIGUSR1);
        usleep(50000);
        _exit(write(ends[1], "x", 1) == 1 ? 0 : 1);
    }
    bool good = read(ends[0], &byte, 1) == 1 && byte == 'x';
    waitpid(child, NULL, 0);
    return good && stop_was_signalled() ? 42 : 11;
}

static void signals(void) {
    CU_ASSERT_EQUAL(run_child(not_watched_terminate), 1000 + SIGTERM);
    CU_ASSERT_EQUAL(run_child(not_watched_told), 1000 + SIGUSR1);
    CU_ASSERT_EQUAL(run_child(told), 42);
    CU_ASSERT_EQUAL(run_child(terminated), 42);
    CU_ASSERT_EQUAL(run_child(told_then_terminated), 42);
    CU_ASSERT_EQUAL(run_child(terminated_then_told), 42);
    char *text = child_stderr();
    CU_ASSERT_STRING_EQUAL(text, "");
    free(text);
    CU_ASSERT_EQUAL(run_child(reading), 42);
    CU_ASSERT(!stop_was_signalled());
}

static void second_terminate(void) {
    CU_ASSERT_EQUAL(run_child(terminated_twice), EXIT_CODE_FAILED);
    char *text = child_stderr();
    CU_ASSERT_STRING_EQUAL(text, "kvarve: second SIGTERM: ended without a save\n");
    free(text);
}

/* ---- the last save, said by whatever ends a process ---- */

static char save_dir[128], manifest[160];

static int raise_number;
static bool speaks = true;

/* A run that saves, before it watches for signals itself. */
static int raising(void) {
    last_save_watch(save_dir, manifest, speaks);
    raise(raise_number);
    return 50;
}

static int running(void) {
    last_save_watch(save_dir, manifest, speaks);
    stop_watch_signals();
    raise(SIGTERM);
    return stop_was_signalled() ? 42 : 11;
}

static int running_twice(void) {
    (void)running();
    raise(SIGTERM);
    return 12;
}

static int dying(void) {
    last_save_watch(save_dir, manifest, false);
    status_die("out of pages");
}

static int touching(void) {
    last_save_watch(save_dir, manifest, false);
    raise_number = *(volatile int *)NULL;
    return 50;
}

static int ignoring(void) {
    signal(SIGHUP, SIG_IGN); /* nohup */
    last_save_watch(save_dir, manifest, true);
    raise(SIGHUP);
    return 42;
}

static void check_said(const char *before, const char *said) {
    char expected[1024], *text = child_stderr();
    snprintf(expected, sizeof expected, "%s%s", before, said);
    /* MPI may have handlers of its own, which come next. */
    CU_ASSERT(*expected ? !strncmp(text, expected, strlen(expected)) : !*text);
    free(text);
}

static void last_save(void) {
#if defined(__SANITIZE_ADDRESS__) /* which ends the process by itself at SIGBUS and SIGFPE */
    static const int signals_of_any_rank[] = {SIGABRT, SIGILL, SIGPIPE, SIGXFSZ};
#else
    static const int signals_of_any_rank[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGXFSZ};
#endif
    static const int signals_of_all[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGXCPU};
    char good[512], none[512];
    snprintf(save_dir, sizeof save_dir, "%s", harness_temp_dir());
    snprintf(manifest, sizeof manifest, "%s/manifest.h5", save_dir);
    snprintf(good, sizeof good, "kvarve: the last good save is in %s (--resume %s)\n", save_dir, save_dir);
    snprintf(none, sizeof none, "kvarve: nothing is saved in %s yet\n", save_dir);
    for (int there = 0; there < 2; there++) {
        const char *said = there ? good : none;
        if (there) harness_write_file(manifest, "", 0);
        for (size_t i = 0; i < sizeof signals_of_any_rank / sizeof *signals_of_any_rank; i++) {
            raise_number = signals_of_any_rank[i];
            speaks = i % 2;
            CU_ASSERT_EQUAL(run_child(raising), 1000 + raise_number);
            check_said("", said);
        }
        for (size_t i = 0; i < 2 * sizeof signals_of_all / sizeof *signals_of_all; i++) {
            raise_number = signals_of_all[i / 2];
            speaks = i % 2;
            CU_ASSERT_EQUAL(run_child(raising), 1000 + raise_number);
            check_said("", speaks ? said : "");
        }
        speaks = true;
        CU_ASSERT_EQUAL(run_child(running), 42);
        check_said("kvarve: SIGTERM: ending with a save, if there is time for one\n", said);
        CU_ASSERT_EQUAL(run_child(dying), EXIT_CODE_FAILED);
        check_said("kvarve: error: out of pages\n", said);
        CU_ASSERT_EQUAL(run_child(ignoring), 42);
        check_said("", "");
    }
    CU_ASSERT_EQUAL(run_child(running_twice), EXIT_CODE_FAILED);
    char *text = child_stderr(), *second = strstr(text, "kvarve: second SIGTERM: ended without a save\n");
    CU_ASSERT(second && !strcmp(strchr(second, '\n') + 1, good));
    free(text);
    unlink(manifest);
}

/* A fault of the program itself: the handler that was there before has its turn. */
static void bad_address(void) {
#if defined(__SANITIZE_ADDRESS__)
    harness_skip("AddressSanitizer ends the process by itself");
#else
    CU_ASSERT_EQUAL(run_child(touching), 1000 + SIGSEGV);
    char *text = child_stderr();
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "kvarve: nothing is saved in "));
    free(text);
#endif
}

/* ---- time ---- */

/* Time runs from the start of the process, not from the first question. */
static int late_question(void) {
    double begin = clock_seconds();
    usleep(400000);
    double asked = stop_process_seconds(), waited = clock_seconds() - begin;
    if (!(asked >= waited - 0.05 && asked < waited + 5)) return 10; /* ticks are 10 ms */
    usleep(100000);
    double later = stop_process_seconds();
    return later >= asked + 0.1 && later < asked + 5 ? 42 : 11;
}

static void process_time(void) {
    if (access("/proc/self/stat", R_OK) != 0) {
        harness_skip("no /proc here");
        return;
    }
    CU_ASSERT_EQUAL(run_child(late_question), 42);
}

static void max_time(void) {
    stop_limits limits = {.max_seconds = stop_process_seconds() + 100};
    CU_ASSERT(stop_reason(&no_limits, 0) == NULL && stop_reason(&no_limits, 1e9) == NULL);
    CU_ASSERT(stop_reason(&limits, 0) == NULL && stop_reason(&limits, 50) == NULL);
    const char *near = stop_reason(&limits, 200);
    CU_ASSERT(near && strstr(near, "is near") && strstr(near, "200 s are kept for the save"));
    limits.max_seconds = stop_process_seconds() + 0.2;
    CU_ASSERT(stop_reason(&limits, 0) == NULL);
    usleep(250000);
    CU_ASSERT(stop_reason(&limits, 0) != NULL);

    static const struct {
        double seconds;
        const char *text;
    } rows[] = {
        {0, "--max-time 00:00:00 is reached"},
        {0.001, "--max-time 0.001s is reached"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        limits.max_seconds = rows[i].seconds;
        const char *reason = stop_reason(&limits, 0);
        CU_ASSERT(reason && !strcmp(reason, rows[i].text));
    }
    limits.max_seconds = 85800;
    const char *reason = stop_reason(&limits, 90000);
    CU_ASSERT(reason && !strncmp(reason, "--max-time 23:50:00 is near: ", 29));
    limits.max_seconds = 360061;
    reason = stop_reason(&limits, 400000);
    CU_ASSERT(reason && !strncmp(reason, "--max-time 100:01:01 is near: ", 30));
}

/* ---- the stop file ---- */

static void stop_file(void) {
    char path[128], expected[256];
    snprintf(path, sizeof path, "%s/stop here", harness_temp_dir());
    snprintf(expected, sizeof expected, "the stop file %s is there", path);
    stop_limits limits = {.max_seconds = INFINITY, .stop_file = path};
    CHECK_OK(stop_check(&no_limits));
    CHECK_OK(stop_check(&limits));
    CU_ASSERT(stop_reason(&limits, 0) == NULL);
    harness_write_file(path, "", 0);
    CHECK_REFUSED(stop_check(&limits), "remove it to run");
    CU_ASSERT(strstr(status_text(), path) != NULL);
    double begin = clock_seconds();
    CU_ASSERT(stop_reason(&limits, 0) == NULL); /* it was looked for just now */
    const char *reason = NULL;
    while (!reason && clock_seconds() - begin < 20) {
        reason = stop_reason(&limits, 0);
        usleep(1000);
    }
    CU_ASSERT(reason && !strcmp(reason, expected));
    CU_ASSERT(clock_seconds() - begin > 0.12 && clock_seconds() - begin < 5);
    unlink(path);
    CHECK_OK(stop_check(&limits));
    CU_ASSERT(stop_reason(&no_limits, 0) == NULL); /* who asks for none gets none */
    limits.stop_file = "/no/such/folder/stop";
    CHECK_OK(stop_check(&limits));
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"signals", signals},           {"second SIGTERM", second_terminate},
        {"process time", process_time}, {"--max-time", max_time},
        {"stop file", stop_file},       {"the last save", last_save},
        {"a bad address", bad_address}, CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "stop", tests);
}
