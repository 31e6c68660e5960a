/* tests/model/test_kv_tier.c: pages that leave memory and come back, beside a plain model of what they hold;
 * a file that is full, and one that brings other bytes than were written. */
#include <stdlib.h>
#include <string.h>

#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/model/kv_tier.h"
#include "tests/fixtures/harness.h"

enum {
    PAGES = 60,
    FRAMES = 9,
    RECORDS = PAGES - FRAMES + 1,
    BYTES = 2 * PAGE_FILE_ALIGNMENT,
    WORDS = BYTES / 4
};

static int pick(uint64_t *state, int n) {
    return (int)(harness_random(state) % (unsigned)n);
}

typedef struct tier {
    char *frames;
    page_file *file;
    kv_tier *tier;
} tier;

static tier open_tier(int n_records, page_file_engine engine) {
    tier t = {.frames = aligned_alloc(PAGE_FILE_ALIGNMENT, (size_t)(FRAMES + 1) * BYTES)};
    CHECK_OK(page_file_open("/tmp", (int64_t)n_records * BYTES, BYTES, 8, engine, &t.file));
    t.tier = kv_tier_open(&(kv_tier_shape){PAGES, FRAMES, BYTES, 2, t.frames, t.file});
    return t;
}

static void close_tier(tier *t) {
    kv_tier_close(t->tier);
    page_file_close(t->file, 60);
    free(t->frames);
}

/* The frame of a page that is held. */
static uint32_t *words_of(const tier *t, int32_t page, bool to_write) {
    return (uint32_t *)(void *)(t->frames + (size_t)kv_tier_wait(t->tier, page, to_write) * BYTES);
}

static void fill(const tier *t, int32_t page, uint32_t mark, kv_tier_change change) {
    kv_tier_hold(t->tier, page);
    uint32_t *words = words_of(t, page, true);
    for (int i = 0; i < WORDS; i++)
        words[i] = mark + (uint32_t)i;
    kv_tier_leave(t->tier, page, change);
}

static bool has(const tier *t, int32_t page, uint32_t mark) {
    const uint32_t *words = words_of(t, page, false);
    int n_wrong = 0;
    for (int i = 0; i < WORDS; i++)
        n_wrong += words[i] != mark + (uint32_t)i;
    return n_wrong == 0;
}

/* As the walk does it: some are held ahead of where they are looked at, and all are left. */
static void walk(const tier *t, const uint32_t *marks, uint64_t *state) {
    int32_t order[PAGES], n = 0;
    for (int32_t page = 0; page < PAGES; page++)
        if (marks[page]) order[n++] = page;
    kv_tier_begin_step(t->tier);
    for (int i = 0, held = 0; i < n; i++) {
        const int most = i + 1 + pick(state, FRAMES);
        while (held < n && held < most && kv_tier_try_hold(t->tier, order[held]))
            held++;
        if (held == i) kv_tier_hold(t->tier, order[held++]);
        CU_ASSERT(has(t, order[i], marks[order[i]]));
        kv_tier_leave(t->tier, order[i], KV_TIER_READ);
        if (i + 1 == n) CU_ASSERT_EQUAL(held, n);
    }
}

static void any_history(void) {
    for (int engine = 0; engine < N_PAGE_FILE_ENGINES; engine++) {
        tier t = open_tier(RECORDS, (page_file_engine)engine);
        uint32_t marks[PAGES] = {0}; /* 0: not in use */
        uint64_t state = 7 + (uint64_t)engine;
        for (uint32_t round = 1; round < 3000; round++) {
            const int32_t page = pick(&state, PAGES);
            const int what = pick(&state, 20);
            if (what == 0 && marks[page]) {
                kv_tier_remove(t.tier, page);
                marks[page] = 0;
            } else if (what < 13) {
                if (!marks[page]) kv_tier_add(t.tier, page);
                marks[page] = round * WORDS;
                fill(&t, page, marks[page], what % 2 ? KV_TIER_OPEN : KV_TIER_CLOSED);
            } else if (marks[page]) {
                kv_tier_hold(t.tier, page);
                CU_ASSERT(has(&t, page, marks[page]));
                kv_tier_leave(t.tier, page, KV_TIER_READ);
            }
            if (round % 100 == 0) walk(&t, marks, &state);
        }
        CU_ASSERT_EQUAL(kv_tier_n_lost(t.tier), 0);
        close_tier(&t);
    }
}

