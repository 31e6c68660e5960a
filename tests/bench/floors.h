/* tests/bench/floors.h: what a GPU needs at least for the work of a Llama, kernel by kernel, and what our
 * kernels are predicted to need: printed by tests/bench/roofline.c, and beside what is measured by
 * tests/bench/bench_device.c. Local.
 *
 * The floor is the larger of bytes / bandwidth and operations / matrix rate, as the data sheets have them. A
 * prediction is made of the constants in floors.c; how a kernel is cut into blocks comes from its own
 * headers. */
#pragma once

#include "io/synthetic/synthetic.h"

typedef struct gpu {
    const char *name;
    double bytes, flops; /* a second */
} gpu;

extern const gpu h200, h100;

/* The one of them that a GPU of this name is, or is to be compared with: the H200 unless it says H100. */
const gpu *gpu_of(const char *name);

typedef enum work_kind {
    WORK_ROWS,   /* what treats every row alone: norms and the like */
    WORK_SWIGLU, /* the same behind the product gate_up of a prompt */
    WORK_FEW,    /* a product with generated rows */
    WORK_GATED,  /* and swiglu in it */
    WORK_MANY,   /* a product with rows of a prompt */
    WORK_GENERATED,
    WORK_PROMPT
} work_kind;

/* Some of the work of a step: bytes and operations, and how a kernel of ours does it. */
typedef struct work {
    char name[64];
    work_kind kind;
    int rows;    /* one of each sequence, where attention is of generated ones */
    int N, M;    /* of a product, and of the product before swiglu */
    int context; /* of attention: positions, the last row's among them */
    double bytes, flops;
    double share;               /* of the matrix rate, that the kernel can reach; 0: it needs none */
    double blocks, block_bytes; /* of the grid; under way in one of them, 0: enough */
    int per_sm;                 /* blocks */
    int starts;                 /* of kernels */
} work;

double work_under_way(const work *w); /* bytes */

/* Seconds. */
double work_floor(const work *w, const gpu *g);

/* The same; *why: what it is that takes so long. */
double work_predict(const work *w, const gpu *g, const char **why);

/* A layer of a step, into at most WORK_OF_LAYER of w, and how many; and the head behind all layers. */
enum { WORK_OF_LAYER = 8 };
int decode_layer(const synthetic_model *m, int sequences, int context, work *w);
int prefill_layer(const synthetic_model *m, int rows, int context, work *w);
work decode_head(const synthetic_model *m, int sequences);

/* Attention alone: of one row for each of so many sequences; of the last rows of a prompt. */
work generated_attention(const synthetic_model *m, int sequences, int context);
work prompt_attention(const synthetic_model *m, int rows, int context);

/* Sums over steps: bytes, operations, and seconds on the H200 and the H100. */
typedef struct total {
    double bytes, flops, floor[2], predicted[2];
} total;

total decode_total(const synthetic_model *m, int sequences, int context);
total prefill_total(const synthetic_model *m, int chunk, int n_tokens);

/* The rows of the table, most telling first: a layer of a decode step with one sequence and with many,
 * attention of one that is long, a layer of a prompt's chunk, of a large one, and attention of a whole
 * prompt.
 */
typedef struct sizes {
    int context, sequences, batch_context, long_context;
    int chunk, large_chunk, prompt; /* large_chunk 0: without one */
} sizes;

extern const sizes gpu_sizes;

enum { WORK_OF_ALL = 64 };
int list_work(const synthetic_model *m, const sizes *s, work *w);
