#include "io/snapshot/snapshot_lock_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/files.h"
#include "io/snapshot/lock_holder.h"
#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/base/process.h"

static const snapshot_lock_rules usual_rules = {.touch_seconds = 5, .watch_seconds = 15};

#define LOCK_NAME "lock"

enum { ATTEMPTS = 1000 }; /* while others take, release and remove it */

struct snapshot_lock {
    char *dir, *path; /* of the lock's file */
    snapshot_lock_rules rules;
    lock_holder self;
    int fd; /* of the file, which is locked; -1: none yet */
    pthread_t toucher;
    bool has_toucher, stop;
    pthread_mutex_t mutex;
    pthread_cond_t stopped;
};

/* What an attempt came to. */
typedef enum outcome {
    TAKEN,
    TRY_AGAIN, /* it changed under our hands */
    REFUSED,   /* status_text() says why; `st` of the attempt its class */
} outcome;

/* What stands in a file of the lock. */
typedef struct content {
    char bytes[LOCK_LINE_BYTES];
    size_t n;
    bool is_known; /* it is the line of a holder */
    lock_holder holder;
    struct stat about;
} content;

static double now_seconds(const snapshot_lock *l) {
    return l->rules.clock ? *l->rules.clock : clock_seconds();
}

static void pause_seconds(const snapshot_lock *l, double seconds) {
    if (l->rules.clock) {
        *l->rules.clock += seconds;
        return;
    }
    const double moment = 0.1;
    for (double left = seconds, end = clock_seconds() + seconds; left > 0; left = end - clock_seconds()) {
        alive_say();
        nanosleep(&(struct timespec){0, (long)((left < moment ? left : moment) * 1e9)}, NULL);
    }
}

/* ---- files ---- */

static file_lock_outcome lock_file(const snapshot_lock *l, int fd) {
    return l->rules.no_advisory ? FILE_LOCK_NONE : file_lock(fd);
}

static content read_content(int fd) {
    content c = {.n = 0};
    ssize_t n = pread(fd, c.bytes, sizeof c.bytes, 0);
    if (n > 0) c.n = (size_t)n;
    if (fstat(fd, &c.about) != 0) c.about = (struct stat){0};
    c.is_known = lock_holder_parse(c.bytes, c.n, &c.holder);
    return c;
}

static bool is_same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Does the path still lead to this open file? */
static bool is_at_path(const snapshot_lock *l, int fd) {
    struct stat by_path, by_fd;
    return lstat(l->path, &by_path) == 0 && fstat(fd, &by_fd) == 0 && is_same_file(&by_path, &by_fd);
}

