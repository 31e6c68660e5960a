/* The operations that treat every row, or every head of a row, alone. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu_device.h"
#include "src/base/memory.h"

void cpu_rmsnorm(device *base, const float *x, const float *weight, float eps, int T, int D, void *y) {
    const cpu_device *dev = cpu_device_of(base);
    size_t n = (size_t)D, y_bytes = n * dtype_bytes(base->act);
#pragma omp parallel for num_threads(cpu_threads_for(dev, (size_t)T *n)) schedule(static)
    for (int t = 0; t < T; t++)
        dev->kernels->rmsnorm(x + (size_t)t * n, weight, eps, D, (char *)y + (size_t)t * y_bytes);
}

void cpu_add_bias(device *base, const float *bias, int T, int N, float *y) {
    size_t n = (size_t)N;
#pragma omp parallel for num_threads(cpu_threads_for(cpu_device_of(base), (size_t)T *n)) schedule(static)
    for (int t = 0; t < T; t++)
        for (size_t i = 0; i < n; i++)
            y[(size_t)t * n + i] += bias[i];
}

void cpu_swiglu(cpu_device *dev, const float *gate_up, int T, int F, void *y) {
    enum { CHUNK = 1024 }; /* so that one long row is work for several threads */
    int n_chunks = (F + CHUNK - 1) / CHUNK;
    size_t width = (size_t)F, y_bytes = dtype_bytes(dev->base.act);
#pragma omp parallel for num_threads(cpu_threads_for(dev, (size_t)T *width)) schedule(static) collapse(2)
    for (int t = 0; t < T; t++)
        for (int chunk = 0; chunk < n_chunks; chunk++) {
            size_t first = (size_t)chunk * CHUNK;
            const float *gate = gate_up + 2 * (size_t)t * width + first;
            int n = chunk + 1 < n_chunks ? CHUNK : F - chunk * CHUNK;
            dev->kernels->swiglu(gate, gate + width, n, (char *)y + ((size_t)t * width + first) * y_bytes);
        }
}

void cpu_gather_rows(device *dev, const float *x, const int32_t *host_rows, int n, int D, float *out) {
    (void)dev;
    size_t width = (size_t)D;
    for (int i = 0; i < n; i++)
        memcpy(out + (size_t)i * width, x + (size_t)host_rows[i] * width, width * sizeof *out);
}

/* ---- positions ---- */

/* The span that row t is in: spans tile the rows in order. */
static const span *span_of_row(const cpu_device *dev, int t) {
    int low = 0, high = dev->n_spans - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (dev->spans[middle].row0 <= t)
            low = middle;
        else
            high = middle - 1;
    }
    return &dev->spans[low];
}

static int rows_of_step(const cpu_device *dev) {
    const span *last = dev->spans + dev->n_spans - 1;
    return dev->n_spans ? last->row0 + last->n_rows : 0;
}

void cpu_rope_table(device *base, const float *host_inv_freq, float factor, int head_dim, float *cos_sin) {
    const cpu_device *dev = cpu_device_of(base);
    int half = head_dim / 2, T = rows_of_step(dev);
#pragma omp parallel for num_threads(cpu_threads_for(dev, (size_t)T *(size_t)head_dim * 16)) schedule(static)
    for (int t = 0; t < T; t++) {
        const span *s = span_of_row(dev, t);
        double pos = (double)(s->pos0 + (t - s->row0));
        float *cosines = cos_sin + (size_t)t * (size_t)head_dim, *sines = cosines + half;
        for (int i = 0; i < half; i++) {
            float angle = (float)(pos * (double)host_inv_freq[i]);
            cosines[i] = cosf(angle) * factor;
            sines[i] = sinf(angle) * factor;
        }
    }
}

static void rotate(const float *cosines, int head_dim, float *x) {
    int half = head_dim / 2;
    const float *sines = cosines + half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i] + a * sines[i];
    }
}

static void put_row(const kv_layer *kv, const span *s, int64_t place, kv_part part, int kv_head,
                    const char *row) {
    if (kv->format.layout != KV_INT4)
        kv_put_rows(&kv->format, kv_layer_page(kv, s->slot, place), part, kv_head,
                    (int)(place % kv->format.page_tokens), 1, row, 0);
    if (kv->near) put_row(kv->near, s, place, part, kv_head, row);
}

/* In int4: the blocks that a span's rows complete. All of such a block is in near pages, as these rows, or
 * later ones of it, see it as it was put. */
