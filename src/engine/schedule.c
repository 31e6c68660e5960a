#include "src/engine/schedule.h"

#include <assert.h>
#include <stdlib.h>

#include "src/base/memory.h"
#include "src/model/kv_cache.h"

typedef enum sequence_state {
    WAITING,
    TO_LOAD, /* entered, and its load was not told yet */
    LOADING,
    PREFILLING,
    AWAITING, /* the reply to its last row */
    READY,    /* for a decode row */
    HELD,
    OVER,
} sequence_state;

typedef struct sequence {
    sequence_state state;
    int slot;
    int64_t n_prompt, n_given, n_cached, n_pages, cut_at;
    int64_t evict_at, evict_every;     /* evict_at: the next time; 0: never again */
    int64_t n_removed, n_pages_behind; /* positions of the prompt that have no place behind its eviction */
    int64_t n_issued;                  /* rows that were put into steps, or loaded */
    int64_t removed;                   /* of those, that have no place any more, at least */
    int64_t step;                      /* the last step that had rows of it */
    int n_let;                         /* LOADING: rows that may be in the next step all the same */
    bool is_paused;                    /* READY, and not to go on */
} sequence;

struct schedule {
    schedule_limits limits;
    sequence *sequences;
    int64_t n;
    int64_t first_waiting; /* all before have entered */
    int64_t n_left;
    int64_t free_pages;
    int *free_slots;
    int n_free_slots;
    int64_t *running;      /* sequences in slots, in the order in which they entered */
    int n_running, n_held; /* of them */
    int n_paused;
    int n_for_held;    /* slots that only held ones can fill */
    int64_t n_steps;   /* made so far */
    chunk_list chunks; /* empty: chunk_tokens everywhere */
};

schedule *schedule_open(const schedule_limits *limits) {
    schedule *s = mem_new(1, sizeof *s);
    s->limits = *limits;
    s->free_pages = limits->n_pages;
    s->free_slots = mem_new((size_t)limits->n_slots, sizeof *s->free_slots);
    s->running = mem_new((size_t)limits->n_slots, sizeof *s->running);
    for (int slot = limits->n_slots - 1; slot >= 0; slot--)
        s->free_slots[s->n_free_slots++] = slot;
    return s;
}

void schedule_close(schedule *s) {
    if (!s) return;
    free(s->sequences);
    free(s->free_slots);
    free(s->running);
    chunk_list_free(&s->chunks);
    free(s);
}

void schedule_use_chunks(schedule *s, const chunk_list *chunks) {
    assert(s->n_steps == 0 && s->chunks.n == 0);
    for (int64_t i = 0, begin = 0; i < chunks->n; begin = chunks->ends[i++]) {
        assert(chunks->ends[i] - begin <= s->limits.chunk_tokens);
        chunk_list_append(&s->chunks, chunks->ends[i] - begin);
    }
}

void schedule_keep_for_held(schedule *s, int n_slots) {
    assert(s->n_steps == 0 && n_slots < s->limits.n_slots);
    s->n_for_held = n_slots;
}

int64_t schedule_chunk_rows(const schedule *s, int64_t pos) {
    return s->chunks.n > 0 ? chunk_list_rows_at(&s->chunks, pos) : s->limits.chunk_tokens;
}

bool schedule_fits(const schedule *s, int64_t n_places) {
    return kv_pages_for(n_places, s->limits.page_tokens) <= s->limits.n_pages;
}

int64_t schedule_add(schedule *s, const schedule_request *r) {
    assert(r->n_cached >= 0 && r->n_cached < r->n_prompt);
    assert(r->n_generated >= 0 && r->n_generated < r->n_prompt);
    assert(r->n_all >= r->n_prompt && r->n_prompt >= r->evict_at && r->evict_at >= r->n_left);
    const int64_t n_behind = r->evict_at > 0 ? r->n_behind : r->n_all,
                  n_most = n_behind > r->evict_at ? n_behind : r->evict_at;
    assert(schedule_fits(s, n_most));
    s->sequences = mem_grow(s->sequences, (size_t)s->n, sizeof *s->sequences);
    s->sequences[s->n] = (sequence){
        .slot = -1,
        .n_prompt = r->n_prompt,
        .n_given = r->n_prompt - r->n_generated,
        .n_cached = r->n_cached,
        .cut_at = r->cut_at,
        .evict_at = r->evict_at,
        .evict_every = r->evict_every,
        .n_removed = r->evict_at - r->n_left,
        .n_pages_behind = kv_pages_for(n_behind, s->limits.page_tokens),
        .n_pages = kv_pages_for(n_most, s->limits.page_tokens),
    };
    s->n_left++;
    return s->n++;
}

/* ---- memory, where it has not all pages ---- */

