/* kvarve plan: what each rank would own, and whether it fits. Reads config.json only. */
#include <stdio.h>
#include <stdlib.h>

#include "src/base/memory.h"
#include "src/command/report.h"
#include "src/command/run.h"
#include "src/command/sizing.h"
#include "src/study/predict.h"

static const double mib = 1024.0 * 1024;

/* How many of the ranks share a host: those of one of --nodes, or of the nodes of a Slurm job. */
static int ranks_of_host(const options *o) {
    const char *of_job = getenv("SLURM_JOB_NUM_NODES");
    int64_t n = o->nodes != OPTION_UNSET ? o->nodes : of_job ? atoi(of_job) : 1;
    if (n < 1) n = 1;
    return (int)((o->ranks + n - 1) / n);
}

/* What a rank may take, as in a run with a GPU for each rank, or on hosts like this one: *bound, where that
 * was asked for, or else what is there. What is assumed is said first, so that a refusal can be understood
 * too. Times are predicted for other hosts as well, so they are bounded only by what is asked for. */
static status find_bound(const options *o, plan_bound *bound, bool *is_of_host) {
    const char *why = NULL;
    if (bound->bytes) {
        fprintf(stderr, "kvarve: assumed: each rank may take %.1f MiB, %s\n", mem_mib(bound->bytes),
                bound->by);
    } else if (o->device != DEVICE_CPU && device_count(o->device, &why) > 0) {
        uint64_t free_bytes = device_free_bytes(DEVICE_CUDA, 0);
        *bound = plan_bound_of_gpu(free_bytes, 1);
        fprintf(stderr,
                "kvarve: assumed: each rank has a GPU to itself; GPU 0 of this host has %.1f MiB free, of "
                "which a rank may take %.1f MiB\n",
                mem_mib(free_bytes), mem_mib(bound->bytes));
    } else if (o->device == DEVICE_CUDA) {
        return status_refuse(
            "--device cuda: no usable GPU here: %s; where there is none, --memory-per-rank says what "
            "a rank's GPU has",
            why);
    } else if (!o->predict) {
        int n = ranks_of_host(o);
        memory_share share = memory_share_of_host(n);
        *bound = plan_bound_of_host(&share);
        *is_of_host = true;
        if (bound->bytes)
            fprintf(stderr,
                    "kvarve: assumed: a host like this for every %d rank%s (--nodes says otherwise), each of "
                    "which may take %.1f MiB, %s\n",
                    n, n == 1 ? "" : "s", mem_mib(bound->bytes), bound->by);
    }
    return STATUS_OK;
}

/* What is not kept of all positions. */
static void print_windows(const model_config *config, const sizing *s) {
    kv_shape one = {.format.page_tokens = s->page_tokens, .n_pages = INT32_MAX, .n_slots = 1};
    int n_layers = 0;
    one.longest_tokens = s->longest_tokens;
    one.max_rows = s->chunk_tokens;
    for (int l = 0; l < config->n_layers; l++)
        n_layers += model_config_window(config, l) > 0;
    if (n_layers == 0) return;
    printf("%d of %d layers have a window of %lld positions: ", n_layers, config->n_layers,
           (long long)config->window);
    if (s->saves)
        printf("a run that saves keeps all of theirs\n");
    else
        printf("they keep at most %lld tokens of a sequence\n",
               (long long)kv_pool_pages(&one, config->window) * s->page_tokens);
}

/* --sequences take the whole context, of which they generate as many tokens as --max-tokens says. */
static int64_t new_tokens_of(const options *o, int64_t context) {
    const int64_t n = o->max_tokens != OPTION_UNSET ? o->max_tokens : DEFAULT_MAX_TOKENS;
    return n < context ? n : context;
}

