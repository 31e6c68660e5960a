#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device/cuda_graph.h"
#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/cuda_staging.h"
#include "src/base/memory.h"

enum {
    LEAST_CAPABILITY = 80,           /* bf16 products, and copies behind a warp's back */
    TABLE_BYTES = 4 << 20,           /* of a staging buffer for the tables of a step, at first */
    WEIGHT_STAGING_BYTES = 16 << 20, /* of each of two that weights pass through */
    MIB = 1 << 20,
};

/* From any thread, which may not have named the GPU yet. */
static status cuda_alloc(device *base, size_t bytes, void **out) {
    cuda_device_check(cuda_device_of(base), cudaSetDevice(cuda_device_of(base)->index), "choice of the GPU");
    return cuda_device_alloc(cuda_device_of(base), bytes, out);
}

static void cuda_release(device *base, void *ptr) {
    cuda_device_check(cuda_device_of(base), cudaSetDevice(cuda_device_of(base)->index), "choice of the GPU");
    cuda_device_check(cuda_device_of(base), cudaFree(ptr), "free");
}

/* Host memory that is not pinned is copied to such before this returns. Threads that load a cache come here
 * while steps are recorded. */
static void cuda_copy_in(device *base, void *dst, const void *host_src, size_t bytes) {
    cuda_device *dev = cuda_device_of(base);
    if (!bytes) return;
    cuda_device_check(dev, cudaSetDevice(dev->index), "choice of the GPU"); /* in this thread */
    pthread_mutex_lock(&dev->recording);
    const cudaError_t code = cudaMemcpyAsync(dst, host_src, bytes, cudaMemcpyHostToDevice, dev->stream);
    pthread_mutex_unlock(&dev->recording);
    cuda_device_check(dev, code, "copy to the GPU");
}

static void cuda_copy_out(device *base, void *host_dst, const void *src, size_t bytes) {
    cuda_device *dev = cuda_device_of(base);
    if (bytes)
        cuda_device_check(dev, cudaMemcpyAsync(host_dst, src, bytes, cudaMemcpyDeviceToHost, dev->stream),
                          "copy from the GPU");
}

static status cuda_check(device *base) {
    cuda_device *dev = cuda_device_of(base);
    pthread_mutex_lock(&dev->lock);
    status st = dev->failed;
    dev->failed = STATUS_OK;
    if (st != STATUS_OK) (void)status_adopt(st, dev->failed_text);
    pthread_mutex_unlock(&dev->lock);
    return st;
}

static status cuda_sync(device *base) {
    cuda_device *dev = cuda_device_of(base);
    cuda_device_check(dev, cudaStreamSynchronize(dev->stream), "wait for the GPU");
    return cuda_check(base);
}

static double cuda_measure_memory(device *base) {
    enum { COPIES = 6 };
    cuda_device *dev = cuda_device_of(base);
    const size_t bytes = (size_t)MEASURE_MIB * MIB / 2;
    void *from = NULL, *to = NULL;
    double best = 0;
    cudaEvent_t events[2] = {NULL, NULL};
    bool good = cudaMalloc(&from, bytes) == cudaSuccess && cudaMalloc(&to, bytes) == cudaSuccess &&
                cudaEventCreate(&events[0]) == cudaSuccess && cudaEventCreate(&events[1]) == cudaSuccess;
    for (int i = 0; good && i < COPIES; i++) {
        float ms = 0;
        cudaEventRecord(events[0], dev->stream);
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, dev->stream);
        cudaEventRecord(events[1], dev->stream);
        good = cudaStreamSynchronize(dev->stream) == cudaSuccess &&
               cudaEventElapsedTime(&ms, events[0], events[1]) == cudaSuccess;
        double rate = ms > 0 ? 2 * (double)bytes / (1e-3 * (double)ms) : 0;
        if (good && rate > best) best = rate;
    }
    cudaGetLastError();
    for (int i = 0; i < 2; i++)
        if (events[i]) cudaEventDestroy(events[i]);
    cudaFree(from);
    cudaFree(to);
    return best;
}

/* ---- matrices ---- */

static status cuda_matrix_open(device *base, int64_t n_rows, int64_t n_cols, matrix **out) {
    void *data = NULL;
    status st = cuda_alloc(base, (size_t)n_rows * (size_t)n_cols * dtype_bytes(base->act), &data);
    if (st != STATUS_OK) return st;
    matrix *w = mem_new(1, sizeof *w);
    *w = (matrix){.n_rows = n_rows, .n_cols = n_cols, .data = data};
    *out = w;
    return STATUS_OK;
}

static void cuda_matrix_close(device *base, matrix *w) {
    if (!w) return;
    cuda_release(base, w->data);
    free(w);
}

