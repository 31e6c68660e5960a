/* tests/model/test_evictor.c: eviction beside a float64 reference of each policy's scores, whatever chunks,
 * pages, threads and tier; what policies parse from and how much they keep; and that attention and what is
 * appended behind go by places. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"
#include "src/base/memory.h"
#include "src/model/evictor.h"
#include "tests/fixtures/device_arrays.h"
#include "tests/fixtures/harness.h"

enum {
    H = 4,
    G = 2,
    K = 64,
    GROUP = H / G,
    LAYERS = 3, /* the one in the middle has a window */
    TOKENS = 700,
    FROM = 30, /* of them loaded, as the run in question has it */
    BEHIND = 40,
    QKV = (H + 2 * G) * K,
    WINDOW = 100,
};

static const int64_t windows[LAYERS] = {0, WINDOW, 0};

static model_config new_config(void) {
    model_config c = {.n_layers = LAYERS,
                      .n_heads = H,
                      .n_kv_heads = G,
                      .head_dim = K,
                      .rope = {.theta = 10000},
                      .window = WINDOW};
    c.is_windowed[1] = true;
    return c;
}

/* How a sequence is read. */
typedef struct way {
    precision precision;
    int page_tokens, chunk, n_threads;
} way;

/* What came of it. */
typedef struct outcome {
    /* Before the eviction: q after rope [LAYERS][TOKENS][H K], and K and V [LAYERS][N_KV_PARTS][TOKENS][G K].
     */
    float *q, *kv;
    int64_t n_kept[LAYERS];
    char *rows[LAYERS][N_KV_PARTS]; /* afterwards [n_kept][G K] */
    size_t row_bytes;               /* of a row of all heads */
    char *attended;                 /* by the rows behind, [LAYERS][BEHIND][H K] act */
} outcome;

/* Before rope: queries of a head have a mean, and directions in which they differ much; keys, too. */
static float qkv_at(int layer, int64_t pos, int i) {
    uint64_t state = (uint64_t)((layer * 4096 + pos) * QKV + i) * 77 + 5;
    const double x = (double)harness_random_normal(&state), channel = i % K;
    return (float)(x * (0.3 + 1.2 * (channel == 3 || channel == 40)) + 0.8 * sin(i * 0.7) +
                   (i >= H * K ? sin((double)pos * (0.05 + 0.01 * channel)) : 0));
}

typedef struct reading {
    way how;
    device *dev;
    kv_cache *kv;
    evictor *evict;
    const model_config *config;
    float inverse[K / 2], factor, *cos_sin;
    float *qkv;
    char *q;
} reading;

static float kv_number(const reading *r, const char *x, int64_t i) {
    if (r->dev->kv == DTYPE_F32) return ((const float *)(const void *)x)[i];
    return float_of_bf16(((const uint16_t *)(const void *)x)[i]);
}

static attention_shape shape_of(const reading *r, int layer) {
    return (attention_shape){.n_heads = H,
                             .n_kv_heads = G,
                             .head_dim = K,
                             .scale = 1 / sqrtf(K),
                             .window = windows[layer],
                             .removed = kv_cache_removed(r->kv, layer)};
}

static const int SLOT = 1;

/* A step, whose other span is of another sequence where `other` is not 0. y: NULL, or what rows attend to. */
static void run_step(reading *r, int64_t pos0, int n, int other, outcome *out, char *y) {
    const qkv_weights no_weights = {0};
    span spans[2] = {{0, other, 0, 0, false}, {other, n, pos0, SLOT, false}};
    const int n_spans = other ? 2 : 1, T = other + n;
    const span *s = other ? spans : spans + 1;
    r->dev->ops->begin_step(r->dev, n_spans, s);
    r->dev->ops->rope_table(r->dev, r->inverse, r->factor, K, r->cos_sin);
    for (int i = 0; i < n_spans; i++)
        kv_cache_extend(r->kv, s[i].slot, s[i].pos0, s[i].pos0 + s[i].n_rows);
    for (int layer = 0; layer < LAYERS; layer++) {
        const attention_shape shape = shape_of(r, layer);
        const kv_layer kv = kv_cache_layer(r->kv, layer);
        for (int row = 0; row < T; row++)
            for (int i = 0; i < QKV; i++)
                r->qkv[row * QKV + i] = qkv_at(layer, row < other ? row : pos0 + row - other, i);
        evictor_see_queries(r->evict, layer, &shape, &no_weights, n_spans, s, r->qkv);
        r->dev->ops->kv_append(r->dev, &shape, &no_weights, r->cos_sin, &kv, r->qkv, r->q);
        evictor_see_attention(r->evict, layer, n_spans, s, r->q);
        for (int64_t i = 0; !y && i < n * H * K; i++)
            out->q[(layer * TOKENS + pos0) * H * K + i] = kv_number(r, r->q, other * H * K + i);
        if (y) {
            const size_t bytes = (size_t)(n * H * K) * dtype_bytes(r->dev->act);
            char *at = y + (size_t)layer * bytes, *again = mem_new(bytes, 1);
            r->dev->ops->attend(r->dev, &shape, &kv, r->q, at);
            /* As a sequence that never had more. */
            attention_shape whole = shape;
            whole.removed = NULL;
            spans[1].pos0 = pos0 - shape.removed[SLOT];
            r->dev->ops->attend(r->dev, &whole, &kv, r->q, again);
            CU_ASSERT(memcmp(at, again, bytes) == 0);
            spans[1].pos0 = pos0;
            free(again);
        }
    }
}

