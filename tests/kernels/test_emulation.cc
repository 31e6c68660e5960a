/* The emulation of CUDA's threads, tested by kernels of every kind of cooperation, and by mistakes that it
 * must show. */
#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "kernels/cuda/attend/attend_map.h"
#include "kernels/cuda/device/warpgroup.cuh"

static int n_failed;

static void check(bool ok, const char *what) {
    if (ok) return;
    n_failed++;
    fprintf(stderr, "test_emulation: %s\n", what);
}

static float random_bf16(unsigned *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return __bfloat162float(__float2bfloat16(static_cast<float>(*seed >> 8) * 0x1p-23f - 1));
}

template <typename... P, typename... A>
static void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... a) {
    check(cuda_launch_on(nullptr, kernel, grid, block, shared, a...) == cudaSuccess, "a launch fails");
}

/* ---- the block ---- */

/* Reverse the block's elements through shared memory; without the barrier, by mistake. */
static __global__ void reverse(const float *x, float *y, bool barrier) {
    float *shared = reinterpret_cast<float *>(cuda_shared_memory());
    unsigned n = blockDim.x, i = threadIdx.x;
    shared[i] = x[blockIdx.x * n + i];
    if (barrier) __syncthreads();
    y[blockIdx.x * n + i] = shared[n - 1 - i];
}

static void test_barrier() {
    const unsigned n = 100, blocks = 4;
    std::vector<float> x(n * blocks), y(n * blocks);
    for (unsigned i = 0; i < n * blocks; i++)
        x[i] = static_cast<float>(i);
    launch(reverse, dim3(blocks), dim3(n), n * sizeof(float), x.data(), y.data(), true);
    bool same = true;
    for (unsigned i = 0; i < n * blocks; i++)
        same = same && y[i] == x[i / n * n + n - 1 - i % n];
    check(same, "a block is not reversed");
    launch(reverse, dim3(blocks), dim3(n), n * sizeof(float), x.data(), y.data(), false);
    for (unsigned b = 0; b < blocks; b++) {
        bool poisoned = false;
        for (unsigned i = 0; i < n; i++)
            poisoned = poisoned || std::isnan(y[b * n + i]);
        check(poisoned, "a missing barrier does not show");
    }
}

static __global__ void counts(int *out) {
    dim3 n(blockDim.x, blockDim.y, blockDim.z);
    unsigned i = (threadIdx.z * n.y + threadIdx.y) * n.x + threadIdx.x;
    int odd = __syncthreads_count(i % 2), any = __syncthreads_or(i == 3), all = __syncthreads_and(i != 3);
    out[i] = odd * 100 + any * 10 + all;
}

static void test_counts() {
    int out[60];
    launch(counts, dim3(1), dim3(5, 4, 3), 0, out);
    for (int x : out)
        check(x == 3010, "counts at a barrier are wrong");
}

/* ---- the warp ---- */

static __global__ void shuffles(int *out) {
    int lane = static_cast<int>(threadIdx.x % 32), *own = out + threadIdx.x * 8;
    own[0] = __shfl_sync(0xffffffffu, lane, 5);
    own[1] = __shfl_xor_sync(0xffffffffu, lane, 3);
    own[2] = __shfl_up_sync(0xffffffffu, lane, 2);
    own[3] = __shfl_down_sync(0xffffffffu, lane, 2);
    own[4] = __shfl_sync(0xffffffffu, lane, 1, 8);
    own[5] = static_cast<int>(__ballot_sync(0xffffffffu, lane < 4));
    own[6] = lane < 16 ? __shfl_xor_sync(0xffffu, lane, 8) : __shfl_sync(0xffff0000u, lane, 20);
    own[7] = __any_sync(0xffffffffu, lane == 31) * 2 + __all_sync(0xffffffffu, lane < 31);
    __syncwarp();
}

static void test_shuffles() {
    std::vector<int> out(96 * 8);
    launch(shuffles, dim3(2), dim3(96), 0, out.data());
    for (int i = 0; i < 96; i++) {
        int lane = i % 32, *own = &out[static_cast<size_t>(i) * 8];
        check(own[0] == 5 && own[1] == (lane ^ 3), "shuffle or xor");
        check(own[2] == (lane < 2 ? lane : lane - 2) && own[3] == (lane > 29 ? lane : lane + 2),
              "up or down");
        check(own[4] == lane / 8 * 8 + 1 && own[5] == 15 && own[7] == 2, "parts of a warp, or votes");
        check(own[6] == (lane < 16 ? lane ^ 8 : 20), "half a warp");
    }
}

