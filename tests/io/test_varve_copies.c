/* tests/io/test_varve_copies.c: tokens of a chunk of the codec kvarve that copy others in the first layer:
 * where they do and where they must not, what comes back, and lists of them that are damaged; and chunks of
 * before there were any. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/codec/kv_codec.h"
#include "io/codec/varve_device.h"
#include "io/codec/varve_payload.h"
#include "io/codec/varve_private.h"
#include "io/files.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/varve_samples.h"

/* A chunk in one plane or two, and what it was made from. */
typedef struct coded {
    const varve_tables *tables;
    varve_chunk chunk;
    int n_planes;
    void *elements;
    text_buffer bytes[VARVE_PLANES];
    varve_report reports[VARVE_PLANES];
} coded;

static size_t part_bytes(const coded *c) {
    return (size_t)c->chunk.n_tokens * varve_token_bytes(&c->tables->shape, c->chunk.type);
}

static coded encode(const varve_tables *t, const varve_coding *how, const varve_chunk *chunk,
                    const kv_token *tokens, void *elements) {
    coded c = {.tables = t, .chunk = *chunk, .n_planes = how->n_planes, .elements = elements};
    varve_encode(t, how, chunk, tokens,
                 (char *)elements + (size_t)chunk->first_layer * N_KV_PARTS * part_bytes(&c), c.bytes,
                 c.reports);
    return c;
}

static void coded_free(coded *c) {
    for (int i = 0; i < VARVE_PLANES; i++)
        free(c->bytes[i].data);
    free(c->elements);
}

static void *decode(const coded *c, int n_planes) {
    const varve_plane planes[] = {{c->bytes[0].data, c->bytes[0].n}, {c->bytes[1].data, c->bytes[1].n}};
    void *back = mem_new((size_t)c->chunk.n_layers * N_KV_PARTS, part_bytes(c));
    CHECK_OK(varve_decode(c->tables, planes, n_planes, &c->chunk, back));
    return back;
}

/* The payload's list, settled tile by tile as decoders do: NULL sources where there is none. */
static varve_payload read_payload(const coded *c) {
    varve_payload p;
    CU_ASSERT(varve_payload_open(&c->tables->shape, &(varve_plane){c->bytes[0].data, c->bytes[0].n}, 1,
                                 &c->chunk, &p));
    return p;
}

static int count_copies(const coded *c) {
    varve_payload p = read_payload(c);
    int n = 0;
    for (int i = 0; p.copies.sources && i < c->chunk.n_tokens; i++)
        n += p.copies.sources[i] >= 0;
    varve_payload_close(&p);
    return n;
}

/* ---- texts ---- */

enum { MOST_TOKENS = 300, N_TEXTS = 5 };

/* All of one token, two by turns, none again, as texts are, and the same two from far. */
static void make_text(int text, int n_tokens, int *words) {
    uint64_t state = 7;
    for (int i = 0; i < n_tokens; i++)
        switch (text) {
        case 0:
            words[i] = 0;
            break;
        case 1:
            words[i] = i % 2;
            break;
        case 2:
            words[i] = i;
            break;
        case 3:
            words[i] = (int)(harness_random(&state) % 40);
            if (words[i] > i) words[i] = i;
            break;
        default:
            words[i] = i < n_tokens / 2 ? i : i - n_tokens / 2;
        }
}

/* How many of them could copy: the first tokens are exact, and copies are of one grade. */
static int count_repeats(const int *words, const kv_token *tokens, int n_tokens) {
    bool seen[VARVE_GRADES][MOST_TOKENS] = {{false}};
    int n = 0;
    for (int i = VARVE_EXACT_POSITIONS; i < n_tokens; i++) {
        const int last = i / VARVE_TILE * VARVE_TILE + VARVE_TILE - 1;
        const int grade = varve_grade(tokens[last < n_tokens ? last : n_tokens - 1].age);
        n += seen[grade][words[i]];
        seen[grade][words[i]] = true;
    }
    return n;
}

