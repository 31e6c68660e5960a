/* tests/bench/bench_device.c: how near the operations of a device come to what its memory and its matrix
 * units can do, on the shapes of an 8B Llama: measured side by side in one run, and on a GPU beside what it
 * needs at least and is predicted to need (tests/bench/floors.h). Rows come as they are measured, most
 * telling first.
 *
 *     bench_device [cpu|cuda [SECONDS [DIVISOR [GPU]]]]
 *
 * Each operation is repeated for about SECONDS (0.5), with one wait at the end; the median of several such
 * rounds counts, or the one run of what takes longer. "of best" compares with a copy in memory, or with the
 * largest product here, whichever bounds the operation. All sizes are divided by DIVISOR, which is for an
 * emulated GPU. GPU is its name: what it needs is that of an H200, or of an H100 by that name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "tests/bench/floors.h"

enum { PAGE_TOKENS = 64, ROUNDS = 5 };

/* A CPU has time for less than a GPU. */
static const sizes cpu_sizes = {.context = 1024,
                                .sequences = 16,
                                .batch_context = 512,
                                .long_context = 16384,
                                .chunk = 512,
                                .prompt = 4096};

typedef struct bench {
    device *dev;
    const gpu *gpu; /* what it is compared with; NULL: a CPU */
    synthetic_model model;
    double seconds;
    double best_bytes, best_flops; /* a second */
    uint64_t random;
} bench;

typedef void run_function(bench *b, void *context);

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

static double time_round(bench *b, run_function *run, void *context, int n) {
    double begin = clock_seconds();
    for (int i = 0; i < n; i++)
        run(b, context);
    check(b->dev->ops->sync(b->dev));
    return (clock_seconds() - begin) / n;
}

/* Seconds of one run. */
static double measure(bench *b, run_function *run, void *context) {
    double rounds[ROUNDS];
    time_round(b, run, context, 1);
    double once = time_round(b, run, context, 1);
    if (once >= b->seconds) return once;
    int n = once < b->seconds / ROUNDS ? (int)(b->seconds / ROUNDS / once) + 1 : 1;
    for (int i = 0; i < ROUNDS; i++)
        rounds[i] = time_round(b, run, context, n);
    qsort(rounds, ROUNDS, sizeof *rounds, by_size);
    return rounds[ROUNDS / 2];
}

static void print_heads(const bench *b) {
    printf("| kernel, shape, rows or context | measured, us |");
    if (b->gpu) printf(" floor %s, us | predicted, us (bound) | floor of measured |", b->gpu->name);
    printf(" GB/s | TFLOP/s | of best |\n|---|---|%s---|---|---|\n", b->gpu ? "---|---|---|" : "");
}

