#include "src/model/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "mpi/pipeline.h"
#include "src/base/memory.h"
#include "src/model/kv_host.h"
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

static const uint64_t process_bytes = (uint64_t)PLAN_PROCESS_MIB << 20;

/* Contexts that wait for a save take so much of the cache, and so many bytes of logits, at most: to write so
 * much takes longer than all that a save takes besides, so that more would hardly make it cheaper. */
static const double most_held_bytes = 4e9, most_held_logits_bytes = 256e6;

/* ---- parts of a rank's bytes ---- */

static kv_shape shape_of(const model_config *c, const sizing *s, int64_t n_pages) {
    return (kv_shape){
        .format = model_kv_format(c, precision_kv(s->precision), sizing_kv_layout(s), s->page_tokens),
        .n_pages = n_pages,
        .n_slots = s->n_sequences + s->n_held,
        .longest_tokens = s->longest_tokens,
        .max_rows = s->chunk_tokens,
        .evicts = s->evict.kind != EVICT_NOTHING,
        .n_near_blocks = sizing_near_blocks(s),
    };
}

/* What of the layers' K and V is always in memory. */
static uint64_t near_bytes(const model_config *c, const sizing *s, slice part, int64_t n_pages) {
    const kv_shape shape = shape_of(c, s, n_pages);
    return (uint64_t)(part.last_layer - part.first_layer) * kv_cache_near_bytes(&shape);
}

/* K and V of a layer where sequences have so many pages, all together. */
static uint64_t layer_kv_bytes(const model_config *c, const sizing *s, int layer_index, int64_t n_pages) {
    const kv_shape shape = shape_of(c, s, n_pages);
    int64_t kept = model_config_kept(c, layer_index, s->saves);
    return (uint64_t)kv_pool_pages(&shape, kept) * kv_page_bytes(&shape.format) + kv_cache_near_bytes(&shape);
}

static uint64_t kv_bytes(const model_config *c, const sizing *s, slice part, int64_t n_pages) {
    uint64_t bytes = 0;
    for (int l = part.first_layer; l < part.last_layer; l++)
        bytes += layer_kv_bytes(c, s, l, n_pages);
    return bytes;
}

/* The largest pool that takes no more than so many bytes for these layers. */
static int64_t most_pages(const model_config *c, const sizing *s, slice part, uint64_t bytes) {
    int64_t fits = 0, step = 1;
    for (; fits + step <= PLAN_MOST_PAGES && kv_bytes(c, s, part, fits + step) <= bytes; step *= 2)
        fits += step;
    for (; step > 0; step /= 2)
        if (fits + step <= PLAN_MOST_PAGES && kv_bytes(c, s, part, fits + step) <= bytes) fits += step;
    return fits;
}

/* What eviction gathers of a layer. */
static uint64_t layer_evict_bytes(const model_config *c, const sizing *s, int layer_index) {
    return (uint64_t)s->n_sequences *
           evictor_layer_bytes(&s->evict, c, layer_index, s->longest_tokens, precision_act(s->precision));
}

/* Is there room for pages beside memory? */
static bool has_tiers(const sizing *s) {
    return s->kv_disk.bytes || s->kv_host_bytes;
}

static uint64_t workspace_bytes(const model_config *c, const sizing *s, slice part) {
    const kv_shape shape = shape_of(c, s, 0);
    uint64_t evict_bytes = evictor_bytes(&s->evict, c, &shape.format, s->longest_tokens);
    for (int l = part.first_layer; l < part.last_layer; l++)
        evict_bytes += layer_evict_bytes(c, s, l);
    return evict_bytes + model_workspace_bytes(c, part, s->precision, s->chunk_tokens) +
           model_kept_bytes(c, part, s->saves ? s->n_sequences + s->n_held : 0) +
           (has_tiers(s) ? model_partial_bytes(c, s->chunk_tokens, s->longest_tokens) : 0);
}

static size_t page_bytes(const model_config *c, const sizing *s) {
    const kv_shape shape = shape_of(c, s, 0);
    return kv_page_bytes(&shape.format);
}

