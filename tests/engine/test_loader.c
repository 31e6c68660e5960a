/* tests/engine/test_loader.c: K and V out of a snapshot into pages: all of them, or their bases first and
 * what refines these behind that; damaged, given up, and late. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/snapshot/manifest.h"
#include "io/snapshot/snapshot_tables.h"
#include "kernels/device.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/notice.h"
#include "src/engine/loader.h"
#include "src/engine/notes.h"
#include "tests/fixtures/coded_rows.h"

enum { ROWS = 300, CHUNK = 64, N_CHUNKS = (ROWS - 1) / CHUNK + 1, TOKENS = 290, PAGE = 64, SLOT = 1 };

static text_buffer tables_file;
static kv_tables *tables;
static comm *ranks;
static device_kind place = DEVICE_CPU; /* of pages */
static size_t device_bytes = 1 << 26;  /* for chunks there */

/* Two segments of all rows, of layers [0, 4) and [4, 11), in a snapshot of one sequence. */
typedef struct snapshot {
    const char *dir;
    segment_info segments[2];
    char *bytes; /* of the manifest */
    size_t n_bytes;
} snapshot;

static snapshot make_snapshot(const kv_coding *how) {
    snapshot s = {.dir = harness_fresh_dir()};
    dtype type = DTYPE_F32;
    char name[KV_TABLES_NAME_BYTES], path[4096];
    kv_tables_name(tables->digest, name);
    snprintf(path, sizeof path, "%s/%s", s.dir, name);
    harness_write_file(path, tables_file.data, tables_file.n);
    for (int i = 0; i < 2; i++) {
        s.segments[i] = (segment_info){.first_layer = i ? 4 : 0,
                                       .last_layer = i ? CODED_LAYERS : 4,
                                       .n_rows = ROWS,
                                       .n_kv_heads = CODED_HEADS,
                                       .head_dim = CODED_WIDTH,
                                       .type = type,
                                       .codec = how->codec,
                                       .level = how->level,
                                       .has_base = how->has_base,
                                       .tables_digest = tables->digest,
                                       .chunk_tokens = CHUNK};
        segment_make_name(&s.segments[i], 1);
        const segment_source source = coded_rows_source(&type, tables);
        CHECK_OK(segment_write(s.dir, &s.segments[i], &source, 2));
    }
    int32_t tokens[ROWS] = {0};
    manifest_extent extent = {0, ROWS, 0};
    manifest_sequence sequence = {.id = "one",
                                  .line = -1,
                                  .tokens = tokens,
                                  .n_tokens = ROWS,
                                  .n_prompt = ROWS,
                                  .extents = &extent,
                                  .n_extents = 1,
                                  .sampling = sampling_defaults()};
    const manifest m = {.n_layers = CODED_LAYERS,
                        .n_kv_heads = CODED_HEADS,
                        .head_dim = CODED_WIDTH,
                        .vocab_size = 10,
                        .type = type,
                        .save_number = 1,
                        .n_rows = ROWS,
                        .codec = how->codec,
                        .page_tokens = PAGE,
                        .model_name = "small",
                        .n_ranks = 2,
                        .batch = {.output_bytes = -1},
                        .sequences = &sequence,
                        .n_sequences = 1,
                        .segments = s.segments,
                        .n_segments = 2};
    CHECK_OK(manifest_write(s.dir, &m));
    CHECK_OK(manifest_read_bytes(s.dir, &s.bytes, &s.n_bytes));
    return s;
}

/* A rank that has layers [2, 9). */
typedef struct rank {
    const snapshot *from;
    slice slice;
    device *dev;
    kv_cache *kv;
    mailbox *notes;
    loader *loader;
} rank;

