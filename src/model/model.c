#include "src/model/model.h"

#include <math.h>
#include <stdlib.h>

#include "src/base/alive.h"
#include "src/model/model_private.h"
#include "src/model/rope.h"

uint64_t model_workspace_bytes(const model_config *c, slice s, precision prec, int max_rows) {
    uint64_t act = dtype_bytes(precision_act(prec)), rows = (uint64_t)max_rows;
    model_widths w = model_get_widths(c);
    uint64_t floats = rows * (uint64_t)(w.wide + c->head_dim);
    uint64_t acts = rows * (uint64_t)(w.act + w.narrow);
    if (!slice_has_head(s)) return floats * sizeof(float) + acts * act;
    floats += (uint64_t)HEAD_ROWS * (uint64_t)(c->vocab_size + c->d_model);
    return floats * sizeof(float) + acts * act + cpu_choose_bytes(c->vocab_size);
}

/* A place's score takes as many operations as its key has elements, for each head, and its share of the
 * result as many as its value has. */
model_cost model_rows_cost(const model_config *c, slice s, dtype kv, kv_layout layout, int64_t history,
                           const int64_t *removed, int64_t n_rows) {
    const kv_format page = model_kv_format(c, kv, layout, KV_PAGE_QUANTUM);
    const double n = (double)n_rows, attended = (double)c->n_heads * (page.k_width + page.v_width);
    model_cost cost = {0};
    for (int l = s.first_layer; l < s.last_layer; l++) {
        int64_t window = model_config_window(c, l);
        int64_t there = history - (removed ? removed[l - s.first_layer] : 0);
        double seen = (double)(window > 0 && there > window ? window : there);
        cost.flops += 2 * n * layer_elements(c, l) + 2 * attended * n * (seen + (n + 1) / 2);
        cost.kv_bytes += (seen + n) * (double)kv_page_bytes(&page) / KV_PAGE_QUANTUM;
    }
    return cost;
}

double model_head_flops(const model_config *c) {
    return 2 * head_elements(c);
}

double model_kv_token_bytes(const model_config *c, dtype kv, kv_layout layout) {
    const kv_format page = model_kv_format(c, kv, layout, KV_PAGE_QUANTUM);
    return c->n_layers * (double)kv_page_bytes(&page) / KV_PAGE_QUANTUM;
}

/* Device memory for n items, or NULL and *st set; nothing when *st is a failure already. */
static void *take(model *m, size_t n, size_t item_bytes, status *st) {
    void *memory = NULL;
    if (*st == STATUS_OK)
        *st = status_at(m->dev->ops->alloc(m->dev, n * item_bytes, &memory), "workspace of a step");
    return memory;
}

status model_take_workspace(model *m) {
    size_t rows = (size_t)m->max_rows, act = dtype_bytes(m->dev->act);
    model_widths w = model_get_widths(&m->config);
    status st = STATUS_OK;
    m->wide = take(m, rows * (size_t)w.wide, sizeof(float), &st);
    m->cos_sin = take(m, rows * (size_t)m->config.head_dim, sizeof(float), &st);
    m->act = take(m, rows * (size_t)w.act, act, &st);
    m->narrow = take(m, rows * (size_t)w.narrow, act, &st);
    if (slice_has_head(m->slice)) {
        size_t n_logits = (size_t)HEAD_ROWS * (size_t)m->config.vocab_size;
        m->head_rows = take(m, (size_t)HEAD_ROWS * (size_t)m->config.d_model, sizeof(float), &st);
        m->logits = take(m, n_logits, sizeof(float), &st);
        void *answer = NULL;
        if (st == STATUS_OK) st = m->dev->ops->alloc_host(m->dev, sizeof *m->answer, &answer);
        m->answer = answer;
    }
    return st;
}

static attend_partials partials_of(const model_config *c, int n_rows) {
    return (attend_partials){.n_rows = n_rows, .n_heads = c->n_heads, .width = c->head_dim};
}

uint64_t model_partial_bytes(const model_config *c, int max_rows, int64_t longest_tokens) {
    const attend_partials p = partials_of(c, max_rows);
    const attend_nodes all = attend_nodes_seen(0, longest_tokens - 1, 0, ATTEND_NODE_LEVEL);
    return (uint64_t)all.last * attend_node_floats(&p) * sizeof(float);
}

status model_open_partials(model *m, int64_t longest_tokens) {
    status st = STATUS_OK;
    m->partials = take(m, model_partial_bytes(&m->config, m->max_rows, longest_tokens), 1, &st);
    return st;
}

void model_embed(model *m, const int32_t *tokens, int T, float *x) {
    region before = trace_enter(m->trace, REGION_EMBED);
    m->dev->ops->embed(m->dev, m->embedding, tokens, T, x);
    trace_enter(m->trace, before);
}

