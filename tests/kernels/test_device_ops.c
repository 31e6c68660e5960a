/* Memory, matrices and rows on every kind of device that is here, against float64: by the operations of the
 * seam and copies alone. */
#include <stdio.h>

#include "io/synthetic/synthetic.h"
#include "tests/fixtures/device_arrays.h"

enum { GUARD = 64 }; /* numbers behind an output, which must stay NaN */

/* Sums in float32 of inputs that are exact in the reference. */
static const double F32_BOUND = 1e-12;

static double act_bound(const device *dev) {
    return dev->act == DTYPE_F32 ? F32_BOUND : BF16_BOUND;
}

/* ---- memory ---- */

/* Operations are over where their fence is passed: a copy that waits for nothing sees them. */
static void check_fence(device *dev, void *memory, const char *text, size_t bytes) {
    device_copy *copy = NULL;
    device_fence *fence = NULL;
    void *host = NULL;
    CHECK_OK(dev->ops->copy_open(dev, &copy));
    CHECK_OK(dev->ops->alloc_host(dev, bytes, &host));
    CHECK_OK(dev->ops->fence_open(dev, &fence));
    for (int i = 0; i < 2; i++) {
        bool over = false;
        CU_ASSERT(dev->ops->fence_passed(dev, fence));
        dev->ops->copy_in(dev, memory, text + i, bytes - 1);
        dev->ops->fence_set(dev, fence);
        while (!dev->ops->fence_passed(dev, fence))
            ;
        CHECK_OK(dev->ops->copy_begin(dev, copy, host, memory, bytes / 2));
        CHECK_OK(dev->ops->copy_begin(dev, copy, (char *)host + bytes / 2, (char *)memory + bytes / 2,
                                      bytes - 1 - bytes / 2));
        while (!over)
            CHECK_OK(dev->ops->copy_test(dev, copy, &over));
        CU_ASSERT(!memcmp(host, text + i, bytes - 1));
    }
    dev->ops->fence_close(dev, fence);
    dev->ops->fence_close(dev, NULL);
    dev->ops->release_host(dev, host);
    dev->ops->copy_close(dev, copy);
}

/* Out beside the operations, behind those that wrote it, and back. */
static void check_copy(device *dev, void *memory, const char *text, size_t bytes) {
    device_copy *copy = NULL;
    void *host = NULL;
    CHECK_OK(dev->ops->copy_open(dev, &copy));
    CHECK_OK(dev->ops->alloc_host(dev, bytes, &host));
    void *const ways[][2] = {{host, memory}, {memory, host}};
    for (int i = 0; i < 2; i++) {
        bool over = false;
        CHECK_OK(dev->ops->copy_test(dev, copy, &over));
        CU_ASSERT(over);
        CHECK_OK(dev->ops->copy_after(dev, copy));
        CHECK_OK(dev->ops->copy_begin(dev, copy, ways[i][0], ways[i][1], bytes));
        do
            CHECK_OK(dev->ops->copy_test(dev, copy, &over));
        while (!over);
        if (i == 0) CU_ASSERT(!memcmp(host, text, bytes));
        ((char *)host)[0] = 'A';
    }
    char *changed = array_read(dev, memory, bytes);
    CU_ASSERT(changed[0] == 'A' && !memcmp(changed + 1, text + 1, bytes - 1));
    free(changed);
    dev->ops->copy_in(dev, memory, text, bytes);
    dev->ops->release_host(dev, host);
    dev->ops->copy_close(dev, copy);
    dev->ops->copy_close(dev, NULL);
}

