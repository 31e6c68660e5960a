#include "src/study/simulate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/pipeline.h"
#include "src/base/memory.h"
#include "src/engine/schedule.h"
#include "src/model/kv_cache.h"

/* Times of a stage, as far as they are known: those of messages that come later follow from them. */
typedef struct stage_clock {
    double done;      /* with the last step */
    double link_free; /* to the next stage */
    double slot_free[PIPELINE_SLOTS];
} stage_clock;

/* A step whose reply was not taken yet. */
typedef struct step_on_way {
    planned_span *spans;
    int n_spans;
    double reply; /* when it is there */
} step_on_way;

typedef struct run {
    const simulation *setup;
    schedule *schedule;
    stage_clock *stages;
    step_on_way *steps; /* a ring of max_on_way */
    int max_on_way, first, n_on_way;
    int64_t *n_generated; /* [n_sequences] */
    int64_t n_started, n_ended;
    double decode_begin, busy_at_begin;
    simulation_result result;
} run;

/* ---- one step through the stages ---- */

/* Rows of prompts cost by one model, rows that decode by the other; what costs once costs once. */
static double layer_seconds(const simulation *m, const step_on_way *t) {
    double seconds = 0;
    int n_chunks = 0;
    for (int i = 0; i < t->n_spans; i++) {
        const planned_span *s = &t->spans[i];
        bool decodes = s->pos0 >= m->n_prompt;
        n_chunks += !decodes;
        seconds +=
            decodes ? step_costs_decode(&m->costs, (double)s->pos0, 1) - m->costs.decode.c
                    : chunk_model_seconds(&m->costs.prefill, (double)s->pos0, s->n_rows) - m->costs.prefill.c;
    }
    return seconds + (n_chunks > 0 ? m->costs.prefill.c : m->costs.decode.c);
}

static int count_rows(const step_on_way *t) {
    int n = 0;
    for (int i = 0; i < t->n_spans; i++)
        n += t->spans[i].n_rows;
    return n;
}

static int count_head_rows(const simulation *m, const step_on_way *t) {
    int n = 0;
    for (int i = 0; i < t->n_spans && m->n_new > 0; i++)
        n += t->spans[i].ends_prompt;
    return n;
}

static const link_speed *link_between(const simulation *m, int from, int to) {
    return from / m->stages_per_node == to / m->stages_per_node ? &m->within_node : &m->between_nodes;
}

/* Stage 0 begins with the step as soon as it can, from `now` on; returns when it is done with it. */
static double walk(run *r, step_on_way *t, double now) {
    const simulation *m = r->setup;
    double layer = layer_seconds(m, t), bytes = m->row_bytes * count_rows(t);
    int slot = (int)(r->result.n_steps++ % PIPELINE_SLOTS), last = m->n_stages - 1;
    double begin = fmax(now, r->stages[0].slot_free[slot]);
    for (int i = 0;; i++) {
        stage_clock *stage = &r->stages[i];
        double work = layer * m->n_layers[i];
        if (i == last) work += step_costs_head(&m->costs, count_head_rows(m, t));
        stage->done = begin + work;
        r->result.busy_seconds += work;
        if (i == last) break;
        const link_speed *link = link_between(m, i, i + 1);
        double send = fmax(stage->done, fmax(stage->link_free, r->stages[i + 1].slot_free[slot]));
        stage->link_free = stage->slot_free[slot] = send + bytes / link->bytes_per_second;
        begin = fmax(stage->link_free + link->seconds, r->stages[i + 1].done);
    }
    r->stages[last].slot_free[slot] = r->stages[last].done;
    t->reply = r->stages[last].done + link_between(m, last, 0)->seconds;
    return r->stages[0].done;
}

/* ---- stage 0 ---- */

static bool issue_step(run *r, double *now) {
    if (r->n_on_way == r->max_on_way) return false;
    step_on_way *t = &r->steps[(r->first + r->n_on_way) % r->max_on_way];
    t->n_spans = schedule_next(r->schedule, t->spans);
    if (t->n_spans == 0) return false;
    r->n_on_way++;
    *now = walk(r, t, *now);
    return true;
}

