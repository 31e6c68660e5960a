/* io/codec/kv_tree.h: the Huffman tree by which a chunk's exponents are coded: a leaf for each exponent that
 * occurs, and a node wherever two parts of the tree meet. All functions are Local. */
#pragma once

#include <stdint.h>

/* A child of a node is a number below KV_SYMBOLS, which is a leaf and the symbol itself, or KV_SYMBOLS + i,
 * which is node i. */
enum { KV_SYMBOLS = 256, KV_MAX_NODES = KV_SYMBOLS - 1, KV_CHILDREN = KV_SYMBOLS + KV_MAX_NODES };

/* n_bits is how many of the chunk's symbols lie below the node: each has one bit there, which is 0 if it lies
 * below child[0] and 1 if it lies below child[1]. */
typedef struct kv_node {
    uint32_t n_bits;
    uint16_t child[2];
} kv_node;

/* Nodes are in order of falling n_bits, so that a node stands behind its parent. */
typedef struct kv_tree {
    int n_nodes;
    int root; /* as a child: KV_SYMBOLS, or the one symbol there is */
    kv_node nodes[KV_MAX_NODES];
} kv_tree;

/* The tree for symbols that occur so often, at least one of them, and at most UINT32_MAX times all together.
 */
void kv_tree_build(const uint32_t counts[KV_SYMBOLS], kv_tree *out);

/* Bits that the tree codes all its symbols in. */
uint64_t kv_tree_bits(const kv_tree *tree);

/* What is wrong with a tree that came from elsewhere, or NULL: whether every node but the first is the child
 * of exactly one node before it, and every symbol at most one leaf. */
const char *kv_tree_flaw(const kv_tree *tree);
