#include "io/codec/varve_tables.h"

#include <math.h>
#include <stdlib.h>

int varve_number(const varve_shape *s, kv_part part, int head) {
    const int in_block = varve_block_heads(s), first = head / in_block * in_block;
    const int n = s->n_heads - first < in_block ? s->n_heads - first : in_block;
    return ((int)N_KV_PARTS * first + (int)part * n + head - first) * s->width;
}

int varve_n_bases(const varve_shape *s, varve_bases kind) {
    return varve_n_blocks(s) * (kind == VARVE_PARTS ? N_KV_PARTS : 1);
}

void varve_locate_basis(const varve_shape *s, varve_bases kind, int i, int *first, int *n) {
    const int block = kind == VARVE_PARTS ? i / N_KV_PARTS : i, head = block * varve_block_heads(s);
    const int left = s->n_heads - head, heads = left < varve_block_heads(s) ? left : varve_block_heads(s);
    *first = varve_number(s, KV_PART_K, head);
    *n = heads * s->width * N_KV_PARTS;
    if (kind != VARVE_PARTS) return;
    *n /= N_KV_PARTS;
    *first += i % N_KV_PARTS * *n;
}

/* ---- bytes ---- */

void varve_append_basis(const float *rows, const int16_t *levels, int n, text_buffer *out) {
    text_append(out, (const char *)levels, (size_t)n * sizeof *levels);
    for (size_t i = 0; i < (size_t)n * (size_t)n; i++) {
        const int16_t number = (int16_t)lrintf(rows[i] * (float)(1 << VARVE_BASIS_BITS));
        text_append(out, (const char *)&number, sizeof number);
    }
}

static bool take_floats(byte_reader *r, float *out, int n, bool positive) {
    bool good = true;
    byte_reader_take(r, out, (size_t)n * sizeof *out);
    for (int i = 0; i < n; i++)
        good &= isfinite(out[i]) && (!positive || out[i] > 0);
    return good;
}

/* A matrix [n, n], row by row, of numbers of item_bytes, as pairs of rows, or of columns, in the order of
 * varve_basis. */
static bool read_pairs(byte_reader *r, size_t n, size_t item_bytes, bool of_rows, int16_t **out) {
    if (r->n / n / n < item_bytes) return false;
    *out = mem_new(n * n, sizeof **out);
    for (size_t row = 0; row < n; row++)
        for (size_t column = 0; column < n; column++) {
            int16_t number = 0;
            int8_t small = 0;
            const size_t of = of_rows ? row : column, at = of_rows ? column : row;
            if (item_bytes == sizeof small)
                byte_reader_take(r, &small, sizeof small);
            else
                byte_reader_take(r, &number, sizeof number);
            (*out)[(at / 2 * n + of / 2 * 2 + at % 2) * 2 + of % 2] =
                item_bytes == sizeof small ? small : number;
        }
    return true;
}

static bool read_basis(byte_reader *r, bool is_predicted, varve_basis *b) {
    const size_t n = (size_t)b->n;
    bool good = r->n / n >= sizeof(float);
    if (good && is_predicted) {
        b->predicted = mem_new(n, sizeof *b->predicted);
        good =
            take_floats(r, b->predicted, b->n, false) && read_pairs(r, n, sizeof(int8_t), false, &b->shares);
    }
    if (!good) return false;
    b->levels = mem_new(n, sizeof *b->levels);
    byte_reader_take(r, b->levels, n * sizeof *b->levels);
    for (size_t c = 0; c < n; c++)
        good &= b->levels[c] > -1000 && b->levels[c] < 1000;
    return good && read_pairs(r, n, sizeof(int16_t), true, &b->pairs) && !r->is_short;
}