static reading begin(const evict_policy *policy, way how) {
    static model_config config;
    config = new_config();
    reading r = {.how = how, .config = &config};
    kv_shape shape = {
        .n_layers = LAYERS,
        .windows = windows,
        .n_pages = 2 * kv_pages_for(TOKENS + BEHIND, how.page_tokens),
        .n_slots = 2,
        .longest_tokens = TOKENS + BEHIND,
        .max_rows = TOKENS,
    };
    CHECK_OK(cpu_device_open(how.precision, how.n_threads, NULL, &r.dev));
    shape.format = device_kv_format(r.dev, G, K, how.page_tokens);
    CHECK_OK(kv_cache_open(r.dev, &shape, &r.kv));
    r.evict = evictor_open(policy, r.config, 0, LAYERS, r.kv);
    r.factor = 1;
    for (int i = 0; i < K / 2; i++)
        r.inverse[i] = (float)pow(10000, -2.0 * i / K);
    r.cos_sin = mem_new((size_t)(TOKENS * K), sizeof(float));
    r.qkv = mem_new((size_t)(TOKENS * QKV), sizeof(float));
    r.q = mem_new((size_t)(TOKENS * H * K), sizeof(float));
    return r;
}

static void end(reading *r) {
    evictor_close(r->evict);
    kv_cache_close(r->kv);
    r->dev->ops->close(r->dev);
    free(r->cos_sin);
    free(r->qkv);
    free(r->q);
}

static void read_rows(reading *r, int layer, kv_part part, int64_t n, char *rows) {
    CHECK_OK(kv_cache_read(r->kv, SLOT, layer, part, 0, n, rows));
}

static outcome run(const evict_policy *policy, way how) {
    reading r = begin(policy, how);
    outcome out = {.row_bytes = (size_t)(G * K) * dtype_bytes(r.dev->kv)};
    out.q = mem_new((size_t)(LAYERS * TOKENS * H * K), sizeof(float));
    out.kv = mem_new((size_t)(LAYERS * N_KV_PARTS * TOKENS * G * K), sizeof(float));
    out.attended = mem_new((size_t)(LAYERS * BEHIND * H * K), dtype_bytes(r.dev->act));
    evictor_begin(r.evict, 0, 0, 0);
    evictor_begin(r.evict, SLOT, FROM, TOKENS);
    for (int pos = 0; pos < TOKENS; pos += how.chunk) {
        const int left = TOKENS - pos;
        run_step(&r, pos, how.chunk < left ? how.chunk : left, pos == 0 && how.chunk < 400 ? 10 : 0, &out,
                 NULL);
    }
    char *rows = mem_new(TOKENS, out.row_bytes);
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++) {
        if (windows[i / N_KV_PARTS] > 0) continue;
        read_rows(&r, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS), TOKENS, rows);
        for (int64_t k = 0; k < TOKENS * G * K; k++)
            out.kv[i * TOKENS * G * K + k] = kv_number(&r, rows, k);
    }
    free(rows);
    CU_ASSERT(evictor_is_due(r.evict, SLOT, TOKENS) && !evictor_is_due(r.evict, SLOT, TOKENS - 1));
    evictor_run(r.evict, SLOT);
    CU_ASSERT(!evictor_is_due(r.evict, SLOT, TOKENS));
    CU_ASSERT_EQUAL(kv_cache_removed(r.kv, 1)[SLOT], 0);
    for (int layer = 0; layer < LAYERS; layer++) {
        out.n_kept[layer] = TOKENS - kv_cache_removed(r.kv, layer)[SLOT];
        CU_ASSERT_EQUAL(out.n_kept[layer], evictor_kept(policy, r.config, layer, TOKENS));
        for (int part = 0; windows[layer] == 0 && part < N_KV_PARTS; part++) {
            out.rows[layer][part] = mem_new((size_t)out.n_kept[layer], out.row_bytes);
            read_rows(&r, layer, (kv_part)part, out.n_kept[layer], out.rows[layer][part]);
        }
    }
    run_step(&r, TOKENS, BEHIND, 0, &out, out.attended);
    end(&r);
    return out;
}

