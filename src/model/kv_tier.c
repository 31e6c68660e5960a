#include "src/model/kv_tier.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/base/clock.h"
#include "src/base/memory.h"

enum { MOST_WRITES = 64, MOST_FENCES = 32, NONE = -1 };

/* A read or a write of a node's own disk takes less. */
static const double most_seconds = 120;

typedef enum page_way { LIES_STILL, IS_READ, IS_WRITTEN } page_way;

typedef struct page_state {
    int32_t frame; /* NONE: not in memory */
    int record;    /* NONE: it has none. Its bytes are the page's, where the page is not changed */
    int32_t n_holds;
    int32_t newer, older; /* in the list of those in memory that nobody holds */
    int64_t step;         /* in which it was held last */
    page_way way;
    page_file_ticket ticket;
    bool is_changed, is_open, is_lost;
} page_state;

typedef struct late_hold {
    int32_t page;
    kv_tier_change change;
} late_hold;

/* Holds that end where operations have passed a fence. */
typedef struct late_holds {
    device_fence *fence;
    late_hold *items;
    size_t n;
} late_holds;

struct kv_tier {
    kv_tier_shape shape;
    bool is_apart; /* the device's operations go on when they have returned */
    pthread_mutex_t lock;
    page_state *pages;
    int32_t *free; /* frames */
    int32_t n_free;
    int32_t newest, oldest;       /* of the list */
    int32_t written[MOST_WRITES]; /* on their way to records, in the order in which they were begun */
    int n_written;
    late_holds late[MOST_FENCES]; /* a ring: those of fence i at i % MOST_FENCES */
    int64_t n_fences, n_passed;   /* set so far, and of them passed */
    char *lost;                   /* what a page that is lost looks like, where a frame is not the host's */
    int32_t robbed;               /* the page whose record was taken last for another one */
    bool records_failed;          /* to take a page: no more are written */
    int64_t step;                 /* that began last */
    int64_t n_lost;
    char text[STATUS_TEXT_BYTES]; /* why the last page was */
};

status kv_tier_open(const kv_tier_shape *shape, kv_tier **out) {
    kv_tier *t = mem_new(1, sizeof *t);
    status st = STATUS_OK;
    t->shape = *shape;
    t->is_apart = shape->dev && !shape->dev->host_memory;
    if (t->is_apart) t->lost = memset(mem_new(1, shape->page_bytes), 0xff, shape->page_bytes);
    for (int i = 0; st == STATUS_OK && t->is_apart && i < MOST_FENCES; i++)
        st = shape->dev->ops->fence_open(shape->dev, &t->late[i].fence);
    t->pages = mem_new((size_t)shape->n_pages, sizeof *t->pages);
    t->free = mem_new((size_t)shape->n_frames, sizeof *t->free);
    for (int32_t frame = shape->n_frames; frame > 0;)
        t->free[t->n_free++] = --frame;
    for (int32_t page = 0; page < shape->n_pages; page++)
        t->pages[page] = (page_state){.frame = NONE, .record = NONE};
    t->newest = t->oldest = NONE;
    pthread_mutex_init(&t->lock, NULL);
    if (st == STATUS_OK)
        *out = t;
    else
        kv_tier_close(t);
    return st;
}

static char *frame_at(const kv_tier *t, int32_t frame) {
    return t->shape.frames + (size_t)frame * t->shape.page_bytes;
}

/* ---- the list ---- */

static void list_add(kv_tier *t, int32_t page) {
    t->pages[page].step = t->step;
    t->pages[page].older = t->newest;
    t->pages[page].newer = NONE;
    *(t->newest == NONE ? &t->oldest : &t->pages[t->newest].newer) = page;
    t->newest = page;
}

static void list_remove(kv_tier *t, int32_t page) {
    const page_state *p = &t->pages[page];
    *(p->newer == NONE ? &t->newest : &t->pages[p->newer].older) = p->older;
    *(p->older == NONE ? &t->oldest : &t->pages[p->older].newer) = p->newer;
}

