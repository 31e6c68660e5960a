/* tests/engine/test_schedule.c: the scheduler before a simulated pipeline, whose replies come in the order of
 * the steps. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/schedule.h"
#include "src/model/kv_cache.h"
#include "tests/fixtures/harness.h"

enum { MAX_SEQUENCES = 256, MAX_SLOTS = 64, MAX_STEPS = 16 };

/* What the test knows of a sequence. */
typedef struct tracked {
    int64_t n_prompt, n_generated, n_all, n_cached;
    bool is_loading;
    int64_t n_issued; /* rows, and cached positions that were loaded */
    int64_t n_returned;
    int slot;       /* -1: none yet, or no more */
    bool may_go_on; /* its next decode row was asked for */
    bool is_over;
} tracked;

typedef struct issued {
    int n_spans, n_rows;
    planned_span spans[MAX_SLOTS];
} issued;

typedef struct simulation {
    schedule *schedule;
    schedule_limits limits;
    tracked sequences[MAX_SEQUENCES];
    int n_sequences, n_over;
    int64_t owner[MAX_SLOTS]; /* of the slot, -1: nobody */
    int64_t used_pages;
    issued steps[MAX_STEPS]; /* on their way, oldest first */
    int n_steps;
    int64_t n_all_steps, n_shared_steps; /* with rows of several sequences' prompts */
    chunk_list chunks;                   /* empty: none were given */
} simulation;

static simulation *begin(schedule_limits limits) {
    simulation *m = calloc(1, sizeof *m);
    m->limits = limits;
    m->schedule = schedule_open(&limits);
    for (int i = 0; i < MAX_SLOTS; i++)
        m->owner[i] = -1;
    return m;
}

static void end(simulation *m) {
    schedule_close(m->schedule);
    chunk_list_free(&m->chunks);
    free(m);
}

static void use_chunks(simulation *m, int n, const int *rows) {
    for (int i = 0; i < n; i++)
        chunk_list_append(&m->chunks, rows[i]);
    schedule_use_chunks(m->schedule, &m->chunks);
}

static int64_t add_known(simulation *m, int64_t n_prompt, int64_t n_generated, int64_t n_new,
                         int64_t n_cached) {
    int64_t id = schedule_add(m->schedule, &(schedule_request){.n_prompt = n_prompt,
                                                               .n_generated = n_generated,
                                                               .n_all = n_prompt + n_new,
                                                               .n_cached = n_cached});
    CU_ASSERT(id == m->n_sequences);
    m->sequences[m->n_sequences++] =
        (tracked){n_prompt, n_generated, n_prompt + n_new, .n_cached = n_cached, .slot = -1};
    return id;
}

static int64_t add_cached(simulation *m, int64_t n_prompt, int64_t n_new, int64_t n_cached) {
    return add_known(m, n_prompt, 0, n_new, n_cached);
}

static int64_t add(simulation *m, int64_t n_prompt, int64_t n_new) {
    return add_cached(m, n_prompt, n_new, 0);
}

static int64_t pages_of(const simulation *m, const tracked *q) {
    return kv_pages_for(q->n_all, m->limits.page_tokens);
}

static void check_start(simulation *m, int64_t sequence, int slot) {
    tracked *q = &m->sequences[sequence];
    CU_ASSERT(slot >= 0 && slot < m->limits.n_slots && m->owner[slot] == -1);
    m->owner[slot] = sequence;
    q->slot = slot;
    m->used_pages += pages_of(m, q);
    CU_ASSERT(m->used_pages <= m->limits.n_pages);
}

/* What entered and is cached begins to load; by chance, what loads is loaded. */
static bool issue_loads(simulation *m, uint64_t *state) {
    bool any = false;
    for (slot_tokens q; schedule_next_load(m->schedule, &q); any = true) {
        tracked *t = &m->sequences[q.sequence];
        CU_ASSERT(!t->is_loading && t->n_issued == 0 && t->n_cached > 0 && q.n_tokens == t->n_cached);
        check_start(m, q.sequence, q.slot);
        t->is_loading = true;
    }
    for (int i = 0; i < m->n_sequences; i++) {
        tracked *t = &m->sequences[i];
        if (!t->is_loading || harness_random(state) % 3) continue;
        schedule_loaded(m->schedule, i);
        t->is_loading = false;
        t->n_issued = t->n_returned = t->n_cached;
        any = true;
    }
    return any;
}

