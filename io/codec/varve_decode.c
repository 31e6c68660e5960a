#include <stdlib.h>
#include <string.h>

#include "io/codec/varve_payload.h"
#include "io/codec/varve_private.h"

typedef struct decoder {
    varve_tile tile;
    const varve_chunk *chunk;
    varve_payload payload;
    int n_planes; /* that are decoded */
    rans_decoder streams[VARVE_PLANES];
    /* Of a basis's components [numbers]: what the first plane's symbols are of, what refines them, and what
     * becomes of both. */
    const varve_class **first, **classes;
    const varve_digits **refined_by;
    int8_t *symbols, *digits, *whole; /* [numbers, TILE] */
    const kv_output *out;
    char *rows; /* [N_KV_PARTS, heads, TILE, width]: a layer's of a tile */
    char *kept; /* [N_KV_PARTS]: a token's */
} decoder;

/* ---- a layer of a tile ---- */

/* Of a component of a pair, what its symbols do not say. */
static void take_escapes(decoder *d, int component, int16_t *pair) {
    const int8_t *symbols = d->symbols + component * VARVE_TILE, *digits = d->digits + component * VARVE_TILE;
    const int8_t escape = (int8_t)(d->first[component]->most + 1);
    if (!memchr(symbols, escape, VARVE_TILE)) return;
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        int16_t symbol;
        if (symbols[lane] != escape) continue;
        byte_reader_take(&d->payload.escapes, &symbol, sizeof symbol);
        int whole = d->n_planes == 1 ? symbol : VARVE_PLANE_RATIO * symbol + digits[lane];
        if (abs(whole) > VARVE_LARGEST_SYMBOL) whole = 0;
        pair[2 * lane] = varve_component(d->classes[component]->shifts, whole);
    }
}