static bool is_recent(const kv_tier *t, int32_t page) {
    return t->pages[page].step >= t->step - t->shape.n_turn;
}

/* Pages leave memory in this order: those of sequences that pause, oldest first, then those that were used
 * last. */
static int32_t first_to_leave(const kv_tier *t) {
    return t->oldest != NONE && !is_recent(t, t->oldest) ? t->oldest : t->newest;
}

static int32_t next_to_leave(const kv_tier *t, int32_t page) {
    const page_state *p = &t->pages[page];
    if (is_recent(t, page)) return p->older != NONE && is_recent(t, p->older) ? p->older : NONE;
    if (p->newer != NONE && !is_recent(t, p->newer)) return p->newer;
    return is_recent(t, t->newest) ? t->newest : NONE;
}

/* ---- to records and back ---- */

static void give_record_back(kv_tier *t, page_state *p) {
    t->shape.records.give_back(t->shape.records.self, p->record);
    p->record = NONE;
}

static int take_free_record(kv_tier *t) {
    return t->shape.records.take(t->shape.records.self);
}

static bool is_over(kv_tier *t, const page_state *p) {
    return t->shape.records.test(t->shape.records.self, p->ticket);
}

static void let_frame_go(kv_tier *t, page_state *p) {
    if (p->frame != NONE) t->free[t->n_free++] = p->frame;
    p->frame = t->shape.n_frames;
}

/* What it takes is free; where it is held, its frame once it is left. */
static void lose(kv_tier *t, page_state *p) {
    p->is_lost = true;
    t->n_lost++;
    if (p->n_holds > 0) return;
    if (p->frame != NONE) list_remove(t, (int32_t)(p - t->pages));
    let_frame_go(t, p);
    if (p->record != NONE) give_record_back(t, p);
}

/* The page's way is over. */
static void arrive(kv_tier *t, page_state *p, status st) {
    const page_way way = p->way;
    p->way = LIES_STILL;
    if (st == STATUS_OK) return;
    memcpy(t->text, status_text(), sizeof t->text);
    if (way == IS_READ) {
        lose(t, p);
        return;
    }
    t->records_failed = p->is_changed = true;
    give_record_back(t, p);
}

/* Waits for it. The frame of what never ends could not be used again. */
static void finish(kv_tier *t, page_state *p) {
    if (p->way == LIES_STILL) return;
    const status st = t->shape.records.wait(t->shape.records.self, p->ticket, most_seconds);
    if (st != STATUS_OK && !is_over(t, p)) status_die("%s", status_text());
    arrive(t, p, st);
}

/* Writes that are over; all of the first `n` of them. */
static void collect_writes(kv_tier *t, int n) {
    int n_left = 0;
    for (int i = 0; i < t->n_written; i++) {
        page_state *p = &t->pages[t->written[i]];
        if (p->way != IS_WRITTEN) continue; /* somebody waited for it */
        if (i < n || is_over(t, p))
            finish(t, p);
        else
            t->written[n_left++] = t->written[i];
    }
    t->n_written = n_left;
}

/* A record of one that is in memory as well, held or not, is of no use where there are no others. */
static int take_record(kv_tier *t) {
    int record = take_free_record(t);
    for (int32_t i = 0; record < 0 && i < t->shape.n_pages; i++) {
        t->robbed = (t->robbed + 1) % t->shape.n_pages;
        page_state *p = &t->pages[t->robbed];
        if (p->record == NONE || p->frame == NONE || p->way != LIES_STILL) continue;
        give_record_back(t, p);
        p->is_changed = true;
        record = take_free_record(t);
    }
    return record;
}

