/* x from GPU to GPU by NCCL.
 *
 * Each pair of neighbours has a communicator of its own. NCCL runs what was given to one communicator one
 * after the other, whichever streams it is on, so that with one for all stages the receive of a message that
 * is not there yet would hold up the sending of one that is.
 *
 * Why no two stages can wait for each other:
 *   - A pair's transfers are given to NCCL in the order of messages, on both sides.
 *   - A message's header leaves when its x is computed (may_send), together with the send. A receive is given
 * to NCCL when the header is there. So a receive never waits for more than a send that is being given too,
 * and operations of the device that are queued already.
 *   - A send waits until the next stage has a free slot. The last stage only receives, and its slots become
 * free as its operations end; then those of the stage before it, and so on to stage 0. This holds for any
 * number of slots, and also for a GPU that runs one of the kernels at a time: whatever waits, waits for a
 * later stage's earlier message or an earlier stage's same message, never in a circle.
 *
 * Communicators do not block: what is given to NCCL may be under way in a thread of its own (ncclInProgress),
 * and nothing else may be given to that communicator meanwhile. Nothing here waits for a stream. Whoever
 * moves the pipeline looks at streams and communicators (watch), also while the stage waits for its GPU. */
#include <nccl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "mpi/comm_private.h"
#include "mpi/transport/comm_nccl.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

/* Blocks of a GPU that a transfer takes at most: they wait for the other side, and the model lacks them. */
static const int most_blocks = 8;
static const double open_seconds = 60;     /* at most, to connect */
static const double abort_seconds = 3;     /* at most, to leave in order when all ends anyway */
enum { LEAST_VERSION = 21400, NONE = -1 }; /* the first whose communicators need not block */

typedef enum transfer_state {
    IDLE,
    WAITING, /* to be given to NCCL, when what was begun before it was */
    GIVEN,   /* NCCL is about to put it on the stream */
    MOVING,  /* on the stream */
} transfer_state;

/* To the next stage, or from the one before. */
typedef struct lane {
    bool is_send;
    int peer;        /* its rank; NONE: there is no such stage, and nothing else is set */
    ncclComm_t comm; /* the sender is its rank 0 */
    cudaStream_t stream;
    int next;  /* the slot whose transfer is given to NCCL next */
    int given; /* the slot in GIVEN; NONE */
} lane;

typedef struct nccl_slot {
    float *x;
    transfer_state state; /* of the transfer begun last, ... */
    lane *lane;           /* ... its direction and size */
    size_t n_floats;
    double begin;       /* of GIVEN */
    cudaEvent_t marked; /* the operations that use x are over */
    cudaEvent_t moved;  /* the transfer is over */
} nccl_slot;

enum { OUT, IN, N_LANES };

typedef struct nccl_transport {
    transport base;
    comm *world;
    cuda_device *dev;
    int n_slots;
    nccl_slot *slots;
    lane lanes[N_LANES];
} nccl_transport;

static nccl_transport *nccl_of(transport *t) {
    return (nccl_transport *)t;
}

/* ---- failures ---- */

typedef struct abortion {
    ncclComm_t comms[N_LANES];
    atomic_bool is_over;
} abortion;

static void *abort_communicators(void *arg) {
    abortion *a = arg;
    for (int i = 0; i < N_LANES; i++)
        if (a->comms[i]) ncclCommAbort(a->comms[i]);
    atomic_store(&a->is_over, true);
    return NULL;
}

static void pause_shortly(void) {
    nanosleep(&(struct timespec){0, 100 * 1000}, NULL);
}

/* Kernels that wait for a peer end when their communicator is aborted. Should that hang, it is left alone:
 * this process is about to end. */
static void abort_lanes(nccl_transport *t) {
    static abortion a;
    pthread_t thread;
    double begin = clock_seconds();
    for (int i = 0; i < N_LANES; i++) {
        a.comms[i] = t->lanes[i].comm;
        t->lanes[i].comm = NULL;
    }
    atomic_store(&a.is_over, false);
    if (pthread_create(&thread, NULL, abort_communicators, &a) != 0) return;
    pthread_detach(thread);
    while (!atomic_load(&a.is_over) && clock_seconds() - begin < abort_seconds)
        pause_shortly();
}

