/* kernels/cpu/attend_block.h: attention of a few queries over one block of positions, and what attend.c,
 * which walks the blocks, shares with it. Everything is Local. */
#pragma once

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "kernels/cpu/cpu_device.h"

enum {
    TILE_QUERIES = 96,
    BLOCK_PANELS = ATTEND_BLOCK / PANEL,
};

static_assert((int)ATTEND_PARTIAL_LINE == PANEL, "the values of a partial result are whole panels");

/* Queries that read every key and value of a node together. Where there are codes, their rows are of one
 * block. */
typedef struct attend_tile {
    const span *span;
    int query0, n_queries; /* of the span's rows times `group` */
    int64_t node;          /* of the job's level */
    attend_nodes blocks;   /* of the node that any of the queries sees */
    int first_unit, n_units;
    int64_t result; /* its first unit's place among the results of kv head 0; unused for one unit */
} attend_tile;

typedef struct attend_job {
    /* What the operations fill in. */
    const attention_shape *shape;
    const kv_layer *kv; /* not looked at where there are given ones */
    /* The same job in pages of codes, where there are some: then kv has the near ones. */
    const struct attend_job *codes;
    attend_extent extent; /* with nodes of `level` */
    int level;            /* of the nodes whose results are wanted */
    const char *q;
    char *y;                /* NULL: the nodes' partial results are wanted */
    float *partials;        /* these, laid out as `layout` */
    const float *given;     /* partial results to merge, laid out as `layout`; NULL: there are none */
    attend_partials layout; /* of it the first node */

    const cpu_kernels *kernels, *exact; /* of the device */
    const cpu_tile *tile;               /* of scores */
    int tile_rows;                      /* queries that a call takes */
    kv_layout pages;                    /* the layout of K and V */
    int n_spans;                        /* of the step */
    const span *spans;
    size_t type_bytes;
    int group;             /* query heads of a kv head */
    int width;             /* head_dim rounded up to PANEL: words from a word of values to the next */
    size_t partial_floats; /* from one query's to the next */
    int n_words;           /* of a key, in int8 with the scales */
    size_t query_bytes;    /* of one query as products read it: input words, in int4 float32 */
    int panel_words;       /* of the values of a panel's positions */
    size_t weight_bytes;   /* of one query's weights in a block, as input words; in int4 they are scores */
    int unit_level, n_levels;
    int n_tiles, max_units;
    attend_tile *tiles;
    float *results; /* [kv head][n_results][TILE_QUERIES] partials */
    int64_t n_results;
} attend_job;

/* One thread's workspace. */
typedef struct attend_work {
    char *queries;  /* act [TILE_QUERIES][head_dim] */
    char *input[2]; /* the same, packed tile after tile: for elements, and for codes */
    uint32_t
        *values; /* [BLOCK_PANELS * panel_words][width]: a block's, those that are not read in the pages */
    float *scales, *factors; /* [ATTEND_BLOCK] of a block's values, in int8 */
    float *scores;           /* [tile_rows][ATTEND_BLOCK] */
    char *weights;           /* [tile_rows] of weight_bytes */
    float *partials;         /* [TILE_QUERIES] of the present block */
    float *earlier; /* the same, of its places that are seen as they were put, where there are others */
    float *levels;  /* [n_levels][TILE_QUERIES]: what waits in the tree */
} attend_work;

static inline bool attend_has_codes(const attend_job *job) {
    return job->kv && kv_is_coded(&job->kv->format);
}

/* The place of a query's row. */
static inline int64_t attend_query_place(const attend_job *job, const attend_tile *tile, int query) {
    return span_place(job->shape, tile->span) + (tile->query0 + query) / job->group;
}

/* Of a tile's queries from `query` on, those that are packed together and that a call takes. */
static inline int attend_queries_at_once(const attend_job *job, const attend_tile *tile, int query) {
    int left = tile->n_queries - query;
    return left < job->tile_rows ? left : job->tile_rows;
}

/* No positions yet. */
static inline void attend_clear_partial(const attend_job *job, float *partial) {
    memset(partial, 0, job->partial_floats * sizeof *partial);
    partial[ATTEND_PARTIAL_MAX] = -INFINITY;
}

/* The queries of a row wait for memory: before the first of blocks that follow each other, ask for it and
 * begin what goes with attend_block from one to the next. Nothing for several rows. */
void attend_look_ahead(const attend_job *job, const attend_tile *tile, int kv_head, int64_t block,
                       cpu_ahead *ahead);

/* The partial results of the tile's queries over one block, into work->partials. */
void attend_block(const attend_job *job, const attend_work *work, const attend_tile *tile, int kv_head,
                  int64_t block, cpu_ahead *ahead);
