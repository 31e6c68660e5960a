/* tests/io/test_snapshot_lock.c: one job at a time: who holds, who is gone, who wins a race, and bad paths.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/snapshot/lock_holder.h"
#include "io/snapshot/snapshot_lock_private.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/process.h"
#include "tests/fixtures/harness.h"

static const snapshot_lock_rules quick = {.touch_seconds = 0.05, .watch_seconds = 0.5};

/* Where nobody else moves, time need not pass either. */
static double seconds_passed;
static const snapshot_lock_rules alone = {.touch_seconds = 5, .watch_seconds = 15, .clock = &seconds_passed};

/* A path in the folder of the test, which lives until the fourth call after. */
static const char *at(const char *name) {
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", harness_temp_dir(), name);
    return path;
}

static bool exists(const char *name) {
    struct stat info;
    return lstat(at(name), &info) == 0;
}

static void write_text(const char *name, const char *text) {
    harness_write_file(at(name), text, strlen(text));
}

/* A lock of that process. */
static void write_lock(const char *dir, const char *host, long pid, int64_t start) {
    lock_holder h = {.pid = pid, .process_start = start};
    snprintf(h.host, sizeof h.host, "%s", host);
    snprintf(h.taken, sizeof h.taken, "2026-01-02T03:04:05Z");
    char line[LOCK_LINE_BYTES], name[128];
    size_t n = lock_holder_write(&h, line);
    mkdir(at(dir), 0777);
    snprintf(name, sizeof name, "%s/lock", dir);
    harness_write_file(at(name), line, n);
}

/* A process that ended, so that its pid is nobody's. */
static long dead_pid(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    return (long)child;
}

/* What goes to stderr between the two calls; released with free(). */
static int stderr_before = -1;

