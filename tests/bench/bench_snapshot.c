/* tests/bench/bench_snapshot.c: how fast K and V get to a disk and back, beside the plainest ways to do that.
 *
 *     bench_snapshot SNAPSHOT FOLDER [MIB [REPEATS]]
 *
 * The K and V of SNAPSHOT, over and over until there are MIB of them (512), are written to FOLDER and read
 * again in several ways, in turn, from another one each time, REPEATS times (5); each figure is the median,
 * in GB/s of K and V. Every write ends with an fsync; every read begins with nothing of the file in memory,
 * where the system allows to drop it. Then the codecs alone, chunk by chunk in memory, on one thread. */
#include <fcntl.h>
#include <hdf5.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/h5.h"
#include "io/snapshot/manifest.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "tests/fixtures/rows.h"

enum { BLOCK_BYTES = 1 << 20, MOST_REPEATS = 99 };

/* [layer][part][row]: the rows of the snapshot. */
typedef struct rows {
    manifest m;
    char *data;
    size_t row_bytes;
    int64_t n;     /* in memory */
    int64_t n_all; /* that are written: the same again and again */
} rows;

typedef struct bench {
    rows rows;
    const char *folder;
    char path[4096];
    size_t n_bytes; /* of K and V */
    char *block;
    segment_info info;
} bench;

static void check(status st) {
    if (st == STATUS_OK) return;
    fprintf(stderr, "bench_snapshot: %s\n", status_text());
    exit(status_exit_code(st));
}

