/* kernels/cpu/inner_amx.h: bf16 products by the matrix unit of Sapphire Rapids and later (AMX).
 *
 * A tile register holds 16 rows of 64 bytes. TDPBF16PS adds the product of A [16 rows][16 words] and B [16
 * words][16 columns], which is a panel as it lies, to the sums C [16 rows][16 columns]. For each sum the even
 * and the odd elements of the sixteen words are two chains, whose sum is added (Intel SDM, TDPBF16PS): the
 * same for any number of rows, and also where A and B change places. Subnormal numbers count as zero.
 *
 * Words go by groups of sixteen; a last group that is shorter is padded with zeros. Tiles 0 to 3 are sums, 4
 * and 5 of A, 6 and 7 of B. */
#pragma once

#include "kernels/cpu/inner_attend.h"

enum {
    AMX_ROWS = 16,
    AMX_WORDS = 16,
    AMX_TILE_BYTES = 1024,
    AMX_ROW_BYTES = 64,
    AMX_AT_ONCE = 4,
    AMX_AHEAD_WORDS = 512
};

static_assert((int)AMX_ROWS == PANEL, "a panel is a tile");

/* As LDTILECFG reads it. */
typedef struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_config;

static_assert(sizeof(amx_config) == 64, "as the processor reads it");

/* What tiles are loaded from is written before: the compiler does not see that the instructions read it. */
INNER void amx_settle(void) {
    __asm__ volatile("" ::: "memory");
}

/* Of up to 32 rows: A 4 and its sums have the first 16, A 5 and its sums the others. Where there are none,
 * sums 2 and 3 belong to A 4, too. */
static void amx_begin(int n_rows) {
    assert(n_rows > 0 && n_rows <= 2 * AMX_ROWS);
    const uint8_t first = (uint8_t)(n_rows < AMX_ROWS ? n_rows : AMX_ROWS);
    const uint8_t second = (uint8_t)(n_rows > AMX_ROWS ? n_rows - AMX_ROWS : n_rows);
    const amx_config config = {.palette = 1,
                               .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                               .rows = {first, first, second, second, first, second, AMX_WORDS, AMX_WORDS}};
    amx_settle();
    _tile_loadconfig(&config);
}

