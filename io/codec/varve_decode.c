#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/varve_private.h"

typedef struct decoder {
    varve_tile tile;
    const varve_chunk *chunk;
    varve_head head;
    float step; /* of what is decoded */
    byte_reader runs, grades, own, marks, kept, escapes;
    int n_planes; /* that are decoded */
    rans_decoder streams[VARVE_PLANES];
    uint32_t mark, next_mark; /* the next mark, and how many were taken before it */
    int64_t *positions;       /* [n_tokens] */
    /* Of a basis's components [numbers]: what the first plane's symbols are of, what refines them, and what
     * becomes of both. */
    const varve_class **first, **classes;
    const varve_digits **refined_by;
    int8_t *symbols, *digits, *whole; /* [numbers, TILE] */
    char *elements;
} decoder;

/* ---- the payload's parts ---- */

static bool split(byte_reader *from, size_t n, byte_reader *out) {
    if (from->n < n) return false;
    *out = (byte_reader){from->at, n, false};
    from->at += n;
    from->n -= n;
    return true;
}

static size_t token_bytes(const decoder *d) {
    return varve_token_bytes(&d->tile.tables->shape, d->chunk->type);
}

/* How many bytes the marked tokens take. */
static size_t count_kept(const decoder *d) {
    size_t n = 0;
    for (uint32_t i = 0; i < d->head.n_marks; i++) {
        uint32_t mark;
        memcpy(&mark, d->marks.at + (size_t)i * sizeof mark, sizeof mark);
        n += mark & 1 ? N_KV_PARTS * token_bytes(d) : varve_sink_bytes(&d->tile.tables->shape);
    }
    return n;
}

static bool read_positions(decoder *d) {
    varve_run run, next = {0, 0};
    for (uint32_t i = 0; i < d->head.n_runs; i++) {
        run = next;
        byte_reader_take(&d->runs, &next, sizeof next);
        if (i == 0 ? next.first != 0 : next.first <= run.first) return false;
        if (next.first >= (uint32_t)d->chunk->n_tokens) return false;
        for (uint32_t t = next.first; t < (uint32_t)d->chunk->n_tokens; t++)
            d->positions[t] = (int64_t)next.position + (t - next.first);
    }
    return true;
}

static void next_mark(decoder *d) {
    d->mark = UINT32_MAX;
    if (d->next_mark < d->head.n_marks) byte_reader_take(&d->marks, &d->mark, sizeof d->mark);
    d->next_mark++;
}

static bool begin(decoder *d, const varve_plane *planes) {
    byte_reader r = {planes[0].bytes, planes[0].n_bytes, false};
    const size_t n_tiles = ((size_t)d->chunk->n_tokens - 1) / VARVE_TILE + 1;
    byte_reader_take(&r, &d->head, sizeof d->head);
    const size_t n_own =
        d->head.kind & VARVE_OWN_LEVELS ? (size_t)d->chunk->n_layers * (size_t)d->tile.n_numbers : 0;
    d->head.kind &= VARVE_OWN_LEVELS - 1;
    if (r.is_short || d->head.n_planes < d->n_planes || d->head.n_planes > VARVE_PLANES ||
        d->head.kind >= N_VARVE_KINDS || !(d->head.step > 0) || !isfinite(d->head.step) ||
        abs(d->head.step_level) > 1000 || d->head.n_runs < 1 || d->head.n_runs > (uint32_t)d->chunk->n_tokens)
        return false;
    return split(&r, d->head.n_runs * sizeof(varve_run), &d->runs) && read_positions(d) &&
           split(&r, (n_tiles + 3) / 4 * 4, &d->grades) && split(&r, n_own, &d->own) &&
           split(&r, (size_t)d->head.n_marks * sizeof(uint32_t), &d->marks) &&
           split(&r, count_kept(d), &d->kept) &&
           split(&r, (size_t)d->head.n_escapes * sizeof(int16_t), &d->escapes) &&
           rans_decoder_begin(&d->streams[0], (const uint8_t *)r.at, r.n) &&
           (d->n_planes == 1 || rans_decoder_begin(&d->streams[1], planes[1].bytes, planes[1].n_bytes));
}

