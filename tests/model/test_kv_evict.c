/* tests/model/test_kv_evict.c: random histories of sequences that grow, begin with the pages of others, lose
 * tokens and end, in pages of elements and of codes, all in memory or not: each head of each layer has the
 * rows that a list of rows has, which loses what is evicted; and those that come see them exactly or coded.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "src/base/memory.h"
#include "src/model/kv_cache.h"
#include "tests/fixtures/device_arrays.h"
#include "tests/fixtures/harness.h"

enum {
    HEADS = 4, /* so many that pages of codes are whole sectors */
    WIDTH = 64,
    ROW = WIDTH * 2, /* bytes */
    LAYERS = 3,
    SLOTS = 4,
    LONGEST = 1280,
    WINDOW = 100,
    MOST_ROWS = 150, /* of an append */
    OPERATIONS = 300,
};

static const int64_t windows[LAYERS] = {0, WINDOW, 0};

/* What a head of a layer should have of a sequence: rows of K and V, by place, as they were put: before they
 * were rounded to codes, of which each has one of its own, or many together. */
typedef struct rows {
    char (*at[N_KV_PARTS])[ROW]; /* [LONGEST] */
    int64_t n;
} rows;

typedef struct fixture {
    device *dev;
    page_file *file;
    kv_records records;
    kv_cache *kv;
    kv_format format;
    rows model[SLOTS][LAYERS][HEADS];
    int64_t n_tokens[SLOTS]; /* positions so far */
    bool is_evicted[SLOTS];
    uint64_t state;
} fixture;

static int64_t pick(fixture *f, int64_t n) {
    return (int64_t)(harness_random(&f->state) % (uint64_t)n);
}

static fixture begin(kv_layout layout, int page_tokens, bool has_file, uint64_t seed) {
    fixture f = {.state = seed};
    kv_shape shape = {
        .n_layers = LAYERS,
        .windows = windows,
        .n_pages = SLOTS * LONGEST / page_tokens,
        .n_slots = SLOTS,
        .longest_tokens = LONGEST,
        .max_rows = MOST_ROWS,
        .evicts = true,
        .n_near_blocks = 1,
        .n_turn = 2,
    };
    CHECK_OK(cpu_device_open(PRECISION_BF16, 1, NULL, &f.dev));
    f.dev->kv_layout = layout;
    f.format = shape.format = device_kv_format(f.dev, HEADS, WIDTH, page_tokens);
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

/* New rows of one part, behind those of their block: in int4 rows of a block get their codes together. */
static void append_part(fixture *f, int slot, int layer, kv_part part, int64_t place, int64_t n) {
    const int64_t first = place / ATTEND_BLOCK * ATTEND_BLOCK, n_put = place + n - first;
    char(*in)[ROW] = mem_new((size_t)(n_put * HEADS), ROW);
    for (int64_t i = 0; i < n_put * HEADS; i++) {
        rows *r = &f->model[slot][layer][i % HEADS];
        uint16_t *row = (uint16_t *)(void *)r->at[part][first + i / HEADS];
        for (int k = 0; first + i / HEADS >= place && k < WIDTH; k++)
            row[k] = bf16_of_float((float)pick(f, 2001) / 1000 - 1);
        memcpy(in[i], row, ROW);
        r->n = place + n;
    }
    kv_cache_write(f->kv, slot, layer, part, first, n_put, in);
    free(in);
}

/* All rows of a head, as those that come see them: as they were put, or what their codes say. */
static void see(const fixture *f, const rows *r, kv_part part, char (*out)[ROW]) {
    const kv_format *form = &f->format;
    char *page = mem_new(kv_page_bytes(form), 1);
    memcpy(out, r->at[part], (size_t)r->n * ROW);
    for (int64_t at = 0; kv_is_coded(form) && at < r->n; at += KV_INT4_PLACES) {
        if (at % ATTEND_BLOCK < attend_exact_places(r->n, attend_block_of(at))) continue;
        for (int i = 0; i < KV_INT4_PLACES; i += form->layout == KV_INT4 ? KV_INT4_PLACES : 1) {
            const int n = form->layout == KV_INT4 ? KV_INT4_PLACES : 1;
            kv_put_rows(form, page, part, 0, 0, n, out[at + i], ROW);
            kv_get_rows(form, page, part, 0, 0, n, out[at + i], ROW);
        }
    }
    free(page);
}

static void append(fixture *f, int slot) {
    const int64_t left = LONGEST - f->n_tokens[slot], n = 1 + pick(f, left < MOST_ROWS ? left : MOST_ROWS);
    kv_cache_settle(f->kv);
    kv_cache_extend(f->kv, slot, f->n_tokens[slot], f->n_tokens[slot] + n);
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++)
        append_part(f, slot, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS),
                    f->n_tokens[slot] - kv_cache_removed(f->kv, i / N_KV_PARTS)[slot], n);
    f->n_tokens[slot] += n;
}

