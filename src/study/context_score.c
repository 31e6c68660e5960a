#include "src/study/context_score.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/memory.h"
#include "src/study/distributions.h"

/* ---- the last stage: distributions beside each other ---- */

context_scores context_scores_new(int64_t n_windows, int64_t n_scored, int64_t n_keys, int vocab_size) {
    return (context_scores){
        .n_windows = n_windows,
        .n_scored = n_scored,
        .n_keys = n_keys,
        .vocab_size = vocab_size,
        .keys = mem_new((size_t)(n_windows * n_keys), sizeof(key_score)),
        .windows = mem_new((size_t)n_windows, sizeof(window_score)),
        .exact = mem_new((size_t)n_windows, sizeof(float *)),
    };
}

void context_scores_free(context_scores *s) {
    for (int64_t i = 0; s->exact && i < s->n_windows; i++)
        free(s->exact[i]);
    free(s->exact);
    free(s->windows);
    free(s->keys);
    *s = (context_scores){0};
}

uint64_t context_scores_exact_bytes(int64_t n_windows, int64_t n_scored, int vocab_size) {
    return (uint64_t)n_windows * (uint64_t)n_scored * (uint64_t)vocab_size * sizeof(float);
}

static void compare(window_score *w, const float *exact, const float *changed, int n, int32_t target) {
    const int top = find_top(exact, n), changed_top = find_top(changed, n);
    w->n++;
    w->nll -= (double)exact[target];
    w->changed_nll -= (double)changed[target];
    w->divergence += divergence_of(exact, changed, n);
    w->n_same_top += top == changed_top;
    w->n_top += top == target;
    w->n_changed_top += changed_top == target;
}

void context_scores_take(context_scores *s, int64_t window, int64_t row, bool is_changed, int32_t target,
                         const float *logits) {
    const size_t n = (size_t)s->vocab_size;
    if (!is_changed) {
        if (!s->exact[window])
            s->exact[window] = mem_new(1, context_scores_exact_bytes(1, s->n_scored, s->vocab_size));
        log_probabilities(logits, s->vocab_size, s->exact[window] + (size_t)row * n);
        return;
    }
    float *changed = mem_new(n, sizeof *changed);
    log_probabilities(logits, s->vocab_size, changed);
    compare(&s->windows[window], s->exact[window] + (size_t)row * n, changed, s->vocab_size, target);
    free(changed);
    if (row + 1 < s->n_scored) return;
    free(s->exact[window]);
    s->exact[window] = NULL;
}

void context_scores_take_key(context_scores *s, int64_t key, bool is_changed, int32_t target,
                             const float *logits) {
    float *log_p = mem_new((size_t)s->vocab_size, sizeof *log_p);
    log_probabilities(logits, s->vocab_size, log_p);
    s->keys[key].n[is_changed]++;
    s->keys[key].nll[is_changed] -= (double)log_p[target];
    s->keys[key].n_missed[is_changed] += find_top(log_p, s->vocab_size) != target;
    free(log_p);
}

void context_scores_share(context_scores *s, comm *c) {
    const int last = comm_size(c) - 1;
    comm_broadcast(c, s->windows, (size_t)s->n_windows * sizeof *s->windows, last);
    comm_broadcast(c, s->keys, (size_t)(s->n_windows * s->n_keys) * sizeof *s->keys, last);
}

/* ---- the result ---- */