static rank open_rank(const snapshot *from, const load_options *options) {
    rank r = {.from = from, .slice = {2, 9, CODED_LAYERS}, .notes = mailbox_open(ranks)};
    CHECK_OK(device_open(place, 0, PRECISION_F32, 1, &r.dev));
    const kv_shape shape = {.format = device_kv_format(r.dev, CODED_HEADS, CODED_WIDTH, PAGE),
                            .n_layers = r.slice.last_layer - r.slice.first_layer,
                            .n_pages = 16,
                            .n_slots = 2,
                            .longest_tokens = 8 * PAGE,
                            .max_rows = PAGE};
    CHECK_OK(kv_cache_open(r.dev, &shape, &r.kv));
    load_options with = *options;
    with.device_bytes = device_bytes;
    CHECK_OK(loader_open(from->dir, from->bytes, from->n_bytes, r.slice, &with, r.kv, r.notes, &r.loader));
    return r;
}

static void close_rank(rank *r) {
    loader_close(r->loader);
    mailbox_close(r->notes);
    kv_cache_close(r->kv);
    r->dev->ops->close(r->dev);
}

static void begin(rank *r) {
    step order = step_new(2, 1);
    order.kind = STEP_LOAD;
    order.extents[order.n_extents++] = (step_extent){SLOT, 0, TOKENS, 0};
    loader_begin(r->loader, &order);
    step_free(&order);
}

/* The next note that is not of the way, and how far that went at last. */
static note wait_at(rank *r, note_kind kind, int64_t *edge) {
    note out = {.kind = NOTE_STOP};
    size_t n;
    int from;
    for (const double since = clock_seconds(); clock_seconds() < since + 60; usleep(1000)) {
        note *next = mailbox_take(r->notes, &n, &from);
        if (!next) continue;
        out = *next;
        free(next);
        if (out.kind != NOTE_LOADING) break;
        *edge = out.edge;
    }
    CU_ASSERT(out.kind == kind && out.number == SLOT && out.load == 1);
    return out;
}

static note wait_for(rank *r, note_kind kind) {
    int64_t edge;
    return wait_at(r, kind, &edge);
}

