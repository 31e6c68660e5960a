#define _GNU_SOURCE /* O_DIRECT, O_TMPFILE: Linux only */
#include "io/tier/page_file_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/files.h"
#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"

enum { MAX_AGAIN = 1000, RESERVE_BYTES = 64 << 20 };

static void *new_aligned(size_t n_bytes) {
    void *bytes = aligned_alloc(PAGE_FILE_ALIGNMENT, n_bytes);
    if (!bytes) status_die("out of memory: wanted %zu bytes", n_bytes);
    return memset(bytes, 0, n_bytes);
}

/* ---- open and close ---- */

/* A file without a name; on file systems that cannot make one, it has a name for a moment. -1: errno. */
static int open_nameless(const char *dir) {
#ifdef O_TMPFILE
    int unnamed = open(dir, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (unnamed >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return unnamed;
#endif
    char *path = file_path(dir, ".kvarve-pages-XXXXXX");
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0 && unlink(path) != 0) {
        close(fd);
        fd = -1;
    }
    int error = errno;
    free(path);
    errno = error;
    return fd;
}

/* Some file systems take the flag and then refuse to move anything. */
static bool turn_direct(int fd) {
#ifdef O_DIRECT
    int flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) return false;
    void *trial = new_aligned(PAGE_FILE_ALIGNMENT);
    bool is_refused = pwrite(fd, trial, PAGE_FILE_ALIGNMENT, 0) < 0 && errno == EINVAL;
    free(trial);
    if (is_refused) fcntl(fd, F_SETFL, flags);
    return !is_refused;
#else
    (void)fd;
    return false;
#endif
}

/* Its size is that of the cap from the beginning on, with nothing in it: writes that make a file longer wait
 * for each other. */
static status open_file(page_file *f) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < (rlim_t)f->n_bytes)
        return status_refuse(
            "%s: a file for KV pages of %.1f MiB is larger than this process may make (ulimit "
            "-f: %.1f MiB)",
            f->dir, mem_mib((uint64_t)f->n_bytes), mem_mib(limit.rlim_cur));
    f->fd = open_nameless(f->dir);
    if (f->fd < 0)
        return status_refuse("%s: no file for KV pages can be made here: %s", f->dir, strerror(errno));
    f->is_direct = turn_direct(f->fd);
    if (ftruncate(f->fd, (off_t)f->n_bytes) != 0)
        return status_refuse("%s: no file for KV pages of %.1f MiB can be made here: %s", f->dir,
                             mem_mib((uint64_t)f->n_bytes), strerror(errno));
    return STATUS_OK;
}

static status open_engine(page_file *f, page_file_engine first) {
    static const page_engine *const engines[N_PAGE_FILE_ENGINES] = {
#ifdef KVARVE_HAVE_LIBURING
        [PAGE_FILE_IO_URING] = &page_engine_io_uring,
#endif
        [PAGE_FILE_THREADS] = &page_engine_threads,
    };
    char why_not[100] = "";
    int error = 0;
    for (int i = (int)first; i < N_PAGE_FILE_ENGINES; i++) {
        f->engine = engines[i];
        if (!f->engine) {
            snprintf(why_not, sizeof why_not, " (io_uring: not in this build)");
            continue;
        }
        if ((error = f->engine->open(f)) == 0) {
            snprintf(f->engine_text, sizeof f->engine_text, "%s%s", f->engine->name, why_not);
            return STATUS_OK;
        }
        snprintf(why_not, sizeof why_not, " (%s: %s)", f->engine->name, strerror(error));
    }
    f->engine = NULL;
    return status_fail("%s: no thread for KV pages can be started: %s", f->dir, strerror(error));
}

int page_file_start_thread(page_file *f, void *(*run)(void *), pthread_t *out) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(out, NULL, run, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static void release(page_file *f) {
    if (f->fd >= 0) close(f->fd);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->work);
    pthread_cond_destroy(&f->changed);
    for (int32_t i = 0; i < f->n_slots; i++)
        free(f->slots[i]);
    free(f->slots);
    free(f->records);
    record_numbers_release(&f->numbers);
    free(f->dir);
    free(f);
}

