#include "src/snapshot/compact.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "io/files.h"
#include "io/snapshot/snapshot_lock.h"
#include "io/snapshot/snapshot_tables.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/command/chosen_coding.h"
#include "src/command/run.h"
#include "src/snapshot/own_tables.h"

/* Rows [row0, row0 + n_rows) are needed, and become rows from new_row0 on. */
typedef struct live_range {
    int64_t row0, n_rows, new_row0;
} live_range;

/* Rows [row0, row0 + n_rows) of an old segment, which are all in one live range, become rows from new_row0
 * on, in layers [first_layer, last_layer). */
typedef struct piece {
    int first_layer, last_layer;
    int64_t new_row0, row0, n_rows;
    segment *from;
} piece;

/* What is needed, and where this rank's layers of it are. */
typedef struct compaction {
    const manifest *m;
    stop_limits limits;
    live_range *live;       /* [n_live], in order of rows */
    int64_t n_live, n_rows; /* rows: after the compaction */
    piece *pieces;          /* [n_pieces], in order of new rows; together they tile the layers' rows */
    size_t n_pieces;
    int64_t longest_piece; /* rows */
    chosen_coding chosen;  /* of what is written; without tables where those of the snapshot serve */
    snapshot_tables old;   /* that the old segments need */
    kv_token *tokens;      /* [n_rows] of the new rows; NULL where nobody asks for them */
} compaction;

static int by_row(const void *a, const void *b) {
    const live_range *x = a, *y = b;
    return x->row0 < y->row0 ? -1 : x->row0 > y->row0;
}

/* The rows that any sequence needs, each once, in order. */
static void find_live(compaction *k) {
    const manifest *m = k->m;
    int64_t n = 0;
    for (int64_t i = 0; i < m->n_sequences; i++)
        n += m->sequences[i].n_extents;
    k->live = mem_new((size_t)n, sizeof *k->live);
    n = 0;
    for (int64_t i = 0; i < m->n_sequences; i++)
        for (int64_t e = 0; e < m->sequences[i].n_extents; e++)
            k->live[n++] = (live_range){.row0 = m->sequences[i].extents[e].row0,
                                        .n_rows = m->sequences[i].extents[e].n_tokens};
    qsort(k->live, (size_t)n, sizeof *k->live, by_row);
    for (int64_t i = 0; i < n; i++) {
        live_range r = k->live[i], *last = k->n_live ? &k->live[k->n_live - 1] : NULL;
        int64_t end = last ? last->row0 + last->n_rows : 0;
        if (last && r.row0 <= end) {
            if (r.row0 + r.n_rows > end) last->n_rows = r.row0 + r.n_rows - last->row0;
        } else {
            k->live[k->n_live++] = r;
        }
    }
    for (int64_t i = 0; i < k->n_live; i++) {
        k->live[i].new_row0 = k->n_rows;
        k->n_rows += k->live[i].n_rows;
    }
}

/* The first live range that ends behind an old row; NULL: none does. */
static const live_range *live_at(const compaction *k, int64_t row) {
    int64_t low = 0, high = k->n_live;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (k->live[middle].row0 + k->live[middle].n_rows > row)
            high = middle;
        else
            low = middle + 1;
    }
    return low < k->n_live ? &k->live[low] : NULL;
}

static int64_t new_row(const compaction *k, int64_t row) {
    const live_range *r = live_at(k, row);
    assert(r && row >= r->row0);
    return r->new_row0 + (row - r->row0);
}

static int by_new_row(const void *a, const void *b) {
    const piece *x = a, *y = b;
    if (x->new_row0 != y->new_row0) return x->new_row0 < y->new_row0 ? -1 : 1;
    return x->first_layer - y->first_layer;
}

