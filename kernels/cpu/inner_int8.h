/* kernels/cpu/inner_int8.h: products with int8 weights (their form: int8.c), and with keys and values in
 * int8. Written in the lanes of the file that includes it.
 *
 * The input is rounded for each group to whole numbers up to 2^14 times a power of two: a bf16 number that is
 * at least 1/64 of the group's largest is kept exactly. What meets keys is rounded as they are, to one digit:
 * a number more would cost as much again, and the keys are no finer. A group's sum is taken in whole numbers,
 * so that no order of additions matters and every instruction set has the same; times its scales it is added
 * to the output, group after group.
 *
 * As weights are stored + 128, the sum begins with -128 times the sum of the input. */
#pragma once

#include "kernels/convert.h"
#include "kernels/cpu/inner_attend.h"

enum { INT8_INPUT_BYTES = 8 };

/* The first input word of a group and row. */
typedef struct int8_head {
    float scale;
    int32_t first; /* -128 times the sum of the whole numbers */
} int8_head;

static_assert(sizeof(int8_head) == INT8_INPUT_BYTES, "a head is one input word");

/* The power of two that brings `largest` into [2^13, 2^14); below 2^-112 the least normal number, so that
 * less is kept. NaN where one of the group is not finite. */
INNER lanes int8_choose_scale(float largest, float zero_or_nan, int8_head *head) {
    enum { BIAS = 127, BITS = 13 };
    uint32_t exponent = bits_of(largest) >> 23;
    if (exponent < BITS + 1) exponent = BITS + 1;
    head->scale = float_of((exponent - BITS) << 23) + zero_or_nan;
    return lanes_set(float_of((2 * BIAS + BITS - exponent) << 23));
}

/* To the nearest whole number. */
INNER lanes int8_round(lanes x) {
    const lanes beside = lanes_set(0x1.8p23f);
    return lanes_sub(lanes_add(x, beside), beside);
}

INNER int32_t int8_first(lanes whole_numbers) {
    return -128 * (int32_t)lanes_sum(whole_numbers); /* exact: at most 2^21 */
}

/* n <= INT8_GROUP bf16 numbers, whole lanes, as a head and words; of keys as whole numbers up to
 * INT8_LARGEST, times whatever scale that asks for. */
INNER int8_head int8_pack_group(const bool is_key, const uint16_t *x, int n, char *words) {
    lanes largest = lanes_set(0), zeros = lanes_set(0), sum = lanes_set(0);
    for (int i = 0; i < n; i += 16) {
        lanes v = lanes_load_bf16(x + i);
        largest = lanes_max(lanes_max(v, lanes_sub(lanes_set(0), v)), largest);
        zeros = lanes_fma(v, lanes_set(0), zeros);
    }
    int8_head head = {.scale = NAN};
    const float zero_or_nan = lanes_sum(zeros), most = zero_or_nan == 0 ? lanes_max_of(largest) : 0;
    lanes to_whole =
        is_key ? lanes_set(1 / int8_code_scale(most)) : int8_choose_scale(most, zero_or_nan, &head);
    if (is_key) head.scale = int8_code_scale(most) + zero_or_nan;
    for (int i = 0; i < n; i += 16) {
        lanes v = zero_or_nan == 0 ? lanes_load_bf16(x + i) : lanes_set(0);
        lanes whole = int8_round(lanes_mul(v, to_whole));
        sum = lanes_add(sum, whole);
        int8_pack(whole, words + i * (INT8_INPUT_BYTES / INT8_WORD_COLS));
    }
    head.first = int8_first(sum);
    return head;
}

