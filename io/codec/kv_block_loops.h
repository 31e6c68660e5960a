/* io/codec/kv_block_loops.h: the loops of io/codec/kv_blocks.h, written once. A file that includes it has
 * defined, for one instruction set:
 *
 * - bits_extract(x, mask), bits_deposit(x, mask): the bits of x that mask selects to the low end, and back
 * - symbols: 64 of them
 * - symbols_split(highs, bases, signs): of 64 high halves; `signs` is what else these consist of
 * - symbols_join(s, bases, signs, highs): and back
 * - symbols_store(s, to): as bytes
 * - symbols_all(value): all alike
 * - symbols_equal(s, t): a bit for each
 * - symbols_set(s, mask, t): those of the mask, which were zero, are t's
 *
 * The bits of a block are held by its nodes and leaves as masks of 64 bits: bit j is set if element j lies
 * below. Coding walks from the leaves to the root: a node's mask is that of both its children, and its new
 * bits are, for each element in its mask, whether it is in child[1]'s. Decoding walks from the root to the
 * leaves. */
#pragma once

#include <string.h>

#include "io/codec/kv_blocks.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words lie in memory as in a frame");

/* ---- strings of bits ---- */

typedef struct bit_string {
    uint64_t position; /* of the next bit, from the payload's begin */
    uint64_t word;     /* the bits before it in its word */
} bit_string;

static inline void bit_string_append(bit_string *s, uint8_t *payload, uint64_t bits, int n) {
    uint64_t shift = s->position % 64;
    uint64_t low = s->word | bits << shift, high = bits >> 1 >> (63 - shift);
    memcpy(payload + s->position / 64 * 8, &low, 8);
    s->position += (uint64_t)n;
    uint64_t is_full = (shift + (uint64_t)n) / 64; /* 0 or 1: as likely as not, so better no branch */
    s->word = low ^ ((low ^ high) & -is_full);
}

/* The next 64 bits, of which n are taken. */
static inline uint64_t bit_string_take(bit_string *s, const uint8_t *payload, int n) {
    uint64_t shift = s->position % 64, low, high;
    const uint8_t *from = payload + s->position / 64 * 8;
    memcpy(&low, from, 8);
    memcpy(&high, from + 8, 8);
    s->position += (uint64_t)n;
    return low >> shift | high << 1 << (63 - shift);
}

static inline uint32_t count_ones(const uint8_t *bits, uint32_t n_bits) {
    uint64_t n = 0, word;
    for (uint32_t i = 0; i < n_bits / 64; i++) {
        memcpy(&word, bits + 8 * (size_t)i, 8);
        n += (uint64_t)__builtin_popcountll(word);
    }
    memcpy(&word, bits + 8 * (size_t)(n_bits / 64), 8);
    return (uint32_t)(n + (uint64_t)__builtin_popcountll(word & (((uint64_t)1 << n_bits % 64) - 1)));
}

/* ---- the tree over one block ---- */

/* A node by the places of its children in tree_walk.masks. */
typedef struct walk_node {
    uint16_t child[2];
    bit_string bits;
} walk_node;

/* Most symbols are so rare that few blocks hold any of them. They lie below the last nodes, which are visited
 * only in such blocks: the first n_common nodes have the first n_common_leaves leaves; the rest is rare. */
typedef struct tree_walk {
    int n_nodes, n_common, n_leaves, n_common_leaves;
    walk_node nodes[KV_MAX_NODES];
    uint64_t masks[KV_CHILDREN]; /* of leaves, then of nodes; encoding leaves those of rare_roots zero */
    symbols leaves[KV_SYMBOLS];  /* each all alike, in the order of their parents */
    int n_rare_roots;
    uint16_t rare_roots[KV_MAX_NODES]; /* places of the rare nodes below common ones */
} tree_walk;

/* A node is rare if not one in so many blocks has a bit for it. */
enum { RARE_BLOCKS = 8 };

