/* kernels/attend_blocks.h: which positions a row sees, in which tree the partial results of attention merge,
 * and how partial results lie in memory. Nothing else knows; for C, for CUDA, and for tests. Pure arithmetic.
 * Local.
 *
 * The places of a sequence (a position's place is its number, less how many were evicted before it) are cut
 * into blocks of ATTEND_BLOCK, counted from place 0 whatever the page size. The blocks are the leaves of a
 * binary tree: node i of level j covers the blocks [i 2^j, (i + 1) 2^j). What a row does not see is the
 * tree's neutral element, so a row's result depends only on its own position and window, and any node can be
 * computed apart and merged later. Where a row sees one part of a block as it was put and codes of the rest
 * (attend_exact_places), the leaf is the two parts' results, merged in this order. A node of
 * ATTEND_NODE_LEVEL, `node` for short, is what attend_part computes and attend_merge merges (device.h).
 *
 * A backend may add up the places of one node in another order than the tree's: its own, always.
 *
 * Walking leaves in order is a binary counter: after `count` of them, one partial result waits at every level
 * whose bit is set in `count`, the later ones at the lower levels. */
#pragma once

#include <float.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Functions that CUDA kernels call as well, and that C++ can evaluate in compilation. */
#if defined __CUDACC__
#define ATTEND_FUNCTION __host__ __device__ constexpr static inline
#elif defined __cplusplus
#define ATTEND_FUNCTION constexpr static inline
#else
#define ATTEND_FUNCTION static inline
#endif

enum {
    ATTEND_BLOCK = 256,
    ATTEND_NODE_LEVEL = 5,
    ATTEND_NODE = ATTEND_BLOCK << ATTEND_NODE_LEVEL, /* places of a node */
    ATTEND_ROOT_LEVEL = 40,  /* of a node that has all places that can be: its number is 0 */
    ATTEND_EXACT_FIRST = 64, /* attend_exact_places; no more than a block has */
};

/* ---- what a row sees ---- */

/* A half-open range of positions within one block; empty when first >= last. */
typedef struct attend_range {
    int first, last;
} attend_range;