/* Pieces go through pinned buffers in turn: one is filled while the other one is copied. */
static void cuda_matrix_load(device *base, matrix *w, int64_t row0, int64_t n_rows, const void *host_src,
                             dtype src_type) {
    cuda_device *dev = cuda_device_of(base);
    size_t element = dtype_bytes(src_type), to_element = dtype_bytes(base->act);
    int64_t left = n_rows * w->n_cols, at_once = WEIGHT_STAGING_BYTES / (int64_t)element;
    char *to = (char *)w->data + (size_t)(row0 * w->n_cols) * to_element;
    for (const char *from = host_src; left > 0;) {
        int64_t n = left < at_once ? left : at_once;
        cuda_staging *staging = dev->weight_staging[dev->next_weight_staging];
        dev->next_weight_staging = 1 - dev->next_weight_staging;
        const void *piece = cuda_staging_send(dev, staging, from, (size_t)n * element);
        if (!piece) return;
        cuda_convert(dev, piece, src_type, n, to);
        from += (size_t)n * element;
        to += (size_t)n * to_element;
        left -= n;
    }
}

/* ---- the step ---- */

/* One array behind the other in a staging buffer, 16 bytes aligned. */
typedef struct table_writer {
    char *host;
    const char *device;
    size_t used;
} table_writer;

static void *put_table(table_writer *w, size_t n, size_t item_bytes, const void **device_array) {
    void *host = w->host + w->used;
    *device_array = w->device + w->used;
    w->used += (n * item_bytes + 15) / 16 * 16;
    return host;
}

static void fill_tables(step_tables *t, table_writer *w) {
    int64_t *pos = put_table(w, (size_t)t->n_rows, sizeof *pos, (const void **)&t->row_pos);
    int32_t *slot = put_table(w, (size_t)t->n_rows, sizeof *slot, (const void **)&t->row_slot);
    int32_t *row0 = put_table(w, (size_t)t->n_spans + 1, sizeof *row0, (const void **)&t->span_row0);
    for (int i = 0; i < t->n_spans; i++) {
        const span *s = &t->host_spans[i];
        for (int k = 0; k < s->n_rows; k++) {
            pos[s->row0 + k] = s->pos0 + k;
            slot[s->row0 + k] = s->slot;
        }
        row0[i] = s->row0;
    }
    row0[t->n_spans] = t->n_rows;
}

static void cuda_begin_step(device *base, int n_spans, const span *spans) {
    cuda_device *dev = cuda_device_of(base);
    step_tables t = {.n_spans = n_spans, .last_pos = -1, .host_spans = spans};
    for (int i = 0; i < n_spans; i++) {
        const span *s = &spans[i];
        assert(s->row0 == t.n_rows && (!s->is_generated || t.n_generated == t.n_rows));
        t.n_rows += s->n_rows;
        if (!s->is_generated) continue;
        t.n_generated += s->n_rows;
        t.n_generated_spans++;
        if (s->pos0 + s->n_rows - 1 > t.last_pos) t.last_pos = s->pos0 + s->n_rows - 1;
    }
    size_t rows = (size_t)t.n_rows, n = (size_t)n_spans;
    size_t bytes = rows * (sizeof(int64_t) + sizeof(int32_t)) + (n + 1) * sizeof(int32_t) + 3 * 16;
    table_writer w = {0};
    cuda_staging_rewind(dev, dev->tables); /* recorded steps know where the tables are */
    if (!cuda_staging_begin(dev, dev->tables, bytes, &w.host, &w.device)) return;
    fill_tables(&t, &w);
    cuda_staging_end(dev, dev->tables, w.used);
    dev->step = t;
}

/* ---- open and close ---- */

static void cuda_close(device *base) {
    if (!base) return;
    cuda_device *dev = cuda_device_of(base);
    if (dev->stream) cudaStreamSynchronize(dev->stream);
    cuda_graphs_close(dev->graphs);
    cuda_matmul_close(dev);
    cuda_staging_close(dev->tables);
    for (int i = 0; i < 2; i++)
        cuda_staging_close(dev->weight_staging[i]);
    cudaFree(dev->scratch);
    cudaFree(dev->answers);
    if (dev->stream) cudaStreamDestroy(dev->stream);
    pthread_mutex_destroy(&dev->lock);
    pthread_mutex_destroy(&dev->recording);
    free(dev);
}

static const char *cuda_processor(const device *base) {
    return ((const cuda_device *)base)->processor;
}

static const char *cuda_bus_id(const device *base) {
    return ((const cuda_device *)base)->bus_id;
}

