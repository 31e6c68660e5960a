#define _GNU_SOURCE /* locks that let writers go first */
#include "src/engine/loading.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/engine/load_race.h"
#include "src/engine/notes.h"

/* What a chunk of a segment holds of a loading: rows [row0, row0 + n_rows) are positions from pos0 on. */
struct load_piece {
    int64_t segment, chunk, row0, n_rows, pos0;
    bool is_done, has_failed;
    load_way way;
    double begin, read_seconds, seconds; /* begin: since that of the loading; seconds: reading and decoding */
    char *frame; /* of a coarse one: its bytes in the file, the first n_there of them; NULL: it is not */
    size_t n_there;
};

static void keep_failure(loading *w, status st) {
    if (st == STATUS_OK || w->st != STATUS_OK) return;
    memcpy(w->text, status_text(), sizeof w->text);
    w->st = st;
}

loading *loading_new(load_source *from, int slot, int64_t number, int64_t source, int64_t n_tokens) {
    loading *w = mem_new(1, sizeof *w);
    *w = (loading){.from = from, .slot = slot, .number = number, .source = source, .n_tokens = n_tokens};
    w->device_begin = INT64_MAX;
    w->segments = mem_new((size_t)from->manifest.n_segments, sizeof(segment *));
    pthread_rwlockattr_t kind;
    pthread_rwlockattr_init(&kind);
    pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP); /* loading_leave */
    pthread_rwlock_init(&w->writing, &kind);
    pthread_rwlockattr_destroy(&kind);
    if (from->decoder) keep_failure(w, chunk_decoder_order(from->decoder, CHUNKS_LOADED));
    return w;
}

void loading_free(loading *w) {
    for (int64_t i = 0; i < w->from->manifest.n_segments; i++)
        segment_close(w->segments[i]);
    for (size_t i = 0; i < w->n_pieces; i++)
        free(w->pieces[i].frame);
    pthread_rwlock_destroy(&w->writing);
    free(w->segments);
    free(w->pieces);
    free(w);
}

void loading_leave(loading *w, int64_t pos) {
    enum { PAUSE_US = 50 };
    for (bool waits = true; waits;) {
        pthread_rwlock_wrlock(&w->writing);
        if (pos > w->left_out) w->left_out = pos;
        waits = w->device_begin < pos;
        pthread_rwlock_unlock(&w->writing);
        if (waits) usleep(PAUSE_US);
    }
}

/* Positions below are, or will be, computed. */
static int64_t first_left(loading *w) {
    pthread_rwlock_rdlock(&w->writing);
    const int64_t pos = w->left_out;
    pthread_rwlock_unlock(&w->writing);
    return pos;
}

static bool is_given_up(const loading *w) {
    return atomic_load(&w->from->is_closing) || atomic_load(&w->is_dropped);
}

/* ---- the pieces ---- */

/* The pieces of rows [begin, end) of a segment, which are positions from pos0 on. */
static void add_pieces(loading *w, int64_t number, int64_t begin, int64_t end, int64_t pos0) {
    const segment_info *info = &w->from->manifest.segments[number];
    const slice mine = w->from->slice;
    for (int64_t i = 0; i < segment_count_entries(info); i++) {
        const segment_chunk c = segment_chunk_at(info, i);
        const int64_t chunk_end = c.row0 + c.chunk.shape.n_tokens;
        const int64_t a = c.row0 > begin ? c.row0 : begin, b = chunk_end < end ? chunk_end : end;
        if (a >= b || c.chunk.first_layer >= mine.last_layer ||
            c.chunk.first_layer + c.chunk.n_layers <= mine.first_layer)
            continue;
        w->pieces = mem_grow(w->pieces, w->n_pieces, sizeof *w->pieces);
        w->pieces[w->n_pieces++] = (load_piece){
            .segment = number, .chunk = i, .row0 = a, .n_rows = b - a, .pos0 = pos0 + (a - begin)};
    }
}

