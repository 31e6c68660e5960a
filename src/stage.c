#include "src/stage.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

/* The last stage's view of the sequence in a slot. */
typedef struct slot_state {
    int64_t sequence_id;
    sampling_options sampling;
    bool *seen;         /* [V] tokens so far, for the repetition penalty; NULL until one asks for it */
    float *last_logits; /* [V]; NULL unless they are kept */
    int64_t logits_pos; /* theirs; -1: none yet */
} slot_state;

/* A row whose logits are wanted, and for what. */
typedef struct head_row {
    int32_t row;
    int32_t target; /* NO_TARGET: sample for span */
    const step_span *span;
} head_row;

struct stage {
    const model_config *config;
    slice slice;
    model *model;
    kv_cache *kv;
    uint64_t weight_bytes;
    trace *trace;
    slot_state *slots;
    span *spans;
    head_row *head_rows;
    sampler *sampler;
    int n_slots;
    bool keeps_logits;
    stage_stats stats;
};

stage *stage_open(const model_config *config, slice s, model *m, kv_cache *kv, uint64_t weight_bytes,
                  int n_slots, int max_rows, trace *t) {
    stage *g = mem_new(1, sizeof *g);
    *g = (stage){
        .config = config,
        .slice = s,
        .model = m,
        .kv = kv,
        .weight_bytes = weight_bytes,
        .trace = t,
        .slots = mem_new((size_t)n_slots, sizeof(slot_state)),
        .spans = mem_new((size_t)n_slots, sizeof(span)),
        .head_rows = mem_new((size_t)max_rows, sizeof(head_row)),
        .sampler = slice_has_head(s) ? sampler_open(config->vocab_size) : NULL,
        .n_slots = n_slots,
    };
    return g;
}

void stage_close(stage *g) {
    if (!g) return;
    for (int i = 0; i < g->n_slots; i++) {
        free(g->slots[i].seen);
        free(g->slots[i].last_logits);
    }
    free(g->slots);
    free(g->spans);
    free(g->head_rows);
    sampler_close(g->sampler);
    free(g);
}

static void start_sequence(stage *g, const step_start *start) {
    slot_state *slot = &g->slots[start->slot];
    slot->sequence_id = start->sequence_id;
    slot->sampling = start->sampling;
    slot->logits_pos = -1;
    size_t V = (size_t)g->config->vocab_size;
    if (!slice_has_head(g->slice) || start->sampling.repetition_penalty == 1) return;
    if (!slot->seen) slot->seen = mem_new(V, sizeof(bool));
    memset(slot->seen, 0, V * sizeof(bool));
}

static void note_seen(stage *g, int slot_number, const int32_t *tokens, int64_t n) {
    slot_state *slot = &g->slots[slot_number];
    if (!slice_has_head(g->slice) || slot->sampling.repetition_penalty == 1) return;
    for (int64_t i = 0; i < n; i++)
        slot->seen[tokens[i]] = true;
}

void stage_start_cached(stage *g, const step_start *start, const int32_t *tokens, int64_t n_tokens) {
    start_sequence(g, start);
    note_seen(g, start->slot, tokens, n_tokens);
}

void stage_release(stage *g, const step *todo) {
    for (int i = 0; i < todo->n_releases; i++)
        kv_cache_release(g->kv, todo->releases[i]);
}

/* Starts, and pages for the rows; fills g->spans. */
static void prepare(stage *g, const step *todo) {
    for (int i = 0; i < todo->n_starts; i++)
        start_sequence(g, &todo->starts[i]);
    int row = 0;
    for (int i = 0; i < todo->n_spans; i++) {
        const step_span *wanted = &todo->spans[i];
        kv_cache_extend(g->kv, wanted->slot, wanted->pos0 + wanted->n_rows);
        note_seen(g, wanted->slot, todo->tokens + row, wanted->n_rows);
        g->spans[i] = (span){
            .row0 = row,
            .n_rows = wanted->n_rows,
            .pos0 = wanted->pos0,
            .page_ids = kv_cache_page_ids(g->kv, wanted->slot),
            .is_generated = wanted->is_generated,
        };
        row += wanted->n_rows;
    }
    assert(row == todo->n_rows);
}

static void count(stage *g, const step *todo) {
    g->stats.n_steps++;
    g->stats.n_rows += todo->n_rows;
    g->stats.weight_bytes += (double)g->weight_bytes;
    for (int i = 0; i < todo->n_spans; i++) {
        model_cost cost = model_rows_cost(g->config, g->slice, model_precision(g->model), todo->spans[i].pos0,
                                          todo->spans[i].n_rows);
        g->stats.kv_bytes += cost.kv_bytes;
        g->stats.flops += cost.layer_flops;
    }
}

/* The rows that the head is wanted for, in the order of the step. */
static int list_head_rows(stage *g, const step *todo) {
    int n = 0;
    for (int i = 0; i < todo->n_spans; i++) {
        const step_span *wanted = &todo->spans[i];
        int row0 = g->spans[i].row0;
        for (int k = 0; wanted->want == WANT_SCORES && k < wanted->n_rows; k++)
            if (todo->targets[row0 + k] != NO_TARGET)
                g->head_rows[n++] = (head_row){row0 + k, todo->targets[row0 + k], wanted};
        if (wanted->want == WANT_TOKEN || wanted->want == WANT_LOGITS)
            g->head_rows[n++] = (head_row){row0 + wanted->n_rows - 1, NO_TARGET, wanted};
    }
    return n;
}

