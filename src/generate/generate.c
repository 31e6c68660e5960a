/* kvarve generate: continue one prompt to stdout, or a file of prompts to a file of results. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/last_save.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/command/progress.h"
#include "src/command/run.h"
#include "src/generate/generation.h"

/* ---- before the model is loaded ---- */

static status read_model(generation *g) {
    const options *o = g->options;
    status st = run_read_model(o, &g->config, &g->tok);
    if (st != STATUS_OK || (!o->save && !o->resume)) return st;
    text_buffer file = {0};
    st = run_read_tokenizer(o, &file);
    XXH128_hash_t digest = XXH3_128bits(file.data, file.n);
    g->tokenizer_digest[0] = digest.high64;
    g->tokenizer_digest[1] = digest.low64;
    free(file.data);
    return st;
}

static status open_results(generation *g) {
    const options *o = g->options;
    const char *path = o->output ? o->output : "/dev/stdout";
    const manifest_batch *b = &g->past.batch;
    if (!o->input) return STATUS_OK;
    if (g->continues_batch) return results_reopen(path, b->output_bytes, b->output_digest, &g->out);
    return results_open(path, &g->out);
}

/* An older file keeps its content until there is text. */
static status open_text(generation *g) {
    const char *path = g->options->text;
    struct stat info;
    g->text = stdout;
    if (!path) return STATUS_OK;
    g->text_is_new = stat(path, &info) != 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return status_refuse("--text %s: cannot be written: %s", path, strerror(errno));
    g->text = fdopen(fd, "w");
    return STATUS_OK;
}

static status prepare(generation *g) {
    status st = open_text(g);
    if (st == STATUS_OK && !g->options->resume) st = open_results(g);
    if (st == STATUS_OK) st = read_model(g);
    if (st == STATUS_OK) st = generate_open_save(g);
    if (st == STATUS_OK) st = generate_read_past(g);
    if (st == STATUS_OK) st = generate_choose_coding(g);
    if (st == STATUS_OK) st = generate_read_prompts(g);
    if (st != STATUS_OK) return st;
    generate_match_past(g);
    generate_add_up(g);
    return g->options->resume ? open_results(g) : STATUS_OK;
}

/* ---- the run ---- */

void generate_count_failure(generation *g, const job *j) {
    if (j->error && g->n_failed++ == 0) snprintf(g->first_failure, sizeof g->first_failure, "%s", j->error);
}

/* The job is over: its line is written, and what it held is released. */
static void end_job(generation *g, job *j) {
    j->is_over = true;
    generate_count_failure(g, j);
    if (!g->out) {
        job_print_text(j, g->text);
        if (j->text.n == 0 || j->text.data[j->text.n - 1] != '\n') fputc('\n', g->text);
        fflush(g->text);
        if (j->error) fprintf(stderr, "kvarve: error: %s\n", j->error);
        return;
    }
    if (job_write_result(j, g->out) != STATUS_OK) status_die("%s", status_text());
    j->was_written = true;
    if (!j->is_kept || !g->save) job_empty(j);
}

/* Jobs that need no run: refused ones, and what a snapshot knew the end of. */
static void end_idle_jobs(generation *g) {
    for (int64_t i = 0; i < g->n_jobs; i++) {
        job *j = &g->jobs[i];
        if (!j->was_written && (j->error || j->is_over)) end_job(g, j);
    }
}

static void take_token(generation *g, engine *e, job *j, const event *ev) {
    if (session_n_generated(&j->session) == 1) g->summary.first_token_seconds += clock_seconds() - g->begin;
    g->decode_done++;
    bool over = job_take_token(j, g->tok, &g->config, &ev->choice, ev->is_last);
    if (over && !ev->is_last) engine_finish(e, ev->session);
    if (over)
        end_job(g, j);
    else if (!g->out)
        job_print_text(j, g->text);
}

/* What is known of a single prompt's text before this run generates any: not before it is sure that it runs.
 */