/* What of the rows a segment holds; it is opened if it holds any. */
static status find_in_segment(loading *w, int64_t number) {
    const segment_info *info = &w->from->manifest.segments[number];
    const manifest_sequence *q = &w->from->manifest.sequences[w->source];
    const size_t n_before = w->n_pieces;
    for (int64_t i = 0; i < q->n_extents && q->extents[i].pos0 < w->n_tokens; i++) {
        const manifest_extent *x = &q->extents[i];
        const int64_t left = w->n_tokens - x->pos0, n = left < x->n_tokens ? left : x->n_tokens;
        int64_t begin = x->row0 > info->row0 ? x->row0 : info->row0, end = x->row0 + n;
        if (end > info->row0 + info->n_rows) end = info->row0 + info->n_rows;
        if (begin < end) add_pieces(w, number, begin, end, x->pos0 + (begin - x->row0));
    }
    if (w->n_pieces == n_before) return STATUS_OK;
    return segment_open(w->from->dir, w->from->options.relay, info,
                        snapshot_tables_of(&w->from->tables, info), &w->segments[number]);
}

static int last_first(const void *a, const void *b) {
    const load_piece *x = a, *y = b;
    const int64_t x_end = x->pos0 + x->n_rows, y_end = y->pos0 + y->n_rows;
    if (x_end != y_end) return x_end > y_end ? -1 : 1;
    if (x->segment != y->segment) return x->segment < y->segment ? -1 : 1;
    return x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

static status find_pieces(loading *w) {
    status st = fault_at("load");
    for (int64_t i = 0; st == STATUS_OK && i < w->from->manifest.n_segments; i++) {
        const segment_info *s = &w->from->manifest.segments[i];
        if (s->first_layer < w->from->slice.last_layer && s->last_layer > w->from->slice.first_layer)
            st = find_in_segment(w, i);
    }
    if (st == STATUS_OK && w->n_pieces) qsort(w->pieces, w->n_pieces, sizeof *w->pieces, last_first);
    for (size_t i = 0; st == STATUS_OK && i < w->n_pieces; i++)
        w->bytes_left += (int64_t)segment_chunk_file_bytes(w->segments[w->pieces[i].segment],
                                                           w->pieces[i].chunk, KV_ALL_PLANES);
    return st;
}

static segment_chunk chunk_of(const loading *w, const load_piece *p) {
    return segment_chunk_at(&w->from->manifest.segments[p->segment], p->chunk);
}

static size_t file_bytes(const loading *w, const load_piece *p, kv_planes planes) {
    return segment_chunk_file_bytes(w->segments[p->segment], p->chunk, planes);
}

/* The rows of a piece, on their way to its pages. */
typedef struct landing {
    loading *w;
    const load_piece *piece;
    int64_t row0; /* of the chunk */
} landing;

/* They go there as far as the piece has them, the layers keep them, and nothing else writes them. */
static void put_rows(void *to, const kv_rows *which, const void *rows) {
    const landing *g = to;
    const load_source *l = g->w->from;
    const int layer = which->layer - l->slice.first_layer;
    if (layer < 0 || which->layer >= l->slice.last_layer) return;
    const int64_t pos0 = g->piece->pos0 + (g->row0 - g->piece->row0) + which->token;
    const int64_t piece_end = g->piece->pos0 + g->piece->n_rows, rows_end = pos0 + which->n_tokens;
    const int64_t end = rows_end < piece_end ? rows_end : piece_end;
    int64_t begin = pos0 > g->piece->pos0 ? pos0 : g->piece->pos0;
    pthread_rwlock_rdlock(&g->w->writing);
    const int64_t kept = kv_cache_first_kept(l->kv, g->w->slot, layer);
    if (begin < kept) begin = kept;
    if (begin < g->w->left_out) begin = g->w->left_out;
    const size_t row_bytes = (size_t)l->manifest.head_dim * dtype_bytes(l->manifest.type);
    if (begin < end)
        kv_cache_write_rows(l->kv, g->w->slot, layer, which->part, which->head, begin, end - begin,
                            (const char *)rows + (size_t)(begin - pos0) * row_bytes);
    pthread_rwlock_unlock(&g->w->writing);
}

/* Does any layer still want one of its positions? */
static bool is_wanted(loading *w, const load_piece *p, const segment_chunk *c) {
    const slice mine = w->from->slice;
    bool any = false;
    pthread_rwlock_rdlock(&w->writing);
    const int64_t end = p->pos0 + p->n_rows;
    for (int layer = c->chunk.first_layer; layer < c->chunk.first_layer + c->chunk.n_layers; layer++)
        if (layer >= mine.first_layer && layer < mine.last_layer)
            any |= end > w->left_out &&
                   end > kv_cache_first_kept(w->from->kv, w->slot, layer - mine.first_layer);
    pthread_rwlock_unlock(&w->writing);
    return any && !is_given_up(w);
}

/* No faster than it may be: until a link of that speed would have brought these bytes too. False: nobody
 * wants them any more, of this piece (NULL: of any). */
static bool hold_back(loading *w, const load_piece *p, const segment_chunk *c, size_t n_bytes) {
    enum { SLICE_US = 20000 };
    load_source *l = w->from;
    if (!(l->options.bytes_per_second > 0)) return true;
    const double seconds = (double)n_bytes / l->options.bytes_per_second;
    pthread_mutex_lock(&l->lock);
    const double now = clock_seconds(), begin = l->read_until > now ? l->read_until : now;
    const double until = l->read_until = begin + seconds;
    pthread_mutex_unlock(&l->lock);
    bool wanted = true;
    while (wanted && clock_seconds() < until) {
        const double left = (until - clock_seconds()) * 1e6;
        alive_say();
        usleep(left < SLICE_US ? (useconds_t)(left > 0 ? left : 0) : SLICE_US);
        wanted = p ? is_wanted(w, p, c) : !is_given_up(w);
    }
    pthread_mutex_lock(&l->lock);
    if (!wanted) l->read_until -= seconds;
    pthread_mutex_unlock(&l->lock);
    return wanted;
}

/* The most that a chunk of them has. */
static size_t room_for(const loading *w) {
    size_t most = 1;
    for (int64_t i = 0; i < w->from->manifest.n_segments; i++) {
        if (!w->segments[i]) continue;
        const segment_chunk c = segment_chunk_at(&w->from->manifest.segments[i], 0);
        if (kv_chunk_all_bytes(&c.chunk) > most) most = kv_chunk_all_bytes(&c.chunk);
    }
    return most;
}

/* ---- loading ---- */

static status check_distortion(const loading *w, segment *from, int64_t chunk, kv_planes planes) {
    const double most = w->from->options.most_distortion;
    float found = 0;
    status st = most > 0 ? segment_read_distortion(from, chunk, planes, &found) : STATUS_OK;
    if (st != STATUS_OK || !(most > 0) || found <= most) return st;
    return segment_at_chunk(
        status_refuse("the codec has left a distortion of %.3g, more than --max-distortion %.3g", found,
                      most),
        from, chunk);
}

/* Until all is there, as it looks when `now` seconds are over: of what is left, which has about as many bytes
 * for each position, nothing is read that is computed, and computing and reading meet at the pace of both so
 * far. */
static double seconds_left(loading *w, const load_piece *p, double now) {
    const load_options *o = &w->from->options;
    const double n_read = (double)atomic_load(&w->bytes_read);
    const double known = o->bytes_per_second > 0 ? 1 / o->bytes_per_second : 0;
    const double pace = n_read > 0 ? now / n_read : known; /* seconds a byte */
    const int64_t end = p->pos0 + p->n_rows, computed = first_left(w), between = end - computed;
    const double load = pace * (double)atomic_load(&w->bytes_left) * (double)between / (double)end;
    const double speed = now > 0 ? (double)(computed - w->left_out_before) / now : 0;
    return between > 0 ? load_race_seconds_to_meet(load, (double)between, speed) : 0;
}

/* How much of the next piece is loaded: all, unless all of what is left would come too late, and its base is
 * not beyond what is allowed. */
static kv_planes choose_planes(loading *w, const load_piece *p) {
    const load_options *o = &w->from->options;
    segment *from = w->segments[p->segment];
    if (o->loads_base == LOADS_NO_BASE || file_bytes(w, p, KV_BASE_ONLY) == file_bytes(w, p, KV_ALL_PLANES))
        return KV_ALL_PLANES;
    if (check_distortion(w, from, p->chunk, KV_BASE_ONLY) != STATUS_OK) return KV_ALL_PLANES;
    if (o->loads_base == LOADS_BASE) return KV_BASE_ONLY;
    const double now = clock_seconds() - w->begin;
    return seconds_left(w, p, now) > o->deadline_seconds - now ? KV_BASE_ONLY : KV_ALL_PLANES;
}

/* By this thread, straight into pages, or over `elements`: codecs other than kvarve's, and what refines a
 * piece, which stays as it is where that cannot be decoded. */
static status decode_frame(loading *w, const load_piece *p, const void *frame, size_t n, void *elements) {
    segment *from = w->segments[p->segment];
    const segment_chunk c = chunk_of(w, p);
    landing to = {w, p, c.row0};
    const kv_output out = {&to, put_rows};
    if (!p->is_done) return segment_decode_rows(from, p->chunk, frame, n, elements, &out);
    status st = segment_decode(from, p->chunk, frame, n, elements);
    if (st == STATUS_OK) kv_chunk_put(&c.chunk, elements, &out);
    return st;
}

/* A device writes rows from this position on; how far others are then. */
static int64_t begin_writing(void *self, int64_t first) {
    loading *w = self;
    pthread_rwlock_wrlock(&w->writing);
    w->device_begin = first;
    const int64_t left_out = w->left_out;
    pthread_rwlock_unlock(&w->writing);
    return left_out;
}

static void end_writing(void *self) {
    (void)begin_writing(self, INT64_MAX);
}

/* The rows of a frame, or of its base, go to their pages: by this thread, over `elements`, or by the device,
 * which tells then what became of it: *is_under_way. */
static status put_frame(loading *w, load_piece *p, const void *frame, size_t n, chunk_lane lane,
                        void *elements, bool *is_under_way) {
    segment *from = w->segments[p->segment];
    chunk_decoder *d = w->from->decoder;
    const chunk_rows rows = {w->slot, p->row0, p->n_rows, p->pos0};
    *is_under_way = false;
    status st = d ? chunk_decoder_put(d, lane, &w->user, p, from, p->chunk, frame, n, &rows, is_under_way)
                  : STATUS_OK;
    if (st != STATUS_OK || *is_under_way) return st;
    return decode_frame(w, p, frame, n, elements);
}

/* Read a piece, and put it in its place. Of a base the bytes are kept: those of the rest belong behind them.
 */
static status read_piece(loading *w, load_piece *p, kv_planes planes, void *elements, bool *is_under_way) {
    segment *from = w->segments[p->segment];
    const segment_chunk c = chunk_of(w, p);
    const size_t n = file_bytes(w, p, planes), n_all = file_bytes(w, p, KV_ALL_PLANES);
    const bool is_plain = w->from->manifest.segments[p->segment].is_plain;
    const double begin = clock_seconds();
    char *frame = is_plain ? NULL : mem_resize(NULL, n_all, 1), *bytes = frame ? frame : elements;
    status st = segment_fetch(from, p->chunk, 0, n, bytes);
    if (st == STATUS_OK && n == n_all) st = segment_check_chunk(from, p->chunk, bytes);
    p->read_seconds += clock_seconds() - begin;
    if (planes == KV_BASE_ONLY) {
        p->frame = frame;
        p->n_there = n;
    }
    if (st == STATUS_OK && frame) st = put_frame(w, p, frame, n, CHUNKS_LOADED, elements, is_under_way);
    if (st == STATUS_OK && is_plain)
        kv_chunk_put(&c.chunk, elements, &(kv_output){&(landing){w, p, c.row0}, put_rows});
    if (planes == KV_ALL_PLANES) free(frame);
    return st;
}

static status move_piece(loading *w, load_piece *p, void *elements, bool *is_under_way) {
    const segment_chunk c = chunk_of(w, p);
    const double begin = clock_seconds();
    *is_under_way = false;
    if (!is_wanted(w, p, &c)) return STATUS_OK;
    const kv_planes planes = choose_planes(w, p);
    if (!hold_back(w, p, &c, file_bytes(w, p, planes))) return STATUS_OK;
    p->way = planes == KV_BASE_ONLY ? LOAD_ITS_BASE : LOAD_WHOLE;
    p->read_seconds = clock_seconds() - begin;
    status st = STATUS_OK;
    if (planes == KV_ALL_PLANES) st = check_distortion(w, w->segments[p->segment], p->chunk, planes);
    if (st == STATUS_OK) st = read_piece(w, p, planes, elements, is_under_way);
    atomic_fetch_add(&w->bytes_read, (int64_t)file_bytes(w, p, planes));
    return st;
}

/* Rank 0 hears now and then how far the loading is. A GPU computes beside whatever the processors do. */
static void tell_edge(loading *w) {
    static const double pause_seconds = 0.01;
    const double now = clock_seconds();
    while (w->n_done < w->n_pieces && w->pieces[w->n_done].is_done)
        w->n_done++;
    if (w->n_done == w->n_pieces || now - w->told_at < pause_seconds) return;
    const load_piece *next = &w->pieces[w->n_done];
    const note report = {.kind = NOTE_LOADING,
                         .number = w->slot,
                         .load = w->number,
                         .edge = next->pos0 + next->n_rows,
                         .idle_share = w->from->options.spares_processors ? w->read_seconds / w->seconds : 1};
    mailbox_send(w->from->notes, &report, sizeof report);
    w->told_at = now;
}

/* Of all threads one at a time. seconds: of decoding. What has failed is never behind the edge. */
static void end_piece(loading *w, load_piece *p, status st, double seconds) {
    if (st != STATUS_OK) {
        p->way = LOAD_FAILED;
        free(p->frame);
        p->frame = NULL;
    }
#pragma omp critical(loading_end)
    {
        keep_failure(w, st);
        p->is_done = st == STATUS_OK;
        p->seconds = p->read_seconds + seconds;
        w->read_seconds += p->read_seconds;
        w->seconds += p->seconds;
        atomic_fetch_sub(&w->bytes_left, (int64_t)file_bytes(w, p, KV_ALL_PLANES));
        tell_edge(w);
    }
}

static void end_decoded(void *self, void *piece, status st, double seconds) {
    loading *w = self;
    load_piece *p = piece;
    end_piece(w, p, segment_at_chunk(st, w->segments[p->segment], p->chunk), seconds);
}

/* In parallel: each is read by one thread, which decodes it too, straight before its rows go to their pages,
 * if no device does. */
static void move_pieces(loading *w) {
    const size_t room = room_for(w);
    w->user = (chunk_user){w, begin_writing, end_writing, end_decoded};
#pragma omp parallel num_threads(w->from->options.n_threads)
    {
        void *elements = mem_resize(NULL, room, 1);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < w->n_pieces; i++) {
            if (is_given_up(w)) continue;
            load_piece *p = &w->pieces[i];
            bool is_under_way;
            p->begin = clock_seconds() - w->begin;
            status st = move_piece(w, p, elements, &is_under_way);
            const double seconds = clock_seconds() - w->begin - p->begin - p->read_seconds;
            if (!is_under_way) end_piece(w, p, st, seconds);
        }
        free(elements);
    }
}

