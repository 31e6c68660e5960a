/* tests/io/test_cachegen.c: streams of symbols, and the codec of CacheGen with its tables: there and back in
 * all shapes, close to the entropy, exact where it escapes, and damaged in every way. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_tables.h"
#include "kernels/convert.h"
#include "src/study/varve_build.h"
#include "tests/fixtures/harness.h"

/* ---- streams ---- */

/* Symbols of these sizes, drawn by them; `n` ranges. */
static void draw_symbols(const rans_range *ranges, size_t n_ranges, uint64_t *state, rans_range *out,
                         size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t number = harness_random(state) % RANS_TOTAL;
        for (size_t k = 0; k < n_ranges; k++)
            if (number >= ranges[k].start && number < (uint64_t)ranges[k].start + ranges[k].size)
                out[i] = ranges[k];
    }
}

/* How many of a stream's symbols come back. */
static size_t count_right(const rans_range *ranges, size_t n_ranges, const rans_range *symbols, size_t n,
                          const uint8_t *bytes, size_t n_bytes, bool *is_over) {
    rans_decoder d;
    size_t n_right = 0;
    if (!rans_decoder_begin(&d, bytes, n_bytes)) return 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t number = rans_peek(&d, i % RANS_LANES);
        size_t k = 0;
        while (k + 1 < n_ranges && number >= ranges[k + 1].start)
            k++;
        n_right += ranges[k].start == symbols[i].start;
        rans_advance(&d, i % RANS_LANES, ranges[k]);
    }
    *is_over = rans_is_over(&d);
    return n_right;
}

static void streams(void) {
    static const struct {
        int n;
        uint16_t sizes[5];
    } models[] = {
        {1, {4096}}, {2, {1, 4095}}, {2, {2048, 2048}}, {5, {1, 1, 2000, 2093, 1}}, {3, {4000, 95, 1}}};
    uint64_t state = 5;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        rans_range ranges[5];
        double entropy = 0;
        for (int k = 0, start = 0; k < models[m].n; start += models[m].sizes[k++]) {
            ranges[k] = (rans_range){(uint16_t)start, models[m].sizes[k]};
            const double p = (double)models[m].sizes[k] / RANS_TOTAL;
            entropy -= p * log2(p);
        }
        for (size_t n = 0; n <= 100000; n = n * 7 + 1) {
            rans_range *symbols = mem_new(n, sizeof *symbols);
            uint8_t *bytes = mem_new(rans_max_bytes(n), 1);
            draw_symbols(ranges, (size_t)models[m].n, &state, symbols, n);
            const size_t n_bytes = rans_encode(symbols, n, bytes);
            bool is_over = false;
            CU_ASSERT(n_bytes <= rans_max_bytes(n));
            CU_ASSERT_EQUAL(count_right(ranges, (size_t)models[m].n, symbols, n, bytes, n_bytes, &is_over),
                            n);
            CU_ASSERT(is_over);
            if (n > 10000)
                CU_ASSERT(8 * (double)(n_bytes - RANS_HEAD_BYTES) < (double)n * (entropy * 1.02 + 0.01));
            /* Cut anywhere, or longer: it is noticed. */
            if (n_bytes > RANS_HEAD_BYTES) {
                (void)count_right(ranges, (size_t)models[m].n, symbols, n, bytes, n_bytes - 2, &is_over);
                CU_ASSERT(!is_over);
            }
            free(symbols);
            free(bytes);
        }
    }
    rans_decoder d;
    uint8_t few[RANS_HEAD_BYTES] = {0};
    CU_ASSERT(!rans_decoder_begin(&d, few, sizeof few - 1));
}

/* ---- material ---- */

/* Values of a channel: a mean of its own, and what changes slowly. */
static float *make_samples(int64_t n_tokens, int n_channels, uint64_t seed) {
    float *x = mem_new((size_t)n_tokens * (size_t)n_channels, sizeof *x);
    uint64_t state = seed;
    for (int c = 0; c < n_channels; c++) {
        const float scale = (float)(1 + c % 7) / 4;
        float drift = 0;
        for (int64_t t = 0; t < n_tokens; t++) {
            const float noise = (float)(harness_random(&state) % 2001) / 1000 - 1;
            drift = 0.9f * drift + noise;
            x[(size_t)t * (size_t)n_channels + (size_t)c] =
                float_of_bf16(bf16_of_float(scale * drift + (float)(c % 5)));
        }
    }
    return x;
}

static cachegen_tables make_tables(int n_channels) {
    enum { N = 2000, WINDOW = 500 };
    float *samples = make_samples(N, n_channels, 3);
    text_buffer bytes = {0};
    cachegen_tables t = {0};
    cachegen_build(samples, N, WINDOW, n_channels, 1, &bytes);
    byte_reader r = {bytes.data, bytes.n, false};
    CHECK_OK(cachegen_tables_read(&r, &t));
    CU_ASSERT(r.n == 0 && t.n_channels == n_channels && t.bin == 1);
    free(samples);
    free(bytes.data);
    return t;
}

