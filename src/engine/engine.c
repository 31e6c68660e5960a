/* The run of stage 0: steps are made from sessions, and events from the replies. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/engine/engine_private.h"
#include "src/engine/stop.h"

void engine_serve(engine *e) {
    worker_serve(&e->worker);
}

void engine_use_probe(engine *e, const probe *p) {
    e->worker.probe = *p;
    stage_use_probe(e->worker.stage, &e->worker.probe);
}

void engine_submit(engine *e, session *s) {
    const evict_policy *policy = &e->options.sizing.evict;
    assert(s->n_prompt > 0 && session_most_tokens(s) <= e->options.sizing.longest_tokens);
    s->n_known = (int64_t)s->tokens.n;
    if (policy->kind == EVICT_NOTHING)
        s->evict_at = 0;
    else if (s->evict_at == 0 && s->max_tokens > 0)
        s->evict_at = s->n_known;
    s->handle = schedule_add(
        e->schedule, &(schedule_request){
                         .n_prompt = s->n_known,
                         .n_generated = session_n_generated(s),
                         .n_all = session_most_tokens(s),
                         .n_cached = s->n_cached,
                         .cut_at = s->probe_at,
                         .evict_at = s->evict_at,
                         .n_left = evict_most_places(policy, s->evict_at),
                         .n_behind = evict_places_behind(policy, s->evict_at, session_most_tokens(s), 0, 2),
                         .evict_every = policy->every,
                     });
    e->sessions = mem_grow(e->sessions, (size_t)s->handle, sizeof(session *));
    e->sessions[s->handle] = s;
    e->n_unloaded += s->n_cached > 0;
}

void engine_finish(engine *e, session *s) {
    if (e->to_continue == s) e->to_continue = NULL;
    if (s->is_held)
        schedule_hold(e->schedule, s->handle);
    else
        engine_release(e, s);
}

void engine_release(engine *e, session *s) {
    int slot = schedule_finish(e->schedule, s->handle);
    if (slot >= 0) {
        e->releases[e->n_releases++] = slot;
        e->loads[slot].is_over = true;
    }
    e->sessions[s->handle] = NULL;
}

static session *session_of(const engine *e, const planned_span *s) {
    return e->sessions[s->sequence];
}

static span_want wanted_of(const session *q, const planned_span *s) {
    if (q->score_from >= 0) return WANT_SCORES;
    if (!s->ends_prompt) return WANT_NOTHING;
    if (q->max_tokens > 0) return WANT_TOKEN;
    return q->is_held ? WANT_LOGITS : WANT_NOTHING;
}

/* Append the rows of a span to the step that is being made. */
static void add_span(engine *e, const planned_span *s) {
    const session *q = session_of(e, s);
    step *t = &e->worker.step;
    if (s->starts) t->starts[t->n_starts++] = (step_start){s->slot, q->sequence_id, q->sampling, q->evict_at};
    t->spans[t->n_spans++] = (step_span){.slot = s->slot,
                                         .n_rows = s->n_rows,
                                         .want = wanted_of(q, s),
                                         .pos0 = s->pos0,
                                         .is_generated = s->is_generated,
                                         .is_probed = q->probe_at > 0 && s->pos0 + s->n_rows == q->probe_at};
    for (int i = 0; i < s->n_rows; i++) {
        int64_t pos = s->pos0 + i, next = pos + 1;
        bool scored = q->score_from >= 0 && next >= q->score_from && next < q->n_prompt;
        t->tokens[t->n_rows] = q->tokens.ids[pos];
        t->targets[t->n_rows] = scored ? q->tokens.ids[next] : NO_TARGET;
        t->n_rows++;
    }
}

