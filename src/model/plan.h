/* src/model/plan.h: what each rank will own and how many bytes that takes, before anything is loaded. Pure
 * arithmetic. Local.
 *
 * `kvarve plan` prints it; a real run uses the same numbers to refuse what cannot fit. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"
#include "mpi/placement/memory_share.h"
#include "src/model/model.h"
#include "src/model/model_config.h"

/* MPI, libraries, buffers for reading and text: what a rank takes beside the model (measured with Open
 * MPI 4.1). */
enum { PLAN_PROCESS_MIB = 64 };

/* That sequences may have of a layer: a number in 32 bits tells the pages of all layers apart. */
enum { PLAN_MOST_PAGES = INT32_MAX / MODEL_MAX_LAYERS };

/* What a rank may take (0: no bound is known), and why, for people: "as --memory-per-rank says". */
typedef struct plan_bound {
    uint64_t bytes;
    char by[700];
} plan_bound;

/* Of what is asked for by --memory-per-rank; of a GPU with so many free bytes that n_ranks share; and of a
 * rank's share of its host. */
plan_bound plan_bound_asked(uint64_t bytes);
plan_bound plan_bound_of_gpu(uint64_t free_bytes, int n_ranks);
plan_bound plan_bound_of_host(const memory_share *share);

/* What a run asks of its ranks: src/command/sizing.h makes it. */
typedef struct sizing {
    precision precision;
    kv_layout kv_codes; /* KV_INT8 (of GPUs KV_INT8_ROWS) or KV_INT4; KV_ROWS: pages hold none */
    int chunk_tokens, page_tokens;
    int n_sequences;        /* at once */
    int64_t longest_tokens; /* of any sequence, prompt and generated: its pages must fit */
    int64_t longest_places; /* that any has at once; 0: as many, as nothing is evicted */
    int64_t wanted_pages;   /* for all that would run at once if there were room; the pool takes no more */
    bool saves;             /* so that the last logits of each sequence are kept */
    bool loads;             /* sequences may go on from a snapshot */
    int n_held;             /* as far as there is room: more that are over and wait for a save ... */
    double held_pages;      /* ... each of so many pages */
    uint64_t kv_bytes_per_rank; /* --kv-memory; 0: as wanted, as far as the memory goes */
    kv_disk kv_disk;            /* --kv-disk */
    uint64_t kv_host_bytes;     /* --kv-host; only where memory is apart */
    bool is_apart;      /* the memory that pages are in is a GPU's: what leaves it goes to the host's */
    evict_policy evict; /* --evict */
    uint64_t host_layer_bytes;   /* what the command itself keeps in host memory: of each layer ... */
    uint64_t host_bytes;         /* ... and besides, on each rank */
    plan_bound bound;            /* of all that a rank takes */
    double head_share;           /* of the rows, weighted by time, that pass the head: 0 to 1 */
    const char *layers_per_rank; /* NULL: the best partition */
} sizing;

/* The layout of its pages: at most, as panels never take less than rows, codes or not. */
static inline kv_layout sizing_kv_layout(const sizing *s) {
    return s->kv_codes == KV_ROWS ? KV_PANELS : s->kv_codes;
}

/* kv_shape */
static inline int sizing_near_blocks(const sizing *s) {
    return 1 + s->saves + s->loads;
}

typedef struct plan_rank {
    slice slice;
    uint64_t weight_bytes, kv_bytes, workspace_bytes, transfer_bytes;
    uint64_t host_bytes;    /* what the command keeps of its layers */
    uint64_t kv_host_bytes; /* of pinned host memory, for n_host_pages; no part of the total */
    uint64_t total_bytes;   /* of the memory that the sizing's bound is of */
    int64_t n_frames;       /* KV pages in memory, of all its layers together; 0: all */
    /* The others, where memory is apart: in host memory, or going through it; and in all in records there and
     * on the disk, spare ones among them. */
    int64_t n_host_pages, n_records;
    double cost; /* relative to the mean over ranks */
} plan_rank;

typedef struct plan {
    int n_ranks;
    plan_rank *ranks;
    int64_t n_pages;      /* of every rank's pool: as many as are wanted, or as there is room for */
    int64_t n_room_pages; /* that there is room for beside all else; PLAN_MOST_PAGES: no bound */
    int n_held;           /* of the sizing's, as many as there is room for */
} plan;

/* Refuses what cannot fit, saying what would make it fit. What the command keeps counts as in one memory with
 * all else. Release with plan_free. */
status plan_make(const model_config *config, const sizing *s, int n_ranks, plan *out);

/* The same where devices have memory of their own: what the command keeps must fit a rank's bound of its
 * host's, and is no part of the totals. */
status plan_make_beside(const model_config *config, const sizing *s, int n_ranks, const plan_bound *host,
                        plan *out);
void plan_free(plan *p);

/* Of n_pages, those that every rank has in memory for each of its layers; 0: all. */
int64_t plan_memory_pages(const plan *p);
