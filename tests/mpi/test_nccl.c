/* tests/mpi/test_nccl.c: activations from GPU to GPU. With a GPU for each rank, all of it; without, what can
 * be. With STAND_IN (tests/fixtures/nccl_stand_in.h) all of it needs no GPU, and `error` and `hang` are
 * failures that must end all ranks. */
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "mpi/pipeline.h"
#include "mpi/transport/comm_nccl.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/nccl_stand_in.h"

static comm *ranks;
static device *cpu;
static cuda_device gpu;

static const pipeline_sizes limits = {
    .header_bytes = 5000, .x_floats = (size_t)1 << 20, .reply_bytes = sizeof(int), .n_replies = 5};

/* ---- a CUDA device that does what this test needs ---- */

static status gpu_alloc(device *dev, size_t bytes, void **out) {
    (void)dev;
    cudaError_t code = cudaMalloc(out, bytes);
    return code == cudaSuccess ? STATUS_OK : status_fail("cuda: %s", cudaGetErrorString(code));
}

static void gpu_release(device *dev, void *memory) {
    (void)dev;
    cudaFree(memory);
}

static status gpu_sync(device *dev) {
    cudaError_t code = cudaStreamSynchronize(cuda_device_of(dev)->stream);
    return code == cudaSuccess ? STATUS_OK : status_fail("cuda: %s", cudaGetErrorString(code));
}

static const device_ops gpu_ops = {
    .name = "cuda", .alloc = gpu_alloc, .release = gpu_release, .sync = gpu_sync, .check = gpu_sync};

/* Each rank takes a GPU of its own; false when there are not so many. */
static bool open_gpu(void) {
    int n = 0, priority_least, priority_most;
    if (gpu.stream) return true;
    if (cudaGetDeviceCount(&n) != cudaSuccess) n = 0;
    if (comm_min(ranks, n) < comm_size(ranks)) {
        harness_skip("%d ranks need as many GPUs; here are %d", comm_size(ranks), n);
        return false;
    }
    gpu = (cuda_device){.base = {.ops = &gpu_ops, .act = DTYPE_F32, .kv = DTYPE_F32},
                        .index = comm_rank(ranks)};
    bool good =
        cudaSetDevice(gpu.index) == cudaSuccess &&
        cudaDeviceGetStreamPriorityRange(&priority_least, &priority_most) == cudaSuccess &&
        cudaStreamCreateWithPriority(&gpu.stream, cudaStreamNonBlocking, priority_least) == cudaSuccess;
    CU_ASSERT(good);
    return good;
}

/* ---- messages ---- */

static size_t x_floats_of(int number) {
    uint64_t state = 900 + (uint64_t)number;
    if (number % 5 == 0) return 0;
    if (number % 5 == 2) return 1;
    if (number % 50 == 3) return limits.x_floats;
    return 1 + harness_random(&state) % 20000;
}

static float x_value(int number, size_t i, int stage) {
    return (float)((number * 13 + (int)(i % 1000)) % 4096 + stage);
}

/* What a stage does with x: on the stream, by way of host memory. */
typedef struct stage_work {
    float *host;
    size_t n;
    int number;
} stage_work;

static int n_checked, n_wrong;

static void run_stage(void *arg) {
    stage_work *w = arg;
    n_checked++;
    for (size_t i = 0; i < w->n; i++) {
        if (comm_rank(ranks) == 0) w->host[i] = x_value(w->number, i, 0);
        n_wrong += w->host[i] != x_value(w->number, i, comm_rank(ranks));
        w->host[i] += 1;
    }
    if (w->number % 16 == 7) /* this one takes a while */
        nanosleep(&(struct timespec){0, 3000 * 1000}, NULL);
}

static void free_work(void *arg) {
    stage_work *w = arg;
    free(w->host);
    free(w);
}

