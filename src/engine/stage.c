#include "src/engine/stage.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/token_set.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

/* The last stage's view of the sequence in a slot. */
typedef struct slot_state {
    int64_t sequence_id;
    sampling_options sampling;
    uint32_t *seen;     /* token_set so far, for the repetition penalty; NULL until one asks for it */
    int64_t logits_pos; /* of the logits that are kept of it; -1: none */
    int64_t n_lost;     /* pages of any slot when this one was looked at last */
    bool has_lost;      /* a page, and it was told */
} slot_state;

/* A row whose logits are wanted, and for what. */
typedef struct head_row {
    int32_t row;
    int32_t target; /* NO_TARGET: sample for span */
    int64_t pos;
    const step_span *span;
} head_row;

struct stage {
    const model_config *config;
    slice slice;
    model *model;
    kv_cache *kv;
    kv_walk *walk;  /* NULL: all pages are in memory */
    evictor *evict; /* NULL: nothing is evicted */
    uint64_t weight_bytes;
    trace *trace;
    slot_state *slots;
    span *spans;
    head_row *head_rows;
    int n_slots;
    bool keeps_logits;
    stage_seconds *seconds; /* NULL: nobody asks */
    stage_stats stats;
    const probe *probe;   /* NULL: there is none */
    float *probed_logits; /* [HEAD_ROWS, V], where on_scored is wanted */
};

stage *stage_open(const model_config *config, slice s, model *m, kv_cache *kv, const evict_policy *evict,
                  uint64_t weight_bytes, int n_slots, int max_rows, trace *t) {
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
        .n_slots = n_slots,
    };
    int64_t windows[MODEL_MAX_LAYERS];
    for (int l = s.first_layer; l < s.last_layer; l++)
        windows[l - s.first_layer] = model_config_window(config, l);
    if (kv_cache_tier(kv)) g->walk = kv_walk_open(kv, windows);
    if (evict->kind != EVICT_NOTHING) g->evict = evictor_open(evict, config, s.first_layer, s.last_layer, kv);
    return g;
}

void stage_close(stage *g) {
    if (!g) return;
    kv_walk_close(g->walk);
    evictor_close(g->evict);
    for (int i = 0; i < g->n_slots; i++)
        free(g->slots[i].seen);
    free(g->slots);
    free(g->spans);
    free(g->head_rows);
    free(g->probed_logits);
    free(g);
}

/* Its first n_cached tokens are loaded. */
static void start_sequence(stage *g, const step_start *start, int64_t n_cached) {
    slot_state *slot = &g->slots[start->slot];
    if (g->evict) evictor_begin(g->evict, start->slot, n_cached, start->evict_at);
    slot->sequence_id = start->sequence_id;
    slot->sampling = start->sampling;
    slot->logits_pos = -1;
    slot->has_lost = false;
    slot->n_lost = 0;
    if (!slice_has_head(g->slice) || start->sampling.repetition_penalty == 1) return;
    size_t words = token_set_words(g->config->vocab_size);
    if (!slot->seen) slot->seen = mem_new(words, sizeof *slot->seen);
    memset(slot->seen, 0, words * sizeof *slot->seen);
}

static void note_seen(stage *g, int slot_number, const int32_t *tokens, int64_t n) {
    slot_state *slot = &g->slots[slot_number];
    if (!slice_has_head(g->slice) || slot->sampling.repetition_penalty == 1) return;
    for (int64_t i = 0; i < n; i++)
        token_set_add(slot->seen, tokens[i]);
}

void stage_start_cached(stage *g, const step_start *start, const int32_t *tokens, int64_t n_tokens) {
    start_sequence(g, start, n_tokens);
    note_seen(g, start->slot, tokens, n_tokens);
}

void stage_release(stage *g, const step *todo) {
    if (g->walk && todo->n_releases > 0) kv_walk_rest(g->walk);
    for (int i = 0; i < todo->n_releases; i++) {
        if (g->evict) evictor_end(g->evict, todo->releases[i]);
        kv_cache_release(g->kv, todo->releases[i]);
    }
}

/* Starts, and pages for the rows; fills g->spans. */
static void prepare(stage *g, const step *todo) {
    for (int i = 0; i < todo->n_starts; i++)
        start_sequence(g, &todo->starts[i], 0);
    int row = 0;
    for (int i = 0; i < todo->n_spans; i++) {
        const step_span *wanted = &todo->spans[i];
        note_seen(g, wanted->slot, todo->tokens + row, wanted->n_rows);
        g->spans[i] = (span){
            .row0 = row,
            .n_rows = wanted->n_rows,
            .pos0 = wanted->pos0,
            .slot = wanted->slot,
            .is_generated = wanted->is_generated,
        };
        row += wanted->n_rows;
    }
    assert(row == todo->n_rows);
    kv_cache_settle(g->kv);
    if (g->walk) kv_walk_announce(g->walk, todo->n_spans, g->spans);
    for (const span *s = g->spans; s < g->spans + todo->n_spans; s++)
        kv_cache_extend(g->kv, s->slot, s->pos0, s->pos0 + s->n_rows);
}

