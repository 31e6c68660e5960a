/* tests/io/test_manifest.c: manifests there and back, and every way in which what is read can be wrong. */
#define _GNU_SOURCE /* unshare */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/h5.h"
#include "io/snapshot/manifest.h"
#include "io/snapshot/manifest_private.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/manifest_samples.h"

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
        {"many sequences", test_many_sequences},
        CU_TEST_INFO_NULL,
    };
    h5_lock(); /* HDF5 loses all ways to convert numbers: it is never asked to */
    H5Tunregister(H5T_PERS_DONTCARE, NULL, -1, -1, NULL);
    h5_unlock();
    return harness_run(&argc, &argv, "manifest", tests);
}
