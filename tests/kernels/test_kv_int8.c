/* Rows in pages of int8: what they are rounded to, that they come back as they are put, and the products with
 * their codes, which are whole numbers and so the same on every instruction set. */
#include <stdio.h>

#include "kernels/attend_blocks.h"
#include "kernels/cpu/cpu_isa.h"
#include "tests/fixtures/device_fixture.h"

enum { HEADS = 3, PAGE = 64 };

/* ---- rows ---- */

static const int widths[] = {2, 6, 10, 64, 128, 130, 256, 320};

/* A row of numbers of some kind: usual ones, the smallest, the largest, zeros, one that stands out, any bits
 * that are finite, and some that are not. */
enum { N_ROW_KINDS = 7 };

static void fill_row(uint64_t *seed, int kind, int n, uint16_t *row) {
    for (int i = 0; i < n; i++) {
        const float x = harness_random_normal(seed);
        const uint16_t any = (uint16_t)harness_random(seed);
        row[i] = kind == 1   ? any & 0x803f /* subnormal */
                 : kind == 2 ? (any & 0x807f) | 0x7f00
                 : kind == 3 ? any & 0x8000
                 : kind == 4 ? bf16_of_float(i == n / 2 ? 1000 * x : x)
                 : kind == 5 ? ((any & 0x7f80) == 0x7f80 ? 0 : any)
                             : bf16_of_float(x);
    }
    if (kind == 6) row[n / 3] = n % 3 ? 0x7f80 : 0xffc0; /* infinite, or NaN */
}

/* Elements [first, last) of a row, which share a scale. */
static void check_group(const uint16_t *row, const uint16_t *got, int first, int last) {
    float largest = 0, worst = 0;
    bool is_finite = true;
    for (int i = first; i < last; i++) {
        largest = fmaxf(largest, fabsf(float_of_bf16(row[i])));
        is_finite = is_finite && (row[i] & 0x7f80) != 0x7f80;
    }
    for (int i = first; i < last; i++) {
        const float x = float_of_bf16(row[i]), y = float_of_bf16(got[i]);
        CU_ASSERT(isnan(y) == !is_finite);
        if (is_finite) worst = fmaxf(worst, fabsf(y - x) - fabsf(x) * 0x1p-8f);
    }
    CU_ASSERT(worst <= fmaxf(largest / 254, 0x1p-127f) * 1.001f);
}

static const kv_layout layouts[] = {KV_INT8, KV_INT8_ROWS};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts };

static void check_row(const kv_format *f, kv_part part, const uint16_t *row, char *page, char *again) {
    const int width = kv_part_width(f, part),
              group = part == KV_PART_K && f->layout == KV_INT8 ? INT8_GROUP : width;
    uint16_t got[512];
    kv_put_rows(f, page, part, 1, 37, 1, row, 0);
    kv_get_rows(f, page, part, 1, 37, 1, got, 0);
    for (int i = 0; i < width; i += group)
        check_group(row, got, i, i + group < width ? i + group : width);
    kv_put_rows(f, again, part, 1, 37, 1, got, 0);
    CU_ASSERT(!memcmp(page, again, kv_page_bytes(f)));
}

static void test_rows(void) {
    uint64_t seed = 1;
    for (size_t i = 0; i < N_LAYOUTS * sizeof widths / sizeof *widths; i++) {
        const int width = widths[i / N_LAYOUTS];
        const kv_format f = kv_format_of(DTYPE_BF16, layouts[i % N_LAYOUTS], HEADS, width, PAGE);
        const size_t bytes = kv_page_bytes(&f);
        char *page = mem_new(bytes, 1), *again = mem_new(bytes, 1);
        for (int kind = 0; kind < 100 * N_ROW_KINDS; kind++)
            for (int part = 0; part < N_KV_PARTS; part++) {
                uint16_t row[512];
                memset(page, 0x55, bytes);
                memset(again, 0x55, bytes);
                fill_row(&seed, kind % N_ROW_KINDS, width, row);
                check_row(&f, (kv_part)part, row, page, again);
            }
        free(page);
        free(again);
    }
}

