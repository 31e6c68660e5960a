/* tests/io/test_varve_loops.c: the inner loops of the codec kvarve: every instruction set that is here beside
 * the portable one, to the bit where decoding needs it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/key_turns.h"
#include "io/codec/varve_loops.h"
#include "tests/fixtures/harness.h"

static bool is_same(const void *a, const void *b, size_t n) {
    return memcmp(a, b, n) == 0;
}

/* Of 16 bits: any, or only the outermost ones. */
static int16_t draw_number(uint64_t *state, bool is_extreme) {
    const uint64_t x = harness_random(state);
    return is_extreme ? (x & 1 ? INT16_MIN : INT16_MAX) : (int16_t)(x >> 8);
}

/* ---- sums ---- */

static void sums(void) {
    static const int sizes[][2] = {{2, 1}, {2, 96}, {6, 3}, {64, 96}, {18, 128}, {64, 192}};
    uint64_t state = 1;
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        const int n_out = sizes[i / 2][0], n_pairs = sizes[i / 2][1];
        const size_t n_matrix = (size_t)(n_out * n_pairs) * 2, n_in = (size_t)n_pairs * VARVE_TILE * 2,
                     n = (size_t)n_out * VARVE_TILE;
        int16_t *matrix = mem_new(n_matrix, sizeof *matrix), *in = mem_new(n_in, sizeof *in);
        uint16_t *list = mem_new((size_t)n_pairs, sizeof *list);
        int32_t *expected = mem_new(n, sizeof *expected), *out = mem_new(n, sizeof *out);
        for (size_t k = 0; k < n_matrix; k++)
            matrix[k] = draw_number(&state, i % 2);
        for (size_t k = 0; k < n_in; k++)
            in[k] = draw_number(&state, i % 2);
        for (int sparse = 1; sparse <= 4; sparse++) {
            int n_listed = 0; /* of the last round: few or none */
            for (int p = 0; p < n_pairs; p++)
                if (harness_random(&state) % (1u << (4 * (sparse - 1))) == 0) list[n_listed++] = (uint16_t)p;
            varve_loops_portable.sum_pairs(matrix, n_out, n_pairs, in, list, n_listed, expected);
            for (int isa = 0; varve_loops_all[isa]; isa++) {
                if (!varve_loops_all[isa]->is_available()) continue;
                memset(out, 0x55, n * sizeof *out);
                varve_loops_all[isa]->sum_pairs(matrix, n_out, n_pairs, in, list, n_listed, out);
                CU_ASSERT(is_same(expected, out, n * sizeof *out));
            }
        }
        free(matrix);
        free(in);
        free(list);
        free(expected);
        free(out);
    }
}

/* What the header says, for one pair and one token. */
static void sum_of_one(void) {
    const int16_t matrix[] = {3, -5, INT16_MIN, INT16_MIN};
    const uint16_t list[] = {0};
    int16_t in[2 * VARVE_TILE] = {0};
    int32_t out[2 * VARVE_TILE];
    in[2 * 7] = in[2 * 7 + 1] = INT16_MIN;
    for (int isa = 0; varve_loops_all[isa]; isa++) {
        if (!varve_loops_all[isa]->is_available()) continue;
        varve_loops_all[isa]->sum_pairs(matrix, 2, 1, in, list, 1, out);
        CU_ASSERT_EQUAL(out[7], 2 * 32768);
        CU_ASSERT_EQUAL(out[VARVE_TILE + 7], INT32_MIN);
        CU_ASSERT_EQUAL(out[8], 0);
    }
}

/* ---- symbols ---- */

enum { N_CLASSES = 4, N_TAKEN = 24 };

/* Classes of many and of few symbols, and one that is silent. */
static varve_class *make_classes(void) {
    static const int most[N_CLASSES] = {VARVE_MOST_SYMBOL, 1, 0, 5};
    varve_class *classes = mem_new(N_CLASSES, sizeof *classes);
    for (int i = 0; i < N_CLASSES; i++) {
        varve_class *c = &classes[i];
        int64_t counts[2 * VARVE_MOST_SYMBOL + 2];
        uint16_t sizes[2 * VARVE_MOST_SYMBOL + 2];
        const int n = 2 * most[i] + 2;
        *c = (varve_class){.most = most[i], .is_silent = most[i] == 0, .shifts = {-21, 17, (int8_t)(i - 3)}};
        for (int k = 0; k < n; k++)
            counts[k] = 1 + 1000 / (1 + abs(k - most[i]) * abs(k - most[i]));
        rans_share_out(counts, n, sizes);
        for (int k = 0, at = 0; !c->is_silent && k < n; k++)
            for (int end = at + sizes[k], start = at; at < end; at++)
                c->slots[at] = rans_slot(k - most[i], (rans_range){(uint16_t)start, sizes[k]});
    }
    return classes;
}

