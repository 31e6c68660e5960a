/* What kernels/cuda/device/warpgroup.cuh needs of Hopper, on the CPU. Mistakes that a GPU may hide end the
 * program, or show as NaN:
 * - the result of a product is NaN until it was waited for;
 * - whoever writes to an operand of a product before that, in shared memory or in registers, is found out;
 * - products begin behind a fence, and the four warps of a warpgroup begin the same ones. */
#include "tests/emulation/emulation.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

enum { LANES = 32, WARPS = 32, COLUMNS = 64, DEPTH = 16, OF_LANE = 32 };

/* A product as one lane sees it. */
struct product {
    float *c;
    float result[OF_LANE];
    const uint32_t *a;
    uint32_t a_then[4];
    uint64_t b;
    bool by_rows;
    uint64_t b_then; /* a sum over the bytes of b */
};

struct lane_state {
    bool fenced;
    std::vector<product> open; /* not committed */
    std::vector<std::vector<product>> groups;
};

/* Of the running block. */
thread_local lane_state lanes_of_block[LANES * WARPS];
thread_local std::vector<uint64_t> begun[WARPS]; /* each warp's products */

lane_state *own_state() {
    return &lanes_of_block[emulation_thread_number()];
}

/* ---- matrices in shared memory ---- */

/* Element (k, n) of b: PTX ISA, "Matrix descriptor format" and the canonical layouts of 128-byte swizzling.
 */
const uint16_t *element_of(uint64_t b, bool by_rows, unsigned k, unsigned n) {
    uint64_t start = (b & 0x3fff) << 4, stride = (b >> 32 & 0x3fff) << 4;
    unsigned row = by_rows ? k : n, column = by_rows ? n : k;
    uint64_t at = start + row / 8 * stride + row % 8 * 128 + column * 2;
    at ^= (at >> 7 & 7) << 4;
    return reinterpret_cast<const uint16_t *>(emulation_shared_memory() + at);
}

uint64_t sum_of(uint64_t b, bool by_rows) {
    uint64_t sum = 0;
    for (unsigned k = 0; k < DEPTH; k++)
        for (unsigned n = 0; n < COLUMNS; n++)
            sum = sum * 0x100000001b3u + *element_of(b, by_rows, k, n);
    return sum;
}

void check_descriptor(uint64_t b, bool by_rows) {
    uint64_t start = (b & 0x3fff) << 4, leading = (b >> 16 & 0x3fff) << 4, stride = (b >> 32 & 0x3fff) << 4;
    if (b >> 62 != 1) emulation_fail("a matrix is not one of 128-byte swizzling");
    /* by columns, the stride of eight rows is one of them, by rows the other: see warpgroup_matrix */
    if (leading != stride || stride % 1024) emulation_fail("a matrix has unexpected strides");
    if (start % 1024 > (by_rows ? 0 : 96)) emulation_fail("a matrix begins in the middle of eight rows");
    if (start / 1024 * 1024 + (by_rows ? DEPTH : COLUMNS) / 8 * stride > emulation_shared_bytes())
        emulation_fail("a matrix goes beyond shared memory");
}

/* ---- products ---- */

/* What c will hold when all that was begun is done. */
void read_accumulator(const lane_state &state, const float *c, float now[OF_LANE]) {
    memcpy(now, c, OF_LANE * sizeof *now);
    auto look = [&](const std::vector<product> &group) {
        for (const product &p : group)
            if (p.c == c) memcpy(now, p.result, sizeof p.result);
    };
    for (const auto &group : state.groups)
        look(group);
    look(state.open);
}

/* Of a warp: a[16, 16] * b[16, 64] is added to the lanes' results. lanes[i]->a: its product. */
void multiply(emulation_request *const lanes[LANES], unsigned) {
    static thread_local float a[16][DEPTH], b[DEPTH][COLUMNS];
    const product *first = static_cast<const product *>(lanes[0]->a);
    for (unsigned lane = 0; lane < LANES; lane++) {
        const product *p = static_cast<const product *>(lanes[lane]->a);
        if (p->b != first->b || p->by_rows != first->by_rows)
            emulation_fail("the lanes of a warp multiply different matrices");
        unsigned group = lane / 4, place = lane % 4;
        for (unsigned i = 0; i < 8; i++)
            a[group + i / 2 % 2 * 8][2 * place + i % 2 + i / 4 * 8] = emulation_bf16_at(p->a_then, i);
    }
    for (unsigned k = 0; k < DEPTH; k++)
        for (unsigned n = 0; n < COLUMNS; n++)
            b[k][n] =
                __uint_as_float(static_cast<uint32_t>(*element_of(first->b, first->by_rows, k, n)) << 16);
    for (unsigned lane = 0; lane < LANES; lane++) {
        float *c = static_cast<float *>(lanes[lane]->out);
        for (unsigned i = 0; i < OF_LANE; i++) {
            unsigned row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + 2 * (lane % 4) + i % 2;
            for (unsigned k = 0; k < DEPTH; k++)
                c[i] += a[row][k] * b[k][column];
        }
    }
}

