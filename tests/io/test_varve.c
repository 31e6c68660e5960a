/* tests/io/test_varve.c: the codec kvarve with its tables: there and back in all shapes, errors within the
 * step, exact where it must be, and damaged in every way. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/varve_payload.h"
#include "io/codec/varve_private.h"
#include "kernels/convert.h"
#include "tests/fixtures/harness.h"
#include "tests/fixtures/varve_samples.h"

/* ---- there and back ---- */

/* Every component's error is at most a step's, so that of all numbers together is at most that much too. */
static void check_round_trip(const varve_tables *t, varve_kind kind, int step_level, float noise,
                             const varve_chunk *chunk) {
    const size_t n_part = (size_t)chunk->n_tokens * (size_t)t->shape.n_heads * (size_t)t->shape.width *
                          dtype_bytes(chunk->type);
    const size_t n = n_part * N_KV_PARTS * (size_t)chunk->n_layers;
    char *all = make_elements(&t->shape, chunk->type, chunk->n_tokens, chunk->n_tokens, noise, 8),
         *back = mem_new(1, n);
    const char *elements = all + (size_t)chunk->first_layer * N_KV_PARTS * n_part;
    kv_token *tokens = make_tokens(chunk->n_tokens, 0, 1000);
    text_buffer payload = {0}, again = {0};
    varve_report report = {.n_numbers = 0};
    const double step = exp2((double)step_level / VARVE_OCTAVE);
    const varve_coding how = {kind, step_level, 1};
    varve_encode(t, &how, chunk, tokens, elements, &payload, &report);
    varve_encode(t, &how, chunk, tokens, elements, &again, &report);
    CU_ASSERT(payload.n == again.n && memcmp(payload.data, again.data, again.n) == 0);
    CHECK_OK(varve_decode(t, &(varve_plane){payload.data, payload.n}, 1, chunk, back));
    CU_ASSERT(report.n_numbers == 0 || report.errors / report.n_numbers < step * step * 0.3);
    CU_ASSERT(report.n_numbers == 0 || report.errors < report.squares);
    for (int i = 0; i < chunk->n_layers * N_KV_PARTS; i++) {
        const size_t exact =
            n_part / (size_t)chunk->n_tokens *
            (size_t)(chunk->n_tokens < VARVE_EXACT_POSITIONS ? chunk->n_tokens : VARVE_EXACT_POSITIONS);
        CU_ASSERT(memcmp(elements + (size_t)i * n_part, back + (size_t)i * n_part, exact) == 0);
    }
    if (chunk->n_tokens >= 256) {
        const double bits = 8 * (double)payload.n / (double)(n / dtype_bytes(chunk->type));
        CU_ASSERT(noise != USUAL_NOISE || (bits < (kind == VARVE_FAST ? 3.2 : 3) && bits > 0.02));
    }
    free(all);
    free(back);
    free(tokens);
    free(payload.data);
    free(again.data);
}

static void round_trips(void) {
    static const varve_shape shapes[] = {{1, 64}, {9, 2},   {32, 4},  {5, 64},
                                         {3, 64}, {2, 128}, {1, 256}, {32, 64}};
    enum { USUAL = 4 }; /* of the others, most of the time goes to finding their bases */
    static const int tokens[] = {1, 2, 4, 31, 32, 33, 100, 257};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (i >= USUAL && !harness_is_long()) break;
        varve_tables t = make_tables(&shapes[i]);
        for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++)
            for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
                const varve_chunk all = {k % 2 ? DTYPE_BF16 : DTYPE_F32, tokens[k], 0, N_LAYERS},
                                  some = {DTYPE_BF16, tokens[k], 1, 2};
                check_round_trip(&t, (varve_kind)kind, -3, USUAL_NOISE, &all);
                check_round_trip(&t, (varve_kind)kind, -12, USUAL_NOISE, &some);
            }
        varve_tables_free(&t);
    }
}

/* Two planes: with both, what one would have given, and about as many bytes; the base alone has the errors
 * that it says. */
