/* The HDF5 filter: within this process, and, with arguments (FILE PLAIN_FILE), a file for test_plugin.sh to
 * read with other programs, and the bytes that they must find in it. */
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_filter.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/rows.h"

enum { N_ROWS = 150, CHUNK_ROWS = 64, N_HEADS = 3, HEAD_DIM = 40, ROW = N_HEADS * HEAD_DIM };

static float rows[N_ROWS * ROW];

static void make_rows(void) {
    uint64_t state = 1;
    for (int i = 0; i < N_ROWS * ROW; i++)
        rows[i] = harness_random_normal(&state);
}

/* A dataset of frames of the rows, written as a segment does; the last chunk holds but 22 rows. Negative when
 * something fails. */
static hid_t write_rows(hid_t file, const char *name, kv_codec codec) {
    const hsize_t dims[3] = {N_ROWS, N_HEADS, HEAD_DIM}, chunk_dims[3] = {CHUNK_ROWS, N_HEADS, HEAD_DIM};
    const kv_chunk_shape chunk = {DTYPE_F32, CHUNK_ROWS, N_HEADS, HEAD_DIM};
    const kv_chunk whole = kv_chunk_of(&chunk, 0, KV_PART_K);
    hid_t space = H5Screate_simple(3, dims, NULL), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(create, 3, chunk_dims);
    bool is_good = kv_filter_set(create, &whole) == STATUS_OK;
    hid_t dataset = H5Dcreate2(file, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, create, H5P_DEFAULT);
    void *frame = malloc(rows_frame_max_bytes(&chunk));
    for (int row = 0; row < N_ROWS; row += CHUNK_ROWS) {
        kv_chunk_shape part = chunk;
        if (part.n_tokens > N_ROWS - row) part.n_tokens = N_ROWS - row;
        size_t n = rows_frame_encode(codec, &part, rows + row * ROW, frame);
        const hsize_t offset[3] = {(hsize_t)row, 0, 0};
        is_good &= H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, offset, n, frame) >= 0;
    }
    free(frame);
    H5Pclose(create);
    H5Sclose(space);
    return is_good ? dataset : -1;
}

static hid_t create_file(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", harness_temp_dir(), name);
    return H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
}

static void test_frames_are_read(void) {
    hid_t file = create_file("frames.h5");
    for (int codec = 0; codec <= KV_CODEC_LOSSLESS; codec++) {
        hid_t dataset = write_rows(file, kv_codec_name((kv_codec)codec), (kv_codec)codec);
        float *back = calloc(N_ROWS * ROW, sizeof *back);
        CU_ASSERT(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, back) >= 0);
        CU_ASSERT(memcmp(back, rows, sizeof rows) == 0);
        free(back);
        H5Dclose(dataset);
    }
    H5Fclose(file);
}

/* The rows behind the last, which a wider dataset has, are zeros. */
static void test_missing_rows_are_zeros(void) {
    const kv_chunk_shape chunk = {DTYPE_F32, CHUNK_ROWS, N_HEADS, HEAD_DIM},
                         part = {DTYPE_F32, 22, N_HEADS, HEAD_DIM};
    const unsigned values[] = {0, CHUNK_ROWS, N_HEADS, HEAD_DIM};
    size_t room = rows_frame_max_bytes(&chunk);
    void *buffer = malloc(room);
    size_t n = rows_frame_encode(KV_CODEC_LOSSLESS, &part, rows, buffer);
    CU_ASSERT(kv_filter_class.filter(H5Z_FLAG_REVERSE, 4, values, n, &room, &buffer) ==
              kv_chunk_bytes(&chunk));
    CU_ASSERT(room == kv_chunk_bytes(&chunk));
    CU_ASSERT(memcmp(buffer, rows, kv_chunk_bytes(&part)) == 0);
    int wrong = 0;
    for (int i = 22 * ROW; i < CHUNK_ROWS * ROW; i++)
        wrong += ((float *)buffer)[i] != 0;
    CU_ASSERT(wrong == 0);
    free(buffer);
}

/* Written by HDF5 itself, as h5repack does. */
static void test_hdf5_encodes(void) {
    const hsize_t dims[3] = {N_ROWS, N_HEADS, HEAD_DIM}, chunk_dims[3] = {CHUNK_ROWS, N_HEADS, HEAD_DIM};
    const kv_chunk_shape chunk = {DTYPE_F32, CHUNK_ROWS, N_HEADS, HEAD_DIM};
    const kv_chunk whole = kv_chunk_of(&chunk, 0, KV_PART_K);
    hid_t file = create_file("written.h5"), space = H5Screate_simple(3, dims, NULL),
          create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(create, 3, chunk_dims);
    CHECK_OK(kv_filter_set(create, &whole));
    hid_t dataset = H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, create, H5P_DEFAULT);
    CU_ASSERT(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows) >= 0);
    H5Dclose(dataset);
    dataset = H5Dopen2(file, "x", H5P_DEFAULT);
    CU_ASSERT(H5Dget_storage_size(dataset) < 3 * kv_chunk_bytes(&chunk));
    float *back = calloc(N_ROWS * ROW, sizeof *back);
    CU_ASSERT(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, back) >= 0);
    CU_ASSERT(memcmp(back, rows, sizeof rows) == 0);
    free(back);
    H5Dclose(dataset);
    H5Pclose(create);
    H5Sclose(space);
    H5Fclose(file);
}