static bool any_loads(const simulation *m) {
    for (int i = 0; i < m->n_sequences; i++)
        if (m->sequences[i].is_loading) return true;
    return false;
}

static void check_span(simulation *m, const planned_span *s) {
    tracked *q = &m->sequences[s->sequence];
    CU_ASSERT(s->sequence >= 0 && s->sequence < m->n_sequences && !q->is_over);
    CU_ASSERT(s->n_rows > 0 && s->pos0 == q->n_issued && s->starts == (q->n_issued == 0));
    CU_ASSERT(!q->is_loading && (q->n_cached == 0 || q->n_issued > 0));
    if (s->starts) check_start(m, s->sequence, s->slot);
    for (int64_t i = 0; s->starts && i < s->sequence; i++) /* first come, first served */
        CU_ASSERT(m->sequences[i].n_issued > 0 || m->sequences[i].n_cached > 0 || m->sequences[i].is_over);
    CU_ASSERT(s->slot == q->slot);
    int64_t n_given = q->n_prompt - q->n_generated;
    bool decodes = q->n_issued >= q->n_prompt;
    CU_ASSERT(s->is_generated == (q->n_issued >= n_given));
    CU_ASSERT(s->is_generated || q->n_issued + s->n_rows <= n_given);
    if (decodes) {
        CU_ASSERT(q->may_go_on && s->n_rows == 1 && q->n_returned == q->n_issued);
        q->may_go_on = false;
    }
    if (m->chunks.n > 0 && !decodes) CU_ASSERT(s->n_rows <= chunk_list_rows_at(&m->chunks, s->pos0));
    q->n_issued += s->n_rows;
    CU_ASSERT(decodes || q->n_issued <= q->n_prompt);
    CU_ASSERT(q->n_issued <= q->n_all && s->ends_prompt == (q->n_issued >= q->n_prompt));
}

/* Issue a step and check it; its rows. */
static int issue(simulation *m) {
    if (m->n_steps == MAX_STEPS) return 0;
    issued *step = &m->steps[m->n_steps];
    step->n_spans = schedule_next(m->schedule, step->spans);
    step->n_rows = 0;
    CU_ASSERT(step->n_spans >= 0 && step->n_spans <= m->limits.n_slots);
    int n_prompts = 0;
    for (int i = 0; i < step->n_spans; i++) {
        const planned_span *s = &step->spans[i];
        for (int k = 0; k < i; k++)
            CU_ASSERT(step->spans[k].sequence != s->sequence);
        CU_ASSERT(i == 0 || !s->is_generated || step->spans[i - 1].is_generated);
        n_prompts += s->pos0 < m->sequences[s->sequence].n_prompt;
        check_span(m, s);
        step->n_rows += s->n_rows;
    }
    CU_ASSERT(step->n_rows <= m->limits.chunk_tokens);
    if (step->n_spans == 0) return 0;
    m->n_shared_steps += n_prompts > 1;
    m->n_all_steps++;
    m->n_steps++;
    return step->n_rows;
}

static void finish(simulation *m, int64_t id) {
    tracked *q = &m->sequences[id];
    CU_ASSERT(schedule_finish(m->schedule, id) == q->slot);
    if (q->slot >= 0) {
        m->owner[q->slot] = -1;
        m->used_pages -= pages_of(m, q);
    }
    q->slot = -1;
    q->is_over = true;
    m->n_over++;
    CU_ASSERT(schedule_n_left(m->schedule) == m->n_sequences - m->n_over);
}

