/* kernels/cpu/inner_attend.h: softmax over a block, the weighted sum of values, and the merge of partial
 * results. Written in the lanes of the file that includes it; `bf16` is a constant in every call. */
#pragma once

#include "kernels/cpu/inner_matmul.h"

/* Lanes beside the range count as -inf, whose exp is exactly 0: they change no bit of maximum and sum. */
static void inner_softmax(float *scores, int first, int last, float scale, float *partial) {
    lanes top = lanes_set(-INFINITY);
    int begin = first / PANEL * PANEL;
    for (int i = begin; i < last; i += PANEL) {
        lanes s = lanes_mul(lanes_load(scores + i), lanes_set(scale));
        s = lanes_keep(s, first - i, last - i, -INFINITY);
        lanes_store(scores + i, s);
        top = lanes_max(s, top);
    }
    float max = lanes_max_of(top);
    lanes shift = lanes_set(max == -INFINITY ? 0 : max), sum = lanes_set(0);
    for (int i = begin; i < last; i += PANEL) {
        lanes e = lanes_exp(lanes_sub(lanes_load(scores + i), shift));
        lanes_store(scores + i, e);
        sum = lanes_add(sum, e);
    }
    partial[PARTIAL_MAX] = max;
    partial[PARTIAL_SUM] = lanes_sum(sum);
}

typedef struct weigh_place {
    const float *weights;
    size_t weights_ld;
    const char *v;
    size_t v_bytes; /* from one position to the next */
    int n;
    float *values;
    size_t ld;
} weigh_place;

INNER void weigh_fixed(bool bf16, const int n_rows, const int n_panels, weigh_place w) {
    lanes acc[TILE_ROWS][TILE_PANELS];
    UNROLL
    for (int row = 0; row < n_rows; row++) {
        UNROLL
        for (int p = 0; p < n_panels; p++)
            acc[row][p] = lanes_load(w.values + (size_t)row * w.ld + p * PANEL);
    }
    for (int i = 0; i < w.n; i++, w.v += w.v_bytes) {
        lanes v[TILE_PANELS];
        UNROLL
        for (int p = 0; p < n_panels; p++)
            v[p] = bf16 ? lanes_load_bf16((const uint16_t *)(const void *)w.v + p * PANEL)
                        : lanes_load((const float *)(const void *)w.v + p * PANEL);
        UNROLL
        for (int row = 0; row < n_rows; row++) {
            lanes weight = lanes_set(w.weights[(size_t)row * w.weights_ld + (size_t)i]);
            UNROLL
            for (int p = 0; p < n_panels; p++)
                acc[row][p] = lanes_fma(weight, v[p], acc[row][p]);
        }
    }
    UNROLL
    for (int row = 0; row < n_rows; row++) {
        UNROLL
        for (int p = 0; p < n_panels; p++)
            lanes_store(w.values + (size_t)row * w.ld + p * PANEL, acc[row][p]);
    }
}

INNER void weigh_rows(bool bf16, int n_rows, const int n_panels, weigh_place w) {
    switch (n_rows) {
    case 1:
        weigh_fixed(bf16, 1, n_panels, w);
        break;
    case 2:
        weigh_fixed(bf16, 2, n_panels, w);
        break;
    case 3:
        if (TILE_ROWS >= 3) weigh_fixed(bf16, 3, n_panels, w);
        break;
    case 4:
        if (TILE_ROWS >= 4) weigh_fixed(bf16, 4, n_panels, w);
        break;
    case 5:
        if (TILE_ROWS >= 5) weigh_fixed(bf16, 5, n_panels, w);
        break;
    case 6:
        if (TILE_ROWS >= 6) weigh_fixed(bf16, 6, n_panels, w);
        break;
    default:
        assert(false && "n_rows <= TILE_ROWS");
    }
}

INNER void weigh_any(bool bf16, int n_rows, int width, weigh_place w) {
    for (int left = width / PANEL; left > 0;) {
        int n = panels_at_once(n_rows, left);
        if (TILE_PANELS >= 4 && n == 4)
            weigh_rows(bf16, n_rows, 4, w);
        else if (TILE_PANELS >= 2 && n == 2)
            weigh_rows(bf16, n_rows, 2, w);
        else
            weigh_rows(bf16, n_rows, 1, w);
        left -= n;
        w.v += (size_t)n * PANEL * (bf16 ? 2 : 4);
        w.values += n * PANEL;
    }
}

static bool partial_is_empty(const float *partial) {
    return partial[PARTIAL_MAX] == -INFINITY && partial[PARTIAL_SUM] == 0;
}

/* exp(max - larger); 1 for equal ones, so that no difference of infinities arises. */
static float merge_factor(float max, float larger) {
    float factor[16];
    lanes_store(factor, lanes_exp(lanes_set(max - larger)));
    return max == larger ? 1 : factor[0];
}

static void inner_merge(const float *earlier, float *later, int width) {
    if (partial_is_empty(earlier)) return;
    if (partial_is_empty(later)) {
        memcpy(later, earlier, (size_t)(PARTIAL_VALUES + width) * sizeof *later);
        return;
    }
    float m1 = earlier[PARTIAL_MAX], m2 = later[PARTIAL_MAX], m = m1 > m2 ? m1 : m2;
    float f1 = merge_factor(m1, m), f2 = merge_factor(m2, m);
    later[PARTIAL_MAX] = m;
    later[PARTIAL_SUM] = earlier[PARTIAL_SUM] * f1 + later[PARTIAL_SUM] * f2;
    for (int i = PARTIAL_VALUES; i < PARTIAL_VALUES + width; i += 16) {
        lanes theirs = lanes_mul(lanes_load(later + i), lanes_set(f2));
        lanes_store(later + i, lanes_fma(lanes_load(earlier + i), lanes_set(f1), theirs));
    }
}

INNER void finish_any(bool bf16, const float *partial, int n, void *y) {
    lanes sum = lanes_set(partial[PARTIAL_SUM]);
    for (int i = 0; i < n; i += 16) {
        int left = lanes_left(n, i);
        lanes_store_act(bf16, y, i, left, lanes_div(lanes_load(partial + PARTIAL_VALUES + i), sum));
    }
}
