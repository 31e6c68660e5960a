/* tests/model/test_kv_near.c: pages of codes and those beside them, in any histories of steps, loads, saves
 * and sequences that begin alike: what is read is exact where rows that come see it so, and as its codes say
 * elsewhere; and the pool of near pages, which is as large as was said, is never empty. On the CPU, and on a
 * GPU, where there is one. */
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "src/base/memory.h"
#include "src/model/kv_cache.h"
#include "tests/fixtures/harness.h"

enum { PAGE = 32, HEADS = 2, WIDTH = 8, LAYERS = 2, SLOTS = 4, LONGEST = 1400, MOST_ROWS = 150 };

static const int64_t windows[LAYERS] = {0, 100};

/* A sequence that is in a slot. */
typedef struct in_slot {
    uint64_t text;        /* names its rows; 0: the slot is free */
    uint64_t begins_like; /* another one up to `n_shared` */
    int64_t n_shared, n;
    int64_t pinned; /* rows that a save reads; 0: none does */
} in_slot;

typedef struct history {
    device *dev;
    kv_cache *kv;
    in_slot slots[SLOTS];
    uint64_t state, n_texts;
} history;

static int64_t pick(history *h, int64_t n) {
    return (int64_t)(harness_random(&h->state) % (uint64_t)n);
}

/* K or V of a position: HEADS rows. */
static void fill_row(const in_slot *q, int layer, int part, int64_t pos, uint16_t *row) {
    uint64_t seed = ((pos < q->n_shared ? q->begins_like : q->text) * LONGEST + (uint64_t)pos) * 4 +
                    (uint64_t)(layer * N_KV_PARTS + part);
    seed *= 0x9e3779b97f4a7c15u;
    for (int i = 0; i < HEADS * WIDTH; i++)
        row[i] = bf16_of_float(harness_random_normal(&seed));
}

/* As it comes out of a page of codes. */
static void code_row(const kv_format *f, int part, uint16_t *row) {
    char *page = mem_new(kv_page_bytes(f), 1);
    for (int head = 0; head < HEADS; head++) {
        kv_put_rows(f, page, (kv_part)part, head, 0, 1, row + head * WIDTH, 0);
        kv_get_rows(f, page, (kv_part)part, head, 0, 1, row + head * WIDTH, 0);
    }
    free(page);
}

static void write_rows(history *h, int slot, int64_t begin, int64_t end) {
    uint16_t *rows = mem_new((size_t)((end - begin) * HEADS * WIDTH), sizeof *rows);
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++) {
        const int64_t kept = kv_cache_first_kept(h->kv, slot, i / N_KV_PARTS),
                      from = begin > kept ? begin : kept;
        for (int64_t pos = from; pos < end; pos++)
            fill_row(&h->slots[slot], i / N_KV_PARTS, i % N_KV_PARTS, pos,
                     rows + (pos - from) * HEADS * WIDTH);
        if (from < end)
            kv_cache_write(h->kv, slot, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS), from, end - from, rows);
    }
    free(rows);
}

/* Those of [begin, end) that are kept, where rows from `n` on are those that come. */
static void check_rows(const history *h, int slot, int64_t begin, int64_t end, int64_t n) {
    const kv_format *f = &kv_cache_shape(h->kv)->format;
    uint16_t *rows = mem_new((size_t)(LONGEST * HEADS * WIDTH), sizeof *rows), row[HEADS * WIDTH];
    int64_t n_wrong = 0;
    CHECK_OK(h->dev->ops->sync(h->dev));
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++) {
        const int64_t kept = kv_cache_first_kept(h->kv, slot, i / N_KV_PARTS),
                      from = begin > kept ? begin : kept;
        if (from >= end) continue;
        CHECK_OK(
            kv_cache_read(h->kv, slot, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS), from, end - from, rows));
        for (int64_t pos = from; pos < end; pos++) {
            fill_row(&h->slots[slot], i / N_KV_PARTS, i % N_KV_PARTS, pos, row);
            if (pos % ATTEND_BLOCK >= attend_exact_places(n, attend_block_of(pos)))
                code_row(f, i % N_KV_PARTS, row);
            n_wrong += memcmp(row, rows + (pos - from) * HEADS * WIDTH, sizeof row) != 0;
        }
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    free(rows);
}

static history begin(device_kind kind, uint64_t seed) {
    history h = {.state = seed};
    CHECK_OK(device_open(kind, 0, PRECISION_BF16, 1, &h.dev));
    h.dev->kv_layout = kind == DEVICE_CUDA ? KV_INT8_ROWS : KV_INT8;
    const kv_shape shape = {.format = device_kv_format(h.dev, HEADS, WIDTH, PAGE),
                            .n_layers = LAYERS,
                            .windows = windows,
                            .n_pages = SLOTS * kv_pages_for(LONGEST, PAGE),
                            .n_slots = SLOTS,
                            .longest_tokens = LONGEST,
                            .max_rows = MOST_ROWS,
                            .n_near_blocks = 3};
    CHECK_OK(kv_cache_open(h.dev, &shape, &h.kv));
    return h;
}

