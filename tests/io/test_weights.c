/* tests/io/test_weights.c: safetensors files that are good, and every way in which they can lie. */
#define _GNU_SOURCE /* for directory.h */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/weights/weights.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"

static void write_file(const char *dir, const char *file, const char *header, const void *data, size_t n) {
    size_t n_header = strlen(header);
    char *bytes = mem_new(8 + n_header + n, 1);
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(n_header >> 8 * i);
    memcpy(bytes + 8, header, n_header);
    if (n) memcpy(bytes + 8 + n_header, data, n);
    harness_write_file(path_of(dir, file), bytes, 8 + n_header + n);
    free(bytes);
}

static void write_text(const char *dir, const char *file, const char *text) {
    harness_write_file(path_of(dir, file), text, strlen(text));
}

/* The status of opening, with the handle closed again. */
static status try_open(const char *dir) {
    weights *w = NULL;
    status st = weights_open(dir, &w);
    CU_ASSERT((w != NULL) == (st == STATUS_OK));
    weights_close(w);
    return st;
}

/* ---- good files ---- */

static const char good_header[] =
    "{\"__metadata__\": {\"format\": \"pt\"}, "
    "\"b.f16\": {\"dtype\": \"F16\", \"shape\": [4], \"data_offsets\": [24, 32]}, "
    "\"a.bf16\": {\"dtype\": \"BF16\", \"shape\": [2, 3], \"data_offsets\": [0, 12]}, "
    "\"c.f32\": {\"dtype\": \"F32\", \"shape\": [3, 1], \"data_offsets\": [12, 24]}, "
    "\"steps\": {\"dtype\": \"I64\", \"shape\": [1, 1, 1, 1], \"data_offsets\": [32, 40]}, "
    "\"none\": {\"dtype\": \"F32\", \"shape\": [0, 5], \"data_offsets\": [40, 40]}}  ";

static void test_one_file(void) {
    unsigned char data[40];
    for (int i = 0; i < 40; i++)
        data[i] = (unsigned char)(i + 1);
    const char *dir = harness_fresh_dir();
    write_file(dir, "model.safetensors", good_header, data, sizeof data);
    weights *w = NULL;
    if (!CHECK_OK(weights_open(dir, &w))) return;

    static const char *const in_order[] = {"a.bf16", "c.f32", "b.f16", "none"};
    CU_ASSERT_EQUAL(weights_count(w), 4);
    for (size_t i = 0; i < 4; i++)
        CU_ASSERT_STRING_EQUAL(weights_at(w, i)->name, in_order[i]);
    const tensor *t = weights_find(w, "a.bf16");
    CU_ASSERT(t && t->type == DTYPE_BF16 && t->n_dims == 2 && t->shape[0] == 2 && t->shape[1] == 3);
    CU_ASSERT(t && t->file == 0 && t->n_bytes == 12 && t->offset == 8 + sizeof good_header - 1);
    CU_ASSERT_PTR_NULL(weights_find(w, "steps"));
    CU_ASSERT_PTR_NULL(weights_find(w, "a"));
    CU_ASSERT_PTR_NULL(weights_find(w, ""));

    const tensor *found = NULL;
    CHECK_OK(weights_expect(w, "b.f16", 4, 0, &found));
    CU_ASSERT_PTR_EQUAL(found, weights_find(w, "b.f16"));
    CHECK_OK(weights_expect(w, "a.bf16", 2, 3, &found));
    CHECK_REFUSED(weights_expect(w, "a.bf16", 3, 2, &found),
                  "tensor \"a.bf16\" has shape [2, 3], but [3, 2] is expected");
    CHECK_REFUSED(weights_expect(w, "a.bf16", 6, 0, &found), "has shape [2, 3], but [6] is expected");
    CHECK_REFUSED(weights_expect(w, "a.bf16", 2, 0, &found), "has shape [2, 3], but [2] is expected");
    CHECK_REFUSED(weights_expect(w, "b.f16", 4, 1, &found), "has shape [4], but [4, 1] is expected");
    CHECK_REFUSED(weights_expect(w, "gone", 4, 0, &found), "tensor \"gone\" is missing");
    CHECK_REFUSED(weights_expect(w, "steps", 1, 0, &found), "tensor \"steps\" is of dtype I64");

    uint32_t f32[3];
    CHECK_OK(weights_read(w, weights_find(w, "c.f32"), 0, 3, f32));
    CU_ASSERT(memcmp(f32, data + 12, 12) == 0);
    CU_ASSERT_EQUAL(weights_bytes_read(w), 12);
    uint16_t f16[3];
    CHECK_OK(weights_read(w, weights_find(w, "b.f16"), 1, 2, f16));
    CU_ASSERT(memcmp(f16, data + 26, 4) == 0);
    CHECK_OK(weights_read(w, weights_find(w, "a.bf16"), 3, 3, f16));
    CU_ASSERT(memcmp(f16, data + 6, 6) == 0);
    CU_ASSERT_EQUAL(weights_bytes_read(w), 12 + 4 + 6);
    CHECK_OK(weights_read(w, weights_find(w, "none"), 0, 0, f16));
    CU_ASSERT_EQUAL(weights_bytes_read(w), 12 + 4 + 6);
    weights_close(w);
    weights_close(NULL);
}

