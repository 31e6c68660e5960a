/* kernels/cuda/attend/attend_merge.h: the merge of partial results that attention's kernels have left in
 * memory, or others have computed, in the tree of kernels/attend_blocks.h; and what else the functions that
 * launch attention know of an extent. Local. */
#pragma once

#include "kernels/cuda/device/cuda_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows [first_row, first_row + n_rows) of the step, all heads. */
typedef struct attend_merging {
    int first_row, n_rows;
    int64_t window;
    bool exact; /* exponents are of e; otherwise of 2 */

    /* The leaves: partial results of nodes of a level, of those of `nodes` that a row sees; from_first: the
     * layout's first node is the first of those, for every row its own. */
    const float *leaves;
    attend_partials layout;
    int level;
    attend_nodes nodes;
    bool from_first;

    /* The results: y[T, H K] (act); or, where that is NULL, of nodes of ATTEND_NODE_LEVEL. */
    void *y;
    float *partials;
    attend_partials partials_layout;
} attend_merging;

void attend_launch_merge(cuda_device *dev, const attend_merging *merging);

/* All but the leaves, of what the operations of attention want: y, or, where that is NULL, partials. */
attend_merging attend_merging_of(const cuda_device *dev, const attention_shape *shape,
                                 const attend_extent *extent, float *partials, void *y);

/* The largest position of an extent's rows. */
int64_t attend_last_pos(const cuda_device *dev, const attend_extent *extent);

#ifdef __cplusplus
}
#endif
