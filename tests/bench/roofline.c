/* What an H200 and an H100 need at least for the work of an 8B Llama, kernel by kernel, and what our kernels
 * are predicted to need: the tables of tests/gpu-results.md, to be filled in by tests/bench_device.c. No GPU
 * is needed.
 *
 *     build/tests/roofline
 *
 * The floor is the larger of bytes / bandwidth and operations / matrix rate, as the data sheets have them. A
 * prediction is made of the constants below; how a kernel is cut into blocks comes from its own headers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/attend_map.h"
#include "kernels/cuda/matmul_few.cuh"

enum {
    LAYERS = 32,
    WIDTH = 4096,
    HEADS = 32,
    KV_HEADS = 8,
    HEAD = 128,
    MLP = 14336,
    VOCABULARY = 128256,
    QKV = (HEADS + 2 * KV_HEADS) * HEAD,
    CHUNK = 512, /* of a prompt, as --chunk-tokens has it */
    PREFILL = 32768,
    SM = 132,
    SM_SHARED = 228 << 10,
    BLOCK_SHARED = 1 << 10, /* of each block, by the system */
    SM_REGISTERS = 65536,
    BF16 = 2,
    F32 = 4
};

typedef struct gpu {
    const char *name;
    double bytes, flops; /* a second */
} gpu;

static const gpu h200 = {"H200", 4.8e12, 989e12}, h100 = {"H100", 3.35e12, 989e12};

static const double copied =
                        0.90, /* of the bandwidth: what a copy in memory reaches (4.3 of 4.8 TB/s seen) */
    start = 2e-6,             /* a kernel's start behind another in a graph, and its end: assumed */
    latency = 1e-6,           /* of a busy memory: assumed */
    mma = 0.63,               /* of the matrix rate: mma.sync on Hopper (read: arXiv 2402.13499) */
    cublas = 0.80,            /* a large product of cuBLASLt (790 of 989 TFLOP/s seen) */
    issued = 0.80;            /* of the time in which instructions could begin, behind waits: assumed */

/* Some of the work of a step: bytes and operations, and how a kernel of ours does it. */
typedef struct work {
    char name[64];
    double bytes, flops;
    double share;               /* of the matrix rate, that the kernel can reach; 0: it needs none */
    double blocks, block_bytes; /* of the grid; under way in one of them, 0: enough */
    int per_sm;                 /* blocks */
    int starts;                 /* of kernels */
} work;

/* Blocks in a multiprocessor. */
static int blocks_in_sm(int threads, int registers, size_t shared) {
    int by_registers = SM_REGISTERS / ((registers + 7) / 8 * 8 * threads);
    int by_shared = (int)(SM_SHARED / (shared + BLOCK_SHARED));
    return by_registers < by_shared ? by_registers : by_shared;
}

/* ---- times ---- */

static double floor_of(const work *w, const gpu *g) {
    return fmax(w->bytes / g->bytes, w->flops / g->flops);
}

/* Of the time of full waves of blocks, what is used. A grid of less than a wave shares the memory evenly. */
static double wave_share(const work *w) {
    double waves = w->blocks / (SM * w->per_sm);
    return waves > 1 ? waves / ceil(waves) : 1;
}

static double under_way(const work *w) {
    return fmin(w->blocks, SM * w->per_sm) * w->block_bytes;
}

/* *why: what it is that takes so long. */
static double predict(const work *w, const gpu *g, const char **why) {
    double seconds[] = {w->bytes / (g->bytes * copied) / wave_share(w),
                        w->block_bytes > 0 ? w->bytes / (under_way(w) / latency) : 0,
                        w->share > 0 ? w->flops / (g->flops * w->share) : 0};
    static const char *const names[] = {"memory", "latency", "matrix"};
    double longest = start * w->starts;
    *why = "start";
    for (int i = 0; i < 3; i++)
        if (seconds[i] > longest) longest = seconds[i], *why = names[i];
    return fmax(fmax(seconds[0], seconds[1]), seconds[2]) + start * w->starts;
}

/* ---- kernels ---- */

