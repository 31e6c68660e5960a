/* The engine that works everywhere: threads, each of which moves one record at a time. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/tier/page_file_private.h"
#include "src/base/memory.h"

enum { MAX_THREADS = 16 }; /* as many as keep a disk of a node busy; more only take turns */

typedef struct workers {
    int n;
    pthread_t threads[MAX_THREADS];
} workers;

static void *work(void *arg) {
    page_file *f = arg;
    for (page_request *r; (r = page_file_next(f, true));) {
        ssize_t result;
        do {
            char *bytes = r->buffer + r->n_moved;
            const size_t n = f->buffer_bytes - r->n_moved;
            result = r->is_write ? pwrite(f->fd, bytes, n, page_file_offset(f, r))
                                 : pread(f->fd, bytes, n, page_file_offset(f, r));
        } while (!page_request_advance(r, f->buffer_bytes, result < 0 ? -errno : result));
        page_file_end(f, r);
    }
    return NULL;
}

static void wake_worker(page_file *f) {
    pthread_cond_signal(&f->work);
}

static void end_workers(page_file *f) {
    workers *w = f->engine_state;
    pthread_mutex_lock(&f->lock);
    pthread_cond_broadcast(&f->work);
    pthread_mutex_unlock(&f->lock);
    for (int i = 0; i < w->n; i++)
        pthread_join(w->threads[i], NULL);
    free(w);
}

/* Fewer threads than wanted are enough. */
static int start_workers(page_file *f) {
    workers *w = f->engine_state = mem_new(1, sizeof *w);
    int error = 0;
    while (w->n < MAX_THREADS && w->n < f->depth &&
           (error = page_file_start_thread(f, work, &w->threads[w->n])) == 0)
        w->n++;
    if (w->n > 0) return 0;
    free(w);
    return error;
}

const page_engine page_engine_threads = {
    .name = "threads",
    .open = start_workers,
    .wake = wake_worker,
    .close = end_workers,
};
