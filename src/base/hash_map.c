#include "src/base/hash_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

enum { LEAST_SLOTS = 16 };

hash_map hash_map_new(size_t n) {
    hash_map map = {.n_slots = LEAST_SLOTS};
    while (map.n_slots < 2 * n)
        map.n_slots *= 2;
    map.slots = mem_new(map.n_slots, sizeof *map.slots);
    return map;
}

void hash_map_free(hash_map *map) {
    free(map->slots);
    *map = (hash_map){0};
}

void hash_map_clear(hash_map *map) {
    memset(map->slots, 0, map->n_slots * sizeof *map->slots);
    map->n = 0;
}

static void grow(hash_map *map) {
    hash_map wider = hash_map_new(map->n_slots);
    for (size_t i = 0; i < map->n_slots; i++)
        if (map->slots[i].value != 0) hash_map_add(&wider, map->slots[i].key, map->slots[i].value);
    free(map->slots);
    *map = wider;
}

void hash_map_add(hash_map *map, uint64_t key, uint64_t value) {
    assert(value != 0);
    if (2 * (map->n + 1) > map->n_slots) grow(map);
    size_t at = hash_map_place(key);
    while (map->slots[at & (map->n_slots - 1)].value != 0)
        at++;
    map->slots[at & (map->n_slots - 1)] = (hash_entry){key, value};
    map->n++;
}

void hash_map_set(hash_map *map, uint64_t key, uint64_t value) {
    hash_entry *entry = hash_map_next(map, key, NULL);
    if (entry)
        entry->value = value;
    else
        hash_map_add(map, key, value);
}