/* The reply of the oldest step: its sequences go on, or end when they may hold no more rows or by chance. */
static void take_reply(simulation *m, uint64_t *state, int one_in_ends) {
    issued step = m->steps[0];
    memmove(m->steps, m->steps + 1, (size_t)--m->n_steps * sizeof *m->steps);
    for (int i = 0; i < step.n_spans; i++) {
        const planned_span *s = &step.spans[i];
        tracked *q = &m->sequences[s->sequence];
        q->n_returned += s->n_rows;
        if (!s->ends_prompt) continue;
        if (q->n_issued == q->n_all || (one_in_ends && harness_random(state) % (unsigned)one_in_ends == 0)) {
            finish(m, s->sequence);
        } else {
            schedule_continue(m->schedule, s->sequence);
            q->may_go_on = true;
        }
    }
}

static int64_t pick(uint64_t *state, int64_t n) {
    return (int64_t)(harness_random(state) % (uint64_t)n);
}

/* ---- tests ---- */

static simulation *begin_random(uint64_t *state) {
    const int64_t n_pages = 20 + pick(state, 100);
    return begin((schedule_limits){
        .n_stages = 1 + (int)pick(state, 8),
        .n_slots = 1 + (int)pick(state, MAX_SLOTS),
        .chunk_tokens = 1 + (int)pick(state, pick(state, 2) ? 8 : 200),
        .page_tokens = 16 * (1 + (int)pick(state, 4)),
        .n_pages = n_pages,
        .n_memory_pages = pick(state, 2) ? 1 + pick(state, n_pages) : 0,
    });
}

static void add_random(simulation *m, uint64_t *state) {
    int64_t n_prompt = 1 + pick(state, pick(state, 2) ? 10 : 200),
            n_new = pick(state, 4) ? pick(state, 60) : 0;
    int64_t n_cached = pick(state, 3) ? 0 : pick(state, n_prompt);
    if (schedule_fits(m->schedule, n_prompt + n_new)) add_cached(m, n_prompt, n_new, n_cached);
}

/* Whatever the sizes and the moments of the replies, every sequence gets all its rows, and the limits are
 * kept. */
static void random_runs(void) {
    uint64_t state = 1;
    for (int round = 0; round < 300; round++) {
        simulation *m = begin_random(&state);
        int sizes[8] = {m->limits.chunk_tokens};
        for (int i = 1; i < 8; i++)
            sizes[i] = 1 + (int)pick(&state, sizes[i - 1]);
        if (pick(&state, 3) == 0) use_chunks(m, 8, sizes);
        int to_add = 1 + (int)pick(&state, MAX_SEQUENCES), in_flight = m->limits.n_stages + 1;
        int n_first = (int)pick(&state, to_add + 1), one_in_ends = pick(&state, 2) ? 20 : 0;
        for (int i = 0; i < n_first; i++)
            add_random(m, &state);
        for (int left = to_add - n_first;;) {
            bool may_issue = m->n_steps < in_flight && (m->n_steps == 0 || pick(&state, 3));
            int n_rows = may_issue ? issue(m) : 0;
            bool loaded = issue_loads(m, &state);
            if (n_rows == 0 && m->n_steps > 0)
                take_reply(m, &state, one_in_ends);
            else if (n_rows == 0 && may_issue && left == 0 && !loaded && !any_loads(m))
                break; /* nothing is ready and nothing is on its way */
            if (left > 0 && pick(&state, 4) == 0) add_random(m, &state), left--;
        }
        CU_ASSERT(m->n_over == m->n_sequences && schedule_n_left(m->schedule) == 0 && m->used_pages == 0);
        for (int i = 0; i < m->n_sequences && !one_in_ends; i++)
            CU_ASSERT(m->sequences[i].n_issued == m->sequences[i].n_all);
        end(m);
    }
}

