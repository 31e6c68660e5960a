/* tests/timing/test_chunk_model.c: least squares, the model of chunk times, chunks of equal time, and what is
 * made of a file of measurements. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/timing/chunk_list.h"
#include "src/timing/least_squares.h"
#include "src/timing/step_costs.h"
#include "tests/fixtures/harness.h"

static bool near(double a, double b, double relative) {
    return fabs(a - b) <= relative * fabs(b);
}

static double uniform(uint64_t *state, double low, double high) {
    return low + (high - low) * (double)(harness_random(state) >> 11) * 0x1p-53;
}

/* ---- least squares ---- */

static void a_line_by_hand(void) {
    /* 3 + 2 x through three points; then the best c for 1 and 2, by relative errors: 1.2. */
    const double line[] = {1, 1, 1, 2, 1, 5}, values[] = {5, 7, 13}, ones[] = {1, 1}, two[] = {1, 2};
    double found[2];
    CU_ASSERT(least_squares_fit(3, 2, line, values, found) < 1e-14);
    CU_ASSERT(near(found[0], 3, 1e-13) && near(found[1], 2, 1e-13));
    double error = least_squares_fit(2, 1, ones, two, found);
    CU_ASSERT(near(found[0], 1.2, 1e-14)); /* (1 + 1/2) / (1 + 1/4) */
    CU_ASSERT(near(error, sqrt((0.2 * 0.2 + 0.4 * 0.4) / 2), 1e-13));
    CU_ASSERT(least_squares_fit(0, 2, NULL, NULL, found) == 0 && found[0] == 0 && found[1] == 0);
}

static void no_coefficient_is_negative(void) {
    /* 10 - x, which a falling line would fit: the best without one is a constant. */
    const double terms[] = {1, 1, 1, 2, 1, 3}, values[] = {9, 8, 7};
    double found[2];
    least_squares_fit(3, 2, terms, values, found);
    double constant = (1 / 9. + 1 / 8. + 1 / 7.) / (1 / 81. + 1 / 64. + 1 / 49.);
    CU_ASSERT(near(found[0], constant, 1e-13) && found[1] == 0);
}

static void terms_that_are_the_same(void) {
    const double terms[] = {1, 2, 2, 4, 3, 6}, values[] = {2, 4, 6}; /* the second is twice the first */
    double found[2];
    CU_ASSERT(least_squares_fit(3, 2, terms, values, found) < 1e-14);
    CU_ASSERT(near(found[0] + 2 * found[1], 2, 1e-13));
}

/* ---- the model ---- */

enum { MAX_TIMES = 256 };

static int make_times(const chunk_model *m, double noise, uint64_t *state, chunk_time *times) {
    int n = 0;
    for (double L = 0; L <= 65536; L = 2 * L + 1024)
        for (double x = 16; x <= 512; x *= 2, n++) {
            double error = 1 + noise * harness_random_normal(state);
            times[n] = (chunk_time){L, x, chunk_model_seconds(m, L, x) * error};
        }
    return n;
}

static void formula(void) {
    const chunk_model m = {1000, 100, 10, 1};
    CU_ASSERT_EQUAL(chunk_model_seconds(&m, 0, 0), 1000);
    CU_ASSERT_EQUAL(chunk_model_seconds(&m, 3, 0), 1300);
    CU_ASSERT_EQUAL(chunk_model_seconds(&m, 3, 2), 1300 + 20 + 2 * 3 * 2 + 4);
    /* Attention does not depend on where a prompt is cut. */
    const chunk_model a = {0, 0, 0, 1};
    CU_ASSERT_EQUAL(chunk_model_seconds(&a, 0, 7) + chunk_model_seconds(&a, 7, 5),
                    chunk_model_seconds(&a, 0, 12));
}

