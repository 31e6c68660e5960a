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
    const uint32_t *b; /* n_panels, b_words apart */
    size_t b_words;
    int n_rows, n_panels, n_groups;
    bool add; /* to what C has */
    float *c; /* [n_rows][n_panels * PANEL], ld floats apart */
    size_t ld;
} amx_product;

/* Words that will be wanted soon: a tile's load has few lines under way by itself. */
INNER void amx_prefetch(const uint32_t *b) {
    for (int word = 0; word < AMX_WORDS; word++)
        _mm_prefetch((const char *)(b + AMX_AHEAD_WORDS + word * PANEL), _MM_HINT_T0);
}

/* Up to 16 rows with up to 4 panels. */
static void amx_few_rows(const amx_product *p) {
    const size_t ld = p->ld * sizeof *p->c, step = p->b_words;
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
    for (int group = 0; group < p->n_groups; group++, a += p->a_step, b += AMX_WORDS * PANEL) {
        for (int i = 0; i < n; i++)
            amx_prefetch(b + (size_t)i * step);
        _tile_loadd(4, a, p->a_row_bytes);
        _tile_loadd(6, b, AMX_ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        if (n > 1) {
            _tile_loadd(7, b + step, AMX_ROW_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (n > 2) {
            _tile_loadd(6, b + 2 * step, AMX_ROW_BYTES);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (n > 3) {
            _tile_loadd(7, b + 3 * step, AMX_ROW_BYTES);
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
    const size_t ld = p->ld * sizeof *p->c, below = AMX_ROWS * p->a_row_bytes;
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
    for (int group = 0; group < p->n_groups; group++, a += p->a_step, b += AMX_WORDS * PANEL) {
        _tile_loadd(6, b, AMX_ROW_BYTES);
        _tile_loadd(4, a, p->a_row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + below, p->a_row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        if (!two) continue;
        _tile_loadd(7, b + p->b_words, AMX_ROW_BYTES);
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
                     int n_words, bool add, float *out, size_t ld) {
    const int n_groups = n_words / AMX_WORDS, rest = n_words % AMX_WORDS;
    const size_t step = (size_t)n_rows * AMX_ROW_BYTES;
    amx_product p = {input,    AMX_ROW_BYTES, step, panels, panel_words, n_rows,
                     n_panels, n_groups,      add,  out,    ld};
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

static void amx_weigh(const void *weights, size_t row_bytes, int n_rows, const uint32_t *panels,
                      size_t panel_words, int n_panels, int n_words, float *values, size_t ld) {
    assert(n_words % AMX_WORDS == 0);
    amx_begin(n_rows);
    amx_multiply((amx_product){weights, row_bytes, AMX_ROW_BYTES, panels, panel_words, n_rows, n_panels,
                               n_words / AMX_WORDS, true, values, ld});
    _tile_release();
}

/* Queries as a panel, so that keys can be the rows: [n_words rounded up to groups][16 queries]. */
static void amx_queries_as_panel(const char *input, int n_rows, int query, int n_queries, int n_words,
                                 uint32_t *panel) {
    for (int word = 0; word < n_words; word += AMX_WORDS) {
        _Alignas(CACHE_LINE) char rows[AMX_TILE_BYTES] = {0};
        size_t bytes = (size_t)(n_words - word < AMX_WORDS ? n_words - word : AMX_WORDS) * 4;
        for (int i = 0; i < n_queries; i++)
            memcpy(rows + i * AMX_ROW_BYTES,
                   input + (size_t)(word * n_rows) * 4 + (size_t)(query + i) * bytes, bytes);
        lanes_transpose(rows, AMX_ROW_BYTES, panel + word * PANEL);
    }
}

/* sums [16 positions][16 queries] */
static void amx_score_panel(const char *keys, size_t row_bytes, int n_words, const uint32_t *queries,
                            float *sums) {
    const int rest = n_words % AMX_WORDS;
    amx_settle();
    _tile_zero(0);
    for (int word = 0; word + AMX_WORDS <= n_words; word += AMX_WORDS) {
        _tile_loadd(4, keys + word * 4, row_bytes);
        _tile_loadd(6, queries + word * PANEL, AMX_ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
    }
    if (rest) {
        _Alignas(CACHE_LINE) char padded[AMX_TILE_BYTES] = {0};
        for (int i = 0; i < PANEL; i++)
            memcpy(padded + i * AMX_ROW_BYTES, keys + (size_t)i * row_bytes + (n_words - rest) * 4,
                   (size_t)rest * 4);
        amx_settle();
        _tile_loadd(4, padded, AMX_ROW_BYTES);
        _tile_loadd(6, queries + (n_words - rest) * PANEL, AMX_ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
    }
    _tile_stored(0, sums, AMX_ROW_BYTES);
}

static void amx_score_rows(const void *input, int n_rows, const void *keys, size_t row_bytes, int n,
                           int n_words, uint32_t *packed, float *scores, size_t ld) {
    _Alignas(CACHE_LINE) float sums[AMX_AT_ONCE][AMX_ROWS * PANEL];
    _Alignas(CACHE_LINE) uint32_t turned[AMX_ROWS * PANEL];
    amx_begin(AMX_ROWS);
    for (int query = 0; query < n_rows; query += AMX_ROWS, scores += AMX_ROWS * ld) {
        int n_queries = n_rows - query < AMX_ROWS ? n_rows - query : AMX_ROWS;
        const char *from = keys;
        amx_queries_as_panel(input, n_rows, query, n_queries, n_words, packed);
        for (int pos = 0, some; pos < n; pos += some * PANEL) {
            some = (n - pos) / PANEL < AMX_AT_ONCE ? (n - pos) / PANEL : AMX_AT_ONCE;
            for (int i = 0; i < some; i++, from += PANEL * row_bytes)
                amx_score_panel(from, row_bytes, n_words, packed, sums[i]);
            for (int i = 0; i < some; i++) {
                lanes_transpose((const char *)sums[i], AMX_ROW_BYTES, turned);
                for (int j = 0; j < n_queries; j++)
                    memcpy(scores + (size_t)j * ld + pos + i * PANEL, turned + j * PANEL,
                           PANEL * sizeof *scores);
            }
        }
    }
    _tile_release();
}

/* The values of groups of positions, packed for up to 4 panels of dimensions: panels[4][n words]. */
INNER void amx_pack_groups(const char *v, size_t row_bytes, int n_words, int n_panels, uint32_t *panels) {
    for (int word = 0; word < n_words; word++, v += 2 * row_bytes, panels += PANEL)
        for (int p = 0; p < n_panels; p++)
            lanes_pair((const void *)(v + (size_t)p * PANEL * 2),
                       (const void *)(v + row_bytes + (size_t)p * PANEL * 2),
                       panels + p * AMX_AT_ONCE * AMX_WORDS * PANEL);
}

static void amx_weigh_rows(const void *weights, size_t row_bytes, int n_rows, const void *v,
                           size_t v_row_bytes, int n, int n_dims, float *values, size_t ld) {
    _Alignas(CACHE_LINE) uint32_t panels[4 * AMX_AT_ONCE * AMX_WORDS * PANEL];
    assert(n % (2 * AMX_WORDS) == 0);
    amx_begin(n_rows);
    for (int dim = 0; dim < n_dims; dim += 4 * PANEL)
        for (int pos = 0, some; pos < n; pos += 2 * some * AMX_WORDS) {
            int n_panels = (n_dims - dim) / PANEL < 4 ? (n_dims - dim) / PANEL : 4;
            some = (n - pos) / (2 * AMX_WORDS) < AMX_AT_ONCE ? (n - pos) / (2 * AMX_WORDS) : AMX_AT_ONCE;
            amx_pack_groups((const char *)v + (size_t)pos * v_row_bytes + (size_t)dim * 2, v_row_bytes,
                            some * AMX_WORDS, n_panels, panels);
            amx_multiply((amx_product){(const char *)weights + pos * 2, row_bytes, AMX_ROW_BYTES, panels,
                                       AMX_AT_ONCE * AMX_WORDS * PANEL, n_rows, n_panels, some, true,
                                       values + dim, ld});
        }
    _tile_release();
}
