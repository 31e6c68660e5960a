/* kernels/device.h: the one seam between the model and the arithmetic.
 *
 * A backend is one constant table of typed functions. Operations queue in order and return nothing: the first
 * failure sticks, and `sync` reports it. An operation knows nothing of ranks, files or the lives of
 * sequences.
 *
 * Reproducibility: a row's result depends only on that row's input and the weights, never on how many rows
 * were computed with it, on the number of threads, on the page size, or on how rows are grouped into spans.
 * A backend may treat generated rows (whose token was generated, not given) by another order of additions
 * than prompt rows, as it reads weights and pages differently for few rows and for many: whether a row is
 * generated is a property of the row, and the same before and after any resume. The CPU makes no difference.
 *
 * Dimensions: T rows (tokens) of a step, D model width, H query heads, G kv heads (H % G == 0), K head width
 * (even), F MLP width, V vocabulary. All arrays are row-major and dense. The residual stream is float32;
 * matrix inputs have the device's `act` type; matrix results are float32.
 *
 * Everything here is Local. Pointers named `host` are host memory, all others the device's (on the CPU the
 * same). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/attend_blocks.h"
#include "kernels/dtype.h"
#include "kernels/kv_page.h"
#include "kernels/level_stream.h"
#include "kernels/sampling.h"
#include "kernels/varve_code.h"
#include "src/base/status.h"

typedef struct device device;
typedef struct matrix matrix;             /* weights [n_rows, n_cols] in the backend's own layout */
typedef struct device_copy device_copy;   /* copies one after the other, beside the operations */
typedef struct device_fence device_fence; /* a place between operations */

/* The heads of one layer. */
typedef struct attention_shape {
    int n_heads, n_kv_heads, head_dim; /* H, G, K */
    float scale;                       /* of the scores: usually 1/sqrt(K) */
    int64_t window;                    /* a row at p sees positions > p - window; 0: all up to p */
    /* [n_slots] positions of a slot's sequence that this layer has no more, where it has no window: others
     * have moved up, so that a position that comes has the place position - removed. Host memory. NULL: none
     * of any slot. GPUs take no others. */
    const int64_t *removed;
} attention_shape;

/* Rows [row0, row0 + n_rows) of a step: consecutive positions from pos0 of the sequence in a slot of the
 * cache. Spans tile the step's rows in order. */
typedef struct span {
    int row0, n_rows;
    int64_t pos0;
    int slot;
    bool is_generated; /* all of its rows are; such spans come first in a step */
} span;

/* The place in this layer's pages of the first row of a span; those of the others follow. */
static inline int64_t span_place(const attention_shape *shape, const span *s) {
    return s->pos0 - (shape->removed ? shape->removed[s->slot] : 0);
}

/* The KV pages of one layer. Keys are kept after rope. Entry i of a slot's table is the page of the places
 * [i * page_tokens, (i + 1) * page_tokens) of the sequence there; entries that no row of the step sees any
 * part of may hold anything. */
typedef struct kv_layer {
    void *pages;           /* the pool of the layer (kv_page.h) */
    kv_format format;      /* device_kv_format */
    const int32_t *tables; /* [n_slots, table_pages], the device's memory */
    int table_pages;
    /* Where these pages hold codes (kv_is_coded): pages of the places that rows see as they were put
     * (attend_exact_places), in the format kv_near_format, with tables of their own. Else NULL. */
    const struct kv_layer *near;
} kv_layer;

/* The table of a slot. */
KV_FUNCTION const int32_t *kv_layer_table(const kv_layer *kv, int slot) {
    return kv->tables + (size_t)slot * (size_t)kv->table_pages;
}

/* The page of a place of the sequence in a slot; of pages and tables in host memory. */
static inline char *kv_layer_page(const kv_layer *kv, int slot, int64_t place) {
    const size_t id = (size_t)kv_layer_table(kv, slot)[place / kv->format.page_tokens];
    return (char *)kv->pages + id * kv_page_bytes(&kv->format);
}

/* A part of a step's attention: the rows of spans [first_span, last_span), and of what they see what lies in
 * these nodes (of ATTEND_NODE_LEVEL: attend_blocks.h). */
typedef struct attend_extent {
    int first_span, last_span;
    attend_nodes nodes;
} attend_extent;