/* What of a segment is needed for the layers of `mine`. */
static void add_pieces(compaction *k, const segment_info *s, const segment_info *mine, segment *from) {
    int first = s->first_layer > mine->first_layer ? s->first_layer : mine->first_layer;
    int last = s->last_layer < mine->last_layer ? s->last_layer : mine->last_layer;
    const int64_t end = s->row0 + s->n_rows;
    const live_range *r = live_at(k, s->row0);
    for (; r && r < k->live + k->n_live && r->row0 < end; r++) {
        int64_t a = r->row0 > s->row0 ? r->row0 : s->row0, b = r->row0 + r->n_rows;
        if (b > end) b = end;
        k->pieces = mem_grow(k->pieces, k->n_pieces, sizeof *k->pieces);
        k->pieces[k->n_pieces++] = (piece){first, last, r->new_row0 + (a - r->row0), a, b - a, from};
        if (b - a > k->longest_piece) k->longest_piece = b - a;
    }
}

/* What a piece has of a chunk. */
static status read_piece(const piece *p, const kv_chunk *chunk, int64_t row0, char *out) {
    const int end = chunk->first_layer + chunk->n_layers;
    int64_t a = row0 > p->new_row0 ? row0 : p->new_row0, b = row0 + chunk->shape.n_tokens;
    if (b > p->new_row0 + p->n_rows) b = p->new_row0 + p->n_rows;
    kv_chunk to = *chunk;
    if (to.first_layer < p->first_layer) to.first_layer = p->first_layer;
    to.n_layers = (end < p->last_layer ? end : p->last_layer) - to.first_layer;
    if (a >= b || to.n_layers <= 0) return STATUS_OK;
    out += (size_t)(to.first_layer - chunk->first_layer) * (size_t)chunk->n_parts * kv_chunk_bytes(&to.shape);
    return segment_read_into(p->from, p->row0 + (a - p->new_row0), b - a, &to, a - row0, out);
}

/* A segment's source. */
static status read_new(void *context, const kv_chunk *chunk, int64_t row0, void *out) {
    const compaction *k = context;
    size_t low = 0, high = k->n_pieces; /* to the first piece that may reach row0 */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (k->pieces[middle].new_row0 + k->longest_piece > row0)
            high = middle;
        else
            low = middle + 1;
    }
    status st = stop_ask(&k->limits);
    for (; st == STATUS_OK && low < k->n_pieces && k->pieces[low].new_row0 < row0 + chunk->shape.n_tokens;
         low++)
        st = read_piece(&k->pieces[low], chunk, row0, out);
    return st;
}

static void describe_new(void *context, int64_t row0, int64_t n_rows, kv_token *out) {
    const compaction *k = context;
    memcpy(out, k->tokens + row0, (size_t)n_rows * sizeof *out);
}

/* Where the new rows are in their sequences: of a row that several share, in the one whose end is nearest. */
static void find_tokens(compaction *k) {
    const manifest *m = k->m;
    k->tokens = mem_new((size_t)k->n_rows, sizeof *k->tokens);
    for (int64_t row = 0; row < k->n_rows; row++)
        k->tokens[row].age = INT32_MAX;
    for (int64_t i = 0; i < m->n_sequences; i++) {
        const manifest_sequence *q = &m->sequences[i];
        const int64_t end = manifest_kv_tokens(q);
        for (const manifest_extent *e = q->extents; e < q->extents + q->n_extents; e++)
            for (int64_t n = 0; n < e->n_tokens; n++) {
                kv_token *to = &k->tokens[new_row(k, e->row0 + n)];
                const int32_t age = (int32_t)(end - 1 - (e->pos0 + n));
                if (age < to->age) *to = (kv_token){(int32_t)(e->pos0 + n), age};
            }
    }
}

/* Every old segment is open while it is read from. */
static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* ---- how it is coded ---- */

/* As all of it is, if that is one way. Exact ones may be mixed: they become lossless. */
static status keep_coding(const char *dir, const manifest *m, kv_coding *out) {
    bool is_mixed = m->n_segments == 0;
    for (int64_t i = 0; i < m->n_segments; i++) {
        const segment_info *s = &m->segments[i], *first = &m->segments[0];
        if (s->codec == first->codec && s->level == first->level && s->has_base == first->has_base &&
            s->tables_digest == first->tables_digest)
            continue;
        if (!kv_codec_is_exact(s->codec) || !kv_codec_is_exact(first->codec))
            return status_refuse(
                "%s: parts of it are coded in different ways: say with --codec which is to be", dir);
        is_mixed = true;
    }
    *out = is_mixed ? (kv_coding){.codec = KV_CODEC_LOSSLESS} : segment_coding(&m->segments[0]);
    return STATUS_OK;
}

