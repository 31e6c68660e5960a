/* src/model/evictor.h: evicts tokens of a slice's layers (src/model/evict.h) when a sequence's prompt is in
 * the cache, and again behind it, and gathers before what its policy asks of queries: of all rows so far
 * (expected: their moments; h2o: what they paid to the places that are left), or of the last ones.
 *
 * Where pages hold codes, a row pays what it pays: to places as it sees them (attend_exact_places). Scores of
 * places as they are when they are evicted are of what rows that come see.
 *
 * Only rows that are always computed here count, from `from` on: what a run loads, and what it computes while
 * it waits for that, has no queries. What is gathered does not depend on chunks, on what else is in a step,
 * on ranks, pages or threads. CPU only. All functions are Local. */
#pragma once

#include <stdint.h>

#include "src/model/evict.h"
#include "src/model/kv_cache.h"
#include "src/model/model_config.h"

typedef struct evictor evictor;

/* Places that a layer of the model keeps of a prompt of n_prompt tokens; and the most that it has from there
 * on until there are n_tokens. */
int64_t evictor_kept(const evict_policy *policy, const model_config *config, int layer, int64_t n_prompt);
int64_t evictor_places_behind(const evict_policy *policy, const model_config *config, int layer,
                              int64_t n_prompt, int64_t n_tokens);

/* Layers [first_layer, last_layer) of the model; borrows config and kv. */
evictor *evictor_open(const evict_policy *policy, const model_config *config, int first_layer, int last_layer,
                      kv_cache *kv);
void evictor_close(evictor *e); /* NULL is fine */

/* Bytes, for plans: what it gathers of a sequence of at most n_tokens in a layer of the model; and what it
 * takes besides while it evicts, or looks at pages of this format. */
uint64_t evictor_layer_bytes(const evict_policy *policy, const model_config *config, int layer,
                             int64_t n_tokens, dtype act);
uint64_t evictor_bytes(const evict_policy *policy, const model_config *config, const kv_format *format,
                       int64_t n_tokens);

/* The sequence that takes a slot is to be evicted when its positions [0, at) are there, and behind that as
 * its policy says; at 0: never. */
void evictor_begin(evictor *e, int slot, int64_t from, int64_t at);

/* Of a layer (0-based in the slice) of a step: what kv_append is given, before it is; and q, behind
 * attention. */
void evictor_see_queries(evictor *e, int layer, const attention_shape *shape, const qkv_weights *weights,
                         int n_spans, const span *spans, const float *qkv);
void evictor_see_attention(evictor *e, int layer, int n_spans, const span *spans, const void *q);

/* Is a slot to be evicted whose positions [0, n_tokens) are there? Do so, in all layers. */
bool evictor_is_due(const evictor *e, int slot, int64_t n_tokens);
void evictor_run(evictor *e, int slot);

/* Forget what was gathered of a slot. */
void evictor_end(evictor *e, int slot);