static int count_open_files(void) {
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* How many chunks of this rank's layers, of which each has some, hold in the pages what their base says, or
 * all of them, or neither. */
typedef struct found {
    int n_base, n_whole, n_other;
} found;

static bool is_in_pages(const rank *r, const segment_chunk *c, const float *elements) {
    const size_t n_part = kv_chunk_bytes(&c->chunk.shape) / sizeof(float);
    const int64_t end = c->row0 + c->chunk.shape.n_tokens, n = (end < TOKENS ? end : TOKENS) - c->row0;
    float *rows = mem_new((size_t)n * CODED_CHANNELS, sizeof *rows);
    bool same = true;
    for (int k = 0; k < kv_chunk_count_parts(&c->chunk); k++) {
        const int layer = kv_chunk_layer(&c->chunk, k);
        if (layer < r->slice.first_layer || layer >= r->slice.last_layer) continue;
        CHECK_OK(kv_cache_read(r->kv, SLOT, layer - r->slice.first_layer, kv_chunk_part(&c->chunk, k),
                               c->row0, n, rows));
        same &= memcmp(rows, elements + (size_t)k * n_part, (size_t)n * CODED_CHANNELS * sizeof *rows) == 0;
    }
    free(rows);
    return same;
}

static found look(const rank *r) {
    found f = {0};
    for (int i = 0; i < 2; i++) {
        const segment_info *info = &r->from->segments[i];
        segment *s = NULL;
        CHECK_OK(segment_open(r->from->dir, NULL, info, tables, &s));
        for (int64_t e = 0; s && e < segment_count_entries(info); e++) {
            const segment_chunk c = segment_chunk_at(info, e);
            if (c.chunk.first_layer >= r->slice.last_layer ||
                c.chunk.first_layer + c.chunk.n_layers <= r->slice.first_layer)
                continue;
            float *base = mem_new(1, kv_chunk_all_bytes(&c.chunk)),
                  *whole = mem_new(1, kv_chunk_all_bytes(&c.chunk));
            const bool has_base = segment_read_chunk(s, e, KV_BASE_ONLY, base) == STATUS_OK;
            const bool is_good = segment_read_chunk(s, e, KV_ALL_PLANES, whole) == STATUS_OK;
            if (is_good && is_in_pages(r, &c, whole))
                f.n_whole++;
            else if (has_base && is_in_pages(r, &c, base))
                f.n_base++;
            else
                f.n_other++;
            free(base);
            free(whole);
        }
        segment_close(s);
    }
    return f;
}

static const kv_coding fast = {.codec = KV_CODEC_FAST, .level = -3, .has_base = true},
                       small = {.codec = KV_CODEC_SMALL, .level = -3, .has_base = true},
                       plain_small = {.codec = KV_CODEC_SMALL, .level = -3};

/* Chunks of seven layers each by itself, or of two groups of layers. */
enum { FAST_PIECES = 7 * N_CHUNKS, SMALL_PIECES = 2 * N_CHUNKS };

/* ---- tests ---- */

static void test_tables(void) {
    coded_rows_tables(&tables_file, &tables);
}

static void all_at_once(void) {
    const kv_coding *codings[] = {&fast, &small, &plain_small};
    for (int i = 0; i < 3; i++) {
        snapshot s = make_snapshot(codings[i]);
        const load_options options = {.n_threads = 2, .loads_base = i == 2 ? LOADS_BASE : LOADS_NO_BASE};
        rank r = open_rank(&s, &options);
        begin(&r);
        const note loaded = wait_for(&r, NOTE_LOADED);
        CU_ASSERT(loaded.st == STATUS_OK && loaded.n_coarse == 0);
        const found f = look(&r);
        CU_ASSERT(f.n_whole == (i ? SMALL_PIECES : FAST_PIECES) && f.n_base + f.n_other == 0);
        loader_settle(r.loader, SLOT);
        close_rank(&r);
        free(s.bytes);
    }
}

/* Where a GPU has no more memory, what it has serves all, one chunk after the other; where it has none, the
 * host decodes. A NOTE says so. */
static void little_memory(void) {
    static const char *const faults[] = {"decoder-room::always", "decoder-room::3always",
                                         "decoder-room::2fail", NULL};
    for (int i = 0; place == DEVICE_CUDA && i < 4; i++) {
        device_bytes = faults[i] ? 1 << 26 : 1; /* a chunk's is had all the same */
        snapshot s = make_snapshot(&fast);
        const load_options options = {.n_threads = 4, .loads_base = LOADS_NO_BASE};
        rank r = open_rank(&s, &options);
        bool is_told = false;
        CHECK_OK(fault_arm(faults[i], 0));
        begin(&r);
        const note loaded = wait_for(&r, NOTE_LOADED);
        CHECK_OK(fault_arm(NULL, 0));
        CU_ASSERT(loaded.st == STATUS_OK);
        const found f = look(&r);
        CU_ASSERT(f.n_whole == FAST_PIECES && f.n_base + f.n_other == 0);
        for (int k = 0; k < notice_count(); k++)
            is_told |= strstr(notice_text(k), "little memory to decode what is cached") != NULL;
        CU_ASSERT(is_told);
        device_bytes = 1 << 26;
        loader_settle(r.loader, SLOT);
        close_rank(&r);
        free(s.bytes);
    }
}

static void base_first(void) {
    const kv_coding *codings[] = {&fast, &small};
    for (int i = 0; i < 2; i++) {
        const int n_pieces = i ? SMALL_PIECES : FAST_PIECES;
        snapshot s = make_snapshot(codings[i]);
        const load_options options = {.n_threads = 2, .loads_base = LOADS_BASE};
        rank r = open_rank(&s, &options);
        const int n_open = count_open_files();
        begin(&r);
        const note loaded = wait_for(&r, NOTE_LOADED);
        CU_ASSERT(loaded.st == STATUS_OK && loaded.n_coarse == n_pieces);
        CU_ASSERT(loaded.coarse_end == TOKENS && loaded.coarse_tokens == TOKENS);
        const note fetched = wait_for(&r, NOTE_FETCHED);
        CU_ASSERT_EQUAL(count_open_files(), n_open); /* many may wait to be refined */
        CU_ASSERT(fetched.st == STATUS_OK && !loader_is_busy(r.loader));
        found f = look(&r); /* nothing changes before it is to */
        CU_ASSERT(f.n_base == n_pieces && f.n_whole + f.n_other == 0);
        loader_refine(r.loader, SLOT);
        f = look(&r);
        CU_ASSERT(f.n_whole == n_pieces && f.n_base + f.n_other == 0);
        loader_refine(r.loader, SLOT); /* once more: there is nothing */
        loader_settle(r.loader, SLOT);
        close_rank(&r);
        free(s.bytes);
    }
}

/* A byte of a chunk of the first segment flips: so many before its end, or behind its beginning. */
static void damage(const snapshot *s, int64_t chunk, size_t from_begin, size_t from_end) {
    segment *opened = NULL;
    CHECK_OK(segment_open(s->dir, NULL, &s->segments[0], tables, &opened));
    const size_t n = segment_chunk_file_bytes(opened, chunk, KV_ALL_PLANES);
    char *frame = mem_new(n, 1), path[4096];
    CHECK_OK(segment_fetch(opened, chunk, 0, n, frame));
    segment_close(opened);
    size_t n_file;
    snprintf(path, sizeof path, "%s/%s", s->dir, s->segments[0].name);
    char *file = harness_read_file(path, &n_file);
    size_t at = 0;
    while (at + n < n_file && memcmp(file + at, frame, n) != 0)
        at++;
    CU_ASSERT_FATAL(at + n < n_file);
    file[at + (from_end ? n - from_end : from_begin)] ^= 1;
    harness_write_file(path, file, n_file);
    free(frame);
    free(file);
}

/* Where a chunk cannot be had, nothing tells that what is before it is all that is missing; and what came of
 * others as a base is refined. */
static void damaged(void) {
    enum { HOLE_END = 2 * CHUNK };
    for (int is_base = 0; is_base < 2; is_base++) {
        snapshot s = make_snapshot(&fast);
        damage(&s, 2 * N_CHUNKS + 1, 80, 0); /* rows [CHUNK, HOLE_END) of layer 2 */
        const load_options options = {
            .n_threads = 1, .loads_base = is_base ? LOADS_BASE : LOADS_NO_BASE, .bytes_per_second = 2e5};
        rank r = open_rank(&s, &options);
        begin(&r);
        int64_t edge = TOKENS;
        const note loaded = wait_at(&r, NOTE_LOADED, &edge);
        CU_ASSERT(loaded.st == STATUS_REFUSED && strstr(loaded.text, "rows 64 to 127"));
        CU_ASSERT(edge >= HOLE_END && edge < TOKENS);
        if (is_base) CU_ASSERT_EQUAL(wait_for(&r, NOTE_FETCHED).st, STATUS_OK);
        loader_refine(r.loader, SLOT);
        const found f = look(&r);
        CU_ASSERT(f.n_whole == FAST_PIECES - 1 && f.n_base == 0 && f.n_other == 1);
        close_rank(&r);
        free(s.bytes);
    }
}

/* A byte of what refines a chunk flips: that one stays coarse. */
static void damaged_rest(void) {
    snapshot s = make_snapshot(&fast);
    damage(&s, 2 * N_CHUNKS + 1, 0, 20);
    const load_options options = {.n_threads = 2, .loads_base = LOADS_BASE};
    rank r = open_rank(&s, &options);
    begin(&r);
    const note loaded = wait_for(&r, NOTE_LOADED), fetched = wait_for(&r, NOTE_FETCHED);
    CU_ASSERT(loaded.st == STATUS_OK && fetched.st == STATUS_REFUSED);
    CU_ASSERT(strstr(fetched.text, s.segments[0].name) && strstr(fetched.text, "rows 64 to 127"));
    loader_refine(r.loader, SLOT);
    const found f = look(&r);
    CU_ASSERT(f.n_whole == FAST_PIECES - 1 && f.n_base == 1 && f.n_other == 0);
    close_rank(&r);
    free(s.bytes);
}

/* What is computed meanwhile stays as it is, also when the rest comes. */
static void left_out(void) {
    enum { OWN = 100 };
    snapshot s = make_snapshot(&small);
    const load_options options = {.n_threads = 1, .loads_base = LOADS_BASE, .bytes_per_second = 1e6};
    rank r = open_rank(&s, &options);
    float rows[OWN * CODED_CHANNELS], found_rows[OWN * CODED_CHANNELS];
    for (int i = 0; i < OWN * CODED_CHANNELS; i++)
        rows[i] = (float)i;
    begin(&r);
    loader_leave(r.loader, SLOT, OWN);
    for (int i = 0; i < 7 * (int)N_KV_PARTS; i++)
        kv_cache_write(r.kv, SLOT, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS), 0, OWN, rows);
    wait_for(&r, NOTE_LOADED);
    wait_for(&r, NOTE_FETCHED);
    loader_refine(r.loader, SLOT);
    for (int i = 0; i < 7 * (int)N_KV_PARTS; i++) {
        CHECK_OK(kv_cache_read(r.kv, SLOT, i / N_KV_PARTS, (kv_part)(i % N_KV_PARTS), 0, OWN, found_rows));
        CU_ASSERT(memcmp(rows, found_rows, sizeof rows) == 0);
    }
    close_rank(&r);
    free(s.bytes);
}

