/* The head: logits of a step's last rows, and what the device is asked about them. */
#include <assert.h>

#include "src/model_private.h"

void model_head(model *m, const float *x, const int32_t *rows, int n) {
    const device_ops *op = m->dev->ops;
    const model_config *c = &m->config;
    op->gather_rows(m->dev, x, rows, n, c->d_model, m->head_rows);
    op->rmsnorm(m->dev, m->head_rows, m->final_norm, c->rms_norm_eps, n, c->d_model, m->act);
    op->matmul(m->dev, m->head, m->act, n, n, m->logits);
}

void model_copy_logits(model *m, int i, float *host_logits) {
    size_t V = (size_t)m->config.vocab_size;
    m->dev->ops->copy_out(m->dev, host_logits, m->logits + (size_t)i * V, V * sizeof(float));
}

bool model_answers(const model *m) {
    return m->answer != NULL;
}

const float *model_host_logits(const model *m, int i) {
    assert(m->dev->host_memory);
    return m->logits + (size_t)i * (size_t)m->config.vocab_size;
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

status model_logits(model *m, const float *x, const int32_t *rows, int n, float *host_logits) {
    region before = trace_enter(m->trace, REGION_HEAD);
    model_head(m, x, rows, n);
    for (int i = 0; i < n; i++)
        model_copy_logits(m, i, host_logits + (size_t)i * (size_t)m->config.vocab_size);
    status st = model_sync(m);
    trace_enter(m->trace, before);
    return st;
}