/* Do their levels mean the same? */
static bool is_family(kv_codec a, kv_codec b) {
    return (a == KV_CODEC_CACHEGEN) == (b == KV_CODEC_CACHEGEN);
}

/* What a codec has left away does not come back. Steps of one family can be compared. */
static status check_not_finer(const char *dir, const manifest *m, const kv_coding *c) {
    for (int64_t i = 0; i < m->n_segments; i++) {
        const segment_info *s = &m->segments[i];
        const kv_coding was = segment_coding(s);
        char old[KV_CODING_TEXT_BYTES], new[KV_CODING_TEXT_BYTES];
        if (kv_codec_is_exact(s->codec)) continue;
        if (!kv_codec_is_exact(c->codec) && (!is_family(s->codec, c->codec) || c->level >= s->level))
            continue;
        kv_coding_text(&was, old);
        kv_coding_text(c, new);
        return status_refuse(
            "%s: it is coded by %s, and %s would be larger, but no better: what is lost does not "
            "come back",
            dir, old, new);
    }
    return STATUS_OK;
}

/* --codec and its tables, which are made of what the snapshot holds where there are none. Rank 0. */
static status read_coding(compaction *k, const options *o, int n_threads) {
    const manifest *m = k->m;
    kv_coding given = {0};
    char *bytes = NULL;
    size_t n_bytes = 0;
    status st = kv_coding_parse(o->recode, &given);
    if (st == STATUS_OK)
        st = chosen_coding_find(o, &given, m->n_layers, m->n_kv_heads, m->head_dim, o->dir,
                                manifest_find_coded(m), &k->chosen);
    if (st != STATUS_OK || kv_codec_is_exact(given.codec) || k->chosen.tables) return st;
    st = own_tables_make(o->dir, m, given.codec, options_wants_generic(o), n_threads, &k->limits, &bytes,
                         &n_bytes);
    return st == STATUS_OK ? chosen_coding_take(&given, bytes, n_bytes, &k->chosen) : st;
}

/* The coding of rank 0, or what is there. Collective. */
static status choose_coding(comm *c, compaction *k, const options *o, int n_threads) {
    const manifest *m = k->m;
    status st = STATUS_OK;
    if (!o->recode)
        st = keep_coding(o->dir, m, &k->chosen.coding);
    else if (comm_rank(c) == 0)
        st = read_coding(k, o, n_threads);
    if (comm_any_failed(c, &st)) return st;
    if (o->recode) st = chosen_coding_share(c, &k->chosen);
    if (o->recode && st == STATUS_OK) st = check_not_finer(o->dir, m, &k->chosen.coding);
    comm_any_failed(c, &st);
    return st;
}

/* Rank 0. */
static void note_coding(const compaction *k, const options *o) {
    const manifest *m = k->m;
    chosen_coding_note(&k->chosen, o, "the snapshot's", m->model_digest);
    if (!kv_codec_is_exact(k->chosen.coding.codec) && manifest_find_coded(m))
        notice_add(
            "%s: what was coded is coded a second time, and the errors of both add up; made from an exact "
            "snapshot, it would have those of one",
            o->dir);
}

/* ---- writing ---- */

static uint64_t tables_digest(const compaction *k) {
    if (kv_codec_is_exact(k->chosen.coding.codec)) return 0;
    return k->chosen.tables ? k->chosen.tables->digest : k->m->segments[0].tables_digest;
}