static const char shard1[] = "{\"x\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}, "
                             "\"extra\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [8, 12]}, "
                             "\"y\": {\"dtype\": \"BF16\", \"shape\": [2, 1], \"data_offsets\": [12, 16]}}";
static const char shard2[] = "{\"z\": {\"dtype\": \"F16\", \"shape\": [2], \"data_offsets\": [4, 8]}, "
                             "\"y\": {\"dtype\": \"F16\", \"shape\": [2, 1], \"data_offsets\": [0, 4]}}";

/* Two shards, written in `dir` with this index. */
static void write_shards(const char *dir, const char *index) {
    unsigned char data[16];
    for (int i = 0; i < 16; i++)
        data[i] = (unsigned char)(i + 1);
    write_file(dir, "m-1.safetensors", shard1, data, 16);
    write_file(dir, "m-2.safetensors", shard2, data, 8);
    write_text(dir, "model.safetensors.index.json", index);
}

/* As transformers reads them: the tensors of all shards that the index names, also those that it does not,
 * and of one that two shards have the last. */
static void test_shards(void) {
    const char *dir = harness_fresh_dir();
    write_shards(dir, "{\"metadata\": {\"total_size\": 16}, \"weight_map\": {\"z\": \"m-2.safetensors\", "
                      "\"x\": \"m-1.safetensors\", \"y\": \"m-2.safetensors\"}}");
    weights *w = NULL;
    if (!CHECK_OK(weights_open(dir, &w))) return;
    static const char *const in_order[] = {"x", "extra", "y", "z"};
    CU_ASSERT_EQUAL_FATAL(weights_count(w), 4);
    for (size_t i = 0; i < 4; i++)
        CU_ASSERT_STRING_EQUAL(weights_at(w, i)->name, in_order[i]);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(notice_text(notice_count() - 1), "/m-1.safetensors: tensor \"y\" is in this file too"));
    const tensor *y = weights_find(w, "y");
    CU_ASSERT(y && y->file == 1 && y->type == DTYPE_F16);
    unsigned char got[4];
    uint16_t values[2];
    CHECK_OK(weights_read(w, y, 0, 2, values));
    memcpy(got, values, 4);
    CU_ASSERT(got[0] == 1 && got[3] == 4);
    weights_close(w);
}