/* The classes of a basis's components. */
static void find_classes(decoder *d, const varve_basis *b, int layer, int grade) {
    const varve_tables *t = d->tile.tables;
    const int8_t *own = d->payload.own.n
                            ? (const int8_t *)d->payload.own.at + (size_t)layer * (size_t)d->tile.n_numbers
                            : NULL;
    for (int c = 0; c < b->n; c++) {
        const int at = varve_component_class(b, c, own, grade, d->payload.head.step_level);
        d->first[c] = d->payload.head.n_planes == 1 ? &t->classes[at] : &t->coarse[at];
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

/* A tile's of a head, from its first token on. */
static char *rows_of(const decoder *d, int part, int head) {
    const varve_shape *s = &d->tile.tables->shape;
    return d->rows +
           (size_t)(part * s->n_heads + head) * VARVE_TILE * (size_t)s->width * dtype_bytes(d->chunk->type);
}

/* The token of the next mark. */
static void take_kept(decoder *d, int layer) {
    const varve_shape *s = &d->tile.tables->shape;
    const size_t n = varve_token_bytes(s, d->chunk->type), row_bytes = n / (size_t)s->n_heads;
    const int lane = varve_payload_take_kept(&d->payload, s, d->chunk->type, d->kept);
    for (int part = 0; part < N_KV_PARTS; part++) {
        const char *kept = d->kept + (size_t)part * n;
        for (int head = 0; head < s->n_heads; head++)
            memcpy(rows_of(d, part, head) + (size_t)lane * row_bytes, kept + (size_t)head * row_bytes,
                   row_bytes);
        varve_tile_load(&d->tile, d->chunk->first_layer + layer, (kv_part)part, lane, d->chunk->type, kept);
    }
}

static void put_rows(const decoder *d, int tile, int model_layer) {
    for (int part = 0; part < N_KV_PARTS; part++)
        for (int head = 0; head < d->tile.tables->shape.n_heads; head++)
            d->out->put(
                d->out->to,
                &(kv_rows){model_layer, (kv_part)part, head, tile * VARVE_TILE, (int32_t)d->tile.n_tokens},
                rows_of(d, part, head));
}

static bool decode_layer(decoder *d, int tile, int layer, int grade) {
    const int model_layer = d->chunk->first_layer + layer;
    uint32_t coded, copies = 0;
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(&d->tile, model_layer, layer == 0, &n_bases);
    if (!varve_payload_coded(&d->payload, tile, layer, d->tile.n_tokens, &coded)) return false;
    if (layer == 0 && !varve_payload_copies(&d->payload, tile, grade, coded, &copies)) return false;
    take_symbols(d, bases, n_bases, layer, grade, coded & ~copies);
    if (layer == 0 && d->tile.firsts) varve_tile_copy(&d->tile, tile, &d->payload.copies, copies);
    varve_tile_predict(&d->tile, model_layer, layer == 0);
    varve_tile_rebuild(&d->tile, model_layer, layer == 0, varve_grade_step(d->payload.step, grade));
    for (int part = 0; part < N_KV_PARTS; part++)
        varve_tile_store(&d->tile, model_layer, (kv_part)part, d->chunk->type, rows_of(d, part, 0));
    while (varve_payload_is_at(&d->payload, tile, layer))
        take_kept(d, layer);
    put_rows(d, tile, model_layer);
    varve_tile_next(&d->tile);
    return true;
}

static bool decode_tile(decoder *d, int tile) {
    int grade;
    const int left = d->chunk->n_tokens - tile * VARVE_TILE;
    if (!varve_payload_grade(&d->payload, &grade)) return false;
    varve_tile_begin(&d->tile, left < VARVE_TILE ? left : VARVE_TILE);
    memcpy(d->tile.positions, d->payload.positions + tile * VARVE_TILE,
           (size_t)d->tile.n_tokens * sizeof *d->payload.positions);
    for (int layer = 0; layer < d->chunk->n_layers; layer++) {
        varve_tile_turn(&d->tile, d->chunk->first_layer + layer);
        if (!decode_layer(d, tile, layer, grade)) return false;
    }
    return true;
}

/* All of the streams was used, and all else. */
static bool is_over(const decoder *d) {
    const byte_reader *escapes = &d->payload.escapes;
    bool over = varve_payload_is_over(&d->payload) && escapes->n == 0 && !escapes->is_short;
    for (int i = 0; i < d->n_planes; i++)
        over = over && rans_is_over(&d->streams[i]);
    return over;
}

status varve_decode_rows(const varve_tables *t, const varve_plane *planes, int n_planes,
                         const varve_chunk *chunk, const kv_output *out) {
    decoder d = {.chunk = chunk, .out = out, .n_planes = n_planes};
    bool good = varve_payload_open(&t->shape, planes, n_planes, chunk, &d.payload);
    varve_tile_open(t, (varve_kind)d.payload.head.kind, d.payload.copies.n_tokens, &d.tile);
    const size_t n = (size_t)d.tile.n_numbers;
    d.first = mem_new(n, sizeof *d.first);
    d.classes = mem_new(n, sizeof *d.classes);
    d.refined_by = mem_new(n, sizeof *d.refined_by);
    d.symbols = mem_new(n, VARVE_TILE);
    d.digits = mem_new(n, VARVE_TILE);
    d.whole = mem_new(n, VARVE_TILE);
    d.rows = mem_new(N_KV_PARTS * VARVE_TILE, varve_token_bytes(&t->shape, chunk->type));
    d.kept = mem_new(N_KV_PARTS, varve_token_bytes(&t->shape, chunk->type));
    for (int i = 0; good && i < n_planes; i++)
        rans_decoder_begin(&d.streams[i], (const uint8_t *)d.payload.streams[i].at, d.payload.streams[i].n);
    for (int tile = 0; good && tile * VARVE_TILE < chunk->n_tokens; tile++)
        good = decode_tile(&d, tile);
    good = good && is_over(&d);
    varve_tile_close(&d.tile);
    varve_payload_close(&d.payload);
    free(d.first);
    free(d.classes);
    free(d.refined_by);
    free(d.symbols);
    free(d.digits);
    free(d.whole);
    free(d.rows);
    free(d.kept);
    return good ? STATUS_OK : status_refuse("a chunk of kvarve that is damaged");
}

/* ---- to elements ---- */

typedef struct dense {
    const varve_chunk *chunk;
    size_t row_bytes, n_heads;
    char *elements;
} dense;

static void put_dense(void *to, const kv_rows *which, const void *rows) {
    const dense *d = to;
    const size_t row = varve_row(d->chunk, which->layer - d->chunk->first_layer, which->part, which->token);
    char *out = d->elements + (row * d->n_heads + (size_t)which->head) * d->row_bytes;
    for (size_t i = 0; i < (size_t)which->n_tokens; i++)
        memcpy(out + i * d->n_heads * d->row_bytes, (const char *)rows + i * d->row_bytes, d->row_bytes);
}

status varve_decode(const varve_tables *t, const varve_plane *planes, int n_planes, const varve_chunk *chunk,
                    void *elements) {
    const size_t n_heads = (size_t)t->shape.n_heads;
    dense to = {chunk, varve_token_bytes(&t->shape, chunk->type) / n_heads, n_heads, elements};
    return varve_decode_rows(t, planes, n_planes, chunk, &(kv_output){&to, put_dense});
}