/* Take all of a stream by an instruction set and by the portable one, in several calls. */
static void compare_taking(const varve_loops *loops, const varve_class *const *classes, const uint32_t *masks,
                           const uint8_t *stream, size_t n_bytes) {
    int8_t expected[N_TAKEN * VARVE_TILE], symbols[N_TAKEN * VARVE_TILE];
    rans_decoder a, b;
    if (!rans_decoder_begin(&a, stream, n_bytes)) return;
    b = a;
    for (int c = 0; c < N_TAKEN; c += N_TAKEN / 4) {
        memset(symbols, 0x55, sizeof symbols);
        varve_loops_portable.take(&a, classes + c, N_TAKEN / 4, masks[c], expected);
        loops->take(&b, classes + c, N_TAKEN / 4, masks[c], symbols);
        CU_ASSERT(is_same(expected, symbols, N_TAKEN / 4 * VARVE_TILE));
        CU_ASSERT(is_same(a.states, b.states, sizeof a.states));
        CU_ASSERT(a.next == b.next && a.end == b.end && a.is_short == b.is_short);
    }
}

/* Any stream has symbols, right or wrong, until it ends: in memory that ends there too. */
static void taking(void) {
    uint64_t state = 3;
    varve_class *all = make_classes();
    const int n_rounds = harness_is_slow() ? 200 : 2000;
    for (int round = 0; round < n_rounds; round++) {
        const varve_class *classes[N_TAKEN];
        uint32_t masks[N_TAKEN];
        const size_t n = harness_random(&state) % (round % 2 ? 1500u : 300u);
        uint8_t *stream = mem_new(n, 1);
        for (size_t i = 0; i < n; i++)
            stream[i] = round % 3 || i >= RANS_HEAD_BYTES || i % 4 == 2 ? (uint8_t)harness_random(&state) : 0;
        for (int c = 0; c < N_TAKEN; c++) {
            classes[c] = &all[harness_random(&state) % N_CLASSES];
            masks[c] = round % 5 == 0   ? UINT32_MAX
                       : round % 5 == 1 ? 1u << (unsigned)(harness_random(&state) % 32)
                                        : (uint32_t)(harness_random(&state) >> 16);
        }
        for (int isa = 0; varve_loops_all[isa]; isa++)
            if (varve_loops_all[isa]->is_available())
                compare_taking(varve_loops_all[isa], classes, masks, stream, n);
        free(stream);
    }
    free(all);
}

/* Digits by an instruction set and by the portable one, in several calls. */
static void compare_refining(const varve_loops *loops, const varve_digits *const *tables,
                             const uint32_t *masks, const int8_t *bases, const uint8_t *stream,
                             size_t n_bytes) {
    int8_t expected[N_TAKEN * VARVE_TILE], digits[N_TAKEN * VARVE_TILE];
    rans_decoder a, b;
    if (!rans_decoder_begin(&a, stream, n_bytes)) return;
    b = a;
    for (int c = 0; c < N_TAKEN; c += N_TAKEN / 4) {
        memset(digits, 0x55, sizeof digits);
        varve_loops_portable.refine(&a, tables + c, N_TAKEN / 4, masks[c], bases, expected);
        loops->refine(&b, tables + c, N_TAKEN / 4, masks[c], bases, digits);
        CU_ASSERT(is_same(expected, digits, N_TAKEN / 4 * VARVE_TILE));
        CU_ASSERT(is_same(a.states, b.states, sizeof a.states));
        CU_ASSERT(a.next == b.next && a.end == b.end && a.is_short == b.is_short);
    }
}

