/* Tokens, scores and largest logits that a device finds in rows of logits (operations choose, score and
 * top_logits), against a plain sort in float64, on every kind of device that is here. */
#include <float.h>

#include "kernels/token_set.h"
#include "tests/fixtures/device_arrays.h"

enum { MANY_ROWS = DEVICE_TOP_ROWS };

/* What is a backend's own (kernels/device.h), and how far it may be off. */
typedef struct draw_traits {
    double share;         /* sums of probabilities, as a share of all */
    double log_norm;      /* relative to 1 + it */
    double score;         /* the same */
    bool likeliest_first; /* the draw, where a filter is set; otherwise by id */
} draw_traits;

static const draw_traits traits_of_kind[N_DEVICE_KINDS] = {
    [DEVICE_CPU] = {1e-10, 1e-12, 0x1.01p-24, true}, /* scores are rounded to float32 */
    [DEVICE_CUDA] = {1e-5, 1e-6, 1e-6, false},
};
static draw_traits traits; /* of the device under test */

/* ---- the reference ---- */

typedef struct candidate {
    double mass; /* exp((logit - max) / temperature) */
    float logit; /* with the penalty */
    int32_t id;
    bool is_doubtful; /* whether it is left is a question of rounding */
} candidate;

/* The tokens that the filters leave, and doubtful ones, in the order of the draw. */
typedef struct distribution {
    int n;
    candidate *items;
    double all, in_doubt; /* mass of those that are left, and of those in doubt */
    bool is_filtered;
} distribution;

static int best_first(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static int by_id(const void *a, const void *b) {
    return ((const candidate *)a)->id < ((const candidate *)b)->id ? -1 : 1;
}

static float penalised(const row_sampling *row, int32_t id, float logit) {
    if (!row->seen || !token_set_has(row->seen, id)) return logit;
    float penalty = (float)row->options->repetition_penalty;
    return fminf(fmaxf(logit > 0 ? logit / penalty : logit * penalty, -FLT_MAX), FLT_MAX);
}

/* All finite ones that top_k leaves, best first. */
static void sort_row(const row_sampling *row, const float *logits, int V, distribution *d) {
    const sampling_options *o = row->options;
    *d = (distribution){.items = mem_new((size_t)V, sizeof *d->items)};
    for (int32_t id = 0; id < V; id++)
        if (isfinite(logits[id]))
            d->items[d->n++] = (candidate){.logit = penalised(row, id, logits[id]), .id = id};
    qsort(d->items, (size_t)d->n, sizeof *d->items, best_first);
    const bool is_cut = o->top_k > 0 && o->top_k < d->n;
    d->is_filtered = is_cut || o->top_p < 1 || o->min_p > 0;
    if (is_cut) d->n = (int)o->top_k;
    if (o->temperature <= 0 && d->n > 0) d->n = 1;
    for (int i = 0; i < d->n; i++) {
        candidate *c = &d->items[i];
        double below = (double)c->logit - (double)d->items[0].logit;
        c->mass = below == 0 ? 1 : exp(below / o->temperature);
    }
}

static distribution reference(const row_sampling *row, const float *logits, int V) {
    const sampling_options *o = row->options;
    distribution d;
    sort_row(row, logits, V, &d);
    double within = 0, before = 0, top_p = o->temperature > 0 ? o->top_p : 1;
    for (int i = 0; i < d.n; i++)
        within += d.items[i].mass;
    int n = 0;
    for (int i = 0; i < d.n; i++) {
        candidate c = d.items[i];
        bool is_out = i > 0 && (before >= top_p * within || c.mass < o->min_p);
        double off = top_p < 1 ? fabs(before - top_p * within) : within, share = traits.share;
        c.is_doubtful = i > 0 && (off < share * within || fabs(c.mass - o->min_p) < share * o->min_p);
        before += c.mass;
        if (c.is_doubtful) d.in_doubt += c.mass;
        if (!is_out) d.all += c.mass;
        if (is_out && !c.is_doubtful) continue;
        if (is_out) c.mass = 0;
        d.items[n++] = c;
    }
    d.n = n;
    if (!traits.likeliest_first || !d.is_filtered) qsort(d.items, (size_t)d.n, sizeof *d.items, by_id);
    return d;
}

/* Whether the draw at u may have come to this token. */
static bool can_be(const distribution *d, double u, int32_t token) {
    double sum = 0, slack = traits.share * d->all + 2 * d->in_doubt;
    for (int i = 0; i < d->n; i++) {
        sum += d->items[i].mass;
        if (d->items[i].id == token)
            return sum - d->items[i].mass <= u * d->all + slack && u * d->all <= sum + slack;
    }
    return token == -1 && d->n == 0;
}

static double log_norm_of(const float *logits, int V) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++)
        if ((double)logits[i] > max) max = (double)logits[i];
    if (isinf(max)) return max;
    for (int i = 0; i < V; i++)
        if (!isnan(logits[i])) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* ---- rows ---- */