/* A sequence that is held keeps its slot and pages, and gets no rows, until it is finished. */
static void held_sequences_stay(void) {
    simulation *m = begin((schedule_limits){1, 2, 64, 16, 100, 0});
    uint64_t state = 5;
    for (int i = 0; i < 3; i++)
        add(m, 5, 10);
    CU_ASSERT(issue(m) == 10 && schedule_has_waiting(m->schedule));
    slot_tokens q;
    CU_ASSERT(schedule_running(m->schedule, 1, &q) && q.sequence == 1 && q.n_tokens == 5);
    CU_ASSERT(!schedule_running(m->schedule, 2, &q));
    m->n_steps = 0;
    schedule_hold(m->schedule, 0);
    schedule_hold(m->schedule, 1);
    CU_ASSERT(issue(m) == 0 && !issue_loads(m, &state) && schedule_has_waiting(m->schedule));
    CU_ASSERT(schedule_running(m->schedule, 0, &q) && q.sequence == 0 && q.n_tokens == 5);
    finish(m, 0);
    CU_ASSERT(issue(m) == 5 && !schedule_has_waiting(m->schedule));
    CU_ASSERT(schedule_running(m->schedule, 0, &q) && q.sequence == 1);
    end(m);

    /* With slots of their own they keep none from entering; those slots are for none else. */
    m = begin((schedule_limits){1, 4, 64, 16, 100, 0});
    schedule_keep_for_held(m->schedule, 2);
    for (int i = 0; i < 6; i++)
        add(m, 5, 10);
    CU_ASSERT(issue(m) == 10 && schedule_has_waiting(m->schedule));
    for (int i = 0; i < 4; i += 2) {
        m->n_steps = 0;
        schedule_hold(m->schedule, i);
        schedule_hold(m->schedule, i + 1);
        CU_ASSERT(issue(m) == (i == 0 ? 10 : 0) && schedule_has_waiting(m->schedule));
    }
    finish(m, 1);
    CU_ASSERT(issue(m) == 5);
    CU_ASSERT(schedule_running(m->schedule, 3, &q) && q.sequence == 4);
    end(m);

    /* Nor does it count as one that decodes: two others are still shared out over two stages. */
    m = begin((schedule_limits){2, 3, 64, 16, 100, 0});
    for (int i = 0; i < 3; i++)
        add(m, 5, 10);
    CU_ASSERT(issue(m) == 15);
    m->n_steps = 0;
    schedule_hold(m->schedule, 0);
    for (int i = 1; i < 3; i++) {
        schedule_continue(m->schedule, i);
        m->sequences[i].may_go_on = true;
        m->sequences[i].n_returned = 5;
    }
    CU_ASSERT(issue(m) == 1 && issue(m) == 1);
    end(m);
}

/* As many sequences as stages, or more: there is always a row for a stage that has none. */
static void no_stage_idles_in_decode(void) {
    uint64_t state = 2;
    for (int n_stages = 1; n_stages <= 8; n_stages++) {
        for (int n = n_stages; n <= 4 * n_stages + 1; n++) {
            simulation *m = begin((schedule_limits){n_stages, n, 64, 16, 64 * MAX_SLOTS, 0});
            for (int i = 0; i < n; i++)
                add(m, 1, 1000);
            int n_missing = 0, least = n, most = 0;
            for (int t = 0; t < 200; t++) {
                bool is_first = t == 0; /* all prompts are in one step */
                while (m->n_steps < n_stages) {
                    int rows = issue(m);
                    if (rows == 0 || is_first) break;
                    if (rows < least) least = rows;
                    if (rows > most) most = rows;
                }
                n_missing += !is_first && m->n_steps < n_stages;
                take_reply(m, &state, 0);
            }
            CU_ASSERT(n_missing == 0);
            CU_ASSERT(most - least <= 1); /* and all have the same to do */
            end(m);
        }
    }
}

/* The same while one more step than stages may be on its way, and replies come several at a time. */
static void no_stage_idles_with_late_replies(void) {
    uint64_t state = 3;
    for (int round = 0; round < 100; round++) {
        int n_stages = 2 + (int)pick(&state, 7), n = n_stages + (int)pick(&state, 40), n_missing = 0;
        simulation *m = begin((schedule_limits){n_stages, n, 64, 16, 64 * MAX_SLOTS, 0});
        for (int i = 0; i < n; i++)
            add(m, 1, 1000);
        issue(m);
        take_reply(m, &state, 0);
        for (int t = 0; t < 300; t++) {
            while (m->n_steps < n_stages + 1 && issue(m) > 0) {
            }
            n_missing += m->n_steps < n_stages;
            for (int64_t k = 1 + pick(&state, m->n_steps); k > 0; k--)
                take_reply(m, &state, 0);
        }
        CU_ASSERT(n_missing == 0);
        end(m);
    }
}

