/* tests/model/test_model_tiers.c: contexts of ten times the pages that memory holds: each row leaves the
 * layers with the bits that it has where all are in memory. On every device, with all that there is beside
 * its memory: a file; of a GPU, host memory, or little of it and a file. */
#include <stdlib.h>
#include <string.h>

#include "src/model/kv_host.h"
#include "src/model/model.h"
#include "tests/fixtures/device_arrays.h"

enum { LAYERS = 32, D = 64, CHUNK = 64, SLOTS = 2, STEPS = 7 };

/* In int4, where many pages get their codes together: pages of whole sectors, and many blocks of them. */
typedef struct trial {
    kv_layout layout; /* KV_ROWS: the device's own */
    int n_heads, n_kv_heads, page_tokens, n_times;
    int64_t longest; /* all steps n_times, and less than a page more */
} trial;

static const trial elements = {KV_ROWS, 2, 1, 32, 1, 250}, codes = {KV_INT4, 16, 16, 64, 3, 780};

static synthetic_model made_for(const trial *t) {
    return (synthetic_model){.name = "deep",
                             .n_layers = LAYERS,
                             .d_model = D,
                             .n_heads = t->n_heads,
                             .n_kv_heads = t->n_kv_heads,
                             .head_dim = 64,
                             .d_mlp = 64,
                             .vocab_size = SYNTHETIC_MIN_VOCAB,
                             .tied_head = true,
                             .max_positions = 4096,
                             .rope_theta = 10000};
}

static const int64_t windows[LAYERS];

typedef enum tier_kind { ALL_IN_MEMORY, WITH_FILE, WITH_HOST, WITH_BOTH, N_TIER_KINDS } tier_kind;

typedef struct fixture {
    model_config config;
    trace trace;
    model *model;
    page_file *file;
    kv_host *host;
    kv_records records;
    kv_cache *kv;
    kv_walk *walk; /* NULL: all is in memory */
    void *x;
} fixture;

static void open_model(fixture *f, device *dev, const trial *t) {
    const synthetic_model made = made_for(t);
    text_buffer json = {0};
    size_t n = 0;
    synthetic_append_config(&made, &json);
    CHECK_OK(model_config_parse(json.data, json.n, "deep", &f->config));
    free(json.data);
    synthetic_tensor *tensors = model_list_tensors(&f->config, &n);
    weights *files = weights_open_synthetic(&made, tensors, n, 1);
    free(tensors);
    CHECK_OK(
        model_open(&f->config, (slice){0, LAYERS, LAYERS}, CHUNK, files, dev, &f->trace, NULL, &f->model));
    weights_close(files);
    CHECK_OK(dev->ops->alloc(dev, CHUNK * D * sizeof(float), &f->x));
}

static void open_records(fixture *f, device *dev, tier_kind kind, size_t page_bytes, int32_t n) {
    if (kind != WITH_HOST)
        CHECK_OK(
            page_file_open("/tmp", n * (int64_t)page_bytes, page_bytes, 16, PAGE_FILE_IO_URING, &f->file));
    const int32_t in_host = kind == WITH_HOST ? n : KV_HOST_LEAST_PAGES;
    if (kind != WITH_FILE)
        CHECK_OK(kv_host_open(&(kv_host_shape){dev, page_bytes, n, in_host, in_host, 2, f->file}, &f->host));
    f->records = f->host ? kv_host_records(f->host) : kv_records_of_file(f->file);
}

static void open_cache(fixture *f, device *dev, const trial *t, tier_kind kind) {
    kv_shape shape = {.format = device_kv_format(dev, t->n_kv_heads, 64, t->page_tokens),
                      .n_layers = LAYERS,
                      .n_pages = SLOTS * kv_pages_for(t->longest, t->page_tokens),
                      .n_slots = SLOTS,
                      .longest_tokens = t->longest,
                      .max_rows = CHUNK,
                      .n_near_blocks = 1,
                      .n_turn = 2};
    if (kind != ALL_IN_MEMORY) {
        shape.n_frames = kv_walk_least_frames(&shape);
        CU_ASSERT(LAYERS * kv_pages_for(t->longest, t->page_tokens) > 10 * shape.n_frames);
        open_records(f, dev, kind, kv_page_bytes(&shape.format),
                     LAYERS * (int32_t)shape.n_pages + KV_TIER_SPARE_RECORDS);
        shape.records = &f->records;
        CHECK_OK(model_open_partials(f->model, t->longest));
    }
    CHECK_OK(kv_cache_open(dev, &shape, &f->kv));
    if (kind != ALL_IN_MEMORY) f->walk = kv_walk_open(f->kv, windows);
}

