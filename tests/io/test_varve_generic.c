/* tests/io/test_varve_generic.c: generic tables of the codec kvarve: their file, what is coded by them, and
 * that a basis which is not there does what the identity does. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/codec/kv_codec.h"
#include "io/codec/varve_payload.h"
#include "tests/fixtures/generic_tables.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/varve_samples.h"

static const varve_shape shape = {5, 64}; /* in two blocks */

static text_buffer make_file(void) {
    text_buffer file = {0};
    append_generic(&shape, &file);
    return file;
}

/* ---- the file ---- */

static status parse(const text_buffer *file) {
    kv_tables *t = NULL;
    status st = kv_tables_parse(file->data, file->n, &t);
    if (st == STATUS_OK) kv_tables_free(t);
    return st;
}

/* Bytes at a place are others, and its digest is right. */
static void check_changed(size_t at, const void *bytes, size_t n, const char *why) {
    text_buffer file = make_file();
    memcpy(file.data + at, bytes, n);
    const uint64_t digest = XXH3_64bits(file.data, file.n - sizeof digest);
    memcpy(file.data + file.n - sizeof digest, &digest, sizeof digest);
    CHECK_REFUSED(parse(&file), why);
    free(file.data);
}

static void files(void) {
    enum { VERSION_AT = 8, LAYERS_AT = 12, HEADS_AT = 16, FREQUENCIES_AT = 40 };
    const size_t scales_at = FREQUENCIES_AT + (size_t)shape.width / 2 * sizeof(float);
    text_buffer file = make_file();
    kv_tables *t = NULL;
    CU_ASSERT_EQUAL(file.n, scales_at + N_LAYERS * sizeof(varve_scale) + sizeof(uint64_t));
    CHECK_OK(kv_tables_parse(file.data, file.n, &t));
    CU_ASSERT(t->cachegen == NULL && t->varve.n_layers == N_LAYERS);
    kv_tables_free(t);
    for (size_t n = 0; n < file.n; n++) {
        char *part = mem_new(n, 1);
        memcpy(part, file.data, n);
        CHECK_REFUSED(parse(&(text_buffer){part, n, n}), "");
        free(part);
    }
    free(file.data);
    check_changed(VERSION_AT, &(uint32_t){4}, sizeof(uint32_t),
                  "tables of version 4, this program reads 2 and 3");
    check_changed(VERSION_AT, &(uint32_t){2}, sizeof(uint32_t), "layer 0");
    check_changed(LAYERS_AT, &(int32_t){4096}, sizeof(int32_t), "cut off or damaged");
    check_changed(HEADS_AT, &(int32_t){1 << 20}, sizeof(int32_t), "cut off or damaged");
    check_changed(FREQUENCIES_AT, &(float){NAN}, sizeof(float), "no numbers");
    check_changed(scales_at, &(float){0}, sizeof(float), "layer 0: generic tables");
    check_changed(scales_at + sizeof(varve_scale), &(float){INFINITY}, sizeof(float),
                  "layer 1: generic tables");
}

/* The same on every machine, as files do not have them. */
static void classes(void) {
    varve_class *all = varve_generic_classes();
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    for (int i = 0; i < VARVE_CLASSES; i++) {
        CU_ASSERT(all[i].is_silent || all[i].starts[2 * all[i].most + 2] == RANS_TOTAL);
        CU_ASSERT(i < 1 || all[i].most >= all[i - 1].most);
        XXH3_64bits_update(state, all[i].starts, sizeof all[i].starts);
    }
    CU_ASSERT(all[0].is_silent && !all[VARVE_UNIT_CLASS].is_silent && all[VARVE_CLASSES - 1].most > 100);
    CU_ASSERT_EQUAL(XXH3_64bits_digest(state), 0x64f45c06c9be6a99);
    XXH3_freeState(state);
    free(all);
}

/* ---- what is coded ---- */

/* Each basis is there, as a matrix. */
static void put_identities(varve_tables *t) {
    for (int layer = 0; layer < t->n_layers; layer++)
        for (int kind = 0; kind < N_VARVE_BASES; kind++)
            for (int i = 0; t->layers[layer].bases[kind] && i < varve_n_bases(&t->shape, (varve_bases)kind);
                 i++) {
                varve_basis *b = &t->layers[layer].bases[kind][i];
                const size_t n = (size_t)b->n;
                b->pairs = mem_new(n * n, sizeof *b->pairs);
                for (size_t j = 0; j < n; j++) /* pairs (j / 2, j / 2): both of them on the diagonal */
                    b->pairs[(j / 2 * n + j / 2 * 2 + j % 2) * 2 + j % 2] = 1 << VARVE_BASIS_BITS;
            }
}

