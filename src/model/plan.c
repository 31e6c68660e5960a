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

/* K and V of a layer in a pool of so many pages. */
static uint64_t layer_kv_bytes(const plan_request *r, int layer_index, int64_t n_pages) {
    const kv_format format = model_kv_format(r->config, precision_kv(r->precision), r->page_tokens);
    (void)layer_index; /* all layers keep the same pages */
    return (uint64_t)n_pages * kv_page_bytes(&format);
}

static uint64_t kv_bytes(const plan_request *r, slice part, int64_t n_pages) {
    uint64_t bytes = 0;
    for (int l = part.first_layer; l < part.last_layer; l++)
        bytes += layer_kv_bytes(r, l, n_pages);
    return bytes;
}

/* The largest pool that takes no more than so many bytes for these layers. */
static int64_t most_pages(const plan_request *r, slice part, uint64_t bytes) {
    int64_t fits = 0, step = 1;
    for (; fits + step <= INT32_MAX && kv_bytes(r, part, fits + step) <= bytes; step *= 2)
        fits += step;
    for (; step > 0; step /= 2)
        if (fits + step <= INT32_MAX && kv_bytes(r, part, fits + step) <= bytes) fits += step;
    return fits;
}

static uint64_t workspace_bytes(const plan_request *r, slice part) {
    return model_workspace_bytes(r->config, part, r->precision, r->chunk_tokens) +
           model_kept_bytes(r->config, part, r->saves ? r->n_sequences : 0);
}

/* The slots; and with several ranks as much again, which MPI may hold until it is received. */
static uint64_t transfer_bytes(const plan_request *r) {
    pipeline_sizes sizes = {.x_floats = (size_t)r->chunk_tokens * (size_t)r->config->d_model};
    return (r->n_ranks > 1 ? 2 : 1) * pipeline_device_bytes(&sizes);
}

/* Layers are laid out so that one longest sequence fits; the pool then grows into what is left. Costs are
 * matrix elements that a row passes: that is both the operations of a prefill row and the bytes of a decode
 * step. Reading one row of the embedding is free beside them. layers[n_layers] is filled. */
static partition_problem make_problem(const plan_request *r, int64_t n_pages, partition_load *layers) {
    const model_config *c = r->config;
    const int n = c->n_layers;
    const slice before = {0, 0, n}, behind = {n, n, n}, both = {0, 0, 0}, inner = {1, 1, n + 1};
    const uint64_t space = workspace_bytes(r, inner), head_space = workspace_bytes(r, behind) - space;
    for (int l = 0; l < n; l++) {
        layers[l].cost = layer_elements(c, l);
        layers[l].bytes = layer_weight_bytes(c, l, r->precision) + layer_kv_bytes(r, l, n_pages);
    }
    return (partition_problem){
        .n_layers = n,
        .n_ranks = r->n_ranks,
        .layers = layers,
        .first = {0, model_weight_bytes(c, before, r->precision)},
        .last = {r->head_share * head_elements(c), model_weight_bytes(c, behind, r->precision) + head_space},
        .both_bytes = model_weight_bytes(c, both, r->precision) + head_space,
        .every_bytes = space + transfer_bytes(r) + ((uint64_t)PLAN_PROCESS_MIB << 20),
        .rank_bytes = r->bytes_per_rank,
        .bound_by = r->bound_by,
    };
}

/* What each rank takes beside K and V. */
static void fill_ranks(const plan_request *r, const partition_problem *p, const int *bounds, plan *out) {
    const double mean = partition_stage(p, 0, p->n_layers).cost / r->n_ranks;
    for (int i = 0; i < r->n_ranks; i++) {
        const slice part = {bounds[i], bounds[i + 1], p->n_layers};
        plan_rank *rank = &out->ranks[i];
        *rank = (plan_rank){
            .slice = part,
            .weight_bytes = model_weight_bytes(r->config, part, r->precision),
            .workspace_bytes = workspace_bytes(r, part),
            .transfer_bytes = transfer_bytes(r),
            .cost = partition_stage(p, bounds[i], bounds[i + 1]).cost / mean,
        };
        rank->total_bytes = rank->weight_bytes + rank->workspace_bytes + rank->transfer_bytes +
                            ((uint64_t)PLAN_PROCESS_MIB << 20);
    }
}