/* V of a copy is that of its source, bit for bit, in whatever planes it is decoded. */
static void check_copies(const coded *c, int n_planes) {
    char *back = decode(c, n_planes);
    varve_payload p = read_payload(c);
    const size_t row = part_bytes(c) / (size_t)c->chunk.n_tokens;
    int n_wrong = 0;
    for (int i = 0; p.copies.sources && i < c->chunk.n_tokens; i++) {
        const int source = p.copies.sources[i];
        const char *v = back + part_bytes(c);
        if (source >= 0) n_wrong += memcmp(v + (size_t)i * row, v + (size_t)source * row, row) != 0;
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    double squares = 0, errors = 0; /* of keys, which turn, and of values: about as it says */
    kv_chunk_compare(c->chunk.type, c->elements, back,
                     part_bytes(c) * N_KV_PARTS * (size_t)c->chunk.n_layers / dtype_bytes(c->chunk.type),
                     &squares, &errors);
    const varve_report *r = &c->reports[n_planes - 1];
    if (r->n_numbers > 100) CU_ASSERT(errors / squares < 2 * r->errors / r->squares);
    varve_payload_close(&p);
    free(back);
}

static void check_text(const varve_tables *t, varve_kind kind, dtype type, int n_tokens, int n_behind,
                       int text) {
    const varve_chunk chunk = {type, n_tokens, 0, kind == VARVE_FAST ? 1 : N_LAYERS};
    kv_token *tokens = make_tokens(n_tokens, 0, n_behind);
    coded all[VARVE_PLANES];
    int words[MOST_TOKENS];
    make_text(text, n_tokens, words);
    for (int i = 0; i < VARVE_PLANES; i++) {
        all[i] = encode(t, &(varve_coding){kind, -3, i + 1}, &chunk, tokens,
                        make_words(&t->shape, type, n_tokens, words, USUAL_NOISE, 8));
        const int n = count_copies(&all[i]), most = count_repeats(words, tokens, n_tokens);
        CU_ASSERT(n <= most);
        CU_ASSERT(most < 20 || 10 * n >= 9 * most); /* of few, the list would cost more */
        for (int n_planes = 1; n_planes <= i + 1; n_planes++)
            check_copies(&all[i], n_planes);
    }
    char *one = decode(&all[0], 1), *both = decode(&all[1], 2);
    CU_ASSERT(memcmp(one, both, (size_t)chunk.n_layers * N_KV_PARTS * part_bytes(&all[0])) == 0);
    free(one);
    free(both);
    for (int i = 0; i < VARVE_PLANES; i++)
        coded_free(&all[i]);
    free(tokens);
}

static void texts(void) {
    static const varve_shape shapes[] = {{9, 8}, {5, 64}, {1, 64}};
    static const int tokens[] = {1, 33, 100, MOST_TOKENS};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes - harness_is_slow(); i++) {
        varve_tables t = make_tables(&shapes[i]);
        for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++)
            for (int text = 0; text < N_TEXTS; text++)
                for (int kind = 0; kind < N_VARVE_KINDS; kind++)
                    check_text(&t, (varve_kind)kind, k % 2 ? DTYPE_BF16 : DTYPE_F32, tokens[k],
                               text % 2 ? 1000 : 0, text);
        varve_tables_free(&t);
    }
}

/* ---- where there is none ---- */

static coded encode_words(const varve_tables *t, const varve_chunk *chunk, const int *words) {
    kv_token *tokens = make_tokens(chunk->n_tokens, 0, 1000);
    coded c = encode(t, &(varve_coding){VARVE_SMALL, -3, 1}, chunk, tokens,
                     make_words(&t->shape, chunk->type, chunk->n_tokens, words, USUAL_NOISE, 8));
    free(tokens);
    return c;
}

/* Values alone do not say that tokens are alike: keys could differ, by their positions. */
static void other_keys(const varve_tables *t) {
    const int n = MOST_TOKENS;
    const varve_chunk chunk = {DTYPE_F32, n, 0, N_LAYERS};
    kv_token *tokens = make_tokens(n, 0, 1000);
    float *elements = make_elements(&t->shape, DTYPE_F32, n, n, USUAL_NOISE, 8);
    const size_t row = (size_t)t->shape.n_heads * (size_t)t->shape.width;
    for (size_t i = 1; i < (size_t)n; i++)
        memcpy(elements + ((size_t)n + i) * row, elements + (size_t)n * row, row * sizeof *elements);
    coded c = encode(t, &(varve_coding){VARVE_SMALL, -3, 1}, &chunk, tokens, elements);
    CU_ASSERT_EQUAL(count_copies(&c), 0);
    coded_free(&c);
    free(tokens);
}

