/* tests/model/test_evictor.c: eviction, once and again, beside a float64 reference of each policy's scores,
 * whatever chunks, pages, codes in them, threads and tier; what policies parse from and how much they keep;
 * and that attention and what is appended behind go by places. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
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
    EVERY = 100,
    MOST = TOKENS + EVERY,
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
    kv_layout layout;
} way;

/* What an eviction has left: of each layer, rows of K and V of all heads. */
typedef struct left_rows {
    int64_t n[LAYERS];
    float *rows[LAYERS][N_KV_PARTS]; /* [n][G K] */
} left_rows;

/* What came of it. */
typedef struct outcome {
    /* Before they are evicted: q after rope [LAYERS][MOST][H K], and K and V [LAYERS][N_KV_PARTS][MOST][G K],
     * as rows that come see them. */
    float *q, *kv;
    int n_evictions;
    left_rows left[2];
    char *attended; /* by the rows behind, [LAYERS][BEHIND][H K] act */
    size_t attended_bytes;
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
    kv_cache_settle(r->kv);
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
            out->q[(layer * MOST + pos0) * H * K + i] = kv_number(r, r->q, other * H * K + i);
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
        .n_pages = 2 * kv_pages_for(MOST + BEHIND, how.page_tokens),
        .n_slots = 2,
        .longest_tokens = MOST + BEHIND,
        .max_rows = TOKENS,
        .evicts = true,
        .n_near_blocks = 1,
    };
    CHECK_OK(cpu_device_open(how.precision, how.n_threads, NULL, &r.dev));
    r.dev->kv_layout = how.layout;
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

/* K or V of places [first, first + n). */
static void read_rows(reading *r, int layer, kv_part part, int64_t first, int64_t n, float *out) {
    char *rows = mem_new((size_t)(n * G * K), dtype_bytes(r->dev->kv));
    CHECK_OK(kv_cache_read(r->kv, SLOT, layer, part, first, n, rows));
    for (int64_t i = 0; i < n * G * K; i++)
        out[i] = kv_number(r, rows, i);
    free(rows);
}

/* Positions [begin, end) are read, and then it is time. */
static void read_and_evict(reading *r, const evict_policy *policy, int64_t begin, int64_t end, outcome *out) {
    left_rows *left = &out->left[out->n_evictions++];
    for (int64_t pos = begin, n; pos < end; pos += n) {
        n = end - pos < r->how.chunk ? end - pos : r->how.chunk;
        run_step(r, pos, (int)n, pos == 0 && r->how.chunk < 400 ? 10 : 0, out, NULL);
    }
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++) {
        const int layer = i / N_KV_PARTS;
        if (windows[layer] == 0)
            read_rows(r, layer, (kv_part)(i % N_KV_PARTS), begin - kv_cache_removed(r->kv, layer)[SLOT],
                      end - begin, out->kv + (i * MOST + begin) * G * K);
    }
    CU_ASSERT(evictor_is_due(r->evict, SLOT, end) && !evictor_is_due(r->evict, SLOT, end - 1));
    evictor_run(r->evict, SLOT);
    CU_ASSERT(!evictor_is_due(r->evict, SLOT, end));
    CU_ASSERT_EQUAL(kv_cache_removed(r->kv, 1)[SLOT], 0);
    for (int layer = 0; layer < LAYERS; layer++) {
        left->n[layer] = end - kv_cache_removed(r->kv, layer)[SLOT];
        CU_ASSERT_EQUAL(left->n[layer],
                        windows[layer] > 0 ? end : evictor_kept(policy, r->config, layer, TOKENS));
        for (int part = 0; windows[layer] == 0 && part < N_KV_PARTS; part++) {
            left->rows[layer][part] = mem_new((size_t)(left->n[layer] * G * K), sizeof(float));
            read_rows(r, layer, (kv_part)part, 0, left->n[layer], left->rows[layer][part]);
        }
    }
}

