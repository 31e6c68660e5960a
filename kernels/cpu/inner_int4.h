/* kernels/cpu/inner_int4.h: products with a group of places in int4 (KV_INT4). Written in the lanes of the
 * file that includes it.
 *
 * A number x that meets code c of a range meets least + step c: x step is rounded to a whole number, which
 * meets the code; with the least number x is multiplied as it is. Sums of whole numbers do not depend on
 * their order. What x step loses in rounding meets the codes' middle. */
#pragma once

#include "kernels/cpu/inner_matmul.h"
#include "kernels/kv_page.h"

enum {
    INT4_PART = 128,        /* elements of a query that are rounded together */
    INT4_DIGIT = 127,       /* the largest whole number of a query's element */
    INT4_DIGITS = 127 * 256 /* of a weight, which has two digits: small ones of many places add up */
};

/* Ranges of numbers that follow each other. */
typedef struct int4_ranges {
    float least[INT4_PART], span[INT4_PART];
} int4_ranges;

/* The numbers' products are `scale` times the sum of whole numbers, and `first`. */
typedef struct int4_head {
    float scale, first;
} int4_head;

APART void int4_load_ranges(const uint16_t *least, const uint16_t *largest, int n, int4_ranges *r) {
    for (int i = 0; i < n; i += 16) {
        const lanes low = lanes_load_bf16(least + i);
        lanes_store(r->least + i, low);
        lanes_store(r->span + i, lanes_sub(lanes_load_bf16(largest + i), low));
    }
}

INNER lanes int4_round(lanes x) {
    const lanes round = lanes_set(0x1.8p23f); /* adding it rounds to a whole number */
    return lanes_sub(lanes_add(x, round), round);
}

/* What makes the largest of some numbers `most`; 0 where that is next to nothing. */
INNER float int4_to_whole(float largest, int most) {
    return largest > FLT_MIN * 0x1p24f ? (float)most / largest : 0;
}

/* n <= INT4_PART elements of a query, one for each range. */
APART int4_head int4_pack_query(const float *x, const int4_ranges *r, int n, int8_t *to) {
    float products[INT4_PART];
    lanes top = lanes_set(0), first = lanes_set(0), lost = lanes_set(0);
    for (int i = 0; i < n; i += 16) {
        const lanes v = lanes_load(x + i), product = lanes_mul(v, lanes_load(r->span + i));
        first = lanes_fma(v, lanes_load(r->least + i), first);
        top = lanes_max(lanes_max(product, lanes_sub(lanes_set(0), product)), top);
        lanes_store(products + i, product);
    }
    const float largest = lanes_max_of(top), scale = largest / INT4_DIGIT;
    const lanes to_whole = lanes_set(int4_to_whole(largest, INT4_DIGIT)), scales = lanes_set(scale);
    for (int i = 0; i < n; i += 16) {
        const lanes product = lanes_load(products + i), whole = int4_round(lanes_mul(product, to_whole));
        lost = lanes_add(lost, lanes_sub(product, lanes_mul(whole, scales)));
        lanes_store_int8(to + i, whole);
    }
    const lanes middle = lanes_set((float)INT4_MIDDLE / INT4_LARGEST);
    return (int4_head){scale / INT4_LARGEST, lanes_sum(lanes_fma(lost, middle, first))};
}

/* Spans of KV_INT4_PLACES ranges become what makes weights, which are at most 1, whole numbers; returns what
 * these count. */
APART float int4_prepare_spans(int4_ranges *r) {
    lanes top = lanes_set(0);
    for (int i = 0; i < KV_INT4_PLACES; i += 16)
        top = lanes_max(lanes_load(r->span + i), top);
    const float largest = lanes_max_of(top);
    const lanes to_whole = lanes_set(int4_to_whole(largest, INT4_DIGITS));
    for (int i = 0; i < KV_INT4_PLACES; i += 16)
        lanes_store(r->span + i, lanes_mul(lanes_load(r->span + i), to_whole));
    return largest / ((float)INT4_DIGITS * INT4_LARGEST);
}

/* A weight for each of KV_INT4_PLACES ranges; where it is 0, the range may be anything. Returns what meets
 * the least numbers. */