static status write_layers(compaction *k, const char *dir, segment_info *info, int n_threads) {
    const manifest *m = k->m;
    segment **open = mem_new((size_t)m->n_segments, sizeof *open);
    status st = snapshot_tables_open(dir, NULL, m, info->first_layer, info->last_layer, &k->old);
    raise_file_limit();
    for (int64_t i = 0; st == STATUS_OK && i < m->n_segments; i++) {
        const segment_info *s = &m->segments[i];
        if (s->first_layer >= info->last_layer || s->last_layer <= info->first_layer) continue;
        st = segment_open(dir, NULL, s, snapshot_tables_of(&k->old, s), &open[i]);
        if (st == STATUS_OK) add_pieces(k, s, info, open[i]);
    }
    if (k->n_pieces > 0) qsort(k->pieces, k->n_pieces, sizeof *k->pieces, by_new_row);
    const kv_tables *tables = k->chosen.tables ? k->chosen.tables : snapshot_tables_of(&k->old, info);
    const segment_source source = {read_new, k->tokens ? describe_new : NULL, k, tables};
    if (st == STATUS_OK) st = segment_write(dir, info, &source, n_threads);
    for (int64_t i = 0; i < m->n_segments; i++)
        segment_close(open[i]);
    free(open);
    snapshot_tables_close(&k->old);
    return st;
}

/* The manifest of the compacted snapshot. */
static void replace_segments(manifest *m, const compaction *k, const segment_info *all, int n_ranks) {
    for (int64_t i = 0; i < m->n_sequences; i++)
        for (int64_t e = 0; e < m->sequences[i].n_extents; e++)
            m->sequences[i].extents[e].row0 = new_row(k, m->sequences[i].extents[e].row0);
    free(m->segments);
    m->segments = mem_new((size_t)n_ranks, sizeof *m->segments);
    m->n_segments = 0;
    for (int i = 0; i < n_ranks; i++)
        if (all[i].file_bytes > 0) m->segments[m->n_segments++] = all[i];
    m->n_rows = k->n_rows;
    m->save_number++;
    m->unix_time = (int64_t)time(NULL);
}

static int64_t sum_bytes(const segment_info *segments, int64_t n) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < n; i++)
        bytes += segments[i].file_bytes;
    return bytes;
}

static compact_size size_of(const char *dir, const manifest *m) {
    compact_size size = {m->n_segments, sum_bytes(m->segments, m->n_segments), 0, m->n_rows};
    for (int64_t i = 0; i < m->n_segments; i++)
        size.tables_bytes += (int64_t)snapshot_tables_bytes_of(dir, m, i);
    size.file_bytes += size.tables_bytes;
    return size;
}

/* Of codecs of two families, whose steps cannot be compared, the files tell. */
static status check_not_larger(const char *dir, const compaction *k, const segment_info *all, int n_ranks) {
    const manifest *m = k->m;
    const int64_t old = sum_bytes(m->segments, m->n_segments), new = sum_bytes(all, n_ranks);
    bool any = false;
    for (int64_t i = 0; i < m->n_segments; i++)
        any |= !kv_codec_is_exact(m->segments[i].codec) &&
               !is_family(m->segments[i].codec, k->chosen.coding.codec);
    if (!any || new <= old) return STATUS_OK;
    return status_refuse(
        "%s: it would have %.1f MiB instead of %.1f, but be no better: what is lost does not come "
        "back",
        dir, mem_mib((uint64_t) new), mem_mib((uint64_t)old));
}

static status commit(const char *dir, const snapshot_lock *lock, manifest *m, const compaction *k,
                     const segment_info *all, int n_ranks, compact_figures *out) {
    const uint64_t digest = tables_digest(k);
    const compact_size before = size_of(dir, m);
    status st = check_not_larger(dir, k, all, n_ranks);
    if (st != STATUS_OK) return st;
    replace_segments(m, k, all, n_ranks);
    m->codec = k->chosen.coding.codec;
    st = snapshot_lock_check(lock);
    if (st == STATUS_OK && k->chosen.tables)
        st = snapshot_tables_put(dir, digest, k->chosen.bytes, k->chosen.n_bytes);
    if (st == STATUS_OK) st = manifest_write(dir, m);
    if (st == STATUS_OK) *out = (compact_figures){before, size_of(dir, m)};
    return st;
}