/* As above, of any bases. */
static void refining(void) {
    uint64_t state = 7;
    varve_digits all[N_CLASSES];
    for (int i = 0; i < N_CLASSES; i++)
        for (int row = 0; row < VARVE_DIGIT_ROWS; row++) {
            const uint64_t first = 1 + harness_random(&state) % (RANS_TOTAL - 2);
            all[i].starts[row][0] = (uint16_t)first;
            all[i].starts[row][1] = (uint16_t)(first + 1 + harness_random(&state) % (RANS_TOTAL - 1 - first));
        }
    const int n_rounds = harness_is_slow() ? 200 : 2000;
    for (int round = 0; round < n_rounds; round++) {
        const varve_digits *tables[N_TAKEN];
        uint32_t masks[N_TAKEN];
        int8_t bases[N_TAKEN / 4 * VARVE_TILE];
        const size_t n = harness_random(&state) % (round % 2 ? 1500u : 300u);
        uint8_t *stream = mem_new(n, 1);
        for (size_t i = 0; i < n; i++)
            stream[i] = i % 4 == 3 && i < RANS_HEAD_BYTES ? 0 : (uint8_t)harness_random(&state);
        for (size_t i = 0; i < sizeof bases; i++)
            bases[i] = (int8_t)(round % 3 ? harness_random(&state) % 7 - 3 : harness_random(&state));
        for (int c = 0; c < N_TAKEN; c++) {
            const uint64_t class = harness_random(&state) % (N_CLASSES + 1);
            tables[c] = class < N_CLASSES ? &all[class] : NULL;
            masks[c] = round % 5 == 0   ? UINT32_MAX
                       : round % 5 == 1 ? 1u << (unsigned)(harness_random(&state) % 32)
                                        : (uint32_t)(harness_random(&state) >> 16);
        }
        for (int isa = 0; varve_loops_all[isa]; isa++)
            if (varve_loops_all[isa]->is_available())
                compare_refining(varve_loops_all[isa], tables, masks, bases, stream, n);
        free(stream);
    }
}

static void dequantising(void) {
    uint64_t state = 4;
    varve_class *all = make_classes();
    const varve_class *classes[N_TAKEN];
    int8_t symbols[N_TAKEN * VARVE_TILE];
    int16_t components[N_TAKEN * VARVE_TILE];
    for (int c = 0; c < N_TAKEN; c++)
        classes[c] = &all[c % N_CLASSES];
    for (size_t i = 0; i < sizeof symbols; i++)
        symbols[i] = i < 512 ? (int8_t)i : (int8_t)(harness_random(&state) % 7 - 3);
    for (int isa = 0; varve_loops_all[isa]; isa++) {
        if (!varve_loops_all[isa]->is_available()) continue;
        bool good = true;
        varve_loops_all[isa]->dequantise(classes, N_TAKEN, symbols, components);
        for (int c = 0; c < N_TAKEN; c++)
            for (int t = 0; t < VARVE_TILE; t++)
                good &= components[(c / 2 * VARVE_TILE + t) * 2 + c % 2] ==
                        varve_component(classes[c]->shifts, symbols[c * VARVE_TILE + t]);
        CU_ASSERT(good);
    }
    CU_ASSERT_EQUAL(varve_component(all[0].shifts, 0), 0);
    CU_ASSERT_EQUAL(varve_component(all[0].shifts, 1), 64 - 21);
    CU_ASSERT_EQUAL(varve_component(all[0].shifts, -2), -128 - 17);
    CU_ASSERT_EQUAL(varve_component(all[0].shifts, -100), -6400 + 3);
    free(all);
}

/* ---- numbers and elements ---- */

static void rounding(void) {
    enum { N = 6 };
    uint64_t state = 5;
    int32_t given[N * VARVE_TILE];
    float predicted[N * VARVE_TILE];
    int16_t numbers[N * VARVE_TILE];
    for (int i = 0; i < N * VARVE_TILE; i++) {
        given[i] = (int32_t)(harness_random(&state) >> (i % 40));
        predicted[i] = i % 7 ? 0.5f * (float)(i % 64 - 32) : i % 2 ? NAN : -INFINITY;
    }
    for (int isa = 0; varve_loops_all[isa]; isa++) {
        if (!varve_loops_all[isa]->is_available()) continue;
        bool good = true;
        varve_loops_all[isa]->round_sums(given, 0.25f, predicted, N, numbers);
        for (int j = 0; j < N; j++)
            for (int t = 0; t < VARVE_TILE; t++) {
                const float x = (float)given[j * VARVE_TILE + t] * 0.25f + predicted[j * VARVE_TILE + t];
                const float expected = nearbyintf(fminf(fmaxf(x, -32767), 32767));
                good &= (float)numbers[(j / 2 * VARVE_TILE + t) * 2 + j % 2] == expected;
                good &= (float)varve_round_number(x) == expected;
            }
        CU_ASSERT(good);
    }
}

