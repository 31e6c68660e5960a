/* tests/device_fixture.h: what the kernel tests share: every device of this machine, arrays in a device's
 * types, and poison, so that a value that was not written, or was read and should not have been, is a NaN. */
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"
#include "kernels/device.h"
#include "src/base/memory.h"
#include "tests/harness.h"

/* Run body(isa, precision) for every instruction set of this processor and both precisions. */
static inline void for_each_device(void (*body)(const char *isa, precision p)) {
    for (int i = 0; cpu_isa_name(i); i++)
        if (cpu_isa_available(cpu_isa_name(i))) {
            body(cpu_isa_name(i), PRECISION_BF16);
            body(cpu_isa_name(i), PRECISION_F32);
        }
}

static inline device *open_device(const char *isa, precision p, int n_threads) {
    device *dev = NULL;
    CHECK_OK(cpu_device_open(p, n_threads, isa, &dev));
    return dev;
}

static inline void close_device(device *dev) {
    CHECK_OK(dev->ops->sync(dev));
    dev->ops->close(dev);
}

/* Bytes of n numbers of this type, every one a NaN. */
static inline void poison(void *x, dtype type, size_t n) {
    memset(x, 0xff, n * dtype_bytes(type));
}

static inline void *new_poisoned(dtype type, size_t n) {
    void *x = mem_new(n, dtype_bytes(type));
    poison(x, type, n);
    return x;
}

static inline float number_at(const void *x, dtype type, size_t i) {
    if (type == DTYPE_F32) return ((const float *)x)[i];
    uint16_t half = ((const uint16_t *)x)[i];
    return type == DTYPE_BF16 ? float_of_bf16(half) : float_of_f16(half);
}