static uint64_t beyond_spare(const model_config *c, const sizing *s, uint64_t bytes) {
    const uint64_t spare = KV_TIER_SPARE_RECORDS * page_bytes(c, s);
    return bytes > spare ? bytes - spare : 0;
}

/* Of host memory, where memory is apart: as is asked for, and at least what goes to a disk goes through. */
static int64_t host_pages(const model_config *c, const sizing *s) {
    const int64_t asked =
        (int64_t)(s->kv_host_bytes / page_bytes(c, s)) - 1; /* and the one of what is lost */
    const int64_t least = s->kv_disk.bytes ? KV_HOST_LEAST_PAGES : 0;
    if (!s->is_apart || !has_tiers(s)) return 0;
    return asked > least ? asked : least;
}

/* What tiers take beside memory. Each of them needs spare records. */
static uint64_t beside_bytes(const model_config *c, const sizing *s) {
    const uint64_t disk = beyond_spare(c, s, s->kv_disk.bytes);
    return s->is_apart ? beyond_spare(c, s, (uint64_t)host_pages(c, s) * page_bytes(c, s) + disk) : disk;
}

/* What must be in memory at least where not all is. */
static uint64_t least_frame_bytes(const model_config *c, const sizing *s) {
    const kv_shape shape = shape_of(c, s, 0);
    return (uint64_t)(kv_walk_least_frames(&shape) + 1) * page_bytes(c, s);
}

/* The slots; and with several ranks as much again, which MPI may hold until it is received. */
static uint64_t transfer_bytes(const model_config *c, const sizing *s, int n_ranks) {
    pipeline_sizes sizes = {.x_floats = (size_t)s->chunk_tokens * (size_t)c->d_model};
    return (n_ranks > 1 ? 2 : 1) * pipeline_device_bytes(&sizes);
}

/* What the command keeps of these layers. */
static uint64_t host_bytes(const sizing *s, slice part) {
    return s->host_bytes + (uint64_t)(part.last_layer - part.first_layer) * s->host_layer_bytes;
}

/* ---- layers to ranks ---- */

/* Costs are matrix elements that a row passes: that is both the operations of a prefill row and the bytes of
 * a decode step. Reading one row of the embedding is free beside them. layers[n_layers] is filled. */
static partition_problem make_problem(const model_config *c, const sizing *s, int n_ranks, int64_t n_pages,
                                      partition_load *layers) {
    const int n = c->n_layers;
    const slice before = {0, 0, n}, behind = {n, n, n}, both = {0, 0, 0}, inner = {1, 1, n + 1};
    const uint64_t space = workspace_bytes(c, s, inner), head_space = workspace_bytes(c, s, behind) - space;
    for (int l = 0; l < n; l++) {
        layers[l].cost = layer_elements(c, l);
        layers[l].bytes = layer_weight_bytes(c, l, s->precision) + s->host_layer_bytes +
                          layer_evict_bytes(c, s, l) +
                          (has_tiers(s) ? near_bytes(c, s, (slice){l, l + 1, n}, n_pages)
                                        : layer_kv_bytes(c, s, l, n_pages));
    }
    return (partition_problem){
        .n_layers = n,
        .n_ranks = n_ranks,
        .layers = layers,
        .first = {0, model_weight_bytes(c, before, s->precision)},
        .last = {s->head_share * head_elements(c), model_weight_bytes(c, behind, s->precision) + head_space},
        .both_bytes = model_weight_bytes(c, both, s->precision) + head_space,
        .every_bytes = space + transfer_bytes(c, s, n_ranks) + s->host_bytes + process_bytes +
                       (has_tiers(s) ? least_frame_bytes(c, s) : 0),
        .rank_bytes = s->bound.bytes,
        .bound_by = s->bound.by,
    };
}

