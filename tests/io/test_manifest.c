/* tests/io/test_manifest.c: manifests there and back in every member, damaged in every byte, and written
 * where writing fails. */
#define _GNU_SOURCE /* unshare */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/h5.h"
#include "io/snapshot/manifest.h"
#include "io/snapshot/manifest_private.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "tests/fixtures/harness.h"

/* ---- material ---- */

static const char *path_of(const char *dir, const char *file) {
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return path;
}

static int count_files(const char *dir) {
    int n = -2;
    DIR *d = opendir(dir);
    while (d && readdir(d))
        n++;
    if (d) closedir(d);
    return n;
}

static char *text_of(const char *text) {
    return mem_copy_text(text, strlen(text));
}

static segment_info make_segment(const manifest *m, int first, int last, int64_t row0, int64_t n_rows,
                                 int64_t save_number) {
    segment_info s = {.first_layer = first,
                      .last_layer = last,
                      .row0 = row0,
                      .n_rows = n_rows,
                      .n_kv_heads = m->n_kv_heads,
                      .head_dim = m->head_dim,
                      .type = m->type,
                      .codec = KV_CODEC_LOSSLESS,
                      .chunk_tokens = 7,
                      .chunk_layers = 1,
                      .file_bytes = 1000000 + row0,
                      .index_offset = 5000 + first,
                      .digest = {0x0123456789ABCDEF, (uint64_t)row0 << 32 | 7}};
    segment_make_name(&s, save_number);
    return s;
}

static manifest_sequence make_sequence(const manifest *m, int number, int64_t n_prompt, int64_t n_generated) {
    manifest_sequence s = {.line = number,
                           .sequence_id = number,
                           .n_tokens = n_prompt + n_generated,
                           .n_prompt = n_prompt,
                           .sampling = sampling_defaults()};
    char id[40];
    snprintf(id, sizeof id, "%d", number);
    s.id = text_of(id);
    s.id_is_json = true;
    s.tokens = mem_new((size_t)s.n_tokens, sizeof *s.tokens);
    uint64_t state = (uint64_t)number;
    for (int64_t i = 0; i < s.n_tokens; i++)
        s.tokens[i] = (int32_t)(harness_random(&state) % (uint64_t)m->vocab_size);
    s.prompt_text = text_of("");
    s.text = text_of("");
    return s;
}

static void add_extents(manifest_sequence *s, int64_t n, const manifest_extent *extents) {
    s->extents = mem_new((size_t)n, sizeof *extents);
    memcpy(s->extents, extents, (size_t)n * sizeof *extents);
    s->n_extents = n;
}