static void check_memory(const tested *t) {
    device *dev = t->dev;
    void *memory = NULL;
    char text[] = "a varve is a layer of sediment laid down in one year";
    memory = array_new(dev, text, sizeof text);
    check_fence(dev, memory, text, sizeof text);
    dev->ops->copy_in(dev, memory, text, sizeof text);
    check_copy(dev, memory, text, sizeof text);
    char *copy = array_take(dev, memory, sizeof text);
    CU_ASSERT_STRING_EQUAL(copy, text);
    free(copy);
    dev->ops->release(dev, NULL);
    memory = NULL;
    harness_check(__FILE__, __LINE__, dev->ops->alloc(dev, (size_t)1 << 60, &memory), STATUS_FAILED,
                  "wanted 1152921504606846976 bytes");
    CU_ASSERT_PTR_NULL(memory);
    matrix *w = NULL;
    harness_check(__FILE__, __LINE__, dev->ops->matrix_open(dev, 1 << 30, 1 << 20, &w), STATUS_FAILED,
                  "wanted");
    CU_ASSERT_PTR_NULL(w);
    CHECK_OK(dev->ops->sync(dev));
}

static void test_memory(void) {
    for_each_kind(check_memory);
}

/* ---- embed, and what matrices are loaded from ---- */

static float rounded_to(dtype type, float x) {
    return type == DTYPE_F32 ? x : float_of_bf16(bf16_of_float(x));
}

/* Rows in pieces, so that pieces begin at odd addresses; tokens in no order, more than there are rows. */
static void check_embed_of(const tested *t, int V, int D, const void *rows, dtype type) {
    device *dev = t->dev;
    const int T = 2 * V + 1, cut = V / 3 | 1;
    size_t n = (size_t)T * (size_t)D, row_bytes = (size_t)D * dtype_bytes(type);
    int32_t *tokens = mem_new((size_t)T, sizeof *tokens);
    float *x = array_poisoned(dev, DTYPE_F32, n + GUARD);
    matrix *w = NULL;
    CHECK_OK(dev->ops->matrix_open(dev, V, D, &w));
    dev->ops->matrix_load(dev, w, cut, V - cut, (const char *)rows + (size_t)cut * row_bytes, type);
    dev->ops->matrix_load(dev, w, 0, cut, rows, type);
    for (int i = 0; i < T; i++)
        tokens[i] = i * 5 % V;
    dev->ops->embed(dev, w, tokens, T, x);
    float *host = array_take(dev, x, (n + GUARD) * sizeof *host);
    int n_wrong = 0;
    for (size_t i = 0; i < n; i++) {
        size_t row = (size_t)tokens[i / (size_t)D];
        float expected = rounded_to(dev->act, number_at(rows, type, row * (size_t)D + i % (size_t)D));
        n_wrong += isnan(expected) ? !isnan(host[i]) : bits_of(host[i]) != bits_of(expected);
    }
    CHECK_CASE(n_wrong == 0, "%s: embed V %d D %d from %s: %d wrong", t->name, V, D, dtype_name(type),
               n_wrong);
    CU_ASSERT(count_nan(host + n, DTYPE_F32, GUARD) == GUARD);
    dev->ops->matrix_close(dev, w);
    free(host);
    free(tokens);
}

static void check_embed(const tested *t) {
    const int shapes[][2] = {{1, 1}, {7, 3}, {64, 34}, {65, 80}, {600, 4}, {3, 2050}};
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int V = shapes[i][0], D = shapes[i][1];
        size_t n = (size_t)V * (size_t)D;
        float *floats = new_random(&seed, n, 1);
        uint16_t *halves = mem_new(n, sizeof *halves);
        for (size_t k = 0; k < n; k++)
            halves[k] = (uint16_t)harness_random(&seed); /* any number, infinite and NaN too */
        check_embed_of(t, V, D, floats, DTYPE_F32);
        check_embed_of(t, V, D, halves, DTYPE_BF16);
        check_embed_of(t, V, D, halves, DTYPE_F16);
        free(floats);
        free(halves);
    }
}

static void test_embed(void) {
    for_each_kind(check_embed);
}

/* Rows [row0, row0 + n_rows) of a matrix are filled with a synthetic tensor's elements from `first` on: they
 * are what the host makes, and the rows around them stay as they were. */
