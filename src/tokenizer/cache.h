/* src/tokenizer/cache.h: what runs of symbols were merged to, so that a frequent word is merged once.
 *
 * Of bounded size: when full, it forgets everything. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "src/base/hash_map.h"

enum { CACHE_MAX_SYMBOLS = 32 }; /* of a run that is kept */

typedef struct word_cache {
    hash_map words; /* by hash of the symbols: where in the store, and how many symbols and ids */
    int32_t *store; /* the symbols of a run, then its ids, and so on */
    uint32_t n_stored;
} word_cache;

void word_cache_init(word_cache *cache);
void word_cache_free(word_cache *cache);

/* The ids of a run of 1 to CACHE_MAX_SYMBOLS symbols, borrowed until the next call; NULL when not known. */
const int32_t *word_cache_find(const word_cache *cache, const int32_t *symbols, size_t n, size_t *n_ids);

/* Remember a run that is not known. */
void word_cache_add(word_cache *cache, const int32_t *symbols, size_t n, const int32_t *ids, size_t n_ids);