/* Opened afresh, as network file systems look at the server then. -1 with errno. */
static int open_existing(const snapshot_lock *l, int flags) {
    return open(l->path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

/* ---- what is said ---- */

static const char *holder_text(const content *c, char *text, size_t n) {
    if (c->is_known)
        snprintf(text, n, "process %ld on %s since %s", c->holder.pid, c->holder.host, c->holder.taken);
    else
        snprintf(text, n, "a job whose name is not in it");
    return text;
}

static outcome refuse_held(const snapshot_lock *l, const content *c, status *st) {
    char who[LOCK_LINE_BYTES];
    *st = status_refuse("%s: the snapshot is in use: locked by %s; wait for its end, or name another one",
                        l->path, holder_text(c, who, sizeof who));
    return REFUSED;
}

/* errno of what was tried on `path`: what the user can change is refused. */
static outcome refuse_path(const char *path, const char *what, int error, status *st) {
    bool of_user = error == EACCES || error == EPERM || error == EROFS || error == ENOENT ||
                   error == ENOTDIR || error == ENAMETOOLONG || error == EISDIR || error == ELOOP;
    *st = of_user ? status_refuse("%s: %s: %s", path, what, strerror(error))
                  : status_fail("%s: %s: %s", path, what, strerror(error));
    return REFUSED;
}

/* ---- taking ---- */

/* A file of ours beside the lock, written and locked; its path is released with free(). */
static outcome make_file(snapshot_lock *l, char **out_path, status *st) {
    char line[LOCK_LINE_BYTES];
    size_t n = lock_holder_write(&l->self, line), room = strlen(l->path) + LOCK_LINE_BYTES;
    char *path = mem_new(room, 1);
    for (int number = 0; l->fd < 0; number++) {
        snprintf(path, room, "%s.%.100s.%ld.%d.tmp", l->path, l->self.host, l->self.pid, number);
        l->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (l->fd < 0 && errno != EEXIST) break;
    }
    int error = errno;
    if (l->fd >= 0) {
        ssize_t written = pwrite(l->fd, line, n, 0);
        error = written == (ssize_t)n ? 0 : written < 0 ? errno : ENOSPC;
        if (error) {
            unlink(path);
            close(l->fd);
            l->fd = -1;
        }
    }
    if (l->fd < 0) {
        free(path);
        if (error == ENOENT) return TRY_AGAIN; /* the directory was removed by who released it */
        return refuse_path(l->dir, "the snapshot cannot be written", error, st);
    }
    lock_file(l, l->fd);
    *out_path = path;
    return TAKEN;
}

static void drop_file(snapshot_lock *l) {
    close(l->fd);
    l->fd = -1;
}

/* Where two may have renamed their files over the lock: the last one has it. */
static outcome settle(snapshot_lock *l, status *st) {
    pause_seconds(l, l->rules.touch_seconds);
    if (is_at_path(l, l->fd)) return TAKEN;
    drop_file(l);
    int fd = open_existing(l, O_RDONLY);
    if (fd < 0) return TRY_AGAIN;
    content c = read_content(fd);
    close(fd);
    return refuse_held(l, &c, st);
}

/* Put a file of ours in the place of the lock: of `replaced`, or of none when that is -1. */
static outcome put_file(snapshot_lock *l, int replaced, bool may_race, status *st) {
    char *path;
    outcome o = make_file(l, &path, st);
    if (o != TAKEN) return o;
    int error = 0;
    *st = fault_at("lock");
    if (*st != STATUS_OK) {
        o = REFUSED;
    } else if (replaced < 0) {
        bool no_links = l->rules.no_links;
        error = no_links ? EPERM : link(path, l->path) == 0 ? 0 : errno;
        no_links = error == EPERM || error == ENOSYS || error == EOPNOTSUPP || error == EMLINK;
        if (no_links) {
            may_race = true;
            error = access(l->path, F_OK) == 0 ? EEXIST : rename(path, l->path) == 0 ? 0 : errno;
        }
    } else if (!is_at_path(l, replaced)) {
        error = EEXIST;
    } else {
        error = rename(path, l->path) == 0 ? 0 : errno;
    }
    unlink(path);
    free(path);
    if (error == EEXIST || error == ENOENT) /* another was faster: remove_leftovers may have had our file */
        o = TRY_AGAIN;
    else if (error)
        o = refuse_path(l->path, "the lock cannot be made", error, st);
    if (o != TAKEN) {
        drop_file(l);
        return o;
    }
    return may_race ? settle(l, st) : TAKEN;
}

/* Does anybody touch, replace or remove it while we watch? TAKEN: nobody. */
static outcome watch(snapshot_lock *l, const content *first, status *st) {
    char who[LOCK_LINE_BYTES];
    fprintf(stderr, "kvarve: %s: locked by %s; watching for %.3g s whether that is alive\n", l->path,
            holder_text(first, who, sizeof who), l->rules.watch_seconds);
    double begin = now_seconds(l);
    while (now_seconds(l) - begin < l->rules.watch_seconds) {
        pause_seconds(l, l->rules.touch_seconds / 5);
        int fd = open_existing(l, O_RDONLY);
        if (fd < 0) return TRY_AGAIN;
        content now = read_content(fd);
        close(fd);
        bool same = is_same_file(&now.about, &first->about) && now.n == first->n &&
                    !memcmp(now.bytes, first->bytes, now.n) &&
                    now.about.st_mtim.tv_sec == first->about.st_mtim.tv_sec &&
                    now.about.st_mtim.tv_nsec == first->about.st_mtim.tv_nsec;
        if (!same) return refuse_held(l, &now, st);
    }
    return TAKEN;
}

/* A lock is there, open as fd. */
static outcome take_over(snapshot_lock *l, int fd, status *st) {
    file_lock_outcome how = lock_file(l, fd);
    if (!is_at_path(l, fd)) return TRY_AGAIN;
    content c = read_content(fd);
    if (!S_ISREG(c.about.st_mode)) {
        *st = status_refuse("%s: not a file, so it cannot be the lock of a snapshot", l->path);
        return REFUSED;
    }
    if (how == FILE_LOCK_HELD) return refuse_held(l, &c, st);
    bool is_local = c.is_known && !strcmp(c.holder.host, l->self.host);
    if (is_local && how == FILE_LOCK_NONE && process_is_alive(c.holder.pid, c.holder.process_start))
        return refuse_held(l, &c, st);
    if (!is_local) {
        outcome o = watch(l, &c, st);
        if (o != TAKEN) return o;
    }
    outcome o = put_file(l, fd, !is_local || how == FILE_LOCK_NONE, st);
    char who[LOCK_LINE_BYTES];
    if (o == TAKEN)
        fprintf(stderr, "kvarve: %s: taken over from %s, which is gone\n", l->path,
                holder_text(&c, who, sizeof who));
    return o;
}

static outcome attempt(snapshot_lock *l, status *st) {
    int fd = open_existing(l, O_RDWR);
    if (fd >= 0) {
        outcome o = take_over(l, fd, st);
        close(fd);
        return o;
    }
    if (errno == ENOENT) return put_file(l, -1, false, st);
    int error = errno;
    if (error == ENOTDIR) {
        *st = status_refuse("%s: a file, but a snapshot is a directory: name another one", l->dir);
        return REFUSED;
    }
    if ((fd = open_existing(l, O_RDONLY)) < 0)
        return refuse_path(l->path, "the lock cannot be opened", error, st);
    content c = read_content(fd); /* of another user */
    close(fd);
    char who[LOCK_LINE_BYTES];
    *st = status_refuse("%s: locked by %s, and cannot be written: %s; remove it if that job is gone", l->path,
                        holder_text(&c, who, sizeof who), strerror(error));
    return REFUSED;
}

/* ---- holding ---- */

static void *touch_regularly(void *arg) {
    snapshot_lock *l = arg;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    pthread_mutex_lock(&l->mutex);
    while (!l->stop) {
        int64_t ns = next.tv_nsec + (int64_t)(l->rules.touch_seconds * 1e9);
        next.tv_sec += (time_t)(ns / 1000000000);
        next.tv_nsec = (long)(ns % 1000000000);
        while (!l->stop && pthread_cond_timedwait(&l->stopped, &l->mutex, &next) == 0)
            continue;
        if (!l->stop) futimens(l->fd, NULL);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

static bool is_beside(const char *name) {
    size_t n = strlen(name);
    return n > 9 && !strncmp(name, LOCK_NAME ".", sizeof LOCK_NAME) && !strcmp(name + n - 4, ".tmp");
}

bool snapshot_lock_is_name(const char *name) {
    return !strcmp(name, LOCK_NAME) || is_beside(name);
}

/* Files beside the lock of processes that were killed while they made them. One that is being made at this
 * moment goes too, and who makes it sees that the lock is taken. */
static void remove_leftovers(const snapshot_lock *l) {
    DIR *dir = opendir(l->dir);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir));)
        if (is_beside(e->d_name)) unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
}

/* Signals are for the threads that compute. */
static status start_toucher(snapshot_lock *l) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->stopped, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&l->mutex, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&l->toucher, NULL, touch_regularly, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    l->has_toucher = error == 0;
    return error ? status_fail("%s: no thread to keep the lock: %s", l->path, strerror(error)) : STATUS_OK;
}