static const device_ops cuda_ops = {
    .name = "cuda",
    .most_head_dim = CUDA_MOST_HEAD_DIM,
    .close = cuda_close,
    .processor = cuda_processor,
    .bus_id = cuda_bus_id,
#ifndef KVARVE_CUDA_EMULATED
    .mark = cuda_mark,
#endif
    .alloc = cuda_alloc,
    .release = cuda_release,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .alloc_host = cuda_alloc_host,
    .release_host = cuda_release_host,
    .copy_open = cuda_copy_open,
    .copy_close = cuda_copy_close,
    .copy_after = cuda_copy_after,
    .copy_begin = cuda_copy_begin,
    .copy_test = cuda_copy_test,
    .fence_open = cuda_fence_open,
    .fence_close = cuda_fence_close,
    .fence_set = cuda_fence_set,
    .fence_passed = cuda_fence_passed,
    .decode_chunks = cuda_decode_chunks,
    .sync = cuda_sync,
    .check = cuda_check,
    .measure_memory = cuda_measure_memory,
    .matrix_open = cuda_matrix_open,
    .matrix_load = cuda_matrix_load,
    .matrix_fill = cuda_matrix_fill,
    .matrix_close = cuda_matrix_close,
    .embed = cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .matmul = cuda_matmul,
    .matmul_add = cuda_matmul_add,
    .matmul_swiglu = cuda_matmul_swiglu,
    .add_bias = cuda_add_bias,
    .begin_step = cuda_begin_step,
    .replay = cuda_replay,
    .record_end = cuda_record_end,
    .rope_table = cuda_rope_table,
    .kv_append = cuda_kv_append,
    .attend_part = cuda_attend_part,
    .attend_merge = cuda_attend_merge,
    .attend = cuda_attend,
    .choose = cuda_choose,
    .score = cuda_score,
    .top_logits = cuda_top_logits,
    .gather_rows = cuda_gather_rows,
};

/* What the GPU is: refuses one that is too old. */
static status describe(cuda_device *dev) {
    struct cudaDeviceProp p;
    cudaError_t code = cudaGetDeviceProperties(&p, dev->index);
    if (code != cudaSuccess)
        return status_refuse("--device cuda: GPU %d cannot be used: %s", dev->index, cuda_error_text(code));
    snprintf(dev->name, sizeof dev->name, "%s", p.name);
    int capability = 10 * p.major + p.minor;
    dev->n_multiprocessors = p.multiProcessorCount;
    dev->max_shared_bytes = p.sharedMemPerBlockOptin;
    dev->has_warpgroup_products = p.major == 9; /* no later GPU has them */
    cudaDeviceGetPCIBusId(dev->bus_id, sizeof dev->bus_id, dev->index);
    snprintf(dev->processor, sizeof dev->processor, "sm_%d", capability);
    if (capability >= LEAST_CAPABILITY) return STATUS_OK;
    return status_refuse("--device cuda: GPU %d (%s) has compute capability %d.%d, and 8.0 or more is needed",
                         dev->index, dev->name, p.major, p.minor);
}

static status open_parts(cuda_device *dev) {
    cudaError_t code = cudaSetDevice(dev->index);
    if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking);
    if (code != cudaSuccess)
        return status_refuse("--device cuda: GPU %d (%s) cannot be used: %s", dev->index, dev->name,
                             cuda_error_text(code));
    void *answers = NULL;
    const size_t row_bytes = DEVICE_MAX_TOP * (sizeof(float) + sizeof(int32_t)); /* more than others' */
    status st = cuda_alloc(&dev->base, DEVICE_TOP_ROWS * row_bytes, &answers);
    dev->answers = answers;
    if (st == STATUS_OK) st = cuda_staging_open(TABLE_BYTES, &dev->tables);
    for (int i = 0; st == STATUS_OK && i < 2; i++)
        st = cuda_staging_open(WEIGHT_STAGING_BYTES, &dev->weight_staging[i]);
    dev->graphs = cuda_graphs_open();
    return st;
}

int cuda_device_count(const char **why_none) {
    int n = 0;
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code == cudaSuccess && n > 0) return n;
    const char *why = code == cudaSuccess ? "no GPU is visible" : cuda_error_text(code);
    if (why_none) *why_none = why;
    return 0;
}

uint64_t cuda_device_free_bytes(int index) {
    size_t free_bytes = 0, all_bytes = 0;
    if (cudaSetDevice(index) != cudaSuccess || cudaMemGetInfo(&free_bytes, &all_bytes) != cudaSuccess)
        return 0;
    return free_bytes;
}

status cuda_device_open(precision p, int index, device **out) {
    const char *why = NULL;
    int n = cuda_device_count(&why);
    if (n == 0) return status_refuse("--device cuda: no usable GPU here: %s", why);
    if (index < 0 || index >= n)
        return status_refuse("--device cuda: there is no GPU %d: %d are visible", index, n);
    cuda_device *dev = mem_new(1, sizeof *dev);
    *dev = (cuda_device){
        .base = {&cuda_ops, precision_act(p), precision_kv(p), KV_ROWS}, .precision = p, .index = index};
    pthread_mutex_init(&dev->lock, NULL);
    pthread_mutex_init(&dev->recording, NULL);
    status st = describe(dev);
    if (st == STATUS_OK) st = open_parts(dev);
    if (st != STATUS_OK) {
        cuda_close(&dev->base);
        return st;
    }
    *out = &dev->base;
    return STATUS_OK;
}

/* All that can be seen of the module. */
__attribute__((visibility("default"))) const cuda_backend kvarve_cuda_backend = {
    .open = cuda_device_open, .count = cuda_device_count, .free_bytes = cuda_device_free_bytes};
