/* tests/engine/test_step.c: messages of a step and their replies, and the pages of the KV cache. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "src/base/memory.h"
#include "src/engine/step.h"
#include "src/model/kv_cache.h"
#include "tests/fixtures/harness.h"

enum { N_SLOTS = 7, MAX_ROWS = 50 };

static int pick(uint64_t *state, int n) {
    return (int)(harness_random(state) % (unsigned)n);
}

static void fill(uint64_t *state, void *data, size_t n) {
    for (size_t i = 0; i < n; i++)
        ((char *)data)[i] = (char)harness_random(state);
}

/* ---- steps ---- */

static step random_step(uint64_t *state) {
    step s = step_new(N_SLOTS, MAX_ROWS);
    s.kind = (step_kind)pick(state, STEP_STOP + 1);
    s.save = (step_save){pick(state, 1000), (int64_t)harness_random(state), pick(state, 2)};
    s.n_extents = pick(state, N_SLOTS + 1);
    s.n_releases = pick(state, N_SLOTS + 1);
    s.n_starts = pick(state, N_SLOTS + 1);
    s.n_spans = pick(state, N_SLOTS + 1);
    s.n_rows = pick(state, MAX_ROWS + 1);
    for (int i = 0; i < s.n_releases; i++)
        s.releases[i] = (int32_t)harness_random(state);
    for (int i = 0; i < s.n_starts; i++)
        s.starts[i] = (step_start){.slot = pick(state, N_SLOTS),
                                   .sequence_id = (int64_t)harness_random(state),
                                   .sampling = {.temperature = pick(state, 100) / 7.0,
                                                .top_k = (int64_t)harness_random(state),
                                                .top_p = 0.5,
                                                .seed = pick(state, 1000),
                                                .n_logprobs = pick(state, 20),
                                                .ignore_eos = pick(state, 2)}};
    for (int i = 0; i < s.n_spans; i++)
        s.spans[i] =
            (step_span){pick(state, N_SLOTS),           pick(state, MAX_ROWS), (span_want)pick(state, 3),
                        (int64_t)harness_random(state), pick(state, 2),        pick(state, 2)};
    for (int i = 0; i < s.n_extents; i++)
        s.extents[i] = (step_extent){pick(state, N_SLOTS), (int64_t)harness_random(state),
                                     (int64_t)harness_random(state), pick(state, 1000)};
    fill(state, s.tokens, (size_t)s.n_rows * sizeof *s.tokens);
    fill(state, s.targets, (size_t)s.n_rows * sizeof *s.targets);
    return s;
}

static bool same_start(const step_start *a, const step_start *b) {
    const sampling_options *x = &a->sampling, *y = &b->sampling;
    return a->slot == b->slot && a->sequence_id == b->sequence_id && x->temperature == y->temperature &&
           x->top_k == y->top_k && x->top_p == y->top_p && x->min_p == y->min_p &&
           x->repetition_penalty == y->repetition_penalty && x->seed == y->seed &&
           x->max_tokens == y->max_tokens && x->n_logprobs == y->n_logprobs && x->ignore_eos == y->ignore_eos;
}

static bool same_step(const step *a, const step *b) {
    bool same = a->kind == b->kind && a->n_releases == b->n_releases && a->n_starts == b->n_starts &&
                a->n_spans == b->n_spans && a->n_rows == b->n_rows && a->n_extents == b->n_extents &&
                a->save.number == b->save.number && a->save.row0 == b->save.row0 &&
                a->save.is_last == b->save.is_last;
    for (int i = 0; same && i < a->n_extents; i++) {
        const step_extent *x = &a->extents[i], *y = &b->extents[i];
        same =
            x->slot == y->slot && x->pos0 == y->pos0 && x->n_tokens == y->n_tokens && x->source == y->source;
    }
    for (int i = 0; same && i < a->n_releases; i++)
        same = a->releases[i] == b->releases[i];
    for (int i = 0; same && i < a->n_starts; i++)
        same = same_start(&a->starts[i], &b->starts[i]);
    for (int i = 0; same && i < a->n_spans; i++) {
        const step_span *x = &a->spans[i], *y = &b->spans[i];
        same = x->slot == y->slot && x->n_rows == y->n_rows && x->want == y->want && x->pos0 == y->pos0 &&
               x->is_generated == y->is_generated && x->is_probed == y->is_probed;
    }
    for (int i = 0; same && i < a->n_rows; i++)
        same = a->tokens[i] == b->tokens[i] && a->targets[i] == b->targets[i];
    return same;
}

