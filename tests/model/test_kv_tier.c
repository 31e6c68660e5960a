/* tests/model/test_kv_tier.c: pages that leave memory and come back, beside a plain model of what they hold;
 * records that are full, and a file that brings other bytes than were written. In memory of the host with a
 * file; and in that of a device that does things late, or of a GPU, with host memory, alone and with a file.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/model/kv_host.h"
#include "src/model/kv_tier.h"
#include "tests/fixtures/apart_device.h"
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

typedef enum place_kind {
    WITH_URING,
    WITH_THREADS,
    LATE_WITH_HOST,
    LATE_WITH_BOTH,
    GPU_WITH_BOTH,
    N_PLACES
} place_kind;

typedef struct tier {
    bool is_late;
    device *dev; /* NULL: the frames are the host's */
    char *frames;
    page_file *file;
    kv_host *host;
    kv_records records;
    kv_tier *tier;
} tier;

static bool is_here(place_kind kind) {
    return kind != GPU_WITH_BOTH || device_count(DEVICE_CUDA, NULL) > 0;
}

/* So many records, of which a quarter is in host memory where the others are in a file. */
static void open_records(tier *t, int n_records, place_kind kind) {
    const bool has_file = kind != LATE_WITH_HOST;
    const int n_host = !t->dev ? 0 : has_file ? n_records / 4 : n_records;
    const int n_file = n_host > 0 ? n_records - n_host + 1 : n_records;
    if (has_file)
        CHECK_OK(page_file_open("/tmp", (int64_t)n_file * BYTES, BYTES, 8,
                                kind == WITH_URING ? PAGE_FILE_IO_URING : PAGE_FILE_THREADS, &t->file));
    if (t->dev)
        CHECK_OK(
            kv_host_open(&(kv_host_shape){t->dev, BYTES, n_records, n_host, n_host, 2, t->file}, &t->host));
    t->records = t->dev ? kv_host_records(t->host) : kv_records_of_file(t->file);
}

static tier open_tier(int n_records, place_kind kind) {
    const size_t bytes = (size_t)(FRAMES + 1) * BYTES;
    tier t = {.is_late = kind == LATE_WITH_HOST || kind == LATE_WITH_BOTH};
    void *frames = NULL;
    if (t.is_late) CHECK_OK(apart_device_open(bytes, &t.dev));
    if (kind == GPU_WITH_BOTH) CHECK_OK(device_open(DEVICE_CUDA, 0, PRECISION_BF16, 1, &t.dev));
    if (t.dev)
        CHECK_OK(t.dev->ops->alloc(t.dev, bytes, &frames));
    else
        frames = aligned_alloc(PAGE_FILE_ALIGNMENT, bytes);
    t.frames = frames;
    open_records(&t, n_records, kind);
    CHECK_OK(kv_tier_open(&(kv_tier_shape){PAGES, FRAMES, BYTES, 2, t.dev, t.frames, t.records}, &t.tier));
    return t;
}

static void close_tier(tier *t) {
    if (t->dev) CHECK_OK(t->dev->ops->sync(t->dev));
    kv_tier_close(t->tier);
    kv_host_close(t->host);
    page_file_close(t->file, 60);
    if (t->dev)
        t->dev->ops->release(t->dev, t->frames);
    else
        free(t->frames);
    if (t->dev) t->dev->ops->close(t->dev);
}

/* The frame of a page that is held. */
static char *frame_of(const tier *t, int32_t page, bool to_write) {
    return t->frames + (size_t)kv_tier_wait(t->tier, page, to_write) * BYTES;
}

static void fill(const tier *t, int32_t page, uint32_t mark, kv_tier_change change) {
    uint32_t words[WORDS];
    for (int i = 0; i < WORDS; i++)
        words[i] = mark + (uint32_t)i;
    kv_tier_hold(t->tier, page);
    char *frame = frame_of(t, page, true);
    if (t->dev)
        t->dev->ops->copy_in(t->dev, frame, words, BYTES);
    else
        memcpy(frame, words, BYTES);
    kv_tier_leave_later(t->tier, page, change);
    kv_tier_fence(t->tier);
}

static const uint32_t LOST = UINT32_MAX;
static int n_other_words;