static inline float *new_random(uint64_t *seed, size_t n, float deviation) {
    float *x = mem_new(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = deviation * harness_random_normal(seed);
    return x;
}

/* The same numbers in a type (not f16), in the place of x. */
static inline void *new_as(dtype type, float *x, size_t n) {
    if (type == DTYPE_F32) return x;
    uint16_t *y = mem_new(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = bf16_of_float(x[i]);
    free(x);
    return y;
}

/* Random numbers of a type. */
static inline void *new_random_of(dtype type, uint64_t *seed, size_t n, float deviation) {
    return new_as(type, new_random(seed, n, deviation), n);
}

/* silu(gate) * up */
static inline double swiglu_of(double gate, double up) {
    return gate / (1 + exp(-gate)) * up;
}

/* Normalised squared error of numbers of a type. */
static inline double error_of(const void *x, dtype type, const double *expected, size_t n) {
    float *y = mem_new(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = number_at(x, type, i);
    double error = harness_nmse(y, expected, n);
    free(y);
    return error;
}

/* A failed check names the case, and how far off it was. */
#define CHECK_CASE(condition, ...)                                                                           \
    do {                                                                                                     \
        char check_text[256];                                                                                \
        snprintf(check_text, sizeof check_text, __VA_ARGS__);                                                \
        CU_assertImplementation((condition) ? CU_TRUE : CU_FALSE, __LINE__, check_text, __FILE__, "",        \
                                CU_FALSE);                                                                   \
    } while (0)

/* ---- matrices ---- */

static inline matrix *new_matrix(device *dev, int n_rows, int n_cols, const void *rows, dtype type) {
    matrix *w = NULL;
    CHECK_OK(dev->ops->matrix_open(dev, n_rows, n_cols, &w));
    dev->ops->matrix_load(dev, w, 0, n_rows, rows, type);
    return w;
}

enum { PIECED_ROWS = 75 };

/* A matrix of PIECED_ROWS rows that is filled by pieces, in no order. */
static inline matrix *new_matrix_of_pieces(device *dev, int n_cols, const float *rows) {
    const int pieces[][2] = {{40, 1}, {0, 7}, {41, 34}, {20, 20}, {7, 13}};
    matrix *w = NULL;
    CHECK_OK(dev->ops->matrix_open(dev, PIECED_ROWS, n_cols, &w));
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        dev->ops->matrix_load(dev, w, pieces[i][0], pieces[i][1], rows + pieces[i][0] * n_cols, DTYPE_F32);
    return w;
}

/* Every row of a product of many has the bits of the same row alone, on one thread. */
static inline void check_rows_of_product(const char *isa, precision p) {
    const int counts[] = {1, 2, 3, 4, 5, 6, 7, 13, 63, 64, 65, 200};
    enum { N = 213, M = 1111, T = 200 };
    device *alone = open_device(isa, p, 1);
    uint64_t seed = 3;
    float *rows = new_random(&seed, N * M, 1), *one = mem_new(T * N, sizeof *one);
    char *x = new_random_of(alone->act, &seed, T * M, 1);
    size_t x_bytes = M * dtype_bytes(alone->act);
    matrix *w = new_matrix(alone, N, M, rows, DTYPE_F32);
    for (size_t t = 0; t < T; t++)
        alone->ops->matmul(alone, w, x + t * x_bytes, 1, 0, one + t * N);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        device *dev = open_device(isa, p, n_threads);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            size_t first = (size_t)(T - counts[i]) / 2, n = (size_t)counts[i] * N;
            float *many = new_poisoned(DTYPE_F32, n);
            dev->ops->matmul(dev, w, x + first * x_bytes, counts[i], 0, many);
            CHECK_CASE(!memcmp(many, one + first * N, n * sizeof *many), "%s: %d rows, %d threads", isa,
                       counts[i], n_threads);
            free(many);
        }
        close_device(dev);
    }
    alone->ops->matrix_close(alone, w);
    close_device(alone);
    free(rows);
    free(one);
    free(x);
}

/* ---- the KV cache ---- */

/* One layer's pages, all poisoned, for one sequence of up to n positions. */
typedef struct cache {
    kv_layer layer;
    int32_t *page_ids; /* in no order: the table of slot 0, in host memory */
    size_t bytes, page_bytes;
} cache;

static inline size_t kv_width(const attention_shape *s) {
    return (size_t)(s->n_kv_heads * s->head_dim);
}

static inline cache new_cache(const attention_shape *shape, int n, int page_tokens, dtype type) {
    int n_pages = (n + page_tokens - 1) / page_tokens;
    cache c = {.layer.format = kv_format_of(type, shape->n_kv_heads, shape->head_dim, page_tokens)};
    c.page_bytes = kv_page_bytes(&c.layer.format);
    c.bytes = c.page_bytes * (size_t)n_pages;
    c.layer.pages = new_poisoned(type, c.bytes / dtype_bytes(type));
    c.page_ids = mem_new((size_t)n_pages, sizeof *c.page_ids);
    for (int i = 0; i < n_pages; i++)
        c.page_ids[i] = n_pages - 1 - i;
    for (int i = 0; i + 3 < n_pages; i += 3) {
        int32_t id = c.page_ids[i];
        c.page_ids[i] = c.page_ids[i + 3];
        c.page_ids[i + 3] = id;
    }
    c.layer.tables = c.page_ids;
    c.layer.table_pages = n_pages;
    return c;
}

static inline void free_cache(cache *c) {
    free(c->layer.pages);
    free(c->page_ids);
}

/* By the words of kv_page.h: k [G, page_tokens, K], then v. */
static inline char *place_in(const cache *c, const attention_shape *s, size_t type_bytes, int pos,
                             int kv_head, bool is_v) {
    int page_tokens = c->layer.format.page_tokens;
    size_t head = (size_t)(is_v ? s->n_kv_heads + kv_head : kv_head);
    size_t slot = head * (size_t)page_tokens + (size_t)(pos % page_tokens);
    char *page = (char *)c->layer.pages + (size_t)c->page_ids[pos / page_tokens] * c->page_bytes;
    return page + slot * (size_t)s->head_dim * type_bytes;
}