static void check_coded(const kv_tables *t, const varve_tables *dense, varve_kind kind, dtype type,
                        int n_tokens) {
    const varve_chunk chunk = {type, n_tokens, 0, N_LAYERS};
    const size_t n_part = (size_t)n_tokens * varve_token_bytes(&shape, type),
                 n = n_part * N_KV_PARTS * N_LAYERS;
    kv_token *tokens = make_tokens(n_tokens, 0, 1000);
    char *elements = make_elements(&shape, type, n_tokens, n_tokens, USUAL_NOISE, 8), *back = mem_new(1, n),
         *same = mem_new(1, n);
    for (int n_planes = 1; n_planes <= VARVE_PLANES; n_planes++) {
        text_buffer by[2][VARVE_PLANES] = {{{0}}};
        varve_report reports[2][VARVE_PLANES] = {{{.n_numbers = 0}}};
        const varve_coding how = {kind, -3, n_planes};
        varve_encode(&t->varve, &how, &chunk, tokens, elements, by[0], reports[0]);
        varve_encode(dense, &how, &chunk, tokens, elements, by[1], reports[1]);
        varve_plane planes[VARVE_PLANES];
        for (int i = 0; i < n_planes; i++) {
            CU_ASSERT(by[0][i].n == by[1][i].n && memcmp(by[0][i].data, by[1][i].data, by[0][i].n) == 0);
            planes[i] = (varve_plane){by[0][i].data, by[0][i].n};
        }
        for (int i = 1; i <= n_planes; i++) {
            const varve_report *r = &reports[0][i - 1];
            double squares = 0, errors = 0;
            CHECK_OK(varve_decode(&t->varve, planes, i, &chunk, back));
            CHECK_OK(varve_decode(dense, planes, i, &chunk, same));
            CU_ASSERT(memcmp(back, same, n) == 0);
            kv_chunk_compare(type, elements, back, n / dtype_bytes(type), &squares, &errors);
            CU_ASSERT(r->n_numbers < 1000 || errors / squares < 8 * r->errors / r->squares);
            CU_ASSERT(r->n_numbers == 0 || i < n_planes || r->errors / r->n_numbers < 0.3 * 0.5);
        }
        varve_head head;
        memcpy(&head, by[0][0].data, sizeof head);
        CU_ASSERT(n_tokens < 100 || head.kind & VARVE_OWN_LEVELS);
        for (int i = 0; i < VARVE_PLANES; i++) {
            free(by[0][i].data);
            free(by[1][i].data);
        }
    }
    free(tokens);
    free(elements);
    free(back);
    free(same);
}

static void coded(void) {
    static const int tokens[] = {1, 5, 33, 257};
    text_buffer file = make_file();
    kv_tables *t = NULL, *dense = NULL;
    CHECK_OK(kv_tables_parse(file.data, file.n, &t));
    CHECK_OK(kv_tables_parse(file.data, file.n, &dense));
    put_identities(&dense->varve);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        for (int kind = 0; kind < N_VARVE_KINDS; kind++)
            check_coded(t, &dense->varve, (varve_kind)kind, i % 2 ? DTYPE_BF16 : DTYPE_F32, tokens[i]);
    kv_tables_free(t);
    kv_tables_free(dense);
    free(file.data);
}

/* CacheGen has none of them. */
static void no_cachegen(void) {
    enum { VERSION_AT = 8, CODEC_AT = 10, TABLES_AT = 32, LAYER_AT = 40, LEVEL_AT = 46 };
    kv_chunk chunk = kv_chunk_of(&(kv_chunk_shape){DTYPE_F32, 20, shape.n_heads, shape.width}, 1, KV_PART_K);
    text_buffer file = make_file();
    kv_tables *t = NULL;
    CHECK_OK(kv_tables_parse(file.data, file.n, &t));
    float *elements = mem_new(1, kv_chunk_all_bytes(&chunk));
    char *frame = mem_new(1, kv_frame_max_bytes(&chunk));
    const size_t n =
        kv_frame_encode(&(kv_coding){.codec = KV_CODEC_NONE}, t, &chunk, NULL, elements, frame, NULL);
    memcpy(frame + TABLES_AT, &t->digest, sizeof t->digest);
    memcpy(frame + LAYER_AT, (char[]){1, 0, 1, 1}, 4); /* of one layer from the first on, K */
    memcpy(frame + LEVEL_AT, &(int16_t){2}, sizeof(int16_t));
    frame[VERSION_AT] = 2;
    frame[CODEC_AT] = KV_CODEC_CACHEGEN;
    const uint64_t checksum = kv_frame_checksum(frame, n);
    memcpy(frame + n - sizeof checksum, &checksum, sizeof checksum);
    CHECK_REFUSED(kv_frame_decode(frame, n, t, &chunk, elements), "generic tables have none");
    free(frame);
    free(elements);
    kv_tables_free(t);
    free(file.data);
}

/* ---- scales ---- */

/* The deviation from the means, also of few tokens; of one that is no sink, its size. */
static void scales(void) {
    const varve_shape s = {2, 32};
    const int counts[] = {0, 1, 2, 10, 400};
    float *frequencies = mem_new(16, sizeof *frequencies);
    uint64_t state = 5;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const size_t n = (size_t)(VARVE_EXACT_POSITIONS + counts[i]) * 64;
        float *x[N_KV_PARTS];
        for (int part = 0; part < N_KV_PARTS; part++) {
            x[part] = mem_new(n, sizeof(float));
            for (size_t k = 0; k < n; k++)
                x[part][k] = (part ? 0.1f : 10.0f) * harness_random_normal(&state);
        }
        const varve_samples samples = {DTYPE_F32,
                                       VARVE_EXACT_POSITIONS + counts[i],
                                       VARVE_EXACT_POSITIONS + counts[i],
                                       {x[0], x[1]},
                                       {1, 1}};
        const varve_scale scale = varve_build_scale(&s, &samples, frequencies);
        CU_ASSERT(fabsf(scale.units[KV_PART_K] / 10 - 1) < 0.3f);
        CU_ASSERT(fabsf(scale.units[KV_PART_V] / 0.1f - 1) < 0.3f);
        free(x[0]);
        free(x[1]);
    }
    free(frequencies);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"files", files},   {"classes", classes}, {"coded", coded}, {"no_cachegen", no_cachegen},
        {"scales", scales}, CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "varve_generic", tests);
}
