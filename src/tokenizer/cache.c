#include "src/tokenizer/cache.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

enum { MAX_WORDS = 1 << 15, STORE_IDS = 1 << 19 };

void word_cache_init(word_cache *cache) {
    *cache =
        (word_cache){.words = hash_map_new(MAX_WORDS), .store = mem_new(STORE_IDS, sizeof *cache->store)};
}

void word_cache_free(word_cache *cache) {
    hash_map_free(&cache->words);
    free(cache->store);
    *cache = (word_cache){0};
}

static uint64_t hash_symbols(const int32_t *symbols, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint32_t)symbols[i]) * 0x9E3779B97F4A7C15u;
    return h;
}

/* A word as the map holds it. */
typedef union stored_word {
    struct {
        uint32_t at; /* in the store */
        uint16_t n_symbols, n_ids;
    };
    uint64_t value;
} stored_word;

const int32_t *word_cache_find(const word_cache *cache, const int32_t *symbols, size_t n, size_t *n_ids) {
    uint64_t hash = hash_symbols(symbols, n);
    for (const hash_entry *e = NULL; (e = hash_map_next(&cache->words, hash, e));) {
        stored_word word = {.value = e->value};
        const int32_t *stored = cache->store + word.at;
        if (word.n_symbols != n || memcmp(stored, symbols, n * sizeof *symbols) != 0) continue;
        *n_ids = word.n_ids;
        return stored + n;
    }
    return NULL;
}

void word_cache_add(word_cache *cache, const int32_t *symbols, size_t n, const int32_t *ids, size_t n_ids) {
    if (cache->words.n == MAX_WORDS || cache->n_stored + n + n_ids > STORE_IDS) {
        hash_map_clear(&cache->words);
        cache->n_stored = 0;
    }
    stored_word word = {{cache->n_stored, (uint16_t)n, (uint16_t)n_ids}};
    hash_map_add(&cache->words, hash_symbols(symbols, n), word.value);
    memcpy(cache->store + cache->n_stored, symbols, n * sizeof *symbols);
    memcpy(cache->store + cache->n_stored + n, ids, n_ids * sizeof *ids);
    cache->n_stored += (uint32_t)(n + n_ids);
}
