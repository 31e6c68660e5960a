#include "tests/bench/floors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/attend/attend_map.h"
#include "kernels/cuda/matmul/matmul_few.cuh"

enum {
    SM = 132,
    SM_SHARED = 228 << 10,
    BLOCK_SHARED = 1 << 10, /* of each block, by the system */
    SM_REGISTERS = 65536,
    BF16 = 2,
    F32 = 4
};

const gpu h200 = {"H200", 4.8e12, 989e12}, h100 = {"H100", 3.35e12, 989e12};

static const double copied =
                        0.90, /* of the bandwidth: what a copy in memory reaches (4.3 of 4.8 TB/s seen) */
    start = 2e-6,             /* a kernel's start behind another in a graph, and its end: assumed */
    latency = 1e-6,           /* of a busy memory: assumed */
    mma = 0.63,               /* of the matrix rate: mma.sync on Hopper (read: arXiv 2402.13499) */
    cublas = 0.80,            /* a large product of cuBLASLt (790 of 989 TFLOP/s seen) */
    issued = 0.80;            /* of the time in which instructions could begin, behind waits: assumed */

const gpu *gpu_of(const char *name) {
    return strstr(name, h100.name) ? &h100 : &h200;
}

/* Blocks in a multiprocessor. */
static int blocks_in_sm(int threads, int registers, size_t shared) {
    int by_registers = SM_REGISTERS / ((registers + 7) / 8 * 8 * threads);
    int by_shared = (int)(SM_SHARED / (shared + BLOCK_SHARED));
    return by_registers < by_shared ? by_registers : by_shared;
}

/* ---- times ---- */

double work_floor(const work *w, const gpu *g) {
    return fmax(w->bytes / g->bytes, w->flops / g->flops);
}

/* Of the time of full waves of blocks, what is used. A grid of less than a wave shares the memory evenly. */
static double wave_share(const work *w) {
    double waves = w->blocks / (SM * w->per_sm);
    return waves > 1 ? waves / ceil(waves) : 1;
}

double work_under_way(const work *w) {
    return fmin(w->blocks, SM * w->per_sm) * w->block_bytes;
}

