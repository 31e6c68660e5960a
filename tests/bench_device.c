/* tests/bench_device.c: how near the operations of a device come to what its memory and its matrix units can
 * do, on the shapes of an 8B Llama: measured side by side in one run. What is predicted of them on GPUs:
 * tests/bench/roofline.c.
 *
 *     bench_device [cpu|cuda [SECONDS]]
 *
 * Each operation is repeated for about SECONDS (0.5), with one wait at the end; the median of several such
 * rounds counts. "of best" compares with a copy in memory, or with the largest product here, whichever bounds
 * the operation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

enum {
    N_HEADS = 32,
    N_KV_HEADS = 8,
    HEAD_DIM = 128,
    WIDTH = 4096,
    MLP = 14336,
    VOCABULARY = 128256,
    PAGE_TOKENS = 64,
    ROUNDS = 5
};

typedef struct bench {
    device *dev;
    double seconds;
    double best_bytes, best_flops; /* a second */
    uint64_t random;
} bench;

typedef struct work {
    void (*run)(bench *b, void *context);
    void *context;
    double bytes, flops; /* of one run */
} work;

static void check(status st) {
    if (st == STATUS_OK) return;
    fprintf(stderr, "bench_device: %s\n", status_text());
    exit(status_exit_code(st));
}

/* ---- timing ---- */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double time_round(bench *b, const work *w, int n) {
    double begin = clock_seconds();
    for (int i = 0; i < n; i++)
        w->run(b, w->context);
    check(b->dev->ops->sync(b->dev));
    return (clock_seconds() - begin) / n;
}

/* Seconds of one run. */
static double measure(bench *b, const work *w) {
    double rounds[ROUNDS];
    time_round(b, w, 1);
    double once = time_round(b, w, 1);
    int n = once < b->seconds / ROUNDS ? (int)(b->seconds / ROUNDS / once) + 1 : 1;
    for (int i = 0; i < ROUNDS; i++)
        rounds[i] = time_round(b, w, n);
    qsort(rounds, ROUNDS, sizeof *rounds, by_size);
    return rounds[ROUNDS / 2];
}

static void report(bench *b, const char *name, const work *w) {
    double seconds = measure(b, w);
    double bound = w->bytes / b->best_bytes;
    if (b->best_flops > 0 && w->flops / b->best_flops > bound) bound = w->flops / b->best_flops;
    printf("%-52s %10.1f us %9.1f GB/s %9.2f TFLOP/s %8.1f%%\n", name, 1e6 * seconds,
           w->bytes / seconds / 1e9, w->flops / seconds / 1e12, 100 * bound / seconds);
}

/* ---- data ---- */

/* Numbers between -1 and 1, of the device's act type. */
static void *new_input(bench *b, size_t n) {
    enum { PATTERN = 1 << 16 };
    static uint16_t halves[PATTERN];
    static float floats[PATTERN];
    size_t item = dtype_bytes(b->dev->act);
    for (int i = 0; i < PATTERN; i++) {
        b->random = b->random * 6364136223846793005u + 1442695040888963407u;
        floats[i] = (float)(int32_t)(b->random >> 32) * 0x1p-31f;
        uint32_t bits;
        memcpy(&bits, &floats[i], sizeof bits);
        halves[i] = (uint16_t)(bits >> 16);
    }
    void *memory = NULL;
    check(b->dev->ops->alloc(b->dev, n * item, &memory));
    for (size_t at = 0; at < n; at += PATTERN) {
        size_t some = n - at < PATTERN ? n - at : PATTERN;
        b->dev->ops->copy_in(b->dev, (char *)memory + at * item, item == 2 ? (void *)halves : floats,
                             some * item);
    }
    return memory;
}

static float *new_floats(bench *b, size_t n) {
    void *memory = NULL;
    check(b->dev->ops->alloc(b->dev, n * sizeof(float), &memory));
    return memory;
}

/* ---- products ---- */

typedef struct product {
    matrix *w;
    void *x, *gated_y;
    float *y;
    int T, T_few;
} product;

