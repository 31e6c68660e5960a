/* tests/io/test_segment.c: segments of all shapes there and back, and every way in which a file can be wrong.
 */
#define _GNU_SOURCE /* unshare */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/h5.h"
#include "io/snapshot/segment_private.h"
#include "src/base/memory.h"
#include "tests/fixtures/directory.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/segment_samples.h"

/* A file system without locks, for HDF5: it must not insist on them. */
int flock(int fd, int operation);
int flock(int fd, int operation) {
    (void)fd, (void)operation;
    errno = ENOLCK;
    return -1;
}

/* ---- names and numbers ---- */

static void test_names(void) {
    segment_info info = {.first_layer = 0, .last_layer = 12, .row0 = 0, .n_rows = 4096}, parsed;
    segment_make_name(&info, 3);
    CU_ASSERT_STRING_EQUAL(info.name, "L000-012.T00000000-00004096.S0003.h5");
    int64_t save = 0;
    CU_ASSERT(segment_parse_name(info.name, &parsed, &save));
    CU_ASSERT(save == 3 && parsed.first_layer == 0 && parsed.last_layer == 12 && parsed.row0 == 0 &&
              parsed.n_rows == 4096);
    CU_ASSERT_STRING_EQUAL(parsed.name, info.name);

    info = (segment_info){.first_layer = 1000, .last_layer = 4096, .row0 = 123456789012, .n_rows = 3};
    segment_make_name(&info, 98765);
    CU_ASSERT_STRING_EQUAL(info.name, "L1000-4096.T123456789012-123456789015.S98765.h5");
    CU_ASSERT(segment_parse_name(info.name, &parsed, &save) && save == 98765 && parsed.n_rows == 3);

    static const char *const bad[] = {"",
                                      "manifest.h5",
                                      "L000-012.T00000000-00004096.S0003.h5 ",
                                      "L000-012.T00000000-00004096.S0003.h",
                                      "L000-012.T00000000-00004096.S0003.h5.tmp",
                                      ".L000-012.T00000000-00004096.S0003.h5",
                                      "../L000-012.T00000000-00004096.S0003.h5",
                                      "L0000-012.T00000000-00004096.S0003.h5",
                                      "L 00-012.T00000000-00004096.S0003.h5",
                                      "L-01-012.T00000000-00004096.S0003.h5",
                                      "L012-012.T00000000-00004096.S0003.h5",
                                      "L000-012.T00004096-00004096.S0003.h5",
                                      "L000-012.T0-4096.S0003.h5",
                                      "L000-012.T00000000-00004096.S0000.h5",
                                      "L000-012.T00000000-00004096.S3.h5",
                                      "L000-99999999999999999999.T00000000-00004096.S0003.h5",
                                      "L000-012.T00000000-99999999999999999999.S0003.h5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_FALSE(segment_parse_name(bad[i], &parsed, &save));
}

static void test_chunk_tokens(void) {
    CU_ASSERT_EQUAL(segment_chunk_tokens(KV_CODEC_LOSSLESS, DTYPE_BF16, 8, 128, 100000), 256);
    CU_ASSERT_EQUAL(segment_chunk_tokens(KV_CODEC_LOSSLESS, DTYPE_F32, 8, 128, 100000), 128);
    CU_ASSERT_EQUAL(segment_chunk_tokens(KV_CODEC_LOSSLESS, DTYPE_BF16, 8, 128, 100), 100);
    CU_ASSERT_EQUAL(segment_chunk_tokens(KV_CODEC_LOSSLESS, DTYPE_BF16, 3, 100, 100000),
                    832); /* of 873 that fit */
    CU_ASSERT_EQUAL(segment_chunk_tokens(KV_CODEC_LOSSLESS, DTYPE_F32, 1024, 1024, 10), 1);
}

static void test_numbers(void) {
    const char *dir = harness_fresh_dir();
    pattern p = small_pattern();
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    const segment_info good = p.info;
    CHECK_OK(segment_check(&good, "here"));
#define REFUSED_WITH(member, value, part)                                                                    \
    do {                                                                                                     \
        segment_info info = good;                                                                            \
        info.member = value;                                                                                 \
        CHECK_REFUSED(segment_check(&info, "here"), "here: it has an impossible " part);                     \
    } while (0)
    REFUSED_WITH(first_layer, -1, "range of layers");
    REFUSED_WITH(first_layer, 3, "range of layers");
    REFUSED_WITH(last_layer, SEGMENT_MAX_LAYERS + 1, "range of layers");
    REFUSED_WITH(row0, -1, "range of rows");
    REFUSED_WITH(row0, INT64_MAX, "range of rows");
    REFUSED_WITH(n_rows, 0, "range of rows");
    REFUSED_WITH(n_rows, INT64_MAX, "range of rows");
    REFUSED_WITH(n_rows, INT64_C(1) << 53, "number of chunks");
    REFUSED_WITH(n_kv_heads, 0, "number of heads");
    REFUSED_WITH(head_dim, 1 << 30, "number of heads");
    REFUSED_WITH(type, DTYPE_F16, "type");
    REFUSED_WITH(codec, N_KV_CODECS, "codec");
    REFUSED_WITH(codec, (kv_codec)-1, "codec");
    REFUSED_WITH(chunk_tokens, 0, "number of rows in a chunk");
    REFUSED_WITH(chunk_tokens, 21, "number of rows in a chunk");
    REFUSED_WITH(file_bytes, -1, "offset of its index");
    REFUSED_WITH(file_bytes, 100, "offset of its index");
    REFUSED_WITH(index_offset, -1, "offset of its index");
    REFUSED_WITH(index_offset, good.file_bytes - 12 * 24 + 1, "offset of its index");
    segment_info wide = good; /* every number alone is possible */
    wide.n_kv_heads = wide.head_dim = 1 << 16;
    CHECK_REFUSED(segment_check(&wide, "here"), "number of rows in a chunk");
    wide = good;
    wide.n_rows = INT64_C(1) << 53;
    wide.chunk_tokens = 1;
    wide.first_layer = 0;
    wide.last_layer = SEGMENT_MAX_LAYERS;
    wide.file_bytes = INT64_MAX;
    CHECK_REFUSED(segment_check(&wide, "here"), "number of chunks");
    wide = good;
    wide.is_plain = true; /* but coded */
    CHECK_REFUSED(segment_check(&wide, "here"), "codec");
}

/* ---- there and back ---- */

/* What HDF5 alone finds in a plain dataset: no filter, and the rows in one stretch. */
static void check_plain_dataset(hid_t file, const pattern *p, int layer, kv_part part) {
    char name[40];
    snprintf(name, sizeof name, "/layers/%d/%s", layer, part == KV_PART_K ? "k" : "v");
    const size_t n_bytes =
        (size_t)(p->info.n_rows * p->info.n_kv_heads * p->info.head_dim) * dtype_bytes(p->info.type);
    char *got = mem_new(n_bytes, 1), *expected = mem_new(n_bytes, 1);
    fill_rows(p, layer, part, p->info.row0, p->info.n_rows, expected);
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), creation = H5Dget_create_plist(dataset),
          type = H5Dget_type(dataset);
    CU_ASSERT_EQUAL(H5Pget_nfilters(creation), 0);
    CU_ASSERT_EQUAL(H5Pget_layout(creation), H5D_CONTIGUOUS);
    CU_ASSERT(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, got) >= 0);
    CU_ASSERT(memcmp(got, expected, n_bytes) == 0);
    H5Tclose(type);
    H5Pclose(creation);
    H5Dclose(dataset);
    free(got);
    free(expected);
}

