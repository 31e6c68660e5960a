/* The run of an engine: what every stage does with the steps that come, and how stage 0 makes them from
 * requests, and events from the replies. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/engine_private.h"

/* ---- every stage ---- */

static void run_stage(engine *e, pipeline_slot *slot) {
    status st = stage_run(e->stage, &e->step, slot->x, &e->reply);
    if (st != STATUS_OK) status_die("%s", status_text());
    bool is_last = comm_rank(e->comm) == comm_size(e->comm) - 1;
    if (is_last) pipeline_reply(e->pipe, e->reply_bytes, step_reply_write(&e->reply, e->reply_bytes));
    region before = trace_enter(&e->trace, REGION_SEND_WAIT);
    pipeline_forward(e->pipe, slot);
    trace_enter(&e->trace, before);
}

void engine_serve(engine *e) {
    for (;;) {
        trace_enter(&e->trace, REGION_RECEIVE_WAIT);
        pipeline_slot *slot = pipeline_receive(e->pipe);
        trace_enter(&e->trace, REGION_REST);
        step_read(slot->header, slot->n_header_bytes, &e->step);
        if (e->step.kind == STEP_STOP) {
            pipeline_forward(e->pipe, slot);
            return;
        }
        run_stage(e, slot);
    }
}

/* ---- stage 0 ---- */

void engine_submit(engine *e, const request *r) {
    assert(r->n_tokens > 0 && r->n_tokens + r->max_tokens <= e->options.longest_tokens);
    int64_t n = schedule_add(e->schedule, r->n_tokens, r->n_tokens + r->max_tokens);
    if (n >= e->n_active_capacity) {
        int64_t capacity = 2 * e->n_active_capacity + 16;
        e->active = mem_resize(e->active, (size_t)capacity, sizeof *e->active);
        memset(e->active + e->n_active_capacity, 0,
               (size_t)(capacity - e->n_active_capacity) * sizeof *e->active);
        e->n_active_capacity = capacity;
    }
    active *a = &e->active[n];
    *a = (active){
        .id = r->id,
        .sequence_id = r->sequence_id,
        .n_prompt = r->n_tokens,
        .max_tokens = r->max_tokens,
        .score_from = r->score_from,
        .sampling = r->sampling,
        .prompt = mem_new((size_t)r->n_tokens, sizeof(int32_t)),
    };
    memcpy(a->prompt, r->tokens, (size_t)r->n_tokens * sizeof(int32_t));
}

void engine_finish(engine *e, int64_t handle) {
    int slot = schedule_finish(e->schedule, handle);
    if (slot >= 0) e->releases[e->n_releases++] = slot;
    free(e->active[handle].prompt);
    e->active[handle].prompt = NULL;
    if (e->to_continue == handle) e->to_continue = -1;
}

static span_want wanted_of(const active *a, const planned_span *s) {
    if (a->score_from >= 0) return WANT_SCORES;
    return s->ends_prompt && a->max_tokens > 0 ? WANT_TOKEN : WANT_NOTHING;
}

/* Append the rows of a span to the step that is being made. */
static void add_span(engine *e, const planned_span *s) {
    const active *a = &e->active[s->sequence];
    step *t = &e->step;
    if (s->starts) t->starts[t->n_starts++] = (step_start){s->slot, a->sequence_id, a->sampling};
    t->spans[t->n_spans++] = (step_span){s->slot, s->n_rows, wanted_of(a, s), s->pos0};
    for (int i = 0; i < s->n_rows; i++) {
        int64_t pos = s->pos0 + i, next = pos + 1;
        bool scored = a->score_from >= 0 && next >= a->score_from && next < a->n_prompt;
        t->tokens[t->n_rows] = pos < a->n_prompt ? a->prompt[pos] : a->next_token;
        t->targets[t->n_rows] = scored ? a->prompt[next] : NO_TARGET;
        t->n_rows++;
    }
}

static int count_prompt_rows(const engine *e, const issued_step *s) {
    int n = 0;
    for (int i = 0; i < s->n_spans; i++)
        if (s->spans[i].pos0 < e->active[s->spans[i].sequence].n_prompt) n += s->spans[i].n_rows;
    return n;
}

/* Time since the last change belongs to prefill while prompt rows are on their way, else to decode. */
static void account_phase(engine *e) {
    double now = clock_seconds(), past = now - e->phase_begin;
    if (e->prompt_steps_in_flight > 0)
        e->times.prefill_seconds += past;
    else if (e->n_issued > 0)
        e->times.decode_seconds += past;
    e->phase_begin = now;
}

