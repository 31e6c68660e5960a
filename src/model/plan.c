#include "src/model/plan.h"

#include <stdio.h>
#include <stdlib.h>

#include "mpi/pipeline.h"
#include "src/base/memory.h"
#include "src/model/layer_table.h"
#include "src/model/partition.h"

/* The rest is for what no plan knows: libraries on the device, and other programs that grow. */
static uint64_t most_of(uint64_t free_bytes) {
    return free_bytes / 10 * 9;
}

plan_bound plan_bound_asked(uint64_t bytes) {
    return (plan_bound){bytes, "as --memory-per-rank says"};
}

plan_bound plan_bound_of_gpu(uint64_t free_bytes, int n_ranks) {
    return (plan_bound){most_of(free_bytes) / (uint64_t)n_ranks, "90% of what its GPU has free for it"};
}

plan_bound plan_bound_of_host(const memory_share *share) {
    plan_bound bound = {0};
    if (share->bytes == UINT64_MAX) return bound;
    bound.bytes = most_of(share->bytes);
    snprintf(bound.by, sizeof bound.by, "90%% of what %s", share->text);
    return bound;
}

static uint64_t page_bytes_of_layers(const plan_request *r, int n_layers) {
    kv_format format = model_kv_format(r->config, precision_kv(r->precision), r->page_tokens);
    return (uint64_t)n_layers * kv_page_bytes(&format);
}

static uint64_t workspace_bytes(const plan_request *r, slice s) {
    return model_workspace_bytes(r->config, s, r->precision, r->chunk_tokens) +
           model_kept_bytes(r->config, s, r->saves ? r->n_sequences : 0);
}

/* The slots; and with several ranks as much again, which MPI may hold until it is received. */
size_t plan_transfer_bytes(const plan_request *r) {
    pipeline_sizes sizes = {.x_floats = (size_t)r->chunk_tokens * (size_t)r->config->d_model};
    return (r->n_ranks > 1 ? 2 : 1) * pipeline_device_bytes(&sizes);
}

/* Costs are matrix elements that a row passes: that is both the operations of a prefill row and the bytes of
 * a decode step. Reading one row of the embedding is free beside them. */
static partition_problem make_problem(const plan_request *r, int64_t n_pages) {
    const model_config *c = r->config;
    const int n = c->n_layers;
    slice inner = {1, 2, n + 2}, first = {0, 1, n + 2}, last = {1, 2, 2}, both = {0, 1, 1};
    uint64_t one_layer = model_weight_bytes(c, inner, r->precision);
    uint64_t space = workspace_bytes(r, inner), head_space = workspace_bytes(r, last) - space;
    return (partition_problem){
        .n_layers = n,
        .n_ranks = r->n_ranks,
        .layer_cost = layer_elements(c, 0),
        .first_cost = 0,
        .last_cost = r->head_share * head_elements(c),
        .layer_bytes = one_layer + (uint64_t)n_pages * page_bytes_of_layers(r, 1),
        .first_bytes = model_weight_bytes(c, first, r->precision) - one_layer,
        .last_bytes = model_weight_bytes(c, last, r->precision) - one_layer + head_space,
        .both_bytes = model_weight_bytes(c, both, r->precision) - one_layer + head_space,
        .every_bytes = space + plan_transfer_bytes(r) + ((uint64_t)PLAN_PROCESS_MIB << 20),
        .rank_bytes = r->bytes_per_rank,
        .bound_by = r->bound_by,
    };
}

static int widest(const int *bounds, int n_ranks) {
    int most = 0;
    for (int i = 0; i < n_ranks; i++)
        if (bounds[i + 1] - bounds[i] > most) most = bounds[i + 1] - bounds[i];
    return most;
}

