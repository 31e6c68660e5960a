/* Fibers, and what the threads of a block do together: see emulation.h. */
#include "tests/emulation/emulation.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

__thread emulation_place emulation_at;

void emulation_fail(const char *what) {
    fprintf(stderr, "emulation: block (%u, %u, %u), thread (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y,
            blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, what);
    abort();
}

namespace {

enum { LANES = 32, MAX_THREADS = 1024, GUARD_BYTES = 4096 };
#ifdef __SANITIZE_ADDRESS__
const size_t STACK_BYTES = 512 << 10;
#else
const size_t STACK_BYTES = 128 << 10;
#endif
const size_t MAX_SHARED_BYTES = 227 << 10; /* of sm_90 */

/* ---- fibers ---- */

/* A stack and what runs on it. ucontext only starts it: its switches are calls of the system. */
struct fiber {
    void *registers[5]; /* of __builtin_setjmp */
    ucontext_t start;
    bool started;
    void *stack; /* NULL: the host thread's own */
#ifdef __SANITIZE_ADDRESS__
    void *fake_stack;
    const void *bottom;
    size_t bytes;
#endif
};

#define NO_SANITIZE __attribute__((noinline, no_sanitize("address")))

NO_SANITIZE void fiber_resume(fiber *to) {
    if (to->started) __builtin_longjmp(to->registers, 1);
    to->started = true;
    setcontext(&to->start);
}

NO_SANITIZE void fiber_leave(fiber *from, fiber *to) {
    if (!__builtin_setjmp(from->registers)) fiber_resume(to);
}

/* What a fiber does first of all where it comes to run: `from` is the fiber that ran before. */
void fiber_arrived(fiber *self, fiber *from) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(self->fake_stack, &from->bottom, &from->bytes);
    self->fake_stack = nullptr;
#else
    (void)self, (void)from;
#endif
}

void fiber_switch(fiber *from, fiber *to) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack ? to->stack : to->bottom,
                                   to->stack ? STACK_BYTES : to->bytes);
#endif
    fiber_leave(from, to);
    fiber_arrived(from, to);
}

/* ---- the threads of a block ---- */

enum thread_state { READY, AT_BARRIER, IN_WARP, WAITING, ENDED };

struct async_copy {
    void *to;
    const void *from;
    unsigned bytes;
    bool valid;
};

struct cuda_thread {
    fiber own;
    thread_state state;
    uint3 index;
    bool predicate; /* at a barrier */
    int n_true;     /* behind it */
    unsigned mask;  /* in a warp */
    emulation_operation *operation;
    emulation_request *request;
    const std::function<bool()> *holds; /* what it waits for */
    std::vector<async_copy> open;       /* not committed */
    std::vector<std::vector<async_copy>> groups;
};

/* One host thread's emulated multiprocessor. */
struct multiprocessor {
    fiber host;
    cuda_thread threads[MAX_THREADS];
    cuda_thread *running;
    unsigned n_threads, n_at_barrier, n_ended;
    unsigned n_blocks; /* that it ever ran */
    unsigned n_rounds; /* through the warps of a block */
    const std::function<void()> *body;
    unsigned char *shared;
    size_t shared_bytes;
    char *stacks;

    multiprocessor();
    ~multiprocessor();
};

thread_local std::unique_ptr<multiprocessor> here;

/* A fiber is one thread of block after block. */
void thread_main() {
    multiprocessor *mp = here.get();
    fiber_arrived(&mp->running->own, &mp->host);
    for (;;) {
        cuda_thread *self = mp->running;
        (*mp->body)();
        self->state = ENDED;
        mp->n_ended++;
        fiber_switch(&self->own, &mp->host);
    }
}

multiprocessor::multiprocessor() : host(), threads(), running(), n_threads(), n_blocks(), n_rounds() {
    size_t each = STACK_BYTES + GUARD_BYTES;
    void *memory = mmap(nullptr, MAX_THREADS * each, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) emulation_fail("no memory for stacks");
    stacks = static_cast<char *>(memory);
    host.started = true;
    for (size_t i = 0; i < MAX_THREADS; i++) {
        fiber *own = &threads[i].own;
        mprotect(stacks + i * each, GUARD_BYTES, PROT_NONE); /* stacks grow down, into it */
        own->stack = stacks + i * each + GUARD_BYTES;
        getcontext(&own->start);
        own->start.uc_stack.ss_sp = own->stack;
        own->start.uc_stack.ss_size = STACK_BYTES;
        makecontext(&own->start, thread_main, 0);
    }
}