/* What the index says and is not so is refused when it is needed, and only then. */
static void test_missing_tensors(void) {
    const char *dir = harness_fresh_dir();
    write_shards(dir, "{\"weight_map\": {\"x\": \"m-2.safetensors\", \"gone\": \"m-1.safetensors\", "
                      "\"lost\": \"m-3.safetensors\", \"z\": \"m-2.safetensors\"}}");
    weights *w = NULL;
    if (!CHECK_OK(weights_open(dir, &w))) return;
    const tensor *t = NULL;
    CHECK_OK(weights_expect(w, "x", 2, 0, &t)); /* in m-1 */
    CHECK_OK(weights_expect(w, "z", 2, 0, &t));
    CU_ASSERT_PTR_NULL(weights_find(w, "gone"));
    CHECK_REFUSED(weights_expect(w, "gone", 2, 0, &t),
                  "/m-1.safetensors: tensor \"gone\" is not in this file");
    CHECK_REFUSED(weights_expect(w, "lost", 2, 0, &t), "/m-3.safetensors: this file of the model is missing");
    CU_ASSERT_EQUAL(weights_n_names(w), 4);
    CU_ASSERT_STRING_EQUAL(weights_name(w, 0), "extra");
    weights_close(w);

    int n = notice_count(); /* a file of its own beside them */
    write_file(dir, "model.safetensors", shard2, "12345678", 8);
    if (!CHECK_OK(weights_open(dir, &w))) return;
    CU_ASSERT_PTR_NULL(weights_find(w, "x"));
    CU_ASSERT(notice_count() == n + 1 && strstr(notice_text(n), "model.safetensors is read"));
    weights_close(w);
}

