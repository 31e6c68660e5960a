/* What rank 0 knows of loads: how far each rank is, and how much of what is cached is computed meanwhile. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/engine/engine_private.h"

void engine_begin_load(engine *e, int slot, session *s, int64_t n_tokens) {
    slot_load *load = &e->loads[slot];
    const int n_ranks = comm_size(e->worker.comm);
    load->session = s;
    e->load_prompts = mem_grow(e->load_prompts, (size_t)e->n_loads, sizeof *e->load_prompts);
    e->load_prompts[e->n_loads] = s->id;
    load->number = ++e->n_loads;
    load->is_over = false;
    load->n_loaded = load->n_coarse = load->n_awaited = 0;
    load->coarse_end = load->coarse_tokens = 0;
    load->is_counted = load->has_failed = false;
    load->race = load_race_begin(n_tokens, e->options.usual_seconds_per_row, clock_seconds());
    load->edges = mem_resize(load->edges, (size_t)n_ranks, sizeof *load->edges);
    for (int rank = 0; rank < n_ranks; rank++)
        load->edges[rank] = n_tokens;
    e->n_loading++;
}

/* What would have been best: so many of the blocks loaded, at the pace that was seen, that the rest is
 * computed in about that time. */
static double best_seconds(const load_race *r, double seconds, double seconds_per_row) {
    const double n = (double)r->n_tokens, n_loaded = (double)(r->n_tokens - r->edge);
    const double load = n_loaded > 0 ? (r->moved_at - r->begin) / n_loaded : 0;
    const double block = r->block_tokens > 0 ? r->block_tokens : n;
    double best = n * seconds_per_row;
    if (r->n_computed == 0 || !(seconds_per_row > 0)) return seconds;
    for (double loaded = block; load > 0 && loaded < n + block; loaded += block)
        best = fmin(best, fmax(fmin(loaded, n) * load, (n - fmin(loaded, n)) * seconds_per_row));
    return fmin(best, seconds);
}

/* How many positions came from their base, once it is known how many are computed, and what each rank has. */
static void count_from_base(engine *e, slot_load *load) {
    const int64_t behind = load->coarse_end - load->race.n_computed, n = load->coarse_tokens;
    if (load->session || load->is_counted || load->n_loaded < comm_size(e->worker.comm)) return;
    load->is_counted = true;
    if (behind > 0) e->loaded.n_from_base += n < behind ? n : behind;
}

/* The sequence goes on once all of it is loaded, or computed, or on its way to be. */
static void end_load(engine *e, slot_load *load) {
    const load_race *r = &load->race;
    const double seconds = clock_seconds() - r->begin;
    if (r->edge > r->n_computed) return;
    e->loaded.n_loads++;
    e->loaded.n_computed += r->n_computed;
    e->loaded.n_loaded += r->n_tokens - r->n_computed;
    e->loaded.seconds += seconds;
    e->loaded.best_seconds += best_seconds(r, seconds, e->seconds_per_row);
    load->session->n_recomputed = r->n_computed;
    schedule_loaded(e->schedule, load->session->handle);
    load->session = NULL;
    e->n_loading--;
    e->n_unloaded--;
    count_from_base(e, load);
}

void engine_count_computed(engine *e, int slot, int n_rows) {
    slot_load *load = &e->loads[slot];
    if (!load->session) return;
    load->race.n_computed += n_rows;
    e->loaded.n_recomputed += n_rows;
    end_load(e, load);
}

/* A rank has come so far: what counts is where the slowest is. */
static void move_edge(engine *e, slot_load *load, int rank, int64_t edge, double idle_share) {
    int64_t most = 0;
    load->edges[rank] = edge;
    for (int i = 0; i < comm_size(e->worker.comm); i++)
        if (load->edges[i] > most) most = load->edges[i];
    if (edge == most) load->race.idle_share = idle_share;
    load_race_move(&load->race, most, clock_seconds());
    end_load(e, load);
}

/* What a rank could not do, as status_text(). */
static const char *text_of_failure(const engine *e, const note *n, int rank) {
    status_adopt(n->st, n->text);
    if (comm_size(e->worker.comm) > 1) status_at(n->st, "rank %d", rank);
    return status_text();
}

/* A rank could not load its part. It is computed, where that may be, and perhaps was before this was known;
 * else the first failure of a run is kept for engine_next. */