static void begin_text(generation *g) {
    if (g->out || g->has_begun_text) return;
    g->has_begun_text = true;
    if (g->text != stdout) (void)ftruncate(fileno(g->text), 0); /* a pipe has no old content */
    if (g->jobs[0].echo.n) fwrite(g->jobs[0].echo.data, 1, g->jobs[0].echo.n, g->text);
    job_print_text(&g->jobs[0], g->text);
}

/* False when the run cannot go on. */
static bool take_event(generation *g, engine *e, const event *ev) {
    if (ev->kind == EVENT_LOAD_FAILED) {
        status_at(STATUS_REFUSED, "--resume %s", g->options->resume);
        return false;
    }
    if (ev->kind == EVENT_LOADING) return true;
    begin_text(g);
    if (ev->kind == EVENT_STEP) return true;
    job *j = &g->jobs[ev->session->id];
    if (ev->kind == EVENT_READ) {
        job_take_end(j);
        end_job(g, j);
    } else {
        take_token(g, e, j, ev);
    }
    if (j->is_over) generate_release(g, e, j);
    return true;
}

static void show_progress(progress *bar, const generation *g, const engine *e) {
    int64_t read = engine_get_times(e).prompt_tokens, to_read = g->known_tokens - g->reused_tokens;
    if (to_read < read) to_read = read; /* of what is cached some is computed (--load auto) */
    progress_update(bar, (double)(read + g->decode_done), (double)(to_read + g->max_new_tokens),
                    "read %lld of %lld, generated %lld of at most %lld tokens", (long long)read,
                    (long long)to_read, (long long)g->decode_done, (long long)g->max_new_tokens);
}

/* However short the time is, a chunk is computed: the next run begins further on. But what is cached before
 * it is not waited for longer than this: the time may be all that is left before the job is killed. */
static const double late_load_seconds = 1;

static bool waits_late(const generation *g, engine *e, const event *ev) {
    return ev->kind == EVENT_LOADING && g->began_late && !engine_stop_wanted(e) &&
           clock_seconds() - g->begin < late_load_seconds;
}

/* Events until nothing is left, or the run must end early; a failure is one to read what is cached. */
static status run_events(generation *g, engine *e) {
    status st = STATUS_OK;
    progress bar = progress_begin("tokens");
    for (event ev;;) {
        if (!engine_next(e, &ev)) {
            if (!g->stop_reason && st == STATUS_OK && generate_make_room(g, e)) continue;
            break;
        }
        region before = trace_enter(engine_trace(e), REGION_TEXT);
        show_progress(&bar, g, e);
        if (!g->out && ev.kind == EVENT_TOKEN) progress_end(&bar);
        if (!take_event(g, e, &ev)) {
            st = STATUS_REFUSED;
            engine_pause(e);
        }
        trace_enter(engine_trace(e), before);
        if (!engine_is_between_steps(e)) continue;
        generate_poll_saves(g, e);
        if (waits_late(g, e, &ev)) continue;
        if (!g->stop_reason && (g->stop_reason = generate_stop_reason(g, e))) engine_pause(e);
    }
    progress_end(&bar);
    return st;
}

static void note_deadline(const options *o, const engine *e) {
    const double first = engine_get_times(e).first_token_seconds;
    static const char *const advice[] = {[LOAD_FULL] = "--load auto is faster where the link is slow",
                                         [LOAD_AUTO] = "this was the fastest way by what was seen",
                                         [LOAD_BASE] = "no less can be loaded",
                                         [LOAD_RECOMPUTE] =
                                             "--load auto loads what comes sooner than it is computed"};
    if (first > o->deadline_seconds) /* not with NaN */
        notice_add("--deadline %.3f s: the first token came after %.3f s; %s", o->deadline_seconds, first,
                   advice[o->load]);
}

