/* The bf16 matrix product of the CPU backend beside oneDNN's, on the shapes of a llama-1b layer and its head:
 *
 *     build/tests/beside_onednn [threads [rows [rounds]]]
 *
 * Built where oneDNN is found (Debian: libdnnl-dev). Both have weights in the layout that they like best and
 * bf16 rows, and give float32. They take turns; the table has the medians and the median of the ratios. */
#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/device.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

enum { MOST_ROUNDS = 99 };

typedef struct product {
    const char *name;
    int64_t n_out, n_in;
} product;

static const product products[] = {{"qkv", 3072, 2048},
                                   {"output", 2048, 2048},
                                   {"gate_up", 16384, 2048},
                                   {"down", 2048, 8192},
                                   {"head", 32000, 2048}};

/* ---- oneDNN ---- */

typedef struct their_product {
    dnnl_primitive_t multiply;
    dnnl_memory_t x, w, y;
} their_product;

static void need(dnnl_status_t st, const char *what) {
    if (st == dnnl_success) return;
    fprintf(stderr, "oneDNN: %s: error %d\n", what, (int)st);
    exit(1);
}

static dnnl_memory_t new_memory(dnnl_engine_t engine, const dnnl_memory_desc_t *desc, void *data) {
    dnnl_memory_t memory;
    need(dnnl_memory_create(&memory, desc, engine, data), "memory");
    return memory;
}

/* w[M, N] is given as its transpose, as models have it, and put into the layout that is wanted. */
static dnnl_memory_t pack_weights(dnnl_engine_t engine, dnnl_stream_t stream,
                                  const dnnl_memory_desc_t *wanted, const product *p, void *w) {
    dnnl_memory_desc_t plain;
    dnnl_dims_t dims = {p->n_in, p->n_out}, strides = {1, p->n_in};
    dnnl_primitive_desc_t reorder;
    dnnl_primitive_t copy;
    need(dnnl_memory_desc_init_by_strides(&plain, 2, dims, dnnl_bf16, strides), "weights");
    dnnl_memory_t from = new_memory(engine, &plain, w), to = new_memory(engine, wanted, DNNL_MEMORY_ALLOCATE);
    need(dnnl_reorder_primitive_desc_create(&reorder, &plain, engine, wanted, engine, NULL), "reorder");
    need(dnnl_primitive_create(&copy, reorder), "reorder");
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    need(dnnl_primitive_execute(copy, stream, 2, args), "reorder");
    need(dnnl_stream_wait(stream), "reorder");
    dnnl_primitive_destroy(copy);
    dnnl_primitive_desc_destroy(reorder);
    dnnl_memory_destroy(from);
    return to;
}

static their_product open_theirs(dnnl_engine_t engine, dnnl_stream_t stream, const product *p, int T, void *x,
                                 void *w, float *y) {
    their_product t;
    dnnl_memory_desc_t x_desc, w_desc, y_desc;
    dnnl_dims_t x_dims = {T, p->n_in}, w_dims = {p->n_in, p->n_out}, y_dims = {T, p->n_out};
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t chosen;
    need(dnnl_memory_desc_init_by_tag(&x_desc, 2, x_dims, dnnl_bf16, dnnl_ab), "x");
    need(dnnl_memory_desc_init_by_tag(&w_desc, 2, w_dims, dnnl_bf16, dnnl_format_tag_any), "w");
    need(dnnl_memory_desc_init_by_tag(&y_desc, 2, y_dims, dnnl_f32, dnnl_ab), "y");
    need(dnnl_matmul_desc_init(&matmul, &x_desc, &w_desc, NULL, &y_desc), "matmul");
    need(dnnl_primitive_desc_create(&chosen, &matmul, NULL, engine, NULL), "matmul");
    need(dnnl_primitive_create(&t.multiply, chosen), "matmul");
    t.w = pack_weights(engine, stream, dnnl_primitive_desc_query_md(chosen, dnnl_query_weights_md, 0), p, w);
    t.x = new_memory(engine, &x_desc, x);
    t.y = new_memory(engine, &y_desc, y);
    dnnl_primitive_desc_destroy(chosen);
    return t;
}

static void multiply_theirs(const their_product *t, dnnl_stream_t stream) {
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, t->x}, {DNNL_ARG_WEIGHTS, t->w}, {DNNL_ARG_DST, t->y}};
    need(dnnl_primitive_execute(t->multiply, stream, 3, args), "matmul");
    need(dnnl_stream_wait(stream), "matmul");
}