static inline void walk_begin(tree_walk *w, const kv_parts *parts) {
    const kv_tree *tree = &parts->tree;
    w->n_nodes = tree->n_nodes;
    w->n_common = w->n_leaves = 0;
    memset(w->masks, 0, sizeof w->masks);
    if (tree->n_nodes == 0) w->leaves[w->n_leaves++] = symbols_all((uint8_t)tree->root);
    w->n_common_leaves = w->n_leaves;
    for (int i = 0; i < tree->n_nodes; i++) {
        walk_node *node = &w->nodes[i];
        *node = (walk_node){.bits.position = parts->bits[i] * 8};
        for (int side = 0; side < 2; side++) {
            node->child[side] = tree->nodes[i].child[side];
            if (node->child[side] >= KV_SYMBOLS) continue;
            w->leaves[w->n_leaves] = symbols_all((uint8_t)node->child[side]);
            node->child[side] = (uint16_t)w->n_leaves++;
        }
        bool is_rare = tree->nodes[i].n_bits < parts->n_elements / (KV_BLOCK * RARE_BLOCKS);
        if (w->n_common == i && !is_rare) {
            w->n_common = i + 1;
            w->n_common_leaves = w->n_leaves;
        }
    }
    w->n_rare_roots = 0;
    for (int i = 0; i < w->n_common; i++)
        for (int side = 0; side < 2; side++)
            if (w->nodes[i].child[side] >= KV_SYMBOLS + w->n_common)
                w->rare_roots[w->n_rare_roots++] = w->nodes[i].child[side];
}

static inline bool has_rare(const tree_walk *w) {
    uint64_t any = 0;
    for (int i = 0; i < w->n_rare_roots; i++)
        any |= w->masks[w->rare_roots[i]];
    return any != 0;
}

/* The masks of nodes [first, last) and their bits, from their children's masks. */
static inline void encode_nodes(tree_walk *w, int first, int last, uint8_t *payload) {
    for (int i = last - 1; i >= first; i--) {
        walk_node *node = &w->nodes[i];
        uint64_t ones = w->masks[node->child[1]], mask = w->masks[node->child[0]] | ones;
        w->masks[KV_SYMBOLS + i] = mask;
        bit_string_append(&node->bits, payload, bits_extract(ones, mask), __builtin_popcountll(mask));
    }
}

static inline void walk_encode(tree_walk *w, symbols s, uint64_t valid, uint8_t *payload) {
    uint64_t rest = valid;
    for (int i = 0; i < w->n_common_leaves; i++) {
        w->masks[i] = symbols_equal(s, w->leaves[i]) & valid;
        rest ^= w->masks[i];
    }
    if (rest) {
        for (int i = w->n_common_leaves; i < w->n_leaves; i++)
            w->masks[i] = symbols_equal(s, w->leaves[i]) & rest;
        encode_nodes(w, w->n_common, w->n_nodes, payload);
    }
    encode_nodes(w, 0, w->n_common, payload);
    for (int i = 0; rest && i < w->n_rare_roots; i++)
        w->masks[w->rare_roots[i]] = 0;
}

/* The masks of the children of nodes [first, last), from their own and their bits. */
static inline void decode_nodes(tree_walk *w, int first, int last, const uint8_t *payload) {
    for (int i = first; i < last; i++) {
        walk_node *node = &w->nodes[i];
        uint64_t mask = w->masks[KV_SYMBOLS + i];
        uint64_t next = bit_string_take(&node->bits, payload, __builtin_popcountll(mask));
        uint64_t ones = bits_deposit(next, mask);
        w->masks[node->child[1]] = ones;
        w->masks[node->child[0]] = mask & ~ones;
    }
}

static inline symbols set_leaves(const tree_walk *w, int first, int last, symbols s) {
    for (int i = first; i < last; i++)
        s = symbols_set(s, w->masks[i], w->leaves[i]);
    return s;
}