/* Make the next step, run stage 0 on it and send it on; false when nothing is ready. */
static bool issue_step(engine *e) {
    if (e->n_issued == e->max_in_flight) return false;
    issued_step *s = &e->issued[(e->first_issued + e->n_issued) % e->max_in_flight];
    s->n_spans = schedule_next(e->schedule, s->spans);
    if (s->n_spans == 0) return false;

    step_clear(&e->step);
    for (int i = 0; i < e->n_releases; i++)
        e->step.releases[e->step.n_releases++] = e->releases[i];
    e->n_releases = 0;
    for (int i = 0; i < s->n_spans; i++)
        add_span(e, &s->spans[i]);
    s->n_prompt_rows = count_prompt_rows(e, s);

    account_phase(e);
    e->n_issued++;
    e->prompt_steps_in_flight += s->n_prompt_rows > 0;
    region before = trace_enter(&e->trace, REGION_SEND_WAIT);
    pipeline_slot *slot = pipeline_begin(e->pipe);
    trace_enter(&e->trace, before);
    slot->n_header_bytes = step_write(&e->step, slot->header);
    slot->n_x_floats = (size_t)e->step.n_rows * (size_t)e->config.d_model;
    run_stage(e, slot);
    return true;
}

/* The oldest step's reply is at hand: its events are to be told. */
static bool take_reply(engine *e, bool wait) {
    region before = trace_enter(&e->trace, wait ? REGION_REPLY_WAIT : e->trace.current);
    const void *bytes = pipeline_take_reply(e->pipe, wait);
    trace_enter(&e->trace, before);
    if (!bytes) return false;
    step_reply_read(bytes, &e->reply);
    const issued_step *s = &e->issued[e->first_issued];
    account_phase(e);
    e->prompt_steps_in_flight -= s->n_prompt_rows > 0;
    e->times.prompt_tokens += s->n_prompt_rows;
    e->has_reply = true;
    e->next_span = e->next_choice = e->next_score = 0;
    return true;
}

/* Scores that this span of the reply holds. */
static int64_t count_scores(const active *a, const planned_span *s) {
    int64_t first = s->pos0 + 1 > a->score_from ? s->pos0 + 1 : a->score_from;
    int64_t end = s->pos0 + s->n_rows + 1 < a->n_prompt ? s->pos0 + s->n_rows + 1 : a->n_prompt;
    return end > first ? end - first : 0;
}

static void tell_token(engine *e, active *a, event *out) {
    out->kind = EVENT_TOKEN;
    out->choice = e->reply.choices[e->next_choice++];
    a->next_token = out->choice.token;
    a->n_generated++;
    out->is_last = a->n_generated == a->max_tokens;
    if (e->prompt_steps_in_flight > 0 || e->issued[e->first_issued].n_prompt_rows > 0)
        e->times.mixed_tokens++;
    else
        e->times.decode_tokens++;
    if (e->times.first_token_seconds == 0) e->times.first_token_seconds = clock_seconds() - e->clock_begin;
}

/* The next event of the reply in hand; false when it has no more. */
static bool tell_event(engine *e, event *out) {
    const issued_step *s = &e->issued[e->first_issued];
    while (e->next_span < s->n_spans) {
        const planned_span *told = &s->spans[e->next_span++];
        active *a = &e->active[told->sequence];
        *out = (event){.id = a->id, .handle = told->sequence};
        switch (wanted_of(a, told)) {
        case WANT_TOKEN:
            tell_token(e, a, out);
            break;
        case WANT_SCORES:
            out->kind = EVENT_SCORES;
            out->scores = e->reply.scores + e->next_score;
            out->n_scores = count_scores(a, told);
            out->is_last = told->ends_prompt;
            e->next_score += (int)out->n_scores;
            break;
        case WANT_NOTHING:
            if (!told->ends_prompt) continue;
            out->kind = EVENT_READ;
            out->is_last = true;
            break;
        }
        if (out->is_last)
            engine_finish(e, told->sequence);
        else if (out->kind == EVENT_TOKEN)
            e->to_continue = told->sequence;
        return true;
    }
    e->has_reply = false;
    e->first_issued = (e->first_issued + 1) % e->max_in_flight;
    account_phase(e);
    e->n_issued--;
    return false;
}

bool engine_next(engine *e, event *out) {
    if (e->to_continue >= 0) schedule_continue(e->schedule, e->to_continue);
    e->to_continue = -1;
    for (;;) {
        if (e->has_reply && tell_event(e, out)) return true;
        if (e->n_issued > 0 && take_reply(e, false)) continue;
        if (issue_step(e)) continue;
        if (e->n_issued == 0) return false;
        take_reply(e, true);
    }
}

void engine_stop(engine *e) {
    if (comm_size(e->comm) == 1) return;
    assert(e->n_issued == 0);
    step_clear(&e->step);
    e->step.kind = STEP_STOP;
    pipeline_slot *slot = pipeline_begin(e->pipe);
    slot->n_header_bytes = step_write(&e->step, slot->header);
    slot->n_x_floats = 0;
    pipeline_forward(e->pipe, slot);
}