/* Of a page that has a record. */
static void begin_write(kv_tier *t, int32_t page) {
    page_state *p = &t->pages[page];
    p->ticket = t->shape.records.begin_write(t->shape.records.self, p->record, frame_at(t, p->frame));
    p->way = IS_WRITTEN;
    p->is_changed = false;
    t->written[t->n_written++] = page;
}

/* Begin to write pages that nobody holds: closed ones, in the order in which they leave; or open ones, those
 * first that were used longest ago. */
static void write_behind(kv_tier *t, int most, bool open) {
    for (int32_t page = open ? t->oldest : first_to_leave(t); page != NONE;
         page = open ? t->pages[page].newer : next_to_leave(t, page)) {
        page_state *p = &t->pages[page];
        if (most == 0 || t->n_written == MOST_WRITES || t->records_failed) return;
        if (p->way != LIES_STILL || !p->is_changed || p->is_open != open) continue;
        if (p->record == NONE) p->record = take_record(t);
        if (p->record < 0) return;
        begin_write(t, page);
        most--;
    }
}

/* ---- holds that end ---- */

/* A full page that nobody holds, where frames are few: so that it can leave when its frame is needed. */
static void write_early(kv_tier *t, int32_t page) {
    page_state *p = &t->pages[page];
    if (!p->is_changed || p->is_open || p->way != LIES_STILL || t->n_free >= t->shape.n_frames / 8) return;
    collect_writes(t, 0);
    if (t->n_written == MOST_WRITES || t->records_failed) return;
    if (p->record == NONE) p->record = take_free_record(t);
    if (p->record >= 0) begin_write(t, page);
}

static void end_hold(kv_tier *t, int32_t page, kv_tier_change change) {
    page_state *p = &t->pages[page];
    assert(p->n_holds > 0);
    if (p->way == IS_READ) finish(t, p);
    if (change != KV_TIER_READ) {
        p->is_changed = true;
        p->is_open = change == KV_TIER_OPEN;
    }
    if (--p->n_holds > 0) return;
    if (p->is_lost) {
        if (p->frame != t->shape.n_frames) let_frame_go(t, p);
        return;
    }
    list_add(t, page);
    write_early(t, page);
}

/* Those of operations that are over. */
static void end_late_holds(kv_tier *t) {
    for (; t->n_passed < t->n_fences; t->n_passed++) {
        late_holds *late = &t->late[t->n_passed % MOST_FENCES];
        if (!t->shape.dev->ops->fence_passed(t->shape.dev, late->fence)) return;
        for (size_t i = 0; i < late->n; i++)
            end_hold(t, late->items[i].page, late->items[i].change);
        late->n = 0;
    }
}

/* Other threads go on, and the device does. */
static void pause_once(kv_tier *t) {
    pthread_mutex_unlock(&t->lock);
    nanosleep(&(struct timespec){0, 20000}, NULL);
    pthread_mutex_lock(&t->lock);
}

/* ---- frames ---- */

/* One that is free, or of a page that is in a record too. NONE: there is none now. */
static int32_t take_frame(kv_tier *t) {
    if (t->n_free == 0) {
        end_late_holds(t);
        collect_writes(t, 0);
    }
    if (t->n_free > 0) return t->free[--t->n_free];
    for (int32_t page = first_to_leave(t); page != NONE; page = next_to_leave(t, page)) {
        page_state *p = &t->pages[page];
        if (p->way != LIES_STILL || p->is_changed) continue;
        const int32_t frame = p->frame;
        list_remove(t, page);
        p->frame = NONE;
        return frame;
    }
    return NONE;
}

/* Then the records of pages that were read can be taken. False: there was none on its way. */
static bool finish_reads(kv_tier *t) {
    bool any = false;
    for (int32_t page = 0; page < t->shape.n_pages; page++) {
        if (t->pages[page].way != IS_READ) continue;
        finish(t, &t->pages[page]);
        any = true;
    }
    return any;
}