/* Rows of logits with an option set each. */
typedef struct rows {
    int n, V;
    float *logits; /* [n, V] */
    sampling_options options[MANY_ROWS];
    uint32_t *seen[MANY_ROWS];
    row_sampling sampling[MANY_ROWS];
} rows;

static double uniform(uint64_t *seed) {
    return ((double)(harness_random(seed) >> 11) + 0.5) * 0x1p-53;
}

static float random_logit(uint64_t *seed, int kind) {
    float x = 3 * harness_random_normal(seed);
    if (kind == 1) return roundf(x); /* with ties */
    if (kind == 2 && harness_random(seed) % 8 == 0) return NAN;
    if (kind == 2 && harness_random(seed) % 8 == 0) return -INFINITY;
    if (kind == 3) return 2.5f;
    return x;
}

/* Each filter alone and with each other, on logits of each kind. */
static void fill_rows(rows *r, uint64_t *seed, int n, int V) {
    *r = (rows){.n = n, .V = V, .logits = mem_new((size_t)n * (size_t)V, sizeof(float))};
    for (int i = 0; i < n; i++) {
        for (int id = 0; id < V; id++)
            r->logits[(size_t)i * (size_t)V + (size_t)id] = random_logit(seed, (i / 16 ^ i) % 4);
        sampling_options *o = &r->options[i];
        *o = sampling_defaults();
        o->temperature = i % 11 == 10 ? 0 : 0.1 + 1.4 * uniform(seed);
        if (i & 1) o->top_k = 1 + (int64_t)(harness_random(seed) % (uint64_t)(i % 3 ? V + 3 : V / 8 + 1));
        if (i & 2) o->top_p = 0.05 + 0.94 * uniform(seed);
        if (i & 4) o->min_p = 0.3 * uniform(seed);
        if (i & 8) o->repetition_penalty = 0.5 + 1.5 * uniform(seed);
        if (i % 3) o->n_logprobs = 1;
        r->seen[i] = mem_new(token_set_words(V), sizeof(uint32_t));
        for (int id = 0; id < V; id++)
            if (harness_random(seed) % 4 == 0) token_set_add(r->seen[i], id);
        r->sampling[i] = (row_sampling){o, i & 8 ? r->seen[i] : NULL, uniform(seed)};
    }
}

static void free_rows(rows *r) {
    free(r->logits);
    for (int i = 0; i < r->n; i++)
        free(r->seen[i]);
}

static row_choice choose_one(device *dev, const float *logits, int V, const row_sampling *row) {
    row_choice out;
    float *on_device = array_new(dev, logits, (size_t)V * sizeof *logits);
    memset(&out, 0xff, sizeof out);
    dev->ops->choose(dev, on_device, 1, V, row, &out);
    CHECK_OK(dev->ops->sync(dev));
    dev->ops->release(dev, on_device);
    return out;
}

