/* Products of the CUDA backend: how weights are cut up, products with few rows and with many against float64,
 * the bits of a row alone and among others, and the search for the largest logits. On a GPU or in emulation.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/matmul_few.cuh"
#include "tests/device_fixture.h"

enum { LANES = 32, GUARD = 64 };
/* Of the normalised squared error: tensor cores cut off what their sums in float32 cannot hold. */
static const double F32_BOUND = 1e-10;

/* ---- memory of the device ---- */

static device *open_gpu(void) {
    device *dev = NULL;
    CHECK_OK(cuda_device_open(PRECISION_BF16, 0, &dev));
    return dev;
}

static void *send(device *dev, const void *host, size_t bytes) {
    void *out = NULL;
    CHECK_OK(dev->ops->alloc(dev, bytes, &out));
    dev->ops->copy_in(dev, out, host, bytes);
    CHECK_OK(dev->ops->sync(dev));
    return out;
}

static void fetch(device *dev, void *host, const void *from, size_t bytes) {
    dev->ops->copy_out(dev, host, from, bytes);
    CHECK_OK(dev->ops->sync(dev));
}

static void send_poison(device *dev, void *to, size_t n_floats) {
    float *nan = new_poisoned(DTYPE_F32, n_floats);
    dev->ops->copy_in(dev, to, nan, n_floats * sizeof *nan);
    CHECK_OK(dev->ops->sync(dev));
    free(nan);
}

/* ---- how weights are cut up ---- */

/* How often each row and each piece of FEW_VECTOR columns is taken by the lane, in `taken` [N][pieces]. */
static void take_lane(const few_plan *p, int N, int M, int row0, int n_rows, int slice, int lane,
                      uint8_t *taken) {
    int pieces = few_parts(M, FEW_VECTOR);
    for (int stage = few_slice_stage(p, slice); stage < few_slice_stage(p, slice + 1); stage++)
        for (int part = 0; part < 2; part++)
            for (int i = 0; i < n_rows / 8; i++) {
                int row = row0 + 8 * i + few_lane_row(lane),
                    column = stage * FEW_STAGE + few_lane_column(lane, part);
                if (row < N && column < M)
                    taken[(size_t)row * (size_t)pieces + (size_t)(column / FEW_VECTOR)]++;
            }
}

static bool all_once(uint8_t *taken, size_t n) {
    bool good = true;
    for (size_t i = 0; i < n; i++)
        good &= taken[i] == 1;
    memset(taken, 0, n);
    return good;
}

static void check_cover(int N, int M) {
    few_plan p = few_plan_of(N, M);
    size_t n = (size_t)N * (size_t)few_parts(M, FEW_VECTOR);
    uint8_t *taken = mem_new(n, 1);
    int warps = p.tiles_a_block * p.n_slices;
    CU_ASSERT(warps <= (p.tile_rows == 16 ? FEW_MAX_SLICES : FEW_MAX_SLICES / 2));
    for (int block = 0; block < few_parts(p.n_tiles, p.tiles_a_block); block++)
        for (int warp = 0; warp < warps; warp++)
            for (int lane = 0; lane < LANES; lane++)
                take_lane(&p, N, M, few_warp_tile(&p, block, warp) * p.tile_rows, p.tile_rows,
                          few_warp_slice(&p, warp), lane, taken);
    CHECK_CASE(all_once(taken, n), "thin: N %d M %d", N, M);
    for (int block = 0; block < few_parts(N, few_wide_row(1, 0)); block++)
        for (int slice = 0; slice < p.n_slices; slice++)
            for (int warp = 0; warp < FEW_WIDE_WARPS; warp++)
                for (int lane = 0; lane < LANES; lane++)
                    take_lane(&p, N, M, few_wide_row(block, warp), FEW_WIDE_ROWS, slice, lane, taken);
    CHECK_CASE(all_once(taken, n), "wide: N %d M %d", N, M);
    CU_ASSERT(few_slice_stage(&p, 0) == 0 && few_slice_stage(&p, p.n_slices) == p.n_stages);
    free(taken);
}

static void test_cover(void) {
    const int rows[] = {1, 7, 16, 63, 64, 65, 200, 1024, 1537, 3071, 3072, 3080, 6145, 12300, 24577};
    const int columns[] = {8, 56, 64, 72, 128, 248, 264, 1000, 1024, 2056, 4160};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof columns / sizeof *columns; j++)
            if (rows[i] < 4000 || columns[j] < 1000) check_cover(rows[i], columns[j]);
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

/* ---- products ---- */

