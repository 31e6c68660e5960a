#include "src/snapshot/compact.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "io/snapshot/manifest.h"
#include "io/snapshot/snapshot_lock.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

/* Rows [row0, row0 + n_rows) are needed, and become rows from new_row0 on. */
typedef struct live_range {
    int64_t row0, n_rows, new_row0;
} live_range;

/* Rows [row0, row0 + n_rows) of an old segment, which are all in one live range, become rows of a layer from
 * new_row0 on. */
typedef struct piece {
    int layer;
    int64_t new_row0, row0, n_rows;
    segment *from;
} piece;

/* What is needed, and where this rank's layers of it are. */
typedef struct compaction {
    const manifest *m;
    live_range *live;       /* [n_live], in order of rows */
    int64_t n_live, n_rows; /* rows: after the compaction */
    piece *pieces;          /* [n_pieces], in order of layers and new rows, which they tile */
    size_t n_pieces;
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

static int by_layer_and_row(const void *a, const void *b) {
    const piece *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->new_row0 < y->new_row0 ? -1 : x->new_row0 > y->new_row0;
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
        for (int layer = first; layer < last; layer++) {
            k->pieces = mem_grow(k->pieces, k->n_pieces, sizeof *k->pieces);
            k->pieces[k->n_pieces++] = (piece){layer, r->new_row0 + (a - r->row0), a, b - a, from};
        }
    }
}

static status read_new(void *context, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out) {
    const compaction *k = context;
    const manifest *m = k->m;
    size_t row_bytes = (size_t)m->n_kv_heads * (size_t)m->head_dim * dtype_bytes(m->type);
    size_t low = 0, high = k->n_pieces; /* to the first piece that ends behind row0 */
    while (low < high) {
        size_t middle = (low + high) / 2;
        const piece *p = &k->pieces[middle];
        if (p->layer > layer || (p->layer == layer && p->new_row0 + p->n_rows > row0))
            high = middle;
        else
            low = middle + 1;
    }
    status st = STATUS_OK;
    for (; st == STATUS_OK && low < k->n_pieces; low++) {
        const piece *p = &k->pieces[low];
        int64_t a = row0 > p->new_row0 ? row0 : p->new_row0, b = row0 + n_rows;
        if (b > p->new_row0 + p->n_rows) b = p->new_row0 + p->n_rows;
        if (p->layer != layer || a >= b) break;
        st = segment_read(p->from, layer, part, p->row0 + (a - p->new_row0), b - a,
                          (char *)out + (size_t)(a - row0) * row_bytes);
    }
    return st;
}