static void end_all(nccl_transport *t, const lane *l, const char *why) {
    char text[STATUS_TEXT_BYTES];
    snprintf(text, sizeof text, "activations %s rank %d by NCCL: %s", l->is_send ? "to" : "from", l->peer,
             why);
    abort_lanes(t);
    status_die("%s", text);
}

static const char *nccl_text(const lane *l, ncclResult_t code, char *text, size_t n) {
    const char *more = l->comm ? ncclGetLastError(l->comm) : "";
    snprintf(text, n, "%s%s%s", ncclGetErrorString(code), more && *more ? ": " : "", more ? more : "");
    return text;
}

static void need_nccl(nccl_transport *t, const lane *l, ncclResult_t code) {
    char text[STATUS_TEXT_BYTES / 2];
    if (code != ncclSuccess && code != ncclInProgress) end_all(t, l, nccl_text(l, code, text, sizeof text));
}

static void need_cuda(nccl_transport *t, const lane *l, cudaError_t code) {
    char text[STATUS_TEXT_BYTES / 2];
    if (code == cudaSuccess) return;
    snprintf(text, sizeof text, "cuda: %s", cudaGetErrorString(code));
    end_all(t, l, text);
}

/* Threads that move the pipeline may not know which GPU is this rank's. */
static void use_gpu(nccl_transport *t) {
    need_cuda(t, &t->lanes[t->lanes[OUT].peer == NONE ? IN : OUT], cudaSetDevice(t->dev->index));
}

static bool event_is_over(nccl_transport *t, const lane *l, cudaEvent_t event) {
    cudaError_t code = cudaEventQuery(event);
    if (code == cudaErrorNotReady) {
        cudaGetLastError(); /* no error that a kernel's launch should find */
        return false;
    }
    need_cuda(t, l, code);
    return true;
}

/* ---- transfers ---- */

static void give(nccl_transport *t, lane *l, nccl_slot *s) {
    need_cuda(t, l, cudaStreamWaitEvent(l->stream, s->marked, 0));
    if (l->is_send)
        need_nccl(t, l, ncclSend(s->x, s->n_floats, ncclFloat32, 1, l->comm, l->stream));
    else
        need_nccl(t, l, ncclRecv(s->x, s->n_floats, ncclFloat32, 0, l->comm, l->stream));
    s->state = GIVEN;
    s->begin = clock_seconds();
    l->given = l->next;
}

/* False while NCCL is at work on something that was given to it. */
static bool is_ready(nccl_transport *t, lane *l) {
    ncclResult_t state;
    need_nccl(t, l, ncclCommGetAsyncError(l->comm, &state));
    need_nccl(t, l, state);
    return state == ncclSuccess;
}

static void move_lane(nccl_transport *t, lane *l) {
    while (is_ready(t, l)) {
        if (l->given != NONE) {
            nccl_slot *s = &t->slots[l->given];
            need_cuda(t, l, cudaEventRecord(s->moved, l->stream));
            s->state = MOVING;
            l->given = NONE;
            l->next = (l->next + 1) % t->n_slots;
        }
        nccl_slot *s = &t->slots[l->next];
        if (s->state != WAITING || s->lane != l) return;
        if (s->n_floats > 0) {
            give(t, l, s);
        } else {
            s->state = IDLE;
            l->next = (l->next + 1) % t->n_slots;
        }
    }
}

static void watch_slot(nccl_transport *t, nccl_slot *s) {
    if (s->state == MOVING && event_is_over(t, s->lane, s->moved)) s->state = IDLE;
    if ((s->state == GIVEN || s->state == MOVING) && comm_is_late(t->world, s->begin)) {
        char text[128];
        snprintf(text, sizeof text, "not over after %g s: a rank was lost or hangs",
                 t->world->deadline_seconds);
        end_all(t, s->lane, text);
    }
}

