/* kvarve perplexity: negative log-likelihood per token of a long text, in windows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/command/progress.h"
#include "src/command/report.h"
#include "src/command/run.h"
#include "src/command/sizing.h"
#include "src/study/changed_cache.h"
#include "src/study/windows.h"

enum { DEFAULT_CONTEXT = 2048 };

/* Rank 0's view. Window i holds tokens [i * stride, i * stride + span); those that the window before held are
 * context only, and so is the first token of the text. With --add-bos the begin token stands before each
 * window and is context only, so that the span is one token less than the context, and every token is scored.
 */
typedef struct scoring {
    const options *options;
    model_config config;
    tokenizer *tok;
    token_list text;
    size_t n_bytes;
    int32_t begin_token; /* -1: none stands before the windows */
    int64_t context, span, stride, n_windows;
    double *window_sums; /* by window, so that the sum has one order */
    double *window_squares;
    int64_t n_scored;
    double nll; /* per token */
} scoring;

static status read_text(scoring *s) {
    const char *path = s->options->file;
    status st = windows_read_text("--file", path, &s->config, s->tok, &s->text, &s->n_bytes);
    if (st == STATUS_OK && s->text.n < 2)
        st = status_refuse("--file %s: has %zu tokens, and needs two", path, s->text.n);
    return st;
}

static int64_t window_end(const scoring *s, int64_t window) {
    int64_t end = window * s->stride + s->span, n = (int64_t)s->text.n;
    return end < n ? end : n;
}

/* The first scored token of a window, counted from the window's begin, or from the begin token before it. */
static int64_t score_from(const scoring *s, int64_t window) {
    int64_t known = window ? window_end(s, window - 1) - window * s->stride : 0;
    if (s->begin_token >= 0) return known + 1;
    return known > 1 ? known : 1;
}

static status prepare(scoring *s) {
    const options *o = s->options;
    status st = run_read_model(o, &s->config, &s->tok);
    if (st == STATUS_OK) st = windows_begin_token(o, &s->config, s->tok, &s->begin_token);
    if (st == STATUS_OK) st = read_text(s);
    if (st != STATUS_OK) return st;
    int64_t fallback = s->config.max_positions < DEFAULT_CONTEXT ? s->config.max_positions : DEFAULT_CONTEXT;
    s->context = o->context != OPTION_UNSET ? o->context : fallback;
    s->span = s->context - (s->begin_token >= 0);
    s->stride = o->stride != OPTION_UNSET ? o->stride : s->span;
    if (s->context < 2) return status_refuse("--context %lld: expected at least 2", (long long)s->context);
    if (s->stride > s->span)
        return status_refuse("--stride %lld: expected at most the context%s, %lld", (long long)s->stride,
                             s->begin_token >= 0 ? " without the begin token" : "", (long long)s->span);
    /* The last window that scores something. */
    while (s->n_windows * s->stride + (s->begin_token < 0) < (int64_t)s->text.n &&
           (s->n_windows == 0 || window_end(s, s->n_windows - 1) < (int64_t)s->text.n))
        s->n_windows++;
    s->window_sums = mem_new((size_t)s->n_windows, sizeof(double));
    s->window_squares = mem_new((size_t)s->n_windows, sizeof(double));
    return STATUS_OK;
}

static session *submit_windows(const scoring *s, engine *e) {
    session *windows = mem_new((size_t)s->n_windows, sizeof *windows);
    for (int64_t i = 0; i < s->n_windows; i++) {
        session *q = &windows[i];
        *q = session_new(&s->begin_token, s->begin_token >= 0);
        for (int64_t k = i * s->stride; k < window_end(s, i); k++)
            token_list_append(&q->tokens, s->text.ids[k]);
        q->n_prompt = (int64_t)q->tokens.n;
        q->id = i;
        q->score_from = score_from(s, i);
        engine_submit(e, q);
    }
    return windows;
}

static void run_stage_0(scoring *s, engine *e) {
    int64_t all = 0;
    for (int64_t i = 0; i < s->n_windows; i++)
        all += window_end(s, i) - i * s->stride + (s->begin_token >= 0);
    session *windows = submit_windows(s, e);
    progress bar = progress_begin("tokens");
    for (event ev; engine_next(e, &ev);) {
        if (ev.session && ev.session->failure) status_die("%s", ev.session->failure);
        for (int64_t i = 0; i < ev.n_scores; i++) {
            double nll = (double)ev.scores[i];
            s->window_sums[ev.session->id] += nll;
            s->window_squares[ev.session->id] += nll * nll;
        }
        s->n_scored += ev.n_scores;
        int64_t read = engine_get_times(e).prompt_tokens;
        progress_update(&bar, (double)read, (double)all, "read %lld of %lld tokens", (long long)read,
                        (long long)all);
    }
    progress_end(&bar);
    sessions_free(windows, s->n_windows);
    engine_stop(e);
}

static void print_result(scoring *s) {
    double sum = 0, squares = 0, n = (double)s->n_scored;
    for (int64_t i = 0; i < s->n_windows; i++) {
        sum += s->window_sums[i];
        squares += s->window_squares[i];
    }
    double nll = sum / n, deviation = sqrt(fmax(0, squares / n - nll * nll) / n);
    s->nll = nll;
    printf("text            %s\n", s->options->file);
    printf("tokens          %zu in %zu bytes, %lld scored\n", s->text.n, s->n_bytes, (long long)s->n_scored);
    printf("windows         %lld of %lld tokens, stride %lld\n", (long long)s->n_windows,
           (long long)s->context, (long long)s->stride);
    if (s->begin_token >= 0)
        printf("begin token     %d before each window, not scored\n", s->begin_token);
    else
        printf("begin token     none (--add-bos begins each window with the model's)\n");
    printf("nll per token   %.6f +- %.6f\n", nll, deviation);
    printf("perplexity      %.4f +- %.4f\n", exp(nll), exp(nll) * deviation);
    printf("bits per byte   %.4f\n", sum / log(2) / (double)s->n_bytes * ((double)s->text.n / n));
    fflush(stdout);
}

static void put_result(json_writer *w, const void *of) {
    const scoring *s = of;
    json_put_integer(w, "scored_tokens", s->n_scored);
    json_put_number(w, "nll", s->nll);
    json_put_number(w, "perplexity", exp(s->nll));
}

int command_perplexity(comm *c, const options *o) {
    if (options_change_cache(o)) return changed_cache_run(c, o);
    scoring s = {.options = o};
    bool is_first = comm_rank(c) == 0;
    engine *e = NULL;
    status st = is_first ? prepare(&s) : STATUS_OK;
    if (!comm_any_failed(c, &st)) {
        sizing all_scored = sizing_of(o, &(job_size){.n = s.n_windows, .tokens = s.context}, 1, 1);
        engine_options wanted = run_engine_options(c, o, &all_scored);
        st = run_open_engine(c, o, &s.config, &wanted, &e);
    }
    if (st == STATUS_OK) {
        if (is_first) run_print_begin(c, e, o);
        if (is_first)
            run_stage_0(&s, e);
        else
            engine_serve(e);
        if (is_first) print_result(&s);
        st = report_run(c, e, o,
                        &(run_summary){.n_requests = s.n_windows, .put_found = put_result, .found = &s});
        comm_any_failed(c, &st);
    }
    int code = st == STATUS_OK ? EXIT_CODE_OK : run_say_failure(c, st);
    engine_close(e);
    tokenizer_close(s.tok);
    free(s.text.ids);
    free(s.window_sums);
    free(s.window_squares);
    return code;
}
