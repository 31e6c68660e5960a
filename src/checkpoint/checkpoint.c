#include "src/checkpoint/checkpoint.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/snapshot/attempts.h"
#include "io/snapshot/snapshot_lock.h"
#include "io/snapshot/snapshot_tables.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/host.h"
#include "src/base/last_save.h"
#include "src/base/memory.h"

enum {
    NOBODY = -1,
    MOST_VAIN_RUNS = 3, /* in a row, before the next one is refused */
    MOST_CARRIED_LOGITS =
        16 << 20, /* that older sequences keep: manifests are written again with every save */
};

/* A manifest, and which session each of its sequences belongs to. */
typedef struct owned_manifest {
    manifest m;
    int64_t *owners; /* [m.n_sequences]; NOBODY: it stays as it is */
} owned_manifest;

/* Where a session is found: its sequence of each manifest, or NOBODY. What it begins with is in the snapshot
 * already, as long as it has no sequence. */
typedef struct saved_session {
    int64_t committed, pending;
    manifest_extent *start;
    int64_t n_start;
} saved_session;

struct checkpoint {
    char *dir;
    snapshot_lock *lock;
    checkpoint_run run;
    checkpoint_tables tables;
    manifest common; /* what all manifests of this run say */
    owned_manifest committed, pending;
    saved_session *sessions; /* [n_sessions] */
    int64_t n_sessions;
    int64_t save_number;
    double begin;

    bool is_busy, is_last, is_vain;
    bool keeps_all;        /* sessions wait to be loaded from older segments */
    int n_notes_left;      /* segments that were not told yet */
    int64_t first_segment; /* of the pending manifest: rank 0's */
    int64_t *logits_of;    /* the pending manifest's sequence of each extent of the save */
    status st;             /* of the save */
    char text[STATUS_TEXT_BYTES];
    pthread_t thread; /* that commits */
    bool has_thread;
    atomic_bool is_committed; /* or failed: the thread is done */
    double work_seconds;      /* of the slowest rank, and of the commit */
    checkpoint_stats stats;
};

static void free_owned(owned_manifest *o) {
    manifest_free(&o->m);
    free(o->owners);
    *o = (owned_manifest){0};
}

status checkpoint_open(const char *dir, const checkpoint_run *run, checkpoint **out) {
    checkpoint *c = mem_new(1, sizeof *c);
    c->dir = mem_copy_text(dir, strlen(dir));
    c->run = *run;
    status st = manifest_check_dir(dir);
    if (st == STATUS_OK) st = snapshot_lock_take(dir, &c->lock);
    int n_vain = st == STATUS_OK ? attempts_begin(dir) : 0;
    if (n_vain >= MOST_VAIN_RUNS)
        st = status_refuse(
            "%s: the last %d runs ended before they had saved anything new: give more time, save sooner "
            "(--save-every), lower --chunk-tokens, or load sooner (--load auto); the next run is let in "
            "again",
            dir, n_vain);
    if (st != STATUS_OK) {
        checkpoint_close(c);
        return st;
    }
    *out = c;
    return STATUS_OK;
}

void checkpoint_start(checkpoint *c, int64_t n_sessions, manifest *common, const checkpoint_tables *tables,
                      manifest *committed) {
    c->common = *common;
    c->tables = *tables;
    c->committed.m = *committed;
    *common = *committed = (manifest){0};
    c->committed.owners = mem_new((size_t)c->committed.m.n_sequences, sizeof(int64_t));
    for (int64_t i = 0; i < c->committed.m.n_sequences; i++)
        c->committed.owners[i] = NOBODY;
    c->sessions = mem_new((size_t)n_sessions, sizeof *c->sessions);
    c->n_sessions = n_sessions;
    for (int64_t i = 0; i < n_sessions; i++)
        c->sessions[i].committed = c->sessions[i].pending = NOBODY;
    c->save_number = c->committed.m.save_number;
    c->stats.begun_at = c->begin = clock_seconds();
    manifest_remove_unnamed_files(c->dir, c->save_number ? &c->committed.m : NULL);
}

void checkpoint_was_vain(checkpoint *c) {
    c->is_vain = true;
}

void checkpoint_close(checkpoint *c) {
    if (!c) return;
    if (c->has_thread) pthread_join(c->thread, NULL);
    if (c->lock && !c->is_vain) attempts_end(c->dir);
    snapshot_lock_release(c->lock);
    manifest_free(&c->common);
    free_owned(&c->committed);
    free_owned(&c->pending);
    for (int64_t i = 0; i < c->n_sessions; i++)
        free(c->sessions[i].start);
    free(c->sessions);
    free(c->logits_of);
    free(c->dir);
    free(c);
}

