/* kvarve generate: continue one prompt to stdout, or a file of prompts to a file of results. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/job.h"
#include "src/progress.h"
#include "src/report.h"
#include "src/run.h"

enum { CONTEXT_TOKENS = 8 };

/* Rank 0's view of the run. */
typedef struct generation {
    const options *options;
    model_config config;
    tokenizer *tok;
    results *out; /* NULL: a single prompt, whose text goes to stdout */
    job *jobs;
    int64_t n_jobs, n_failed;
    int64_t context, longest_tokens, wanted_pages, prompt_tokens, max_new_tokens;
    int64_t n_runnable;
    run_summary summary;
    double begin;
    int64_t prompt_done, decode_done;
} generation;

static sampling_options choose_sampling(const generation *g) {
    const options *o = g->options;
    sampling_options s = g->config.sampling;
    if (!isnan(o->temperature)) s.temperature = o->temperature;
    if (!isnan(o->top_p)) s.top_p = o->top_p;
    if (!isnan(o->min_p)) s.min_p = o->min_p;
    if (!isnan(o->repetition_penalty)) s.repetition_penalty = o->repetition_penalty;
    if (o->top_k != OPTION_UNSET) s.top_k = o->top_k;
    s.seed = o->seed != OPTION_UNSET ? o->seed : 0;
    s.max_tokens = o->max_tokens != OPTION_UNSET ? o->max_tokens : DEFAULT_MAX_TOKENS;
    s.n_logprobs = o->logprobs != OPTION_UNSET ? o->logprobs : 0;
    s.ignore_eos = o->ignore_eos;
    return s;
}

/* FNV-1a (Fowler, Noll, Vo): a prompt's draws depend on its id, not on its place in the file. */
static int64_t sequence_id(const char *id) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * 0x100000001B3u;
    return (int64_t)hash;
}

/* ---- prompts ---- */

static job *add_job(generation *g) {
    g->jobs = mem_resize(g->jobs, (size_t)g->n_jobs + 1, sizeof *g->jobs);
    job *j = &g->jobs[g->n_jobs++];
    *j = (job){.stream.skip_special = true};
    return j;
}

static void copy_stops(job *j, const char *const *stops, int64_t n) {
    for (j->n_stops = 0; j->n_stops < n; j->n_stops++)
        j->stops[j->n_stops] = mem_copy_text(stops[j->n_stops], strlen(stops[j->n_stops]));
}

/* Give the stream the prompt's last tokens, so that what follows decodes as in the middle of a text. */
static void seed_stream(generation *g, job *j) {
    text_buffer known = {0};
    size_t first = j->prompt.n > CONTEXT_TOKENS ? j->prompt.n - CONTEXT_TOKENS : 0;
    for (size_t i = first; i < j->prompt.n; i++)
        text_stream_push(g->tok, &j->stream, j->prompt.ids[i], &known);
    free(known.data);
}

/* Does the prompt fit the model and the context? How many tokens may follow? */
static status check_job(generation *g, job *j) {
    if (j->prompt.n == 0) return status_refuse("the prompt is empty");
    for (size_t i = 0; i < j->prompt.n; i++)
        if (j->prompt.ids[i] < 0 || j->prompt.ids[i] >= g->config.vocab_size)
            return status_refuse("token %d of the prompt is %d, but the model has tokens 0 to %d", (int)i,
                                 j->prompt.ids[i], g->config.vocab_size - 1);
    int64_t n = (int64_t)j->prompt.n, least = j->sampling.max_tokens > 0 ? 1 : 0;
    if (n + least > g->context)
        return status_refuse(
            "the prompt has %lld tokens, but the context holds %lld%s: shorten it or raise --context",
            (long long)n, (long long)g->context, least ? " with at least one to generate" : "");
    j->max_tokens = j->sampling.max_tokens;
    if (n + j->max_tokens > g->context) {
        j->max_tokens = g->context - n;
        g->summary.clipped_context = true;
    }
    seed_stream(g, j);
    return STATUS_OK;
}

static status prepare_single(generation *g) {
    const options *o = g->options;
    text_buffer text = {0};
    if (o->prompt) text_append(&text, o->prompt, strlen(o->prompt));
    status st = o->prompt_file ? run_read_text("--prompt-file", o->prompt_file, &text) : STATUS_OK;
    if (st == STATUS_OK && text.n == 0) st = status_refuse("the prompt is empty");
    if (st == STATUS_OK) {
        job *j = add_job(g);
        j->id = mem_copy_text("0", 1);
        j->sampling = choose_sampling(g);
        copy_stops(j, o->stops, o->n_stops);
        if (o->echo) j->echo = mem_copy_text(text.data, text.n);
        st = tokenizer_encode(g->tok, text.data, text.n, true, &j->prompt);
        if (st == STATUS_OK) st = check_job(g, j);
    }
    free(text.data);
    return st;
}