/* Each row of a full page is where no other is, and nothing is behind the page. */
static void test_places(void) {
    uint64_t seed = 2;
    for (size_t i = 0; i < N_LAYOUTS * sizeof widths / sizeof *widths; i++) {
        const int K = widths[i / N_LAYOUTS], n_rows = N_KV_PARTS * HEADS * PAGE;
        const kv_format f = kv_format_of(DTYPE_BF16, layouts[i % N_LAYOUTS], HEADS, K, PAGE);
        const size_t bytes = kv_page_bytes(&f), row_bytes = (size_t)K * sizeof(uint16_t);
        char *page = mem_new(bytes + 64, 1), *rows = mem_new((size_t)n_rows, row_bytes);
        memset(page + bytes, 7, 64);
        for (int pass = 0; pass < 2; pass++) /* as they are, and as they come back */
            for (int part = 0; part < N_KV_PARTS; part++)
                for (int head = 0; head < HEADS; head++)
                    for (int place = 0; place < PAGE; place++) {
                        char *row =
                            rows + (size_t)((part * HEADS + head) * PAGE + (place * 7) % PAGE) * row_bytes;
                        uint16_t got[512];
                        if (pass == 0) {
                            fill_row(&seed, 0, K, (uint16_t *)(void *)row);
                            kv_put_rows(&f, page, (kv_part)part, head, place * 7 % PAGE, 1, row, 0);
                            kv_get_rows(&f, page, (kv_part)part, head, place * 7 % PAGE, 1, row, 0);
                            continue;
                        }
                        kv_get_rows(&f, page, (kv_part)part, head, place * 7 % PAGE, 1, got, 0);
                        CU_ASSERT(!memcmp(got, row, row_bytes));
                    }
        for (int at = 0; at < 64; at++)
            CU_ASSERT(page[bytes + (size_t)at] == 7);
        free(page);
        free(rows);
    }
}

/* A row has the same codes in both layouts, and the same scale, where its key has one. */
static void test_layouts(void) {
    uint64_t seed = 3;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        const kv_format f = kv_format_of(DTYPE_BF16, KV_INT8, HEADS, widths[w], PAGE),
                        rows = kv_format_of(DTYPE_BF16, KV_INT8_ROWS, HEADS, widths[w], PAGE);
        char *page = mem_new(kv_page_bytes(&f), 1), *other = mem_new(kv_page_bytes(&rows), 1);
        for (int i = 0; i < 10 * N_ROW_KINDS; i++)
            for (int part = 0; part < N_KV_PARTS; part++) {
                if (part == KV_PART_K && widths[w] > INT8_GROUP) continue;
                uint16_t row[512];
                fill_row(&seed, i % N_ROW_KINDS, widths[w], row);
                kv_put_rows(&f, page, (kv_part)part, 1, 37, 1, row, 0);
                kv_put_rows(&rows, other, (kv_part)part, 1, 37, 1, row, 0);
                const kv_int8_group a = kv_int8_group_at(&f, page, (kv_part)part, 1, 37, 0),
                                    b = kv_int8_group_at(&rows, other, (kv_part)part, 1, 37, 0);
                CU_ASSERT(!memcmp(a.scale, b.scale, KV_WORD_BYTES));
                for (int k = 0; k < widths[w]; k++)
                    CU_ASSERT(*kv_int8_code(&f, &a, (kv_part)part, k) ==
                              *kv_int8_code(&rows, &b, (kv_part)part, k));
            }
        free(page);
        free(other);
    }
}

/* ---- weighted values ---- */

enum { N_PANELS = 5, WIDTH = N_PANELS * PANEL, MOST_ROWS = 4 };

#define SCALE 0.5f

/* Scores of a block (NaN where nobody looks), its scales, and its codes: whole words. */
typedef struct weighing {
    float scores[MOST_ROWS][ATTEND_BLOCK], scales[ATTEND_BLOCK];
    attend_range seen[MOST_ROWS];
    uint32_t codes[ATTEND_BLOCK / INT8_WORD_COLS][WIDTH];
} weighing;

static void fill_weighing(uint64_t *seed, weighing *w) {
    const attend_range seen[MOST_ROWS] = {{0, 256}, {3, 130}, {131, 132}, {40, 41}};
    memcpy(w->seen, seen, sizeof seen);
    for (int i = 0; i < ATTEND_BLOCK; i++) {
        w->scales[i] = expf(harness_random_normal(seed));
        for (int row = 0; row < MOST_ROWS; row++) {
            const bool is_seen = i >= seen[row].first && i < seen[row].last;
            w->scores[row][i] = is_seen ? 3 * harness_random_normal(seed) : NAN;
        }
        for (int k = 0; k < WIDTH; k++)
            w->codes[i / INT8_WORD_COLS][k] = (uint32_t)harness_random(seed);
    }
}

/* exp(SCALE * score - the largest). */
static double weight_of(const weighing *w, int row, int i) {
    double largest = -INFINITY;
    for (int j = w->seen[row].first; j < w->seen[row].last; j++)
        largest = fmax(largest, SCALE * (double)w->scores[row][j]);
    return exp(SCALE * (double)w->scores[row][i] - largest);
}

static double sum_of_weights(const weighing *w, int row) {
    double sum = 0;
    for (int i = w->seen[row].first; i < w->seen[row].last; i++)
        sum += weight_of(w, row, i);
    return sum;
}