static void free_outcome(outcome *o) {
    free(o->q);
    free(o->kv);
    free(o->attended);
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++)
        free(o->rows[i / N_KV_PARTS][i % N_KV_PARTS]);
}

/* ---- references ---- */

static const float *row_of(const outcome *o, int layer, kv_part part, int64_t pos, int head) {
    return o->kv + ((layer * N_KV_PARTS + (int)part) * TOKENS + pos) * G * K + head * K;
}

static double dot(const float *a, const float *b) {
    double sum = 0;
    for (int i = 0; i < K; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void soften(double *x, int64_t n) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - max);
    for (int64_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* What rows from `first` on pay to each place. */
static void pay(const outcome *o, int layer, int kv_head, int first, double *scores) {
    for (int row = first; row < TOKENS; row++)
        for (int head = kv_head * GROUP; head < (kv_head + 1) * GROUP; head++) {
            double p[TOKENS];
            for (int64_t i = 0; i <= row; i++)
                p[i] = dot(o->q + ((layer * TOKENS + row) * H + head) * K,
                           row_of(o, layer, KV_PART_K, i, kv_head)) /
                       sqrt(K);
            soften(p, row + 1);
            for (int i = 0; i <= row; i++)
                scores[i] += p[i];
        }
}

/* The matrix that turns by the rope of a mean position, written out. */
static void mean_rotation(double R[K][K]) {
    memset(R, 0, sizeof(double[K][K]));
    for (int pos = TOKENS; pos < TOKENS + 512; pos++)
        for (int i = 0; i < K / 2; i++) {
            const double angle = pos * pow(10000, -2.0 * i / K), c = cos(angle) / 512, s = sin(angle) / 512;
            R[i][i] += c;
            R[i + K / 2][i + K / 2] += c;
            R[i][i + K / 2] -= s;
            R[i + K / 2][i] += s;
        }
}

static void expect(const outcome *o, int layer, int kv_head, double *scores) {
    static double R[K][K], S[K][K], RS[K][K];
    mean_rotation(R);
    for (int head = kv_head * GROUP; head < (kv_head + 1) * GROUP; head++) {
        double m[K] = {0}, turned[K] = {0}, x[TOKENS];
        memset(S, 0, sizeof S);
        memset(RS, 0, sizeof RS);
        for (int pos = FROM; pos < TOKENS; pos++)
            for (int i = 0; i < K; i++)
                m[i] += (double)qkv_at(layer, pos, head * K + i) / (TOKENS - FROM);
        for (int pos = FROM; pos < TOKENS; pos++)
            for (int i = 0; i < K; i++)
                for (int j = 0; j < K; j++)
                    S[i][j] += ((double)qkv_at(layer, pos, head * K + i) - m[i]) *
                               ((double)qkv_at(layer, pos, head * K + j) - m[j]) / (TOKENS - FROM);
        for (int i = 0; i < K; i++)
            for (int j = 0; j < K; j++) {
                turned[i] += R[i][j] * m[j];
                for (int k = 0; k < K; k++)
                    RS[i][j] += R[i][k] * S[k][j];
            }
        for (int64_t pos = 0; pos < TOKENS; pos++) {
            const float *k = row_of(o, layer, KV_PART_K, pos, kv_head);
            double back[K] = {0}, second = 0, first = 0; /* k' R S R' k */
            for (int i = 0; i < K; i++)
                for (int j = 0; j < K; j++)
                    back[i] += R[j][i] * (double)k[j];
            for (int i = 0; i < K; i++) {
                first += (double)k[i] * turned[i];
                for (int j = 0; j < K; j++)
                    second += (double)k[i] * RS[i][j] * back[j];
            }
            x[pos] = first / sqrt(K) + second / (2 * K);
        }
        soften(x, TOKENS);
        for (int pos = 0; pos < TOKENS; pos++)
            scores[pos] += x[pos] / GROUP;
    }
    for (int64_t pos = 0; pos < TOKENS; pos++) {
        const float *v = row_of(o, layer, KV_PART_V, pos, kv_head);
        scores[pos] = (scores[pos] + 0.3 / TOKENS) * sqrt(dot(v, v));
    }
}

static void reference(const evict_policy *p, const outcome *o, int layer, int kv_head, double *scores) {
    memset(scores, 0, TOKENS * sizeof *scores);
    if (p->kind == EVICT_EXPECTED) expect(o, layer, kv_head, scores);
    if (p->kind == EVICT_H2O) pay(o, layer, kv_head, FROM, scores);
    if (p->kind != EVICT_SNAPKV && p->kind != EVICT_PYRAMID) return;
    double paid[TOKENS + 4] = {0};
    pay(o, layer, kv_head, TOKENS - 64, paid + 2);
    for (int i = 0; i < TOKENS; i++)
        scores[i] = (paid[i] + paid[i + 1] + paid[i + 2] + paid[i + 3] + paid[i + 4]) / 5;
}

/* The kept places of a head, found by their rows, which keep their order. */
static int64_t find_kept(const outcome *o, int layer, int head, bool kept[TOKENS]) {
    int64_t n = 0;
    memset(kept, 0, TOKENS);
    for (int64_t pos = 0; pos < TOKENS && n < o->n_kept[layer]; pos++) {
        bool same = true;
        for (int part = 0; part < N_KV_PARTS; part++) {
            const float *row = row_of(o, layer, (kv_part)part, pos, head);
            const char *at = o->rows[layer][part] + (size_t)n * o->row_bytes;
            same &= memcmp(at + (size_t)head * K * sizeof *row, row, K * sizeof *row) == 0;
        }
        kept[pos] = same;
        n += same;
    }
    return n;
}

static void check_policy(const char *text, int64_t n_last) {
    evict_policy p;
    CHECK_OK(evict_parse(text, &p));
    outcome o = run(&p, (way){PRECISION_F32, 64, 128, 2});
    for (int layer = 0; layer < LAYERS; layer += 2)
        for (int head = 0; head < G; head++) {
            bool kept[TOKENS];
            double scores[TOKENS], least = INFINITY, most = -INFINITY;
            CU_ASSERT_EQUAL(find_kept(&o, layer, head, kept), o.n_kept[layer]);
            reference(&p, &o, layer, head, scores);
            for (int pos = 4; pos < TOKENS - n_last; pos++)
                if (kept[pos])
                    least = fmin(least, scores[pos]);
                else
                    most = fmax(most, scores[pos]);
            CU_ASSERT(kept[0] && kept[1] && kept[2] && kept[3]);
            for (int64_t pos = TOKENS - n_last; pos < TOKENS; pos++)
                CU_ASSERT(kept[pos]);
            if (!(least >= most * (1 - 1e-5))) printf("%s: %g is kept, %g is not\n", text, least, most);
            CU_ASSERT(least >= most * (1 - 1e-5));
        }
    free_outcome(&o);
}

static void scores(void) {
    check_policy("expected:0.5", TOKENS / 8);
    check_policy("expected:150", 75);
    check_policy("h2o:0.5", 175);
    check_policy("snapkv:0.4", 64);
    check_policy("pyramid:50%", 64);
}

static bool is_same(const outcome *a, const outcome *b) {
    bool same = memcmp(a->attended, b->attended, (size_t)(LAYERS * BEHIND) * a->row_bytes * GROUP) == 0;
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++) {
        const int layer = i / N_KV_PARTS;
        if (windows[layer] > 0) continue;
        same &= a->n_kept[layer] == b->n_kept[layer] &&
                memcmp(a->rows[layer][i % N_KV_PARTS], b->rows[layer][i % N_KV_PARTS],
                       (size_t)a->n_kept[layer] * a->row_bytes) == 0;
    }
    return same;
}

static void ways(void) {
    static const char *const policies[] = {"window:10,200", "expected:0.5", "h2o:0.5", "snapkv:0.5",
                                           "pyramid:0.5"};
    static const way others[] = {{.page_tokens = 32, .chunk = 1, .n_threads = 1},
                                 {.page_tokens = 96, .chunk = TOKENS, .n_threads = 3},
                                 {.page_tokens = 256, .chunk = 37, .n_threads = 2}};
    for (int i = 0; i < 5; i++) {
        const int n_others = harness_is_slow() ? 1 : 3;
        evict_policy p;
        CHECK_OK(evict_parse(policies[i], &p));
        way how = {PRECISION_BF16, 64, 128, 2};
        outcome first = run(&p, how);
        for (int k = 0; k < n_others; k++) {
            way other = others[harness_is_slow() ? 2 : k];
            other.precision = how.precision;
            outcome again = run(&p, other);
            CU_ASSERT(is_same(&first, &again));
            free_outcome(&again);
        }
        free_outcome(&first);
    }
}

/* ---- policies ---- */

static int64_t places(const char *text, int64_t n, int layer, int n_layers) {
    evict_policy p;
    CHECK_OK(evict_parse(text, &p));
    return evict_places(&p, n, layer, n_layers);
}

static void budgets(void) {
    int64_t sum = 0;
    CU_ASSERT_EQUAL(places("expected:0.5", 4001, 7, 30), 2001);
    CU_ASSERT_EQUAL(places("h2o:25%", 4000, 0, 1), 1000);
    CU_ASSERT_EQUAL(places("snapkv:700", 4000, 0, 1), 700);
    CU_ASSERT_EQUAL(places("snapkv:700", 300, 0, 1), 300);
    CU_ASSERT_EQUAL(places("expected:1%", 4000, 0, 1), EVICT_LEAST_PLACES);
    CU_ASSERT_EQUAL(places("expected:1%", 100, 0, 1), 100);
    CU_ASSERT_EQUAL(places("window:4,20", 4000, 3, 30), 24);
    CU_ASSERT_EQUAL(places("pyramid:0.5", 4096, 0, 1), 2048);
    CU_ASSERT_EQUAL(places("pyramid:1.0", 4096, 29, 30), 4096);
    CU_ASSERT_EQUAL(places("pyramid:0.5", 4096, 29, 30), 64 + 99);
    for (int layer = 0; layer < 30; layer++) {
        sum += places("pyramid:0.25", 4096, layer, 30);
        CU_ASSERT(layer == 0 ||
                  places("pyramid:0.25", 4096, layer, 30) < places("pyramid:0.25", 4096, layer - 1, 30));
    }
    CU_ASSERT(llabs(sum - 30 * 1024) < 30);
}

static void texts(void) {
    static const char *const good[] = {"window:4,1024", "window:0,1",    "h2o:50%",     "snapkv:4096",
                                       "pyramid:12.5%", "expected:100%", "expected:128"};
    static const char *const bad[] = {"",
                                      "window",
                                      "window:4",
                                      "window:4,0",
                                      "window:-1,4",
                                      "h2o",
                                      "h2o:",
                                      "h2o:0",
                                      "h2o:0.0",
                                      "h2o:1.5",
                                      "h2o:101%",
                                      "h2o:127",
                                      "snapkv:0.5x",
                                      "snapkv:nan%",
                                      "snapkv:-0.5",
                                      "expect:0.5",
                                      "expected:5e9999",
                                      "window:4,99999999999999"};
    char text[EVICT_TEXT_BYTES];
    evict_policy p;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK_OK(evict_parse(good[i], &p));
        evict_text(&p, text);
        CU_ASSERT_STRING_EQUAL(text, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_REFUSED(evict_parse(bad[i], &p), "expected");
}

/* Equal scores: the later place stays; what is no number goes first. */
static void ties(void) {
    evict_policy p;
    double scores[300];
    int32_t kept[128];
    CHECK_OK(evict_parse("snapkv:128", &p));
    for (int i = 0; i < 300; i++)
        scores[i] = i % 2 ? 1 : NAN;
    evict_choose(&p, scores, 300, 128, kept);
    for (int i = 0; i < 60; i++)
        CU_ASSERT_EQUAL(kept[4 + i], 117 + 2 * i);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"scores as in float64", scores},
                           {"the same by any way", ways},
                           {"budgets", budgets},
                           {"texts", texts},
                           {"ties", ties},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "evictor", tests);
}
