#include "tests/nccl_stand_in.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "mpi/transport/comm_nccl.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

/* One lock for all that threads share. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int fault = -1;
static __thread cudaError_t last_error;

void stand_in_fail(stand_in_fault f) {
    pthread_mutex_lock(&lock);
    fault = (int)f;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* ---- the module: mpi/transport/nccl_module.c is left out ---- */

extern const nccl_backend kvarve_nccl_backend;
static bool is_hidden;

void stand_in_hide(bool hidden) {
    is_hidden = hidden;
}

bool nccl_is_built(void) {
    return true;
}

status nccl_load(const nccl_backend **out) {
    if (is_hidden) return status_refuse("NCCL cannot be loaded: it is hidden");
    *out = &kvarve_nccl_backend;
    return STATUS_OK;
}

/* ---- streams and events ---- */

typedef struct task {
    void (*run)(struct task *t);
    struct task *next;
    cudaEvent_t event;
    long record; /* of the event, to be waited for or to be told */
    void *to, *argument;
    const void *from;
    size_t bytes;
    void (*function)(void *argument);
    ncclComm_t comm;
} task;

struct CUstream_st {
    pthread_t thread;
    task *first, **end;
    bool is_busy, ends;
};

struct CUevent_st {
    long n_records, n_over;
};

static void *stream_main(void *arg) {
    cudaStream_t s = arg;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!s->first && !s->ends)
            pthread_cond_wait(&changed, &lock);
        task *t = s->first;
        if (!t) break;
        s->first = t->next;
        if (!s->first) s->end = &s->first;
        s->is_busy = true;
        pthread_mutex_unlock(&lock);
        t->run(t);
        free(t);
        pthread_mutex_lock(&lock);
        s->is_busy = false;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* Under the lock. */
static void enqueue(cudaStream_t s, task t) {
    task *copy = mem_new(1, sizeof *copy);
    *copy = t;
    *s->end = copy;
    s->end = &copy->next;
    pthread_cond_broadcast(&changed);
}