APART float int4_pack_weights(const float *x, const int4_ranges *r, int8_t *upper, int8_t *lower) {
    const lanes zero = lanes_set(0);
    lanes first = zero;
    for (int i = 0; i < KV_INT4_PLACES; i += 16) {
        const lanes v = lanes_load(x + i), product = lanes_mul(v, lanes_load(r->span + i)),
                    least = lanes_load(r->least + i);
        first = lanes_fma(v, lanes_if_less(zero, v, least, zero), first);
        lanes_store_digits(upper + i, lower + i, int4_round(lanes_if_less(zero, v, product, zero)));
    }
    return lanes_sum(first);
}

/* ---- a group of places ---- */

typedef enum int4_kind { INT4_SCORE, INT4_WEIGH } int4_kind;

/* Of a group of keys or values: see cpu_kernels. */
typedef struct int4_place {
    const float *x; /* queries, x_floats apart, or weights */
    size_t x_floats;
    int width;
    const uint16_t *least;
    cpu_ahead *ahead;
    float *out;
    size_t ld;
} int4_place;

/* Scores of the elements [begin, begin + n). */
INNER void int4_score(const int n_rows, int4_place t, int begin, int n) {
    int8_t input[INT4_ROWS][INT4_PART];
    int4_head heads[INT4_ROWS];
    const uint16_t *largest = t.least + t.width;
    const uint32_t *codes = (const uint32_t *)(const void *)(largest + t.width);
    const int panel_words = t.width / KV_INT4_WORD * PANEL;
    if (t.ahead) cpu_ahead_lines(t.ahead, n / PANEL);
    int4_ranges ranges;
    int4_load_ranges(t.least + begin, largest + begin, n, &ranges);
    for (int row = 0; row < n_rows; row++)
        heads[row] = int4_pack_query(t.x + (size_t)row * t.x_floats + begin, &ranges, n, input[row]);
    for (int panel = 0; panel < KV_INT4_PLACES / PANEL; panel += INT4_PANELS) {
        const uint32_t *at = codes + panel * panel_words + begin / KV_INT4_WORD * PANEL;
        int4_sums acc[INT4_ROWS][INT4_PANELS];
        UNROLL
        for (int i = 0; i < n_rows * INT4_PANELS; i++)
            acc[i / INT4_PANELS][i % INT4_PANELS] = int4_begin();
        for (int i = 0; i < n; i += KV_INT4_WORD, at += PANEL) {
            if (t.ahead && tile_asks_ahead(i / KV_INT4_WORD)) cpu_ahead_lines(t.ahead, INT4_PANELS);
            int4_words words[INT4_PANELS];
            UNROLL
            for (int p = 0; p < INT4_PANELS; p++)
                words[p] = int4_load(at + p * panel_words);
            UNROLL
            for (int k = 0; k < n_rows * INT4_PANELS; k++) {
                const int row = k / INT4_PANELS, p = k % INT4_PANELS;
                acc[row][p] = int4_add(acc[row][p], input[row] + i, words[p]);
            }
        }
        UNROLL
        for (int i = 0; i < n_rows * INT4_PANELS; i++) {
            const int row = i / INT4_PANELS, p = i % INT4_PANELS;
            float *out = t.out + (size_t)row * t.ld + (panel + p) * PANEL;
            const lanes sum = int4_end(int4_begin(), acc[row][p]),
                        part = lanes_fma(sum, lanes_set(heads[row].scale), lanes_set(heads[row].first));
            lanes_store(out, begin > 0 ? lanes_add(lanes_load(out), part) : part);
        }
    }
}

/* Weights that meet codes. */
typedef struct int4_weights {
    int8_t upper[INT4_ROWS][KV_INT4_PLACES], lower[INT4_ROWS][KV_INT4_PLACES];
    float scale, firsts[INT4_ROWS];
} int4_weights;

