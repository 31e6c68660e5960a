/* tests/model/test_kv_evict.c: random histories of sequences that grow, begin with the pages of others, lose
 * tokens and end, in pages of bf16 and of int8, all in memory or not: each head of each layer has the rows
 * that a list of rows has, which loses what is evicted. */
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/model/kv_cache.h"
#include "tests/fixtures/device_arrays.h"
#include "tests/fixtures/harness.h"

enum {
    PAGE = 32,
    HEADS = 2,
    WIDTH = 64,
    ROW = WIDTH * 2, /* bytes */
    LAYERS = 3,
    SLOTS = 4,
    LONGEST = 40 * PAGE,
    WINDOW = 100,
    OPERATIONS = 300,
};

static const int64_t windows[LAYERS] = {0, WINDOW, 0};

/* What a head of a layer should have of a sequence: rows of K and V, by place. */
typedef struct rows {
    char (*at[N_KV_PARTS])[ROW]; /* [LONGEST] */
    int64_t n;
} rows;

typedef struct fixture {
    device *dev;
    page_file *file;
    kv_records records;
    kv_cache *kv;
    rows model[SLOTS][LAYERS][HEADS];
    int64_t n_tokens[SLOTS]; /* positions so far */
    bool is_evicted[SLOTS];
    uint64_t state;
} fixture;

static int64_t pick(fixture *f, int64_t n) {
    return (int64_t)(harness_random(&f->state) % (uint64_t)n);
}

static fixture begin(bool has_file, uint64_t seed) {
    fixture f = {.state = seed};
    kv_shape shape = {
        .n_layers = LAYERS,
        .windows = windows,
        .n_pages = SLOTS * LONGEST / PAGE,
        .n_slots = SLOTS,
        .longest_tokens = LONGEST,
        .max_rows = LONGEST,
        .n_turn = 2,
    };
    CHECK_OK(cpu_device_open(PRECISION_BF16, 1, NULL, &f.dev));
    shape.format = device_kv_format(f.dev, HEADS, WIDTH, PAGE);
    if (has_file) {
        const int64_t n_pages = (LAYERS - 1) * shape.n_pages + kv_pool_pages(&shape, WINDOW);
        const size_t bytes = kv_page_bytes(&shape.format);
        shape.n_frames = 20;
        CHECK_OK(page_file_open("/tmp", (n_pages + KV_TIER_SPARE_RECORDS) * (int64_t)bytes, bytes, 16,
                                PAGE_FILE_IO_URING, &f.file));
    }
    f.records = kv_records_of_file(f.file);
    if (has_file) shape.records = &f.records;
    CHECK_OK(kv_cache_open(f.dev, &shape, &f.kv));
    for (int i = 0; i < SLOTS * LAYERS * HEADS; i++)
        for (int part = 0; part < N_KV_PARTS; part++)
            (&f.model[0][0][0])[i].at[part] = mem_new(LONGEST, ROW);
    return f;
}

static void end(fixture *f) {
    if (f->file) CU_ASSERT_EQUAL(kv_tier_n_lost(kv_cache_tier(f->kv)), 0);
    for (int i = 0; i < SLOTS * LAYERS * HEADS; i++)
        for (int part = 0; part < N_KV_PARTS; part++)
            free((&f->model[0][0][0])[i].at[part]);
    kv_cache_close(f->kv);
    page_file_close(f->file, 60);
    f->dev->ops->close(f->dev);
}

/* New rows of one part, and what the pages make of them. */
static void append_part(fixture *f, int slot, int layer, kv_part part, int64_t place, int64_t n) {
    uint16_t *in = mem_new((size_t)(n * HEADS), ROW), *out = mem_new((size_t)(n * HEADS), ROW);
    for (int64_t i = 0; i < n * HEADS * WIDTH; i++)
        in[i] = bf16_of_float((float)pick(f, 2001) / 1000 - 1);
    kv_cache_write(f->kv, slot, layer, part, place, n, in);
    CHECK_OK(kv_cache_read(f->kv, slot, layer, part, place, n, out));
    for (int64_t i = 0; i < n * HEADS; i++) {
        rows *r = &f->model[slot][layer][i % HEADS];
        memcpy(r->at[part][place + i / HEADS], out + i * WIDTH, ROW);
        r->n = place + n;
    }
    free(in);
    free(out);
}

static void append(fixture *f, int slot) {
    const int64_t left = LONGEST - f->n_tokens[slot], n = 1 + pick(f, left < 150 ? left : 150);
    kv_cache_extend(f->kv, slot, f->n_tokens[slot], f->n_tokens[slot] + n);
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++)
        append_part(f, slot, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS),
                    f->n_tokens[slot] - kv_cache_removed(f->kv, i / N_KV_PARTS)[slot], n);
    f->n_tokens[slot] += n;
}

/* Begins with whole pages of a sequence that has all of its own. */
static void share(fixture *f, int from, int to) {
    const int64_t n = (f->n_tokens[from] / PAGE - pick(f, 3)) * PAGE;
    if (n <= 0) return;
    if (attend_first_position(n, WINDOW) / ATTEND_BLOCK * ATTEND_BLOCK < kv_cache_first_kept(f->kv, from, 1))
        return; /* its window has gone on */
    kv_cache_share(f->kv, from, to, n);
    f->n_tokens[to] = n;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int head = 0; head < HEADS; head++)
            for (int part = 0; part < N_KV_PARTS; part++) {
                rows *mine = &f->model[to][layer][head];
                memcpy(mine->at[part], f->model[from][layer][head].at[part], (size_t)n * ROW);
                mine->n = n;
            }
}