static void check_planes(const varve_tables *t, varve_kind kind, int step_level, float noise,
                         const varve_chunk *chunk) {
    const size_t n = (size_t)chunk->n_tokens * (size_t)t->shape.n_heads * (size_t)t->shape.width *
                     N_KV_PARTS * (size_t)chunk->n_layers * dtype_bytes(chunk->type);
    char *elements = make_elements(&t->shape, chunk->type, chunk->n_tokens, chunk->n_tokens, noise, 8),
         *back = mem_new(1, n), *whole = mem_new(1, n), *base = mem_new(1, n);
    kv_token *tokens = make_tokens(chunk->n_tokens, 0, 100);
    const varve_coding one = {kind, step_level, 1}, two = {kind, step_level, 2};
    text_buffer payload = {0}, planes[2] = {{0}};
    varve_report report = {.n_numbers = 0}, reports[2] = {{.n_numbers = 0}};
    varve_encode(t, &one, chunk, tokens, elements, &payload, &report);
    varve_encode(t, &two, chunk, tokens, elements, planes, reports);
    const varve_plane both[] = {{planes[0].data, planes[0].n}, {planes[1].data, planes[1].n}};
    CHECK_OK(varve_decode(t, &(varve_plane){payload.data, payload.n}, 1, chunk, back));
    CHECK_OK(varve_decode(t, both, 2, chunk, whole));
    CU_ASSERT(memcmp(back, whole, n) == 0);
    CU_ASSERT(reports[1].errors == report.errors && reports[1].n_sinks == report.n_sinks);
    CHECK_OK(varve_decode(t, both, 1, chunk, base));
    CU_ASSERT(report.n_numbers == 0 || (reports[0].errors > report.errors && memcmp(base, whole, n) != 0));
    CU_ASSERT(report.n_numbers == 0 || reports[0].errors < reports[0].squares);
    if (chunk->n_tokens >= 256) {
        const double extra = (double)(planes[0].n + planes[1].n) / (double)payload.n;
        CU_ASSERT(extra < 1.005 + 150 / (double)payload.n);
        CU_ASSERT(planes[0].n < payload.n && (step_level > -18 || planes[0].n < payload.n * 2 / 3));
        double squares = 0, errors = 0; /* of keys, which turn, and of values: about as it says */
        kv_chunk_compare(chunk->type, elements, base, n / dtype_bytes(chunk->type), &squares, &errors);
        const double said = reports[0].errors / reports[0].squares;
        CU_ASSERT(errors / squares < 2 * said && errors / squares > said / 3);
    }
    CHECK_REFUSED(varve_decode(t, (varve_plane[]){{payload.data, payload.n}, both[1]}, 2, chunk, back),
                  "damaged"); /* one plane, and not two */
    free(elements);
    free(back);
    free(whole);
    free(base);
    free(tokens);
    free(payload.data);
    free(planes[0].data);
    free(planes[1].data);
}

static bool has_own_levels(const text_buffer *payload) {
    varve_head head;
    memcpy(&head, payload->data, sizeof head);
    return head.kind & VARVE_OWN_LEVELS;
}

/* Of one plane, that nobody decodes. */
static text_buffer encode(const varve_tables *t, varve_kind kind, const varve_chunk *chunk, float noise) {
    const varve_coding how = {kind, -3, 1};
    char *elements = make_elements(&t->shape, chunk->type, chunk->n_tokens, chunk->n_tokens, noise, 8);
    kv_token *tokens = make_tokens(chunk->n_tokens, 0, 1000);
    text_buffer payload = {0};
    varve_report report = {.n_numbers = 0};
    varve_encode(t, &how, chunk, tokens, elements, &payload, &report);
    free(elements);
    free(tokens);
    return payload;
}

/* Of what deviates five times as much as what the tables were made of: it says so, and takes about as many
 * bits as with tables that were made of such. A chunk of few tokens does not. */