static void check_system(bool good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

/* ---- the data ---- */

static char *row_at(const rows *r, int layer, int part, int64_t row) {
    return r->data +
           (((size_t)layer * N_KV_PARTS + (size_t)part) * (size_t)r->n + (size_t)row) * r->row_bytes;
}

static void read_rows(const char *dir, rows *r) {
    check(manifest_read(dir, &r->m));
    r->row_bytes = (size_t)r->m.n_kv_heads * (size_t)r->m.head_dim * dtype_bytes(r->m.type);
    r->n = r->m.n_rows;
    r->data = mem_new((size_t)r->m.n_layers * N_KV_PARTS * (size_t)r->n, r->row_bytes);
    for (int64_t i = 0; i < r->m.n_segments; i++) {
        const segment_info *info = &r->m.segments[i];
        segment *s;
        check(segment_open(dir, NULL, info, NULL, &s));
        for (int layer = info->first_layer; layer < info->last_layer; layer++)
            for (int part = 0; part < N_KV_PARTS; part++)
                check(segment_read(s, layer, (kv_part)part, info->row0, info->n_rows,
                                   row_at(r, layer, part, info->row0)));
        segment_close(s);
    }
}

/* Rows of a segment that is written: the snapshot's, again and again. */
static status give_rows(void *context, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out) {
    const rows *r = context;
    for (int64_t at = row0, n; at < row0 + n_rows; at += n) {
        n = r->n - at % r->n < row0 + n_rows - at ? r->n - at % r->n : row0 + n_rows - at;
        memcpy((char *)out + (size_t)(at - row0) * r->row_bytes, row_at(r, layer, part, at % r->n),
               (size_t)n * r->row_bytes);
    }
    return STATUS_OK;
}

static status give_chunk(void *context, const kv_chunk *chunk, int64_t row0, void *out) {
    return rows_read_chunk(give_rows, context, chunk, row0, out);
}

/* ---- ways to write ---- */

static void flush_and_close(int fd) {
    check_system(fsync(fd) == 0, "fsync");
    close(fd);
}

static void write_plainly(bench *b, int n_threads) {
    (void)n_threads;
    int fd = open(b->path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    check_system(fd >= 0, b->path);
    for (size_t at = 0; at < b->n_bytes; at += BLOCK_BYTES)
        check_system(write(fd, b->block, BLOCK_BYTES) == BLOCK_BYTES, "write");
    flush_and_close(fd);
}

/* One contiguous dataset for each layer's K and V, rows as they are. */
static void write_plain_hdf5(bench *b, int n_threads) {
    (void)n_threads;
    const rows *r = &b->rows;
    h5_lock();
    hid_t file = H5Fcreate(b->path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hsize_t dims[] = {(hsize_t)r->n_all, r->row_bytes}, count[] = {0, r->row_bytes}, start[] = {0, 0};
    hid_t space = H5Screate_simple(2, dims, NULL);
    for (int i = 0; i < r->m.n_layers * N_KV_PARTS; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d", i);
        hid_t set = H5Dcreate2(file, name, H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        for (start[0] = 0; start[0] < dims[0]; start[0] += count[0]) {
            count[0] = dims[0] - start[0] < (hsize_t)r->n ? dims[0] - start[0] : (hsize_t)r->n;
            hid_t memory = H5Screate_simple(2, count, NULL);
            H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
            check_system(H5Dwrite(set, H5T_STD_U8LE, memory, space, H5P_DEFAULT,
                                  row_at(r, i / N_KV_PARTS, i % N_KV_PARTS, 0)) >= 0,
                         "H5Dwrite");
            H5Sclose(memory);
        }
        H5Dclose(set);
    }
    H5Sclose(space);
    H5Fclose(file);
    h5_unlock();
    flush_and_close(open(b->path, O_RDONLY));
}

static void write_segment(bench *b, kv_codec codec, int n_threads) {
    const manifest *m = &b->rows.m;
    b->info = (segment_info){
        .last_layer = m->n_layers,
        .n_rows = b->rows.n_all,
        .n_kv_heads = m->n_kv_heads,
        .head_dim = m->head_dim,
        .type = m->type,
        .codec = codec,
        .chunk_tokens = segment_chunk_tokens(codec, m->type, m->n_kv_heads, m->head_dim, b->rows.n_all),
    };
    segment_make_name(&b->info, codec + 1);
    const segment_source source = {.read = give_chunk, .context = &b->rows};
    check(segment_write(b->folder, &b->info, &source, n_threads));
    snprintf(b->path, sizeof b->path, "%s/%s", b->folder, b->info.name);
}

static void write_raw_segment(bench *b, int n_threads) {
    write_segment(b, KV_CODEC_NONE, n_threads);
}

static void write_lossless_segment(bench *b, int n_threads) {
    write_segment(b, KV_CODEC_LOSSLESS, n_threads);
}

/* ---- ways to read ---- */

static void forget(const char *path) {
    int fd = open(path, O_RDONLY);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static void read_plainly(bench *b, int n_threads) {
    (void)n_threads;
    int fd = open(b->path, O_RDONLY);
    check_system(fd >= 0, b->path);
    while (read(fd, b->block, BLOCK_BYTES) > 0) {
    }
    close(fd);
}

static void read_segment(bench *b, int n_threads) {
    const segment_info *info = &b->info;
    segment *s;
    check(segment_open(b->folder, NULL, info, NULL, &s));
#pragma omp parallel num_threads(n_threads)
    {
        char *out = mem_new((size_t)info->chunk_tokens, b->rows.row_bytes);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < segment_count_entries(info); i++)
            check(segment_read_chunk(s, i, KV_ALL_PLANES, out));
        free(out);
    }
    segment_close(s);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_size);
    return values[n / 2];
}

/* ---- the codecs alone ---- */

typedef struct codec_figures {
    double encode_seconds[MOST_REPEATS], decode_seconds[MOST_REPEATS], frame_bytes;
} codec_figures;

/* Every whole chunk of the snapshot, one after the other: what is timed is the codec, and reading K and V. */
static void run_codec(const rows *r, const kv_chunk_shape *shape, kv_codec codec, int repeat,
                      codec_figures *f) {
    uint8_t *frame = mem_new(1, rows_frame_max_bytes(shape));
    void *elements = mem_new(1, kv_chunk_bytes(shape));
    f->encode_seconds[repeat] = f->decode_seconds[repeat] = f->frame_bytes = 0;
    for (int i = 0; i < r->m.n_layers * N_KV_PARTS; i++)
        for (int64_t row = 0; row + shape->n_tokens <= r->n; row += shape->n_tokens) {
            const char *chunk = row_at(r, i / N_KV_PARTS, i % N_KV_PARTS, row);
            double begin = clock_seconds();
            size_t n_bytes = rows_frame_encode(codec, shape, chunk, frame);
            double middle = clock_seconds();
            check(rows_frame_decode(frame, n_bytes, shape, elements));
            f->encode_seconds[repeat] += middle - begin;
            f->decode_seconds[repeat] += clock_seconds() - middle;
            f->frame_bytes += (double)n_bytes;
            check_system(memcmp(elements, chunk, kv_chunk_bytes(shape)) == 0, "decode");
        }
    free(elements);
    free(frame);
}

static void bench_codecs(const bench *b, int repeats) {
    static codec_figures figures[KV_CODEC_LOSSLESS + 1];
    const rows *r = &b->rows;
    const kv_chunk_shape shape = {r->m.type, b->info.chunk_tokens, r->m.n_kv_heads, r->m.head_dim};
    double bytes =
        (double)(r->n / shape.n_tokens * r->m.n_layers * N_KV_PARTS) * (double)kv_chunk_bytes(&shape);
    for (int repeat = 0; repeat < repeats; repeat++)
        for (int codec = 0; codec <= KV_CODEC_LOSSLESS; codec++)
            run_codec(r, &shape, (kv_codec)codec, repeat, &figures[codec]);
    printf("\n%-32s %8s %12s %12s %23s\n", "codec, checksum included", "threads", "encode GB/s",
           "decode GB/s", "smaller");
    for (int codec = 0; codec <= KV_CODEC_LOSSLESS; codec++) {
        codec_figures *f = &figures[codec];
        printf("%-32s %8d %12.2f %12.2f %22.2fx\n", kv_codec_name((kv_codec)codec), 1,
               bytes / median(f->encode_seconds, repeats) / 1e9,
               bytes / median(f->decode_seconds, repeats) / 1e9, bytes / f->frame_bytes);
    }
}

/* ---- the table ---- */

typedef struct way {
    const char *name;
    void (*write)(bench *, int n_threads);
    void (*read)(bench *, int n_threads); /* of what was just written */
    bool all_threads;
    double write_seconds[MOST_REPEATS], read_seconds[MOST_REPEATS];
    double file_bytes;
} way;

static void run_way(bench *b, way *w, int repeat, int n_threads) {
    snprintf(b->path, sizeof b->path, "%s/bench_snapshot.tmp", b->folder);
    double begin = clock_seconds();
    w->write(b, w->all_threads ? n_threads : 1);
    w->write_seconds[repeat] = clock_seconds() - begin;
    forget(b->path);
    begin = clock_seconds();
    w->read(b, w->all_threads ? n_threads : 1);
    w->read_seconds[repeat] = clock_seconds() - begin;
    int fd = open(b->path, O_RDONLY);
    w->file_bytes = (double)lseek(fd, 0, SEEK_END);
    close(fd);
    unlink(b->path);
}

int main(int argc, char **argv) {
    static way ways[] = {
        {.name = "plain write, as dd conv=fsync", .write = write_plainly, .read = read_plainly},
        {.name = "plain HDF5, contiguous", .write = write_plain_hdf5, .read = read_plainly},
        {.name = "segment, codec none", .write = write_raw_segment, .read = read_segment},
        {.name = "segment, lossless", .write = write_lossless_segment, .read = read_segment},
        {.name = "segment, lossless",
         .write = write_lossless_segment,
         .read = read_segment,
         .all_threads = true},
    };
    enum { N_WAYS = sizeof ways / sizeof *ways };
    if (argc < 3) {
        fprintf(stderr, "usage: bench_snapshot SNAPSHOT FOLDER [MIB [REPEATS]]\n");
        return 2;
    }
    bench b = {.folder = argv[2], .block = mem_new(1, BLOCK_BYTES)};
    size_t mib = argc > 3 ? (size_t)atol(argv[3]) : 512;
    int repeats = argc > 4 ? atoi(argv[4]) : 5, n_threads = omp_get_max_threads();
    if (repeats < 1 || repeats > MOST_REPEATS) repeats = 5;
    read_rows(argv[1], &b.rows);
    size_t token_bytes = (size_t)b.rows.m.n_layers * N_KV_PARTS * b.rows.row_bytes;
    b.rows.n_all = (int64_t)(mib * BLOCK_BYTES / token_bytes);
    b.n_bytes = (size_t)b.rows.n_all * token_bytes / BLOCK_BYTES * BLOCK_BYTES;
    memcpy(b.block, b.rows.data, BLOCK_BYTES);
    for (int repeat = 0; repeat < repeats; repeat++)
        for (int i = 0; i < N_WAYS; i++)
            run_way(&b, &ways[(i + repeat) % N_WAYS], repeat, n_threads);

    printf("%zu MiB of K and V, %d repeats, medians\n\n", mib, repeats);
    printf("%-32s %8s %12s %12s %10s %12s\n", "", "threads", "write GB/s", "read GB/s", "of plain",
           "file MiB");
    for (int i = 0; i < N_WAYS; i++) {
        way *w = &ways[i];
        double bytes = (double)b.n_bytes, plain = median(ways[0].write_seconds, repeats);
        double write = median(w->write_seconds, repeats), read = median(w->read_seconds, repeats);
        printf("%-32s %8d %12.2f %12.2f %9.0f%% %12.1f\n", w->name, w->all_threads ? n_threads : 1,
               bytes / write / 1e9, bytes / read / 1e9, 100 * plain / write, w->file_bytes / BLOCK_BYTES);
    }
    bench_codecs(&b, repeats);
    manifest_free(&b.rows.m);
    free(b.rows.data);
    free(b.block);
    return 0;
}
