/* A token of each row of logits, scores, and the largest logits: in float64, each row by one thread. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <omp.h>

#include "kernels/cpu/cpu_device.h"
#include "kernels/token_set.h"

/* Rows that tokens are drawn for at once: bounds the scratch. */
enum { MOST_DRAWS = 16 };

static const float *row_at(const float *logits, int i, int V) {
    return logits + (size_t)i * (size_t)V;
}

/* log(sum(exp(logits))), without NaNs. */
static double log_sum_exp(const float *logits, int V) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++)
        if ((double)logits[i] > max) max = (double)logits[i];
    if (!isfinite(max)) return max;
    for (int i = 0; i < V; i++)
        if (!isnan(logits[i])) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* The token's finite logit with the penalty: finite, whatever that is. */
static float penalised(const row_sampling *row, const float *logits, int32_t id) {
    const float logit = logits[id], penalty = (float)row->options->repetition_penalty;
    if (!row->seen || !token_set_has(row->seen, id)) return logit;
    return fminf(fmaxf(logit > 0 ? logit / penalty : logit * penalty, -FLT_MAX), FLT_MAX);
}

static int32_t find_likeliest(const row_sampling *row, const float *logits, int V) {
    int32_t best = -1;
    float most = -INFINITY;
    for (int32_t id = 0; id < V; id++) {
        if (!isfinite(logits[id])) continue;
        const float logit = penalised(row, logits, id);
        if (logit > most) most = logit, best = id;
    }
    return best;
}

/* ---- draws ---- */

typedef struct candidate {
    float logit; /* with the penalty */
    int32_t id;
} candidate;

/* A row's n candidates. The first n_heap are a heap, the best on top, once there is an order; the others were
 * taken from it, the last one first. */
typedef struct candidates {
    candidate *items;
    int n, n_heap;
    double max, temperature;
} candidates;

static candidates gather(const row_sampling *row, const float *logits, int V, candidate *scratch) {
    candidates c = {.items = scratch, .max = -INFINITY, .temperature = row->options->temperature};
    for (int32_t id = 0; id < V; id++) {
        if (!isfinite(logits[id])) continue;
        const float logit = penalised(row, logits, id);
        if ((double)logit > c.max) c.max = (double)logit;
        c.items[c.n++] = (candidate){logit, id};
    }
    c.n_heap = c.n;
    return c;
}