static void fail_load(engine *e, slot_load *load, const note *n, int rank) {
    if (!load->session && !e->options.races_loads) return; /* told by another rank */
    const char *text = text_of_failure(e, n, rank);
    if (e->options.races_loads) {
        notice_add("%s: what is cached behind it is computed again", text);
        load->race.is_stuck = true;
        return;
    }
    if (!e->load_failure) e->load_failure = mem_copy_text(text, strlen(text));
    e->failed_load = load->session;
    load->session = NULL;
    e->n_loading--;
    e->n_unloaded--;
}

/* Which ranks have bases only, and which have what refines them. */
static void count_coarse(engine *e, slot_load *load, const note *n, int rank) {
    if (n->kind == NOTE_LOADED) {
        load->n_loaded++;
        if (n->n_coarse > 0 && load->n_coarse++ == 0) e->loaded.n_coarse++;
        if (n->n_coarse > 0 && load->session) load->session->had_base = true;
        load->n_awaited += n->n_coarse > 0;
        if (n->coarse_end > load->coarse_end) load->coarse_end = n->coarse_end;
        if (n->coarse_tokens > load->coarse_tokens) load->coarse_tokens = n->coarse_tokens;
        count_from_base(e, load);
    }
    if (n->kind != NOTE_FETCHED) return;
    if (load->n_awaited > 0) load->n_awaited--;
    if (n->st == STATUS_OK) return;
    load->has_failed = true;
    notice_add("%s: of what could not be refined, the base stays", text_of_failure(e, n, rank));
}

void engine_take_load(engine *e, const note *n, int rank) {
    slot_load *load = &e->loads[n->number];
    const int64_t prompt = e->load_prompts[n->load - 1];
    const bool is_wanted = n->load == load->number && n->kind != NOTE_DROPPED && !e->has_stopped;
    e->n_loads_told += n->kind == NOTE_LOADED || n->kind == NOTE_DROPPED;
    load_log_add(&e->log_of_loads, (const load_record *)(n + 1), n->n_records, rank, prompt);
    if (!is_wanted && n->st != STATUS_OK && !e->load_failure)
        notice_add("%s: what is cached behind it was no longer needed", text_of_failure(e, n, rank));
    if (!is_wanted) return;
    count_coarse(e, load, n, rank);
    if (n->kind == NOTE_FETCHED) return;
    if (n->st != STATUS_OK) fail_load(e, load, n, rank);
    if (n->st != STATUS_OK || !load->session) return; /* all was computed before it came */
    if (n->kind == NOTE_LOADING)
        move_edge(e, load, rank, n->edge, n->idle_share);
    else
        move_edge(e, load, rank, 0, 1);
}

bool engine_is_fetched(const engine *e, int slot, int64_t pos) {
    const slot_load *load = &e->loads[slot];
    return !load->is_over && !load->session && load->n_coarse > 0 && load->n_awaited == 0 &&
           load->n_loaded == comm_size(e->worker.comm) && pos > load->race.n_tokens;
}

void engine_count_refined(engine *e, int slot, int64_t pos) {
    e->loads[slot].is_over = true;
    if (e->loads[slot].has_failed) {
        e->loaded.n_unrefined++;
        return;
    }
    if (e->loaded.n_refined == 0 || pos < e->loaded.first_refined) e->loaded.first_refined = pos;
    if (pos > e->loaded.last_refined) e->loaded.last_refined = pos;
    e->loaded.n_refined++;
}

static int rows_in_flight(const engine *e) {
    int n = 0;
    for (int i = 0; i < e->n_issued; i++)
        n += e->issued[(e->first_issued + i) % e->max_in_flight].n_prompt_rows;
    return n;
}

bool engine_let_compute(engine *e) {
    bool any = false;
    for (int slot = 0; e->options.races_loads && slot < engine_n_slots(e); slot++) {
        const slot_load *load = &e->loads[slot];
        if (!load->session) continue;
        const int most = (int)schedule_chunk_rows(e->schedule, load->race.n_computed);
        const int n =
            load_race_rows(&load->race, clock_seconds(), e->seconds_per_row, rows_in_flight(e), most);
        schedule_let_compute(e->schedule, load->session->handle, n);
        any |= n > 0;
    }
    return any;
}

bool engine_awaits_loaded(const engine *e) {
    bool any = false;
    for (int slot = 0; !e->load_failure && slot < engine_n_slots(e); slot++) {
        const slot_load *load = &e->loads[slot];
        any |= load->number > 0 && !load->session && load->n_loaded < comm_size(e->worker.comm);
    }
    return any;
}

const load_log *engine_log_of_loads(const engine *e) {
    return &e->log_of_loads;
}

engine_loads engine_get_loads(const engine *e) {
    return e->loaded;
}
