/* Rows in pages of int4: what they are rounded to, that they have the same codes again when any of them went
 * through a page, and the products with their codes. */
#include <stdio.h>

#include "kernels/cpu/cpu_isa.h"
#include "kernels/kv_page.h"
#include "tests/fixtures/device_fixture.h"

enum { HEADS = 3, PAGE = 128, PLACES = KV_INT4_PLACES };

/* ---- ranges ---- */

/* Numbers of some kind: usual ones, of a common size, beside each other in bf16, the smallest, the largest,
 * any bits that are finite, and some that are not, or too far apart. */
enum { N_KINDS = 9 };

static void fill(uint64_t *seed, int kind, int n, uint16_t *x) {
    for (int i = 0; i < n; i++) {
        const float normal = harness_random_normal(seed);
        const uint16_t any = (uint16_t)harness_random(seed);
        x[i] = kind == 1   ? bf16_of_float(100 + normal)
               : kind == 2 ? 0x4300 + any % 9
               : kind == 3 ? any & 0x807f /* subnormal */
               : kind == 4 ? (any & 0x80ff) | 0x7e00
               : kind == 5 ? any & 0x8000
               : kind == 6 ? ((any & 0x7f80) == 0x7f80 ? 0 : (any & 0xbfff))
                           : bf16_of_float(normal);
    }
    if (kind == 7) x[n / 3] = n % 3 ? 0x7f80 : 0xffc0; /* infinite, or NaN */
    if (kind == 8) x[0] = 0x7f7f, x[n - 1] = 0xff7f;
}

static bool is_same(int4_range a, int4_range b) {
    return a.least == b.least && a.largest == b.largest;
}

static void check_range(int kind, int n, const uint16_t *x, uint64_t *seed) {
    uint8_t codes[INT4_MOST], again[INT4_MOST];
    uint16_t mixed[INT4_MOST];
    const int4_range r = int4_encode(n, x, codes);
    const float step = int4_step(r);
    for (int i = 0; i < n; i++) {
        const float value = float_of_bf16(x[i]), got = float_of_bf16(int4_decode(codes[i], r));
        CU_ASSERT(isnan(got) == (kind >= 7) && codes[i] <= INT4_LARGEST);
        if (kind < 7)
            CHECK_CASE(fabsf(got - value) <= 0.5001f * step + fmaxf(fabsf(got) * 0x1.01p-8f, 0x1p-133f),
                       "kind %d of %d: %g for %g", kind, n, (double)got, (double)value);
    }
    for (int trial = 0; trial < 3; trial++) { /* none, some and all of them decoded */
        for (int i = 0; i < n; i++) {
            const bool is_decoded = trial == 2 || (trial == 1 && harness_random(seed) % 2);
            mixed[i] = is_decoded ? int4_decode(codes[i], r) : x[i];
        }
        const int4_range other = int4_encode(n, mixed, again);
        CHECK_CASE(is_same(r, other) && !memcmp(codes, again, (size_t)n), "kind %d of %d: other codes", kind,
                   n);
    }
}

static void test_ranges(void) {
    uint64_t seed = 1;
    const int sizes[] = {1, 2, 16, 32, 64};
    for (int i = 0; i < 200 * N_KINDS; i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            uint16_t x[INT4_MOST];
            if (i % N_KINDS == 8 && sizes[s] == 1) continue;
            fill(&seed, i % N_KINDS, sizes[s], x);
            check_range(i % N_KINDS, sizes[s], x, &seed);
        }
}

/* ---- pages ---- */

static const int widths[] = {2, 6, 10, 48, 64, 80, 128, 512};

/* Values as they should come back. */
static void expect_values(int K, const uint16_t *rows, uint16_t *expected) {
    uint8_t codes[INT4_MOST];
    for (int place = 0; place < PLACES; place++, rows += K, expected += K)
        for (int i = 0; i < K; i += KV_INT4_VALUES) {
            const int n = K - i < KV_INT4_VALUES ? K - i : KV_INT4_VALUES;
            const int4_range r = int4_encode(n, rows + i, codes);
            for (int k = 0; k < n; k++)
                expected[i + k] = int4_decode(codes[k], r);
        }
}