static bool is_better(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(candidate *heap, int n, int at) {
    const candidate moving = heap[at];
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_better(heap[child + 1], heap[child])) child++;
        if (!is_better(heap[child], moving)) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void make_heap(candidates *c) {
    for (int at = c->n / 2 - 1; at >= 0; at--)
        sift_down(c->items, c->n, at);
}

static void take_best(candidates *c) {
    const candidate best = c->items[0];
    c->items[0] = c->items[--c->n_heap];
    c->items[c->n_heap] = best;
    if (c->n_heap > 0) sift_down(c->items, c->n_heap, 0);
}

/* n candidates: from items[first] on, each `step` behind the one before. */
typedef struct run {
    int first, step, n;
} run;

/* Those taken first. */
static run best_of(const candidates *c, int n) {
    return (run){c->n - 1, -1, n};
}

/* The probability of candidate i of a run as a multiple of the likeliest token's. */
static double mass(const candidates *c, run r, int i) {
    return exp(((double)c->items[r.first + i * r.step].logit - c->max) / c->temperature);
}

static double sum_masses(const candidates *c, run r) {
    double sum = 0;
    for (int i = 0; i < r.n; i++)
        sum += mass(c, r, i);
    return sum;
}

/* The candidate with which the sum of the masses passes `target`. */
static int32_t pass_sum(const candidates *c, run r, double target) {
    double sum = 0;
    int i = 0;
    for (; i < r.n - 1; i++)
        if ((sum += mass(c, r, i)) > target) break;
    return c->items[r.first + i * r.step].id;
}

/* The best that top_p and min_p leave of `limit` ones, taken, and the sum of their masses. top_p counts
 * within the top_k. */
static run filter(candidates *c, const sampling_options *o, int limit, double *kept) {
    make_heap(c);
    run all = {0, 1, c->n}, left = best_of(c, 0);
    if (limit < c->n) {
        for (int i = 0; i < limit; i++)
            take_best(c);
        all = best_of(c, limit);
    }
    const double enough = o->top_p * sum_masses(c, all);
    for (*kept = 0; left.n < limit && (left.n == 0 || *kept < enough); left.n++) {
        if (c->n - c->n_heap == left.n) take_best(c);
        const double p = mass(c, left, left.n);
        if (p < o->min_p) break;
        *kept += p;
    }
    return left;
}

/* -1: there are none. */
static int32_t draw(candidates *c, const row_sampling *row) {
    const sampling_options *o = row->options;
    const int limit = o->top_k > 0 && o->top_k < c->n ? (int)o->top_k : c->n;
    if (c->n == 0) return -1;
    run left = {0, 1, c->n};
    double kept;
    if (limit == c->n && o->top_p >= 1 && o->min_p <= 0)
        kept = sum_masses(c, left);
    else
        left = filter(c, o, limit, &kept);
    return pass_sum(c, left, row->u * kept);
}

/* ---- operations ---- */

static row_choice choose_row(const row_sampling *row, const float *logits, int V, candidate *scratch) {
    row_choice choice = {.token = -1, .logit = -INFINITY};
    if (row->options->temperature <= 0) {
        choice.token = find_likeliest(row, logits, V);
    } else {
        candidates c = gather(row, logits, V, scratch);
        choice.token = draw(&c, row);
    }
    if (choice.token >= 0) choice.logit = logits[choice.token];
    if (row->options->n_logprobs > 0) choice.log_norm = log_sum_exp(logits, V);
    return choice;
}

size_t cpu_choose_bytes(int V) {
    return MOST_DRAWS * (size_t)V * sizeof(candidate);
}

void cpu_choose(device *base, const float *logits, int n, int V, const row_sampling *host_rows,
                row_choice *host_choices) {
    assert(n <= DEVICE_TOP_ROWS && V > 0);
    cpu_device *dev = cpu_device_of(base);
    if (n <= 0) return;
    int n_threads = cpu_threads_for(dev, (size_t)n * (size_t)V);
    if (n_threads > n) n_threads = n;
    if (n_threads > MOST_DRAWS) n_threads = MOST_DRAWS;
    candidate *scratch = cpu_device_scratch(dev, (size_t)n_threads * (size_t)V * sizeof *scratch);
    if (!scratch) return;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
    for (int i = 0; i < n; i++)
        if (host_rows[i].options)
            host_choices[i] = choose_row(&host_rows[i], row_at(logits, i, V), V,
                                         scratch + (size_t)omp_get_thread_num() * (size_t)V);
}

void cpu_score(device *base, const float *logits, int n, int V, const int32_t *host_targets,
               float *host_scores) {
    const cpu_device *dev = cpu_device_of(base);
#pragma omp parallel for num_threads(cpu_threads_for(dev, (size_t)n *(size_t)V)) schedule(dynamic)
    for (int i = 0; i < n; i++) {
        const float *row = row_at(logits, i, V);
        if (host_targets[i] >= 0)
            host_scores[i] = (float)(log_sum_exp(row, V) - (double)row[host_targets[i]]);
    }
}

/* Sorted in: few logits are among the k largest so far. */
static void find_top(const float *logits, int V, int k, float *values, int32_t *ids) {
    int n = 0;
    for (int32_t id = 0; id < V; id++) {
        const float logit = logits[id];
        if (!isfinite(logit) || (n == k && logit <= values[k - 1])) continue;
        int at = n < k ? n++ : k - 1;
        for (; at > 0 && logit > values[at - 1]; at--) {
            values[at] = values[at - 1];
            ids[at] = ids[at - 1];
        }
        values[at] = logit;
        ids[at] = id;
    }
    for (; n < k; n++)
        ids[n] = -1;
}

void cpu_top_logits(device *base, const float *logits, int n, int V, int k, float *host_values,
                    int32_t *host_ids) {
    const cpu_device *dev = cpu_device_of(base);
    assert(k > 0 && k <= DEVICE_MAX_TOP);
#pragma omp parallel for num_threads(cpu_threads_for(dev, (size_t)n *(size_t)V)) schedule(dynamic)
    for (int i = 0; i < n; i++)
        find_top(row_at(logits, i, V), V, k, host_values + (size_t)i * (size_t)k,
                 host_ids + (size_t)i * (size_t)k);
}