/* What began on a coarser cache than was saved. */
static void note_bases(const options *o, const engine_loads *l) {
    char of[48] = "", when[160] = "what refines it did not come in time";
    if (l->n_coarse == 0) return;
    if (l->n_refined < l->n_coarse) snprintf(of, sizeof of, ", of %lld of them,", (long long)l->n_refined);
    if (l->n_refined > 0 && l->first_refined == l->last_refined)
        snprintf(when, sizeof when, "what refines it was in place%s before position %lld", of,
                 (long long)l->last_refined);
    else if (l->n_refined > 0)
        snprintf(when, sizeof when, "what refines it was in place%s before positions %lld to %lld", of,
                 (long long)l->first_refined, (long long)l->last_refined);
    else if (l->n_unrefined > 0)
        snprintf(when, sizeof when, "what refines it is damaged in part");
    notice_add(
        "--resume %s: of %lld positions of %lld sequence%s the base was loaded first, which is coarser "
        "than what was saved; %s%s",
        o->resume, (long long)l->n_from_base, (long long)l->n_coarse, l->n_coarse == 1 ? "" : "s", when,
        o->save ? "; positions that were computed before that are saved as they came out" : "");
}

/* Stopped before all was loaded, of which another snapshot then has nothing. */
static void note_unloaded(const generation *g, const engine *e) {
    if (!g->stop_reason || g->save_goes_on || engine_n_unloaded(e) == 0) return;
    notice_add(
        "--resume %s: what it holds of %lld prompts was not yet loaded, so %s has nothing of it: they go on "
        "from it only with --resume %s again",
        g->options->resume, (long long)engine_n_unloaded(e), g->options->save, g->options->resume);
}

/* What --load auto did. */
static void print_loads(const generation *g, const engine *e) {
    const engine_loads l = engine_get_loads(e);
    note_unloaded(g, e);
    note_bases(g->options, &l);
    if (g->options->load != LOAD_AUTO || l.n_loads == 0) return;
    fprintf(stderr,
            "kvarve: of what was cached, %lld positions were loaded and %lld computed, in %.3f s; at the "
            "speeds seen, the best would have taken %.3f s (regret %.0f%%)\n",
            (long long)l.n_loaded, (long long)l.n_computed, l.seconds, l.best_seconds,
            l.best_seconds > 0 ? 100 * (l.seconds / l.best_seconds - 1) : 0);
}

static void print_reuse(const generation *g) {
    if (g->asked_tokens > 0)
        notice_add(
            "--evict: %lld tokens that %s holds are computed again, as only computed ones have the queries "
            "that it goes by",
            (long long)g->asked_tokens, g->options->resume);
    if (g->reused_tokens == 0) return;
    fprintf(stderr, "kvarve: %s holds %lld of %lld tokens of %lld prompts\n", g->options->resume,
            (long long)g->reused_tokens, (long long)g->known_tokens, (long long)g->n_runnable);
}

/* Was all of --text written? stdout is looked at when the program ends. */
static status check_text(const generation *g) {
    if (!g->text || g->text == stdout || !ferror(g->text)) return STATUS_OK;
    return status_fail("--text %s: not all of the text could be written", g->options->text);
}

static status run_stage_0(generation *g, engine *e) {
    g->begin = clock_seconds();
    print_reuse(g);
    end_idle_jobs(g);
    for (int64_t i = 0; i < g->n_jobs; i++) {
        job *j = &g->jobs[i];
        if (j->is_over || j->error) continue;
        j->session.is_held = g->save != NULL;
        engine_submit(e, &j->session);
    }
    g->began_late = generate_stop_reason(g, e) != NULL;
    status st = run_events(g, e);
    double before = engine_trace(e)->seconds[REGION_SAVE];
    if (st == STATUS_OK) st = generate_last_save(g, e);
    if (generate_recodes(g) && !g->stop_reason)
        g->stop_reason = generate_stop_reason(g, e); /* time for that? */
    g->summary.end_save_seconds = engine_trace(e)->seconds[REGION_SAVE] - before;
    if (st == STATUS_OK) st = check_text(g);
    engine_stop(e);
    g->summary.n_requests = g->n_runnable;
    g->summary.reused_tokens = g->reused_tokens;
    if (g->n_runnable) g->summary.first_token_seconds /= (double)g->n_runnable;
    return st;
}