INNER void int8_pack_input(const bool is_key, const void *rows, size_t row_bytes, int n_rows, int n_cols,
                           void *input) {
    char words[INT8_GROUP / INT8_WORD_COLS * INT8_INPUT_BYTES], *to = input;
    for (int col = 0; col < n_cols; col += INT8_GROUP) {
        int n = n_cols - col < INT8_GROUP ? n_cols - col : INT8_GROUP;
        int n_words = (n + INT8_WORD_COLS - 1) / INT8_WORD_COLS;
        size_t step = (size_t)n_rows * INT8_INPUT_BYTES;
        for (int row = 0; row < n_rows; row++) {
            const char *from = (const char *)rows + (size_t)row * row_bytes + (size_t)col * sizeof(uint16_t);
            char *at = to + (size_t)row * INT8_INPUT_BYTES;
            uint16_t padded[INT8_GROUP] = {0};
            int8_head head = int8_pack_group(is_key,
                                             n < INT8_GROUP ? memcpy(padded, from, (size_t)n * sizeof *padded)
                                                            : (const void *)from,
                                             (n + 15) / 16 * 16, words);
            memcpy(at, &head, sizeof head);
            for (int word = 0; word < n_words; word++)
                memcpy(at + (size_t)(word + 1) * step, words + word * INT8_INPUT_BYTES, INT8_INPUT_BYTES);
        }
        to += (size_t)(n_words + 1) * step;
    }
}

static void inner_pack_input_int8(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input) {
    int8_pack_input(false, rows, row_bytes, n_rows, n_cols, input);
}

static void inner_pack_query_int8(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input) {
    int8_pack_input(true, rows, row_bytes, n_rows, n_cols, input);
}

/* out = or += the sums of a group times the scales of input and weights. */
INNER void int8_scale(const int n_rows, const int n_panels, tile_place t, const int8_head *heads,
                      const lanes *scales, int8_sums acc[INT8_MOST_ROWS][INT8_TILE_PANELS], bool add) {
    UNROLL
    for (int row = 0; row < n_rows; row++) {
        UNROLL
        for (int p = 0; p < n_panels; p++) {
            float *out = t.out + (size_t)row * t.ld + p * PANEL;
            lanes sum = lanes_mul(int8_end(acc[row][p]), lanes_set(heads[row].scale));
            lanes_store(out, lanes_fma(sum, scales[p], add ? lanes_load(out) : lanes_set(0)));
        }
    }
}

/* One group of n_words words, the scales among them, for all rows and panels of the tile. */
INNER void int8_group(const bool is_key, const int n_rows, const int n_panels, tile_place t, int n_words,
                      bool add) {
    int8_sums acc[INT8_MOST_ROWS][INT8_TILE_PANELS];
    int8_head heads[INT8_MOST_ROWS];
    lanes scales[INT8_TILE_PANELS]; /* read first, as memory is read best in order */
    memcpy(heads, t.input, (size_t)n_rows * sizeof *heads);
    UNROLL
    for (int p = 0; p < n_panels; p++) {
        scales[p] = lanes_load((const float *)(const void *)(t.panels + (size_t)p * t.panel_words));
        UNROLL
        for (int row = 0; row < n_rows; row++)
            acc[row][p] = int8_begin(heads[row].first);
    }
    const char *input = t.input;
    const uint32_t *weights = t.panels;
    /* Several words at once, so that more loads are under way. */
#pragma GCC unroll 4
    for (int word = 1; word < n_words; word++) {
        int8_words words[INT8_TILE_PANELS];
        input += n_rows * INT8_INPUT_BYTES;
        weights += PANEL;
        if (t.ahead && tile_asks_ahead(word)) cpu_ahead_lines(t.ahead, n_panels);
        UNROLL
        for (int p = 0; p < n_panels; p++)
            words[p] = int8_load(weights + (size_t)p * t.panel_words);
        UNROLL
        for (int row = 0; row < n_rows; row++) {
            UNROLL
            for (int p = 0; p < n_panels; p++)
                acc[row][p] = is_key ? int8_step_digit(acc[row][p], input + row * INT8_INPUT_BYTES, words[p])
                                     : int8_step(acc[row][p], input + row * INT8_INPUT_BYTES, words[p]);
        }
    }
    int8_scale(n_rows, n_panels, t, heads, scales, acc, add);
}

INNER void int8_groups(const bool is_key, const int n_rows, const int n_panels, tile_place t) {
    for (int left = t.n_words; left > 0; left -= INT8_GROUP_WORDS) {
        int8_group(is_key, n_rows, n_panels, t, left < INT8_GROUP_WORDS ? left : INT8_GROUP_WORDS, t.add);
        t.input += (size_t)n_rows * INT8_GROUP_WORDS * INT8_INPUT_BYTES;
        t.panels += INT8_GROUP_WORDS * PANEL;
        t.add = true;
    }
}

