#include "src/engine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/pipeline.h"
#include "src/base/clock.h"
#include "src/base/host.h"
#include "src/base/memory.h"
#include "src/schedule.h"

/* A request that is not over. */
typedef struct active {
    int64_t id, sequence_id, n_prompt, max_tokens, n_generated, score_from;
    sampling_options sampling;
    int32_t *prompt;
    int32_t next_token; /* to feed, when it decodes */
} active;

/* A step on its way: what to do when its reply comes. */
typedef struct issued_step {
    planned_span *spans;
    int n_spans, n_prompt_rows;
} issued_step;

struct engine {
    comm *comm;
    engine_options options;
    model_config config;
    plan plan;
    int max_in_flight;
    device *dev;
    weights *files;
    model *model;
    kv_cache *kv;
    stage *stage;
    pipeline *pipe;
    trace trace;
    step step;
    step_reply reply;
    void *reply_bytes;
    double load_seconds, clock_begin;

    /* Stage 0 only. */
    schedule *schedule;
    active *active; /* by the schedule's sequence number */
    int64_t n_active_capacity;
    planned_span *planned;
    issued_step *issued; /* a ring of max_in_flight */
    int first_issued, n_issued;
    int32_t *releases; /* slots to name in the next step */
    int n_releases;
    int next_span, next_score; /* of the reply in hand: what events were not told yet */
    int next_choice;
    bool has_reply;
    int64_t to_continue; /* the sequence of the event just told, -1: none */
    int prompt_steps_in_flight;
    double phase_begin;
    engine_times times;
};

/* ---- opening ---- */

/* Ranks on other hosts may see more or less memory: the smallest share counts, so that all plans are the
 * same. */
static uint64_t bytes_for_a_rank(comm *c, uint64_t asked) {
    uint64_t available = host_available_bytes();
    int64_t share = available ? (int64_t)(available / 10 * 9 / (uint64_t)comm_node_size(c)) : INT64_MAX;
    share = comm_min(c, share);
    if (asked) return asked;
    return share == INT64_MAX ? 0 : (uint64_t)share;
}

static status make_plan(engine *e) {
    const engine_options *o = &e->options;
    uint64_t bound = bytes_for_a_rank(e->comm, o->bytes_per_rank);
    plan_request asked = {
        .config = &e->config,
        .precision = o->precision,
        .n_ranks = comm_size(e->comm),
        .chunk_tokens = o->chunk_tokens,
        .page_tokens = o->page_tokens,
        .n_sequences = o->n_sequences,
        .longest_tokens = o->longest_tokens,
        .wanted_pages = o->wanted_pages,
        .kv_bytes_per_rank = o->kv_bytes_per_rank,
        .bytes_per_rank = bound,
        .head_share = o->head_share,
        .layers_per_rank = o->layers_per_rank,
    };
    return plan_make(&asked, &e->plan);
}

/* Rank 0's options and config to all; texts are not sent: only rank 0 reads them again. */
static void share_options(engine *e, char **model_dir, char **layers) {
    comm_broadcast(e->comm, &e->options, sizeof e->options, 0);
    comm_broadcast(e->comm, &e->config, sizeof e->config, 0);
    const char *texts[2] = {e->options.model_dir, e->options.layers_per_rank};
    char *copies[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        bool here = comm_rank(e->comm) == 0;
        size_t n = here && texts[i] ? strlen(texts[i]) + 1 : 0;
        comm_broadcast(e->comm, &n, sizeof n, 0);
        if (n == 0) continue;
        copies[i] = mem_new(n, 1);
        if (here) memcpy(copies[i], texts[i], n);
        comm_broadcast(e->comm, copies[i], n, 0);
    }
    *model_dir = copies[0];
    *layers = copies[1];
    e->options.model_dir = copies[0];
    e->options.layers_per_rank = copies[1];
}

static status open_slice(engine *e) {
    const engine_options *o = &e->options;
    const plan_rank *mine = &e->plan.ranks[comm_rank(e->comm)];
    status st = cpu_device_open(o->precision, o->n_threads, NULL, &e->dev);
    if (st == STATUS_OK)
        st = model_open(&e->config, mine->slice, o->chunk_tokens, e->files, e->dev, &e->trace, &e->model);
    kv_shape shape = {
        .n_layers = mine->slice.last_layer - mine->slice.first_layer,
        .n_kv_heads = e->config.n_kv_heads,
        .head_dim = e->config.head_dim,
        .page_tokens = o->page_tokens,
        .n_pages = e->plan.n_pages,
        .n_slots = o->n_sequences,
    };
    if (st == STATUS_OK) st = kv_cache_open(e->dev, &shape, &e->kv);
    return st;
}

