/* tests/model/test_kv_walk.c: steps of sequences whose pages do not all lie in memory: what each layer's
 * attention sees is what was appended, in parts that cover it, whatever the steps; and steps that were not
 * expected. With a file on the CPU; with host memory and a file on a device that does things late, which
 * nobody waits for, and on a GPU. */
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/model/kv_host.h"
#include "src/model/kv_walk.h"
#include "tests/fixtures/apart_device.h"
#include "tests/fixtures/device_arrays.h"
#include "tests/fixtures/harness.h"

enum {
    PAGE = 32,
    HEADS = 2,
    WIDTH = 64, /* a page of 16 KiB */
    LAYERS = 3,
    SLOTS = 4,
    LONGEST = 3 * ATTEND_NODE,
    WINDOW = 100,
    CHUNK = 3000,
    STEPS = 60,
};

static const int64_t windows[LAYERS] = {0, WINDOW, 0};

typedef enum place_kind { ON_CPU, LATE_WITH_HOST, LATE_WITH_BOTH, ON_GPU, N_PLACES } place_kind;

typedef struct fixture {
    device *dev;
    bool is_late;
    page_file *file;
    kv_host *host;
    kv_records records;
    kv_cache *kv;
    kv_walk *walk;
    int64_t n_tokens[SLOTS];
    uint64_t state;
    int n_waits;
} fixture;

static int pick(fixture *f, int n) {
    return (int)(harness_random(&f->state) % (unsigned)n);
}

/* ---- the first word of the page that operations see at a position ---- */

typedef struct access {
    device *dev;
    const void *pages;
    const int32_t *entry;
    size_t page_words;
    uint32_t mark;
    bool is_written; /* else it is looked whether another one is there */
} access;

/* Of operations that are queued: the device keeps fewer. */
static access accesses[1000];
static int n_accesses, n_others;

static void access_word(uint32_t *word, const access *a) {
    if (a->is_written)
        *word = a->mark;
    else
        n_others += *word != a->mark;
}

static void access_late(float *pages, size_t n, int i) {
    const access *a = &accesses[i];
    const int32_t frame = *(const int32_t *)apart_device_real(a->dev, a->entry);
    (void)n;
    access_word((uint32_t *)(void *)(pages + (size_t)frame * a->page_words), a);
}

/* As operations do: with what the table says when it is their turn. */
static void access_page(const fixture *f, int layer, int slot, int64_t pos, uint32_t mark, bool is_written) {
    const kv_layer kv = kv_cache_layer(f->kv, layer);
    const access a = {f->dev,
                      kv.pages,
                      kv_layer_table(&kv, slot) + pos / PAGE,
                      kv_page_bytes(&kv.format) / sizeof(uint32_t),
                      mark,
                      is_written};
    if (f->is_late) {
        accesses[n_accesses % 1000] = a;
        apart_device_queue(f->dev, access_late, kv.pages, 0, n_accesses++ % 1000);
        return;
    }
    int32_t frame;
    uint32_t word;
    f->dev->ops->copy_out(f->dev, &frame, a.entry, sizeof frame);
    CHECK_OK(f->dev->ops->sync(f->dev));
    char *at = (char *)kv.pages + (size_t)frame * kv_page_bytes(&kv.format);
    f->dev->ops->copy_out(f->dev, &word, at, sizeof word);
    CHECK_OK(f->dev->ops->sync(f->dev));
    access_word(&word, &a);
    if (is_written) f->dev->ops->copy_in(f->dev, at, &word, sizeof word);
}

/* ---- open and close ---- */

static void open_device_of(fixture *f, place_kind kind) {
    f->is_late = kind == LATE_WITH_HOST || kind == LATE_WITH_BOTH;
    if (kind == ON_CPU) CHECK_OK(cpu_device_open(PRECISION_BF16, 1, NULL, &f->dev));
    if (kind == ON_GPU) CHECK_OK(device_open(DEVICE_CUDA, 0, PRECISION_BF16, 1, &f->dev));
    if (f->is_late) CHECK_OK(apart_device_open((size_t)64 << 20, &f->dev));
}