/* Which positions are coarse, in some layer at least. */
static void find_coarse(loading *w) {
    int64_t begin =
        INT64_MAX; /* of those that were counted; pieces come from the last position to the first */
    for (const load_piece *p = w->pieces; p < w->pieces + w->n_pieces; p++) {
        const int64_t end = p->pos0 + p->n_rows < begin ? p->pos0 + p->n_rows : begin;
        if (!p->frame) continue;
        if (w->n_coarse++ == 0) w->coarse_end = end;
        if (end > p->pos0) w->coarse_tokens += end - p->pos0;
        if (p->pos0 < begin) begin = p->pos0;
    }
}

status loading_run(loading *w) {
    w->begin = w->told_at = clock_seconds();
    w->left_out_before = first_left(w);
    keep_failure(w, find_pieces(w));
    if (w->st == STATUS_OK && w->n_pieces) move_pieces(w);
    find_coarse(w);
    for (int64_t i = 0; i < w->from->manifest.n_segments; i++)
        if (w->segments[i]) segment_pause(w->segments[i]);
    return w->st == STATUS_OK ? STATUS_OK : status_adopt(w->st, w->text);
}

void loading_describe(loading *w, load_record *out) {
    const int64_t left_out = first_left(w);
    for (size_t i = 0; i < w->n_pieces; i++) {
        const load_piece *p = &w->pieces[i];
        const kv_chunk c = chunk_of(w, p).chunk;
        const bool is_read = p->way == LOAD_WHOLE || p->way == LOAD_ITS_BASE;
        out[i] = (load_record){
            .first_layer = c.first_layer,
            .last_layer = c.first_layer + c.n_layers - 1,
            .first_part = (int32_t)c.part,
            .last_part = (int32_t)c.part + c.n_parts - 1,
            .way = p->way == LOAD_COMPUTED && p->pos0 + p->n_rows > left_out ? LOAD_DROPPED : p->way,
            .first_pos = p->pos0,
            .last_pos = p->pos0 + p->n_rows - 1,
            .bytes = is_read
                         ? (int64_t)file_bytes(w, p, p->way == LOAD_ITS_BASE ? KV_BASE_ONLY : KV_ALL_PLANES)
                         : 0,
            .begin_seconds = p->begin,
            .read_seconds = p->read_seconds,
            .decode_seconds = is_read ? p->seconds - p->read_seconds : 0,
        };
    }
}