static void code_blocks(const cpu_device *dev, const attention_shape *shape, const kv_layer *kv,
                        const span *s) {
    const kv_format *f = &kv->format;
    const int64_t begin = span_place(shape, s), first = attend_block_of(begin) * ATTEND_BLOCK,
                  last = attend_block_of(begin + s->n_rows) * ATTEND_BLOCK;
    if (first == last) return;
    const size_t width = (size_t)(f->k_width > f->v_width ? f->k_width : f->v_width), row_bytes = width * 2;
#pragma omp parallel num_threads(cpu_threads_for(dev, (size_t)(last - first) * (size_t)f->n_heads * width))
    {
        char *rows = mem_new(KV_INT4_PLACES, row_bytes);
#pragma omp for schedule(static) collapse(2)
        for (int64_t place = first; place < last; place += KV_INT4_PLACES)
            for (int i = 0; i < N_KV_PARTS * f->n_heads; i++) {
                const kv_part part = (kv_part)(i / f->n_heads);
                kv_get_rows(&kv->near->format, kv_layer_page(kv->near, s->slot, place), part, i % f->n_heads,
                            0, KV_INT4_PLACES, rows, row_bytes);
                kv_put_rows(f, kv_layer_page(kv, s->slot, place), part, i % f->n_heads,
                            (int)(place % f->page_tokens), KV_INT4_PLACES, rows, row_bytes);
            }
        free(rows);
    }
}

/* Bias and norm of a row's head, before rope. */
static void finish_head(const cpu_device *dev, const attention_shape *shape, const qkv_weights *weights,
                        int head, float *x) {
    const int H = shape->n_heads, K = shape->head_dim;
    if (weights->bias)
        for (int i = 0; i < K; i++)
            x[i] += weights->bias[head * K + i];
    const float *norm = head < H ? weights->q_norm : head < H + shape->n_kv_heads ? weights->k_norm : NULL;
    if (norm) dev->exact->rmsnorm(x, norm, weights->norm_eps, K, x);
}

void cpu_take_queries(device *base, const attention_shape *shape, const qkv_weights *weights,
                      const float *qkv, int row0, int n_rows, float *out) {
    const size_t K = (size_t)shape->head_dim, H = (size_t)shape->n_heads,
                 all = H + 2 * (size_t)shape->n_kv_heads;
    for (size_t row = 0; row < (size_t)n_rows; row++)
        for (size_t head = 0; head < H; head++) {
            float *x = out + (row * H + head) * K;
            memcpy(x, qkv + (((size_t)row0 + row) * all + head) * K, K * sizeof *x);
            finish_head(cpu_device_of(base), shape, weights, (int)head, x);
        }
}

void cpu_kv_append(device *base, const attention_shape *shape, const qkv_weights *weights,
                   const float *cos_sin, const kv_layer *kv, float *qkv, void *q) {
    cpu_device *dev = cpu_device_of(base);
    int H = shape->n_heads, G = shape->n_kv_heads, K = shape->head_dim, heads = H + 2 * G;
    int T = rows_of_step(dev);
    const int n_threads = cpu_threads_for(dev, (size_t)(T * heads) * (size_t)K);
    const size_t width = (size_t)K, kv_bytes = width * dtype_bytes(base->kv);
    char *kv_rows = cpu_device_scratch(dev, (size_t)n_threads * kv_bytes);
    if (!kv_rows) return;
#pragma omp parallel for num_threads(n_threads) schedule(static) collapse(2)
    for (int t = 0; t < T; t++)
        for (int head = 0; head < heads; head++) {
            float *x = qkv + ((size_t)t * (size_t)heads + (size_t)head) * width;
            finish_head(dev, shape, weights, head, x);
            if (head < H + G) rotate(cos_sin + (size_t)t * width, K, x);
            if (head < H) {
                size_t element = ((size_t)t * (size_t)H + (size_t)head) * width;
                dev->kernels->store(x, K, (char *)q + element * dtype_bytes(base->act));
            } else {
                const span *s = span_of_row(dev, t);
                const int64_t place = span_place(shape, s) + (t - s->row0);
                char *kv_row = kv_rows + (size_t)omp_get_thread_num() * kv_bytes;
                dev->kernels->store(x, K, kv_row);
                put_row(kv, s, place, head < H + G ? KV_PART_K : KV_PART_V, (head - H) % G, kv_row);
            }
        }
    for (int i = 0; kv->format.layout == KV_INT4 && i < dev->n_spans; i++)
        code_blocks(dev, shape, kv, &dev->spans[i]);
}
