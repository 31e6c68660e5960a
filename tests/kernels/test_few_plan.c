/* How a product of few rows on a GPU is cut up: arithmetic of indices, which needs none. */
#include <string.h>

#include "kernels/cuda/matmul/matmul_few.cuh"
#include "tests/fixtures/device_fixture.h"

enum { LANES = 32 };

/* A product's weights, and how often each row and each piece of FEW_VECTOR columns is taken. */
typedef struct cover {
    few_plan plan;
    int N, M;
    bool gated;
    uint8_t *taken; /* [N][pieces] */
} cover;

/* What the lane takes of a tile. */
static void take_lane(const cover *c, int row0, int n_rows, int slice, int lane) {
    const few_plan *p = &c->plan;
    int pieces = few_parts(c->M, FEW_VECTOR), n_results = c->gated ? c->N / 2 : c->N;
    for (int stage = few_slice_stage(p, slice); stage < few_slice_stage(p, slice + 1); stage++)
        for (int part = 0; part < 2; part++)
            for (int i = 0; i < n_rows / FEW_GROUP; i++) {
                int row = row0 + FEW_GROUP * i + few_lane_row(lane);
                int weight_row = few_weight_row(c->N, c->gated, row);
                int column = stage * FEW_STAGE + few_lane_column(lane, part);
                CU_ASSERT_FATAL(weight_row >= 0 && weight_row < c->N);
                if ((c->gated ? few_result_of(row) : row) < n_results && column < c->M)
                    c->taken[(size_t)weight_row * (size_t)pieces + (size_t)(column / FEW_VECTOR)]++;
            }
}

static bool all_once(uint8_t *taken, size_t n) {
    bool good = true;
    for (size_t i = 0; i < n; i++)
        good &= taken[i] == 1;
    memset(taken, 0, n);
    return good;
}

static void check_cover(int N, int M, bool gated) {
    few_plan p = few_plan_of(N, M);
    size_t n = (size_t)N * (size_t)few_parts(M, FEW_VECTOR);
    cover c = {p, N, M, gated, mem_new(n, 1)};
    int warps = p.tiles_a_block * p.n_slices;
    CU_ASSERT(warps <= (p.tile_rows == 16 ? FEW_MAX_SLICES : FEW_MAX_SLICES / 2));
    for (int block = 0; block < few_parts(p.n_tiles, p.tiles_a_block); block++)
        for (int warp = 0; warp < warps; warp++)
            for (int lane = 0; lane < LANES; lane++)
                take_lane(&c, few_warp_tile(&p, block, warp) * p.tile_rows, p.tile_rows,
                          few_warp_slice(&p, warp), lane);
    CHECK_CASE(all_once(c.taken, n), "thin: N %d M %d gated %d", N, M, gated);
    for (int block = 0; block < few_parts(N, few_wide_row(1, 0)); block++)
        for (int slice = 0; slice < p.n_slices; slice++)
            for (int warp = 0; warp < FEW_WIDE_WARPS; warp++)
                for (int lane = 0; lane < LANES; lane++)
                    take_lane(&c, few_wide_row(block, warp), FEW_WIDE_ROWS, slice, lane);
    CHECK_CASE(all_once(c.taken, n), "wide: N %d M %d gated %d", N, M, gated);
    CU_ASSERT(few_slice_stage(&p, 0) == 0 && few_slice_stage(&p, p.n_slices) == p.n_stages);
    free(c.taken);
}

static void test_cover(void) {
    const int rows[] = {1,   2,    7,    16,   18,   48,   63,   64,    65,
                        200, 1024, 1538, 3071, 3072, 3082, 6145, 12300, 24578};
    const int columns[] = {8, 56, 64, 72, 128, 248, 264, 1000, 1024, 2056, 4160};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof columns / sizeof *columns; j++)
            if (rows[i] < 4000 || columns[j] < 1000) {
                check_cover(rows[i], columns[j], false);
                if (rows[i] % 2 == 0) check_cover(rows[i], columns[j], true);
            }
}

/* The largest products that cuda_multiply_few_can lets pass: no number is too large for its type, which the
 * sanitizers see, and what is taken are rows and columns that exist. */
static void test_large(void) {
    const int rows[] = {1, 8192, 128256, FEW_MOST_ROWS - 1, FEW_MOST_ROWS},
              columns[] = {8, 16384, FEW_MOST_COLUMNS};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof columns / sizeof *columns; j++) {
            const int N = rows[i], M = columns[j];
            few_plan p = few_plan_of(N, M);
            int last_block = few_parts(p.n_tiles, p.tiles_a_block) - 1, warps = p.tiles_a_block * p.n_slices;
            int row = few_warp_tile(&p, last_block, warps - 1) * p.tile_rows + p.tile_rows - 1;
            int wide =
                few_wide_row(few_parts(N, few_wide_row(1, 0)) - 1, FEW_WIDE_WARPS - 1) + FEW_WIDE_ROWS - 1;
            CU_ASSERT(row >= N - 1 && wide >= N - 1);
            CU_ASSERT(few_weight_row(N, false, row) == N - 1 && few_weight_row(N, false, wide) == N - 1);
            if (N % 2 == 0) CU_ASSERT(few_weight_row(N, true, wide | FEW_GROUP) == N - 1);
            int stage = few_slice_stage(&p, p.n_slices) - 1;
            CU_ASSERT(stage == p.n_stages - 1 && stage * FEW_STAGE < M && M - stage * FEW_STAGE <= FEW_STAGE);
            for (int slice = 0; slice < p.n_slices; slice++)
                CU_ASSERT(few_slice_stage(&p, slice) < few_slice_stage(&p, slice + 1));
        }
}

/* The tile rows that a result comes from are its gate's and its up's, of one tile, by one lane. */
static void test_pairs(void) {
    for (int F = 1; F < 100; F++)
        for (int f = 0; f < F; f++) {
            int gate = few_gate_row(f), up = gate + FEW_GROUP;
            CU_ASSERT(few_result_of(gate) == f && few_result_of(up) == f);
            CU_ASSERT(few_weight_row(2 * F, true, gate) == f && few_weight_row(2 * F, true, up) == F + f);
            CU_ASSERT(gate / 16 == up / 16 && gate % 16 < FEW_GROUP);
        }
}

/* Every piece of a stage of x has a place of its own, and eight lanes that read together use different banks.
 */
static void test_shared_x(void) {
    enum { ROWS = 64, PIECES = FEW_STAGE / FEW_VECTOR };
    uint8_t taken[ROWS * PIECES] = {0};
    for (int row = 0; row < ROWS; row++)
        for (int piece = 0; piece < PIECES; piece++)
            taken[few_shared_piece(row, piece)]++;
    CU_ASSERT(all_once(taken, sizeof taken));
    for (int part = 0; part < 2; part++)
        for (int lane0 = 0; lane0 < LANES; lane0 += 8) {
            uint8_t banks[8] = {0};
            for (int lane = lane0; lane < lane0 + 8; lane++)
                banks[few_shared_piece(few_lane_row(lane), few_lane_column(lane, part) / FEW_VECTOR) % 8]++;
            CU_ASSERT(all_once(banks, sizeof banks));
        }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"cover", test_cover},
                           {"large", test_large},
                           {"pairs", test_pairs},
                           {"shared x", test_shared_x},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "few plan", tests);
}
