/* --save: what of this run goes into the snapshot, and when. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/files.h"
#include "kernels/attend_blocks.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/command/run.h"
#include "src/generate/generation.h"

/* Kept back from --max-time beside the time of a save, for what else ends a run; of a short time, a share. */
static const double end_seconds = 2, unmeasured_save_seconds = 10, most_kept_share = 0.1;

/* With --max-time a first save is made early, when this share of the time is over: it shows what saves take,
 * and that they work. */
static const double first_save_share = 0.02;

/* ---- the run, as a snapshot sees it ---- */

static checkpoint_fate fate_of(void *context, int64_t id) {
    const generation *g = context;
    const job *j = &g->jobs[id];
    if (!j->is_over) return FATE_LIVE;
    return j->is_kept && !j->error ? FATE_KEPT : FATE_GONE;
}

static void describe_logprobs(const job *j, manifest_sequence *out) {
    if (!j->logprobs) return;
    size_t n = (size_t)session_n_generated(&j->session);
    out->n_logprobs = 1 + j->session.sampling.n_logprobs;
    out->logprobs = mem_new(n * (size_t)out->n_logprobs, sizeof *out->logprobs);
    for (size_t i = 0; i < n; i++) {
        const result_logprob *l = &j->logprobs[i];
        manifest_logprob *to = &out->logprobs[i * (size_t)out->n_logprobs];
        to[0] = (manifest_logprob){l->token, l->logprob};
        for (int64_t k = 1; k < out->n_logprobs; k++)
            to[k] = k <= l->n_top ? (manifest_logprob){l->top_tokens[k - 1], l->top_logprobs[k - 1]}
                                  : (manifest_logprob){-1, 0};
    }
}

/* What this run computed instead of loading it is exact, unless what was there is kept. */
static void describe_inexact(const generation *g, const job *j, manifest_sequence *out) {
    static const char base[] = ", base";
    const int most = (int)(MANIFEST_INEXACT_BYTES - sizeof base);
    const session *s = &j->session;
    char text[MANIFEST_INEXACT_BYTES];
    if (!j->inexact) return;
    out->n_exact = !g->save_goes_on && s->n_recomputed > j->n_exact ? s->n_recomputed : j->n_exact;
    if (!g->save_goes_on && out->n_exact >= s->n_cached) return;
    snprintf(text, sizeof text, "%.*s%s", most, j->inexact,
             s->had_base && !strstr(j->inexact, base) ? base : "");
    out->inexact = mem_copy_text(text, strlen(text));
}

const char *generate_pages(const options *o) {
    return options_change_pages(o) ? options_kv_name(o->kv) : "exact";
}

/* Within a block all is seen as it was put. */
static void describe_pages(const generation *g, const job *j, manifest_sequence *out) {
    const char *own = generate_pages(g->options), *past = j->pages ? j->pages : "exact";
    const size_t n_own = strlen(own), n_past = strlen(past);
    char text[MANIFEST_INEXACT_BYTES];
    if (out->n_tokens <= ATTEND_BLOCK) return;
    if (j->session.n_cached <= ATTEND_BLOCK)
        snprintf(text, sizeof text, "%s", own);
    else if (n_past >= n_own && strcmp(past + n_past - n_own, own) == 0)
        snprintf(text, sizeof text, "%s", past);
    else
        snprintf(text, sizeof text, "%s, %s", past, own);
    if (strcmp(text, "exact") != 0) out->pages = mem_copy_text(text, strlen(text));
}

static void describe(void *context, int64_t id, manifest_sequence *out) {
    generation *g = context;
    job *j = &g->jobs[id];
    const session *s = &j->session;
    if (!j->prompt_text.data) {
        text_append(&j->prompt_text, "", 0);
        tokenizer_decode(g->tok, s->tokens.ids, (size_t)s->n_prompt, true, &j->prompt_text);
    }
    *out = (manifest_sequence){
        .id = mem_copy_text(j->id, strlen(j->id)),
        .id_is_json = j->id_is_json,
        .line = j->line,
        .sequence_id = s->sequence_id,
        .n_prompt = s->n_prompt,
        .n_tokens = (int64_t)s->tokens.n,
        .tokens = mem_new(s->tokens.n, sizeof(int32_t)),
        .sampling = s->sampling,
        .n_stops = j->n_stops,
        .is_over = j->is_over,
        .finish = j->finish,
        .prompt_text = mem_copy_text(j->prompt_text.data, j->prompt_text.n),
        .n_prompt_text = (int64_t)j->prompt_text.n,
        .text = mem_copy_text(j->text.data, j->text.n),
        .n_text = (int64_t)j->text.n,
        .n_stop_tokens = (int64_t)j->stop_tokens.n,
    };
    describe_inexact(g, j, out);
    describe_pages(g, j, out);
    memcpy(out->tokens, s->tokens.ids, s->tokens.n * sizeof *out->tokens);
    for (int i = 0; i < j->n_stops; i++)
        out->stops[i] = mem_copy_text(j->stops[i], strlen(j->stops[i]));
    out->stop_tokens = mem_new(j->stop_tokens.n, sizeof *out->stop_tokens);
    if (j->stop_tokens.n)
        memcpy(out->stop_tokens, j->stop_tokens.ids, j->stop_tokens.n * sizeof *out->stop_tokens);
    describe_logprobs(j, out);
}