static void keep_logits(const stage *g, slot_state *slot, int64_t pos, const float *logits) {
    size_t bytes = (size_t)g->config->vocab_size * sizeof(float);
    if (!slot->last_logits) slot->last_logits = mem_new(1, bytes);
    memcpy(slot->last_logits, logits, bytes);
    slot->logits_pos = pos;
}

/* The row's logits, all of them: a score, a choice, or what a save keeps. */
static void use_logits(stage *g, const head_row *h, const float *logits, step_reply *reply) {
    if (h->target != NO_TARGET) {
        reply->scores[reply->n_scores++] = (float)sampler_nll(logits, g->config->vocab_size, h->target);
        return;
    }
    slot_state *slot = &g->slots[h->span->slot];
    int64_t pos = h->span->pos0 + h->span->n_rows;
    if (g->keeps_logits) keep_logits(g, slot, pos - 1, logits);
    if (h->span->want == WANT_LOGITS) return;
    sampler_choose(g->sampler, &slot->sampling, slot->sequence_id, pos, slot->seen, logits,
                   &reply->choices[reply->n_choices++]);
}

/* How many of a row's largest logits are enough; 0: all are needed. Depends on nothing but the row. */
static int top_needed(const stage *g, const head_row *h) {
    if (!model_finds_top(g->model) || g->keeps_logits || h->span->want != WANT_TOKEN) return 0;
    return sampler_top_needed(&g->slots[h->span->slot].sampling, g->config->vocab_size, DEVICE_MAX_TOP);
}

static bool use_top(stage *g, const head_row *h, model_top top, int k, step_reply *reply) {
    const slot_state *slot = &g->slots[h->span->slot];
    const sampler_top of_row = {k, top.values, top.ids, top.sums[0], top.sums[1]};
    if (!sampler_choose_top(g->sampler, &slot->sampling, slot->sequence_id, h->span->pos0 + h->span->n_rows,
                            &of_row, &reply->choices[reply->n_choices]))
        return false;
    reply->n_choices++;
    return true;
}

/* Up to HEAD_ROWS rows of the head. */
static status answer_rows(stage *g, const head_row *wanted, int n, const float *x, step_reply *reply) {
    int32_t rows[HEAD_ROWS];
    int needed[HEAD_ROWS], most = 0;
    const float *logits[HEAD_ROWS] = {NULL};
    region before = trace_enter(g->trace, REGION_HEAD);
    for (int i = 0; i < n; i++)
        rows[i] = wanted[i].row;
    model_head(g->model, x, rows, n);
    for (int i = 0; i < n; i++) {
        needed[i] = top_needed(g, &wanted[i]);
        if (needed[i] > most) most = needed[i];
        if (!needed[i]) logits[i] = model_fetch_logits(g->model, i);
    }
    if (most > 0) model_fetch_top(g->model, n, most);
    status st = model_sync(g->model);
    trace_enter(g->trace, REGION_SAMPLE);
    for (int i = 0; st == STATUS_OK && i < n; i++) {
        if (needed[i] && use_top(g, &wanted[i], model_get_top(g->model, i, most), needed[i], reply)) continue;
        if (needed[i]) { /* numbers are missing or infinite */
            logits[i] = model_fetch_logits(g->model, i);
            st = model_sync(g->model);
        }
        if (st == STATUS_OK) use_logits(g, &wanted[i], logits[i], reply);
    }
    trace_enter(g->trace, before);
    return st;
}

static status answer(stage *g, const step *todo, const float *x, step_reply *reply) {
    reply->n_choices = reply->n_scores = 0;
    int n = list_head_rows(g, todo);
    if (n == 0) return model_check(g->model);
    status st = STATUS_OK;
    for (int at = 0; st == STATUS_OK && at < n; at += HEAD_ROWS)
        st = answer_rows(g, g->head_rows + at, n - at < HEAD_ROWS ? n - at : HEAD_ROWS, x, reply);
    g->stats.flops += n * model_rows_cost(g->config, g->slice, model_precision(g->model), 0, 0).head_flops;
    return st;
}

status stage_run(stage *g, const step *todo, float *x, step_reply *reply) {
    prepare(g, todo);
    count(g, todo);
    if (slice_embeds(g->slice)) model_embed(g->model, todo->tokens, todo->n_rows, x);
    model_forward(g->model, g->kv, todo->n_spans, g->spans, todo->n_rows, x);
    return slice_has_head(g->slice) ? answer(g, todo, x, reply) : model_check(g->model);
}

void stage_keep_logits(stage *g) {
    g->keeps_logits = true;
}

const float *stage_last_logits(const stage *g, int slot_number, int64_t pos) {
    const slot_state *slot = &g->slots[slot_number];
    return slot->last_logits && slot->logits_pos == pos ? slot->last_logits : NULL;
}

stage_stats stage_get_stats(const stage *g) {
    return g->stats;
}