static void take_line(generation *g, prompt_line *line) {
    job *j = add_job(g);
    j->id = line->id;
    j->id_is_integer = line->id_is_integer;
    j->error = line->error;
    line->id = line->error = NULL;
    if (j->error) return;
    j->sampling = line->sampling;
    const char *const *own = (const char *const *)line->stops;
    copy_stops(j, line->has_stops ? own : g->options->stops,
               line->has_stops ? line->n_stops : g->options->n_stops);
    status st = STATUS_OK;
    if (line->text) st = tokenizer_encode(g->tok, line->text, line->n_text, true, &j->prompt);
    for (size_t i = 0; !line->text && i < line->n_tokens; i++)
        token_list_append(&j->prompt, line->tokens[i]);
    if (st == STATUS_OK) st = check_job(g, j);
    if (st != STATUS_OK) {
        status_at(st, "%s: line %lld", g->options->input, (long long)line->line);
        j->error = mem_copy_text(status_text(), strlen(status_text()));
    } else if (g->options->echo) {
        text_buffer echo = {0};
        if (line->text)
            text_append(&echo, line->text, line->n_text);
        else
            tokenizer_decode(g->tok, j->prompt.ids, j->prompt.n, true, &echo);
        j->echo = echo.data;
    }
}

static status prepare_lines(generation *g) {
    prompts *in;
    sampling_options defaults = choose_sampling(g);
    status st = prompts_open(g->options->input, &in);
    if (st != STATUS_OK) return st;
    for (bool more = true; st == STATUS_OK && more;) {
        prompt_line line;
        st = prompts_next(in, &defaults, &line, &more);
        if (st != STATUS_OK || !more) break;
        take_line(g, &line);
        prompt_line_free(&line);
    }
    prompts_close(in);
    if (st == STATUS_OK && g->n_jobs == 0) st = status_refuse("--input %s: no prompts", g->options->input);
    return st;
}

