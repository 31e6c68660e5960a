/* io/synthetic/synthetic.h: models of random weights, for measurements and tests of any size without a
 * download.
 *
 * A model is a few numbers; all else follows from them: its config.json, its tensors, and every element of
 * them, by a counter-based generator keyed by (seed, tensor, element). So any range of any tensor can be made
 * alone, by any rank and thread, with the same bits. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/level_stream.h"
#include "src/base/memory.h"
#include "src/base/status.h"

/* A Llama model. Plain data: ranks may send its bytes to each other. */
typedef struct synthetic_model {
    char name[16]; /* of its shape; "" where there is no model */
    int n_layers;
    int d_model;                       /* D */
    int n_heads, n_kv_heads, head_dim; /* H, G, K */
    int d_mlp;                         /* F */
    int vocab_size;                    /* V */
    bool tied_head;                    /* the head is the embedding */
    int64_t max_positions;
    double rope_theta;
    double rope_factor; /* of llama3's scaling, from a context of 8192; 0: none */
    uint64_t seed;
} synthetic_model;

/* Tokens 0 to 255 are the bytes, as its tokenizer has them; then these; the others only fill the vocabulary.
 */
enum { SYNTHETIC_BEGIN_TOKEN = 256, SYNTHETIC_END_TOKEN = 257, SYNTHETIC_MIN_VOCAB = 258 };

/* The model of this shape, with seed 0. Refuses an unknown name, listing those that there are. */
status synthetic_find(const char *shape, synthetic_model *out);

/* "tiny, llama-100m, ..." */
void synthetic_append_names(text_buffer *out);

/* Its config.json. */
void synthetic_append_config(const synthetic_model *m, text_buffer *out);

enum { SYNTHETIC_NAME_BYTES = 96 };

/* One of its tensors: src/model/model.h lists them. Elements are bf16. */
typedef struct synthetic_tensor {
    char name[SYNTHETIC_NAME_BYTES];
    int64_t n_rows, n_cols; /* n_cols 0: one dimension */
} synthetic_tensor;

int64_t synthetic_n_elements(const synthetic_tensor *t);

/* What makes the elements: norms are 1, all else is normal with deviation 0.02, but with 0.02 / sqrt(2
 * n_layers) where a matrix adds to the residual stream, as GPT-2 was initialised (Radford et al. 2019). */
typedef struct synthetic_values synthetic_values;

synthetic_values *synthetic_values_open(const synthetic_model *m);
void synthetic_values_close(synthetic_values *v); /* NULL is fine */

/* The elements of the tensor of this name are those of *out; false: they are all 1, and no stream. */
bool synthetic_values_stream(const synthetic_values *v, const char *name, level_stream *out);

/* Elements [first, first + n) of the tensor of this name as bf16, by n_threads. Several threads may call it
 * at once. */
void synthetic_values_make(const synthetic_values *v, const char *name, int64_t first, int64_t n,
                           int n_threads, uint16_t *out);
