#include "src/engine/stop.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/last_save.h"
#include "src/base/process.h"

/* What the handlers may write. */
static volatile sig_atomic_t was_terminated, was_warned; /* by SIGTERM, by SIGUSR1 */

static void on_terminate(int number) {
    (void)number;
    if (was_terminated) {
        static const char text[] = "kvarve: second SIGTERM: ended without a save\n";
        ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
        (void)written;
        last_save_say_signal("");
        _exit(EXIT_CODE_FAILED);
    }
    was_terminated = 1;
    /* At once: who lost a rank, or sends this to a launcher, may kill in a quarter of a second. */
    last_save_say_signal("kvarve: SIGTERM: ending with a save, if there is time for one\n");
}

static void on_warning(int number) {
    (void)number;
    was_warned = 1;
}

void stop_watch_signals(void) {
    struct sigaction action = {.sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_terminate;
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = on_warning;
    sigaction(SIGUSR1, &action, NULL);
}

bool stop_was_signalled(void) {
    return was_terminated || was_warned;
}

static double start_moment(void) {
#ifdef CLOCK_BOOTTIME
    struct timespec now;
    double ticks = (double)process_start_ticks((long)getpid());
    if (ticks > 0 && clock_gettime(CLOCK_BOOTTIME, &now) == 0) {
        double since_boot = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
        return clock_seconds() - (since_boot - ticks / (double)sysconf(_SC_CLK_TCK));
    }
#endif
    return clock_seconds();
}

double stop_process_seconds(void) {
    static double start;
    static bool is_known;
    if (!is_known) start = start_moment();
    is_known = true;
    return clock_seconds() - start;
}

static bool is_there(const char *stop_file) {
    return access(stop_file, F_OK) == 0;
}

status stop_check(const stop_limits *limits) {
    if (!limits->stop_file || !is_there(limits->stop_file)) return STATUS_OK;
    return status_refuse(
        "--stop-file %s: it is there already, so the run would end at once: remove it to run",
        limits->stop_file);
}

/* The last answer holds for a quarter of a second. */
static bool look_for(const char *stop_file) {
    static double next_look;
    static bool was_there;
    if (clock_seconds() < next_look) return was_there;
    next_look = clock_seconds() + 0.25;
    return was_there = is_there(stop_file);
}

static void write_time(double seconds, char *text, size_t n) {
    long whole = (long)seconds;
    if (seconds == (double)whole)
        snprintf(text, n, "%02ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(text, n, "%.6gs", seconds);
}

const char *stop_reason(const stop_limits *limits, double reserve_seconds) {
    static char text[512];
    if (was_terminated) return "SIGTERM";
    if (was_warned) return "SIGUSR1";
    double left = limits->max_seconds - stop_process_seconds();
    if (left <= reserve_seconds) {
        char limit[32];
        write_time(limits->max_seconds, limit, sizeof limit);
        if (left <= 0)
            snprintf(text, sizeof text, "--max-time %s is reached", limit);
        else
            snprintf(text, sizeof text,
                     "--max-time %s is near: %.3g s are left, and %.3g s are kept for the save", limit, left,
                     reserve_seconds);
        return text;
    }
    if (limits->stop_file && look_for(limits->stop_file)) {
        snprintf(text, sizeof text, "the stop file %s is there", limits->stop_file);
        return text;
    }
    return NULL;
}

status stop_ask(const stop_limits *limits) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    const char *why = stop_reason(limits, 0);
    status st = why ? status_refuse("the run was told to end (%s)", why) : STATUS_OK;
    pthread_mutex_unlock(&lock);
    return st;
}
