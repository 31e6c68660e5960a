/* Every operation on matrices and rows against a float64 reference, on every instruction set in both
 * precisions; and the promise that a row's bits do not depend on what is computed beside it. */
#include <stdio.h>

#include "kernels/cpu/cpu_isa.h"
#include "tests/fixtures/device_fixture.h"

/* Sums in float32 of inputs that are exact in the reference; the result in act is rounded once more. */
static const double F32_BOUND = 1e-12, BF16_ROUNDING_BOUND = 4e-6;

static double act_bound(dtype act) {
    return act == DTYPE_F32 ? F32_BOUND : BF16_ROUNDING_BOUND;
}

/* ---- the device itself ---- */

static void test_open(void) {
    device *dev = NULL;
    CHECK_REFUSED(cpu_device_open(PRECISION_BF16, 1, "sse9", &dev), "sse9");
    CHECK_REFUSED(cpu_device_open(PRECISION_BF16, 0, NULL, &dev), "thread");
    CU_ASSERT_PTR_NULL(dev);
    CU_ASSERT(cpu_isa_available("portable") && !cpu_isa_available("sse9"));
    dev = open_device(NULL, PRECISION_BF16, 1);
    CU_ASSERT(dev->act == DTYPE_BF16 && dev->kv == DTYPE_BF16);
    int best = 0;
    while (!cpu_isa_available(cpu_isa_name(best)))
        best++;
    CU_ASSERT_STRING_EQUAL(cpu_device_isa(dev), cpu_isa_name(best));
    close_device(dev);
    dev = open_device("portable", PRECISION_F32, 1);
    CU_ASSERT(dev->act == DTYPE_F32 && dev->kv == DTYPE_F32);
    CU_ASSERT_STRING_EQUAL(cpu_device_isa(dev), "portable");
    close_device(dev);
}

static void test_memory(void) {
    device *dev = open_device(NULL, PRECISION_BF16, 1);
    void *memory = NULL;
    char text[] = "a varve is a layer", copy[sizeof text] = "";
    CHECK_OK(dev->ops->alloc(dev, 8 << 20, &memory));
    memset(memory, 1, 8 << 20);
    dev->ops->copy_in(dev, memory, text, sizeof text);
    dev->ops->copy_out(dev, copy, memory, sizeof text);
    CHECK_OK(dev->ops->sync(dev));
    CU_ASSERT_STRING_EQUAL(copy, text);
    dev->ops->release(dev, memory);
    dev->ops->release(dev, NULL);
    memory = NULL;
    harness_check(__FILE__, __LINE__, dev->ops->alloc(dev, (size_t)1 << 60, &memory), STATUS_FAILED,
                  "out of memory: wanted 1152921504606846976 bytes");
    harness_check(__FILE__, __LINE__, dev->ops->alloc(dev, SIZE_MAX, &memory), STATUS_FAILED, "wanted");
    CU_ASSERT_PTR_NULL(memory);
    matrix *w = NULL;
    harness_check(__FILE__, __LINE__, dev->ops->matrix_open(dev, 1 << 30, 1 << 20, &w), STATUS_FAILED,
                  "wanted");
    CU_ASSERT_PTR_NULL(w);
    close_device(dev);
}

/* ---- numbers ---- */

/* All f16, and bf16 at its edges, come back from a matrix as they went in, rounded to its type. */
static void check_conversion(const char *isa, precision p) {
    device *dev = open_device(isa, p, 2);
    enum { N = 256 };
    uint16_t *halves = mem_new(N * N, sizeof *halves);
    float *floats = mem_new(N * N, sizeof *floats), row[N];
    uint64_t seed = 1;
    for (int i = 0; i < N * N; i++) {
        halves[i] = (uint16_t)i;
        floats[i] = float_of((uint32_t)harness_random(&seed));
    }
    const uint32_t edges[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x7f7fffff, 0x7f800000,
                              0xff800000, 0x7f800001, 0xffffffff, 0x00008000, 0x00018000, 0x80000001};
    memcpy(floats, edges, sizeof edges);
    const struct {
        const void *rows;
        dtype type;
    } sources[] = {{halves, DTYPE_F16}, {halves, DTYPE_BF16}, {floats, DTYPE_F32}};
    int n_wrong = 0;
    for (int source = 0; source < 3; source++) {
        matrix *w = new_matrix(dev, N, N, sources[source].rows, sources[source].type);
        for (int32_t r = 0; r < N; r++) {
            dev->ops->embed(dev, w, &r, 1, row);
            for (int i = 0; i < N; i++) {
                float x = number_at(sources[source].rows, sources[source].type, (size_t)(r * N + i));
                /* the nearest bf16 by its definition: of the two around x, the nearer, or the even one */
                uint32_t low = bits_of(x) & 0xffff0000u, rest = bits_of(x) & 0xffffu;
                bool up = rest > 0x8000 || (rest == 0x8000 && (low & 0x10000u));
                float expected = p == PRECISION_F32 || isnan(x) ? x : float_of(low + (up ? 0x10000u : 0));
                n_wrong += isnan(expected) ? !isnan(row[i]) : bits_of(row[i]) != bits_of(expected);
            }
        }
        dev->ops->matrix_close(dev, w);
    }
    CHECK_CASE(n_wrong == 0, "%s: %d numbers changed", isa, n_wrong);
    CU_ASSERT(float_of_f16(0x3c00) == 1 && float_of_f16(0xc000) == -2 && float_of_f16(0x0001) == 0x1p-24f);
    CU_ASSERT(float_of_f16(0x7bff) == 65504 && isinf(float_of_f16(0x7c00)) && isnan(float_of_f16(0x7c01)));
    free(halves);
    free(floats);
    close_device(dev);
}

