/* kvarve bench: prefill and decode speed at several contexts, beside what this machine can do, measured in
 * the same run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/report.h"
#include "src/run.h"

enum { MAX_DEPTHS = 16, PREFILL_TOKENS = 512, DECODE_TOKENS = 32 };

/* Rank 0's view. */
typedef struct bench {
    const options *options;
    model_config config;
    engine *engine;
    yardstick machine;
    int64_t depths[MAX_DEPTHS];
    int n_depths;
    int n_ranks;
    int32_t *tokens;
} bench;

static status parse_depths(bench *b) {
    for (const char *at = b->options->depths;; at++) {
        char *end;
        long long depth = strtoll(at, &end, 10);
        if (end == at || depth < 0 || depth > ((int64_t)1 << 40) || (*end && *end != ',') ||
            b->n_depths == MAX_DEPTHS)
            return status_refuse("--depths %s: expected up to %d numbers of tokens with commas between",
                                 b->options->depths, MAX_DEPTHS);
        b->depths[b->n_depths++] = depth;
        if (!*end) return STATUS_OK;
        at = end;
    }
}

static int64_t longest(const bench *b) {
    int64_t most = 0;
    for (int i = 0; i < b->n_depths; i++)
        if (b->depths[i] > most) most = b->depths[i];
    return most + (PREFILL_TOKENS > DECODE_TOKENS + 1 ? PREFILL_TOKENS : DECODE_TOKENS + 1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int64_t n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Seconds for PREFILL_TOKENS behind `depth`. A prompt that is scored nowhere tells of each chunk as it ends.
 */
static double time_prefill(bench *b, int64_t depth) {
    int64_t n = depth + PREFILL_TOKENS, read = 0;
    double begin = clock_seconds();
    engine_submit(
        b->engine,
        &(request){.tokens = b->tokens, .n_tokens = n, .sampling = sampling_defaults(), .score_from = n});
    int64_t chunk = b->options->chunk_tokens;
    for (event ev; engine_next(b->engine, &ev);) {
        if (ev.kind == EVENT_STEP) continue;
        read = read + chunk < n ? read + chunk : n;
        if (read <= depth) begin = clock_seconds();
    }
    return clock_seconds() - begin;
}

/* Seconds for DECODE_TOKENS of each of n sequences behind `depth` tokens. */
static double time_decode(bench *b, int64_t depth, int64_t n) {
    sampling_options sampling = sampling_defaults();
    sampling.ignore_eos = true;
    for (int64_t i = 0; i < n; i++)
        engine_submit(b->engine, &(request){
                                     .id = i,
                                     .tokens = b->tokens + i,
                                     .n_tokens = depth > 0 ? depth : 1,
                                     .max_tokens = DECODE_TOKENS + 1,
                                     .sampling = sampling,
                                     .score_from = -1,
                                 });
    double begin = 0;
    int64_t n_started = 0;
    int64_t *n_tokens = mem_new((size_t)n, sizeof *n_tokens);
    for (event ev; engine_next(b->engine, &ev);) {
        if (ev.kind == EVENT_STEP) continue;
        if (n_tokens[ev.id]++ == 0 && ++n_started == n) begin = clock_seconds();
    }
    double seconds = clock_seconds() - begin;
    free(n_tokens);
    return seconds;
}

static void print_row(const bench *b, const char *what, int64_t depth, int64_t n_tokens, double seconds,
                      double bytes, double flops) {
    printf("%-22s %8lld %12.1f %9.2f %6.1f%% %10.1f %6.1f%%\n", what, (long long)depth,
           (double)n_tokens / seconds, bytes / seconds / 1e9,
           100 * bytes / seconds / b->machine.read_bytes_per_second, flops / seconds / 1e9,
           100 * flops / seconds / b->machine.matmul_flops);
    fflush(stdout);
}

static uint64_t all_weight_bytes(const bench *b) {
    uint64_t bytes = 0;
    for (int i = 0; i < b->n_ranks; i++)
        bytes += engine_plan(b->engine)->ranks[i].weight_bytes;
    return bytes;
}

static void bench_prefill(bench *b, int64_t depth) {
    double *seconds = mem_new((size_t)b->options->repeats, sizeof *seconds);
    for (int64_t i = 0; i < b->options->repeats; i++)
        seconds[i] = time_prefill(b, depth);
    slice all = {0, b->config.n_layers, b->config.n_layers};
    model_cost cost = model_rows_cost(&b->config, all, b->options->precision, depth, PREFILL_TOKENS);
    double steps = (double)((PREFILL_TOKENS + b->options->chunk_tokens - 1) / b->options->chunk_tokens);
    print_row(b, "prefill 512 tokens", depth, PREFILL_TOKENS, median(seconds, b->options->repeats),
              steps * (double)all_weight_bytes(b) + cost.kv_bytes, cost.layer_flops);
    free(seconds);
}

static void bench_decode(bench *b, int64_t depth, int64_t n) {
    double *seconds = mem_new((size_t)b->options->repeats, sizeof *seconds);
    for (int64_t i = 0; i < b->options->repeats; i++)
        seconds[i] = time_decode(b, depth, n);
    slice all = {0, b->config.n_layers, b->config.n_layers};
    model_cost cost = model_rows_cost(&b->config, all, b->options->precision, depth + DECODE_TOKENS / 2, 1);
    int64_t groups = n < b->n_ranks ? n : b->n_ranks; /* the weights are read once a step */
    double steps = DECODE_TOKENS, rows = steps * (double)n;
    char what[48];
    snprintf(what, sizeof what, "decode, %lld sequence%s", (long long)n, n == 1 ? "" : "s");
    print_row(b, what, depth, (int64_t)rows, median(seconds, b->options->repeats),
              steps * (double)groups * (double)all_weight_bytes(b) + rows * cost.kv_bytes,
              rows * (cost.layer_flops + cost.head_flops));
    free(seconds);
}

static void run_stage_0(bench *b) {
    printf("machine: %.2f GB/s memory reads, %.1f GFLOP/s matrix product of 512 x 2048 x 2048, all ranks "
           "together\n\n",
           b->machine.read_bytes_per_second / 1e9, b->machine.matmul_flops / 1e9);
    printf("%-22s %8s %12s %9s %7s %10s %7s\n", "what", "context", "tokens/s", "GB/s", "", "GFLOP/s", "");
    time_prefill(b, 0); /* the first pass touches all memory */
    for (int i = 0; i < b->n_depths; i++)
        bench_prefill(b, b->depths[i]);
    for (int i = 0; i < b->n_depths; i++)
        bench_decode(b, b->depths[i], 1);
    if (b->options->sequences > 1) bench_decode(b, 0, b->options->sequences);
    engine_stop(b->engine);
}

static status prepare(bench *b) {
    status st = report_check_path(b->options);
    if (st == STATUS_OK) st = run_read_model(b->options, &b->config, NULL);
    if (st == STATUS_OK) st = parse_depths(b);
    if (st != STATUS_OK) return st;
    if (longest(b) > b->config.max_positions)
        return status_refuse("--depths %s: the model holds %lld positions, and %lld would be used",
                             b->options->depths, (long long)b->config.max_positions, (long long)longest(b));
    size_t n = (size_t)(longest(b) + b->options->sequences);
    b->tokens = mem_new(n, sizeof *b->tokens);
    for (size_t i = 0; i < n; i++) /* any tokens will do: a fixed walk through the vocabulary */
        b->tokens[i] = (int32_t)(i * 7919 % (size_t)b->config.vocab_size);
    return STATUS_OK;
}

int command_bench(comm *c, const options *o) {
    bench b = {.options = o, .n_ranks = comm_size(c)};
    run_summary summary = {0};
    bool is_first = comm_rank(c) == 0;
    status st = is_first ? prepare(&b) : STATUS_OK;
    if (!comm_any_failed(c, &st)) {
        engine_options wanted = run_engine_options(c, o);
        wanted.n_sequences = (int)o->sequences;
        wanted.longest_tokens = is_first ? longest(&b) : 0;
        wanted.wanted_pages = kv_pages_for(wanted.longest_tokens, (int)o->page_tokens) +
                              o->sequences * kv_pages_for(DECODE_TOKENS + 2, (int)o->page_tokens);
        wanted.head_share = run_head_share(PREFILL_TOKENS, DECODE_TOKENS);
        st = engine_open(c, &b.config, &wanted, &b.engine);
    }
    if (st == STATUS_OK) {
        if (is_first) run_print_begin(c, b.engine, o);
        b.machine = yardstick_measure(c, engine_device(b.engine), true);
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
    free(b.tokens);
    return code;
}