void checkpoint_continue(checkpoint *c, int64_t id, int64_t source) {
    if (c->committed.owners[source] != NOBODY) {
        checkpoint_begin_with(c, id, source, INT64_MAX);
        return;
    }
    c->committed.owners[source] = id;
    c->sessions[id].committed = source;
}

void checkpoint_begin_with(checkpoint *c, int64_t id, int64_t source, int64_t n_tokens) {
    const manifest_sequence *from = &c->committed.m.sequences[source];
    saved_session *r = &c->sessions[id];
    assert(!r->start);
    r->start = mem_new((size_t)from->n_extents, sizeof *r->start);
    for (int64_t i = 0; i < from->n_extents && from->extents[i].pos0 < n_tokens; i++) {
        manifest_extent x = from->extents[i];
        if (x.n_tokens > n_tokens - x.pos0) x.n_tokens = n_tokens - x.pos0;
        r->start[r->n_start++] = x;
    }
}

/* ---- the next manifest ---- */

static char *copy_text(const char *text) {
    return text ? mem_copy_text(text, strlen(text)) : NULL;
}

static void *copy_array(const void *from, int64_t n, size_t item_bytes) {
    if (!from) return NULL;
    void *to = mem_new((size_t)n, item_bytes);
    memcpy(to, from, (size_t)n * item_bytes);
    return to;
}

static manifest_sequence copy_sequence(const manifest_sequence *from, int vocab_size) {
    manifest_sequence to = *from;
    to.id = copy_text(from->id);
    to.tokens = copy_array(from->tokens, from->n_tokens, sizeof *from->tokens);
    to.extents = copy_array(from->extents, from->n_extents, sizeof *from->extents);
    for (int i = 0; i < from->n_stops; i++)
        to.stops[i] = copy_text(from->stops[i]);
    to.stop_tokens = copy_array(from->stop_tokens, from->n_stop_tokens, sizeof *from->stop_tokens);
    to.inexact = copy_text(from->inexact);
    to.pages = copy_text(from->pages);
    to.prompt_text = copy_array(from->prompt_text, from->n_prompt_text, 1);
    to.text = copy_array(from->text, from->n_text, 1);
    int64_t n_logprobs = (from->n_tokens - from->n_prompt) * from->n_logprobs;
    to.logprobs = copy_array(from->logprobs, n_logprobs, sizeof *from->logprobs);
    to.last_logits = copy_array(from->last_logits, vocab_size, sizeof *from->last_logits);
    return to;
}

/* To the pending manifest, which has room. */
static void append_sequence(checkpoint *c, manifest_sequence q, int64_t owner) {
    int64_t i = c->pending.m.n_sequences++;
    c->pending.m.sequences[i] = q;
    c->pending.owners[i] = owner;
    if (owner != NOBODY) c->sessions[owner].pending = i;
}

/* Append an extent, as a part of the last one where it goes on there. */
static void append_extent(manifest_sequence *q, manifest_extent x) {
    manifest_extent *last = q->n_extents ? &q->extents[q->n_extents - 1] : NULL;
    if (last && last->row0 + last->n_tokens == x.row0 && last->pos0 + last->n_tokens == x.pos0) {
        last->n_tokens += x.n_tokens;
        return;
    }
    q->extents = mem_resize(q->extents, (size_t)q->n_extents + 1, sizeof *q->extents);
    q->extents[q->n_extents++] = x;
}

/* What is committed of a session's positions: those of its own sequence, or its head start. */
static void take_committed_extents(const checkpoint *c, int64_t id, manifest_sequence *q) {
    const saved_session *r = &c->sessions[id];
    const manifest_sequence *own = r->committed == NOBODY ? NULL : &c->committed.m.sequences[r->committed];
    const manifest_extent *from = own ? own->extents : r->start;
    int64_t n = own ? own->n_extents : r->n_start;
    for (int64_t i = 0; i < n; i++)
        append_extent(q, from[i]);
}

static void copy_common(const checkpoint *c, manifest *m) {
    *m = c->common;
    m->model_name = copy_text(c->common.model_name);
    m->model_shape = copy_text(c->common.model_shape);
    m->rope = copy_text(c->common.rope);
    m->version = copy_text(c->common.version);
    m->command_line = copy_text(c->common.command_line);
    m->host = copy_text(c->common.host);
    m->processor = copy_text(c->common.processor);
    m->save_number = c->save_number;
    m->unix_time = (int64_t)time(NULL);
    m->seconds_computed = c->common.seconds_computed + (clock_seconds() - c->begin);
    m->n_rows = c->committed.m.n_rows;
    m->segments = copy_array(c->committed.m.segments, c->committed.m.n_segments, sizeof *m->segments);
    m->n_segments = c->committed.m.n_segments;
}