static int by_size_down(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

/* What all this takes: the longest sequence, and pages for the largest that could run at once. */
static void add_up(generation *g) {
    int64_t *pages = mem_new((size_t)g->n_jobs, sizeof *pages);
    for (int64_t i = 0; i < g->n_jobs; i++) {
        const job *j = &g->jobs[i];
        if (j->error) continue;
        int64_t all = (int64_t)j->prompt.n + j->max_tokens;
        if (all > g->longest_tokens) g->longest_tokens = all;
        g->prompt_tokens += (int64_t)j->prompt.n;
        g->max_new_tokens += j->max_tokens;
        pages[g->n_runnable++] = kv_pages_for(all, (int)g->options->page_tokens);
    }
    qsort(pages, (size_t)g->n_runnable, sizeof *pages, by_size_down);
    for (int64_t i = 0; i < g->n_runnable && i < g->options->sequences; i++)
        g->wanted_pages += pages[i];
    free(pages);
}

static status prepare(generation *g) {
    const options *o = g->options;
    status st = report_check_path(o);
    if (st == STATUS_OK && o->input)
        st = results_open(o->output ? o->output : "/dev/stdout", o->input, &g->out);
    if (st == STATUS_OK) st = run_read_model(o, &g->config, &g->tok);
    if (st != STATUS_OK) return st;
    g->context = o->context != OPTION_UNSET ? o->context : g->config.max_positions;
    st = o->input ? prepare_lines(g) : prepare_single(g);
    if (st == STATUS_OK) add_up(g);
    return st;
}

/* ---- the run ---- */

static void submit_all(generation *g, engine *e) {
    for (int64_t i = 0; i < g->n_jobs; i++) {
        job *j = &g->jobs[i];
        if (j->is_over) continue; /* refused, and told already */
        engine_submit(e, &(request){
                             .id = i,
                             .sequence_id = sequence_id(j->id),
                             .tokens = j->prompt.ids,
                             .n_tokens = (int64_t)j->prompt.n,
                             .max_tokens = j->max_tokens,
                             .sampling = j->sampling,
                             .score_from = -1,
                         });
    }
}

/* The job is over: its line is written, and what it held is released. */
static void end_job(generation *g, job *j) {
    if (!g->out) {
        job_print_text(j, stdout);
        if (j->text.n == 0 || j->text.data[j->text.n - 1] != '\n') fputc('\n', stdout);
        fflush(stdout);
        if (j->error) {
            fprintf(stderr, "kvarve: error: %s\n", j->error);
            g->n_failed++;
        }
        return;
    }
    if (j->error) g->n_failed++;
    if (job_write_result(j, g->out) != STATUS_OK) status_die("%s", status_text());
    job_free(j);
    *j = (job){.is_over = true};
}

static void take_event(generation *g, engine *e, const event *ev) {
    job *j = &g->jobs[ev->id];
    if (ev->kind == EVENT_READ) {
        j->is_over = true;
        j->finish = FINISH_LENGTH;
        end_job(g, j);
        return;
    }
    if (j->generated.n == 0) {
        g->summary.first_token_seconds += clock_seconds() - g->begin;
        g->prompt_done += (int64_t)j->prompt.n;
    }
    g->decode_done++;
    bool over = job_take_token(j, g->tok, &g->config, &ev->choice, ev->is_last);
    if (over && !ev->is_last) engine_finish(e, ev->handle);
    if (over)
        end_job(g, j);
    else if (!g->out)
        job_print_text(j, stdout);
}

static void run_stage_0(generation *g, engine *e) {
    g->begin = clock_seconds();
    for (int64_t i = 0; i < g->n_jobs; i++)
        if (g->jobs[i].error) end_job(g, &g->jobs[i]);
    submit_all(g, e);
    if (!g->out && g->jobs[0].echo) fputs(g->jobs[0].echo, stdout);
    progress bar = progress_begin(g->prompt_tokens, g->max_new_tokens);
    for (event ev; engine_next(e, &ev);) {
        region before = trace_enter(engine_trace(e), REGION_TEXT);
        progress_update(&bar, engine_get_times(e).prompt_tokens, g->decode_done);
        if (!g->out) progress_end(&bar);
        take_event(g, e, &ev);
        trace_enter(engine_trace(e), before);
    }
    progress_end(&bar);
    engine_stop(e);
    g->summary.n_requests = g->n_runnable;
    if (g->n_runnable) g->summary.first_token_seconds /= (double)g->n_runnable;
}

static void close_generation(generation *g) {
    for (int64_t i = 0; i < g->n_jobs; i++)
        job_free(&g->jobs[i]);
    free(g->jobs);
    results_close(g->out);
    tokenizer_close(g->tok);
}

/* All prompts were refused: their lines are written without loading the model. */
static int end_without_run(generation *g) {
    for (int64_t i = 0; i < g->n_jobs; i++)
        end_job(g, &g->jobs[i]);
    return EXIT_CODE_SOME_FAILED;
}

int command_generate(comm *c, const options *o) {
    generation g = {.options = o};
    bool is_first = comm_rank(c) == 0;
    int code = EXIT_CODE_OK;
    engine *e = NULL;
    status st = is_first ? prepare(&g) : STATUS_OK;
    if (comm_any_failed(c, &st)) {
        code = run_say_failure(c, st);
    } else if (comm_broadcast(c, &g.n_runnable, sizeof g.n_runnable, 0), g.n_runnable == 0) {
        code = is_first ? end_without_run(&g) : EXIT_CODE_SOME_FAILED;
    } else {
        engine_options wanted = run_engine_options(c, o);
        wanted.n_sequences = (int)(g.n_runnable < o->sequences ? g.n_runnable : o->sequences);
        wanted.longest_tokens = g.longest_tokens;
        wanted.wanted_pages = g.wanted_pages;
        wanted.head_share = run_head_share(g.prompt_tokens, g.max_new_tokens);
        st = engine_open(c, &g.config, &wanted, &e);
        if (st != STATUS_OK) code = run_say_failure(c, st);
    }
    if (e) {
        if (is_first) run_print_begin(c, e, o);
        if (is_first)
            run_stage_0(&g, e);
        else
            engine_serve(e);
        st = report_run(c, e, o, &g.summary);
        if (comm_any_failed(c, &st))
            code = run_say_failure(c, st);
        else if (is_first && g.n_failed)
            code = EXIT_CODE_SOME_FAILED;
        comm_broadcast(c, &code, sizeof code, 0);
        if (is_first && g.n_failed)
            fprintf(stderr, "kvarve: %lld of %lld prompts were refused; their results say why\n",
                    (long long)g.n_failed, (long long)g.n_jobs);
    }
    engine_close(e);
    close_generation(&g);
    return code;
}