/* Files that the manifest, old or new, does not name. */
static void remove_leftovers(const char *dir, const snapshot_lock *lock) {
    manifest m = {0};
    if (snapshot_lock_check(lock) == STATUS_OK && manifest_read(dir, &m) == STATUS_OK)
        manifest_remove_unnamed_files(dir, &m);
    manifest_free(&m);
}

/* This rank's share of the layers; none where there are more ranks than layers. */
static segment_info plan_segment(const compaction *k, int rank, int n_ranks) {
    const manifest *m = k->m;
    const kv_codec codec = k->chosen.coding.codec;
    segment_info info = {
        .first_layer = m->n_layers * rank / n_ranks,
        .last_layer = m->n_layers * (rank + 1) / n_ranks,
        .n_rows = k->n_rows,
        .n_kv_heads = m->n_kv_heads,
        .head_dim = m->head_dim,
        .type = m->type,
        .codec = codec,
        .level = k->chosen.coding.level,
        .has_base = k->chosen.coding.has_base,
        .tables_digest = tables_digest(k),
        .chunk_tokens = segment_chunk_tokens(codec, m->type, m->n_kv_heads, m->head_dim, k->n_rows),
    };
    segment_make_name(&info, m->save_number + 1);
    return info;
}

/* The lock is rank 0's. Collective. */
static status write_new(comm *c, const options *o, const snapshot_lock *lock, int n_threads, compaction *k,
                        manifest *m, compact_figures *out) {
    const char *dir = o->dir;
    bool are_asked = !kv_codec_is_exact(k->chosen.coding.codec);
    for (int64_t i = 0; k->chosen.coding.codec == KV_CODEC_LOSSLESS && i < m->n_sequences; i++)
        are_asked |= m->sequences[i].pages != NULL;
    find_live(k);
    if (are_asked) find_tokens(k);
    segment_info mine = plan_segment(k, comm_rank(c), comm_size(c));
    segment_info *all = mem_new((size_t)comm_size(c), sizeof *all);
    status st = STATUS_OK;
    if (comm_rank(c) == 0) note_coding(k, o);
    if (mine.first_layer < mine.last_layer && k->n_rows > 0) st = write_layers(k, dir, &mine, n_threads);
    bool failed = comm_any_failed(c, &st);
    comm_gather(c, &mine, sizeof mine, all);
    if (comm_rank(c) == 0) {
        if (!failed) st = commit(dir, lock, m, k, all, comm_size(c), out);
        remove_leftovers(dir, lock);
    }
    if (!failed) comm_any_failed(c, &st);
    free(all);
    return st;
}

/* Collective. */
static status compact_locked(comm *c, const options *o, const snapshot_lock *lock, int n_threads, manifest *m,
                             compact_figures *out) {
    compaction k = {.m = m, .limits = run_stop_limits(o)};
    status st = choose_coding(c, &k, o, n_threads);
    if (st == STATUS_OK) st = write_new(c, o, lock, n_threads, &k, m, out);
    free(k.live);
    free(k.pieces);
    free(k.tokens);
    chosen_coding_free(&k.chosen);
    return st;
}

status snapshot_compact(comm *c, const options *o, int n_threads, compact_figures *out) {
    const char *dir = o->dir;
    snapshot_lock *lock = NULL;
    char *bytes = NULL;
    size_t n = 0;
    manifest m = {0};
    bool is_first = comm_rank(c) == 0;
    status st =
        is_first && !manifest_exists(dir) ? status_refuse("%s: there is no snapshot", dir) : STATUS_OK;
    if (is_first && st == STATUS_OK) st = snapshot_lock_take(dir, &lock);
    if (is_first && st == STATUS_OK) st = manifest_read_bytes(dir, &bytes, &n);
    if (is_first && st == STATUS_OK) remove_leftovers(dir, lock); /* tables too, which may be damaged */
    if (!comm_any_failed(c, &st)) {
        char *shared = comm_share(c, bytes, &n, 0);
        st = manifest_parse(shared, n, dir, &m);
        free(shared);
        if (!comm_any_failed(c, &st)) st = compact_locked(c, o, lock, n_threads, &m, out);
    }
    snapshot_lock_release(lock);
    manifest_free(&m);
    free(bytes);
    return st;
}
