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

/* Functions that CUDA kernels call as well, and that C++ can evaluate in compilation. */
#if defined __CUDACC__
#define ATTEND_FUNCTION __host__ __device__ constexpr static inline
#elif defined __cplusplus
#define ATTEND_FUNCTION constexpr static inline
#else
#define ATTEND_FUNCTION static inline
#endif

enum { ATTEND_BLOCK = 256 };

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