static outcome make_directory(const char *dir, bool *was_made, status *st) {
    *was_made = mkdir(dir, 0777) == 0;
    if (*was_made || errno == EEXIST) return TAKEN;
    if (errno == ENOENT)
        *st = status_refuse("%s: the directory that it should be in does not exist", dir);
    else
        refuse_path(dir, "the directory of the snapshot cannot be made", errno, st);
    return REFUSED;
}

status snapshot_lock_take_within(const char *dir, const snapshot_lock_rules *rules, snapshot_lock **out) {
    snapshot_lock *l = mem_new(1, sizeof *l);
    *l = (snapshot_lock){.rules = *rules, .self = lock_holder_self(), .fd = -1};
    l->dir = mem_copy_text(dir, strlen(dir));
    l->path = file_path(dir, LOCK_NAME);
    if (rules->host) snprintf(l->self.host, sizeof l->self.host, "%s", rules->host);

    status st = STATUS_OK;
    bool was_made = false, made_now;
    outcome o = TRY_AGAIN;
    for (int i = 0; o == TRY_AGAIN && i < ATTEMPTS; i++) {
        if (i) pause_seconds(l, 0.001);
        o = make_directory(dir, &made_now, &st);
        was_made |= made_now;
        if (o == TAKEN) o = attempt(l, &st);
    }
    if (o == TRY_AGAIN)
        st = status_refuse("%s: cannot be entered, or others take and release its lock all the time", dir);
    if (st == STATUS_OK) st = start_toucher(l);
    if (st == STATUS_OK) {
        remove_leftovers(l);
        *out = l;
        return STATUS_OK;
    }
    if (l->fd >= 0) {
        snapshot_lock_release(l);
        return st;
    }
    if (was_made) rmdir(dir);
    free(l->dir);
    free(l->path);
    free(l);
    return st;
}

status snapshot_lock_take(const char *dir, snapshot_lock **out) {
    return snapshot_lock_take_within(dir, &usual_rules, out);
}

status snapshot_lock_check(const snapshot_lock *l) {
    if (is_at_path(l, l->fd)) return STATUS_OK;
    return status_fail(
        "%s: the lock is no longer ours: another job took the snapshot over, or it was removed", l->path);
}

void snapshot_lock_release(snapshot_lock *l) {
    if (!l) return;
    if (l->has_toucher) {
        pthread_mutex_lock(&l->mutex);
        l->stop = true;
        pthread_cond_signal(&l->stopped);
        pthread_mutex_unlock(&l->mutex);
        pthread_join(l->toucher, NULL);
    }
    pthread_cond_destroy(&l->stopped);
    pthread_mutex_destroy(&l->mutex);
    if (is_at_path(l, l->fd)) {
        unlink(l->path);
        rmdir(l->dir); /* fails when something else is in it */
    }
    close(l->fd);
    free(l->dir);
    free(l->path);
    free(l);
}