/* Waits for one. NONE: there is no record for what could leave memory. */
static int32_t wait_for_frame(kv_tier *t) {
    for (double begin = clock_seconds(); clock_seconds() - begin < most_seconds;) {
        const int32_t frame = take_frame(t);
        if (frame != NONE) return frame;
        write_behind(t, MOST_WRITES, false);
        if (t->n_written == 0) write_behind(t, MOST_WRITES, true);
        if (t->n_written > 0)
            collect_writes(t, 1);
        else if (t->newest == NONE ||
                 t->n_passed < t->n_fences) /* pages are held, most of them for a moment */
            pause_once(t);
        else if (t->records_failed || !finish_reads(t))
            return NONE;
    }
    return NONE;
}

/* Hold a page that lies in memory or in this frame. */
static void hold(kv_tier *t, int32_t page, int32_t frame) {
    page_state *p = &t->pages[page];
    if (p->n_holds++ > 0) return;
    if (p->frame != NONE) {
        if (!p->is_lost) list_remove(t, page);
        return;
    }
    p->frame = frame;
    if (p->record == NONE) return;
    p->ticket = t->shape.records.begin_read(t->shape.records.self, p->record, frame_at(t, frame));
    p->way = IS_READ;
}

bool kv_tier_try_hold(kv_tier *t, int32_t page) {
    pthread_mutex_lock(&t->lock);
    const bool has_frame = t->pages[page].frame != NONE;
    const int32_t frame = has_frame ? NONE : take_frame(t);
    if (!has_frame && frame == NONE) write_behind(t, MOST_WRITES / 2, false);
    if (has_frame || frame != NONE) hold(t, page, frame);
    pthread_mutex_unlock(&t->lock);
    return has_frame || frame != NONE;
}

void kv_tier_hold(kv_tier *t, int32_t page) {
    pthread_mutex_lock(&t->lock);
    page_state *p = &t->pages[page];
    const int32_t frame = p->frame == NONE ? wait_for_frame(t) : NONE;
    if (p->frame == NONE && frame == NONE) {
        if (!t->records_failed) {
            status_fail("memory for pages of the KV cache is full, and so is what there is beside it");
            memcpy(t->text, status_text(), sizeof t->text);
        }
        lose(t, p);
    }
    if (p->frame != NONE && frame != NONE)
        t->free[t->n_free++] = frame; /* meanwhile another thread held it */
    hold(t, page, frame);
    pthread_mutex_unlock(&t->lock);
}

bool kv_tier_is_still(kv_tier *t, int32_t page) {
    pthread_mutex_lock(&t->lock);
    page_state *p = &t->pages[page];
    if (p->way != LIES_STILL && is_over(t, p)) finish(t, p);
    const bool is_still = p->way == LIES_STILL;
    pthread_mutex_unlock(&t->lock);
    return is_still;
}

/* The frame for what is lost, as it is before anybody writes to it: operations that are queued find it so. */
static int32_t show_lost(const kv_tier *t) {
    char *frame = frame_at(t, t->shape.n_frames);
    if (t->is_apart)
        t->shape.dev->ops->copy_in(t->shape.dev, frame, t->lost, t->shape.page_bytes);
    else
        memset(frame, 0xff, t->shape.page_bytes);
    return t->shape.n_frames;
}

int32_t kv_tier_wait(kv_tier *t, int32_t page, bool to_write) {
    pthread_mutex_lock(&t->lock);
    page_state *p = &t->pages[page];
    assert(p->n_holds > 0);
    if (p->way == IS_READ || to_write) finish(t, p);
    const int32_t frame = p->is_lost ? show_lost(t) : p->frame;
    pthread_mutex_unlock(&t->lock);
    return frame;
}

void kv_tier_leave(kv_tier *t, int32_t page, kv_tier_change change) {
    pthread_mutex_lock(&t->lock);
    end_hold(t, page, change);
    pthread_mutex_unlock(&t->lock);
}