/* All chunks of this rank in the files, or what refines them. */
static double file_bytes(const snapshot *s, bool is_all) {
    double n = 0;
    for (int i = 0; i < 2; i++) {
        segment *opened = NULL;
        CHECK_OK(segment_open(s->dir, NULL, &s->segments[i], tables, &opened));
        for (int64_t e = 0; e < segment_count_entries(&s->segments[i]); e++) {
            const int layer = segment_chunk_at(&s->segments[i], e).chunk.first_layer;
            if (layer >= 2 && layer < 9)
                n += (double)segment_chunk_file_bytes(opened, e, KV_ALL_PLANES) -
                     (is_all ? 0 : (double)segment_chunk_file_bytes(opened, e, KV_BASE_ONLY));
        }
        segment_close(opened);
    }
    return n;
}

/* A sequence that is over does not wait for what would refine it, nor does the end of the run. */
static void given_up(void) {
    snapshot s = make_snapshot(&fast);
    for (int how = 0; how < 2; how++) {
        const load_options options = {.n_threads = 2, .loads_base = LOADS_BASE, .bytes_per_second = 2e4};
        const double rest_seconds = file_bytes(&s, false) / options.bytes_per_second;
        rank r = open_rank(&s, &options);
        begin(&r);
        wait_for(&r, NOTE_LOADED);
        const double since = clock_seconds();
        if (how == 0) loader_settle(r.loader, SLOT);
        close_rank(&r);
        CU_ASSERT(clock_seconds() < since + 0.7 * rest_seconds);
    }
    free(s.bytes);
}