static void take_token(run *r, int64_t sequence, double at) {
    simulation_result *out = &r->result;
    bool decodes = r->n_started == r->setup->n_sequences && r->n_ended == 0;
    if (out->first_token_seconds == 0) out->first_token_seconds = at;
    if (r->n_generated[sequence]++ == 0 && ++r->n_started == r->setup->n_sequences) {
        r->decode_begin = at;
        r->busy_at_begin = out->busy_seconds;
    }
    if (decodes) {
        out->decode_tokens++;
        out->decode_seconds = at - r->decode_begin;
        out->decode_busy = out->busy_seconds - r->busy_at_begin;
    }
    if (r->n_generated[sequence] == r->setup->n_new) {
        r->n_ended++;
        schedule_finish(r->schedule, sequence);
    } else {
        schedule_continue(r->schedule, sequence);
    }
}

static void take_reply(run *r) {
    step_on_way *t = &r->steps[r->first];
    r->first = (r->first + 1) % r->max_on_way;
    r->n_on_way--;
    r->result.seconds = t->reply;
    for (int i = 0; i < t->n_spans; i++) {
        if (!t->spans[i].ends_prompt) continue;
        if (r->setup->n_new > 0)
            take_token(r, t->spans[i].sequence, t->reply);
        else
            schedule_finish(r->schedule, t->spans[i].sequence);
    }
}

static void run_all(run *r) {
    for (double now = 0;;) {
        while (r->n_on_way > 0 && r->steps[r->first].reply <= now)
            take_reply(r);
        if (issue_step(r, &now)) continue;
        if (r->n_on_way == 0) return;
        now = fmax(now, r->steps[r->first].reply);
    }
}

/* ---- begin and end ---- */

static void add_sequences(run *r) {
    const simulation *m = r->setup;
    for (int i = 0; i < m->n_sequences; i++)
        schedule_add(r->schedule, &(schedule_request){
                                      .n_prompt = m->n_prompt,
                                      .n_all = m->n_prompt + m->n_new,
                                      .n_cached = m->n_cached,
                                  });
    for (slot_tokens q; schedule_next_load(r->schedule, &q);)
        schedule_loaded(r->schedule, q.sequence);
}

simulation_result simulate(const simulation *m) {
    enum { PAGE_TOKENS = 64 }; /* there is always room: no page is ever waited for */
    size_t n = (size_t)m->n_sequences;
    run r = {.setup = m, .max_on_way = m->n_stages == 1 ? 1 : m->n_stages + 1};
    r.schedule = schedule_open(&(schedule_limits){
        .n_stages = m->n_stages,
        .n_slots = m->n_sequences,
        .chunk_tokens = m->chunk_tokens,
        .page_tokens = PAGE_TOKENS,
        .n_pages = m->n_sequences * kv_pages_for(m->n_prompt + m->n_new, PAGE_TOKENS),
    });
    if (m->chunks) schedule_use_chunks(r.schedule, m->chunks);
    r.stages = mem_new((size_t)m->n_stages, sizeof *r.stages);
    r.steps = mem_new((size_t)r.max_on_way, sizeof *r.steps);
    r.n_generated = mem_new(n, sizeof *r.n_generated);
    for (int i = 0; i < r.max_on_way; i++)
        r.steps[i].spans = mem_new(n, sizeof(planned_span));
    add_sequences(&r);
    run_all(&r);
    assert(schedule_n_left(r.schedule) == 0);
    for (int i = 0; i < r.max_on_way; i++)
        free(r.steps[i].spans);
    free(r.steps);
    free(r.stages);
    free(r.n_generated);
    schedule_close(r.schedule);
    return r.result;
}

double simulation_bubble(const simulation *m, const simulation_result *r) {
    return r->seconds > 0 ? 1 - r->busy_seconds / (r->seconds * m->n_stages) : 0;
}
