/* Logits of every model family against Hugging Face transformers in float32, on every instruction set of this
 * processor and on its GPU (or there alone: test_golden cuda), in one slice and in two, read in one chunk and
 * in several. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/model.h"
#include "tests/fixtures/golden.h"
#include "tests/fixtures/harness.h"

enum { PAGE_TOKENS = 32, MAX_CHUNK = 64 };

/* The bounds of tests/golden/FORMAT.md. */
static const double f32_bound = 1e-9, bf16_bound = 1e-3;

/* One slice of a model with its cache. */
typedef struct part {
    model *model;
    kv_cache *kv;
    uint64_t digest[2];
} part;

typedef struct fixture {
    model_config config;
    weights *files;
    device *dev;
    trace trace;
    void *x;
} fixture;

static bool open_part(fixture *f, slice s, int64_t n_tokens, part *out) {
    kv_shape shape = {.n_layers = s.last_layer - s.first_layer,
                      .format =
                          device_kv_format(f->dev, f->config.n_kv_heads, f->config.head_dim, PAGE_TOKENS),
                      .n_pages = kv_pages_for(n_tokens, PAGE_TOKENS),
                      .n_slots = 1,
                      .longest_tokens = n_tokens,
                      .max_rows = MAX_CHUNK};
    return CHECK_OK(
               model_open(&f->config, s, MAX_CHUNK, f->files, f->dev, &f->trace, out->digest, &out->model)) &&
           CHECK_OK(kv_cache_open(f->dev, &shape, &out->kv));
}

static void close_part(part *p) {
    model_close(p->model);
    kv_cache_close(p->kv);
}

/* Logits of all golden positions, through the parts in turn, `chunk` rows at a time. */
static void run_parts(fixture *f, part *parts, int n_parts, const golden *g, int chunk, float *logits) {
    int next = 0;
    for (int32_t pos = 0; pos < g->n_tokens; pos += chunk) {
        int T = g->n_tokens - pos < chunk ? g->n_tokens - pos : chunk;
        model_embed(parts[0].model, g->tokens + pos, T, f->x);
        for (int i = 0; i < n_parts; i++) {
            kv_cache_extend(parts[i].kv, 0, pos, pos + T);
            span rows = {0, T, pos, 0, false};
            model_forward(parts[i].model, parts[i].kv, NULL, NULL, 1, &rows, T, f->x);
        }
        for (; next < g->n_positions && g->positions[next] < pos + T; next++) {
            int32_t row = g->positions[next] - pos;
            float *out = logits + (size_t)next * (size_t)g->n_vocabulary;
            if (!CHECK_OK(model_logits(parts[n_parts - 1].model, f->x, &row, 1, out))) return;
        }
    }
}

static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* The same argmax wherever the reference's margin is above the noise: 4 times the row's root mean square
 * error. */
static int wrong_argmax(const float *got, const float *want, int n) {
    int best = argmax(want, n);
    double error = 0, second = -INFINITY;
    for (int i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        error += d * d;
        if (i != best && (double)want[i] > second) second = (double)want[i];
    }
    bool is_clear = (double)want[best] - second > 4 * sqrt(error / n);
    return is_clear && argmax(got, n) != best;
}

static void compare(const char *what, const golden *g, const float *logits, double bound) {
    size_t n = (size_t)g->n_positions * (size_t)g->n_vocabulary;
    double *want = malloc(n * sizeof *want);
    for (size_t i = 0; i < n; i++)
        want[i] = (double)g->logits[i];
    double nmse = harness_nmse(logits, want, n);
    free(want);
    int wrong = 0;
    for (int i = 0; i < g->n_positions; i++) {
        size_t at = (size_t)i * (size_t)g->n_vocabulary;
        wrong += wrong_argmax(logits + at, g->logits + at, g->n_vocabulary);
    }
    printf("  %-44s nmse %.2e\n", what, nmse);
    CU_ASSERT(nmse <= bound);
    CU_ASSERT(wrong == 0);
}

/* A prefill and a decode of the same tokens give the same KV bytes: all positions of all layers. */
static void compare_caches(const fixture *f, const part *a, const part *b, int32_t n_tokens) {
    kv_format format = kv_cache_layer(a->kv, 0).format;
    size_t bytes =
        (size_t)n_tokens * (size_t)format.n_heads * (size_t)format.k_width * dtype_bytes(format.type);
    char *x = malloc(bytes), *y = malloc(bytes);
    int n_different = 0;
    for (int l = 0; l < f->config.n_layers; l++)
        for (int i = 0; i < N_KV_PARTS; i++) {
            CHECK_OK(kv_cache_read(a->kv, 0, l, (kv_part)i, 0, n_tokens, x));
            CHECK_OK(kv_cache_read(b->kv, 0, l, (kv_part)i, 0, n_tokens, y));
            n_different += memcmp(x, y, bytes) != 0;
        }
    free(x);
    free(y);
    CU_ASSERT(n_different == 0);
}

/* The digest of a model is the sum over its parts, however it is cut. */
static void check_digests(const part *whole, const part halves[2]) {
    for (int i = 0; i < 2; i++)
        CU_ASSERT(whole->digest[i] != 0 && whole->digest[i] == halves[0].digest[i] + halves[1].digest[i]);
}

/* One model, one precision, one instruction set: three ways that must agree bit for bit, and with the golden
 * logits. */