/* c[16, 8] = a[16, 16] b[16, 8]; a and b^T row-major in bf16, as ldmatrix likes them: through asynchronous
 * copies, and b also as b[16, 8] through the transposed load. wait: as it must be. */
static __global__ void multiply(const uint16_t *a, const uint16_t *b_columns, const uint16_t *b_rows,
                                float *c, bool wait) {
    uint16_t *shared = reinterpret_cast<uint16_t *>(cuda_shared_memory());
    unsigned lane = threadIdx.x;
    copy_16_async(shared + lane * 8, a + lane * 8, true); /* 256 elements */
    copy_async_commit();
    copy_16_async(shared + 256 + lane * 8, lane < 16 ? b_columns + lane * 8 : b_rows + (lane - 16) * 8, true);
    copy_async_commit();
    if (wait) {
        copy_async_wait<0>();
        __syncwarp();
    }
    uint32_t fa[4], fb[4], fc[4];
    warp_load_matrices(fa, shared + lane % 16 * 16 + lane / 16 * 8);
    warp_load_matrices(fb, shared + 256 + lane % 8 * 16 + lane / 8 % 2 * 8);
    warp_load_matrices_transposed(fc, shared + 384 + lane % 16 * 8);
    float sum[4] = {}, again[4] = {};
    warp_mma(sum, fa, fb);
    warp_mma(again, fa, fc);
    for (unsigned i = 0; i < 4; i++) {
        unsigned at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
        c[at] = sum[i];
        c[128 + at] = again[i];
    }
}

static void test_mma() {
    alignas(16) uint16_t a[256], b_columns[128], b_rows[128];
    float c[256], x[16][16], w[16][8];
    unsigned seed = 1;
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 16; j++)
            a[i * 16 + j] = __bfloat16_as_ushort(__float2bfloat16(x[i][j] = random_bf16(&seed)));
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 8; j++)
            b_rows[i * 8 + j] = b_columns[j * 16 + i] =
                __bfloat16_as_ushort(__float2bfloat16(w[i][j] = random_bf16(&seed)));
    launch(multiply, dim3(1), dim3(32), 1024, a, b_columns, b_rows, c, true);
    for (unsigned i = 0; i < 128; i++) {
        double sum = 0;
        for (unsigned k = 0; k < 16; k++)
            sum += static_cast<double>(x[i / 8][k]) * static_cast<double>(w[k][i % 8]);
        check(fabs(sum - static_cast<double>(c[i])) < 1e-5, "a product of matrices is wrong");
        check(c[i] == c[128 + i], "the transposed load differs");
    }
    launch(multiply, dim3(1), dim3(32), 1024, a, b_columns, b_rows, c, false);
    check(std::isnan(c[0]), "a missing wait does not show");
}

enum fault { NONE, NO_WAIT, NO_FENCE, CHANGED_MATRIX, CHANGED_REGISTERS, OTHER_WARP };

/* c[64, 64] = a[64, 16] b[16, 64] by a warpgroup, b once as 64 rows of 64 elements, of which columns 16 to 31
 * count, once as rows 16 to 31 of so many. */
static __global__ void multiply_by_warpgroup(const uint16_t *a, const uint16_t *b, float *c, bool by_rows,
                                             fault wrong) {
    uint16_t *shared = reinterpret_cast<uint16_t *>(cuda_shared_memory());
    unsigned thread = threadIdx.x, lane = thread % 32, row = thread / 32 * 16 + lane / 4,
             place = lane % 4 * 2;
    for (unsigned i = thread; i < 64 * 64; i += 128) {
        unsigned chunk = i % 64 / 8;
        shared[attend_swizzled_element(static_cast<int>(i / 64), static_cast<int>(chunk)) + i % 8] = b[i];
    }
    __syncthreads();
    uint32_t fa[4];
    for (unsigned i = 0; i < 4; i++)
        memcpy(&fa[i], a + (row + i % 2 * 8) * 16 + place + i / 2 * 8, sizeof fa[i]);
    float sum[8][4];
    uint64_t part = warpgroup_part(warpgroup_matrix(shared), by_rows ? 16 * 128 : 32);
    if (wrong == OTHER_WARP && thread >= 64) part = warpgroup_part(part, by_rows ? 1024 : 32);
    if (wrong != NO_FENCE) warpgroup_begin();
    if (by_rows)
        warpgroup_mma<true>(sum, fa, part, false);
    else
        warpgroup_mma<false>(sum, fa, part, false);
    warpgroup_commit();
    if (wrong == CHANGED_MATRIX) shared[17 * 64] = 0;
    if (wrong == CHANGED_REGISTERS) fa[0] = 0;
    if (wrong != NO_WAIT) warpgroup_wait<0>();
    for (unsigned i = 0; i < 32; i++)
        c[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + place + i % 2] = sum[i / 4][i % 4];
    warpgroup_wait<0>();
}

