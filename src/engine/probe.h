/* src/engine/probe.h: what a command does on every rank while sessions run, beside taking their events: with
 * the K and V of a beginning that has just been computed, and with the logits of rows that are scored. */
#pragma once

#include <stdint.h>

#include "src/base/status.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"

/* Members may be NULL. */
typedef struct probe {
    void *context;

    /* Every rank, when positions [0, n_tokens) of a session with this probe_at are in the pages of its
     * layers: before any further row of it. It may write them anew. A failure ends the run. */
    status (*on_cached)(void *context, kv_cache *kv, slice s, int slot, int64_t n_tokens,
                        int64_t sequence_id);

    /* The last stage: the logits [V] of a row at `pos` that is scored by the token behind it. */
    void (*on_scored)(void *context, int64_t sequence_id, int64_t pos, int32_t target, const float *logits);
} probe;