/* The chunk as elements of its type; as many as it has. */
static void *make_elements(const kv_chunk_shape *shape, const float *values) {
    const size_t n = kv_chunk_bytes(shape) / dtype_bytes(shape->type);
    void *elements = mem_new(n, dtype_bytes(shape->type));
    for (size_t i = 0; i < n; i++)
        put_float_at(shape->type, elements, i, values[i]);
    return elements;
}

static float value_at(const kv_chunk_shape *shape, const void *elements, size_t i) {
    return shape->type == DTYPE_F32 ? ((const float *)elements)[i]
                                    : float_of_bf16(((const uint16_t *)elements)[i]);
}

/* ---- there and back ---- */

/* An element may be off by half a bin, or half an anchor's step, and by the rounding of bf16. */
static void check_errors(const cachegen_tables *t, int level, const kv_chunk_shape *shape,
                         const float *values, const void *back) {
    const size_t n_channels = (size_t)t->n_channels;
    double worst = 0;
    for (size_t i = 0; i < (size_t)shape->n_tokens * n_channels; i++) {
        const size_t c = i % n_channels;
        const bool is_anchor = i / n_channels % CACHEGEN_GROUP == 0;
        const float x = values[i], y = value_at(shape, back, i);
        const float half =
            (is_anchor ? t->anchor_units[c] : t->unit * t->bin * cachegen_factors[level - 1]) / 2;
        const double off =
            fabs((double)y - (double)x) - (double)half - fmax(fabs((double)x), fabs((double)y)) / 256;
        if (off > worst) worst = off;
    }
    CU_ASSERT(worst <= 1e-6);
}

static void round_trips(void) {
    static const int shapes[][3] = {{1, 1, 64},   {2, 2, 64},    {10, 3, 64}, {11, 1, 128},
                                    {777, 2, 80}, {2000, 1, 64}, {19, 32, 8}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int f32 = 0; f32 < 2; f32++) {
            const kv_chunk_shape shape = {f32 ? DTYPE_F32 : DTYPE_BF16, shapes[k][0], shapes[k][1],
                                          shapes[k][2]};
            const int n_channels = shape.n_kv_heads * shape.head_dim;
            cachegen_tables t = make_tables(n_channels);
            float *values = make_samples(shape.n_tokens, n_channels, 9);
            void *elements = make_elements(&shape, values), *back = mem_new(1, kv_chunk_bytes(&shape));
            uint8_t *payload = mem_new(1, cachegen_max_bytes(&shape)),
                    *again = mem_new(1, cachegen_max_bytes(&shape));
            size_t before = SIZE_MAX;
            for (int level = 1; level <= CACHEGEN_LEVELS; level++) {
                const size_t n = cachegen_encode(&t, level, &shape, elements, payload);
                CU_ASSERT(n <= cachegen_max_bytes(&shape) && n <= before);
                CU_ASSERT(cachegen_encode(&t, level, &shape, elements, again) == n &&
                          !memcmp(payload, again, n));
                if (CHECK_OK(cachegen_decode(&t, level, payload, n, &shape, back)))
                    check_errors(&t, level, &shape, values, back);
                before = n;
            }
            if (shape.n_tokens > 500) { /* a level's symbols are those that its tables expect */
                const double bits = 8 * (double)before / ((double)shape.n_tokens * n_channels);
                CU_ASSERT(bits > 1 && bits < 2.6);
            }
            free(again);
            free(payload);
            free(back);
            free(elements);
            free(values);
            cachegen_tables_free(&t);
        }
}

/* What no table has is kept to the bit; what follows an anchor like that is coded all the same. */
static void escapes(void) {
    const kv_chunk_shape shape = {DTYPE_BF16, 40, 1, 64};
    static const float odd[] = {INFINITY, -INFINITY, NAN, 1e30f, -3e4f, 1e-30f};
    cachegen_tables t = make_tables(64);
    float *values = make_samples(shape.n_tokens, 64, 4);
    for (size_t i = 0; i < 200; i++)
        values[i * 13 % (40 * 64)] = odd[i % 6];
    uint16_t *elements = make_elements(&shape, values), *back = mem_new(40 * 64, sizeof *back);
    uint8_t *payload = mem_new(1, cachegen_max_bytes(&shape));
    const size_t n = cachegen_encode(&t, 2, &shape, elements, payload);
    int n_odd = 0, n_wrong = 0;
    if (CHECK_OK(cachegen_decode(&t, 2, payload, n, &shape, back)))
        for (size_t i = 0; i < 40 * 64; i++)
            if (!(fabsf(values[i]) < 1e3f)) {
                n_odd++;
                n_wrong += elements[i] != back[i];
            }
    CU_ASSERT(n_odd > 100 && n_wrong == 0);
    free(payload);
    free(back);
    free(elements);
    free(values);
    cachegen_tables_free(&t);
}

/* ---- damage ---- */