/* Whether its rows see nothing beside its nodes. */
static inline bool attend_extent_is_whole(const attend_extent *e, const span *spans,
                                          const attention_shape *shape) {
    for (const span *s = spans + e->first_span; s < spans + e->last_span; s++) {
        const int64_t place = span_place(shape, s);
        attend_nodes seen = attend_nodes_seen(place, place + s->n_rows - 1, shape->window, ATTEND_NODE_LEVEL);
        if (seen.first < e->nodes.first || seen.last > e->nodes.last) return false;
    }
    return true;
}

/* Rows that look at keys of a layer. */
typedef struct attend_look {
    const kv_format *format;
    const void *const *pages; /* host memory, of places that follow each other */
    int64_t place, n_places;  /* which these are */
    const void *q;            /* act [n_rows, H K], after rope */
    int n_rows;
    int64_t row_place; /* of the first row: row i sees the places up to row_place + i */
} attend_look;

/* Of a query's scores so far; of none -infinity and 0. */
typedef struct attend_norm {
    float max;
    double sum; /* of exp(score - max) */
} attend_norm;

enum { MOMENT_ROWS = 64 };

enum { DEVICE_MAX_TOP = 64, DEVICE_TOP_ROWS = 64 };
enum { MEASURE_MIB = 192 };

/* What happens to a layer's q, k and v between their matrix and attention; NULL members are steps the model
 * lacks. */
typedef struct qkv_weights {
    const float *bias;            /* [(H + 2G) K] */
    const float *q_norm, *k_norm; /* [K], applied per head before rope, with norm_eps */
    float norm_eps;
} qkv_weights;

/* How the token behind a row is chosen. */
typedef struct row_sampling {
    const sampling_options *options; /* NULL: no token is wanted */
    const uint32_t *seen;            /* host memory; the token_set that the penalty is for; NULL: none */
    double u;                        /* above 0, below 1: where the draw falls */
} row_sampling;

/* The token, or -1 when no logit is finite, and what its probability follows from. */
typedef struct row_choice {
    int32_t token;
    float logit; /* the token's, before penalty and temperature; -infinity: there is none */
    double
        log_norm; /* log(sum(exp(logits))), infinite as the largest is; 0 where options ask for no logprobs */
} row_choice;