static outcome run(const evict_policy *policy, way how) {
    reading r = begin(policy, how);
    outcome out = {.attended_bytes = (size_t)(LAYERS * BEHIND * H * K) * dtype_bytes(r.dev->act)};
    out.q = mem_new((size_t)(LAYERS * MOST * H * K), sizeof(float));
    out.kv = mem_new((size_t)(LAYERS * N_KV_PARTS * MOST * G * K), sizeof(float));
    out.attended = mem_new(out.attended_bytes, 1);
    evictor_begin(r.evict, 0, 0, 0);
    evictor_begin(r.evict, SLOT, FROM, TOKENS);
    read_and_evict(&r, policy, 0, TOKENS, &out);
    if (policy->every > 0) read_and_evict(&r, policy, TOKENS, MOST, &out);
    run_step(&r, policy->every > 0 ? MOST : TOKENS, BEHIND, 0, &out, out.attended);
    end(&r);
    return out;
}

static void free_outcome(outcome *o) {
    free(o->q);
    free(o->kv);
    free(o->attended);
    for (int i = 0; i < 2 * LAYERS * N_KV_PARTS; i++)
        free(o->left[i / LAYERS / N_KV_PARTS].rows[i / N_KV_PARTS % LAYERS][i % N_KV_PARTS]);
}

/* ---- references ---- */

/* Positions whose rows a head has, and how many tokens there are. */
typedef struct head_places {
    bool at[MOST];
    int64_t n_tokens, n;
} head_places;

static const float *row_of(const outcome *o, int layer, kv_part part, int64_t pos, int head) {
    return o->kv + ((layer * N_KV_PARTS + (int)part) * MOST + pos) * G * K + head * K;
}