/* ---- refining ---- */

static bool is_whole(const loading *w, const load_piece *p) {
    return p->n_there == file_bytes(w, p, KV_ALL_PLANES);
}

/* The rest of a piece; it stays coarse where that is not what it should be. */
static status fetch_rest(loading *w, load_piece *p) {
    segment *from = w->segments[p->segment];
    const size_t n = file_bytes(w, p, KV_ALL_PLANES);
    if (!hold_back(w, NULL, NULL, n - p->n_there)) return STATUS_OK;
    status st = segment_fetch(from, p->chunk, p->n_there, n, p->frame + p->n_there);
    if (st == STATUS_OK) st = segment_check_chunk(from, p->chunk, p->frame);
    if (st == STATUS_OK) p->n_there = n;
    p->has_failed = st != STATUS_OK;
    return st;
}

static void fetch_pieces(loading *w) {
#pragma omp parallel for num_threads(w->from->options.n_threads) schedule(dynamic)
    for (size_t i = 0; i < w->n_pieces; i++) {
        load_piece *p = &w->pieces[i];
        if (!p->frame || p->has_failed || is_whole(w, p)) continue;
        if (is_given_up(w) || atomic_load(&w->from->n_waiting) > 0) continue;
        status st = fetch_rest(w, p);
        if (st == STATUS_OK) continue;
#pragma omp critical(loading_end)
        keep_failure(w, st);
    }
}