/* Sequences that came one after the other find together to as many groups as there are stages, though one
 * more step may be on its way. */
static void stragglers_join(void) {
    uint64_t state = 11;
    for (int n_stages = 2; n_stages <= 8; n_stages++) {
        const int n = 3 * n_stages;
        simulation *m = begin((schedule_limits){n_stages, n, 64, 16, 64 * MAX_SLOTS, 0});
        for (int i = 0; i < n; i++) {
            add(m, 1, 1000);
            if (m->n_steps < n_stages + 1) issue(m);
        }
        for (int t = 0; t < 200; t++) {
            take_reply(m, &state, 0);
            while (m->n_steps < n_stages + 1 && issue(m) > 0)
                CU_ASSERT(t < 50 || m->steps[m->n_steps - 1].n_rows == 3);
            CU_ASSERT(m->n_steps >= n_stages);
        }
        end(m);
    }
}

/* Many that become ready at once are spread over the stages, beside those that decode already. */
static void newcomers_are_spread(void) {
    uint64_t state = 10;
    simulation *m = begin((schedule_limits){4, 16, 64, 16, 64 * MAX_SLOTS, 0});
    for (int i = 0; i < 16; i++) {
        if (i == 4) { /* four are on their way, one in each stage, when the others come */
            issue(m);
            take_reply(m, &state, 0);
            for (int k = 0; k < 3; k++)
                CU_ASSERT(issue(m) == 1);
        }
        add(m, 1, 100);
    }
    CU_ASSERT(issue(m) == 13); /* the twelve prompts */
    for (int t = 0; t < 40; t++) {
        take_reply(m, &state, 0);
        while (m->n_steps < 5 && issue(m) > 0)
            CU_ASSERT(m->steps[m->n_steps - 1].n_rows <= 4);
    }
    end(m);
}

/* Decode goes on while a long prompt is read. */
static void decode_and_prefill_mix(void) {
    uint64_t state = 4;
    simulation *m = begin((schedule_limits){2, 8, 32, 16, 1000, 0});
    for (int i = 0; i < 4; i++)
        add(m, 4, 500);
    issue(m);
    take_reply(m, &state, 0);
    add(m, 1000, 0);
    int n_mixed = 0;
    for (int t = 0; t < 20; t++) {
        CU_ASSERT(issue(m) == 32);
        n_mixed += m->steps[m->n_steps - 1].n_spans == 3; /* two of the four, and the prompt */
        if (m->n_steps == 2) take_reply(m, &state, 0);
    }
    CU_ASSERT(n_mixed == 20);
    end(m);
}

/* Where memory has not all pages, sequences enter by their prompts, and those that outgrow it pause, the last
 * ones first, until there is room again; a sequence that alone is larger goes on. */
static void pauses_where_memory_is_small(void) {
    enum { SEQUENCES = 6, PROMPT = 64, NEW = 64, MEMORY = 20, LARGE = 500 };
    uint64_t state = 5;
    simulation *m = begin((schedule_limits){1, 8, 64, 16, 1000, MEMORY});
    int most_spans = 0, n_paused = 0;
    for (int i = 0; i < SEQUENCES; i++)
        add(m, PROMPT, NEW);
    add(m, LARGE, 20);
    while (m->n_over < SEQUENCES + 1) {
        issue(m);
        CU_ASSERT_FATAL(m->n_steps > 0);
        const issued *step = &m->steps[0];
        int64_t n_pages = 0;
        for (int i = 0; i < step->n_spans; i++)
            n_pages += kv_pages_for(m->sequences[step->spans[i].sequence].n_issued, m->limits.page_tokens);
        CU_ASSERT(n_pages <= MEMORY || step->n_spans == 1);
        if (step->n_spans > most_spans) most_spans = step->n_spans;
        n_paused += step->n_spans < most_spans && m->n_over == 0;
        take_reply(m, &state, 0);
    }
    CU_ASSERT(most_spans == MEMORY * 16 / PROMPT - 1 && n_paused > 0);
    end(m);
}

