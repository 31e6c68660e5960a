/* kernels/cpu/inner_matmul.h: packing, and the tile of a matrix product. Written in the lanes of the file
 * that includes it, for both precisions: `bf16` is a constant in every call.
 *
 * Every output is one chain of steps over the words in order, in a register of its own. How many rows and
 * panels share a tile changes only which chains run beside each other. */
#pragma once

#include "kernels/cpu/inner_rows.h"

#define UNROLL _Pragma("GCC unroll 16")

INNER size_t tile_input_bytes(bool bf16) {
    return bf16 ? TILE_BF16_BYTES : 4;
}

INNER void pack_input_any(bool bf16, const void *rows, size_t row_bytes, int n_rows, int n_cols,
                          void *input) {
    const char *from = rows;
    char *to = input;
    int n_words = bf16 ? n_cols / 2 : n_cols;
    for (int word = 0; word < n_words; word++)
        for (int row = 0; row < n_rows; row++, to += tile_input_bytes(bf16)) {
            uint32_t bits;
            memcpy(&bits, from + (size_t)row * row_bytes + (size_t)word * sizeof bits, sizeof bits);
            tile_pack(bf16, bits, to);
        }
    if (!bf16 || n_cols % 2 == 0) return;
    for (int row = 0; row < n_rows; row++, to += tile_input_bytes(bf16)) {
        uint16_t last;
        memcpy(&last, from + (size_t)row * row_bytes + (size_t)n_words * 4, sizeof last);
        tile_pack(bf16, last, to);
    }
}

static void inner_pack_panel(const void *rows, size_t row_bytes, int n_rows, int n_words, uint32_t *panel) {
    const char *from = rows;
    int word = 0;
    if (n_rows == PANEL)
        for (; word + 16 <= n_words; word += 16)
            lanes_transpose(from + (size_t)word * 4, row_bytes, panel + (size_t)word * PANEL);
    for (; word < n_words; word++) {
        uint32_t *to = panel + (size_t)word * PANEL;
        for (int row = 0; row < PANEL; row++) {
            to[row] = 0;
            if (row < n_rows) memcpy(to + row, from + (size_t)row * row_bytes + (size_t)word * 4, 4);
        }
    }
}

/* Beside this word of a product? A share is left to softmax. */
INNER bool tile_asks_ahead(int word) {
    return TILE_AHEAD_SHARE == 0 || word % TILE_AHEAD_SHARE;
}

/* What a tile does: */
typedef enum tile_kind {
    TILE_PRODUCT, /* out = or += input * panels^T; the input is packed ([n_words][n_rows]) */
    TILE_WEIGH,   /* each chain begins with what out has; the input is words of rows */
} tile_kind;

typedef struct tile_place {
    const char *input;
    size_t input_row_bytes; /* where it is not packed */
    const uint32_t *panels;
    size_t panel_words; /* to the next panel */
    size_t step_words;  /* to the next word of a panel */
    int n_words;
    bool add;
    float *out;
    size_t ld;
    cpu_ahead *ahead; /* NULL: without */
} tile_place;

INNER void tile_fixed(bool bf16, const tile_kind kind, const int n_rows, const int n_panels, tile_place t) {
    const bool packed = kind == TILE_PRODUCT;
    lanes acc[TILE_ROWS][TILE_PANELS];
    UNROLL
    for (int row = 0; row < n_rows; row++) {
        UNROLL
        for (int p = 0; p < n_panels; p++)
            acc[row][p] = packed ? lanes_set(0) : lanes_load(t.out + (size_t)row * t.ld + p * PANEL);
    }
    const size_t row_bytes = packed ? tile_input_bytes(bf16) : t.input_row_bytes;
    const size_t word_bytes = tile_input_bytes(bf16) * (size_t)(packed ? n_rows : 1);
    size_t line = t.ahead ? t.ahead->n_lines : 0;
    for (int word = 0; word < t.n_words; word++) {
        tile_words words[TILE_PANELS];
        UNROLL
        for (int p = 0; p < n_panels; p++)
            words[p] = tile_load(bf16, t.panels + (size_t)p * t.panel_words);
        if (t.ahead && tile_asks_ahead(word)) {
            UNROLL
            for (int p = 0; p < n_panels; p++)
                cpu_ahead_line(t.ahead, line++);
        }
        UNROLL
        for (int row = 0; row < n_rows; row++) {
            UNROLL
            for (int p = 0; p < n_panels; p++)
                acc[row][p] = tile_step(bf16, acc[row][p], t.input + (size_t)row * row_bytes, words[p]);
        }
        t.input += word_bytes;
        t.panels += t.step_words;
    }
    if (t.ahead) t.ahead->n_lines = line;
    UNROLL
    for (int row = 0; row < n_rows; row++) {
        UNROLL
        for (int p = 0; p < n_panels; p++) {
            float *out = t.out + (size_t)row * t.ld + p * PANEL;
            lanes_store(out, t.add ? lanes_add(lanes_load(out), acc[row][p]) : acc[row][p]);
        }
    }
}

static_assert(TILE_ROWS <= 6, "tile_rows names every number of rows");

INNER void tile_rows(bool bf16, const tile_kind kind, int n_rows, const int n_panels, tile_place t) {
    switch (n_rows) {
    case 1:
        tile_fixed(bf16, kind, 1, n_panels, t);
        break;
    case 2:
        tile_fixed(bf16, kind, 2, n_panels, t);
        break;
    case 3:
        if (TILE_ROWS >= 3) tile_fixed(bf16, kind, 3, n_panels, t);
        break;
    case 4:
        if (TILE_ROWS >= 4) tile_fixed(bf16, kind, 4, n_panels, t);
        break;
    case 5:
        if (TILE_ROWS >= 5) tile_fixed(bf16, kind, 5, n_panels, t);
        break;
    case 6:
        if (TILE_ROWS >= 6) tile_fixed(bf16, kind, 6, n_panels, t);
        break;
    default:
        assert(false && "n_rows <= TILE_ROWS");
    }
}

/* Of n_panels, how many to walk beside each other. */
INNER int panels_at_once(int n_rows, int n_panels) {
    int most = n_rows == 1 ? TILE_PANELS : TILE_PANELS_OF_MANY;
    return most >= 4 && n_panels >= 4 ? 4 : most >= 2 && n_panels >= 2 ? 2 : 1;
}

INNER void tile_any(bool bf16, const tile_kind kind, int n_rows, int n_panels, tile_place t) {
    while (n_panels > 0) {
        int n = panels_at_once(n_rows, n_panels);
        if (TILE_PANELS >= 4 && n == 4)
            tile_rows(bf16, kind, n_rows, 4, t);
        else if (TILE_PANELS >= 2 && n == 2)
            tile_rows(bf16, kind, n_rows, 2, t);
        else
            tile_rows(bf16, kind, n_rows, 1, t);
        n_panels -= n;
        t.panels += (size_t)n * t.panel_words;
        t.out += n * PANEL;
    }
}
