/* tests/io/test_flips.c: a snapshot of several segments and sequences, damaged at random: bits, lengths,
 * blocks and whole files. Whatever it is, reading notices it, and names the file. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/snapshot/manifest.h"
#include "io/snapshot/segment_private.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/rows.h"

enum {
    N_LAYERS = 5,
    N_SAVES = 3,
    N_SLICES = 2,
    N_SEGMENTS = N_SAVES * N_SLICES,
    N_FILES = N_SEGMENTS + 1,
    N_FLIPS = 1000,
    N_OTHERS = 150, /* of each other kind of damage */
    BLOCK_BYTES = 4096,
    VOCAB = 64,
};

/* ---- a snapshot ---- */

typedef struct snapshot_file {
    const char *name;
    char *bytes;
    size_t n;
} snapshot_file;

typedef struct snapshot {
    char dir[200];
    manifest m;
    snapshot_file files[N_FILES]; /* the manifest first */
} snapshot;

/* Values that look like keys: of about 1, alike from row to row. */
static status make_rows(void *context, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out) {
    const manifest *m = context;
    const int64_t width = (int64_t)m->n_kv_heads * m->head_dim;
    for (int64_t r = 0; r < n_rows; r++) {
        uint64_t state = m->model_digest[0] + (uint64_t)((row0 + r) * N_LAYERS + layer) * 2 + part;
        for (int64_t i = 0; i < width; i++) {
            uint64_t random = harness_random(&state);
            ((uint16_t *)out)[r * width + i] = (uint16_t)(0x3E00 | (random & 0x81FF));
        }
    }
    return STATUS_OK;
}

static status make_chunk(void *context, const kv_chunk *chunk, int64_t row0, void *out) {
    return rows_read_chunk(make_rows, context, chunk, row0, out);
}

/* Each save adds 40 rows, by two ranks with other layers each time; the second without compression. */
static void write_segments(snapshot *s) {
    static const int cuts[N_SAVES] = {2, 3, 2};
    manifest *m = &s->m;
    m->segments = mem_new(N_SEGMENTS, sizeof *m->segments);
    for (int save = 0; save < N_SAVES; save++)
        for (int slice = 0; slice < N_SLICES; slice++) {
            segment_info *info = &m->segments[m->n_segments++];
            *info = (segment_info){.first_layer = slice ? cuts[save] : 0,
                                   .last_layer = slice ? N_LAYERS : cuts[save],
                                   .row0 = 40 * save,
                                   .n_rows = 40,
                                   .n_kv_heads = m->n_kv_heads,
                                   .head_dim = m->head_dim,
                                   .type = m->type,
                                   .codec = save == 1 ? KV_CODEC_NONE : KV_CODEC_LOSSLESS,
                                   .chunk_tokens = 16};
            segment_make_name(info, save + 1);
            CHECK_OK(segment_write(s->dir, info, &(segment_source){.read = make_chunk, .context = m}, 1));
        }
}

static char *text_of(const char *text) {
    return mem_copy_text(text, strlen(text));
}

static manifest_sequence make_sequence(const manifest *m, int number) {
    manifest_sequence q = {.id = text_of(number ? "second" : "first"),
                           .line = number,
                           .sequence_id = number,
                           .n_tokens = 60,
                           .n_prompt = 50,
                           .sampling = sampling_defaults(),
                           .prompt_text = text_of("It was a dark and stormy night"),
                           .n_prompt_text = 30,
                           .text = text_of("; the rain fell in torrents"),
                           .n_text = 27,
                           .n_extents = 2};
    uint64_t state = m->model_digest[0] + (uint64_t)number;
    q.tokens = mem_new(60, sizeof *q.tokens);
    for (int i = 0; i < 60; i++)
        q.tokens[i] = (int32_t)(harness_random(&state) % VOCAB);
    q.extents = mem_new(2, sizeof *q.extents);
    q.extents[0] = (manifest_extent){0, 40, 40 * number};
    q.extents[1] = (manifest_extent){40, 20, 80 + 20 * number};
    q.last_logits = mem_new(VOCAB, sizeof(float));
    for (int i = 0; i < VOCAB; i++)
        q.last_logits[i] = harness_random_normal(&state);
    return q;
}