/* Its last rows come from a load, from the last to the first, and its first ones are computed meanwhile: of
 * layers without a window. */
static void load(history *h, int slot) {
    in_slot *q = &h->slots[slot];
    const int64_t n = 1 + pick(h, LONGEST - MOST_ROWS);
    *q = (in_slot){.text = ++h->n_texts, .n = n};
    kv_cache_extend(h->kv, slot, n, n);
    int64_t first = kv_cache_first_kept(h->kv, slot, 1) > 0 ? n : 0; /* computed so far, or none is */
    for (int64_t edge = n; edge > first;) {
        const int64_t next = edge - 1 - pick(h, edge - first), rows = 1 + pick(h, MOST_ROWS);
        write_rows(h, slot, next, edge);
        edge = next;
        if (edge <= first + rows) continue;
        kv_cache_settle(h->kv);
        kv_cache_extend(h->kv, slot, first, first + rows);
        write_rows(h, slot, first, first + rows);
        first += rows;
    }
    if (first == n) write_rows(h, slot, 0, n);
}

static void go_on(history *h, int slot, int64_t *left) {
    in_slot *q = &h->slots[slot];
    int64_t rows = pick(h, 3) ? 1 + pick(h, *left) : 1;
    if (q->n + rows > LONGEST) rows = LONGEST - q->n;
    if (rows == 0) return;
    kv_cache_extend(h->kv, slot, q->n, q->n + rows);
    write_rows(h, slot, q->n, q->n + rows);
    q->n += rows;
    *left -= rows;
}

static void share(history *h, int from, int to) {
    const int64_t n = (1 + pick(h, LONGEST / ATTEND_BLOCK)) * ATTEND_BLOCK;
    /* Of a window it must have all that rows behind see: rows that no step has passed by. */
    if (h->slots[from].n < n || kv_cache_first_kept(h->kv, from, 1) > n - windows[1] - ATTEND_BLOCK) return;
    const in_slot *other = &h->slots[from];
    const uint64_t like = n <= other->n_shared ? other->begins_like : other->text;
    if (n > other->n_shared && other->n_shared > 0) return; /* two names would be needed */
    kv_cache_share(h->kv, from, to, n);
    h->slots[to] = (in_slot){.text = ++h->n_texts, .begins_like = like, .n_shared = n, .n = n};
}

static void release(history *h, int slot) {
    kv_cache_release(h->kv, slot);
    h->slots[slot] = (in_slot){0};
}

static void step(history *h) {
    int64_t left = MOST_ROWS;
    kv_cache_settle(h->kv);
    for (int slot = 0; slot < SLOTS; slot++) {
        in_slot *q = &h->slots[slot];
        if (q->text == 0 && pick(h, 4) == 0)
            load(h, slot);
        else if (q->text == 0 && pick(h, 2) == 0)
            share(h, (int)pick(h, SLOTS), slot);
        else if (q->text == 0)
            q->text = ++h->n_texts;
    }
    kv_cache_settle(h->kv);
    for (int slot = 0; slot < SLOTS && left > 0; slot++)
        if (h->slots[slot].text > 0 && pick(h, 3) > 0) go_on(h, slot, &left);
    for (int slot = 0; slot < SLOTS; slot++) {
        in_slot *q = &h->slots[slot];
        const bool reads = q->pinned > 0;
        if (q->n > 0) check_rows(h, slot, 0, reads ? q->pinned : q->n, reads ? q->pinned : q->n);
        if (reads && pick(h, 4) == 0) {
            kv_cache_unpin(h->kv, slot);
            q->pinned = 0;
        } else if (q->n > 0 && pick(h, 4) == 0) {
            kv_cache_pin(h->kv, slot);
            q->pinned = q->n;
        }
        if (q->n == LONGEST || pick(h, 20) == 0) release(h, slot);
    }
}

static void run_histories(device_kind kind) {
    for (uint64_t seed = 1; seed <= 4; seed++) {
        history h = begin(kind, seed);
        const int64_t all = kv_cache_free_pages(h.kv);
        for (int i = 0; i < (harness_is_slow() ? 30 : 150); i++)
            step(&h);
        for (int slot = 0; slot < SLOTS; slot++)
            release(&h, slot);
        CU_ASSERT_EQUAL(kv_cache_free_pages(h.kv), all);
        kv_cache_close(h.kv);
        h.dev->ops->close(h.dev);
    }
}

static void any_history(void) {
    run_histories(DEVICE_CPU);
    if (device_count(DEVICE_CUDA, NULL) > 0) run_histories(DEVICE_CUDA);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"any history", any_history}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv near", tests);
}