/* What is read is what was written, into a step that held another; exactly the told bytes are used. */
static void steps_come_back(void) {
    uint64_t state = 1;
    step read = step_new(N_SLOTS, MAX_ROWS);
    for (int round = 0; round < 500; round++) {
        step s = random_step(&state);
        size_t n = 0;
        char *bytes = mem_new(1, step_max_bytes(N_SLOTS, MAX_ROWS) + 1);
        n = step_write(&s, bytes);
        CU_ASSERT(n <= step_max_bytes(N_SLOTS, MAX_ROWS));
        /* A copy of just that size, at an odd address: a message promises no alignment. */
        char *exact = mem_new(1, n + 1);
        memcpy(exact + 1, bytes, n);
        step_read(exact + 1, n, &read);
        CU_ASSERT(same_step(&s, &read));
        step_clear(&s);
        CU_ASSERT(s.kind == STEP_ROWS &&
                  s.n_releases + s.n_starts + s.n_spans + s.n_rows + s.n_extents == 0 && s.save.number == 0);
        step_free(&s);
        free(bytes);
        free(exact);
    }
    step_free(&read);
    CU_ASSERT(read.tokens == NULL);
}

static void largest_step(void) {
    uint64_t state = 2;
    step s = random_step(&state), read = step_new(N_SLOTS, MAX_ROWS);
    s.n_releases = s.n_starts = s.n_spans = s.n_extents = N_SLOTS;
    s.n_rows = MAX_ROWS;
    size_t most = step_max_bytes(N_SLOTS, MAX_ROWS);
    char *bytes = mem_new(1, most);
    CU_ASSERT(step_write(&s, bytes) == most);
    step_read(bytes, most, &read);
    CU_ASSERT(same_step(&s, &read));
    free(bytes);
    step_free(&s);
    step_free(&read);
}

static void replies_come_back(void) {
    uint64_t state = 3;
    step_reply read = step_reply_new(N_SLOTS, MAX_ROWS);
    size_t most = step_reply_max_bytes(N_SLOTS, MAX_ROWS);
    for (int round = 0; round < 300; round++) {
        step_reply r = step_reply_new(N_SLOTS, MAX_ROWS);
        bool full = round == 0;
        r.n_choices = full ? N_SLOTS : pick(&state, N_SLOTS + 1);
        r.n_scores = full ? MAX_ROWS : pick(&state, MAX_ROWS + 1);
        fill(&state, r.choices, (size_t)r.n_choices * sizeof *r.choices);
        fill(&state, r.scores, (size_t)r.n_scores * sizeof *r.scores);
        char *bytes = mem_new(1, most + 1);
        size_t n = step_reply_write(&r, bytes + 1);
        CU_ASSERT(n <= most && (!full || n == most));
        step_reply_read(bytes + 1, &read);
        CU_ASSERT(read.n_choices == r.n_choices && read.n_scores == r.n_scores);
        CU_ASSERT(memcmp(read.choices, r.choices, (size_t)r.n_choices * sizeof *r.choices) == 0);
        CU_ASSERT(memcmp(read.scores, r.scores, (size_t)r.n_scores * sizeof *r.scores) == 0);
        free(bytes);
        step_reply_free(&r);
    }
    step_reply_free(&read);
}

/* ---- pages ---- */

static device *open_device(void) {
    device *dev = NULL;
    CHECK_OK(cpu_device_open(PRECISION_BF16, 1, NULL, &dev));
    return dev;
}