/* Of host memory there is as little as may be where there is a file, too. */
static void open_records(fixture *f, place_kind kind, size_t page_bytes, int64_t n_pages) {
    const int32_t n = (int32_t)n_pages + KV_TIER_SPARE_RECORDS;
    const int32_t in_host = kind == LATE_WITH_HOST ? n : KV_HOST_LEAST_PAGES;
    if (kind != LATE_WITH_HOST)
        CHECK_OK(
            page_file_open("/tmp", n * (int64_t)page_bytes, page_bytes, 16, PAGE_FILE_IO_URING, &f->file));
    if (kind != ON_CPU)
        CHECK_OK(
            kv_host_open(&(kv_host_shape){f->dev, page_bytes, n, in_host, in_host, 2, f->file}, &f->host));
    f->records = f->host ? kv_host_records(f->host) : kv_records_of_file(f->file);
}

static fixture begin(uint64_t seed, place_kind kind) {
    fixture f = {.state = seed};
    kv_shape shape = {
        .n_layers = LAYERS,
        .windows = windows,
        .n_pages = SLOTS * LONGEST / PAGE,
        .n_slots = SLOTS,
        .longest_tokens = LONGEST,
        .max_rows = CHUNK,
        .n_turn = 2,
    };
    open_device_of(&f, kind);
    shape.format = device_kv_format(f.dev, HEADS, WIDTH, PAGE);
    shape.n_frames = kv_walk_least_frames(&shape);
    const int64_t n_pages = (LAYERS - 1) * shape.n_pages + kv_pool_pages(&shape, WINDOW);
    CU_ASSERT(shape.n_frames < n_pages / 2);
    open_records(&f, kind, kv_page_bytes(&shape.format), n_pages);
    shape.records = &f.records;
    CHECK_OK(kv_cache_open(f.dev, &shape, &f.kv));
    f.walk = kv_walk_open(f.kv, windows);
    f.n_waits = f.is_late ? apart_device_n_waits(f.dev) : 0;
    return f;
}

static void end(fixture *f) {
    if (f->is_late) CU_ASSERT_EQUAL(apart_device_n_waits(f->dev), f->n_waits);
    CHECK_OK(f->dev->ops->sync(f->dev));
    CU_ASSERT_EQUAL(n_others, 0);
    n_others = 0;
    CU_ASSERT_EQUAL(kv_tier_n_lost(kv_cache_tier(f->kv)), 0);
    kv_walk_close(f->walk);
    kv_cache_close(f->kv);
    kv_host_close(f->host);
    page_file_close(f->file, 60);
    f->dev->ops->close(f->dev);
}

/* ---- steps ---- */

static uint32_t mark_of(int layer, int slot, int64_t pos) {
    return (uint32_t)((pos / PAGE * SLOTS + slot) * LAYERS + layer + 1);
}

/* The part's places are as they were appended; how many nodes of its spans it has. */
static int64_t check_part(const fixture *f, int layer, const span *spans, const kv_extent *e) {
    int64_t n_nodes = 0;
    for (const span *s = spans + e->part.first_span; s < spans + e->part.last_span; s++) {
        const attend_nodes seen =
            attend_nodes_common(e->part.nodes, attend_nodes_seen(s->pos0, s->pos0 + s->n_rows - 1,
                                                                 windows[layer], ATTEND_NODE_LEVEL));
        const int64_t first = attend_first_position(s->pos0, windows[layer]), end = s->pos0 + s->n_rows;
        n_nodes += seen.last - seen.first;
        for (int64_t pos = seen.first * ATTEND_NODE; pos < seen.last * ATTEND_NODE && pos < end; pos += PAGE)
            if (pos + PAGE > first) access_page(f, layer, s->slot, pos, mark_of(layer, s->slot, pos), false);
    }
    return n_nodes;
}