static void capture_begin(void) {
    fflush(stderr);
    stderr_before = dup(STDERR_FILENO);
    int fd = open(at("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static char *capture_end(void) {
    size_t n;
    fflush(stderr);
    dup2(stderr_before, STDERR_FILENO);
    close(stderr_before);
    return harness_read_file(at("stderr"), &n);
}

static bool is_taken(const char *dir, const snapshot_lock_rules *rules) {
    snapshot_lock *l = NULL;
    bool good = snapshot_lock_take_within(at(dir), rules, &l) == STATUS_OK;
    snapshot_lock_release(l);
    return good;
}

/* ---- the line of the holder ---- */

static void holder_lines(void) {
    lock_holder self = lock_holder_self(), back;
    char line[LOCK_LINE_BYTES];
    size_t n = lock_holder_write(&self, line);
    CU_ASSERT(self.pid == (long)getpid() && self.process_start == process_start_ticks(self.pid));
    CU_ASSERT(lock_holder_parse(line, n, &back));
    CU_ASSERT(!strcmp(back.host, self.host) && back.pid == self.pid && !strcmp(back.taken, self.taken) &&
              back.process_start == self.process_start);
    for (size_t i = 0; i < n; i++)
        CU_ASSERT(!lock_holder_parse(line, i, &back));
    static const char *const good[] = {
        "host=a pid=1 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=node-7.x_y:z pid=2147483647 process_start=999999999999999999 taken=0000-00-00T00:00:00Z\n",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CU_ASSERT(lock_holder_parse(good[i], strlen(good[i]), &back));
    static const char *const bad[] = {
        "",
        "\n",
        "hello",
        "host= pid=1 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a b pid=1 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a/b pid=1 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a\x1B[2J pid=1 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a pid=0 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a pid=-1 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a pid=2147483648 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a pid=99999999999999999999 process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a pid=1  process_start=0 taken=2026-11-21T09:30:00Z\n",
        "host=a pid=1 process_start= taken=2026-11-21T09:30:00Z\n",
        "host=a pid=1 process_start=9999999999999999999 taken=2026-11-21T09:30:00Z\n",
        "host=a pid=1 process_start=0 taken=2026-11-21T09:30:00\n",
        "host=a pid=1 process_start=0 taken=2026-11-21 09:30:00Z\n",
        "host=a pid=1 process_start=0 taken=2026-11-21T09:30-00Z\n",
        "host=a pid=1 process_start=0 taken=2026-11-21T09:30:00ZZ\n",
        "host=a pid=1 process_start=0 taken=2026-11-21T09:30:00Z",
        "host=a pid=1 process_start=0 taken=2026-11-21T09:30:00Z\nmore",
        "pid=1 host=a process_start=0 taken=2026-11-21T09:30:00Z\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT(!lock_holder_parse(bad[i], strlen(bad[i]), &back));
    char longest[2000];
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "host=", 5);
    CU_ASSERT(!lock_holder_parse(longest, sizeof longest, &back));
    CU_ASSERT(!lock_holder_parse("host=a pid=1 process_start=0\0taken=2026-11-21T09:30:00Z\n", 56, &back));
}

static void processes(void) {
    long self = (long)getpid(), dead = dead_pid();
    int64_t start = process_start_ticks(self);
    CU_ASSERT(start > 0 && process_is_alive(self, start) && process_is_alive(self, 0));
    CU_ASSERT(!process_is_alive(self, start - 1));
    CU_ASSERT(process_start_ticks(dead) == 0 && !process_is_alive(dead, 0) && !process_is_alive(dead, start));
    pid_t child = fork();
    if (child == 0) _exit(0);
    siginfo_t info;
    waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT); /* dead, but not waited for */
    CU_ASSERT(!process_is_alive((long)child, 0));
    waitpid(child, NULL, 0);
}

/* ---- one after the other ---- */

static void take_and_release(void) {
    snapshot_lock *l = NULL;
    CHECK_OK(snapshot_lock_take(at("plain.kvs"), &l));
    size_t n;
    char *text = harness_read_file(at("plain.kvs/lock"), &n);
    lock_holder h;
    CU_ASSERT(text && lock_holder_parse(text, n, &h) && h.pid == (long)getpid());
    free(text);
    CHECK_OK(snapshot_lock_check(l));
    snapshot_lock_release(l);
    CU_ASSERT(!exists("plain.kvs/lock") && !exists("plain.kvs"));

    CHECK_OK(snapshot_lock_take(at("plain.kvs/"), &l)); /* again, and with something else in it */
    write_text("plain.kvs/manifest.h5", "x");
    snapshot_lock_release(l);
    CU_ASSERT(!exists("plain.kvs/lock") && exists("plain.kvs/manifest.h5"));
    CU_ASSERT(is_taken("plain.kvs", &quick) && exists("plain.kvs/manifest.h5"));
    snapshot_lock_release(NULL);
}

static void check_held(const char *dir, const snapshot_lock_rules *rules, long pid, const char *host) {
    snapshot_lock *l = NULL;
    char who[512];
    snprintf(who, sizeof who, "locked by process %ld on %s since 20", pid, host);
    CHECK_REFUSED(snapshot_lock_take_within(at(dir), rules, &l), who);
    CU_ASSERT(!l && strstr(status_text(), dir) != NULL);
}

static void held(void) {
    snapshot_lock *l = NULL;
    lock_holder self = lock_holder_self();
    CHECK_OK(snapshot_lock_take(at("held.kvs"), &l));
    check_held("held.kvs", &quick, self.pid, self.host);
    snapshot_lock_rules none = quick;
    none.no_advisory = true;
    check_held("held.kvs", &none, self.pid, self.host);
    pid_t child = fork();
    if (child == 0) {
        snapshot_lock *second = NULL;
        status st = snapshot_lock_take(at("held.kvs"), &second);
        _exit(st == STATUS_REFUSED && strstr(status_text(), "locked by process") ? 0 : 1);
    }
    int how = -1;
    waitpid(child, &how, 0);
    CU_ASSERT_EQUAL(how, 0);
    CHECK_OK(snapshot_lock_check(l));
    snapshot_lock_release(l);
    CU_ASSERT(is_taken("held.kvs", &quick));
}

/* A job that took the lock and was killed: its file is there, and its advisory lock is not. */
static void killed_holder(const char *dir, const snapshot_lock_rules *rules) {
    int ready[2];
    CU_ASSERT(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        snapshot_lock *l = NULL;
        char good = snapshot_lock_take_within(at(dir), rules, &l) == STATUS_OK;
        if (write(ready[1], &good, 1) != 1) _exit(1);
        for (;;)
            pause();
    }
    char good = 0;
    CU_ASSERT(read(ready[0], &good, 1) == 1 && good);
    close(ready[0]);
    close(ready[1]);
    lock_holder self = lock_holder_self();
    check_held(dir, rules, (long)child, rules->host ? rules->host : self.host);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    char name[64], who[128];
    snprintf(name, sizeof name, "%s/lock", dir);
    CU_ASSERT(exists(name));
    capture_begin();
    CU_ASSERT(is_taken(dir, rules));
    char *said = capture_end();
    snprintf(who, sizeof who, "taken over from process %ld on ", (long)child);
    CU_ASSERT(said && strstr(said, who) && strstr(said, "which is gone\n") && !strstr(said, "watching"));
    free(said);
    CU_ASSERT(!exists(name));
}

static void killed_holders(void) {
    killed_holder("killed.kvs", &alone);
    snapshot_lock_rules none = alone;
    none.no_advisory = true;
    killed_holder("killed.kvs", &none);
    snapshot_lock_rules no_links = alone;
    no_links.no_links = true;
    killed_holder("killed.kvs", &no_links);
}

/* Only the content tells, as there are no advisory locks. */
static void content_alone(void) {
    lock_holder self = lock_holder_self();
    snapshot_lock_rules none = alone;
    none.no_advisory = true;
    write_lock("alone.kvs", self.host, self.pid, self.process_start);
    check_held("alone.kvs", &none, self.pid, self.host);
    write_lock("alone.kvs", self.host, self.pid, 0);
    check_held("alone.kvs", &none, self.pid, self.host);
    capture_begin();
    write_lock("alone.kvs", self.host, self.pid, self.process_start + 1); /* the pid is another's by now */
    CU_ASSERT(is_taken("alone.kvs", &none));
    write_lock("alone.kvs", self.host, dead_pid(), self.process_start);
    CU_ASSERT(is_taken("alone.kvs", &none));
    free(capture_end());
}

/* ---- holders on other hosts ---- */

static void gone_elsewhere(void) {
    snapshot_lock_rules rules = alone;
    for (int i = 0; i < 2; i++) {
        rules.no_advisory = i;
        write_lock("far.kvs", "elsewhere", (long)getpid(), 5);
        double begin = seconds_passed;
        capture_begin();
        CU_ASSERT(is_taken("far.kvs", &rules));
        char *said = capture_end();
        CU_ASSERT(seconds_passed - begin >= rules.watch_seconds);
        CU_ASSERT(strstr(said, "on elsewhere since 2026-01-02T03:04:05Z; watching for 15 s") &&
                  strstr(said, "on elsewhere since 2026-01-02T03:04:05Z, which is gone"));
        free(said);
        CU_ASSERT(!exists("far.kvs"));
    }
}

/* Its lock is taken by a process here that says it is elsewhere and whose advisory lock is not seen. */
static void alive_elsewhere(void) {
    snapshot_lock_rules there = quick;
    there.no_advisory = true;
    there.host = "elsewhere";
    snapshot_lock *l = NULL;
    CHECK_OK(snapshot_lock_take_within(at("far.kvs"), &there, &l));
    capture_begin();
    double begin = clock_seconds();
    check_held("far.kvs", &quick, (long)getpid(), "elsewhere");
    CU_ASSERT(clock_seconds() - begin < quick.watch_seconds);
    usleep(300000);
    check_held("far.kvs", &quick, (long)getpid(), "elsewhere"); /* it is touched on and on */
    free(capture_end());
    CHECK_OK(snapshot_lock_check(l));
    snapshot_lock_release(l);
}

/* While it is watched, the file goes, or another comes. */
static void changes_while_watched(void) {
    for (int kind = 0; kind < 2; kind++) {
        write_lock("far.kvs", "elsewhere", 77, 5);
        pid_t child = fork();
        if (child == 0) {
            usleep(150000);
            if (kind == 0) _exit(unlink(at("far.kvs/lock")) == 0 ? 0 : 1);
            write_lock("new", "third", 78, 6);
            _exit(rename(at("new/lock"), at("far.kvs/lock")) == 0 ? 0 : 1);
        }
        capture_begin();
        double begin = clock_seconds();
        if (kind == 0) CU_ASSERT(is_taken("far.kvs", &quick));
        if (kind == 1) check_held("far.kvs", &quick, 78, "third");
        CU_ASSERT(clock_seconds() - begin < quick.watch_seconds);
        free(capture_end());
        int how = -1;
        waitpid(child, &how, 0);
        CU_ASSERT_EQUAL(how, 0);
    }
    unlink(at("far.kvs/lock"));
}

/* Damaged, empty, or no lock at all: watched, then taken over. */
static void unreadable_content(void) {
    static const char *const texts[] = {"", "host=", "\x01\xFF%s%n", "a text of somebody\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mkdir(at("odd.kvs"), 0777);
        write_text("odd.kvs/lock", texts[i]);
        capture_begin();
        CU_ASSERT(is_taken("odd.kvs", &alone));
        char *said = capture_end();
        CU_ASSERT(strstr(said, "a job whose name is not in it; watching") && !strchr(said, '%'));
        free(said);
    }
    CU_ASSERT(!exists("odd.kvs"));
}

/* ---- races ---- */

enum { N_PROCESSES = 20 };

typedef struct arena {
    atomic_int n_ready, n_taken, n_done, n_wrong, n_inside;
    atomic_bool go;
} arena;

static arena *new_arena(void) {
    void *shared = mmap(NULL, sizeof(arena), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? NULL : shared;
}

static void wait_for(atomic_int *count, int n) {
    for (double begin = clock_seconds(); atomic_load(count) < n && clock_seconds() - begin < 60;)
        usleep(100);
}

/* One of those that take it at the same moment; who gets it holds it until all know. */
static void race_once(arena *a, const char *dir, const snapshot_lock_rules *rules) {
    snapshot_lock *l = NULL;
    atomic_fetch_add(&a->n_ready, 1);
    while (!atomic_load(&a->go))
        sched_yield();
    status st = snapshot_lock_take_within(dir, rules, &l);
    if (st == STATUS_OK) atomic_fetch_add(&a->n_taken, 1);
    if (st == STATUS_FAILED || (st == STATUS_REFUSED && !strstr(status_text(), "locked by")))
        atomic_fetch_add(&a->n_wrong, 1);
    atomic_fetch_add(&a->n_done, 1);
    wait_for(&a->n_done, N_PROCESSES);
    snapshot_lock_release(l);
}

/* n_rounds of 20 processes; a lock of a dead process of that host (NULL: none) is there before. */
static void race(int n_rounds, const char *stale_host, const snapshot_lock_rules *rules, bool own_hosts) {
    capture_begin();
    int n_left = 0;
    if (harness_is_slow()) n_rounds = (n_rounds + 9) / 10;
    for (int round = 0; round < n_rounds; round++) {
        arena *a = new_arena();
        if (stale_host) write_lock("race.kvs", stale_host, dead_pid(), 5);
        const char *dir = at("race.kvs");
        pid_t children[N_PROCESSES];
        for (int i = 0; i < N_PROCESSES; i++) {
            if ((children[i] = fork()) != 0) continue;
            char host[16];
            snprintf(host, sizeof host, "host%d", i);
            snapshot_lock_rules mine = *rules;
            if (own_hosts) mine.host = host;
            race_once(a, dir, &mine);
            _exit(0);
        }
        wait_for(&a->n_ready, N_PROCESSES);
        atomic_store(&a->go, true);
        for (int i = 0; i < N_PROCESSES; i++)
            waitpid(children[i], NULL, 0);
        CU_ASSERT_EQUAL(atomic_load(&a->n_taken), 1);
        CU_ASSERT_EQUAL(atomic_load(&a->n_wrong), 0);
        CU_ASSERT_EQUAL(atomic_load(&a->n_done), N_PROCESSES);
        n_left += exists("race.kvs");
        munmap(a, sizeof *a);
    }
    free(capture_end());
    CU_ASSERT_EQUAL(n_left, 0); /* no lock, nor anything beside it */
}

static void races(void) {
    lock_holder self = lock_holder_self();
    race(60, NULL, &quick, false);
    race(60, self.host, &quick, false);
}

/* Where advisory locks do not reach: the last to put its file there has it. */
static void races_without_advisory_locks(void) {
    snapshot_lock_rules rules = {.touch_seconds = 0.4, .watch_seconds = 1.2, .no_advisory = true};
    race(3, NULL, &rules, true);
    race(2, "elsewhere", &rules, true);
    rules.no_links = true;
    race(1, NULL, &rules, true);
}

/* The pid in the lock; 0: none. */
static long locked_by(const char *name) {
    size_t n;
    char *text = harness_read_file(at(name), &n);
    lock_holder h = {0};
    if (text && !lock_holder_parse(text, n, &h)) h.pid = 0;
    free(text);
    return h.pid;
}

/* A child takes over late.kvs, where another's lock comes at a bad moment: it must see that and be refused.
 * The exit status of the child: 0 when it was. */
static int late_rival(const snapshot_lock_rules *rules, bool after_rename) {
    long dead = dead_pid();
    write_lock("late.kvs", lock_holder_self().host, dead, 5);
    write_lock("rival", lock_holder_self().host, (long)getpid(), 0);
    pid_t child = fork();
    if (child == 0) {
        snapshot_lock *l = NULL;
        char who[64];
        snprintf(who, sizeof who, "locked by process %ld on ", (long)getppid());
        status st = snapshot_lock_take_within(at("late.kvs"), rules, &l);
        _exit(st == STATUS_REFUSED && strstr(status_text(), who) ? 0 : 1);
    }
    if (after_rename) {
        double begin = clock_seconds();
        while (locked_by("late.kvs/lock") == dead && clock_seconds() - begin < 20)
            usleep(500);
    } else {
        usleep(300000); /* it sleeps for a second before it renames */
    }
    CU_ASSERT_EQUAL(locked_by("late.kvs/lock"), after_rename ? (long)child : dead);
    CU_ASSERT(rename(at("rival/lock"), at("late.kvs/lock")) == 0);
    int how = -1;
    waitpid(child, &how, 0);
    CU_ASSERT_EQUAL(locked_by("late.kvs/lock"), (long)getpid());
    unlink(at("late.kvs/lock"));
    return how;
}

static void late_rivals(void) {
    const snapshot_lock_rules rules = {.touch_seconds = 0.5, .watch_seconds = 2, .no_advisory = true};
    CU_ASSERT_EQUAL(late_rival(&rules, true), 0);
    CHECK_OK(fault_arm("lock:0:slow", 0));
    CU_ASSERT_EQUAL(late_rival(&rules, false), 0);
    CHECK_OK(fault_arm(NULL, 0));
}

/* Take and release, over and over: never two at once, and the directory comes and goes. */
static void take_turns(void) {
    enum { N_TURNS = 15, N_TAKERS = 8 };
    arena *a = new_arena();
    const char *dir = at("turns.kvs");
    pid_t children[N_TAKERS];
    for (int i = 0; i < N_TAKERS; i++) {
        if ((children[i] = fork()) != 0) continue;
        double begin = clock_seconds();
        for (int n = 0; n < N_TURNS && clock_seconds() - begin < 60;) {
            snapshot_lock *l = NULL;
            status st = snapshot_lock_take_within(dir, &quick, &l);
            if (st == STATUS_FAILED || (st == STATUS_REFUSED && !strstr(status_text(), "locked by")))
                atomic_fetch_add(&a->n_wrong, 1);
            if (st != STATUS_OK) continue;
            if (atomic_fetch_add(&a->n_inside, 1) != 0) atomic_fetch_add(&a->n_wrong, 1);
            usleep(200);
            atomic_fetch_sub(&a->n_inside, 1);
            snapshot_lock_release(l);
            atomic_fetch_add(&a->n_taken, 1);
            n++;
        }
        _exit(0);
    }
    for (int i = 0; i < N_TAKERS; i++)
        waitpid(children[i], NULL, 0);
    CU_ASSERT_EQUAL(atomic_load(&a->n_taken), N_TURNS * N_TAKERS);
    CU_ASSERT_EQUAL(atomic_load(&a->n_wrong), 0);
    CU_ASSERT(!exists("turns.kvs"));
    munmap(a, sizeof *a);
}

/* ---- lost, and what cannot be ---- */

static void lost(void) {
    snapshot_lock *l = NULL;
    CHECK_OK(snapshot_lock_take_within(at("lost.kvs"), &quick, &l));
    unlink(at("lost.kvs/lock"));
    CU_ASSERT(snapshot_lock_check(l) == STATUS_FAILED && strstr(status_text(), "no longer ours"));
    write_lock("lost.kvs", "elsewhere", 5, 5);
    CU_ASSERT(snapshot_lock_check(l) == STATUS_FAILED);
    snapshot_lock_release(l);
    CU_ASSERT(exists("lost.kvs/lock")); /* of another */
}

static void bad_paths(void) {
    snapshot_lock *l = NULL;
    CHECK_REFUSED(snapshot_lock_take(at("no/such.kvs"), &l), "directory that it should be in does not exist");
    CU_ASSERT(!exists("no"));
    write_text("file.kvs", "x");
    CHECK_REFUSED(snapshot_lock_take(at("file.kvs"), &l), "file.kvs: a file, but a snapshot is a directory");
    CHECK_REFUSED(snapshot_lock_take(at("file.kvs/below"), &l), "Not a directory");
    mkdir(at("odd.kvs"), 0777);
    mkdir(at("odd.kvs/lock"), 0777);
    CHECK_REFUSED(snapshot_lock_take(at("odd.kvs"), &l), "odd.kvs/lock: ");
    rmdir(at("odd.kvs/lock"));
    CU_ASSERT(mkfifo(at("odd.kvs/lock"), 0666) == 0);
    CHECK_REFUSED(snapshot_lock_take(at("odd.kvs"), &l), "not a file");
    unlink(at("odd.kvs/lock"));
    write_text("target", "of the link");
    CU_ASSERT(symlink(at("target"), at("odd.kvs/lock")) == 0);
    CHECK_REFUSED(snapshot_lock_take(at("odd.kvs"), &l), "odd.kvs/lock: the lock cannot be opened");
    CU_ASSERT(symlink(at("nowhere"), at("dangling.kvs")) == 0);
    CHECK_REFUSED(snapshot_lock_take(at("dangling.kvs"), &l), "dangling.kvs: cannot be entered");
    CU_ASSERT(!l);
}

/* As a user who may not write: root may always. */
static void unwritable(void) {
    snapshot_lock *l = NULL;
    bool is_root = geteuid() == 0;
    mkdir(at("closed.kvs"), 0777);
    write_text("closed.kvs/lock", "host=a pid=1 process_start=0 taken=2026-11-21T09:30:00Z\n");
    mkdir(at("empty.kvs"), 0777);
    mkdir(at("parent"), 0777);
    chmod(at("closed.kvs/lock"), 0444);
    chmod(at("empty.kvs"), 0555);
    chmod(at("parent"), 0555);
    chmod(harness_temp_dir(), 0755);
    if (is_root) CU_ASSERT(seteuid(65534) == 0);
    CHECK_REFUSED(snapshot_lock_take(at("empty.kvs"), &l),
                  "empty.kvs: the snapshot cannot be written: Permission denied");
    CHECK_REFUSED(snapshot_lock_take(at("parent/new.kvs"), &l),
                  "new.kvs: the directory of the snapshot cannot be made: Permission denied");
    CHECK_REFUSED(snapshot_lock_take(at("closed.kvs"), &l),
                  "locked by process 1 on a since 2026-11-21T09:30:00Z, and cannot be written");
    if (is_root) CU_ASSERT(seteuid(0) == 0);
    chmod(at("empty.kvs"), 0755);
    chmod(at("parent"), 0755);
    CU_ASSERT(!l && !exists("empty.kvs/lock") && !exists("parent/new.kvs"));
}

static void failures(void) {
    snapshot_lock *l = NULL;
    CHECK_OK(fault_arm("lock", 0));
    CU_ASSERT(snapshot_lock_take(at("fault.kvs"), &l) == STATUS_FAILED && !l);
    CU_ASSERT(!exists("fault.kvs"));
    lock_holder self = lock_holder_self();
    write_lock("fault.kvs", self.host, dead_pid(), 5);
    CHECK_OK(fault_arm("lock", 0));
    CU_ASSERT(snapshot_lock_take(at("fault.kvs"), &l) == STATUS_FAILED && !l);
    CU_ASSERT(exists("fault.kvs/lock")); /* as before */
    CHECK_OK(fault_arm("lock:0:kill", 0));
    pid_t child = fork();
    if (child == 0) {
        (void)snapshot_lock_take(at("fault.kvs"), &l);
        _exit(0);
    }
    int how = 0;
    waitpid(child, &how, 0);
    CU_ASSERT(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    CHECK_OK(fault_arm(NULL, 0));
    write_text("fault.kvs/clock.tmp", "");
    write_text("fault.kvs/lock.h5", "");
    capture_begin();
    CU_ASSERT(is_taken("fault.kvs", &quick));
    free(capture_end());
    CU_ASSERT(unlink(at("fault.kvs/clock.tmp")) == 0 && unlink(at("fault.kvs/lock.h5")) == 0);
    CU_ASSERT(rmdir(at("fault.kvs")) == 0); /* nothing was left of the killed one */
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"lines of holders", holder_lines},
        {"processes", processes},
        {"take and release", take_and_release},
        {"held", held},
        {"killed holders", killed_holders},
        {"content alone", content_alone},
        {"gone elsewhere", gone_elsewhere},
        {"alive elsewhere", alive_elsewhere},
        {"changes while watched", changes_while_watched},
        {"unreadable content", unreadable_content},
        {"races", races},
        {"races without advisory locks", races_without_advisory_locks},
        {"late rivals", late_rivals},
        {"take turns", take_turns},
        {"lost", lost},
        {"bad paths", bad_paths},
        {"unwritable", unwritable},
        {"failures on demand", failures},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "snapshot lock", tests);
}
