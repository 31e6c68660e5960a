/* Matrices in int8 on every instruction set: how far the weights are off, products against a float64
 * reference of the weights as they are kept, and the promise that a row's bits do not depend on what is
 * computed beside it. */
#include <float.h>
#include <stdio.h>

#include "kernels/cpu/cpu_isa.h"
#include "tests/fixtures/device_fixture.h"

/* Sums of exact products; and where the input is rounded to 1/16384 of its group's largest besides. */
static const double EXACT_BOUND = 1e-12, ROUNDED_BOUND = 1e-8;

static void for_each_isa(void (*body)(const char *isa)) {
    for (int i = 0; cpu_isa_name(i); i++)
        if (cpu_isa_available(cpu_isa_name(i))) body(cpu_isa_name(i));
}

/* The weights as they are kept. */
static float *new_kept(device *dev, const matrix *w, int n_rows, int n_cols) {
    float *kept = new_poisoned(DTYPE_F32, (size_t)n_rows * (size_t)n_cols);
    for (int32_t row = 0; row < n_rows; row++)
        dev->ops->embed(dev, w, &row, 1, kept + (size_t)row * (size_t)n_cols);
    return kept;
}

static int columns_of_group(int n_cols, int col0) {
    return n_cols - col0 < INT8_GROUP ? n_cols - col0 : INT8_GROUP;
}

/* ---- rounding ---- */

/* Worst error among n weights in units of their scale. */
static double worst_error(const float *weights, const float *kept, int n) {
    double largest = 0, worst = 0;
    for (int i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)weights[i]));
    double scale = fmax(largest / 127, (double)FLT_MIN);
    for (int i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)weights[i] - (double)kept[i]) / scale);
    return worst;
}

/* Groups of all kinds: each row times a factor of its own, so that some are huge, tiny, or nothing. */
static void check_rounding(const char *isa) {
    enum { N = 19, M = 3 * INT8_GROUP + 37 };
    const double factors[N] = {1,     0,     -0.0,  1e-3,  1e3,   1e30, 7e37,  1e-30, 1e-37, 1e-38,
                               1e-39, 1e-42, 1e-45, 0.125, 1e-20, 1e20, 1e-10, 1e10,  1};
    const float largest = float_of_bf16(0x7f7f);
    device *dev = open_device(isa, PRECISION_INT8, 2);
    uint64_t seed = 1;
    float *weights = new_random(&seed, N * M, 1);
    for (int i = 0; i < N * M; i++)
        weights[i] = (float)((double)weights[i] * factors[i / M]);
    for (int i = 0; i < INT8_GROUP; i++)
        weights[i] = 0; /* one group of a row that is not all zero */
    weights[18 * M] = largest, weights[18 * M + 1] = -largest, weights[18 * M + 2] = 1;
    matrix *w = new_matrix(dev, N, M, weights, DTYPE_F32);
    float *kept = new_kept(dev, w, N, M);
    for (int row = 0; row < N; row++)
        for (int col = 0; col < M; col += INT8_GROUP) {
            int at = row * M + col, n = columns_of_group(M, col);
            double worst = worst_error(weights + at, kept + at, n);
            CHECK_CASE(worst <= 0.50001, "%s: row %d: off by %g of the scale", isa, row, worst);
        }
    for (int i = 0; i < INT8_GROUP; i++)
        CU_ASSERT(kept[i] == 0);
    for (int i = M; i < 3 * M; i++)
        CU_ASSERT(kept[i] == 0);
    CU_ASSERT(fabsf(kept[18 * M] / largest - 1) < 1e-6f && kept[18 * M + 2] == 0);
    dev->ops->matrix_close(dev, w);
    free(weights);
    free(kept);
    close_device(dev);
}

static void test_rounding(void) {
    for_each_isa(check_rounding);
}

/* Whole numbers up to 127 with a 127 in each group are kept as they are, from files of every type. */
static void check_types(const char *isa) {
    enum { N = 33, M = 200 };
    static const dtype types[] = {DTYPE_F32, DTYPE_BF16};
    device *dev = open_device(isa, PRECISION_INT8, 2);
    float floats[N * M];
    uint16_t halves[N * M];
    for (int i = 0; i < N * M; i++) {
        floats[i] = i % M % INT8_GROUP == 3 ? 127 : (float)(i * 37 % 255 - 127);
        halves[i] = bf16_of_float(floats[i]);
    }
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        matrix *w = new_matrix(dev, N, M, types[k] == DTYPE_F32 ? (void *)floats : halves, types[k]);
        float *kept = new_kept(dev, w, N, M);
        CHECK_CASE(!memcmp(kept, floats, sizeof floats), "%s: %s: not as they were", isa,
                   dtype_name(types[k]));
        free(kept);
        dev->ops->matrix_close(dev, w);
    }
    close_device(dev);
}

static void test_types(void) {
    for_each_isa(check_types);
}

