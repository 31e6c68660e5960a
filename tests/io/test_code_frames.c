/* Lossless frames of rows that went through pages of codes: the codes are found, come back as the same rows
 * on every instruction set, and take the bytes that they should. */
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_codec.h"
#include "io/codec/kv_codes.h"
#include "io/codec/kv_lossless.h"
#include "tests/fixtures/frame_book.h"
#include "tests/fixtures/harness.h"

enum { HEAD_BYTES = 16, CODES_VERSION = 4, VERSION_AT = 8 };

/* ---- rows of a page ---- */

/* A chunk's rows, [n_tokens, n_heads, width]; tokens [exact_begin, exact_end) are as they were put, all
 * others as pages of `layout` give them back. */
typedef struct rows {
    kv_chunk chunk;
    kv_token *tokens;
    uint16_t *elements;
} rows;

static uint16_t *row_of(const rows *r, int token, int head) {
    const kv_chunk_shape *s = &r->chunk.shape;
    return r->elements + ((size_t)token * (size_t)s->n_kv_heads + (size_t)head) * (size_t)s->head_dim;
}

/* Through whole groups of places of a page, as they are put; what is of no whole group stays. */
static void round_rows(rows *r, kv_layout layout, int head) {
    const kv_chunk_shape *s = &r->chunk.shape;
    const kv_format f = kv_format_of(DTYPE_BF16, layout, 1, s->head_dim, KV_INT4_PLACES);
    const size_t row_bytes = (size_t)s->n_kv_heads * (size_t)s->head_dim * sizeof(uint16_t);
    char *page = mem_new(kv_page_bytes(&f), 1);
    for (int token = 0; token < s->n_tokens;) {
        const int place = r->tokens[token].position % KV_INT4_PLACES,
                  left = s->n_tokens - token < KV_INT4_PLACES - place ? s->n_tokens - token
                                                                      : KV_INT4_PLACES - place;
        if (layout != KV_INT4 || left == KV_INT4_PLACES) {
            kv_put_rows(&f, page, r->chunk.part, 0, place, left, row_of(r, token, head), row_bytes);
            kv_get_rows(&f, page, r->chunk.part, 0, place, left, row_of(r, token, head), row_bytes);
        }
        token += left;
    }
    free(page);
}

static rows make_rows(kv_layout layout, kv_part part, int n_tokens, int n_heads, int width, int position,
                      int exact_begin, int exact_end) {
    const kv_chunk_shape shape = {DTYPE_BF16, n_tokens, n_heads, width};
    rows r = {.chunk = kv_chunk_of(&shape, 3, part)};
    const size_t row_elements = (size_t)n_heads * (size_t)width, n = (size_t)n_tokens * row_elements;
    uint64_t state = (uint64_t)n_tokens;
    r.tokens = mem_new((size_t)n_tokens, sizeof *r.tokens);
    r.elements = mem_new(n, sizeof *r.elements);
    for (int t = 0; t < n_tokens; t++)
        r.tokens[t] = (kv_token){position + t, n_tokens - t};
    for (size_t i = 0; i < n; i++)
        r.elements[i] = bf16_of_float(harness_random_normal(&state) * (i % row_elements % 7 == 2 ? 20 : 1));
    uint16_t *exact = mem_new(n, sizeof *exact);
    memcpy(exact, r.elements, n * sizeof *exact);
    for (int head = 0; head < n_heads && layout != KV_PANELS; head++)
        round_rows(&r, layout, head);
    memcpy(r.elements + (size_t)exact_begin * row_elements, exact + (size_t)exact_begin * row_elements,
           (size_t)(exact_end - exact_begin) * row_elements * sizeof *exact);
    free(exact);
    return r;
}

static void free_rows(rows *r) {
    free(r->tokens);
    free(r->elements);
}

/* A frame in memory of exactly its size, so that a sanitizer sees a step beyond it. */
static uint8_t *encode(const rows *r, bool are_tokens_known, size_t *n_bytes) {
    uint8_t *room = mem_new(kv_frame_max_bytes(&r->chunk), 1);
    *n_bytes = kv_frame_encode(&(kv_coding){.codec = KV_CODEC_LOSSLESS}, NULL, &r->chunk,
                               are_tokens_known ? r->tokens : NULL, r->elements, room, NULL);
    uint8_t *frame = mem_new(*n_bytes, 1);
    memcpy(frame, room, *n_bytes);
    free(room);
    return frame;
}