static void watch(transport *base) {
    nccl_transport *t = nccl_of(base);
    use_gpu(t);
    for (int i = 0; i < N_LANES; i++)
        if (t->lanes[i].comm) move_lane(t, &t->lanes[i]);
    for (int i = 0; i < t->n_slots; i++)
        watch_slot(t, &t->slots[i]);
}

static void mark(transport *base, int slot) {
    nccl_transport *t = nccl_of(base);
    use_gpu(t);
    need_cuda(t, &t->lanes[OUT], cudaEventRecord(t->slots[slot].marked, t->dev->stream));
}

/* A send would wait on the GPU for a receiver that it had made wait before. */
static bool may_send(transport *base, int slot) {
    nccl_transport *t = nccl_of(base);
    use_gpu(t);
    return event_is_over(t, &t->lanes[OUT], t->slots[slot].marked);
}

static void begin(transport *base, int slot, int direction, size_t n_floats) {
    nccl_transport *t = nccl_of(base);
    nccl_slot *s = &t->slots[slot];
    s->lane = &t->lanes[direction];
    s->n_floats = n_floats;
    s->state = WAITING;
    watch(base);
}

static void begin_send(transport *base, int slot, size_t n_floats) {
    begin(base, slot, OUT, n_floats);
}

/* NCCL wants to know how much comes. */
static void begin_receive(transport *base, int slot) {
    (void)base, (void)slot;
}

static void expect(transport *base, int slot, size_t n_floats) {
    begin(base, slot, IN, n_floats);
}

/* What was received may still be moving when operations that use it are queued: they wait for it on the GPU.
 */
static bool test(transport *base, int slot) {
    const nccl_slot *s = &nccl_of(base)->slots[slot];
    return s->state == IDLE || (s->state == MOVING && !s->lane->is_send);
}

static void accept_slot(transport *base, int slot) {
    nccl_transport *t = nccl_of(base);
    nccl_slot *s = &t->slots[slot];
    if (s->state != MOVING) return;
    use_gpu(t);
    need_cuda(t, s->lane, cudaStreamWaitEvent(t->dev->stream, s->moved, 0));
}

/* ---- the end ---- */

static void free_transport(nccl_transport *t) {
    cudaSetDevice(t->dev->index);
    for (int i = 0; t->slots && i < t->n_slots; i++) {
        if (t->slots[i].marked) cudaEventDestroy(t->slots[i].marked);
        if (t->slots[i].moved) cudaEventDestroy(t->slots[i].moved);
    }
    for (int i = 0; i < N_LANES; i++)
        if (t->lanes[i].stream) cudaStreamDestroy(t->lanes[i].stream);
    free(t->slots);
    free(t);
}

/* Poll until NCCL has done what it was asked on all lanes. */
static ncclResult_t wait_for_lanes(nccl_transport *t, double seconds) {
    double begin = clock_seconds();
    for (;;) {
        bool is_busy = false;
        for (int i = 0; i < N_LANES; i++) {
            ncclResult_t state = ncclSuccess;
            if (!t->lanes[i].comm) continue;
            ncclResult_t code = ncclCommGetAsyncError(t->lanes[i].comm, &state);
            if (code != ncclSuccess) return code;
            if (state != ncclSuccess && state != ncclInProgress) return state;
            is_busy |= state == ncclInProgress;
        }
        if (!is_busy) return ncclSuccess;
        if (clock_seconds() - begin > seconds) return ncclInProgress;
        pause_shortly();
    }
}

static ncclResult_t finalize_lanes(nccl_transport *t) {
    ncclResult_t code = ncclSuccess;
    for (int i = 0; i < N_LANES && (code == ncclSuccess || code == ncclInProgress); i++)
        if (t->lanes[i].comm) code = ncclCommFinalize(t->lanes[i].comm);
    return code == ncclSuccess || code == ncclInProgress ? wait_for_lanes(t, t->world->deadline_seconds)
                                                         : code;
}