static manifest make_base(int n_layers, int64_t n_rows) {
    manifest m = {.model_digest = {0xFEDCBA9876543210, 1},
                  .tokenizer_digest = {2, UINT64_MAX},
                  .n_layers = n_layers,
                  .n_kv_heads = 2,
                  .head_dim = 16,
                  .vocab_size = 100,
                  .type = DTYPE_BF16,
                  .save_number = 3,
                  .n_rows = n_rows,
                  .codec = KV_CODEC_LOSSLESS,
                  .page_tokens = 64,
                  .n_ranks = 2,
                  .unix_time = 1700000000,
                  .seconds_computed = 12.625 / 3};
    char **texts[] = {&m.model_name,   &m.model_shape, &m.rope,     &m.version,
                      &m.command_line, &m.host,        &m.processor};
    static const char *const values[] = {
        "demo",         "4 layers", "theta 10000", "0.1.0", "kvarve generate --prompt 'a \"b\"\n'",
        "node\xC3\xA4", "x86-64"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        *texts[i] = text_of(values[i]);
    return m;
}

/* Three sequences of a batch of five over three segments and all members in use. */
static manifest make_full(void) {
    manifest m = make_base(4, 30);
    m.n_segments = 3;
    m.segments = mem_new(3, sizeof *m.segments);
    m.segments[0] = make_segment(&m, 0, 3, 0, 10, 1);
    m.segments[1] = make_segment(&m, 3, 4, 0, 10, 1);
    m.segments[2] = make_segment(&m, 0, 4, 10, 20, 3);
    m.batch = (manifest_batch){.digest = {7, 8}, .n_lines = 5, .output_bytes = 77, .output_digest = {9, 10}};
    m.batch.is_done = mem_new(5, sizeof *m.batch.is_done);
    m.batch.is_done[1] = m.batch.is_done[4] = true;

    m.n_sequences = 3;
    m.sequences = mem_new(3, sizeof *m.sequences);
    manifest_sequence *s = m.sequences;
    s[0] = make_sequence(&m, 0, 12, 3); /* rows of two saves, shared with the third */
    add_extents(&s[0], 2, (manifest_extent[]){{0, 8, 2}, {8, 6, 10}});
    free(s[0].id);
    s[0].id = text_of("a name, \xE2\x82\xAC \\ \"quoted\"");
    s[0].id_is_json = false;
    s[0].sequence_id = INT64_MIN;
    s[0].sampling = (sampling_options){.temperature = 0.1 + 0.2,
                                       .top_k = 2147483647,
                                       .top_p = 0.9,
                                       .min_p = 1e-300,
                                       .repetition_penalty = 1.1,
                                       .seed = INT64_C(1) << 53,
                                       .max_tokens = 5,
                                       .n_logprobs = 2,
                                       .ignore_eos = true};
    s[0].n_stops = 2;
    s[0].stops[0] = text_of("\n");
    s[0].stops[1] = text_of("end \xF0\x9F\x98\x80");
    free(s[0].prompt_text);
    free(s[0].text);
    s[0].n_prompt_text = 14;
    s[0].prompt_text = text_of("It was \xC3\xA4 dark");
    s[0].n_text = 6;
    s[0].text = mem_copy_text(" n\0ght", 6);
    s[0].n_stop_tokens = 2;
    s[0].stop_tokens = mem_new(2, sizeof *s[0].stop_tokens);
    s[0].stop_tokens[1] = 99;
    s[0].inexact = text_of("kvarve:small:3+base, base");
    s[0].n_exact = 7;
    s[0].n_logprobs = 3;
    s[0].logprobs = mem_new(9, sizeof *s[0].logprobs);
    for (int i = 0; i < 9; i++)
        s[0].logprobs[i] =
            (manifest_logprob){.token = i == 8 ? -1 : 99 - i, .logprob = i ? -0.1f * (float)i : -INFINITY};
    s[0].last_logits = mem_new(0x100, sizeof(float)); /* for the test whose vocabulary is larger */
    for (int i = 0; i < 100; i++)
        s[0].last_logits[i] = (float)i / 3;

    s[1] = make_sequence(&m, 2, 5, 0); /* waits: nothing is saved of it */
    s[1].sequence_id = (INT64_C(1) << 53) + 1;
    s[2] = make_sequence(&m, 3, 0, 6);
    add_extents(&s[2], 1, (manifest_extent[]){{0, 6, 9}});
    s[2].is_over = true;
    s[2].finish = FINISH_STOP;
    s[2].last_logits = mem_new(0x100, sizeof(float));
    s[2].last_logits[99] = 1e-40f;
    return m;
}

static bool same_text(const char *a, const char *b) {
    return a && b && strcmp(a, b) == 0;
}

static bool same_bytes(const void *a, const void *b, size_t n) {
    return n == 0 || (a && b && memcmp(a, b, n) == 0);
}

static void check_same_sequence(const manifest_sequence *a, const manifest_sequence *b, int vocab_size) {
    CU_ASSERT(same_text(a->id, b->id) && a->id_is_json == b->id_is_json);
    CU_ASSERT(a->line == b->line && a->sequence_id == b->sequence_id);
    CU_ASSERT(a->n_tokens == b->n_tokens && a->n_prompt == b->n_prompt);
    CU_ASSERT(same_bytes(a->tokens, b->tokens, (size_t)a->n_tokens * 4));
    CU_ASSERT(a->n_extents == b->n_extents &&
              same_bytes(a->extents, b->extents, (size_t)a->n_extents * sizeof *a->extents));
    const sampling_options *s = &a->sampling, *t = &b->sampling;
    CU_ASSERT(s->temperature == t->temperature && s->top_k == t->top_k && s->top_p == t->top_p);
    CU_ASSERT(s->min_p == t->min_p && s->repetition_penalty == t->repetition_penalty && s->seed == t->seed);
    CU_ASSERT(s->max_tokens == t->max_tokens && s->n_logprobs == t->n_logprobs &&
              s->ignore_eos == t->ignore_eos);
    CU_ASSERT(a->n_stops == b->n_stops);
    for (int i = 0; i < a->n_stops && i < b->n_stops; i++)
        CU_ASSERT(same_text(a->stops[i], b->stops[i]));
    CU_ASSERT(a->is_over == b->is_over && a->finish == b->finish);
    CU_ASSERT(a->n_exact == b->n_exact);
    CU_ASSERT(!a->inexact == !b->inexact && (!a->inexact || same_text(a->inexact, b->inexact)));
    CU_ASSERT(a->n_prompt_text == b->n_prompt_text && a->n_text == b->n_text);
    CU_ASSERT(same_bytes(a->prompt_text, b->prompt_text, (size_t)a->n_prompt_text));
    CU_ASSERT(same_bytes(a->text, b->text, (size_t)a->n_text));
    CU_ASSERT(a->n_stop_tokens == b->n_stop_tokens);
    CU_ASSERT(same_bytes(a->stop_tokens, b->stop_tokens, (size_t)a->n_stop_tokens * 4));
    CU_ASSERT(a->n_logprobs == b->n_logprobs && !a->logprobs == !b->logprobs);
    CU_ASSERT(
        same_bytes(a->logprobs, b->logprobs, (size_t)((a->n_tokens - a->n_prompt) * a->n_logprobs) * 8));
    CU_ASSERT(!a->last_logits == !b->last_logits);
    if (a->last_logits) CU_ASSERT(same_bytes(a->last_logits, b->last_logits, (size_t)vocab_size * 4));
}

static void check_same(const manifest *a, const manifest *b) {
    CU_ASSERT(same_bytes(a->model_digest, b->model_digest, 16));
    CU_ASSERT(same_bytes(a->tokenizer_digest, b->tokenizer_digest, 16));
    CU_ASSERT(a->n_layers == b->n_layers && a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim);
    CU_ASSERT(a->vocab_size == b->vocab_size && a->type == b->type && a->save_number == b->save_number);
    CU_ASSERT(a->n_rows == b->n_rows && a->codec == b->codec && a->page_tokens == b->page_tokens);
    CU_ASSERT(same_text(a->model_name, b->model_name) && same_text(a->model_shape, b->model_shape));
    CU_ASSERT(same_text(a->rope, b->rope) && same_text(a->version, b->version));
    CU_ASSERT(same_text(a->command_line, b->command_line) && same_text(a->host, b->host));
    CU_ASSERT(same_text(a->processor, b->processor) && a->n_ranks == b->n_ranks);
    CU_ASSERT(a->unix_time == b->unix_time && a->seconds_computed == b->seconds_computed);
    CU_ASSERT(same_bytes(a->batch.digest, b->batch.digest, 16) && a->batch.n_lines == b->batch.n_lines);
    CU_ASSERT(same_bytes(a->batch.is_done, b->batch.is_done, (size_t)a->batch.n_lines));
    CU_ASSERT(a->batch.output_bytes == b->batch.output_bytes);
    CU_ASSERT(same_bytes(a->batch.output_digest, b->batch.output_digest, 16));
    CU_ASSERT_EQUAL(a->n_segments, b->n_segments);
    for (int64_t i = 0; i < a->n_segments && i < b->n_segments; i++) {
        const segment_info *s = &a->segments[i], *t = &b->segments[i];
        CU_ASSERT(same_text(s->name, t->name) && s->first_layer == t->first_layer &&
                  s->last_layer == t->last_layer);
        CU_ASSERT(s->row0 == t->row0 && s->n_rows == t->n_rows && s->n_kv_heads == t->n_kv_heads);
        CU_ASSERT(s->head_dim == t->head_dim && s->type == t->type && s->codec == t->codec &&
                  s->is_plain == t->is_plain);
        CU_ASSERT(s->chunk_tokens == t->chunk_tokens && s->file_bytes == t->file_bytes);
        CU_ASSERT(s->index_offset == t->index_offset && same_bytes(s->digest, t->digest, 16));
    }
    CU_ASSERT_EQUAL(a->n_sequences, b->n_sequences);
    for (int64_t i = 0; i < a->n_sequences && i < b->n_sequences; i++)
        check_same_sequence(&a->sequences[i], &b->sequences[i], a->vocab_size);
}

/* ---- there and back ---- */

static void check_round_trip(const manifest *m) {
    const char *dir = harness_fresh_dir();
    manifest got = {0};
    CU_ASSERT_FALSE(manifest_exists(dir));
    if (!CHECK_OK(manifest_write(dir, m))) return;
    CU_ASSERT(manifest_exists(dir));
    CU_ASSERT_EQUAL(count_files(dir), 1);
    if (!CHECK_OK(manifest_read(dir, &got))) return;
    check_same(m, &got);
    char *bytes = harness_read_file(path_of(dir, "manifest.h5"), &(size_t){0});
    CU_ASSERT_EQUAL(strstr(bytes, "\nformat ")[8] - '0', manifest_format(m));
    free(bytes);
    manifest_free(&got);
    CU_ASSERT(got.sequences == NULL && got.n_sequences == 0);
    manifest_free(&got);
}

static void test_round_trips(void) {
    manifest m = make_full();
    check_round_trip(&m);
    CU_ASSERT_EQUAL(manifest_kv_tokens(&m.sequences[0]), 14);
    CU_ASSERT_EQUAL(manifest_kv_tokens(&m.sequences[1]), 0);

    m.type = DTYPE_F32; /* and no batch, no output */
    for (int i = 0; i < 3; i++) {
        m.segments[i].type = DTYPE_F32;
        m.sequences[i].line = -1;
    }
    m.codec = m.segments[1].codec = KV_CODEC_NONE;
    m.segments[1].is_plain = true;
    free(m.batch.is_done);
    m.batch = (manifest_batch){0};
    check_round_trip(&m);
    manifest_free(&m);

    m = make_base(1, 0); /* nothing at all */
    check_round_trip(&m);
    m.n_sequences = 1;
    m.sequences = mem_new(1, sizeof *m.sequences);
    m.sequences[0] = make_sequence(&m, -1, 3, 0);
    m.batch.n_lines = 2;
    m.batch.output_bytes = -1;
    m.batch.is_done = mem_new(2, sizeof *m.batch.is_done);
    check_round_trip(&m);
    manifest_free(&m);
}

/* Nothing is format 2 that format 1 can tell; and what earlier versions wrote is read, here one of the
 * fuzzer's. */
static void test_formats(void) {
    manifest m = make_full();
    CU_ASSERT_EQUAL(manifest_format(&m), 1);
    m.segments[1].codec = KV_CODEC_NONE;
    m.segments[1].is_plain = true;
    CU_ASSERT_EQUAL(manifest_format(&m), 2);
    manifest_free(&m);

    size_t n;
    char *bytes = harness_read_file(KVARVE_SOURCE_DIR "/tests/fuzz/corpus/manifest/whole", &n);
    CU_ASSERT(strncmp(bytes, "kvarve snapshot manifest\nformat 1\n", 34) == 0);
    if (CHECK_OK(manifest_parse(bytes, n, "old", &m))) {
        CU_ASSERT(m.n_segments == 4 && m.segments[0].codec == KV_CODEC_NONE && !m.segments[0].is_plain);
        CU_ASSERT_EQUAL(manifest_format(&m), 1);
        manifest_free(&m);
    }
    free(bytes);
}

/* NULL texts are read as empty ones. */
static void test_no_texts(void) {
    manifest m = make_base(1, 0), got;
    free(m.rope);
    m.rope = NULL;
    m.n_sequences = 1;
    m.sequences = mem_new(1, sizeof *m.sequences);
    const char *dir = harness_fresh_dir();
    if (!CHECK_OK(manifest_write(dir, &m))) return;
    CHECK_REFUSED(manifest_read(dir, &got),
                  "sequences[0]"); /* no sampling is like this: temperature 0, top_p 0 */
    m.sequences[0].sampling = sampling_defaults();
    m.sequences[0].line = -1;
    CHECK_OK(manifest_write(dir, &m));
    if (!CHECK_OK(manifest_read(dir, &got))) return;
    CU_ASSERT(same_text(got.rope, "") && same_text(got.sequences[0].id, "") &&
              same_text(got.sequences[0].text, ""));
    manifest_free(&got);
    manifest_free(&m);
}

static void test_digest_text(void) {
    char text[MANIFEST_DIGEST_BYTES];
    manifest_digest_text((const uint64_t[2]){0x0123456789ABCDEF, 0xF}, text);
    CU_ASSERT_STRING_EQUAL(text, "0123456789abcdef000000000000000f");
}

/* ---- damage ---- */

static void write_small(const char *dir, manifest *m) {
    *m = make_full();
    CHECK_OK(manifest_write(dir, m));
}

static void test_flipped_bits(void) {
    const char *dir = harness_fresh_dir();
    manifest m, got;
    write_small(dir, &m);
    int fd = open(path_of(dir, "manifest.h5"), O_RDWR), n_missed = 0;
    const off_t n = lseek(fd, 0, SEEK_END);
    for (off_t i = 0; i < n; i++) {
        unsigned char byte = 0, flipped;
        CU_ASSERT(pread(fd, &byte, 1, i) == 1);
        flipped = (unsigned char)(byte ^ 1 << i % 8);
        CU_ASSERT(pwrite(fd, &flipped, 1, i) == 1);
        status st = manifest_read(dir, &got);
        n_missed += st != STATUS_REFUSED || !strstr(status_text(), "manifest.h5");
        if (st == STATUS_OK) manifest_free(&got);
        CU_ASSERT(pwrite(fd, &byte, 1, i) == 1);
    }
    CU_ASSERT_EQUAL(n_missed, 0);
    CU_ASSERT(n > 4096);
    if (CHECK_OK(manifest_read(dir, &got))) manifest_free(&got);
    close(fd);
    manifest_free(&m);
}

static void test_truncated(void) {
    const char *dir = harness_fresh_dir();
    manifest m, got;
    write_small(dir, &m);
    char path[400];
    snprintf(path, sizeof path, "%s/manifest.h5", dir);
    size_t n;
    char *bytes = harness_read_file(path, &n), *longer = mem_new(n + 1, 1);
    memcpy(longer, bytes, n);
    harness_write_file(path, longer, n + 1);
    CHECK_REFUSED(manifest_read(dir, &got), "bytes, but says that it has");
    harness_write_file(path, bytes, n);
    int n_missed = 0;
    for (size_t i = n; i-- > 0;) {
        CU_ASSERT(truncate(path, (off_t)i) == 0);
        n_missed += manifest_read(dir, &got) != STATUS_REFUSED;
    }
    CU_ASSERT_EQUAL(n_missed, 0);
    free(bytes);
    free(longer);
    manifest_free(&m);
}

static void test_other_files(void) {
    const char *dir = harness_fresh_dir();
    char path[400];
    snprintf(path, sizeof path, "%s/manifest.h5", dir);
    manifest m, got;
    CHECK_REFUSED(manifest_read(dir, &got), "manifest.h5: cannot be opened: No such file or directory");
    CU_ASSERT_FALSE(manifest_exists(dir));
    CU_ASSERT_FALSE(manifest_exists(path_of(dir, "missing")));
    CU_ASSERT(mkfifo(path, 0666) == 0);
    CHECK_REFUSED(manifest_read(dir, &got), "not a regular file");
    CU_ASSERT(manifest_exists(dir));
    CU_ASSERT(unlink(path) == 0 && mkdir(path, 0777) == 0);
    CHECK_REFUSED(manifest_read(dir, &got), "not a regular file");
    CU_ASSERT(rmdir(path) == 0);
    harness_write_file(path, "\x89HDF\r\n\x1a\n and more", 17);
    CHECK_REFUSED(manifest_read(dir, &got), "not the manifest of a kvarve snapshot");

    CU_ASSERT(unlink(path) == 0);
    write_small(dir, &m);
    size_t n;
    char *bytes = harness_read_file(path, &n), *format = strstr(bytes, "format 1");
    CU_ASSERT_PTR_NOT_NULL(format);
    if (format) format[7] = '5';
    harness_write_file(path, bytes, n);
    CHECK_REFUSED(manifest_read(dir, &got), "format 5, but this program reads up to 4: use a newer kvarve");

    /* One byte less of the JSON text, a line feed: only the digest tells. */
    manifest_block block;
    char line[60], *at;
    if (format) format[7] = '1';
    if (!CHECK_OK(manifest_block_parse(bytes, n, "here", &block))) return;
    snprintf(line, sizeof line, "manifest %lld %lld\n", (long long)block.json_offset,
             (long long)block.json_bytes);
    at = strstr(bytes, line);
    CU_ASSERT_PTR_NOT_NULL(at);
    char shorter[60];
    snprintf(shorter, sizeof shorter, "manifest %lld %lld\n", (long long)block.json_offset,
             (long long)block.json_bytes - 1);
    CU_ASSERT(strlen(shorter) == strlen(line));
    if (at) memcpy(at, shorter, strlen(shorter));
    CHECK_OK(manifest_block_parse(bytes, n, "here", &block));
    harness_write_file(path, bytes, n);
    CHECK_REFUSED(manifest_read(dir, &got), "it does not match its digest");
    free(bytes);
    manifest_free(&m);
}

/* ---- content that a digest does not tell to be wrong ---- */

/* The JSON text of a manifest, with a part of it replaced (all of its occurrences), parsed again. */
static status parse_changed(const manifest *m, const char *from, const char *to) {
    text_buffer arrays[N_MANIFEST_ARRAYS] = {0}, json = {0}, file = {0}, changed = {0};
    int64_t offsets[N_MANIFEST_ARRAYS];
    manifest_gather(m, arrays);
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++) {
        offsets[a] = (int64_t)file.n;
        text_append(&file, arrays[a].data, arrays[a].n);
    }
    manifest_write_json(m, arrays, offsets, &json);
    const char *at = json.data, *hit;
    bool found = false;
    while (*from && (hit = strstr(at, from))) {
        text_append(&changed, at, (size_t)(hit - at));
        text_append(&changed, to, strlen(to));
        at = hit + strlen(from);
        found = true;
    }
    text_append(&changed, at, strlen(at));
    CU_ASSERT(found || !*from);
    manifest got = {0};
    status st = manifest_parse_json(changed.data, changed.n, file.data, file.n, "here", &got);
    if (st == STATUS_OK) check_same(m, &got);
    manifest_free(&got);
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++)
        free(arrays[a].data);
    free(json.data);
    free(file.data);
    free(changed.data);
    return st;
}