static inline symbols walk_decode(tree_walk *w, uint64_t valid, const uint8_t *payload) {
    w->masks[w->n_nodes ? KV_SYMBOLS : 0] = valid;
    decode_nodes(w, 0, w->n_common, payload);
    symbols s = set_leaves(w, 0, w->n_common_leaves, symbols_all(0));
    if (has_rare(w)) {
        decode_nodes(w, w->n_common, w->n_nodes, payload);
        s = set_leaves(w, w->n_common_leaves, w->n_leaves, s);
    }
    return s;
}

/* ---- elements to symbols and planes ---- */

/* The bases of a block from element `first` on: in place, or gathered in `room`. */
static inline const uint8_t *block_bases(const kv_parts *parts, size_t first, uint8_t *room) {
    size_t channel = first % parts->n_channels;
    if (parts->bases && channel + KV_BLOCK <= parts->n_channels) return parts->bases + channel;
    for (int i = 0; i < KV_BLOCK; i++) {
        room[i] = parts->bases ? parts->bases[channel++] : 0;
        if (channel == parts->n_channels) channel = 0;
    }
    return room;
}

static inline uint64_t first_bits(size_t n) {
    return n >= 64 ? UINT64_MAX : ((uint64_t)1 << n) - 1;
}

/* The high halves of elements [first, first + n); the low ones go to the payload, unless that is NULL. */
static inline void block_load(const kv_parts *parts, const void *elements, size_t first, size_t n,
                              uint8_t *payload, uint16_t *highs) {
    if (parts->type == DTYPE_BF16) {
        memcpy(highs, (const uint8_t *)elements + 2 * first, 2 * n);
        return;
    }
    if (parts->type == DTYPE_U8) {
        for (size_t i = 0; i < n; i++)
            highs[i] = (uint16_t)(((const uint8_t *)elements)[first + i] << 7);
        return;
    }
    uint32_t words[KV_BLOCK] = {0};
    uint16_t lows[KV_BLOCK];
    memcpy(words, (const uint8_t *)elements + 4 * first, 4 * n);
    for (int i = 0; i < KV_BLOCK; i++) {
        highs[i] = (uint16_t)(words[i] >> 16);
        lows[i] = (uint16_t)words[i];
    }
    if (payload) memcpy(payload + parts->lows + 2 * first, lows, 2 * n);
}

static inline void block_store(const kv_parts *parts, const uint16_t *highs, size_t first, size_t n,
                               const uint8_t *payload, void *elements) {
    if (parts->type == DTYPE_BF16) {
        memcpy((uint8_t *)elements + 2 * first, highs, 2 * n);
        return;
    }
    if (parts->type == DTYPE_U8) {
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)elements)[first + i] = (uint8_t)(highs[i] >> 7);
        return;
    }
    uint32_t words[KV_BLOCK];
    uint16_t lows[KV_BLOCK] = {0};
    memcpy(lows, payload + parts->lows + 2 * first, 2 * n);
    for (int i = 0; i < KV_BLOCK; i++)
        words[i] = (uint32_t)highs[i] << 16 | lows[i];
    memcpy((uint8_t *)elements + 4 * first, words, 4 * n);
}

/* ---- blocks ---- */

static inline void encode_block(const kv_parts *parts, const void *elements, size_t first, size_t n,
                                tree_walk *w, uint8_t *payload) {
    uint16_t highs[KV_BLOCK] = {0};
    uint8_t signs[KV_BLOCK], bases[KV_BLOCK];
    block_load(parts, elements, first, n, payload, highs);
    symbols s = symbols_split(highs, block_bases(parts, first, bases), signs);
    if (parts->type != DTYPE_U8) memcpy(payload + parts->signs + first, signs, n);
    walk_encode(w, s, first_bits(n), payload);
}

static inline void decode_block(const kv_parts *parts, const uint8_t *payload, size_t first, size_t n,
                                tree_walk *w, void *elements) {
    uint16_t highs[KV_BLOCK];
    uint8_t signs[KV_BLOCK] = {0}, bases[KV_BLOCK];
    if (parts->type != DTYPE_U8) memcpy(signs, payload + parts->signs + first, n);
    symbols s = walk_decode(w, first_bits(n), payload);
    symbols_join(s, block_bases(parts, first, bases), signs, highs);
    block_store(parts, highs, first, n, payload, elements);
}