static void describe_batch(void *context, manifest_batch *out) {
    const generation *g = context;
    *out = (manifest_batch){.output_bytes = -1};
    if (!g->out) return;
    memcpy(out->digest, g->batch_digest, sizeof out->digest);
    out->n_lines = g->n_jobs;
    out->is_done = mem_new((size_t)g->n_jobs, sizeof *out->is_done);
    for (int64_t i = 0; i < g->n_jobs; i++)
        out->is_done[i] = g->jobs[i].was_written;
    results_position(g->out, &out->output_bytes, out->output_digest);
}

static status flush_results(void *context) {
    const generation *g = context;
    return g->out ? results_flush(g->out) : STATUS_OK;
}

/* ---- begin ---- */

status generate_open_save(generation *g) {
    const options *o = g->options;
    g->limits = run_stop_limits(o);
    status st = stop_check(&g->limits);
    if (st != STATUS_OK || !o->save) return st;
    const checkpoint_run run = {
        .context = g,
        .fate = fate_of,
        .describe = describe,
        .describe_batch = describe_batch,
        .flush_results = flush_results,
    };
    st = checkpoint_open(o->save, &run, &g->save);
    if (st != STATUS_OK) return st;
    /* Under the lock: until now, another job may have saved its first. */
    bool same = o->resume && (strcmp(o->save, o->resume) == 0 || file_is_same(o->save, o->resume));
    g->save_goes_on = same && manifest_exists(o->save);
    if (same || !manifest_exists(o->save)) return STATUS_OK;
    return status_refuse(
        "--save %s: there is a snapshot already: go on from it with --resume %s, or choose another name",
        o->save, o->save);
}

static void describe_run(const generation *g, const engine *e, const char *effective_options, manifest *m) {
    const model_config *c = &g->config;
    char text[256], host[256] = "";
    gethostname(host, sizeof host - 1);
    model_config_describe(c, text, sizeof text);
    *m = (manifest){
        .n_layers = c->n_layers,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .vocab_size = c->vocab_size,
        .type = engine_device(e)->kv,
        .codec = g->chosen.coding.codec,
        .page_tokens = (int)g->options->page_tokens,
        .n_ranks = engine_plan(e)->n_ranks,
        .model_name = mem_copy_text(run_model_name(g->options), strlen(run_model_name(g->options))),
        .model_shape = mem_copy_text(text, strlen(text)),
        .version = mem_copy_text(KVARVE_VERSION, strlen(KVARVE_VERSION)),
        .command_line = mem_copy_text(effective_options, strlen(effective_options)),
        .host = mem_copy_text(host, strlen(host)),
        .processor = mem_copy_text(engine_processor(e), strlen(engine_processor(e))),
        .seconds_computed = g->save_goes_on ? g->past.seconds_computed : 0,
    };
    snprintf(text, sizeof text, "theta %.9g", c->rope.theta);
    m->rope = mem_copy_text(text, strlen(text));
    memcpy(m->model_digest, engine_model_digest(e), sizeof m->model_digest);
    memcpy(m->tokenizer_digest, g->tokenizer_digest, sizeof m->tokenizer_digest);
}

void generate_start_save(generation *g, engine *e, const char *effective_options) {
    const chosen_coding *k = &g->chosen;
    const checkpoint_tables tables = {k->bytes, k->n_bytes, k->tables ? k->tables->digest : 0};
    manifest common, committed = {0};
    if (!g->save) return;
    chosen_coding_note(k, g->options, run_model_name(g->options), engine_model_digest(e));
    describe_run(g, e, effective_options, &common);
    if (g->save_goes_on) {
        committed = g->past;
        g->past = (manifest){0};
    }
    checkpoint_start(g->save, g->n_jobs, &common, &tables, &committed);
    g->last_event = clock_seconds();
    for (int64_t i = 0; i < g->n_jobs && g->save_goes_on; i++) {
        const past_match *m = &g->matches[i];
        if (m->source >= 0 && m->replaces)
            checkpoint_continue(g->save, i, m->source);
        else if (m->source >= 0)
            checkpoint_begin_with(g->save, i, m->source, m->n_tokens);
    }
    stop_watch_signals();
}

/* ---- while it runs ---- */

static int64_t tokens_done(const generation *g, const engine *e) {
    return engine_get_times(e).prompt_tokens + g->decode_done;
}

static void begin_save(generation *g, engine *e, bool is_last) {
    region before = trace_enter(engine_trace(e), REGION_SAVE);
    g->saved_at_tokens = tokens_done(g, e);
    checkpoint_begin(g->save, e, is_last);
    trace_enter(engine_trace(e), before);
}

