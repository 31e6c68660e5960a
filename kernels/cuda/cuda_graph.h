/* kernels/cuda/cuda_graph.h: the layers of a decode step as one CUDA graph, so that a step costs the host one
 * launch. A step is recorded when its like comes for the second time. What a recorded kernel was told by
 * value must be the same for all steps with the same key; the rest it reads from the step's tables, whose
 * addresses do not change. Local. */
#pragma once

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_device;
struct device;

/* What the launches of a step depend on. */
typedef struct cuda_graph_key {
    const void *x;
    int n_rows, n_spans;
    int64_t n_blocks; /* of positions, of the longest sequence: rounded up to a power of two */
} cuda_graph_key;

enum { CUDA_GRAPHS = 64 }; /* that are kept */

typedef struct cuda_graph {
    cuda_graph_key key;
    cudaGraphExec_t exec; /* NULL: seen, but not recorded yet */
    uint64_t last_use;    /* 0: free */
} cuda_graph;

typedef struct cuda_graphs {
    cuda_graph items[CUDA_GRAPHS];
    cuda_graph *recording; /* NULL: none is */
    uint64_t n_uses;
} cuda_graphs;

/* See device_ops. */
bool cuda_replay(struct device *dev, const void *x);
void cuda_record_end(struct device *dev);

/* Addresses have changed: all recordings are void. */
void cuda_graphs_forget(struct cuda_device *dev);

/* Blocks of ATTEND_BLOCK positions up to last_pos, rounded up to a power of two: what the grid of an
 * operation on generated rows may depend on. */
int64_t cuda_graph_blocks(int64_t last_pos);

#ifdef __cplusplus
}
#endif