struct warpgroup_numbers {
    uint16_t a[64 * 16], b[64 * 64];
    float c[64 * 64];
};

static void multiply_64(warpgroup_numbers *x, bool by_rows, fault wrong) {
    unsigned seed = 2;
    for (uint16_t &e : x->a)
        e = __bfloat16_as_ushort(__float2bfloat16(random_bf16(&seed)));
    for (uint16_t &e : x->b)
        e = __bfloat16_as_ushort(__float2bfloat16(random_bf16(&seed)));
    launch(multiply_by_warpgroup, dim3(1), dim3(128), 8192, x->a, x->b, x->c, by_rows, wrong);
}

static void test_warpgroup() {
    warpgroup_numbers x;
    for (int by_rows = 0; by_rows < 2; by_rows++) {
        multiply_64(&x, by_rows, NONE);
        for (unsigned i = 0; i < 64; i++)
            for (unsigned j = 0; j < 64; j++) {
                double sum = 0;
                for (unsigned k = 0; k < 16; k++) {
                    unsigned at = by_rows ? (16 + k) * 64 + j : j * 64 + 16 + k;
                    sum += static_cast<double>(static_cast<float>(__ushort_as_bfloat16(x.a[i * 16 + k]))) *
                           static_cast<double>(static_cast<float>(__ushort_as_bfloat16(x.b[at])));
                }
                check(fabs(sum - static_cast<double>(x.c[i * 64 + j])) < 1e-5,
                      "a warpgroup's product is wrong");
            }
    }
    multiply_64(&x, true, NO_WAIT);
    check(std::isnan(x.c[0]), "a missing wait for a product does not show");
}

template <int wrong> static void make_fault() {
    warpgroup_numbers x;
    multiply_64(&x, true, static_cast<fault>(wrong));
}

/* One warp counts for another, phase by phase; late: it takes the second phase for the first. */
static __global__ void count_phases(int *out, bool late) {
    uint64_t *barriers = reinterpret_cast<uint64_t *>(cuda_shared_memory());
    int *number = reinterpret_cast<int *>(barriers + 2);
    if (threadIdx.x == 0) {
        shared_barrier_init(barriers, 32);
        shared_barrier_init(barriers + 1, 1);
    }
    __syncthreads();
    for (int i = 0; i < 4; i++)
        if (threadIdx.x < 32) {
            if (i > 0) shared_barrier_wait(barriers + 1, i - 1);
            if (threadIdx.x == 0) *number = i;
            shared_barrier_arrive(barriers);
        } else if (threadIdx.x == 32) {
            shared_barrier_wait(barriers, late ? i + 1 : i);
            out[i] = *number;
            shared_barrier_arrive(barriers + 1);
        }
}

static void test_phases() {
    int out[4];
    launch(count_phases, dim3(1), dim3(64), 1024, out, false);
    for (int i = 0; i < 4; i++)
        check(out[i] == i, "a barrier in shared memory let someone through too early");
}

static void miss_phase() {
    int out[4];
    launch(count_phases, dim3(1), dim3(64), 1024, out, true);
}

/* Copies that are not valid are zeros, and the groups come in order. */
static __global__ void groups(const float *x, float *y) {
    float *shared = reinterpret_cast<float *>(cuda_shared_memory());
    copy_16_async(shared, x, true);
    copy_async_commit();
    copy_16_async(shared + 4, x + 4, false);
    copy_async_commit();
    copy_async_wait<1>();
    for (int i = 0; i < 8; i++)
        y[i] = shared[i];
    copy_async_wait<0>();
    for (int i = 0; i < 8; i++)
        y[8 + i] = shared[i];
}

static void test_groups() {
    alignas(16) float x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[16];
    launch(groups, dim3(1), dim3(1), 32, x, y);
    check(y[0] == 1 && y[3] == 4 && std::isnan(y[4]), "the first group");
    check(y[8] == 1 && y[12] == 0 && y[15] == 0, "the second group");
}