static void test_conversion(void) {
    for_each_device(check_conversion);
}

static void check_exp(const char *isa, precision p) {
    enum { N = 1000003 };
    const cpu_kernels *kernels = cpu_isa_find(isa, p);
    float *x = mem_new(N, sizeof *x), *y = new_poisoned(DTYPE_F32, N);
    for (int i = 0; i < N; i++)
        x[i] = -87.0f + 175.0f * (float)i / N;
    kernels->exp(x, N, y);
    double worst = 0;
    for (int i = 0; i < N; i++) {
        double expected = exp((double)x[i]);
        double ulp = ldexp(1, ilogb(expected) - 23);
        worst = fmax(worst, fabs((double)y[i] - expected) / ulp);
    }
    CHECK_CASE(worst < 2, "%s: exp is off by %g ulp", isa, worst);
    const float edges[] = {0, -0.0f, -INFINITY, -87.01f, -1e30f, NAN, 88, INFINITY};
    kernels->exp(edges, 8, y);
    CU_ASSERT(y[0] == 1 && y[1] == 1 && y[2] == 0 && y[3] == 0 && y[4] == 0 && isnan(y[5]) && y[6] == y[7]);
    free(x);
    free(y);
}

static void test_exp(void) {
    for_each_device(check_exp);
}

/* ---- matrices ---- */

static void check_product(device *dev, int T, int N, int M, uint64_t *seed) {
    size_t n = (size_t)T * (size_t)N, guard = 64;
    void *rows = new_random_of(dev->act, seed, (size_t)N * (size_t)M, 1);
    void *x = new_random_of(dev->act, seed, (size_t)T * (size_t)M, 1);
    float *y = new_poisoned(DTYPE_F32, n + guard), *residual = new_random(seed, n, 1);
    double *expected = mem_new(n, sizeof *expected);
    matrix *w = new_matrix(dev, N, M, rows, dev->act);
    for (int t = 0; t < T; t++)
        for (int r = 0; r < N; r++)
            for (int i = 0; i < M; i++)
                expected[t * N + r] += (double)number_at(x, dev->act, (size_t)(t * M + i)) *
                                       (double)number_at(rows, dev->act, (size_t)(r * M + i));
    dev->ops->matmul(dev, w, x, T, T / 2, y);
    double error = harness_nmse(y, expected, n);
    CHECK_CASE(error < F32_BOUND, "%s: matmul T %d N %d M %d: %g", cpu_device_isa(dev), T, N, M, error);

    memcpy(y, residual, n * sizeof *y);
    for (size_t i = 0; i < n; i++)
        expected[i] += (double)residual[i];
    dev->ops->matmul_add(dev, w, x, T, T / 2, y);
    error = harness_nmse(y, expected, n);
    CHECK_CASE(error < F32_BOUND, "%s: matmul_add T %d N %d M %d: %g", cpu_device_isa(dev), T, N, M, error);
    for (size_t i = n; i < n + guard; i++)
        CU_ASSERT(isnan(y[i]));
    dev->ops->matrix_close(dev, w);
    free(rows);
    free(x);
    free(y);
    free(residual);
    free(expected);
}

