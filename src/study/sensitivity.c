#include "src/study/sensitivity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/key_turns.h"
#include "io/codec/varve_private.h"
#include "kernels/convert.h"
#include "src/base/memory.h"
#include "src/command/progress.h"
#include "src/model/rope.h"
#include "src/study/distributions.h"

/* Deviation of the noise, in that of what it is added to: a coarse step's. */
static const double noise_size = 0.35;

struct sensitivity {
    model_config config;
    dtype type;
    int64_t n_windows, n_context, n_scored, first_id;
    float **exact; /* [n_windows]: log-probabilities [n_scored, V] behind the context as it is; last stage */
    double *divergences; /* [n_layers, N_KV_PARTS] sums over tokens; last stage */
};

static int64_t n_bent(const model_config *m) {
    return (int64_t)m->n_layers * N_KV_PARTS;
}

sensitivity *sensitivity_open(const model_config *config, dtype type, int64_t n_windows, int64_t n_context,
                              int64_t n_scored, int64_t first_id) {
    sensitivity *s = mem_new(1, sizeof *s);
    *s = (sensitivity){*config, type, n_windows, n_context, n_scored, first_id, NULL, NULL};
    s->exact = mem_new((size_t)n_windows, sizeof *s->exact);
    s->divergences = mem_new((size_t)n_bent(config), sizeof *s->divergences);
    return s;
}

void sensitivity_close(sensitivity *s) {
    for (int64_t i = 0; s && i < s->n_windows; i++)
        free(s->exact[i]);
    if (s) free(s->exact);
    if (s) free(s->divergences);
    free(s);
}

/* ---- the sessions: those of contexts as they are, then for each part of each layer ---- */

static void read_round(sensitivity *s, engine *e, const window_list *w, int64_t round) {
    session *sessions = mem_new((size_t)s->n_windows, sizeof *sessions);
    const int64_t n = s->n_context + s->n_scored;
    for (int64_t i = 0; i < s->n_windows; i++) {
        sessions[i] = session_new(window_at(w, i * w->n / s->n_windows), n);
        sessions[i].sequence_id = s->first_id + round * s->n_windows + i;
        sessions[i].score_from = sessions[i].probe_at = s->n_context;
        engine_submit(e, &sessions[i]);
    }
    for (event ev; engine_next(e, &ev);)
        continue;
    sessions_free(sessions, s->n_windows);
}

void sensitivity_run(sensitivity *s, engine *e, const window_list *w) {
    const int64_t n = n_bent(&s->config);
    progress bar = progress_begin("layers");
    for (int64_t round = 0; round <= n; round++) {
        read_round(s, e, w, round);
        progress_update(&bar, (double)round, (double)n, "bent %lld of %lld parts of layers", (long long)round,
                        (long long)n);
    }
    progress_end(&bar);
}

bool sensitivity_has(const sensitivity *s, int64_t sequence_id) {
    return sequence_id >= s->first_id;
}

/* What a session of a round bends: 0 for the first, then one more than layer * N_KV_PARTS + part. */
static int64_t round_of(const sensitivity *s, int64_t sequence_id) {
    return (sequence_id - s->first_id) / s->n_windows;
}

/* ---- noise ---- */

/* From -sqrt(3) to sqrt(3), evenly: deviation 1. By the finaliser of SplitMix64 (Steele et al. 2014). */
static float noise_of(uint64_t round, uint64_t i) {
    uint64_t x = (round << 40) + i + 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return (float)((double)(x >> 11) * 0x1p-53 * 2 - 1) * 1.7320508f;
}