/* What each rank takes beside K and V. */
static void fill_ranks(const model_config *c, const sizing *s, const partition_problem *p, const int *bounds,
                       plan *out) {
    const double mean = partition_stage(p, 0, p->n_layers).cost / p->n_ranks;
    for (int i = 0; i < p->n_ranks; i++) {
        const slice part = {bounds[i], bounds[i + 1], p->n_layers};
        plan_rank *rank = &out->ranks[i];
        *rank = (plan_rank){
            .slice = part,
            .weight_bytes = model_weight_bytes(c, part, s->precision),
            .workspace_bytes = workspace_bytes(c, s, part),
            .transfer_bytes = transfer_bytes(c, s, p->n_ranks),
            .host_bytes = host_bytes(s, part),
            .cost = partition_stage(p, bounds[i], bounds[i + 1]).cost / mean,
        };
        rank->total_bytes = rank->weight_bytes + rank->workspace_bytes + rank->transfer_bytes +
                            rank->host_bytes + process_bytes;
    }
}

/* ---- pages ---- */

/* Pages that --kv-memory holds on every rank. */
static status fit_kv_memory(const model_config *c, const sizing *s, const plan *p, int64_t least,
                            int64_t *room) {
    uint64_t needs = 0;
    for (const plan_rank *k = p->ranks; s->kv_bytes_per_rank && k < p->ranks + p->n_ranks; k++) {
        int64_t fits = most_pages(c, s, k->slice, s->kv_bytes_per_rank + beside_bytes(c, s));
        uint64_t one = kv_bytes(c, s, k->slice, least);
        if (fits < *room) *room = fits;
        if (one > needs) needs = one;
    }
    if (*room >= least) return STATUS_OK;
    return status_refuse(
        "--kv-memory %.1f MiB holds %lld tokens on a rank, but a sequence of %lld tokens needs "
        "%.1f MiB: raise --kv-memory, lower --context or --max-tokens, or start more ranks",
        mem_mib(s->kv_bytes_per_rank), (long long)*room * s->page_tokens, (long long)s->longest_tokens,
        mem_mib(needs));
}

/* Pages for which every rank has memory beside all else. */
static status fit_memory(const model_config *c, const sizing *s, const plan *p, int64_t least,
                         int64_t *room) {
    const uint64_t bound = s->bound.bytes;
    for (int i = 0; bound && i < p->n_ranks; i++) {
        const plan_rank *k = &p->ranks[i];
        const uint64_t left = k->total_bytes < bound ? bound - k->total_bytes : 0;
        int64_t fits = left ? most_pages(c, s, k->slice, left + beside_bytes(c, s)) : 0;
        if (fits < least)
            return status_refuse("rank %d may take %.1f MiB, %s, but needs %.1f MiB for layers %d to %d with "
                                 "one sequence of %lld "
                                 "tokens: start more ranks, lower --context or --max-tokens, or raise that",
                                 i, mem_mib(bound), s->bound.by,
                                 mem_mib(k->total_bytes + kv_bytes(c, s, k->slice, least)),
                                 k->slice.first_layer, k->slice.last_layer - 1, (long long)s->longest_tokens);
        if (fits < *room) *room = fits;
    }
    return STATUS_OK;
}

/* What is wanted of the pool of every rank. */
static int64_t pages_wanted(const sizing *s, int64_t least) {
    int64_t wanted = s->wanted_pages + (int64_t)(s->held_pages * s->n_held);
    return wanted > least ? wanted : least;
}