static void queue_stage(float *x, size_t n, int number) {
    stage_work *w = mem_new(1, sizeof *w);
    *w = (stage_work){mem_new(n, sizeof(float)), n, number};
    size_t bytes = n * sizeof(float);
    bool good = true;
    if (comm_rank(ranks) > 0 && n)
        good = cudaMemcpyAsync(w->host, x, bytes, cudaMemcpyDeviceToHost, gpu.stream) == cudaSuccess;
    good = good && cudaLaunchHostFunc(gpu.stream, run_stage, w) == cudaSuccess;
    if (n)
        good = good && cudaMemcpyAsync(x, w->host, bytes, cudaMemcpyHostToDevice, gpu.stream) == cudaSuccess;
    good = good && cudaLaunchHostFunc(gpu.stream, free_work, w) == cudaSuccess;
    CU_ASSERT(good);
}

static void pass_on(pipeline *p, pipeline_slot *slot, int number) {
    int told;
    memcpy(&told, slot->header, sizeof told);
    CU_ASSERT(told == number && slot->n_x_floats == x_floats_of(number));
    queue_stage(slot->x, slot->n_x_floats, number);
    if (comm_rank(ranks) == comm_size(ranks) - 1) pipeline_reply(p, &number, sizeof number);
    pipeline_forward(p, slot);
}

static void run_messages(pipeline *p, int n) {
    int n_sent = 0, n_taken = 0, in_flight = comm_size(ranks) == 1 ? 1 : limits.n_replies;
    while (comm_rank(ranks) == 0 ? n_taken < n : n_sent < n) {
        bool room = n_sent < n && n_sent - n_taken < in_flight;
        if (comm_rank(ranks) == 0 && n_sent > n_taken && pipeline_take_reply(p, !room)) {
            n_taken++;
            continue;
        }
        pipeline_slot *slot = comm_rank(ranks) ? pipeline_receive(p) : pipeline_begin(p);
        if (comm_rank(ranks) == 0) {
            slot->n_header_bytes = n_sent % 3 ? 8 : limits.header_bytes;
            slot->n_x_floats = x_floats_of(n_sent);
            memcpy(slot->header, &n_sent, sizeof n_sent);
        }
        pass_on(p, slot, n_sent++);
    }
}

static pipeline *open_pipeline(transport_kind wanted) {
    pipeline *p = NULL;
    CHECK_OK(pipeline_open(ranks, &gpu.base, &limits, wanted, &p));
    return p;
}

/* ---- tests ---- */

static void the_library_is_there(void) {
    ncclUniqueId ids[2];
    int version = 0;
    CU_ASSERT(ncclGetVersion(&version) == ncclSuccess && version >= 21400);
    for (int i = 0; i < 2; i++)
        CU_ASSERT(ncclGetUniqueId(&ids[i]) == ncclSuccess);
    CU_ASSERT(memcmp(&ids[0], &ids[1], sizeof ids[0]) != 0);
    if (comm_rank(ranks) == 0) printf("NCCL %d\n", version);
    const nccl_backend *backend = NULL;
    CHECK_OK(nccl_load(&backend));
    CU_ASSERT(backend && backend->check && backend->open);
}

static void refused_for_a_cpu(void) {
    transport_kind kind = TRANSPORT_AUTO;
    CU_ASSERT(nccl_is_built());
    CHECK_REFUSED(transport_choose(ranks, cpu, TRANSPORT_NCCL, &kind), "the device is cpu");
    CU_ASSERT(kind == TRANSPORT_AUTO);
    CHECK_OK(transport_choose(ranks, cpu, TRANSPORT_AUTO, &kind));
    CU_ASSERT(kind == TRANSPORT_MPI);
}

static void refused_when_ranks_share_a_gpu(void) {
    transport_kind kind = TRANSPORT_AUTO;
    if (!open_gpu()) return;
    CHECK_OK(transport_choose(ranks, &gpu.base, TRANSPORT_AUTO, &kind));
    CU_ASSERT(kind == TRANSPORT_NCCL);
    if (comm_size(ranks) == 1) return;
    int mine = gpu.index;
    if (comm_rank(ranks) == 1) gpu.index = 0;
    CHECK_REFUSED(transport_choose(ranks, &gpu.base, TRANSPORT_NCCL, &kind), "ranks 0 and 1 share GPU 0000:");
    CHECK_OK(transport_choose(ranks, &gpu.base, TRANSPORT_AUTO, &kind));
    CU_ASSERT(kind == TRANSPORT_MPI);
    gpu.index = mine;
}

