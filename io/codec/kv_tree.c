#include "io/codec/kv_tree.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

/* A part of the tree that no node holds yet. */
typedef struct part {
    uint32_t count;
    uint16_t child;
} part;

static int compare_parts(const void *a, const void *b) {
    const part *p = a, *q = b;
    if (p->count != q->count) return p->count < q->count ? -1 : 1;
    return p->child - q->child;
}

/* Huffman's method: join the two rarest parts until one is left. Joined parts come in order of rising counts,
 * so leaves and joined parts are two sorted queues, and the rarest part is at the head of one of them. */
void kv_tree_build(const uint32_t counts[KV_SYMBOLS], kv_tree *out) {
    part leaves[KV_SYMBOLS], joined[KV_MAX_NODES];
    int n_leaves = 0, leaf = 0, n_joined = 0, first_joined = 0;
    for (int i = 0; i < KV_SYMBOLS; i++)
        if (counts[i]) leaves[n_leaves++] = (part){counts[i], (uint16_t)i};
    assert(n_leaves > 0);
    qsort(leaves, (size_t)n_leaves, sizeof *leaves, compare_parts);

    out->n_nodes = n_leaves - 1;
    out->root = out->n_nodes ? KV_SYMBOLS : leaves[0].child;
    for (int i = out->n_nodes - 1; i >= 0; i--) {
        kv_node *node = &out->nodes[i];
        node->n_bits = 0;
        for (int side = 1; side >= 0; side--) {
            bool takes_leaf = leaf < n_leaves &&
                              (first_joined == n_joined || leaves[leaf].count <= joined[first_joined].count);
            part rarest = takes_leaf ? leaves[leaf++] : joined[first_joined++];
            node->n_bits += rarest.count;
            node->child[side] = rarest.child;
        }
        joined[n_joined++] = (part){node->n_bits, (uint16_t)(KV_SYMBOLS + i)};
    }
}

uint64_t kv_tree_bits(const kv_tree *tree) {
    uint64_t n = 0;
    for (int i = 0; i < tree->n_nodes; i++)
        n += tree->nodes[i].n_bits;
    return n;
}

const char *kv_tree_flaw(const kv_tree *tree) {
    bool seen[KV_CHILDREN] = {false};
    if (tree->n_nodes == 0) return tree->root < KV_SYMBOLS ? NULL : "a tree without nodes has no symbol";
    if (tree->root != KV_SYMBOLS) return "the root of the tree is not its first node";
    for (int i = 0; i < tree->n_nodes; i++)
        for (int side = 0; side < 2; side++) {
            int child = tree->nodes[i].child[side];
            if (child >= KV_SYMBOLS + tree->n_nodes) return "a child in the tree does not exist";
            if (child >= KV_SYMBOLS && child <= KV_SYMBOLS + i)
                return "a node of the tree stands before its parent";
            if (seen[child]) return "a child in the tree has two parents";
            seen[child] = true;
        }
    for (int i = 1; i < tree->n_nodes; i++)
        if (!seen[KV_SYMBOLS + i]) return "a node of the tree has no parent";
    return NULL;
}
