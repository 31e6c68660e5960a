#include "src/tokenizer/merge.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

/* Up to this length a plain search for the lowest rank is faster than a heap. */
enum { SHORT_RUN = 48 };

void merge_table_init(merge_table *table, size_t n) {
    *table = (merge_table){.merges = hash_map_new(n), .joints = hash_map_new(0)};
}

void merge_table_free(merge_table *table) {
    hash_map_free(&table->merges);
    hash_map_free(&table->joints);
}

/* A merge in one number: its rank above its result, so that of two the lower comes first, and none last. The
 * map holds it plus one, as it holds no 0. */
#define NO_MERGE UINT64_MAX

void merge_table_add(merge_table *table, merge added) {
    uint64_t value = (uint64_t)added.rank << 32 | (uint32_t)added.result;
    hash_map_set(&table->merges, merge_pair(added.left, added.right), value + 1);
}

static uint64_t find(const merge_table *table, int32_t left, int32_t right) {
    return hash_map_find(&table->merges, merge_pair(left, right)) - 1;
}

static uint32_t rank_of(uint64_t found) {
    return (uint32_t)(found >> 32);
}

static int32_t result_of(uint64_t found) {
    return (int32_t)(uint32_t)found;
}

void merge_table_add_joint(merge_table *table, int32_t left, int32_t right) {
    hash_map_set(&table->joints, merge_pair(left, right), true);
}

static size_t merge_short(const merge_table *table, int32_t *ids, size_t n) {
    uint64_t found[SHORT_RUN]; /* of ids[i] and ids[i + 1] */
    for (size_t i = 0; i + 1 < n; i++)
        found[i] = find(table, ids[i], ids[i + 1]);
    for (;;) {
        size_t best = 0;
        uint64_t least = NO_MERGE;
        for (size_t i = 0; i + 1 < n; i++)
            if (found[i] < least) least = found[best = i];
        if (least == NO_MERGE) return n;
        ids[best] = result_of(least);
        for (size_t i = best + 1; i + 1 < n; i++) {
            ids[i] = ids[i + 1];
            if (i + 2 < n) found[i] = found[i + 1];
        }
        n--;
        if (best > 0) found[best - 1] = find(table, ids[best - 1], ids[best]);
        if (best + 1 < n) found[best] = find(table, ids[best], ids[best + 1]);
    }
}

/* The heap of a long run: candidates by rank, then place. One whose neighbours have changed since is stale.
 */
typedef struct candidate {
    uint32_t rank, at;
} candidate;

typedef struct long_run {
    const merge_table *table;
    int32_t *ids;          /* -1: merged into its left neighbour */
    uint32_t *next, *last; /* neighbours that are left; n and UINT32_MAX at the ends */
    candidate *heap;
    size_t n_heap;
    uint32_t n;
} long_run;

static bool is_before(candidate a, candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(long_run *run, candidate added) {
    size_t at = run->n_heap++;
    for (; at > 0 && is_before(added, run->heap[(at - 1) / 2]); at = (at - 1) / 2)
        run->heap[at] = run->heap[(at - 1) / 2];
    run->heap[at] = added;
}

static candidate heap_pop(long_run *run) {
    candidate top = run->heap[0], moved = run->heap[--run->n_heap];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < run->n_heap; at = child) {
        if (child + 1 < run->n_heap && is_before(run->heap[child + 1], run->heap[child])) child++;
        if (!is_before(run->heap[child], moved)) break;
        run->heap[at] = run->heap[child];
    }
    run->heap[at] = moved;
    return top;
}

static uint64_t merge_at(const long_run *run, uint32_t at) {
    if (run->ids[at] < 0 || run->next[at] == run->n) return NO_MERGE;
    return find(run->table, run->ids[at], run->ids[run->next[at]]);
}

static void push_merge_at(long_run *run, uint32_t at) {
    uint64_t found = merge_at(run, at);
    if (found != NO_MERGE) heap_push(run, (candidate){rank_of(found), at});
}

static void merge_neighbours(long_run *run, uint32_t at, int32_t result) {
    uint32_t right = run->next[at];
    run->ids[at] = result;
    run->ids[right] = -1;
    run->next[at] = run->next[right];
    if (run->next[at] < run->n) run->last[run->next[at]] = at;
    if (run->last[at] != UINT32_MAX) push_merge_at(run, run->last[at]);
    push_merge_at(run, at);
}

static size_t merge_long(const merge_table *table, int32_t *ids, size_t n) {
    /* Each merge removes a symbol and pushes at most two candidates: never more than 3 n in the heap. */
    long_run run = {.table = table,
                    .ids = ids,
                    .next = mem_new(n, sizeof(uint32_t)),
                    .last = mem_new(n, sizeof(uint32_t)),
                    .heap = mem_new(3 * n, sizeof(candidate)),
                    .n = (uint32_t)n};
    for (uint32_t i = 0; i < run.n; i++) {
        run.next[i] = i + 1;
        run.last[i] = i - 1;
    }
    for (uint32_t i = 0; i < run.n; i++)
        push_merge_at(&run, i);
    while (run.n_heap) {
        candidate top = heap_pop(&run);
        uint64_t found = merge_at(&run, top.at);
        if (found != NO_MERGE && rank_of(found) == top.rank) merge_neighbours(&run, top.at, result_of(found));
    }
    size_t n_left = 0;
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0) ids[n_left++] = ids[i];
    free(run.next);
    free(run.last);
    free(run.heap);
    return n_left;
}

size_t merge_run(const merge_table *table, int32_t *ids, size_t n) {
    return n <= SHORT_RUN ? merge_short(table, ids, n) : merge_long(table, ids, n);
}
