/* Products of the CUDA backend: with few rows and with many against float64, the bits of a row alone and
 * among others, swiglu in them, and the search for the largest logits. On a GPU or in emulation. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "tests/fixtures/device_arrays.h"

enum { GUARD = 64 };
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

/* Rows of w end with what they began with, negated, and rows of x with the same: a sum is what rounding left,
 * other bits wherever the order of additions is another, even where it is rounded to bf16. M is even. */
static void mirror(product *p) {
    uint16_t *arrays[] = {p->w.data, p->x};
    const int n_rows[] = {p->N, p->T};
    int half = p->M / 2;
    for (int k = 0; k < 2; k++) {
        size_t bytes = (size_t)n_rows[k] * (size_t)p->M * sizeof(uint16_t);
        uint16_t *host = mem_new(bytes, 1);
        fetch(p->dev, host, arrays[k], bytes);
        for (int i = 0; i < n_rows[k] * p->M; i++)
            if (i % p->M >= half) host[i] = host[i - half] ^ (k == 0 ? 0x8000 : 0);
        p->dev->ops->copy_in(p->dev, arrays[k], host, bytes);
        CHECK_OK(p->dev->ops->sync(p->dev));
        free(host);
    }
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

/* ---- silu(gate) * up ---- */

/* y[T, N / 2] of the weights' halves; p's y is scratch. */
typedef void gated_function(product *p, int T_few, uint16_t *y);

static void run_fused(product *p, int T_few, uint16_t *y) {
    cuda_multiply_few_swiglu(cuda_device_of(p->dev), &p->w, p->x, T_few, y);
}

static void run_few(product *p, int T_few, uint16_t *y) {
    cuda_multiply_few(cuda_device_of(p->dev), &p->w, p->x, T_few, p->y, false);
    cuda_swiglu(cuda_device_of(p->dev), p->y, T_few, p->N / 2, y);
}

static void run_many(product *p, int T_few, uint16_t *y) {
    (void)T_few;
    cuda_multiply_many(cuda_device_of(p->dev), &p->w, p->x, p->T, p->y, false);
    cuda_swiglu(cuda_device_of(p->dev), p->y, p->T, p->N / 2, y);
}

static void run_dispatched(product *p, int T_few, uint16_t *y) {
    cuda_matmul_swiglu(p->dev, &p->w, p->x, p->T, T_few, p->y, y);
}

/* The result in host memory. */
static uint16_t *gate(product *p, gated_function *run, int T_few) {
    size_t n = (size_t)p->T * (size_t)p->N / 2, bytes = (n + GUARD) * sizeof(uint16_t);
    uint16_t *result = new_poisoned(DTYPE_BF16, n + GUARD), *y = send(p->dev, result, bytes);
    send_poison(p->dev, p->y, 2 * n);
    run(p, T_few, y);
    fetch(p->dev, result, y, bytes);
    p->dev->ops->release(p->dev, y);
    for (size_t i = n; i < n + GUARD; i++)
        CU_ASSERT(isnan(number_at(result, DTYPE_BF16, i)));
    return result;
}

/* The bits of the product and swiglu after it, and near to float64. */
static void check_gated(device *dev, int T, int F, int M, uint64_t *seed) {
    product p = new_product(dev, T, 2 * F, M, seed);
    size_t n = (size_t)T * (size_t)F, width = (size_t)F;
    uint16_t *fused = gate(&p, run_fused, T), *apart = gate(&p, run_few, T);
    double *expected = mem_new(n, sizeof *expected);
    for (size_t i = 0; i < n; i++) {
        const double *sums = p.expected + i / width * 2 * width + i % width;
        expected[i] = swiglu_of(sums[0], sums[width]);
    }
    double error = error_of(fused, DTYPE_BF16, expected, n);
    CHECK_CASE(error < BF16_BOUND, "gated: T %d F %d M %d: %g", T, F, M, error);
    CHECK_CASE(!memcmp(fused, apart, n * sizeof *fused), "gated: T %d F %d M %d: other bits", T, F, M);
    free(fused);
    free(apart);
    mirror(&p);
    fused = gate(&p, run_fused, T), apart = gate(&p, run_few, T);
    CHECK_CASE(!memcmp(fused, apart, n * sizeof *fused), "gated: T %d F %d M %d: another order", T, F, M);
    free(fused);
    free(apart);
    free(expected);
    free_product(&p);
}

static void test_gated(void) {
    const int T[] = {1, 7, 8, 9, 15, 16, 17, 32, 33, 63, 64, 65, 100}, F[] = {1, 7, 8, 12, 24, 40, 136};
    const int M[] = {8, 64, 72, 264, 520};
    device *dev = open_gpu();
    uint64_t seed = 7;
    for (size_t t = 0; t < sizeof T / sizeof *T; t++)
        for (size_t f = 0; f < sizeof F / sizeof *F; f++)
            check_gated(dev, T[t], F[f], M[(t + f) % 5], &seed);
    /* Each number of slices, and tiles of 16 and of 32 rows, as in test_few. */
    check_gated(dev, 3, 20, 2056, &seed);
    check_gated(dev, 5, 1540, 1040, &seed);
    check_gated(dev, 12, 3075, 520, &seed);
    check_gated(dev, 18, 6150, 264, &seed);
    check_gated(dev, 2, 12300, 136, &seed);
    close_device(dev);
}

/* The first T_few rows have the bits of few rows, the others those of many. */
static void test_gated_dispatch(void) {
    enum { T = 70, F = 21, M = 136 };
    const int splits[] = {0, 1, 5, 64, 69, 70};
    device *dev = open_gpu();
    uint64_t seed = 8;
    product p = new_product(dev, T, 2 * F, M, &seed);
    mirror(&p);
    uint16_t *few = gate(&p, run_few, T), *many = gate(&p, run_many, T);
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        size_t n_few = (size_t)splits[i] * F, n = T * F;
        uint16_t *y = gate(&p, run_dispatched, splits[i]);
        CU_ASSERT(!memcmp(y, few, n_few * sizeof *y));
        CU_ASSERT(!memcmp(y + n_few, many + n_few, (n - n_few) * sizeof *y));
        free(y);
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
    CU_TestInfo tests[] = {{"few", test_few},
                           {"many", test_many},
                           {"alone", test_alone},
                           {"dispatch", test_dispatch},
                           {"gated", test_gated},
                           {"gated, dispatch", test_gated_dispatch},
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