static void exact_times_give_the_model_back(void) {
    uint64_t state = 1;
    chunk_time times[MAX_TIMES];
    for (int round = 0; round < 50; round++) {
        chunk_model m = {uniform(&state, 1e-5, 1e-3), uniform(&state, 1e-9, 1e-7),
                         uniform(&state, 1e-7, 1e-4), uniform(&state, 1e-11, 1e-8)},
                    found;
        if (round % 5 == 1) m.g = 0;
        if (round % 5 == 2) m.c = 0;
        int n = make_times(&m, 0, &state, times);
        CU_ASSERT(chunk_model_fit(times, n, &found) < 1e-12);
        CU_ASSERT(near(found.b, m.b, 1e-7) && near(found.a, m.a, 1e-7));
        CU_ASSERT(fabs(found.c - m.c) < 1e-7 * (m.c + 1e-4) && fabs(found.g - m.g) < 1e-7 * (m.g + 1e-8));
        CU_ASSERT(chunk_model_worst(&found, times, n) < 1e-11);
    }
}

static void noise_is_told(void) {
    uint64_t state = 2;
    chunk_time times[MAX_TIMES];
    const chunk_model m = {1e-4, 1e-8, 1e-5, 4e-9};
    chunk_model found;
    int n = make_times(&m, 0.05, &state, times);
    double error = chunk_model_fit(times, n, &found), worst = chunk_model_worst(&found, times, n);
    CU_ASSERT(error > 0.03 && error < 0.07 && worst > error && worst < 0.3);
    CU_ASSERT(near(found.a, m.a, 0.05) && near(found.b, m.b, 0.2));
    for (int i = 0; i < n; i++)
        CU_ASSERT(near(chunk_model_seconds(&found, times[i].history, times[i].rows),
                       chunk_model_seconds(&m, times[i].history, times[i].rows), 0.06));
}

static void rows_of_a_time(void) {
    uint64_t state = 3;
    for (int round = 0; round < 1000; round++) {
        chunk_model m = {uniform(&state, 0, 1e-3), uniform(&state, 0, 1e-7), uniform(&state, 1e-7, 1e-4),
                         round % 3 ? uniform(&state, 0, 1e-8) : 0};
        double L = uniform(&state, 0, 1e6), x = uniform(&state, 0.1, 1e5);
        CU_ASSERT(near(chunk_model_rows(&m, L, chunk_model_seconds(&m, L, x)), x, 1e-6));
    }
    const chunk_model slow = {1, 1, 1, 1}, free_rows = {1, 0, 0, 0};
    CU_ASSERT(chunk_model_rows(&slow, 10, 11) == 0 && chunk_model_rows(&slow, 10, 5) == 0);
    CU_ASSERT(isinf(chunk_model_rows(&free_rows, 10, 2)));
}

/* The bound is reached by the best number of equal shares of the work, and by no other. */
static void bound_is_the_best_of_all(void) {
    const chunk_model m = {0.01, 0, 1e-3, 1e-6};
    double n = 10000, work = m.b * n + m.a * n * n;
    for (int P = 1; P <= 64; P *= 4) {
        double bound = chunk_model_bound(&m, n, P), best = 0;
        for (int chunks = 1; chunks < 20000; chunks++) {
            double seconds = work + chunks * m.c + (P - 1) * (work / chunks + m.c),
                   efficiency = work / seconds;
            if (efficiency > best) best = efficiency;
        }
        CU_ASSERT(best <= bound * (1 + 1e-12));
        if (P > 1) CU_ASSERT(best > bound * 0.999);
        if (P == 1) CU_ASSERT_EQUAL(bound, 1);
    }
    const chunk_model with_g = {0.01, 2e-6, 1e-3, 1e-6}, the_same = {0.02, 0, 1e-3, 1e-6};
    CU_ASSERT(near(chunk_model_bound(&with_g, n, 8), chunk_model_bound(&the_same, n, 8), 1e-14));
}