ATTEND_FUNCTION int64_t attend_first_position(int64_t pos, int64_t window) {
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

ATTEND_FUNCTION int64_t attend_block_of(int64_t pos) {
    return pos / ATTEND_BLOCK;
}

/* What the row at `pos` sees of `block`, relative to the block's first position. */
ATTEND_FUNCTION attend_range attend_range_in(int64_t pos, int64_t window, int64_t block) {
    int64_t start = block * ATTEND_BLOCK;
    int64_t first = attend_first_position(pos, window) - start, last = pos + 1 - start;
    const int64_t none = 0, all = ATTEND_BLOCK;
    attend_range range = {(int)(first < none  ? none
                                : first > all ? all
                                              : first),
                          (int)(last < none  ? none
                                : last > all ? all
                                             : last)};
    return range;
}

/* Where pages hold codes: so many of a block's first places the row at `pos` sees as they were put, and codes
 * of the others. All of its own block: which rows have been coded by now never matters. And the first of a
 * sequence: keys of place 0 are of another kind, and what codes make of them is most of their error. */
ATTEND_FUNCTION int attend_exact_places(int64_t pos, int64_t block) {
    return block == attend_block_of(pos) ? ATTEND_BLOCK : block == 0 ? ATTEND_EXACT_FIRST : 0;
}

/* Numbers [first, last) of nodes of one level; empty when first >= last. */
typedef struct attend_nodes {
    int64_t first, last;
} attend_nodes;

/* Those of which any of the rows from `first_pos` to `last_pos` sees something. */
ATTEND_FUNCTION attend_nodes attend_nodes_seen(int64_t first_pos, int64_t last_pos, int64_t window,
                                               int level) {
    attend_nodes seen = {attend_block_of(attend_first_position(first_pos, window)) >> level,
                         (attend_block_of(last_pos) >> level) + 1};
    return seen;
}

/* The nodes that these have, so many levels below. */
ATTEND_FUNCTION attend_nodes attend_nodes_below(attend_nodes nodes, int levels) {
    attend_nodes below = {nodes.first << levels, nodes.last << levels};
    return below;
}

/* The nodes that have these below them, so many levels above. */
ATTEND_FUNCTION attend_nodes attend_nodes_above(attend_nodes nodes, int levels) {
    attend_nodes above = {nodes.first >> levels, ((nodes.last - 1) >> levels) + 1};
    return above;
}

ATTEND_FUNCTION attend_nodes attend_nodes_common(attend_nodes a, attend_nodes b) {
    attend_nodes common = {a.first > b.first ? a.first : b.first, a.last < b.last ? a.last : b.last};
    return common;
}

/* ---- the tree ---- */

/* Levels that a walk over `n` leaves can fill: at least one. */
ATTEND_FUNCTION int attend_levels(int64_t n) {
    int levels = 1;
    while (n >> levels)
        levels++;
    return levels;
}

/* The level of units that cuts `n_blocks` of work into about `n_wanted` units, none of them empty. */
ATTEND_FUNCTION int attend_unit_level(int64_t n_blocks, int64_t n_wanted) {
    int level = 0;
    while ((n_blocks >> (level + 1)) >= n_wanted)
        level++;
    return level;
}

/* The blocks up to last_pos, rounded up to a power of two: all that the grid of a decode step knows of
 * positions, so that it stays the same while a recorded step is replayed. */
ATTEND_FUNCTION int64_t attend_rounded_blocks(int64_t last_pos) {
    int64_t n = 1;
    while (n * ATTEND_BLOCK <= last_pos)
        n *= 2;
    return n;
}

/* ---- partial results ---- */

/* The partial result of a query (one head of a row) over some places: the largest score, the sum of
 * exp(score - max), and the values weighted by exp(score - max). Over no places: -inf, 0, zeros. A backend
 * whose exponents are of 2 has `max` in units of log2; what merges was made by one device for one shape. As
 * floats: [ATTEND_PARTIAL_MAX], [ATTEND_PARTIAL_SUM], and the values from [ATTEND_PARTIAL_VALUES] on, in
 * whole cache lines; what lies between and behind is padding, and undefined. */
enum {
    ATTEND_PARTIAL_MAX = 0,
    ATTEND_PARTIAL_SUM = 1,
    ATTEND_PARTIAL_LINE = 16, /* floats of a cache line */
    ATTEND_PARTIAL_VALUES = ATTEND_PARTIAL_LINE,
};

/* From one partial result of `width` values to the next. */
ATTEND_FUNCTION size_t attend_partial_floats(int width) {
    return (size_t)ATTEND_PARTIAL_VALUES +
           (size_t)((width + ATTEND_PARTIAL_LINE - 1) / ATTEND_PARTIAL_LINE) * ATTEND_PARTIAL_LINE;
}

ATTEND_FUNCTION bool attend_partial_is_empty(float max, float sum) {
    return max < -FLT_MAX && sum == 0;
}

/* Partial results together: [nodes from first_node on, n_rows from first_row on, n_heads,
 * attend_partial_floats(width)] float32. */
typedef struct attend_partials {
    int64_t first_node;
    int first_row, n_rows, n_heads, width;
} attend_partials;

/* Of one node; as many lie between those of one query in a node and in the next. */
ATTEND_FUNCTION size_t attend_node_floats(const attend_partials *p) {
    return (size_t)p->n_rows * (size_t)p->n_heads * attend_partial_floats(p->width);
}

/* Where a query's partial result begins, counted in floats. */
ATTEND_FUNCTION size_t attend_partial_at(const attend_partials *p, int64_t node, int64_t row, int head) {
    size_t query = (size_t)(row - p->first_row) * (size_t)p->n_heads + (size_t)head;
    return (size_t)(node - p->first_node) * attend_node_floats(p) + query * attend_partial_floats(p->width);
}
