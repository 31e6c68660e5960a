#include "src/study/predict.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/study/simulate.h"

/* Where nothing is said; the latency within a node is rather what was measured between ranks. */
static const link_speed usual_link = {25e9, 2e-6}, usual_node_link = {10e9, 20e-6};
enum { DECODE_TOKENS = 64, MOST_ROWS = 65536 /* of a chunk */, MOST_CHUNKS = 1 << 14 };

/* One number of ranks. */
typedef struct row {
    int n_ranks, n_nodes;
    plan plan;
    int *n_layers;  /* [n_ranks] NULL: there is no plan */
    char *why;      /* then */
    double balance; /* mean stage over slowest: layers only */
} row;

typedef struct prediction {
    const options *options;
    const model_config *config;
    const sizing *sizing;
    step_costs costs;
    link_speed within_node, between_nodes;
    int ranks_per_node;
    double one_rank_seconds; /* the least that a prompt takes on one rank */
    row *rows;
    int n_rows;
} prediction;

/* ---- one simulation ---- */

static simulation set_up(const prediction *p, const row *r) {
    return (simulation){
        .n_stages = r->n_ranks,
        .n_layers = r->n_layers,
        .stages_per_node = p->ranks_per_node,
        .within_node = p->within_node,
        .between_nodes = p->between_nodes,
        .costs = p->costs,
        .row_bytes = (double)p->config->d_model * (double)sizeof(float),
        .chunk_tokens = p->sizing->chunk_tokens,
        .n_sequences = 1,
        .n_prompt = p->sizing->longest_tokens,
        .n_new = 1,
    };
}

/* One prompt, up to its first token. */
typedef struct prefill {
    int64_t first_chunk;
    double seconds, bubble;
} prefill;

/* Chunks of this many rows; or of equal time, the best of at most as many. */
static prefill run_prefill(const prediction *p, const row *r, int64_t most_rows, bool equal_time) {
    simulation m = set_up(p, r);
    chunk_list chunks = {0};
    m.chunk_tokens = (int)most_rows;
    if (equal_time) {
        chunk_list_append_best(&chunks, &p->costs.prefill, r->n_ranks, most_rows, m.n_prompt);
        m.chunks = &chunks;
    }
    simulation_result result = simulate(&m);
    prefill f = {equal_time ? chunks.ends[0] : most_rows, result.seconds, simulation_bubble(&m, &result)};
    chunk_list_free(&chunks);
    return f;
}

/* The fastest of chunks of 16, 32, 48, 64, 96, 128 ... rows, but for sizes that would make very many. */
static prefill run_best_equal_length(const prediction *p, const row *r) {
    prefill best = {0, INFINITY, 0};
    for (int64_t size = CHUNK_QUANTUM; size <= MOST_ROWS; size *= 2) {
        for (int half = 0; half < 2; half++) {
            int64_t rows = half ? size / 2 * 3 : size;
            if (rows % CHUNK_QUANTUM || rows > MOST_ROWS || p->sizing->longest_tokens / rows > MOST_CHUNKS)
                continue;
            if (rows / 2 > p->sizing->longest_tokens) return best;
            prefill tried = run_prefill(p, r, rows, false);
            if (tried.seconds < best.seconds) best = tried;
        }
    }
    return best;
}

/* Tokens a second of n sequences together, and the bubble. */
static double run_decode(const prediction *p, const row *r, int n_sequences, double *bubble) {
    simulation m = set_up(p, r);
    m.n_sequences = n_sequences;
    m.n_cached = m.n_prompt - 1;
    m.n_new = DECODE_TOKENS;
    simulation_result result = simulate(&m);
    if (result.decode_seconds <= 0) return 0;
    *bubble = fmax(0, 1 - result.decode_busy / (result.decode_seconds * m.n_stages));
    return (double)result.decode_tokens / result.decode_seconds;
}

/* ---- the tables ---- */

static void print_header(const prediction *p) {
    char shape[256];
    const step_costs *c = &p->costs;
    model_config_describe(p->config, shape, sizeof shape);
    printf("%s\n", shape);
    step_costs_print(c);
    if (c->n_ranks > 0)
        printf("measured on %d rank%s: off by %.1f%% (prefill; at most %.0f%%), %.1f%% (decode), %.1f%% "
               "(head)\n",
               c->n_ranks, c->n_ranks == 1 ? "" : "s", 100 * c->prefill_error, 100 * c->prefill_worst,
               100 * c->decode_error, 100 * c->head_error);
    printf("%d rank%s on each node; links of %.3g GB/s and %.3g us within it, %.3g GB/s and %.3g us between "
           "nodes\n",
           p->ranks_per_node, p->ranks_per_node == 1 ? "" : "s", p->within_node.bytes_per_second / 1e9,
           p->within_node.seconds * 1e6, p->between_nodes.bytes_per_second / 1e9,
           p->between_nodes.seconds * 1e6);
}

static void print_cell(const prediction *p, const row *r, prefill f, bool with_size) {
    if (with_size) printf(" %6lld", (long long)f.first_chunk);
    printf(" %9.4g %5.1f%% %5.1f%%", f.seconds, 100 * p->one_rank_seconds / (f.seconds * r->n_ranks),
           100 * f.bubble);
}