/* Was it expected? */
static bool run_step(fixture *f, int n_spans, const span *spans) {
    const bool is_expected = kv_walk_announce(f->walk, n_spans, spans);
    for (const span *s = spans; s < spans + n_spans; s++)
        kv_cache_extend(f->kv, s->slot, s->pos0, s->pos0 + s->n_rows);
    kv_walk_begin(f->walk, n_spans, spans);
    for (int layer = 0; layer < LAYERS; layer++) {
        int64_t n_nodes = 0, n_wanted = 0;
        kv_walk_enter(f->walk, layer);
        for (const span *s = spans; s < spans + n_spans; s++) {
            for (int64_t pos = kv_pages_for(s->pos0, PAGE) * PAGE; pos < s->pos0 + s->n_rows; pos += PAGE)
                access_page(f, layer, s->slot, pos, mark_of(layer, s->slot, pos), true);
            const attend_nodes all =
                attend_nodes_seen(s->pos0, s->pos0 + s->n_rows - 1, windows[layer], ATTEND_NODE_LEVEL);
            n_wanted += all.last - all.first;
        }
        for (kv_extent e; kv_walk_next(f->walk, &e);)
            n_nodes += check_part(f, layer, spans, &e);
        CU_ASSERT_EQUAL(n_nodes, n_wanted);
    }
    return is_expected;
}

/* Chunks and single rows of some of the slots; now and then one is released, or goes on further behind, as
 * where a load ended. */
static void any_steps_on(place_kind kind) {
    fixture f = begin(3, kind);
    for (int i = 0; i < STEPS; i++) {
        span spans[SLOTS];
        int n_spans = 0, left = CHUNK;
        for (int slot = 0; slot < SLOTS; slot++) {
            const int n_rows = pick(&f, 2) ? 1 : 1 + pick(&f, left);
            if (f.n_tokens[slot] + 2 * CHUNK > LONGEST || pick(&f, 20) == 0) {
                kv_walk_rest(f.walk);
                kv_cache_release(f.kv, slot);
                f.n_tokens[slot] = 0;
            }
            if (pick(&f, 4) == 0 || left < SLOTS) continue;
            spans[n_spans++] = (span){CHUNK - left, n_rows, f.n_tokens[slot], slot, n_rows == 1};
            f.n_tokens[slot] += n_rows;
            left -= n_rows;
        }
        if (n_spans > 0) run_step(&f, n_spans, spans);
    }
    end(&f);
}

/* What rows see of a window moves further than was expected: pages that were held for that go. */
static void unexpected_step_on(place_kind kind) {
    fixture f = begin(4, kind);
    const span first = {0, CHUNK, 0, 0, false}, other = {0, CHUNK, 2 * CHUNK, 0, false};
    CU_ASSERT(!run_step(&f, 1, &first));
    kv_cache_extend(f.kv, 0, CHUNK, 2 * CHUNK); /* what a load brought */
    for (int layer = 0; layer < LAYERS; layer++) {
        const int64_t kept = kv_cache_first_kept(f.kv, 0, layer),
                      from = kept > CHUNK ? kept : CHUNK / PAGE * PAGE;
        for (int64_t pos = from; pos < 2 * CHUNK; pos += PAGE) {
            const uint32_t mark = mark_of(layer, 0, pos);
            char row[WIDTH * sizeof(float)] = {0};
            memcpy(row, &mark, sizeof mark);
            kv_cache_write_rows(f.kv, 0, layer, KV_PART_K, 0, pos, 1, row);
        }
    }
    CU_ASSERT(!run_step(&f, 1, &other));
    end(&f);
}

/* Two groups of sequences in turns, as in a pipeline of two stages: each is expected behind the other. */
static void groups_in_turns_on(place_kind kind) {
    enum { TURNS = 4 };
    fixture f = begin(5, kind);
    for (int i = 0; i < 2 * TURNS; i++) {
        const int group = i % 2;
        const span spans[] = {{0, 1, i / 2, group, true}, {1, 1, i / 2, group + 2, true}};
        CU_ASSERT_EQUAL(run_step(&f, 2, spans), i >= 3);
    }
    end(&f);
}

static void on_each(void (*body)(place_kind kind)) {
    for (place_kind kind = 0; kind < N_PLACES; kind++)
        if (kind != ON_GPU || device_count(DEVICE_CUDA, NULL) > 0) body(kind);
}

static void any_steps(void) {
    on_each(any_steps_on);
}

static void unexpected_step(void) {
    on_each(unexpected_step_on);
}

static void groups_in_turns(void) {
    on_each(groups_in_turns_on);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"groups in turns", groups_in_turns},
                           {"any steps", any_steps},
                           {"unexpected step", unexpected_step},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv walk", tests);
}
