/* src/study/coded_context.h: contexts in the pages of a run that go through a codec. Local. */
#pragma once

#include "io/codec/kv_tables.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"
#include "src/study/context_score.h"

/* What --context-codec says. */
typedef struct coding {
    enum { CODING_LOSSLESS, CODING_CACHEGEN, CODING_FAST, CODING_SMALL } codec;
    int level;      /* of CacheGen's */
    int step_level; /* of ours (io/codec/varve.h) */
    double bits;    /* an element, to which the step is to be found; 0: it is known */
} coding;

/* Refuses what is none. */
status coding_parse(const char *text, coding *out);

/* Find the step of so many bits; tables: NULL if none are needed. */
void coding_settle(coding *c, const kv_tables *tables);

/* What is coded how. */
typedef struct coded_context {
    coding coding;
    const kv_tables *tables; /* NULL: the lossless codec needs none */
    const model_config *config;
    dtype type;
} coded_context;

/* K and V of positions [0, n_tokens) of the sequence in a slot are encoded, and what is decoded takes their
 * place, as far as the layers of the slice keep them; adds to *sums. */
status coded_context_pass(const coded_context *c, kv_cache *kv, slice own, int slot, int64_t n_tokens,
                          coded_sums *sums);
