#include "src/tokenizer/cache.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

enum { N_SLOTS = 1 << 16, MAX_ENTRIES = N_SLOTS / 2, STORE_IDS = 1 << 19 };

void word_cache_init(word_cache *cache) {
    *cache = (word_cache){.slots = mem_new(N_SLOTS, sizeof *cache->slots),
                          .store = mem_new(STORE_IDS, sizeof *cache->store)};
}

void word_cache_free(word_cache *cache) {
    free(cache->slots);
    free(cache->store);
    *cache = (word_cache){0};
}

static uint64_t hash_symbols(const int32_t *symbols, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (uint32_t)symbols[i]) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
    }
    return h;
}

/* The slot of this run, or the empty one where it would go. */
static cache_entry *slot_of(const word_cache *cache, uint64_t hash, const int32_t *symbols, size_t n) {
    for (size_t at = hash % N_SLOTS;; at = (at + 1) % N_SLOTS) {
        cache_entry *slot = &cache->slots[at];
        if (slot->n_symbols == 0) return slot;
        if (slot->hash == hash && slot->n_symbols == n &&
            !memcmp(cache->store + slot->at, symbols, n * sizeof *symbols))
            return slot;
    }
}

const int32_t *word_cache_find(const word_cache *cache, const int32_t *symbols, size_t n, size_t *n_ids) {
    const cache_entry *slot = slot_of(cache, hash_symbols(symbols, n), symbols, n);
    if (slot->n_symbols == 0) return NULL;
    *n_ids = slot->n_ids;
    return cache->store + slot->at + n;
}

void word_cache_add(word_cache *cache, const int32_t *symbols, size_t n, const int32_t *ids, size_t n_ids) {
    if (cache->n_entries == MAX_ENTRIES || cache->n_stored + n + n_ids > STORE_IDS) {
        memset(cache->slots, 0, N_SLOTS * sizeof *cache->slots);
        cache->n_stored = cache->n_entries = 0;
    }
    uint64_t hash = hash_symbols(symbols, n);
    cache_entry *slot = slot_of(cache, hash, symbols, n);
    *slot = (cache_entry){hash, cache->n_stored, (uint16_t)n, (uint16_t)n_ids};
    memcpy(cache->store + cache->n_stored, symbols, n * sizeof *symbols);
    memcpy(cache->store + cache->n_stored + n, ids, n_ids * sizeof *ids);
    cache->n_stored += (uint32_t)(n + n_ids);
    cache->n_entries++;
}