/* A weight that is not finite spoils its group and nothing else; an input that is not finite, its row. */
static void check_not_finite(const char *isa) {
    enum { N = 20, M = 2 * INT8_GROUP, T = 5 };
    const float bad[] = {NAN, INFINITY, -INFINITY};
    device *dev = open_device(isa, PRECISION_INT8, 1);
    uint64_t seed = 6;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        float *weights = new_random(&seed, N * M, 1), y[T * N];
        uint16_t *x = new_random_of(DTYPE_BF16, &seed, T * M, 1);
        weights[7 * M + INT8_GROUP + 5] = bad[k];
        x[3 * M + 9] = bf16_of_float(bad[k]);
        matrix *w = new_matrix(dev, N, M, weights, DTYPE_F32);
        float *kept = new_kept(dev, w, N, M);
        dev->ops->matmul(dev, w, x, T, 0, y);
        for (int i = 0; i < N * M; i++)
            CU_ASSERT(isnan(kept[i]) == (i / M == 7 && i % M >= INT8_GROUP));
        for (int i = 0; i < T * N; i++)
            CU_ASSERT(isnan(y[i]) == (i / N == 3 || i % N == 7));
        dev->ops->matrix_close(dev, w);
        free(weights);
        free(kept);
        free(x);
    }
    close_device(dev);
}

static void test_not_finite(void) {
    for_each_isa(check_not_finite);
}

/* ---- products ---- */

static void reference(const void *x, const float *kept, int T, int N, int M, double *y) {
    for (int t = 0; t < T; t++)
        for (int r = 0; r < N; r++) {
            y[t * N + r] = 0;
            for (int i = 0; i < M; i++)
                y[t * N + r] +=
                    (double)number_at(x, DTYPE_BF16, (size_t)(t * M + i)) * (double)kept[r * M + i];
        }
}

/* x is random, or such that it is kept exactly: its numbers are not below 1/64 of the largest. */
static void check_product(device *dev, int T, int N, int M, bool is_exact, uint64_t *seed) {
    size_t n = (size_t)T * (size_t)N, guard = 64;
    float *weights = new_random(seed, (size_t)N * (size_t)M, 1), *residual = new_random(seed, n, 1);
    uint16_t *x = new_random_of(DTYPE_BF16, seed, (size_t)T * (size_t)M, 1);
    for (size_t i = 0; is_exact && i < (size_t)T * (size_t)M; i++)
        x[i] = (uint16_t)((x[i] & 0x807fu) | (127 + i % 7) << 7); /* 1 to 2^7 */
    double *expected = mem_new(n, sizeof *expected), bound = is_exact ? EXACT_BOUND : ROUNDED_BOUND;
    matrix *w = new_matrix(dev, N, M, weights, DTYPE_F32);
    float *kept = new_kept(dev, w, N, M), *y = new_poisoned(DTYPE_F32, n + guard);
    reference(x, kept, T, N, M, expected);
    dev->ops->matmul(dev, w, x, T, T / 2, y);
    double error = harness_nmse(y, expected, n);
    CHECK_CASE(error < bound, "%s: matmul T %d N %d M %d: %g", cpu_device_isa(dev), T, N, M, error);

    memcpy(y, residual, n * sizeof *y);
    for (size_t i = 0; i < n; i++)
        expected[i] += (double)residual[i];
    dev->ops->matmul_add(dev, w, x, T, T / 2, y);
    error = harness_nmse(y, expected, n);
    CHECK_CASE(error < bound, "%s: matmul_add T %d N %d M %d: %g", cpu_device_isa(dev), T, N, M, error);
    for (size_t i = n; i < n + guard; i++)
        CU_ASSERT(isnan(y[i]));
    dev->ops->matrix_close(dev, w);
    free(weights);
    free(residual);
    free(x);
    free(expected);
    free(kept);
    free(y);
}

static void check_matmul(const char *isa) {
    const int shapes[][3] = {{1, 1, 1},     {1, 7, 3},      {1, 63, 128},   {2, 64, 129},   {3, 65, 127},
                             {4, 17, 257},  {5, 130, 1000}, {7, 1, 640},    {63, 16, 5},    {64, 33, 260},
                             {65, 48, 511}, {193, 20, 132}, {3, 700, 2050}, {400, 3, 1024}, {1, 64, 8192}};
    device *dev = open_device(isa, PRECISION_INT8, 2);
    uint64_t seed = 2;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int is_exact = 0; is_exact < 2; is_exact++)
            check_product(dev, shapes[i][0], shapes[i][1], shapes[i][2], is_exact, &seed);
    close_device(dev);
}

static void test_matmul(void) {
    for_each_isa(check_matmul);
}

/* The largest sums that there can be: all weights and inputs at their ends. */
static void check_largest(const char *isa) {
    enum { N = 16, M = 3 * INT8_GROUP };
    device *dev = open_device(isa, PRECISION_INT8, 1);
    for (int signs = 0; signs < 4; signs++) {
        float weights[N * M], y[N];
        uint16_t x[M];
        double value = (double)float_of_bf16(0x467f), sign = signs % 3 ? -1 : 1;
        for (int i = 0; i < N * M; i++)
            weights[i] = signs & 1 ? -127 : 127;
        for (int i = 0; i < M; i++)
            x[i] = signs & 2 ? 0xc67f : 0x467f; /* 255 * 64 */
        matrix *w = new_matrix(dev, N, M, weights, DTYPE_F32);
        dev->ops->matmul(dev, w, x, 1, 0, y);
        for (int i = 0; i < N; i++)
            CHECK_CASE((double)y[i] == sign * value * 127 * M, "%s: %g", isa, (double)y[i]);
        dev->ops->matrix_close(dev, w);
    }
    close_device(dev);
}

