/* kernels/attend_blocks.h: which positions a row sees, in which blocks they lie, and in which tree the
 * blocks' partial results merge. Pure arithmetic, shared by the backends.
 *
 * The positions of a sequence are cut into blocks of ATTEND_BLOCK, counted from position 0 whatever the page
 * size. The blocks are the leaves of a binary tree: a node of level j covers the blocks [i 2^j, (i + 1) 2^j).
 * A block that a row does not see is the tree's neutral element, so a row's result depends only on its own
 * position and window, and any aligned range of blocks can be computed apart (a unit) and merged later.
 *
 * Walking the blocks in order is a binary counter: after `count` blocks, one partial result waits at every
 * level whose bit is set in `count`. */
#pragma once

#include <stdint.h>

enum { ATTEND_BLOCK = 256 };

/* A half-open range of positions within one block; empty when first >= last. */
typedef struct attend_range {
    int first, last;
} attend_range;

static inline int64_t attend_first_position(int64_t pos, int64_t window) {
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

static inline int64_t attend_block_of(int64_t pos) {
    return pos / ATTEND_BLOCK;
}

/* What the row at `pos` sees of `block`, relative to the block's first position. */
static inline attend_range attend_range_in(int64_t pos, int64_t window, int64_t block) {
    int64_t start = block * ATTEND_BLOCK;
    int64_t first = attend_first_position(pos, window) - start, last = pos + 1 - start;
    attend_range range = {(int)(first < 0              ? 0
                                : first > ATTEND_BLOCK ? ATTEND_BLOCK
                                                       : first),
                          (int)(last < 0              ? 0
                                : last > ATTEND_BLOCK ? ATTEND_BLOCK
                                                      : last)};
    return range;
}

/* Levels that a walk over `n` leaves can fill: at least one. */
static inline int attend_levels(int64_t n) {
    int levels = 1;
    while (n >> levels)
        levels++;
    return levels;
}

/* The level of units that cuts `n_blocks` of work into about `n_wanted` units, none of them empty. */
static inline int attend_unit_level(int64_t n_blocks, int64_t n_wanted) {
    int level = 0;
    while ((n_blocks >> (level + 1)) >= n_wanted)
        level++;
    return level;
}