/* ---- the end ---- */

static int64_t count_jobs_left(const generation *g) {
    int64_t n = 0;
    for (int64_t i = 0; i < g->n_jobs; i++)
        n += !g->jobs[i].is_over && !g->jobs[i].error;
    return n;
}

/* Lines that were refused; the code for them. */
static int say_refused(const generation *g) {
    if (g->n_failed && g->out)
        fprintf(stderr, "kvarve: %lld of %lld prompts were refused; their results say why (the first: %s)\n",
                (long long)g->n_failed, (long long)g->n_jobs, g->first_failure);
    return g->n_failed ? EXIT_CODE_SOME_FAILED : EXIT_CODE_OK;
}

/* The exit code of a run that went as it should: to its end, or to the end of its time. */
static int conclude(const generation *g) {
    int64_t n_left = count_jobs_left(g);
    if (g->stop_reason && n_left > 0) {
        fprintf(stderr,
                "kvarve: stopped early (%s) and saved; %lld of %lld prompts are not done: go on with "
                "--resume %s\n",
                g->stop_reason, (long long)n_left, (long long)g->n_jobs, g->options->save);
        return EXIT_CODE_MORE;
    }
    return say_refused(g);
}

static void close_generation(generation *g) {
    checkpoint_close(g->save);
    for (int64_t i = 0; i < g->n_jobs; i++)
        job_free(&g->jobs[i]);
    free(g->jobs);
    free(g->matches);
    free(g->to_release);
    free(g->past_bytes);
    manifest_free(&g->past);
    chosen_coding_free(&g->chosen);
    results_close(g->out);
    if (g->text && g->text != stdout) fclose(g->text);
    if (g->text_is_new && !g->has_begun_text) unlink(g->options->text);
    tokenizer_close(g->tok);
}

static status open_engine(generation *g, comm *c, engine **out) {
    const options *o = g->options;
    engine_options wanted = run_engine_options(c, o, &g->sizing);
    wanted.save_dir = o->save;
    wanted.coding = g->chosen.coding;
    wanted.tables = g->chosen.tables;
    wanted.load_dir = g->past_bytes ? o->resume : NULL;
    wanted.races_loads = o->load == LOAD_AUTO && g->config.window == 0;
    if (comm_rank(c) == 0 && o->load == LOAD_AUTO && g->config.window > 0)
        notice_add("--load auto: as layers have a window, all that is cached is loaded");
    wanted.keeps_load_log = o->load_log != NULL;
    wanted.io_bandwidth = (double)o->io_bandwidth;
    wanted.deadline_seconds = o->deadline_seconds;
    wanted.loads_base = o->load == LOAD_BASE ? LOADS_BASE : LOADS_NO_BASE;
    if (o->load == LOAD_AUTO && !isnan(o->deadline_seconds) && (!o->save || g->save_goes_on))
        wanted.loads_base = LOADS_BASE_IF_LATE;
    if (comm_rank(c) == 0) generate_count_coded(g, &wanted);
    if (!isnan(o->max_distortion)) wanted.most_distortion = o->max_distortion;
    if (g->past.n_rows > 0) wanted.usual_seconds_per_row = g->past.seconds_computed / (double)g->past.n_rows;
    wanted.manifest = g->past_bytes;
    wanted.n_manifest = g->n_past_bytes;
    return run_open_engine(c, o, &g->config, &wanted, out);
}

/* A run that had begun did not come to its end: what it leaves is said with why. */
static int say_end(const comm *c, status st) {
    int code = run_say_failure(c, st);
    if (comm_rank(c) == 0) last_save_say();
    return code;
}