/* Where memory does not hold them all, they are its frames. */
static status fit_frames(const model_config *c, const sizing *s, int index, int64_t n_pages, plan_rank *k) {
    uint64_t most = UINT64_MAX;
    if (s->bound.bytes) most = s->bound.bytes - k->total_bytes;
    if (s->kv_bytes_per_rank && s->kv_bytes_per_rank < most) most = s->kv_bytes_per_rank;
    if (k->kv_bytes <= most) return STATUS_OK;
    const uint64_t near = near_bytes(c, s, k->slice, n_pages);
    if (most < near + least_frame_bytes(c, s))
        return status_refuse("rank %d has %.1f MiB of memory for KV pages, but beside %s it needs %.1f "
                             "MiB: raise --kv-memory, or lower --sequences or --chunk-tokens",
                             index, mem_mib(most), s->kv_host_bytes ? "--kv-host" : "--kv-disk",
                             mem_mib(near + least_frame_bytes(c, s)));
    const int64_t n_all = (int64_t)((k->kv_bytes - near) / page_bytes(c, s)), in_host = host_pages(c, s);
    k->n_frames = (int64_t)((most - near) / page_bytes(c, s)) - 1;
    k->kv_bytes = near + (uint64_t)(k->n_frames + 1) * page_bytes(c, s);
    if (!s->is_apart) return STATUS_OK;
    const int64_t n_outside = n_all - k->n_frames + KV_TIER_SPARE_RECORDS;
    const int64_t on_disk = (int64_t)(beyond_spare(c, s, s->kv_disk.bytes) / page_bytes(c, s));
    k->n_records = n_outside < in_host + on_disk ? n_outside : in_host + on_disk;
    k->n_host_pages = k->n_records < in_host ? k->n_records : in_host;
    k->kv_host_bytes = (uint64_t)(k->n_host_pages + 1) * page_bytes(c, s);
    return STATUS_OK;
}

/* As many pages as are wanted, fewer where there is no room for them. */
static status choose_pages(const model_config *c, const sizing *s, int64_t least, plan *out) {
    const int64_t wanted = pages_wanted(s, least);
    int64_t room = PLAN_MOST_PAGES;
    status st = fit_kv_memory(c, s, out, least, &room);
    if (st == STATUS_OK) st = fit_memory(c, s, out, least, &room);
    if (st != STATUS_OK) return st;
    out->n_room_pages = room;
    out->n_pages = wanted < room ? wanted : room;
    for (plan_rank *k = out->ranks; k < out->ranks + out->n_ranks; k++) {
        k->kv_bytes = kv_bytes(c, s, k->slice, out->n_pages);
        st = fit_frames(c, s, (int)(k - out->ranks), out->n_pages, k);
        if (st != STATUS_OK) return st;
        k->total_bytes += k->kv_bytes;
    }
    return STATUS_OK;
}

/* ---- all of it ---- */

/* Layers are laid out so that one longest sequence fits; the pool then grows into what is left. */
static status make_for(const model_config *c, const sizing *s, int n_ranks, int64_t least, plan *out) {
    plan made = {.n_ranks = n_ranks, .n_held = s->n_held};
    int *bounds = mem_new((size_t)n_ranks + 1, sizeof *bounds);
    partition_load *layers = mem_new((size_t)c->n_layers, sizeof *layers);
    partition_problem p = make_problem(c, s, n_ranks, least, layers);
    status st = s->layers_per_rank ? partition_from_list(s->layers_per_rank, p.n_layers, n_ranks, bounds)
                                   : partition_layers(&p, bounds);
    if (st == STATUS_OK) {
        made.ranks = mem_new((size_t)n_ranks, sizeof *made.ranks);
        fill_ranks(c, s, &p, bounds, &made);
        st = choose_pages(c, s, least, &made);
    }
    free(layers);
    free(bounds);
    if (st == STATUS_OK)
        *out = made;
    else
        plan_free(&made);
    return st;
}

static int most_held(const model_config *c, const sizing *s) {
    const slice all = {0, c->n_layers, c->n_layers};
    double each_bytes = s->held_pages * (double)(kv_bytes(c, s, all, 1) - near_bytes(c, s, all, 1));
    double logits_bytes = (double)model_kept_bytes(c, all, 1);
    if (s->n_held == 0) return 0;
    return (int)fmin(s->n_held, fmin(most_held_logits_bytes / logits_bytes, most_held_bytes / each_bytes));
}