/* Bases only where all would come too late. */
static void late(void) {
    static const struct {
        double bytes_per_second, deadline;
        int least, most; /* coarse */
    } cases[] = {{0, 60, 0, 0}, {2e5, 60, 0, 0}, {2e5, 0.01, FAST_PIECES - 4, FAST_PIECES}};
    snapshot s = make_snapshot(&fast);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const load_options options = {.n_threads = 1,
                                      .loads_base = LOADS_BASE_IF_LATE,
                                      .bytes_per_second = cases[i].bytes_per_second,
                                      .deadline_seconds = cases[i].deadline};
        rank r = open_rank(&s, &options);
        begin(&r);
        const note loaded = wait_for(&r, NOTE_LOADED);
        CU_ASSERT(loaded.st == STATUS_OK && loaded.n_coarse >= cases[i].least &&
                  loaded.n_coarse <= cases[i].most);
        if (loaded.n_coarse > 0) wait_for(&r, NOTE_FETCHED);
        loader_refine(r.loader, SLOT);
        CU_ASSERT_EQUAL(look(&r).n_whole, FAST_PIECES);
        close_rank(&r);
    }
    free(s.bytes);
}

/* What is computed need not come: all of it would be late, but not the last chunks. The first piece may be
 * begun before that is told. */
static void late_but_computed(void) {
    enum { SECONDS = 3 };
    snapshot s = make_snapshot(&fast);
    const load_options options = {.n_threads = 1,
                                  .loads_base = LOADS_BASE_IF_LATE,
                                  .bytes_per_second = file_bytes(&s, true) / SECONDS,
                                  .deadline_seconds = 0.6 * SECONDS};
    rank r = open_rank(&s, &options);
    begin(&r);
    loader_leave(r.loader, SLOT, (N_CHUNKS - 1) * CHUNK);
    const note loaded = wait_for(&r, NOTE_LOADED);
    CU_ASSERT(loaded.st == STATUS_OK && loaded.n_coarse <= 1);
    close_rank(&r);
    free(s.bytes);
}