static bool read_bases(byte_reader *r, const varve_shape *s, varve_bases kind, varve_layer *l) {
    const int n = varve_n_bases(s, kind);
    bool good = true;
    l->bases[kind] = mem_new((size_t)n, sizeof *l->bases[kind]);
    for (int i = 0; good && i < n; i++) {
        varve_basis *b = &l->bases[kind][i];
        varve_locate_basis(s, kind, i, &b->first, &b->n);
        good = read_basis(r, kind == VARVE_PREDICTED, b);
    }
    return good;
}

status varve_read_layer(byte_reader *r, const varve_shape *s, bool is_first, varve_layer *l) {
    const int n = varve_n_numbers(s);
    *l = (varve_layer){.means = NULL};
    if (s->width % 2 || r->n / sizeof(float) < (size_t)n)
        return status_refuse("tables of kvarve for %d heads of %d in %zu bytes", s->n_heads, s->width, r->n);
    l->means = mem_new((size_t)n, sizeof *l->means);
    l->frequencies = mem_new((size_t)s->width / 2, sizeof *l->frequencies);
    bool good = take_floats(r, l->units, N_KV_PARTS, true) && take_floats(r, &l->sink_norm, 1, false) &&
                take_floats(r, l->means, n, false) && take_floats(r, l->frequencies, s->width / 2, false) &&
                read_bases(r, s, VARVE_PARTS, l) && read_bases(r, s, VARVE_JOINT, l);
    if (good && !is_first) good = read_bases(r, s, VARVE_PREDICTED, l);
    return good && !r->is_short ? STATUS_OK : status_refuse("tables of kvarve that are cut off or damaged");
}

bool varve_fill_class(varve_class *c, int most, const uint16_t *sizes) {
    uint32_t start = 0;
    c->most = most;
    for (int i = 0; i < 2 * most + 2; i++) {
        if (sizes[i] == 0 || sizes[i] + start > RANS_TOTAL) return false;
        const int symbol = i - most; /* that of an escape is one more than `most` */
        for (uint32_t at = start; at < start + sizes[i]; at++)
            c->slots[at] = rans_slot(symbol, (rans_range){(uint16_t)start, sizes[i]});
        c->starts[i] = (uint16_t)start;
        start += sizes[i];
    }
    c->starts[2 * most + 2] = (uint16_t)start;
    return start == RANS_TOTAL;
}

static bool read_class(byte_reader *r, varve_class *c) {
    uint8_t most;
    uint16_t sizes[2 * VARVE_MOST_SYMBOL + 2];
    byte_reader_take(r, &most, sizeof most);
    byte_reader_take(r, c->shifts, sizeof c->shifts);
    if (most > VARVE_MOST_SYMBOL) return false;
    c->is_silent = most == 0;
    if (c->is_silent) return true;
    byte_reader_take(r, sizes, (size_t)(2 * most + 2) * sizeof *sizes);
    return varve_fill_class(c, most, sizes);
}

status varve_read_classes(byte_reader *r, varve_class **out) {
    bool good = true;
    *out = mem_new(VARVE_CLASSES, sizeof **out);
    for (int i = 0; good && i < VARVE_CLASSES; i++)
        good = read_class(r, &(*out)[i]);
    return good && !r->is_short ? STATUS_OK : status_refuse("symbols of kvarve that do not add up");
}

static void free_layer(const varve_shape *s, varve_layer *l) {
    for (int kind = 0; kind < N_VARVE_BASES; kind++) {
        for (int i = 0; l->bases[kind] && i < varve_n_bases(s, (varve_bases)kind); i++) {
            free(l->bases[kind][i].pairs);
            free(l->bases[kind][i].levels);
            free(l->bases[kind][i].shares);
            free(l->bases[kind][i].predicted);
        }
        free(l->bases[kind]);
    }
    free(l->means);
    free(l->frequencies);
}

void varve_tables_free(varve_tables *t) {
    for (int i = 0; t->layers && i < t->n_layers; i++)
        free_layer(&t->shape, &t->layers[i]);
    free(t->layers);
    free(t->classes);
    free(t->coarse);
    free(t->digits);
    *t = (varve_tables){.n_layers = 0};
}