static void print_prefill(const prediction *p) {
    int64_t asked = p->sizing->chunk_tokens;
    printf(
        "\nprefill of %lld tokens, one sequence: seconds until the first token, efficiency beside one rank "
        "at "
        "its best,\nand the bubble, in chunks of %lld, or of equal time and at most %lld; and in the best of "
        "any size\n\n",
        (long long)p->sizing->longest_tokens, (long long)asked, (long long)asked);
    printf("%19s %23s %23s %30s %30s\n", "", "equal length", "equal time", "best equal length",
           "best equal time");
    printf("%5s %5s %7s", "ranks", "nodes", "balance");
    for (int i = 0; i < 4; i++)
        printf("%s %9s %6s %6s", i < 2 ? "" : "  first", "seconds", "effic.", "bubble");
    printf(" %6s\n", "bound");
    for (int i = 0; i < p->n_rows; i++) {
        const row *r = &p->rows[i];
        printf("%5d %5d", r->n_ranks, r->n_nodes);
        if (r->why) {
            printf("  %s\n", r->why);
            continue;
        }
        printf(" %6.1f%%", 100 * r->balance);
        print_cell(p, r, run_prefill(p, r, asked, false), false);
        print_cell(p, r, run_prefill(p, r, asked, true), false);
        print_cell(p, r, run_best_equal_length(p, r), true);
        print_cell(p, r, run_prefill(p, r, MOST_ROWS, true), true);
        double n = (double)p->sizing->longest_tokens;
        printf(" %5.1f%%\n", 100 * chunk_model_bound(&p->costs.prefill, n, r->n_ranks));
        fflush(stdout);
    }
}

static void print_decode(const prediction *p) {
    int n = p->sizing->n_sequences;
    char many[32];
    snprintf(many, sizeof many, "%d sequence%s", n, n == 1 ? "" : "s");
    printf("\ndecode behind %lld tokens of context\n\n", (long long)p->sizing->longest_tokens);
    printf("%26s %29s\n", "one sequence", many);
    printf("%5s %20s %8s %20s %8s\n", "ranks", "tokens/s", "bubble", "tokens/s", "bubble");
    for (int i = 0; i < p->n_rows; i++) {
        const row *r = &p->rows[i];
        if (r->why) continue;
        double bubble_one = 0, bubble = 0, one = run_decode(p, r, 1, &bubble_one),
               all = run_decode(p, r, n, &bubble);
        printf("%5d %20.2f %7.1f%% %20.2f %7.1f%%\n", r->n_ranks, one, 100 * bubble_one, all, 100 * bubble);
        fflush(stdout);
    }
}

/* ---- numbers of ranks ---- */

static void add_row(prediction *p, int n_ranks) {
    row *r = &p->rows[p->n_rows++];
    sizing s = *p->sizing;
    int most = 0;
    *r = (row){.n_ranks = n_ranks, .n_nodes = (n_ranks + p->ranks_per_node - 1) / p->ranks_per_node};
    if (n_ranks != p->options->ranks) s.layers_per_rank = NULL;
    if (plan_make(p->config, &s, n_ranks, &r->plan) != STATUS_OK) {
        r->why = mem_copy_text(status_text(), strcspn(status_text(), ":"));
        return;
    }
    r->n_layers = mem_new((size_t)n_ranks, sizeof *r->n_layers);
    for (int i = 0; i < n_ranks; i++) {
        slice part = r->plan.ranks[i].slice;
        r->n_layers[i] = part.last_layer - part.first_layer;
        if (r->n_layers[i] > most) most = r->n_layers[i];
    }
    r->balance = (double)p->config->n_layers / ((double)most * n_ranks);
}

static void free_rows(prediction *p) {
    for (int i = 0; i < p->n_rows; i++) {
        if (p->rows[i].n_layers) plan_free(&p->rows[i].plan);
        free(p->rows[i].n_layers);
        free(p->rows[i].why);
    }
    free(p->rows);
}

/* What one rank would take if it had the memory. */
static double best_of_one_rank(const prediction *p) {
    row one = {.n_ranks = 1, .n_layers = (int[]){p->config->n_layers}};
    prefill equal = run_best_equal_length(p, &one);
    return equal.seconds;
}

static status choose_links(prediction *p) {
    const options *o = p->options;
    double hop = p->costs.hop_seconds;
    status st = STATUS_OK;
    p->between_nodes = usual_link;
    if (o->link) st = link_speed_parse("link", o->link, &p->between_nodes);
    p->between_nodes.seconds += hop;
    p->within_node = usual_node_link;
    if (p->costs.n_ranks > 1 || hop > p->within_node.seconds) p->within_node.seconds = hop;
    if (st == STATUS_OK && o->node_link) st = link_speed_parse("node-link", o->node_link, &p->within_node);
    return st;
}

status predict_print(const options *o, const model_config *config, const sizing *s) {
    prediction p = {.options = o, .config = config, .sizing = s};
    int64_t n_nodes = o->nodes == OPTION_UNSET ? 1 : o->nodes;
    p.ranks_per_node = (int)((o->ranks + n_nodes - 1) / n_nodes);
    status st = step_costs_choose(o->measured, o->chunk_model, config, &p.costs);
    if (st == STATUS_OK) st = choose_links(&p);
    if (st != STATUS_OK) return st;
    p.rows = mem_new(32, sizeof *p.rows);
    for (int n = 1; n < o->ranks; n *= 2)
        add_row(&p, n);
    add_row(&p, (int)o->ranks);
    p.one_rank_seconds = best_of_one_rank(&p);
    print_header(&p);
    print_prefill(&p);
    print_decode(&p);
    free_rows(&p);
    return STATUS_OK;
}