static void check_fill_of(const tested *t, const synthetic_values *v, const char *name, int V, int D,
                          int row0, int n_rows, int64_t first) {
    device *dev = t->dev;
    const size_t n = (size_t)V * (size_t)D, begin = (size_t)row0 * (size_t)D,
                 n_made = (size_t)n_rows * (size_t)D;
    uint16_t *rows = mem_new(n, sizeof *rows);
    int32_t *all_rows = mem_new((size_t)V, sizeof *all_rows);
    for (size_t i = 0; i < n; i++)
        rows[i] = bf16_of_float((float)(i % 100));
    for (int i = 0; i < V; i++)
        all_rows[i] = i;
    matrix *w = new_matrix(dev, V, D, rows, DTYPE_BF16);
    level_stream stream;
    CU_ASSERT_FATAL(synthetic_values_stream(v, name, &stream));
    dev->ops->matrix_fill(dev, w, row0, n_rows, &stream, first);
    synthetic_values_make(v, name, first, (int64_t)n_made, 1, rows + begin);
    float *x = array_poisoned(dev, DTYPE_F32, n), *host;
    dev->ops->embed(dev, w, all_rows, V, x);
    host = array_take(dev, x, n * sizeof *host);
    int n_wrong = 0;
    for (size_t i = 0; i < n; i++)
        n_wrong += bits_of(host[i]) != bits_of(float_of_bf16(rows[i]));
    CHECK_CASE(n_wrong == 0, "%s: fill of rows %d to %d of V %d D %d from %lld: %d wrong", t->name, row0,
               row0 + n_rows, V, D, (long long)first, n_wrong);
    dev->ops->matrix_close(dev, w);
    free(host);
    free(all_rows);
    free(rows);
}

static void check_fill(const tested *t) {
    static const char *const names[] = {"lm_head.weight", "model.layers.3.mlp.down_proj.weight"};
    const int shapes[][4] = {{1, 1, 0, 1}, {7, 3, 2, 4},     {64, 34, 0, 64},  {65, 80, 13, 52}, {9, 5, 4, 0},
                             {9, 5, 0, 7}, {600, 4, 599, 1}, {40, 4100, 1, 38}}; /* V, D, row0, n_rows */
    const int64_t firsts[] = {0, 1, 2, 3, 4, 1000003, ((int64_t)1 << 40) + 3, (int64_t)1 << 40};
    synthetic_model m;
    if (!t->dev->ops->matrix_fill || !CHECK_OK(synthetic_find("llama-8b", &m))) return;
    m.seed = 7;
    synthetic_values *v = synthetic_values_open(&m);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < sizeof firsts / sizeof *firsts; k++)
            check_fill_of(t, v, names[k % 2], shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3],
                          firsts[k]);
    synthetic_values_close(v);
    CHECK_OK(t->dev->ops->sync(t->dev));
}

static void test_fill(void) {
    for_each_kind(check_fill);
}

static void check_gather(const tested *t) {
    device *dev = t->dev;
    const int widths[] = {1, 37, 80};
    enum { ROWS = 1100, N = 1025 };
    int32_t chosen[N];
    uint64_t seed = 2;
    for (int i = 0; i < N; i++)
        chosen[i] = i * 7 % ROWS;
    for (int k = 0; k < 3; k++) {
        size_t D = (size_t)widths[k];
        float *host = new_random(&seed, ROWS * D, 1), *x = array_new(dev, host, ROWS * D * sizeof *host);
        float *out = array_poisoned(dev, DTYPE_F32, N * D + GUARD);
        dev->ops->gather_rows(dev, x, chosen, N, widths[k], out);
        float *got = array_take(dev, out, (N * D + GUARD) * sizeof *got);
        int n_wrong = 0;
        for (size_t i = 0; i < N; i++)
            n_wrong += memcmp(got + i * D, host + (size_t)chosen[i] * D, D * sizeof *got) != 0;
        CHECK_CASE(n_wrong == 0, "%s: gather D %zu: %d rows wrong", t->name, D, n_wrong);
        CU_ASSERT(count_nan(got + N * D, DTYPE_F32, GUARD) == GUARD);
        dev->ops->release(dev, x);
        free(host);
        free(got);
    }
}

static void test_gather(void) {
    for_each_kind(check_gather);
}

/* ---- rows: every one has the bits that it has alone ---- */