/* The same tensors in one file and in three: the same bytes. */
static void test_shards_equal_one_file(void) {
    enum { N = 9, ROWS = 7, COLS = 33, BYTES = ROWS * COLS * 4 };
    static const dtype types[N] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16,  DTYPE_F32, DTYPE_F32,
                                   DTYPE_F16, DTYPE_BF16, DTYPE_BF16, DTYPE_F16};
    static const char *const names[] = {[DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16"};
    uint64_t random = 3;
    unsigned char *data = mem_new(N * BYTES, 1);
    for (int i = 0; i < N * BYTES; i++)
        data[i] = (unsigned char)(harness_random(&random) & 0x3F); /* no exponent of all ones */
    char dirs[2][200];
    for (int n_shards = 1; n_shards <= 3; n_shards += 2) {
        char *dir = dirs[n_shards / 2];
        strcpy(dir, harness_fresh_dir());
        text_buffer index = {0};
        text_append(&index, "{\"weight_map\": {", 16);
        for (int s = 0; s < n_shards; s++) {
            text_buffer header = {0}, body = {0};
            char line[200], file[40];
            snprintf(file, sizeof file, n_shards == 1 ? "model.safetensors" : "part-%d.safetensors", s);
            for (int i = s; i < N; i += n_shards) {
                size_t n = ROWS * COLS * dtype_bytes(types[i]);
                int used = snprintf(
                    line, sizeof line,
                    "%c\"t%d\": {\"dtype\": \"%s\", \"shape\": [%d, %d], \"data_offsets\": [%zu, %zu]}",
                    i == s ? '{' : ',', i, names[types[i]], ROWS, COLS, body.n, body.n + n);
                text_append(&header, line, (size_t)used);
                text_append(&body, (char *)data + i * BYTES, n);
                used = snprintf(line, sizeof line, "%s\"t%d\": \"%s\"", index.n > 16 ? "," : "", i, file);
                text_append(&index, line, (size_t)used);
            }
            text_append(&header, "}", 1);
            write_file(dir, file, header.data, body.data, body.n);
            free(header.data);
            free(body.data);
        }
        text_append(&index, "}}", 2);
        if (n_shards > 1) write_text(dir, "model.safetensors.index.json", index.data);
        free(index.data);
    }
    for (int d = 0; d < 2; d++) {
        weights *w = NULL;
        if (!CHECK_OK(weights_open(dirs[d], &w))) continue;
        uint64_t total = 0;
        uint32_t *got = mem_new(BYTES, 1);
        for (int i = 0; i < N; i++) {
            char name[8];
            snprintf(name, sizeof name, "t%d", i);
            const tensor *t = NULL;
            CHECK_OK(weights_expect(w, name, ROWS, COLS, &t));
            if (!t) continue;
            CU_ASSERT_EQUAL(t->type, types[i]);
            CHECK_OK(weights_read(w, t, 0, ROWS * COLS, got));
            CU_ASSERT(memcmp(got, data + i * BYTES, t->n_bytes) == 0);
            total += t->n_bytes;
        }
        CU_ASSERT_EQUAL(weights_bytes_read(w), total);
        free(got);
        weights_close(w);
    }
    free(data);
}

static void test_demo_model(void) {
    char dir[300];
    const char *shared = harness_shared_dir();
    snprintf(dir, sizeof dir, "%s/model", shared ? shared : "");
    if (!shared || access(dir, R_OK) != 0) {
        harness_skip("the demo model is not beside the repository");
        return;
    }
    weights *w = NULL;
    if (!CHECK_OK(weights_open(dir, &w))) return;
    const tensor *t = NULL;
    CHECK_OK(weights_expect(w, "model.embed_tokens.weight", 4096, 256, &t));
    CHECK_OK(weights_expect(w, "model.layers.7.mlp.down_proj.weight", 256, 704, &t));
    uint64_t total = 0;
    uint16_t *data = mem_new((size_t)4096 * 256, sizeof *data);
    for (size_t i = 0; i < weights_count(w); i++) {
        t = weights_at(w, i);
        CU_ASSERT_EQUAL(t->type, DTYPE_BF16);
        CHECK_OK(weights_read(w, t, 0, (int64_t)(t->n_bytes / 2), data));
        total += t->n_bytes;
    }
    CU_ASSERT_EQUAL(weights_bytes_read(w), total);
    free(data);
    weights_close(w);
}

/* ---- lies ---- */

/* Headers over 16 bytes of data; each text must name the file and the part. */
static void test_lying_headers(void) {
#define ENTRY(dtype, shape, begin, end)                                                                      \
    "{\"dtype\": \"" dtype "\", \"shape\": " shape ", \"data_offsets\": [" begin ", " end "]}"
    static const struct {
        const char *header, *part;
    } cases[] = {
        {"{\"w\": " ENTRY("F32", "[5]", "0", "20") "}",
         "tensor \"w\": data_offsets: it ends at byte 20 of the data, but "
         "the file holds only 16"},
        {"{\"w\": " ENTRY("F32", "[4]", "0", "9007199254740992") "}", "tensor \"w\": data_offsets: it ends"},
        {"{\"w\": " ENTRY("F32", "[4]", "0", "9007199254740994") "}",
         "tensor \"w\": data_offsets: [begin, end]"},
        {"{\"w\": " ENTRY("F32", "[4]", "0", "1e400") "}", "tensor \"w\": data_offsets: [begin, end]"},
        {"{\"w\": " ENTRY("F32", "[4]", "16", "0") "}", "tensor \"w\": data_offsets: [begin, end]"},
        {"{\"w\": " ENTRY("F32", "[4]", "-16", "0") "}", "tensor \"w\": data_offsets: [begin, end]"},
        {"{\"w\": " ENTRY("F32", "[4]", "0", "15.5") "}", "tensor \"w\": data_offsets: [begin, end]"},
        {"{\"w\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [16]}}",
         "tensor \"w\": data_offsets: [begin"},
        {"{\"w\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": 16}}",
         "tensor \"w\": data_offsets: [begin"},
        {"{\"w\": {\"dtype\": \"F32\", \"shape\": [4]}}", "tensor \"w\": data_offsets: [begin"},
        {"{\"w\": {\"dtype\": \"F32\", \"data_offsets\": [0, 16]}}", "tensor \"w\": shape: an array"},
        {"{\"w\": {\"shape\": [4], \"data_offsets\": [0, 16]}}", "tensor \"w\": dtype: a text was expected"},
        {"{\"w\": " ENTRY("F32", "[3]", "0", "16") "}",
         "tensor \"w\": data_offsets: [0, 16] are 16 bytes, but dtype and "
         "shape need 12"},
        {"{\"w\": " ENTRY("BF16", "[4]", "0", "16") "}",
         "tensor \"w\": data_offsets: [0, 16] are 16 bytes, but dtype "
         "and shape need 8"},
        {"{\"w\": " ENTRY("F32", "[-4]", "0", "16") "}", "tensor \"w\": shape: dimension 1"},
        {"{\"w\": " ENTRY("F32", "[2, 1.5]", "0", "16") "}", "tensor \"w\": shape: dimension 2"},
        {"{\"w\": " ENTRY("F32", "[\"4\"]", "0", "16") "}", "tensor \"w\": shape: dimension 1"},
        {"{\"w\": " ENTRY("F32", "4", "0", "16") "}", "tensor \"w\": shape: an array"},
        {"{\"w\": " ENTRY("F32", "[1, 1, 1, 2, 2]", "0", "16") "}",
         "tensor \"w\": shape: more than 4 dimensions"},
        {"{\"w\": " ENTRY("F32", "[4294967296, 4294967296]", "0", "16") "}",
         "tensor \"w\": shape: the product of the dimensions overflows"},
        /* 2^62 elements of 4 bytes are 0 modulo 2^64 */
        {"{\"w\": " ENTRY("F32", "[2147483648, 2147483648]", "0", "0") "}",
         "tensor \"w\": shape: the number of bytes overflows"},
        {"{\"w\": " ENTRY("F4", "[3]", "0", "1") "}",
         "tensor \"w\": shape: the elements do not fill whole bytes"},
        {"{\"w\": " ENTRY("F99", "[4]", "0", "16") "}", "tensor \"w\": dtype: \"F99\" is not a dtype"},
        {"{\"w\": " ENTRY("f32", "[4]", "0", "16") "}", "tensor \"w\": dtype: \"f32\" is not a dtype"},
        {"{\"w\": {\"dtype\": 32, \"shape\": [4], \"data_offsets\": [0, 16]}}",
         "tensor \"w\": dtype: a text"},
        {"{\"w\": [0, 16]}", "tensor \"w\": an object"},
        {"{\"w\": {\"dtype\": \"F32\", \"dtype\": \"F16\", \"shape\": [4], \"data_offsets\": [0, 16]}}",
         "tensor \"w\": the key \"dtype\" occurs twice"},
        {"{\"v\": " ENTRY("F32", "[2]", "0", "8") ", \"w\": " ENTRY(
             "F32", "[2]", "8", "16") ", \"v\": " ENTRY("F32", "[2]", "0", "8") "}",
         "header: the key \"v\" occurs twice"},
        {"{\"v\": " ENTRY("F32", "[3]", "0", "12") ", \"w\": " ENTRY("F32", "[2]", "8", "16") "}",
         "tensors \"v\" and \"w\" overlap"},
        {"{\"v\": " ENTRY("F32", "[4]", "0", "16") ", \"w\": " ENTRY("F32", "[4]", "0", "16") "}", "overlap"},
        {"{\"v\": " ENTRY("F32", "[1]", "0", "4") ", \"w\": " ENTRY("F32", "[2]", "8", "16") "}",
         "4 bytes before tensor \"w\" belong to no tensor"},
        {"{\"v\": " ENTRY("F32", "[3]", "0", "12") "}", "4 bytes at its end belong to no tensor"},
        {"{}", "16 bytes at its end belong to no tensor"},
        {"{\"__metadata__\": 1, \"w\": " ENTRY("F32", "[4]", "0", "16") "}", "__metadata__"},
        {"{\"a\\nb\": " ENTRY("F32", "[4]", "0", "16") "}", "header: a?b: a name with control characters"},
        {"{\"a\\nb\": 1, \"a\\nb\": 2}", "header: the key \"a?b\" occurs twice"},
        {"[]", "header: an object"},
        {"{\"w\"", "header: not valid JSON"},
        {"{} x", "header: not valid JSON: more text"},
    };