multiprocessor::~multiprocessor() {
    munmap(stacks, MAX_THREADS * (STACK_BYTES + GUARD_BYTES));
}

/* The running thread waits until another makes it READY. */
void wait_as(thread_state state) {
    multiprocessor *mp = here.get();
    mp->running->state = state;
    fiber_switch(&mp->running->own, &mp->host);
}

void run_thread(multiprocessor *mp, unsigned i) {
    mp->running = &mp->threads[i];
    mp->running->state = READY;
    threadIdx = mp->running->index;
    fiber_switch(&mp->host, &mp->running->own);
    mp->running = nullptr;
}

bool can_run(const cuda_thread &thread) {
    return thread.state == READY || (thread.state == WAITING && (*thread.holds)());
}

/* Run threads [first, last), a warp, until none of them can go on; whether any of them ran. */
bool run_warp(multiprocessor *mp, unsigned first, unsigned last, bool backwards) {
    bool any = false, again = true;
    while (again) {
        again = false;
        for (unsigned k = first; k < last; k++) {
            unsigned i = backwards ? first + last - 1 - k : k;
            if (!can_run(mp->threads[i])) continue;
            run_thread(mp, i);
            any = again = true;
        }
    }
    return any;
}

[[noreturn]] void fail_divergent(const multiprocessor *mp) {
    unsigned n[5] = {}, warp = MAX_THREADS;
    for (unsigned i = 0; i < mp->n_threads; i++) {
        n[mp->threads[i].state]++;
        if (mp->threads[i].state == IN_WARP && warp == MAX_THREADS) warp = i / LANES;
    }
    char text[256];
    snprintf(text, sizeof text,
             "divergent: of %u threads, %u wait at __syncthreads, %u in an operation of their warp (the "
             "first in warp %d), %u at a barrier in shared memory, and %u have ended",
             mp->n_threads, n[AT_BARRIER], n[IN_WARP], n[IN_WARP] ? static_cast<int>(warp) : -1, n[WAITING],
             n[ENDED]);
    emulation_fail(text);
}

void run_block(multiprocessor *mp) {
    bool backwards = mp->n_blocks++ % 2 != 0;
    unsigned n_warps = (mp->n_threads + LANES - 1) / LANES;
    if (mp->shared_bytes) memset(mp->shared, 0xff, mp->shared_bytes);
    mp->n_at_barrier = mp->n_ended = 0;
    for (unsigned i = 0; i < mp->n_threads; i++) {
        cuda_thread *thread = &mp->threads[i];
        thread->state = READY;
        thread->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        thread->open.clear();
        thread->groups.clear();
    }
    while (mp->n_ended < mp->n_threads) {
        bool any = false;
        mp->n_rounds++;
        for (unsigned k = 0; k < n_warps; k++) {
            unsigned first = (backwards ? n_warps - 1 - k : k) * LANES;
            any |= run_warp(mp, first, min(first + LANES, mp->n_threads), backwards);
        }
        if (!any) fail_divergent(mp);
    }
    emulation_warpgroup_end(mp->n_threads);
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &body) {
    if (!here) here.reset(new multiprocessor);
    multiprocessor *mp = here.get();
    emulation_at = {{0, 0, 0}, {0, 0, 0}, {block.x, block.y, block.z}, {grid.x, grid.y, grid.z}};
    mp->n_threads = block.x * block.y * block.z;
    mp->body = &body;
    void *shared = nullptr;
    if (shared_bytes && posix_memalign(&shared, 1024, shared_bytes))
        emulation_fail("no memory for shared memory");
    mp->shared = static_cast<unsigned char *>(shared);
    mp->shared_bytes = shared_bytes;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                run_block(mp);
    free(shared);
}

} // namespace