static_assert(INT8_MOST_ROWS <= 4, "int8_rows names every number of rows");

INNER void int8_rows(const bool is_key, int n_rows, const int n_panels, tile_place t) {
    switch (n_rows) {
    case 1:
        int8_groups(is_key, 1, n_panels, t);
        break;
    case 2:
        int8_groups(is_key, 2, n_panels, t);
        break;
    case 3:
        if (INT8_MOST_ROWS >= 3) int8_groups(is_key, 3, n_panels, t);
        break;
    case 4:
        if (INT8_MOST_ROWS >= 4) int8_groups(is_key, 4, n_panels, t);
        break;
    default:
        assert(false && "n_rows <= INT8_MOST_ROWS");
    }
}

INNER void int8_tile(const bool is_key, int n_rows, int n_panels, tile_place t) {
    for (; n_panels >= INT8_TILE_PANELS; n_panels -= INT8_TILE_PANELS) {
        int8_rows(is_key, n_rows, INT8_TILE_PANELS, t);
        t.panels += INT8_TILE_PANELS * t.panel_words;
        t.out += INT8_TILE_PANELS * PANEL;
    }
    for (; n_panels > 0; n_panels--) {
        int8_rows(is_key, n_rows, 1, t);
        t.panels += t.panel_words;
        t.out += PANEL;
    }
}

static void inner_tile_int8(const void *input, int n_rows, const uint32_t *panels, size_t panel_words,
                            int n_panels, int n_words, cpu_ahead *ahead, bool add, float *out, size_t ld) {
    int8_tile(false, n_rows, n_panels,
              (tile_place){input, 0, panels, panel_words, PANEL, n_words, add, out, ld, ahead});
}

static void inner_tile_keys_int8(const void *input, int n_rows, const uint32_t *panels, size_t panel_words,
                                 int n_panels, int n_words, cpu_ahead *ahead, bool add, float *out,
                                 size_t ld) {
    int8_tile(true, n_rows, n_panels,
              (tile_place){input, 0, panels, panel_words, PANEL, n_words, add, out, ld, ahead});
}

/* ---- values in int8 ---- */

enum { PIECE_WORDS = WEIGH_PANELS * PANEL / INT8_WORD_COLS };

static float inner_factors_int8(const float *scales, int first, int last, float *factors) {
    lanes largest = lanes_set(0), zeros = lanes_set(0);
    for (int i = 0; i < ATTEND_BLOCK; i += PANEL) {
        const lanes seen = lanes_keep(lanes_load(scales + i), first - i, last - i, 0);
        largest = lanes_max(seen, largest);
        zeros = lanes_fma(seen, lanes_set(0), zeros);
        lanes_store(factors + i, seen);
    }
    int8_head head;
    const float zero_or_nan = lanes_sum(zeros);
    lanes to_whole = int8_choose_scale(zero_or_nan == 0 ? lanes_max_of(largest) : 0, zero_or_nan, &head);
    if (zero_or_nan != 0) to_whole = lanes_set(0); /* the unit is NaN: whole numbers stay small */
    for (int i = 0; i < ATTEND_BLOCK; i += PANEL)
        lanes_store(factors + i, lanes_mul(lanes_load(factors + i), to_whole));
    return head.scale;
}

/* Weights are at most 1, and factors below 2^14. What is not a number counts as 0 here: it is in the sum of
 * the weights, or in the unit. */
static void inner_softmax_int8(const float *scores, int first, int last, float scale, const float *factors,
                               float unit, cpu_ahead *ahead, void *words, float *partial) {
    const lanes shift = softmax_max(scores, first, last, scale, partial);
    lanes sum = lanes_set(0);
    char *to = words;
    for (int group = 0; group < ATTEND_BLOCK; group += INT8_GROUP) {
        lanes whole_sum = lanes_set(0);
        for (int i = group; i < group + INT8_GROUP; i += PANEL) {
            lanes whole = lanes_set(0);
            if (i + PANEL > first && i < last) {
                const lanes e = lanes_exp(lanes_sub(softmax_scores(scores, i, first, last, scale), shift));
                sum = lanes_add(sum, e);
                if (ahead) cpu_ahead_lines(ahead, ahead->softmax_lines);
                whole = int8_round(lanes_max(lanes_mul(e, lanes_load(factors + i)), lanes_set(0)));
                whole_sum = lanes_add(whole_sum, whole);
            }
            int8_pack(whole, to + INT8_INPUT_BYTES + (i - group) * (INT8_INPUT_BYTES / INT8_WORD_COLS));
        }
        const int8_head head = {unit, int8_first(whole_sum)};
        memcpy(to, &head, sizeof head);
        to += INT8_GROUP_WORDS * INT8_INPUT_BYTES;
    }
    partial[ATTEND_PARTIAL_SUM] = lanes_sum(sum);
}