#undef ENTRY
    static const char data[16];
    const char *dir = harness_fresh_dir();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(dir, "model.safetensors", cases[i].header, data, sizeof data);
        CHECK_REFUSED(try_open(dir), cases[i].part);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_text(), "/model.safetensors: "));
        CU_ASSERT_PTR_NULL(strchr(status_text(), '\n'));
    }

    enum { DEPTH = 300000 };
    char *deep = mem_new(DEPTH + 6, 1);
    memcpy(deep, "{\"w\":", 5);
    memset(deep + 5, '[', DEPTH);
    write_file(dir, "model.safetensors", deep, data, sizeof data);
    free(deep);
    CHECK_REFUSED(try_open(dir), "model.safetensors: header: too deeply nested JSON");
}

static void test_broken_files(void) {
    static const char data[40] = {0};
    const char *dir = harness_fresh_dir();
    CHECK_REFUSED(try_open("/no/such/directory"), "/no/such/directory: no such model directory");
    CHECK_REFUSED(try_open(dir),
                  "model.safetensors, or model.safetensors.index.json with its shards, is missing");

    /* Cut a good file everywhere: within the length, within the header, within the data. */
    write_file(dir, "model.safetensors", good_header, data, sizeof data);
    CHECK_OK(try_open(dir));
    size_t n;
    char *whole = harness_read_file(path_of(dir, "model.safetensors"), &n);
    for (size_t cut = 0; cut < n; cut++) {
        harness_write_file(path_of(dir, "model.safetensors"), whole, cut);
        if (!CHECK_REFUSED(try_open(dir), cut < 10                ? "are too few for a safetensors file"
                                          : cut < n - sizeof data ? "its header is"
                                                                  : "data_offsets: it ends at byte"))
            break;
    }
    for (int i = 0; i < 8; i++)
        whole[i] = (char)0xFF; /* a header of 2^64 - 1 bytes */
    harness_write_file(path_of(dir, "model.safetensors"), whole, n);
    CHECK_REFUSED(try_open(dir), "its header is 18446744073709551615 bytes long, but the file has only");
    free(whole);

    write_text(dir, "model.safetensors",
               "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    CHECK_REFUSED(try_open(dir), "Git LFS pointer");
    unlink(path_of(dir, "model.safetensors"));
    CU_ASSERT(mkdir(path_of(dir, "model.safetensors"), 0777) == 0);
    CHECK_REFUSED(try_open(dir), "not a regular file");
    rmdir(path_of(dir, "model.safetensors"));
    CU_ASSERT(mkfifo(path_of(dir, "model.safetensors"), 0600) == 0);
    CHECK_REFUSED(try_open(dir), "not a regular file");
    unlink(path_of(dir, "model.safetensors"));

    FILE *large = fopen(path_of(dir, "model.safetensors"), "wb"); /* 40 MB of header, most of it a hole */
    fwrite("\0\0\x60\x02\0\0\0\0", 1, 8, large);
    CU_ASSERT(ftruncate(fileno(large), 48 << 20) == 0);
    fclose(large);
    CHECK_REFUSED(try_open(dir), "more than the 33554432 that are accepted");
}

static void test_lying_index(void) {
    static const struct {
        const char *index, *part;
    } cases[] = {
        {"{\"weight_map\": {\"x\": \"../m-1.safetensors\"}}",
         "weight_map.x: \"../m-1.safetensors\" is not a plain name"},
        {"{\"weight_map\": {\"x\": \"/etc/x.safetensors\"}}", "\"/etc/x.safetensors\" is not a plain name"},
        {"{\"weight_map\": {\"x\": \"..\"}}", "\"..\" is not a plain name"},
        {"{\"weight_map\": {\"x\": \"config.json\"}}", "\"config.json\" is not a plain name"},
        {"{\"weight_map\": {\"x\": \".safetensors\"}}", "is not a plain name"},
        {"{\"weight_map\": {\"x\": \"\"}}", "is not a plain name"},
        {"{\"weight_map\": {\"x\": 5}}", "weight_map.x: \"\" is not"},
        {"{\"weight_map\": {\"x\": \"m-1.safetensors\", \"x\": \"m-2.safetensors\"}}",
         "weight_map: the key \"x\" occurs twice"},
        {"{\"weight_map\": {\"x\": \"a\\nb.safetensors\"}}", "weight_map.x: \"a?b.safetensors\" is not"},
        {"{\"weight_map\": {\"x\\ny\": \"m-1.safetensors\"}}", "weight_map.x?y: "},
        {"{\"weight_map\": {}}", "weight_map is empty"},
        {"{\"weight_map\": []}", "weight_map: an object"},
        {"{}", "weight_map: an object"},
        {"[]", "an object"},
        {"{\"weight_map\": {", "not valid JSON"},
        {"", "empty"},
    };
    const char *dir = harness_fresh_dir();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_shards(dir, cases[i].index);
        CHECK_REFUSED(try_open(dir), cases[i].part);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_text(), "/model.safetensors.index.json: "));
    }
    /* A shard that lies is named itself. */
    write_shards(dir, "{\"weight_map\": {\"x\": \"m-1.safetensors\", \"z\": \"m-2.safetensors\"}}");
    CHECK_OK(try_open(dir));
    write_text(dir, "m-2.safetensors", "nonsense, but long enough");
    CHECK_REFUSED(try_open(dir), "/m-2.safetensors: its header is");
}