/* ---- a layer of a tile ---- */

/* Of a component of a pair, what its symbols do not say. */
static void take_escapes(decoder *d, int component, int16_t *pair) {
    const int8_t *symbols = d->symbols + component * VARVE_TILE, *digits = d->digits + component * VARVE_TILE;
    const int8_t escape = (int8_t)(d->first[component]->most + 1);
    if (!memchr(symbols, escape, VARVE_TILE)) return;
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        int16_t symbol;
        if (symbols[lane] != escape) continue;
        byte_reader_take(&d->escapes, &symbol, sizeof symbol);
        int whole = d->n_planes == 1 ? symbol : VARVE_PLANE_RATIO * symbol + digits[lane];
        if (abs(whole) > VARVE_LARGEST_SYMBOL) whole = 0;
        pair[2 * lane] = varve_component(d->classes[component]->shifts, whole);
    }
}

/* The classes of a basis's components. */
static void find_classes(decoder *d, const varve_basis *b, int layer, int grade) {
    const varve_tables *t = d->tile.tables;
    const int8_t *own =
        d->own.n ? (const int8_t *)d->own.at + (size_t)layer * (size_t)d->tile.n_numbers : NULL;
    for (int c = 0; c < b->n; c++) {
        const int at = varve_component_class(b, c, own, grade, d->head.step_level);
        d->first[c] = d->head.n_planes == 1 ? &t->classes[at] : &t->coarse[at];
        d->classes[c] = d->n_planes == 1 ? d->first[c] : &t->classes[at];
        d->refined_by[c] = t->classes[at].is_silent ? NULL : &t->digits[at];
    }
}

static void take_symbols(decoder *d, const varve_basis *bases, int n_bases, int layer, int grade,
                         uint32_t coded) {
    const varve_loops *loops = d->tile.loops;
    for (const varve_basis *b = bases; b < bases + n_bases; b++) {
        int16_t *components = d->tile.components + (size_t)b->first * VARVE_TILE;
        const int8_t *whole = d->symbols;
        find_classes(d, b, layer, grade);
        loops->take(&d->streams[0], d->first, b->n, coded, d->symbols);
        if (d->n_planes > 1) {
            loops->refine(&d->streams[1], d->refined_by, b->n, coded, d->symbols, d->digits);
            for (int i = 0; i < b->n * VARVE_TILE; i++)
                d->whole[i] = (int8_t)(VARVE_PLANE_RATIO * d->symbols[i] + d->digits[i]);
            whole = d->whole;
        }
        loops->dequantise(d->classes, b->n, whole, components);
        for (int c = 0; c < b->n; c++)
            if (!d->first[c]->is_silent) take_escapes(d, c, varve_pair(components, c, 0));
    }
}

static char *elements_of(const decoder *d, int layer, int part, int token) {
    return d->elements + varve_row(d->chunk, layer, part, token) * token_bytes(d);
}

/* The token of the next mark. */
static void take_kept(decoder *d, int tile, int layer) {
    const int lane = (int)(d->mark >> 1 & 31);
    const size_t n = token_bytes(d), sink_bytes = varve_sink_bytes(&d->tile.tables->shape) / N_KV_PARTS;
    uint8_t *sink = mem_new(1, sink_bytes);
    for (int part = 0; part < N_KV_PARTS; part++) {
        char *to = elements_of(d, layer, part, tile * VARVE_TILE + lane);
        if (d->mark & 1) {
            byte_reader_take(&d->kept, to, n);
        } else {
            byte_reader_take(&d->kept, sink, sink_bytes);
            varve_sink_decode(&d->tile.tables->shape, sink, d->chunk->type, to);
        }
        varve_tile_load(&d->tile, d->chunk->first_layer + layer, (kv_part)part, lane, d->chunk->type, to);
    }
    free(sink);
}

