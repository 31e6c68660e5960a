#include "src/model/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/token_set.h"
#include "src/base/memory.h"

typedef struct candidate {
    double logit;
    int32_t token;
} candidate;

struct sampler {
    int V;
    candidate *heap;   /* all tokens; the part not drawn yet is a heap, best on top */
    candidate *sorted; /* those drawn from it, best first */
};

sampler *sampler_open(int V) {
    sampler *s = mem_new(1, sizeof *s);
    s->V = V;
    s->heap = mem_new((size_t)V, sizeof *s->heap);
    s->sorted = mem_new((size_t)V, sizeof *s->sorted);
    return s;
}

void sampler_close(sampler *s) {
    if (!s) return;
    free(s->heap);
    free(s->sorted);
    free(s);
}

uint32_t sampler_random(int64_t seed, int64_t sequence_id, int64_t pos) {
    uint32_t x[4] = {(uint32_t)pos, (uint32_t)((uint64_t)pos >> 32), (uint32_t)sequence_id,
                     (uint32_t)((uint64_t)sequence_id >> 32)};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ x[1] ^ key[0], (uint32_t)b,
                            (uint32_t)(a >> 32) ^ x[3] ^ key[1], (uint32_t)a};
        for (int i = 0; i < 4; i++)
            x[i] = next[i];
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return x[0];
}

static bool is_better(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

static void sift_down(candidate *heap, int n, int at) {
    candidate moving = heap[at];
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_better(heap[child + 1], heap[child])) child++;
        if (!is_better(heap[child], moving)) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void make_heap(candidate *heap, int n) {
    for (int at = n / 2 - 1; at >= 0; at--)
        sift_down(heap, n, at);
}

static candidate take_best(candidate *heap, int *n) {
    candidate best = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0) sift_down(heap, *n, 0);
    return best;
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

double sampler_nll(const float *logits, int V, int32_t target) {
    return log_sum_exp(logits, V) - (double)logits[target];
}

/* Finite, whatever the penalty. */
static float penalised(float logit, float penalty) {
    return fminf(fmaxf(logit > 0 ? logit / penalty : logit * penalty, -FLT_MAX), FLT_MAX);
}

/* Fill the heap with the tokens' penalised logits; how many. seen: NULL: no penalty. */
static int gather(sampler *s, const uint32_t *seen, double penalty, const float *logits) {
    int n = 0;
    for (int32_t i = 0; i < s->V; i++) {
        if (!isfinite(logits[i])) continue;
        float logit = seen && token_set_has(seen, i) ? penalised(logits[i], (float)penalty) : logits[i];
        s->heap[n++] = (candidate){(double)logit, i};
    }
    return n;
}

static int32_t best_of(const candidate *all, int n) {
    candidate best = all[0];
    for (int i = 1; i < n; i++)
        if (is_better(all[i], best)) best = all[i];
    return best.token;
}

/* Draw among the n tokens of the heap that the filters leave, in order of falling probability. */
static int32_t draw(sampler *s, const sampling_options *o, int n, double u) {
    double max = s->heap[0].logit, all = 0;
    int n_left = n, n_kept = 0, limit = o->top_k > 0 && o->top_k < n ? (int)o->top_k : n;
    for (int i = 1; i < n; i++)
        if (s->heap[i].logit > max) max = s->heap[i].logit;
    bool unfiltered = limit == n && o->top_p >= 1 && o->min_p <= 0;
    if (unfiltered) { /* no order is needed: go by token id */
        for (int i = 0; i < n; i++)
            all += exp((s->heap[i].logit - max) / o->temperature);
        double sum = 0;
        for (int i = 0; i < n; i++)
            if ((sum += exp((s->heap[i].logit - max) / o->temperature)) > u * all) return s->heap[i].token;
        return s->heap[n - 1].token;
    }
    make_heap(s->heap, n_left);
    if (limit < n) { /* top_p counts within the top_k */
        for (; n_kept < limit; n_kept++)
            s->sorted[n_kept] = take_best(s->heap, &n_left);
        for (int i = 0; i < n_kept; i++)
            all += exp((s->sorted[i].logit - max) / o->temperature);
    } else {
        for (int i = 0; i < n; i++)
            all += exp((s->heap[i].logit - max) / o->temperature);
    }
    double kept = 0;
    int n_drawn = 0;
    while (n_drawn < limit && (n_drawn == 0 || kept < o->top_p * all)) {
        if (n_drawn == n_kept) s->sorted[n_kept++] = take_best(s->heap, &n_left);
        double p = exp((s->sorted[n_drawn].logit - max) / o->temperature);
        if (p < o->min_p) break;
        kept += p;
        n_drawn++;
    }
    double sum = 0;
    for (int i = 0; i < n_drawn; i++)
        if ((sum += exp((s->sorted[i].logit - max) / o->temperature)) > u * kept) return s->sorted[i].token;
    return s->sorted[n_drawn - 1].token;
}

row_sampling sampler_row(const sampling_options *o, int64_t sequence_id, int64_t pos, const uint32_t *seen) {
    return (row_sampling){
        .options = o,
        .seen = o->repetition_penalty == 1 ? NULL : seen,
        .u = ((double)sampler_random(o->seed, sequence_id, pos) + 0.5) * 0x1p-32,
    };
}

static void report_logprobs(sampler *s, const sampling_options *o, const float *logits, sampler_choice *out) {
    double norm = log_sum_exp(logits, s->V);
    out->logprob = (float)((double)logits[out->token] - norm);
    int n = gather(s, NULL, 1, logits);
    make_heap(s->heap, n);
    for (out->n_top = 0; out->n_top < o->n_logprobs && n > 0; out->n_top++) {
        candidate best = take_best(s->heap, &n);
        out->top_tokens[out->n_top] = best.token;
        out->top_logprobs[out->n_top] = (float)(best.logit - norm);
    }
}

void sampler_choose(sampler *s, const sampling_options *o, int64_t sequence_id, int64_t pos,
                    const uint32_t *seen, const float *logits, sampler_choice *out) {
    row_sampling row = sampler_row(o, sequence_id, pos, seen);
    *out = (sampler_choice){.token = -1};
    int n = gather(s, row.seen, o->repetition_penalty, logits);
    if (n == 0) return;
    out->token = o->temperature <= 0 ? best_of(s->heap, n) : draw(s, o, n, row.u);
    if (o->n_logprobs > 0) report_logprobs(s, o, logits, out);
}

void sampler_finish(const sampling_options *o, const row_choice *found, const float *values,
                    const int32_t *ids, sampler_choice *out) {
    *out = (sampler_choice){.token = found->token};
    if (found->token < 0 || o->n_logprobs == 0) return;
    double norm = (double)found->max + (double)found->log_sum;
    out->logprob = (float)((double)found->logit - norm);
    for (int i = 0; i < o->n_logprobs && ids[i] >= 0; i++) {
        out->top_tokens[i] = ids[i];
        out->top_logprobs[i] = (float)((double)values[i] - norm);
        out->n_top++;
    }
}
