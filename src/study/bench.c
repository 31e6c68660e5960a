/* kvarve bench: prefill and decode speed at several contexts, beside what this machine can do, measured in
 * the same run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/command/number_list.h"
#include "src/command/report.h"
#include "src/command/run.h"
#include "src/command/sizing.h"
#include "src/study/measure.h"

enum { WARM_UP_TOKENS = 64, DECODE_TOKENS = 32, PROFILE_COLUMNS = 10 };

/* Where rank 0's time went. */
typedef struct profile {
    const char *what;
    int64_t size, depth; /* prompt tokens or sequences, and the context */
    double seconds[N_REGIONS];
} profile;

/* Rank 0's view. */
typedef struct bench {
    const options *options;
    model_config config;
    engine *engine;
    yardstick machine;
    numbers prefills, depths, decode_depths, batch_depths;
    int n_ranks;
    chunk_list chunks; /* of equal time, if so asked */
    int32_t *tokens;
    double *seconds; /* [repeats] */
    double before[N_REGIONS];
    profile profiles[MAX_NUMBERS * (MAX_NUMBERS + 2)];
    int n_profiles;
} bench;

static int64_t chunks_of(const bench *b, int64_t n_tokens) {
    if (b->chunks.n > 0) return chunk_list_count(&b->chunks, n_tokens);
    return (n_tokens + b->options->chunk_tokens - 1) / b->options->chunk_tokens;
}

/* Steps that the prompts of n sequences take at most. */
static int64_t prompt_steps(const bench *b, int64_t depth, int64_t n) {
    return b->chunks.n > 0 ? n * chunks_of(b, depth) : chunks_of(b, n * depth);
}

/* Tokens of each of n sequences: those that are measured, and those that the first ones generate before the
 * last one begins. */
static int64_t decode_tokens(const bench *b, int64_t depth, int64_t n) {
    return DECODE_TOKENS * b->options->repeats + 1 + (n > 1 ? prompt_steps(b, depth, n) + n : 0);
}

/* Positions of each of n sequences behind at most that depth; behind none they begin with one token. */
static int64_t decode_positions(const bench *b, const numbers *depths, int64_t n) {
    int64_t depth = numbers_largest(depths);
    return (depth > 0 ? depth : 1) + decode_tokens(b, depth, n);
}