static void check_choice(const rows *r, int i, const row_choice *got) {
    const float *logits = r->logits + (size_t)i * (size_t)r->V;
    distribution d = reference(&r->sampling[i], logits, r->V);
    bool is_told = r->options[i].n_logprobs > 0;
    double log_norm = is_told ? log_norm_of(logits, r->V) : 0;
    double slack = is_told && isfinite(log_norm) ? traits.log_norm * (1 + fabs(log_norm)) : 0;
    CHECK_CASE(can_be(&d, r->sampling[i].u, got->token), "V %d row %d: token %d of %d", r->V, i, got->token,
               d.n);
    CHECK_CASE(got->log_norm == log_norm || fabs(got->log_norm - log_norm) < slack,
               "V %d row %d: log norm %g for %g", r->V, i, got->log_norm, log_norm);
    CU_ASSERT(got->logit == (got->token < 0 ? -INFINITY : logits[got->token]));
    free(d.items);
}

/* Together, and each alone with the same bits. */
static void check_rows(device *dev, uint64_t *seed, int n, int V) {
    rows r;
    fill_rows(&r, seed, n, V);
    row_choice together[MANY_ROWS];
    float *logits = array_new(dev, r.logits, (size_t)n * (size_t)V * sizeof *logits);
    dev->ops->choose(dev, logits, n, V, r.sampling, together);
    CHECK_OK(dev->ops->sync(dev));
    for (int i = 0; i < n; i++) {
        check_choice(&r, i, &together[i]);
        row_choice alone = choose_one(dev, r.logits + (size_t)i * (size_t)V, V, &r.sampling[i]);
        CHECK_CASE(!memcmp(&alone, &together[i], sizeof alone), "V %d row %d differs alone", V, i);
    }
    dev->ops->release(dev, logits);
    free_rows(&r);
}

/* ---- tests: each on every kind of device ---- */

/* Precision is nothing to these operations. */
static void on_devices(void (*body)(device *dev)) {
    const device_kind kinds[] = {DEVICE_CPU, DEVICE_CUDA};
    for (int i = 0; i < 2; i++) {
        device *dev = NULL;
        if (device_count(kinds[i], NULL) < 1) continue;
        if (!CHECK_OK(device_open(kinds[i], 0, PRECISION_BF16, 3, &dev))) continue;
        traits = traits_of_kind[kinds[i]];
        body(dev);
        close_device(dev);
    }
}

static void check_sizes(device *dev) {
    const int sizes[][2] = {{1, 64}, {7, 64}, {255, 64}, {4097, 16}, {32000, 32}, {128256, 16}};
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_rows(dev, &seed, sizes[i][1], sizes[i][0]);
}

static void test_sizes(void) {
    on_devices(check_sizes);
}

/* How often each token comes out when u goes through [0, 1) in even steps: as often as its mass says. */
static void check_frequencies_of(device *dev, const rows *r, int i) {
    enum { CALLS = 2, DRAWS = CALLS * MANY_ROWS };
    const size_t V = (size_t)r->V;
    int *counts = mem_new(V, sizeof *counts), n_wrong = 0, n_out = 0;
    float *many = mem_new(MANY_ROWS * V, sizeof *many);
    for (size_t k = 0; k < MANY_ROWS; k++)
        memcpy(many + k * V, r->logits + (size_t)i * V, V * sizeof *many);
    float *logits = array_new(dev, many, MANY_ROWS * V * sizeof *many);
    for (int call = 0; call < CALLS; call++) {
        row_sampling sampling[MANY_ROWS];
        row_choice choices[MANY_ROWS];
        for (int k = 0; k < MANY_ROWS; k++) {
            sampling[k] = r->sampling[i];
            sampling[k].u = (call * MANY_ROWS + k + 0.5) / DRAWS;
        }
        dev->ops->choose(dev, logits, MANY_ROWS, r->V, sampling, choices);
        CHECK_OK(dev->ops->sync(dev));
        for (int k = 0; k < MANY_ROWS; k++)
            counts[choices[k].token]++;
    }
    distribution d = reference(&r->sampling[i], r->logits + (size_t)i * V, r->V);
    for (int k = 0; k < d.n; k++) {
        double expected = DRAWS * d.items[k].mass / d.all;
        double slack = DRAWS * (traits.share + 2 * d.in_doubt / d.all);
        n_wrong += fabs(counts[d.items[k].id] - expected) > 1 + slack;
        n_out += counts[d.items[k].id];
    }
    CHECK_CASE(n_wrong == 0, "row %d: %d of %d tokens come out too often or too rarely", i, n_wrong, d.n);
    CHECK_CASE(n_out == DRAWS, "row %d: %d draws are not among those left", i, DRAWS - n_out);
    dev->ops->release(dev, logits);
    free(many);
    free(counts);
    free(d.items);
}

