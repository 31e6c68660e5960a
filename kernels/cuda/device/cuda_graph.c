#include "kernels/cuda/device/cuda_graph.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "kernels/cuda/device/cuda_ops.h"
#include "src/base/memory.h"

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
    cuda_graph *recording;    /* NULL: none is */
    uint64_t n_uses, n_moved; /* n_moved of the device when they were recorded */
} cuda_graphs;

static bool same_key(const cuda_graph_key *a, const cuda_graph_key *b) {
    return a->x == b->x && a->n_rows == b->n_rows && a->n_spans == b->n_spans && a->n_blocks == b->n_blocks;
}

/* The graph of this key; a new one takes the place of the one that was not used for longest. */
static cuda_graph *find_graph(cuda_graphs *all, const cuda_graph_key *key, bool *is_known) {
    cuda_graph *oldest = &all->items[0];
    for (cuda_graph *g = all->items; g < all->items + CUDA_GRAPHS; g++) {
        *is_known = g->last_use > 0 && same_key(&g->key, key);
        if (*is_known) return g;
        if (g->last_use < oldest->last_use) oldest = g;
    }
    if (oldest->exec) cudaGraphExecDestroy(oldest->exec);
    *oldest = (cuda_graph){.key = *key};
    return oldest;
}

/* Addresses have changed: all recordings are void. */
static void forget(cuda_graphs *all) {
    assert(!all->recording);
    for (cuda_graph *g = all->items; g < all->items + CUDA_GRAPHS; g++)
        if (g->exec) cudaGraphExecDestroy(g->exec);
    memset(all, 0, sizeof *all);
}

bool cuda_replay(device *base, const void *x) {
    cuda_device *dev = cuda_device_of(base);
    cuda_graphs *all = dev->graphs;
    const step_tables *t = &dev->step;
    if (t->n_generated < t->n_rows) return false;
    const cuda_graph_key key = {x, t->n_rows, t->n_spans, attend_rounded_blocks(t->last_pos)};
    if (all->n_moved != dev->n_moved) forget(all);
    all->n_moved = dev->n_moved;
    bool is_known;
    cuda_graph *g = find_graph(all, &key, &is_known);
    g->last_use = ++all->n_uses;
    if (g->exec) {
        cuda_device_check(dev, cudaGraphLaunch(g->exec, dev->stream), "replay of a step");
        return true;
    }
    /* The first visit is made as it is: it takes what memory it needs, which a recording must not. */
    if (!is_known) return false;
    pthread_mutex_lock(&dev->recording);
    if (cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess) {
        all->recording = g;
    } else {
        cudaGetLastError(); /* or the next launch would tell of it */
        pthread_mutex_unlock(&dev->recording);
    }
    return false;
}

void cuda_record_end(device *base) {
    cuda_device *dev = cuda_device_of(base);
    cuda_graph *g = dev->graphs->recording;
    cudaGraph_t graph = NULL;
    if (!g) return;
    assert(dev->graphs->n_moved == dev->n_moved);
    dev->graphs->recording = NULL;
    cudaError_t code = cudaStreamEndCapture(dev->stream, &graph);
    pthread_mutex_unlock(&dev->recording);
    if (code == cudaSuccess) code = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (code == cudaSuccess) code = cudaGraphLaunch(g->exec, dev->stream);
    cuda_device_check(dev, code, "recording of a step");
}

struct cuda_graphs *cuda_graphs_open(void) {
    return mem_new(1, sizeof(cuda_graphs));
}

void cuda_graphs_close(struct cuda_graphs *graphs) {
    if (graphs) forget(graphs);
    free(graphs);
}