static void count_others(float *words, size_t n, int mark) {
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, words + i, sizeof word);
        n_other_words += word != ((uint32_t)mark == LOST ? LOST : (uint32_t)mark + i);
    }
}

/* Nothing else is in a page that is held: now, or when the device comes to it. */
static void check(const tier *t, int32_t page, uint32_t mark) {
    float words[WORDS], *frame = (float *)(void *)frame_of(t, page, false);
    if (t->is_late) {
        apart_device_queue(t->dev, count_others, frame, WORDS, (int)mark);
        return;
    }
    if (t->dev) {
        t->dev->ops->copy_out(t->dev, words, frame, BYTES);
        CHECK_OK(t->dev->ops->sync(t->dev));
        frame = words;
    }
    count_others(frame, WORDS, (int)mark);
}

static void read_and_check(const tier *t, int32_t page, uint32_t mark) {
    kv_tier_hold(t->tier, page);
    check(t, page, mark);
    kv_tier_leave_later(t->tier, page, KV_TIER_READ);
    kv_tier_fence(t->tier);
}

static void all_was_as_written(const tier *t) {
    if (t->dev) CHECK_OK(t->dev->ops->sync(t->dev));
    CU_ASSERT_EQUAL(n_other_words, 0);
    n_other_words = 0;
}

/* As the walk does it: some are held ahead of where they are looked at, and all are left. */
static void walk(const tier *t, const uint32_t *marks, uint64_t *state) {
    int32_t order[PAGES], n = 0;
    for (int32_t page = 0; page < PAGES; page++)
        if (marks[page]) order[n++] = page;
    kv_tier_begin_step(t->tier);
    for (int i = 0, held = 0; i < n; i++) {
        const int most = i + 1 + pick(state, FRAMES);
        kv_tier_advance(t->tier);
        while (held < n && held < most && kv_tier_try_hold(t->tier, order[held]))
            held++;
        if (held == i) kv_tier_hold(t->tier, order[held++]);
        check(t, order[i], marks[order[i]]);
        kv_tier_leave_later(t->tier, order[i], KV_TIER_READ);
        kv_tier_fence(t->tier);
        if (i + 1 == n) CU_ASSERT_EQUAL(held, n);
    }
}

static void history(place_kind kind) {
    tier t = open_tier(RECORDS, kind);
    uint32_t marks[PAGES] = {0}; /* 0: not in use */
    uint64_t state = 7 + (uint64_t)kind;
    const int n_waits = t.is_late ? apart_device_n_waits(t.dev) : 0;
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
            read_and_check(&t, page, marks[page]);
        }
        if (round % 100 == 0) walk(&t, marks, &state);
    }
    if (t.is_late) CU_ASSERT_EQUAL(apart_device_n_waits(t.dev), n_waits);
    all_was_as_written(&t);
    CU_ASSERT_EQUAL(kv_tier_n_lost(t.tier), 0);
    const kv_figures moved = kv_tier_measure(t.tier);
    CU_ASSERT_EQUAL(moved.to_host.n_moved > 0 && moved.from_host.n_moved > 0, t.dev != NULL);
    CU_ASSERT_EQUAL(moved.disk.written.n_moved > 0 && moved.disk.read.n_moved > 0, t.file != NULL);
    close_tier(&t);
}

static void any_history(void) {
    for (place_kind kind = 0; kind < N_PLACES; kind++)
        if (is_here(kind)) history(kind);
}

/* All but one that memory and records hold together are there; where they are full, a page is lost, with the
 * reason. */
static void fill_up(place_kind kind) {
    enum { FEW = 5 };
    tier t = open_tier(FEW + 1, kind);
    for (int32_t page = 0; page < FRAMES + FEW; page++) {
        kv_tier_add(t.tier, page);
        fill(&t, page, 1000 * (uint32_t)page, KV_TIER_CLOSED);
    }
    CU_ASSERT_EQUAL(kv_tier_n_lost(t.tier), 0);
    for (int32_t page = 0; page < FRAMES + FEW; page++)
        read_and_check(&t, page, 1000 * (uint32_t)page);
    all_was_as_written(&t);
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
    for (int32_t page = 0; page < FRAMES + FEW - 1; page++)
        read_and_check(&t, page, 1000 * (uint32_t)page);
    all_was_as_written(&t);
    kv_tier_add(t.tier, PAGES - 1);
    fill(&t, PAGES - 1, 77, KV_TIER_CLOSED);
    CU_ASSERT(!kv_tier_is_lost(t.tier, PAGES - 1, NULL));
    close_tier(&t);
}

