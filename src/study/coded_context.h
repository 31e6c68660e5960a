/* src/study/coded_context.h: contexts in the pages of a run that go through a codec. Local. */
#pragma once

#include "io/codec/kv_coding.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"
#include "src/study/context_score.h"

/* What is coded how. */
typedef struct coded_context {
    kv_coding coding;        /* whose level is known */
    const kv_tables *tables; /* NULL: an exact codec needs none */
    const model_config *config;
    dtype type;
} coded_context;

/* K and V of positions [0, n_tokens) of the sequence in a slot are encoded, and what is decoded, of a coding
 * with a base that alone, takes their place, as far as the layers of the slice keep them; adds to *sums. */
status coded_context_pass(const coded_context *c, kv_cache *kv, slice own, int slot, int64_t n_tokens,
                          coded_sums *sums);