/* Student's t: half of a 95% interval is so many standard errors, with n - 1 degrees of freedom. */
static double t_quantile(int64_t n) {
    static const double by_degrees[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                                        2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                                        2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                                        2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
    const int64_t most = (int64_t)(sizeof by_degrees / sizeof *by_degrees);
    return n - 1 > most ? 1.96 : by_degrees[n - 2];
}

static estimate estimate_of(const double *values, int64_t n) {
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < n; i++)
        mean += values[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    if (n < 2) return (estimate){mean, (double)NAN};
    return (estimate){mean, t_quantile(n) * sqrt(squares / (double)(n - 1) / (double)n)};
}

static void add_up_keys(const context_scores *s, context_result *r) {
    double *changes = mem_new((size_t)s->n_windows, sizeof *changes);
    const double n_digits = (double)(s->n_keys * PASS_KEY_DIGITS);
    r->n_keys = s->n_windows * s->n_keys;
    for (int64_t i = 0; i < r->n_keys; i++) {
        const key_score *k = &s->keys[i];
        assert(k->n[0] > 0 && k->n[0] == k->n[1]);
        for (int changed = 0; changed < 2; changed++) {
            r->n_answered[changed] += k->n_missed[changed] == 0;
            r->n_answered_at[i % s->n_keys][changed] += k->n_missed[changed] == 0;
        }
        r->digit_nll += k->nll[0] / (n_digits * (double)s->n_windows);
        changes[i / s->n_keys] += (k->nll[1] - k->nll[0]) / n_digits;
    }
    r->digit_change = estimate_of(changes, s->n_windows);
    free(changes);
}

/* What the codec has made of the contexts. */
static void add_up_codes(const coded_sums *sums, dtype type, context_result *r) {
    r->is_coded = true;
    r->bits = 8 * (sums->n_bytes[KV_PART_K] + sums->n_bytes[KV_PART_V]) /
              (sums->n_elements[KV_PART_K] + sums->n_elements[KV_PART_V]);
    r->token_bytes[1] *= r->bits / (8 * (double)dtype_bytes(type));
    r->kept_exact = sums->kept.n_exact / sums->kept.n_tokens;
    r->kept_8bit = sums->kept.n_8bit / sums->kept.n_tokens;
    for (int part = 0; part < N_KV_PARTS; part++) {
        r->part_bits[part] = 8 * sums->n_bytes[part] / sums->n_elements[part];
        r->error[part] = sums->errors[part] / sums->squares[part];
    }
}

context_result context_result_of(const context_scores *s, const double token_bytes[2], const coded_sums *sums,
                                 dtype type) {
    double *changes = mem_new(2 * (size_t)s->n_windows, sizeof *changes),
           *divergences = changes + s->n_windows;
    window_score all = {0};
    for (int64_t i = 0; i < s->n_windows; i++) {
        const window_score *w = &s->windows[i];
        changes[i] = (w->changed_nll - w->nll) / w->n;
        divergences[i] = w->divergence / w->n;
        all.n += w->n;
        all.nll += w->nll;
        all.n_same_top += w->n_same_top;
        all.n_top += w->n_top;
        all.n_changed_top += w->n_changed_top;
    }
    context_result r = {
        .token_bytes = {token_bytes[0], token_bytes[1]},
        .nll = all.nll / all.n,
        .change = estimate_of(changes, s->n_windows),
        .divergence = estimate_of(divergences, s->n_windows),
        .same_top = all.n_same_top / all.n,
        .top = all.n_top / all.n,
        .changed_top = all.n_changed_top / all.n,
        .n_windows = s->n_windows,
    };
    if (sums) add_up_codes(sums, type, &r);
    if (s->n_keys > 0) add_up_keys(s, &r);
    free(changes);
    return r;
}

static void print_codes(const context_result *r) {
    printf("bits            %.4f per element (K %.4f, V %.4f)\n", r->bits, r->part_bits[KV_PART_K],
           r->part_bits[KV_PART_V]);
    printf("error           K %.3e, V %.3e of their mean squares\n", r->error[KV_PART_K],
           r->error[KV_PART_V]);
    if (!isnan(r->kept_exact))
        printf("kept otherwise  %.2f%% of tokens exactly, %.2f%% with 8 bits\n", 100 * r->kept_exact,
               100 * r->kept_8bit);
}

void context_result_print(const context_result *r) {
    if (r->is_coded) print_codes(r);
    printf("bytes a token   %.0f exact; changed %.1f\n", r->token_bytes[0], r->token_bytes[1]);
    printf("nll per token   %.6f exact; changed %+.6f +- %.6f\n", r->nll, r->change.mean, r->change.half);
    printf("perplexity      %.4f exact; changed %+.3f%% +- %.3f%%\n", exp(r->nll),
           100 * expm1(r->change.mean), 100 * r->change.half);
    printf("divergence      %.3e +- %.3e nats per token\n", r->divergence.mean, r->divergence.half);
    printf("likeliest token %.2f%% the same; right %.2f%% exact, %.2f%% changed\n", 100 * r->same_top,
           100 * r->top, 100 * r->changed_top);
    if (r->n_keys > 0)
        printf("pass keys       %lld of %lld answered exact, %lld changed\n"
               "nll per digit   %.6f exact; changed %+.6f +- %.6f\n",
               (long long)r->n_answered[0], (long long)r->n_keys, (long long)r->n_answered[1], r->digit_nll,
               r->digit_change.mean, r->digit_change.half);
    if (r->n_windows == 1) printf("+- nan: one window says nothing of the next\n");
    fflush(stdout);
}

static void put_estimate(json_writer *w, const char *key, estimate e) {
    json_open_line(w, key, '{');
    json_put_number(w, "mean", e.mean);
    json_put_number(w, "half_interval", e.half);
    json_close(w);
}

static void put_codes(json_writer *w, const context_result *r) {
    json_put_number(w, "bits_per_element", r->bits);
    json_put_number(w, "k_bits_per_element", r->part_bits[KV_PART_K]);
    json_put_number(w, "v_bits_per_element", r->part_bits[KV_PART_V]);
    json_put_number(w, "k_error", r->error[KV_PART_K]);
    json_put_number(w, "v_error", r->error[KV_PART_V]);
    if (isnan(r->kept_exact)) return;
    json_put_number(w, "tokens_kept_exactly", r->kept_exact);
    json_put_number(w, "tokens_kept_with_8_bits", r->kept_8bit);
}

void context_result_put(json_writer *w, const context_result *r) {
    if (r->is_coded) put_codes(w, r);
    json_put_number(w, "bytes_per_token", r->token_bytes[0]);
    json_put_number(w, "changed_bytes_per_token", r->token_bytes[1]);
    json_put_number(w, "nll", r->nll);
    put_estimate(w, "nll_change", r->change);
    json_put_number(w, "perplexity", exp(r->nll));
    put_estimate(w, "perplexity_change", (estimate){expm1(r->change.mean), r->change.half});
    put_estimate(w, "divergence", r->divergence);
    json_put_number(w, "same_likeliest", r->same_top);
    json_put_number(w, "right_likeliest", r->top);
    json_put_number(w, "changed_right_likeliest", r->changed_top);
    json_put_integer(w, "pass_keys", r->n_keys);
    if (r->n_keys == 0) return;
    json_put_integer(w, "answered_keys", r->n_answered[0]);
    json_put_integer(w, "changed_answered_keys", r->n_answered[1]);
    json_put_number(w, "digit_nll", r->digit_nll);
    put_estimate(w, "digit_nll_change", r->digit_change);
}
