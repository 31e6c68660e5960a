#include "src/model/partition.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "src/base/memory.h"

static double stage_cost(const partition_problem *p, int first, int last) {
    double cost = (last - first) * p->layer_cost;
    if (first == 0) cost += p->first_cost;
    if (last == p->n_layers) cost += p->last_cost;
    return cost;
}

uint64_t partition_stage_bytes(const partition_problem *p, int first, int last) {
    uint64_t bytes = p->every_bytes + (uint64_t)(last - first) * p->layer_bytes;
    if (first == 0 && last == p->n_layers) return bytes + p->both_bytes;
    if (first == 0) bytes += p->first_bytes;
    if (last == p->n_layers) bytes += p->last_bytes;
    return bytes;
}

static bool stage_fits(const partition_problem *p, int first, int last) {
    return !p->rank_bytes || partition_stage_bytes(p, first, last) <= p->rank_bytes;
}

static double join_max(double a, double b) {
    return fmax(a, b);
}

static double join_squares(double a, double b) {
    return a + b * b;
}

/* best[s][l]: the least joined cost of stages 0..s over layers 0..l, each stage at most `limit`; from[s][l]:
 * where stage s begins then. Returns the cost of the whole, infinity when nothing fits. */
static double solve(const partition_problem *p, double limit, double (*join)(double, double), int *bounds) {
    int n = p->n_layers, width = n + 1;
    double *best = mem_new((size_t)(p->n_ranks * width), sizeof *best);
    int *from = mem_new((size_t)(p->n_ranks * width), sizeof *from);
    for (int s = 0; s < p->n_ranks; s++) {
        for (int last = 0; last <= n; last++) {
            double *here = &best[s * width + last];
            *here = INFINITY;
            for (int first = s; first < last; first++) {
                if ((s == 0) != (first == 0) || !stage_fits(p, first, last)) continue;
                double cost = stage_cost(p, first, last);
                double before = s ? best[(s - 1) * width + first] : 0;
                if (cost > limit || join(before, cost) >= *here) continue;
                *here = join(before, cost);
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
    partition_problem by_bytes = *p;
    by_bytes.rank_bytes = 0;
    by_bytes.layer_cost = (double)p->layer_bytes;
    by_bytes.first_cost = (double)p->first_bytes;
    by_bytes.last_cost = p->n_ranks == 1 ? (double)(p->both_bytes - p->first_bytes) : (double)p->last_bytes;
    double bytes = solve(&by_bytes, INFINITY, join_max, bounds);
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
