/* Where the GPU's kernels find things: arithmetic of indices, which needs no GPU, at sizes for which no test
 * has the memory, and the banks of shared memory, which no emulation has. */
#include <string.h>

#include "kernels/cuda/attend/attend_map.h"
#include "tests/fixtures/device_fixture.h"

enum { WARP = 32, BANKS = 32 };

static const int WIDTHS[] = {64, 80, 96, 128, 256};
enum { N_WIDTHS = sizeof WIDTHS / sizeof *WIDTHS };

/* ---- pages ---- */

typedef struct pool {
    int page_tokens, n_kv_heads, width;
    int32_t page_id; /* of every page that is looked at */
} pool;

/* The element of a position's key or value, step by step, in numbers that are wide enough. */
static uint64_t plain_element(const pool *p, int64_t pos, int head, bool is_v) {
    uint64_t rows_of_head = (uint64_t)p->page_tokens, row = (uint64_t)(pos % p->page_tokens);
    uint64_t heads_before = (uint64_t)head + (is_v ? (uint64_t)p->n_kv_heads : 0);
    uint64_t row_of_pool = (uint64_t)p->page_id * 2 * (uint64_t)p->n_kv_heads * rows_of_head;
    return (row_of_pool + heads_before * rows_of_head + row) * (uint64_t)p->width;
}

/* What kv_append writes, and what attention reads a quantum at a time. */
static void check_position(const pool *p, int64_t pos, int head) {
    enum { MOST_PAGES = 1 << 17 };
    static int32_t page_ids[MOST_PAGES];
    int64_t page = pos / p->page_tokens;
    const kv_format format = kv_format_of(DTYPE_BF16, KV_ROWS, p->n_kv_heads, p->width, p->page_tokens);
    CU_ASSERT_FATAL(page < MOST_PAGES);
    page_ids[page] = p->page_id;
    for (int is_v = 0; is_v < 2; is_v++) {
        size_t written = kv_pool_element(&format, page_ids, is_v ? KV_PART_V : KV_PART_K, head, pos);
        attend_place at = attend_place_of(pos / ATTEND_QUANTUM, p->page_tokens / ATTEND_QUANTUM);
        size_t read = attend_element(&format, page_ids, at, head) +
                      (is_v ? kv_element(&format, KV_PART_V, 0, 0) : 0) +
                      (size_t)(pos % ATTEND_QUANTUM) * (size_t)p->width;
        CHECK_CASE(written == plain_element(p, pos, head, is_v) && read == written,
                   "position %lld of head %d, %s, page %d: written to %zu, read from %zu", (long long)pos,
                   head, is_v ? "value" : "key", (int)p->page_id, written, read);
    }
    page_ids[page] = 0;
}

static void test_pages(void) {
    const int64_t positions[] = {0, 15, 16, 79, 4095, 65535, 65536, 1000000, (1 << 20) - 1, (1 << 20) + 17};
    const int32_t ids[] = {0, 1, 40000, (1 << 24) + 1, INT32_MAX};
    const int page_tokens[] = {16, 64, 80, 4096};
    for (int w = 0; w < N_WIDTHS; w++)
        for (int t = 0; t < 4; t++)
            for (int i = 0; i < 5; i++)
                for (int n = 0; n < 10; n++) {
                    pool p = {page_tokens[t], 8, WIDTHS[w], ids[i]};
                    for (int head = 0; head < 8; head += 7)
                        check_position(&p, positions[n], head);
                }
}

/* ---- prompts of a million rows ---- */

/* The tiles on both sides of a span's first and last, and some between. */
static void test_tiles(void) {
    CU_ASSERT(attend_first_tile(3, 1 << 27, 32, 128) == 3 + (1 << 25)); /* 2^32 queries before it */
    const int32_t row0[] = {0, 1, 1 << 20, (1 << 20) + 1, 3 << 20, (3 << 20) + 77};
    enum { SPANS = sizeof row0 / sizeof *row0 - 1 };
    for (int group = 1; group <= 128; group *= 2)
        for (int queries = 64; queries <= 128; queries *= 2) {
            int64_t n_found = 0;
            int n = attend_first_tile(SPANS, row0[SPANS], group, queries);
            for (int tile = 0; tile < n; tile++) {
                attend_tile found = attend_find_tile(tile, row0, 0, SPANS, group, queries);
                int64_t own = (int64_t)(row0[found.span + 1] - row0[found.span]) * group;
                CU_ASSERT(found.span >= 0 && found.span < SPANS && found.query0 >= 0);
                if (found.query0 < own)
                    n_found += own - found.query0 < queries ? own - found.query0 : queries;
            }
            CHECK_CASE(n_found == (int64_t)row0[SPANS] * group, "group %d, tiles of %d: %lld queries", group,
                       queries, (long long)n_found);
        }
}