/* Pages for the pool of every rank: as many as wanted, fewer where a rank's memory or --kv-memory ends. */
static status choose_pages(const plan_request *r, const partition_problem *without_kv, const int *bounds,
                           plan *out) {
    int64_t least = kv_pages_for(r->longest_tokens, r->page_tokens), room = INT32_MAX;
    if (r->kv_bytes_per_rank) {
        uint64_t one = page_bytes_of_layers(r, widest(bounds, r->n_ranks));
        int64_t fits = (int64_t)(r->kv_bytes_per_rank / one);
        if (fits < least)
            return status_refuse(
                "--kv-memory %.1f MiB holds %lld tokens on a rank, but a sequence of %lld tokens needs "
                "%.1f MiB: raise --kv-memory, lower --context or --max-tokens, or start more ranks",
                mem_mib(r->kv_bytes_per_rank), (long long)fits * r->page_tokens, (long long)r->longest_tokens,
                mem_mib((uint64_t)least * one));
        if (room > fits) room = fits;
    }
    for (int i = 0; r->bytes_per_rank && i < r->n_ranks; i++) {
        uint64_t base = partition_stage_bytes(without_kv, bounds[i], bounds[i + 1]);
        uint64_t one = page_bytes_of_layers(r, bounds[i + 1] - bounds[i]);
        int64_t fits = base < r->bytes_per_rank ? (int64_t)((r->bytes_per_rank - base) / one) : 0;
        if (fits < least)
            return status_refuse("rank %d may take %.1f MiB, %s, but needs %.1f MiB for layers %d to %d with "
                                 "one sequence of %lld "
                                 "tokens: start more ranks, lower --context or --max-tokens, or raise that",
                                 i, mem_mib(r->bytes_per_rank), r->bound_by,
                                 mem_mib(base + (uint64_t)least * one), bounds[i], bounds[i + 1] - 1,
                                 (long long)r->longest_tokens);
        if (room > fits) room = fits;
    }
    int64_t wanted = r->wanted_pages > least ? r->wanted_pages : least;
    out->n_pages = wanted < room ? wanted : room;
    out->n_room_pages = room;
    return STATUS_OK;
}

static void fill_ranks(const plan_request *r, const partition_problem *p, const int *bounds, plan *out) {
    double mean = (p->n_layers * p->layer_cost + p->first_cost + p->last_cost) / r->n_ranks;
    for (int i = 0; i < r->n_ranks; i++) {
        plan_rank *rank = &out->ranks[i];
        slice s = {bounds[i], bounds[i + 1], p->n_layers};
        rank->slice = s;
        rank->weight_bytes = model_weight_bytes(r->config, s, r->precision);
        rank->kv_bytes = (uint64_t)out->n_pages * page_bytes_of_layers(r, s.last_layer - s.first_layer);
        rank->workspace_bytes = workspace_bytes(r, s);
        rank->transfer_bytes = plan_transfer_bytes(r);
        rank->total_bytes = rank->weight_bytes + rank->kv_bytes + rank->workspace_bytes +
                            rank->transfer_bytes + ((uint64_t)PLAN_PROCESS_MIB << 20);
        rank->cost = ((s.last_layer - s.first_layer) * p->layer_cost + (slice_embeds(s) ? p->first_cost : 0) +
                      (slice_has_head(s) ? p->last_cost : 0)) /
                     mean;
    }
}

status plan_make(const plan_request *r, plan *out) {
    if (kv_pages_for(r->longest_tokens, r->page_tokens) > INT32_MAX)
        return status_refuse(
            "a sequence of %lld tokens takes more than %d pages: raise --page-tokens or lower "
            "--context",
            (long long)r->longest_tokens, INT32_MAX);
    int *bounds = mem_new((size_t)r->n_ranks + 1, sizeof *bounds);
    /* Layers are laid out so that one longest sequence fits; the pool then grows into what is left. */
    partition_problem with_one = make_problem(r, kv_pages_for(r->longest_tokens, r->page_tokens));
    partition_problem without_kv = make_problem(r, 0);
    status st = r->layers_per_rank
                    ? partition_from_list(r->layers_per_rank, r->config->n_layers, r->n_ranks, bounds)
                    : partition_layers(&with_one, bounds);
    plan made = {.n_ranks = r->n_ranks};
    if (st == STATUS_OK) st = choose_pages(r, &without_kv, bounds, &made);
    if (st == STATUS_OK) {
        made.ranks = mem_new((size_t)r->n_ranks, sizeof *made.ranks);
        fill_ranks(r, &without_kv, bounds, &made);
        *out = made;
    }
    free(bounds);
    return st;
}

void plan_free(plan *p) {
    free(p->ranks);
    p->ranks = NULL;
}