/* ---- numbers ---- */

static void test_numbers() {
    check(__bfloat16_as_ushort(__float2bfloat16(__uint_as_float(0x3f808000u))) == 0x3f80,
          "a tie to even, down");
    check(__bfloat16_as_ushort(__float2bfloat16(__uint_as_float(0x3f818000u))) == 0x3f82,
          "a tie to even, up");
    check(std::isnan(__bfloat162float(__float2bfloat16(__uint_as_float(0x7f800001u)))), "NaN stays");
    check(__bfloat16_as_ushort(__float2bfloat16(__uint_as_float(0xff7fffffu))) == 0xff80, "up to infinity");
}

/* ---- graphs, memory, host threads ---- */

static __global__ void add(float *x, float by) {
    atomicAdd(x, by);
}

static void test_graph() {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    float x = 0;
    cudaStreamCreate(&stream);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    launch(add, dim3(2), dim3(3), 0, &x, 1.0f);
    check(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported, "waiting in a capture");
    cudaStreamEndCapture(stream, &graph);
    check(x == 0, "a captured launch ran");
    cudaGraphInstantiate(&ready, graph, 0);
    cudaGraphDestroy(graph);
    cudaGraphLaunch(ready, stream);
    cudaGraphLaunch(ready, stream);
    check(x == 12 && cudaGetLastError() == cudaErrorStreamCaptureUnsupported, "a graph launched twice");
    cudaGraphExecDestroy(ready);
    cudaStreamDestroy(stream);
}

static void test_memory() {
    void *memory = nullptr;
    size_t before, after, total;
    cudaMemGetInfo(&before, &total);
    check(cudaMalloc(&memory, static_cast<size_t>(1) << 60) == cudaErrorMemoryAllocation && !memory,
          "too much");
    check(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess,
          "the last error");
    check(cudaMalloc(&memory, 1000) == cudaSuccess && std::isnan(static_cast<float *>(memory)[249]),
          "poison");
    cudaMemGetInfo(&after, &total);
    check(after < before, "memory in use");
    cudaFree(memory);
    cudaFree(nullptr);
    cudaMemGetInfo(&after, &total);
    check(after == before, "memory given back");
}

static void test_host_threads() {
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; i++)
        threads.emplace_back([] {
            for (int k = 0; k < 20; k++)
                test_barrier();
        });
    for (auto &thread : threads)
        thread.join();
}

/* ---- mistakes that end the program ---- */

static __global__ void leave_early() {
    if (threadIdx.x == 40) return;
    __syncthreads();
}

static __global__ void meet_elsewhere() {
    if (threadIdx.x % 2)
        __syncwarp();
    else
        __ballot_sync(0xffffffffu, 1);
}

static __global__ void wait_half() {
    if (threadIdx.x < 16) __shfl_sync(0xffffffffu, 1, 0);
}

template <void (*kernel)()> static void launch_64() {
    launch(kernel, dim3(1), dim3(64), 0);
}

static void check_ends(void (*mistake)(), const char *why) {
    int ends[2], state = 0;
    if (pipe(ends)) abort();
    pid_t child = fork();
    if (!child) {
        dup2(ends[1], 2);
        mistake();
        _exit(0);
    }
    close(ends[1]);
    std::string text;
    char buffer[512];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
        text.append(buffer, static_cast<size_t>(n));
    close(ends[0]);
    waitpid(child, &state, 0);
    check(WIFSIGNALED(state) || WEXITSTATUS(state), "a mistake went unseen");
    check(text.find(why) != std::string::npos, text.c_str());
}

int main() {
    test_barrier();
    test_counts();
    test_shuffles();
    test_mma();
    test_warpgroup();
    test_phases();
    test_groups();
    test_numbers();
    test_graph();
    test_memory();
    test_host_threads();
    check_ends(launch_64<leave_early>,
               "of 64 threads, 63 wait at __syncthreads, 0 in an operation of their warp");
    check_ends(launch_64<meet_elsewhere>, "different operations");
    check_ends(launch_64<wait_half>, "16 in an operation of their warp");
    check_ends(make_fault<NO_FENCE>, "without a fence");
    check_ends(make_fault<CHANGED_MATRIX>, "a matrix in shared memory changed");
    check_ends(make_fault<CHANGED_REGISTERS>, "registers of a product changed");
    check_ends(make_fault<OTHER_WARP>, "multiply different matrices");
    check_ends(miss_phase, "in another phase");
    return n_failed ? 1 : 0;
}