typedef void multiply_function(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add);

/* A weight matrix and rows of x, in host memory and on the device, and y in float64. */
typedef struct product {
    device *dev;
    matrix w;
    int T, N, M;
    uint16_t *x;   /* device */
    float *y;      /* device: [T, N], and a guard behind */
    float *result; /* host, the same */
    double *expected;
} product;

static product new_product(device *dev, int T, int N, int M, uint64_t *seed) {
    product p = {.dev = dev, .w = {.n_rows = N, .n_cols = M}, .T = T, .N = N, .M = M};
    size_t n = (size_t)T * (size_t)N;
    uint16_t *w = new_random_of(DTYPE_BF16, seed, (size_t)N * (size_t)M, 1);
    uint16_t *x = new_random_of(DTYPE_BF16, seed, (size_t)T * (size_t)M, 1);
    p.expected = mem_new(n, sizeof *p.expected);
    for (int t = 0; t < T; t++)
        for (int r = 0; r < N; r++) {
            double sum = 0;
            for (int i = 0; i < M; i++)
                sum += (double)float_of_bf16(x[t * M + i]) * (double)float_of_bf16(w[r * M + i]);
            p.expected[t * N + r] = sum;
        }
    p.w.data = send(dev, w, (size_t)N * (size_t)M * sizeof *w);
    p.x = send(dev, x, (size_t)T * (size_t)M * sizeof *x);
    p.result = new_poisoned(DTYPE_F32, n + GUARD);
    p.y = send(dev, p.result, (n + GUARD) * sizeof *p.y);
    free(w);
    free(x);
    return p;
}

static void free_product(product *p) {
    p->dev->ops->release(p->dev, p->w.data);
    p->dev->ops->release(p->dev, p->x);
    p->dev->ops->release(p->dev, p->y);
    free(p->result);
    free(p->expected);
}

static void fetch_result(product *p) {
    size_t n = (size_t)p->T * (size_t)p->N;
    fetch(p->dev, p->result, p->y, (n + GUARD) * sizeof *p->y);
    for (size_t i = n; i < n + GUARD; i++)
        CU_ASSERT(isnan(p->result[i]));
}

/* The products, then added to themselves: twice as much, exactly. */
static void check_product(device *dev, const char *name, multiply_function *multiply, int T, int N, int M,
                          uint64_t *seed) {
    product p = new_product(dev, T, N, M, seed);
    size_t n = (size_t)T * (size_t)N;
    float *once = mem_new(n, sizeof *once);
    multiply(cuda_device_of(dev), &p.w, p.x, T, p.y, false);
    fetch_result(&p);
    double error = harness_nmse(p.result, p.expected, n);
    CHECK_CASE(error < F32_BOUND, "%s: T %d N %d M %d: %g", name, T, N, M, error);
    memcpy(once, p.result, n * sizeof *once);
    multiply(cuda_device_of(dev), &p.w, p.x, T, p.y, true);
    fetch_result(&p);
    int n_wrong = 0;
    for (size_t i = 0; i < n; i++)
        n_wrong += p.result[i] != 2 * once[i];
    CHECK_CASE(!n_wrong, "%s added: T %d N %d M %d: %d wrong", name, T, N, M, n_wrong);
    free(once);
    free_product(&p);
}

static void check_products(const char *name, multiply_function *multiply) {
    const int T[] = {1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 100}, N[] = {1, 7, 63, 64, 65, 200};
    const int M[] = {8, 64, 72, 264, 520};
    device *dev = open_gpu();
    uint64_t seed = 1;
    for (size_t t = 0; t < sizeof T / sizeof *T; t++)
        for (size_t r = 0; r < sizeof N / sizeof *N; r++)
            check_product(dev, name, multiply, T[t], N[r], M[(t + r) % 5], &seed);
    close_device(dev);
}

static void test_few(void) {
    check_products("few", cuda_multiply_few);
    device *dev = open_gpu();
    uint64_t seed = 2;
    /* Each number of slices, and tiles of 16 and of 32 rows. */
    check_product(dev, "few", cuda_multiply_few, 3, 40, 2056, &seed);
    check_product(dev, "few", cuda_multiply_few, 5, 3080, 1040, &seed);
    check_product(dev, "few", cuda_multiply_few, 12, 6150, 520, &seed);
    check_product(dev, "few", cuda_multiply_few, 18, 12300, 264, &seed);
    check_product(dev, "few", cuda_multiply_few, 2, 24600, 136, &seed);
    matrix w = {.n_rows = 5, .n_cols = 8};
    CU_ASSERT(cuda_multiply_few_can(cuda_device_of(dev), &w));
    w.n_cols = 12;
    CU_ASSERT(!cuda_multiply_few_can(cuda_device_of(dev), &w));
    close_device(dev);
}