typedef struct device_ops {
    const char *name;
    int most_head_dim; /* K that operations take at most; 0: any */

    void (*close)(device *dev);

    /* What computes: results are the same, bit for bit, where this text is the same. */
    const char *(*processor)(const device *dev);

    /* Of a GPU, its PCI device as the system writes it ("0000:17:00.0"); "": the CPU. */
    const char *(*bus_id)(const device *dev);

    /* Tell a profiler of the device which region of the run the host enters; NULL: there is none. */
    void (*mark)(const char *region_name);

    /* Memory; several threads may copy in at once. alloc says in its text how many bytes were wanted. Memory
     * of the host is aligned for direct IO where it is 4096 bytes or more. Contents start undefined. What
     * copy_in takes from memory that is not of alloc_host may change as soon as it returns. */
    status (*alloc)(device *dev, size_t bytes, void **out);
    void (*release)(device *dev, void *ptr);
    void (*copy_in)(device *dev, void *dst, const void *host_src, size_t bytes);
    void (*copy_out)(device *dev, void *host_dst, const void *src, size_t bytes);

    /* Host memory that copies from and to the device are fastest with, aligned for direct IO where it is 4096
     * bytes or more; alloc_host says in its text how many bytes were wanted. */
    status (*alloc_host)(device *dev, size_t bytes, void **out);
    void (*release_host)(device *dev, void *ptr);

    /* Copies between memory of alloc and of alloc_host, either way, that run beside the operations. Each
     * device_copy is used by one thread at a time, which need not be the one that queues operations; only
     * copy_after is for that one: the next copy_begin waits for all operations queued until now, and what is
     * queued later does not hold it up. Without it the copy waits for nothing. copy_begin returns at once;
     * copies of one device_copy are done in the order in which they were begun, and copy_test says whether
     * the last is over (true before the first), and never waits: then operations that are queued see it. A
     * failure of theirs is in what they return. */
    status (*copy_open)(device *dev, device_copy **out);
    void (*copy_close)(device *dev, device_copy *copy); /* the copy is over; NULL is fine */
    status (*copy_after)(device *dev, device_copy *copy);
    status (*copy_begin)(device *dev, device_copy *copy, void *dst, const void *src, size_t bytes);
    status (*copy_test)(device *dev, device_copy *copy, bool *over);

    /* A fence lies behind all operations that were queued when it was set, by the thread that queues them;
     * fence_passed says whether these are over (true before the first time), without waiting, to a thread at
     * a time. A device that has failed has passed all. */
    status (*fence_open)(device *dev, device_fence **out);
    void (*fence_close)(device *dev, device_fence *fence); /* NULL is fine */
    void (*fence_set)(device *dev, device_fence *fence);
    bool (*fence_passed)(device *dev, device_fence *fence);

    /* Decode chunks of the codec kvarve, all of models of one shape, into pages of this format, as one of the
     * things that a device_copy does: they are done in the order in which they were begun, and copy_test says
     * whether the last is over. jobs[n]; the same lie `there` in the device's memory by then, and all that
     * they name. One after the other each would leave most of a GPU idle: a chunk's stream is one warp's.
     * NULL: the host decodes. */
    status (*decode_chunks)(device *dev, device_copy *copy, const kv_format *format, const varve_job *jobs,
                            const varve_job *there, int n);

    /* Wait for all queued operations; the first failure among them, once. */
    status (*sync)(device *dev);

    /* Bytes a second that the device's memory moves at best (GPU: a copy, read and write), measured for some
     * tenths of a second on MEASURE_MIB of it; 0: there was no room. */
    double (*measure_memory)(device *dev);
    /* The first failure that is known so far, once, without waiting. */
    status (*check)(device *dev);

    /* Weights: a matrix is filled by any number of loads of whole rows in any order, from host memory of any
     * dtype. */
    status (*matrix_open)(device *dev, int64_t n_rows, int64_t n_cols, matrix **out);
    void (*matrix_load)(device *dev, matrix *w, int64_t row0, int64_t n_rows, const void *host_src,
                        dtype src_type);
    /* Or by the device itself: the rows' elements, one row behind the other, are those of the stream from
     * `first` on. NULL: the device cannot; the host makes them and loads them. */
    void (*matrix_fill)(device *dev, matrix *w, int64_t row0, int64_t n_rows, const level_stream *values,
                        int64_t first);
    void (*matrix_close)(device *dev, matrix *w);

    /* x[T, D] = rows `host_tokens[T]` of table [V, D]. */
    void (*embed)(device *dev, const matrix *table, const int32_t *host_tokens, int T, float *x);

    /* y[T, D] (act) = x / sqrt(mean(x^2) + eps) * weight[D]. */
    void (*rmsnorm)(device *dev, const float *x, const float *weight, float eps, int T, int D, void *y);

    /* y[T, N] = x[T, M] (act) * w[N, M]^T; matmul_add adds to y instead. The first T_few rows are generated
     * rows, or few in any step (rows of the head). */
    void (*matmul)(device *dev, const matrix *w, const void *x, int T, int T_few, float *y);
    void (*matmul_add)(device *dev, const matrix *w, const void *x, int T, int T_few, float *y);

    /* y[T, F] (act) = silu(gate) * up, where x[T, M] (act) * w[2F, M]^T is [gate, up]; y is apart from x.
     * gate_up[T, 2F] is scratch. */
    void (*matmul_swiglu)(device *dev, const matrix *w, const void *x, int T, int T_few, float *gate_up,
                          void *y);

    /* y[T, N] += bias[N]. */
    void (*add_bias)(device *dev, const float *bias, int T, int N, float *y);

    /* The spans that the operations below work on, until the next call; before any of them. Borrowed. */
    void (*begin_step)(device *dev, int n_spans, const span *spans);

    /* Begin the operations of a step that depend on nothing but its spans and x. True: the device knew them
     * from a step like this one and has queued them, so that they must not be called; otherwise they are
     * called, and record_end after them. */
    bool (*replay)(device *dev, const void *x);
    void (*record_end)(device *dev);

    /* cos_sin[T, K]: K/2 cosines, then K/2 sines of (float)(pos * host_inv_freq[K/2]), each times factor. */
    void (*rope_table)(device *dev, const float *host_inv_freq, float factor, int head_dim, float *cos_sin);

    /* qkv[T, (H + 2G) K] is q heads, then k heads, then v heads: add bias, norm q and k, rotate q and k
     * (pairs i and i + K/2), write q[T, H K] (act) and append k and v to the pages, to those of codes and to
     * the near ones. Overwrites qkv. */
    void (*kv_append)(device *dev, const attention_shape *shape, const qkv_weights *weights,
                      const float *cos_sin, const kv_layer *kv, float *qkv, void *q);

    /* Causal attention of rows over their sequences' pages, their own position included. It is two
     * operations, so that a sequence's pages need not all be here:
     * attend_part: partials[nodes of the extent, T, H, attend_partial_floats(K)] = the partial result of each
     * row of the extent in each of its nodes; of those that a row does not see there is none, and what lies
     * in its place is undefined.
     * attend_merge: y[T, H K] (act), rows of the extent = what such partials merge to, whoever computed them
     * on such a device; the extent has all nodes that its rows see.
     * attend: both, for all rows and nodes, with the same bits: what is between need not lie in memory. */
    void (*attend_part)(device *dev, const attention_shape *shape, const kv_layer *kv,
                        const attend_extent *extent, const void *q, float *partials);
    void (*attend_merge)(device *dev, const attention_shape *shape, const attend_extent *extent,
                         const float *partials, void *y);
    void (*attend)(device *dev, const attention_shape *shape, const kv_layer *kv, const void *q, void *y);

    /* What tokens are evicted by (src/model/evict.h). What is given and wanted is in host memory; NULL: the
     * device cannot. Results depend neither on how places are cut into pages nor on how rows that follow each
     * other are cut into calls, which come in order.
     *
     * take_queries: out[n_rows, H K] = q of rows [row0, row0 + n_rows) of what kv_append is given, with bias
     * and norm, before rope.
     * add_moments: moments[H, K + K K] += the sum over n_rows, at most MOMENT_ROWS, of q[K] and of q q'[K,
     * K]. add_norms: norms[n_rows, H] have seen these places too, which come in order. add_shares: shares[G,
     * stride], in the page's places, += what each row's heads pay to a place of their attention, row after
     * row and head after head. norms: of all places that the rows see. expect: scores[H, stride], in the
     * page's places, = scale k.m + scale^2 / 2 k'Sk; means[H, K], covariances[H, K, K]. value_norms: norms[G,
     * stride], in the page's places, = sqrt(sum of v^2). read_codes: near, a page in kv_near_format, = what
     * codes say of n places from `place` on, counted from that of pages[0]: K, and V if n_parts says so. A
     * look at pages of codes is one at such near pages. */
    void (*take_queries)(device *dev, const attention_shape *shape, const qkv_weights *weights,
                         const float *qkv, int row0, int n_rows, float *out);
    void (*add_moments)(device *dev, const attention_shape *shape, const float *queries, int n_rows,
                        double *moments);
    void (*add_norms)(device *dev, const attention_shape *shape, const attend_look *look, attend_norm *norms);
    void (*add_shares)(device *dev, const attention_shape *shape, const attend_look *look,
                       const attend_norm *norms, double *shares, int64_t stride);
    void (*expect)(device *dev, const attention_shape *shape, const attend_look *look, const float *means,
                   const float *covariances, double *scores, int64_t stride);
    void (*value_norms)(device *dev, const attention_shape *shape, const attend_look *look, double *norms,
                        int64_t stride);
    void (*read_codes)(device *dev, const kv_format *format, const void *const *pages, int64_t place, int n,
                       int n_parts, void *near);

    /* What is wanted of n (at most DEVICE_TOP_ROWS) rows of logits [n, V], so that these need not leave the
     * device; results are there after sync. A NaN counts as absent.
     *
     * choose: a token of each row, of those with finite logits. In the order of Hugging Face: repetition
     * penalty (float32, and kept finite), temperature, top_k, top_p, min_p, then the draw at u. Temperature 0
     * takes the largest logit; equal logits are ranked by smaller id. host_choices[n]; those of rows that
     * want no token are undefined. How probabilities are added up, and the order in which the draw goes
     * through the tokens that are left, are the backend's own:
     *   CPU   float64; from the likeliest token on, or by id where no filter is set
     *   CUDA  float32 with at most 40 binary digits behind the point, sums exact; by id
     * score: host_scores[n] = -log p(host_targets[n]); undefined where a target is negative.
     * top_logits: the k (1 to DEVICE_MAX_TOP) largest finite logits with their ids, in falling order, equal
     * ones by rising id; where a row has fewer than k, the rest have id -1. host_values, host_ids [n, k]. */
    void (*choose)(device *dev, const float *logits, int n, int V, const row_sampling *host_rows,
                   row_choice *host_choices);
    void (*score)(device *dev, const float *logits, int n, int V, const int32_t *host_targets,
                  float *host_scores);
    void (*top_logits)(device *dev, const float *logits, int n, int V, int k, float *host_values,
                       int32_t *host_ids);

    /* out[n, D] = x[host_rows[n], D]. */
    void (*gather_rows)(device *dev, const float *x, const int32_t *host_rows, int n, int D, float *out);
} device_ops;