static const int widths[] = {1, 2, 10, 34, 63, 64, 65, 80, 1028, 4100};
enum { N_WIDTHS = sizeof widths / sizeof *widths, T = 7 };

/* Outputs of T rows together, and of each alone, against what is expected. */
static void check_rows(const tested *t, const char *name, int width, const double *expected, void *together,
                       void *alone) {
    size_t n = T * (size_t)width, bytes = (n + GUARD) * dtype_bytes(t->dev->act);
    void *y = array_take(t->dev, together, bytes), *one = array_take(t->dev, alone, bytes);
    double error = error_of(y, t->dev->act, expected, n);
    CHECK_CASE(error < act_bound(t->dev), "%s: %s of width %d: %g", t->name, name, width, error);
    CHECK_CASE(same_bits(y, one, t->dev->act, n + GUARD), "%s: %s of width %d: rows differ", t->name, name,
               width);
    CU_ASSERT(count_nan(array_at(y, t->dev->act, n), t->dev->act, GUARD) == GUARD);
    free(y);
    free(one);
}

static void check_rmsnorm(const tested *t) {
    device *dev = t->dev;
    uint64_t seed = 3;
    for (int k = 0; k < N_WIDTHS; k++) {
        size_t D = (size_t)widths[k], n = T * D;
        float *host = new_random(&seed, n, 3), *host_weight = new_random(&seed, D, 1);
        float *x = array_new(dev, host, n * sizeof *x), *weight = array_new(dev, host_weight, D * sizeof *x);
        void *y = array_poisoned(dev, dev->act, n + GUARD), *one = array_poisoned(dev, dev->act, n + GUARD);
        double *expected = mem_new(n, sizeof *expected);
        dev->ops->rmsnorm(dev, x, weight, 0.5f, T, widths[k], y);
        for (size_t row = 0; row < T; row++) {
            double squares = 0;
            for (size_t i = row * D; i < (row + 1) * D; i++)
                squares += (double)host[i] * (double)host[i];
            for (size_t i = 0; i < D; i++)
                expected[row * D + i] =
                    (double)host[row * D + i] / sqrt(squares / (double)D + 0.5) * (double)host_weight[i];
            dev->ops->rmsnorm(dev, x + row * D, weight, 0.5f, 1, widths[k], array_at(one, dev->act, row * D));
        }
        check_rows(t, "rmsnorm", widths[k], expected, y, one);
        dev->ops->release(dev, x);
        dev->ops->release(dev, weight);
        free(host);
        free(host_weight);
        free(expected);
    }
}

static void test_rmsnorm(void) {
    for_each_kind(check_rmsnorm);
}

static void check_bias(const tested *t) {
    device *dev = t->dev;
    uint64_t seed = 5;
    for (int k = 0; k < N_WIDTHS; k++) {
        size_t N = (size_t)widths[k], n = T * N;
        float *host = new_random(&seed, n + GUARD, 1), *host_bias = new_random(&seed, N, 1);
        float *y = array_new(dev, host, (n + GUARD) * sizeof *y),
              *bias = array_new(dev, host_bias, N * sizeof *y);
        dev->ops->add_bias(dev, bias, T, widths[k], y);
        float *got = array_take(dev, y, (n + GUARD) * sizeof *got);
        for (size_t i = 0; i < n; i++)
            host[i] += host_bias[i % N];
        CHECK_CASE(same_bits(got, host, DTYPE_F32, n + GUARD), "%s: add_bias of width %zu", t->name, N);
        dev->ops->release(dev, bias);
        free(host);
        free(host_bias);
        free(got);
    }
}

static void test_bias(void) {
    for_each_kind(check_bias);
}

/* ---- products ---- */

typedef struct product {
    int T, N, M;
    const matrix *w;
    const void *x;       /* on the device */
    double *expected;    /* x w^T */
    const float *before; /* what matmul_add adds to */
} product;