/* A key is off, rotated, by half a step of its range over all places, or half a unit, at most; a unit is less
 * than a 31th of the largest number of all. */
static void check_keys(int K, const uint16_t *rows, const uint16_t *got) {
    static float x[PLACES][512], y[PLACES][512];
    float largest = 0;
    for (int place = 0; place < PLACES; place++) {
        for (int i = 0; i < K; i++)
            x[place][i] = float_of_bf16(rows[place * K + i]), y[place][i] = float_of_bf16(got[place * K + i]);
        int4_rotate(x[place], K);
        int4_rotate(y[place], K);
        for (int i = 0; i < K; i++)
            largest = fmaxf(largest, fabsf(x[place][i]));
    }
    for (int i = 0; i < K; i++) {
        float least = INFINITY, most = -INFINITY, worst = 0;
        for (int place = 0; place < PLACES; place++) {
            least = fminf(least, x[place][i]);
            most = fmaxf(most, x[place][i]);
            worst = fmaxf(worst, fabsf(x[place][i] - y[place][i]));
        }
        const float unit = largest / 31, step = fmaxf((most - least + unit) / INT4_LARGEST, unit);
        CHECK_CASE(worst <= 0.51f * step + largest * 0.01f, "width %d, channel %d: %g of %g", K, i,
                   (double)worst, (double)step);
    }
}

/* A group of rows of some kind, into a page and out of it. */
static void through_page(kv_part part, int K, const uint16_t *rows, uint16_t *got, char *page) {
    const kv_format f = kv_format_of(DTYPE_BF16, KV_INT4, 1, K, PLACES);
    memset(page, 0, kv_page_bytes(&f));
    kv_put_rows(&f, page, part, 0, 0, PLACES, rows, (size_t)K * sizeof *rows);
    kv_get_rows(&f, page, part, 0, 0, PLACES, got, (size_t)K * sizeof *rows);
}

/* Groups of which some rows, or all, went through a page before have the same codes: rows of all sizes, with
 * channels and places that stand out. */
static void test_again(void) {
    uint64_t seed = 5;
    static uint16_t rows[PLACES * 512], got[PLACES * 512], mixed[PLACES * 512];
    static char page[1 << 17], again[1 << 17];
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int trial = 0; trial < (harness_is_slow() ? 30 : 300); trial++) {
            const int K = widths[w], part = trial % N_KV_PARTS, kind = trial / N_KV_PARTS % 4;
            for (int i = 0; i < PLACES * K; i++) {
                float x = harness_random_normal(&seed);
                if (kind == 1 && i % K == K / 3) x = 40 + x;
                if (kind == 2 && i / K == 11) x *= 30;
                if (kind == 3) x *= 1e-30f * (float)(1 + i % K);
                rows[i] = bf16_of_float(x);
            }
            through_page((kv_part)part, K, rows, got, page);
            for (int all = 0; all < 2; all++) {
                for (int place = 0; place < PLACES; place++)
                    memcpy(mixed + place * K, (all || harness_random(&seed) % 2 ? got : rows) + place * K,
                           (size_t)K * sizeof *rows);
                through_page((kv_part)part, K, mixed, mixed, again);
                CHECK_CASE(!memcmp(page, again, sizeof page), "width %d, part %d, kind %d: other codes", K,
                           part, kind);
            }
        }
}