/* Every backend's device begins with this. */
struct device {
    const device_ops *ops;
    dtype act; /* matrix inputs: precision_act */
    dtype kv;  /* KV cache elements: precision_kv */
    /* Of the pages to make. With elements in bf16 these may be made codes before: the CPU's of KV_PANELS
     * KV_INT8 or KV_INT4, and a GPU's of KV_ROWS KV_INT8_ROWS. */
    kv_layout kv_layout;
    bool host_memory; /* what alloc gives is host memory, and operations are over when they return */
};

/* How a device keeps K and V, of usual attention. */
static inline kv_format device_kv_format(const device *dev, int n_heads, int head_dim, int page_tokens) {
    return kv_format_of(dev->kv, dev->kv_layout, n_heads, head_dim, page_tokens);
}

/* What a device computes in. Three things follow from it. */
typedef enum precision {
    PRECISION_BF16,
    PRECISION_F32,
    PRECISION_INT8, /* as BF16 but for matrices, which are rounded to int8 with scales: the CPU only */
} precision;

/* What weights are in, for people: "bf16", "f32", "int8". */
const char *precision_weights(precision p);

/* The type of matrix inputs, and that of the KV cache. */
static inline dtype precision_act(precision p) {
    return p == PRECISION_F32 ? DTYPE_F32 : DTYPE_BF16;
}