/* Pages of a sequence that goes on: all of its prompt, or what it has and its next row. */
static int64_t pages_in_use(const schedule *s, const sequence *q) {
    const int64_t n_tokens = q->n_issued < q->n_prompt ? q->n_prompt : q->n_issued + 1;
    const int64_t n_pages = kv_pages_for(n_tokens - q->removed, s->limits.page_tokens);
    return n_pages < q->n_pages ? n_pages : q->n_pages;
}

/* Of all that go on, and how many these are. */
static int64_t memory_in_use(const schedule *s, int *n_going_on) {
    int64_t n_pages = 0;
    *n_going_on = 0;
    for (int i = 0; i < s->n_running; i++) {
        const sequence *q = &s->sequences[s->running[i]];
        if (q->state == HELD || q->is_paused) continue;
        n_pages += pages_in_use(s, q);
        ++*n_going_on;
    }
    return n_pages;
}

/* The last ones that entered pause where memory is too small for all, and the first ones that paused go on
 * where it is not. One alone always has room. */
static void balance_memory(schedule *s) {
    int n_going_on;
    int64_t in_use = memory_in_use(s, &n_going_on);
    s->n_paused = 0;
    for (int i = s->n_running - 1; i >= 0 && in_use > s->limits.n_memory_pages && n_going_on > 1; i--) {
        sequence *q = &s->sequences[s->running[i]];
        if (q->state != READY || q->is_paused) continue;
        q->is_paused = true;
        in_use -= pages_in_use(s, q);
        n_going_on--;
    }
    for (int i = 0; i < s->n_running; i++) {
        sequence *q = &s->sequences[s->running[i]];
        if (!q->is_paused) continue;
        q->is_paused =
            s->n_paused > 0 || (n_going_on > 0 && in_use + pages_in_use(s, q) > s->limits.n_memory_pages);
        s->n_paused += q->is_paused;
        if (q->is_paused) continue;
        in_use += pages_in_use(s, q);
        n_going_on++;
    }
}

static bool has_memory(const schedule *s, const sequence *q) {
    int n_going_on;
    const int64_t in_use = memory_in_use(s, &n_going_on);
    return n_going_on == 0 || in_use + pages_in_use(s, q) <= s->limits.n_memory_pages;
}

static void admit_waiting(schedule *s) {
    const bool is_tight = s->limits.n_memory_pages > 0;
    if (is_tight) balance_memory(s);
    if (s->n_paused > 0) return;
    for (; s->first_waiting < s->n; s->first_waiting++) {
        sequence *q = &s->sequences[s->first_waiting];
        if (q->state == OVER) continue;
        if (s->n_running - s->n_held >= s->limits.n_slots - s->n_for_held) return;
        if (s->n_free_slots == 0 || q->n_pages > s->free_pages) return;
        if (is_tight && !has_memory(s, q)) return;
        q->slot = s->free_slots[--s->n_free_slots];
        s->free_pages -= q->n_pages;
        q->state = q->n_cached > 0 ? TO_LOAD : PREFILLING;
        s->running[s->n_running++] = s->first_waiting;
    }
}

bool schedule_next_load(schedule *s, slot_tokens *out) {
    admit_waiting(s);
    for (int i = 0; i < s->n_running; i++) {
        sequence *q = &s->sequences[s->running[i]];
        if (q->state != TO_LOAD) continue;
        q->state = LOADING;
        *out = (slot_tokens){s->running[i], q->slot, q->n_cached};
        return true;
    }
    return false;
}

void schedule_loaded(schedule *s, int64_t id) {
    sequence *q = &s->sequences[id];
    assert(q->state == LOADING);
    q->state = PREFILLING;
    q->n_issued = q->n_cached;
}

void schedule_let_compute(schedule *s, int64_t id, int n_rows) {
    assert(s->sequences[id].state == LOADING);
    s->sequences[id].n_let = n_rows;
}

static int divide_up(int a, int b) {
    return (a + b - 1) / b;
}

/* Decode rows for the next step: what is ready, spread over the stages that no step on its way is for. Where
 * there is none, and no prompt to go with, what is ready waits for the rest of a stage's share: in a step of
 * its own it would have every stage read its weights once more. */
static int decode_share(const schedule *s) {
    int n_ready = 0, n_decoding = 0, n_stages = s->limits.n_stages;
    bool has_prompt = false;
    int64_t oldest = s->n_steps; /* whose reply is awaited */
    for (int i = 0; i < s->n_running; i++) {
        const sequence *q = &s->sequences[s->running[i]];
        if (q->is_paused) continue;
        n_ready += q->state == READY;
        n_decoding += q->state == READY || q->state == AWAITING;
        has_prompt |= q->state == PREFILLING;
        if (q->state == AWAITING && q->step < oldest) oldest = q->step;
    }
    int64_t n_on_their_way = s->n_steps - oldest;
    int n_idle = n_on_their_way < n_stages ? n_stages - (int)n_on_their_way : 1;
    int share = divide_up(n_ready, n_idle), most = divide_up(n_decoding, n_stages);
    if (most > s->limits.chunk_tokens) most = s->limits.chunk_tokens;
    if (share >= most) return most;
    return n_on_their_way >= n_stages && !has_prompt ? 0 : share;
}