static void another_domain(void) {
    const varve_shape shape = {2, 16}; /* small, so that the samples are many */
    varve_tables usual = make_tables(&shape), much = make_tables_of(&shape, MUCH_NOISE);
    for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
        const varve_chunk chunk = {DTYPE_BF16, 300, 0, N_LAYERS}, few = {DTYPE_BF16, 3, 0, N_LAYERS};
        text_buffer known = encode(&usual, (varve_kind)kind, &chunk, USUAL_NOISE),
                    foreign = encode(&usual, (varve_kind)kind, &chunk, MUCH_NOISE),
                    at_home = encode(&much, (varve_kind)kind, &chunk, MUCH_NOISE),
                    short_one = encode(&usual, (varve_kind)kind, &few, MUCH_NOISE);
        CU_ASSERT(!has_own_levels(&known) && has_own_levels(&foreign) && !has_own_levels(&at_home));
        CU_ASSERT(!has_own_levels(&short_one));
        CU_ASSERT((double)foreign.n < 1.12 * (double)at_home.n);
        check_round_trip(&usual, (varve_kind)kind, -3, MUCH_NOISE, &chunk);
        for (int level = -9; level <= 3; level += 6)
            check_planes(&usual, (varve_kind)kind, level, MUCH_NOISE, &chunk);
        free(known.data);
        free(foreign.data);
        free(at_home.data);
        free(short_one.data);
    }
    varve_tables_free(&usual);
    varve_tables_free(&much);
}

static void planes(void) {
    static const varve_shape shapes[] = {{1, 64}, {9, 2}, {3, 64}};
    static const int tokens[] = {1, 33, 300};
    const size_t n_shapes = harness_is_slow() ? 2 : sizeof shapes / sizeof *shapes;
    for (size_t i = 0; i < n_shapes; i++) {
        varve_tables t = make_tables(&shapes[i]);
        for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++)
            for (int level = -18; level <= 6; level += 6)
                for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
                    const varve_chunk chunk = {k % 2 ? DTYPE_BF16 : DTYPE_F32, tokens[k], 0, N_LAYERS};
                    check_planes(&t, (varve_kind)kind, level, USUAL_NOISE, &chunk);
                }
        varve_tables_free(&t);
    }
}

/* Bases and digits of every class, by what the header says. */
static void plane_tables(void) {
    const varve_shape s = {2, 64};
    varve_tables t = make_tables(&s);
    for (int symbol = -600; symbol <= 600; symbol++) {
        const int digit = symbol - VARVE_PLANE_RATIO * varve_base_of(symbol);
        CU_ASSERT(digit >= -1 && digit <= 1 && varve_base_of(-symbol) == -varve_base_of(symbol));
    }
    for (int i = 0; i < VARVE_CLASSES; i++) {
        const varve_class *fine = &t.classes[i], *coarse = &t.coarse[i];
        CU_ASSERT(fine->is_silent == coarse->is_silent);
        if (fine->is_silent) continue;
        CU_ASSERT(coarse->most == (fine->most + 1) / 3);
        for (int base = -coarse->most; base <= coarse->most; base++) {
            int size = 0;
            for (int symbol = 3 * base - 1; symbol <= 3 * base + 1; symbol++)
                if (abs(symbol) <= fine->most)
                    size += fine->starts[symbol + fine->most + 1] - fine->starts[symbol + fine->most];
            CU_ASSERT_EQUAL(coarse->starts[base + coarse->most + 1] - coarse->starts[base + coarse->most],
                            size);
        }
        for (int row = 0; row < VARVE_DIGIT_ROWS; row++) {
            const uint16_t *starts = t.digits[i].starts[row];
            CU_ASSERT(starts[0] > 0 && starts[1] > starts[0] && starts[1] < RANS_TOTAL);
        }
    }
    varve_tables_free(&t);
}

static void steps(void) {
    const varve_shape s = {2, 64};
    varve_tables t = make_tables(&s);
    const varve_chunk chunk = {DTYPE_BF16, 200, 0, N_LAYERS};
    void *elements = make_elements(&s, DTYPE_BF16, 200, 200, USUAL_NOISE, 5);
    kv_token *tokens = make_tokens(200, 0, 1000), *last = make_tokens(200, 0, 0);
    size_t before = SIZE_MAX;
    double error = 0;
    for (int level = -30; level <= -6; level += 6) {
        text_buffer payload = {0};
        varve_report report = {.n_numbers = 0};
        varve_encode(&t, &(varve_coding){VARVE_SMALL, level, 1}, &chunk, tokens, elements, &payload, &report);
        CU_ASSERT(payload.n < before && report.errors > error);
        before = payload.n;
        error = report.errors;
        free(payload.data);
    }
    for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
        text_buffer payloads[2] = {{0}, {0}};
        varve_report reports[2] = {{.n_numbers = 0}, {.n_numbers = 0}};
        varve_encode(&t, &(varve_coding){(varve_kind)kind, -9, 1}, &chunk, tokens, elements, &payloads[0],
                     &reports[0]);
        varve_encode(&t, &(varve_coding){(varve_kind)kind, -9, 1}, &chunk, last, elements, &payloads[1],
                     &reports[1]);
        CU_ASSERT(payloads[1].n > payloads[0].n && reports[1].errors < 0.7 * reports[0].errors);
        free(payloads[0].data);
        free(payloads[1].data);
    }
    free(elements);
    free(tokens);
    free(last);
    varve_tables_free(&t);
}

