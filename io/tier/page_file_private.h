/* io/tier/page_file_private.h: what the engines of a page file share. An engine has threads of its own, which
 * take requests (page_file_next), move their bytes, and end them (page_file_end). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "io/tier/page_file.h"
#include "io/tier/record_numbers.h"

typedef enum page_outcome {
    PAGE_MOVED,
    PAGE_SYSTEM_FAILED, /* with its errno */
    PAGE_SHORT,         /* the file ends before */
    PAGE_CHANGED,       /* what was read is not what was written */
    PAGE_NOT_WRITTEN,   /* what was to be read */
} page_outcome;

typedef struct page_request {
    struct page_request *next; /* in the queue */
    int32_t slot;              /* as in its ticket */
    uint64_t number;           /* the same; 0: it is none */
    bool is_write, is_over;
    int record;
    char *buffer;
    size_t n_moved; /* bytes so far */
    int n_again;    /* times that the system asked to try again */
    page_outcome outcome;
    int error;
} page_request;

typedef struct page_engine {
    const char *name;
    int (*open)(page_file *f); /* 0, or an errno and nothing is left */
    /* There may be something new to take; under the lock. */
    void (*wake)(page_file *f);
    /* The file is closing, and no request is under way: ends the threads. */
    void (*close)(page_file *f);
} page_engine;

extern const page_engine page_engine_threads;
#ifdef KVARVE_HAVE_LIBURING
extern const page_engine page_engine_io_uring;
#endif

typedef struct page_record {
    uint64_t sum;    /* XXH3 of what was written */
    bool is_taken;   /* by the caller */
    bool is_written; /* `sum` is of what lies in the file */
    bool is_busy;    /* a request of it is under way */
} page_record;

/* One kind of requests under way: in which seconds is there any? */
typedef struct page_traffic {
    int n;
    double since; /* where n > 0 */
} page_traffic;

struct page_file {
    /* Constant while it is open. */
    char *dir;
    int fd, depth;
    bool is_direct;
    size_t record_bytes, buffer_bytes;
    int64_t n_bytes; /* of the file, from the beginning on */
    const page_engine *engine;
    void *engine_state; /* the engine's */
    char engine_text[160];

    atomic_bool is_closing;

    pthread_mutex_t lock;   /* of all that follows */
    pthread_cond_t work;    /* for threads that wait in page_file_next */
    pthread_cond_t changed; /* for the caller: what it waits for is over */
    bool engine_sleeps;     /* it found nothing to take and did not wait here */
    int64_t n_reserved;     /* bytes at the file's beginning that have their disk space, if there is any */
    record_numbers numbers;
    page_record *records; /* [numbers.n_ever] */
    page_request **slots; /* [n_slots], each allocated by itself: they stay where they are */
    int32_t n_slots;
    page_request *free_slots;
    page_request *queue, **queue_end; /* begun by the caller, not by the engine */
    const page_request *awaited;      /* by the caller */
    uint64_t last_number;
    page_traffic traffic[2]; /* reads, writes */
    page_file_figures figures;
};

/* The next request that may begin, now under way; it holds up those behind it while its record is busy. NULL:
 * there is none, or, when it `waits`, the file is closing. */
page_request *page_file_next(page_file *f, bool waits);

static inline off_t page_file_offset(const page_file *f, const page_request *r) {
    return (off_t)r->record * (off_t)f->buffer_bytes + (off_t)r->n_moved;
}

/* Take what the system says of moving the bytes from n_moved on: their number, or a negative errno. True: it
 * is all there, or has failed. False: go on from n_moved. */
bool page_request_advance(page_request *r, size_t buffer_bytes, ssize_t result);

/* Such a request is over. */
void page_file_end(page_file *f, page_request *r);

/* A thread of an engine; 0 or an errno. Signals are for the threads that compute. */
int page_file_start_thread(page_file *f, void *(*run)(void *), pthread_t *out);