/* Sequences that are over find room only where it is of no use to those that run. */
status plan_make(const model_config *c, const sizing *asked, int n_ranks, plan *out) {
    const int64_t places = asked->longest_places ? asked->longest_places : asked->longest_tokens,
                  least = kv_pages_for(places, asked->page_tokens);
    sizing s = *asked;
    if (s.kv_codes == KV_INT4 && c->head_dim > INT4_MOST_KEY)
        return status_refuse("--kv int4: heads of %d elements: at most %d", c->head_dim, INT4_MOST_KEY);
    if (s.kv_disk.bytes && beyond_spare(c, asked, s.kv_disk.bytes) == 0)
        return status_refuse(
            "--kv-disk %s: %.1f MiB are too few: more than %.1f MiB are needed for it to be of use",
            s.kv_disk.dir, mem_mib(s.kv_disk.bytes), mem_mib(KV_TIER_SPARE_RECORDS * page_bytes(c, asked)));
    if (s.kv_host_bytes && !s.is_apart)
        return status_refuse(
            "--kv-host is for GPUs: the CPU's memory is the host's, of which --kv-memory says "
            "how much, and --kv-disk what goes beyond it");
    if (s.kv_host_bytes && beside_bytes(c, asked) == 0)
        return status_refuse(
            "--kv-host: %.1f MiB are too few: more than %.1f MiB are needed for it to be of use",
            mem_mib(s.kv_host_bytes), mem_mib(KV_TIER_SPARE_RECORDS * page_bytes(c, asked)));
    int n_full = 0;
    for (int l = 0; l < c->n_layers; l++)
        n_full += model_config_window(c, l) == 0;
    if (s.evict.kind != EVICT_NOTHING && n_full == 0)
        return status_refuse(
            "--evict: all layers of this model have a sliding window, and are left as they are");
    if (least > PLAN_MOST_PAGES)
        return status_refuse(
            "a sequence of %lld tokens takes more than %d pages: raise --page-tokens or lower "
            "--context",
            (long long)asked->longest_tokens, PLAN_MOST_PAGES);
    for (s.n_held = most_held(c, asked);; s.n_held /= 2) {
        plan made;
        status st = make_for(c, &s, n_ranks, least, &made);
        bool fits = st == STATUS_OK && made.n_pages >= pages_wanted(&s, least);
        if (fits || s.n_held == 0) {
            if (st == STATUS_OK) *out = made;
            return st;
        }
        if (st == STATUS_OK) plan_free(&made);
    }
}

status plan_make_beside(const model_config *c, const sizing *s, int n_ranks, const plan_bound *host,
                        plan *out) {
    sizing on_device = *s;
    on_device.host_bytes = on_device.host_layer_bytes = 0;
    plan made;
    status st = plan_make(c, &on_device, n_ranks, &made);
    for (int i = 0; st == STATUS_OK && i < n_ranks; i++) {
        plan_rank *k = &made.ranks[i];
        k->host_bytes = host_bytes(s, k->slice);
        const uint64_t on_host = k->host_bytes + k->kv_host_bytes;
        if (on_host == 0 || host->bytes == 0 || process_bytes + on_host <= host->bytes) continue;
        st = status_refuse(
            "rank %d may take %.1f MiB of host memory, %s, but needs %.1f MiB for layers %d to "
            "%d: start more ranks, or lower %s",
            i, mem_mib(host->bytes), host->by, mem_mib(process_bytes + on_host), k->slice.first_layer,
            k->slice.last_layer - 1, k->kv_host_bytes ? "--kv-host" : "--context or --windows");
        plan_free(&made);
    }
    if (st == STATUS_OK) *out = made;
    return st;
}

int64_t plan_memory_pages(const plan *p) {
    int64_t least = 0;
    for (const plan_rank *k = p->ranks; k < p->ranks + p->n_ranks; k++) {
        const int64_t each = k->n_frames / (k->slice.last_layer - k->slice.first_layer);
        if (k->n_frames > 0 && (least == 0 || each < least)) least = each > 0 ? each : 1;
    }
    return least;
}

void plan_free(plan *p) {
    free(p->ranks);
    p->ranks = NULL;
}