/* Values that no table knows: their tokens come back as they were. */
static void odd_values(void) {
    static const float odd[] = {INFINITY, -INFINITY, NAN, 1e30f, -3e20f};
    const varve_shape s = {2, 64};
    varve_tables t = make_tables(&s);
    const varve_chunk chunk = {DTYPE_BF16, 70, 0, N_LAYERS};
    const size_t n = 70 * 128;
    uint16_t *elements = make_elements(&s, DTYPE_BF16, 70, 70, USUAL_NOISE, 5),
             *back = mem_new(n * N_KV_PARTS * N_LAYERS, sizeof *back);
    kv_token *tokens = make_tokens(70, 100, 0);
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (size_t k = 0; k < 5; k++)
            elements[((size_t)layer * N_KV_PARTS + k % 2) * n + (10 + k) * 128 + 7 * k] =
                bf16_of_float(odd[k]);
    for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
        text_buffer payload = {0};
        varve_report report = {.n_numbers = 0};
        varve_encode(&t, &(varve_coding){(varve_kind)kind, 0, 1}, &chunk, tokens, elements, &payload,
                     &report);
        CU_ASSERT_EQUAL(report.n_exact, 5 * N_LAYERS);
        CHECK_OK(varve_decode(&t, &(varve_plane){payload.data, payload.n}, 1, &chunk, back));
        for (size_t i = 0; i < (size_t)N_LAYERS * N_KV_PARTS; i++)
            CU_ASSERT(memcmp(elements + i * n + 10 * 128, back + i * n + 10 * 128, 5 * 128 * sizeof *back) ==
                      0);
        free(payload.data);
    }
    free(elements);
    free(back);
    free(tokens);
    varve_tables_free(&t);
}

/* Whether a token of all parts [.., 40, 2, 64] came back as 8 bits hold it. */
static void check_sink(const float *elements, const float *back, size_t token) {
    for (size_t i = 0; i < (size_t)N_LAYERS * N_KV_PARTS * 2; i++) {
        const size_t at = (i / 2 * 40 + token) * 128 + i % 2 * 64;
        float largest = 0, worst = 0;
        for (size_t k = at; k < at + 64; k++) {
            largest = fmaxf(largest, fabsf(elements[k]));
            worst = fmaxf(worst, fabsf(elements[k] - back[k]));
        }
        CU_ASSERT(worst <= largest / 127 * 0.501f);
    }
}

/* Tokens whose values are nearly nothing keep 8 bits, and so do those that are unlike all others. */
static void sinks(void) {
    enum { SMALL = 33, STRANGE = 20 };
    const varve_shape s = {2, 64};
    varve_tables t = make_tables(&s);
    for (int layer = 0; layer < N_LAYERS; layer++)
        t.layers[layer].sink_norm = 1;
    const varve_chunk chunk = {DTYPE_F32, 40, 0, N_LAYERS};
    const size_t n = 40 * 128;
    float *elements = make_elements(&s, DTYPE_F32, 40, 40, USUAL_NOISE, 5),
          *back = mem_new(n * N_KV_PARTS * N_LAYERS, sizeof *back);
    kv_token *tokens = make_tokens(40, 0, 1000);
    uint64_t state = 6;
    for (size_t layer = 0; layer < N_LAYERS; layer++)
        for (size_t i = 0; i < 128; i++)
            elements[(layer * N_KV_PARTS + KV_PART_V) * n + SMALL * 128 + i] *= 1e-3f;
    for (int is_strange = 0; is_strange < 2; is_strange++) {
        text_buffer payload = {0};
        varve_report report = {.n_numbers = 0};
        for (size_t part = 0; is_strange && part < (size_t)N_LAYERS * N_KV_PARTS; part++)
            for (size_t i = 0; i < 128; i++)
                elements[part * n + STRANGE * 128 + i] = 4 * harness_random_normal(&state);
        varve_encode(&t, &(varve_coding){VARVE_SMALL, 0, 1}, &chunk, tokens, elements, &payload, &report);
        CU_ASSERT_EQUAL(report.n_sinks, N_LAYERS * (1 + is_strange));
        CHECK_OK(varve_decode(&t, &(varve_plane){payload.data, payload.n}, 1, &chunk, back));
        check_sink(elements, back, SMALL);
        if (is_strange) check_sink(elements, back, STRANGE);
        free(payload.data);
    }
    free(elements);
    free(back);
    free(tokens);
    varve_tables_free(&t);
}