static bool save_is_due(const generation *g, const engine *e) {
    const options *o = g->options;
    checkpoint_stats stats = checkpoint_get_stats(g->save);
    int64_t n_new = tokens_done(g, e) - g->saved_at_tokens;
    if (n_new == 0) return false;
    if (o->save_every_tokens != OPTION_UNSET && n_new >= o->save_every_tokens) return true;
    if (clock_seconds() - stats.begun_at >= o->save_every_seconds) return true; /* not with NaN */
    bool measured = stats.n_saves + stats.n_failed > 0;
    return !measured && stop_process_seconds() >= first_save_share * g->limits.max_seconds;
}

/* Pages that a save read may go now; those of kept jobs, once they are committed. */
static void release_pages(generation *g, engine *e) {
    for (int i = 0; i < g->n_to_release; i++)
        engine_release(e, g->to_release[i]);
    g->n_to_release = 0;
    engine_cached q;
    for (int i = 0; engine_cached_at(e, i, &q);) {
        const job *j = &g->jobs[q.session->id];
        if (j->is_over && j->is_kept && checkpoint_has(g->save, q.session->id, q.n_tokens))
            engine_release(e, q.session);
        else
            i++;
    }
}

void generate_release(generation *g, engine *e, job *j) {
    if (!g->save || j->session.handle < 0) return;
    if (j->is_kept && !j->error) return; /* after it is saved */
    if (!checkpoint_reads(g->save, j - g->jobs)) {
        engine_release(e, &j->session);
        return;
    }
    g->to_release = mem_grow(g->to_release, (size_t)g->n_to_release, sizeof *g->to_release);
    g->to_release[g->n_to_release++] = &j->session;
}

void generate_poll_saves(generation *g, engine *e) {
    if (!g->save) return;
    double now = clock_seconds(), past = now - g->last_event;
    int64_t done = tokens_done(g, e);
    if (past > g->longest_step_seconds) g->longest_step_seconds = past;
    checkpoint_count_tokens(g->save, done - g->done_at_last_event, past);
    g->last_event = now;
    g->done_at_last_event = done;
    if (checkpoint_poll(g->save, e)) release_pages(g, e);
    if (!checkpoint_is_busy(g->save) && save_is_due(g, e)) begin_save(g, e, false);
}

static void wait_for_save(generation *g, engine *e) {
    region before = trace_enter(engine_trace(e), REGION_SAVE);
    if (checkpoint_is_busy(g->save)) engine_hurry_save(e);
    double begin = clock_seconds();
    while (checkpoint_is_busy(g->save) && !checkpoint_poll(g->save, e))
        engine_wait(e, begin, "a save to end");
    release_pages(g, e);
    trace_enter(engine_trace(e), before);
}

/* What is over but could not be saved goes, so that others can run. */
static void give_up_kept(generation *g, engine *e) {
    engine_cached q;
    for (int i = 0; engine_cached_at(e, i, &q);) {
        job *j = &g->jobs[q.session->id];
        if (!j->is_over) {
            i++;
            continue;
        }
        j->is_kept = false;
        g->n_given_up++;
        engine_release(e, q.session);
    }
}

bool generate_make_room(generation *g, engine *e) {
    if (!g->save || !engine_has_waiting(e)) return false;
    if (!checkpoint_is_busy(g->save)) begin_save(g, e, true);
    wait_for_save(g, e);
    if (checkpoint_get_stats(g->save).failure[0]) give_up_kept(g, e);
    return true;
}

/* Seconds that ending now would take: what is on its way, and a save at the pace of those before. */
static double reserve_seconds(const generation *g, const engine *e) {
    checkpoint_stats s = checkpoint_get_stats(g->save);
    double most = most_kept_share * g->limits.max_seconds, save = fmin(unmeasured_save_seconds, most);
    if (s.last_work_seconds > 0 && s.n_tokens > 0) {
        double n_new = (double)(tokens_done(g, e) - g->saved_at_tokens);
        save = fmax(s.last_work_seconds, n_new * s.work_seconds / (double)s.n_tokens);
    }
    return fmin(end_seconds, most) + 1.5 * save + (engine_plan(e)->n_ranks + 1) * g->longest_step_seconds;
}

const char *generate_stop_reason(generation *g, engine *e) {
    if (!g->save) return NULL;
    if (engine_stop_wanted(e) && !stop_was_signalled()) return "a signal to another rank";
    return stop_reason(&g->limits, reserve_seconds(g, e));
}

status generate_last_save(generation *g, engine *e) {
    if (!g->save) return STATUS_OK;
    const int64_t n_new = tokens_done(g, e) - engine_get_loads(e).n_recomputed;
    if (g->stop_reason && n_new == 0) checkpoint_was_vain(g->save);
    wait_for_save(g, e);
    begin_save(g, e, true);
    wait_for_save(g, e);
    checkpoint_stats stats = checkpoint_get_stats(g->save);
    if (stats.failure[0] == '\0' && g->n_given_up == 0) return STATUS_OK;
    if (stats.failure[0] == '\0')
        return status_fail(
            "%s: the contexts of %lld prompts could not be saved when others needed their room; the "
            "rest is saved",
            g->options->save, (long long)g->n_given_up);
    const manifest *m = checkpoint_committed(g->save);
    return status_fail("%s: the end of the run is not saved (%s); %s", g->options->save, stats.failure,
                       m->save_number ? "the snapshot before it is whole" : "nothing was saved before it");
}
