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
    char *elements;
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

static char *elements_of(const decoder *d, int layer, int part, int token) {
    return d->elements + varve_row(d->chunk, layer, part, token) *
                             varve_token_bytes(&d->tile.tables->shape, d->chunk->type);
}

/* The token of the next mark. */
static void take_kept(decoder *d, int tile, int layer) {
    const size_t n = varve_token_bytes(&d->tile.tables->shape, d->chunk->type);
    const int lane = varve_payload_take_kept(&d->payload, &d->tile.tables->shape, d->chunk->type, d->kept);
    for (int part = 0; part < N_KV_PARTS; part++) {
        const char *kept = d->kept + (size_t)part * n;
        memcpy(elements_of(d, layer, part, tile * VARVE_TILE + lane), kept, n);
        varve_tile_load(&d->tile, d->chunk->first_layer + layer, (kv_part)part, lane, d->chunk->type, kept);
    }
}

static bool decode_layer(decoder *d, int tile, int layer, int grade) {
    const int model_layer = d->chunk->first_layer + layer;
    uint32_t coded;
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(&d->tile, model_layer, layer == 0, &n_bases);
    if (!varve_payload_coded(&d->payload, tile, layer, d->tile.n_tokens, &coded)) return false;
    take_symbols(d, bases, n_bases, layer, grade, coded);
    varve_tile_predict(&d->tile, model_layer, layer == 0);
    varve_tile_rebuild(&d->tile, model_layer, layer == 0, varve_grade_step(d->payload.step, grade));
    for (int part = 0; part < N_KV_PARTS; part++)
        varve_tile_store(&d->tile, model_layer, (kv_part)part, d->chunk->type,
                         elements_of(d, layer, part, tile * VARVE_TILE));
    while (varve_payload_is_at(&d->payload, tile, layer))
        take_kept(d, tile, layer);
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

status varve_decode(const varve_tables *t, const varve_plane *planes, int n_planes, const varve_chunk *chunk,
                    void *elements) {
    decoder d = {.chunk = chunk, .elements = elements, .n_planes = n_planes};
    bool good = varve_payload_open(&t->shape, planes, n_planes, chunk, &d.payload);
    varve_tile_open(t, (varve_kind)d.payload.head.kind, &d.tile);
    const size_t n = (size_t)d.tile.n_numbers;
    d.first = mem_new(n, sizeof *d.first);
    d.classes = mem_new(n, sizeof *d.classes);
    d.refined_by = mem_new(n, sizeof *d.refined_by);
    d.symbols = mem_new(n, VARVE_TILE);
    d.digits = mem_new(n, VARVE_TILE);
    d.whole = mem_new(n, VARVE_TILE);
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
    free(d.kept);
    return good ? STATUS_OK : status_refuse("a chunk of kvarve that is damaged");
}
