/* The merge of partial results: a query's by a warp of its own where they are few, else by the four warps of
 * a CTA, each an aligned quarter of them. Four are loaded at once. */
#include "kernels/cuda/attend/attend_merge.h"

#include <assert.h>

#include "kernels/cuda/attend/attend.cuh"
#include "kernels/cuda/device/cuda_ops.h"

/* By value. */
struct merge_job {
    attend_merging of;
    step_tables step;
    int64_t first_node; /* of the results */
    int below;          /* levels from the results down to the leaves */
    int n_warps;        /* of a query: 1 or ATTEND_WARPS */
    int n_each;         /* leaves of a warp: a power of two */
};

/* The leaves of one query: those that it sees, and where node 0 would be. */
struct seen_leaves {
    attend_nodes nodes;
    const float *at;
    int64_t stride;
};

__device__ __forceinline__ seen_leaves find_leaves(const merge_job &job, int64_t row, int head) {
    const attend_merging &of = job.of;
    int64_t pos = job.step.row_pos[row];
    seen_leaves leaves;
    leaves.nodes = attend_nodes_common(attend_nodes_seen(pos, pos, of.window, of.level), of.nodes);
    leaves.stride = static_cast<int64_t>(attend_node_floats(&of.layout));
    leaves.at = of.leaves + attend_partial_at(&of.layout, of.layout.first_node, row, head) -
                (of.from_first ? leaves.nodes.first : of.layout.first_node) * leaves.stride;
    return leaves;
}