/* Chunks of one prompt follow each other without waiting for a reply. */
static void chunks_fill_the_pipeline(void) {
    simulation *m = begin((schedule_limits){4, 1, 64, 16, 100, 0});
    add(m, 200, 0);
    CU_ASSERT(issue(m) == 64 && issue(m) == 64 && issue(m) == 64 && issue(m) == 8 && issue(m) == 0);
    uint64_t state = 5;
    while (m->n_steps)
        take_reply(m, &state, 0);
    CU_ASSERT(m->n_over == 1);
    end(m);
}

/* A list of chunks: a prompt is cut where it says, and behind its end as its last one. */
static void chunks_of_a_list(void) {
    simulation *m = begin((schedule_limits){4, 1, 64, 16, 100, 0});
    use_chunks(m, 4, (const int[]){64, 32, 16, 5});
    add(m, 124, 0);
    CU_ASSERT(issue(m) == 64 && issue(m) == 32 && issue(m) == 16 && issue(m) == 5 && issue(m) == 5);
    CU_ASSERT(issue(m) == 2 && issue(m) == 0);
    CU_ASSERT(schedule_chunk_rows(m->schedule, 0) == 64 && schedule_chunk_rows(m->schedule, 64) == 32);
    CU_ASSERT(schedule_chunk_rows(m->schedule, 5000) == 5);
    end(m);
}

/* What a step has left is shared out as time, not as rows: beside 32 decode rows of 64 there is half a
 * chunk's time; and of two prompts the second gets what the first, at its own place, left. */
static void chunks_of_a_list_share_steps(void) {
    simulation *m = begin((schedule_limits){1, 40, 64, 16, 1000, 0});
    uint64_t state = 11;
    use_chunks(m, 3, (const int[]){64, 32, 16});
    for (int i = 0; i < 32; i++)
        add(m, 1, 100);
    CU_ASSERT(issue(m) == 32);
    take_reply(m, &state, 0);
    add(m, 200, 0);
    static const int rows[] = {32 + 32, 32 + 32, 32 + 16, 32 + 16, 32 + 8};
    for (int i = 0; i < 5; i++) {
        CU_ASSERT(issue(m) == rows[i]);
        take_reply(m, &state, 0);
    }
    end(m);

    m = begin((schedule_limits){1, 4, 64, 16, 1000, 0});
    use_chunks(m, 3, (const int[]){64, 32, 16});
    add(m, 80, 0); /* 64; then 16, which is half a step, and half of 64 of the next prompt */
    add(m, 100, 0);
    CU_ASSERT(issue(m) == 64 && issue(m) == 16 + 32 && m->steps[1].n_spans == 2);
    CU_ASSERT(issue(m) == 64 && issue(m) == 4);
    end(m);
}

/* No chunk has rows on both sides of a cut, also where the prompt shares steps. */
static void prompts_are_cut(void) {
    const schedule_limits limits = {1, 2, 10, 16, 100, 0};
    static const int64_t cuts[] = {13, 20};
    schedule *s = schedule_open(&limits);
    for (int i = 0; i < 2; i++)
        (void)schedule_add(s, &(schedule_request){.n_prompt = 37, .n_all = 37, .cut_at = cuts[i]});
    int64_t done[2] = {0};
    planned_span spans[2];
    while (done[0] + done[1] < 2 * 37) {
        const int n = schedule_next(s, spans);
        if (n == 0) break;
        for (int i = 0; i < n; i++) {
            const int64_t q = spans[i].sequence;
            done[q] = spans[i].pos0 + spans[i].n_rows;
            CU_ASSERT(spans[i].pos0 >= cuts[q] || done[q] <= cuts[q]);
        }
    }
    CU_ASSERT(done[0] == 37 && done[1] == 37);
    schedule_close(s);
}