void emulation_launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes,
                      std::function<void()> body) {
    uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (!threads || threads > MAX_THREADS || block.z > 64)
        emulation_fail("a launch with a bad number of threads");
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 0xffffu || grid.z > 0xffffu)
        emulation_fail("a launch with a bad number of blocks");
    if (shared_bytes > MAX_SHARED_BYTES) emulation_fail("a launch with too much shared memory");
    if (emulation_demanded(EMULATION_LAUNCH) == cudaSuccess)
        emulation_enqueue(stream, [=] { run_grid(grid, block, shared_bytes, body); });
}

unsigned char *emulation_shared_memory() {
    return here->shared;
}

size_t emulation_shared_bytes() {
    return here->shared_bytes;
}

/* ---- meeting ---- */

void emulation_wait_until(const std::function<bool()> &holds) {
    if (holds()) return;
    here->running->holds = &holds;
    wait_as(WAITING);
}

void emulation_let_others_run() {
    unsigned round = here->n_rounds;
    emulation_wait_until([=] { return here->n_rounds != round; });
}

int emulation_barrier(bool predicate) {
    multiprocessor *mp = here.get();
    cuda_thread *self = mp->running;
    self->predicate = predicate;
    if (++mp->n_at_barrier < mp->n_threads) {
        wait_as(AT_BARRIER);
        return self->n_true;
    }
    int n_true = 0;
    for (unsigned i = 0; i < mp->n_threads; i++)
        n_true += mp->threads[i].predicate;
    for (unsigned i = 0; i < mp->n_threads; i++) {
        mp->threads[i].n_true = n_true;
        mp->threads[i].state = READY;
    }
    mp->n_at_barrier = 0;
    return n_true;
}

void emulation_meet(unsigned mask, emulation_operation *operation, emulation_request *own) {
    multiprocessor *mp = here.get();
    cuda_thread *self = mp->running, *warp = mp->threads + (self - mp->threads) / LANES * LANES;
    if (!(mask >> (self - warp) & 1)) emulation_fail("a lane is not in the mask of its own operation");
    self->mask = mask;
    self->operation = operation;
    self->request = own;
    self->state = IN_WARP;
    emulation_request *lanes[LANES] = {};
    for (unsigned i = 0; i < LANES; i++) {
        if (!(mask >> i & 1)) continue;
        if (warp + i >= mp->threads + mp->n_threads)
            emulation_fail("the mask has lanes that the block has not");
        bool waits_for_us = warp[i].state == IN_WARP && (warp[i].mask >> (self - warp) & 1);
        if (!waits_for_us) return wait_as(IN_WARP); /* another will be the last to come */
        if (warp[i].mask != mask || warp[i].operation != operation)
            emulation_fail("the lanes of a warp meet in different operations");
        lanes[i] = warp[i].request;
    }
    operation(lanes, mask);
    for (unsigned i = 0; i < LANES; i++)
        if (lanes[i]) warp[i].state = READY;
}

void emulation_nothing(emulation_request *const *, unsigned) {}

void emulation_exchange(emulation_request *const lanes[32], unsigned mask) {
    uint64_t values[LANES];
    for (unsigned i = 0; i < LANES; i++)
        values[i] = lanes[i] ? lanes[i]->value : UINT64_MAX;
    for (unsigned i = 0; i < LANES; i++)
        if (mask >> i & 1) lanes[i]->value = values[lanes[i]->source % LANES];
}

void emulation_vote(emulation_request *const lanes[32], unsigned mask) {
    unsigned votes = 0;
    for (unsigned i = 0; i < LANES; i++)
        if (mask >> i & 1) votes |= static_cast<unsigned>(lanes[i]->value) << i;
    for (unsigned i = 0; i < LANES; i++)
        if (mask >> i & 1) lanes[i]->value = votes;
}

/* ---- matrices: lane layouts as in warp.cuh ---- */

static void multiply(emulation_request *const lanes[32], unsigned) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < LANES; lane++) {
        unsigned group = lane / 4, place = lane % 4;
        for (unsigned i = 0; i < 8; i++)
            a[group + (i / 2 % 2) * 8][2 * place + i % 2 + i / 4 * 8] = emulation_bf16_at(lanes[lane]->a, i);
        for (unsigned i = 0; i < 4; i++)
            b[2 * place + i % 2 + i / 2 * 8][group] = emulation_bf16_at(lanes[lane]->b, i);
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        float *c = static_cast<float *>(lanes[lane]->out);
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            for (unsigned k = 0; k < 16; k++)
                c[i] += a[row][k] * b[k][column];
        }
    }
}