static void test_changed_text(void) {
    static const struct {
        const char *from, *to, *part;
    } changes[] = {
        {"\"save_number\": 3", "\"save_number\": 0", "save_number"},
        {"\"save_number\": 3", "\"save_number\": 2", "S0003.h5 is beyond"},
        {"\"n_rows\": 30", "\"n_rows\": 29", "is beyond the layers, rows or saves"},
        {"\"n_rows\": 30", "\"n_rows\": 9007199254740993e3", "n_rows"},
        {"\"codec\": \"lossless\"", "\"codec\": \"lossy\"", "\"lossy\" is not a codec of this kvarve"},
        {"\"n_layers\": 4", "\"n_layers\": 3", "is beyond the layers"},
        {"\"n_layers\": 4", "\"n_layers\": 5", "of layer 4"},
        {"\"n_layers\": 4", "\"n_layers\": 100000", "n_layers"},
        {"\"n_kv_heads\": 2", "\"n_kv_heads\": 2000000000", "impossible number of heads"},
        {"\"kv_dtype\": \"bf16\"", "\"kv_dtype\": \"f16\"", "\"f16\" is not bf16 or f32"},
        {"\"digest\": \"fedcba9876543210", "\"digest\": \"FEDCBA9876543210", "not a digest"},
        {"\"digest\": \"fedcba9876543210", "\"digest\": \" fedcba987654321", "not a digest"},
        {"\"vocab_size\": 100", "\"vocab_size\": 10", "not in the vocabulary"},
        {"\"vocab_size\": 100", "\"vocab_size\": 0", "vocab_size"},
        {"\"vocab_size\": 100", "\"vocab_size\": 101", "last_logits_row"},
        {"\"seconds_computed\": 4", "\"seconds_computed\": -4", "seconds_computed"},
        {"\"n_lines\": 5", "\"n_lines\": 4", "is_done: 1 elements belong to nothing"},
        {"\"n_lines\": 5", "\"n_lines\": 6", "/batch/is_done has no 6 elements"},
        {"\"n_lines\": 5", "\"n_lines\": 9007199254740992", "/batch/is_done has no"},
        {"\"output_bytes\": 77", "\"output_bytes\": -2", "output_bytes"},
        {"\"/tokens\"", "\"/tokena\"", "/tokens"},
        {"\"n_elements\": 26", "\"n_elements\": 27", "/tokens: 1 elements belong to nothing"},
        {"\"n_elements\": 26", "\"n_elements\": 25", "/tokens has no 6 elements"},
        {"\"n_elements\": 26", "\"n_elements\": 9007199254740992", "more than the file holds"},
        {"\"file_offset\": 0", "\"file_offset\": 9007199254740992", "file_offset"},
        {"\"file_offset\": 0", "\"file_offset\": -1", "file_offset"},
        {"L000-003.T", "L000-004.T", "two segments have row 0 of layer 3"},
        {"L000-003.T", "L000-002.T", "no segment has all of rows 2 to 9 of layer 2"},
        {"L000-003.T", "/000-003.T", "is not the name of a segment"},
        {"00000010-00000030", "00000011-00000030", "no segment has all of rows 10 to 15 of layer 0"},
        {"00000010-00000030", "00000009-00000030", "two segments have row 9 of layer 0"},
        {"\"chunk_tokens\": 7", "\"chunk_tokens\": 21", "rows in a chunk"},
        {"\"file_bytes\": 1000010", "\"file_bytes\": 5", "offset of its index"},
        {"\"index_offset\": 5003", "\"index_offset\": -3", "index_offset"},
        {"\"id\": \"2\"", "\"id\": \"2}\"", "is not a value of JSON"},
        {"\"id\": \"2\"", "\"id\": \"\"", "is not a value of JSON"},
        {"\"line\": 2", "\"line\": 5", "line"},
        {"\"line\": 2", "\"line\": -2", "line"},
        {"-9223372036854775808", "-9223372036854775809", "not a whole number of 64 bits"},
        {"\"9007199254740993\"", "9007199254740994", "sequence_id"},
        {"\"first_token\": 15", "\"first_token\": 14", "first_token: 15 was expected"},
        {"\"n_tokens\": 5", "\"n_tokens\": 6", "first_token: 21 was expected"},
        {"\"n_prompt\": 5", "\"n_prompt\": 6", "n_prompt"},
        {"\"first_text_byte\": 20", "\"first_text_byte\": 19", "first_text_byte"},
        {"\"prompt_text_bytes\": 14", "\"prompt_text_bytes\": 9007199254740992", "/text has no"},
        {"\"text_bytes\": 6", "\"text_bytes\": 9007199254740992", "/text has no"},
        {"\"logprobs_per_token\": 3", "\"logprobs_per_token\": 22", "logprobs_per_token"},
        {"\"logprobs_per_token\": 3", "\"logprobs_per_token\": 4", "/logprobs has no"},
        {"\"last_logits_row\": 1", "\"last_logits_row\": 0", "last_logits_row"},
        {"\"last_logits_row\": 1", "\"last_logits_row\": 9007199254740992", "last_logits_row"},
        {"\"last_logits_row\": 1", "\"last_logits_row\": -1", "/last_logits: 100 elements belong to nothing"},
        {"[8, 6, 10]", "[9, 6, 10]", "extents: item 1"},
        {"[8, 6, 10]", "[8, 8, 10]", "extents: item 1"},
        {"[8, 6, 10]", "[8, 0, 10]", "extents: item 1"},
        {"[8, 6, 10]", "[8, 6, 25]", "extents: item 1"},
        {"[8, 6, 10]", "[8, 6, -1]", "extents: item 1"},
        {"[8, 6, 10]", "[8, 6]", "extents: item 1"},
        {"[8, 6, 10]", "\"x\"", "extents: item 1"},
        {"\"top_p\": 0.90000000000000002", "\"top_p\": 2", "top_p"},
        {"\"repetition_penalty\": 1.1000000000000001", "\"repetition_penalty\": 0",
         "sequences[0].sampling: "},
        {"\"seed\": 9007199254740992", "\"seed\": \"x\"", "seed"},
        {"\"seed\": 9007199254740992", "\"seed\": \"9223372036854775807\"", "seed"},
        {"\"stop\": []", "\"stop\": [1]", "not an array of texts"},
        {"\"stop\": []", "\"stop\": {}", "an array was expected"},
        {"\"stop\": []",
         "\"stop\": [\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]",
         "more than 16 texts"},
        {"\"finish_reason\": \"stop\"", "\"finish_reason\": \"halt\"", "finish_reason"},
        {"\"inexact\": \"kvarve:small:3+base, base\"", "\"inexact\": \"\"", "inexact"},
        {"\"exact_tokens\": 7", "\"exact_tokens\": -1", "exact_tokens"},
        {"\"inexact\": \"kvarve:small:3+base, base\"", "\"inexact\": \"a\\nb\"", "inexact"},
        {"\"segments\": [", "\"segments\": 0, \"more\": [", "segments: an array was expected"},
        {"\"sequences\": [", "\"sequences\": [0, ", "sequences[0]"},
        {"\"model\": {", "\"model\": 0, \"more\": {", "model"},
        {"\"origin\": {", "\"origin\": {\"host\": \"\", ", "occurs twice"},
        {"}\n", "", "not valid JSON"},
    };
    manifest m = make_full();
    CHECK_OK(parse_changed(&m, "", ""));
    CHECK_OK(parse_changed(&m, "\"page_tokens\"", "\"later\": [1], \"page_tokens\""));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        if (!CHECK_REFUSED(parse_changed(&m, changes[i].from, changes[i].to), changes[i].part))
            printf("change %zu: %s\n", i, changes[i].to);
    manifest_free(&m);
}