/* Whatever the bytes are, a decoder refuses, or gives some numbers, within its own memory. */
static void damaged(void) {
    const kv_chunk_shape shape = {DTYPE_BF16, 33, 1, 64};
    cachegen_tables t = make_tables(64);
    float *values = make_samples(shape.n_tokens, 64, 4);
    void *elements = make_elements(&shape, values), *back = mem_new(1, kv_chunk_bytes(&shape));
    uint8_t *payload = mem_new(1, cachegen_max_bytes(&shape));
    const size_t n = cachegen_encode(&t, 1, &shape, elements, payload);
    int n_refused = 0, n_cut = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t *exact = mem_new(i, 1); /* no byte more: sanitizers see what is read beyond */
        memcpy(exact, payload, i);
        n_cut += cachegen_decode(&t, 1, exact, i, &shape, back) == STATUS_REFUSED;
        free(exact);
        payload[i] ^= 0x10;
        n_refused += cachegen_decode(&t, 1, payload, n, &shape, back) == STATUS_REFUSED;
        payload[i] ^= 0x10;
    }
    CU_ASSERT_EQUAL(n_cut, n);
    CU_ASSERT(n_refused > (int)n * 9 / 10); /* the rest is for the checksum of the frame */
    free(payload);
    free(back);
    free(elements);
    free(values);
    cachegen_tables_free(&t);
}

/* ---- the file of tables ---- */

static void check_file(const text_buffer *file, const char *part) {
    kv_tables *t = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s/t.kvt", harness_temp_dir());
    harness_write_file(path, file->data, file->n);
    if (part)
        CHECK_REFUSED(kv_tables_open(path, &t), part);
    else
        CHECK_OK(kv_tables_open(path, &t));
    kv_tables_free(t);
}

static void tables_files(void) {
    enum { LAYERS = 2, CHANNELS = 16, N = 300 };
    const kv_tables_shape shape = {LAYERS, 2, 8, {7, 8}};
    text_buffer layers = {0}, file = {0};
    varve_counts *counts = mem_new(1, sizeof *counts);
    const linear *l = NULL;
    CHECK_OK(linear_load(&l));
    varve_samples before, varve = {.n_tokens = 0};
    float *samples[LAYERS * N_KV_PARTS];
    for (int layer = 0; layer < LAYERS; layer++) {
        before = varve;
        varve = (varve_samples){.type = DTYPE_F32, .n_tokens = N, .window_tokens = 100, .importance = {1, 1}};
        for (int part = 0; part < N_KV_PARTS; part++) {
            float *x = make_samples(N, CHANNELS, (uint64_t)(layer * N_KV_PARTS + part + 1));
            if (layer == 0 && part == 1)
                memset(x, 0, N * CHANNELS * sizeof *x); /* channels that never change */
            cachegen_build(x, N, 100, CHANNELS, cachegen_bin(layer, LAYERS), &layers);
            samples[layer * N_KV_PARTS + part] = x;
            varve.elements[part] = x;
        }
        varve_build_layer(l, &(varve_shape){2, 8}, &varve, layer ? &before : NULL, (const float[8]){1},
                          counts, &layers);
    }
    varve_append_classes(counts, &layers);
    for (int i = 0; i < LAYERS * N_KV_PARTS; i++)
        free(samples[i]);
    free(counts);
    kv_tables_append(&shape, layers.data, layers.n, &file);
    check_file(&file, NULL);
    for (size_t i = 0; i < file.n; i += i < 200 ? 1 : 37) {
        file.data[i] ^= 4;
        check_file(&file, "t.kvt");
        file.data[i] ^= 4;
        text_buffer cut = {file.data, i, 0};
        check_file(&cut, "t.kvt");
    }
    /* Layers of fewer channels than the head says, under a digest that is right. */
    text_buffer other = {0};
    const kv_tables_shape wide = {LAYERS, 4, 8, {7, 8}}, deep = {LAYERS + 1, 2, 8, {7, 8}};
    kv_tables_append(&wide, layers.data, layers.n, &other);
    check_file(&other, "layer 0: tables of 16 channels, and not of 32");
    other.n = 0;
    kv_tables_append(&deep, layers.data, layers.n, &other);
    check_file(&other, "tables of cachegen");
    other.n = 0;
    kv_tables_append(&(kv_tables_shape){LAYERS - 1, 2, 8, {7, 8}}, layers.data, layers.n, &other);
    check_file(&other, "symbols of kvarve that do not add up");
    other.n = 0;
    text_append(&layers, "", 1);
    kv_tables_append(&shape, layers.data, layers.n, &other);
    check_file(&other, "1 bytes behind the last tables");
    free(other.data);
    free(layers.data);
    free(file.data);
}

static void bins(void) {
    CU_ASSERT(cachegen_bin(0, 30) == 0.5f && cachegen_bin(9, 30) == 0.5f && cachegen_bin(10, 30) == 1);
    CU_ASSERT(cachegen_bin(19, 30) == 1 && cachegen_bin(20, 30) == 1.5f && cachegen_bin(29, 30) == 1.5f);
    CU_ASSERT(cachegen_bin(0, 1) == 0.5f && cachegen_bin(1, 2) == 1);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"streams", streams}, {"bins", bins},       {"round trips", round_trips},
        {"escapes", escapes}, {"damaged", damaged}, {"files of tables", tables_files},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "cachegen", tests);
}