static void print_row(const bench *b, const work *w, double seconds) {
    double bound = w->bytes / b->best_bytes;
    if (w->flops / b->best_flops > bound) bound = w->flops / b->best_flops;
    printf("| %s | %.1f |", w->name, 1e6 * seconds);
    if (b->gpu) {
        const char *why;
        double floor = work_floor(w, b->gpu), predicted = work_predict(w, b->gpu, &why);
        printf(" %.1f | %.1f (%s) | %.1f%% |", 1e6 * floor, 1e6 * predicted, why, 100 * floor / seconds);
    }
    printf(" %.1f | %.2f | %.1f%% |\n", w->bytes / seconds / 1e9, w->flops / seconds / 1e12,
           100 * bound / seconds);
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

static product new_product(bench *b, int64_t n_rows, int64_t n_cols, int T, int T_few) {
    enum { ROWS_AT_ONCE = 256 };
    uint16_t *values = mem_new((size_t)ROWS_AT_ONCE * (size_t)n_cols, sizeof *values);
    for (int64_t i = 0; i < ROWS_AT_ONCE * n_cols; i++)
        values[i] = (uint16_t)(0x3c00 | (i * 71 % 251) | (i % 3 << 15)); /* bf16 of about 0.01 */
    product p = {.T = T, .T_few = T_few};
    check(b->dev->ops->matrix_open(b->dev, n_rows, n_cols, &p.w));
    for (int64_t r = 0; r < n_rows; r += ROWS_AT_ONCE) {
        int64_t n = n_rows - r < ROWS_AT_ONCE ? n_rows - r : ROWS_AT_ONCE;
        b->dev->ops->matrix_load(b->dev, p.w, r, n, values, DTYPE_BF16);
    }
    free(values);
    p.x = new_input(b, (size_t)T * (size_t)n_cols);
    p.y = new_floats(b, (size_t)T * (size_t)n_rows);
    p.gated_y = new_floats(b, (size_t)T * (size_t)n_rows / 2);
    return p;
}

static void free_product(bench *b, product *p) {
    b->dev->ops->matrix_close(b->dev, p->w);
    b->dev->ops->release(b->dev, p->x);
    b->dev->ops->release(b->dev, p->y);
    b->dev->ops->release(b->dev, p->gated_y);
}

/* That of swiglu alone is what a product takes longer with it. */
static double time_product(bench *b, const work *w) {
    bool is_few = w->kind == WORK_FEW || w->kind == WORK_GATED;
    product p = new_product(b, w->N, w->M, w->rows, is_few ? w->rows : 0);
    double seconds = 0;
    if (w->kind == WORK_GATED || w->kind == WORK_SWIGLU) seconds = measure(b, run_swiglu, &p);
    if (w->kind != WORK_GATED) {
        double plain = measure(b, run_product, &p);
        seconds = w->kind == WORK_SWIGLU ? seconds - plain : plain;
    }
    free_product(b, &p);
    return seconds;
}

/* The matrix rate that the others are compared with. */
static double best_product(bench *b, int n) {
    product p = new_product(b, n, n, n, 0);
    double flops = 2.0 * n * n * n / measure(b, run_product, &p);
    free_product(b, &p);
    return flops;
}

/* ---- attention ---- */

typedef struct attention {
    attention_shape shape;
    kv_layer kv;
    span *spans;
    void *q, *y;
} attention;

static void run_attention(bench *b, void *context) {
    const attention *a = context;
    b->dev->ops->attend(b->dev, &a->shape, &a->kv, a->q, a->y);
}

static double time_attention(bench *b, const work *w) {
    const bool generated = w->kind == WORK_GENERATED;
    const int n_spans = generated ? w->rows : 1, n_rows = generated ? 1 : w->rows;
    const int H = b->model.n_heads, G = b->model.n_kv_heads, K = b->model.head_dim;
    int64_t n_pages = (w->context + PAGE_TOKENS - 1) / PAGE_TOKENS;
    const kv_format format = device_kv_format(b->dev, G, K, PAGE_TOKENS);
    size_t q_elements = (size_t)w->rows * (size_t)(H * K);
    attention a = {
        .shape = {H, G, K, 0.088388f, 0},
        .kv = {.format = format, .table_pages = (int)n_pages},
        .spans = mem_new((size_t)n_spans, sizeof(span)),
        .q = new_input(b, q_elements),
        .y = new_input(b, q_elements),
    };
    a.kv.pages = new_input(b, kv_page_elements(&format) * (size_t)(n_pages * n_spans));
    const size_t table_bytes = (size_t)(n_pages * n_spans) * sizeof(int32_t);
    int32_t *host_tables = mem_new(1, table_bytes);
    void *tables = NULL;
    for (int64_t i = 0; i < n_pages * n_spans; i++)
        host_tables[i] = (int32_t)i;
    check(b->dev->ops->alloc(b->dev, table_bytes, &tables));
    b->dev->ops->copy_in(b->dev, tables, host_tables, table_bytes);
    a.kv.tables = tables;
    for (int i = 0; i < n_spans; i++)
        a.spans[i] = (span){i * n_rows, n_rows, w->context - n_rows, i, generated};
    b->dev->ops->begin_step(b->dev, n_spans, a.spans);
    double seconds = measure(b, run_attention, &a);
    b->dev->ops->release(b->dev, a.q);
    b->dev->ops->release(b->dev, a.y);
    b->dev->ops->release(b->dev, a.kv.pages);
    b->dev->ops->release(b->dev, tables);
    free(a.spans);
    free(host_tables);
    return seconds;
}

static void run_work(bench *b, const work *list, int n) {
    for (const work *w = list; w < list + n; w++) {
        if (w->kind == WORK_ROWS) continue; /* `kvarve bench` shows their share of a step */
        bool is_attention = w->kind == WORK_GENERATED || w->kind == WORK_PROMPT;
        print_row(b, w, is_attention ? time_attention(b, w) : time_product(b, w));
    }
}

/* ---- sizes ---- */

static void divide(int *n, int divisor) {
    *n = *n / divisor > 0 ? *n / divisor : *n > 0;
}

static void divide_all(synthetic_model *m, sizes *s, int divisor) {
    int *const all[] = {&m->d_model,      &m->n_heads, &m->n_kv_heads,  &m->d_mlp,
                        &m->vocab_size,   &s->context, &s->sequences,   &s->batch_context,
                        &s->long_context, &s->chunk,   &s->large_chunk, &s->prompt};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        divide(all[i], divisor);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    bool is_gpu = argc > 1 && !strcmp(argv[1], "cuda");
    int divisor = argc > 3 ? atoi(argv[3]) : 1, best = is_gpu ? 8192 : 1024;
    bench b = {.seconds = argc > 2 ? atof(argv[2]) : 0.5, .random = 1};
    if (is_gpu) b.gpu = gpu_of(argc > 4 ? argv[4] : "");
    sizes s = is_gpu ? gpu_sizes : cpu_sizes;
    check(synthetic_find("llama-8b", &b.model));
    divide_all(&b.model, &s, divisor);
    divide(&best, divisor);
    check(device_open(is_gpu ? DEVICE_CUDA : DEVICE_CPU, 0, PRECISION_BF16, 2, &b.dev));
    b.best_bytes = b.dev->ops->measure_memory(b.dev);
    b.best_flops = best_product(&b, best);
    printf("%s %s: memory %.1f GB/s, products %.2f TFLOP/s\n\n", b.dev->ops->name,
           b.dev->ops->processor(b.dev), b.best_bytes / 1e9, b.best_flops / 1e12);
    print_heads(&b);
    work w[WORK_OF_ALL];
    run_work(&b, w, list_work(&b.model, &s, w));
    for (int T = 4; T < s.sequences; T *= 4)
        run_work(&b, w, decode_layer(&b.model, T, s.context, w));
    b.dev->ops->close(b.dev);
    return 0;
}