/* ---- values ---- */

static void test_not_finite(void) {
    enum { N = 5000 };
    static const struct {
        dtype type;
        const char *name;
        uint32_t bad[4], largest[2];
    } kinds[] = {
        {DTYPE_F32, "F32", {0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001}, {0x7F7FFFFF, 0xFF7FFFFF}},
        {DTYPE_BF16, "BF16", {0x7F80, 0xFF80, 0x7FC0, 0xFF81}, {0x7F7F, 0xFF7F}},
        {DTYPE_F16, "F16", {0x7C00, 0xFC00, 0x7E00, 0x7C01}, {0x7BFF, 0xFBFF}},
    };
    const char *dir = harness_fresh_dir();
    for (size_t k = 0; k < 3; k++) {
        size_t step = dtype_bytes(kinds[k].type);
        char header[200];
        snprintf(header, sizeof header,
                 "{\"w\": {\"dtype\": \"%s\", \"shape\": [%d], \"data_offsets\": [0, %zu]}}", kinds[k].name,
                 N, N * step);
        for (size_t b = 0; b < 4; b++) {
            const int places[] = {0, 1234, N - 1};
            for (size_t p = 0; p < 3; p++) {
                unsigned char data[4 * N] = {0};
                uint32_t *got = mem_new(N, 4);
                for (size_t i = 0; i < 2;
                     i++) /* the largest finite values are fine; the machine is little-endian */
                    memcpy(data + (10 + i) * step, &kinds[k].largest[i], step);
                memcpy(data + (size_t)places[p] * step, &kinds[k].bad[b], step);
                write_file(dir, "model.safetensors", header, data, N * step);
                weights *w = NULL;
                CHECK_OK(weights_open(dir, &w));
                const tensor *t = weights_find(w, "w");
                char part[100];
                snprintf(part, sizeof part, "tensor \"w\" has a NaN or an infinity at element %d", places[p]);
                CHECK_REFUSED(weights_read(w, t, 0, N, got), part);
                CHECK_REFUSED(weights_read(w, t, places[p], 1, got), part);
                CHECK_OK(weights_read(w, t, 0, places[p], got));
                CHECK_OK(weights_read(w, t, places[p] + 1, N - 1 - places[p], got));
                weights_close(w);
                free(got);
            }
        }
    }
}