static void close_theirs(their_product *t) {
    dnnl_primitive_destroy(t->multiply);
    dnnl_memory_destroy(t->x);
    dnnl_memory_destroy(t->w);
    dnnl_memory_destroy(t->y);
}

/* ---- both ---- */

static uint16_t *random_bf16(int64_t n, uint32_t seed) {
    uint16_t *values = mem_new((size_t)n, sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (uint16_t)(0x3c00 | seed >> 25 | (seed >> 9 & 0x8000)); /* +-2^-7, up to twice that */
    }
    return values;
}

static void check_equal(const product *p, int T, const float *a, const float *b) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < T * p->n_out; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    if (error <= 1e-6 * size) return;
    fprintf(stderr, "%s: the results differ: NMSE %g\n", p->name, error / size);
    exit(1);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

static void compare_product(device *dev, dnnl_engine_t engine, dnnl_stream_t stream, const product *p, int T,
                            int n_rounds) {
    double ours[MOST_ROUNDS], theirs[MOST_ROUNDS], ratios[MOST_ROUNDS];
    const double giga_flop = 2e-9 * T * (double)p->n_out * (double)p->n_in;
    uint16_t *x = random_bf16(T * p->n_in, 1), *w = random_bf16(p->n_out * p->n_in, 2);
    float *our_y = mem_new((size_t)(T * p->n_out), sizeof *our_y),
          *their_y = mem_new((size_t)(T * p->n_out), sizeof *their_y);
    matrix *m;
    if (dev->ops->matrix_open(dev, p->n_out, p->n_in, &m) != STATUS_OK) exit(1);
    dev->ops->matrix_load(dev, m, 0, p->n_out, w, DTYPE_BF16);
    their_product t = open_theirs(engine, stream, p, T, x, w, their_y);
    for (int i = -1; i < n_rounds; i++) { /* the first is not counted */
        double begin = clock_seconds();
        dev->ops->matmul(dev, m, x, T, 0, our_y);
        double middle = clock_seconds();
        multiply_theirs(&t, stream);
        double end = clock_seconds();
        if (i < 0) continue;
        ours[i] = giga_flop / (middle - begin);
        theirs[i] = giga_flop / (end - middle);
        ratios[i] = ours[i] / theirs[i];
    }
    check_equal(p, T, our_y, their_y);
    printf("%-8s %6lld x %-5lld %10.1f %10.1f %8.3f\n", p->name, (long long)p->n_out, (long long)p->n_in,
           median(ours, n_rounds), median(theirs, n_rounds), median(ratios, n_rounds));
    close_theirs(&t);
    dev->ops->matrix_close(dev, m);
    free(x);
    free(w);
    free(our_y);
    free(their_y);
}

static int number(int argc, char **argv, int i, int otherwise, int most) {
    int value = argc > i ? atoi(argv[i]) : otherwise;
    if (value >= 1 && value <= most) return value;
    fprintf(stderr, "usage: beside_onednn [threads [rows [rounds]]]; argument %d must be 1 to %d\n", i, most);
    exit(2);
}

int main(int argc, char **argv) {
    int n_threads = number(argc, argv, 1, 2, 1024), T = number(argc, argv, 2, 512, 1 << 16),
        n_rounds = number(argc, argv, 3, 11, MOST_ROUNDS);
    char threads[16];
    snprintf(threads, sizeof threads, "%d", n_threads);
    setenv("OMP_NUM_THREADS", threads, 1);
    device *dev;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    if (cpu_device_open(PRECISION_BF16, n_threads, NULL, &dev) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_text());
        return 1;
    }
    need(dnnl_engine_create(&engine, dnnl_cpu, 0), "engine");
    need(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "stream");
    const dnnl_version_t *v = dnnl_version();
    printf("%d rows, %d threads, GFLOP/s; kvarve on %s, oneDNN %d.%d.%d\n", T, n_threads, cpu_device_isa(dev),
           v->major, v->minor, v->patch);
    printf("%-8s %14s %10s %10s %8s\n", "product", "shape", "kvarve", "oneDNN", "ratio");
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        compare_product(dev, engine, stream, &products[i], T, n_rounds);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    dev->ops->close(dev);
    return 0;
}