static void page_arithmetic(void) {
    CU_ASSERT(kv_pages_for(0, 16) == 0 && kv_pages_for(1, 16) == 1 && kv_pages_for(16, 16) == 1);
    CU_ASSERT(kv_pages_for(17, 16) == 2 && kv_pages_for((int64_t)1 << 40, 64) == (int64_t)1 << 34);
    kv_format bf16 = kv_format_of(DTYPE_BF16, KV_PANELS, 8, 128, 64),
              f32 = kv_format_of(DTYPE_F32, KV_ROWS, 8, 128, 64);
    CU_ASSERT(kv_page_bytes(&bf16) == 2 * 8 * 64 * 128 * 2);
    CU_ASSERT(kv_page_bytes(&f32) == 2 * 8 * 64 * 128 * 4);
    kv_format padded = kv_format_of(DTYPE_BF16, KV_PANELS, 3, 20, 32);
    CU_ASSERT(kv_page_bytes(&padded) == 3 * 32 * (20 + 32) * 2);
}

/* A cache of three layers, of which the second has a window, and what its slots should have. */
enum {
    OWN_LAYERS = 3,
    OWN_PAGE = 32,
    OWN_PAGES = 260,
    OWN_WINDOW = 100,
    OWN_LONGEST = 700,
    OWN_ROWS = 48,
    OWN_ALL = OWN_LAYERS * OWN_PAGES /* pages at most */
};

static const int64_t own_windows[OWN_LAYERS] = {0, OWN_WINDOW, 0};

static kv_shape shape_of_owned(void) {
    return (kv_shape){
        .format = kv_format_of(DTYPE_BF16, KV_PANELS, 2, 8, OWN_PAGE),
        .n_layers = OWN_LAYERS,
        .windows = own_windows,
        .n_pages = OWN_PAGES,
        .n_slots = N_SLOTS,
        .longest_tokens = OWN_LONGEST,
        .max_rows = OWN_ROWS,
    };
}

/* The pages of the sequences in one layer: what the next row and its window need is there, nothing that lies
 * a block before it, and none that was owned before. Returns how many they are. */
static int64_t check_owners(const kv_cache *kv, int layer, const int64_t *begin, const int64_t *end,
                            bool *owned) {
    kv_layer pages = kv_cache_layer(kv, layer);
    int64_t window = own_windows[layer], n_owned = 0;
    for (int i = 0; i < N_SLOTS; i++) {
        int64_t seen = window && begin[i] >= window ? begin[i] - window + 1 : 0;
        int64_t kept = kv_cache_first_kept(kv, i, layer);
        CU_ASSERT(kept % OWN_PAGE == 0 && kept <= seen / ATTEND_BLOCK * ATTEND_BLOCK);
        CU_ASSERT(kept + ATTEND_BLOCK + OWN_PAGE > seen && (window || kept == 0));
        for (int64_t k = kept / OWN_PAGE; k < kv_pages_for(end[i], OWN_PAGE); k++, n_owned++) {
            int32_t id = kv_layer_table(&pages, i)[k];
            CU_ASSERT_FATAL(id >= 0 && id < OWN_ALL && !owned[id]);
            owned[id] = true;
        }
    }
    return n_owned;
}

/* Slots grow and are released in any order. */
static void every_page_has_one_owner(void) {
    uint64_t state = 4;
    device *dev = open_device();
    kv_shape shape = shape_of_owned();
    kv_cache *kv = NULL;
    CHECK_OK(kv_cache_open(dev, &shape, &kv));
    int64_t begin[N_SLOTS] = {0}, end[N_SLOTS] = {0};
    int64_t all = kv_cache_free_pages(kv), had_all = 0; /* of layer 0 */
    int32_t known[N_SLOTS][OWN_PAGES];
    for (int round = 0; round < 5000; round++) {
        int slot = pick(&state, N_SLOTS);
        int64_t had = kv_pages_for(end[slot], OWN_PAGE), to = end[slot] + pick(&state, OWN_ROWS + 1);
        int64_t n = kv_pages_for(to, OWN_PAGE);
        if (pick(&state, 60) == 0 || had_all + n - had > OWN_PAGES || to > OWN_LONGEST) {
            kv_cache_release(kv, slot);
            had_all -= had;
            begin[slot] = end[slot] = 0;
        } else {
            begin[slot] = end[slot];
            end[slot] = to;
            kv_cache_extend(kv, slot, begin[slot], to);
            had_all += n - had;
            const int32_t *table = kv_cache_table(kv, slot, 0);
            CU_ASSERT(had == 0 || memcmp(known[slot], table, (size_t)had * sizeof *table) == 0);
            if (n) memcpy(known[slot], table, (size_t)n * sizeof *table);
        }
        bool owned[OWN_ALL] = {false};
        int64_t n_owned = 0;
        for (int l = 0; l < OWN_LAYERS; l++)
            n_owned += check_owners(kv, l, begin, end, owned);
        CU_ASSERT_EQUAL(kv_cache_free_pages(kv), all - n_owned);
    }
    kv_cache_close(kv);
    dev->ops->close(dev);
}