/* One of the two operations, with so many rows that count as few; the result in host memory. */
static float *multiply(const tested *t, const product *p, int t0, int n_rows, int n_few, bool add) {
    device *dev = t->dev;
    size_t N = (size_t)p->N, n = (size_t)n_rows * N;
    float *host = new_poisoned(DTYPE_F32, n + GUARD);
    if (add) memcpy(host, p->before + (size_t)t0 * N, n * sizeof *host);
    float *y = array_new(dev, host, (n + GUARD) * sizeof *y);
    const void *x = array_at(p->x, dev->act, (size_t)t0 * (size_t)p->M);
    (add ? dev->ops->matmul_add : dev->ops->matmul)(dev, p->w, x, n_rows, n_few, y);
    free(host);
    return array_take(dev, y, (n + GUARD) * sizeof *y);
}

static void check_result(const tested *t, const product *p, int n_few, bool add) {
    size_t N = (size_t)p->N, n = (size_t)p->T * N;
    double *expected = mem_new(n, sizeof *expected);
    for (size_t i = 0; i < n; i++)
        expected[i] = p->expected[i] + (add ? (double)p->before[i] : 0);
    float *y = multiply(t, p, 0, p->T, n_few, add);
    double error = harness_nmse(y, expected, n);
    CHECK_CASE(error < F32_BOUND, "%s: matmul%s T %d (%d few) N %d M %d: %g", t->name, add ? "_add" : "",
               p->T, n_few, p->N, p->M, error);
    CU_ASSERT(count_nan(y + n, DTYPE_F32, GUARD) == GUARD);
    const int some[] = {0, p->T / 2, p->T - 1};
    for (int i = 0; i < 3; i++) { /* alone, in the same kind of company */
        float *one = multiply(t, p, some[i], 1, some[i] < n_few, add);
        CHECK_CASE(same_bits(one, y + (size_t)some[i] * N, DTYPE_F32, N),
                   "%s: row %d of %d (%d few) N %d M %d differs", t->name, some[i], p->T, n_few, p->N, p->M);
        free(one);
    }
    free(y);
    free(expected);
}

static void check_product(const tested *t, int n_rows, int N, int M, uint64_t *seed) {
    device *dev = t->dev;
    size_t w_n = (size_t)N * (size_t)M, x_n = (size_t)n_rows * (size_t)M, n = (size_t)n_rows * (size_t)N;
    void *rows = new_random_of(dev->act, seed, w_n, 1), *input = new_random_of(dev->act, seed, x_n, 1);
    float *before = new_random(seed, n, 1);
    matrix *w = new_matrix(dev, N, M, rows, dev->act);
    void *x = array_new(dev, input, x_n * dtype_bytes(dev->act));
    product p = {n_rows, N, M, w, x, mem_new(n, sizeof(double)), before};
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < (size_t)M; k++)
            p.expected[i] += (double)number_at(input, dev->act, i / (size_t)N * (size_t)M + k) *
                             (double)number_at(rows, dev->act, i % (size_t)N * (size_t)M + k);
    const int few[] = {0, n_rows / 2, n_rows};
    for (int i = 0; i < 3; i++) {
        check_result(t, &p, few[i], false);
        check_result(t, &p, few[i], true);
    }
    dev->ops->matrix_close(dev, w);
    dev->ops->release(dev, x);
    free(p.expected);
    free(rows);
    free(input);
    free(before);
}

static void check_matmul(const tested *t) {
    const int shapes[][3] = {{1, 1, 1},    {1, 17, 3},    {7, 16, 2},    {7, 33, 10},
                             {63, 20, 34}, {64, 7, 80},   {65, 24, 64},  {1, 70, 300},
                             {3, 15, 514}, {5, 64, 1024}, {130, 40, 128}};
    uint64_t seed = 6;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_product(t, shapes[i][0], shapes[i][1], shapes[i][2], &seed);
}

static void test_matmul(void) {
    for_each_kind(check_matmul);
}

/* ---- the product of gate and up, and swiglu ---- */

/* Rows of it, with so many that count as few; the result in host memory. */
static void *multiply_swiglu(const tested *t, const product *p, int t0, int n_rows, int n_few) {
    device *dev = t->dev;
    size_t N = (size_t)p->N, rows = (size_t)n_rows, n = rows * N / 2 + GUARD;
    float *gate_up = array_poisoned(dev, DTYPE_F32, rows * N);
    void *y = array_poisoned(dev, dev->act, n);
    dev->ops->matmul_swiglu(dev, p->w, array_at(p->x, dev->act, (size_t)t0 * (size_t)p->M), n_rows, n_few,
                            gate_up, y);
    dev->ops->release(dev, gate_up);
    return array_take(dev, y, n * dtype_bytes(dev->act));
}