/* Nothing is left to run: what is known is written. */
static int end_without_run(generation *g, const comm *c) {
    const options *o = g->options;
    if (g->past_bytes) fprintf(stderr, "kvarve: %s holds all of it: nothing is left to compute\n", o->resume);
    if (g->save_goes_on && generate_recodes(g)) generate_note_lossless(g, "nothing was computed");
    if (g->save_goes_on)
        manifest_remove_unnamed_files(o->save, &g->past);
    else if (o->save)
        notice_add("--save %s: nothing was computed, so nothing is saved", o->save);
    if (o->report) notice_add("--report %s: nothing was computed, so there is nothing to report", o->report);
    if (o->load_log) notice_add("--load-log %s: nothing was computed, so nothing was loaded", o->load_log);
    begin_text(g);
    end_idle_jobs(g);
    return check_text(g) == STATUS_OK ? say_refused(g) : run_say_failure(c, STATUS_FAILED);
}

static int run(generation *g, comm *c, engine *e) {
    status st = STATUS_OK;
    bool is_first = comm_rank(c) == 0;
    if (is_first) {
        char *effective = options_effective(g->options);
        generate_announce_recode(g);
        run_print_begin(c, e, g->options);
        generate_start_save(g, e, effective);
        free(effective);
        st = run_stage_0(g, e);
        print_loads(g, e);
        note_deadline(g->options, e);
        if (st == STATUS_OK && g->options->load_log)
            st = status_at(load_log_write(engine_log_of_loads(e), g->options->load_log), "--load-log");
    } else {
        if (g->options->save) stop_watch_signals();
        engine_serve(e);
    }
    if (is_first && g->save) {
        g->summary.saves = checkpoint_get_stats(g->save);
        kv_coding_text(&g->chosen.coding, g->summary.saved_codec);
    }
    st = generate_recode(g, c, e, st);
    status reported = report_run(c, e, g->options, &g->summary);
    if (st == STATUS_OK) st = reported;
    if (comm_any_failed(c, &st)) /* what is refused is the snapshot, which is damaged */
        return st == STATUS_REFUSED ? run_say_failure(c, st) : say_end(c, st);
    int code = is_first ? conclude(g) : 0;
    comm_broadcast(c, &code, sizeof code, 0);
    return code;
}

/* Rank 0 speaks for all, and if it is lost itself, rank 1. */
static void watch_last_save(const comm *c, const char *dir) {
    char *path = manifest_path(dir);
    last_save_watch(dir, path, comm_rank(c) <= 1);
    free(path);
}

/* Of a snapshot even a text that needs nothing more is told only when model and files are seen to be its own.
 */
static int run_or_end(generation *g, comm *c) {
    struct {
        int64_t n_runnable;
        bool has_past;
    } all = {g->n_runnable, g->past_bytes != NULL};
    engine *e = NULL;
    int code;
    comm_broadcast(c, &all, sizeof all, 0);
    status st = all.n_runnable > 0 || all.has_past ? open_engine(g, c, &e) : STATUS_OK;
    if (st != STATUS_OK) return say_end(c, st);
    if (e && comm_rank(c) == 0) st = generate_check_weights(g, e);
    if (comm_any_failed(c, &st)) {
        code = run_say_failure(c, st);
    } else if (all.n_runnable > 0) {
        code = run(g, c, e);
    } else {
        code = comm_rank(c) == 0 ? end_without_run(g, c) : 0;
        comm_broadcast(c, &code, sizeof code, 0);
    }
    engine_close(e);
    return code;
}

int command_generate(comm *c, const options *o) {
    generation g = {.options = o};
    if (o->save) watch_last_save(c, o->save);
    status st = comm_rank(c) == 0 ? prepare(&g) : STATUS_OK;
    bool failed = comm_any_failed(c, &st);
    if (!failed) {
        st = chosen_coding_share(c, &g.chosen);
        failed = comm_any_failed(c, &st);
    }
    int code = failed ? run_say_failure(c, st) : run_or_end(&g, c);
    close_generation(&g);
    return code;
}
