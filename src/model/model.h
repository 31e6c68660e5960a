/* src/model/model.h: the layers of one rank's slice: their weights and the forward pass.
 *
 * A decoder of the Llama family (arXiv 2302.13971; GQA arXiv 2305.13245; QKV bias in Qwen2, arXiv 2407.10671;
 * per-head QK norm in Qwen3, arXiv 2505.09388). All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/synthetic/synthetic.h"
#include "io/weights/weights.h"
#include "kernels/device.h"
#include "src/base/trace.h"
#include "src/model/evictor.h"
#include "src/model/kv_walk.h"
#include "src/model/model_config.h"

typedef struct model model;

/* Which part of the model a rank owns: layers [first_layer, last_layer) of n_layers; the first stage also
 * embeds, and the last has the final norm and the head. */
typedef struct slice {
    int first_layer, last_layer, n_layers;
} slice;

static inline bool slice_embeds(slice s) {
    return s.first_layer == 0;
}

static inline bool slice_has_head(slice s) {
    return s.last_layer == s.n_layers;
}

/* Rows through the head at once: bounds the workspace that logits take. */
enum { HEAD_ROWS = DEVICE_TOP_ROWS };

/* Device bytes of a slice's weights, and of the workspace for steps of at most max_rows rows: for plans. */
uint64_t model_weight_bytes(const model_config *config, slice s, precision prec);
uint64_t model_workspace_bytes(const model_config *config, slice s, precision prec, int max_rows);

/* What n_rows rows behind `history` positions of one sequence cost the layers of a slice. */
typedef struct model_cost {
    double flops;    /* of matrices and attention; a multiply-add is two */
    double kv_bytes; /* K and V read, in pages of such a layout */
} model_cost;

/* removed[layers of the slice]: of those positions, that are not in its pages; NULL: none. */
model_cost model_rows_cost(const model_config *config, slice s, dtype kv, kv_layout layout, int64_t history,
                           const int64_t *removed, int64_t n_rows);

/* Of a row of the head. */
double model_head_flops(const model_config *config);

/* Bytes of K and V of a position over all layers; KV_ROWS: outside of pages, too. */
double model_kv_token_bytes(const model_config *config, dtype kv, kv_layout layout);

/* All tensors of a synthetic model with this config; released with free(). */
synthetic_tensor *model_list_tensors(const model_config *config, size_t *n);

/* Bytes of the slice's tensors in the files. Refuses a missing tensor or another shape. */
status model_file_bytes(const model_config *config, slice s, weights *files, uint64_t *out);

/* Compare the files with the config, before a run. Where both an embedding and another head are stored,
 * config->tied_head becomes false, with a NOTE: transformers uses the stored head too. Refuses a tensor that
 * is missing, and one that belongs to a layer or the head but not to a model as the config has it, as results
 * would be others; tensors beside the model, further layers, and rounding of weights are noted. */
status model_check_files(model_config *config, precision prec, weights *files);

/* Read the slice's weights from the files, in file order and nothing else, and take the workspace. Borrows
 * dev and t. Where `digest` is not NULL, XXH3 digests (128 bits: high, low) of the slice's tensors, and of
 * the config on the first stage, are summed into it: the sum over all stages, modulo 2^64 each, is the same
 * for every partition. Refuses heads that are too wide for the device. */
status model_open(const model_config *config, slice s, int max_rows, weights *files, device *dev, trace *t,
                  uint64_t digest[2], model **out);
void model_close(model *m); /* NULL is fine */

/* What is added besides to the digest of a whole model whose weights are rounded to int8: what it computes is
 * another thing. */
extern const uint64_t model_int8_digest[2];

/* x[T, D] = embedding of the tokens. First stage. */
void model_embed(model *m, const int32_t *tokens, int T, float *x);

/* x[T, D] through the layers of the slice; their K and V are appended to the cache. Spans tile the T rows.
 * Where not all pages lie in memory, `walk` brings them; else it is NULL. `evict` sees their queries, unless
 * NULL. */
void model_forward(model *m, const kv_cache *kv, kv_walk *walk, evictor *evict, int n_spans,
                   const span *spans, int T, float *x);

/* For a walk attention goes part by part, over at most longest_tokens places: take memory for the parts'
 * results, which are so many bytes. */
status model_open_partials(model *m, int64_t longest_tokens);
uint64_t model_partial_bytes(const model_config *c, int max_rows, int64_t longest_tokens);

/* logits[n, V] of rows[n] of x, n <= HEAD_ROWS, to host memory. Last stage. */
status model_logits(model *m, const float *x, const int32_t *rows, int n, float *host_logits);

/* The same in parts, in model_head.c. The logits of rows[n] of x, n <= HEAD_ROWS, on the device. */
void model_head(model *m, const float *x, const int32_t *rows, int n);

/* Those of the n rows to host memory [n, V]. Waits for the device. */
status model_read_logits(const model *m, int n, float *host_logits);

/* Ask the device, where they stay: the operations choose, score and top_logits over all n rows of model_head.
 */
void model_choose(model *m, int n, const row_sampling *rows);
void model_score(model *m, int n, const int32_t *targets);
void model_find_top(model *m, int n, int k);

/* Its answers by row, after model_sync; the largest logits are [n, k]. */
typedef struct model_answer {
    row_choice choices[HEAD_ROWS];
    float scores[HEAD_ROWS];
    float top_values[HEAD_ROWS * DEVICE_MAX_TOP];
    int32_t top_ids[HEAD_ROWS * DEVICE_MAX_TOP];
} model_answer;
const model_answer *model_get_answer(const model *m);

/* Logits that a save may ask for stay on the device too, until others take their place: here is room for
 * those of n_slots rows. Last stage, once. */
status model_open_kept(model *m, int n_slots);
uint64_t model_kept_bytes(const model_config *c, slice s, int n_slots);

/* Those of rows [i, i + n) of model_head to the places of the slots from `slot` on; */
void model_keep_logits(model *m, int i, int n, int slot);

/* and what a slot's place has, [V], to host memory. Waits for the device. */
status model_read_kept(model *m, int slot, float *host_logits);

slice model_slice(const model *m);

/* Wait for the device: all that was queued is over. */
status model_sync(model *m);

/* The first failure that is known so far, without waiting. */
status model_check(model *m);

/* Of K and V. */
dtype model_kv_type(const model *m);
kv_layout model_kv_layout(const model *m);