/* Only in the model's first layer; not of a token that is kept; and not where the list would cost more. */
static void no_copies(void) {
    const varve_shape s = {2, 16};
    varve_tables t = make_tables(&s);
    int words[MOST_TOKENS];
    other_keys(&t);
    make_text(0, MOST_TOKENS, words);
    coded later = encode_words(&t, &(varve_chunk){DTYPE_F32, MOST_TOKENS, 1, 2}, words);
    CU_ASSERT_EQUAL(count_copies(&later), 0);
    coded_free(&later);
    t.layers[0].sink_norm = 1e9f; /* all are sinks there */
    coded sinks = encode_words(&t, &(varve_chunk){DTYPE_F32, MOST_TOKENS, 0, N_LAYERS}, words);
    CU_ASSERT(count_copies(&sinks) == 0 && sinks.reports[0].n_sinks >= MOST_TOKENS - VARVE_EXACT_POSITIONS);
    coded_free(&sinks);
    t.layers[0].sink_norm = 0;
    make_text(2, MOST_TOKENS, words);
    words[200] = 100;
    coded dear = encode_words(&t, &(varve_chunk){DTYPE_F32, MOST_TOKENS, 0, N_LAYERS}, words);
    CU_ASSERT_EQUAL(count_copies(&dear), 0);
    words[200] = 200;
    coded none = encode_words(&t, &(varve_chunk){DTYPE_F32, MOST_TOKENS, 0, N_LAYERS}, words);
    CU_ASSERT(dear.bytes[0].n < none.bytes[0].n + 20);
    coded alone = encode_words(&t, &(varve_chunk){DTYPE_F32, MOST_TOKENS, 0, 1}, words);
    for (int i = 101; i < 140; i++)
        words[i] = 100;
    coded many = encode_words(&t, &(varve_chunk){DTYPE_F32, MOST_TOKENS, 0, 1}, words);
    CU_ASSERT_EQUAL(count_copies(&many), 39);
    CU_ASSERT(many.bytes[0].n < alone.bytes[0].n);
    coded_free(&dear);
    coded_free(&none);
    coded_free(&alone);
    coded_free(&many);
    varve_tables_free(&t);
}

/* ---- damage ---- */

/* The chunk with another list. */
static text_buffer with_list(const coded *c, const varve_copies *list) {
    varve_copies own;
    text_buffer out = {0}, old = {0};
    varve_payload p = read_payload(c);
    const size_t n_tiles = ((size_t)c->chunk.n_tokens - 1) / VARVE_TILE + 1;
    const size_t at = sizeof(varve_head) + p.head.n_runs * sizeof(varve_run) + (n_tiles + 3) / 4 * 4;
    varve_copies_open(c->chunk.n_tokens, &own);
    memcpy(own.sources, p.copies.sources, (size_t)c->chunk.n_tokens * sizeof *own.sources);
    varve_copies_append(&own, &old);
    text_append(&out, c->bytes[0].data, at);
    CU_ASSERT(memcmp(c->bytes[0].data + at, old.data, old.n) == 0);
    varve_copies_append(list, &out);
    text_append(&out, c->bytes[0].data + at + old.n, c->bytes[0].n - at - old.n);
    free(old.data);
    varve_copies_close(&own);
    varve_payload_close(&p);
    return out;
}

/* Neither decoder takes it. */
static void check_refused(const coded *c, const text_buffer *bytes) {
    const varve_plane plane = {bytes->data, bytes->n};
    void *back = mem_new((size_t)c->chunk.n_layers * N_KV_PARTS, part_bytes(c));
    text_buffer room = {0};
    varve_job job;
    CHECK_REFUSED(varve_decode(c->tables, &plane, 1, &c->chunk, back), "damaged");
    CHECK_REFUSED(varve_job_make(c->tables, &plane, 1, &c->chunk, &room, &job), "damaged");
    free(room.data);
    free(back);
}

