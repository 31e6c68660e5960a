/* src/base/hash_map.h: 64-bit keys to 64-bit values, by open addressing with linear probing.
 *
 * Longer keys are kept by their hash: what an entry of that hash stands for is compared by the caller, who
 * goes on to the next entry where it is another one. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct hash_entry {
    uint64_t key, value; /* never 0: an empty slot has 0 and 0 */
} hash_entry;

typedef struct hash_map {
    hash_entry *slots;
    size_t n_slots; /* a power of two, at least twice n */
    size_t n;
} hash_map;

/* An empty map, which grows when it has more than n entries. */
hash_map hash_map_new(size_t n);
void hash_map_free(hash_map *map);

/* Take all entries away, and keep the room. */
void hash_map_clear(hash_map *map);

/* Add an entry, also where the key is there already; or set the value of the key, which is there once at
 * most. */
void hash_map_add(hash_map *map, uint64_t key, uint64_t value);
void hash_map_set(hash_map *map, uint64_t key, uint64_t value);

/* The slot from which a key is looked for, not yet wrapped to their number. */
static inline size_t hash_map_place(uint64_t key) {
    uint64_t h = key * 0x9E3779B97F4A7C15u; /* 2^64 over the golden ratio (Knuth, vol. 3, 6.4) */
    return (size_t)(h ^ h >> 32);
}

/* The entry of this key that comes behind `last`, or the first (NULL); NULL: there is none. */
static inline hash_entry *hash_map_next(const hash_map *map, uint64_t key, const hash_entry *last) {
    const size_t mask = map->n_slots - 1;
    size_t at = (last ? (size_t)(last - map->slots) + 1 : hash_map_place(key)) & mask;
    while (map->slots[at].key != key && map->slots[at].value != 0)
        at = (at + 1) & mask;
    return map->slots[at].value != 0 ? &map->slots[at] : NULL;
}

/* The value of a key that is there once at most; 0: it is not there. */
static inline uint64_t hash_map_find(const hash_map *map, uint64_t key) {
    const size_t mask = map->n_slots - 1;
    size_t at = hash_map_place(key) & mask;
    while (map->slots[at].key != key && map->slots[at].value != 0)
        at = (at + 1) & mask;
    return map->slots[at].value;
}
