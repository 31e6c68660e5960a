/* tests/io/test_coded_segment.c: frames and segments of codecs that are not exact: of all shapes, read whole,
 * in pieces and through HDF5, and damaged or forged in every way. */
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_filter.h"
#include "io/h5.h"
#include "io/snapshot/segment_private.h"
#include "kernels/convert.h"
#include "tests/fixtures/coded_rows.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/rows.h"

static const kv_coding codings[] = {{.codec = KV_CODEC_CACHEGEN, .level = 2},
                                    {.codec = KV_CODEC_FAST, .level = -3},
                                    {.codec = KV_CODEC_SMALL, .level = 1},
                                    {.codec = KV_CODEC_FAST, .level = 0, .has_base = true},
                                    {.codec = KV_CODEC_SMALL, .level = -3, .has_base = true}};
enum { N_CODINGS = sizeof codings / sizeof *codings };

static text_buffer tables_file;
static kv_tables *tables;

/* What all others use. */
static void test_tables(void) {
    coded_rows_tables(&tables_file, &tables);
}

/* ---- frames ---- */

static kv_chunk chunk_of(kv_codec codec, dtype type, int n_tokens, int first_layer, int n_layers) {
    const bool is_joint = codec >= KV_CODEC_FAST;
    return (kv_chunk){.shape = {type, n_tokens, CODED_HEADS, CODED_WIDTH},
                      .first_layer = first_layer,
                      .n_layers = is_joint ? n_layers : 1,
                      .part = is_joint ? KV_PART_K : KV_PART_V,
                      .n_parts = is_joint ? N_KV_PARTS : 1};
}

/* A frame in memory of exactly its size, so that a sanitizer sees a step beyond it. */
static uint8_t *encode(const kv_coding *how, const kv_chunk *c, void *elements, size_t *n_bytes) {
    uint8_t *room = malloc(kv_frame_max_bytes(c));
    kv_token *tokens = mem_new((size_t)c->shape.n_tokens, sizeof *tokens);
    dtype type = c->shape.type;
    for (int i = 0; i < c->shape.n_tokens; i++)
        tokens[i] = (kv_token){i + 50, 1000 - i};
    CHECK_OK(rows_read_chunk(coded_rows_make, &type, c, 50, elements));
    *n_bytes = kv_frame_encode(how, tables, c, tokens, elements, room, NULL);
    uint8_t *frame = malloc(*n_bytes);
    memcpy(frame, room, *n_bytes);
    free(room);
    free(tokens);
    return frame;
}

static double error_of(const kv_chunk *c, const void *elements, const void *back) {
    const size_t n = kv_chunk_all_bytes(c) / dtype_bytes(c->shape.type);
    double squares = 0, errors = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = (double)float_at(c->shape.type, elements, i);
        const double d = (double)float_at(c->shape.type, back, i) - x;
        squares += x * x;
        errors += d * d;
    }
    return errors / squares;
}

/* The base of a frame, in memory that ends with it. */
static void check_base(const uint8_t *frame, const kv_frame_claim *claim, const kv_chunk *c,
                       const void *elements) {
    const size_t n = claim->base_bytes;
    void *back = mem_new(1, kv_chunk_all_bytes(c));
    uint8_t *base = malloc(n);
    memcpy(base, frame, n);
    CHECK_OK(kv_frame_decode_base(base, n, tables, c, back));
    CU_ASSERT(error_of(c, elements, back) < 0.4 && claim->base_distortion >= claim->distortion);
    CHECK_REFUSED(kv_frame_decode(base, n, tables, c, back), "payload");
    CHECK_REFUSED(kv_frame_decode_base(frame, n - 1, tables, c, back), "");
    CHECK_REFUSED(kv_frame_decode_base(base, n, NULL, c, back), "which are not there");
    base[n / 2] ^= 4;
    CHECK_REFUSED(kv_frame_decode_base(base, n, tables, c, back), "checksum");
    free(base);
    free(back);
}