static void check_elements(const varve_rows *rows, size_t n_bytes, uint64_t *state) {
    const size_t n = (size_t)rows->width * VARVE_TILE;
    int16_t *numbers = mem_new(n, sizeof *numbers);
    char *expected = mem_new(1, n_bytes), *elements = mem_new(1, n_bytes);
    float *values = mem_new(n, sizeof *values), *others = mem_new(n, sizeof *others);
    for (size_t i = 0; i < n; i++)
        numbers[i] = draw_number(state, i % 11 == 0);
    varve_loops_portable.store(rows, numbers, expected);
    varve_loops_portable.load(rows, expected, values);
    for (int isa = 0; varve_loops_all[isa]; isa++) {
        if (!varve_loops_all[isa]->is_available()) continue;
        memset(elements, 0, n_bytes);
        varve_loops_all[isa]->store(rows, numbers, elements);
        CU_ASSERT(is_same(expected, elements, n_bytes));
        varve_loops_all[isa]->load(rows, elements, others);
        CU_ASSERT(is_same(values, others, n * sizeof *values));
    }
    bool good = true; /* there and back */
    for (int i = 0; i < rows->width; i++)
        for (int t = 0; t < VARVE_TILE; t++) {
            const float number = (float)numbers[(i / 2 * VARVE_TILE + t) * 2 + i % 2];
            const float error = fabsf(values[i * VARVE_TILE + t] - number);
            good &= t >= rows->n_tokens || error < (rows->type == DTYPE_F32 ? 0.1f : 200);
        }
    CU_ASSERT(good);
    free(numbers);
    free(expected);
    free(elements);
    free(values);
    free(others);
}

/* Rows side by side with those of another head, and at any address. */
static void elements(void) {
    static const int widths[] = {2, 4, 6, 64, 80, 256};
    uint64_t state = 6;
    for (size_t i = 0; i < 4 * sizeof widths / sizeof *widths; i++) {
        const int width = widths[i / 4];
        const size_t n = (size_t)width * VARVE_TILE;
        float *means = mem_new((size_t)width, sizeof *means), *turns = mem_new(n, sizeof *turns),
              *room = mem_new(n, sizeof *room);
        for (int k = 0; k < width; k++)
            means[k] = harness_random_normal(&state);
        for (size_t k = 0; k < n / 2; k++) {
            const float angle = harness_random_normal(&state);
            turns[k] = cosf(angle);
            turns[n / 2 + k] = sinf(angle);
        }
        const dtype type = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        for (int n_tokens = 1; n_tokens <= VARVE_TILE; n_tokens += n_tokens == 1 ? 12 : 19) {
            const size_t stride = 3 * (size_t)width * dtype_bytes(type);
            const varve_rows rows = {width, n_tokens, means, 0.01f, i % 4 < 2 ? turns : NULL,
                                     type,  stride,   room};
            check_elements(&rows, (size_t)(n_tokens - 1) * stride + (size_t)width * dtype_bytes(type),
                           &state);
        }
        free(means);
        free(turns);
        free(room);
    }
}

/* Angles of every size, as one token at a time has them. */
static void turns(void) {
    static const int widths[] = {2, 6, 64, 256};
    uint64_t state = 7;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const int width = widths[i];
        float frequencies[128], expected[256], got[256 * VARVE_TILE];
        int64_t positions[VARVE_TILE];
        for (int k = 0; k < width / 2; k++)
            frequencies[k] = k == 0 ? 1 : powf(10000, -(float)k / (float)width * 2);
        for (int t = 0; t < VARVE_TILE; t++)
            positions[t] = t < 4 ? t : (int64_t)(harness_random(&state) % (t < 16 ? 100000 : 1 << 21));
        for (const varve_loops *const *l = varve_loops_all; *l; l++) {
            if (!(*l)->is_available()) continue;
            int n_wrong = 0;
            (*l)->turns(frequencies, width, positions, got);
            for (int t = 0; t < VARVE_TILE; t++) {
                key_turns_of(frequencies, width, positions[t], expected);
                for (int k = 0; k < width; k++)
                    n_wrong += !is_same(&got[k * VARVE_TILE + t], &expected[k], sizeof(float));
            }
            CU_ASSERT_EQUAL(n_wrong, 0);
        }
    }
}