/* Leaves [first, first + 4), as one subtree. */
template <int N, bool EXACT>
__device__ __forceinline__ attend_partial<N> merge_four(const seen_leaves &leaves, int64_t first, int width) {
    attend_partial<N> p[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        p[i] = first + i >= leaves.nodes.first && first + i < leaves.nodes.last
                   ? attend_get<N>(leaves.at + (first + i) * leaves.stride, width)
                   : attend_neutral<N>();
    return attend_merge<EXACT>(attend_merge<EXACT>(p[0], p[1]), attend_merge<EXACT>(p[2], p[3]));
}

/* The subtree of the n_each leaves from `start` on. */
template <int N, bool EXACT>
__device__ __forceinline__ attend_partial<N> merge_leaves(const merge_job &job, seen_leaves leaves,
                                                          int64_t start, float *levels) {
    const int width = job.of.layout.width;
    leaves.nodes = attend_nodes_common(leaves.nodes, {start, start + job.n_each});
    if (leaves.nodes.first >= leaves.nodes.last) return attend_neutral<N>();
    int count = static_cast<int>(leaves.nodes.first - start) / 4;
    attend_skip_leaves<N>(levels, count);
    for (; start + 4 * (count + 1) < leaves.nodes.last; count++)
        attend_add_leaf<EXACT>(levels, count, merge_four<N, EXACT>(leaves, start + 4 * count, width));
    return attend_last_leaf<EXACT>(levels, count, merge_four<N, EXACT>(leaves, start + 4 * count, width));
}

template <int N, bool EXACT, typename E>
__global__ void __launch_bounds__(ATTEND_THREADS) attend_merge_kernel(const merge_job job) {
    const attend_merging &of = job.of;
    const int warp = static_cast<int>(threadIdx.x) / WARP, part = warp % job.n_warps,
              n_heads = of.layout.n_heads, width = of.layout.width;
    int64_t query = static_cast<int64_t>(blockIdx.x) * (ATTEND_WARPS / job.n_warps) + warp / job.n_warps;
    if (query >= static_cast<int64_t>(of.n_rows) * n_heads) return;
    int64_t row = of.first_row + query / n_heads, node = job.first_node + blockIdx.y;
    int head = static_cast<int>(query % n_heads);
    seen_leaves leaves = find_leaves(job, row, head);
    leaves.nodes = attend_nodes_common(leaves.nodes, attend_nodes_below({node, node + 1}, job.below));
    if (leaves.nodes.first >= leaves.nodes.last) return; /* the row sees nothing of the node */

    float *staged = reinterpret_cast<float *>(cuda_shared_memory());
    int floats = static_cast<int>(attend_partial_floats(width));
    float *levels =
        staged + ATTEND_WARPS * floats + warp * attend_levels(job.n_each / 4) * attend_level_floats(N);
    int64_t start = (node << job.below) + static_cast<int64_t>(part) * job.n_each;
    attend_partial<N> p = merge_leaves<N, EXACT>(job, leaves, start, levels);
    if (job.n_warps > 1) {
        attend_put(staged + warp * floats, p, width);
        __syncthreads();
        if (warp > 0) return;
        p = attend_merge_quarters<N, EXACT>(staged, floats, width);
    }
    if (of.y)
        attend_finish<EXACT>(static_cast<E *>(of.y) + (row * n_heads + head) * width, p, width);
    else
        attend_put(of.partials + attend_partial_at(&of.partials_layout, node, row, head), p, width);
}

template <int N, bool EXACT, typename E> static void launch(cuda_device *dev, const attend_merging *of) {
    merge_job job = {*of, dev->step, 0, 0, 1, 1};
    int64_t n_results = 1, n_queries = static_cast<int64_t>(of->n_rows) * of->layout.n_heads;
    if (of->y) {
        while (static_cast<int64_t>(1) << job.below < of->nodes.last)
            job.below++;
    } else {
        job.below = ATTEND_NODE_LEVEL - of->level;
        const attend_nodes results = attend_nodes_above(of->nodes, job.below);
        job.first_node = results.first;
        n_results = results.last - results.first;
    }
    job.n_warps = job.below > 2 ? ATTEND_WARPS : 1;
    job.n_each = (1 << job.below) / job.n_warps;
    int n_ctas = static_cast<int>((n_queries * job.n_warps + ATTEND_WARPS - 1) / ATTEND_WARPS);
    size_t floats = attend_partial_floats(of->layout.width) +
                    static_cast<size_t>(attend_levels(job.n_each / 4) * attend_level_floats(N));
    cuda_launch(dev, "attend", attend_merge_kernel<N, EXACT, E>,
                dim3(static_cast<unsigned>(n_ctas), static_cast<unsigned>(n_results)), dim3(ATTEND_THREADS),
                ATTEND_WARPS * floats * sizeof(float), job);
}

void attend_launch_merge(cuda_device *dev, const attend_merging *of) {
    if (of->nodes.first >= of->nodes.last || of->n_rows < 1) return;
    const int most = attend_per_lane(CUDA_MOST_HEAD_DIM);
    if (of->exact)
        return dev->base.act == DTYPE_F32 ? launch<most, true, float>(dev, of)
                                          : launch<most, true, __nv_bfloat16>(dev, of);
    switch (attend_per_lane(of->layout.width)) {
    case 2:
        return launch<2, false, __nv_bfloat16>(dev, of);
    case 3:
        return launch<3, false, __nv_bfloat16>(dev, of);
    case 4:
        return launch<4, false, __nv_bfloat16>(dev, of);
    case most:
        return launch<most, false, __nv_bfloat16>(dev, of);
    }
}

/* ---- of an extent ---- */

int64_t attend_last_pos(const cuda_device *dev, const attend_extent *extent) {
    int64_t last = 0;
    for (int i = extent->first_span; i < extent->last_span; i++) {
        const span *s = &dev->step.host_spans[i];
        last = s->pos0 + s->n_rows - 1 > last ? s->pos0 + s->n_rows - 1 : last;
    }
    return last;
}

attend_merging attend_merging_of(const cuda_device *dev, const attention_shape *shape,
                                 const attend_extent *extent, float *partials, void *y) {
    const span *first = &dev->step.host_spans[extent->first_span],
               *last = &dev->step.host_spans[extent->last_span - 1];
    attend_merging merging = {};
    merging.first_row = first->row0;
    merging.n_rows = last->row0 + last->n_rows - first->row0;
    merging.window = shape->window;
    merging.y = y;
    merging.partials = partials;
    merging.partials_layout = {extent->nodes.first, 0, dev->step.n_rows, shape->n_heads, shape->head_dim};
    return merging;
}

void cuda_attend_merge(device *base, const attention_shape *shape, const attend_extent *extent,
                       const float *partials, void *y) {
    cuda_device *dev = cuda_device_of(base);
    assert(attend_extent_is_whole(extent, dev->step.host_spans, shape));
    if (extent->first_span >= extent->last_span) return;
    attend_merging merging = attend_merging_of(dev, shape, extent, nullptr, y);
    const attend_nodes blocks = {0, attend_rounded_blocks(attend_last_pos(dev, extent))};
    merging.exact = !cuda_attend_can(dev, shape);
    merging.leaves = partials;
    merging.layout = merging.partials_layout;
    merging.level = ATTEND_NODE_LEVEL;
    merging.nodes = attend_nodes_common(extent->nodes, attend_nodes_above(blocks, ATTEND_NODE_LEVEL));
    attend_launch_merge(dev, &merging);
}