static void test_changed_coding(void) {
    static const struct {
        kv_codec codec;
        int level;
    } levels[] = {{KV_CODEC_CACHEGEN, 0}, {KV_CODEC_CACHEGEN, 5}, {KV_CODEC_FAST, -37}, {KV_CODEC_SMALL, 25}};
    manifest m = make_full();
    segment_info *s = &m.segments[1];
    s->codec = KV_CODEC_CACHEGEN;
    s->level = 4;
    s->tables_digest = 0xabc;
    CHECK_OK(parse_changed(&m, "", ""));
    CHECK_REFUSED(parse_changed(&m, "0000000000000abc", "0000000000000000"), "tables_digest");
    CHECK_REFUSED(parse_changed(&m, "0000000000000abc", "abc"), "tables_digest");
    s->has_base = true;
    s->bases_offset = 100;
    CHECK_REFUSED(parse_changed(&m, "", ""), "no level 4 with a base");
    s->codec = KV_CODEC_FAST;
    CHECK_OK(parse_changed(&m, "", ""));
    CHECK_REFUSED(parse_changed(&m, "\"bases_offset\": 100", "\"bases_offset\": 0"), "bases_offset");
    CHECK_REFUSED(parse_changed(&m, "\"bases_offset\": 100", "\"bases_offset\": 1000000"), "its bases");
    s->has_base = false;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        s->codec = levels[i].codec;
        s->level = levels[i].level;
        CHECK_REFUSED(parse_changed(&m, "", ""), "has no level");
    }
    manifest_free(&m);
}