static int count_prompt_rows(const engine *e, const issued_step *s) {
    int n = 0;
    for (int i = 0; i < s->n_spans; i++)
        if (s->spans[i].pos0 < session_of(e, &s->spans[i])->n_known) n += s->spans[i].n_rows;
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

/* Begin a step of this kind, with what was released since the last one. */
static void begin_step(engine *e, step_kind kind) {
    step_clear(&e->worker.step);
    e->worker.step.kind = kind;
    for (int i = 0; i < e->n_releases; i++)
        e->worker.step.releases[e->worker.step.n_releases++] = e->releases[i];
    e->n_releases = 0;
}

/* Send the step through the stages, this one first. */
static void send_step(engine *e) {
    region before = trace_enter(&e->worker.trace, REGION_SEND_WAIT);
    pipeline_slot *slot = pipeline_begin(e->worker.pipe);
    trace_enter(&e->worker.trace, before);
    slot->n_header_bytes = step_write(&e->worker.step, slot->header);
    slot->n_x_floats = (size_t)e->worker.step.n_rows * (size_t)e->config.d_model;
    worker_run_step(&e->worker, slot);
}

/* A step is on its way behind which so many of the session's tokens are in the cache. */
static void count_evicted(engine *e, const session *q, int64_t n_tokens) {
    const model_config *c = &e->config;
    const device *dev = e->worker.dev;
    const double bytes = model_kv_token_bytes(c, dev->kv, dev->kv_layout) / c->n_layers;
    const int64_t every = e->options.sizing.evict.every, n_behind = n_tokens - q->evict_at;
    int64_t n_kept = 0, n_layers = 0;
    if (q->evict_at == 0 || n_behind < 0) return;
    if (n_behind > 0) {
        e->evicted.n_again += every > 0 && n_behind % every == 0 &&
                              evict_removes(&e->options.sizing.evict, q->evict_at, n_tokens);
        return;
    }
    for (int l = 0; l < c->n_layers; l++) {
        if (model_config_window(c, l) > 0) continue;
        n_kept += evictor_kept(&e->options.sizing.evict, c, l, q->evict_at);
        n_layers++;
    }
    if (n_layers == 0) return;
    e->evicted.n_sequences++;
    e->evicted.n_places += q->evict_at;
    e->evicted.n_kept += (double)n_kept / (double)n_layers;
    e->evicted.bytes += bytes * (double)(q->evict_at * n_layers);
    e->evicted.kept_bytes += bytes * (double)n_kept;
}

/* Make the next step, run stage 0 on it and send it on; false when nothing is ready. */
static bool issue_step(engine *e) {
    if (e->n_issued == e->max_in_flight) return false;
    issued_step *s = &e->issued[(e->first_issued + e->n_issued) % e->max_in_flight];
    s->n_spans = schedule_next(e->schedule, s->spans);
    if (s->n_spans == 0) return false;

    begin_step(e, STEP_ROWS);
    for (int i = 0; i < s->n_spans; i++)
        add_span(e, &s->spans[i]);
    s->n_prompt_rows = count_prompt_rows(e, s);
    s->begin = clock_seconds();
    for (int i = 0; i < s->n_spans; i++) {
        const planned_span *p = &s->spans[i];
        engine_count_computed(e, p->slot, p->n_rows);
        count_evicted(e, session_of(e, p), p->pos0 + p->n_rows);
    }

    account_phase(e);
    e->n_issued++;
    e->prompt_steps_in_flight += s->n_prompt_rows > 0;
    send_step(e);
    return true;
}

/* How fast a step of many rows is, beside others on their way. */
static void time_step(engine *e, const issued_step *s) {
    enum { FEW_ROWS = 16 };
    const double now = clock_seconds(), begin = s->begin > e->last_reply ? s->begin : e->last_reply;
    if (s->n_prompt_rows >= FEW_ROWS) e->seconds_per_row = (now - begin) / s->n_prompt_rows;
    e->last_reply = now;
}

/* The oldest step's reply is at hand: its events are to be reported. */
static bool take_reply(engine *e, bool wait) {
    region before = trace_enter(&e->worker.trace, wait ? REGION_REPLY_WAIT : e->worker.trace.current);
    const void *bytes = pipeline_take_reply(e->worker.pipe, wait);
    trace_enter(&e->worker.trace, before);
    if (!bytes) return false;
    step_reply_read(bytes, &e->worker.reply);
    const issued_step *s = &e->issued[e->first_issued];
    account_phase(e);
    time_step(e, s);
    e->prompt_steps_in_flight -= s->n_prompt_rows > 0;
    e->times.prompt_tokens += s->n_prompt_rows;
    e->has_reply = true;
    e->reported_any = false;
    e->next_span = e->next_choice = e->next_score = 0;
    return true;
}

/* Scores that this span of the reply holds. */
static int64_t count_scores(const session *q, const planned_span *s) {
    int64_t first = s->pos0 + 1 > q->score_from ? s->pos0 + 1 : q->score_from;
    int64_t end = s->pos0 + s->n_rows + 1 < q->n_prompt ? s->pos0 + s->n_rows + 1 : q->n_prompt;
    return end > first ? end - first : 0;
}

static void report_token(engine *e, session *q, event *out) {
    out->kind = EVENT_TOKEN;
    out->choice = e->worker.reply.choices[e->next_choice++];
    if (out->choice.token >= 0) token_list_append(&q->tokens, out->choice.token);
    out->is_last = out->choice.token < 0 || session_n_generated(q) == q->max_tokens;
    if (e->prompt_steps_in_flight > 0 || e->issued[e->first_issued].n_prompt_rows > 0)
        e->times.mixed_tokens++;
    else
        e->times.decode_tokens++;
    if (e->times.first_token_seconds == 0) e->times.first_token_seconds = clock_seconds() - e->clock_begin;
}

/* The next event of the reply in hand; false when it has no more. */
static bool report_event(engine *e, event *out) {
    const issued_step *s = &e->issued[e->first_issued];
    while (e->next_span < s->n_spans) {
        const planned_span *planned = &s->spans[e->next_span++];
        session *q = session_of(e, planned);
        *out = (event){.session = q};
        switch (wanted_of(q, planned)) {
        case WANT_TOKEN:
            report_token(e, q, out);
            break;
        case WANT_SCORES:
            out->kind = EVENT_SCORES;
            out->scores = e->worker.reply.scores + e->next_score;
            out->n_scores = count_scores(q, planned);
            out->is_last = planned->ends_prompt;
            e->next_score += (int)out->n_scores;
            break;
        case WANT_NOTHING:
        case WANT_LOGITS:
            if (!planned->ends_prompt) continue;
            out->kind = EVENT_READ;
            out->is_last = true;
            break;
        }
        if (out->is_last)
            engine_finish(e, q);
        else if (out->kind == EVENT_TOKEN)
            e->to_continue = q;
        e->reported_any = true;
        return true;
    }
    e->has_reply = false;
    e->first_issued = (e->first_issued + 1) % e->max_in_flight;
    account_phase(e);
    e->n_issued--;
    *out = (event){.kind = EVENT_STEP};
    return !e->reported_any;
}

bool engine_is_between_steps(const engine *e) {
    const issued_step *s = &e->issued[e->first_issued];
    for (int i = e->next_span; e->has_reply && i < s->n_spans; i++)
        if (s->spans[i].ends_prompt || wanted_of(session_of(e, &s->spans[i]), &s->spans[i]) == WANT_SCORES)
            return false;
    return true;
}

/* Have every stage load what just entered with cached positions; false when nothing did. */
static bool issue_loads(engine *e) {
    slot_tokens q;
    if (!schedule_next_load(e->schedule, &q)) return false;
    begin_step(e, STEP_LOAD);
    do {
        session *s = e->sessions[q.sequence];
        e->worker.step.starts[e->worker.step.n_starts++] =
            (step_start){q.slot, s->sequence_id, s->sampling, s->evict_at};
        e->worker.step.extents[e->worker.step.n_extents++] = (step_extent){q.slot, 0, q.n_tokens, s->source};
        engine_begin_load(e, q.slot, s, q.n_tokens);
    } while (schedule_next_load(e->schedule, &q));
    send_step(e);
    return true;
}

/* Have every stage put what refines a slot in its place, where all have it; false when nothing does. */
static bool issue_refining(engine *e) {
    bool any = false;
    slot_tokens q;
    for (int i = 0; e->loaded.n_coarse > e->loaded.n_refined + e->loaded.n_unrefined &&
                    schedule_running(e->schedule, i, &q);
         i++) {
        if (!engine_is_fetched(e, q.slot, q.n_tokens)) continue;
        if (!any) begin_step(e, STEP_REFINE);
        any = true;
        e->worker.step.extents[e->worker.step.n_extents++] = (step_extent){q.slot, 0, q.n_tokens, 0};
        engine_count_refined(e, q.slot, q.n_tokens);
    }
    if (any) send_step(e);
    return any;
}

/* Its logits are NaN from there on, so that it ends with its next token. */
static void take_loss(engine *e, const note *n, int rank) {
    slot_tokens q;
    status_adopt(n->st, n->text);
    if (comm_size(e->worker.comm) > 1) status_at(n->st, "rank %d", rank);
    notice_add("%s: what was computed of it is given up, and the others go on", status_text());
    for (int i = 0; schedule_running(e->schedule, i, &q); i++) {
        session *s = e->sessions[q.sequence];
        if (q.slot == n->number && s->sequence_id == n->sequence_id && !s->failure)
            s->failure = mem_copy_text(status_text(), strlen(status_text()));
    }
}

/* Sort what came, if anything did: loads and signals are the engine's, the rest waits for engine_take_note.
 */
static bool take_notes(engine *e) {
    size_t n_bytes;
    int rank;
    bool any = false;
    for (note *n; (n = mailbox_take(e->worker.notes, &n_bytes, &rank)); any = true) {
        if (n->kind == NOTE_SEGMENT || n->kind == NOTE_LOGITS) {
            e->waiting_notes = mem_grow(e->waiting_notes, (size_t)e->n_waiting_notes, sizeof(note *));
            e->waiting_notes[e->n_waiting_notes++] = n;
            continue;
        }
        if (n->kind == NOTE_STOP)
            e->stop_wanted = true;
        else if (n->kind == NOTE_LOST)
            take_loss(e, n, rank);
        else
            engine_take_load(e, n, rank);
        free(n);
    }
    return any;
}

/* Report, once, that what is cached could not be loaded. */
static bool report_load_failure(engine *e, event *out) {
    if (!e->load_failure || e->reported_load_failure) return false;
    e->reported_load_failure = true;
    status_adopt(STATUS_REFUSED, e->load_failure);
    *out = (event){.kind = EVENT_LOAD_FAILED, .session = e->failed_load};
    return true;
}

/* Until a rank tells something, or it is worth while to compute; or a little while, so that whoever waits for
 * events can look at other things. */
static void wait_for_loads(engine *e) {
    static const double look_seconds = 0.05;
    region before = trace_enter(&e->worker.trace, REGION_LOAD);
    const double begin = clock_seconds();
    bool any = false;
    if (e->waits_since == 0) e->waits_since = begin;
    while (!(any = take_notes(e) || engine_let_compute(e)) && clock_seconds() - begin < look_seconds)
        engine_wait(e, e->waits_since, "what is cached to be loaded");
    if (any) e->waits_since = 0;
    trace_enter(&e->worker.trace, before);
}

bool engine_next(engine *e, event *out) {
    if (e->to_continue) schedule_continue(e->schedule, e->to_continue->handle);
    e->to_continue = NULL;
    for (;;) {
        take_notes(e);
        if (report_load_failure(e, out)) return true;
        if (e->has_reply && report_event(e, out)) return true;
        if (e->n_issued > 0 && take_reply(e, false)) continue;
        if (!e->is_paused && e->n_loading > 0) engine_let_compute(e);
        if (!e->is_paused && (issue_loads(e) || issue_refining(e) || issue_step(e))) continue;
        if (e->n_issued > 0) {
            take_reply(e, true);
            e->waits_since = 0;
            continue;
        }
        if (e->is_paused || e->n_loading == 0) return false;
        wait_for_loads(e);
        *out = (event){.kind = EVENT_LOADING};
        return true;
    }
}

void engine_pause(engine *e) {
    e->is_paused = true;
}

bool engine_stop_wanted(engine *e) {
    return e->stop_wanted || stop_was_signalled();
}

/* A load whose positions were computed first ends as soon as its ranks notice: what they found is to be told,
 * too. */
static void await_last_notes(engine *e) {
    static const double longest_seconds = 1;
    const double begin = clock_seconds();
    while (engine_awaits_loaded(e) && clock_seconds() - begin < longest_seconds)
        if (!take_notes(e)) engine_wait(e, begin, "the end of loads");
}

/* Of loads that the ranks gave up when they were stopped. Nobody but the log wants to know. */
static void await_log(engine *e) {
    const double begin = clock_seconds();
    while (e->options.keeps_load_log && e->n_loads_told < e->n_loads * comm_size(e->worker.comm))
        if (!take_notes(e)) engine_wait(e, begin, "what became of loads");
}

void engine_stop(engine *e) {
    assert(e->n_issued == 0);
    await_last_notes(e);
    begin_step(e, STEP_STOP);
    e->has_stopped = true;
    send_step(e);
    await_log(e);
}

/* ---- saving ---- */

bool engine_cached_at(const engine *e, int i, engine_cached *out) {
    slot_tokens q;
    if (!schedule_running(e->schedule, i, &q)) return false;
    *out = (engine_cached){e->sessions[q.sequence], q.slot, q.n_tokens};
    return true;
}

void engine_begin_save(engine *e, const step_save *save, const step_extent *extents, int n_extents) {
    begin_step(e, STEP_SAVE);
    e->worker.step.save = *save;
    e->worker.step.n_extents = n_extents;
    memcpy(e->worker.step.extents, extents, (size_t)n_extents * sizeof *extents);
    send_step(e);
}

void engine_hurry_save(engine *e) {
    begin_step(e, STEP_HURRY);
    send_step(e);
}

void engine_wait(engine *e, double begin, const char *what) {
    nanosleep(&(struct timespec){0, 200 * 1000}, NULL);
    comm_watch(e->worker.comm, begin, what);
}

note *engine_take_note(engine *e) {
    take_notes(e);
    if (e->n_waiting_notes == 0) return NULL;
    note *first = e->waiting_notes[0];
    e->n_waiting_notes--;
    memmove(e->waiting_notes, e->waiting_notes + 1, (size_t)e->n_waiting_notes * sizeof *e->waiting_notes);
    return first;
}

bool engine_has_waiting(const engine *e) {
    return schedule_has_waiting(e->schedule);
}

int64_t engine_n_unloaded(const engine *e) {
    return e->n_unloaded;
}

int64_t engine_chunk_rows(const engine *e, int64_t pos) {
    return schedule_chunk_rows(e->schedule, pos);
}

engine_evictions engine_get_evictions(const engine *e) {
    return e->evicted;
}

int engine_n_slots(const engine *e) {
    return e->options.sizing.n_sequences + e->plan.n_held;
}
