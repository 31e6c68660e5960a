/* tests/model/test_kv_walk.c: steps of sequences whose pages do not all lie in memory: what each layer's
 * attention sees is what was appended, in parts that cover it, whatever the steps; and steps that were not
 * expected. */
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/model/kv_walk.h"
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

typedef struct fixture {
    device *dev;
    page_file *file;
    kv_cache *kv;
    kv_walk *walk;
    int64_t n_tokens[SLOTS];
    uint64_t state;
} fixture;

static int pick(fixture *f, int n) {
    return (int)(harness_random(&f->state) % (unsigned)n);
}

static fixture begin(uint64_t seed) {
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
    CHECK_OK(cpu_device_open(PRECISION_BF16, 1, NULL, &f.dev));
    shape.format = device_kv_format(f.dev, HEADS, WIDTH, PAGE);
    shape.n_frames = kv_walk_least_frames(&shape);
    const int64_t n_pages = (LAYERS - 1) * shape.n_pages + kv_pool_pages(&shape, WINDOW);
    CU_ASSERT(shape.n_frames < n_pages / 2);
    const size_t bytes = kv_page_bytes(&shape.format);
    CHECK_OK(page_file_open("/tmp", (n_pages + KV_TIER_SPARE_RECORDS) * (int64_t)bytes, bytes, 16,
                            PAGE_FILE_IO_URING, &f.file));
    shape.file = f.file;
    CHECK_OK(kv_cache_open(f.dev, &shape, &f.kv));
    f.walk = kv_walk_open(f.kv, windows);
    return f;
}

static void end(fixture *f) {
    CU_ASSERT_EQUAL(kv_tier_n_lost(kv_cache_tier(f->kv)), 0);
    kv_walk_close(f->walk);
    kv_cache_close(f->kv);
    page_file_close(f->file, 60);
    f->dev->ops->close(f->dev);
}

/* The first word of the page that the operations see at a position. */
static uint32_t *word_of(const fixture *f, int layer, int slot, int64_t pos) {
    const kv_layer kv = kv_cache_layer(f->kv, layer);
    return (uint32_t *)(void *)((char *)kv.pages +
                                (size_t)kv_layer_table(&kv, slot)[pos / PAGE] * kv_page_bytes(&kv.format));
}

static uint32_t mark_of(int layer, int slot, int64_t pos) {
    return (uint32_t)((pos / PAGE * SLOTS + slot) * LAYERS + layer + 1);
}

/* The part's places are as they were appended; how many nodes of its spans it has. */
static int64_t check_part(const fixture *f, int layer, const span *spans, const kv_extent *e) {
    int64_t n_nodes = 0, n_wrong = 0;
    for (const span *s = spans + e->part.first_span; s < spans + e->part.last_span; s++) {
        const attend_nodes seen =
            attend_nodes_common(e->part.nodes, attend_nodes_seen(s->pos0, s->pos0 + s->n_rows - 1,
                                                                 windows[layer], ATTEND_NODE_LEVEL));
        const int64_t first = attend_first_position(s->pos0, windows[layer]), end = s->pos0 + s->n_rows;
        n_nodes += seen.last - seen.first;
        for (int64_t pos = seen.first * ATTEND_NODE; pos < seen.last * ATTEND_NODE && pos < end; pos += PAGE)
            if (pos + PAGE > first)
                n_wrong += *word_of(f, layer, s->slot, pos) != mark_of(layer, s->slot, pos);
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
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
                *word_of(f, layer, s->slot, pos) = mark_of(layer, s->slot, pos);
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
static void any_steps(void) {
    fixture f = begin(3);
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
static void unexpected_step(void) {
    fixture f = begin(4);
    const span first = {0, CHUNK, 0, 0, false}, other = {0, CHUNK, 2 * CHUNK, 0, false};
    CU_ASSERT(!run_step(&f, 1, &first));
    kv_cache_extend(f.kv, 0, CHUNK, 2 * CHUNK); /* what a load brought */
    for (int layer = 0; layer < LAYERS; layer++) {
        const int64_t kept = kv_cache_first_kept(f.kv, 0, layer),
                      from = kept > CHUNK ? kept : CHUNK / PAGE * PAGE;
        for (int64_t pos = from; pos < 2 * CHUNK; pos += PAGE) {
            const uint32_t mark = mark_of(layer, 0, pos);
            uint16_t row[WIDTH] = {(uint16_t)mark, (uint16_t)(mark >> 16)};
            kv_cache_write_rows(f.kv, 0, layer, KV_PART_K, 0, pos, 1, row);
        }
    }
    CU_ASSERT(!run_step(&f, 1, &other));
    end(&f);
}

/* Two groups of sequences in turns, as in a pipeline of two stages: each is expected behind the other. */
static void groups_in_turns(void) {
    enum { TURNS = 4 };
    fixture f = begin(5);
    for (int i = 0; i < 2 * TURNS; i++) {
        const int group = i % 2;
        const span spans[] = {{0, 1, i / 2, group, true}, {1, 1, i / 2, group + 2, true}};
        CU_ASSERT_EQUAL(run_step(&f, 2, spans), i >= 3);
    }
    end(&f);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"groups in turns", groups_in_turns},
                           {"any steps", any_steps},
                           {"unexpected step", unexpected_step},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv walk", tests);
}