/* Panels of values are beside each other in a word. */
typedef struct weigh_place {
    const char *weights;
    size_t row_bytes;
    const uint32_t *const *words;
    size_t word_step;
    int first_panel;
    cpu_ahead *ahead;
    float *values;
    size_t ld;
} weigh_place;

INNER void weigh_fixed(const int n_rows, const int n_panels, weigh_place t) {
    int8_sums acc[INT8_MOST_ROWS][INT8_TILE_PANELS];
    int8_head heads[INT8_MOST_ROWS];
    const char *input = t.weights + INT8_INPUT_BYTES;
    UNROLL
    for (int row = 0; row < n_rows; row++) {
        memcpy(&heads[row], t.weights + (size_t)row * t.row_bytes, sizeof *heads);
        UNROLL
        for (int p = 0; p < n_panels; p++)
            acc[row][p] = int8_begin(heads[row].first);
    }
    for (int piece = 0; piece < WEIGH_INT8_PIECES; piece++, input += PIECE_WORDS * INT8_INPUT_BYTES) {
        if (!t.words[piece]) continue;
        const uint32_t *codes = t.words[piece] + t.first_panel * PANEL;
        for (int word = 0; word < PIECE_WORDS; word++, codes += t.word_step) {
            if (t.ahead && tile_asks_ahead(word)) cpu_ahead_lines(t.ahead, n_panels);
            UNROLL
            for (int p = 0; p < n_panels; p++) {
                const int8_words loaded = int8_load(codes + p * PANEL);
                UNROLL
                for (int row = 0; row < n_rows; row++)
                    acc[row][p] = int8_step(
                        acc[row][p], input + (size_t)row * t.row_bytes + word * INT8_INPUT_BYTES, loaded);
            }
        }
    }
    UNROLL
    for (int row = 0; row < n_rows; row++) {
        UNROLL
        for (int p = 0; p < n_panels; p++) {
            float *at = t.values + (size_t)row * t.ld + (t.first_panel + p) * PANEL;
            lanes_store(at, lanes_fma(int8_end(acc[row][p]), lanes_set(heads[row].scale), lanes_load(at)));
        }
    }
}

INNER void weigh_rows(int n_rows, const int n_panels, weigh_place t) {
    switch (n_rows) {
    case 1:
        weigh_fixed(1, n_panels, t);
        break;
    case 2:
        weigh_fixed(2, n_panels, t);
        break;
    case 3:
        if (INT8_MOST_ROWS >= 3) weigh_fixed(3, n_panels, t);
        break;
    case 4:
        if (INT8_MOST_ROWS >= 4) weigh_fixed(4, n_panels, t);
        break;
    default:
        assert(false && "n_rows <= INT8_MOST_ROWS");
    }
}

static void inner_weigh_int8(const void *weights, size_t row_bytes, int n_rows,
                             const uint32_t *const words[WEIGH_INT8_PIECES], int n_panels, cpu_ahead *ahead,
                             float *values, size_t ld) {
    weigh_place t = {weights, row_bytes, words, (size_t)n_panels * PANEL, 0, ahead, values, ld};
    for (; n_rows > INT8_TILE_ROWS && n_panels - t.first_panel >= INT8_PANELS_OF_MOST;
         t.first_panel += INT8_PANELS_OF_MOST)
        weigh_rows(n_rows, INT8_PANELS_OF_MOST, t);
    for (; n_panels - t.first_panel >= INT8_TILE_PANELS; t.first_panel += INT8_TILE_PANELS)
        weigh_rows(n_rows, INT8_TILE_PANELS, t);
    for (; t.first_panel < n_panels; t.first_panel++)
        weigh_rows(n_rows, 1, t);
}