static double dot(const float *a, const float *b) {
    double sum = 0;
    for (int i = 0; i < K; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Of the positions that are there: of others 0. */
static void soften(double *x, const bool *there, int64_t n) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (there[i]) max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += x[i] = there[i] ? exp(x[i] - max) : 0;
    for (int64_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* What rows [first, end) pay to each position that is there, as they see it: exactly, or as rows that come
 * do.
 */
static void pay(const outcome *o, const outcome *exact, int layer, int kv_head, const bool *there,
                int64_t first, int64_t end, double *scores) {
    for (int64_t row = first; row < end; row++)
        for (int head = kv_head * GROUP; head < (kv_head + 1) * GROUP; head++) {
            double p[MOST];
            for (int64_t i = 0; i <= row; i++) {
                const bool is_exact = i % ATTEND_BLOCK < attend_exact_places(row, attend_block_of(i));
                p[i] = dot(o->q + ((layer * MOST + row) * H + head) * K,
                           row_of(is_exact ? exact : o, layer, KV_PART_K, i, kv_head)) /
                       sqrt(K);
            }
            soften(p, there, row + 1);
            for (int64_t i = 0; i <= row; i++)
                scores[i] += p[i];
        }
}

/* The matrix that turns by the rope of a mean position, written out. */
static void mean_rotation(int64_t n_tokens, double R[K][K]) {
    memset(R, 0, sizeof(double[K][K]));
    for (int64_t pos = n_tokens; pos < n_tokens + 512; pos++)
        for (int i = 0; i < K / 2; i++) {
            const double angle = (double)pos * pow(10000, -2.0 * i / K), c = cos(angle) / 512,
                         s = sin(angle) / 512;
            R[i][i] += c;
            R[i + K / 2][i + K / 2] += c;
            R[i][i + K / 2] -= s;
            R[i + K / 2][i] += s;
        }
}

static void expect(const outcome *o, int layer, int kv_head, const head_places *there, double *scores) {
    static double R[K][K], S[K][K], RS[K][K];
    const int64_t n = there->n_tokens;
    mean_rotation(n, R);
    for (int head = kv_head * GROUP; head < (kv_head + 1) * GROUP; head++) {
        double m[K] = {0}, turned[K] = {0}, x[MOST];
        memset(S, 0, sizeof S);
        memset(RS, 0, sizeof RS);
        for (int64_t pos = FROM; pos < n; pos++)
            for (int i = 0; i < K; i++)
                m[i] += (double)qkv_at(layer, pos, head * K + i) / (double)(n - FROM);
        for (int64_t pos = FROM; pos < n; pos++)
            for (int i = 0; i < K; i++)
                for (int j = 0; j < K; j++)
                    S[i][j] += ((double)qkv_at(layer, pos, head * K + i) - m[i]) *
                               ((double)qkv_at(layer, pos, head * K + j) - m[j]) / (double)(n - FROM);
        for (int i = 0; i < K; i++)
            for (int j = 0; j < K; j++) {
                turned[i] += R[i][j] * m[j];
                for (int k = 0; k < K; k++)
                    RS[i][j] += R[i][k] * S[k][j];
            }
        for (int64_t pos = 0; pos < n; pos++) {
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
        soften(x, there->at, n);
        for (int64_t pos = 0; pos < n; pos++)
            scores[pos] += x[pos] / GROUP;
    }
    for (int64_t pos = 0; pos < n; pos++) {
        const float *v = row_of(o, layer, KV_PART_V, pos, kv_head);
        scores[pos] = (scores[pos] + 0.3 / (double)there->n) * sqrt(dot(v, v));
    }
}

/* The mean over 5 places around each. */
static void smooth(const head_places *there, double *scores) {
    double given[MOST + 4] = {0};
    int64_t n = 0;
    for (int64_t pos = 0; pos < there->n_tokens; pos++)
        if (there->at[pos]) given[2 + n++] = scores[pos];
    n = 0;
    for (int64_t pos = 0; pos < there->n_tokens; pos++)
        if (there->at[pos]) {
            scores[pos] = (given[n] + given[n + 1] + given[n + 2] + given[n + 3] + given[n + 4]) / 5;
            n++;
        }
}

/* Of a head's positions. exact: an outcome whose rows are as they were put. */
static void reference(const evict_policy *p, const outcome *o, const outcome *exact, int layer, int kv_head,
                      const head_places *there, double *scores) {
    static bool all[MOST];
    const int64_t n = there->n_tokens;
    memset(all, true, sizeof all);
    memset(scores, 0, MOST * sizeof *scores);
    if (p->kind == EVICT_EXPECTED) expect(o, layer, kv_head, there, scores);
    if (p->kind == EVICT_H2O) pay(o, exact, layer, kv_head, all, FROM, TOKENS, scores);
    if (p->kind == EVICT_H2O) pay(o, exact, layer, kv_head, there->at, TOKENS, n, scores);
    if (p->kind != EVICT_SNAPKV && p->kind != EVICT_PYRAMID) return;
    pay(o, o, layer, kv_head, there->at, n - 64, n, scores);
    smooth(there, scores);
}

/* Is this what became of a row? Codes change it a little. */
static bool is_near(const float *a, const float *b, bool is_coded) {
    double error = 0, all = 0;
    for (int i = 0; i < K; i++) {
        error += pow((double)a[i] - (double)b[i], 2);
        all += pow((double)b[i], 2);
    }
    return is_coded ? error < 0.1 * all : error == 0;
}

/* The positions of a head that an eviction has left, found by their rows, which keep their order. */
static head_places find_kept(const outcome *o, int eviction, int layer, int head, bool is_coded) {
    const left_rows *left = &o->left[eviction];
    head_places kept = {.n_tokens = eviction ? MOST : TOKENS};
    for (int64_t pos = 0; pos < kept.n_tokens && kept.n < left->n[layer]; pos++) {
        bool same = true;
        for (int part = 0; same && part < N_KV_PARTS; part++)
            same = is_near(left->rows[layer][part] + (kept.n * G + head) * K,
                           row_of(o, layer, (kv_part)part, pos, head), is_coded);
        kept.at[pos] = same;
        kept.n += same;
    }
    return kept;
}

/* No position that stays has a lower score than one that goes, but for the first and the last ones. */
static void check_kept(const char *text, const head_places *there, const head_places *kept, int64_t n_last,
                       const double *scores) {
    const int64_t n = there->n_tokens;
    double least = INFINITY, most = -INFINITY;
    int64_t n_behind = 0;
    for (int64_t pos = n - 1; pos >= 0; pos--) {
        if (!there->at[pos]) {
            CU_ASSERT(!kept->at[pos]);
            continue;
        }
        if (n_behind++ < n_last || pos < 4) {
            CU_ASSERT(kept->at[pos]);
        } else if (kept->at[pos])
            least = fmin(least, scores[pos]);
        else
            most = fmax(most, scores[pos]);
    }
    if (!(least >= most * (1 - 1e-4))) printf("%s: %g is kept, %g is not\n", text, least, most);
    CU_ASSERT(least >= most * (1 - 1e-4));
}

/* n_last: those that stay whatever their scores; again: the same of the second time. */
static void check_policy(const char *text, way how, int64_t every, int64_t n_last, int64_t again) {
    const bool is_coded = how.layout == KV_INT8 || how.layout == KV_INT4;
    way plain = how;
    plain.layout = KV_PANELS;
    evict_policy p;
    CHECK_OK(evict_parse(text, &p));
    p.every = every;
    outcome o = run(&p, how), exact = run(&p, plain);
    for (int layer = 0; layer < LAYERS; layer += 2)
        for (int head = 0; head < G; head++) {
            head_places there = {.n_tokens = TOKENS, .n = TOKENS};
            memset(there.at, true, TOKENS);
            for (int eviction = 0; eviction < o.n_evictions; eviction++) {
                double scores[MOST];
                const head_places kept = find_kept(&o, eviction, layer, head, is_coded);
                CU_ASSERT_EQUAL(kept.n, o.left[eviction].n[layer]);
                reference(&p, &o, &exact, layer, head, &there, scores);
                check_kept(text, &there, &kept, eviction ? again : n_last, scores);
                there = kept;
                there.n_tokens = MOST;
                there.n += EVERY;
                memset(there.at + TOKENS, true, EVERY);
            }
        }
    free_outcome(&o);
    free_outcome(&exact);
}

static void scores(void) {
    const way how = {PRECISION_F32, 64, 128, 2, KV_PANELS};
    check_policy("expected:0.5", how, EVERY, TOKENS / 8, 64);
    check_policy("expected:150", how, 0, 75, 0);
    check_policy("h2o:0.5", how, EVERY, 175, 175);
    check_policy("snapkv:0.4", how, EVERY, 64, 64);
    check_policy("pyramid:50%", how, EVERY, 64, 64);
}

static void scores_of_codes(void) {
    for (int i = 0; i < 2; i++) {
        const way how = {PRECISION_BF16, 128, 150, 2, i ? KV_INT4 : KV_INT8};
        check_policy("expected:0.5", how, 0, TOKENS / 8, 0);
        check_policy("h2o:0.5", how, 0, 175, 0);
        check_policy("snapkv:0.4", how, 0, 64, 0);
    }
}

static bool is_same(const outcome *a, const outcome *b) {
    bool same = memcmp(a->attended, b->attended, a->attended_bytes) == 0;
    for (int i = 0; i < a->n_evictions * LAYERS * N_KV_PARTS; i++) {
        const int layer = i / N_KV_PARTS % LAYERS, part = i % N_KV_PARTS;
        const left_rows *x = &a->left[i / N_KV_PARTS / LAYERS], *y = &b->left[i / N_KV_PARTS / LAYERS];
        if (windows[layer] > 0) continue;
        same &= x->n[layer] == y->n[layer] && memcmp(x->rows[layer][part], y->rows[layer][part],
                                                     (size_t)(x->n[layer] * G * K) * sizeof(float)) == 0;
    }
    return same;
}

static void check_ways(kv_layout layout) {
    static const char *const policies[] = {"window:10,200", "expected:0.5", "h2o:0.5", "snapkv:0.5",
                                           "pyramid:0.5"};
    static const way others[] = {{.page_tokens = 256, .chunk = 37, .n_threads = 2},
                                 {.page_tokens = 32, .chunk = 1, .n_threads = 1},
                                 {.page_tokens = 96, .chunk = TOKENS, .n_threads = 3}};
    for (int i = 0; i < 5; i++) {
        const int n_others = harness_is_slow() ? 1 : layout == KV_PANELS ? 3 : 2;
        evict_policy p;
        CHECK_OK(evict_parse(policies[i], &p));
        p.every = EVERY;
        outcome first = run(&p, (way){PRECISION_BF16, 64, 128, 2, layout});
        for (int k = 0; k < n_others; k++) {
            way other = others[k];
            other.precision = PRECISION_BF16;
            other.layout = layout;
            if (layout == KV_INT4) other.page_tokens = (other.page_tokens + 63) / 64 * 64;
            outcome again = run(&p, other);
            CU_ASSERT(is_same(&first, &again));
            free_outcome(&again);
        }
        free_outcome(&first);
    }
}

static void ways(void) {
    check_ways(KV_PANELS);
}

static void ways_of_codes(void) {
    check_ways(KV_INT8);
    check_ways(KV_INT4);
}

/* ---- policies ---- */

static int64_t places(const char *text, int64_t n, int layer, int n_layers) {
    evict_policy p;
    CHECK_OK(evict_parse(text, &p));
    return evict_places(&p, n, n, layer, n_layers);
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

/* What a share of the prompt comes to is the budget from there on. */
static void budgets_behind(void) {
    evict_policy p;
    CHECK_OK(evict_parse("expected:0.5", &p));
    CU_ASSERT_EQUAL(evict_places_behind(&p, 4000, 6000, 0, 2), 4000);
    p.every = 300;
    CU_ASSERT_EQUAL(evict_places(&p, 4000, 6000, 0, 2), 2000);
    CU_ASSERT_EQUAL(evict_places_behind(&p, 4000, 4100, 0, 2), 2100);
    CU_ASSERT_EQUAL(evict_places_behind(&p, 4000, 6000, 0, 2), 2300);
    CU_ASSERT_EQUAL(evict_places_behind(&p, 100, 150, 0, 2), 150);
    CU_ASSERT_EQUAL(evict_places_behind(&p, 100, 6000, 0, 2), EVICT_LEAST_PLACES + 300);
    CHECK_OK(evict_parse("pyramid:1000", &p));
    p.every = 100;
    for (int layer = 0; layer < 30; layer++) {
        const int64_t budget = evict_places(&p, 200, 9000, layer, 30);
        CU_ASSERT_EQUAL(evict_places_behind(&p, 200, 9000, layer, 30), budget + 100);
        CU_ASSERT_EQUAL(evict_places(&p, 200, 200, layer, 30), budget < 200 ? budget : 200);
    }
    CU_ASSERT(evict_removes(&p, 200, 200) && !evict_removes(&p, 110, 110));
    CHECK_OK(evict_parse("expected:500", &p));
    p.every = 100;
    CU_ASSERT(!evict_removes(&p, 400, 400) && !evict_removes(&p, 400, 500) && evict_removes(&p, 400, 600));
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
                           {"scores of codes", scores_of_codes},
                           {"the same by any way", ways},
                           {"the same by any way, of codes", ways_of_codes},
                           {"budgets", budgets},
                           {"budgets behind a prompt", budgets_behind},
                           {"texts", texts},
                           {"ties", ties},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "evictor", tests);
}