/* All layers have one pool, which is as large as it says, and tables of their own. */
static void layers_share_a_pool(void) {
    device *dev = open_device();
    kv_shape shape = shape_of_owned();
    kv_cache *kv = NULL;
    CHECK_OK(kv_cache_open(dev, &shape, &kv));
    kv_layer layers[OWN_LAYERS];
    int64_t n_pages = 0;
    for (int l = 0; l < OWN_LAYERS; l++) {
        layers[l] = kv_cache_layer(kv, l);
        n_pages += kv_pool_pages(&shape, own_windows[l]);
        CU_ASSERT(layers[l].format.page_tokens == OWN_PAGE && layers[l].pages == layers[0].pages);
        CU_ASSERT(layers[l].table_pages == kv_pages_for(OWN_LONGEST, OWN_PAGE));
        CU_ASSERT(l == 0 || layers[l].tables != layers[l - 1].tables);
    }
    CU_ASSERT(kv_cache_free_pages(kv) == n_pages && n_pages < OWN_ALL);
    memset(layers[0].pages, 1, (size_t)n_pages * kv_page_bytes(&shape.format)); /* ours */
    kv_cache_close(kv);
    kv_cache_close(NULL);
    dev->ops->close(dev);
}

/* Rows of a sequence as they should be, and a thread that reads pieces of them. */
enum {
    ROW_LAYERS = 2,
    ROW_HEADS = 3,
    ROW_WIDTH = 8,
    ROW = ROW_HEADS * ROW_WIDTH,
    ROW_TOKENS = 70,
    N_READERS = 4
};

typedef uint16_t all_rows[ROW_LAYERS][N_KV_PARTS][ROW_TOKENS][ROW];

typedef struct reader {
    kv_cache *kv;
    const all_rows *want;
    uint64_t state;
    int n_wrong;
} reader;

static void *read_pieces(void *arg) {
    reader *r = arg;
    uint16_t got[ROW_TOKENS][ROW];
    for (int round = 0; round < 30000; round++) {
        int l = pick(&r->state, ROW_LAYERS), part = pick(&r->state, N_KV_PARTS);
        int pos = pick(&r->state, ROW_TOKENS), n = 1 + pick(&r->state, ROW_TOKENS - pos);
        status st = kv_cache_read(r->kv, 0, l, (kv_part)part, pos, n, got);
        r->n_wrong += st != STATUS_OK || memcmp(got, (*r->want)[l][part][pos], (size_t)n * sizeof got[0]);
    }
    return NULL;
}

/* All at once, as the last save of a run does it. */
static void check_reading(kv_cache *kv, const all_rows *want) {
    reader readers[N_READERS];
    pthread_t threads[N_READERS];
    for (int i = 0; i < N_READERS; i++) {
        readers[i] = (reader){kv, want, 100 + (uint64_t)i, 0};
        CU_ASSERT_FATAL(pthread_create(&threads[i], NULL, read_pieces, &readers[i]) == 0);
    }
    for (int i = 0; i < N_READERS; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL(readers[i].n_wrong, 0);
    }
}