static inline dtype precision_kv(precision p) {
    return p == PRECISION_F32 ? DTYPE_F32 : DTYPE_BF16;
}

typedef enum device_kind {
    DEVICE_AUTO, /* not chosen yet: GPUs where every rank has one */
    DEVICE_CPU,
    DEVICE_CUDA,
    N_DEVICE_KINDS
} device_kind;

/* "auto", "cpu", "cuda". */
const char *device_kind_name(device_kind kind);

/* Devices of a kind that this process could open; where there are none, *why says why not (unless NULL).
 * DEVICE_AUTO counts GPUs too, but gives up at once where the host has no driver of them. */
int device_count(device_kind kind, const char **why);

/* Bytes that could be taken of device `index` of a kind now; 0: that cannot be said. What is there for the
 * CPU is the ranks' to share: mpi/placement/memory_share.h. */
uint64_t device_free_bytes(device_kind kind, int index);

/* Bytes of a matrix of this shape on a device of any kind, at most: for plans. */
size_t device_matrix_bytes(precision precision, int64_t n_rows, int64_t n_cols);

/* Open device `index` of a kind, with n_threads OpenMP threads on the CPU. Refuses what is not there. */
status device_open(device_kind kind, int index, precision precision, int n_threads, device **out);

/* The CUDA backend, where it is built (KVARVE_CUDA), is a module, kvarve_cuda.so: device_count and the like
 * of DEVICE_CUDA load it. This is what it shows, as kvarve_cuda_backend. */
typedef struct cuda_backend {
    status (*open)(precision precision, int index, device **out);
    int (*count)(const char **why_none);
    uint64_t (*free_bytes)(int index);
} cuda_backend;

/* The CPU backend. `isa` is NULL for the best this processor has, or one of the names (for tests).
 * n_threads OpenMP threads in every operation. Refuses an isa that the processor lacks. */
status cpu_device_open(precision precision, int n_threads, const char *isa, device **out);

/* The names of the instruction sets built in, best first, NULL behind the last; and whether this processor
 * has one. */
const char *cpu_isa_name(int i);
bool cpu_isa_available(const char *isa);

/* The instruction set that an open CPU device uses. */
const char *cpu_device_isa(const device *dev);

/* See device_matrix_bytes. */
size_t cpu_matrix_bytes(precision precision, int64_t n_rows, int64_t n_cols);

/* The same of the scratch of choose for a vocabulary of V: at most. */
size_t cpu_choose_bytes(int V);