static cudaError_t add(cudaStream_t s, task t) {
    pthread_mutex_lock(&lock);
    enqueue(s, t);
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) {
    (void)flags, (void)priority;
    cudaStream_t s = mem_new(1, sizeof *s);
    s->end = &s->first;
    if (pthread_create(&s->thread, NULL, stream_main, s) != 0) return cudaErrorMemoryAllocation;
    *out = s;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    pthread_mutex_lock(&lock);
    s->ends = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(s->thread, NULL);
    free(s);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    pthread_mutex_lock(&lock);
    while (s->first || s->is_busy)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    *out = mem_new(1, sizeof **out);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

static void tell_event(task *t) {
    pthread_mutex_lock(&lock);
    if (t->record > t->event->n_over) t->event->n_over = t->record;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for_event(task *t) {
    pthread_mutex_lock(&lock);
    while (t->event->n_over < t->record)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s) {
    pthread_mutex_lock(&lock);
    enqueue(s, (task){.run = tell_event, .event = event, .record = ++event->n_records});
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t event, unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    enqueue(s, (task){.run = wait_for_event, .event = event, .record = event->n_records});
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    pthread_mutex_lock(&lock);
    bool over = event->n_over >= event->n_records;
    pthread_mutex_unlock(&lock);
    last_error = over ? cudaSuccess : cudaErrorNotReady;
    return last_error;
}

static void copy_bytes(task *t) {
    memcpy(t->to, t->from, t->bytes);
}

static void call_function(task *t) {
    t->function(t->argument);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s) {
    (void)kind;
    return add(s, (task){.run = copy_bytes, .to = to, .from = from, .bytes = n});
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t function, void *argument) {
    return add(s, (task){.run = call_function, .function = function, .argument = argument});
}

/* ---- the device ---- */

cudaError_t cudaSetDevice(int index) {
    return index >= 0 && index < 8 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceCount(int *n) {
    *n = 8;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int n, int index) {
    snprintf(text, (size_t)n, "0000:%02x:00.0", index);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    *out = bytes < (size_t)1 << 40 ? malloc(bytes ? bytes : 1) : NULL;
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *memory) {
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t code) {
    return code == cudaSuccess ? "no error" : "an error of the stand-in";
}

/* ---- communicators ---- */

struct ncclComm {
    int socket;
    int listener; /* -1 on rank 1 */
    struct sockaddr_un address;
    pthread_t connector;
    ncclResult_t state;
    double ready_at; /* when `given` comes to its stream */
    bool has_given, is_final;
    task given;
    cudaStream_t stream;
};

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static int n_ids;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/tmp/kvarve-stand-in-%d-%d", (int)getpid(), n_ids++);
    return ncclSuccess;
}

static void *connect_main(void *arg) {
    ncclComm_t c = arg;
    int s;
    if (c->listener >= 0) {
        s = accept(c->listener, NULL, NULL);
        unlink(c->address.sun_path);
    } else {
        s = socket(AF_UNIX, SOCK_STREAM, 0);
        while (connect(s, (const struct sockaddr *)&c->address, sizeof c->address) != 0)
            usleep(1000);
    }
    pthread_mutex_lock(&lock);
    c->socket = s;
    c->state = s < 0 ? ncclSystemError : ncclSuccess;
    pthread_mutex_unlock(&lock);
    return NULL;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n, ncclUniqueId id, int rank, ncclConfig_t *config) {
    if (n != 2 || config->blocking != 0 || config->magic != 0xcafebeef) return ncclInvalidArgument;
    ncclComm_t c = mem_new(1, sizeof *c);
    c->state = ncclInProgress;
    c->address.sun_family = AF_UNIX;
    snprintf(c->address.sun_path, sizeof c->address.sun_path, "%.100s", id.internal);
    c->listener = rank == 0 ? socket(AF_UNIX, SOCK_STREAM, 0) : -1;
    if (rank == 0 && (bind(c->listener, (const struct sockaddr *)&c->address, sizeof c->address) != 0 ||
                      listen(c->listener, 1) != 0))
        return ncclSystemError;
    pthread_create(&c->connector, NULL, connect_main, c);
    *out = c;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state) {
    pthread_mutex_lock(&lock);
    if (c->has_given && clock_seconds() >= c->ready_at) {
        enqueue(c->stream, c->given);
        c->has_given = false;
        if (c->state == ncclInProgress) c->state = ncclSuccess;
    }
    if (fault == STAND_IN_ERROR) c->state = ncclRemoteError;
    *state = c->state;
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

static bool move_bytes(int socket, void *data, size_t n, bool is_send) {
    for (char *at = data; n > 0;) {
        ssize_t moved = is_send ? send(socket, at, n, MSG_NOSIGNAL) : recv(socket, at, n, 0);
        if (moved <= 0) return false;
        at += moved;
        n -= (size_t)moved;
    }
    return true;
}

static void hang_if_told(void) {
    pthread_mutex_lock(&lock);
    while (fault == STAND_IN_HANG)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void end_transfer(task *t, bool good) {
    pthread_mutex_lock(&lock);
    if (!good) t->comm->state = ncclRemoteError;
    pthread_mutex_unlock(&lock);
}

static void send_bytes(task *t) {
    hang_if_told();
    uint64_t size = t->bytes;
    char answer;
    int s = t->comm->socket;
    end_transfer(t, move_bytes(s, &size, sizeof size, true) && move_bytes(s, (void *)t->from, size, true) &&
                        move_bytes(s, &answer, 1, false));
}

static void receive_bytes(task *t) {
    hang_if_told();
    uint64_t size = 0;
    char answer = 1;
    int s = t->comm->socket;
    bool good = move_bytes(s, &size, sizeof size, false) && size == t->bytes;
    end_transfer(t, good && move_bytes(s, t->to, size, false) && move_bytes(s, &answer, 1, true));
}

/* Some are on their stream at once, others later. */
static ncclResult_t give(ncclComm_t c, cudaStream_t stream, task t) {
    static unsigned n_given;
    pthread_mutex_lock(&lock);
    bool can = c->state == ncclSuccess && !c->has_given && t.bytes > 0;
    if (can) {
        c->given = t;
        c->stream = stream;
        c->has_given = true;
        c->state = ncclInProgress;
        c->ready_at = clock_seconds() + (n_given++ % 3) * 1e-3;
    }
    pthread_mutex_unlock(&lock);
    return can ? ncclInProgress : ncclInvalidUsage;
}

ncclResult_t ncclSend(const void *x, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s) {
    if (type != ncclFloat32 || peer != 1) return ncclInvalidArgument;
    return give(c, s, (task){.run = send_bytes, .from = x, .bytes = n * sizeof(float), .comm = c});
}

ncclResult_t ncclRecv(void *x, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s) {
    if (type != ncclFloat32 || peer != 0) return ncclInvalidArgument;
    return give(c, s, (task){.run = receive_bytes, .to = x, .bytes = n * sizeof(float), .comm = c});
}

ncclResult_t ncclCommFinalize(ncclComm_t c) {
    if (c->state != ncclSuccess || c->is_final) return ncclInvalidUsage;
    c->is_final = true;
    return ncclSuccess;
}

static ncclResult_t close_communicator(ncclComm_t c) {
    pthread_join(c->connector, NULL);
    close(c->socket);
    if (c->listener >= 0) close(c->listener);
    free(c);
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t c) {
    return c->is_final ? close_communicator(c) : ncclInvalidUsage;
}

ncclResult_t ncclCommAbort(ncclComm_t c) {
    hang_if_told();
    return close_communicator(c);
}

const char *ncclGetErrorString(ncclResult_t code) {
    return code == ncclRemoteError    ? "remote error"
           : code == ncclInvalidUsage ? "invalid usage"
                                      : "other error";
}

const char *ncclGetLastError(ncclComm_t c) {
    (void)c;
    return "";
}