/* All that was to be moved has been: a failure here changes no result. */
static void close_transport(transport *base) {
    nccl_transport *t = nccl_of(base);
    cudaSetDevice(t->dev->index);
    ncclResult_t code = finalize_lanes(t);
    if (code != ncclSuccess) {
        fprintf(stderr, "kvarve: warning: NCCL did not end in order: %s\n",
                code == ncclInProgress ? "a peer does not answer" : ncclGetErrorString(code));
        abort_lanes(t);
    }
    for (int i = 0; i < N_LANES; i++)
        if (t->lanes[i].comm) ncclCommDestroy(t->lanes[i].comm);
    free_transport(t);
}

/* ---- the begin ---- */

static const transport_ops nccl_ops = {
    .name = "NCCL",
    .close = close_transport,
    .watch = watch,
    .mark = mark,
    .may_send = may_send,
    .begin_send = begin_send,
    .begin_receive = begin_receive,
    .expect = expect,
    .test = test,
    .accept = accept_slot,
};

static status open_status(cudaError_t code, const char *what) {
    if (code == cudaSuccess) return STATUS_OK;
    return status_fail("activations between stages: %s: %s", what, cudaGetErrorString(code));
}

/* Events and streams. Transfers go before other work on the GPU, as other ranks wait for them. */
static status open_streams(nccl_transport *t) {
    int least, greatest;
    cudaError_t code = cudaSetDevice(t->dev->index);
    if (code == cudaSuccess) code = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    for (int i = 0; i < N_LANES && code == cudaSuccess; i++)
        if (t->lanes[i].peer != NONE)
            code = cudaStreamCreateWithPriority(&t->lanes[i].stream, cudaStreamNonBlocking, greatest);
    for (int i = 0; i < t->n_slots && code == cudaSuccess; i++) {
        code = cudaEventCreateWithFlags(&t->slots[i].marked, cudaEventDisableTiming);
        if (code == cudaSuccess) code = cudaEventCreateWithFlags(&t->slots[i].moved, cudaEventDisableTiming);
    }
    return open_status(code, "streams");
}

/* Each pair has its id from the rank that sends. Collective. */
static status share_ids(nccl_transport *t, ncclUniqueId ids[N_LANES]) {
    bool has_next = t->lanes[OUT].peer != NONE, has_previous = t->lanes[IN].peer != NONE;
    ncclResult_t code = has_next ? ncclGetUniqueId(&ids[OUT]) : ncclSuccess;
    if (code != ncclSuccess) memset(&ids[OUT], 0, sizeof ids[OUT]);
    MPI_Request requests[N_LANES];
    pthread_mutex_lock(&t->world->lock);
    MPI_Isend(&ids[OUT], sizeof ids[OUT], MPI_BYTE, has_next ? t->lanes[OUT].peer : MPI_PROC_NULL, TAG_X,
              t->world->world, &requests[OUT]);
    MPI_Irecv(&ids[IN], sizeof ids[IN], MPI_BYTE, has_previous ? t->lanes[IN].peer : MPI_PROC_NULL, TAG_X,
              t->world->world, &requests[IN]);
    comm_finish(t->world, &requests[IN], "the id of NCCL from the stage before");
    pthread_mutex_lock(&t->world->lock);
    comm_finish(t->world, &requests[OUT], "the next stage to take its id of NCCL");
    if (code == ncclSuccess) return STATUS_OK;
    return status_fail("NCCL cannot make an id: %s", ncclGetErrorString(code));
}