/* A base that has lost more than is allowed is not loaded by itself; and what has lost too much not at all.
 */
static void distortions(void) {
    snapshot s = make_snapshot(&fast);
    float base = 0, whole = 0, found_one = 0;
    for (int i = 0; i < 2; i++) {
        segment *opened = NULL;
        CHECK_OK(segment_open(s.dir, NULL, &s.segments[i], tables, &opened));
        for (int64_t e = 0; e < segment_count_entries(&s.segments[i]); e++) {
            CHECK_OK(segment_read_distortion(opened, e, KV_BASE_ONLY, &found_one));
            base = e == 0 && i == 0 ? found_one : fminf(base, found_one);
            CHECK_OK(segment_read_distortion(opened, e, KV_ALL_PLANES, &found_one));
            whole = fmaxf(whole, found_one);
        }
        segment_close(opened);
    }
    CU_ASSERT_FATAL(whole < base);
    for (int i = 0; i < 2; i++) {
        const load_options options = {.n_threads = 2,
                                      .loads_base = LOADS_BASE,
                                      .most_distortion = (double)(i ? whole / 4 : (whole + base) / 2)};
        rank r = open_rank(&s, &options);
        begin(&r);
        const note loaded = wait_for(&r, NOTE_LOADED);
        CU_ASSERT(loaded.st == (i ? STATUS_REFUSED : STATUS_OK));
        CU_ASSERT(i || loaded.n_coarse == 0);
        CU_ASSERT(!i || strstr(loaded.text, "--max-distortion"));
        if (!i) CU_ASSERT_EQUAL(look(&r).n_whole, FAST_PIECES);
        close_rank(&r);
    }
    free(s.bytes);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"tables", test_tables},
        {"all at once", all_at_once},
        {"little memory", little_memory},
        {"base first", base_first},
        {"damaged", damaged},
        {"damaged rest", damaged_rest},
        {"left out", left_out},
        {"given up", given_up},
        {"late", late},
        {"late, but computed", late_but_computed},
        {"distortions", distortions},
        CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    if (argc > 1 && strcmp(argv[1], "cuda") == 0) place = DEVICE_CUDA;
    if (device_count(place, NULL) < 1) {
        printf("skipped  loader: no GPU here\n");
        comm_close(ranks);
        return 77;
    }
    const int code = harness_run(&argc, &argv, "loader", tests);
    comm_close(ranks);
    kv_tables_free(tables);
    free(tables_file.data);
    return code;
}