static void check_frame(const kv_coding *how, const kv_chunk *c) {
    size_t n, n_again;
    void *elements = mem_new(1, kv_chunk_all_bytes(c)), *back = mem_new(1, kv_chunk_all_bytes(c));
    uint8_t *frame = encode(how, c, elements, &n), *again = encode(how, c, elements, &n_again);
    CU_ASSERT(n == n_again && memcmp(frame, again, n) == 0);
    CU_ASSERT(n <= kv_frame_max_bytes(c));
    CHECK_OK(kv_frame_check(frame, n, c));
    CHECK_OK(kv_frame_decode(frame, n, tables, c, back));
    CU_ASSERT(error_of(c, elements, back) < 0.2);
    const kv_frame_claim claim = kv_frame_look(frame, n);
    CU_ASSERT(claim.n_tokens == c->shape.n_tokens && claim.first_layer == c->first_layer);
    CU_ASSERT(claim.n_layers == c->n_layers && claim.part == c->part && claim.n_parts == c->n_parts);
    if (claim.codec != KV_CODEC_NONE) {
        CU_ASSERT(claim.tables_digest == tables->digest && claim.distortion < 0.3f);
        CHECK_REFUSED(kv_frame_decode(frame, n, NULL, c, back), "which are not there");
    }
    CU_ASSERT((claim.base_bytes > 0) == (how->has_base && claim.codec != KV_CODEC_NONE));
    if (claim.base_bytes) check_base(frame, &claim, c, elements);
    free(frame);
    free(again);
    free(elements);
    free(back);
}

static void test_frames(void) {
    static const int tokens[] = {1, 2, 31, 32, 33, 100};
    for (int i = 0; i < N_CODINGS; i++)
        for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++)
            for (int type = DTYPE_F32; type <= DTYPE_BF16; type++)
                for (int n_layers = 1; n_layers <= 8; n_layers += 7) {
                    const kv_chunk c = chunk_of(codings[i].codec, (dtype)type, tokens[k], 2, n_layers);
                    check_frame(&codings[i], &c);
                }
}

static void mend_checksum(uint8_t *frame, size_t n) {
    const uint64_t checksum = kv_frame_checksum(frame, n);
    memcpy(frame + n - sizeof checksum, &checksum, sizeof checksum);
}

/* Bits that flip are seen; bytes that are forged, under a checksum that is right, are refused or decode to
 * something, but never beyond. */
static void test_damaged_frames(void) {
    uint64_t state = 1;
    for (int i = 0; i < N_CODINGS; i++) {
        const kv_chunk c = chunk_of(codings[i].codec, DTYPE_BF16, 70, 1, 3);
        size_t n;
        void *elements = mem_new(1, kv_chunk_all_bytes(&c));
        uint8_t *frame = encode(&codings[i], &c, elements, &n), *bad = malloc(n);
        int n_refused = 0;
        for (size_t at = 0; at < n; at += at < 100 ? 1 : 7) {
            memcpy(bad, frame, n);
            bad[at] ^= (uint8_t)(1 << at % 8);
            CHECK_REFUSED(kv_frame_decode(bad, n, tables, &c, elements), "");
            mend_checksum(bad, n);
            n_refused += kv_frame_decode(bad, n, tables, &c, elements) != STATUS_OK;
            for (int k = 0; k < 3; k++)
                bad[48 + harness_random(&state) % (n - 56)] = (uint8_t)harness_random(&state);
            mend_checksum(bad, n);
            n_refused += kv_frame_decode(bad, n, tables, &c, elements) != STATUS_OK;
        }
        CU_ASSERT(n_refused > 100);
        free(frame);
        free(bad);
        free(elements);
    }
}