/* Begins with whole pages, or blocks, of a sequence that has all of its own. */
static void share(fixture *f, int from, int to) {
    const int64_t unit = kv_is_coded(&f->format) ? ATTEND_BLOCK : f->format.page_tokens,
                  n = (f->n_tokens[from] / unit - pick(f, 3)) * unit;
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

/* The rows of a head that stay, as rows that come see them. */
static void keep_rows(const fixture *f, rows *r, const int32_t *kept, int64_t n_kept) {
    char(*seen)[ROW] = mem_new((size_t)r->n, ROW);
    for (int part = 0; part < N_KV_PARTS; part++) {
        see(f, r, (kv_part)part, seen);
        for (int64_t i = 0; i < n_kept; i++)
            memcpy(r->at[part][i], seen[kept[i]], ROW);
    }
    r->n = n_kept;
    free(seen);
}

/* Of each head any places stay, or first ones where they are, too. */
static void evict_layer(fixture *f, int slot, int layer) {
    const int64_t n = f->model[slot][layer][0].n, n_kept = 1 + pick(f, n);
    const bool are_all_first = pick(f, 3) == 0;
    int32_t *kept = mem_new((size_t)(HEADS * n_kept), sizeof *kept);
    for (int head = 0; head < HEADS; head++) {
        int32_t *mine = kept + head * n_kept;
        const int64_t n_first = are_all_first ? n_kept : pick(f, 2) ? pick(f, n_kept + 1) : 0;
        for (int64_t place = 0, to = 0; to < n_kept; place++) {
            const int64_t n_left = n - place, n_wanted = n_kept - to;
            if (place >= n_first && pick(f, n_left) >= n_wanted) continue;
            mine[to++] = (int32_t)place;
        }
        keep_rows(f, &f->model[slot][layer][head], mine, n_kept);
    }
    kv_cache_evict(f->kv, slot, layer, n, n_kept, kept);
    CU_ASSERT_EQUAL(kv_cache_removed(f->kv, layer)[slot], f->n_tokens[slot] - n_kept);
    CU_ASSERT_EQUAL(kv_cache_end_page(f->kv, slot, layer), kv_pages_for(n_kept, f->format.page_tokens));
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
    char(*seen)[ROW] = mem_new(LONGEST, ROW), (*out)[ROW] = mem_new(LONGEST * HEADS, ROW);
    for (int i = 0; f->n_tokens[slot] > 0 && i < LAYERS * N_KV_PARTS * HEADS; i++) {
        const int layer = i / HEADS / N_KV_PARTS, head = i % HEADS;
        const kv_part part = (kv_part)(i / HEADS % N_KV_PARTS);
        const rows *r = &f->model[slot][layer][head];
        const int64_t first = kv_cache_first_kept(f->kv, slot, layer);
        see(f, r, part, seen);
        CHECK_OK(kv_cache_read(f->kv, slot, layer, part, first, r->n - first, out));
        for (int64_t place = first; place < r->n; place++)
            n_wrong += memcmp(out[(place - first) * HEADS + head], seen[place], ROW) != 0;
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    free(seen);
    free(out);
}

/* Pages are free, or in a table: none is lost, and none is in two tables but where it is shared. */
static int64_t count_used(const fixture *f, int64_t n_all) {
    bool *used = mem_new((size_t)n_all, 1);
    int64_t n = 0;
    for (int i = 0; i < SLOTS * LAYERS; i++) {
        const int slot = i / LAYERS, layer = i % LAYERS;
        const int32_t *table = kv_cache_table(f->kv, slot, layer);
        for (int64_t k = kv_cache_first_kept(f->kv, slot, layer) / f->format.page_tokens;
             k < kv_cache_end_page(f->kv, slot, layer); k++) {
            n += !used[table[k]];
            used[table[k]] = true;
        }
    }
    free(used);
    return n;
}

static void run_history(kv_layout layout, int page_tokens, bool has_file, uint64_t seed) {
    fixture f = begin(layout, page_tokens, has_file, seed);
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
        run_history(KV_PANELS, 32, false, seed);
}

static void histories_of_codes(void) {
    run_history(KV_INT8, 32, false, 11);
    run_history(KV_INT8, 256, false, 12);
    run_history(KV_INT4, 64, false, 13);
    run_history(KV_INT4, 128, false, 14);
}

static void histories_on_disk(void) {
    for (uint64_t seed = 5; seed <= 6; seed++)
        run_history(KV_PANELS, 32, true, seed);
    run_history(KV_INT8, 128, true, 7);
    run_history(KV_INT4, 256, true, 8);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"histories in memory", histories_in_memory},
                           {"histories of codes", histories_of_codes},
                           {"histories where memory has not all pages", histories_on_disk},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv evict", tests);
}