/* Of both parts of two layers, too. */
static void test_hdf5_encodes_joint(void) {
    const kv_chunk whole = {.shape = {DTYPE_F32, 10, N_HEADS, HEAD_DIM}, .n_layers = 2, .n_parts = 2};
    const unsigned values[] = {0, 10, N_HEADS, HEAD_DIM, 2, 2};
    const size_t n_bytes = kv_chunk_all_bytes(&whole);
    size_t room = n_bytes;
    void *buffer = malloc(n_bytes);
    memcpy(buffer, rows, n_bytes);
    const size_t n = kv_filter_class.filter(0, 6, values, n_bytes, &room, &buffer);
    CU_ASSERT(n > 0);
    CU_ASSERT(kv_filter_class.filter(H5Z_FLAG_REVERSE, 6, values, n, &room, &buffer) == n_bytes);
    CU_ASSERT(memcmp(buffer, rows, n_bytes) == 0);
    free(buffer);
}

/* What does not fit makes the filter return 0, and leaves the buffer alone. */
static void check_refused(unsigned flags, size_t n_values, const unsigned *values, size_t n_bytes,
                          void *bytes) {
    size_t room = n_bytes;
    void *buffer = bytes;
    CU_ASSERT(kv_filter_class.filter(flags, n_values, values, n_bytes, &room, &buffer) == 0);
    CU_ASSERT(buffer == bytes && room == n_bytes);
}

static void test_misfits(void) {
    const kv_chunk_shape chunk = {DTYPE_F32, CHUNK_ROWS, N_HEADS, HEAD_DIM};
    const unsigned good[] = {0, CHUNK_ROWS, N_HEADS, HEAD_DIM};
    uint8_t *frame = malloc(rows_frame_max_bytes(&chunk));
    size_t n = rows_frame_encode(KV_CODEC_LOSSLESS, &chunk, rows, frame);
    check_refused(H5Z_FLAG_REVERSE, 3, good, n, frame);
    check_refused(H5Z_FLAG_REVERSE, 0, NULL, n, frame);
    const unsigned wrong[][4] = {
        {2, CHUNK_ROWS, N_HEADS, HEAD_DIM},
        {1, CHUNK_ROWS, N_HEADS, HEAD_DIM},
        {0, CHUNK_ROWS - 1, N_HEADS, HEAD_DIM},
        {0, CHUNK_ROWS, N_HEADS + 1, HEAD_DIM},
        {0, CHUNK_ROWS, N_HEADS, 0},
        {0, UINT32_MAX, N_HEADS, HEAD_DIM},
        {0, INT32_MAX, INT32_MAX, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        check_refused(H5Z_FLAG_REVERSE, 4, wrong[i], n, frame);
    for (size_t i = 0; i < n; i += n / 100) {
        frame[i] ^= 0x10;
        check_refused(H5Z_FLAG_REVERSE, 4, good, n, frame);
        frame[i] ^= 0x10;
    }
    check_refused(H5Z_FLAG_REVERSE, 4, good, n - 1, frame);
    check_refused(H5Z_FLAG_REVERSE, 4, good, 0, frame);
    check_refused(0, 4, good, kv_chunk_bytes(&chunk) - 1, rows);
    free(frame);
}

static void test_damage_fails_the_read(void) {
    hid_t file = create_file("damaged.h5"), dataset = write_rows(file, "x", KV_CODEC_LOSSLESS);
    const hsize_t second[3] = {CHUNK_ROWS, 0, 0};
    const char junk[100] = "not a frame";
    CU_ASSERT(H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, second, sizeof junk, junk) >= 0);
    H5Dclose(dataset);
    dataset = H5Dopen2(file, "x", H5P_DEFAULT);
    float *back = calloc(N_ROWS * ROW, sizeof *back);
    CU_ASSERT(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, back) < 0);
    free(back);
    H5Dclose(dataset);
    H5Fclose(file);
}

static int write_example(const char *path, const char *plain_path) {
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    bool is_good = H5Dclose(write_rows(file, "lossless", KV_CODEC_LOSSLESS)) >= 0;
    is_good &= H5Dclose(write_rows(file, "none", KV_CODEC_NONE)) >= 0;
    is_good &= H5Fclose(file) >= 0;
    FILE *plain = fopen(plain_path, "wb");
    is_good &= plain && fwrite(rows, sizeof rows, 1, plain) == 1 && fclose(plain) == 0;
    return !is_good;
}

int main(int argc, char **argv) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    make_rows();
    if (kv_filter_register() != STATUS_OK) return 1;
    if (argc == 3) return write_example(argv[1], argv[2]);
    CU_TestInfo tests[] = {
        {"frames are read as plain rows", test_frames_are_read},
        {"rows that a frame lacks read as zeros", test_missing_rows_are_zeros},
        {"HDF5 encodes what it writes", test_hdf5_encodes},
        {"and what is of several layers", test_hdf5_encodes_joint},
        {"what does not fit is refused", test_misfits},
        {"a damaged frame fails the read", test_damage_fails_the_read},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "HDF5 filter", tests);
}
