#include "src/model/partition.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "src/base/memory.h"

static partition_load sum(partition_load a, partition_load b) {
    return (partition_load){a.cost + b.cost, a.bytes + b.bytes};
}

/* What a stage takes beside its layers. */
static partition_load load_of_ends(const partition_problem *p, int first, int last) {
    bool is_first = first == 0, is_last = last == p->n_layers;
    partition_load ends = {0, p->every_bytes};
    if (is_first) ends = sum(ends, p->first);
    if (is_last) ends = sum(ends, p->last);
    if (is_first && is_last) ends.bytes = p->every_bytes + p->both_bytes;
    return ends;
}

partition_load partition_stage(const partition_problem *p, int first, int last) {
    partition_load layers = {0};
    for (int l = last - 1; l >= first; l--)
        layers = sum(layers, p->layers[l]);
    return sum(layers, load_of_ends(p, first, last));
}

static double join_max(double a, double b) {
    return fmax(a, b);
}

static double join_squares(double a, double b) {
    return a + b * b;
}

/* best[s][l]: the least joined cost of stages 0..s over layers 0..l, each stage at most `limit`; from[s][l]:
 * where stage s begins then, the first place of equals. Returns the cost of the whole, infinity when nothing
 * fits. */
static double solve(const partition_problem *p, double limit, double (*join)(double, double), int *bounds) {
    int n = p->n_layers, width = n + 1;
    double *best = mem_new((size_t)(p->n_ranks * width), sizeof *best);
    int *from = mem_new((size_t)(p->n_ranks * width), sizeof *from);
    for (int s = 0; s < p->n_ranks; s++) {
        for (int last = 0; last <= n; last++) {
            double *here = &best[s * width + last];
            partition_load layers = {0};
            *here = INFINITY;
            for (int first = last - 1; first >= s; first--) {
                layers = sum(layers, p->layers[first]);
                if ((s == 0) != (first == 0)) continue;
                partition_load stage = sum(layers, load_of_ends(p, first, last));
                double before = s ? best[(s - 1) * width + first] : 0;
                if ((p->rank_bytes && stage.bytes > p->rank_bytes) || stage.cost > limit) continue;
                if (join(before, stage.cost) > *here) continue;
                *here = join(before, stage.cost);
                from[s * width + last] = first;
            }
        }
    }
    double whole = best[(p->n_ranks - 1) * width + n];
    if (isfinite(whole)) {
        bounds[p->n_ranks] = n;
        for (int s = p->n_ranks - 1; s >= 0; s--)
            bounds[s] = from[s * width + bounds[s + 1]];
    }
    free(best);
    free(from);
    return whole;
}

/* The least bytes a rank that any partition of this model over these ranks needs. */
static uint64_t least_rank_bytes(const partition_problem *p) {
    int *bounds = mem_new((size_t)p->n_ranks + 1, sizeof *bounds);
    partition_load *layers = mem_new((size_t)p->n_layers, sizeof *layers);
    partition_problem by_bytes = {.n_layers = p->n_layers, .n_ranks = p->n_ranks, .layers = layers};
    for (int l = 0; l < p->n_layers; l++)
        layers[l].cost = (double)p->layers[l].bytes;
    by_bytes.first.cost = (double)p->first.bytes;
    by_bytes.last.cost = p->n_ranks == 1 ? (double)(p->both_bytes - p->first.bytes) : (double)p->last.bytes;
    double bytes = solve(&by_bytes, INFINITY, join_max, bounds);
    free(layers);
    free(bounds);
    return p->every_bytes + (uint64_t)bytes;
}

status partition_layers(const partition_problem *p, int *bounds) {
    if (p->n_ranks > p->n_layers)
        return status_refuse("%d ranks are more than the model's %d layers: start at most %d ranks",
                             p->n_ranks, p->n_layers, p->n_layers);
    double slowest = solve(p, INFINITY, join_max, bounds);
    if (!isfinite(slowest))
        return status_refuse(
            "the model does not fit: a rank may take %.1f MiB, %s, but over %d ranks the largest needs at "
            "least %.1f MiB: start more ranks, lower --context, --max-tokens or --chunk-tokens, or raise "
            "that",
            mem_mib(p->rank_bytes), p->bound_by, p->n_ranks, mem_mib(least_rank_bytes(p)));
    solve(p, slowest * (1 + 1e-12), join_squares, bounds);
    return STATUS_OK;
}

status partition_from_list(const char *list, int n_layers, int n_ranks, int *bounds) {
    int n = 0;
    long sum = 0;
    bounds[0] = 0;
    for (const char *at = list;; at++) {
        char *end;
        long layers = strtol(at, &end, 10);
        if (end == at || layers < 1 || layers > n_layers || (*end && *end != ','))
            return status_refuse(
                "--layers-per-rank %s: expected numbers of layers from 1 to %d with commas between", list,
                n_layers);
        sum += layers;
        if (n == n_ranks || sum > n_layers) break;
        bounds[++n] = (int)sum;
        at = end;
        if (!*end) {
            if (n == n_ranks && sum == n_layers) return STATUS_OK;
            break;
        }
    }
    return status_refuse("--layers-per-rank %s: needs one number for each of the %d ranks, %d layers in all",
                         list, n_ranks, n_layers);
}