void emulation_mma(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    emulation_request own = {};
    own.a = a;
    own.b = b;
    own.out = c;
    emulation_meet(0xffffffffu, multiply, &own);
}

static int byte_at(const void *packed, unsigned i, bool is_signed) {
    uint8_t byte = static_cast<const uint8_t *>(packed)[i];
    return is_signed ? static_cast<int8_t>(byte) : byte;
}

static void multiply_bytes(emulation_request *const lanes[32], unsigned) {
    const bool a_signed = lanes[0]->value & 1, b_signed = lanes[0]->value & 2;
    int a[16][32], b[32][8];
    for (unsigned lane = 0; lane < LANES; lane++) {
        unsigned group = lane / 4, place = lane % 4;
        for (unsigned i = 0; i < 16; i++)
            a[group + (i / 4 % 2) * 8][4 * place + i % 4 + i / 8 * 16] = byte_at(lanes[lane]->a, i, a_signed);
        for (unsigned i = 0; i < 8; i++)
            b[4 * place + i % 4 + i / 4 * 16][group] = byte_at(lanes[lane]->b, i, b_signed);
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        uint32_t *c = static_cast<uint32_t *>(lanes[lane]->out);
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            for (unsigned k = 0; k < 32; k++)
                c[i] += static_cast<uint32_t>(a[row][k] * b[k][column]);
        }
    }
}

void emulation_mma_bytes(int c[4], const uint32_t a[4], const uint32_t b[2], bool a_signed, bool b_signed) {
    emulation_request own = {};
    own.a = a;
    own.b = b;
    own.out = c;
    own.value = a_signed + 2 * b_signed;
    emulation_meet(0xffffffffu, multiply_bytes, &own);
}

static uint16_t element(emulation_request *const lanes[32], unsigned matrix, unsigned row, unsigned column) {
    return static_cast<const uint16_t *>(lanes[8 * matrix + row]->a)[column];
}

static void load_matrices(emulation_request *const lanes[32], unsigned) {
    for (unsigned lane = 0; lane < LANES; lane++)
        for (unsigned i = 0; i < 4; i++) {
            uint32_t low = element(lanes, i, lane / 4, 2 * (lane % 4));
            uint32_t high = element(lanes, i, lane / 4, 2 * (lane % 4) + 1);
            static_cast<uint32_t *>(lanes[lane]->out)[i] = low | high << 16;
        }
}

static void load_transposed(emulation_request *const lanes[32], unsigned) {
    for (unsigned lane = 0; lane < LANES; lane++)
        for (unsigned i = 0; i < 4; i++) {
            uint32_t low = element(lanes, i, 2 * (lane % 4), lane / 4);
            uint32_t high = element(lanes, i, 2 * (lane % 4) + 1, lane / 4);
            static_cast<uint32_t *>(lanes[lane]->out)[i] = low | high << 16;
        }
}

static void check_aligned(const void *at, unsigned bytes) {
    if (reinterpret_cast<uintptr_t>(at) % bytes)
        emulation_fail("an address is not aligned to the bytes that are moved");
}

void emulation_load_matrices(uint32_t r[4], const void *row, bool transposed) {
    check_aligned(row, 16);
    emulation_request own = {};
    own.a = row;
    own.out = r;
    emulation_meet(0xffffffffu, transposed ? load_transposed : load_matrices, &own);
}

/* ---- asynchronous copies ---- */

void emulation_copy_async(void *to, const void *from, unsigned bytes, bool valid) {
    check_aligned(to, bytes);
    check_aligned(from, bytes);
    memset(to, 0xff, bytes);
    here->running->open.push_back({to, from, bytes, valid});
}

void emulation_copy_commit() {
    cuda_thread *self = here->running;
    self->groups.emplace_back();
    self->groups.back().swap(self->open);
}

void emulation_copy_wait(int n) {
    auto &groups = here->running->groups;
    for (; groups.size() > static_cast<size_t>(n); groups.erase(groups.begin()))
        for (const async_copy &copy : groups.front())
            if (copy.valid)
                memcpy(copy.to, copy.from, copy.bytes);
            else
                memset(copy.to, 0, copy.bytes);
}
