#include "src/base/last_save.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The lines are made before they are needed, as a handler can only write. */
static char manifest_path[PATH_MAX], good[2 * PATH_MAX + 128], none[PATH_MAX + 128];
static bool speaks_for_all;

/* What ends a process unless it is handled: told to end from outside, and of its own making. */
static const int external[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGXCPU},
                 own[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGXFSZ};
enum { N_EXTERNAL = sizeof external / sizeof *external, N_OWN = sizeof own / sizeof *own };
static struct sigaction before_external[N_EXTERNAL], before_own[N_OWN];

static void say(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
}

void last_save_say(void) {
    if (*manifest_path) say(access(manifest_path, F_OK) == 0 ? good : none);
}

void last_save_say_signal(const char *text) {
    if (!speaks_for_all) return;
    say(text);
    last_save_say();
}

/* Said; then the signal does what it did before. */
static void on_external(int number) {
    for (int i = 0; i < N_EXTERNAL; i++)
        if (external[i] == number) sigaction(number, &before_external[i], NULL);
    if (speaks_for_all) last_save_say();
    raise(number);
}

static void on_own(int number) {
    for (int i = 0; i < N_OWN; i++)
        if (own[i] == number) sigaction(number, &before_own[i], NULL);
    last_save_say();
    raise(number);
}

static void watch(int number, void (*handler)(int), struct sigaction *before) {
    struct sigaction action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    sigaction(number, NULL, before);
    if (before->sa_handler != SIG_IGN) sigaction(number, &action, NULL);
}

void last_save_watch(const char *dir, const char *manifest, bool speaks) {
    bool is_watched = *manifest_path;
    speaks_for_all = speaks;
    snprintf(manifest_path, sizeof manifest_path, "%s", manifest);
    snprintf(good, sizeof good, "kvarve: the last good save is in %s (--resume %s)\n", dir, dir);
    snprintf(none, sizeof none, "kvarve: nothing is saved in %s yet\n", dir);
    for (int i = 0; i < N_EXTERNAL && !is_watched; i++)
        watch(external[i], on_external, &before_external[i]);
    for (int i = 0; i < N_OWN && !is_watched; i++)
        watch(own[i], on_own, &before_own[i]);
}