/* The warps of a warpgroup begin the same products. */
void compare_warps(uint64_t what) {
    unsigned warp = emulation_thread_number() / LANES, first = warp / 4 * 4;
    size_t number = begun[warp].size();
    for (unsigned other = first; other < first + 4; other++)
        if (number < begun[other].size() && begun[other][number] != what)
            emulation_fail("the warps of a warpgroup multiply different matrices");
    begun[warp].push_back(what);
}

void finish(const product &p) {
    if (memcmp(p.a, p.a_then, sizeof p.a_then) != 0)
        emulation_fail("registers of a product changed before it was waited for");
    if (emulation_lane() == 0 && sum_of(p.b, p.by_rows) != p.b_then)
        emulation_fail("a matrix in shared memory changed before its product was waited for");
    memcpy(p.c, p.result, sizeof p.result);
}

} // namespace

uint32_t emulation_shared_address(const void *at) {
    return static_cast<uint32_t>(static_cast<const unsigned char *>(at) - emulation_shared_memory());
}

void emulation_warpgroup_begin() {
    __syncwarp();
    own_state()->fenced = true;
}

void emulation_warpgroup_mma(float c[8][4], const uint32_t a[4], uint64_t b, bool add, bool by_rows) {
    lane_state *self = own_state();
    if (!self->fenced) emulation_fail("a product without a fence before it");
    check_descriptor(b, by_rows);
    product p = {};
    p.c = c[0];
    p.a = a;
    memcpy(p.a_then, a, sizeof p.a_then);
    p.b = b;
    p.by_rows = by_rows;
    if (add) read_accumulator(*self, p.c, p.result);
    if (emulation_lane() == 0) {
        compare_warps(b ^ static_cast<uint64_t>(add) << 15 ^ static_cast<uint64_t>(by_rows) << 14);
        p.b_then = sum_of(b, by_rows);
    }
    emulation_request own = {};
    own.a = &p;
    own.out = p.result;
    emulation_meet(0xffffffffu, multiply, &own);
    memset(p.c, 0xff, sizeof p.result); /* NaN */
    self->open.push_back(p);
}

void emulation_warpgroup_commit() {
    lane_state *self = own_state();
    __syncwarp();
    self->groups.emplace_back();
    self->groups.back().swap(self->open);
}

void emulation_warpgroup_wait(int n) {
    lane_state *self = own_state();
    emulation_let_others_run(); /* who may do harm, shall */
    __syncwarp();
    for (; self->groups.size() > static_cast<size_t>(n); self->groups.erase(self->groups.begin()))
        for (const product &p : self->groups.front())
            finish(p);
    self->fenced = false; /* now the registers may be written by others */
}

/* ---- a block's end: the next one finds everything as if it were the first ---- */

void emulation_warpgroup_end(unsigned n_threads) {
    for (unsigned i = 0; i < n_threads; i++) {
        if (!lanes_of_block[i].open.empty() || !lanes_of_block[i].groups.empty())
            emulation_fail("a block ended before its products");
        lanes_of_block[i].fenced = false;
    }
    for (unsigned warp = 0; warp < WARPS; warp++)
        if (begun[warp].size() != begun[warp / 4 * 4].size())
            emulation_fail("the warps of a warpgroup began different numbers of products");
    for (auto &products : begun)
        products.clear();
}

/* ---- barriers ---- */

namespace {

struct shared_barrier {
    uint16_t n_arrivals, n_missing;
    uint32_t phase; /* how many have ended */
};
static_assert(sizeof(shared_barrier) == sizeof(uint64_t), "in place of a GPU's");

} // namespace

void emulation_shared_barrier_init(uint64_t *at, int n_arrivals) {
    shared_barrier barrier = {static_cast<uint16_t>(n_arrivals), static_cast<uint16_t>(n_arrivals), 0};
    memcpy(at, &barrier, sizeof barrier);
}

void emulation_shared_barrier_arrive(uint64_t *at) {
    shared_barrier barrier;
    memcpy(&barrier, at, sizeof barrier);
    if (barrier.n_arrivals == 0 || barrier.n_arrivals > 1024)
        emulation_fail("a barrier that was not initialised");
    if (--barrier.n_missing == 0) {
        barrier.n_missing = barrier.n_arrivals;
        barrier.phase++;
    }
    memcpy(at, &barrier, sizeof barrier);
}

/* A GPU sees no more than whether the phase is odd. */
void emulation_shared_barrier_wait(uint64_t *at, int phase) {
    emulation_wait_until([=] {
        shared_barrier barrier;
        memcpy(&barrier, at, sizeof barrier);
        return barrier.phase % 2 != static_cast<uint32_t>(phase) % 2;
    });
    shared_barrier barrier;
    memcpy(&barrier, at, sizeof barrier);
    if (barrier.phase != static_cast<uint32_t>(phase) + 1)
        emulation_fail("a barrier is in another phase than whoever waits for it takes it to be");
}
