/* src/model/layer_table.h: the tensors of a layer, one row of a table each: what is wanted of the files,
 * read, digested, closed, made for synthetic models and priced all follows from it. Pure. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "src/model/model_config.h"

/* The weights of a layer on a device: float32 vectors, and matrices; those that the model lacks are NULL. */
typedef struct layer {
    float *attention_norm, *mlp_norm; /* [D] */
    matrix *qkv;                      /* [(H + 2G) K, D] */
    float *qkv_bias;                  /* [(H + 2G) K] */
    float *q_norm, *k_norm;           /* [K] */
    matrix *output;                   /* [D, H K] */
    float *output_bias;               /* [D] */
    matrix *gate_up;                  /* [2F, D] */
    matrix *down;                     /* [D, F] */
} layer;

typedef struct layer_tensor {
    const char *name;            /* Hugging Face's, behind "model.layers.N." */
    int64_t n_rows, n_cols;      /* n_cols 0: a vector */
    size_t member;               /* of struct layer, where it lies from row0 on, */
    int64_t row0, n_member_rows; /* and how many rows all tensors of that member have together */
} layer_tensor;

enum { LAYER_MAX_TENSORS = 16 };

/* Those that a layer of this model has, in order; returns how many. */
int layer_tensors(const model_config *c, int layer_index, layer_tensor out[LAYER_MAX_TENSORS]);

/* Where the tensor goes: a matrix, or a vector. */
static inline matrix **layer_matrix(layer *l, const layer_tensor *t) {
    return (matrix **)(void *)((char *)l + t->member);
}

static inline float **layer_vector(layer *l, const layer_tensor *t) {
    return (float **)(void *)((char *)l + t->member);
}

/* Bytes of a layer's weights on a device. */
uint64_t layer_weight_bytes(const model_config *c, int layer_index, precision p);

/* Elements of the matrices that a row is multiplied with, and a decode step reads: of a layer, of all layers
 * in the mean, and of the head. */
double layer_elements(const model_config *c, int layer_index);
double mean_layer_elements(const model_config *c);
double head_elements(const model_config *c);