/* ---- encoding ---- */

/* Symbols of all sizes, and none. */
static void encoding(void) {
    enum { N = 500 * VARVE_TILE };
    uint64_t state = 11;
    rans_range *symbols = mem_new(N, sizeof *symbols);
    uint8_t *expected = mem_new(1, rans_max_bytes(N)), *bytes = mem_new(1, rans_max_bytes(N));
    for (size_t n = 0; n <= N; n += N / 4) {
        for (size_t i = 0; i < n; i++) {
            const uint64_t x = harness_random(&state);
            const uint16_t size = (uint16_t)((1 + (x >> 8) % RANS_TOTAL) >> x % (RANS_BITS + 1));
            symbols[i].size = size ? size : 1;
            symbols[i].start = (uint16_t)((x >> 32) % (RANS_TOTAL + 1 - symbols[i].size));
        }
        const size_t n_bytes = rans_encode(symbols, n, expected);
        for (const varve_loops *const *l = varve_loops_all; *l; l++) {
            if (!(*l)->is_available()) continue;
            CU_ASSERT_EQUAL((*l)->encode(symbols, n, bytes), n_bytes);
            CU_ASSERT(is_same(bytes, expected, n_bytes));
        }
    }
    free(symbols);
    free(expected);
    free(bytes);
}

/* Tokens of every length, one of zeros, one with a NaN, and one too long for float32. */
static void scaling(void) {
    enum { N = 18, ZERO = 3, WRONG = 5, LONG = 7 };
    uint64_t state = 8;
    float values[N * VARVE_TILE], predicted[N * VARVE_TILE], units[VARVE_TILE];
    int16_t numbers[N * VARVE_TILE];
    for (int i = 0; i < N * VARVE_TILE; i++) {
        const int t = i % VARVE_TILE;
        const float size = t == ZERO ? 0 : t == LONG ? 1e30f : ldexpf(1, t - 16);
        values[i] = size * harness_random_normal(&state);
        predicted[i] = size * VARVE_NUMBER_UNIT * harness_random_normal(&state);
    }
    values[WRONG] = NAN;
    for (const varve_loops *const *l = varve_loops_all; *l; l++) {
        if (!(*l)->is_available()) continue;
        bool good = true;
        (*l)->scale(values, predicted, N, numbers, units);
        for (int t = 0; t < VARVE_TILE; t++) {
            double squares = 0;
            for (int j = 0; j < N; j++) {
                const int number = numbers[(j / 2 * VARVE_TILE + t) * 2 + j % 2], i = j * VARVE_TILE + t;
                const float wanted = values[i] - predicted[i] / VARVE_NUMBER_UNIT;
                good &=
                    t == WRONG || t == LONG || fabsf((float)number * units[t] - wanted) <= 0.51f * units[t];
                squares += (double)number * number;
            }
            good &= t == WRONG || t == LONG ? !isfinite(units[t]) : isfinite(units[t]);
            good &= t == WRONG || sqrt(squares) < INT16_MAX + 10;
        }
        CU_ASSERT(good);
    }
}

static bool is_near(float x, double expected) {
    return fabs((double)x - expected) <= 1e-5 * fabs(expected);
}