INNER void amx_clear_sums(void) {
    amx_settle();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

typedef struct amx_product {
    const char *a; /* words of rows that are a_row_bytes apart; the next group is a_step bytes on */
    size_t a_row_bytes, a_step;
    const uint32_t *b; /* n_panels, b_words apart; of each, words of PANEL that are word_step apart */
    size_t b_words, word_step;
    int n_rows, n_panels, n_groups;
    bool add; /* to what C has */
    float *c; /* [n_rows][n_panels * PANEL], ld floats apart */
    size_t ld;
    cpu_ahead *ahead; /* NULL: what follows in b is read next */
} amx_product;

/* Words that will be wanted soon: a tile's load has few lines under way by itself. */
INNER void amx_prefetch(cpu_ahead *ahead, const uint32_t *b) {
    if (ahead)
        cpu_ahead_lines(ahead, AMX_WORDS - AMX_WORDS / TILE_AHEAD_SHARE);
    else
        for (int word = 0; word < AMX_WORDS; word++)
            _mm_prefetch((const char *)(b + AMX_AHEAD_WORDS + word * PANEL), _MM_HINT_T0);
}

/* Up to 16 rows with up to 4 panels. */
static void amx_few_rows(const amx_product *p) {
    const size_t ld = p->ld * sizeof *p->c, step = p->b_words, b_row_bytes = p->word_step * sizeof *p->b;
    const int n = p->n_panels;
    const char *a = p->a;
    const uint32_t *b = p->b;
    amx_clear_sums();
    if (p->add) {
        _tile_loadd(0, p->c, ld);
        if (n > 1) _tile_loadd(1, p->c + PANEL, ld);
        if (n > 2) _tile_loadd(2, p->c + 2 * PANEL, ld);
        if (n > 3) _tile_loadd(3, p->c + 3 * PANEL, ld);
    }
    for (int group = 0; group < p->n_groups; group++, a += p->a_step, b += AMX_WORDS * p->word_step) {
        for (int i = 0; i < n; i++)
            amx_prefetch(p->ahead, b + (size_t)i * step);
        _tile_loadd(4, a, p->a_row_bytes);
        _tile_loadd(6, b, b_row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (n > 1) {
            _tile_loadd(7, b + step, b_row_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (n > 2) {
            _tile_loadd(6, b + 2 * step, b_row_bytes);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (n > 3) {
            _tile_loadd(7, b + 3 * step, b_row_bytes);
            _tile_dpbf16ps(3, 4, 7);
        }
    }
    _tile_stored(0, p->c, ld);
    if (n > 1) _tile_stored(1, p->c + PANEL, ld);
    if (n > 2) _tile_stored(2, p->c + 2 * PANEL, ld);
    if (n > 3) _tile_stored(3, p->c + 3 * PANEL, ld);
}

/* 17 to 32 rows with one or two panels. */
static void amx_many_rows(const amx_product *p) {
    const size_t ld = p->ld * sizeof *p->c, below = AMX_ROWS * p->a_row_bytes,
                 b_row_bytes = p->word_step * sizeof *p->b;
    const bool two = p->n_panels > 1;
    float *c = p->c, *d = p->c + AMX_ROWS * p->ld;
    const char *a = p->a;
    const uint32_t *b = p->b;
    amx_clear_sums();
    if (p->add) {
        _tile_loadd(0, c, ld);
        _tile_loadd(2, d, ld);
    }
    if (p->add && two) {
        _tile_loadd(1, c + PANEL, ld);
        _tile_loadd(3, d + PANEL, ld);
    }
    for (int group = 0; group < p->n_groups; group++, a += p->a_step, b += AMX_WORDS * p->word_step) {
        _tile_loadd(6, b, b_row_bytes);
        _tile_loadd(4, a, p->a_row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + below, p->a_row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        if (!two) continue;
        _tile_loadd(7, b + p->b_words, b_row_bytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ld);
    _tile_stored(2, d, ld);
    if (!two) return;
    _tile_stored(1, c + PANEL, ld);
    _tile_stored(3, d + PANEL, ld);
}

static void amx_multiply(amx_product p) {
    const int at_once = p.n_rows > AMX_ROWS ? 2 : 4;
    for (int left = p.n_panels; left > 0; left -= at_once) {
        p.n_panels = left < at_once ? left : at_once;
        if (p.n_rows > AMX_ROWS)
            amx_many_rows(&p);
        else
            amx_few_rows(&p);
        p.b += (size_t)at_once * p.b_words;
        p.c += at_once * PANEL;
    }
}

/* ---- products ---- */

/* [group][n_rows][its words]. */
static void amx_pack_input(const void *rows, size_t row_bytes, int n_rows, int n_cols, void *input) {
    const char *from = rows;
    char *to = input;
    for (int col = 0; col < n_cols; col += 2 * AMX_WORDS) {
        int n = n_cols - col < 2 * AMX_WORDS ? n_cols - col : 2 * AMX_WORDS;
        size_t bytes = (size_t)n * sizeof(uint16_t), padded = (bytes + 3) / 4 * 4;
        for (int row = 0; row < n_rows; row++, to += padded) {
            memset(to + padded - 2, 0, 2); /* beside an odd last column */
            memcpy(to, from + (size_t)row * row_bytes + (size_t)col * sizeof(uint16_t), bytes);
        }
    }
}

/* The last words, which are no whole group. */
static void amx_multiply_rest(amx_product p, int n_words) {
    _Alignas(CACHE_LINE) char a[2 * AMX_TILE_BYTES] = {0};
    _Alignas(CACHE_LINE) uint32_t b[AMX_WORDS * PANEL] = {0};
    for (int row = 0; row < p.n_rows; row++)
        memcpy(a + row * AMX_ROW_BYTES, p.a + (size_t)(row * n_words) * 4, (size_t)n_words * 4);
    p.a = a;
    p.add = true;
    p.n_groups = 1;
    for (int left = p.n_panels; left > 0; left--) {
        memcpy(b, p.b, (size_t)n_words * PANEL * sizeof *b);
        amx_product one = p;
        one.b = b;
        one.n_panels = 1;
        amx_multiply(one);
        p.b += p.b_words;
        p.c += PANEL;
    }
}

static void amx_tile(const void *input, int n_rows, const uint32_t *panels, size_t panel_words, int n_panels,
                     int n_words, cpu_ahead *ahead, bool add, float *out, size_t ld) {
    const int n_groups = n_words / AMX_WORDS, rest = n_words % AMX_WORDS;
    const size_t step = (size_t)n_rows * AMX_ROW_BYTES;
    amx_product p = {input,    AMX_ROW_BYTES, step, panels, panel_words, PANEL, n_rows,
                     n_panels, n_groups,      add,  out,    ld,          ahead};
    amx_begin(n_rows);
    amx_multiply(p);
    if (rest) {
        p.a += (size_t)n_groups * step;
        p.b += n_groups * AMX_WORDS * PANEL;
        amx_multiply_rest(p, rest);
    }
    _tile_release();
}

/* ---- attention ---- */

static void amx_weigh(const void *weights, size_t row_bytes, int n_rows, const uint32_t *words,
                      size_t word_step, int n_panels, int n_words, cpu_ahead *ahead, float *values,
                      size_t ld) {
    assert(n_words % AMX_WORDS == 0);
    amx_begin(n_rows);
    amx_multiply((amx_product){weights, row_bytes, AMX_ROW_BYTES, words, PANEL, word_step, n_rows, n_panels,
                               n_words / AMX_WORDS, true, values, ld, ahead});
    _tile_release();
}