static void count(stage *g, const step *todo) {
    g->stats.n_steps++;
    g->stats.n_rows += todo->n_rows;
    g->stats.weight_bytes += (double)g->weight_bytes;
    for (int i = 0; i < todo->n_spans; i++) {
        const step_span *s = &todo->spans[i];
        int64_t removed[MODEL_MAX_LAYERS];
        for (int l = 0; l < g->slice.last_layer - g->slice.first_layer; l++)
            removed[l] = kv_cache_removed(g->kv, l)[s->slot];
        model_cost cost = model_rows_cost(g->config, g->slice, model_kv_type(g->model),
                                          model_kv_layout(g->model), s->pos0, removed, s->n_rows);
        g->stats.kv_bytes += cost.kv_bytes;
        g->stats.flops += cost.flops;
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
                g->head_rows[n++] = (head_row){row0 + k, todo->targets[row0 + k], wanted->pos0 + k, wanted};
        if (wanted->want == WANT_TOKEN || wanted->want == WANT_LOGITS)
            g->head_rows[n++] =
                (head_row){row0 + wanted->n_rows - 1, NO_TARGET, wanted->pos0 + wanted->n_rows - 1, wanted};
    }
    return n;
}

static slot_state *slot_of(const stage *g, const head_row *h) {
    return &g->slots[h->span->slot];
}

static bool wants_token(const head_row *h) {
    return h->target == NO_TARGET && h->span->want == WANT_TOKEN;
}

/* Keep what a save may ask for of n rows. Sequences that run for long have slots in their order, so that all
 * are one operation. */
static void keep_logits(stage *g, const head_row *wanted, int n) {
    for (int i = 0, end; i < n; i = end) {
        end = i + 1;
        if (wanted[i].target != NO_TARGET) continue;
        const int slot = wanted[i].span->slot;
        while (end < n && wanted[end].target == NO_TARGET && wanted[end].span->slot == slot + end - i)
            end++;
        model_keep_logits(g->model, i, end - i, slot);
        for (int k = i; k < end; k++)
            slot_of(g, &wanted[k])->logits_pos = wanted[k].pos;
    }
}

/* Ask the device for the rows' tokens and scores; how many of its largest logits each row gets. */
static int ask(stage *g, const head_row *wanted, int n) {
    row_sampling rows[HEAD_ROWS];
    int32_t targets[HEAD_ROWS];
    int n_tokens = 0, n_scores = 0, k = 0;
    for (int i = 0; i < n; i++) {
        const head_row *h = &wanted[i];
        const slot_state *slot = slot_of(g, h);
        targets[i] = h->target;
        rows[i] = (row_sampling){0};
        n_scores += h->target != NO_TARGET;
        if (!wants_token(h)) continue;
        rows[i] = sampler_row(&slot->sampling, slot->sequence_id, h->pos + 1, slot->seen);
        n_tokens++;
        if (slot->sampling.n_logprobs > k) k = (int)slot->sampling.n_logprobs;
    }
    if (n_tokens > 0) model_choose(g->model, n, rows);
    if (n_scores > 0) model_score(g->model, n, targets);
    if (k > 0) model_find_top(g->model, n, k);
    return k;
}

static void take_answers(const stage *g, const head_row *wanted, int n, int k, step_reply *reply) {
    const model_answer *a = model_get_answer(g->model);
    for (int i = 0; i < n; i++) {
        if (wanted[i].target != NO_TARGET) reply->scores[reply->n_scores++] = a->scores[i];
        if (wants_token(&wanted[i]))
            sampler_finish(&slot_of(g, &wanted[i])->sampling, &a->choices[i], a->top_values + i * k,
                           a->top_ids + i * k, &reply->choices[reply->n_choices++]);
    }
}

static status show_scored(stage *g, const head_row *wanted, int n) {
    status st = model_read_logits(g->model, n, g->probed_logits);
    for (int i = 0; st == STATUS_OK && i < n; i++) {
        const head_row *h = &wanted[i];
        if (h->target == NO_TARGET) continue;
        g->probe->on_scored(g->probe->context, slot_of(g, h)->sequence_id, h->pos, h->target,
                            g->probed_logits + (size_t)i * (size_t)g->config->vocab_size);
    }
    return st;
}