static void test_largest(void) {
    for_each_isa(check_largest);
}

/* Inputs too small for a scale of their own are off by half of the least normal number. */
static void check_tiny(device *dev, const matrix *w, const float *kept, int N, int M) {
    uint16_t *x = mem_new((size_t)M, sizeof *x);
    float *y = mem_new((size_t)N, sizeof *y);
    double *expected = mem_new((size_t)N, sizeof *expected);
    for (int i = 0; i < M; i++)
        x[i] = (uint16_t)((i % 3 ? 0x8300 : 0x0300) + i % 128); /* 2^-121 to 2^-120 */
    reference(x, kept, 1, N, M, expected);
    dev->ops->matmul(dev, w, x, 1, 0, y);
    for (int row = 0; row < N; row++) {
        double bound = 0;
        for (int i = 0; i < M; i++)
            bound += (double)FLT_MIN / 1.99 * fabs((double)kept[row * M + i]);
        CU_ASSERT(fabs((double)y[row] - expected[row]) <= bound + (double)FLT_MIN);
    }
    free(x);
    free(y);
    free(expected);
}

/* Inputs and weights of any size: their products are as good as those of 1. */
static void check_sizes(const char *isa) {
    enum { N = 40, M = 300, T = 4 };
    const float sizes[][2] = {
        {1e-30f, 1e20f}, {1e30f, 1e-30f}, {1e-20f, 1e-10f}, {1e18f, 1e18f}, {1e-32f, 1e32f}};
    device *dev = open_device(isa, PRECISION_INT8, 2);
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint16_t *x = new_random_of(DTYPE_BF16, &seed, T * M, sizes[i][0]);
        float *weights = new_random(&seed, N * M, sizes[i][1]), y[T * N];
        double expected[T * N];
        matrix *w = new_matrix(dev, N, M, weights, DTYPE_F32);
        float *kept = new_kept(dev, w, N, M);
        reference(x, kept, T, N, M, expected);
        dev->ops->matmul(dev, w, x, T, 0, y);
        double error = harness_nmse(y, expected, T * N);
        CHECK_CASE(error < ROUNDED_BOUND, "%s: sizes %g: %g", isa, (double)sizes[i][0], error);
        check_tiny(dev, w, kept, N, M);
        dev->ops->matrix_close(dev, w);
        free(x);
        free(weights);
        free(kept);
    }
    close_device(dev);
}

static void test_sizes(void) {
    for_each_isa(check_sizes);
}

/* ---- the same bits ---- */

static void check_matmul_rows(const char *isa) {
    check_rows_of_product(isa, PRECISION_INT8);
}

static void test_matmul_rows(void) {
    for_each_isa(check_matmul_rows);
}

/* A matrix filled by pieces, in any order, is the one filled at once. */
static void check_pieces(const char *isa) {
    enum { N = PIECED_ROWS, M = 1027 };
    device *dev = open_device(isa, PRECISION_INT8, 2);
    uint64_t seed = 4;
    float *rows = new_random(&seed, N * M, 1);
    matrix *whole = new_matrix(dev, N, M, rows, DTYPE_F32), *w = new_matrix_of_pieces(dev, M, rows);
    float *x = new_kept(dev, whole, N, M), *y = new_kept(dev, w, N, M);
    CHECK_CASE(!memcmp(x, y, N * M * sizeof *x), "%s: pieces differ", isa);
    size_t bytes = device_matrix_bytes(PRECISION_INT8, N, M);
    CU_ASSERT(bytes == 80 * (1028 + 9 * sizeof(float)));
    dev->ops->matrix_close(dev, w);
    dev->ops->matrix_close(dev, whole);
    free(rows);
    free(x);
    free(y);
    close_device(dev);
}

static void test_pieces(void) {
    for_each_isa(check_pieces);
}

static void test_refused(void) {
    device *dev = NULL;
    CHECK_REFUSED(device_open(DEVICE_CUDA, 0, PRECISION_INT8, 1, &dev), "--weights int8: the CPU only");
    CU_ASSERT_PTR_NULL(dev);
    dev = open_device(NULL, PRECISION_INT8, 1);
    CU_ASSERT(dev->act == DTYPE_BF16 && dev->kv == DTYPE_BF16);
    close_device(dev);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"rounding", test_rounding},
        {"types", test_types},
        {"not finite", test_not_finite},
        {"matmul", test_matmul},
        {"largest sums", test_largest},
        {"sizes", test_sizes},
        {"rows of a product", test_matmul_rows},
        {"filled by pieces", test_pieces},
        {"refused", test_refused},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "int8", tests);
}
