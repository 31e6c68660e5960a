/* tests/study/test_context_score.c: figures of a changed cache from logits, beside what a reader would
 * compute by hand. */
#include <math.h>

#include "src/study/context_score.h"
#include "tests/fixtures/harness.h"

enum { V = 5, WINDOWS = 2, SCORED = 3, KEYS = 2 };

static bool is_near(double a, double b) {
    return fabs(a - b) <= 1e-6 * (1 + fabs(b));
}

static double log_p(const float *logits, int token) {
    double sum = 0;
    for (int i = 0; i < V; i++)
        sum += exp((double)logits[i]);
    return (double)logits[token] - log(sum);
}

static bool is_top(const float *logits, int token) {
    for (int i = 0; i < V; i++)
        if (logits[i] > logits[token]) return false;
    return true;
}

/* Half of an interval over two windows: 12.706 standard errors. */
static double half_of(const double *values) {
    return 12.706 * fabs(values[0] - values[1]) / 2;
}

static void draw(uint64_t *state, float *logits) {
    for (int i = 0; i < V; i++)
        logits[i] = 2 * harness_random_normal(state);
}

static const coded_sums sums = {{100, 100}, {50, 25}, {10, 10}, {1, 2}, {50, 1, 5}};

static void tokens(void) {
    context_scores s = context_scores_new(WINDOWS, SCORED, 0, V);
    uint64_t state = 1;
    float logits[2][V];
    double nll = 0, changes[WINDOWS] = {0}, divergences[WINDOWS] = {0}, top[2] = {0};
    for (int w = 0; w < WINDOWS; w++)
        for (int row = 0; row < SCORED; row++) {
            const int target = (w + 2 * row) % V;
            for (int changed = 0; changed < 2; changed++) {
                draw(&state, logits[changed]);
                context_scores_take(&s, w, row, changed, target, logits[changed]);
                top[changed] += is_top(logits[changed], target);
            }
            nll -= log_p(logits[0], target) / (WINDOWS * SCORED);
            changes[w] += (log_p(logits[0], target) - log_p(logits[1], target)) / SCORED;
            for (int i = 0; i < V; i++)
                divergences[w] +=
                    exp(log_p(logits[0], i)) * (log_p(logits[0], i) - log_p(logits[1], i)) / SCORED;
        }
    const context_result r = context_result_of(&s, (double[]){4096, 4096}, &sums, DTYPE_BF16);
    CU_ASSERT(is_near(r.nll, nll) && r.n_windows == WINDOWS && r.n_keys == 0);
    CU_ASSERT(is_near(r.change.mean, (changes[0] + changes[1]) / 2) &&
              is_near(r.change.half, half_of(changes)));
    CU_ASSERT(is_near(r.divergence.mean, (divergences[0] + divergences[1]) / 2));
    CU_ASSERT(is_near(r.divergence.half, half_of(divergences)));
    CU_ASSERT(is_near(r.top, top[0] / (WINDOWS * SCORED)) &&
              is_near(r.changed_top, top[1] / (WINDOWS * SCORED)));
    CU_ASSERT(r.is_coded && r.bits == 3 && r.part_bits[KV_PART_K] == 4 && r.part_bits[KV_PART_V] == 2);
    CU_ASSERT(r.token_bytes[0] == 4096 && is_near(r.token_bytes[1], 4096. * 3 / 16));
    CU_ASSERT(is_near(r.kept_exact, 0.02) && is_near(r.kept_8bit, 0.1));
    CU_ASSERT(is_near(r.error[KV_PART_K], 0.1) && is_near(r.error[KV_PART_V], 0.2));
    context_scores_free(&s);
}

/* Of as many tokens as a key has: five, or fewer of several digits. A key is answered by all of them. */
static void keys(void) {
    context_scores s = context_scores_new(WINDOWS, SCORED, KEYS, V);
    uint64_t state = 2;
    double nll[2] = {0}, changes[WINDOWS] = {0};
    int n_answered[2] = {0}, n_answered_at[KEYS][2] = {0};
    for (int row = 0; row < SCORED; row++) /* the tokens of the text are another matter */
        for (int i = 0; i < 2 * WINDOWS; i++)
            context_scores_take(&s, i / 2, row, i % 2, 0, (const float[V]){0, 1, 2, 3, 4});
    for (int key = 0; key < WINDOWS * KEYS; key++)
        for (int changed = 0; changed < 2; changed++) {
            bool all = true;
            for (int i = 0; i < (key == 1 ? 2 : 5); i++) {
                float logits[V];
                draw(&state, logits);
                /* The first key is answered by both, the second by neither but for its last token. */
                const int target = (key + i) % V;
                if (key == 0 || (key == 2 && !changed)) logits[target] = 20;
                if (key == 1) logits[target] = i > 0 ? 20 : -20;
                context_scores_take_key(&s, key, changed, target, logits);
                all &= is_top(logits, target);
                nll[changed] -= log_p(logits, target);
                changes[key / KEYS] -= (changed ? 1 : -1) * log_p(logits, target) / (KEYS * PASS_KEY_DIGITS);
            }
            n_answered[changed] += all;
            n_answered_at[key % KEYS][changed] += all;
        }
    const context_result r = context_result_of(&s, (double[]){4096, 2176}, NULL, DTYPE_BF16);
    CU_ASSERT(r.n_keys == 4 && r.n_answered[0] == n_answered[0] && r.n_answered[1] == n_answered[1]);
    CU_ASSERT(n_answered[0] >= 2 && n_answered[0] < 4 && n_answered[1] >= 1);
    for (int i = 0; i < 2 * KEYS; i++)
        CU_ASSERT(r.n_answered_at[i / 2][i % 2] == n_answered_at[i / 2][i % 2]);
    CU_ASSERT(is_near(r.digit_nll, nll[0] / (4 * PASS_KEY_DIGITS)));
    CU_ASSERT(is_near(r.digit_change.mean, (nll[1] - nll[0]) / (4 * PASS_KEY_DIGITS)));
    CU_ASSERT(is_near(r.digit_change.half, half_of(changes)));
    context_scores_free(&s);
}

static void one_window(void) {
    context_scores s = context_scores_new(1, 1, 1, V);
    const float logits[V] = {0, 1, 2, 3, 4};
    for (int changed = 0; changed < 2; changed++) {
        context_scores_take(&s, 0, 0, changed, 4, logits);
        context_scores_take_key(&s, 0, changed, 4, logits);
    }
    const context_result r = context_result_of(&s, (double[]){4096, 2176}, NULL, DTYPE_BF16);
    CU_ASSERT(!r.is_coded && r.token_bytes[0] == 4096 && r.token_bytes[1] == 2176);
    CU_ASSERT(r.change.mean == 0 && isnan(r.change.half) && isnan(r.digit_change.half) && r.same_top == 1);
    context_scores_free(&s);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"tokens", tokens},
        {"keys", keys},
        {"one window", one_window},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "context_score", tests);
}
