/* kernels/cpu/inner_attend.h: softmax over a block, and the merge of partial results. Written in the lanes of
 * the file that includes it; `bf16` is a constant in every call. */
#pragma once

#include "kernels/attend_blocks.h"
#include "kernels/cpu/inner_matmul.h"

/* Scores of a panel, scaled; lanes beside the range count as -inf, whose exp is exactly 0: they change no bit
 * of maximum and sum. */
INNER lanes softmax_scores(const float *scores, int i, int first, int last, float scale) {
    lanes s = lanes_mul(lanes_load(scores + i), lanes_set(scale));
    return first <= i && last >= i + PANEL ? s : lanes_keep(s, first - i, last - i, -INFINITY);
}

/* The largest is the partial result's; and what to take from each, before exp. */
INNER lanes softmax_max(const float *scores, int first, int last, float scale, float *partial) {
    lanes top = lanes_set(-INFINITY);
    for (int i = first / PANEL * PANEL; i < last; i += PANEL)
        top = lanes_max(softmax_scores(scores, i, first, last, scale), top);
    const float max = partial[ATTEND_PARTIAL_MAX] = lanes_max_of(top);
    return lanes_set(max == -INFINITY ? 0 : max);
}

INNER void softmax_any(bool bf16, const float *scores, int first, int last, float scale, cpu_ahead *ahead,
                       char *weights, float *partial) {
    const size_t input_bytes = bf16 ? TILE_BF16_BYTES / 2 : 4;
    const int begin = first / PANEL * PANEL;
    const lanes shift = softmax_max(scores, first, last, scale, partial);
    lanes sum = lanes_set(0);
    for (int i = begin; i < last; i += PANEL) {
        lanes e = lanes_exp(lanes_sub(softmax_scores(scores, i, first, last, scale), shift));
        tile_store_inputs(bf16, weights + (size_t)i * input_bytes, e);
        sum = lanes_add(sum, e);
        if (ahead) cpu_ahead_lines(ahead, ahead->softmax_lines);
    }
    partial[ATTEND_PARTIAL_SUM] = lanes_sum(sum);
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