/* Sequences that are not in the cache (now) stay as they are, unless nobody needs them. */
static void carry_over(checkpoint *c, const engine *e) {
    const owned_manifest *old = &c->committed;
    int64_t n_logits = 0;
    bool *is_cached = mem_new((size_t)c->n_sessions, sizeof *is_cached);
    engine_cached q;
    for (int i = 0; engine_cached_at(e, i, &q); i++)
        is_cached[q.session->id] = q.n_tokens > 0;
    for (int64_t i = 0; i < old->m.n_sequences; i++) {
        int64_t id = old->owners[i];
        if (id != NOBODY && (is_cached[id] || c->run.fate(c->run.context, id) == FATE_GONE)) continue;
        manifest_sequence carried = copy_sequence(&old->m.sequences[i], old->m.vocab_size);
        if (carried.last_logits && (n_logits += old->m.vocab_size) > MOST_CARRIED_LOGITS) {
            free(carried.last_logits);
            carried.last_logits = NULL;
        }
        append_sequence(c, carried, id);
    }
    free(is_cached);
}

/* Describe what is in the cache, and order the rows that are new. The number of extents. */
static int describe_cached(checkpoint *c, const engine *e, step_extent *extents) {
    int n = 0;
    engine_cached q;
    for (int i = 0; engine_cached_at(e, i, &q); i++) {
        if (q.n_tokens == 0 || c->run.fate(c->run.context, q.session->id) == FATE_GONE) continue;
        manifest_sequence s = {0};
        c->run.describe(c->run.context, q.session->id, &s);
        take_committed_extents(c, q.session->id, &s);
        int64_t saved = manifest_kv_tokens(&s), n_new = q.n_tokens > saved ? q.n_tokens - saved : 0;
        if (n_new > 0) append_extent(&s, (manifest_extent){saved, n_new, c->pending.m.n_rows});
        c->pending.m.n_rows += n_new;
        c->logits_of[n] = c->pending.m.n_sequences;
        extents[n++] = (step_extent){.slot = q.slot, .pos0 = saved, .n_tokens = n_new};
        append_sequence(c, s, q.session->id);
    }
    return n;
}

void checkpoint_begin(checkpoint *c, engine *e, bool is_last) {
    assert(!c->is_busy);
    int n_slots = engine_n_slots(e);
    step_extent *extents = mem_new((size_t)n_slots, sizeof *extents);
    c->logits_of = mem_resize(c->logits_of, (size_t)n_slots, sizeof *c->logits_of);
    c->is_busy = true;
    c->is_last = is_last;
    c->keeps_all = engine_n_unloaded(e) > 0;
    c->stats.begun_at = c->stats.busy_since = clock_seconds();
    c->work_seconds = 0;
    c->save_number++;
    copy_common(c, &c->pending.m);
    const size_t most = (size_t)c->committed.m.n_sequences + (size_t)n_slots;
    c->pending.m.sequences = mem_new(most, sizeof *c->pending.m.sequences);
    c->pending.owners = mem_new(most, sizeof *c->pending.owners);
    c->run.describe_batch(c->run.context, &c->pending.m.batch);
    carry_over(c, e);
    int n = describe_cached(c, e, extents);
    step_save order = {c->save_number, c->committed.m.n_rows, is_last};
    c->st = fault_at("save-begin");
    if (c->st != STATUS_OK) memcpy(c->text, status_text(), sizeof c->text);
    c->n_notes_left = engine_plan(e)->n_ranks;
    engine_begin_save(e, &order, extents, n);
    free(extents);
}

/* ---- its end ---- */

static void note_failure(checkpoint *c, status st, const char *text) {
    if (c->st == STATUS_OK) snprintf(c->text, sizeof c->text, "%s", text);
    if (c->st == STATUS_OK) c->st = st;
}

static void take_note(checkpoint *c, const note *n, int vocab_size) {
    if (n->number != c->save_number || !c->is_busy) return;
    manifest *m = &c->pending.m;
    if (n->kind == NOTE_LOGITS) {
        manifest_sequence *q = &m->sequences[c->logits_of[n->extent]];
        free(q->last_logits);
        q->last_logits = copy_array(n + 1, vocab_size, sizeof(float));
        return;
    }
    c->n_notes_left--;
    if (n->seconds > c->work_seconds) c->work_seconds = n->seconds;
    if (n->st != STATUS_OK) {
        note_failure(c, n->st, n->text);
    } else if (n->segment.n_rows > 0) {
        m->segments = mem_resize(m->segments, (size_t)m->n_segments + 1, sizeof *m->segments);
        m->segments[m->n_segments++] = n->segment;
    }
}