/* Rows come back as they went in, whatever pieces they are moved in, and other rows stay as they were. */
static void check_rows_of(device *dev) {
    enum { PAGE_TOKENS = 32, N_PAGES = 9 };
    uint64_t state = 6;
    kv_shape shape = {
        .format = device_kv_format(dev, ROW_HEADS, ROW_WIDTH, PAGE_TOKENS),
        .n_layers = ROW_LAYERS,
        .n_pages = N_PAGES,
        .n_slots = 2,
        .longest_tokens = ROW_TOKENS,
        .max_rows = ROW_TOKENS,
    };
    kv_cache *kv = NULL;
    CHECK_OK(kv_cache_open(dev, &shape, &kv));
    kv_cache_extend(kv, 1, 0, PAGE_TOKENS * 2 + 1); /* so that page ids do not begin at 0 */
    kv_cache_extend(kv, 0, 0, ROW_TOKENS);
    all_rows want;
    fill(&state, want, sizeof want);
    for (int l = 0; l < ROW_LAYERS; l++)
        for (int part = 0; part < N_KV_PARTS; part++)
            for (int pos = 0, n; pos < ROW_TOKENS; pos += n) {
                n = 1 + pick(&state, 40);
                if (n > ROW_TOKENS - pos) n = ROW_TOKENS - pos;
                kv_cache_write(kv, 0, l, (kv_part)part, pos, n, want[l][part][pos]);
            }
    CHECK_OK(dev->ops->sync(dev));
    check_reading(kv, (const all_rows *)&want);
    /* The layouts of kv_page.h: an element of the second page's keys, and one of its values. */
    const kv_layer layer = kv_cache_layer(kv, 1);
    const size_t n = kv_page_elements(&shape.format), keys = ROW * PAGE_TOKENS;
    const bool is_rows = shape.format.layout == KV_ROWS;
    uint16_t *page = mem_new(n, sizeof *page);
    int32_t id;
    dev->ops->copy_out(dev, &id, kv_layer_table(&layer, 0) + 1, sizeof id);
    CHECK_OK(dev->ops->sync(dev));
    dev->ops->copy_out(dev, page, (const uint16_t *)layer.pages + (size_t)id * n, n * sizeof *page);
    CHECK_OK(dev->ops->sync(dev));
    const size_t key = is_rows ? 21 * ROW_WIDTH + 3 : 16 * ROW_WIDTH + (3 / 2 * 16 + 5) * 2 + 3 % 2,
                 value = is_rows ? 7 * ROW_WIDTH + 1 : 7 / 2 * 32 + 1 * 2 + 7 % 2;
    CU_ASSERT(page[2 * PAGE_TOKENS * ROW_WIDTH + key] ==
              want[1][KV_PART_K][PAGE_TOKENS + 21][2 * ROW_WIDTH + 3]);
    CU_ASSERT(page[keys + value] == want[1][KV_PART_V][PAGE_TOKENS + 7][1]);
    free(page);
    kv_cache_close(kv);
}

static void rows_move_between_layouts(void) {
    const device_kind kinds[] = {DEVICE_CPU, DEVICE_CUDA};
    for (int i = 0; i < 2; i++) {
        device *dev = NULL;
        if (device_count(kinds[i], NULL) < 1) continue;
        if (!CHECK_OK(device_open(kinds[i], 0, PRECISION_BF16, 1, &dev))) continue;
        check_rows_of(dev);
        dev->ops->close(dev);
    }
}

static void pool_that_is_too_large(void) {
    device *dev = open_device();
    kv_shape shape = {
        .format = kv_format_of(DTYPE_BF16, KV_PANELS, 128, 256, 1024),
        .n_layers = 1000,
        .n_pages = INT32_MAX / 1024,
        .n_slots = 4,
        .longest_tokens = 1,
        .max_rows = 1,
    };
    kv_cache *kv = NULL;
    CU_ASSERT(kv_cache_open(dev, &shape, &kv) == STATUS_FAILED && kv == NULL);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "KV cache: out of memory: wanted %zu bytes",
             (size_t)1000 * (INT32_MAX / 1024) * kv_page_bytes(&shape.format));
    CU_ASSERT(strstr(status_text(), wanted) != NULL);
    dev->ops->close(dev);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"steps come back", steps_come_back},
        {"largest step", largest_step},
        {"replies come back", replies_come_back},
        {"page arithmetic", page_arithmetic},
        {"every page has one owner", every_page_has_one_owner},
        {"layers share a pool", layers_share_a_pool},
        {"rows move between layouts", rows_move_between_layouts},
        {"pool that is too large", pool_that_is_too_large},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "step", tests);
}