static void check_matmul(const char *isa, precision p) {
    const int shapes[][3] = {{1, 1, 1},    {1, 17, 3},     {1, 64, 128},  {2, 100, 513}, {3, 15, 31},
                             {5, 16, 2},   {6, 65, 64},    {7, 129, 514}, {8, 33, 1030}, {63, 40, 70},
                             {64, 48, 96}, {65, 113, 257}, {193, 20, 33}, {400, 3, 5},   {1, 700, 300}};
    device *dev = open_device(isa, p, 2);
    uint64_t seed = 2;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_product(dev, shapes[i][0], shapes[i][1], shapes[i][2], &seed);
    close_device(dev);
}

static void test_matmul(void) {
    for_each_device(check_matmul);
}

static void test_matmul_rows(void) {
    for_each_device(check_rows_of_product);
}

/* What pads an odd last column to a word is 0, also after NaN stood there. */
static void check_odd_column(const char *isa, precision p) {
    device *dev = open_device(isa, p, 1);
    const float rows[16] = {1, 2, 3, 4};
    float nan_rows[32];
    poison(nan_rows, DTYPE_F32, 32);
    uint16_t x[4] = {0x3f80}; /* bf16 of 1 */
    float y[16];
    for (int n_loads = 0; n_loads < 2; n_loads++) { /* all rows at once, and some of them */
        matrix *before = new_matrix(dev, 16, 2, nan_rows, DTYPE_F32);
        matrix *w = new_matrix(dev, 16, 1, rows, DTYPE_F32);
        if (n_loads) dev->ops->matrix_load(dev, w, 0, 3, rows, DTYPE_F32);
        dev->ops->matmul(dev, w, p == PRECISION_F32 ? (const void *)rows : x, 1, 0, y);
        CHECK_CASE(!memcmp(y, rows, sizeof y), "%s: the padding is not 0", isa);
        dev->ops->matrix_close(dev, before);
        dev->ops->matrix_close(dev, w);
    }
    close_device(dev);
}

static void test_odd_column(void) {
    for_each_device(check_odd_column);
}

/* A matrix filled by pieces, in any order and of other types, is the one filled at once. */
static void check_matrix_pieces(const char *isa, precision p) {
    enum { N = PIECED_ROWS, M = 1027 };
    device *dev = open_device(isa, p, 2);
    uint64_t seed = 4;
    float *rows = new_random(&seed, N * M, 1), *x = mem_new(N * M, sizeof *x), *y = mem_new(N * M, sizeof *y);
    int32_t tokens[N];
    matrix *whole = new_matrix(dev, N, M, rows, DTYPE_F32), *w = new_matrix_of_pieces(dev, M, rows);
    for (int32_t i = 0; i < N; i++)
        tokens[i] = (i * 31) % N;
    dev->ops->embed(dev, whole, tokens, N, x);
    dev->ops->embed(dev, w, tokens, N, y);
    CHECK_CASE(!memcmp(x, y, N * M * sizeof *x), "%s: pieces differ", isa);
    int n_wrong = 0;
    for (int t = 0; t < N; t++)
        for (int i = 0; i < M; i++) {
            float source = rows[tokens[t] * M + i];
            n_wrong += x[t * M + i] != (p == PRECISION_F32 ? source : float_of_bf16(bf16_of_float(source)));
        }
    CHECK_CASE(n_wrong == 0, "%s: %d embedded numbers differ", isa, n_wrong);
    size_t bytes = device_matrix_bytes(p, N, M);
    CU_ASSERT(bytes >= N * M * dtype_bytes(dev->act) && bytes <= 80 * 1028 * dtype_bytes(dev->act));
    dev->ops->matrix_close(dev, w);
    dev->ops->matrix_close(dev, whole);
    free(rows);
    free(x);
    free(y);
    close_device(dev);
}

static void test_matrix_pieces(void) {
    for_each_device(check_matrix_pieces);
}

/* ---- rows ---- */

/* y[t] of T rows has the bits of row t alone. */
static bool same_rows(const void *together, const void *alone, size_t n, dtype type) {
    return !memcmp(together, alone, n * dtype_bytes(type));
}