/* Sums of n_panels panels of values. */
INNER void int4_weigh_panels(const int n_rows, const int n_panels, int4_place t, const int4_weights *w,
                             const uint32_t *codes, float *out) {
    int4_sums high[INT4_ROWS][INT4_PANELS], low[INT4_ROWS][INT4_PANELS];
    UNROLL
    for (int i = 0; i < n_rows * n_panels; i++)
        high[i / n_panels][i % n_panels] = low[i / n_panels][i % n_panels] = int4_begin();
    for (int i = 0; i < KV_INT4_PLACES; i += KV_INT4_WORD, codes += t.width) {
        if (t.ahead && tile_asks_ahead(i / KV_INT4_WORD)) cpu_ahead_lines(t.ahead, n_panels);
        int4_words words[INT4_PANELS];
        UNROLL
        for (int p = 0; p < n_panels; p++)
            words[p] = int4_load(codes + p * PANEL);
        UNROLL
        for (int k = 0; k < n_rows * n_panels; k++) {
            const int row = k / n_panels, p = k % n_panels;
            high[row][p] = int4_add(high[row][p], w->upper[row] + i, words[p]);
            low[row][p] = int4_add(low[row][p], w->lower[row] + i, words[p]);
        }
    }
    UNROLL
    for (int i = 0; i < n_rows * n_panels; i++) {
        const int row = i / n_panels, p = i % n_panels;
        float *at = out + (size_t)row * t.ld + p * PANEL;
        const lanes sum =
            lanes_fma(int4_end(high[row][p], low[row][p]), lanes_set(w->scale), lanes_set(w->firsts[row]));
        lanes_store(at, lanes_add(lanes_load(at), sum));
    }
}

/* Values of the panels from `first` on and before `last`, which share their ranges. */
INNER void int4_weigh(const int n_rows, int4_place t, int first, int last) {
    const int n_ranges = (t.width + KV_INT4_VALUES - 1) / KV_INT4_VALUES * KV_INT4_PLACES,
              range = first * PANEL / KV_INT4_VALUES * KV_INT4_PLACES;
    const uint32_t *codes = (const uint32_t *)(const void *)(t.least + 2 * n_ranges);
    int4_weights w;
    if (t.ahead) cpu_ahead_lines(t.ahead, KV_INT4_PLACES / PANEL);
    int4_ranges ranges;
    int4_load_ranges(t.least + range, t.least + n_ranges + range, KV_INT4_PLACES, &ranges);
    w.scale = int4_prepare_spans(&ranges);
    for (int row = 0; row < n_rows; row++)
        w.firsts[row] =
            int4_pack_weights(t.x + (size_t)row * t.x_floats, &ranges, w.upper[row], w.lower[row]);
    for (; last - first >= INT4_PANELS; first += INT4_PANELS)
        int4_weigh_panels(n_rows, INT4_PANELS, t, &w, codes + first * PANEL, t.out + first * PANEL);
    for (; first < last; first++)
        int4_weigh_panels(n_rows, 1, t, &w, codes + first * PANEL, t.out + first * PANEL);
}

INNER void int4_fixed(const int4_kind kind, const int n_rows, int4_place t) {
    enum { PANELS = KV_INT4_VALUES / PANEL };
    for (int i = 0; kind == INT4_SCORE && i < t.width; i += INT4_PART)
        int4_score(n_rows, t, i, t.width - i < INT4_PART ? t.width - i : INT4_PART);
    for (int i = 0, n = t.width / PANEL; kind == INT4_WEIGH && i < n; i += PANELS)
        int4_weigh(n_rows, t, i, n - i < PANELS ? n : i + PANELS);
}

static_assert(INT4_ROWS <= 4, "int4_rows names every number of rows");

INNER void int4_rows(const int4_kind kind, int n_rows, int4_place t) {
    switch (n_rows) {
    case 1:
        int4_fixed(kind, 1, t);
        break;
    case 2:
        if (INT4_ROWS >= 2) int4_fixed(kind, 2, t);
        break;
    case 3:
        if (INT4_ROWS >= 3) int4_fixed(kind, 3, t);
        break;
    case 4:
        if (INT4_ROWS >= 4) int4_fixed(kind, 4, t);
        break;
    default:
        assert(false && "n_rows <= INT4_ROWS");
    }
}

static void inner_score_int4(const float *queries, int n_rows, int width, const void *keys, cpu_ahead *ahead,
                             float *scores, size_t ld) {
    int4_rows(INT4_SCORE, n_rows, (int4_place){queries, (size_t)width, width, keys, ahead, scores, ld});
}

static void inner_weigh_int4(const float *weights, size_t weights_ld, int n_rows, int width,
                             const void *values, cpu_ahead *ahead, float *sums, size_t ld) {
    int4_rows(INT4_WEIGH, n_rows, (int4_place){weights, weights_ld, width, values, ahead, sums, ld});
}
