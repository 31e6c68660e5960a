#include "src/tokenizer/merge.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

/* Up to this length a plain search for the lowest rank is faster than a heap. */
enum { SHORT_RUN = 48 };

static size_t hash_pair(uint64_t pair, size_t n_slots) {
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ (h >> 32)) & (n_slots - 1);
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void merge_table_init(merge_table *table, size_t n) {
    *table = (merge_table){.n_slots = 16, .n_joint_slots = 16};
    while (table->n_slots < 2 * n)
        table->n_slots *= 2;
    table->slots = mem_new(table->n_slots, sizeof *table->slots);
    memset(table->slots, -1, table->n_slots * sizeof *table->slots);
    table->joints = mem_new(table->n_joint_slots, sizeof *table->joints);
}

void merge_table_free(merge_table *table) {
    free(table->slots);
    free(table->joints);
    *table = (merge_table){0};
}

static merge *slot_of(const merge_table *table, int32_t left, int32_t right) {
    size_t at = hash_pair(pair_of(left, right), table->n_slots);
    while (table->slots[at].left >= 0 && (table->slots[at].left != left || table->slots[at].right != right))
        at = (at + 1) & (table->n_slots - 1);
    return &table->slots[at];
}

void merge_table_add(merge_table *table, merge added) {
    *slot_of(table, added.left, added.right) = added;
}

static const merge *find(const merge_table *table, int32_t left, int32_t right) {
    const merge *slot = slot_of(table, left, right);
    return slot->left >= 0 ? slot : NULL;
}

/* Joints are kept plus one, so that no pair is 0. */
static uint64_t *joint_slot(uint64_t *joints, size_t n_slots, uint64_t joint) {
    size_t at = hash_pair(joint, n_slots);
    while (joints[at] && joints[at] != joint)
        at = (at + 1) & (n_slots - 1);
    return &joints[at];
}

void merge_table_add_joint(merge_table *table, int32_t left, int32_t right) {
    if (2 * (table->n_joints + 1) > table->n_joint_slots) {
        size_t n_slots = 2 * table->n_joint_slots;
        uint64_t *wider = mem_new(n_slots, sizeof *wider);
        for (size_t i = 0; i < table->n_joint_slots; i++)
            if (table->joints[i]) *joint_slot(wider, n_slots, table->joints[i]) = table->joints[i];
        free(table->joints);
        table->joints = wider;
        table->n_joint_slots = n_slots;
    }
    uint64_t joint = pair_of(left, right) + 1;
    uint64_t *slot = joint_slot(table->joints, table->n_joint_slots, joint);
    table->n_joints += !*slot;
    *slot = joint;
}

bool merge_table_joins(const merge_table *table, int32_t left, int32_t right) {
    return *joint_slot(table->joints, table->n_joint_slots, pair_of(left, right) + 1) != 0;
}

static size_t merge_short(const merge_table *table, int32_t *ids, size_t n) {
    const merge *found[SHORT_RUN]; /* of ids[i] and ids[i + 1] */
    for (size_t i = 0; i + 1 < n; i++)
        found[i] = find(table, ids[i], ids[i + 1]);
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (found[i] && (best == n || found[i]->rank < found[best]->rank)) best = i;
        if (best == n) return n;
        ids[best] = found[best]->result;
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

static const merge *merge_at(const long_run *run, uint32_t at) {
    if (run->ids[at] < 0 || run->next[at] == run->n) return NULL;
    return find(run->table, run->ids[at], run->ids[run->next[at]]);
}

static void push_merge_at(long_run *run, uint32_t at) {
    const merge *found = merge_at(run, at);
    if (found) heap_push(run, (candidate){found->rank, at});
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
        const merge *found = merge_at(&run, top.at);
        if (found && found->rank == top.rank) merge_neighbours(&run, top.at, found->result);
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