static void run_product(bench *b, void *context) {
    const product *p = context;
    b->dev->ops->matmul(b->dev, p->w, p->x, p->T, p->T_few, p->y);
}

static void run_swiglu(bench *b, void *context) {
    const product *p = context;
    b->dev->ops->matmul_swiglu(b->dev, p->w, p->x, p->T, p->T_few, p->y, p->gated_y);
}

static work new_product(bench *b, product *p, int64_t n_rows, int64_t n_cols, int T, int T_few) {
    enum { ROWS_AT_ONCE = 256 };
    size_t item = dtype_bytes(b->dev->act);
    uint16_t *values = mem_new((size_t)ROWS_AT_ONCE * (size_t)n_cols, sizeof *values);
    for (int64_t i = 0; i < ROWS_AT_ONCE * n_cols; i++)
        values[i] = (uint16_t)(0x3c00 | (i * 71 % 251) | (i % 3 << 15)); /* bf16 of about 0.01 */
    *p = (product){.T = T, .T_few = T_few};
    check(b->dev->ops->matrix_open(b->dev, n_rows, n_cols, &p->w));
    for (int64_t r = 0; r < n_rows; r += ROWS_AT_ONCE) {
        int64_t n = n_rows - r < ROWS_AT_ONCE ? n_rows - r : ROWS_AT_ONCE;
        b->dev->ops->matrix_load(b->dev, p->w, r, n, values, DTYPE_BF16);
    }
    free(values);
    p->x = new_input(b, (size_t)T * (size_t)n_cols);
    p->y = new_floats(b, (size_t)T * (size_t)n_rows);
    p->gated_y = new_floats(b, (size_t)T * (size_t)n_rows / 2);
    double weights = (double)n_rows * (double)n_cols * (double)item;
    return (work){run_product, p, weights + (double)T * (double)(n_cols * (int64_t)item + 4 * n_rows),
                  2.0 * T * (double)n_rows * (double)n_cols};
}

static void free_product(bench *b, product *p) {
    b->dev->ops->matrix_close(b->dev, p->w);
    b->dev->ops->release(b->dev, p->x);
    b->dev->ops->release(b->dev, p->y);
    b->dev->ops->release(b->dev, p->gated_y);
}

static void bench_product(bench *b, int64_t n_rows, int64_t n_cols, int T, bool few) {
    char name[80];
    product p;
    work w = new_product(b, &p, n_rows, n_cols, T, few ? T : 0);
    snprintf(name, sizeof name, "product [%lld, %lld], %d %s rows", (long long)n_rows, (long long)n_cols, T,
             few ? "generated" : "prompt");
    report(b, name, &w);
    if (n_rows == 2 * MLP) {
        w.run = run_swiglu;
        w.bytes += (double)T * (double)n_rows * ((double)dtype_bytes(b->dev->act) / 2 - 4);
        report(b, "    and swiglu", &w);
    }
    free_product(b, &p);
}