/* A prompt in chunks, with another one beside its last ones, and then rows of both. */
static int next_step(int step, const int64_t *ends, span *spans) {
    static const int n_rows[STEPS][SLOTS] = {{CHUNK}, {CHUNK}, {40, 24}, {CHUNK}, {7, 40}, {1, 1}, {1, 1}};
    int n = 0, row = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        if (n_rows[step][slot] == 0) continue;
        spans[n++] = (span){row, n_rows[step][slot], ends[slot], slot, n_rows[step][slot] == 1};
        row += n_rows[step][slot];
    }
    return n;
}

static size_t all_bytes(const trial *t) {
    return (size_t)(t->n_times * STEPS * CHUNK * D) * sizeof(float);
}

/* All rows of x, as they leave the layers: [steps, CHUNK, D]. */
static float *run(device *dev, const trial *t, tier_kind kind) {
    const kv_layout own_layout = dev->kv_layout;
    fixture f = {0};
    if (t->layout != KV_ROWS) dev->kv_layout = t->layout;
    open_model(&f, dev, t);
    open_cache(&f, dev, t, kind);
    float *all = mem_new(all_bytes(t), 1);
    int64_t ends[SLOTS] = {0};
    for (int i = 0; i < t->n_times * STEPS; i++) {
        span spans[SLOTS];
        int32_t tokens[CHUNK];
        const int n_spans = next_step(i % STEPS, ends, spans),
                  T = spans[n_spans - 1].row0 + spans[n_spans - 1].n_rows;
        for (int row = 0; row < T; row++)
            tokens[row] = (i * 31 + row * 7) % SYNTHETIC_MIN_VOCAB;
        kv_cache_settle(f.kv);
        if (f.walk) kv_walk_announce(f.walk, n_spans, spans);
        for (const span *s = spans; s < spans + n_spans; s++) {
            ends[s->slot] = s->pos0 + s->n_rows;
            kv_cache_extend(f.kv, s->slot, s->pos0, ends[s->slot]);
        }
        model_embed(f.model, tokens, T, f.x);
        model_forward(f.model, f.kv, f.walk, NULL, n_spans, spans, T, f.x);
        dev->ops->copy_out(dev, all + (size_t)i * CHUNK * D, f.x, (size_t)T * D * sizeof(float));
        CHECK_OK(model_sync(f.model));
    }
    CU_ASSERT(ends[0] > t->longest - t->page_tokens && ends[0] <= t->longest);
    if (f.walk) {
        const kv_figures moved = kv_tier_measure(kv_cache_tier(f.kv));
        CU_ASSERT_EQUAL(kv_tier_n_lost(kv_cache_tier(f.kv)), 0);
        CU_ASSERT_EQUAL(moved.from_host.n_moved > 0, f.host != NULL);
        CU_ASSERT_EQUAL(moved.disk.read.n_moved > 0, f.file != NULL);
    }
    kv_walk_close(f.walk);
    kv_cache_close(f.kv);
    kv_host_close(f.host);
    page_file_close(f.file, 60);
    model_close(f.model);
    dev->ops->release(dev, f.x);
    dev->kv_layout = own_layout;
    return all;
}

static void check_trial(const tested *t, const trial *what) {
    static const char *const names[] = {
        [WITH_FILE] = "a file", [WITH_HOST] = "host memory", [WITH_BOTH] = "both"};
    float *expected = run(t->dev, what, ALL_IN_MEMORY);
    for (tier_kind kind = WITH_FILE; kind < N_TIER_KINDS; kind++) {
        if (t->dev->host_memory != (kind == WITH_FILE)) continue;
        float *all = run(t->dev, what, kind);
        CHECK_CASE(!memcmp(all, expected, all_bytes(what)), "%s, %s%s", t->name, names[kind],
                   what->layout == KV_INT4 ? ", codes" : "");
        free(all);
    }
    free(expected);
}

/* Codes once, as their way is the same by any instructions. */
static void check(const tested *t) {
    static bool has_codes;
    if (!t->dev->host_memory && t->dev->act == DTYPE_F32)
        return; /* emulated, it takes long, and shows no more */
    check_trial(t, &elements);
    if (!has_codes && t->dev->host_memory && t->dev->kv == DTYPE_BF16) {
        check_trial(t, &codes);
        has_codes = true;
    }
}

static void same_bits_as_in_memory(void) {
    for_each_kind(check);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"same bits as in memory", same_bits_as_in_memory}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "model tiers", tests);
}
