#include "src/engine/worker.h"

#include "src/engine/notes.h"
#include "src/engine/stop.h"

/* Of the sequences of this step whose beginning is complete. */
static void call_probe(worker *w) {
    const slice s = model_slice(w->model);
    for (const step_span *p = w->step.spans; w->probe.on_cached && p < w->step.spans + w->step.n_spans; p++) {
        if (!p->is_probed) continue;
        status st = model_sync(w->model);
        if (st == STATUS_OK)
            st = w->probe.on_cached(w->probe.context, w->kv, s, p->slot, p->pos0 + p->n_rows,
                                    stage_sequence_id(w->stage, p->slot));
        if (st != STATUS_OK) status_die("%s", status_text());
    }
}

/* Before the step goes on, so that rank 0 knows why there are no tokens before it hears that there are none.
 */
static void tell_lost(worker *w) {
    note n = {.kind = NOTE_LOST, .st = STATUS_FAILED};
    for (int i = 0; i < w->step.n_spans; i++) {
        if (!stage_has_lost(w->stage, w->step.spans[i].slot, n.text)) continue;
        n.number = w->step.spans[i].slot;
        n.sequence_id = stage_sequence_id(w->stage, w->step.spans[i].slot);
        mailbox_send(w->notes, &n, sizeof n);
    }
}

static void run_rows(worker *w, pipeline_slot *slot) {
    for (const step_span *p = w->step.spans; w->loader && p < w->step.spans + w->step.n_spans; p++)
        loader_leave(w->loader, p->slot, p->pos0 + p->n_rows);
    status st = stage_run(w->stage, &w->step, slot->x, &w->reply);
    if (st != STATUS_OK) status_die("%s", status_text());
    tell_lost(w);
    if (w->times_steps) step_log_add(&w->log, comm_rank(w->comm), &w->step, &w->seconds);
    bool is_last = comm_rank(w->comm) == comm_size(w->comm) - 1;
    if (is_last) pipeline_reply(w->pipe, w->reply_bytes, step_reply_write(&w->reply, w->reply_bytes));
    region before = trace_enter(&w->trace, REGION_SEND_WAIT);
    pipeline_forward(w->pipe, slot);
    trace_enter(&w->trace, before);
    call_probe(w);
    stage_evict(w->stage, &w->step);
}

/* What is sampled goes on from the cached tokens; their K and V come meanwhile. */
static void begin_loads(worker *w) {
    for (int i = 0; i < w->step.n_extents; i++) {
        const step_extent *x = &w->step.extents[i];
        stage_start_cached(w->stage, &w->step.starts[i], loader_tokens(w->loader, x->source), x->n_tokens);
    }
    loader_begin(w->loader, &w->step);
}

/* Between two steps: the rows of the one before are through here. */
static void refine(worker *w) {
    region before = trace_enter(&w->trace, REGION_LOAD);
    status st = model_sync(w->model);
    if (st != STATUS_OK) status_die("%s", status_text());
    for (int i = 0; i < w->step.n_extents; i++)
        loader_refine(w->loader, w->step.extents[i].slot);
    trace_enter(&w->trace, before);
}

/* Loads and saves go on to the next stage before they are done here, so that all stages do them at once. */
bool worker_run_step(worker *w, pipeline_slot *slot) {
    for (int i = 0; w->loader && i < w->step.n_releases; i++)
        loader_settle(w->loader, w->step.releases[i]);
    stage_release(w->stage, &w->step);
    if (w->step.kind == STEP_ROWS) {
        run_rows(w, slot);
        return true;
    }
    pipeline_forward(w->pipe, slot);
    if (w->step.kind == STEP_LOAD) begin_loads(w);
    if (w->step.kind == STEP_REFINE) refine(w);
    if (w->step.kind == STEP_STOP && w->loader) loader_stop(w->loader);
    if (w->step.kind == STEP_HURRY) saver_hurry(w->saver);
    if (w->step.kind == STEP_SAVE) {
        region before = trace_enter(&w->trace, REGION_SAVE);
        status st = model_sync(w->model); /* positions are final then */
        if (st == STATUS_OK) st = saver_begin(w->saver, &w->step);
        if (st != STATUS_OK) status_die("%s", status_text());
        trace_enter(&w->trace, before);
    }
    return w->step.kind != STEP_STOP;
}

static bool has_signal_to_tell(const void *self) {
    const worker *w = self;
    return !w->has_sent_stop && stop_was_signalled();
}

static void tell_signal(worker *w) {
    if (!has_signal_to_tell(w)) return;
    note report = {.kind = NOTE_STOP};
    mailbox_send(w->notes, &report, sizeof report);
    w->has_sent_stop = true;
}

void worker_serve(worker *w) {
    for (bool more = true; more;) {
        bool is_loading = w->loader && loader_is_busy(w->loader);
        trace_enter(&w->trace, is_loading ? REGION_LOAD : REGION_RECEIVE_WAIT);
        /* A signal is told at once: while what is cached is loaded, no step comes. */
        pipeline_slot *slot = pipeline_receive_or(w->pipe, has_signal_to_tell, w);
        trace_enter(&w->trace, REGION_REST);
        if (slot) {
            step_read(slot->header, slot->n_header_bytes, &w->step);
            more = worker_run_step(w, slot);
        }
        if (more) tell_signal(w);
    }
}