/* Both communicators of a rank are set up at the same time. Every rank is here. */
static status connect_lanes(nccl_transport *t, const ncclUniqueId ids[N_LANES]) {
    ncclResult_t code = ncclSuccess;
    for (int i = 0; i < N_LANES && (code == ncclSuccess || code == ncclInProgress); i++) {
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        lane *l = &t->lanes[i];
        config.blocking = 0;
        config.maxCTAs = most_blocks;
        if (l->peer != NONE) code = ncclCommInitRankConfig(&l->comm, 2, ids[i], l->is_send ? 0 : 1, &config);
    }
    if (code == ncclSuccess || code == ncclInProgress) code = wait_for_lanes(t, open_seconds);
    if (code == ncclSuccess) return STATUS_OK;
    if (code == ncclInProgress)
        return status_fail(
            "NCCL does not connect with its neighbours within %.0f s; NCCL_DEBUG=INFO tells more, "
            "and --transport mpi does without it",
            open_seconds);
    return status_fail(
        "NCCL cannot connect: %s; NCCL_DEBUG=INFO tells more, and --transport mpi does without it",
        ncclGetErrorString(code));
}

static nccl_transport *new_transport(const transport_config *config) {
    nccl_transport *t = mem_new(1, sizeof *t);
    int rank = config->comm->rank, size = config->comm->size;
    *t = (nccl_transport){
        .base = {&nccl_ops},
        .world = config->comm,
        .dev = cuda_device_of(config->dev),
        .n_slots = config->n_slots,
        .slots = mem_new((size_t)config->n_slots, sizeof *t->slots),
        .lanes[OUT] = {.is_send = true, .peer = rank + 1 < size ? rank + 1 : NONE, .given = NONE},
        .lanes[IN] = {.peer = rank > 0 ? rank - 1 : NONE, .given = NONE},
    };
    for (int i = 0; i < t->n_slots; i++)
        t->slots[i].x = config->x[i];
    return t;
}

static status open_transport(const transport_config *config, transport **out) {
    nccl_transport *t = new_transport(config);
    ncclUniqueId ids[N_LANES];
    memset(ids, 0, sizeof ids);
    status st = share_ids(t, ids);
    if (st == STATUS_OK) st = open_streams(t);
    if (!comm_any_failed(t->world, &st)) {
        st = connect_lanes(t, ids);
        comm_any_failed(t->world, &st);
    }
    if (st != STATUS_OK) {
        abort_lanes(t);
        free_transport(t);
        return st;
    }
    *out = &t->base;
    return STATUS_OK;
}

/* ---- whether it can be ---- */

/* A GPU in the world. */
typedef struct gpu_place {
    char host[MPI_MAX_PROCESSOR_NAME];
    char bus[32];
} gpu_place;

static status find_place(const comm *c, device *dev, gpu_place *out) {
    int version = 0;
    ncclResult_t code = ncclGetVersion(&version);
    if (code != ncclSuccess || version < LEAST_VERSION)
        return status_refuse("NCCL 2.14 or newer is needed; this is %d.%d", version / 10000,
                             version / 100 % 100);
    memcpy(out->host, c->host, sizeof out->host);
    cudaError_t cuda = cudaDeviceGetPCIBusId(out->bus, sizeof out->bus, cuda_device_of(dev)->index);
    return cuda == cudaSuccess ? STATUS_OK : status_fail("the GPU's address: %s", cudaGetErrorString(cuda));
}

static status find_shared(const gpu_place *places, int n) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            if (!strcmp(places[i].host, places[k].host) && !strcmp(places[i].bus, places[k].bus))
                return status_refuse("ranks %d and %d share GPU %s of %s: NCCL needs one for each", k, i,
                                     places[i].bus, places[i].host);
    return STATUS_OK;
}

static status check(comm *c, device *dev) {
    gpu_place mine;
    memset(&mine, 0, sizeof mine);
    status st = find_place(c, dev, &mine);
    if (comm_any_failed(c, &st)) return st;
    gpu_place *all = mem_new((size_t)c->size, sizeof *all);
    comm_gather(c, &mine, sizeof mine, all);
    comm_broadcast(c, all, (size_t)c->size * sizeof *all, 0);
    st = find_shared(all, c->size);
    free(all);
    return st;
}

/* All that can be seen of the module. */
__attribute__((visibility("default")))
const nccl_backend kvarve_nccl_backend = {.check = check, .open = open_transport};