static void test_changed_arrays(void) {
    manifest m = make_full();
    m.sequences[0].tokens[3] = -1;
    CHECK_REFUSED(parse_changed(&m, "", ""), "token 3 is -1, which is not in the vocabulary");
    m.sequences[0].tokens[3] = 100;
    CHECK_REFUSED(parse_changed(&m, "", ""), "token 3 is 100, which is not in the vocabulary");
    m.sequences[0].tokens[3] = 99;
    m.sequences[0].logprobs[5].token = 100;
    CHECK_REFUSED(parse_changed(&m, "", ""), "entry 5 is of token 100");
    m.sequences[0].logprobs[5].token = -2;
    CHECK_REFUSED(parse_changed(&m, "", ""), "entry 5 is of token -2");
    m.sequences[0].logprobs[5].token = 5;
    CHECK_REFUSED(
        parse_changed(&m,
                      "\"first_text_byte\": 0,\n      \"prompt_text_bytes\": 14,\n      \"text_bytes\": 6",
                      "\"first_text_byte\": 0,\n      \"prompt_text_bytes\": 14,\n      \"text_bytes\": 5"),
        "first_text_byte: 19 was expected");
    const int64_t text_offset = 26 * 4; /* behind the tokens */
    char from[80];
    snprintf(from, sizeof from, "\"file_offset\": %d,", (int)text_offset);
    m.sequences[0].tokens[3] = 0xFF; /* a text of its bytes is none */
    m.vocab_size = 0x100;
    CHECK_REFUSED(parse_changed(&m, from, "\"file_offset\": 0,"), "a text that is not UTF-8");
    CHECK_REFUSED(parse_changed(&m, "\"file_offset\": 196,", "\"file_offset\": 0,"), "/batch/is_done[");
    manifest_free(&m);
}