static void test_many(void) {
    check_products("many", cuda_multiply_many);
}

/* The bits of every row among `counts` others are those of the row alone. */
static void check_alone(device *dev, multiply_function *multiply, int T, int N, int M, const int *counts,
                        uint64_t *seed) {
    product p = new_product(dev, T, N, M, seed);
    size_t n = (size_t)T * (size_t)N;
    float *alone = mem_new(n, sizeof *alone);
    for (int t = 0; t < T; t++)
        multiply(cuda_device_of(dev), &p.w, p.x + t * M, 1, p.y + t * N, false);
    fetch_result(&p);
    memcpy(alone, p.result, n * sizeof *alone);
    for (; *counts; counts++) {
        int first = (T - *counts) / 2;
        size_t from = (size_t)first * (size_t)N, n_some = (size_t)*counts * (size_t)N;
        send_poison(dev, p.y, n);
        multiply(cuda_device_of(dev), &p.w, p.x + first * M, *counts, p.y + from, false);
        fetch_result(&p);
        CHECK_CASE(!memcmp(p.result + from, alone + from, n_some * sizeof *alone), "%d rows, N %d M %d",
                   *counts, N, M);
    }
    free(alone);
    free_product(&p);
}

static void test_alone(void) {
    const int counts[] = {2, 7, 8, 9, 16, 17, 32, 33, 63, 64, 65, 72, 0}, few[] = {2, 9, 20, 0};
    device *dev = open_gpu();
    uint64_t seed = 3;
    check_alone(dev, cuda_multiply_few, 72, 70, 2056, counts, &seed);
    check_alone(dev, cuda_multiply_few, 72, 33, 200, counts, &seed);
    check_alone(dev, cuda_multiply_few, 20, 3073, 1032, few, &seed);
    check_alone(dev, cuda_multiply_few, 20, 6150, 520, few, &seed);
    check_alone(dev, cuda_multiply_many, 72, 65, 264, counts, &seed);
    close_device(dev);
}

/* The first T_few rows have the bits of few rows, the others those of many. */
static void test_dispatch(void) {
    enum { T = 11, N = 37, M = 136 };
    const int splits[] = {0, 1, 5, 10, 11};
    device *dev = open_gpu();
    uint64_t seed = 4;
    product p = new_product(dev, T, N, M, &seed);
    size_t n = (size_t)T * N;
    float *few = mem_new(n, sizeof *few), *many = mem_new(n, sizeof *many);
    cuda_multiply_few(cuda_device_of(dev), &p.w, p.x, T, p.y, false);
    fetch_result(&p);
    memcpy(few, p.result, n * sizeof *few);
    cuda_multiply_many(cuda_device_of(dev), &p.w, p.x, T, p.y, false);
    fetch_result(&p);
    memcpy(many, p.result, n * sizeof *many);
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        size_t n_few = (size_t)splits[i] * N;
        send_poison(dev, p.y, n);
        cuda_matmul(dev, &p.w, p.x, T, splits[i], p.y);
        fetch_result(&p);
        CU_ASSERT(!memcmp(p.result, few, n_few * sizeof *few));
        CU_ASSERT(!memcmp(p.result + n_few, many + n_few, (n - n_few) * sizeof *many));
        cuda_matmul_add(dev, &p.w, p.x, T, splits[i], p.y);
        fetch_result(&p);
        for (size_t j = 0; j < n; j++)
            CU_ASSERT(p.result[j] == 2 * (j < n_few ? few[j] : many[j]));
    }
    free(few);
    free(many);
    free_product(&p);
    close_device(dev);
}

/* ---- logits ---- */

typedef struct top {
    float *values;
    int32_t *ids;
} top;

static top new_top(int n, int k) {
    size_t count = (size_t)n * (size_t)k;
    return (top){new_poisoned(DTYPE_F32, count), new_poisoned(DTYPE_F32, count)};
}

static void free_top(top *t) {
    free(t->values);
    free(t->ids);
}