/* y[T, N] float32 = x[T, M] w[N, M]; gated: y[T, N / 2] in bf16. */
static work few_product(const char *name, int N, int M, int T, bool gated) {
    few_plan p = few_plan_of(N, M);
    work w = {.share = mma, .flops = 2.0 * T * N * M, .starts = 1};
    double y = gated ? T * (N / 2.0) * BF16 : (double)T * N * F32;
    snprintf(w.name, sizeof w.name, "%s [%d, %d], %d", name, N, M, T);
    w.bytes = (double)N * M * BF16 + (double)T * M * BF16 + y;
    if (T <= 16) { /* multiply_thin: 3 stages of each warp's rows */
        int warps = p.tiles_a_block * p.n_slices;
        w.block_bytes = warps * 3.0 * p.tile_rows * FEW_STAGE * BF16;
        w.blocks = few_parts(p.n_tiles, p.tiles_a_block);
        w.per_sm = blocks_in_sm(32 * warps, 64, (size_t)w.block_bytes);
    } else { /* multiply_wide: 4 stages, of which 3 are under way; slices meet in the L2 cache */
        int rows = T > 32 ? 64 : 32;
        size_t stage = FEW_WIDE_WARPS * FEW_WIDE_ROWS * FEW_STAGE * BF16;
        w.block_bytes = 3.0 * (double)stage;
        w.blocks = (double)few_parts(N, few_wide_row(1, 0)) * p.n_slices;
        w.per_sm = blocks_in_sm(32 * FEW_WIDE_WARPS, 146, 4 * (stage + (size_t)(rows * FEW_STAGE * BF16)));
        w.starts = p.n_slices > 1 ? 2 : 1;
    }
    return w;
}

static work many_product(const char *name, int N, int M, int T) {
    work w = {.share = cublas, .flops = 2.0 * T * N * M, .per_sm = 1, .starts = 1};
    snprintf(w.name, sizeof w.name, "%s [%d, %d], %d", name, N, M, T);
    w.bytes = (double)N * M * BF16 + (double)T * M * BF16 + (double)T * N * F32;
    return w;
}

static work generated_attention(int sequences, int context) {
    const int group = HEADS / KV_HEADS, tasks = sequences * KV_HEADS;
    const double position = 2.0 * KV_HEADS * HEAD * BF16;
    int64_t n_blocks = attend_rounded_blocks(context - 1);
    int most = attend_levels_that_fit(HEAD, group, SM_SHARED - BLOCK_SHARED, 3);
    int level = attend_level_of(n_blocks, tasks, 4 * SM, most);
    work w = {.bytes = sequences * (context * position + 2.0 * HEADS * HEAD * BF16),
              .flops = 4.0 * HEADS * HEAD * sequences * context,
              .share = mma * group / ATTEND_HEADS, /* the other rows of the matrices are empty */
              .blocks = (double)tasks * (double)(n_blocks >> level)};
    snprintf(w.name, sizeof w.name, "attention, %d generated, %d", sequences, context);
    w.block_bytes = (attend_slots(HEAD) - 1) * ATTEND_WARPS * ATTEND_QUANTUM * (double)(HEAD * BF16);
    w.per_sm = blocks_in_sm(ATTEND_THREADS, 169, attend_generated_bytes(HEAD, group, level));
    w.starts = n_blocks >> level > 1 ? 2 : 1;
    return w;
}

/* Of the matrix rate. In a cycle, each of the four parts of a multiprocessor multiplies 512 pairs of numbers,
 * and begins one instruction: of a warp of each warpgroup that multiplies, or of one that copies. For a tile
 * they have so many, read off the machine code. */
static double prompt_share(int warpgroups) {
    enum { MULTIPLIES = 577, COPIES = 300 };
    double products = 2.0 * 16 * warpgroups * attend_prompt_positions(HEAD) * HEAD / 512;
    return fmin(1, issued * products / (MULTIPLIES * warpgroups + COPIES));
}

/* Rows [context - rows, context). */
static work prompt_attention(int rows, int context) {
    double seen = rows * (context - (rows - 1) / 2.0);
    int tiles = rows * (HEADS / KV_HEADS) / attend_prompt_queries(2) * KV_HEADS;
    work w = {.flops = 4.0 * HEADS * HEAD * seen, .per_sm = 1, .starts = 1};
    snprintf(w.name, sizeof w.name, "attention, %d prompt rows, %d", rows, context);
    w.share = prompt_share(tiles < 2 * SM ? 1 : 2); /* as plan_prompt cuts */
    w.bytes = context * 2.0 * KV_HEADS * HEAD * BF16 + 2.0 * rows * WIDTH * BF16;
    return w;
}

/* What treats every row alone: so many bytes of each. */
static work row_work(const char *name, int T, double row_bytes) {
    work w = {.bytes = T * row_bytes, .per_sm = 1, .starts = 1};
    snprintf(w.name, sizeof w.name, "%s, %d", name, T);
    return w;
}

/* ---- tables ---- */

static void print_work(const work *w) {
    char blocks[32] = "-", way[32] = "-";
    const char *why, *why_100;
    double predicted = predict(w, &h200, &why), predicted_100 = predict(w, &h100, &why_100);
    if (w->blocks > 0) snprintf(blocks, sizeof blocks, "%.0f (%d)", w->blocks, w->per_sm);
    if (w->block_bytes > 0) snprintf(way, sizeof way, "%.1f", under_way(w) / 1e6);
    printf("| %s | %.2f | %.2f | %.1f | %.1f | %s | %s | %.1f (%s) | %.1f | |\n", w->name, w->bytes / 1e6,
           w->flops / 1e9, 1e6 * floor_of(w, &h200), 1e6 * floor_of(w, &h100), blocks, way, 1e6 * predicted,
           why, 1e6 * predicted_100);
}