static bool decode_layer(decoder *d, int tile, int layer, int grade) {
    const int model_layer = d->chunk->first_layer + layer;
    uint32_t coded = (uint32_t)((UINT64_C(1) << d->tile.n_tokens) - 1);
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(&d->tile, model_layer, layer == 0, &n_bases);
    decoder marked = *d; /* to look ahead */
    for (uint32_t last = 0; marked.mark >> 6 == varve_mark(tile, layer, 0, false) >> 6; next_mark(&marked)) {
        if (marked.mark < last || !(coded >> (marked.mark >> 1 & 31) & 1)) return false;
        last = marked.mark;
        coded &= ~(1u << (marked.mark >> 1 & 31));
    }
    take_symbols(d, bases, n_bases, layer, grade, coded);
    varve_tile_predict(&d->tile, model_layer, layer == 0);
    varve_tile_rebuild(&d->tile, model_layer, layer == 0, d->step * varve_grade_factors[grade]);
    for (int part = 0; part < N_KV_PARTS; part++)
        varve_tile_store(&d->tile, model_layer, (kv_part)part, d->chunk->type,
                         elements_of(d, layer, part, tile * VARVE_TILE));
    for (; d->mark >> 6 == varve_mark(tile, layer, 0, false) >> 6; next_mark(d))
        take_kept(d, tile, layer);
    varve_tile_next(&d->tile);
    return true;
}

static bool decode_tile(decoder *d, int tile) {
    uint8_t grade;
    const int left = d->chunk->n_tokens - tile * VARVE_TILE;
    byte_reader_take(&d->grades, &grade, sizeof grade);
    if (grade >= VARVE_GRADES) return false;
    varve_tile_begin(&d->tile, left < VARVE_TILE ? left : VARVE_TILE);
    memcpy(d->tile.positions, d->positions + tile * VARVE_TILE,
           (size_t)d->tile.n_tokens * sizeof *d->positions);
    for (int layer = 0; layer < d->chunk->n_layers; layer++) {
        varve_tile_turn(&d->tile, d->chunk->first_layer + layer);
        if (!decode_layer(d, tile, layer, grade)) return false;
    }
    return true;
}

/* All of the streams was used, and all else. */
static bool is_over(const decoder *d) {
    bool over = d->next_mark == d->head.n_marks + 1 && d->escapes.n == 0 && !d->escapes.is_short;
    for (int i = 0; i < d->n_planes; i++)
        over = over && rans_is_over(&d->streams[i]);
    return over;
}

status varve_decode(const varve_tables *t, const varve_plane *planes, int n_planes, const varve_chunk *chunk,
                    void *elements) {
    decoder d = {.chunk = chunk, .elements = elements, .n_planes = n_planes};
    varve_tile_open(t, VARVE_FAST, &d.tile);
    const size_t n = (size_t)d.tile.n_numbers;
    d.positions = mem_new((size_t)chunk->n_tokens, sizeof *d.positions);
    d.first = mem_new(n, sizeof *d.first);
    d.classes = mem_new(n, sizeof *d.classes);
    d.refined_by = mem_new(n, sizeof *d.refined_by);
    d.symbols = mem_new(n, VARVE_TILE);
    d.digits = mem_new(n, VARVE_TILE);
    d.whole = mem_new(n, VARVE_TILE);
    bool good = begin(&d, planes);
    d.tile.kind = (varve_kind)d.head.kind;
    d.step = d.head.n_planes > n_planes ? VARVE_PLANE_RATIO * d.head.step : d.head.step;
    next_mark(&d);
    for (int tile = 0; good && tile * VARVE_TILE < chunk->n_tokens; tile++)
        good = decode_tile(&d, tile);
    good = good && is_over(&d);
    varve_tile_close(&d.tile);
    free(d.positions);
    free(d.first);
    free(d.classes);
    free(d.refined_by);
    free(d.symbols);
    free(d.digits);
    free(d.whole);
    return good ? STATUS_OK : status_refuse("a chunk of kvarve that is damaged");
}