/* Bits of an element of the frame of these rows, which come back. */
static double check_frame(rows r, bool are_tokens_known, bool are_codes) {
    const size_t chunk_bytes = kv_chunk_all_bytes(&r.chunk);
    size_t n_bytes;
    uint16_t *back = mem_new(chunk_bytes, 1);
    uint8_t *frame = encode(&r, are_tokens_known, &n_bytes);
    CU_ASSERT_EQUAL(frame[VERSION_AT] == CODES_VERSION, are_codes);
    CHECK_OK(kv_frame_check(frame, n_bytes, &r.chunk));
    CU_ASSERT(CHECK_OK(kv_frame_decode(frame, n_bytes, NULL, &r.chunk, back)) &&
              memcmp(back, r.elements, chunk_bytes) == 0);
    /* The filter of HDF5 does not know which part a frame is of. */
    const kv_chunk other = kv_chunk_of(&r.chunk.shape, 0, r.chunk.part == KV_PART_K ? KV_PART_V : KV_PART_K);
    memset(back, 0xff, chunk_bytes);
    CU_ASSERT(CHECK_OK(kv_frame_decode(frame, n_bytes, NULL, &other, back)) &&
              memcmp(back, r.elements, chunk_bytes) == 0);
    memset(back, 0xff, chunk_bytes);
    book_decode(frame, &r.chunk, back);
    CU_ASSERT(memcmp(back, r.elements, chunk_bytes) == 0);
    free(frame);
    free(back);
    free_rows(&r);
    return 16.0 * (double)n_bytes / (double)chunk_bytes;
}

