/* src/model/model_private.h: what model.c (the forward pass), model_head.c, and the parts that know the
 * weights (model_tensors.c, model_check.c, model_load.c) share. */
#pragma once

#include "src/model/layer_table.h"
#include "src/model/model.h"

struct model {
    model_config config;
    slice slice;
    int max_rows;
    device *dev;
    trace *trace;

    matrix *embedding; /* [V, D], first stage */
    layer *layers;
    float *final_norm;          /* [D], last stage */
    matrix *head;               /* [V, D], last stage; the embedding itself where tied and both are here */
    float *inverse_frequencies; /* [K / 2], host */
    float rope_factor;

    float *wide;          /* [max_rows, max((H + 2G) K, 2F)] matrix results */
    float *cos_sin;       /* [max_rows, K] */
    void *act;            /* [max_rows, max(D, H K, F)] matrix inputs, of the device's act type */
    void *narrow;         /* [max_rows, max(D, H K)] the same: q, and what the MLP reads */
    float *head_rows;     /* [HEAD_ROWS, D] */
    float *logits;        /* [HEAD_ROWS, V] */
    float *kept;          /* [slots, V]; NULL: no save may come */
    float *partials;      /* of attention, by nodes; NULL: all pages are in memory */
    model_answer *answer; /* host memory of the device, last stage */
};

/* Row widths of the workspace. */
typedef struct model_widths {
    int64_t q, qkv, wide, act, narrow;
} model_widths;

static inline model_widths model_get_widths(const model_config *c) {
    model_widths w;
    w.q = (int64_t)c->n_heads * c->head_dim;
    w.qkv = (int64_t)(c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    w.wide = w.qkv > 2 * c->d_mlp ? w.qkv : 2 * c->d_mlp;
    w.narrow = w.q > c->d_model ? w.q : c->d_model;
    w.act = w.narrow > c->d_mlp ? w.narrow : c->d_mlp;
    return w;
}

status model_take_workspace(model *m);

/* One tensor of the files and where it goes: rows from row0 of a matrix, or elements from row0 of a vector.
 */
typedef struct wanted {
    char name[SYNTHETIC_NAME_BYTES];
    int64_t n_rows, n_cols; /* n_cols 0: a vector */
    int64_t row0;
    matrix *matrix;
    float *vector;
    const tensor *tensor;
    bool is_copy; /* another stage has it too, and counts it for the digest */
} wanted;

typedef struct wanted_list {
    wanted *items;
    size_t n;
} wanted_list;

/* All tensors of the slice, checked against the files. `m` gives the destinations; NULL: none. */
status model_want_slice(wanted_list *list, const model_config *c, slice s, const model *m,
                        const weights *files);

/* Whether one matrix on this stage serves for both. */
bool model_head_shares_embedding(const model_config *c, slice s);
