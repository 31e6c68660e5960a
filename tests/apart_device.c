#include "tests/apart_device.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "src/base/memory.h"

enum { MOST_OPERATIONS = 64, MOST_LOOKS = 7, ALIGNMENT = 256 };

typedef struct operation {
    apart_operation *run;
    float *x;
    size_t n;
    int argument;
} operation;

typedef struct apart_device {
    device base;
    char *memory; /* n_bytes that nobody may touch; behind them as many that hold what seems to be there */
    size_t n_bytes, used;
    pthread_mutex_t lock;
    operation queue[MOST_OPERATIONS]; /* a ring */
    int64_t n_queued, n_run;
    int n_waits, n_copies;
    bool copies_fail;
} apart_device;

struct device_copy {
    int64_t after; /* runs behind so many operations */
    void *dst;
    const void *src;
    size_t bytes;
    int n_looks; /* until it runs; -1: over */
};

static apart_device *apart_of(const device *dev) {
    return (apart_device *)dev;
}

/* Where the bytes of a pointer into the device's memory really are; host pointers are what they are. */
static void *real(const apart_device *d, const void *pointer) {
    const char *p = pointer;
    bool is_ours = p >= d->memory && p < d->memory + d->n_bytes;
    return (void *)(is_ours ? p + d->n_bytes : p);
}

static void copy_now(const apart_device *d, void *dst, const void *src, size_t bytes) {
    if (bytes) memcpy(real(d, dst), real(d, src), bytes);
}

/* Under the lock. */
static void run_until(apart_device *d, int64_t n) {
    for (; d->n_run < n; d->n_run++) {
        const operation *o = &d->queue[d->n_run % MOST_OPERATIONS];
        o->run(real(d, o->x), o->n, o->argument);
    }
}

void apart_device_queue(device *dev, apart_operation *run, float *x, size_t n, int argument) {
    apart_device *d = apart_of(dev);
    pthread_mutex_lock(&d->lock);
    if (d->n_queued - d->n_run == MOST_OPERATIONS) run_until(d, d->n_run + 1);
    d->queue[d->n_queued++ % MOST_OPERATIONS] = (operation){run, x, n, argument};
    pthread_mutex_unlock(&d->lock);
}

int apart_device_n_waits(const device *dev) {
    return apart_of(dev)->n_waits;
}

void apart_device_fail_copies(device *dev) {
    apart_of(dev)->copies_fail = true;
}

static void apart_close(device *dev) {
    apart_device *d = apart_of(dev);
    munmap(d->memory, 2 * d->n_bytes);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static status apart_alloc(device *dev, size_t bytes, void **out) {
    apart_device *d = apart_of(dev);
    size_t taken = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes > d->n_bytes || d->used + taken > d->n_bytes) return status_fail("no %zu bytes here", bytes);
    *out = d->memory + d->used;
    memset(real(d, *out), 0xff, bytes);
    d->used += taken;
    return STATUS_OK;
}

static void apart_release(device *dev, void *ptr) {
    (void)dev, (void)ptr;
}

static status apart_sync(device *dev) {
    apart_device *d = apart_of(dev);
    pthread_mutex_lock(&d->lock);
    run_until(d, d->n_queued);
    d->n_waits++;
    pthread_mutex_unlock(&d->lock);
    return STATUS_OK;
}

static status apart_check(device *dev) {
    (void)dev;
    return STATUS_OK;
}

static void apart_copy(device *dev, void *dst, const void *src, size_t bytes) {
    apart_sync(dev);
    copy_now(apart_of(dev), dst, src, bytes);
}

static status apart_alloc_host(device *dev, size_t bytes, void **out) {
    (void)dev;
    *out = mem_new(1, bytes);
    memset(*out, 0xff, bytes);
    return STATUS_OK;
}

static void apart_release_host(device *dev, void *ptr) {
    (void)dev;
    free(ptr);
}

static status apart_copy_open(device *dev, device_copy **out) {
    (void)dev;
    *out = mem_new(1, sizeof **out);
    (*out)->n_looks = -1;
    return STATUS_OK;
}

static void apart_copy_close(device *dev, device_copy *copy) {
    (void)dev;
    free(copy);
}

static status apart_copy_after(device *dev, device_copy *copy) {
    copy->after = apart_of(dev)->n_queued;
    return STATUS_OK;
}

static status apart_copy_begin(device *dev, device_copy *copy, void *dst, const void *src, size_t bytes) {
    apart_device *d = apart_of(dev);
    if (d->copies_fail) return status_fail("a copy failed on purpose");
    assert(copy->n_looks == -1);
    *copy = (device_copy){copy->after, dst, src, bytes, 1 + 3 * d->n_copies++ % MOST_LOOKS};
    return STATUS_OK;
}

static status apart_copy_test(device *dev, device_copy *copy, bool *over) {
    apart_device *d = apart_of(dev);
    pthread_mutex_lock(&d->lock);
    if (copy->n_looks > 0 && --copy->n_looks == 0) {
        run_until(d, copy->after);
        copy_now(d, copy->dst, copy->src, copy->bytes);
        copy->n_looks = -1;
    }
    *over = copy->n_looks == -1;
    pthread_mutex_unlock(&d->lock);
    return STATUS_OK;
}

/* What is not here is used by no test of it. */
static const device_ops apart_ops = {
    .name = "apart",
    .close = apart_close,
    .alloc = apart_alloc,
    .release = apart_release,
    .copy_in = apart_copy,
    .copy_out = apart_copy,
    .alloc_host = apart_alloc_host,
    .release_host = apart_release_host,
    .copy_open = apart_copy_open,
    .copy_close = apart_copy_close,
    .copy_after = apart_copy_after,
    .copy_begin = apart_copy_begin,
    .copy_test = apart_copy_test,
    .sync = apart_sync,
    .check = apart_check,
};

status apart_device_open(size_t bytes, device **out) {
    apart_device *d = mem_new(1, sizeof *d);
    d->base = (device){.ops = &apart_ops, .act = DTYPE_F32, .kv = DTYPE_F32};
    d->n_bytes = (bytes + ((size_t)2 << 20) - 1) >> 21 << 21; /* whole pages of any size */
    d->memory = mmap(NULL, 2 * d->n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (d->memory == MAP_FAILED || mprotect(d->memory + d->n_bytes, d->n_bytes, PROT_READ | PROT_WRITE)) {
        free(d);
        return status_fail("no memory for a device that is apart");
    }
    pthread_mutex_init(&d->lock, NULL);
    *out = &d->base;
    return STATUS_OK;
}