status page_file_open(const char *dir, int64_t cap_bytes, size_t record_bytes, int depth,
                      page_file_engine engine, page_file **out) {
    assert(record_bytes > 0 && record_bytes <= INT_MAX / 2 && depth > 0 && depth <= PAGE_FILE_MAX_DEPTH);
    const size_t buffer_bytes =
        (record_bytes + PAGE_FILE_ALIGNMENT - 1) / PAGE_FILE_ALIGNMENT * PAGE_FILE_ALIGNMENT;
    int64_t n_records = cap_bytes / (int64_t)buffer_bytes;
    if (n_records < 1)
        return status_refuse("%s: %lld bytes hold no KV page: one takes %zu, a multiple of %d", dir,
                             (long long)cap_bytes, buffer_bytes, PAGE_FILE_ALIGNMENT);
    if (n_records > INT_MAX) n_records = INT_MAX;
    page_file *f = mem_new(1, sizeof *f);
    *f = (page_file){.dir = mem_copy_text(dir, strlen(dir)),
                     .fd = -1,
                     .depth = depth,
                     .record_bytes = record_bytes,
                     .buffer_bytes = buffer_bytes,
                     .n_bytes = n_records * (int64_t)buffer_bytes,
                     .numbers.n_all = (int)n_records,
                     .queue_end = &f->queue};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->work, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&f->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    status st = open_file(f);
    if (st == STATUS_OK) st = open_engine(f, engine);
    if (st != STATUS_OK) {
        release(f);
        return st;
    }
    *out = f;
    return STATUS_OK;
}

/* Under the lock: until `changed`, or until that time: false. */
static bool wait_until(page_file *f, double until) {
    double whole = floor(until);
    struct timespec at = {.tv_sec = (time_t)whole, .tv_nsec = (long)((until - whole) * 1e9)};
    return pthread_cond_timedwait(&f->changed, &f->lock, &at) != ETIMEDOUT;
}

void page_file_close(page_file *f, double seconds) {
    if (!f) return;
    pthread_mutex_lock(&f->lock);
    atomic_store(&f->is_closing, true);
    f->queue = NULL;
    f->queue_end = &f->queue;
    for (double until = clock_seconds() + seconds; f->traffic[0].n + f->traffic[1].n > 0;)
        if (!wait_until(f, until) && f->traffic[0].n + f->traffic[1].n > 0)
            status_die("%s: KV pages are still on their way after %g s: the disk does not answer", f->dir,
                       seconds);
    pthread_mutex_unlock(&f->lock);
    f->engine->close(f);
    release(f);
}

const char *page_file_engine_text(const page_file *f) {
    return f->engine_text;
}

bool page_file_is_direct(const page_file *f) {
    return f->is_direct;
}

/* ---- records ---- */

int page_file_take(page_file *f) {
    pthread_mutex_lock(&f->lock);
    const int n_ever = f->numbers.n_ever, record = record_numbers_take(&f->numbers);
    if (f->numbers.n_ever > n_ever) {
        f->records = mem_grow(f->records, (size_t)n_ever, sizeof *f->records);
        f->records[n_ever] = (page_record){0};
    }
    if (record >= 0) f->records[record].is_taken = true;
    pthread_mutex_unlock(&f->lock);
    return record;
}

void page_file_give_back(page_file *f, int record) {
    pthread_mutex_lock(&f->lock);
    record_numbers_give_back(&f->numbers, record);
    assert(f->records[record].is_taken);
    f->records[record].is_taken = false;
    pthread_mutex_unlock(&f->lock);
}

int page_file_count_records(const page_file *f) {
    return f->numbers.n_all;
}

/* ---- requests: the caller's side ---- */

size_t page_file_buffer_bytes(const page_file *f) {
    return f->buffer_bytes;
}

void *page_file_new_buffer(const page_file *f) {
    return new_aligned(f->buffer_bytes);
}