/* Token 50, a copy, gets another source; or another token a source that is good. */
static void damaged(void) {
    enum { N = 200, COPY = 50, NOT_CODED = 60, OTHER_GRADE = 190 };
    static const int others[][2] = {
        {COPY, COPY},      /* itself, */
        {COPY, COPY + 2},  /* a later one, */
        {COPY, N + 3},     /* what is not there, */
        {COPY, 40},        /* a copy, */
        {COPY, NOT_CODED}, /* a token that is kept, */
        {OTHER_GRADE, 6},  /* one of a coarser tile; */
        {NOT_CODED, 6},    /* and a token that is kept copies */
    };
    const varve_shape s = {2, 16};
    const varve_chunk chunk = {DTYPE_F32, N, 0, N_LAYERS};
    varve_tables t = make_tables(&s);
    kv_token *tokens = make_tokens(N, 0, 0);
    int words[N];
    for (int i = 0; i < N; i++)
        words[i] = i % 8;
    float *elements = make_words(&s, DTYPE_F32, N, words, USUAL_NOISE, 8);
    elements[NOT_CODED * s.n_heads * s.width] = INFINITY; /* of K in layer 0 */
    coded c = encode(&t, &(varve_coding){VARVE_SMALL, -3, 1}, &chunk, tokens, elements);
    varve_copies list;
    varve_copies_open(N, &list);
    for (size_t i = 0; i < 1 + sizeof others / sizeof *others; i++) {
        varve_payload p = read_payload(&c);
        CU_ASSERT_FATAL(p.copies.sources != NULL);
        memcpy(list.sources, p.copies.sources, N * sizeof *list.sources);
        CU_ASSERT(list.sources[COPY] >= 0 && list.sources[40] >= 0 && list.sources[OTHER_GRADE] >= 0);
        CU_ASSERT(list.sources[6] < 0);
        varve_payload_close(&p);
        if (i > 0) list.sources[others[i - 1][0]] = others[i - 1][1];
        text_buffer bytes = with_list(&c, &list);
        if (i > 0)
            check_refused(&c, &bytes);
        else
            CU_ASSERT(bytes.n == c.bytes[0].n && memcmp(bytes.data, c.bytes[0].data, bytes.n) == 0);
        free(bytes.data);
    }
    text_buffer beyond = with_list(&c, &list), cut = {mem_copy_text(c.bytes[0].data, 60), 60, 60};
    const size_t at = sizeof(varve_head) + sizeof(varve_run) + 8 + 6 * sizeof(uint32_t);
    beyond.data[at + 3] = (char)0x80; /* the last lane of the last tile, of which there are 8 */
    check_refused(&c, &beyond);
    check_refused(&c, &cut);
    uint64_t state = 9;
    void *back = mem_new((size_t)N_LAYERS * N_KV_PARTS, part_bytes(&c));
    for (int i = 0; i < (harness_is_slow() ? 1000 : 5000);
         i++) { /* whatever else there is, nothing goes astray */
        char *bytes = mem_copy_text(c.bytes[0].data, c.bytes[0].n);
        bytes[harness_random(&state) % 250] = (char)harness_random(&state);
        (void)varve_decode(&t, &(varve_plane){bytes, c.bytes[0].n}, 1, &chunk, back);
        free(bytes);
    }
    free(back);
    free(beyond.data);
    free(cut.data);
    varve_copies_close(&list);
    coded_free(&c);
    free(tokens);
    varve_tables_free(&t);
}

/* ---- chunks of earlier versions ---- */

/* A file of the fuzzer's: tables' bytes (4), tables, and a frame. */
static void check_earlier(const char *name, uint64_t digest) {
    char path[4096], *bytes = NULL;
    size_t n = 0;
    uint32_t n_tables;
    int32_t shape[3];
    kv_tables *t = NULL;
    snprintf(path, sizeof path, "%s/tests/fuzz/corpus/kv_coded/%s", harness_source_dir(), name);
    CHECK_OK(file_read_all(path, 1 << 20, &bytes, &n));
    memcpy(&n_tables, bytes, sizeof n_tables);
    const char *frame = bytes + sizeof n_tables + n_tables;
    const size_t n_frame = n - sizeof n_tables - n_tables;
    CHECK_OK(kv_tables_parse(bytes + sizeof n_tables, n_tables, &t));
    const kv_frame_claim claim = kv_frame_look(frame, n_frame);
    memcpy(shape, frame + 12, sizeof shape);
    const kv_chunk chunk = {.shape = {frame[11] ? DTYPE_BF16 : DTYPE_F32, shape[0], shape[1], shape[2]},
                            .first_layer = claim.first_layer,
                            .n_layers = claim.n_layers,
                            .part = claim.part,
                            .n_parts = claim.n_parts};
    char *elements = mem_new(1, kv_chunk_all_bytes(&chunk));
    CHECK_OK(kv_frame_decode(frame, n_frame, t, &chunk, elements));
    const uint64_t found = XXH3_64bits(elements, kv_chunk_all_bytes(&chunk));
    if (found != digest) printf("%s: 0x%016llx\n", name, (unsigned long long)found);
    CU_ASSERT_EQUAL(found, digest);
    free(elements);
    free(bytes);
    kv_tables_free(t);
}

static void earlier(void) {
    check_earlier("fast", 0x9844de45d217ff67);
    check_earlier("fast-base", 0x9844de45d217ff67);
    check_earlier("fast-own-levels", 0x7aefcb74e5dc7169);
    check_earlier("small", 0x319110777be63783);
    check_earlier("small-base", 0x9159ae48f26aee7e);
    check_earlier("small-own-levels", 0x1d6e2ab1a3ecb8de);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"texts", texts},     {"no_copies", no_copies}, {"damaged", damaged},
        {"earlier", earlier}, CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "varve_copies", tests);
}
