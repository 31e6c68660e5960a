/* kernels/cpu/inner_attend.h: softmax over a block, packing of values, and the merge of partial
 * results. Written in the lanes of the file that includes it; `bf16` is a constant in every call. */
#pragma once

#include "kernels/attend_blocks.h"
#include "kernels/cpu/inner_matmul.h"

/* Lanes beside the range count as -inf, whose exp is exactly 0: they change no bit of maximum and sum. */
INNER void softmax_any(bool bf16, float *scores, int first, int last, float scale, char *weights,
                       float *partial) {
    const size_t input_bytes = bf16 ? TILE_BF16_BYTES / 2 : 4;
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
        tile_store_inputs(bf16, weights + (size_t)i * input_bytes, e);
        sum = lanes_add(sum, e);
    }
    partial[ATTEND_PARTIAL_MAX] = max;
    partial[ATTEND_PARTIAL_SUM] = lanes_sum(sum);
}

/* PANEL elements of row i < n from dim on, or zeros; `some` is for those at the end of a row. */
INNER const void *elements_at(bool bf16, const char *v, size_t row_bytes, int i, int n, int dim, int n_dims,
                              uint32_t *some) {
    const size_t bytes = bf16 ? 2 : 4;
    const char *from = v + (size_t)i * row_bytes + (size_t)dim * bytes;
    if (i < n && n_dims - dim >= PANEL) return from;
    memset(some, 0, PANEL * sizeof *some);
    if (i < n) memcpy(some, from, (size_t)(n_dims - dim) * bytes);
    return some;
}

INNER void pack_values_any(bool bf16, const char *v, size_t row_bytes, int n, int n_dims, uint32_t *panels,
                           size_t panel_words) {
    for (int dim = 0; dim < n_dims; dim += PANEL, panels += panel_words)
        for (int i = 0, word = 0; i < PANEL; i += bf16 ? 2 : 1, word++) {
            uint32_t some[2][PANEL], *to = panels + word * PANEL;
            const void *even = elements_at(bf16, v, row_bytes, i, n, dim, n_dims, some[0]);
            if (bf16)
                lanes_pair(even, elements_at(bf16, v, row_bytes, i + 1, n, dim, n_dims, some[1]), to);
            else
                memcpy(to, even, PANEL * sizeof *to);
        }
}

/* Keys are packed where they stay in the nearest cache until they are multiplied. */
INNER void score_rows_any(bool bf16, const void *input, int n_rows, const void *keys, size_t row_bytes, int n,
                          int n_words, uint32_t *packed, float *scores, size_t ld) {
    const size_t panel_words = (size_t)n_words * PANEL;
    const char *from = keys;
    for (int left = n / PANEL, some; left > 0; left -= some, scores += some * PANEL) {
        some = left < TILE_PANELS ? left : TILE_PANELS;
        for (int i = 0; i < some; i++, from += PANEL * row_bytes)
            inner_pack_panel(from, row_bytes, PANEL, n_words, packed + (size_t)i * panel_words);
        tile_any(bf16, TILE_PRODUCT, n_rows, some,
                 (tile_place){input, 0, packed, panel_words, PANEL, n_words, false, scores, ld});
    }
}

INNER void weigh_rows_any(bool bf16, const void *weights, size_t row_bytes, int n_rows, const void *v,
                          size_t v_row_bytes, int n, int n_dims, float *values, size_t ld) {
    const size_t rows_of_word = bf16 ? 2 : 1, row_words = v_row_bytes / sizeof(uint32_t);
    tile_any(bf16, TILE_WEIGH_ROWS, n_rows, n_dims / PANEL,
             (tile_place){weights, row_bytes, v, PANEL / rows_of_word, rows_of_word * row_words,
                          n / (int)rows_of_word, false, values, ld});
}

static bool partial_is_empty(const float *partial) {
    return attend_partial_is_empty(partial[ATTEND_PARTIAL_MAX], partial[ATTEND_PARTIAL_SUM]);
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
        memcpy(later, earlier, (size_t)(ATTEND_PARTIAL_VALUES + width) * sizeof *later);
        return;
    }
    float m1 = earlier[ATTEND_PARTIAL_MAX], m2 = later[ATTEND_PARTIAL_MAX], m = m1 > m2 ? m1 : m2;
    float f1 = merge_factor(m1, m), f2 = merge_factor(m2, m);
    later[ATTEND_PARTIAL_MAX] = m;
    later[ATTEND_PARTIAL_SUM] = earlier[ATTEND_PARTIAL_SUM] * f1 + later[ATTEND_PARTIAL_SUM] * f2;
    for (int i = ATTEND_PARTIAL_VALUES; i < ATTEND_PARTIAL_VALUES + width; i += 16) {
        lanes theirs = lanes_mul(lanes_load(later + i), lanes_set(f2));
        lanes_store(later + i, lanes_fma(lanes_load(earlier + i), lanes_set(f1), theirs));
    }
}

INNER void finish_any(bool bf16, const float *partial, int n, void *y) {
    lanes sum = lanes_set(partial[ATTEND_PARTIAL_SUM]);
    for (int i = 0; i < n; i += 16) {
        int left = lanes_left(n, i);
        lanes_store_act(bf16, y, i, left, lanes_div(lanes_load(partial + ATTEND_PARTIAL_VALUES + i), sum));
    }
}