static void bench_layer(bench *b, int T, bool few) {
    bench_product(b, (N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM, WIDTH, T, few);
    bench_product(b, WIDTH, N_HEADS * HEAD_DIM, T, few);
    bench_product(b, 2 * MLP, WIDTH, T, few);
    bench_product(b, WIDTH, MLP, T, few);
}

/* The matrix rate that the others are compared with. */
static void measure_best_product(bench *b, int n) {
    product p;
    work w = new_product(b, &p, n, n, n, 0);
    b->best_flops = w.flops / measure(b, &w);
    free_product(b, &p);
}

/* ---- attention ---- */

typedef struct attention {
    attention_shape shape;
    kv_layer kv;
    span *spans;
    int32_t *page_ids;
    void *q, *y;
} attention;

static void run_attention(bench *b, void *context) {
    const attention *a = context;
    b->dev->ops->attend(b->dev, &a->shape, &a->kv, a->q, a->y);
}

/* n_spans sequences, each of n_rows rows behind `history` positions. */
static void bench_attention(bench *b, int n_spans, int n_rows, int64_t history, bool generated) {
    const size_t item = dtype_bytes(b->dev->kv);
    int64_t n_pages = (history + n_rows + PAGE_TOKENS - 1) / PAGE_TOKENS;
    size_t page_elements = (size_t)(2 * N_KV_HEADS * PAGE_TOKENS * HEAD_DIM);
    size_t q_elements = (size_t)n_spans * (size_t)n_rows * N_HEADS * HEAD_DIM;
    attention a = {
        .shape = {N_HEADS, N_KV_HEADS, HEAD_DIM, 0.088388f, 0},
        .kv = {.page_bytes = page_elements * item, .page_tokens = PAGE_TOKENS, .n_spans = n_spans},
        .spans = mem_new((size_t)n_spans, sizeof(span)),
        .page_ids = mem_new((size_t)(n_pages * n_spans), sizeof(int32_t)),
        .q = new_input(b, q_elements),
        .y = new_input(b, q_elements),
    };
    a.kv.pages = new_input(b, page_elements * (size_t)(n_pages * n_spans));
    a.kv.spans = a.spans;
    for (int64_t i = 0; i < n_pages * n_spans; i++)
        a.page_ids[i] = (int32_t)i;
    for (int i = 0; i < n_spans; i++)
        a.spans[i] = (span){i * n_rows, n_rows, history, a.page_ids + i * n_pages, generated};
    b->dev->ops->begin_step(b->dev, PAGE_TOKENS, n_spans, a.spans);
    double seen = (double)n_spans * n_rows * ((double)history + (n_rows + 1) / 2.0);
    work w = {run_attention, &a,
              (double)n_spans * (double)(history + n_rows) * 2 * N_KV_HEADS * HEAD_DIM * (double)item,
              4.0 * N_HEADS * HEAD_DIM * seen};
    char name[80];
    snprintf(name, sizeof name, "attention, %d x %d %s rows at %lld", n_spans, n_rows,
             generated ? "generated" : "prompt", (long long)history);
    report(b, name, &w);
    b->dev->ops->release(b->dev, a.q);
    b->dev->ops->release(b->dev, a.y);
    b->dev->ops->release(b->dev, a.kv.pages);
    free(a.spans);
    free(a.page_ids);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    bool is_gpu = argc > 1 && !strcmp(argv[1], "cuda");
    bench b = {.seconds = argc > 2 ? atof(argv[2]) : 0.5, .random = 1};
    check(device_open(is_gpu ? DEVICE_CUDA : DEVICE_CPU, 0, PRECISION_BF16, 2, &b.dev));
    int more = is_gpu ? 8 : 1; /* a CPU has time for less */
    b.best_bytes = b.dev->ops->measure_memory(b.dev);
    measure_best_product(&b, 1024 * more);
    printf("%s %s: memory %.1f GB/s, products %.2f TFLOP/s\n\n%-52s %13s %14s %17s %9s\n", b.dev->ops->name,
           b.dev->ops->processor(b.dev), b.best_bytes / 1e9, b.best_flops / 1e12, "operation", "time", "", "",
           "of best");
    for (int T = 1; T <= (is_gpu ? 64 : 16); T *= 4)
        bench_layer(&b, T, true);
    bench_product(&b, VOCABULARY, WIDTH, 1, true);
    bench_product(&b, VOCABULARY, WIDTH, is_gpu ? 64 : 16, true);
    for (int T = 512; T <= 512 * more; T *= 8)
        bench_layer(&b, T, false);
    bench_attention(&b, 1, 1, 1023, true);
    bench_attention(&b, 1, 1, (16 << 10) * more - 1, true);
    bench_attention(&b, 64, 1, 512 * more - 1, true);
    bench_attention(&b, 1, 512, 4096 * more - 512, false);
    bench_attention(&b, 1, 512 * more, 3584 * more, false);
    bench_attention(&b, 1, 4096 * more, 0, false);
    b.dev->ops->close(b.dev);
    return 0;
}