/* What a sequence needs of layers without a window. */
static void print_eviction(const options *o, const model_config *config, const sizing *s) {
    const int64_t n_new = new_tokens_of(o, s->longest_tokens), n_prompt = s->longest_tokens - n_new;
    const double page_mib = model_kv_token_bytes(config, precision_kv(s->precision), sizing_kv_layout(s)) /
                            config->n_layers * s->page_tokens / mib;
    int64_t before = 0, behind = 0;
    char policy[EVICT_TEXT_BYTES], most[100] = "";
    if (s->evict.kind == EVICT_NOTHING) return;
    for (int l = 0; l < config->n_layers; l++) {
        if (model_config_window(config, l) > 0) continue;
        before += kv_pages_for(n_prompt, s->page_tokens);
        behind += kv_pages_for(evictor_places_behind(&s->evict, config, l, n_prompt, s->longest_tokens),
                               s->page_tokens);
    }
    evict_text(&s->evict, policy);
    if (s->evict.every > 0)
        snprintf(most, sizeof most, "at most, as places go again behind every %lld, ",
                 (long long)s->evict.every);
    printf(
        "--evict %s: a sequence takes %.1f MiB while its prompt of %lld tokens is read, and then %s%.1f MiB "
        "with %lld tokens behind it\n",
        policy, (double)before * page_mib, (long long)n_prompt, most, (double)behind * page_mib,
        (long long)n_new);
}

/* How many of these sequences may run at once. Where tokens are evicted, one has all of its prompt. */
static int64_t sequences_at_once(const options *o, const sizing *s, const plan *p) {
    const int64_t n_tokens = s->longest_tokens,
                  evict_at = s->evict.kind == EVICT_NOTHING ? 0 : n_tokens - new_tokens_of(o, n_tokens);
    const sequence_places places = sizing_places(&s->evict, n_tokens, evict_at);
    const int64_t behind = kv_pages_for(places.behind, s->page_tokens),
                  prompt = kv_pages_for(places.prompt, s->page_tokens);
    return (p->n_pages - (prompt > behind ? prompt - behind : 0)) / behind;
}

/* Where the pages of a rank lie that has the most outside of memory. */
static void print_tiers(const sizing *s, const plan *p) {
    const plan_rank *most = p->ranks;
    for (const plan_rank *k = p->ranks; k < p->ranks + p->n_ranks; k++)
        if (k->n_records > most->n_records || (most->n_frames == 0 && k->n_frames > 0)) most = k;
    if (most->n_frames == 0) return;
    printf("\n%24s %12s\n", "KV pages of rank", "MiB");
    printf("%24s %12.1f  %lld of them; every rank has %lld of each layer there\n",
           s->is_apart ? "in the GPU's memory" : "in memory", mem_mib(most->kv_bytes),
           (long long)most->n_frames, (long long)plan_memory_pages(p));
    if (s->is_apart)
        printf("%24s %12.1f  %lld of them, pinned\n", "in the host's memory", mem_mib(most->kv_host_bytes),
               (long long)most->n_host_pages);
    if (s->kv_disk.bytes)
        printf("%24s %12.1f  in %s, at most\n", "on a disk", mem_mib(s->kv_disk.bytes), s->kv_disk.dir);
    printf("\n");
}

/* What codes do not stand for. */
static void print_near(const model_config *config, const sizing *s) {
    const int n_tokens = ATTEND_EXACT_FIRST + sizing_near_blocks(s) * ATTEND_BLOCK;
    if (s->kv_codes == KV_ROWS) return;
    printf(
        "up to %d tokens of each sequence, and those of a chunk, are kept in %s besides: %.1f MiB over all "
        "layers for each\n",
        n_tokens, dtype_name(precision_kv(s->precision)),
        mem_mib((uint64_t)(n_tokens * model_kv_token_bytes(config, precision_kv(s->precision), KV_PANELS))));
}