/* The symbols of `common` are counted together, all others one by one. */
static inline void count_block(const kv_parts *parts, const void *elements, size_t first, size_t n,
                               int n_common, const symbols *common, uint32_t *common_counts,
                               uint32_t counts[KV_SYMBOLS]) {
    uint16_t highs[KV_BLOCK] = {0};
    uint8_t signs[KV_BLOCK], bases[KV_BLOCK];
    block_load(parts, elements, first, n, NULL, highs);
    symbols s = symbols_split(highs, block_bases(parts, first, bases), signs);
    uint64_t valid = first_bits(n), rest = valid;
    for (int i = 0; i < n_common; i++) {
        uint64_t mask = symbols_equal(s, common[i]) & valid;
        common_counts[i] += (uint32_t)__builtin_popcountll(mask);
        rest ^= mask;
    }
    if (rest == 0) return;
    uint8_t bytes[KV_BLOCK];
    symbols_store(s, bytes);
    for (; rest; rest &= rest - 1)
        counts[bytes[__builtin_ctzll(rest)]]++;
}

static void blocks_count(const kv_parts *parts, const void *elements, int n_common,
                         const uint8_t common[KV_MAX_COMMON], uint32_t counts[KV_SYMBOLS]) {
    symbols all[KV_MAX_COMMON];
    uint32_t common_counts[KV_MAX_COMMON] = {0};
    for (int i = 0; i < n_common; i++)
        all[i] = symbols_all(common[i]);
    memset(counts, 0, KV_SYMBOLS * sizeof *counts);
    size_t first = 0, n = parts->n_elements;
    for (; first + KV_BLOCK <= n; first += KV_BLOCK)
        count_block(parts, elements, first, KV_BLOCK, n_common, all, common_counts, counts);
    if (first < n) count_block(parts, elements, first, n - first, n_common, all, common_counts, counts);
    for (int i = 0; i < n_common; i++)
        counts[common[i]] += common_counts[i];
}

static void blocks_encode(const kv_parts *parts, const void *elements, uint8_t *payload) {
    tree_walk w;
    walk_begin(&w, parts);
    size_t first = 0;
    for (; first + KV_BLOCK <= parts->n_elements; first += KV_BLOCK)
        encode_block(parts, elements, first, KV_BLOCK, &w, payload);
    if (first < parts->n_elements)
        encode_block(parts, elements, first, parts->n_elements - first, &w, payload);
    for (int i = 0; i < w.n_nodes; i++)
        memcpy(payload + w.nodes[i].bits.position / 64 * 8, &w.nodes[i].bits.word, 8);
}

static bool blocks_check(const kv_parts *parts, const uint8_t *payload) {
    const kv_node *nodes = parts->tree.nodes;
    for (int i = 0; i < parts->tree.n_nodes; i++) {
        uint32_t ones = count_ones(payload + parts->bits[i], nodes[i].n_bits);
        const uint32_t n_bits[2] = {nodes[i].n_bits - ones, ones};
        for (int side = 0; side < 2; side++) {
            int child = nodes[i].child[side];
            if (child >= KV_SYMBOLS && nodes[child - KV_SYMBOLS].n_bits != n_bits[side]) return false;
        }
    }
    return true;
}

static void blocks_decode(const kv_parts *parts, const uint8_t *payload, void *elements) {
    tree_walk w;
    walk_begin(&w, parts);
    size_t first = 0;
    for (; first + KV_BLOCK <= parts->n_elements; first += KV_BLOCK)
        decode_block(parts, payload, first, KV_BLOCK, &w, elements);
    if (first < parts->n_elements)
        decode_block(parts, payload, first, parts->n_elements - first, &w, elements);
}