static void describe(manifest *m, uint64_t seed) {
    *m = (manifest){.model_digest = {seed, 1},
                    .n_layers = N_LAYERS,
                    .n_kv_heads = 2,
                    .head_dim = 32,
                    .vocab_size = VOCAB,
                    .type = DTYPE_BF16,
                    .save_number = N_SAVES,
                    .n_rows = 40 * N_SAVES,
                    .codec = KV_CODEC_LOSSLESS,
                    .page_tokens = 64,
                    .n_ranks = N_SLICES};
    char **texts[] = {&m->model_name,   &m->model_shape, &m->rope,     &m->version,
                      &m->command_line, &m->host,        &m->processor};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        *texts[i] = text_of("of a test");
    m->batch = (manifest_batch){.digest = {1, 2}, .n_lines = 2, .output_bytes = -1};
    m->batch.is_done = mem_new(2, sizeof *m->batch.is_done);
}

static char *path_of(const snapshot *s, int file) {
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", s->dir, s->files[file].name);
    return path;
}

static snapshot make_snapshot(uint64_t seed) {
    snapshot s = {0};
    snprintf(s.dir, sizeof s.dir, "%s/seed%d.kvs", harness_temp_dir(), (int)seed);
    CU_ASSERT_FATAL(mkdir(s.dir, 0777) == 0);
    describe(&s.m, seed);
    write_segments(&s);
    s.m.n_sequences = 2;
    s.m.sequences = mem_new(2, sizeof *s.m.sequences);
    for (int i = 0; i < 2; i++)
        s.m.sequences[i] = make_sequence(&s.m, i);
    CHECK_OK(manifest_write(s.dir, &s.m));
    for (int i = 0; i < N_FILES; i++) {
        s.files[i].name = i ? s.m.segments[i - 1].name : "manifest.h5";
        s.files[i].bytes = harness_read_file(path_of(&s, i), &s.files[i].n);
        CU_ASSERT_FATAL(s.files[i].bytes != NULL && s.files[i].n > BLOCK_BYTES);
    }
    return s;
}

static void free_snapshot(snapshot *s) {
    for (int i = 0; i < N_FILES; i++)
        free(s->files[i].bytes);
    manifest_free(&s->m);
}

/* ---- reading all of it ---- */

static status check_segment(const char *dir, const segment_info *info) {
    segment *s;
    int64_t n_bytes = 0;
    status st = segment_open(dir, NULL, info, NULL, &s);
    if (st != STATUS_OK) return st;
    for (int layer = info->first_layer; layer < info->last_layer && st == STATUS_OK; layer++)
        st = rows_verify_layer(s, info, layer, &n_bytes);
    segment_close(s);
    return st;
}

static status check_snapshot(const char *dir) {
    manifest m = {0};
    status st = manifest_read(dir, &m);
    for (int64_t i = 0; i < m.n_segments && st == STATUS_OK; i++)
        st = check_segment(dir, &m.segments[i]);
    manifest_free(&m);
    return st;
}

/* The damage is refused, with a text that names one of these two files; then all is well again. */
static void check_noticed(const snapshot *s, int file, int or_file, const char *damage) {
    status st = check_snapshot(s->dir);
    bool named = strstr(status_text(), s->files[file].name) || strstr(status_text(), s->files[or_file].name);
    CU_ASSERT(st == STATUS_REFUSED && named);
    if (st != STATUS_REFUSED || !named)
        printf("  %s of %s: status %d, \"%s\"\n", damage, s->files[file].name, st, st ? status_text() : "");
}

static void write_back(const snapshot *s, int file) {
    harness_write_file(path_of(s, file), s->files[file].bytes, s->files[file].n);
}

static void put_bytes(const snapshot *s, int file, size_t offset, const char *bytes, size_t n) {
    int fd = open(path_of(s, file), O_WRONLY);
    CU_ASSERT(fd >= 0 && pwrite(fd, bytes, n, (off_t)offset) == (ssize_t)n);
    if (fd >= 0) close(fd);
}

static void flip(const snapshot *s, int file, size_t offset, int bit) {
    char damage[80], flipped = (char)(s->files[file].bytes[offset] ^ 1 << bit);
    snprintf(damage, sizeof damage, "bit %d of byte %zu", bit, offset);
    put_bytes(s, file, offset, &flipped, 1);
    check_noticed(s, file, file, damage);
    put_bytes(s, file, offset, &s->files[file].bytes[offset], 1);
}

static size_t below(uint64_t *state, size_t n) {
    return (size_t)(harness_random(state) % n);
}

/* ---- tests ---- */

static void test_flips_anywhere(void) {
    snapshot s = make_snapshot(1);
    size_t n_all = 0;
    uint64_t state = 11;
    for (int i = 0; i < N_FILES; i++)
        n_all += s.files[i].n;
    CHECK_OK(check_snapshot(s.dir));
    for (int i = 0; i < N_FLIPS; i++) {
        size_t at = below(&state, n_all);
        int file = 0;
        while (at >= s.files[file].n)
            at -= s.files[file++].n;
        flip(&s, file, at, (int)below(&state, 8));
    }
    CHECK_OK(check_snapshot(s.dir));
    free_snapshot(&s);
}