/* Under the lock. */
static page_request *new_request(page_file *f) {
    page_request *r = f->free_slots;
    if (r) {
        f->free_slots = r->next;
    } else {
        f->slots = mem_grow(f->slots, (size_t)f->n_slots, sizeof *f->slots);
        r = f->slots[f->n_slots] = mem_new(1, sizeof *r);
        r->slot = f->n_slots++;
    }
    *r = (page_request){.slot = r->slot, .number = ++f->last_number};
    return r;
}

static page_file_ticket begin(page_file *f, int record, char *buffer, bool is_write) {
    assert((uintptr_t)buffer % PAGE_FILE_ALIGNMENT == 0);
    pthread_mutex_lock(&f->lock);
    assert(record >= 0 && record < f->numbers.n_ever && f->records[record].is_taken);
    page_request *r = new_request(f);
    r->record = record;
    r->buffer = buffer;
    r->is_write = is_write;
    *f->queue_end = r;
    f->queue_end = &r->next;
    f->engine->wake(f);
    page_file_ticket ticket = {.slot = r->slot, .number = r->number};
    pthread_mutex_unlock(&f->lock);
    return ticket;
}

page_file_ticket page_file_begin_write(page_file *f, int record, const void *buffer) {
    return begin(f, record, (char *)buffer, true);
}

page_file_ticket page_file_begin_read(page_file *f, int record, void *buffer) {
    return begin(f, record, buffer, false);
}

/* NULL: the ticket is void. Only the caller's thread adds slots or makes tickets void. */
static page_request *find(const page_file *f, page_file_ticket ticket) {
    assert(ticket.slot >= 0 && (ticket.slot < f->n_slots || ticket.number == 0));
    return ticket.number != 0 && f->slots[ticket.slot]->number == ticket.number ? f->slots[ticket.slot]
                                                                                : NULL;
}

bool page_file_test(page_file *f, page_file_ticket ticket) {
    const page_request *r = find(f, ticket);
    pthread_mutex_lock(&f->lock);
    bool is_over = !r || r->is_over;
    pthread_mutex_unlock(&f->lock);
    return is_over;
}

static status report(const page_file *f, const page_request *r) {
    const char *verb = r->is_write ? "written" : "read";
    switch (r->outcome) {
    case PAGE_MOVED:
        return STATUS_OK;
    case PAGE_SYSTEM_FAILED:
        return status_fail("KV page %d in %s: cannot be %s: %s", r->record, f->dir, verb, strerror(r->error));
    case PAGE_SHORT:
        return status_fail("KV page %d in %s: the file ends within it: %zu of %zu bytes could be %s",
                           r->record, f->dir, r->n_moved, f->buffer_bytes, verb);
    case PAGE_CHANGED:
        return status_fail("KV page %d in %s: what was read is not what was written (checksum)", r->record,
                           f->dir);
    case PAGE_NOT_WRITTEN:
        break;
    }
    return status_fail("KV page %d in %s: there is nothing to read: writing it failed, or was never begun",
                       r->record, f->dir);
}

status page_file_wait(page_file *f, page_file_ticket ticket, double seconds) {
    page_request *r = find(f, ticket);
    assert(r);
    const double begin = clock_seconds();
    pthread_mutex_lock(&f->lock);
    f->awaited = r;
    while (!r->is_over && wait_until(f, begin + seconds))
        continue;
    f->figures.waited_seconds += clock_seconds() - begin;
    const bool is_over = r->is_over;
    status st = is_over ? report(f, r)
                        : status_fail("KV page %d in %s: not %s after %g s: the disk does not answer",
                                      r->record, f->dir, r->is_write ? "written" : "read", seconds);
    if (is_over) {
        r->number = 0;
        r->next = f->free_slots;
        f->free_slots = r;
    }
    pthread_mutex_unlock(&f->lock);
    return st;
}

page_file_figures page_file_measure(page_file *f) {
    pthread_mutex_lock(&f->lock);
    page_file_figures figures = f->figures;
    pthread_mutex_unlock(&f->lock);
    return figures;
}

/* ---- requests: the engine's side ---- */