/* All but one that memory and file hold together are there; where they are full, a page is lost, with the
 * reason. */
static void full(void) {
    enum { FEW = 5 };
    tier t = open_tier(FEW + 1, PAGE_FILE_THREADS);
    for (int32_t page = 0; page < FRAMES + FEW; page++) {
        kv_tier_add(t.tier, page);
        fill(&t, page, 1000 * (uint32_t)page, KV_TIER_CLOSED);
    }
    CU_ASSERT_EQUAL(kv_tier_n_lost(t.tier), 0);
    for (int32_t page = 0; page < FRAMES + FEW; page++) {
        kv_tier_hold(t.tier, page);
        CU_ASSERT(has(&t, page, 1000 * (uint32_t)page));
        kv_tier_leave(t.tier, page, KV_TIER_READ);
    }
    /* The next two: the second one finds no room. */
    for (int32_t page = FRAMES + FEW; page < FRAMES + FEW + 2; page++) {
        kv_tier_add(t.tier, page);
        fill(&t, page, 1, KV_TIER_CLOSED);
    }
    char text[STATUS_TEXT_BYTES] = "";
    CU_ASSERT(kv_tier_is_lost(t.tier, FRAMES + FEW + 1, text) && strstr(text, "full") != NULL);
    CU_ASSERT_EQUAL(kv_tier_n_lost(t.tier), 1);
    for (int32_t page = FRAMES + FEW - 1; page < FRAMES + FEW + 2; page++)
        kv_tier_remove(t.tier, page);
    for (int32_t page = 0; page < FRAMES + FEW - 1; page++) {
        kv_tier_hold(t.tier, page);
        CU_ASSERT(has(&t, page, 1000 * (uint32_t)page));
        kv_tier_leave(t.tier, page, KV_TIER_READ);
    }
    kv_tier_add(t.tier, PAGES - 1);
    fill(&t, PAGES - 1, 77, KV_TIER_CLOSED);
    CU_ASSERT(!kv_tier_is_lost(t.tier, PAGES - 1, NULL));
    close_tier(&t);
}

/* As many pages as memory and file hold together: those that are held came from the file, and their records
 * are what the others need to leave memory. */
static void full_and_held(void) {
    enum { FEW = 30, SPARE = 2, ALL = FRAMES + FEW - SPARE };
    for (int engine = 0; engine < N_PAGE_FILE_ENGINES; engine++) {
        tier t = open_tier(FEW, (page_file_engine)engine);
        for (int32_t page = 0; page < ALL; page++) {
            kv_tier_add(t.tier, page);
            fill(&t, page, 1000 * (uint32_t)page, KV_TIER_CLOSED);
        }
        for (int32_t first = 0; first + FRAMES <= ALL; first++) {
            for (int32_t page = first; page < first + FRAMES; page++)
                kv_tier_hold(t.tier, page);
            for (int32_t page = first; page < first + FRAMES; page++) {
                CU_ASSERT(has(&t, page, 1000 * (uint32_t)page));
                kv_tier_leave(t.tier, page, KV_TIER_READ);
            }
        }
        CU_ASSERT_EQUAL(kv_tier_n_lost(t.tier), 0);
        close_tier(&t);
    }
}

/* What is damaged costs its own page only, which is all NaN. */
static void damaged(void) {
    tier t = open_tier(RECORDS, PAGE_FILE_THREADS);
    for (int32_t page = 0; page < PAGES; page++) {
        kv_tier_add(t.tier, page);
        fill(&t, page, 1000 * (uint32_t)page, KV_TIER_CLOSED);
    }
    fault_arm("page-file-flip", 0);
    int n_lost = 0;
    for (int32_t page = 0; page < PAGES; page++) {
        kv_tier_hold(t.tier, page);
        const bool good = has(&t, page, 1000 * (uint32_t)page), is_lost = kv_tier_is_lost(t.tier, page, NULL);
        CU_ASSERT(good == !is_lost);
        if (is_lost) CU_ASSERT(words_of(&t, page, false)[WORDS - 1] == UINT32_MAX);
        n_lost += is_lost;
        kv_tier_leave(t.tier, page, KV_TIER_READ);
    }
    fault_arm(NULL, 0);
    CU_ASSERT(n_lost == 1 && kv_tier_n_lost(t.tier) == 1);
    close_tier(&t);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"any history", any_history},
                           {"full", full},
                           {"full and held", full_and_held},
                           {"damaged", damaged},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv tier", tests);
}