static const struct {
    int n_tokens, n_heads, width;
} shapes[] = {{256, 3, 64}, {320, 1, 128}, {192, 2, 80}, {256, 1, 256}, {448, 8, 32}, {200, 2, 96}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void test_codes(void) {
    static const kv_layout layouts[] = {KV_INT8, KV_INT4};
    for (int i = 0; i < N_SHAPES; i++)
        for (int part = 0; part < N_KV_PARTS; part++)
            for (int l = 0; l < 2; l++) {
                const int n = shapes[i].n_tokens;
                const rows whole =
                    make_rows(layouts[l], (kv_part)part, n, shapes[i].n_heads, shapes[i].width, 128, n, n);
                /* Codes and ranges, a mark for each row, and the tree's tables. */
                const double width = shapes[i].width, value_ranges = (shapes[i].width + 63) / 64,
                             most = layouts[l] == KV_INT8 ? 8 + 16 / width
                                    : part == KV_PART_K   ? 4.5
                                                          : 4 + 32 * value_ranges / width,
                             extra = 1 / width + 8.0 * 600 / (n * shapes[i].n_heads * width) +
                                     (n % KV_INT4_PLACES ? 2 : 0);
                const double bits = check_frame(whole, true, true);
                CU_ASSERT(bits <= most + extra);
                check_frame(make_rows(layouts[l], (kv_part)part, n, shapes[i].n_heads, shapes[i].width, 0, 0,
                                      KV_INT4_PLACES),
                            true, true);
            }
}

/* Chunks that begin and end within a group, and texts that follow each other. */
static void test_groups(void) {
    for (int part = 0; part < N_KV_PARTS; part++) {
        CU_ASSERT(check_frame(make_rows(KV_INT4, (kv_part)part, 600, 2, 64, 23, 0, 0), true, true) < 9);
        rows r = make_rows(KV_INT4, (kv_part)part, 512, 2, 64, 64, 0, 0);
        for (int t = 256; t < 512; t++)
            r.tokens[t].position -= 256;
        CU_ASSERT(check_frame(r, true, true) < 4.8);
    }
}

/* Texts of one length, in step with the chunk, and rows of zeros: most of the rows are codes all the same. */
static void test_in_step(void) {
    for (int l = 0; l < 2; l++)
        for (int part = 0; part < N_KV_PARTS; part++) {
            rows r = make_rows(l ? KV_INT4 : KV_INT8, (kv_part)part, 1024, 2, 64, 0, 0, 0);
            uint64_t state = 9;
            for (int text = 0; text < 4; text++)
                for (int t = 256 * text; t < 256 * text + 64; t++) {
                    r.tokens[t].position = t - 256 * text;
                    for (int i = 0; i < 128; i++)
                        row_of(&r, t, 0)[i] = bf16_of_float(harness_random_normal(&state));
                }
            for (int quarter = 1; quarter < 4; quarter++)
                memset(row_of(&r, 256 * quarter, 0), 0, 128 * sizeof(uint16_t));
            CU_ASSERT(check_frame(r, true, true) < (l ? 7.5 : 9.5));
        }
}

/* Nobody knows the tokens: int8 needs none, nor do values. */
static void test_unknown_tokens(void) {
    check_frame(make_rows(KV_INT8, KV_PART_K, 256, 2, 64, 0, 0, 0), false, true);
    check_frame(make_rows(KV_INT4, KV_PART_V, 256, 2, 64, 0, 0, 0), false, true);
    check_frame(make_rows(KV_INT4, KV_PART_K, 256, 2, 64, 0, 0, 0), false, false);
}

/* A GPU's pages: keys wider than a group have one scale. */
static void test_gpu_rows(void) {
    for (int part = 0; part < N_KV_PARTS; part++) {
        CU_ASSERT(check_frame(make_rows(KV_INT8_ROWS, (kv_part)part, 256, 2, 256, 64, 0, 0), true, true) <
                  8.3);
        CU_ASSERT(check_frame(make_rows(KV_INT8_ROWS, (kv_part)part, 256, 2, 64, 64, 0, 0), false, true) <
                  8.5);
    }
}

static void test_ordinary_rows(void) {
    for (int part = 0; part < N_KV_PARTS; part++)
        check_frame(make_rows(KV_PANELS, (kv_part)part, 256, 2, 64, 0, 0, 0), true, false);
}

/* Rows that a page would not give back, among those that it would: a negative zero, numbers that are not
 * finite, another in the last place. */
static void test_odd_rows(void) {
    static const uint16_t odd[] = {0x8000, 0x7f80, 0xffc0, 0x7f81, 0x0001};
    for (int l = 0; l < 2; l++)
        for (int part = 0; part < N_KV_PARTS; part++) {
            rows r = make_rows(l ? KV_INT4 : KV_INT8, (kv_part)part, 512, 2, 64, 0, 0, 0);
            for (int i = 0; i < 5; i++)
                row_of(&r, 70 + 3 * i, i % 2)[11 * i] = odd[i];
            row_of(&r, 100, 0)[5] ^= 1;
            check_frame(r, true, true);
        }
}

static void test_instruction_sets(void) {
    for (int l = 0; l < 2; l++)
        for (int part = 0; part < N_KV_PARTS; part++) {
            rows r = make_rows(l ? KV_INT4 : KV_INT8, (kv_part)part, 300, 3, 64, 64, 0, 40);
            const size_t chunk_bytes = kv_chunk_all_bytes(&r.chunk);
            text_buffer first = {0};
            uint16_t *back = mem_new(chunk_bytes, 1);
            for (int i = 0; kv_blocks_all[i]; i++) {
                text_buffer payload = {0};
                if (!kv_blocks_all[i]->is_available()) continue;
                CU_ASSERT(kv_codes_encode(kv_blocks_all[i], &r.chunk, r.tokens, r.elements, &payload));
                if (!first.data) text_append(&first, payload.data, payload.n);
                CU_ASSERT(first.n == payload.n && memcmp(first.data, payload.data, first.n) == 0);
                CHECK_OK(
                    kv_codes_decode(kv_blocks_all[i], (uint8_t *)payload.data, payload.n, &r.chunk, back));
                CU_ASSERT(memcmp(back, r.elements, chunk_bytes) == 0);
                free(payload.data);
            }
            free(first.data);
            free(back);
            free_rows(&r);
        }
}

/* ---- what is wrong ---- */

/* A payload in memory of exactly its size. */
static status decode(const rows *r, const uint8_t *payload, size_t n) {
    uint8_t *copy = mem_new(n ? n : 1, 1);
    uint16_t *back = mem_new(kv_chunk_all_bytes(&r->chunk), 1);
    memcpy(copy, payload, n);
    const status st = kv_codes_decode(kv_blocks_best(), copy, n, &r->chunk, back);
    free(copy);
    free(back);
    return st;
}

/* Every cut is refused, and whatever a byte is changed to ends well. */
static void test_damage(void) {
    for (int l = 0; l < 2; l++)
        for (int part = 0; part < N_KV_PARTS; part++) {
            rows r = make_rows(l ? KV_INT4 : KV_INT8, (kv_part)part, 192, 2, 16, 0, 150, 192);
            text_buffer p = {0};
            uint64_t state = 5;
            CU_ASSERT(kv_codes_encode(kv_blocks_best(), &r.chunk, r.tokens, r.elements, &p));
            for (size_t n = 0; n < p.n; n += harness_is_slow() ? 7 : 1)
                CU_ASSERT(decode(&r, (uint8_t *)p.data, n) == STATUS_REFUSED);
            for (size_t at = 0; at < p.n; at += harness_is_slow() ? 5 : 1) {
                const char was = p.data[at];
                p.data[at] = (char)((uint64_t)was ^ (1 + harness_random(&state) % 255));
                CU_ASSERT(decode(&r, (uint8_t *)p.data, p.n) != STATUS_FAILED);
                p.data[at] = was;
            }
            free(p.data);
            free_rows(&r);
        }
}

static void test_forged(void) {
    static const struct {
        const char *says;
        size_t at;
        int n_bytes;
        uint32_t value;
    } forged[] = {
        {"no known kind", 0, 1, 0},
        {"no known kind", 0, 1, 5},
        {"no known kind", 1, 1, 1},
        {"another number of groups", 4, 4, UINT32_MAX},
        {"do not add up to its tokens", 4, 4, 1},
        {"shorter than its rows", 8, 4, UINT32_MAX},
        {"shorter than its rows", 12, 4, UINT32_MAX},
        {"another number of tokens", HEAD_BYTES, 1, 0},
        {"another number of tokens", HEAD_BYTES, 1, 65},
        {"do not add up to its tokens", HEAD_BYTES, 1, 63},
        {"marks units that are not there", HEAD_BYTES + 3, 1, 0x5f},
    };
    rows r = make_rows(KV_INT4, KV_PART_K, 192, 2, 16, 0, 150, 192);
    text_buffer p = {0};
    CU_ASSERT(kv_codes_encode(kv_blocks_best(), &r.chunk, r.tokens, r.elements, &p));
    for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
        uint8_t *bytes = mem_new(p.n, 1);
        memcpy(bytes, p.data, p.n);
        memcpy(bytes + forged[i].at, &forged[i].value, (size_t)forged[i].n_bytes);
        CHECK_REFUSED(decode(&r, bytes, p.n), forged[i].says);
        free(bytes);
    }
    /* More tokens than there are, however the sum is counted; and more rows than 32 bits count. */
    const kv_chunk_shape many = {DTYPE_BF16, 1 << 27, 1, 1}, wide = {DTYPE_BF16, 1 << 27, 32, 1};
    uint8_t *bytes = mem_new((size_t)HEAD_BYTES + (1 << 27), 1);
    bytes[0] = 3;
    bytes[7] = 8; /* 2^27 groups */
    memset(bytes + HEAD_BYTES, 33, 1 << 27);
    rows claimed = {.chunk = kv_chunk_of(&many, 0, KV_PART_K)};
    CHECK_REFUSED(decode(&claimed, bytes, (size_t)HEAD_BYTES + (1 << 27)), "another number of tokens");
    free(bytes);
    claimed.chunk.shape = wide;
    CHECK_REFUSED(kv_codes_decode(kv_blocks_best(), (uint8_t *)p.data, p.n, &claimed.chunk, NULL),
                  "too many rows");
    text_append(&p, "", 1);
    CHECK_REFUSED(decode(&r, (uint8_t *)p.data, p.n), "do not add up to its bytes");
    r.chunk.shape.type = DTYPE_F32;
    CHECK_REFUSED(decode(&r, (uint8_t *)p.data, p.n), "not bf16");
    free(p.data);
    free_rows(&r);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"codes are found, come back, and are small", test_codes},
        {"groups of places that are cut", test_groups},
        {"texts in step with the chunk", test_in_step},
        {"without tokens", test_unknown_tokens},
        {"a GPU's rows", test_gpu_rows},
        {"ordinary rows are no codes", test_ordinary_rows},
        {"odd rows among codes come back", test_odd_rows},
        {"instruction sets write the same bytes", test_instruction_sets},
        {"cuts and changed bytes end well", test_damage},
        {"forged payloads are refused", test_forged},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "frames of codes", tests);
}