static int64_t longest(const bench *b) {
    int64_t prefill = numbers_largest(&b->depths) + numbers_largest(&b->prefills);
    int64_t decode = decode_positions(b, &b->decode_depths, 1);
    int64_t batch = decode_positions(b, &b->batch_depths, b->options->sequences);
    int64_t most = prefill > decode ? prefill : decode;
    if (most < WARM_UP_TOKENS) most = WARM_UP_TOKENS;
    return most > batch ? most : batch;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int64_t n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* ---- measurements ---- */

/* The clocks of all regions as of now. */
static const double *region_clocks(bench *b) {
    trace *t = engine_trace(b->engine);
    trace_enter(t, t->current);
    return t->seconds;
}

static double begin_part(bench *b) {
    memcpy(b->before, region_clocks(b), sizeof b->before);
    return clock_seconds();
}

static void end_part(bench *b, profile *add_to) {
    const double *now = region_clocks(b);
    for (int r = 0; r < N_REGIONS; r++)
        add_to->seconds[r] += now[r] - b->before[r];
}

/* Seconds for n_tokens behind `depth`. A prompt that is scored nowhere tells of each chunk as it ends; the
 * clock begins where one ends, which may be before the depth: then the mean counts. */
static double time_prefill(bench *b, int64_t n_tokens, int64_t depth, profile *where) {
    int64_t n = depth + n_tokens, read = 0, timed_from = 0;
    double begin = begin_part(b);
    session prompt = session_new(b->tokens, n);
    prompt.score_from = n;
    engine_submit(b->engine, &prompt);
    for (event ev; engine_next(b->engine, &ev);) {
        if (ev.kind == EVENT_STEP) continue;
        read += engine_chunk_rows(b->engine, read);
        if (read > depth) continue;
        begin = begin_part(b);
        timed_from = read;
    }
    end_part(b, where);
    session_free(&prompt);
    return (clock_seconds() - begin) * (double)n_tokens / (double)(n - timed_from);
}

/* Seconds for DECODE_TOKENS of each of n sequences behind `depth` tokens, one part after another of the same
 * sequences. */
static void time_decode(bench *b, int64_t depth, int64_t n, double *seconds, profile *where) {
    int64_t n_started = 0, n_tokens = 0, n_parts = 0;
    double begin = 0;
    bool *started = mem_new((size_t)n, sizeof *started);
    session *all = run_submit_decodes(b->engine, b->tokens, depth, n, decode_tokens(b, depth, n));
    for (event ev; engine_next(b->engine, &ev);) {
        if (ev.kind == EVENT_STEP || n_parts == b->options->repeats) continue;
        if (n_started < n) {
            if (!started[ev.session->id]) n_started++;
            started[ev.session->id] = true;
            if (n_started == n) begin = begin_part(b);
        } else if (++n_tokens == DECODE_TOKENS * n) {
            end_part(b, where);
            seconds[n_parts++] = clock_seconds() - begin;
            n_tokens = 0;
            begin = begin_part(b);
        }
    }
    free(started);
    sessions_free(all, n);
}

/* ---- the tables ---- */

/* As a cell of the table. */
static const char *percent_of(double rate, double machine_rate, char text[16]) {
    if (machine_rate <= 0) return "-";
    snprintf(text, 16, "%.1f%%", 100 * rate / machine_rate);
    return text;
}

static void print_row(const bench *b, const char *what, int64_t depth, int64_t n_tokens, double seconds,
                      double bytes, double flops) {
    char reads[16], products[16];
    printf("%-22s %8lld %12.1f %9.2f %7s %10.1f %7s\n", what, (long long)depth, (double)n_tokens / seconds,
           bytes / seconds / 1e9, percent_of(bytes / seconds, b->machine.read_bytes_per_second, reads),
           flops / seconds / 1e9, percent_of(flops / seconds, b->machine.matmul_flops, products));
    fflush(stdout);
}

static uint64_t all_weight_bytes(const bench *b) {
    uint64_t bytes = 0;
    for (int i = 0; i < b->n_ranks; i++)
        bytes += engine_plan(b->engine)->ranks[i].weight_bytes;
    return bytes;
}

static profile *new_profile(bench *b, const char *what, int64_t size, int64_t depth) {
    profile *p = &b->profiles[b->n_profiles++];
    *p = (profile){.what = what, .size = size, .depth = depth};
    return p;
}

static void bench_prefill(bench *b, int64_t n_tokens, int64_t depth) {
    profile *where = new_profile(b, "prefill", n_tokens, depth);
    for (int64_t i = 0; i < b->options->repeats; i++)
        b->seconds[i] = time_prefill(b, n_tokens, depth, where);
    slice all = {0, b->config.n_layers, b->config.n_layers};
    model_cost cost = model_rows_cost(&b->config, all, precision_kv(b->options->precision),
                                      engine_device(b->engine)->kv_layout, depth, NULL, n_tokens);
    char what[48];
    snprintf(what, sizeof what, "prefill %lld tokens", (long long)n_tokens);
    print_row(b, what, depth, n_tokens, median(b->seconds, b->options->repeats),
              (double)chunks_of(b, n_tokens) * (double)all_weight_bytes(b) + cost.kv_bytes, cost.flops);
}

static void bench_decode(bench *b, int64_t depth, int64_t n) {
    time_decode(b, depth, n, b->seconds, new_profile(b, "decode", n, depth));
    int64_t middle = depth + DECODE_TOKENS * b->options->repeats / 2, removed[MODEL_MAX_LAYERS];
    for (int l = 0; l < b->config.n_layers; l++)
        removed[l] = depth - evictor_kept(&b->options->evict, &b->config, l, depth);
    slice all = {0, b->config.n_layers, b->config.n_layers};
    model_cost cost = model_rows_cost(&b->config, all, precision_kv(b->options->precision),
                                      engine_device(b->engine)->kv_layout, middle, removed, 1);
    int64_t groups = n < b->n_ranks ? n : b->n_ranks; /* the weights are read once a step */
    double steps = DECODE_TOKENS, rows = steps * (double)n;
    char what[48];
    snprintf(what, sizeof what, "decode, %lld sequence%s", (long long)n, n == 1 ? "" : "s");
    print_row(b, what, depth, (int64_t)rows, median(b->seconds, b->options->repeats),
              steps * (double)groups * (double)all_weight_bytes(b) + rows * cost.kv_bytes,
              rows * (cost.flops + model_head_flops(&b->config)));
}

static double all_regions(const profile *p) {
    double all = 0;
    for (int r = 0; r < N_REGIONS; r++)
        all += p->seconds[r];
    return all;
}

static void print_profile_row(const profile *p, int n, int r) {
    double most = 0;
    for (int i = 0; i < n; i++)
        if (p[i].seconds[r] > most) most = p[i].seconds[r];
    if (most <= 0) return;
    printf("%-22s", region_name((region)r));
    for (int i = 0; i < n; i++)
        printf(" %8.1f%%", 100 * p[i].seconds[r] / all_regions(&p[i]));
    printf("\n");
}

/* Where the time went, one column for each row of the first table. */
static void print_profiles(const profile *p, int n) {
    printf("\n%-22s", "rank 0's time");
    for (int i = 0; i < n; i++)
        printf(" %9s", p[i].what);
    printf("\n%-22s", "tokens or sequences");
    for (int i = 0; i < n; i++)
        printf(" %9lld", (long long)p[i].size);
    printf("\n%-22s", "context");
    for (int i = 0; i < n; i++)
        printf(" %9lld", (long long)p[i].depth);
    printf("\n");
    for (int r = 0; r < N_REGIONS; r++)
        print_profile_row(p, n, r);
}

static void run_stage_0(bench *b) {
    profile unused = {0};
    printf("weights: %s, %.2f GB\n", precision_weights(b->options->precision),
           (double)all_weight_bytes(b) / 1e9);
    if (b->machine.read_bytes_per_second > 0 && b->machine.matmul_flops > 0)
        printf("machine: %.2f GB/s memory reads, %.1f GFLOP/s matrix product of 512 x 2048 x 2048, all ranks "
               "together\n\n",
               b->machine.read_bytes_per_second / 1e9, b->machine.matmul_flops / 1e9);
    else
        printf("machine: not measured: that takes %d MiB beside the run, more than a rank may take\n\n",
               MEASURE_MIB);
    printf("%-22s %8s %12s %9s %7s %10s %7s\n", "what", "context", "tokens/s", "GB/s", "", "GFLOP/s", "");
    time_prefill(b, WARM_UP_TOKENS, 0, &unused); /* the first pass touches all memory */
    for (int i = 0; i < b->depths.n; i++)
        for (int k = 0; k < b->prefills.n; k++)
            bench_prefill(b, b->prefills.at[k], b->depths.at[i]);
    for (int i = 0; i < b->decode_depths.n; i++)
        bench_decode(b, b->decode_depths.at[i], 1);
    for (int i = 0; b->options->sequences > 1 && i < b->batch_depths.n; i++)
        bench_decode(b, b->batch_depths.at[i], b->options->sequences);
    for (int i = 0; i < b->n_profiles; i += PROFILE_COLUMNS)
        print_profiles(b->profiles + i,
                       b->n_profiles - i < PROFILE_COLUMNS ? b->n_profiles - i : PROFILE_COLUMNS);
    engine_stop(b->engine);
}

/* For the longest prompt that is read alone. */
static status make_chunks(bench *b) {
    int64_t n_tokens = numbers_largest(&b->depths) + numbers_largest(&b->prefills);
    if (n_tokens == 0) n_tokens = WARM_UP_TOKENS;
    return run_make_chunks(b->options, &b->config, b->n_ranks, n_tokens, &b->chunks);
}

static status prepare(bench *b) {
    status st = run_read_model(b->options, &b->config, NULL);
    if (st == STATUS_OK) st = numbers_parse("prefill", b->options->prefill, 1, NUMBERS_MOST, &b->prefills);
    if (st == STATUS_OK) st = numbers_parse("depths", b->options->depths, 0, NUMBERS_MOST, &b->depths);
    if (st == STATUS_OK) st = make_chunks(b);
    const char *decode = b->options->decode_depths;
    if (st == STATUS_OK && decode)
        st = numbers_parse("decode-depths", decode, 0, NUMBERS_MOST, &b->decode_depths);
    if (!decode) b->decode_depths = b->depths;
    if (st == STATUS_OK)
        st = numbers_parse("batch-depths", b->options->batch_depths, 0, NUMBERS_MOST, &b->batch_depths);
    if (st != STATUS_OK) return st;
    if (longest(b) > b->config.max_positions)
        return status_refuse(
            "--depths %s --prefill %s --batch-depths %s: the model holds %lld positions, and "
            "%lld would be used",
            b->options->depths, b->options->prefill, b->options->batch_depths,
            (long long)b->config.max_positions, (long long)longest(b));
    b->seconds = mem_new((size_t)b->options->repeats, sizeof *b->seconds);
    b->tokens = run_walk_tokens(&b->config, (size_t)(longest(b) + b->options->sequences));
    return STATUS_OK;
}

int command_bench(comm *c, const options *o) {
    if (o->measure) return measure_steps(c, o);
    bench b = {.options = o, .n_ranks = comm_size(c)};
    run_summary summary = {0};
    bool is_first = comm_rank(c) == 0;
    status st = is_first ? prepare(&b) : STATUS_OK;
    if (!comm_any_failed(c, &st)) {
        sizing s = sizing_of_bench(o, longest(&b), decode_positions(&b, &b.batch_depths, o->sequences),
                                   sizing_head_share(numbers_largest(&b.prefills), DECODE_TOKENS));
        engine_options wanted = run_engine_options(c, o, &s);
        wanted.chunks = b.chunks.n > 0 ? &b.chunks : NULL;
        st = engine_open(c, &b.config, &wanted, &b.engine);
    }
    if (st == STATUS_OK) {
        if (is_first) run_print_begin(c, b.engine, o);
        b.machine = yardstick_measure(c, b.engine, true);
        engine_reset_clocks(b.engine);
        if (is_first)
            run_stage_0(&b);
        else
            engine_serve(b.engine);
        summary.n_requests = o->sequences;
        st = report_run(c, b.engine, o, &summary);
        comm_any_failed(c, &st);
    }
    int code = st == STATUS_OK ? EXIT_CODE_OK : run_say_failure(c, st);
    engine_close(b.engine);
    chunk_list_free(&b.chunks);
    free(b.tokens);
    free(b.seconds);
    return code;
}