static void open_stage_0(engine *e) {
    schedule_limits limits = {
        .n_stages = comm_size(e->comm),
        .n_slots = e->options.n_sequences,
        .chunk_tokens = e->options.chunk_tokens,
        .page_tokens = e->options.page_tokens,
        .n_pages = e->plan.n_pages,
    };
    size_t slots = (size_t)limits.n_slots;
    e->schedule = schedule_open(&limits);
    e->planned = mem_new(slots, sizeof *e->planned);
    e->releases = mem_new(slots, sizeof *e->releases);
    e->issued = mem_new((size_t)e->max_in_flight, sizeof *e->issued);
    for (int i = 0; i < e->max_in_flight; i++)
        e->issued[i].spans = mem_new(slots, sizeof(planned_span));
    e->to_continue = -1;
}

static status open_pipeline(engine *e) {
    int n_slots = e->options.n_sequences, rows = e->options.chunk_tokens;
    /* One step in each stage, and one on its way. */
    e->max_in_flight = comm_size(e->comm) == 1 ? 1 : comm_size(e->comm) + 1;
    pipeline_sizes sizes = {
        .header_bytes = step_max_bytes(n_slots, rows),
        .x_floats = (size_t)rows * (size_t)e->config.d_model,
        .reply_bytes = step_reply_max_bytes(n_slots, rows),
        .n_replies = e->max_in_flight,
    };
    e->step = step_new(n_slots, rows);
    e->reply = step_reply_new(n_slots, rows);
    e->reply_bytes = mem_new(1, sizes.reply_bytes);
    return pipeline_open(e->comm, e->dev, &sizes, e->options.deadline_seconds, &e->pipe);
}

/* Each part in turn, agreed by all ranks before anyone goes on. */
static status open_parts(engine *e) {
    double begin = clock_seconds();
    status st = make_plan(e);
    if (comm_any_failed(e->comm, &st)) return st;
    st = weights_open(e->options.model_dir, &e->files);
    if (comm_any_failed(e->comm, &st)) return st;
    st = open_slice(e);
    if (comm_any_failed(e->comm, &st)) return st;
    st = open_pipeline(e);
    if (st != STATUS_OK) return st;
    const plan_rank *mine = &e->plan.ranks[comm_rank(e->comm)];
    e->stage = stage_open(&e->config, mine->slice, e->model, e->kv, mine->weight_bytes,
                          e->options.n_sequences, e->options.chunk_tokens, &e->trace);
    if (comm_rank(e->comm) == 0) open_stage_0(e);
    e->load_seconds = clock_seconds() - begin;
    engine_reset_clocks(e);
    return STATUS_OK;
}

status engine_open(comm *c, const model_config *config, const engine_options *options, engine **out) {
    engine *e = mem_new(1, sizeof *e);
    e->comm = c;
    if (comm_rank(c) == 0) {
        e->options = *options;
        e->config = *config;
    }
    char *model_dir, *layers;
    share_options(e, &model_dir, &layers);
    status st = open_parts(e);
    free(model_dir);
    free(layers);
    if (st != STATUS_OK) {
        engine_close(e);
        return st;
    }
    *out = e;
    return STATUS_OK;
}

void engine_close(engine *e) {
    if (!e) return;
    pipeline_close(e->pipe);
    stage_close(e->stage);
    kv_cache_close(e->kv);
    model_close(e->model);
    if (e->dev) e->dev->ops->close(e->dev);
    weights_close(e->files);
    for (int i = 0; e->issued && i < e->max_in_flight; i++)
        free(e->issued[i].spans);
    for (int64_t i = 0; i < e->n_active_capacity; i++)
        free(e->active[i].prompt);
    free(e->active);
    free(e->issued);
    free(e->planned);
    free(e->releases);
    schedule_close(e->schedule);
    step_free(&e->step);
    step_reply_free(&e->reply);
    free(e->reply_bytes);
    plan_free(&e->plan);
    free(e);
}

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

/* ---- what the run was like ---- */

void engine_reset_clocks(engine *e) {
    trace_begin(&e->trace);
    e->times = (engine_times){0};
    e->clock_begin = e->phase_begin = clock_seconds();
}

engine_times engine_get_times(const engine *e) {
    engine_times times = e->times;
    times.seconds = clock_seconds() - e->clock_begin;
    return times;
}

void engine_gather_reports(engine *e, rank_report *all) {
    trace_enter(&e->trace, REGION_REST);
    const plan_rank *mine = &e->plan.ranks[comm_rank(e->comm)];
    rank_report report = {
        .trace = e->trace,
        .seconds = clock_seconds() - e->clock_begin,
        .stage = stage_get_stats(e->stage),
        .weight_bytes = mine->weight_bytes,
        .kv_bytes = mine->kv_bytes,
        .total_bytes = mine->total_bytes,
        .file_bytes = weights_bytes_read(e->files),
        .load_seconds = e->load_seconds,
        .bytes_sent = pipeline_get_stats(e->pipe).bytes_sent,
        .slice = mine->slice,
    };
    comm_gather(e->comm, &report, sizeof report, all);
}

trace *engine_trace(engine *e) {
    return &e->trace;
}

const plan *engine_plan(const engine *e) {
    return &e->plan;
}

const model_config *engine_config(const engine *e) {
    return &e->config;
}

device *engine_device(const engine *e) {
    return e->dev;
}

int engine_threads(const engine *e) {
    return e->options.n_threads;
}
