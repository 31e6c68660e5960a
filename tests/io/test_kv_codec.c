/* Frames of KV chunks: what goes in comes out, bit for bit, on every instruction set; what is wrong is
 * refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/codec/kv_codec.h"
#include "io/codec/kv_lossless.h"
#include "tests/fixtures/frame_book.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/rows.h"

enum { HEADER_BYTES = 48, CHECKSUM_BYTES = 8 };

/* ---- chunks of every kind ---- */

enum { NORMAL, CHANNELS, ALL_EQUAL, ZEROS, RANDOM, ODD_ONES, RISING, N_KINDS };

static uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Infinities, NaNs, subnormals, zeros of both signs, and the largest and smallest numbers. */
static const uint32_t odd_ones[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x7f812345, 0x00010000,
                                    0x807f0001, 0x00000000, 0x80000000, 0x7f7fffff, 0xff7fffff, 0x00800000};

static void fill(int kind, const kv_chunk_shape *shape, void *elements) {
    uint64_t state = 7;
    size_t row = (size_t)shape->n_kv_heads * (size_t)shape->head_dim;
    for (size_t i = 0; i < book_elements(shape); i++) {
        uint64_t random = harness_random(&state);
        uint32_t bits = 0;
        switch (kind) {
        case NORMAL:
            bits = float_bits(harness_random_normal(&state));
            break;
        case CHANNELS:
            bits = float_bits(ldexpf(harness_random_normal(&state), (int)(i % row * 7 % 60)));
            break;
        case ALL_EQUAL:
            bits = float_bits(-1.25f);
            break;
        case RANDOM:
            bits = (uint32_t)random;
            break;
        case ODD_ONES:
            bits = random % 4 ? float_bits(0.5f) : odd_ones[random / 4 % 12];
            break;
        case RISING:
            bits = (uint32_t)i * 0x00810001u;
            break;
        }
        book_put(shape, elements, i, bits);
    }
}

