/* src/command/sizing.h: what a run asks of its ranks (src/model/plan.h), from its options and from its jobs:
 * for the run, and for `kvarve plan`. Local. */
#pragma once

#include "src/command/options.h"
#include "src/model/plan.h"

/* n jobs of at most so many tokens each, prompt and generated. */
typedef struct job_size {
    int64_t n, tokens;
    bool is_kept;     /* what is over stays until it is saved */
    int64_t evict_at; /* with --evict: when so many are in the cache; 0: they stay */
} job_size;

/* Places that a sequence has at most while its prompt of evict_at tokens is read, and then behind it. */
typedef struct sequence_places {
    int64_t prompt, behind;
} sequence_places;

sequence_places sizing_places(const evict_policy *policy, int64_t n_tokens, int64_t evict_at);

/* Of jobs of which any --sequences may run at once. head_share: of all of them, see below. */
sizing sizing_of(const options *o, const job_size *jobs, int64_t n, double head_share);

/* Of measurements: one job of so many tokens, and behind it --sequences at once of fewer each. */
sizing sizing_of_bench(const options *o, int64_t longest_tokens, int64_t batch_tokens, double head_share);

/* How much of the pipeline's time the head takes: the share of rows that pass it, where a decode row counts
 * for as many prefill rows as take its time. */
double sizing_head_share(int64_t prompt_tokens, int64_t decode_tokens);
