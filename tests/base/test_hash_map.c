/* tests/base/test_hash_map.c: the hash map beside a plain list of what was put into it. */
#include <stdlib.h>

#include "src/base/hash_map.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"

/* Few keys, so that most are there several times, and some that differ only in bits that a place drops. */
static uint64_t draw_key(uint64_t *state) {
    uint64_t drawn = harness_random(state);
    return drawn % 2 ? drawn % 101 : (drawn % 101) << 57;
}

static void check_key(const hash_map *map, uint64_t key, const hash_entry *list, size_t n) {
    size_t n_found = 0, n_wanted = 0;
    uint64_t sum = 0;
    for (const hash_entry *e = NULL; (e = hash_map_next(map, key, e)); n_found++)
        sum += e->key == key ? e->value : UINT64_MAX / 2;
    for (size_t i = 0; i < n; i++) {
        if (list[i].key != key) continue;
        n_wanted++;
        sum -= list[i].value;
    }
    CU_ASSERT(n_found == n_wanted && sum == 0);
}

static void test_add(void) {
    enum { N = 3000 };
    hash_entry *list = mem_new(N, sizeof *list);
    uint64_t state = 3;
    for (int round = 0; round < 20; round++) {
        hash_map map = hash_map_new((size_t)round * 10);
        for (size_t n = 0; n < N; n++) {
            list[n] = (hash_entry){draw_key(&state), n * n + 1};
            hash_map_add(&map, list[n].key, list[n].value);
            if (n % 100 == 0) check_key(&map, draw_key(&state), list, n + 1);
        }
        CU_ASSERT(map.n == N && map.n_slots >= 2 * N);
        hash_map_clear(&map);
        CU_ASSERT(map.n == 0 && !hash_map_next(&map, list[0].key, NULL));
        hash_map_free(&map);
    }
    free(list);
}

static void test_set(void) {
    enum { N_KEYS = 500 };
    uint64_t values[N_KEYS], state = 4;
    for (size_t i = 0; i < N_KEYS; i++)
        values[i] = 0;
    hash_map map = hash_map_new(0);
    for (uint64_t i = 1; i < 10000; i++) {
        uint64_t key = harness_random(&state) % N_KEYS;
        CU_ASSERT(hash_map_find(&map, key) == values[key]);
        values[key] = i;
        hash_map_set(&map, key, i);
        CU_ASSERT(hash_map_find(&map, key) == i);
    }
    CU_ASSERT(map.n == N_KEYS);
    hash_map_free(&map);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"add", test_add}, {"set", test_set}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "hash map", tests);
}