static void print_plan(const options *o, const model_config *config, const sizing *s, const plan *p) {
    char shape[256];
    model_config_describe(config, shape, sizeof shape);
    printf("%s\n", shape);
    printf("%d ranks, %d sequences of at most %lld tokens, chunks of %d, pages of %d, weights in %s\n\n",
           p->n_ranks, s->n_sequences, (long long)s->longest_tokens, s->chunk_tokens, s->page_tokens,
           precision_weights(s->precision));
    printf("%5s %11s %12s %12s %12s %12s %12s %8s\n", "rank", "layers", "weights", "kv cache", "workspace",
           "transfers", "all MiB", "cost");
    uint64_t most = 0;
    for (int i = 0; i < p->n_ranks; i++) {
        const plan_rank *k = &p->ranks[i];
        char layers[32];
        snprintf(layers, sizeof layers, "%d..%d", k->slice.first_layer, k->slice.last_layer - 1);
        printf("%5d %11s %12.1f %12.1f %12.1f %12.1f %12.1f %8.3f\n", i, layers,
               (double)k->weight_bytes / mib, (double)k->kv_bytes / mib, (double)k->workspace_bytes / mib,
               (double)k->transfer_bytes / mib, (double)k->total_bytes / mib, k->cost);
        if (k->total_bytes > most) most = k->total_bytes;
    }
    printf("\nKV cache: %.1f KiB a token over all layers; the pools hold %lld tokens, %lld of these "
           "sequences at once\n",
           model_kv_token_bytes(config, precision_kv(s->precision), sizing_kv_layout(s)) / 1024,
           (long long)p->n_pages * s->page_tokens, (long long)sequences_at_once(o, s, p));
    print_near(config, s);
    print_windows(config, s);
    print_eviction(o, config, s);
    if (p->n_room_pages < PLAN_MOST_PAGES)
        printf("pool of each rank: %lld pages (%lld are wanted, and what the rest leaves holds %lld)\n",
               (long long)p->n_pages, (long long)s->wanted_pages, (long long)p->n_room_pages);
    print_tiers(s, p);
    printf("each rank's total includes %d MiB for the program itself; cost is relative to the mean of the "
           "ranks\n",
           PLAN_PROCESS_MIB);
    if (s->bound.bytes)
        printf("fits: the largest rank takes %.1f of %.1f MiB\n", (double)most / mib,
               (double)s->bound.bytes / mib);
    else
        printf("needs %.1f MiB on the largest rank; --memory-per-rank checks it against a bound\n",
               (double)most / mib);
}

/* It does not fit this host; what it takes on others is shown all the same. */
static status say_for_other_hosts(const options *o, const model_config *config, sizing s, status st) {
    char why[STATUS_TEXT_BYTES];
    plan p;
    snprintf(why, sizeof why, "%s", status_text());
    s.bound.bytes = 0;
    if (plan_make(config, &s, (int)o->ranks, &p) == STATUS_OK) {
        print_plan(o, config, &s, &p);
        plan_free(&p);
    }
    return status_adopt(st, why);
}

static sizing size_up(const options *o, const model_config *config) {
    int64_t context = o->context != OPTION_UNSET ? o->context : config->max_positions;
    int64_t new_tokens = new_tokens_of(o, context);
    const job_size jobs = {.n = o->sequences, .tokens = context, .evict_at = context - new_tokens};
    return sizing_of(o, &jobs, 1, sizing_head_share(context - new_tokens, new_tokens));
}

static status make_and_print(const options *o) {
    model_config config;
    bool is_of_host = false;
    status st = run_read_model(o, &config, NULL);
    if (st != STATUS_OK) return st;
    sizing s = size_up(o, &config);
    s.is_apart = o->device == DEVICE_CUDA ||
                 (o->device == DEVICE_AUTO && (o->kv_host > 0 || device_count(DEVICE_AUTO, NULL) > 0));
    st = find_bound(o, &s.bound, &is_of_host);
    if (st != STATUS_OK) return st;
    if (o->predict) return predict_print(o, &config, &s);
    plan p;
    st = plan_make(&config, &s, (int)o->ranks, &p);
    if (st != STATUS_OK && is_of_host) return say_for_other_hosts(o, &config, s, st);
    if (st != STATUS_OK) return st;
    print_plan(o, &config, &s, &p);
    plan_free(&p);
    return STATUS_OK;
}

int command_plan(comm *c, const options *o) {
    status st = comm_rank(c) == 0 ? make_and_print(o) : STATUS_OK;
    return comm_any_failed(c, &st) ? run_say_failure(c, st) : EXIT_CODE_OK;
}