static void test_plain(void) {
    for (int type = DTYPE_F32; type <= DTYPE_BF16; type++) {
        pattern p = make_pattern((dtype)type, KV_CODEC_NONE, 1, 4, 40, 500, 2, 8, 64);
        const char *dir = harness_fresh_dir();
        if (!CHECK_OK(write_pattern(dir, &p, 2))) return;
        CU_ASSERT(p.info.is_plain);
        hid_t access = h5_file_access(), file = H5Fopen(path_of(dir, p.info.name), H5F_ACC_RDONLY, access);
        CU_ASSERT(file >= 0);
        for (int layer = 1; layer < 4; layer++)
            for (int part = 0; part < N_KV_PARTS; part++)
                check_plain_dataset(file, &p, layer, (kv_part)part);
        H5Fclose(file);
        H5Pclose(access);
    }
}

/* What earlier versions wrote with the codec none: frames. The fuzzer has two such files, behind 20 bytes, of
 * values as in make_snapshot.c. */
static void check_old(dtype type) {
    char name[300], rows[100 * 16 * sizeof(float)];
    snprintf(name, sizeof name, KVARVE_SOURCE_DIR "/tests/fuzz/corpus/segment/%s-none", dtype_name(type));
    size_t n;
    char *bytes = harness_read_file(name, &n);
    segment_info info = make_pattern(type, KV_CODEC_NONE, 0, 1, 0, 100, 2, 8, 32).info;
    uint32_t index_offset;
    memcpy(&index_offset, bytes + 12, sizeof index_offset);
    info.file_bytes = (int64_t)n - 20;
    info.index_offset = index_offset;
    const char *dir = harness_fresh_dir(), *path = path_of(dir, info.name);
    harness_write_file(path, bytes + 20, n - 20);
    segment_entry *entries;
    file_reader file = {.path = (char *)path, .fd = open(path, O_RDONLY)};
    if (!CHECK_OK(segment_read_index(&file, &info, &entries))) return;
    CHECK_OK(segment_digest(&file, &info, entries, info.digest));
    file_reader_pause(&file);
    CHECK_OK(check_all(dir, &info));
    segment *s;
    if (!CHECK_OK(segment_open(dir, NULL, &info, NULL, &s))) return;
    CHECK_OK(segment_read(s, 0, KV_PART_V, 0, 100, rows));
    int n_wrong = 0;
    for (int i = 0; i < 100 * 16; i++) {
        const int row = i / 16, column = i % 16;
        float expected = (float)(128 + (row + 7 * column) % 128) / 4, got = 0;
        if ((row + column) % 3 == 0) expected = -expected;
        const size_t width = dtype_bytes(type); /* bf16 is the upper half */
        memcpy((char *)&got + sizeof got - width, rows + (size_t)i * width, width);
        n_wrong += got != expected;
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    info.is_plain = true; /* it is not */
    CHECK_REFUSED(check_all(dir, &info), "impossible place or size");
    segment_close(s);
    free(entries);
    free(bytes);
}

static void test_old(void) {
    check_old(DTYPE_BF16);
    check_old(DTYPE_F32);
}

/* This program hands numbers over as they are: HDF5, which has lost all ways to convert some (see main), is
 * never asked. */
static void test_no_conversions(void) {
    float value = 1;
    hid_t bf16 = h5_element_type(DTYPE_BF16);
    CU_ASSERT(H5Tconvert(H5T_NATIVE_FLOAT, bf16, 1, &value, NULL, H5P_DEFAULT) < 0);
    H5Tclose(bf16);
}

static void check_round_trip(pattern *p, int n_threads) {
    const char *dir = harness_fresh_dir();
    segment *s = NULL;
    if (!CHECK_OK(write_pattern(dir, p, n_threads))) return;
    CU_ASSERT_EQUAL(count_files(dir), 1);
    CHECK_OK(segment_check(&p->info, "here"));
    CHECK_OK(check_all(dir, &p->info));
    if (!CHECK_OK(segment_open(dir, NULL, &p->info, NULL, &s))) return;
    const segment_info *info = &p->info;
    uint64_t state = 1;
    bool good = true;
    for (int l = info->first_layer; l < info->last_layer; l++)
        for (int part = 0; part < N_KV_PARTS; part++) {
            good = good && rows_match(s, p, l, (kv_part)part, info->row0, info->n_rows);
            for (int i = 0; i < 8; i++) {
                int64_t begin = (int64_t)(harness_random(&state) % (uint64_t)info->n_rows);
                int64_t n = (int64_t)(harness_random(&state) % (uint64_t)(info->n_rows - begin + 1));
                good = good && rows_match(s, p, l, (kv_part)part, info->row0 + begin, n);
            }
        }
    CU_ASSERT(good);
    segment_close(s);
}

/* A manifest that names another codec than the frames are of. */
static void test_other_codec(void) {
    pattern p = small_pattern();
    const char *dir = harness_fresh_dir();
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    p.info.codec = KV_CODEC_NONE;
    CHECK_REFUSED(check_all(dir, &p.info), "frame of the codec lossless");
}

static void test_round_trips(void) {
    static const struct {
        int first, last;
        int64_t row0, n_rows;
        int n_kv_heads, head_dim, chunk_tokens;
    } shapes[] = {
        {0, 1, 0, 1, 1, 1, 1},     {0, 1, 5, 7, 1, 2, 7},          {3, 5, 1000000000000, 130, 2, 64, 64},
        {0, 2, 64, 65, 3, 5, 64},  {0, 1, 0, 100, 1, 8, 1},        {7, 8, 1, 40, 8, 128, 13},
        {0, 12, 0, 33, 2, 16, 32}, {4094, 4096, 99, 200, 4, 4, 3},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int codec = 0; codec <= KV_CODEC_LOSSLESS; codec++)
            for (int type = DTYPE_F32; type <= DTYPE_BF16; type++) {
                pattern p = make_pattern((dtype)type, (kv_codec)codec, shapes[i].first, shapes[i].last,
                                         shapes[i].row0, shapes[i].n_rows, shapes[i].n_kv_heads,
                                         shapes[i].head_dim, shapes[i].chunk_tokens);
                check_round_trip(&p, 1 + (int)(i % 3));
            }
}

/* Chunks of the size that is really used, more of them than a batch has, and more than reach the disk early.
 */
static void test_large(void) {
    pattern p = make_pattern(DTYPE_BF16, KV_CODEC_NONE, 0, 2, 0, 4000, 8, 128,
                             segment_chunk_tokens(KV_CODEC_LOSSLESS, DTYPE_BF16, 8, 128, 4000));
    check_round_trip(&p, 2);
}

static void test_same_bytes(void) {
    pattern p = make_pattern(DTYPE_BF16, KV_CODEC_LOSSLESS, 0, 3, 0, 100, 2, 8, 7), q = p;
    char *bytes[2];
    size_t n[2];
    const char *dir = harness_fresh_dir();
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    bytes[0] = harness_read_file(path_of(dir, p.info.name), &n[0]);
    for (time_t now = time(NULL); time(NULL) == now;) /* no matter when */
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    CHECK_OK(write_pattern(dir, &q, 3)); /* in its place */
    bytes[1] = harness_read_file(path_of(dir, p.info.name), &n[1]);
    CU_ASSERT(n[0] == n[1] && memcmp(bytes[0], bytes[1], n[0]) == 0);
    CU_ASSERT(memcmp(&p.info, &q.info, sizeof p.info) == 0);
    CU_ASSERT_EQUAL((int64_t)n[0], p.info.file_bytes);
    free(bytes[0]);
    free(bytes[1]);
}

static void test_many_readers(void) {
    pattern p = make_pattern(DTYPE_BF16, KV_CODEC_LOSSLESS, 0, 4, 10, 300, 2, 16, 32);
    const char *dir = harness_fresh_dir();
    segment *s = NULL;
    if (!CHECK_OK(write_pattern(dir, &p, 2)) || !CHECK_OK(segment_open(dir, NULL, &p.info, NULL, &s))) return;
    int n_bad = 0;
#pragma omp parallel for num_threads(4) schedule(dynamic, 1) reduction(+ : n_bad)
    for (int i = 0; i < 400; i++)
        n_bad += !rows_match(s, &p, i % 4, (kv_part)(i / 4 % 2), 10 + i % 60, 200);
    CU_ASSERT_EQUAL(n_bad, 0);
    segment_close(s);
}

/* ---- damage ---- */

static void check_flipped_bits(kv_codec codec) {
    const char *dir = harness_fresh_dir();
    pattern p = small_coded(codec);
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    int fd = open(path_of(dir, p.info.name), O_RDWR), n_missed = 0, n_unnamed = 0;
    for (int64_t i = 0; i < p.info.file_bytes; i++) {
        unsigned char byte, flipped;
        CU_ASSERT(pread(fd, &byte, 1, i) == 1);
        flipped = (unsigned char)(byte ^ 1 << i % 8);
        CU_ASSERT(pwrite(fd, &flipped, 1, i) == 1);
        status st = check_all(dir, &p.info);
        n_missed += st != STATUS_REFUSED;
        n_unnamed += st == STATUS_REFUSED && !strstr(status_text(), p.info.name);
        CU_ASSERT(pwrite(fd, &byte, 1, i) == 1);
    }
    CU_ASSERT_EQUAL(n_missed, 0);
    CU_ASSERT_EQUAL(n_unnamed, 0);
    CHECK_OK(check_all(dir, &p.info));
    close(fd);
}

static void test_flipped_bits(void) {
    check_flipped_bits(KV_CODEC_LOSSLESS);
    check_flipped_bits(KV_CODEC_NONE);
}

/* A frame that is damaged is named, and does not harm the others. */
static void test_named_frame(void) {
    const char *dir = harness_fresh_dir();
    pattern p = small_pattern();
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    uint64_t entry[3]; /* of layer 2, v, chunk 1 */
    int fd = open(path_of(dir, p.info.name), O_RDWR);
    CU_ASSERT(pread(fd, entry, sizeof entry, p.info.index_offset + (3 * 3 + 1) * 24) == sizeof entry);
    unsigned char byte = 0;
    CU_ASSERT(pread(fd, &byte, 1, (off_t)(entry[0] + entry[1] - 1)) == 1);
    byte ^= 4;
    CU_ASSERT(pwrite(fd, &byte, 1, (off_t)(entry[0] + entry[1] - 1)) == 1);
    close(fd);

    segment *s = NULL;
    if (!CHECK_OK(segment_open(dir, NULL, &p.info, NULL, &s))) return;
    char rows[20 * 2 * 8 * 2], expected[400];
    snprintf(expected, sizeof expected, "%s/%s: /layers/2/v, rows 48 to 55: ", dir, p.info.name);
    CHECK_REFUSED(segment_read(s, 2, KV_PART_V, 40, 20, rows), expected);
    CHECK_REFUSED(segment_read(s, 2, KV_PART_V, 55, 1, rows), expected);
    int64_t n_bytes = 0;
    CHECK_REFUSED(rows_verify_layer(s, &p.info, 2, &n_bytes), expected);
    CHECK_OK(rows_verify_layer(s, &p.info, 1, &n_bytes));
    CU_ASSERT(rows_match(s, &p, 2, KV_PART_V, 40, 8));
    CU_ASSERT(rows_match(s, &p, 2, KV_PART_V, 56, 4));
    CU_ASSERT(rows_match(s, &p, 2, KV_PART_K, 40, 20));
    segment_close(s);
}

/* Frames that are whole, but not in their places. */
static void test_swapped_frames(void) {
    const char *dir = harness_fresh_dir();
    pattern p = make_pattern(DTYPE_BF16, KV_CODEC_NONE, 0, 1, 0, 16, 2, 8, 8);
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    segment_entry frames[4];
    char a[2048], b[2048];
    int fd = open(path_of(dir, p.info.name), O_RDWR);
    CU_ASSERT(pread(fd, frames, sizeof frames, p.info.index_offset) == sizeof frames);
    const size_t n = (size_t)frames[0].n_bytes;
    CU_ASSERT(n == frames[1].n_bytes && n <= sizeof a);
    CU_ASSERT(pread(fd, a, n, (off_t)frames[0].offset) == (ssize_t)n);
    CU_ASSERT(pread(fd, b, n, (off_t)frames[1].offset) == (ssize_t)n);
    CU_ASSERT(pwrite(fd, b, n, (off_t)frames[0].offset) == (ssize_t)n);
    CU_ASSERT(pwrite(fd, a, n, (off_t)frames[1].offset) == (ssize_t)n);
    close(fd);
    segment *s = NULL;
    if (!CHECK_OK(segment_open(dir, NULL, &p.info, NULL, &s))) return;
    char rows[8 * 2 * 8 * 2];
    int64_t n_bytes = 0;
    CHECK_REFUSED(segment_read(s, 0, KV_PART_K, 0, 8, rows),
                  "/layers/0/k, rows 0 to 7: its checksum is not that of");
    CHECK_REFUSED(rows_verify_layer(s, &p.info, 0, &n_bytes),
                  "/layers/0/k, rows 0 to 7: its checksum is not that of");
    CU_ASSERT(rows_match(s, &p, 0, KV_PART_V, 0, 16));
    segment_close(s);
}

/* An index that no digest tells to be wrong, as its maker knew the digest. */
static void test_index(void) {
    const char *dir = harness_fresh_dir();
    pattern p = small_pattern();
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    segment_entry good[12], bad[12];
    file_reader reader = {.path = "here", .fd = open(path_of(dir, p.info.name), O_RDONLY)};
    CU_ASSERT(pread(reader.fd, good, sizeof good, p.info.index_offset) == sizeof good);
    CHECK_OK(segment_check_index(&p.info, good, "here"));
    segment_info shorter = p.info; /* the digest covers all, also behind the last frame */
    shorter.file_bytes--;
    uint64_t digest[2];
    CHECK_OK(segment_digest(&reader, &p.info, good, digest));
    CU_ASSERT(digest[0] == p.info.digest[0] && digest[1] == p.info.digest[1]);
    CHECK_OK(segment_digest(&reader, &shorter, good, digest));
    CU_ASSERT(digest[0] != p.info.digest[0] && digest[1] != p.info.digest[1]);
    file_reader_pause(&reader);
    const uint64_t index = (uint64_t)p.info.index_offset, file = (uint64_t)p.info.file_bytes;
    const struct {
        int entry;
        segment_entry changed; /* but for the checksum */
        const char *part;
    } changes[] = {
        {0, {good[0].offset, 0, 0}, "row 40 of layer 1 has an impossible place"},
        {5,
         {good[5].offset, 400, 0},
         "row 56 of layer 1 has an impossible place"}, /* a frame takes 312 at most */
        {5, {good[5].offset, 100000, 0}, "row 56 of layer 1 has an impossible place"},
        {7, {file - good[7].n_bytes + 1, good[7].n_bytes, 0}, "row 48 of layer 2 has an impossible place"},
        {7, {UINT64_MAX, good[7].n_bytes, 0}, "row 48 of layer 2 has an impossible place"},
        {7, {UINT64_MAX - 10, good[7].n_bytes, 0}, "row 48 of layer 2 has an impossible place"},
        {7, {good[6].offset, good[7].n_bytes, 0}, "chunks overlap"},
        {7, {good[6].offset + good[6].n_bytes - 1, good[7].n_bytes, 0}, "chunks overlap"},
        {2, {index, good[2].n_bytes, 0}, "chunks overlap"},
        {2, {index + sizeof good - 1, 1, 0}, "chunks overlap"},
        {2, {index - good[2].n_bytes + 1, good[2].n_bytes, 0}, "chunks overlap"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        memcpy(bad, good, sizeof bad);
        bad[changes[i].entry] = changes[i].changed;
        CHECK_REFUSED(segment_check_index(&p.info, bad, "here"), changes[i].part);
    }
}

static void test_truncated(void) {
    const char *dir = harness_fresh_dir();
    pattern p = small_pattern();
    if (!CHECK_OK(write_pattern(dir, &p, 1))) return;
    char path[400];
    snprintf(path, sizeof path, "%s/%s", dir, p.info.name);
    int n_missed = 0;
    for (int64_t n = p.info.file_bytes - 1; n >= 0; n--) {
        CU_ASSERT(truncate(path, n) == 0);
        status st = check_all(dir, &p.info);
        n_missed += st != STATUS_REFUSED;
        segment_info shorter = p.info; /* nor when the manifest agrees with its size */
        shorter.file_bytes = n;
        st = segment_check(&shorter, path);
        if (st == STATUS_OK) st = check_all(dir, &shorter);
        n_missed += st != STATUS_REFUSED;
    }
    CU_ASSERT_EQUAL(n_missed, 0);
    CHECK_REFUSED(check_all(dir, &p.info), "it has 0 bytes, but the manifest says ");
}

static void test_other_files(void) {
    const char *dir = harness_fresh_dir();
    pattern p = small_pattern(), q = small_pattern();
    q.info.row0 = 60;
    segment_make_name(&q.info, 3);
    if (!CHECK_OK(write_pattern(dir, &p, 1)) || !CHECK_OK(write_pattern(dir, &q, 1))) return;
    char path_p[400], path_q[400], path_r[400];
    snprintf(path_p, sizeof path_p, "%s/%s", dir, p.info.name);
    snprintf(path_q, sizeof path_q, "%s/%s", dir, q.info.name);
    snprintf(path_r, sizeof path_r, "%s/r", dir);
    CU_ASSERT(rename(path_p, path_r) == 0 && rename(path_q, path_p) == 0 && rename(path_r, path_q) == 0);
    CHECK_REFUSED(check_all(dir, &p.info), path_p);
    CHECK_REFUSED(check_all(dir, &q.info), path_q);

    pattern other = small_pattern(); /* of another save: the same shape and name, other content */
    other.seed = 8;
    CHECK_OK(write_pattern(dir, &other, 1));
    CHECK_REFUSED(check_all(dir, &p.info), path_p);
    CHECK_OK(check_all(dir, &other.info));

    CU_ASSERT(unlink(path_p) == 0);
    CHECK_REFUSED(check_all(dir, &p.info), "cannot be opened: No such file or directory");
    CU_ASSERT(mkdir(path_p, 0777) == 0);
    CHECK_REFUSED(check_all(dir, &p.info), "not a regular file");
    CU_ASSERT(rmdir(path_p) == 0 && mkfifo(path_p, 0666) == 0);
    CHECK_REFUSED(check_all(dir, &p.info), "not a regular file");
    CU_ASSERT(unlink(path_p) == 0 && symlink(path_p, path_p) == 0);
    CHECK_REFUSED(check_all(dir, &p.info), "cannot be opened");
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"names", test_names},
        {"rows of a chunk", test_chunk_tokens},
        {"numbers that are impossible", test_numbers},
        {"there and back", test_round_trips},
        {"another codec", test_other_codec},
        {"chunks of the usual size", test_large},
        {"plain datasets", test_plain},
        {"frames of the codec none", test_old},
        {"no conversions by HDF5", test_no_conversions},
        {"equal content makes equal bytes", test_same_bytes},
        {"many readers", test_many_readers},
        {"a bit flipped in every byte", test_flipped_bits},
        {"a damaged frame is named", test_named_frame},
        {"frames in each other's place", test_swapped_frames},
        {"an index that lies", test_index},
        {"truncated at every length", test_truncated},
        {"other files in its place", test_other_files},
        CU_TEST_INFO_NULL,
    };
    h5_lock(); /* HDF5 loses all ways to convert numbers: it is never asked to */
    H5Tunregister(H5T_PERS_DONTCARE, NULL, -1, -1, NULL);
    h5_unlock();
    return harness_run(&argc, &argv, "segment", tests);
}