/* Under the lock; `sum` of what was moved. */
static void finish(page_file *f, page_request *r, uint64_t sum) {
    page_record *of = &f->records[r->record];
    if (r->outcome == PAGE_MOVED && r->is_write) {
        of->sum = sum;
        of->is_written = true;
    } else if (r->outcome == PAGE_MOVED && sum != of->sum) {
        r->outcome = PAGE_CHANGED;
    }
    of->is_busy = false;
    page_traffic *traffic = &f->traffic[r->is_write];
    page_file_flow *flow = r->is_write ? &f->figures.written : &f->figures.read;
    if (--traffic->n == 0) flow->seconds += clock_seconds() - traffic->since;
    if (r->outcome == PAGE_MOVED) {
        flow->n_moved++;
        flow->bytes += (int64_t)f->buffer_bytes;
    } else {
        flow->n_failed++;
    }
    r->is_over = true;
    if (r == f->awaited || atomic_load(&f->is_closing)) pthread_cond_signal(&f->changed);
    if (f->queue && f->queue->record == r->record) f->engine->wake(f); /* it held the queue up */
}

page_request *page_file_next(page_file *f, bool waits) {
    int64_t to_reserve = 0;
    page_request *r = NULL;
    pthread_mutex_lock(&f->lock);
    while (!r) {
        page_record *of = f->queue ? &f->records[f->queue->record] : NULL;
        if (!of || of->is_busy) {
            if (!waits || atomic_load(&f->is_closing)) break;
            pthread_cond_wait(&f->work, &f->lock);
            continue;
        }
        r = f->queue;
        f->queue = r->next;
        if (!f->queue) f->queue_end = &f->queue;
        of->is_busy = true;
        if (f->traffic[r->is_write].n++ == 0) f->traffic[r->is_write].since = clock_seconds();
        if (r->is_write) {
            of->is_written = false;
        } else if (!of->is_written) {
            r->outcome = PAGE_NOT_WRITTEN;
            finish(f, r, 0);
            r = NULL;
        }
    }
    f->engine_sleeps = !r;
    if (r && f->queue) f->engine->wake(f);
    const int64_t end = r && r->is_write ? page_file_offset(f, r) + (int64_t)f->buffer_bytes : 0;
    if (end > f->n_reserved) {
        to_reserve = end + RESERVE_BYTES < f->n_bytes ? end + RESERVE_BYTES : f->n_bytes;
        f->n_reserved = to_reserve;
    }
    pthread_mutex_unlock(&f->lock);
    /* Writes that need new blocks wait for each other. A full disk is told by those that get none. */
    if (to_reserve) (void)file_reserve(f->fd, f->dir, to_reserve);
    return r;
}

bool page_request_advance(page_request *r, size_t buffer_bytes, ssize_t result) {
    if (r->is_write && fault_at("page-file-write") != STATUS_OK) result = -ENOSPC;
    if (!r->is_write && fault_at("page-file-read") != STATUS_OK) result = 0;
    if (result == -EINTR) return false;
    if (result == -EAGAIN && r->n_again++ < MAX_AGAIN) {
        nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
        return false;
    }
    if (result < 0) {
        r->outcome = PAGE_SYSTEM_FAILED;
        r->error = (int)-result;
        return true;
    }
    const size_t before = r->n_moved;
    r->n_moved += (size_t)result;
    assert(r->n_moved <= buffer_bytes);
    if (r->n_moved == buffer_bytes) return true;
    const size_t aligned =
        r->n_moved / PAGE_FILE_ALIGNMENT * PAGE_FILE_ALIGNMENT; /* direct IO goes on there */
    if (aligned == before) {
        r->outcome = PAGE_SHORT;
        return true;
    }
    r->n_moved = aligned;
    return false;
}

void page_file_end(page_file *f, page_request *r) {
    uint64_t sum = 0;
    alive_say();
    if (r->outcome == PAGE_MOVED) {
        if (!r->is_write && fault_at("page-file-flip") != STATUS_OK) r->buffer[f->record_bytes / 2] ^= 1;
        sum = XXH3_64bits(r->buffer, f->record_bytes);
    }
    pthread_mutex_lock(&f->lock);
    finish(f, r, sum);
    pthread_mutex_unlock(&f->lock);
}