/* Each group of a full page is where no other is, and nothing is behind the page. */
static void test_pages(void) {
    uint64_t seed = 2;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        const int K = widths[w], n_groups = N_KV_PARTS * HEADS * PAGE / PLACES;
        const kv_format f = kv_format_of(DTYPE_BF16, KV_INT4, HEADS, K, PAGE);
        const size_t bytes = kv_page_bytes(&f), n = (size_t)(PLACES * K),
                     row_bytes = (size_t)K * sizeof(uint16_t);
        char *page = mem_new(bytes + 64, 1);
        uint16_t *rows = mem_new(n, sizeof *rows),
                 *expected = mem_new((size_t)n_groups * n, sizeof *expected);
        memset(page, 7, bytes + 64);
        for (int i = 0; i < n_groups; i++) {
            const kv_part part = (kv_part)(i % N_KV_PARTS);
            const int head = i / N_KV_PARTS % HEADS, place = i / N_KV_PARTS / HEADS * PLACES;
            fill(&seed, 0, (int)n, rows);
            kv_put_rows(&f, page, part, head, place, PLACES, rows, row_bytes);
            kv_get_rows(&f, page, part, head, place, PLACES, expected + (size_t)i * n, row_bytes);
            if (part == KV_PART_K)
                check_keys(K, rows, expected + (size_t)i * n);
            else
                expect_values(K, rows, expected + (size_t)i * n);
        }
        for (int i = 0; i < n_groups; i++) {
            const int head = i / N_KV_PARTS % HEADS, place = i / N_KV_PARTS / HEADS * PLACES;
            kv_get_rows(&f, page, (kv_part)(i % N_KV_PARTS), head, place, PLACES, rows, row_bytes);
            CHECK_CASE(!memcmp(rows, expected + (size_t)i * n, n * sizeof *rows), "width %d, group %d", K, i);
        }
        for (int i = 0; i < 64; i++)
            CU_ASSERT(page[bytes + (size_t)i] == 7);
        free(page);
        free(rows);
        free(expected);
    }
}

/* ---- products ---- */

enum { MOST_ROWS = 4, MOST_WIDTH = 512 };

/* A group of places of one head, its rows as they come back, and what meets them. */
typedef struct product {
    kv_format format;
    int width; /* with padding */
    char *page;
    uint16_t rows[N_KV_PARTS][PLACES * MOST_WIDTH];
    float exact[MOST_ROWS][MOST_WIDTH], queries[MOST_ROWS * MOST_WIDTH], weights[MOST_ROWS][PLACES];
} product;

static void begin(product *p, int K, uint64_t *seed) {
    p->format = kv_format_of(DTYPE_BF16, KV_INT4, 1, K, PLACES);
    p->width = kv_padded_key(&p->format);
    p->page = mem_new(kv_page_bytes(&p->format), 1);
    const size_t row_bytes = (size_t)K * sizeof(uint16_t);
    for (int part = 0; part < N_KV_PARTS; part++) {
        fill(seed, 0, PLACES * K, p->rows[part]);
        kv_put_rows(&p->format, p->page, (kv_part)part, 0, 0, PLACES, p->rows[part], row_bytes);
        kv_get_rows(&p->format, p->page, (kv_part)part, 0, 0, PLACES, p->rows[part], row_bytes);
    }
    memset(p->queries, 0, sizeof p->queries);
    for (int row = 0; row < MOST_ROWS; row++) {
        for (int i = 0; i < K; i++)
            p->exact[row][i] = p->queries[row * p->width + i] = 2 * harness_random_normal(seed);
        int4_rotate(p->queries + row * p->width, K);
        for (int i = 0; i < PLACES; i++) /* the last row sees but two places */
            p->weights[row][i] =
                row < MOST_ROWS - 1 || i / 2 == 9 ? expf(-3 * fabsf(harness_random_normal(seed))) : 0;
        p->weights[row][18] = 1; /* the largest of a block is */
    }
}

static void multiply(const cpu_kernels *k, const product *p, int row, int n_rows, float *scores,
                     float *sums) {
    memset(sums, 0, (size_t)(n_rows * p->width) * sizeof *sums);
    k->score_int4(p->queries + row * p->width, n_rows, p->width,
                  kv_place_in(&p->format, p->page, KV_PART_K, 0, 0), NULL, scores, PLACES);
    k->weigh_int4(p->weights[row], PLACES, n_rows, p->width,
                  kv_place_in(&p->format, p->page, KV_PART_V, 0, 0), NULL, sums, (size_t)p->width);
}