/* Up to HEAD_ROWS rows of the head. What a device does while it is waited for is mostly the head. */
static status answer_rows(stage *g, const head_row *wanted, int n, const float *x, step_reply *reply) {
    int32_t rows[HEAD_ROWS];
    region before = trace_enter(g->trace, REGION_HEAD);
    for (int i = 0; i < n; i++)
        rows[i] = wanted[i].row;
    model_head(g->model, x, rows, n);
    if (g->keeps_logits) keep_logits(g, wanted, n);
    trace_enter(g->trace, REGION_SAMPLE);
    int k = ask(g, wanted, n);
    trace_enter(g->trace, REGION_HEAD);
    status st = model_sync(g->model);
    trace_enter(g->trace, REGION_SAMPLE);
    if (st == STATUS_OK) take_answers(g, wanted, n, k, reply);
    if (st == STATUS_OK && g->probe && g->probe->on_scored) st = show_scored(g, wanted, n);
    trace_enter(g->trace, before);
    return st;
}

/* The n head rows of the step. */
static status answer(stage *g, int n, const float *x, step_reply *reply) {
    if (n == 0) return model_check(g->model);
    status st = STATUS_OK;
    for (int at = 0; st == STATUS_OK && at < n; at += HEAD_ROWS)
        st = answer_rows(g, g->head_rows + at, n - at < HEAD_ROWS ? n - at : HEAD_ROWS, x, reply);
    g->stats.flops += n * model_head_flops(g->config);
    return st;
}

/* The same of a step that is timed. */
static status time_answer(stage *g, int n, const float *x, step_reply *reply, double begin) {
    status st = model_sync(g->model);
    double middle = clock_seconds();
    if (st == STATUS_OK) st = answer(g, n, x, reply);
    *g->seconds = (stage_seconds){middle - begin, clock_seconds() - middle, n};
    return st;
}

status stage_run(stage *g, const step *todo, float *x, step_reply *reply) {
    double begin = g->seconds ? clock_seconds() : 0;
    prepare(g, todo);
    count(g, todo);
    if (slice_embeds(g->slice)) model_embed(g->model, todo->tokens, todo->n_rows, x);
    model_forward(g->model, g->kv, g->walk, g->evict, todo->n_spans, g->spans, todo->n_rows, x);
    int n = 0;
    if (slice_has_head(g->slice)) {
        n = list_head_rows(g, todo);
        reply->n_choices = reply->n_scores = 0;
    }
    return g->seconds ? time_answer(g, n, x, reply, begin) : answer(g, n, x, reply);
}

void stage_evict(stage *g, const step *todo) {
    for (const step_span *s = todo->spans; g->evict && s < todo->spans + todo->n_spans; s++) {
        if (!evictor_is_due(g->evict, s->slot, s->pos0 + s->n_rows)) continue;
        region before = trace_enter(g->trace, REGION_EVICT);
        if (g->walk) kv_walk_rest(g->walk);
        evictor_run(g->evict, s->slot);
        trace_enter(g->trace, before);
    }
}

void stage_time_steps(stage *g, stage_seconds *out) {
    g->seconds = out;
}

status stage_keep_logits(stage *g) {
    status st = model_open_kept(g->model, g->n_slots);
    g->keeps_logits = st == STATUS_OK;
    return st;
}

bool stage_has_logits(const stage *g, int slot, int64_t pos) {
    return g->keeps_logits && g->slots[slot].logits_pos == pos;
}

status stage_read_logits(const stage *g, int slot, float *host_logits) {
    return model_read_kept(g->model, slot, host_logits);
}

bool stage_has_lost(stage *g, int slot, char *text) {
    kv_tier *tier = kv_cache_tier(g->kv);
    bool is_lost = false;
    if (!tier || kv_tier_n_lost(tier) == g->slots[slot].n_lost || g->slots[slot].has_lost) return false;
    g->slots[slot].n_lost = kv_tier_n_lost(tier);
    for (int l = 0; l < g->slice.last_layer - g->slice.first_layer && !is_lost; l++) {
        const int32_t *table = kv_cache_table(g->kv, slot, l);
        const int64_t end = kv_cache_end_page(g->kv, slot, l);
        for (int64_t i = kv_cache_first_kept(g->kv, slot, l) / kv_cache_shape(g->kv)->format.page_tokens;
             i < end && !is_lost; i++)
            is_lost = kv_tier_is_lost(tier, table[i], text);
    }
    g->slots[slot].has_lost = is_lost;
    return is_lost;
}

int64_t stage_sequence_id(const stage *g, int slot) {
    return g->slots[slot].sequence_id;
}

void stage_use_probe(stage *g, const probe *p) {
    g->probe = p;
    free(g->probed_logits);
    g->probed_logits =
        p->on_scored && slice_has_head(g->slice)
            ? mem_new((size_t)HEAD_ROWS * (size_t)g->config->vocab_size, sizeof *g->probed_logits)
            : NULL;
}

stage_stats stage_get_stats(const stage *g) {
    return g->stats;
}
