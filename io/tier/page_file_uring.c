/* The engine for io_uring: one thread hands over all that may begin in one call, and waits in the next for
 * the first that is over. New requests reach it there by an eventfd, which the ring reads. */
#define _GNU_SOURCE /* of liburing.h */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "io/tier/page_file_private.h"
#include "src/base/memory.h"

typedef struct ring {
    struct io_uring system;
    pthread_t thread;
    int wake_fd;
    uint64_t n_wakes;    /* what is read of it */
    bool is_told_to_end; /* and it is not read any more */
    int n_under_way;     /* in the system's hands */
    int n_moved;
    page_request **moved; /* [depth]: no more there, and not ended yet */
} ring;

/* The next entry for the system; there is one for each request under way, and one to be woken. Its data is
 * set behind io_uring_prep_..., which may clear it. */
static struct io_uring_sqe *new_entry(ring *u) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&u->system);
    assert(entry);
    return entry;
}

static void listen_for_wakes(ring *u) {
    struct io_uring_sqe *entry = new_entry(u);
    io_uring_prep_read(entry, u->wake_fd, &u->n_wakes, sizeof u->n_wakes, 0);
    io_uring_sqe_set_data(entry, NULL);
}

static void move(page_file *f, ring *u, page_request *r) {
    struct io_uring_sqe *entry = new_entry(u);
    char *bytes = r->buffer + r->n_moved;
    const unsigned n = (unsigned)(f->buffer_bytes - r->n_moved);
    if (r->is_write)
        io_uring_prep_write(entry, f->fd, bytes, n, (uint64_t)page_file_offset(f, r));
    else
        io_uring_prep_read(entry, f->fd, bytes, n, (uint64_t)page_file_offset(f, r));
    io_uring_sqe_set_data(entry, r);
}

/* Hand over all entries and wait for this many to be over. What the system did not take now stays for the
 * next time: it may be out of memory for a moment. */
static void submit(page_file *f, ring *u, unsigned n_awaited) {
    int result = io_uring_submit_and_wait(&u->system, n_awaited);
    if (result == -EAGAIN || result == -EBUSY)
        nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
    else if (result < 0 && result != -EINTR)
        status_die("%s: io_uring takes no more requests for KV pages: %s", f->dir, strerror(-result));
}

static void take_completions(page_file *f, ring *u) {
    struct io_uring_cqe *completion;
    while (io_uring_peek_cqe(&u->system, &completion) == 0) {
        page_request *r = io_uring_cqe_get_data(completion);
        const ssize_t result = completion->res;
        io_uring_cqe_seen(&u->system, completion);
        if (!r) {
            u->is_told_to_end = atomic_load(&f->is_closing);
            if (!u->is_told_to_end) listen_for_wakes(u);
        } else if (page_request_advance(r, f->buffer_bytes, result)) {
            u->n_under_way--;
            u->moved[u->n_moved++] = r;
        } else {
            move(f, u, r);
        }
    }
}

/* What is new goes to the disk before the checksums of what is over are computed. */
static void *serve(void *arg) {
    page_file *f = arg;
    ring *u = f->engine_state;
    listen_for_wakes(u);
    while (true) {
        for (page_request *r; u->n_under_way < f->depth && (r = page_file_next(f, false)); u->n_under_way++)
            move(f, u, r);
        if (u->n_moved > 0) submit(f, u, 0);
        for (; u->n_moved > 0; u->n_moved--)
            page_file_end(f, u->moved[u->n_moved - 1]);
        if (u->is_told_to_end && u->n_under_way == 0) return NULL;
        submit(f, u, 1);
        take_completions(f, u);
    }
}

static void wake_ring(page_file *f) {
    ring *u = f->engine_state;
    if (!f->engine_sleeps) return;
    f->engine_sleeps = false;
    ssize_t n = write(u->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
    assert(n == sizeof(uint64_t));
    (void)n;
}

static void end_ring(page_file *f) {
    ring *u = f->engine_state;
    pthread_mutex_lock(&f->lock);
    f->engine_sleeps = true;
    wake_ring(f);
    pthread_mutex_unlock(&f->lock);
    pthread_join(u->thread, NULL);
    io_uring_queue_exit(&u->system);
    close(u->wake_fd);
    free(u->moved);
    free(u);
}

/* Older systems have rings that know other operations. */
static int check_operations(ring *u) {
    struct io_uring_probe *probe = io_uring_get_probe_ring(&u->system);
    const bool is_good = probe && io_uring_opcode_supported(probe, IORING_OP_READ) &&
                         io_uring_opcode_supported(probe, IORING_OP_WRITE);
    io_uring_free_probe(probe);
    return is_good ? 0 : EOPNOTSUPP;
}

static int start_ring(page_file *f) {
    ring *u = f->engine_state = mem_new(1, sizeof *u);
    int error = -io_uring_queue_init((unsigned)f->depth + 1, &u->system, 0);
    if (error) {
        free(u);
        return error;
    }
    u->moved = mem_new((size_t)f->depth, sizeof *u->moved);
    u->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (u->wake_fd < 0) error = errno;
    if (!error) error = check_operations(u);
    if (!error) error = page_file_start_thread(f, serve, &u->thread);
    if (!error) return 0;
    io_uring_queue_exit(&u->system);
    if (u->wake_fd >= 0) close(u->wake_fd);
    free(u->moved);
    free(u);
    return error;
}

const page_engine page_engine_io_uring = {
    .name = "io_uring",
    .open = start_ring,
    .wake = wake_ring,
    .close = end_ring,
};