static void check_rmsnorm(const char *isa, precision p) {
    const int widths[] = {1, 15, 16, 64, 100, 2050};
    enum { T = 19 };
    device *dev = open_device(isa, p, 3);
    uint64_t seed = 5;
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        size_t D = (size_t)widths[k], n = T * D;
        float *x = new_random(&seed, n, 3), *weight = new_random(&seed, D, 1);
        char *y = new_poisoned(dev->act, n + 1), *one = new_poisoned(dev->act, n);
        double *expected = mem_new(n, sizeof *expected);
        for (size_t t = 0; t < T; t++) {
            double squares = 0;
            for (size_t i = 0; i < D; i++)
                squares += (double)x[t * D + i] * (double)x[t * D + i];
            for (size_t i = 0; i < D; i++)
                expected[t * D + i] =
                    (double)x[t * D + i] / sqrt(squares / (double)D + 0.5) * (double)weight[i];
            dev->ops->rmsnorm(dev, x + t * D, weight, 0.5f, 1, widths[k],
                              one + t * D * dtype_bytes(dev->act));
        }
        dev->ops->rmsnorm(dev, x, weight, 0.5f, T, widths[k], y);
        double error = error_of(y, dev->act, expected, n);
        CHECK_CASE(error < act_bound(dev->act), "%s: rmsnorm D %d: %g", isa, widths[k], error);
        CU_ASSERT(same_rows(y, one, n, dev->act) && isnan(number_at(y, dev->act, n)));
        free(x);
        free(weight);
        free(y);
        free(one);
        free(expected);
    }
    close_device(dev);
}

static void test_rmsnorm(void) {
    for_each_device(check_rmsnorm);
}

/* Weights of one column, so that sums are but products. */
static void check_swiglu(const char *isa, precision p) {
    const int widths[] = {1, 17, 64, 1024, 1025, 3000};
    enum { T = 7 };
    device *dev = open_device(isa, p, 3);
    size_t act_bytes = dtype_bytes(dev->act);
    uint64_t seed = 6;
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        size_t F = (size_t)widths[k], n = T * F;
        float *weights = new_random(&seed, 2 * F, 4), *inputs = new_random(&seed, T, 1);
        weights[0] = -200, inputs[0] = 1; /* exp overflows */
        void *column = new_as(dev->act, weights, 2 * F);
        char *x = new_as(dev->act, inputs, T);
        char *y = new_poisoned(dev->act, n + 1), *one = new_poisoned(dev->act, n);
        float *gate_up = new_poisoned(DTYPE_F32, 2 * n);
        double *expected = mem_new(n, sizeof *expected);
        matrix *w = new_matrix(dev, 2 * widths[k], 1, column, dev->act);
        for (size_t t = 0; t < T; t++) {
            double input = (double)number_at(x, dev->act, t);
            for (size_t i = 0; i < F; i++)
                expected[t * F + i] = swiglu_of(input * (double)number_at(column, dev->act, i),
                                                input * (double)number_at(column, dev->act, F + i));
            dev->ops->matmul_swiglu(dev, w, x + t * act_bytes, 1, 0, gate_up, one + t * F * act_bytes);
        }
        dev->ops->matmul_swiglu(dev, w, x, T, 0, gate_up, y);
        double error = error_of(y, dev->act, expected, n);
        CHECK_CASE(error < act_bound(dev->act), "%s: swiglu F %d: %g", isa, widths[k], error);
        CU_ASSERT(same_rows(y, one, n, dev->act) && isnan(number_at(y, dev->act, n)));
        dev->ops->matrix_close(dev, w);
        free(column);
        free(x);
        free(y);
        free(one);
        free(gate_up);
        free(expected);
    }
    close_device(dev);
}

static void test_swiglu(void) {
    for_each_device(check_swiglu);
}

static void test_gather_rows(void) {
    device *dev = open_device(NULL, PRECISION_BF16, 2);
    enum { D = 37, ROWS = 9, N = 4 };
    const int32_t chosen[N] = {8, 0, 3, 3};
    uint64_t seed = 7;
    float *x = new_random(&seed, ROWS * D, 1), *out = new_poisoned(DTYPE_F32, N * D + 1);
    dev->ops->gather_rows(dev, x, chosen, N, D, out);
    for (int i = 0; i < N; i++)
        CU_ASSERT(!memcmp(out + i * D, x + chosen[i] * D, D * sizeof *x));
    CU_ASSERT(isnan(out[N * D]));
    free(x);
    free(out);
    close_device(dev);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"open", test_open},
                           {"memory", test_memory},
                           {"conversion", test_conversion},
                           {"exp", test_exp},
                           {"matmul", test_matmul},
                           {"matmul rows", test_matmul_rows},
                           {"matrix pieces", test_matrix_pieces},
                           {"odd column", test_odd_column},
                           {"rmsnorm", test_rmsnorm},
                           {"swiglu", test_swiglu},
                           {"gather rows", test_gather_rows},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kernels", tests);
}
