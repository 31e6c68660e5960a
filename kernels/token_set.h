/* kernels/token_set.h: a set of token ids as bits: token t is bit t % 32 of word t / 32. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Words of a set of tokens [0, V). */
static inline size_t token_set_words(int V) {
    return ((size_t)V + 31) / 32;
}

static inline void token_set_add(uint32_t *set, int32_t token) {
    set[token / 32] |= (uint32_t)1 << (token % 32);
}

static inline bool token_set_has(const uint32_t *set, int32_t token) {
    return set[token / 32] >> (token % 32) & 1;
}