/* Of each head any places stay, or first ones where they are, too. */
static void evict_layer(fixture *f, int slot, int layer) {
    const int64_t n = f->model[slot][layer][0].n, n_kept = 1 + pick(f, n);
    const bool are_all_first = pick(f, 3) == 0;
    int32_t *kept = mem_new((size_t)(HEADS * n_kept), sizeof *kept);
    for (int head = 0; head < HEADS; head++) {
        rows *r = &f->model[slot][layer][head];
        const int64_t n_first = are_all_first ? n_kept : pick(f, 2) ? pick(f, n_kept + 1) : 0;
        for (int64_t place = 0, to = 0; to < n_kept; place++) {
            const int64_t n_left = n - place, n_wanted = n_kept - to;
            if (place >= n_first && pick(f, n_left) >= n_wanted) continue;
            kept[head * n_kept + to] = (int32_t)place;
            for (int part = 0; part < N_KV_PARTS; part++)
                memmove(r->at[part][to], r->at[part][place], ROW);
            to++;
        }
        r->n = n_kept;
    }
    kv_cache_evict(f->kv, slot, layer, n, n_kept, kept);
    CU_ASSERT_EQUAL(kv_cache_removed(f->kv, layer)[slot], f->n_tokens[slot] - n_kept);
    CU_ASSERT_EQUAL(kv_cache_end_page(f->kv, slot, layer), kv_pages_for(n_kept, PAGE));
    f->is_evicted[slot] = true;
    free(kept);
}

static void release(fixture *f, int slot) {
    kv_cache_release(f->kv, slot);
    f->n_tokens[slot] = 0;
    f->is_evicted[slot] = false;
}

/* All of a sequence is as it should be. */
static void check_slot(fixture *f, int slot) {
    int64_t n_wrong = 0;
    for (int i = 0; f->n_tokens[slot] > 0 && i < LAYERS * N_KV_PARTS; i++) {
        const int layer = i / N_KV_PARTS;
        const kv_part part = (kv_part)(i % N_KV_PARTS);
        const int64_t first = kv_cache_first_kept(f->kv, slot, layer), n = f->model[slot][layer][0].n - first;
        char(*out)[ROW] = mem_new((size_t)(n * HEADS), ROW);
        CHECK_OK(kv_cache_read(f->kv, slot, layer, part, first, n, out));
        for (int64_t k = 0; k < n * HEADS; k++)
            n_wrong += memcmp(out[k], f->model[slot][layer][k % HEADS].at[part][first + k / HEADS], ROW) != 0;
        free(out);
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
}

/* Pages are free, or in a table: none is lost, and none is in two tables but where it is shared. */
static int64_t count_used(const fixture *f, int64_t n_all) {
    bool *used = mem_new((size_t)n_all, 1);
    int64_t n = 0;
    for (int i = 0; i < SLOTS * LAYERS; i++) {
        const int slot = i / LAYERS, layer = i % LAYERS;
        const int32_t *table = kv_cache_table(f->kv, slot, layer);
        for (int64_t k = kv_cache_first_kept(f->kv, slot, layer) / PAGE;
             k < kv_cache_end_page(f->kv, slot, layer); k++) {
            n += !used[table[k]];
            used[table[k]] = true;
        }
    }
    free(used);
    return n;
}

static void run_history(bool has_file, uint64_t seed) {
    fixture f = begin(has_file, seed);
    const int64_t n_all = kv_cache_free_pages(f.kv);
    int n_shares = 0, n_evictions = 0;
    for (int i = 0; i < OPERATIONS; i++) {
        const int slot = (int)pick(&f, SLOTS), other = (slot + 1 + (int)pick(&f, SLOTS - 1)) % SLOTS;
        const int64_t what = pick(&f, 10);
        if (what < 5 && f.n_tokens[slot] < LONGEST) append(&f, slot);
        if ((what == 5 || what == 6) && f.n_tokens[other] > 0 && !f.is_evicted[other]) {
            release(&f, slot);
            share(&f, other, slot);
            n_shares += f.n_tokens[slot] > 0;
        }
        if (what >= 7 && what < 9 && pick(&f, 2) && f.n_tokens[slot] > 0) {
            evict_layer(&f, slot, pick(&f, 2) ? 2 : 0);
            n_evictions++;
        }
        if (what == 9 || f.n_tokens[slot] == LONGEST) release(&f, slot);
        CU_ASSERT_EQUAL(count_used(&f, n_all), n_all - kv_cache_free_pages(f.kv));
        for (int k = 0; i % 4 == 3 && k < SLOTS; k++)
            check_slot(&f, k);
    }
    CU_ASSERT(n_shares > 0 && n_evictions > 10);
    for (int slot = 0; slot < SLOTS; slot++)
        release(&f, slot);
    CU_ASSERT_EQUAL(kv_cache_free_pages(f.kv), n_all);
    end(&f);
}

static void histories_in_memory(void) {
    for (uint64_t seed = 1; seed <= 4; seed++)
        run_history(false, seed);
}

static void histories_on_disk(void) {
    for (uint64_t seed = 5; seed <= 6; seed++)
        run_history(true, seed);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"histories in memory", histories_in_memory},
                           {"histories where memory has not all pages", histories_on_disk},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv evict", tests);
}