/* All steps so far go before the next one on every rank: what the step that is being made evicts is free
 * then. */
static void count_evicted(schedule *s, sequence *q) {
    if (q->evict_at == 0 || q->n_issued != q->evict_at) return;
    s->free_pages += q->n_pages - q->n_pages_behind;
    q->n_pages = q->n_pages_behind;
    q->removed = q->n_removed;
    q->evict_at = q->evict_every > 0 ? q->evict_at + q->evict_every : 0;
}

static planned_span issue(schedule *s, int64_t id, int n_rows) {
    sequence *q = &s->sequences[id];
    planned_span planned = {
        .sequence = id,
        .slot = q->slot,
        .pos0 = q->n_issued,
        .n_rows = n_rows,
        .starts = q->n_issued == 0 && q->state != LOADING,
        .ends_prompt = q->n_issued + n_rows >= q->n_prompt,
        .is_generated = q->n_issued >= q->n_given,
    };
    q->n_issued += n_rows;
    q->n_let = 0;
    q->step = s->n_steps;
    if (planned.ends_prompt) q->state = AWAITING;
    count_evicted(s, q);
    return planned;
}

/* Rows of prompts, or of what was generated behind prompts, for the next step; the number of spans. *n_used
 * of the step's chunk_tokens are used already: a row in a chunk of half as many rows counts twice. */
static int issue_known(schedule *s, bool generated, int *n_used, planned_span *spans) {
    int n_spans = 0, all = s->limits.chunk_tokens;
    for (int i = 0; i < s->n_running && *n_used < all; i++) {
        const sequence *q = &s->sequences[s->running[i]];
        const bool is_loading = q->state == LOADING && q->n_let > 0;
        if ((q->state != PREFILLING && !is_loading) || (q->n_issued >= q->n_given) != generated) continue;
        int64_t left = (generated ? q->n_prompt : q->n_given) - q->n_issued;
        if (is_loading && left > q->n_cached - q->n_issued) left = q->n_cached - q->n_issued;
        if (is_loading && left > q->n_let) left = q->n_let;
        if (left <= 0) continue;
        int64_t size = schedule_chunk_rows(s, q->n_issued), room = (all - *n_used) * size / all;
        if (room < 1) room = 1;
        int n = (int)(left < room ? left : room);
        if (q->n_issued < q->cut_at && n > q->cut_at - q->n_issued) n = (int)(q->cut_at - q->n_issued);
        if (q->n_issued < q->evict_at && n > q->evict_at - q->n_issued) n = (int)(q->evict_at - q->n_issued);
        spans[n_spans++] = issue(s, s->running[i], n);
        *n_used += (int)((n * (int64_t)all + size - 1) / size);
    }
    return n_spans;
}

int schedule_next(schedule *s, planned_span *spans) {
    admit_waiting(s);
    int n_spans = 0, n_used = 0, share = decode_share(s);
    for (int i = 0; i < s->n_running && n_used < share; i++) {
        const sequence *q = &s->sequences[s->running[i]];
        if (q->state != READY || q->is_paused) continue;
        spans[n_spans++] = issue(s, s->running[i], 1);
        n_used++;
    }
    n_spans += issue_known(s, true, &n_used, spans + n_spans);
    n_spans += issue_known(s, false, &n_used, spans + n_spans);
    s->n_steps += n_spans > 0;
    return n_spans;
}

void schedule_continue(schedule *s, int64_t id) {
    assert(s->sequences[id].state == AWAITING);
    s->sequences[id].state = READY;
}

void schedule_hold(schedule *s, int64_t id) {
    assert(s->sequences[id].state == AWAITING);
    s->sequences[id].state = HELD;
    s->n_held++;
}

int schedule_finish(schedule *s, int64_t id) {
    sequence *q = &s->sequences[id];
    assert(q->state != OVER);
    int slot = q->slot;
    if (slot >= 0) {
        s->free_slots[s->n_free_slots++] = slot;
        s->free_pages += q->n_pages;
        int at = 0;
        while (s->running[at] != id)
            at++;
        for (s->n_running--; at < s->n_running; at++)
            s->running[at] = s->running[at + 1];
    }
    s->n_held -= q->state == HELD;
    q->state = OVER;
    s->n_left--;
    return slot;
}

int64_t schedule_n_left(const schedule *s) {
    return s->n_left;
}

bool schedule_has_waiting(const schedule *s) {
    return s->n_left > s->n_running;
}

bool schedule_running(const schedule *s, int i, slot_tokens *out) {
    if (i >= s->n_running) return false;
    const sequence *q = &s->sequences[s->running[i]];
    *out = (slot_tokens){s->running[i], q->slot, q->state == LOADING ? 0 : q->n_issued};
    return true;
}