static void short_prompts_share_a_step(void) {
    simulation *m = begin((schedule_limits){2, 16, 64, 16, 100, 0});
    for (int i = 0; i < 10; i++)
        add(m, 10, 0);
    CU_ASSERT(issue(m) == 64 && m->steps[0].n_spans == 7);
    CU_ASSERT(issue(m) == 36 && m->steps[1].n_spans == 4 && m->steps[1].spans[0].pos0 == 4);
    CU_ASSERT(m->n_shared_steps == 2);
    end(m);
}

/* The pool holds one of these at a time: the second enters when the first is over, and so does a third, small
 * one. */
static void waiting_for_pages(void) {
    uint64_t state = 6;
    simulation *m = begin((schedule_limits){1, 4, 512, 16, 10, 0});
    add(m, 100, 40);
    add(m, 100, 60);
    add(m, 1, 0);
    CU_ASSERT(schedule_fits(m->schedule, 160) && !schedule_fits(m->schedule, 161));
    for (int i = 0; i < 41; i++) {
        CU_ASSERT(issue(m) > 0 && m->steps[0].n_spans == 1 && m->steps[0].spans[0].sequence == 0);
        take_reply(m, &state, 0);
    }
    CU_ASSERT(m->n_over == 1 && issue(m) == 100 && m->steps[0].spans[0].sequence == 1);
    CU_ASSERT(issue(m) == 0);
    end(m);
}

static void slots_are_used_again(void) {
    uint64_t state = 7;
    simulation *m = begin((schedule_limits){1, 2, 8, 16, 100, 0});
    for (int i = 0; i < 9; i++)
        add(m, 8, 0);
    for (int i = 0; i < 9; i++) {
        CU_ASSERT(issue(m) == 8 && m->steps[0].spans[0].sequence == i);
        take_reply(m, &state, 0);
    }
    CU_ASSERT(issue(m) == 0 && m->n_over == 9);
    end(m);
}

/* A sequence may end while it waits, and before its next row. */
static void finish_at_any_time(void) {
    uint64_t state = 8;
    simulation *m = begin((schedule_limits){1, 1, 8, 16, 100, 0});
    for (int i = 0; i < 4; i++)
        add(m, 4, 4);
    finish(m, 1);
    CU_ASSERT(issue(m) == 4 && m->steps[0].spans[0].sequence == 0);
    take_reply(m, &state, 0);
    finish(m, 0); /* was to go on */
    CU_ASSERT(issue(m) == 4 && m->steps[0].spans[0].sequence == 2);
    take_reply(m, &state, 1); /* ends */
    finish(m, 3);
    CU_ASSERT(issue(m) == 0 && schedule_n_left(m->schedule) == 0);
    end(m);
}

/* More sequences decode than a step has rows: those that entered first end first, and all end. */
static void more_sequences_than_rows(void) {
    uint64_t state = 9;
    simulation *m = begin((schedule_limits){2, 32, 4, 16, 1000, 0});
    for (int i = 0; i < 32; i++)
        add(m, 3, 20);
    int n_steps = 0;
    for (; m->n_over < 32 && n_steps < 1000; n_steps++) {
        while (m->n_steps < 3 && issue(m) > 0) {
        }
        take_reply(m, &state, 0);
    }
    CU_ASSERT(m->n_over == 32);
    CU_ASSERT(n_steps <= 32 * 23 / 4 + 64); /* nearly all steps are full */
    end(m);
}

/* What was generated before a resume is not in a span with what was given, and comes first in its step. */
static void generated_tokens_apart(void) {
    uint64_t state = 10;
    simulation *m = begin((schedule_limits){1, 4, 16, 16, 1000, 0});
    add_known(m, 10, 4, 3, 0);
    add_known(m, 40, 39, 0, 8);
    add_known(m, 5, 0, 2, 0);
    CU_ASSERT(issue(m) == 11 && m->steps[0].n_spans == 2); /* 6 of the first, all of the third */
    take_reply(m, &state, 0);
    while (issue_loads(m, &state) || any_loads(m)) {
    }
    CU_ASSERT(issue(m) == 16 && m->steps[0].spans[1].is_generated); /* 1 decode row, 4 and 11 known ones */
    for (int i = 0; i < 20 && m->n_over < 3; i++) {
        take_reply(m, &state, 0);
        issue(m);
    }
    CU_ASSERT(m->n_over == 3);
    end(m);
}

