#include "src/study/measure.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/command/number_list.h"
#include "src/command/report.h"
#include "src/command/run.h"
#include "src/command/sizing.h"
#include "src/timing/step_costs.h"

enum { DECODE_TOKENS = 32 };

/* Rank 0's view. */
typedef struct measurement {
    const options *options;
    model_config config;
    engine *engine;
    numbers depths, batch_depths;
    chunk_list chunks; /* of the prompt that is read */
    int64_t longest;
    int32_t *tokens;
    int n_tokens; /* of one sequence that decodes behind no context, as the last of all steps */
    double token_seconds[DECODE_TOKENS]; /* from token to token */
} measurement;

/* ---- what is run ---- */

static int by_number(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* At each depth chunks of all sizes one behind the other, and the largest ones between the depths. */
static void lay_out_chunks(measurement *m) {
    int64_t pos = 0, most = m->options->chunk_tokens;
    qsort(m->depths.at, (size_t)m->depths.n, sizeof m->depths.at[0], by_number);
    for (int i = 0; i < m->depths.n; i++) {
        while (pos < m->depths.at[i]) {
            int64_t left = m->depths.at[i] - pos, rows = left < most ? left : most;
            chunk_list_append(&m->chunks, rows);
            pos += rows;
        }
        for (int64_t rows = CHUNK_QUANTUM; rows < most; rows *= 2, pos = m->chunks.ends[m->chunks.n - 1])
            chunk_list_append(&m->chunks, rows);
        chunk_list_append(&m->chunks, most);
        pos = m->chunks.ends[m->chunks.n - 1];
    }
}

/* The last of n sequences may begin when the first one has generated as many tokens as there are steps of
 * prompts. */
static int64_t decode_tokens(const measurement *m, int64_t depth, int64_t n) {
    int64_t rows = m->depths.n > 0 ? CHUNK_QUANTUM : m->options->chunk_tokens;
    return DECODE_TOKENS + 1 + (n > 1 ? n * (depth / rows + 2) : 0);
}

/* Of each of n sequences behind at most that depth. */
static int64_t decode_positions(const measurement *m, const numbers *depths, int64_t n) {
    int64_t depth = numbers_largest(depths);
    return depth + 1 + decode_tokens(m, depth, n);
}

static int64_t longest_of(const measurement *m) {
    int64_t prompt = m->chunks.n > 0 ? m->chunks.ends[m->chunks.n - 1] : 1;
    int64_t one = decode_positions(m, &m->depths, 1);
    int64_t all = decode_positions(m, &m->batch_depths, m->options->sequences);
    int64_t most = prompt > one ? prompt : one;
    return most > all ? most : all;
}

/* Refuse a path that cannot be written: before the model loads. */
static status check_path(const char *path) {
    char *temporary = mem_new(strlen(path) + 5, 1);
    snprintf(temporary, strlen(path) + 5, "%s.tmp", path);
    FILE *f = fopen(temporary, "w");
    status st = f ? STATUS_OK : status_refuse("--measure %s: %s", path, strerror(errno));
    if (f) fclose(f);
    if (f) unlink(temporary);
    free(temporary);
    return st;
}

static status prepare(measurement *m) {
    const options *o = m->options;
    status st = check_path(o->measure);
    if (st == STATUS_OK) st = run_read_model(o, &m->config, NULL);
    if (st == STATUS_OK) st = numbers_parse("depths", o->depths, 0, NUMBERS_MOST, &m->depths);
    if (st == STATUS_OK)
        st = numbers_parse("batch-depths", o->batch_depths, 0, NUMBERS_MOST, &m->batch_depths);
    if (st == STATUS_OK && m->depths.n == 0)
        st = status_refuse("--depths none: --measure needs contexts to measure chunks at");
    if (st != STATUS_OK) return st;
    lay_out_chunks(m);
    m->longest = longest_of(m);
    if (m->longest > m->config.max_positions)
        return status_refuse(
            "--depths %s --batch-depths %s: the model holds %lld positions, and %lld would be used",
            o->depths, o->batch_depths, (long long)m->config.max_positions, (long long)m->longest);
    m->tokens = run_walk_tokens(&m->config, (size_t)(m->longest + o->sequences));
    return STATUS_OK;
}

/* ---- the runs ---- */

static void run_all(measurement *m) {
    for (event ev; engine_next(m->engine, &ev);) {
    }
}

static void read_prompt(measurement *m) {
    session prompt = session_new(m->tokens, m->chunks.ends[m->chunks.n - 1]);
    engine_submit(m->engine, &prompt);
    run_all(m);
    session_free(&prompt);
}

static session *submit_decodes(measurement *m, int64_t depth, int64_t n) {
    return run_submit_decodes(m->engine, m->tokens, depth, n, decode_tokens(m, depth, n));
}

static void time_decodes(measurement *m, int64_t depth, int64_t n) {
    session *all = submit_decodes(m, depth, n);
    run_all(m);
    sessions_free(all, n);
}

/* One sequence from token to token: beside what the ranks do, that holds what is between them. */
static void time_tokens(measurement *m) {
    double last = 0;
    session *one = submit_decodes(m, 0, 1);
    for (event ev; engine_next(m->engine, &ev);) {
        if (ev.kind != EVENT_TOKEN) continue;
        double now = clock_seconds();
        if (last > 0) m->token_seconds[m->n_tokens++] = now - last;
        last = now;
    }
    sessions_free(one, 1);
}

static void warm_up(measurement *m) {
    read_prompt(m);
    engine_stop(m->engine);
}

static void run_stage_0(measurement *m) {
    int64_t most = m->options->sequences;
    for (int64_t i = 0; i < m->options->repeats; i++)
        read_prompt(m);
    for (int i = 0; i < m->depths.n; i++)
        time_decodes(m, m->depths.at[i], 1);
    for (int i = 0; i < m->batch_depths.n; i++)
        for (int64_t n = 2; n < 2 * most; n *= 2)
            time_decodes(m, m->batch_depths.at[i], n < most ? n : most);
    time_tokens(m);
    engine_stop(m->engine);
}

/* ---- what comes of it ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* What a token takes beside the ranks' own work, for each message on its way: the median over the last
 * tokens, whose steps are the last of each rank in the log. */
static double hop_seconds(const measurement *m, const step_log *log, int n_ranks) {
    double between[DECODE_TOKENS];
    memcpy(between, m->token_seconds, sizeof between);
    for (int i = log->n - 1, behind = 0; i >= 0; i--) { /* so many steps of the same rank come behind */
        const step_time *s = &log->steps[i];
        behind = i + 1 < log->n && s->rank == log->steps[i + 1].rank ? behind + 1 : 0;
        if (behind < m->n_tokens) between[m->n_tokens - 1 - behind] -= s->layer_seconds + s->head_seconds;
    }
    qsort(between, (size_t)m->n_tokens, sizeof *between, by_value);
    return fmax(0, between[m->n_tokens / 2]) / n_ranks;
}

static status write_file(const measurement *m, step_log *log, int n_ranks) {
    step_times t = {.n_threads = engine_threads(m->engine), .n_ranks = n_ranks};
    model_config_describe(&m->config, t.model, sizeof t.model);
    snprintf(t.processor, sizeof t.processor, "%s", engine_processor(m->engine));
    t.layers = mem_new((size_t)n_ranks, sizeof *t.layers);
    for (int i = 0; i < n_ranks; i++) {
        slice s = engine_plan(m->engine)->ranks[i].slice;
        t.layers[i] = s.last_layer - s.first_layer;
    }
    t.hop_seconds = hop_seconds(m, log, n_ranks);
    step_log_take_medians(log);
    t.n_steps = log->n;
    t.steps = log->steps;
    status st = status_at(step_times_write(&t, m->options->measure), "--measure");
    free(t.layers);
    return st;
}

static void print_file(const measurement *m) {
    step_costs costs;
    if (step_costs_choose(m->options->measure, NULL, &m->config, &costs) != STATUS_OK) return;
    step_costs_print(&costs);
    printf("which is off by %.1f%% in the mean and %.0f%% at most; decode by %.1f%%, the head by %.1f%%\n",
           100 * costs.prefill_error, 100 * costs.prefill_worst, 100 * costs.decode_error,
           100 * costs.head_error);
    printf("%s: kvarve plan --predict --measured %s\n", m->options->measure, m->options->measure);
}

static status run_engine(comm *c, measurement *m) {
    bool is_first = comm_rank(c) == 0;
    if (is_first) run_print_begin(c, m->engine, m->options);
    for (int pass = 0; pass < 2; pass++) { /* the first one touches all memory: it does not count */
        engine_reset_clocks(m->engine);
        if (!is_first)
            engine_serve(m->engine);
        else if (pass == 0)
            warm_up(m);
        else
            run_stage_0(m);
    }
    step_log log = engine_gather_steps(m->engine);
    status st = report_run(c, m->engine, m->options, &(run_summary){0});
    if (is_first && st == STATUS_OK) st = write_file(m, &log, comm_size(c));
    free(log.steps);
    comm_any_failed(c, &st);
    return st;
}

int measure_steps(comm *c, const options *o) {
    measurement m = {.options = o};
    bool is_first = comm_rank(c) == 0;
    status st = is_first ? prepare(&m) : STATUS_OK;
    if (!comm_any_failed(c, &st)) {
        sizing s = sizing_of_bench(o, m.longest, decode_positions(&m, &m.batch_depths, o->sequences),
                                   sizing_head_share(m.longest, DECODE_TOKENS));
        engine_options wanted = run_engine_options(c, o, &s);
        wanted.chunks = &m.chunks;
        wanted.times_steps = true;
        st = engine_open(c, &m.config, &wanted, &m.engine);
    }
    if (st == STATUS_OK) st = run_engine(c, &m);
    if (st == STATUS_OK && is_first) print_file(&m);
    int code = st == STATUS_OK ? EXIT_CODE_OK : run_say_failure(c, st);
    engine_close(m.engine);
    chunk_list_free(&m.chunks);
    free(m.tokens);
    return code;
}