/* Sums over a step. */
typedef struct total {
    double bytes, flops, floor, floor_100, predicted, predicted_100;
} total;

static void add(total *t, const work *w, double times) {
    const char *why;
    t->bytes += times * w->bytes;
    t->flops += times * w->flops;
    t->floor += times * floor_of(w, &h200);
    t->floor_100 += times * floor_of(w, &h100);
    t->predicted += times * predict(w, &h200, &why);
    t->predicted_100 += times * predict(w, &h100, &why);
}

static void print_total(const char *name, const total *t) {
    printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | |\n", name, t->bytes / 1e9, t->flops / 1e12,
           1e3 * t->floor, 1e3 * t->floor_100, 1e3 * t->predicted, 1e3 * t->predicted_100);
}

enum { MOST_WORK = 16 };

static int rows_of_layer(work *w, int T) {
    w[0] = row_work("rmsnorm", T, WIDTH * (F32 + BF16));
    w[1] = row_work("kv_append", T, QKV * (F32 + BF16));
    return 2;
}

static int decode_layer(work *w, int sequences, int context) {
    int n = rows_of_layer(w, sequences);
    w[n++] = few_product("qkv", QKV, WIDTH, sequences, false);
    w[n++] = generated_attention(sequences, context);
    w[n++] = few_product("output", WIDTH, WIDTH, sequences, false);
    w[n++] = few_product("gate_up, swiglu", 2 * MLP, WIDTH, sequences, true);
    w[n++] = few_product("down", WIDTH, MLP, sequences, false);
    return n;
}

static int prefill_layer(work *w, int T, int context) {
    int n = rows_of_layer(w, T);
    w[n++] = many_product("qkv", QKV, WIDTH, T);
    w[n++] = prompt_attention(T, context);
    w[n++] = many_product("output", WIDTH, WIDTH, T);
    w[n++] = many_product("gate_up", 2 * MLP, WIDTH, T);
    w[n++] = row_work("swiglu", T, 2.0 * MLP * F32 + MLP * BF16);
    w[n++] = many_product("down", WIDTH, MLP, T);
    return n;
}

/* A layer has two norms. */
static void add_layers(total *t, const work *w, int n) {
    for (int i = 0; i < n; i++)
        add(t, &w[i], strncmp(w[i].name, "rmsnorm", 7) ? LAYERS : 2 * LAYERS);
}

static total decode_step(int sequences, int context) {
    work w[MOST_WORK], head = few_product("head", VOCABULARY, WIDTH, sequences, false),
                       choose = row_work("choose", sequences, 3.0 * VOCABULARY * F32);
    total t = {0};
    add_layers(&t, w, decode_layer(w, sequences, context));
    add(&t, &w[0], 1);
    add(&t, &head, 1);
    add(&t, &choose, 1);
    return t;
}

static total prefill(int chunk) {
    work w[MOST_WORK];
    total t = {0};
    for (int end = chunk; end <= PREFILL; end += chunk)
        add_layers(&t, w, prefill_layer(w, chunk, end));
    return t;
}

static void print_all(const work *w, int n) {
    for (int i = 0; i < n; i++)
        print_work(&w[i]);
}

int main(void) {
    work w[MOST_WORK], head;
    printf("| kernel, shape, rows or context | MB | GFLOP | floor H200, us | floor H100, us | blocks (in an "
           "SM) | MB "
           "under way | predicted H200, us (bound) | predicted H100, us | measured |\n"
           "|---|---|---|---|---|---|---|---|---|---|\n");
    print_all(w, decode_layer(w, 1, 1024));
    head = few_product("head", VOCABULARY, WIDTH, 1, false);
    print_work(&head);
    print_all(w, decode_layer(w, 64, 4096));
    head = few_product("head", VOCABULARY, WIDTH, 64, false);
    print_work(&head);
    w[0] = generated_attention(1, 131072);
    print_work(w);
    print_all(w, prefill_layer(w, CHUNK, PREFILL));
    print_all(w, prefill_layer(w, 8 * CHUNK, PREFILL));
    w[0] = prompt_attention(PREFILL, PREFILL);
    print_work(w);

    total totals[] = {decode_step(1, 1024), decode_step(64, 4096), prefill(CHUNK), prefill(8 * CHUNK)};
    const char *const names[] = {"decode, 1 sequence at 1K", "decode, 64 sequences at 4K",
                                 "prefill of 32K in chunks of 512", "prefill of 32K in chunks of 4096"};
    printf("\n| all of a step | GB | TFLOP | floor H200, ms | floor H100, ms | predicted H200, ms | "
           "predicted H100, "
           "ms | measured |\n|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < 4; i++)
        print_total(names[i], &totals[i]);
    return 0;
}