static void full(void) {
    for (place_kind kind = WITH_THREADS; kind < N_PLACES; kind++)
        if (is_here(kind)) fill_up(kind);
}

/* As many pages as memory and records hold together: those that are held came from records, and these are
 * what the others need to leave memory. */
static void full_and_held(void) {
    enum { FEW = 30, SPARE = 2, ALL = FRAMES + FEW - SPARE };
    for (place_kind kind = 0; kind < N_PLACES; kind++) {
        if (!is_here(kind)) continue;
        tier t = open_tier(FEW, kind);
        for (int32_t page = 0; page < ALL; page++) {
            kv_tier_add(t.tier, page);
            fill(&t, page, 1000 * (uint32_t)page, KV_TIER_CLOSED);
        }
        for (int32_t first = 0; first + FRAMES <= ALL; first++) {
            for (int32_t page = first; page < first + FRAMES; page++)
                kv_tier_hold(t.tier, page);
            for (int32_t page = first; page < first + FRAMES; page++) {
                check(&t, page, 1000 * (uint32_t)page);
                kv_tier_leave_later(t.tier, page, KV_TIER_READ);
            }
            kv_tier_fence(t.tier);
        }
        all_was_as_written(&t);
        CU_ASSERT_EQUAL(kv_tier_n_lost(t.tier), 0);
        close_tier(&t);
    }
}

/* What is damaged costs its own page only, which is all NaN. */
static void damaged(void) {
    for (place_kind kind = WITH_THREADS; kind < N_PLACES; kind++) {
        if (!is_here(kind) || kind == LATE_WITH_HOST) continue;
        tier t = open_tier(RECORDS, kind);
        for (int32_t page = 0; page < PAGES; page++) {
            kv_tier_add(t.tier, page);
            fill(&t, page, 1000 * (uint32_t)page, KV_TIER_CLOSED);
        }
        fault_arm("page-file-flip", 0);
        int n_lost = 0;
        for (int32_t page = 0; page < PAGES; page++) {
            kv_tier_hold(t.tier, page);
            kv_tier_wait(t.tier, page, false);
            const bool is_lost = kv_tier_is_lost(t.tier, page, NULL);
            check(&t, page, is_lost ? LOST : 1000 * (uint32_t)page);
            n_lost += is_lost;
            kv_tier_leave_later(t.tier, page, KV_TIER_READ);
            kv_tier_fence(t.tier);
        }
        fault_arm(NULL, 0);
        all_was_as_written(&t);
        CU_ASSERT(n_lost == 1 && kv_tier_n_lost(t.tier) == 1);
        close_tier(&t);
    }
}

/* Less host memory will do where there is a file, and none will not. */
static void not_pinned(void) {
    enum { N = 40, LEAST = 5 };
    tier t = {0};
    CHECK_OK(apart_device_open(BYTES, &t.dev));
    CHECK_OK(page_file_open("/tmp", (int64_t)N * BYTES, BYTES, 8, PAGE_FILE_THREADS, &t.file));
    const kv_host_shape shape = {t.dev, BYTES, N, N, LEAST, 2, t.file};
    fault_arm("kv-host-pin", 0);
    CHECK_OK(kv_host_open(&shape, &t.host));
    CU_ASSERT_EQUAL(kv_host_n_pages(t.host), N / 2);
    kv_host_close(t.host);
    fault_arm("kv-host-pin:0:always", 0);
    harness_check(__FILE__, __LINE__, kv_host_open(&shape, &t.host), STATUS_REFUSED, "cannot be pinned");
    fault_arm(NULL, 0);
    page_file_close(t.file, 60);
    t.dev->ops->close(t.dev);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"any history", any_history},     {"full", full},
                           {"full and held", full_and_held}, {"damaged", damaged},
                           {"not pinned", not_pinned},       CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv tier", tests);
}