/* From sums to symbols, and what they stand for. */
static void quantising(void) {
    enum { N = 6 };
    uint64_t state = 9;
    varve_class *all = make_classes();
    varve_rounding roundings[N_CLASSES];
    uint8_t classes[N];
    int32_t given[N * VARVE_TILE];
    float units[VARVE_TILE], steps[N * VARVE_TILE];
    int16_t symbols[N * VARVE_TILE], components[N * VARVE_TILE];
    for (int i = 0; i < N_CLASSES; i++)
        roundings[i] =
            all[i].is_silent ? (varve_rounding){INFINITY, 0} : varve_rounding_of(VARVE_UNIT_CLASS + i);
    for (int i = 0; i < N; i++)
        classes[i] = (uint8_t)(i % N_CLASSES);
    for (int i = 0; i < N * VARVE_TILE; i++)
        given[i] = (int32_t)harness_random(&state) >> (i % 24);
    for (int t = 0; t < VARVE_TILE; t++)
        units[t] = t == 5 ? NAN : ldexpf(1 + (float)t, t % 9 - 24);
    for (const varve_loops *const *l = varve_loops_all; *l; l++) {
        if (!(*l)->is_available()) continue;
        int16_t largest[VARVE_TILE] = {0};
        float errors[VARVE_TILE] = {0};
        bool good = true;
        (*l)->quantise(given, N, units, classes, roundings, steps, symbols, largest, errors);
        for (int t = 0; t < VARVE_TILE; t++) {
            double lost = 0;
            int most = 0;
            for (int c = 0; c < N; c++) {
                const int i = c * VARVE_TILE + t;
                const double error = (double)steps[i] - symbols[i];
                good &= t == 5 || is_near(steps[i], (double)given[i] * (double)units[t]);
                good &= symbols[i] == varve_round(&roundings[classes[c]], steps[i]);
                lost += error * error;
                most = abs(symbols[i]) > most ? abs(symbols[i]) : most;
            }
            good &= largest[t] == most && (t == 5 ? most > VARVE_LARGEST_SYMBOL : is_near(errors[t], lost));
        }
        (*l)->rebuild(all, classes, N, symbols, components);
        for (int i = 0; i < N * VARVE_TILE; i++) {
            const int c = i / VARVE_TILE, t = i % VARVE_TILE;
            good &= components[(c / 2 * VARVE_TILE + t) * 2 + c % 2] ==
                    varve_component(all[classes[c]].shifts, symbols[i]);
        }
        CU_ASSERT(good);
    }
    free(all);
}

static void measuring(void) {
    enum { N = 6 };
    uint64_t state = 10;
    float values[N * VARVE_TILE], shares[VARVE_TILE];
    int16_t numbers[N * VARVE_TILE];
    for (int i = 0; i < N * VARVE_TILE; i++) {
        values[i] = i % VARVE_TILE == 5 ? NAN : 10 * harness_random_normal(&state);
        numbers[i] = draw_number(&state, false);
    }
    for (int t = 0; t < VARVE_TILE; t++)
        shares[t] = t % 5 ? 0.5f : 0; /* what is not wanted may be no number */
    for (const varve_loops *const *l = varve_loops_all; *l; l++) {
        if (!(*l)->is_available()) continue;
        float squares[VARVE_TILE] = {0}, errors[VARVE_TILE] = {0};
        double sums[N] = {0};
        bool good = true;
        (*l)->add_squares(values, shares, N, sums);
        for (int j = 0; j < N; j++) {
            double expected = 0;
            for (int t = 0; t < VARVE_TILE; t++)
                if (t % 5)
                    expected +=
                        0.25 * (double)values[j * VARVE_TILE + t] * (double)values[j * VARVE_TILE + t];
            good &= is_near((float)sums[j], expected);
        }
        (*l)->compare(values, numbers, 1.0f / VARVE_NUMBER_UNIT, N, squares, errors);
        for (int t = 0; t < VARVE_TILE; t++) {
            double all = 0, lost = 0;
            for (int j = 0; j < N; j++) {
                const double x = (double)values[j * VARVE_TILE + t];
                const double d =
                    numbers[(j / 2 * VARVE_TILE + t) * 2 + j % 2] / (double)VARVE_NUMBER_UNIT - x;
                all += x * x;
                lost += d * d;
            }
            good &= t == 5 || (is_near(squares[t], all) && is_near(errors[t], lost));
        }
        CU_ASSERT(good);
    }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"sums", sums},
        {"sum_of_one", sum_of_one},
        {"taking", taking},
        {"refining", refining},
        {"dequantising", dequantising},
        {"rounding", rounding},
        {"elements", elements},
        {"turns", turns},
        {"encoding", encoding},
        {"scaling", scaling},
        {"quantising", quantising},
        {"measuring", measuring},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "varve_loops", tests);
}