double work_predict(const work *w, const gpu *g, const char **why) {
    double seconds[] = {w->bytes / (g->bytes * copied) / wave_share(w),
                        w->block_bytes > 0 ? w->bytes / (work_under_way(w) / latency) : 0,
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
    work w = {.kind = gated ? WORK_GATED : WORK_FEW, .rows = T, .N = N, .M = M};
    double y = gated ? T * (N / 2.0) * BF16 : (double)T * N * F32;
    snprintf(w.name, sizeof w.name, "%s [%d, %d], %d", name, N, M, T);
    w.bytes = (double)N * M * BF16 + (double)T * M * BF16 + y;
    w.flops = 2.0 * T * N * M;
    w.share = mma;
    w.starts = 1;
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
    work w = {.kind = WORK_MANY, .rows = T, .N = N, .M = M, .share = cublas, .per_sm = 1, .starts = 1};
    snprintf(w.name, sizeof w.name, "%s [%d, %d], %d", name, N, M, T);
    w.bytes = (double)N * M * BF16 + (double)T * M * BF16 + (double)T * N * F32;
    w.flops = 2.0 * T * N * M;
    return w;
}

work generated_attention(const synthetic_model *m, int sequences, int context) {
    const int group = m->n_heads / m->n_kv_heads, tasks = sequences * m->n_kv_heads, K = m->head_dim;
    const double position = 2.0 * m->n_kv_heads * K * BF16, width = m->n_heads * K;
    int64_t n_blocks = attend_rounded_blocks(context - 1);
    int most = attend_levels_that_fit(K, group, SM_SHARED - BLOCK_SHARED, 3);
    int level = attend_level_of(n_blocks, tasks, 4 * SM, most);
    work w = {.kind = WORK_GENERATED, .rows = sequences, .context = context};
    snprintf(w.name, sizeof w.name, "attention, %d generated, %d", sequences, context);
    w.bytes = sequences * (context * position + 2 * width * BF16);
    w.flops = 4 * width * sequences * context;
    w.share = mma * group / ATTEND_HEADS; /* the other rows of the matrices are empty */
    w.blocks = (double)tasks * (double)(n_blocks >> level);
    w.block_bytes = (attend_slots(K) - 1) * ATTEND_WARPS * ATTEND_QUANTUM * (double)(K * BF16);
    w.per_sm = blocks_in_sm(ATTEND_THREADS, 169, attend_generated_bytes(K, group, level));
    w.starts = n_blocks >> level > 1 ? 2 : 1;
    return w;
}

/* Of the matrix rate. In a cycle, each of the four parts of a multiprocessor multiplies 512 pairs of numbers,
 * and begins one instruction: of a warp of each warpgroup that multiplies, or of one that copies. For a tile
 * they have so many, read off the machine code. */
static double prompt_share(int K, int warpgroups) {
    enum { MULTIPLIES = 577, COPIES = 300 };
    double products = 2.0 * 16 * warpgroups * attend_prompt_positions(K) * K / 512;
    return fmin(1, issued * products / (MULTIPLIES * warpgroups + COPIES));
}

work prompt_attention(const synthetic_model *m, int rows, int context) {
    const int G = m->n_kv_heads, K = m->head_dim;
    double seen = rows * (context - (rows - 1) / 2.0), width = m->n_heads * K;
    int tiles = rows * (m->n_heads / G) / attend_prompt_queries(2) * G;
    work w = {.kind = WORK_PROMPT, .rows = rows, .context = context, .per_sm = 1, .starts = 1};
    snprintf(w.name, sizeof w.name, "attention, %d prompt rows, %d", rows, context);
    w.bytes = context * 2.0 * G * K * BF16 + 2 * rows * width * BF16;
    w.flops = 4 * width * seen;
    w.share = prompt_share(K, tiles < 2 * SM ? 1 : 2); /* as plan_prompt cuts */
    return w;
}

/* What treats every row alone: so many bytes of each. */
static work row_work(const char *name, int T, double row_bytes) {
    work w = {.kind = WORK_ROWS, .rows = T, .bytes = T * row_bytes, .per_sm = 1, .starts = 1};
    snprintf(w.name, sizeof w.name, "%s, %d", name, T);
    return w;
}

static work swiglu_work(int F, int M, int T) {
    work w = row_work("swiglu", T, 2.0 * F * F32 + F * BF16);
    w.kind = WORK_SWIGLU;
    w.N = 2 * F;
    w.M = M;
    return w;
}

/* ---- steps ---- */

static int qkv_width(const synthetic_model *m) {
    return (m->n_heads + 2 * m->n_kv_heads) * m->head_dim;
}

static int rows_of_layer(const synthetic_model *m, int T, work *w) {
    w[0] = row_work("rmsnorm", T, m->d_model * (F32 + BF16));
    w[1] = row_work("kv_append", T, qkv_width(m) * (F32 + BF16));
    return 2;
}

int decode_layer(const synthetic_model *m, int sequences, int context, work *w) {
    int D = m->d_model, n = rows_of_layer(m, sequences, w);
    w[n++] = few_product("qkv", qkv_width(m), D, sequences, false);
    w[n++] = generated_attention(m, sequences, context);
    w[n++] = few_product("output", D, m->n_heads * m->head_dim, sequences, false);
    w[n++] = few_product("gate_up, swiglu", 2 * m->d_mlp, D, sequences, true);
    w[n++] = few_product("down", D, m->d_mlp, sequences, false);
    return n;
}

work decode_head(const synthetic_model *m, int sequences) {
    return few_product("head", m->vocab_size, m->d_model, sequences, false);
}

int prefill_layer(const synthetic_model *m, int rows, int context, work *w) {
    int D = m->d_model, n = rows_of_layer(m, rows, w);
    w[n++] = many_product("qkv", qkv_width(m), D, rows);
    w[n++] = prompt_attention(m, rows, context);
    w[n++] = many_product("output", D, m->n_heads * m->head_dim, rows);
    w[n++] = many_product("gate_up", 2 * m->d_mlp, D, rows);
    w[n++] = swiglu_work(m->d_mlp, D, rows);
    w[n++] = many_product("down", D, m->d_mlp, rows);
    return n;
}

static void add(total *t, const work *w, double times) {
    const gpu *const gpus[] = {&h200, &h100};
    const char *why;
    t->bytes += times * w->bytes;
    t->flops += times * w->flops;
    for (int i = 0; i < 2; i++) {
        t->floor[i] += times * work_floor(w, gpus[i]);
        t->predicted[i] += times * work_predict(w, gpus[i], &why);
    }
}

/* A layer has two norms. */
static void add_layers(total *t, const synthetic_model *m, const work *w, int n) {
    for (int i = 0; i < n; i++)
        add(t, &w[i], strncmp(w[i].name, "rmsnorm", 7) ? m->n_layers : 2 * m->n_layers);
}

total decode_total(const synthetic_model *m, int sequences, int context) {
    work w[WORK_OF_LAYER], head = decode_head(m, sequences),
                           choose = row_work("choose", sequences, 3.0 * m->vocab_size * F32);
    total t = {0};
    add_layers(&t, m, w, decode_layer(m, sequences, context, w));
    add(&t, &w[0], 1);
    add(&t, &head, 1);
    add(&t, &choose, 1);
    return t;
}

total prefill_total(const synthetic_model *m, int chunk, int n_tokens) {
    work w[WORK_OF_LAYER];
    total t = {0};
    for (int end = chunk; end <= n_tokens; end += chunk)
        add_layers(&t, m, w, prefill_layer(m, chunk, end, w));
    return t;
}

/* ---- the rows of the table ---- */

const sizes gpu_sizes = {.context = 1024,
                         .sequences = 64,
                         .batch_context = 4096,
                         .long_context = 131072,
                         .chunk = 512, /* as --chunk-tokens has it */
                         .large_chunk = 4096,
                         .prompt = 32768};

int list_work(const synthetic_model *m, const sizes *s, work *w) {
    int n = decode_layer(m, 1, s->context, w);
    w[n++] = decode_head(m, 1);
    n += decode_layer(m, s->sequences, s->batch_context, w + n);
    w[n++] = decode_head(m, s->sequences);
    w[n++] = generated_attention(m, 1, s->long_context);
    n += prefill_layer(m, s->chunk, s->prompt, w + n);
    if (s->large_chunk) n += prefill_layer(m, s->large_chunk, s->prompt, w + n);
    w[n++] = prompt_attention(m, s->prompt, s->prompt);
    return n;
}