static void check_frequencies(device *dev) {
#ifdef KVARVE_CUDA_EMULATED
    enum { STEP = 3 }; /* every filter, and every pair of them, still */
#else
    enum { STEP = 1 };
#endif
    uint64_t seed = 2;
    rows r;
    fill_rows(&r, &seed, 32, 30);
    for (int i = 0; i < 32; i += STEP)
        check_frequencies_of(dev, &r, i);
    free_rows(&r);
}

static void test_frequencies(void) {
    on_devices(check_frequencies);
}

static int32_t token_of(device *dev, const float *logits, int V, const sampling_options *o, double u) {
    return choose_one(dev, logits, V, &(row_sampling){o, NULL, u}).token;
}

static sampling_options drawing(double temperature) {
    sampling_options o = sampling_defaults();
    o.temperature = temperature;
    return o;
}

/* Among equal logits the filters keep the smaller ids, exactly as many as they ask for. */
static void check_ties(device *dev) {
    enum { V = 5000, FIRST = 900 }; /* equal: every second one from FIRST on */
    float *logits = mem_new(V, sizeof *logits);
    for (int i = 0; i < V; i++)
        logits[i] = i < FIRST || i % 2 ? -50 : i % 4 ? -0.0f : 0.0f;
    const double last = 1 - 0x1p-33;
    sampling_options o = drawing(1);
    for (int k = 1; k <= (V - FIRST) / 2; k += 1 + k) {
        o.top_k = k;
        o.top_p = 1;
        CU_ASSERT(token_of(dev, logits, V, &o, 0x1p-33) == FIRST);
        CU_ASSERT(token_of(dev, logits, V, &o, last) == FIRST + 2 * (k - 1));
        if (k % 2 == 0) continue;
        o.top_p = 0.5; /* of k equal ones */
        CU_ASSERT(token_of(dev, logits, V, &o, last) == FIRST + 2 * ((k + 1) / 2 - 1));
    }
    o = drawing(0);
    CU_ASSERT(token_of(dev, logits, V, &o, 0.9) == FIRST);
    free(logits);
}

static void test_ties(void) {
    on_devices(check_ties);
}

static void check_special(device *dev) {
    sampling_options all[] = {drawing(0), drawing(1), drawing(1), drawing(1), drawing(1)};
    all[2].top_k = 2;
    all[3].top_p = 0.9;
    all[4].min_p = 0.5;
    for (int k = 0; k < 5; k++)
        all[k].n_logprobs = 1;
    const float none[] = {NAN, NAN, -INFINITY}, one[] = {NAN, -7, -INFINITY}, high[] = {1, INFINITY, 1.5f};
    const float widest[] = {FLT_MAX, -FLT_MAX, 0};
    for (int k = 0; k < 5; k++) {
        row_choice c = choose_one(dev, none, 3, &(row_sampling){&all[k], NULL, 0.5});
        CU_ASSERT(c.token == -1 && c.log_norm == -INFINITY);
        CU_ASSERT(choose_one(dev, none, 1, &(row_sampling){&all[k], NULL, 0.5}).token == -1);
        for (double u = 0x1p-33; u < 1; u += 0.124) {
            CU_ASSERT(token_of(dev, one, 3, &all[k], u) == 1);
            CU_ASSERT(token_of(dev, one + 1, 1, &all[k], u) == 0);
            CU_ASSERT(token_of(dev, high, 3, &all[k], u) != 1);
            CU_ASSERT(token_of(dev, widest, 3, &all[k], u) == 0);
        }
    }
    row_choice c = choose_one(dev, high, 3, &(row_sampling){&all[0], NULL, 0.5});
    CU_ASSERT(c.token == 2 && c.logit == 1.5f && c.log_norm == INFINITY);
}