static status commit_files(checkpoint *c) {
    status st = c->st;
    if (st == STATUS_OK) st = c->run.flush_results(c->run.context);
    if (st == STATUS_OK) st = fault_at("save-commit");
    if (st == STATUS_OK && !c->keeps_all) manifest_drop_unused(&c->pending.m);
    if (st == STATUS_OK) st = snapshot_lock_check(c->lock);
    if (st == STATUS_OK && c->tables.bytes)
        st = snapshot_tables_put(c->dir, c->tables.digest, c->tables.bytes, c->tables.n_bytes);
    if (st == STATUS_OK) st = manifest_write(c->dir, &c->pending.m);
    if (st == STATUS_OK && !c->is_vain) attempts_end(c->dir);
    return st;
}

static void *commit(void *arg) {
    checkpoint *c = arg;
    bool was_good = c->st == STATUS_OK;
    double begin = clock_seconds();
    c->st = commit_files(c);
    if (was_good && c->st != STATUS_OK) snprintf(c->text, sizeof c->text, "%s", status_text());
    const manifest *now = c->st == STATUS_OK ? &c->pending.m : &c->committed.m;
    if (fault_at("save-clean") == STATUS_OK && snapshot_lock_check(c->lock) == STATUS_OK)
        manifest_remove_unnamed_files(c->dir, now->save_number ? now : NULL);
    c->work_seconds += clock_seconds() - begin;
    atomic_store(&c->is_committed, true);
    return NULL;
}

static void *commit_beside(void *arg) {
    host_yield_to_others();
    return commit(arg);
}

static void begin_commit(checkpoint *c) {
    atomic_store(&c->is_committed, false);
    c->has_thread = !c->is_last && pthread_create(&c->thread, NULL, commit_beside, c) == 0;
    if (!c->has_thread) commit(c);
}

static void count_save(checkpoint *c, double seconds) {
    const manifest *m = &c->pending.m;
    int64_t n_rows = m->n_rows - c->committed.m.n_rows;
    c->stats.n_saves++;
    c->stats.n_tokens += n_rows;
    c->stats.raw_bytes +=
        (double)n_rows * 2 * m->n_layers * m->n_kv_heads * m->head_dim * (double)dtype_bytes(m->type);
    for (int64_t i = 0; i < m->n_segments; i++)
        if (m->segments[i].row0 >= c->committed.m.n_rows) c->stats.file_bytes += m->segments[i].file_bytes;
    c->stats.seconds += seconds;
    c->stats.work_seconds += c->work_seconds;
    c->stats.last_work_seconds = c->work_seconds;
    c->stats.failure[0] = '\0';
}

static void end_save(checkpoint *c) {
    if (c->has_thread) pthread_join(c->thread, NULL);
    c->has_thread = c->is_busy = false;
    double seconds = clock_seconds() - c->stats.busy_since;
    c->stats.busy_since = 0;
    for (int64_t i = 0; i < c->n_sessions; i++) {
        saved_session *r = &c->sessions[i];
        if (c->st == STATUS_OK) r->committed = r->pending;
        r->pending = NOBODY;
    }
    if (c->st == STATUS_OK) {
        count_save(c, seconds);
        free_owned(&c->committed);
        c->committed = c->pending;
        c->pending = (owned_manifest){0};
        /* Whoever is killed outright cannot say it then. */
        if (c->stats.n_saves == 1 && !c->is_last) last_save_say();
        return;
    }
    free_owned(&c->pending);
    c->stats.n_failed++;
    memcpy(c->stats.failure, c->text, sizeof c->stats.failure);
    fprintf(stderr, "kvarve: WARNING: not saved: %s\n", c->text);
    last_save_say();
}

bool checkpoint_is_busy(const checkpoint *c) {
    return c->is_busy;
}

bool checkpoint_reads(const checkpoint *c, int64_t id) {
    return c->is_busy && c->sessions[id].pending != NOBODY;
}

void checkpoint_count_tokens(checkpoint *c, int64_t n_tokens, double seconds) {
    *(c->is_busy ? &c->stats.beside_tokens : &c->stats.alone_tokens) += n_tokens;
    *(c->is_busy ? &c->stats.beside_seconds : &c->stats.alone_seconds) += seconds;
}

bool checkpoint_poll(checkpoint *c, engine *e) {
    bool was_waiting = c->is_busy && c->n_notes_left > 0;
    for (note *n; (n = engine_take_note(e)); free(n))
        take_note(c, n, engine_config(e)->vocab_size);
    if (!c->is_busy || c->n_notes_left > 0) return false;
    if (was_waiting) begin_commit(c);
    if (!atomic_load(&c->is_committed)) return false;
    end_save(c);
    return true;
}

bool checkpoint_has(const checkpoint *c, int64_t id, int64_t n_tokens) {
    int64_t i = c->sessions[id].committed;
    return i != NOBODY && manifest_kv_tokens(&c->committed.m.sequences[i]) >= n_tokens;
}

checkpoint_stats checkpoint_get_stats(const checkpoint *c) {
    return c->stats;
}

const manifest *checkpoint_committed(const checkpoint *c) {
    return &c->committed.m;
}