/* ---- damage ---- */

/* Nothing can be made of what is not finite. */
static void not_finite(void) {
    enum { TOKENS = 40 };
    const varve_shape s = {2, 8};
    const double importance[N_LAYERS * N_KV_PARTS] = {1, 1, 1, 1, 1, 1};
    const float frequencies[4] = {1, 0.5f, 0.2f, 0.1f}, bad[] = {INFINITY, NAN};
    const table_model m = {N_LAYERS, s.n_heads, s.width, importance, frequencies};
    const linear *l = NULL;
    CHECK_OK(linear_load(&l));
    for (int i = 0; i < 3; i++) {
        float *elements = make_elements(&s, DTYPE_F32, TOKENS, TOKENS, USUAL_NOISE, 5);
        const table_samples samples = {DTYPE_F32, 0, N_LAYERS, TOKENS, TOKENS, (const char *)elements, NULL};
        varve_counts *counts = mem_new(1, sizeof *counts);
        text_buffer out = {0};
        if (i < 2) elements[(2 * N_KV_PARTS + 1) * TOKENS * 16 + 5] = bad[i];
        progress bar = progress_begin("layers");
        bar.last -= 60; /* it is time for a line */
        status st = tables_append_layers(l, &m, &samples, 2, NULL, &bar, counts, &out);
        if (i < 2)
            CHECK_REFUSED(st, "layer 2 are not finite");
        else
            CHECK_OK(st);
        CU_ASSERT_EQUAL(bar.shown, i == 2);
        free(elements);
        free(counts);
        free(out.data);
    }
}

/* With usual noise, or with levels of its own. */
static void damage(const varve_tables *t, float noise) {
    const varve_chunk chunk = {DTYPE_BF16, 50, 0, N_LAYERS};
    void *elements = make_elements(&t->shape, DTYPE_BF16, 50, 50, noise, 5),
         *back = mem_new(50 * 16 * N_KV_PARTS * N_LAYERS, 2);
    kv_token *tokens = make_tokens(50, 0, 0);
    text_buffer payload = {0};
    varve_report report = {.n_numbers = 0};
    uint64_t state = 9;
    varve_encode(t, &(varve_coding){VARVE_SMALL, 0, 1}, &chunk, tokens, elements, &payload, &report);
    CU_ASSERT(has_own_levels(&payload) == (noise != USUAL_NOISE));
    for (size_t n = 0; n < payload.n; n++) { /* each part ends with the memory that it lies in */
        char *part = mem_new(n, 1);
        memcpy(part, payload.data, n);
        CHECK_REFUSED(varve_decode(t, &(varve_plane){part, n}, 1, &chunk, back), "damaged");
        free(part);
    }
    for (int i = 0; i < (harness_is_slow() ? 2000 : 20000);
         i++) { /* a frame's checksum finds what this does not */
        char *bytes = mem_copy_text(payload.data, payload.n);
        for (int k = 0; k < 1 + i % 3; k++)
            bytes[harness_random(&state) % (i % 2 ? payload.n : 64)] = (char)harness_random(&state);
        (void)varve_decode(t, &(varve_plane){bytes, payload.n}, 1, &chunk, back);
        free(bytes);
    }
    text_buffer two[2] = {{0}};
    varve_report reports[2] = {{.n_numbers = 0}};
    varve_encode(t, &(varve_coding){VARVE_SMALL, 0, 2}, &chunk, tokens, elements, two, reports);
    for (size_t n = 0; n < two[1].n; n++) {
        char *part = mem_new(n, 1);
        memcpy(part, two[1].data, n);
        const varve_plane cut[] = {{two[0].data, two[0].n}, {part, n}};
        CHECK_REFUSED(varve_decode(t, cut, 2, &chunk, back), "damaged");
        free(part);
    }
    for (int i = 0; i < (harness_is_slow() ? 1000 : 10000); i++) {
        char *bytes[2] = {mem_copy_text(two[0].data, two[0].n), mem_copy_text(two[1].data, two[1].n)};
        const varve_plane bad[] = {{bytes[0], two[0].n}, {bytes[1], two[1].n}};
        bytes[i % 2][harness_random(&state) % two[i % 2].n] = (char)harness_random(&state);
        (void)varve_decode(t, bad, 2, &chunk, back);
        (void)varve_decode(t, bad, 1, &chunk, back);
        free(bytes[0]);
        free(bytes[1]);
    }
    free(two[0].data);
    free(two[1].data);
    free(elements);
    free(back);
    free(tokens);
    free(payload.data);
}