/* The pool holds one prompt of 7 pages and what stays of two: each enters in the step behind that in which
 * the one before it is evicted, whose rows end there. */
static void evicted_pages_are_free(void) {
    const schedule_limits limits = {1, 4, 512, 16, 13, 0};
    schedule *s = schedule_open(&limits);
    planned_span spans[4];
    for (int i = 0; i < 3; i++)
        (void)schedule_add(s, &(schedule_request){.n_prompt = 110,
                                                  .n_all = 122,
                                                  .evict_at = i == 2 ? 110 : 106,
                                                  .n_left = 20,
                                                  .n_behind = i == 2 ? 32 : 36});
    CU_ASSERT(schedule_next(s, spans) == 1 && spans[0].sequence == 0 && spans[0].n_rows == 106);
    CU_ASSERT(schedule_next(s, spans) == 2 && spans[0].sequence == 0 && spans[0].n_rows == 4);
    CU_ASSERT(spans[0].pos0 == 106 && spans[0].ends_prompt);
    CU_ASSERT(spans[1].sequence == 1 && spans[1].n_rows == 106);
    CU_ASSERT(schedule_next(s, spans) == 2 && spans[0].sequence == 1 && spans[0].pos0 == 106);
    CU_ASSERT(spans[1].sequence == 2 && spans[1].n_rows == 110 && spans[1].ends_prompt);
    CU_ASSERT(schedule_fits(s, 208) && !schedule_fits(s, 209));
    schedule_close(s);
}

/* Behind its eviction a sequence is cut at every 10 positions, and has no more pages than it has places then,
 * however far it goes. */
static void evicted_again(void) {
    const schedule_limits limits = {1, 2, 512, 16, 7, 0};
    schedule *s = schedule_open(&limits);
    planned_span spans[2];
    (void)schedule_add(
        s,
        &(schedule_request){
            .n_prompt = 95, .n_all = 400, .evict_at = 70, .n_left = 20, .n_behind = 30, .evict_every = 10});
    (void)schedule_add(s, &(schedule_request){.n_prompt = 75, .n_all = 75});
    static const int rows[] = {70, 10, 10, 5};
    for (int i = 0, pos = 0; i < 4; pos += rows[i++]) {
        CU_ASSERT_EQUAL(schedule_next(s, spans), i == 1 ? 2 : 1);
        CU_ASSERT(spans[0].pos0 == pos && spans[0].n_rows == rows[i]);
        if (i == 1) CU_ASSERT(spans[1].sequence == 1 && spans[1].n_rows == 75);
    }
    (void)schedule_finish(s, 1);
    schedule_continue(s, 0);
    CU_ASSERT(schedule_next(s, spans) == 1 && spans[0].pos0 == 95 && spans[0].n_rows == 1);
    schedule_close(s);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"random runs", random_runs},
        {"held sequences stay", held_sequences_stay},
        {"no stage idles in decode", no_stage_idles_in_decode},
        {"no stage idles with late replies", no_stage_idles_with_late_replies},
        {"stragglers join", stragglers_join},
        {"newcomers are spread", newcomers_are_spread},
        {"decode and prefill mix", decode_and_prefill_mix},
        {"pauses where memory is small", pauses_where_memory_is_small},
        {"chunks fill the pipeline", chunks_fill_the_pipeline},
        {"chunks of a list", chunks_of_a_list},
        {"chunks of a list share steps", chunks_of_a_list_share_steps},
        {"prompts are cut", prompts_are_cut},
        {"short prompts share a step", short_prompts_share_a_step},
        {"generated tokens apart", generated_tokens_apart},
        {"waiting for pages", waiting_for_pages},
        {"evicted pages are free", evicted_pages_are_free},
        {"evicted again", evicted_again},
        {"slots are used again", slots_are_used_again},
        {"finish at any time", finish_at_any_time},
        {"more sequences than rows", more_sequences_than_rows},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "schedule", tests);
}