/* A tensor of more than two pieces, a file that shrinks behind our back, and a NaN far behind. */
static void test_large_tensor(void) {
    enum { N = 9 << 20 };
    const char *dir = harness_fresh_dir();
    uint32_t *data = mem_new(N, 4), *got = mem_new(N, 4);
    uint64_t random = 11;
    for (int i = 0; i < N; i++)
        data[i] = (uint32_t)harness_random(&random) & 0xBFFFFFFFu; /* exponents below the largest */
    char header[200];
    snprintf(header, sizeof header,
             "{\"w\": {\"dtype\": \"F32\", \"shape\": [9, %d], \"data_offsets\": [0, %d]}}", N / 9, 4 * N);
    write_file(dir, "model.safetensors", header, data, 4 * (size_t)N);
    weights *w = NULL;
    if (CHECK_OK(weights_open(dir, &w))) {
        const tensor *t = weights_find(w, "w");
        CHECK_OK(weights_read(w, t, 3, N - 5, got));
        CU_ASSERT(memcmp(got, data + 3, 4 * ((size_t)N - 5)) == 0);
        CU_ASSERT_EQUAL(weights_bytes_read(w), 4 * ((uint64_t)N - 5));
        CU_ASSERT(truncate(path_of(dir, "model.safetensors"), 4 * (off_t)N) == 0);
        CHECK_REFUSED(weights_read(w, t, 0, N, got),
                      "/model.safetensors: it became shorter while it was read");
        CHECK_OK(weights_read(w, t, 0, N - 100, got));
        weights_close(w);
    }
    data[8 << 20] = 0x7FC00000;
    write_file(dir, "model.safetensors", header, data, 4 * (size_t)N);
    if (CHECK_OK(weights_open(dir, &w))) {
        CHECK_REFUSED(weights_read(w, weights_find(w, "w"), 1, N - 1, got), "infinity at element 8388608");
        weights_close(w);
    }
    free(data);
    free(got);
    unlink(path_of(dir, "model.safetensors"));
}