static void check_swiglu_result(const tested *t, const product *p, int n_few) {
    dtype act = t->dev->act;
    size_t F = (size_t)p->N / 2, n = (size_t)p->T * F;
    void *y = multiply_swiglu(t, p, 0, p->T, n_few);
    double error = error_of(y, act, p->expected, n);
    CHECK_CASE(error < act_bound(t->dev), "%s: matmul_swiglu T %d (%d few) F %zu M %d: %g", t->name, p->T,
               n_few, F, p->M, error);
    CU_ASSERT(count_nan(array_at(y, act, n), act, GUARD) == GUARD);
    const int some[] = {0, p->T / 2, p->T - 1};
    for (int i = 0; i < 3; i++) {
        void *one = multiply_swiglu(t, p, some[i], 1, some[i] < n_few);
        CHECK_CASE(same_bits(one, array_at(y, act, (size_t)some[i] * F), act, F),
                   "%s: row %d of %d (%d few) F %zu M %d differs", t->name, some[i], p->T, n_few, F, p->M);
        free(one);
    }
    free(y);
}

static void check_swiglu_product(const tested *t, int n_rows, int F, int M, uint64_t *seed) {
    device *dev = t->dev;
    dtype act = dev->act;
    size_t width = (size_t)M, w_n = 2 * (size_t)F * width, x_n = (size_t)n_rows * width;
    float *weights = new_random(seed, w_n, 2 / sqrtf((float)M)), *inputs = new_random(seed, x_n, 1);
    memset(weights, 0, width * sizeof *weights);
    weights[0] = -200, inputs[0] = 1; /* the first of all gates: exp overflows */
    void *rows = new_as(act, weights, w_n), *input = new_as(act, inputs, x_n);
    matrix *w = new_matrix(dev, 2 * F, M, rows, act);
    void *x = array_new(dev, input, x_n * dtype_bytes(act));
    product p = {n_rows, 2 * F, M, w, x, mem_new((size_t)n_rows * (size_t)F, sizeof(double)), NULL};
    for (size_t i = 0; i < (size_t)n_rows * (size_t)F; i++) {
        double sums[2] = {0, 0};
        for (size_t k = 0; k < 2 * width; k++)
            sums[k / width] +=
                (double)number_at(input, act, i / (size_t)F * width + k % width) *
                (double)number_at(rows, act, (i % (size_t)F + k / width * (size_t)F) * width + k % width);
        p.expected[i] = swiglu_of(sums[0], sums[1]);
    }
    const int few[] = {0, n_rows / 2, n_rows};
    for (int i = 0; i < 3; i++)
        check_swiglu_result(t, &p, few[i]);
    dev->ops->matrix_close(dev, w);
    dev->ops->release(dev, x);
    free(p.expected);
    free(rows);
    free(input);
}

static void check_swiglu(const tested *t) {
    const int shapes[][3] = {{1, 2, 1},    {7, 5, 10},    {15, 24, 64},  {16, 40, 136}, {17, 136, 264},
                             {63, 12, 72}, {64, 7, 80},   {65, 33, 520}, {130, 24, 16}, {3, 1030, 8},
                             {7, 17, 34},  {1, 64, 1024}, {5, 20, 514}};
    uint64_t seed = 7;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_swiglu_product(t, shapes[i][0], shapes[i][1], shapes[i][2], &seed);
}

static void test_swiglu(void) {
    for_each_kind(check_swiglu);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"memory", test_memory},      {"embed", test_embed},          {"fill", test_fill},
        {"gather rows", test_gather}, {"rmsnorm", test_rmsnorm},      {"add bias", test_bias},
        {"matmul", test_matmul},      {"matmul swiglu", test_swiglu}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "device ops", tests);
}
