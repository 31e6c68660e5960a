/* tests/model/test_sampler.c: the filters against a plain sort, the draws against their probabilities: what
 * the sampler asks of a device and makes of its answer, with the CPU for the device. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/token_set.h"
#include "src/model/sampler.h"
#include "tests/fixtures/harness.h"

enum { MAX_V = 1000, SET_WORDS = (MAX_V + 31) / 32 };

/* ---- the reference: sort everything, filter, normalise ---- */

typedef struct weighted {
    double logit, p;
    int32_t token;
} weighted;

/* What may be drawn, likeliest first, and with which probability. */
typedef struct distribution {
    int n;
    weighted items[MAX_V];
} distribution;

static int by_logit_down(const void *a, const void *b) {
    const weighted *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

static void normalise(distribution *d) {
    double sum = 0;
    for (int i = 0; i < d->n; i++)
        sum += d->items[i].p;
    for (int i = 0; i < d->n; i++)
        d->items[i].p /= sum;
}

static void reference(const sampling_options *o, const uint32_t *seen, const float *logits, int V,
                      distribution *d) {
    d->n = 0;
    for (int i = 0; i < V; i++) {
        if (!isfinite(logits[i])) continue;
        float l = logits[i], penalty = (float)o->repetition_penalty;
        if (seen && token_set_has(seen, i)) l = l > 0 ? l / penalty : l * penalty;
        d->items[d->n++] = (weighted){(double)l, 0, i};
    }
    qsort(d->items, (size_t)d->n, sizeof *d->items, by_logit_down);
    if (o->top_k > 0 && o->top_k < d->n) d->n = (int)o->top_k;
    for (int i = 0; i < d->n; i++)
        d->items[i].p = exp((d->items[i].logit - d->items[0].logit) / o->temperature);
    normalise(d);
    double sum = 0;
    for (int i = 0, n = d->n; i < n; i++) {
        if (sum >= o->top_p) d->n = i;
        if (sum >= o->top_p) break;
        sum += d->items[i].p;
    }
    while (d->n > 1 && d->items[d->n - 1].p < o->min_p * d->items[0].p)
        d->n--;
    normalise(d);
}

/* ---- helpers ---- */

static sampling_options drawing(double temperature) {
    sampling_options o = sampling_defaults();
    o.temperature = temperature;
    return o;
}

static device *cpu;

static sampler_choice sample(int V, const sampling_options *o, int64_t id, int64_t pos, const uint32_t *seen,
                             const float *logits) {
    row_sampling row = sampler_row(o, id, pos, seen);
    row_choice found;
    float values[SAMPLING_MAX_LOGPROBS];
    int32_t ids[SAMPLING_MAX_LOGPROBS];
    sampler_choice choice;
    cpu->ops->choose(cpu, logits, 1, V, &row, &found);
    if (o->n_logprobs > 0) cpu->ops->top_logits(cpu, logits, 1, V, (int)o->n_logprobs, values, ids);
    CHECK_OK(cpu->ops->sync(cpu));
    sampler_finish(o, &found, values, ids, &choice);
    return choice;
}

static int32_t choose(int V, const sampling_options *o, int64_t id, int64_t pos, const uint32_t *seen,
                      const float *logits) {
    return sample(V, o, id, pos, seen, logits).token;
}

static float score(const float *logits, int V, int32_t target) {
    float found = NAN;
    cpu->ops->score(cpu, logits, 1, V, &target, &found);
    CHECK_OK(cpu->ops->sync(cpu));
    return found;
}

static double uniform(uint64_t *state) {
    return (double)(harness_random(state) >> 11) * 0x1p-53;
}

static int64_t pick(uint64_t *state, int64_t n) {
    return (int64_t)(harness_random(state) % (uint64_t)n);
}

/* Logits with ties, and some that are not there. */
static void make_logits(uint64_t *state, int V, float *logits, uint32_t *seen) {
    memset(seen, 0, token_set_words(V) * sizeof *seen);
    bool coarse = pick(state, 3) == 0;
    for (int i = 0; i < V; i++) {
        logits[i] = 3 * harness_random_normal(state);
        if (coarse) logits[i] = roundf(logits[i]);
        if (pick(state, 40) == 0) logits[i] = NAN;
        if (pick(state, 40) == 0) logits[i] = -INFINITY;
        if (pick(state, 4) == 0) token_set_add(seen, i);
    }
    logits[pick(state, V)] = 1;
}

static sampling_options make_options(uint64_t *state, int V) {
    sampling_options o = drawing(0.05 + 2 * uniform(state));
    if (pick(state, 2)) o.top_k = 1 + pick(state, V + 3);
    if (pick(state, 2)) o.top_p = 0.01 + 0.99 * uniform(state);
    if (pick(state, 2)) o.min_p = 0.5 * uniform(state);
    if (pick(state, 2)) o.repetition_penalty = 0.5 + 1.5 * uniform(state);
    o.seed = pick(state, 1000);
    return o;
}

/* Pearson's statistic in deviations of a normal variable (Wilson and Hilferty 1931); rare tokens share a
 * cell. */
static double chi_square_deviations(const distribution *d, const int *counts, int n_draws) {
    double sum = 0, rest_p = 0;
    int n_cells = 0, rest = 0;
    for (int i = 0; i < d->n; i++) {
        double expected = d->items[i].p * n_draws, off = counts[d->items[i].token] - expected;
        if (expected < 5) {
            rest_p += d->items[i].p;
            rest += counts[d->items[i].token];
            continue;
        }
        sum += off * off / expected;
        n_cells++;
    }
    double expected = rest_p * n_draws, off = rest - expected;
    if (expected >= 1) {
        sum += off * off / expected;
        n_cells++;
    }
    if (n_cells < 2) return 0;
    double k = n_cells - 1;
    return (cbrt(sum / k) - (1 - 2 / (9 * k))) / sqrt(2 / (9 * k));
}

/* ---- tests ---- */

/* The first word of the known answers of Random123 1.14 (kat_vectors, philox4x32 10): counter and key are
 * made of (pos, sequence id) and seed. */
static void known_answers(void) {
    CU_ASSERT(sampler_random(0, 0, 0) == 0x6627e8d5);
    CU_ASSERT(sampler_random(-1, -1, -1) == 0x408f276d);
    CU_ASSERT(sampler_random(0x299f31d0a4093822, 0x0370734413198a2e, (int64_t)0x85a308d3243f6a88) ==
              0xd16cfe09);
}

static void random_words_are_even(void) {
    enum { N_BINS = 256, N = 1 << 16 };
    distribution d = {.n = N_BINS};
    for (int i = 0; i < N_BINS; i++)
        d.items[i] = (weighted){0, 1.0 / N_BINS, i};
    for (int shift = 0; shift < 32; shift += 8) { /* along positions, sequences and seeds */
        int counts[3][N_BINS] = {{0}};
        for (int i = 0; i < N; i++) {
            counts[0][sampler_random(5, 7, i) >> shift & 255]++;
            counts[1][sampler_random(5, i, 7) >> shift & 255]++;
            counts[2][sampler_random(i, 5, 7) >> shift & 255]++;
        }
        for (int k = 0; k < 3; k++)
            CU_ASSERT(fabs(chi_square_deviations(&d, counts[k], N)) < 4);
    }
}

/* Every draw is among what the reference keeps, whatever the filters. */
static void draws_stay_within_the_filters(void) {
    uint64_t state = 1;
    float logits[MAX_V];
    uint32_t seen[SET_WORDS];
    distribution d;
    for (int round = 0; round < 400; round++) {
        int V = 1 + (int)pick(&state, round % 10 ? 60 : MAX_V), outside = 0;
        make_logits(&state, V, logits, seen);
        sampling_options o = make_options(&state, V);
        const uint32_t *used = o.repetition_penalty == 1 && pick(&state, 2) ? NULL : seen;
        reference(&o, used, logits, V, &d);
        for (int pos = 0; pos < 100; pos++) {
            int32_t token = choose(V, &o, round, pos, used, logits);
            bool kept = false;
            for (int i = 0; i < d.n; i++)
                kept = kept || d.items[i].token == token;
            outside += !kept;
        }
        CU_ASSERT(outside == 0);
    }
}

static void draws_have_their_probabilities(void) {
    enum { N_DRAWS = 20000 };
    uint64_t state = 2;
    float logits[MAX_V];
    uint32_t seen[SET_WORDS];
    distribution d;
    double worst = 0;
    for (int round = 0; round < 60; round++) {
        int V = 2 + (int)pick(&state, 30), counts[MAX_V] = {0};
        make_logits(&state, V, logits, seen);
        sampling_options o = make_options(&state, V);
        reference(&o, seen, logits, V, &d);
        for (int pos = 0; pos < N_DRAWS; pos++)
            counts[choose(V, &o, 3, pos, seen, logits)]++;
        double deviations = chi_square_deviations(&d, counts, N_DRAWS);
        worst = fmax(worst, deviations);
        CU_ASSERT(deviations < 4);
    }
    CU_ASSERT(worst > 0.5); /* 60 right tests are not all too good */
}

static void draws_depend_on_seed_sequence_and_position_only(void) {
    float logits[100] = {0};
    sampling_options o = drawing(1);
    const int32_t token = choose(100, &o, 10, 20, NULL, logits);
    int same[3] = {0};
    for (int i = 1; i <= 300; i++) {
        sampling_options other = o;
        other.seed = i;
        same[0] += choose(100, &other, 10, 20, NULL, logits) == token;
        same[1] += choose(100, &o, 10 + i, 20, NULL, logits) == token;
        same[2] += choose(100, &o, 10, 20 + i, NULL, logits) == token;
        CU_ASSERT(choose(100, &o, 10, 20, NULL, logits) == token);
    }
    for (int i = 0; i < 3; i++)
        CU_ASSERT(same[i] < 15); /* 3 of 300 are expected */
}

/* A penalty that leaves the range of floats. */
static void penalties_stay_finite(void) {
    const uint32_t seen[] = {7};
    const float low[] = {-3e38f, -3.1e38f, NAN}, high[] = {3e38f, 3.1e38f, -1e38f};
    sampling_options options[] = {drawing(0), drawing(1)};
    for (int k = 0; k < 2; k++) {
        options[k].repetition_penalty = 50;
        CU_ASSERT(choose(3, &options[k], 0, 3, seen, low) >= 0); /* equal now */
        options[k].repetition_penalty = 0.01;
        CU_ASSERT(choose(3, &options[k], 0, 3, seen, high) >= 0);
    }
}

static void greedy_takes_the_largest(void) {
    sampling_options o = drawing(0);
    CU_ASSERT(choose(4, &o, 0, 0, NULL, (float[]){1, 3, 3, 2}) == 1);
    CU_ASSERT(choose(4, &o, 0, 0, NULL, (float[]){NAN, -3, NAN, -2}) == 3);
    CU_ASSERT(choose(3, &o, 0, 0, NULL, (float[]){0, 0, 0}) == 0);
    CU_ASSERT(choose(3, &o, 0, 0, NULL, (float[]){-INFINITY, -1e30f, -INFINITY}) == 1);
    o.repetition_penalty = 2;
    const uint32_t seen[] = {1 << 1};
    CU_ASSERT(choose(3, &o, 0, 0, seen, (float[]){2, 3, 1}) == 0);
    CU_ASSERT(choose(3, &o, 0, 0, seen, (float[]){-3, -2, -5}) == 0);
    o.repetition_penalty = 1.25;
    CU_ASSERT(choose(3, &o, 0, 0, seen, (float[]){2, 3, 1}) == 1);
    o.repetition_penalty = 1;
    CU_ASSERT(choose(3, &o, 0, 0, NULL, (float[]){2, 3, 1}) == 1);
}

/* Among equal logits, filters keep the smaller ids. */
static void ties_go_by_id(void) {
    const float logits[] = {0, 1, 1, 1, 1, 0};
    sampling_options options[3] = {drawing(1), drawing(1), drawing(1)};
    options[0].top_k = 2;
    options[1].top_p = 0.3;
    options[2].top_k = 4;
    options[2].top_p = 0.5;
    for (int k = 0; k < 3; k++) {
        bool drawn[6] = {false};
        for (int pos = 0; pos < 200; pos++)
            drawn[choose(6, &options[k], 0, pos, NULL, logits)] = true;
        CU_ASSERT(!drawn[0] && drawn[1] && drawn[2] && !drawn[3] && !drawn[4] && !drawn[5]);
    }
}

static void what_is_not_a_number(void) {
    sampling_options options[] = {drawing(0), drawing(1), drawing(1), drawing(1)};
    options[2].top_k = 2;
    options[3].top_p = 0.9;
    const float none[] = {NAN, NAN, NAN}, one[] = {NAN, -7, NAN}, low[] = {-INFINITY, -INFINITY, -INFINITY};
    const float high[] = {1, INFINITY, 2};
    for (int k = 0; k < 4; k++) {
        CU_ASSERT(choose(3, &options[k], 0, 0, NULL, none) == -1);
        CU_ASSERT(choose(3, &options[k], 0, 0, NULL, low) == -1);
        CU_ASSERT(choose(1, &options[k], 0, 0, NULL, none) == -1);
        CU_ASSERT(choose(1, &options[k], 0, 0, NULL, one + 1) == 0);
        for (int pos = 0; pos < 50; pos++) {
            CU_ASSERT(choose(3, &options[k], 0, pos, NULL, one) == 1);
            CU_ASSERT(choose(3, &options[k], 0, pos, NULL, high) != 1);
        }
    }
}

/* The smallest and the largest of many random words: the ends of the distribution, and no token without
 * probability. */
static void ends_of_the_unit_interval(void) {
    int64_t lowest = 0, highest = 0;
    for (int64_t pos = 0; pos < 1 << 21; pos++) {
        if (sampler_random(0, 0, pos) < sampler_random(0, 0, lowest)) lowest = pos;
        if (sampler_random(0, 0, pos) > sampler_random(0, 0, highest)) highest = pos;
    }
    CU_ASSERT(sampler_random(0, 0, lowest) < 1 << 14 &&
              sampler_random(0, 0, highest) > UINT32_MAX - (1 << 14));
    const float logits[] = {-1000, 1, -INFINITY, 0, NAN, -2000};
    for (int filter = 0; filter < 4; filter++) {
        sampling_options o = drawing(1);
        if (filter == 1) o.top_k = 5;
        if (filter == 2) o.top_p = 0.999;
        if (filter == 3) o.min_p = 1e-6;
        CU_ASSERT(choose(6, &o, 0, lowest, NULL, logits) == 1);
        CU_ASSERT(choose(6, &o, 0, highest, NULL, logits) == 3);
    }
}

static void extreme_temperatures(void) {
    const float logits[] = {5, 5.0001f, 4.9f, -3};
    const double cold[] = {1e-6, 1e-30, 1e-300, 4.9e-324};
    for (size_t i = 0; i < sizeof cold / sizeof *cold; i++) {
        sampling_options o = drawing(cold[i]);
        for (int pos = 0; pos < 20; pos++)
            CU_ASSERT(choose(4, &o, 0, pos, NULL, logits) == 1);
        o.top_k = 3;
        CU_ASSERT(choose(4, &o, 0, 0, NULL, logits) == 1);
    }
    sampling_options hot = drawing(100);
    int counts[4] = {0};
    for (int pos = 0; pos < 4000; pos++)
        counts[choose(4, &hot, 0, pos, NULL, logits)]++;
    for (int i = 0; i < 4; i++)
        CU_ASSERT(counts[i] > 800);
}

static void one_token_of_no_choice(void) {
    uint64_t state = 3;
    float logits[MAX_V];
    uint32_t seen[SET_WORDS];
    for (int round = 0; round < 50; round++) {
        int V = 1 + (int)pick(&state, MAX_V);
        make_logits(&state, V, logits, seen);
        sampling_options greedy = drawing(0), first = drawing(2), small = drawing(2);
        first.top_k = 1;
        small.top_p = 1e-12;
        int32_t best = choose(V, &greedy, 0, 0, NULL, logits);
        CU_ASSERT(choose(V, &first, 0, round, NULL, logits) == best);
        CU_ASSERT(choose(V, &small, 0, round, NULL, logits) == best);
    }
}

static double exact_nll(const float *logits, int V, int target) {
    long double max = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++)
        if (logits[i] > (float)max) max = logits[i];
    for (int i = 0; i < V; i++)
        if (!isnan(logits[i])) sum += expl((long double)logits[i] - max);
    return (double)(max + logl(sum) - logits[target]);
}