static void model_as_text(void) {
    chunk_model m;
    CHECK_OK(chunk_model_parse("chunk-model", "1e-4,0,2e-6,0.5", &m));
    CU_ASSERT(m.c == 1e-4 && m.g == 0 && m.b == 2e-6 && m.a == 0.5);
    static const char *const bad[] = {"",         "1",         "1,2,3",     "1,2,3,4,5", "1,2,3,4,", ",1,2,3",
                                      "-1,2,3,4", "1,2,nan,4", "1,2,inf,4", "1;2;3;4",   "1,2,3,4s"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_REFUSED(chunk_model_parse("chunk-model", bad[i], &m), "expected C,G,B,A");
    CHECK_REFUSED(chunk_model_parse("chunk-model", "1,2,0,4", &m), "the third number");
}

/* ---- chunks of equal time ---- */

static int64_t last_rows(const chunk_list *list) {
    return list->ends[list->n - 1] - list->ends[list->n - 2];
}

static void chunks_of_equal_time(void) {
    const chunk_model m = {1e-4, 1e-8, 1e-5, 4e-9};
    chunk_list list = {0};
    double seconds = chunk_model_seconds(&m, 0, 700);
    chunk_list_append_equal_time(&list, &m, seconds, 512, 20000);
    CU_ASSERT(list.ends[0] == 512 && list.ends[list.n - 1] >= 20000 && list.ends[list.n - 2] < 20000);
    for (int64_t i = 0, begin = 0, last = 512; i < list.n; begin = list.ends[i++]) {
        int64_t rows = list.ends[i] - begin;
        CU_ASSERT(rows > 0 && rows % CHUNK_QUANTUM == 0 && rows <= last);
        double more = chunk_model_seconds(&m, (double)begin, (double)(rows + CHUNK_QUANTUM / 2));
        double less = chunk_model_seconds(&m, (double)begin, (double)(rows - CHUNK_QUANTUM / 2));
        CU_ASSERT((rows == 512 || more >= seconds * (1 - 1e-12)) && less <= seconds * (1 + 1e-12));
        last = rows;
    }
    CU_ASSERT(last_rows(&list) < 200);
    chunk_list_free(&list);

    chunk_list_append_equal_time(&list, &m, 1, 5, 12); /* no multiples of less than one */
    CU_ASSERT(list.n == 3 && list.ends[2] == 15);
    chunk_list_free(&list);
    chunk_list_append_equal_time(&list, &m, 1e-9, 512, 40); /* no time is too short for the least chunk */
    CU_ASSERT(list.n == 3 && list.ends[2] == 48);
    chunk_list_free(&list);
}

static void seconds_of_a_list(void) {
    const chunk_model m = {100, 0, 1, 0};
    chunk_list list = {0};
    chunk_list_append(&list, 50);
    chunk_list_append(&list, 20);
    CU_ASSERT_EQUAL(chunk_list_seconds(&list, &m, 1, 70), 150 + 120);
    CU_ASSERT_EQUAL(chunk_list_seconds(&list, &m, 4, 70), 150 + 120 + 3 * 150);
    CU_ASSERT_EQUAL(chunk_list_seconds(&list, &m, 4, 60), 150 + 110 + 3 * 150);
    CU_ASSERT_EQUAL(chunk_list_seconds(&list, &m, 2, 30), 130 + 130);
    chunk_list_free(&list);
}

/* They come near the bound, are better than any of equal length, and one stage takes the largest there are.
 */
static void the_best_chunks(void) {
    const chunk_model m = {1e-4, 1e-9, 1e-5, 4e-9};
    const int64_t n = 65536;
    chunk_list best = {0};
    for (int P = 2; P <= 64; P *= 2) {
        chunk_list_append_best(&best, &m, P, 4096, n);
        double seconds = chunk_list_seconds(&best, &m, P, n),
               work = m.b * (double)n + m.a * (double)n * (double)n;
        CU_ASSERT(work / seconds > 0.98 * chunk_model_bound(&m, (double)n, P));
        for (int64_t rows = 16; rows <= 4096; rows *= 2) {
            chunk_list equal = {0};
            while (equal.n == 0 || equal.ends[equal.n - 1] < n)
                chunk_list_append(&equal, rows);
            CU_ASSERT(seconds < chunk_list_seconds(&equal, &m, P, n));
            chunk_list_free(&equal);
        }
        chunk_list_free(&best);
    }
    chunk_list_append_best(&best, &m, 1, 4096, n);
    CU_ASSERT(best.n == 16 && best.ends[0] == 4096 && best.ends[15] == n);
    chunk_list_free(&best);
}

static void rows_at_positions(void) {
    chunk_list list = {0};
    chunk_list_append(&list, 10);
    chunk_list_append(&list, 4);
    chunk_list_append(&list, 1);
    CU_ASSERT(chunk_list_rows_at(&list, 0) == 10 && chunk_list_rows_at(&list, 9) == 10);
    CU_ASSERT(chunk_list_rows_at(&list, 10) == 4 && chunk_list_rows_at(&list, 13) == 4);
    CU_ASSERT(chunk_list_rows_at(&list, 14) == 1 && chunk_list_rows_at(&list, 1000) == 1);
    CU_ASSERT(chunk_list_count(&list, 0) == 0 && chunk_list_count(&list, 10) == 1);
    CU_ASSERT(chunk_list_count(&list, 11) == 2 && chunk_list_count(&list, 15) == 3);
    CU_ASSERT(chunk_list_count(&list, 17) == 5);
    chunk_list_free(&list);
}

/* ---- files of measurements ---- */

static const chunk_model made_prefill = {2e-4, 1e-8, 1e-5, 4e-9}, made_decode = {3e-4, 5e-9, 2e-5, 0};

/* Ranks of 3 and 5 layers, measured without any noise. */
static step_times make_file(const model_config *config) {
    step_times t = {.n_threads = 2, .hop_seconds = 1e-5, .n_ranks = 2};
    model_config_describe(config, t.model, sizeof t.model);
    strcpy(t.processor, "one \"of\" ours");
    t.layers = calloc(2, sizeof *t.layers);
    t.layers[0] = 3;
    t.layers[1] = 5;
    t.steps = calloc(MAX_TIMES, sizeof *t.steps);
    for (int rank = 0; rank < 2; rank++) {
        for (int L = 0; L <= 4096; L += 1024) {
            for (int x = 16; x <= 512; x *= 4)
                t.steps[t.n_steps++] = (step_time){
                    rank, 1, x, L, t.layers[rank] * chunk_model_seconds(&made_prefill, L, x), 0, 0};
            for (int n = 1; n <= 16; n *= 4)
                t.steps[t.n_steps++] =
                    (step_time){rank,
                                n,
                                1,
                                L,
                                t.layers[rank] * (made_decode.c + n * (made_decode.g * L + made_decode.b)),
                                rank * n,
                                rank * (1e-3 + n * 1e-4)};
        }
    }
    return t;
}

static model_config demo_config(void) {
    model_config config;
    char path[512];
    snprintf(path, sizeof path, "%s/jobs/demo/model", harness_source_dir());
    CHECK_OK(model_config_load(path, &config));
    return config;
}

static void file_and_back(void) {
    model_config config = demo_config();
    step_times written = make_file(&config), read;
    char path[256], other[300];
    snprintf(path, sizeof path, "%s/times.json", harness_temp_dir());
    CHECK_OK(step_times_write(&written, path));
    CHECK_OK(step_times_read(path, &read));
    CU_ASSERT(read.n_ranks == 2 && read.layers[1] == 5 && read.n_threads == 2 && read.hop_seconds == 1e-5);
    CU_ASSERT(!strcmp(read.processor, written.processor) && read.n_steps == written.n_steps);
    for (int i = 0; i < read.n_steps; i++)
        CU_ASSERT(read.steps[i].rank == written.steps[i].rank &&
                  read.steps[i].n_rows == written.steps[i].n_rows &&
                  near(read.steps[i].layer_seconds, written.steps[i].layer_seconds, 1e-14) &&
                  fabs(read.steps[i].head_seconds - written.steps[i].head_seconds) < 1e-14);
    step_costs costs;
    CHECK_OK(step_costs_choose(path, NULL, &config, &costs));
    CU_ASSERT(near(costs.prefill.c, made_prefill.c, 1e-8) && near(costs.prefill.a, made_prefill.a, 1e-8));
    CU_ASSERT(near(costs.decode.c, made_decode.c, 1e-8) && near(costs.decode.g, made_decode.g, 1e-8));
    CU_ASSERT(near(costs.decode.b, made_decode.b, 1e-8) && near(costs.head_c, 1e-3, 1e-8));
    CU_ASSERT(near(costs.head_row, 1e-4, 1e-8) && costs.hop_seconds == 1e-5 && costs.n_ranks == 2);
    CU_ASSERT(near(step_costs_decode(&costs, 100, 3), 3e-4 + 3 * (5e-7 + 2e-5), 1e-8));
    CU_ASSERT(near(step_costs_head(&costs, 2), 1.2e-3, 1e-8) && step_costs_head(&costs, 0) == 0);

    config.n_layers++;
    CHECK_REFUSED(step_costs_choose(path, NULL, &config, &costs), "was measured with another model");
    config.n_layers--;
    written.n_steps = 3;
    CHECK_OK(step_times_write(&written, path));
    CHECK_REFUSED(step_costs_choose(path, NULL, &config, &costs), "3 chunks of prompts are too few");
    snprintf(other, sizeof other, "%s/no/such", path);
    CU_ASSERT(step_times_write(&written, other) == STATUS_FAILED);
    CHECK_REFUSED(step_costs_choose(other, NULL, &config, &costs), "--measured");
    step_times_free(&written);
    step_times_free(&read);
}

static void files_that_are_refused(void) {
    static const char *const rows[][2] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{}", "format"},
        {"{\"format\": 2, \"model\": \"m\"}", "format"},
        {"{\"format\": 1, \"model\": \"m\", \"processor\": \"p\", \"threads\": 1, \"hop_seconds\": 0, "
         "\"ranks\": []}",
         "ranks"},
        {"{\"format\": 1, \"model\": \"m\", \"processor\": \"p\", \"threads\": 1, \"hop_seconds\": 0, "
         "\"ranks\": "
         "[{\"layers\": 1}], \"steps\": [{\"rank\": 1, \"sequences\": 1, \"history\": 0, \"rows\": 1, "
         "\"layer_seconds\": 1, \"head_rows\": 0, \"head_seconds\": 0}]}",
         "steps[0].rank"},
        {"{\"format\": 1, \"model\": \"m\", \"processor\": \"p\", \"threads\": 1, \"hop_seconds\": 0, "
         "\"ranks\": "
         "[{\"layers\": 1}], \"steps\": [{\"rank\": 0, \"sequences\": 1, \"history\": 0, \"rows\": 1, "
         "\"layer_seconds\": 0, \"head_rows\": 0, \"head_seconds\": 0}]}",
         "steps[0].layer_seconds"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        step_times t;
        CHECK_REFUSED(step_times_parse(rows[i][0], strlen(rows[i][0]), "times.json", &t), rows[i][1]);
        CU_ASSERT(strstr(status_text(), "times.json") != NULL);
    }
}

/* By hand the head counts as so many layers as it has elements of theirs. */
static void costs_from_four_numbers(void) {
    model_config c = demo_config();
    chunk_model m = {1e-3, 1e-7, 1e-5, 1e-9};
    step_costs costs = step_costs_from_model(&m, &c);
    CU_ASSERT(near(step_costs_decode(&costs, 100, 1), chunk_model_seconds(&m, 100, 1), 1e-12));
    double layer = 256. * (2 * 256 + 2 * 128 + 3 * 704), head = 256. * 4096;
    CU_ASSERT(near(step_costs_head(&costs, 3), head / layer * (1e-3 + 3 * (1e-5 + 1e-9)), 1e-12));
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"a line by hand", a_line_by_hand},
        {"no coefficient is negative", no_coefficient_is_negative},
        {"terms that are the same", terms_that_are_the_same},
        {"formula", formula},
        {"exact times give the model back", exact_times_give_the_model_back},
        {"noise is told", noise_is_told},
        {"rows of a time", rows_of_a_time},
        {"bound is the best of all", bound_is_the_best_of_all},
        {"model as text", model_as_text},
        {"chunks of equal time", chunks_of_equal_time},
        {"seconds of a list", seconds_of_a_list},
        {"the best chunks", the_best_chunks},
        {"rows at positions", rows_at_positions},
        {"file and back", file_and_back},
        {"files that are refused", files_that_are_refused},
        {"costs from four numbers", costs_from_four_numbers},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "chunk_model", tests);
}