/* Every old segment is open while it is read from. */
static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static status write_layers(compaction *k, const char *dir, segment_info *info, int n_threads) {
    const manifest *m = k->m;
    status st = STATUS_OK;
    segment **open = mem_new((size_t)m->n_segments, sizeof *open);
    raise_file_limit();
    for (int64_t i = 0; st == STATUS_OK && i < m->n_segments; i++) {
        const segment_info *s = &m->segments[i];
        if (s->first_layer >= info->last_layer || s->last_layer <= info->first_layer) continue;
        st = segment_open(dir, s, &open[i]);
        if (st == STATUS_OK) add_pieces(k, s, info, open[i]);
    }
    if (k->n_pieces > 0) qsort(k->pieces, k->n_pieces, sizeof *k->pieces, by_layer_and_row);
    const segment_source source = {read_new, k};
    if (st == STATUS_OK) st = segment_write(dir, info, &source, n_threads);
    for (int64_t i = 0; i < m->n_segments; i++)
        segment_close(open[i]);
    free(open);
    free(k->pieces);
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

static double sum_mib(const manifest *m) {
    double bytes = 0;
    for (int64_t i = 0; i < m->n_segments; i++)
        bytes += (double)m->segments[i].file_bytes;
    return bytes / 1024 / 1024;
}

static status commit(const char *dir, const snapshot_lock *lock, manifest *m, const compaction *k,
                     const segment_info *all, int n_ranks, double begin) {
    int64_t n_segments = m->n_segments, n_rows = m->n_rows;
    double before = sum_mib(m);
    replace_segments(m, k, all, n_ranks);
    status st = snapshot_lock_check(lock);
    if (st == STATUS_OK) st = manifest_write(dir, m);
    if (st != STATUS_OK) return st;
    printf("%s: %lld segments of %.1f MiB are now %lld of %.1f MiB; %lld of %lld rows kept; %.3f s\n", dir,
           (long long)n_segments, before, (long long)m->n_segments, sum_mib(m), (long long)m->n_rows,
           (long long)n_rows, clock_seconds() - begin);
    return STATUS_OK;
}

/* Files that the manifest, old or new, does not name. */
static void remove_leftovers(const char *dir, const snapshot_lock *lock) {
    manifest m = {0};
    if (snapshot_lock_check(lock) == STATUS_OK && manifest_read(dir, &m) == STATUS_OK)
        manifest_remove_unnamed_files(dir, &m);
    manifest_free(&m);
}

/* This rank's share of the layers; none where there are more ranks than layers. */
static segment_info plan_segment(const manifest *m, int64_t n_rows, kv_codec codec, int rank, int n_ranks) {
    segment_info info = {
        .first_layer = m->n_layers * rank / n_ranks,
        .last_layer = m->n_layers * (rank + 1) / n_ranks,
        .n_rows = n_rows,
        .n_kv_heads = m->n_kv_heads,
        .head_dim = m->head_dim,
        .type = m->type,
        .codec = codec,
        .chunk_tokens = segment_chunk_tokens(m->type, m->n_kv_heads, m->head_dim, n_rows),
    };
    segment_make_name(&info, m->save_number + 1);
    return info;
}

/* The lock is rank 0's. Collective. */
static status compact_locked(comm *c, const char *dir, const snapshot_lock *lock, kv_codec codec,
                             int n_threads, manifest *m) {
    double begin = clock_seconds();
    compaction k = {.m = m};
    find_live(&k);
    segment_info mine = plan_segment(m, k.n_rows, codec, comm_rank(c), comm_size(c));
    segment_info *all = mem_new((size_t)comm_size(c), sizeof *all);
    status st = STATUS_OK;
    if (mine.first_layer < mine.last_layer && k.n_rows > 0) st = write_layers(&k, dir, &mine, n_threads);
    bool failed = comm_any_failed(c, &st);
    comm_gather(c, &mine, sizeof mine, all);
    if (comm_rank(c) == 0) {
        if (!failed) st = commit(dir, lock, m, &k, all, comm_size(c), begin);
        remove_leftovers(dir, lock);
    }
    if (!failed) comm_any_failed(c, &st);
    free(all);
    free(k.live);
    return st;
}

status snapshot_compact(comm *c, const char *dir, kv_codec codec, int n_threads) {
    snapshot_lock *lock = NULL;
    char *bytes = NULL;
    size_t n = 0;
    manifest m = {0};
    bool is_first = comm_rank(c) == 0;
    status st =
        is_first && !manifest_exists(dir) ? status_refuse("%s: there is no snapshot", dir) : STATUS_OK;
    if (is_first && st == STATUS_OK) st = snapshot_lock_take(dir, &lock);
    if (is_first && st == STATUS_OK) st = manifest_read_bytes(dir, &bytes, &n);
    if (!comm_any_failed(c, &st)) {
        char *shared = comm_share(c, bytes, &n, 0);
        st = manifest_parse(shared, n, dir, &m);
        free(shared);
        if (!comm_any_failed(c, &st)) st = compact_locked(c, dir, lock, codec, n_threads, &m);
    }
    snapshot_lock_release(lock);
    manifest_free(&m);
    free(bytes);
    return st;
}