static void test_special(void) {
    on_devices(check_special);
}

static void check_extremes(device *dev) {
    const float logits[] = {5, 5.0001f, 4.9f, -3}, wide[] = {3e38f, 3.1e38f, -1e38f};
    const double cold[] = {1e-6, 1e-30, 1e-300, 4.9e-324}, last = 1 - 0x1p-53;
    for (size_t i = 0; i < sizeof cold / sizeof *cold; i++) {
        sampling_options o = drawing(cold[i]);
        CU_ASSERT(token_of(dev, logits, 4, &o, 0x1p-33) == 1 && token_of(dev, logits, 4, &o, last) == 1);
        o.top_p = 0.5;
        CU_ASSERT(token_of(dev, logits, 4, &o, last) == 1);
    }
    sampling_options o = drawing(100);
    CU_ASSERT(token_of(dev, logits, 4, &o, 0x1p-33) == 0 && token_of(dev, logits, 4, &o, last) == 3);
    o.top_p = 1e-12;
    CU_ASSERT(token_of(dev, logits, 4, &o, last) == 1);
    o.top_p = 1 - 0x1p-53;
    CU_ASSERT(token_of(dev, logits, 4, &o, last) == 3);
    o.min_p = 1 - 0x1p-53;
    CU_ASSERT(token_of(dev, logits, 4, &o, last) == 1);
    o = drawing(1);
    o.top_k = INT32_MAX;
    CU_ASSERT(token_of(dev, logits, 4, &o, 0x1p-33) == 0);
    o.repetition_penalty = 0.01; /* beyond the range of floats: equal now */
    CU_ASSERT(choose_one(dev, wide, 3, &(row_sampling){&o, (uint32_t[]){7}, last}).token == 1);
    o.temperature = 0;
    CU_ASSERT(choose_one(dev, wide, 3, &(row_sampling){&o, (uint32_t[]){7}, last}).token == 0);
}

static void test_extremes(void) {
    on_devices(check_extremes);
}

/* Rows that want nothing change nothing for the others; there are always some. */
static void check_scores_of(device *dev, uint64_t *seed, int n, int V) {
    float *host = mem_new((size_t)n * (size_t)V, sizeof *host), scores[MANY_ROWS], one;
    int32_t targets[MANY_ROWS];
    for (int i = 0; i < n; i++) {
        for (int id = 0; id < V; id++)
            host[(size_t)i * (size_t)V + (size_t)id] = random_logit(seed, i % 4);
        targets[i] = i % 5 == 4 ? -1 : (int32_t)(harness_random(seed) % (uint64_t)V);
    }
    if (V == 7) host[V] = INFINITY;
    float *logits = array_new(dev, host, (size_t)n * (size_t)V * sizeof *host);
    dev->ops->score(dev, logits, n, V, targets, scores);
    CHECK_OK(dev->ops->sync(dev));
    for (int i = 0; i < n; i++) {
        if (targets[i] < 0) continue;
        const float *row = host + (size_t)i * (size_t)V;
        double log_norm = log_norm_of(row, V), want = log_norm - (double)row[targets[i]];
        double bound = traits.score * (1 + fabs(want));
        CHECK_CASE(isfinite(want) ? fabs((double)scores[i] - want) < bound
                   : isnan(want)  ? isnan(scores[i])
                                  : (double)scores[i] == want,
                   "V %d row %d: score %g for %g", V, i, (double)scores[i], want);
        dev->ops->score(dev, logits + (size_t)i * (size_t)V, 1, V, &targets[i], &one);
        CHECK_OK(dev->ops->sync(dev));
        CHECK_CASE(!memcmp(&one, &scores[i], sizeof one), "V %d row %d differs alone", V, i);
    }
    dev->ops->release(dev, logits);
    free(host);
}