static void check_model(const char *dir, const golden *g, precision prec, const char *isa) {
    fixture f = {0};
    char what[160];
    size_t n = (size_t)g->n_positions * (size_t)g->n_vocabulary;
    float *one = calloc(n, sizeof *one), *two = calloc(n, sizeof *two);
    if (CHECK_OK(model_config_load(dir, &f.config)) && CHECK_OK(weights_open(dir, &f.files)) &&
        CHECK_OK(model_check_files(&f.config, prec, f.files)) &&
        CHECK_OK(strcmp(isa, "cuda") ? cpu_device_open(prec, 2, isa, &f.dev)
                                     : device_open(DEVICE_CUDA, 0, prec, 1, &f.dev)) &&
        CHECK_OK(
            f.dev->ops->alloc(f.dev, (size_t)MAX_CHUNK * (size_t)f.config.d_model * sizeof(float), &f.x))) {
        int n_layers = f.config.n_layers;
        part whole = {0}, decoded = {0}, halves[2] = {{0}, {0}};
        if (open_part(&f, (slice){0, n_layers, n_layers}, g->n_tokens, &whole) &&
            open_part(&f, (slice){0, n_layers, n_layers}, g->n_tokens, &decoded) &&
            open_part(&f, (slice){0, n_layers / 2, n_layers}, g->n_tokens, &halves[0]) &&
            open_part(&f, (slice){n_layers / 2, n_layers, n_layers}, g->n_tokens, &halves[1])) {
            run_parts(&f, &whole, 1, g, MAX_CHUNK, one);
            run_parts(&f, halves, 2, g, 7, two);
            snprintf(what, sizeof what, "%s %s %s", strrchr(dir, '/') + 1, isa,
                     prec == PRECISION_F32 ? "f32" : "bf16");
            compare(what, g, one, prec == PRECISION_F32 ? f32_bound : bf16_bound);
            CU_ASSERT(!memcmp(one, two, n * sizeof *one));
            run_parts(&f, &decoded, 1, g, 1, two);
            CU_ASSERT(!memcmp(one, two, n * sizeof *one));
            check_digests(&whole, halves);
            compare_caches(&f, &whole, &decoded, g->n_tokens);
        }
        close_part(&decoded);
        close_part(&whole);
        close_part(&halves[0]);
        close_part(&halves[1]);
    }
    if (f.dev) {
        f.dev->ops->release(f.dev, f.x);
        f.dev->ops->close(f.dev);
    }
    weights_close(f.files);
    free(one);
    free(two);
}

#ifdef KVARVE_CUDA_EMULATED
static const bool is_emulated = true;
#else
static const bool is_emulated = false;
#endif

/* A GPU that is emulated takes seconds for a tiny model, and so does a CPU with sanitizers: of these, those
 * that differ most. */
static bool has_time_for(const char *dir) {
    static const char *const chosen[] = {"qwen2", "qwen3_window", NULL};
    const char *name = strrchr(dir, '/') + 1;
    if (!is_emulated && !harness_is_slow()) return true;
    for (int i = 0; chosen[i]; i++)
        if (!strcmp(name, chosen[i])) return true;
    return false;
}

static bool on_gpu_alone;

static void check_all_isas(const char *dir, const golden *g, precision prec) {
    if (!has_time_for(dir)) return;
    for (int i = 0; !is_emulated && !on_gpu_alone && cpu_isa_name(i); i++) /* as in any other build */
        if (cpu_isa_available(cpu_isa_name(i))) check_model(dir, g, prec, cpu_isa_name(i));
    if (device_count(DEVICE_CUDA, NULL) > 0) check_model(dir, g, prec, "cuda");
}

static void check_tiny_models(precision prec) {
    for (int i = 0; golden_models[i]; i++) {
        char dir[4096], path[4200];
        golden g;
        snprintf(dir, sizeof dir, "%s/tests/golden/models/%s", harness_source_dir(), golden_models[i]);
        snprintf(path, sizeof path, "%s/golden.bin", dir);
        if (!golden_read(path, &g)) continue;
        check_all_isas(dir, &g, prec);
        free(g.bytes);
    }
}

static void check_demo_model(precision prec) {
    char dir[4096], path[4096];
    golden g;
    snprintf(dir, sizeof dir, "%s/jobs/demo/model", harness_source_dir());
    snprintf(path, sizeof path, "%s/tests/golden/models/demo.golden", harness_source_dir());
    if (!has_time_for(dir)) {
        harness_skip("the demo model takes too long in this build");
        return;
    }
    if (!golden_read(path, &g)) return;
    check_all_isas(dir, &g, prec);
    free(g.bytes);
}

static void families_in_f32(void) {
    check_tiny_models(PRECISION_F32);
}

static void families_in_bf16(void) {
    check_tiny_models(PRECISION_BF16);
}

static void demo_model_in_f32(void) {
    check_demo_model(PRECISION_F32);
}

static void demo_model_in_bf16(void) {
    check_demo_model(PRECISION_BF16);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"families in f32", families_in_f32},
        {"families in bf16", families_in_bf16},
        {"demo model in f32", demo_model_in_f32},
        {"demo model in bf16", demo_model_in_bf16},
        CU_TEST_INFO_NULL,
    };
    on_gpu_alone = argc > 1 && !strcmp(argv[1], "cuda");
    if (on_gpu_alone && device_count(DEVICE_CUDA, NULL) == 0) {
        printf("skipped  golden: no GPU here\n");
        return 77;
    }
    return harness_run(&argc, &argv, "golden", tests);
}
