/* tests/model/test_kv_cache.c: pages of sequences: taken, shared, and given back by the last that has them,
 * with and without a window. */
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/model/kv_cache.h"
#include "tests/fixtures/device_arrays.h"
#include "tests/fixtures/harness.h"

enum { PAGE = 64, HEADS = 2, WIDTH = 8, LAYERS = 2, SLOTS = 3, PAGES = 24, LONGEST = 1024, WINDOW = 64 };

/* Layer 0 keeps all, layer 1 what a window sees. */
static kv_cache *open_cache(device *dev) {
    static const int64_t windows[LAYERS] = {0, WINDOW};
    const kv_shape shape = {
        .format = device_kv_format(dev, HEADS, WIDTH, PAGE),
        .n_layers = LAYERS,
        .windows = windows,
        .n_pages = PAGES,
        .n_slots = SLOTS,
        .longest_tokens = LONGEST,
        .max_rows = PAGE,
    };
    kv_cache *kv = NULL;
    CHECK_OK(kv_cache_open(dev, &shape, &kv));
    return kv;
}

/* Bytes of positions from `begin` on, which differ by `mark`, layer and part. */
static void write_marked(kv_cache *kv, const device *dev, int slot, int64_t begin, int64_t end, int mark) {
    const size_t bytes = (size_t)(end - begin) * HEADS * WIDTH * dtype_bytes(dev->kv);
    void *rows = mem_new(bytes, 1);
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++) {
        memset(rows, 16 * mark + i + 1, bytes);
        if (begin >= kv_cache_first_kept(kv, slot, i / N_KV_PARTS))
            kv_cache_write(kv, slot, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS), begin, end - begin, rows);
    }
    free(rows);
}

/* Has every position of [begin, end) that is kept this mark? */
static bool is_marked(kv_cache *kv, const device *dev, int slot, int64_t begin, int64_t end, int mark) {
    bool good = true;
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++) {
        const int64_t kept = kv_cache_first_kept(kv, slot, i / N_KV_PARTS),
                      from = begin > kept ? begin : kept;
        if (from >= end) continue;
        const size_t bytes = (size_t)(end - from) * HEADS * WIDTH * dtype_bytes(dev->kv);
        char *rows = mem_new(bytes, 1);
        CHECK_OK(kv_cache_read(kv, slot, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS), from, end - from, rows));
        for (size_t k = 0; k < bytes; k++)
            good &= rows[k] == (char)(16 * mark + i + 1);
        free(rows);
    }
    return good;
}

static void check_shares(const tested *t) {
    device *dev = t->dev;
    kv_cache *kv = open_cache(dev);
    const int64_t all = kv_cache_free_pages(kv);
    for (int64_t at = 0; at < 6 * PAGE; at += PAGE) {
        kv_cache_extend(kv, 0, at, at + PAGE);
        write_marked(kv, dev, 0, at, at + PAGE, 1);
    }
    /* The row at the begin of the last page sees a window that begins in block 1. */
    CU_ASSERT_EQUAL(kv_cache_free_pages(kv), all - 6 - 2);

    /* Two more begin with it: no page more. */
    kv_cache_share(kv, 0, 1, 6 * PAGE);
    kv_cache_share(kv, 1, 2, 6 * PAGE);
    CU_ASSERT_EQUAL(kv_cache_free_pages(kv), all - 6 - 2);
    CU_ASSERT(is_marked(kv, dev, 1, 0, 6 * PAGE, 1) && is_marked(kv, dev, 2, 0, 6 * PAGE, 1));

    /* What they go on with is their own. */
    for (int slot = 0; slot < SLOTS; slot++) {
        kv_cache_extend(kv, slot, 6 * PAGE, 6 * PAGE + 5);
        write_marked(kv, dev, slot, 6 * PAGE, 6 * PAGE + 5, 2 + slot);
    }
    CU_ASSERT_EQUAL(kv_cache_free_pages(kv), all - 9 - 5);
    for (int slot = 0; slot < SLOTS; slot++) {
        CU_ASSERT(is_marked(kv, dev, slot, 0, 6 * PAGE, 1));
        CU_ASSERT(is_marked(kv, dev, slot, 6 * PAGE, 6 * PAGE + 5, 2 + slot));
    }

    /* The first one goes: what it shared stays. */
    kv_cache_release(kv, 0);
    CU_ASSERT_EQUAL(kv_cache_free_pages(kv), all - 8 - 4);
    CU_ASSERT(is_marked(kv, dev, 1, 0, 6 * PAGE, 1) && is_marked(kv, dev, 2, 6 * PAGE, 6 * PAGE + 5, 4));
    /* Another one takes pages, and none of theirs. */
    kv_cache_extend(kv, 0, 0, 3 * PAGE);
    write_marked(kv, dev, 0, 0, 3 * PAGE, 7);
    CU_ASSERT(is_marked(kv, dev, 1, 0, 6 * PAGE, 1) && is_marked(kv, dev, 2, 0, 6 * PAGE, 1));
    kv_cache_release(kv, 0);

    /* Where one is out of the window, its pages stay for the other. */
    for (int64_t at = 6 * PAGE + 5; at + PAGE <= LONGEST; at += PAGE)
        kv_cache_extend(kv, 1, at, at + PAGE);
    CU_ASSERT(kv_cache_first_kept(kv, 1, 1) > kv_cache_first_kept(kv, 2, 1));
    CU_ASSERT(is_marked(kv, dev, 2, 0, 6 * PAGE, 1));
    kv_cache_release(kv, 1);
    kv_cache_release(kv, 2);
    CU_ASSERT_EQUAL(kv_cache_free_pages(kv), all);
    kv_cache_close(kv);
}

static void shares(void) {
    for_each_kind(check_shares);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"shares", shares}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv cache", tests);
}
