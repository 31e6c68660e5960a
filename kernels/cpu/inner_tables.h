/* kernels/cpu/inner_tables.h: the two tables of one instruction set, and the kernels in them with the
 * precision made constant. */
#pragma once

#include "kernels/cpu/inner_attend.h"

static void pack_input_bf16(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input) {
    pack_input_any(true, rows, row_bytes, n_rows, n_cols, input);
}

static void pack_input_f32(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input) {
    pack_input_any(false, rows, row_bytes, n_rows, n_cols, input);
}

static void tile_bf16(const void *input, int n_rows, const uint32_t *panels, size_t panel_words, int n_panels,
                      int n_words, bool add, float *out, size_t ld) {
    tile_any(true, n_rows, n_panels, (tile_place){input, panels, panel_words, n_words, add, out, ld});
}

static void tile_f32(const void *input, int n_rows, const uint32_t *panels, size_t panel_words, int n_panels,
                     int n_words, bool add, float *out, size_t ld) {
    tile_any(false, n_rows, n_panels, (tile_place){input, panels, panel_words, n_words, add, out, ld});
}

static void weigh_bf16(const float *weights, size_t weights_ld, int n_rows, const void *v, size_t v_ld, int n,
                       int width, float *values, size_t ld) {
    weigh_any(true, n_rows, width, (weigh_place){weights, weights_ld, v, 2 * v_ld, n, values, ld});
}

static void weigh_f32(const float *weights, size_t weights_ld, int n_rows, const void *v, size_t v_ld, int n,
                      int width, float *values, size_t ld) {
    weigh_any(false, n_rows, width, (weigh_place){weights, weights_ld, v, 4 * v_ld, n, values, ld});
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

/* Initialiser of a table. */
#define INNER_TABLE(isa_name, type, type_input_bytes)                                                        \
    {                                                                                                        \
        .isa = isa_name, .tile_rows = TILE_ROWS, .tile_panels = TILE_PANELS,                                 \
        .input_word_bytes = type_input_bytes, .pack_input = pack_input_##type,                               \
        .pack_panel = inner_pack_panel, .tile = tile_##type, .softmax = inner_softmax,                       \
        .weigh = weigh_##type, .merge = inner_merge, .finish = finish_##type, .rmsnorm = rmsnorm_##type,     \
        .swiglu = swiglu_##type, .store = store_##type, .exp = inner_exp,                                    \
    }