void kv_tier_leave_later(kv_tier *t, int32_t page, kv_tier_change change) {
    if (!t->is_apart) {
        kv_tier_leave(t, page, change);
        return;
    }
    pthread_mutex_lock(&t->lock);
    late_holds *late = &t->late[t->n_fences % MOST_FENCES];
    late->items = mem_grow(late->items, late->n, sizeof *late->items);
    late->items[late->n++] = (late_hold){page, change};
    pthread_mutex_unlock(&t->lock);
}

void kv_tier_fence(kv_tier *t) {
    if (!t->is_apart) return;
    pthread_mutex_lock(&t->lock);
    t->shape.dev->ops->fence_set(t->shape.dev, t->late[t->n_fences++ % MOST_FENCES].fence);
    for (end_late_holds(t); t->n_fences - t->n_passed == MOST_FENCES; end_late_holds(t))
        pause_once(t);
    pthread_mutex_unlock(&t->lock);
}

void kv_tier_advance(kv_tier *t) {
    pthread_mutex_lock(&t->lock);
    end_late_holds(t);
    t->shape.records.advance(t->shape.records.self);
    pthread_mutex_unlock(&t->lock);
}

void kv_tier_give_up(kv_tier *t, int32_t page) {
    pthread_mutex_lock(&t->lock);
    page_state *p = &t->pages[page];
    if (p->n_holds == 0) finish(t, p);
    if (!p->is_lost) lose(t, p);
    pthread_mutex_unlock(&t->lock);
}

/* ---- pages ---- */

void kv_tier_begin_step(kv_tier *t) {
    pthread_mutex_lock(&t->lock);
    t->step++;
    t->shape.records.begin_step(t->shape.records.self);
    pthread_mutex_unlock(&t->lock);
}

void kv_tier_add(kv_tier *t, int32_t page) {
    pthread_mutex_lock(&t->lock);
    t->pages[page] = (page_state){.frame = NONE, .record = NONE};
    pthread_mutex_unlock(&t->lock);
}

void kv_tier_remove(kv_tier *t, int32_t page) {
    pthread_mutex_lock(&t->lock);
    page_state *p = &t->pages[page];
    for (end_late_holds(t); p->n_holds > 0 && t->n_passed < t->n_fences; end_late_holds(t))
        pause_once(t);
    assert(p->n_holds == 0);
    finish(t, p);
    if (p->frame != NONE && !p->is_lost) {
        list_remove(t, page);
        t->free[t->n_free++] = p->frame;
    }
    if (p->record != NONE) give_record_back(t, p);
    p->frame = NONE;
    pthread_mutex_unlock(&t->lock);
}

bool kv_tier_is_lost(kv_tier *t, int32_t page, char *text) {
    pthread_mutex_lock(&t->lock);
    const bool is_lost = t->pages[page].is_lost;
    if (text) memcpy(text, t->text, sizeof t->text);
    pthread_mutex_unlock(&t->lock);
    return is_lost;
}

int64_t kv_tier_n_lost(kv_tier *t) {
    pthread_mutex_lock(&t->lock);
    const int64_t n = t->n_lost;
    pthread_mutex_unlock(&t->lock);
    return n;
}

kv_figures kv_tier_measure(kv_tier *t) {
    kv_figures figures;
    pthread_mutex_lock(&t->lock);
    t->shape.records.measure(t->shape.records.self, &figures);
    pthread_mutex_unlock(&t->lock);
    return figures;
}

void kv_tier_close(kv_tier *t) {
    if (!t) return;
    for (int32_t page = 0; page < t->shape.n_pages; page++)
        finish(t, &t->pages[page]);
    for (late_holds *late = t->late; t->is_apart && late < t->late + MOST_FENCES; late++) {
        t->shape.dev->ops->fence_close(t->shape.dev, late->fence);
        free(late->items);
    }
    free(t->lost);
    pthread_mutex_destroy(&t->lock);
    free(t->pages);
    free(t->free);
    free(t);
}
