/* kernels/cpu/inner_tables.h: the two tables of one instruction set, and the kernels in them with the
 * precision made constant. */
#pragma once

#include "kernels/cpu/inner_attend.h"
#include "kernels/cpu/inner_int4.h"
#include "kernels/cpu/inner_int8.h"

static inline void pack_input_bf16(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input) {
    pack_input_any(true, rows, row_bytes, n_rows, n_cols, input);
}

static void pack_input_f32(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input) {
    pack_input_any(false, rows, row_bytes, n_rows, n_cols, input);
}

static inline void tile_bf16(const void *input, int n_rows, const uint32_t *panels, size_t panel_words,
                             int n_panels, int n_words, cpu_ahead *ahead, bool add, float *out, size_t ld) {
    tile_any(true, TILE_PRODUCT, n_rows, n_panels,
             (tile_place){input, 0, panels, panel_words, PANEL, n_words, add, out, ld, ahead});
}

static void tile_f32(const void *input, int n_rows, const uint32_t *panels, size_t panel_words, int n_panels,
                     int n_words, cpu_ahead *ahead, bool add, float *out, size_t ld) {
    tile_any(false, TILE_PRODUCT, n_rows, n_panels,
             (tile_place){input, 0, panels, panel_words, PANEL, n_words, add, out, ld, ahead});
}

static void softmax_bf16(const float *scores, int first, int last, float scale, cpu_ahead *ahead,
                         void *weights, float *partial) {
    softmax_any(true, scores, first, last, scale, ahead, weights, partial);
}

static void softmax_f32(const float *scores, int first, int last, float scale, cpu_ahead *ahead,
                        void *weights, float *partial) {
    softmax_any(false, scores, first, last, scale, ahead, weights, partial);
}

static inline void weigh_bf16(const void *weights, size_t row_bytes, int n_rows, const uint32_t *words,
                              size_t word_step, int n_panels, int n_words, cpu_ahead *ahead, float *values,
                              size_t ld) {
    tile_any(true, TILE_WEIGH, n_rows, n_panels,
             (tile_place){weights, row_bytes, words, PANEL, word_step, n_words, false, values, ld, ahead});
}

static void weigh_f32(const void *weights, size_t row_bytes, int n_rows, const uint32_t *words,
                      size_t word_step, int n_panels, int n_words, cpu_ahead *ahead, float *values,
                      size_t ld) {
    tile_any(false, TILE_WEIGH, n_rows, n_panels,
             (tile_place){weights, row_bytes, words, PANEL, word_step, n_words, false, values, ld, ahead});
}

static void finish_bf16(const float *partial, int n, void *y) {
    finish_any(true, partial, n, y);
}

static void finish_f32(const float *partial, int n, void *y) {
    finish_any(false, partial, n, y);
}

static void rmsnorm_bf16(const float *x, const float *weight, float eps, int n, void *y) {
    rmsnorm_any(true, x, weight, eps, n, y);
}

static void rmsnorm_f32(const float *x, const float *weight, float eps, int n, void *y) {
    rmsnorm_any(false, x, weight, eps, n, y);
}

static void swiglu_bf16(const float *gate, const float *up, int n, void *y) {
    swiglu_any(true, gate, up, n, y);
}

static void swiglu_f32(const float *gate, const float *up, int n, void *y) {
    swiglu_any(false, gate, up, n, y);
}

static void store_bf16(const float *x, int n, void *y) {
    store_any(true, x, n, y);
}

static void store_f32(const float *x, int n, void *y) {
    store_any(false, x, n, y);
}

/* What a table with products of its own shares with the others. */
#define INNER_OTHERS(type)                                                                                   \
    .int8_tile = {INT8_TILE_ROWS,   INT8_TILE_PANELS,      0,                                                \
                  INT8_INPUT_BYTES, inner_pack_input_int8, inner_tile_int8},                                 \
    .int8_keys = {INT8_MOST_ROWS,   INT8_TILE_PANELS,      0,                                                \
                  INT8_INPUT_BYTES, inner_pack_query_int8, inner_tile_keys_int8},                            \
    .factors_int8 = inner_factors_int8, .softmax_int8 = inner_softmax_int8, .weigh_int8 = inner_weigh_int8,  \
    .int4_rows = INT4_ROWS, .score_int4 = inner_score_int4, .weigh_int4 = inner_weigh_int4,                  \
    .pack_panel = inner_pack_panel, .softmax = softmax_##type, .merge = inner_merge,                         \
    .finish = finish_##type, .rmsnorm = rmsnorm_##type, .swiglu = swiglu_##type, .store = store_##type,      \
    .exp = inner_exp

/* Initialiser of a table. */
#define INNER_TABLE(isa_name, type, type_input_bytes)                                                        \
    {                                                                                                        \
        .isa = isa_name, .tile = {TILE_ROWS,        TILE_PANELS,       TILE_AHEAD_SHARE,                     \
                                  type_input_bytes, pack_input_##type, tile_##type},                         \
        .weigh = weigh_##type, INNER_OTHERS(type)                                                            \
    }