/* What cannot be read again is not written. */
static void test_bad_manifest(void) {
    const char *dir = harness_fresh_dir();
    manifest m = make_full();
    m.segments[2].n_rows = 3;
    CU_ASSERT_EQUAL(manifest_write(dir, &m), STATUS_FAILED);
    CU_ASSERT(strstr(status_text(), "no segment has all of rows 10 to 15") != NULL);
    CU_ASSERT_EQUAL(count_files(dir), 0);
    manifest_free(&m);
}

/* ---- segments that are needed, and files that are not ---- */

static void test_drop_unused(void) {
    manifest m = make_base(2, 100);
    m.n_segments = 10;
    m.segments = mem_new(10, sizeof *m.segments);
    for (int i = 0; i < 10; i++)
        m.segments[i] = make_segment(&m, 0, 2, 10 * i, 10, 1);
    m.n_sequences = 2;
    m.sequences = mem_new(2, sizeof *m.sequences);
    m.sequences[0] = make_sequence(&m, 0, 30, 0);
    m.sequences[1] = make_sequence(&m, 1, 30, 0);
    add_extents(&m.sequences[0], 2, (manifest_extent[]){{0, 11, 19}, {11, 1, 99}}); /* 1, 2, 9 */
    add_extents(&m.sequences[1], 2, (manifest_extent[]){{0, 10, 40}, {10, 5, 25}}); /* 4, 2 */
    manifest_drop_unused(&m);
    static const int kept[] = {1, 2, 4, 9};
    CU_ASSERT_EQUAL(m.n_segments, 4);
    for (int i = 0; i < 4 && i < m.n_segments; i++)
        CU_ASSERT_EQUAL(m.segments[i].row0, 10 * kept[i]);
    CHECK_OK(manifest_check_rows(&m, "here"));
    m.sequences[0].n_extents = m.sequences[1].n_extents = 0;
    manifest_drop_unused(&m);
    CU_ASSERT_EQUAL(m.n_segments, 0);
    manifest_free(&m);
}