/* Pages that --kv-memory holds on every rank. */
static status fit_kv_memory(const plan_request *r, const plan *p, int64_t least, int64_t *room) {
    uint64_t needs = 0;
    for (const plan_rank *k = p->ranks; r->kv_bytes_per_rank && k < p->ranks + p->n_ranks; k++) {
        int64_t fits = most_pages(r, k->slice, r->kv_bytes_per_rank);
        uint64_t one = kv_bytes(r, k->slice, least);
        if (fits < *room) *room = fits;
        if (one > needs) needs = one;
    }
    if (*room >= least) return STATUS_OK;
    return status_refuse(
        "--kv-memory %.1f MiB holds %lld tokens on a rank, but a sequence of %lld tokens needs "
        "%.1f MiB: raise --kv-memory, lower --context or --max-tokens, or start more ranks",
        mem_mib(r->kv_bytes_per_rank), (long long)*room * r->page_tokens, (long long)r->longest_tokens,
        mem_mib(needs));
}

/* Pages for which every rank has memory beside all else. */
static status fit_memory(const plan_request *r, const plan *p, int64_t least, int64_t *room) {
    for (int i = 0; r->bytes_per_rank && i < p->n_ranks; i++) {
        const plan_rank *k = &p->ranks[i];
        int64_t fits = k->total_bytes < r->bytes_per_rank
                           ? most_pages(r, k->slice, r->bytes_per_rank - k->total_bytes)
                           : 0;
        if (fits < least)
            return status_refuse("rank %d may take %.1f MiB, %s, but needs %.1f MiB for layers %d to %d with "
                                 "one sequence of %lld "
                                 "tokens: start more ranks, lower --context or --max-tokens, or raise that",
                                 i, mem_mib(r->bytes_per_rank), r->bound_by,
                                 mem_mib(k->total_bytes + kv_bytes(r, k->slice, least)), k->slice.first_layer,
                                 k->slice.last_layer - 1, (long long)r->longest_tokens);
        if (fits < *room) *room = fits;
    }
    return STATUS_OK;
}

/* The pool of every rank: as many pages as are wanted, fewer where there is no room for them. */
static status choose_pages(const plan_request *r, int64_t least, plan *out) {
    const int64_t wanted = r->wanted_pages > least ? r->wanted_pages : least;
    int64_t room = INT32_MAX;
    status st = fit_kv_memory(r, out, least, &room);
    if (st == STATUS_OK) st = fit_memory(r, out, least, &room);
    if (st != STATUS_OK) return st;
    out->n_room_pages = room;
    out->n_pages = wanted < room ? wanted : room;
    for (plan_rank *k = out->ranks; k < out->ranks + out->n_ranks; k++) {
        k->kv_bytes = kv_bytes(r, k->slice, out->n_pages);
        k->total_bytes += k->kv_bytes;
    }
    return STATUS_OK;
}

status plan_make(const plan_request *r, plan *out) {
    const int64_t least = kv_pages_for(r->longest_tokens, r->page_tokens);
    if (least > INT32_MAX)
        return status_refuse(
            "a sequence of %lld tokens takes more than %d pages: raise --page-tokens or lower "
            "--context",
            (long long)r->longest_tokens, INT32_MAX);
    plan made = {.n_ranks = r->n_ranks, .ranks = mem_new((size_t)r->n_ranks, sizeof *made.ranks)};
    int *bounds = mem_new((size_t)r->n_ranks + 1, sizeof *bounds);
    partition_load *layers = mem_new((size_t)r->config->n_layers, sizeof *layers);
    partition_problem p = make_problem(r, least, layers);
    status st = r->layers_per_rank ? partition_from_list(r->layers_per_rank, p.n_layers, p.n_ranks, bounds)
                                   : partition_layers(&p, bounds);
    if (st == STATUS_OK) {
        fill_ranks(r, &p, bounds, &made);
        st = choose_pages(r, least, &made);
    }
    free(layers);
    free(bounds);
    if (st == STATUS_OK)
        *out = made;
    else
        plan_free(&made);
    return st;
}

void plan_free(plan *p) {
    free(p->ranks);
    p->ranks = NULL;
}