/* Part by part, as their pages come. */
static void attend_on_walk(model *m, const attention_shape *shape, const kv_layer *kv, kv_walk *walk, int T) {
    const attend_partials p = partials_of(&m->config, T);
    for (kv_extent e;;) {
        trace_enter(m->trace, REGION_PAGE_WAIT);
        const bool any = kv_walk_next(walk, &e);
        trace_enter(m->trace, REGION_ATTEND);
        if (!any) return;
        float *to = m->partials + (size_t)(e.part.nodes.first - e.all.first) * attend_node_floats(&p);
        m->dev->ops->attend_part(m->dev, shape, kv, &e.part, m->narrow, to);
        if (e.part.nodes.last < e.all.last) continue;
        const attend_extent whole = {e.part.first_span, e.part.last_span, e.all};
        m->dev->ops->attend_merge(m->dev, shape, &whole, m->partials, m->act);
    }
}

/* x += o(attend(rope(qkv(norm(x))))), of a layer of the slice */
static void attention_block(model *m, int index, const kv_cache *cache, kv_walk *walk, evictor *evict,
                            int n_spans, const span *spans, int T, int T_few, float *x) {
    const device_ops *op = m->dev->ops;
    const model_config *c = &m->config;
    const layer *l = &m->layers[index];
    const qkv_weights finish = {l->qkv_bias, l->q_norm, l->k_norm, c->rms_norm_eps};
    const attention_shape shape = {
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .scale = 1 / sqrtf((float)c->head_dim),
        .window = model_config_window(c, m->slice.first_layer + index),
        .removed = kv_cache_removed(cache, index),
    };
    const kv_layer kv = kv_cache_layer(cache, index);

    trace_enter(m->trace, REGION_NORM);
    op->rmsnorm(m->dev, x, l->attention_norm, c->rms_norm_eps, T, c->d_model, m->act);
    trace_enter(m->trace, REGION_QKV);
    op->matmul(m->dev, l->qkv, m->act, T, T_few, m->wide);
    if (walk) {
        trace_enter(m->trace, REGION_PAGE_WAIT);
        kv_walk_enter(walk, index);
    }
    if (evict) {
        trace_enter(m->trace, REGION_EVICT);
        evictor_see_queries(evict, index, &shape, &finish, n_spans, spans, m->wide);
    }
    trace_enter(m->trace, REGION_ROPE_APPEND);
    op->kv_append(m->dev, &shape, &finish, m->cos_sin, &kv, m->wide, m->narrow);
    trace_enter(m->trace, REGION_ATTEND);
    if (walk)
        attend_on_walk(m, &shape, &kv, walk, T);
    else
        op->attend(m->dev, &shape, &kv, m->narrow, m->act);
    if (evict) {
        trace_enter(m->trace, REGION_EVICT);
        evictor_see_attention(evict, index, n_spans, spans, m->narrow);
    }
    trace_enter(m->trace, REGION_OUTPUT);
    op->matmul_add(m->dev, l->output, m->act, T, T_few, x);
    if (l->output_bias) op->add_bias(m->dev, l->output_bias, T, c->d_model, x);
}

/* x += down(silu(gate(norm(x))) * up(norm(x))) */
static void mlp_block(model *m, const layer *l, int T, int T_few, float *x) {
    const device_ops *op = m->dev->ops;
    const model_config *c = &m->config;

    trace_enter(m->trace, REGION_NORM);
    op->rmsnorm(m->dev, x, l->mlp_norm, c->rms_norm_eps, T, c->d_model, m->narrow);
    trace_enter(m->trace, REGION_MLP);
    op->matmul_swiglu(m->dev, l->gate_up, m->narrow, T, T_few, m->wide, m->act);
    op->matmul_add(m->dev, l->down, m->act, T, T_few, x);
}

void model_forward(model *m, const kv_cache *kv, kv_walk *walk, evictor *evict, int n_spans,
                   const span *spans, int T, float *x) {
    const model_config *c = &m->config;
    region before = trace_enter(m->trace, REGION_ROPE_APPEND);
    int T_few = 0;
    for (int i = 0; i < n_spans && spans[i].is_generated; i++)
        T_few += spans[i].n_rows;
    if (walk) kv_walk_begin(walk, n_spans, spans);
    m->dev->ops->begin_step(m->dev, n_spans, spans);
    m->dev->ops->rope_table(m->dev, m->inverse_frequencies, m->rope_factor, c->head_dim, m->cos_sin);
    /* A recorded step would find its pages where they were when it was recorded, and wait for none. */
    if (!walk && m->dev->ops->replay(m->dev, x)) {
        trace_enter(m->trace, before);
        return;
    }
    for (int i = 0; i < m->slice.last_layer - m->slice.first_layer; i++) {
        alive_say();
        attention_block(m, i, kv, walk, evict, n_spans, spans, T, T_few, x);
        mlp_block(m, &m->layers[i], T, T_few, x);
    }
    m->dev->ops->record_end(m->dev);
    trace_enter(m->trace, before);
}

slice model_slice(const model *m) {
    return m->slice;
}

status model_sync(model *m) {
    return m->dev->ops->sync(m->dev);
}

status model_check(model *m) {
    return m->dev->ops->check(m->dev);
}

dtype model_kv_type(const model *m) {
    return m->dev->kv;
}

kv_layout model_kv_layout(const model *m) {
    return m->dev->kv_layout;
}