static void check_scores(device *dev) {
    const int sizes[][2] = {{1, 8}, {7, 64}, {255, 64}, {32000, 8}, {128256, 4}};
    uint64_t seed = 3;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_scores_of(dev, &seed, sizes[i][1], sizes[i][0]);
}

static void test_scores(void) {
    on_devices(check_scores);
}

/* The largest finite logits, equal ones by id, and no more than there are. */
static void check_top_of(device *dev, uint64_t *seed, int n, int V, int k) {
    rows r;
    fill_rows(&r, seed, n, V);
    float *logits = array_new(dev, r.logits, (size_t)n * (size_t)V * sizeof *logits);
    float *values = mem_new((size_t)(n * k), sizeof *values);
    int32_t *ids = mem_new((size_t)(n * k), sizeof *ids);
    const sampling_options all = drawing(1);
    dev->ops->top_logits(dev, logits, n, V, k, values, ids);
    CHECK_OK(dev->ops->sync(dev));
    for (int i = 0; i < n; i++) {
        distribution d;
        int n_wrong = 0;
        sort_row(&(row_sampling){.options = &all}, r.logits + (size_t)i * (size_t)V, V, &d);
        for (int at = 0; at < k; at++)
            n_wrong += at < d.n ? ids[i * k + at] != d.items[at].id || values[i * k + at] != d.items[at].logit
                                : ids[i * k + at] != -1;
        CHECK_CASE(n_wrong == 0, "V %d row %d: %d of %d differ", V, i, n_wrong, k);
        free(d.items);
    }
    dev->ops->release(dev, logits);
    free(values);
    free(ids);
    free_rows(&r);
}

static void check_top(device *dev) {
    const int sizes[][3] = {{1, 8, 3}, {7, 64, 7}, {255, 64, DEVICE_MAX_TOP}, {4097, 16, 1}, {32000, 16, 20}};
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_top_of(dev, &seed, sizes[i][1], sizes[i][0], sizes[i][2]);
}

static void test_top(void) {
    on_devices(check_top);
}

static void check_unwanted(device *dev) {
    uint64_t seed = 4;
    rows r;
    fill_rows(&r, &seed, MANY_ROWS, 100);
    row_choice all[MANY_ROWS], some[MANY_ROWS];
    float *logits = array_new(dev, r.logits, MANY_ROWS * 100 * sizeof *logits);
    dev->ops->choose(dev, logits, MANY_ROWS, r.V, r.sampling, all);
    CHECK_OK(dev->ops->sync(dev));
    for (int i = 0; i < MANY_ROWS; i += 3)
        r.sampling[i].options = NULL;
    dev->ops->choose(dev, logits, MANY_ROWS, r.V, r.sampling, some);
    CHECK_OK(dev->ops->sync(dev));
    for (int i = 0; i < MANY_ROWS; i++)
        CU_ASSERT(i % 3 == 0 || !memcmp(&all[i], &some[i], sizeof *all));
    dev->ops->choose(dev, logits, 0, r.V, r.sampling, some);
    CHECK_OK(dev->ops->sync(dev));
    dev->ops->release(dev, logits);
    free_rows(&r);
}

static void test_unwanted(void) {
    on_devices(check_unwanted);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"sizes and filters", test_sizes}, {"frequencies", test_frequencies}, {"ties", test_ties},
        {"special rows", test_special},    {"extremes", test_extremes},       {"scores", test_scores},
        {"largest logits", test_top},      {"unwanted rows", test_unwanted},  CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "device choose", tests);
}