/* Names are found among many. */
static void test_many_tensors(void) {
    enum { N = 20000 };
    text_buffer header = {0};
    for (int i = 0; i < N; i++) {
        char line[120];
        int used = snprintf(line, sizeof line,
                            "%c\"t%d\": {\"dtype\": \"BF16\", \"shape\": [1], \"data_offsets\": [%d, %d]}",
                            i ? ',' : '{', i * 7919 % N, 2 * i, 2 * i + 2);
        text_append(&header, line, (size_t)used);
    }
    text_append(&header, "}", 1);
    uint16_t *data = mem_new(N, 2);
    for (int i = 0; i < N; i++)
        data[i] = (uint16_t)i;
    const char *dir = harness_fresh_dir();
    write_file(dir, "model.safetensors", header.data, data, 2 * N);
    free(header.data);
    free(data);
    weights *w = NULL;
    if (!CHECK_OK(weights_open(dir, &w))) return;
    CU_ASSERT_EQUAL(weights_count(w), N);
    int n_right = 0;
    for (int i = 0; i < N; i++) {
        char name[20];
        snprintf(name, sizeof name, "t%d", i * 7919 % N);
        const tensor *t = weights_find(w, name);
        uint16_t value = 0;
        n_right +=
            t && weights_at(w, (size_t)i) == t && weights_read(w, t, 0, 1, &value) == STATUS_OK && value == i;
    }
    CU_ASSERT_EQUAL(n_right, N);
    weights_close(w);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"one file", test_one_file},
                           {"shards", test_shards},
                           {"missing tensors", test_missing_tensors},
                           {"shards equal one file", test_shards_equal_one_file},
                           {"demo model", test_demo_model},
                           {"lying headers", test_lying_headers},
                           {"broken files", test_broken_files},
                           {"lying index", test_lying_index},
                           {"not finite", test_not_finite},
                           {"large tensor", test_large_tensor},
                           {"many tensors", test_many_tensors},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "weights", tests);
}