status loading_fetch_rest(loading *w) {
    const int64_t n_segments = w->from->manifest.n_segments;
    status st = STATUS_OK;
    for (int64_t i = 0; st == STATUS_OK && i < n_segments; i++)
        if (w->segments[i]) st = segment_resume(w->segments[i]);
    keep_failure(w, st);
    if (st == STATUS_OK) fetch_pieces(w);
    w->is_fetched = true;
    for (const load_piece *p = w->pieces; st == STATUS_OK && p < w->pieces + w->n_pieces; p++)
        w->is_fetched &= !p->frame || p->has_failed || is_whole(w, p);
    for (int64_t i = 0; i < n_segments; i++)
        if (w->segments[i]) segment_pause(w->segments[i]);
    return w->st == STATUS_OK ? STATUS_OK : status_adopt(w->st, w->text);
}

static void end_refined(void *self, void *piece, status st, double seconds) {
    (void)seconds;
    loading *w = self;
    const load_piece *p = piece;
#pragma omp critical(loading_end)
    keep_failure(w, segment_at_chunk(st, w->segments[p->segment], p->chunk));
}

status loading_refine(loading *w) {
    const size_t room = room_for(w);
    w->st = STATUS_OK; /* what could not be fetched was told */
    w->user = (chunk_user){w, begin_writing, end_writing, end_refined};
    if (w->from->decoder) keep_failure(w, chunk_decoder_order(w->from->decoder, CHUNKS_REFINED));
    if (w->st != STATUS_OK) return status_adopt(w->st, w->text);
#pragma omp parallel num_threads(w->from->options.n_threads)
    {
        void *elements = mem_resize(NULL, room, 1);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < w->n_pieces; i++) {
            load_piece *p = &w->pieces[i];
            bool is_under_way;
            if (!p->frame || !is_whole(w, p)) continue;
            status st = put_frame(w, p, p->frame, p->n_there, CHUNKS_REFINED, elements, &is_under_way);
            if (!is_under_way)
#pragma omp critical(loading_end)
                keep_failure(w, st);
        }
        free(elements);
    }
    return w->st == STATUS_OK ? STATUS_OK : status_adopt(w->st, w->text);
}
