/* tests/io/test_synthetic.c: models of random weights: their numbers, their files, and that both are the
 * same.
 */
#define _GNU_SOURCE /* for directory.h */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/synthetic/synthetic_files.h"
#include "io/weights/weights.h"
#include "src/model/model.h"
#include "src/tokenizer/synth_tokenizer.h"
#include "src/tokenizer/tokenizer.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"

static const char *const shapes[] = {"tiny", "llama-100m", "llama-1b", "llama-8b", "llama-70b"};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static synthetic_model model_of(const char *shape) {
    synthetic_model m = {0};
    CHECK_OK(synthetic_find(shape, &m));
    return m;
}

/* All its tensors; to be released with free(). */
static synthetic_tensor *tensors_of(const synthetic_model *m, size_t *n) {
    text_buffer text = {0};
    model_config config;
    synthetic_append_config(m, &text);
    CHECK_OK(model_config_parse(text.data, text.n, m->name, &config));
    free(text.data);
    return model_list_tensors(&config, n);
}

static synthetic_files plan_files(const char *dir, const synthetic_model *m, uint64_t max_bytes) {
    size_t n;
    synthetic_tensor *tensors = tensors_of(m, &n);
    return synthetic_files_plan(dir, tensors, n, max_bytes);
}

static float value_of(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- the numbers ---- */

enum { N_ELEMENTS = 300000 };
static const char matrix_name[] = "model.layers.2.self_attn.q_proj.weight";

static uint16_t *make(const synthetic_model *m, const char *name, int64_t first, int64_t n, int n_threads) {
    uint16_t *out = mem_new((size_t)n, sizeof *out);
    synthetic_values *v = synthetic_values_open(m);
    synthetic_values_make(v, name, first, n, n_threads, out);
    synthetic_values_close(v);
    return out;
}

/* Any range, by any number of threads, is that part of the whole. */
static void ranges(void) {
    synthetic_model m = model_of("llama-8b");
    uint16_t *all = make(&m, matrix_name, 0, N_ELEMENTS, 1);
    uint64_t state = 1;
    for (int round = 0; round < 60; round++) {
        int64_t first = (int64_t)(harness_random(&state) % N_ELEMENTS), left = N_ELEMENTS - first;
        int64_t n = round % 2 ? (int64_t)(harness_random(&state) % 20) : left;
        if (n > left) n = left;
        uint16_t *part = make(&m, matrix_name, first, n, 1 + round % 4);
        CU_ASSERT(memcmp(part, all + first, (size_t)n * sizeof *part) == 0);
        free(part);
    }
    free(all);
    /* Far behind what 32 bits count. */
    int64_t far = ((int64_t)1 << 40) + 1;
    uint16_t *one = make(&m, matrix_name, far, 9, 1), *other = make(&m, matrix_name, far + 3, 6, 2);
    CU_ASSERT(memcmp(one + 3, other, 6 * sizeof *one) == 0);
    free(one);
    free(other);
}

/* These bits are part of the format: a model that was written once is made again by every later version. */
static void fixed_bits(void) {
    static const uint16_t want[8] = {0xBCA5, 0xBCE8, 0xBC1A, 0xBBE6, 0xBB70, 0xBBD7, 0x3CA4, 0x3CA6};
    synthetic_model m = model_of("tiny");
    uint16_t *got = make(&m, matrix_name, 0, 8, 1);
    CU_ASSERT(memcmp(got, want, sizeof want) == 0);
    free(got);
}

/* Mean, deviation, skew, kurtosis and neighbours of a normal distribution, each within five standard errors.
 */
static void check_normal(const uint16_t *x, double deviation) {
    double sum[5] = {0}, neighbours[8] = {0}, n = N_ELEMENTS;
    for (int64_t i = 0; i < N_ELEMENTS; i++) {
        double v = (double)value_of(x[i]) / deviation;
        sum[1] += v, sum[2] += v * v, sum[3] += v * v * v, sum[4] += v * v * v * v;
        for (int64_t k = 1; k < 8 && k <= i; k++)
            neighbours[k] += v * (double)value_of(x[i - k]) / deviation;
    }
    CU_ASSERT(fabs(sum[1] / n) < 5 * sqrt(1 / n));
    CU_ASSERT(fabs(sum[2] / n - 1) < 5 * sqrt(2 / n));
    CU_ASSERT(fabs(sum[3] / n) < 5 * sqrt(15 / n));
    CU_ASSERT(fabs(sum[4] / n - 3) < 5 * sqrt(96 / n));
    for (int k = 1; k < 8; k++)
        CU_ASSERT(fabs(neighbours[k] / n) < 5 * sqrt(1 / n));
}

/* How many of each size a normal distribution has. */
static void check_tails(const uint16_t *x, double deviation) {
    for (double bound = 0.25; bound <= 3.25; bound += 0.5) {
        double n_above = 0, p = erfc(bound / sqrt(2));
        for (int64_t i = 0; i < N_ELEMENTS; i++)
            n_above += fabs((double)value_of(x[i])) > bound * deviation;
        /* Levels and bf16 are grains that a bound may cut. */
        CU_ASSERT(fabs(n_above / N_ELEMENTS - p) < 5 * sqrt(p / N_ELEMENTS) + 0.03 * p);
    }
}

static void moments(void) {
    synthetic_model m = model_of("llama-70b");
    const struct {
        const char *name;
        double deviation;
    } rows[] = {
        {"model.embed_tokens.weight", 0.02},
        {"lm_head.weight", 0.02},
        {"model.layers.79.mlp.gate_proj.weight", 0.02},
        {"model.layers.0.self_attn.v_proj.weight", 0.02},
        {"model.layers.0.self_attn.o_proj.weight", 0.02 / sqrt(160)},
        {"model.layers.79.mlp.down_proj.weight", 0.02 / sqrt(160)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint16_t *x = make(&m, rows[i].name, 12345, N_ELEMENTS, 2);
        check_normal(x, rows[i].deviation);
        check_tails(x, rows[i].deviation);
        free(x);
    }
    static const char *const norms[] = {"model.norm.weight", "model.layers.3.input_layernorm.weight",
                                        "model.layers.3.post_attention_layernorm.weight"};
    for (size_t i = 0; i < 3; i++) {
        uint16_t *x = make(&m, norms[i], 5, 100, 1);
        for (int k = 0; k < 100; k++)
            CU_ASSERT(value_of(x[k]) == 1);
        free(x);
    }
}

/* Another tensor or another seed gives other numbers, which have nothing to do with the first. */
static void keys(void) {
    synthetic_model m = model_of("tiny"), seeded = m;
    seeded.seed = 1;
    uint16_t *x = make(&m, matrix_name, 0, N_ELEMENTS, 1);
    uint16_t *others[] = {make(&seeded, matrix_name, 0, N_ELEMENTS, 1),
                          make(&m, "model.layers.3.self_attn.q_proj.weight", 0, N_ELEMENTS, 1),
                          make(&m, "model.layers.2.self_attn.k_proj.weight", 0, N_ELEMENTS, 1)};
    for (size_t k = 0; k < 3; k++) {
        double product = 0;
        for (int64_t i = 0; i < N_ELEMENTS; i++)
            product += (double)value_of(x[i]) * (double)value_of(others[k][i]) / 0.0004;
        CU_ASSERT(fabs(product / N_ELEMENTS) < 5 * sqrt(1.0 / N_ELEMENTS));
        free(others[k]);
    }
    free(x);
}

/* ---- shapes ---- */

/* The config.json that is written is one that is read, with the same shape, and the tensors are those of it.
 */
static void configs(void) {
    /* The last three as the published models have. */
    static const double billions[] = {0.00105, 0.1001, 1.236, 8.030, 70.55};
    for (int i = 0; i < N_SHAPES; i++) {
        synthetic_model m = model_of(shapes[i]);
        model_config c;
        text_buffer text = {0};
        synthetic_append_config(&m, &text);
        CHECK_OK(model_config_parse(text.data, text.n, shapes[i], &c));
        CU_ASSERT(c.family == FAMILY_LLAMA && c.n_layers == m.n_layers && c.d_model == m.d_model);
        CU_ASSERT(c.n_heads == m.n_heads && c.n_kv_heads == m.n_kv_heads && c.head_dim == m.head_dim);
        CU_ASSERT(c.d_mlp == m.d_mlp && c.vocab_size == m.vocab_size && c.tied_head == m.tied_head);
        CU_ASSERT(c.rope.theta == m.rope_theta && c.max_positions == m.max_positions);
        CU_ASSERT(c.rope.kind == (m.rope_factor > 0 ? ROPE_LLAMA3 : ROPE_DEFAULT));
        CU_ASSERT(c.rope.factor == m.rope_factor && c.n_end_tokens == 1);
        CU_ASSERT(c.begin_token == SYNTHETIC_BEGIN_TOKEN && c.end_tokens[0] == SYNTHETIC_END_TOKEN);
        free(text.data);
        size_t n;
        double elements = 0;
        synthetic_tensor *all = tensors_of(&m, &n);
        for (size_t k = 0; k < n; k++)
            elements += (double)synthetic_n_elements(&all[k]);
        CU_ASSERT(fabs(elements / 1e9 / billions[i] - 1) < 1e-2);
        free(all);
    }
    synthetic_model m;
    CHECK_REFUSED(synthetic_find("llama", &m), "there are tiny, llama-100m, llama-1b, llama-8b, llama-70b");
}

static void check_tokenizer(int vocab_size) {
    text_buffer json = {0}, text = {0};
    tokenizer *tok = NULL;
    synth_tokenizer_append(vocab_size, &json);
    if (CHECK_OK(tokenizer_parse(json.data, json.n, "made", &tok))) {
        CU_ASSERT_EQUAL(tokenizer_n_tokens(tok), vocab_size);
        /* A text is its bytes, behind the begin token. */
        static const char given[] = "Caf\xC3\xA9 \xE2\x82\xAC 7 w258\n";
        token_list list = {0};
        CHECK_OK(tokenizer_encode(tok, given, sizeof given - 1, true, &list));
        CU_ASSERT(list.n == sizeof given && list.ids[0] == SYNTHETIC_BEGIN_TOKEN);
        for (size_t i = 1; i < list.n; i++)
            CU_ASSERT_EQUAL(list.ids[i], (unsigned char)given[i - 1]);
        tokenizer_decode(tok, list.ids, list.n, true, &text);
        CU_ASSERT(text.n == sizeof given - 1 && !memcmp(text.data, given, text.n));
        free(list.ids);
        /* Every id has a text. */
        for (int32_t id = SYNTHETIC_BEGIN_TOKEN; id < vocab_size; id += 1 + vocab_size / 500) {
            text.n = 0;
            tokenizer_decode(tok, &id, 1, false, &text);
            CU_ASSERT(text.n > 0);
        }
        CU_ASSERT_EQUAL(tokenizer_find(tok, "<|end_of_text|>"), SYNTHETIC_END_TOKEN);
    }
    tokenizer_close(tok);
    free(text.data);
    free(json.data);
}

static void tokenizers(void) {
    check_tokenizer(SYNTHETIC_MIN_VOCAB);
    check_tokenizer(1024);
    check_tokenizer(128256);
}

/* ---- files ---- */

static void count_bytes(void *context, uint64_t n_bytes) {
    *(uint64_t *)context += n_bytes;
}

static status write_files(synthetic_files *f, const synthetic_model *m, int n_threads, uint64_t *n_told) {
    synthetic_values *v = synthetic_values_open(m);
    status st = STATUS_OK;
    for (int i = f->n_files; i-- > 0 && st == STATUS_OK;) { /* in any order */
        st = synthetic_files_create(f, i);
        if (st == STATUS_OK) st = synthetic_files_fill(f, i, v, n_threads, count_bytes, n_told);
    }
    if (st == STATUS_OK) st = synthetic_files_write_index(f);
    synthetic_values_close(v);
    return st;
}

/* Every tensor of the files is that of the handle without files, whatever pieces are read. */
static void check_equal(const char *dir, const synthetic_model *m) {
    size_t n;
    synthetic_tensor *tensors = tensors_of(m, &n);
    weights *files = NULL, *made = weights_open_synthetic(m, tensors, n, 2);
    CU_ASSERT_EQUAL(weights_count(made), n);
    free(tensors);
    uint64_t n_bytes = 0;
    if (CHECK_OK(weights_open(dir, &files))) {
        CU_ASSERT_EQUAL(weights_count(files), n);
        for (size_t i = 0; i < n && i < weights_count(files); i++) {
            const tensor *t = weights_at(files, i), *u = NULL;
            int64_t cols = t->n_dims == 2 ? t->shape[1] : 0, count = (int64_t)(t->n_bytes / 2);
            CU_ASSERT_STRING_EQUAL(weights_at(made, i)->name, t->name); /* in the same order */
            CU_ASSERT(t->type == DTYPE_BF16);
            if (!CHECK_OK(weights_expect(made, t->name, t->shape[0], cols, &u))) continue;
            uint16_t *a = mem_new((size_t)count, sizeof *a), *b = mem_new((size_t)count, sizeof *b);
            CHECK_OK(weights_read(files, t, 0, count, a));
            int64_t cut = count / 3; /* in two parts */
            CHECK_OK(weights_read(made, u, cut, count - cut, b + cut));
            CHECK_OK(weights_read(made, u, 0, cut, b));
            CU_ASSERT(memcmp(a, b, t->n_bytes) == 0);
            n_bytes += t->n_bytes;
            free(a);
            free(b);
        }
    }
    CU_ASSERT_EQUAL(weights_bytes_read(made), n_bytes);
    const tensor *t;
    CHECK_REFUSED(weights_expect(made, "model.norm.weight", 5, 0, &t), "shape [128], but [5] is expected");
    CHECK_REFUSED(weights_expect(made, "gone", 5, 0, &t), "tiny: tensor \"gone\" is missing");
    weights_close(files);
    weights_close(made);
}

/* One file, some shards, and a shard for each tensor. */
static void files_equal_memory(void) {
    static const struct {
        uint64_t max_bytes;
        int n_files, n_threads;
        bool tied_head;
        uint64_t seed;
        int vocab_size;
    } rows[] = {
        {4000000000, 1, 1, false, 0, 1024},
        {4000000000, 1, 3, true, 9, 20000}, /* the embedding is written in three pieces */
        {600000, 4, 2, false, 0, 1024},
        {1, 39, 1, false, 5, 300},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *dir = harness_fresh_dir();
        synthetic_model m = model_of("tiny");
        m.tied_head = rows[i].tied_head;
        m.seed = rows[i].seed;
        m.vocab_size = rows[i].vocab_size;
        synthetic_files f = plan_files(dir, &m, rows[i].max_bytes);
        uint64_t n_told = 0;
        CU_ASSERT_EQUAL(f.n_files, rows[i].n_files);
        CHECK_OK(write_files(&f, &m, rows[i].n_threads, &n_told));
        CU_ASSERT_EQUAL(n_told, f.n_data_bytes);
        CU_ASSERT_EQUAL(count_files(dir), f.n_files + (f.n_files > 1));
        CU_ASSERT_STRING_EQUAL(f.files[0].name, f.n_files == 1   ? "model.safetensors"
                                                : f.n_files == 4 ? "model-00001-of-00004.safetensors"
                                                                 : "model-00001-of-00039.safetensors");
        for (int k = 0; k < f.n_files; k++) {
            uint64_t data = f.files[k].n_bytes - f.files[k].n_header;
            CU_ASSERT(data <= rows[i].max_bytes || f.files[k].n == 1);
            CU_ASSERT(f.files[k].n_header % 8 == 0);
        }
        check_equal(dir, &m);
        synthetic_files_remove(&f);
        CU_ASSERT_EQUAL(count_files(dir), 0);
        synthetic_files_free(&f);
    }
}

/* Nothing is written over, and what cannot be written is told. */
static void failures(void) {
    const char *dir = harness_fresh_dir();
    synthetic_model m = model_of("tiny");
    synthetic_files f = plan_files(dir, &m, 600000);
    synthetic_values *v = synthetic_values_open(&m);
    uint64_t n_told = 0;
    static const char others_name[] = "model-00003-of-00004.safetensors";
    char others[256];
    snprintf(others, sizeof others, "%s/%s", dir, others_name);
    harness_write_file(others, "x", 1);
    CHECK_OK(synthetic_files_create(&f, 1));
    CHECK_REFUSED(synthetic_files_create(&f, 2), others_name);
    CHECK_REFUSED(synthetic_files_create(&f, 1),
                  "model-00002-of-00004.safetensors: cannot be written: File exists");

    struct rlimit old;
    CU_ASSERT(getrlimit(RLIMIT_FSIZE, &old) == 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 100, .rlim_max = old.rlim_max});
    harness_check(__FILE__, __LINE__, synthetic_files_create(&f, 0), STATUS_FAILED,
                  "model-00001-of-00004.safetensors: cannot be written: File too large");
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 300000, .rlim_max = old.rlim_max});
    harness_check(__FILE__, __LINE__, synthetic_files_fill(&f, 1, v, 2, count_bytes, &n_told), STATUS_FAILED,
                  "model-00002-of-00004.safetensors: cannot be written: File too large");
    CU_ASSERT(n_told < f.files[1].n_bytes - f.files[1].n_header);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);

    synthetic_files_remove(&f);
    CU_ASSERT(count_files(dir) == 1 && access(others, F_OK) == 0); /* what others made stays */
    CHECK_REFUSED(synthetic_files_fill(&f, 1, v, 2, count_bytes, &n_told), "No such file or directory");
    synthetic_values_close(v);
    synthetic_files_free(&f);
    synthetic_files nowhere = plan_files("/nowhere/at/all", &m, 600000);
    CHECK_REFUSED(synthetic_files_create(&nowhere, 0), "/nowhere/at/all/model-00001-of-00004.safetensors");
    synthetic_files_free(&nowhere);
}

/* The large shapes would come in shards of at most 4 GB. */
static void large_plans(void) {
    static const int n_files[] = {1, 1, 1, 5, 37};
    for (int i = 0; i < N_SHAPES; i++) {
        synthetic_model m = model_of(shapes[i]);
        synthetic_files f = plan_files("dir", &m, 4000000000);
        CU_ASSERT_EQUAL(f.n_files, n_files[i]);
        size_t n = 0;
        for (int k = 0; k < f.n_files; k++) {
            CU_ASSERT(f.files[k].first == n && f.files[k].n > 0 && f.files[k].n_bytes < 4000100000);
            n += f.files[k].n;
        }
        CU_ASSERT_EQUAL(n, f.n_tensors);
        synthetic_files_free(&f);
    }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"ranges", ranges},
        {"fixed bits", fixed_bits},
        {"moments", moments},
        {"keys", keys},
        {"configs", configs},
        {"tokenizers", tokenizers},
        {"files equal memory", files_equal_memory},
        {"failures", failures},
        {"large plans", large_plans},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "synthetic", tests);
}