static void damaged(void) {
    varve_tables t = make_tables(&(varve_shape){2, 8});
    damage(&t, USUAL_NOISE);
    damage(&t, MUCH_NOISE);
    varve_tables_free(&t);
}

static void damaged_tables(void) {
    const varve_shape s = {1, 8};
    text_buffer bytes = {0};
    build(&s, USUAL_NOISE, &bytes);
    uint64_t state = 4;
    for (size_t n = 0; n < bytes.n; n += 1 + n / 50) {
        varve_tables t;
        text_buffer part = {mem_copy_text(bytes.data, n), n, n};
        CU_ASSERT_EQUAL(read_tables(&s, &part, &t), STATUS_REFUSED);
        varve_tables_free(&t);
        free(part.data);
    }
    for (int i = 0; i < 1000; i++) {
        varve_tables t;
        text_buffer part = {mem_copy_text(bytes.data, bytes.n), bytes.n, bytes.n};
        part.data[harness_random(&state) % part.n] = (char)harness_random(&state);
        (void)read_tables(&s, &part, &t);
        varve_tables_free(&t);
        free(part.data);
    }
    free(bytes.data);
}

/* ---- keys ---- */

static void turns(void) {
    enum { WIDTH = 64 };
    float frequencies[WIDTH / 2], turned[WIDTH], x[WIDTH], y[WIDTH];
    uint64_t state = 2;
    double worst = 0;
    for (int i = 0; i < WIDTH / 2; i++)
        frequencies[i] = (float)pow(5e5, -2.0 * i / WIDTH);
    for (int64_t pos = 0; pos < 2000000; pos = pos * 3 + 1) {
        key_turns_of(frequencies, WIDTH, pos, turned);
        for (int i = 0; i < WIDTH / 2; i++) {
            const double angle = (double)(float)((double)pos * (double)frequencies[i]);
            worst = fmax(worst, fabs(cos(angle) - (double)turned[i]));
            worst = fmax(worst, fabs(sin(angle) - (double)turned[i + WIDTH / 2]));
        }
        for (int i = 0; i < WIDTH; i++)
            x[i] = y[i] = harness_random_normal(&state);
        key_turn(turned, WIDTH, y);
        key_turn_back(turned, WIDTH, y);
        for (int i = 0; i < WIDTH; i++)
            CU_ASSERT(fabsf(x[i] - y[i]) < 1e-6f * (1 + fabsf(x[i])));
    }
    CU_ASSERT(worst < 6e-8);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"round_trips", round_trips},
        {"not_finite", not_finite},
        {"another_domain", another_domain},
        {"planes", planes},
        {"plane_tables", plane_tables},
        {"steps", steps},
        {"odd_values", odd_values},
        {"sinks", sinks},
        {"damaged", damaged},
        {"damaged_tables", damaged_tables},
        {"turns", turns},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "varve", tests);
}