/* A byte of the header is another one, and the checksum is right. */
static void test_forged_headers(void) {
    static const struct {
        int offset;
        uint8_t value;
        const char *part;
    } forgeries[] = {{8, 3, "with a base of"},    {8, 4, "version 4"},
                     {8, 1, "version 1"},         {10, 0, "only others have"},
                     {10, 1, "only others have"}, {10, 9, "unknown codec 9"},
                     {12, 71, "frame of 71"},     {32, 0x5a, "needs the tables"},
                     {40, 9, "layers from 9 on"}, {42, 4, "of 4 layers"},
                     {43, 1, "frame of parts 1"}, {43, 0, "frame of parts 0"}};
    const kv_chunk c = chunk_of(KV_CODEC_SMALL, DTYPE_BF16, 70, 1, 3);
    size_t n;
    void *elements = mem_new(1, kv_chunk_all_bytes(&c));
    uint8_t *frame = encode(&codings[2], &c, elements, &n);
    for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
        const uint8_t was = frame[forgeries[i].offset];
        frame[forgeries[i].offset] = forgeries[i].value;
        mend_checksum(frame, n);
        CHECK_REFUSED(kv_frame_decode(frame, n, tables, &c, elements), forgeries[i].part);
        frame[forgeries[i].offset] = was;
    }
    free(frame);
    free(elements);
}

/* ---- segments ---- */

static segment_info make_segment(const char *dir, const kv_coding *how, dtype *type, int first, int last,
                                 int chunk_tokens) {
    segment_info info = {.first_layer = first,
                         .last_layer = last,
                         .row0 = 30,
                         .n_rows = 90,
                         .n_kv_heads = CODED_HEADS,
                         .head_dim = CODED_WIDTH,
                         .type = *type,
                         .codec = how->codec,
                         .level = how->level,
                         .has_base = how->has_base,
                         .tables_digest = tables->digest,
                         .chunk_tokens = chunk_tokens};
    segment_make_name(&info, 1);
    const segment_source source = coded_rows_source(type, tables);
    CHECK_OK(segment_write(dir, &info, &source, 2));
    CHECK_OK(segment_check(&info, "here"));
    return info;
}

/* A part of a layer, in one piece and in several, is what its chunks hold. */
static void check_part(segment *s, const segment_info *info, int layer, kv_part part) {
    const size_t row_bytes = CODED_CHANNELS * dtype_bytes(info->type);
    char *whole = mem_new((size_t)info->n_rows, row_bytes), *piece = mem_new((size_t)info->n_rows, row_bytes);
    CHECK_OK(segment_read(s, layer, part, info->row0, info->n_rows, whole));
    uint64_t state = (uint64_t)layer;
    for (int i = 0; i < 5; i++) {
        const int64_t begin = (int64_t)(harness_random(&state) % (uint64_t)info->n_rows);
        const int64_t n = (int64_t)(harness_random(&state) % (uint64_t)(info->n_rows - begin)) + 1;
        CHECK_OK(segment_read(s, layer, part, info->row0 + begin, n, piece));
        CU_ASSERT(memcmp(piece, whole + (size_t)begin * row_bytes, (size_t)n * row_bytes) == 0);
    }
    for (int64_t i = 0; i < segment_count_entries(info); i++) {
        const segment_chunk c = segment_chunk_at(info, i);
        const int k = (layer - c.chunk.first_layer) * c.chunk.n_parts + (int)part - (int)c.chunk.part;
        if (layer < c.chunk.first_layer || layer >= c.chunk.first_layer + c.chunk.n_layers ||
            part < c.chunk.part || (int)part >= (int)c.chunk.part + c.chunk.n_parts)
            continue;
        char *elements = mem_new(1, kv_chunk_all_bytes(&c.chunk));
        CHECK_OK(segment_read_chunk(s, i, KV_ALL_PLANES, elements));
        CU_ASSERT(memcmp(elements + (size_t)k * kv_chunk_bytes(&c.chunk.shape),
                         whole + (size_t)(c.row0 - info->row0) * row_bytes,
                         kv_chunk_bytes(&c.chunk.shape)) == 0);
        free(elements);
    }
    free(whole);
    free(piece);
}