static void test_remove_unnamed(void) {
    static const char *const kept[] = {"lock",
                                       "manifest.h5",
                                       "L000-003.T00000000-00000010.S0001.h5",
                                       "notes.txt",
                                       "L000-003.h5",
                                       ".L000-003.tmp",
                                       ".hidden.tmp",
                                       "xL000-003.T00000000-00000010.S0009.h5",
                                       "L000-003.T00000000-00000010.S0009.h5.bak",
                                       ".L000-003.T00000000-00000010.S0009.h5.bak",
                                       "L000-003.T00000000-00000010.S9.h5"};
    static const char *const removed[] = {
        "L000-003.T00000000-00000010.S0002.h5", ".L000-003.T00000000-00000010.S0001.h5.tmp",
        ".L000-003.T00000000-00000010.S0007.h5.tmp", ".manifest.h5.tmp", ".manifest.h5.old"};
    const char *dir = harness_fresh_dir();
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        harness_write_file(path_of(dir, kept[i]), "", 0);
    for (size_t i = 0; i < sizeof removed / sizeof *removed; i++)
        harness_write_file(path_of(dir, removed[i]), "", 0);
    CU_ASSERT(mkdir(path_of(dir, "L000-003.T00000000-00000099.S0002.h5"), 0777) == 0);
    manifest m = make_full();
    manifest_remove_unnamed_files(dir, &m);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        CU_ASSERT(access(path_of(dir, kept[i]), F_OK) == 0);
    CU_ASSERT_EQUAL(count_files(dir), sizeof kept / sizeof *kept + 1);
    manifest_remove_unnamed_files(dir, NULL);
    CU_ASSERT(access(path_of(dir, kept[2]), F_OK) != 0);
    CU_ASSERT_EQUAL(count_files(dir), sizeof kept / sizeof *kept);
    manifest_remove_unnamed_files(path_of(dir, "missing"), NULL);
    manifest_free(&m);
}

/* ---- writing that fails ---- */

static void check_kept(const char *dir, const manifest *m, const char *part) {
    manifest other = make_full(), got = {0};
    other.save_number = 4;
    CU_ASSERT_EQUAL(manifest_write(dir, &other), STATUS_FAILED);
    CU_ASSERT(strstr(status_text(), part) != NULL);
    if (!strstr(status_text(), part)) printf("expected \"%s\": %s\n", part, status_text());
    if (CHECK_OK(manifest_read(dir, &got))) check_same(m, &got);
    CU_ASSERT_EQUAL(count_files(dir), 1);
    manifest_free(&got);
    manifest_free(&other);
}