/* A query is rounded to 1/254 of the largest of its products with steps, at most, which meets up to 8 steps
 * of a code: about (4.6 * 0.3 / 127 * 3)^2 of a score that is a sum of products of this size. Weights to
 * 2^-15 and less. */
static void expect_products(const product *p, int row, const float *scores, const float *sums) {
    const int K = p->format.k_width;
    double score[PLACES] = {0}, sum[MOST_WIDTH] = {0};
    for (int place = 0; place < PLACES; place++)
        for (int i = 0; i < K; i++) {
            score[place] +=
                (double)p->exact[row][i] * (double)float_of_bf16(p->rows[KV_PART_K][place * K + i]);
            sum[i] +=
                (double)p->weights[row][place] * (double)float_of_bf16(p->rows[KV_PART_V][place * K + i]);
        }
    const double score_error = harness_nmse(scores, score, PLACES),
                 sum_error = harness_nmse(sums, sum, (size_t)K);
    CHECK_CASE(score_error < 2e-3, "width %d, row %d: scores %g", K, row, score_error);
    CHECK_CASE(sum_error < 1e-5, "width %d, row %d: sums %g", K, row, sum_error);
}

static void check_products(const cpu_kernels *k, const product *p) {
    float scores[MOST_ROWS * PLACES], sums[MOST_ROWS * MOST_WIDTH], together[MOST_ROWS * MOST_WIDTH];
    for (int row = 0; row < MOST_ROWS; row++) {
        multiply(k, p, row, 1, scores + row * PLACES, sums + row * p->width);
        expect_products(p, row, scores + row * PLACES, sums + row * p->width);
    }
    for (int n = 2; n <= k->int4_rows; n++) {
        float scores_of[MOST_ROWS * PLACES];
        const int row = MOST_ROWS - n;
        multiply(k, p, row, n, scores_of, together);
        CHECK_CASE(!memcmp(scores_of, scores + row * PLACES, (size_t)(n * PLACES) * sizeof *scores) &&
                       !memcmp(together, sums + row * p->width, (size_t)(n * p->width) * sizeof *sums),
                   "%s: width %d, %d rows together", k->isa, p->format.k_width, n);
    }
}

static void test_products(void) {
    static product p;
    uint64_t seed = 3;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        begin(&p, widths[w], &seed);
        for (int i = 0; cpu_isa_name(i); i++) {
            const cpu_kernels *kernels = cpu_isa_find(cpu_isa_name(i), PRECISION_BF16);
            if (kernels) check_products(kernels, &p);
        }
        free(p.page);
    }
}

/* A value that is not finite spoils who sees its place, and nobody else; a key spoils all of its group. */
static void test_not_finite(void) {
    static product p;
    uint64_t seed = 4;
    begin(&p, 64, &seed);
    for (int part = 0; part < N_KV_PARTS; part++) {
        p.rows[part][40 * 64 + 3] = 0x7f80;
        kv_put_rows(&p.format, p.page, (kv_part)part, 0, 0, PLACES, p.rows[part], 64 * sizeof(uint16_t));
    }
    for (int i = 0; cpu_isa_name(i); i++) {
        const cpu_kernels *kernels = cpu_isa_find(cpu_isa_name(i), PRECISION_BF16);
        float scores[PLACES], sums[MOST_WIDTH];
        for (int row = 0; kernels && row < MOST_ROWS; row++) {
            multiply(kernels, &p, row, 1, scores, sums);
            for (int k = 0; k < PLACES; k++)
                CU_ASSERT(isnan(scores[k]) && isnan(sums[k]) == (row < MOST_ROWS - 1 && k < KV_INT4_VALUES));
        }
    }
    free(p.page);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"ranges", test_ranges},         {"pages", test_pages},
                           {"again", test_again},           {"products", test_products},
                           {"not finite", test_not_finite}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "kv int4", tests);
}
