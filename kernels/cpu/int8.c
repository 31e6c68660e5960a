#include "kernels/cpu/int8.h"

#include <math.h>
#include <string.h>

int64_t int8_words(int64_t n_cols) {
    return (n_cols + INT8_GROUP - 1) / INT8_GROUP + (n_cols + INT8_WORD_COLS - 1) / INT8_WORD_COLS;
}

static uint32_t *group_at(uint32_t *panel, int64_t col0) {
    return panel + col0 / INT8_GROUP * INT8_GROUP_WORDS * PANEL;
}

/* The scale of n weights; NaN: one of them is not finite. */
static float scale_of(const float *weights, int n) {
    float largest = 0, zero_or_nan = 0;
    for (int i = 0; i < n; i++) {
        largest = fabsf(weights[i]) > largest ? fabsf(weights[i]) : largest;
        zero_or_nan += weights[i] * 0;
    }
    return int8_code_scale(zero_or_nan == 0 ? largest : zero_or_nan);
}

static void put_group(uint32_t *group, int row, const float *weights, int n) {
    uint8_t stored[INT8_GROUP];
    const float scale = scale_of(weights, n);
    memset(stored, INT8_OFFSET, sizeof stored);
    for (int i = 0; i < n; i++)
        stored[i] = int8_encode(weights[i], scale);
    memcpy(group + row, &scale, sizeof scale);
    for (int col = 0; col < n; col += INT8_WORD_COLS)
        memcpy(group + (1 + col / INT8_WORD_COLS) * PANEL + row, stored + col, INT8_WORD_COLS);
}

void int8_put_row(uint32_t *panel, int row, int64_t col0, int64_t n_cols, const float *weights) {
    for (int64_t col = 0; col < n_cols; col += INT8_GROUP) {
        int n = n_cols - col < INT8_GROUP ? (int)(n_cols - col) : INT8_GROUP;
        put_group(group_at(panel, col0 + col), row, weights + col, n);
    }
}

void int8_get_row(const uint32_t *panel, int row, int64_t n_cols, float *x) {
    for (int64_t col = 0; col < n_cols; col++) {
        const uint32_t *group = panel + col / INT8_GROUP * INT8_GROUP_WORDS * PANEL + row;
        const uint32_t *word = group + (1 + col % INT8_GROUP / INT8_WORD_COLS) * PANEL;
        float scale;
        memcpy(&scale, group, sizeof scale);
        x[col] = int8_decode(((const uint8_t *)word)[col % INT8_WORD_COLS], scale);
    }
}