/* Failures on demand: at every step the old one stays, or none. */
static void test_faults(void) {
    static const char *const sites[] = {"manifest-create", "manifest-write", "manifest-flush",
                                        "manifest-rename", "manifest-directory-flush"};
    manifest m = make_full();
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        const char *dir = harness_fresh_dir();
        CHECK_OK(fault_arm(sites[i], 0));
        CU_ASSERT_EQUAL(manifest_write(dir, &m), STATUS_FAILED);
        CU_ASSERT_EQUAL(count_files(dir), 0);
        CHECK_OK(manifest_write(dir, &m));
        CHECK_OK(fault_arm(sites[i], 0));
        check_kept(dir, &m, "failed on demand");
    }
    CHECK_OK(fault_arm(NULL, 0));
    manifest_free(&m);
}

static void test_file_limit(void) {
    const char *dir = harness_fresh_dir();
    manifest m;
    write_small(dir, &m);
    struct rlimit old;
    CU_ASSERT(getrlimit(RLIMIT_FSIZE, &old) == 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < 6000; limit += 1999) {
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = limit, .rlim_max = old.rlim_max});
        check_kept(dir, &m, "File too large");
        setrlimit(RLIMIT_FSIZE, &old);
    }
    signal(SIGXFSZ, handler);
    CHECK_OK(manifest_write(dir, &m));
    manifest_free(&m);
}

/* A small file system of this thread's own, where it may have one. */
static bool mount_small(const char *dir, unsigned long flags, const char *options) {
    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("kvarve-test", dir, "tmpfs", flags, options) == 0)
        return true;
    harness_skip("no file system can be mounted here: %s", strerror(errno));
    return false;
}

static void test_full_disk(void) {
    const char *dir = harness_fresh_dir();
    if (!mount_small(dir, 0, "size=64k")) return;
    manifest m;
    write_small(dir, &m);
    struct stat info;
    CU_ASSERT(stat(path_of(dir, "manifest.h5"), &info) == 0);
    char filler[1024] = "";
    FILE *f = fopen(path_of(dir, "lock"), "wb");
    if (f) {
        setvbuf(f, NULL, _IONBF, 0);
        while (fwrite(filler, 1, sizeof filler, f) == sizeof filler)
            continue;
        fclose(f);
    }
    manifest got = {0};
    CU_ASSERT_EQUAL(manifest_write(dir, &m), STATUS_FAILED);
    CU_ASSERT(strstr(status_text(), "No space left on device") != NULL);
    if (CHECK_OK(manifest_read(dir, &got))) check_same(&m, &got);
    manifest_free(&got);
    CU_ASSERT_EQUAL(count_files(dir), 2);
    umount2(dir, MNT_DETACH);
    manifest_free(&m);
}

static void test_read_only(void) {
    const char *dir = harness_fresh_dir();
    manifest m;
    write_small(dir, &m);
    if (geteuid() == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount(dir, dir, NULL, MS_BIND, NULL) != 0 ||
            mount(NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) != 0)
            harness_skip("no file system can be mounted here: %s", strerror(errno));
        else
            check_kept(dir, &m, "Read-only file system");
        umount2(dir, MNT_DETACH);
    } else {
        CU_ASSERT(chmod(dir, 0555) == 0);
        check_kept(dir, &m, "Permission denied");
        CU_ASSERT(chmod(dir, 0755) == 0);
    }
    manifest_free(&m);
}

/* ---- speed: far from what would be felt, also with sanitizers and a busy machine ---- */

static void test_many_sequences(void) {
    enum { N = 10000 };
    manifest m = make_base(32, N * 10), got;
    m.n_segments = 500;
    m.segments = mem_new(500, sizeof *m.segments);
    for (int i = 0; i < 500; i++)
        m.segments[i] = make_segment(&m, 0, 32, i * (N / 50), N / 50, 1);
    m.n_sequences = N;
    m.sequences = mem_new(N, sizeof *m.sequences);
    for (int i = 0; i < N; i++) {
        m.sequences[i] = make_sequence(&m, -1, 10, 5);
        add_extents(&m.sequences[i], 1, (manifest_extent[]){{0, 10, 10 * i}});
    }
    const char *dir = harness_fresh_dir();
    double start = clock_seconds();
    CHECK_OK(manifest_write(dir, &m));
    double written = clock_seconds();
    bool good = CHECK_OK(manifest_read(dir, &got));
    double end = clock_seconds();
    printf("%d sequences, 500 segments, 32 layers: written in %.3f s, read in %.3f s\n", N, written - start,
           end - written);
    CU_ASSERT(written - start < 20 && end - written < 20);
    if (good) manifest_free(&got);
    manifest_free(&m);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"there and back", test_round_trips},
        {"no texts", test_no_texts},
        {"formats", test_formats},
        {"digests as text", test_digest_text},
        {"a bit flipped in every byte", test_flipped_bits},
        {"truncated at every length", test_truncated},
        {"other files in its place", test_other_files},
        {"a text that lies", test_changed_text},
        {"codings that lie", test_changed_coding},
        {"arrays that lie", test_changed_arrays},
        {"what cannot be read is not written", test_bad_manifest},
        {"segments that nobody needs", test_drop_unused},
        {"files that nobody names", test_remove_unnamed},
        {"failures on demand", test_faults},
        {"a limit on the file's size", test_file_limit},
        {"a full disk", test_full_disk},
        {"a directory that is read-only", test_read_only},
        {"many sequences", test_many_sequences},
        CU_TEST_INFO_NULL,
    };
    h5_lock(); /* HDF5 loses all ways to convert numbers: it is never asked to */
    H5Tunregister(H5T_PERS_DONTCARE, NULL, -1, -1, NULL);
    h5_unlock();
    return harness_run(&argc, &argv, "manifest", tests);
}