/* The deviation of rows [n, n_channels] from their channels' means; keys as before RoPE. */
static double deviation_of(const sensitivity *s, kv_part part, const float *rows, int64_t n) {
    const int width = s->config.head_dim;
    const size_t n_channels = (size_t)s->config.n_kv_heads * (size_t)width;
    double *sums = mem_new(n_channels, sizeof *sums), squares = 0;
    float *frequencies = mem_new((size_t)width, sizeof *frequencies), factor;
    float *row = mem_new(n_channels, sizeof *row), *turns = mem_new((size_t)width, sizeof *turns);
    rope_inverse_frequencies(&s->config, frequencies, &factor);
    for (int64_t t = 0; t < n; t++) {
        memcpy(row, rows + (size_t)t * n_channels, n_channels * sizeof *row);
        key_turns_of(frequencies, width, t, turns);
        for (int head = 0; part == KV_PART_K && head < s->config.n_kv_heads; head++)
            key_turn_back(turns, width, row + (size_t)head * (size_t)width);
        for (size_t i = 0; i < n_channels; i++) {
            sums[i] += (double)row[i];
            squares += (double)row[i] * (double)row[i];
        }
    }
    for (size_t i = 0; i < n_channels; i++)
        squares -= sums[i] * sums[i] / (double)n;
    free(sums);
    free(frequencies);
    free(row);
    free(turns);
    return sqrt(fmax(squares, 0) / (double)n / (double)n_channels);
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Noise to rows [n, n_channels] of tokens whose values are not nearly nothing: sinks would outweigh all. The
 * last ones get less, as their steps are finer: layers that look at them mostly are spared by that. */
static void add_noise(const float *values, float *rows, int64_t n, size_t n_channels, double size,
                      uint64_t round) {
    double *norms = mem_new(2 * (size_t)n, sizeof *norms), *sorted = norms + n;
    for (int64_t t = 0; t < n; t++) {
        sorted[t] = norms[t] = varve_norm(DTYPE_F32, values + (size_t)t * n_channels, n_channels);
    }
    qsort(sorted, (size_t)n, sizeof *sorted, compare_doubles);
    for (int64_t t = VARVE_EXACT_POSITIONS; t < n; t++) {
        const float own = varve_grade_step((float)size, varve_grade((int32_t)(n - 1 - t)));
        for (size_t i = 0; norms[t] >= varve_sink_share * sorted[n / 2] && i < n_channels; i++)
            rows[(size_t)t * n_channels + i] += own * noise_of(round, (uint64_t)t * n_channels + i);
    }
    free(norms);
}

status sensitivity_bend(sensitivity *s, kv_cache *kv, slice own, int slot, int64_t n, int64_t sequence_id) {
    const int64_t round = round_of(s, sequence_id), layer = (round - 1) / N_KV_PARTS;
    const kv_part part = (kv_part)((round - 1) % N_KV_PARTS);
    const size_t n_channels = (size_t)s->config.n_kv_heads * (size_t)s->config.head_dim,
                 n_all = (size_t)n * n_channels;
    if (round == 0 || layer < own.first_layer || layer >= own.last_layer) return STATUS_OK;
    const int here = (int)layer - own.first_layer;
    void *elements[N_KV_PARTS];
    float *floats[N_KV_PARTS];
    status st = STATUS_OK;
    for (int p = 0; p < N_KV_PARTS; p++) {
        elements[p] = mem_new(n_all, dtype_bytes(s->type));
        floats[p] = mem_new(n_all, sizeof(float));
        if (st == STATUS_OK) st = kv_cache_read(kv, slot, here, (kv_part)p, 0, n, elements[p]);
        for (size_t i = 0; i < n_all; i++)
            floats[p][i] = float_at(s->type, elements[p], i);
    }
    add_noise(floats[KV_PART_V], floats[part], n, n_channels,
              noise_size * deviation_of(s, part, floats[part], n), (uint64_t)round);
    for (size_t i = 0; i < n_all; i++)
        put_float_at(s->type, elements[part], i, floats[part][i]);
    if (st == STATUS_OK) kv_cache_write(kv, slot, here, part, 0, n, elements[part]);
    for (int p = 0; p < N_KV_PARTS; p++) {
        free(elements[p]);
        free(floats[p]);
    }
    return st;
}

/* ---- distributions ---- */

void sensitivity_take(sensitivity *s, int64_t sequence_id, int64_t pos, const float *logits) {
    const int64_t round = round_of(s, sequence_id), window = (sequence_id - s->first_id) % s->n_windows;
    const size_t V = (size_t)s->config.vocab_size;
    float *found = mem_new(V, sizeof *found);
    const float *exact;
    log_probabilities(logits, s->config.vocab_size, found);
    if (!s->exact[window]) s->exact[window] = mem_new((size_t)s->n_scored * V, sizeof(float));
    exact = s->exact[window] + (size_t)(pos + 1 - s->n_context) * V;
    if (round == 0)
        memcpy((float *)exact, found, V * sizeof *found);
    else
        s->divergences[round - 1] += divergence_of(exact, found, s->config.vocab_size);
    free(found);
}

void sensitivity_importance(const sensitivity *s, comm *c, double *importance) {
    const int64_t n = n_bent(&s->config);
    double mean = 0;
    memcpy(importance, s->divergences, (size_t)n * sizeof *importance);
    comm_broadcast(c, importance, (size_t)n * sizeof *importance, comm_size(c) - 1);
    for (int64_t i = 0; i < n; i++) {
        importance[i] = 0.25 * log(fmax(importance[i], 1e-9));
        mean += importance[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++)
        importance[i] = exp(importance[i] - mean);
}