/* Each block that a row far away sees belongs to one unit, and none is forgotten. */
static void test_units(void) {
    const int64_t positions[] = {(1 << 20) - 1, 1 << 20, (1 << 27) + 5}, windows[] = {0, 1, 4096, 1 << 19};
    for (int p = 0; p < 3; p++)
        for (int w = 0; w < 4; w++)
            for (int level = 0; level < 4; level++) {
                int64_t n_units = attend_rounded_blocks(positions[p]) >> level;
                int64_t next = attend_block_of(attend_first_position(positions[p], windows[w]));
                for (int64_t unit = 0; unit < n_units; unit++) {
                    attend_nodes b = attend_blocks_of(positions[p], windows[w], unit, level);
                    if (b.first >= b.last) continue;
                    CU_ASSERT_FATAL(b.first == next && b.last - b.first <= 1 << level);
                    next = b.last;
                }
                CU_ASSERT(next == attend_block_of(positions[p]) + 1);
            }
    for (int sequences = 1; sequences <= 256; sequences *= 4) {
        int64_t n = attend_rounded_blocks((1 << 20) - 1);
        int level = attend_level_of(n, sequences * 8, 528, 3);
        CU_ASSERT(n >> level <= 65535); /* of a grid's y */
    }
}

/* ---- banks ---- */

/* Lanes [first, first + n) reach `words` words each, from the given on: every bank once. */
static bool use_banks_once(const int *word, int first, int n, int words) {
    bool used[BANKS] = {false};
    for (int lane = first; lane < first + n; lane++)
        for (int i = 0; i < words; i++) {
            int bank = (word[lane] + i) % BANKS;
            if (used[bank]) return false;
            used[bank] = true;
        }
    return true;
}

/* A load of matrices takes eight rows of 16 bytes at once. */
static void test_matrix_banks(void) {
    for (int w = 0; w < N_WIDTHS; w++)
        for (int keys = 0; keys < 2; keys++) {
            int word[WARP];
            for (int lane = 0; lane < WARP; lane++) {
                int element = keys ? attend_lane_key(WIDTHS[w], lane) : attend_lane_element(WIDTHS[w], lane);
                CU_ASSERT(element % 8 == 0); /* 16 bytes */
                word[lane] = element / 2;
            }
            for (int first = 0; first < WARP; first += 8)
                CHECK_CASE(use_banks_once(word, first, 8, 4), "width %d: %s", WIDTHS[w],
                           keys ? "keys" : "queries");
        }
}

/* The four matrices are the four corners of 16 by 16 elements, in the order in which products take them. */
static void test_matrices(void) {
    for (int w = 0; w < N_WIDTHS; w++) {
        int stride = attend_stride(WIDTHS[w]);
        for (int lane = 0; lane < WARP; lane++) {
            int corner = lane / 8, of_a = attend_lane_element(WIDTHS[w], lane),
                of_b = attend_lane_key(WIDTHS[w], lane);
            CU_ASSERT(of_a / stride == lane % 8 + corner % 2 * 8 && of_a % stride == corner / 2 * 8);
            CU_ASSERT(of_b / stride == lane % 8 + corner / 2 * 8 && of_b % stride == corner % 2 * 8);
        }
    }
}

/* Hopper's tiles: every chunk has a place of its own, and the eight that a row's lanes write together lie in
 * different banks, as do eight rows of one chunk, which a product reads. */
static void test_swizzled_banks(void) {
    enum { ROWS = ATTEND_SWIZZLED_ROWS, CHUNKS = 16 };
    bool used[ROWS * CHUNKS] = {false};
    for (int row = 0; row < ROWS; row++)
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            int element = attend_swizzled_element(row, chunk);
            CU_ASSERT_FATAL(element % 8 == 0 && element / 8 < ROWS * CHUNKS && !used[element / 8]);
            used[element / 8] = true;
        }
    for (int row = 0; row < ROWS; row += 8)
        for (int chunk = 0; chunk < CHUNKS; chunk += 8) {
            int written[8], read[8];
            for (int i = 0; i < 8; i++) {
                written[i] = attend_swizzled_element(row + 1, chunk + i) / 2;
                read[i] = attend_swizzled_element(row + i, chunk + 3) / 2;
            }
            CU_ASSERT(use_banks_once(written, 0, 8, 4) && use_banks_once(read, 0, 8, 4));
        }
    CU_ASSERT(attend_hopper_bytes(128) <= 227 << 10);
}

/* Partial results, float32: a half of the warp writes four rows' pairs of neighbours at once. */
static void test_partial_banks(void) {
    for (int w = 0; w < N_WIDTHS; w++) {
        int word[WARP];
        for (int lane = 0; lane < WARP; lane++)
            word[lane] = lane / 4 * attend_staged_floats(WIDTHS[w]) + lane % 4 * 2;
        CHECK_CASE(use_banks_once(word, 0, 16, 2) && use_banks_once(word, 16, 16, 2), "width %d", WIDTHS[w]);
    }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"pages", test_pages},
                           {"tiles", test_tiles},
                           {"units", test_units},
                           {"matrices", test_matrices},
                           {"banks of matrices", test_matrix_banks},
                           {"banks of Hopper's tiles", test_swizzled_banks},
                           {"banks of partial results", test_partial_banks},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "cuda maps", tests);
}
