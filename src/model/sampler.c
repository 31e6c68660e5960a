#include "src/model/sampler.h"

#include <stddef.h>

uint32_t sampler_random(int64_t seed, int64_t sequence_id, int64_t pos) {
    uint32_t x[4] = {(uint32_t)pos, (uint32_t)((uint64_t)pos >> 32), (uint32_t)sequence_id,
                     (uint32_t)((uint64_t)sequence_id >> 32)};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ x[1] ^ key[0], (uint32_t)b,
                            (uint32_t)(a >> 32) ^ x[3] ^ key[1], (uint32_t)a};
        for (int i = 0; i < 4; i++)
            x[i] = next[i];
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return x[0];
}

row_sampling sampler_row(const sampling_options *o, int64_t sequence_id, int64_t pos, const uint32_t *seen) {
    return (row_sampling){
        .options = o,
        .seen = o->repetition_penalty == 1 ? NULL : seen,
        .u = ((double)sampler_random(o->seed, sequence_id, pos) + 0.5) * 0x1p-32,
    };
}

void sampler_finish(const sampling_options *o, const row_choice *found, const float *values,
                    const int32_t *ids, sampler_choice *out) {
    *out = (sampler_choice){.token = found->token};
    if (found->token < 0 || o->n_logprobs == 0) return;
    out->logprob = (float)((double)found->logit - found->log_norm);
    for (int i = 0; i < o->n_logprobs && ids[i] >= 0; i++) {
        out->top_tokens[i] = ids[i];
        out->top_logprobs[i] = (float)((double)values[i] - found->log_norm);
        out->n_top++;
    }
}