static const kv_chunk_shape shapes[] = {
    {DTYPE_BF16, 1, 1, 1},   {DTYPE_F32, 1, 1, 1},   {DTYPE_BF16, 1, 1, 63},  {DTYPE_BF16, 1, 1, 64},
    {DTYPE_BF16, 5, 1, 13},  {DTYPE_F32, 7, 3, 5},   {DTYPE_BF16, 64, 2, 64}, {DTYPE_F32, 64, 2, 64},
    {DTYPE_BF16, 333, 1, 7}, {DTYPE_F32, 100, 3, 2}, {DTYPE_BF16, 70, 3, 40}, {DTYPE_BF16, 300, 4, 128},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* ---- there and back ---- */

/* A frame in memory of exactly its size, so that a sanitizer sees a step beyond it. */
static uint8_t *encode(kv_codec codec, const kv_chunk_shape *shape, const void *elements, size_t *n_bytes) {
    uint8_t *room = malloc(rows_frame_max_bytes(shape));
    *n_bytes = rows_frame_encode(codec, shape, elements, room);
    CU_ASSERT(*n_bytes <= rows_frame_max_bytes(shape));
    uint8_t *frame = malloc(*n_bytes);
    memcpy(frame, room, *n_bytes);
    free(room);
    return frame;
}

static void check_round_trip(kv_codec codec, const kv_chunk_shape *shape, int kind) {
    size_t n_bytes, chunk_bytes = kv_chunk_bytes(shape);
    void *elements = malloc(chunk_bytes), *back = malloc(chunk_bytes);
    fill(kind, shape, elements);
    uint8_t *frame = encode(codec, shape, elements, &n_bytes);
    CHECK_OK(rows_frame_check(frame, n_bytes, shape));
    CU_ASSERT(kv_frame_look(frame, n_bytes).n_tokens == shape->n_tokens);
    CU_ASSERT(CHECK_OK(rows_frame_decode(frame, n_bytes, shape, back)) &&
              !memcmp(back, elements, chunk_bytes));
    free(frame);
    free(elements);
    free(back);
}

static void test_round_trips(void) {
    for (int codec = 0; codec <= KV_CODEC_LOSSLESS; codec++)
        for (int i = 0; i < N_SHAPES; i++)
            for (int kind = 0; kind < N_KINDS; kind++)
                check_round_trip((kv_codec)codec, &shapes[i], kind);
}

/* Every bf16 there is, each as often as the others or some far more often. */
static void test_every_value(void) {
    const kv_chunk_shape shape = {DTYPE_BF16, 1024, 2, 64};
    size_t n = book_elements(&shape), n_bytes;
    uint16_t *elements = malloc(2 * n), *back = malloc(2 * n);
    for (int skew = 0; skew < 2; skew++) {
        for (size_t i = 0; i < n; i++)
            elements[i] = (uint16_t)(skew && i % 2 ? 0x3f80 : i / (size_t)(1 + skew));
        uint8_t *frame = encode(KV_CODEC_LOSSLESS, &shape, elements, &n_bytes);
        CU_ASSERT(CHECK_OK(rows_frame_decode(frame, n_bytes, &shape, back)) &&
                  !memcmp(back, elements, 2 * n));
        CU_ASSERT((n_bytes < 2 * n) == skew);
        free(frame);
    }
    free(elements);
    free(back);
}

/* ---- the format, as io/snapshot/SNAPSHOT.md tells it ---- */

static void test_format(void) {
    int n_coded = 0, n_based = 0;
    for (int i = 0; i < N_SHAPES; i++)
        for (int kind = 0; kind < N_KINDS; kind++) {
            const kv_chunk_shape *shape = &shapes[i];
            size_t n_bytes, chunk_bytes = kv_chunk_bytes(shape);
            void *elements = malloc(chunk_bytes), *back = malloc(chunk_bytes);
            fill(kind, shape, elements);
            uint8_t *frame = encode(KV_CODEC_LOSSLESS, shape, elements, &n_bytes);
            CU_ASSERT(!memcmp(frame, "KVFRAME\n", 8) &&
                      (book_get(frame + 8, 2) == 1 || book_get(frame + 8, 2) == 4));
            CU_ASSERT(frame[11] == (shape->type == DTYPE_BF16));
            CU_ASSERT(book_get(frame + 12, 4) == (uint64_t)shape->n_tokens);
            CU_ASSERT(book_get(frame + 16, 4) == (uint64_t)shape->n_kv_heads);
            CU_ASSERT(book_get(frame + 20, 4) == (uint64_t)shape->head_dim);
            CU_ASSERT(book_get(frame + 24, 8) == n_bytes - HEADER_BYTES - CHECKSUM_BYTES);
            CU_ASSERT(book_get(frame + 32, 8) == 0 && book_get(frame + 40, 8) == 0);
            CU_ASSERT(book_get(frame + n_bytes - 8, 8) == XXH3_64bits(frame, n_bytes - 8));
            CU_ASSERT(book_get(frame + n_bytes - 8, 8) == kv_frame_checksum(frame, n_bytes));
            if (frame[10] == 1) {
                const kv_chunk chunk = kv_chunk_of(shape, 0, KV_PART_K);
                book_decode(frame, &chunk, back);
                CU_ASSERT(!memcmp(back, elements, chunk_bytes));
                n_coded++;
                n_based += book_get(frame + 8, 2) == 1 && frame[HEADER_BYTES + 4];
            } else {
                CU_ASSERT(!memcmp(frame + HEADER_BYTES, elements, chunk_bytes));
            }
            free(frame);
            free(elements);
            free(back);
        }
    CU_ASSERT(n_coded > 20 && n_based >= 2);
}

/* The example of io/snapshot/SNAPSHOT.md. */
static void test_example(void) {
    const kv_chunk_shape shape = {DTYPE_BF16, 4, 1, 1};
    const uint8_t payload[36] = {1, 0, 0, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0x7f, 0, 0x80, 0,    4, 0,
                                 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0,    0x40, 0, 0};
    const uint16_t elements[4] = {0x3f80, 0x3fc0, 0x4000, 0x3f80};
    for (int i = 0; kv_blocks_all[i]; i++) {
        if (!kv_blocks_all[i]->is_available()) continue;
        uint16_t back[4] = {0};
        CHECK_OK(kv_lossless_decode(kv_blocks_all[i], payload, sizeof payload, &shape, back));
        CU_ASSERT(!memcmp(back, elements, sizeof elements));
    }
}

/* Every instruction set writes the same bytes, and reads them. */
static void test_instruction_sets(void) {
    for (int i = 0; i < N_SHAPES; i++)
        for (int kind = 0; kind < N_KINDS; kind++) {
            const kv_chunk_shape *shape = &shapes[i];
            size_t chunk_bytes = kv_chunk_bytes(shape), n_wanted = 0;
            void *elements = malloc(chunk_bytes), *back = malloc(chunk_bytes);
            uint8_t *payload = malloc(rows_frame_max_bytes(shape)),
                    *wanted = malloc(rows_frame_max_bytes(shape));
            fill(kind, shape, elements);
            for (int run = 0; kv_blocks_all[run / 2]; run++) {
                int isa = run / 2;
                if (!kv_blocks_all[isa]->is_available()) continue;
                memset(payload, run % 2 ? 0xa5 : 0x5a,
                       rows_frame_max_bytes(shape)); /* no byte is left as it was */
                size_t n = kv_lossless_encode(kv_blocks_all[isa], shape, elements, payload);
                if (n_wanted == 0) memcpy(wanted, payload, n_wanted = n);
                CU_ASSERT(n == n_wanted && !memcmp(payload, wanted, n));
                if (n == 0) continue;
                CHECK_OK(kv_lossless_decode(kv_blocks_all[isa], payload, n, shape, back));
                CU_ASSERT(!memcmp(back, elements, chunk_bytes));
            }
            free(payload);
            free(wanted);
            free(elements);
            free(back);
        }
}

/* ---- how small ---- */

static double ratio(const kv_chunk_shape *shape, int kind) {
    size_t n_bytes;
    void *elements = malloc(kv_chunk_bytes(shape));
    fill(kind, shape, elements);
    free(encode(KV_CODEC_LOSSLESS, shape, elements, &n_bytes));
    free(elements);
    return (double)kv_chunk_bytes(shape) / (double)n_bytes;
}

static void test_ratio(void) {
    const kv_chunk_shape bf16 = {DTYPE_BF16, 512, 2, 64}, f32 = {DTYPE_F32, 512, 2, 64};
    CU_ASSERT(ratio(&bf16, NORMAL) > 1.49);
    CU_ASSERT(ratio(&f32, NORMAL) > 1.19);
    CU_ASSERT(ratio(&bf16, CHANNELS) > 1.47); /* as if the channels were alike */
    CU_ASSERT(ratio(&bf16, ALL_EQUAL) > 1.99);
}

/* What would grow is stored as it is. */
static void test_growth(void) {
    const kv_chunk_shape shape = {DTYPE_BF16, 64, 2, 64};
    size_t n_bytes, chunk_bytes = kv_chunk_bytes(&shape);
    uint8_t *elements = malloc(chunk_bytes), *frame = malloc(rows_frame_max_bytes(&shape) + 1);
    fill(RANDOM, &shape, elements);
    frame[rows_frame_max_bytes(&shape)] = 0x5a;
    n_bytes = rows_frame_encode(KV_CODEC_LOSSLESS, &shape, elements, frame);
    CU_ASSERT(n_bytes == rows_frame_max_bytes(&shape) && frame[n_bytes] == 0x5a);
    CU_ASSERT(frame[10] == KV_CODEC_NONE && !memcmp(frame + HEADER_BYTES, elements, chunk_bytes));
    free(elements);
    free(frame);
}

/* ---- trees ---- */

static void test_trees(void) {
    uint32_t counts[KV_SYMBOLS] = {0};
    kv_tree tree;
    counts[9] = 5;
    kv_tree_build(counts, &tree);
    CU_ASSERT(tree.n_nodes == 0 && tree.root == 9 && kv_tree_bits(&tree) == 0);
    /* Code lengths 1, 3, 3, 3, 4, 4. */
    const uint32_t known[] = {45, 13, 12, 16, 9, 5};
    memset(counts, 0, sizeof counts);
    memcpy(counts + 100, known, sizeof known);
    kv_tree_build(counts, &tree);
    CU_ASSERT(tree.n_nodes == 5 && kv_tree_bits(&tree) == 45 + 3 * (13 + 12 + 16) + 4 * (9 + 5));
    CU_ASSERT(kv_tree_flaw(&tree) == NULL && tree.nodes[0].n_bits == 100);
    /* Fibonacci numbers make the deepest tree: 40 levels. */
    memset(counts, 0, sizeof counts);
    counts[0] = counts[1] = 1;
    for (int i = 2; i < 41; i++)
        counts[i] = counts[i - 1] + counts[i - 2];
    kv_tree_build(counts, &tree);
    CU_ASSERT(tree.n_nodes == 40 && kv_tree_flaw(&tree) == NULL);
    for (int i = 0; i < 39; i++)
        CU_ASSERT(tree.nodes[i].child[0] == KV_SYMBOLS + i + 1 ||
                  tree.nodes[i].child[1] == KV_SYMBOLS + i + 1);
    for (int i = 0; i < KV_SYMBOLS; i++)
        counts[i] = 1;
    kv_tree_build(counts, &tree);
    CU_ASSERT(tree.n_nodes == KV_MAX_NODES && kv_tree_bits(&tree) == 256 * 8 && kv_tree_flaw(&tree) == NULL);
}

/* ---- what is wrong ---- */

static const kv_chunk_shape small = {DTYPE_BF16, 40, 1, 8};

static uint8_t *small_frame(size_t *n_bytes) {
    uint16_t elements[320];
    fill(CHANNELS, &small, elements);
    uint8_t *frame = encode(KV_CODEC_LOSSLESS, &small, elements, n_bytes);
    CU_ASSERT_FATAL(frame[10] == KV_CODEC_LOSSLESS && frame[HEADER_BYTES + 4] == 1);
    return frame;
}

static void check_refused(const uint8_t *frame, size_t n_bytes, const kv_chunk_shape *shape,
                          const char *part) {
    void *exact = malloc(n_bytes + !n_bytes), *elements = malloc(kv_chunk_bytes(shape));
    memcpy(exact, frame, n_bytes);
    CHECK_REFUSED(rows_frame_decode(exact, n_bytes, shape, elements), part);
    free(exact);
    free(elements);
}

/* Every flipped bit is seen, and so is every cut. */
static void test_damage(void) {
    size_t n_bytes;
    uint8_t *frame = small_frame(&n_bytes);
    for (size_t i = 0; i < 8 * n_bytes; i++) {
        frame[i / 8] ^= (uint8_t)(1 << i % 8);
        check_refused(frame, n_bytes, &small, "");
        CHECK_REFUSED(rows_frame_check(frame, n_bytes, &small), "");
        frame[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t n = 0; n < n_bytes; n++)
        check_refused(frame, n, &small,
                      n < HEADER_BYTES + CHECKSUM_BYTES ? "shorter than its header" : "checksum");
    frame[n_bytes / 2] ^= 1;
    check_refused(frame, n_bytes, &small, "the frame's checksum does not match");
    CU_ASSERT(kv_frame_checksum(frame, HEADER_BYTES) == 0);
    CU_ASSERT(kv_frame_look(frame, HEADER_BYTES - 1).n_tokens == 0);
    memset(frame + 12, 0xff, 4);
    CU_ASSERT(kv_frame_look(frame, n_bytes).n_tokens == 0);
    free(frame);
}

static void test_shapes(void) {
    size_t n_bytes;
    uint8_t *frame = small_frame(&n_bytes);
    const kv_chunk_shape others[] = {
        {DTYPE_F32, 40, 1, 8}, {DTYPE_BF16, 41, 1, 8}, {DTYPE_BF16, 40, 2, 8}, {DTYPE_BF16, 40, 8, 1}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        check_refused(frame, n_bytes, &others[i], "frame of 40 x 1 x 8 bf16, but ");
    free(frame);
    const kv_chunk_shape invalid[] = {
        {DTYPE_F16, 1, 1, 1},
        {DTYPE_BF16, 0, 1, 1},
        {DTYPE_BF16, 1, -1, 1},
        {DTYPE_BF16, 1, 1, 0},
        {DTYPE_BF16, INT32_MAX, INT32_MAX, INT32_MAX},
        {DTYPE_F32, INT32_MAX, INT32_MAX, 1},
    };
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++)
        CU_ASSERT(!kv_chunk_is_valid(&invalid[i]));
    CU_ASSERT(kv_chunk_is_valid(&small));
}

/* A forged frame: bytes changed, and the checksum made right. */
typedef struct forgery {
    const char *part; /* of the refusal */
    int offset, n_bytes;
    uint64_t value;
} forgery;

static void test_forged_headers(void) {
    const forgery forgeries[] = {
        {"its first bytes", 0, 1, 'k'},
        {"frame of version 5, this program reads up to 4", 8, 2, 5},
        {"version 4 with what it cannot have", 8, 3, KV_CODEC_NONE << 16 | 4},
        {"codes are of no known kind", 8, 2, 4},
        {"version 0", 8, 2, 0},
        {"unknown codec 5", 10, 1, 5},
        {"version 1 with what only later ones have", 10, 1, KV_CODEC_CACHEGEN},
        {"parts 0 of 0 layers", 8, 2, 2},
        {"unknown type 2", 11, 1, 2},
        {"frame of 4294967295 x 1 x 8", 12, 4, UINT32_MAX},
        {"a payload of 18446744073709551615 bytes", 24, 8, UINT64_MAX},
        {"with what only others have", 32, 8, 1},
        {"with what only others have", 40, 8, (uint64_t)1 << 63},
        {"version 1 with what only later ones have", 40, 2, 1},
        {"raw payload has", 10, 1, KV_CODEC_NONE},
    };
    size_t n_bytes;
    uint8_t *frame = small_frame(&n_bytes), *copy = malloc(n_bytes);
    for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
        memcpy(copy, frame, n_bytes);
        memcpy(copy + forgeries[i].offset, &forgeries[i].value, (size_t)forgeries[i].n_bytes);
        uint64_t checksum = kv_frame_checksum(copy, n_bytes);
        memcpy(copy + n_bytes - CHECKSUM_BYTES, &checksum, sizeof checksum);
        check_refused(copy, n_bytes, &small, forgeries[i].part);
    }
    free(copy);
    free(frame);
}

static void check_payload_refused(const uint8_t *payload, size_t n_bytes, const char *part) {
    uint8_t *exact = malloc(n_bytes + !n_bytes);
    uint16_t elements[320];
    memcpy(exact, payload, n_bytes);
    for (int i = 0; kv_blocks_all[i]; i++)
        if (kv_blocks_all[i]->is_available())
            CHECK_REFUSED(kv_lossless_decode(kv_blocks_all[i], exact, n_bytes, &small, elements), part);
    free(exact);
}

static void test_forged_payloads(void) {
    enum { NODES = 16 }; /* behind the head and 8 bases */
    const forgery forgeries[] = {
        {"too many nodes", 0, 2, 256},
        {"shorter than its tables", 0, 2, 200},
        {"does not exist", 0, 2, 1},
        {"without nodes has no symbol", 0, 4, (uint64_t)256 << 16},
        {"root of the tree", 2, 2, 257},
        {"root of the tree", 2, 2, 3},
        {"reserved bytes", 4, 1, 2},
        {"reserved bytes", 7, 1, 1},
        {"another number of elements", NODES, 4, 321},
        {"parts do not add up", NODES, 4, UINT32_MAX},
        {"does not exist", NODES + 4, 2, 600},
        {"before its parent", NODES + 4, 2, 256},
        {"two parents", NODES + 4, 4, 5 << 16 | 5},
        {"has no parent", NODES + 4, 4, 5 << 16 | 6},
    };
    size_t n_bytes;
    uint8_t *frame = small_frame(&n_bytes), *payload = frame + HEADER_BYTES;
    n_bytes -= HEADER_BYTES + CHECKSUM_BYTES;
    CU_ASSERT_FATAL(book_get(payload, 2) >= 4 && payload[4] == 1);
    uint8_t *copy = malloc(n_bytes);
    for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
        memcpy(copy, payload, n_bytes);
        memcpy(copy + forgeries[i].offset, &forgeries[i].value, (size_t)forgeries[i].n_bytes);
        check_payload_refused(copy, n_bytes, forgeries[i].part);
    }
    /* One more or one fewer of the root's bits is 1; then one bit beyond its last makes up for it. */
    size_t n_nodes = book_get(payload, 2), bits = NODES + 8 * n_nodes, last = bits - 8;
    memcpy(copy, payload, n_bytes);
    while (copy[bits] == 0)
        bits++;
    copy[bits] &= (uint8_t)(copy[bits] - 1);
    check_payload_refused(copy, n_bytes, "do not match those of its children");
    copy[NODES + 8 * n_nodes + 320 / 8] ^= 1;
    check_payload_refused(copy, n_bytes, "do not match those of its children");
    /* The last node, whose children are leaves, has a bit more. */
    memcpy(copy, payload, n_bytes);
    CU_ASSERT_FATAL(book_get(payload + last, 4) < 63 && book_get(payload + last + 4, 2) < 256 &&
                    book_get(payload + last + 6, 2) < 256);
    copy[last]++;
    check_payload_refused(copy, n_bytes, "do not match those of its children");
    for (size_t n = 0; n < n_bytes; n++)
        check_payload_refused(payload, n, n < 8 ? "shorter than its head" : "");
    copy = realloc(copy, n_bytes + 1);
    memcpy(copy, payload, n_bytes);
    copy[n_bytes] = 0;
    check_payload_refused(copy, n_bytes + 1, "parts do not add up");
    free(copy);
    free(frame);
}

static void test_names(void) {
    kv_codec codec = KV_CODEC_NONE;
    CU_ASSERT(!strcmp(kv_codec_name(KV_CODEC_NONE), "none") &&
              !strcmp(kv_codec_name(KV_CODEC_LOSSLESS), "lossless"));
    CU_ASSERT(kv_codec_find("lossless", &codec) && codec == KV_CODEC_LOSSLESS);
    CU_ASSERT(kv_codec_find("none", &codec) && codec == KV_CODEC_NONE);
    CU_ASSERT(!kv_codec_find("", &codec) && !kv_codec_find("Lossless", &codec));
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"every kind of chunk comes back", test_round_trips},
        {"every value comes back", test_every_value},
        {"the format is as documented", test_format},
        {"the documented example decodes", test_example},
        {"instruction sets write the same bytes", test_instruction_sets},
        {"frames are as small as they should be", test_ratio},
        {"what would grow is stored as it is", test_growth},
        {"trees are Huffman's", test_trees},
        {"flipped bits and cuts are seen", test_damage},
        {"another shape is refused", test_shapes},
        {"forged headers are refused", test_forged_headers},
        {"forged payloads are refused", test_forged_payloads},
        {"codecs have names", test_names},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "KV codec", tests);
}
