/* The head: logits of a step's last rows, and what the device is asked about them. */
#include <assert.h>

#include "src/model/model_private.h"

void model_head(model *m, const float *x, const int32_t *rows, int n) {
    const device_ops *op = m->dev->ops;
    const model_config *c = &m->config;
    op->gather_rows(m->dev, x, rows, n, c->d_model, m->head_rows);
    op->rmsnorm(m->dev, m->head_rows, m->final_norm, c->rms_norm_eps, n, c->d_model, m->act);
    op->matmul(m->dev, m->head, m->act, n, n, m->logits);
}

status model_read_logits(const model *m, int n, float *host_logits) {
    m->dev->ops->copy_out(m->dev, host_logits, m->logits,
                          (size_t)n * (size_t)m->config.vocab_size * sizeof *host_logits);
    return m->dev->ops->sync(m->dev);
}

void model_choose(model *m, int n, const row_sampling *rows) {
    m->dev->ops->choose(m->dev, m->logits, n, m->config.vocab_size, rows, m->answer->choices);
}

void model_score(model *m, int n, const int32_t *targets) {
    m->dev->ops->score(m->dev, m->logits, n, m->config.vocab_size, targets, m->answer->scores);
}

void model_find_top(model *m, int n, int k) {
    m->dev->ops->top_logits(m->dev, m->logits, n, m->config.vocab_size, k, m->answer->top_values,
                            m->answer->top_ids);
}

const model_answer *model_get_answer(const model *m) {
    return m->answer;
}

uint64_t model_kept_bytes(const model_config *c, slice s, int n_slots) {
    return slice_has_head(s) ? (uint64_t)n_slots * (uint64_t)c->vocab_size * sizeof(float) : 0;
}

status model_open_kept(model *m, int n_slots) {
    assert(!m->kept);
    void *memory = NULL;
    size_t bytes = (size_t)model_kept_bytes(&m->config, m->slice, n_slots);
    status st = m->dev->ops->alloc(m->dev, bytes, &memory);
    m->kept = memory;
    return status_at(st, "logits that saves need");
}

static float *kept_of(const model *m, int slot) {
    return m->kept + (size_t)slot * (size_t)m->config.vocab_size;
}

void model_keep_logits(model *m, int i, int n, int slot) {
    int32_t rows[HEAD_ROWS];
    for (int k = 0; k < n; k++)
        rows[k] = i + k;
    m->dev->ops->gather_rows(m->dev, m->logits, rows, n, m->config.vocab_size, kept_of(m, slot));
}

status model_read_kept(model *m, int slot, float *host_logits) {
    size_t bytes = (size_t)m->config.vocab_size * sizeof(float);
    m->dev->ops->copy_out(m->dev, host_logits, kept_of(m, slot), bytes);
    return model_sync(m);
}

status model_logits(model *m, const float *x, const int32_t *rows, int n, float *host_logits) {
    region before = trace_enter(m->trace, REGION_HEAD);
    model_head(m, x, rows, n);
    status st = model_read_logits(m, n, host_logits);
    trace_enter(m->trace, before);
    return st;
}