static top search(device *dev, const float *logits, int n, int V, int k) {
    top t = new_top(n, k);
    size_t count = (size_t)n * (size_t)k;
    float *from = send(dev, logits, (size_t)n * (size_t)V * sizeof *logits);
    float *values = send(dev, t.values, count * sizeof *values);
    int32_t *ids = send(dev, t.ids, count * sizeof *ids);
    cuda_find_top(cuda_device_of(dev), from, n, V, k, values, ids);
    fetch(dev, t.values, values, count * sizeof *values);
    fetch(dev, t.ids, ids, count * sizeof *ids);
    dev->ops->release(dev, from);
    dev->ops->release(dev, values);
    dev->ops->release(dev, ids);
    return t;
}

/* A row's result against what a plain search finds. */
static void check_top(const float *logits, int V, int k, const float *values, const int32_t *ids) {
    bool *used = mem_new((size_t)V, sizeof *used);
    for (int i = 0; i < k; i++) {
        int best = -1;
        for (int id = 0; id < V; id++)
            if (!used[id] && isfinite(logits[id]) && (best < 0 || logits[id] > logits[best])) best = id;
        float value = best < 0 ? -INFINITY : logits[best];
        CHECK_CASE(ids[i] == best && values[i] == value, "V %d k %d: place %d: id %d for %d, %g for %g", V, k,
                   i, ids[i], best, (double)values[i], (double)value);
        if (best >= 0) used[best] = true;
    }
    free(used);
}

static void check_tops(device *dev, const float *logits, int n, int V, int k) {
    top t = search(dev, logits, n, V, k);
    for (int row = 0; row < n; row++)
        check_top(logits + (size_t)row * (size_t)V, V, k, t.values + row * k, t.ids + row * k);
    free_top(&t);
}

static void test_top(void) {
    const int sizes[] = {1, 3, 64, 100, 4095, 4096, 4097, 9000}, counts[] = {1, 5, 64};
    device *dev = open_gpu();
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof counts / sizeof *counts; j++) {
            float *logits = new_random(&seed, 2 * (size_t)sizes[i], 5);
            check_tops(dev, logits, 2, sizes[i], counts[j]);
            free(logits);
        }
    enum { LARGE = 65 * 4096 + 5 }; /* so many parts that their best need two more searches */
    float *logits = new_random(&seed, LARGE, 1);
    logits[LARGE - 1] = 9;
    check_tops(dev, logits, 1, LARGE, 64);
    free(logits);
    close_device(dev);
}

/* Ties, both zeros, NaNs, infinities, rows without a number. */
static void test_top_special(void) {
    enum { V = 5000, ROWS = 7 };
    float *logits = mem_new(ROWS * V, sizeof *logits);
    for (int i = 0; i < V; i++) {
        logits[i] = 1;                                     /* all equal */
        logits[V + i] = i % 3 ? 0.0f : -0.0f;              /* equal, too */
        logits[2 * V + i] = i % 2 ? NAN : (float)(i % 10); /* NaNs between ties */
        logits[3 * V + i] = i == 4999 ? -2 : -INFINITY;    /* one number */
        logits[4 * V + i] = NAN;                           /* none */
        logits[5 * V + i] = i == 17 ? INFINITY : -(float)i;
        logits[6 * V + i] = i < 3 ? -(float)i : NAN; /* fewer than k */
    }
    logits[2 * V + 4099] = -NAN;
    device *dev = open_gpu();
    check_tops(dev, logits, ROWS, V, 1);
    check_tops(dev, logits, ROWS, V, 64);
    close_device(dev);
    free(logits);
}

static void test_top_alone(void) {
    enum { V = 4500, ROWS = 5, K = 20 };
    uint64_t seed = 6;
    float *logits = new_random(&seed, ROWS * V, 3);
    device *dev = open_gpu();
    top all = search(dev, logits, ROWS, V, K);
    for (int row = 0; row < ROWS; row++) {
        top one = search(dev, logits + row * V, 1, V, K);
        CU_ASSERT(!memcmp(one.values, all.values + row * K, K * sizeof *one.values));
        CU_ASSERT(!memcmp(one.ids, all.ids + row * K, K * sizeof *one.ids));
        free_top(&one);
    }
    free_top(&all);
    close_device(dev);
    free(logits);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"cover", test_cover},
                           {"shared x", test_shared_x},
                           {"few", test_few},
                           {"many", test_many},
                           {"alone", test_alone},
                           {"dispatch", test_dispatch},
                           {"top logits", test_top},
                           {"top logits, special", test_top_special},
                           {"top logits, alone", test_top_alone},
                           CU_TEST_INFO_NULL};
    if (cuda_device_count(NULL) == 0) {
        printf("skipped  cuda matmul: no GPU here\n");
        return 77;
    }
    return harness_run(&argc, &argv, "cuda matmul", tests);
}