/* Exact but for the last rounding, to float32. */
static void likelihoods(void) {
    uint64_t state = 4;
    float logits[MAX_V];
    for (int round = 0; round < 100; round++) {
        int V = 1 + (int)pick(&state, MAX_V);
        float offset = round % 3 == 0 ? 10000 : round % 3 == 1 ? -10000 : 0;
        for (int i = 0; i < V; i++)
            logits[i] = offset + 4 * harness_random_normal(&state);
        int32_t target = (int32_t)pick(&state, V);
        double exact = exact_nll(logits, V, target);
        CU_ASSERT(fabs((double)score(logits, V, target) - exact) <
                  1e-10 + fabs(exact) * (double)FLT_EPSILON / 2);
    }
    CU_ASSERT(score((float[]){3}, 1, 0) == 0);
    CU_ASSERT(score((float[]){2, 2, 2, 2}, 4, 3) == (float)log(4));
    CU_ASSERT(score((float[]){0, -INFINITY}, 2, 1) == INFINITY);
    CU_ASSERT(score((float[]){0, NAN, 0}, 3, 0) == (float)log(2));
}

/* They are the model's own: neither temperature nor filters change them. */
static void logprobs_of_the_choice(void) {
    uint64_t state = 5;
    float logits[MAX_V];
    uint32_t seen[SET_WORDS];
    distribution all;
    for (int round = 0; round < 200; round++) {
        int V = 1 + (int)pick(&state, round % 5 ? 15 : MAX_V);
        make_logits(&state, V, logits, seen);
        sampling_options o = make_options(&state, V), plain = drawing(1);
        if (round % 4 == 0) o.temperature = 0;
        o.n_logprobs = 1 + pick(&state, SAMPLING_MAX_LOGPROBS);
        sampler_choice choice = sample(V, &o, 1, round, seen, logits);
        reference(&plain, NULL, logits, V, &all);
        CU_ASSERT(choice.n_top == (o.n_logprobs < all.n ? o.n_logprobs : all.n));
        CU_ASSERT(fabs((double)choice.logprob + exact_nll(logits, V, choice.token)) < 1e-5);
        for (int i = 0; i < choice.n_top; i++) {
            CU_ASSERT(choice.top_tokens[i] == all.items[i].token);
            CU_ASSERT(fabs((double)choice.top_logprobs[i] - log(all.items[i].p)) < 1e-5);
        }
    }
    sampling_options o = drawing(0);
    CU_ASSERT(sample(2, &o, 0, 0, NULL, (float[]){0, 1}).n_top == 0);
}