/* values[n_rows][WIDTH] of rows from `row` on. */
static void weigh(const cpu_kernels *kernels, const weighing *w, int row, int n_rows, float *values) {
    const size_t group_bytes = INT8_GROUP_WORDS * kernels->int8_keys.input_word_bytes;
    const size_t row_bytes = ATTEND_BLOCK / INT8_GROUP * group_bytes;
    char *words = mem_new(MOST_ROWS, row_bytes);
    memset(values, 0, (size_t)(n_rows * WIDTH) * sizeof *values);
    for (int i = 0; i < n_rows; i++) {
        float factors[ATTEND_BLOCK], partial[ATTEND_PARTIAL_VALUES];
        const attend_range seen = w->seen[row + i];
        const float unit = kernels->factors_int8(w->scales, seen.first, seen.last, factors);
        kernels->softmax_int8(w->scores[row + i], seen.first, seen.last, SCALE, factors, unit, NULL,
                              words + (size_t)i * row_bytes, partial);
        CHECK_CASE(fabs(partial[ATTEND_PARTIAL_SUM] - sum_of_weights(w, row + i)) < 1e-4, "row %d: %g",
                   row + i, partial[ATTEND_PARTIAL_SUM]);
    }
    for (int group = 0; group < ATTEND_BLOCK / INT8_GROUP; group++) {
        const uint32_t *codes[WEIGH_INT8_PIECES];
        for (int i = 0; i < WEIGH_INT8_PIECES; i++)
            codes[i] = w->codes[(group * WEIGH_INT8_PIECES + i) * WEIGH_PANELS * PANEL / INT8_WORD_COLS];
        kernels->weigh_int8(words + (size_t)group * group_bytes, row_bytes, n_rows, codes, N_PANELS, NULL,
                            values, WIDTH);
    }
    free(words);
}

/* Weights times scales are rounded to multiples of a unit: the squares of what that changes in a row have a
 * known mean, which few exceed four times; beside it, float32 numbers are rounded. */
static void expect_values(const weighing *w, int row, const float *values) {
    double expected[WIDTH] = {0}, largest = 0, squares = 0, most = 0;
    for (int i = w->seen[row].first; i < w->seen[row].last; i++)
        largest = fmax(largest, (double)w->scales[i]);
    for (int i = w->seen[row].first; i < w->seen[row].last; i++)
        for (int k = 0; k < WIDTH; k++) {
            const int code = (int)(w->codes[i / INT8_WORD_COLS][k] >> (8 * (i % INT8_WORD_COLS)) & 255) - 128;
            expected[k] += weight_of(w, row, i) * (double)w->scales[i] * code;
            most += 4 * pow(largest * 0x1p-13 * code, 2) / 12;
        }
    for (int k = 0; k < WIDTH; k++) {
        squares += pow((double)values[k] - expected[k], 2);
        most += 1e-12 * pow(expected[k], 2);
    }
    CHECK_CASE(squares < most, "row %d: %g of %g", row, squares, most);
}

static void test_weigh(void) {
    static weighing w;
    uint64_t seed = 3;
    float first[MOST_ROWS * WIDTH], values[MOST_ROWS * WIDTH];
    for (int trial = 0; trial < 5; trial++) {
        fill_weighing(&seed, &w);
        for (int i = 0; cpu_isa_name(i); i++) {
            const cpu_kernels *kernels = cpu_isa_find(cpu_isa_name(i), PRECISION_BF16);
            if (!kernels) continue;
            for (int row = 0; row < MOST_ROWS; row++)
                weigh(kernels, &w, row, 1, values + row * WIDTH);
            for (int row = 0; row < MOST_ROWS; row++)
                expect_values(&w, row, values + row * WIDTH);
            if (!cpu_isa_name(i + 1)) memcpy(first, values, sizeof first);
            for (int n = 2; n <= kernels->int8_keys.rows; n++) {
                float together[MOST_ROWS * WIDTH];
                weigh(kernels, &w, MOST_ROWS - n, n, together);
                CHECK_CASE(!memcmp(together, values + (MOST_ROWS - n) * WIDTH,
                                   (size_t)(n * WIDTH) * sizeof *together),
                           "%s: %d rows together", kernels->isa, n);
            }
        }
        for (int i = 0; cpu_isa_name(i); i++) {
            const cpu_kernels *kernels = cpu_isa_find(cpu_isa_name(i), PRECISION_BF16);
            if (!kernels) continue;
            for (int row = 0; row < MOST_ROWS; row++)
                weigh(kernels, &w, row, 1, values + row * WIDTH);
            CHECK_CASE(!memcmp(values, first, sizeof first), "%s: other bits", kernels->isa);
        }
    }
}

/* A scale that is NaN spoils who sees its place, and nobody else. */
static void test_not_finite(void) {
    static weighing w;
    uint64_t seed = 4;
    float values[WIDTH];
    fill_weighing(&seed, &w);
    w.scales[130] = NAN;
    for (int i = 0; cpu_isa_name(i); i++) {
        const cpu_kernels *kernels = cpu_isa_find(cpu_isa_name(i), PRECISION_BF16);
        for (int row = 0; kernels && row < MOST_ROWS; row++) {
            weigh(kernels, &w, row, 1, values);
            for (int k = 0; k < WIDTH; k++)
                CU_ASSERT(isnan(values[k]) == (row == 0));
        }
    }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"rows", test_rows},
                           {"places", test_places},
                           {"layouts", test_layouts},
                           {"weighted values", test_weigh},
                           {"not finite", test_not_finite},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv int8", tests);
}