/* HDF5 reads the same, through the filter, which finds the tables beside the file. */
static void check_by_hdf5(const char *dir, segment *s, const segment_info *info, int layer, kv_part part) {
    char path[400], name[40];
    const size_t n_bytes = (size_t)info->n_rows * CODED_CHANNELS * dtype_bytes(info->type);
    char *ours = mem_new(1, n_bytes), *theirs = mem_new(1, n_bytes);
    snprintf(path, sizeof path, "%s/%s", dir, info->name);
    snprintf(name, sizeof name, "/layers/%d/%s", layer, part == KV_PART_K ? "k" : "v");
    CHECK_OK(segment_read(s, layer, part, info->row0, info->n_rows, ours));
    h5_lock();
    hid_t access = h5_file_access(), file = H5Fopen(path, H5F_ACC_RDONLY, access);
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), type = H5Dget_type(dataset);
    CU_ASSERT(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, theirs) >= 0);
    H5Tclose(type);
    H5Dclose(dataset);
    H5Fclose(file);
    H5Pclose(access);
    h5_unlock();
    CU_ASSERT(memcmp(ours, theirs, n_bytes) == 0);
    free(ours);
    free(theirs);
}

static void test_segments(void) {
    static const int layers[][2] = {{0, 11}, {3, 4}, {2, 10}};
    CHECK_OK(kv_filter_register());
    for (int i = 0; i < N_CODINGS; i++)
        for (size_t k = 0; k < sizeof layers / sizeof *layers; k++)
            for (int type = DTYPE_F32; type <= DTYPE_BF16; type++) {
                char name[KV_TABLES_NAME_BYTES], path[400];
                dtype of = (dtype)type;
                const char *dir = harness_fresh_dir();
                kv_tables_name(tables->digest, name);
                snprintf(path, sizeof path, "%s/%s", dir, name);
                harness_write_file(path, tables_file.data, tables_file.n);
                const segment_info info =
                    make_segment(dir, &codings[i], &of, layers[k][0], layers[k][1], k ? 32 : 90);
                segment *s = NULL;
                if (!CHECK_OK(segment_open(dir, NULL, &info, tables, &s))) return;
                int64_t n_bytes = 0;
                for (int64_t e = 0; e < segment_count_entries(&info); e++)
                    CHECK_OK(segment_verify_chunk(s, e, &n_bytes));
                CU_ASSERT(n_bytes > 0 && n_bytes < info.file_bytes);
                for (int layer = info.first_layer; layer < info.last_layer; layer++)
                    for (int part = 0; part < N_KV_PARTS; part++) {
                        check_part(s, &info, layer, (kv_part)part);
                        check_by_hdf5(dir, s, &info, layer, (kv_part)part);
                    }
                segment_close(s);
            }
}

/* Every flipped bit of a file is seen, when it is opened or verified. */
static void test_flipped_bits(void) {
    uint64_t state = 5;
    for (int i = 0; i < N_CODINGS; i++) {
        dtype type = DTYPE_BF16;
        const char *dir = harness_fresh_dir();
        const segment_info info = make_segment(dir, &codings[i], &type, 0, 3, 32);
        char path[400];
        size_t n;
        snprintf(path, sizeof path, "%s/%s", dir, info.name);
        char *bytes = harness_read_file(path, &n);
        for (int flip = 0; flip < 200; flip++) {
            const size_t at = harness_random(&state) % n;
            bytes[at] ^= (char)(1 << flip % 8);
            harness_write_file(path, bytes, n);
            segment *s = NULL;
            int64_t n_bytes = 0;
            status st = segment_open(dir, NULL, &info, tables, &s);
            for (int64_t e = 0; st == STATUS_OK && e < segment_count_entries(&info); e++)
                st = segment_verify_chunk(s, e, &n_bytes);
            CU_ASSERT_EQUAL(st, STATUS_REFUSED);
            segment_close(s);
            bytes[at] ^= (char)(1 << flip % 8);
        }
        free(bytes);
    }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"tables", test_tables},
        {"frames, there and back", test_frames},
        {"damaged frames", test_damaged_frames},
        {"forged headers", test_forged_headers},
        {"segments, there and back", test_segments},
        {"flipped bits", test_flipped_bits},
        CU_TEST_INFO_NULL,
    };
    const int failed = harness_run(&argc, &argv, "coded_segment", tests);
    kv_tables_free(tables);
    free(tables_file.data);
    return failed;
}