/* ---- what a device is asked, and its answer ---- */

static void rows_for_a_device(void) {
    sampling_options o = drawing(1);
    const uint32_t seen[] = {1};
    o.seed = 3;
    row_sampling row = sampler_row(&o, 10, 20, seen);
    CU_ASSERT(row.options == &o && row.seen == NULL); /* there is no penalty */
    CU_ASSERT(row.u == (sampler_random(3, 10, 20) + 0.5) / 0x1p32);
    o.repetition_penalty = 1.1;
    CU_ASSERT(sampler_row(&o, 10, 20, seen).seen == seen && sampler_row(&o, 10, 20, NULL).seen == NULL);
}

/* The probabilities of an answer, whichever way it was found. */
static void answers_of_a_device(void) {
    sampling_options o = drawing(1);
    const row_choice found = {7, 1.5f, 3.25};
    const float values[] = {2.25f, 1.5f, -INFINITY};
    const int32_t ids[] = {4, 7, -1};
    sampler_choice out;
    sampler_finish(&o, &found, NULL, NULL, &out);
    CU_ASSERT(out.token == 7 && out.n_top == 0 && out.logprob == 0);
    o.n_logprobs = 3; /* there are but two */
    sampler_finish(&o, &found, values, ids, &out);
    CU_ASSERT(out.token == 7 && out.n_top == 2 && out.logprob == -1.75f);
    CU_ASSERT(out.top_tokens[0] == 4 && out.top_logprobs[0] == -1 && out.top_tokens[1] == 7 &&
              out.top_logprobs[1] == -1.75f);
    sampler_finish(&o, &(row_choice){-1, -INFINITY, INFINITY}, values, ids, &out);
    CU_ASSERT(out.token == -1 && out.n_top == 0 && out.logprob == 0);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"known answers of Philox", known_answers},
        {"random words are even", random_words_are_even},
        {"draws stay within the filters", draws_stay_within_the_filters},
        {"draws have their probabilities", draws_have_their_probabilities},
        {"draws depend on seed, sequence and position only", draws_depend_on_seed_sequence_and_position_only},
        {"greedy takes the largest", greedy_takes_the_largest},
        {"penalties stay finite", penalties_stay_finite},
        {"ties go by id", ties_go_by_id},
        {"what is not a number", what_is_not_a_number},
        {"ends of the unit interval", ends_of_the_unit_interval},
        {"extreme temperatures", extreme_temperatures},
        {"one token of no choice", one_token_of_no_choice},
        {"likelihoods", likelihoods},
        {"logprobs of the choice", logprobs_of_the_choice},
        {"rows for a device", rows_for_a_device},
        {"answers of a device", answers_of_a_device},
        CU_TEST_INFO_NULL,
    };
    if (cpu_device_open(PRECISION_F32, 1, NULL, &cpu) != STATUS_OK) return EXIT_FAILURE;
    int code = harness_run(&argc, &argv, "sampler", tests);
    cpu->ops->close(cpu);
    return code;
}