static void messages_arrive(void) {
    enum { N = 300 };
    if (!open_gpu()) return;
    pipeline *p = open_pipeline(TRANSPORT_NCCL);
    if (comm_size(ranks) > 1) CU_ASSERT_STRING_EQUAL(pipeline_transport(p), "NCCL");
    n_checked = n_wrong = 0;
    run_messages(p, N);
    CHECK_OK(gpu_sync(&gpu.base));
    CU_ASSERT(n_checked == N && n_wrong == 0);
    pipeline_close(p);
}

static void opened_again(void) {
    if (!open_gpu()) return;
    for (int round = 0; round < 3; round++) {
        pipeline *p = open_pipeline(TRANSPORT_AUTO);
        n_wrong = 0;
        run_messages(p, 5 * round);
        CHECK_OK(gpu_sync(&gpu.base));
        CU_ASSERT(n_wrong == 0);
        pipeline_close(p);
    }
}

#ifdef STAND_IN

/* What one rank lacks, none can use. */
static void absent_on_the_last_rank(void) {
    transport_kind kind = TRANSPORT_AUTO;
    if (!open_gpu()) return;
    stand_in_hide(comm_rank(ranks) == comm_size(ranks) - 1);
    CHECK_REFUSED(transport_choose(ranks, &gpu.base, TRANSPORT_NCCL, &kind), "NCCL cannot be loaded");
    CHECK_OK(transport_choose(ranks, &gpu.base, TRANSPORT_AUTO, &kind));
    CU_ASSERT(kind == TRANSPORT_MPI);
    stand_in_hide(false);
}

/* ---- failures, which end this program ---- */

static stand_in_fault wanted_fault;

/* A message is on its way, and no stage waits for the pipeline: whoever looks after it must see that it never
 * comes, while the stages wait for their GPUs. */
static void let_one_hang(pipeline *p) {
    CHECK_OK(gpu_sync(&gpu.base));
    comm_barrier(ranks);
    stand_in_fail(STAND_IN_HANG);
    if (comm_rank(ranks) < 2) {
        pipeline_slot *slot = comm_rank(ranks) ? pipeline_receive(p) : pipeline_begin(p);
        slot->n_x_floats = slot->n_header_bytes = 1;
        if (comm_rank(ranks) == 1) cudaMemcpyAsync(&gpu.step, slot->x, 4, cudaMemcpyDeviceToHost, gpu.stream);
        if (comm_rank(ranks) == 0) pipeline_forward(p, slot);
    }
    CHECK_OK(gpu_sync(&gpu.base));
    nanosleep(&(struct timespec){20, 0}, NULL);
}

static void a_rank_fails(void) {
    if (!open_gpu()) return;
    comm_set_deadline(ranks, 1);
    pipeline *p = open_pipeline(TRANSPORT_NCCL);
    run_messages(p, 10);
    if (wanted_fault == STAND_IN_HANG) let_one_hang(p);
    if (comm_rank(ranks) == 1) stand_in_fail(wanted_fault);
    run_messages(p, 10);
    pipeline_close(p);
}

static bool wants_fault(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "hang")) wanted_fault = STAND_IN_HANG;
    return argc > 1;
}

static CU_TestInfo failing[] = {{"a rank fails", a_rank_fails}, CU_TEST_INFO_NULL};

#else

static void absent_on_the_last_rank(void) {
    harness_skip("NCCL is here, and only its stand-in can be hidden");
}

static bool wants_fault(int argc, char **argv) {
    (void)argc, (void)argv;
    return false;
}

static CU_TestInfo failing[] = {CU_TEST_INFO_NULL};

#endif

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"the library is there", the_library_is_there},
        {"refused for a CPU", refused_for_a_cpu},
        {"refused when ranks share a GPU", refused_when_ranks_share_a_gpu},
        {"absent on the last rank", absent_on_the_last_rank},
        {"messages arrive", messages_arrive},
        {"opened again", opened_again},
        CU_TEST_INFO_NULL,
    };
    bool fails = wants_fault(argc, argv);
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    if (cpu_device_open(PRECISION_F32, 1, NULL, &cpu) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "nccl", fails ? failing : tests);
    if (gpu.stream) cudaStreamDestroy(gpu.stream);
    cpu->ops->close(cpu);
    comm_close(ranks);
    return code;
}