static void test_flips_in_block(void) {
    snapshot s = make_snapshot(2);
    uint64_t state = 12;
    for (size_t at = 0; at < BLOCK_BYTES; at++)
        flip(&s, 0, at, (int)below(&state, 8));
    CHECK_OK(check_snapshot(s.dir));
    free_snapshot(&s);
}

static void test_lengths(void) {
    snapshot s = make_snapshot(3);
    uint64_t state = 13;
    for (int i = 0; i < N_OTHERS; i++) {
        int file = (int)below(&state, N_FILES);
        size_t n = i < N_FILES ? s.files[file = i].n - 1 : below(&state, s.files[file].n + BLOCK_BYTES);
        if (n == s.files[file].n) continue;
        CU_ASSERT(truncate(path_of(&s, file), (off_t)n) == 0);
        check_noticed(&s, file, file, "another length");
        write_back(&s, file);
    }
    CHECK_OK(check_snapshot(s.dir));
    free_snapshot(&s);
}

/* A block of a file in another place, or in another file, as a confused disk leaves it. */
static void test_blocks(void) {
    snapshot s = make_snapshot(4);
    uint64_t state = 14;
    for (int i = 0; i < N_OTHERS; i++) {
        int from = (int)below(&state, N_FILES), to = (int)below(&state, N_FILES);
        size_t n = 1 + below(&state, BLOCK_BYTES);
        size_t at = below(&state, s.files[from].n - n), onto = below(&state, s.files[to].n - n);
        if (memcmp(s.files[from].bytes + at, s.files[to].bytes + onto, n) == 0) continue;
        put_bytes(&s, to, onto, s.files[from].bytes + at, n);
        check_noticed(&s, to, to, "a block");
        write_back(&s, to);
    }
    CHECK_OK(check_snapshot(s.dir));
    free_snapshot(&s);
}

/* Chunks that are whole, each in the place of another: only /index knows. */
static void test_chunks(void) {
    snapshot s = make_snapshot(7);
    const segment_info *info =
        &s.m.segments[2]; /* not compressed: of one size, but for the last of each array */
    const snapshot_file *file = &s.files[3];
    const segment_entry *entries = (const segment_entry *)(file->bytes + info->index_offset);
    int n_exchanged = 0;
    for (int64_t i = 1; i < segment_count_entries(info); i++) {
        const segment_entry *a = &entries[i - 1], *b = &entries[i];
        if (a->n_bytes != b->n_bytes) continue;
        put_bytes(&s, 3, a->offset, file->bytes + b->offset, b->n_bytes);
        put_bytes(&s, 3, b->offset, file->bytes + a->offset, a->n_bytes);
        check_noticed(&s, 3, 3, "chunks exchanged");
        write_back(&s, 3);
        n_exchanged++;
    }
    CU_ASSERT(n_exchanged > 4);
    CHECK_OK(check_snapshot(s.dir));
    free_snapshot(&s);
}

/* Files exchanged, within the snapshot and with one that has the same names. */
static void test_swaps(void) {
    snapshot s = make_snapshot(5), other = make_snapshot(6);
    int n_same_size = 0;
    for (int a = 0; a < N_FILES; a++) {
        for (int b = a + 1; b < N_FILES; b++) {
            harness_write_file(path_of(&s, a), s.files[b].bytes, s.files[b].n);
            harness_write_file(path_of(&s, b), s.files[a].bytes, s.files[a].n);
            check_noticed(&s, a, b, "a swap");
            write_back(&s, a);
            write_back(&s, b);
        }
        CU_ASSERT(strcmp(s.files[a].name, other.files[a].name) == 0);
        n_same_size += s.files[a].n == other.files[a].n;
        harness_write_file(path_of(&s, a), other.files[a].bytes, other.files[a].n);
        check_noticed(&s, a, a ? a : 1, "the file of another snapshot");
        write_back(&s, a);
    }
    CU_ASSERT(n_same_size >= 2); /* the segments that are not compressed: the size does not tell */
    CHECK_OK(check_snapshot(s.dir));
    free_snapshot(&s);
    free_snapshot(&other);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"one bit, anywhere", test_flips_anywhere},
        {"one bit, in every byte of the block of text", test_flips_in_block},
        {"cut off, or longer", test_lengths},
        {"a block in another place", test_blocks},
        {"frames exchanged", test_chunks},
        {"files exchanged", test_swaps},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "flips", tests);
}
