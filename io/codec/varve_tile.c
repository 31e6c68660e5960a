#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/key_turns.h"
#include "io/codec/varve_private.h"
#include "kernels/convert.h"

void varve_tile_open(const varve_tables *t, varve_kind kind, int n_copied, varve_tile *out) {
    const size_t n = (size_t)varve_n_numbers(&t->shape), width = (size_t)t->shape.width;
    *out = (varve_tile){.tables = t, .loops = varve_loops_best(), .kind = kind, .n_numbers = (int)n};
    out->turns = mem_new(width * VARVE_TILE, sizeof(float));
    out->room = mem_new(width * VARVE_TILE, sizeof(float));
    out->before = mem_new(n * VARVE_TILE, sizeof(int16_t));
    out->numbers = mem_new(n * VARVE_TILE, sizeof(int16_t));
    out->components = mem_new(n * VARVE_TILE, sizeof(int16_t));
    const size_t n_tiles = ((size_t)n_copied + VARVE_TILE - 1) / VARVE_TILE;
    if (n_tiles) out->firsts = mem_new(n_tiles * n * VARVE_TILE, sizeof(int16_t));
    out->predicted = mem_new(n * VARVE_TILE, sizeof(float));
    out->sums = mem_new((size_t)VARVE_BLOCK * VARVE_TILE, sizeof(int32_t));
    out->list = mem_new(n / 2, sizeof(uint16_t));
    out->row = mem_new(2 * width, sizeof(float));
}

void varve_tile_close(varve_tile *tile) {
    free(tile->turns);
    free(tile->before);
    free(tile->numbers);
    free(tile->components);
    free(tile->firsts);
    free(tile->predicted);
    free(tile->sums);
    free(tile->list);
    free(tile->row);
    free(tile->room);
}

void varve_tile_begin(varve_tile *tile, int n_tokens) {
    tile->n_tokens = n_tokens;
    tile->turned = NULL;
}

void varve_tile_turn(varve_tile *tile, int layer) {
    const int width = tile->tables->shape.width;
    const float *frequencies = tile->tables->layers[layer].frequencies;
    if (tile->turned && memcmp(frequencies, tile->turned, (size_t)width / 2 * sizeof *frequencies) == 0)
        return;
    tile->turned = frequencies;
    tile->loops->turns(frequencies, width, tile->positions, tile->turns);
}

const varve_basis *varve_tile_bases(const varve_tile *tile, int layer, bool is_first, int *n) {
    const varve_bases kind = varve_bases_of(tile->kind, is_first);
    *n = varve_n_bases(&tile->tables->shape, kind);
    return tile->tables->layers[layer].bases[kind];
}

/* The pairs of in[n / 2, TILE, 2] that are not all zero; how many. */
static int list_pairs(const int16_t *in, int n, uint16_t *list) {
    int n_listed = 0;
    for (int i = 0; i < n / 2; i++) {
        uint64_t words[VARVE_TILE / 2], any = 0;
        memcpy(words, in + (size_t)i * VARVE_TILE * 2, sizeof words);
        for (int k = 0; k < VARVE_TILE / 2; k++)
            any |= words[k];
        list[n_listed] = (uint16_t)i;
        n_listed += any != 0;
    }
    return n_listed;
}

void varve_tile_predict(varve_tile *tile, int layer, bool is_first) {
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(tile, layer, is_first, &n_bases);
    memset(tile->predicted, 0, (size_t)tile->n_numbers * VARVE_TILE * sizeof *tile->predicted);
    for (const varve_basis *b = bases; b < bases + n_bases && b->shares; b++) {
        const int16_t *in = tile->before + (size_t)b->first * VARVE_TILE;
        const int n_listed = list_pairs(in, b->n, tile->list);
        for (int j = 0; j < b->n; j += VARVE_BLOCK) {
            const int n = b->n - j < VARVE_BLOCK ? b->n - j : VARVE_BLOCK;
            float *predicted = tile->predicted + (size_t)(b->first + j) * VARVE_TILE;
            tile->loops->sum_pairs(b->shares + (size_t)j * (size_t)b->n, n, b->n / 2, in, tile->list,
                                   n_listed, tile->sums);
            for (int i = 0; i < n; i++) {
                const float unit = b->predicted[j + i];
                for (int t = 0; t < VARVE_TILE; t++)
                    predicted[i * VARVE_TILE + t] = (float)tile->sums[i * VARVE_TILE + t] * unit;
            }
        }
    }
}

void varve_tile_rebuild(varve_tile *tile, int layer, bool is_first, float step) {
    const float scale = varve_sum_unit(step);
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(tile, layer, is_first, &n_bases);
    for (const varve_basis *b = bases; b < bases + n_bases; b++) {
        const int16_t *in = tile->components + (size_t)b->first * VARVE_TILE;
        const int n_listed = b->pairs ? list_pairs(in, b->n, tile->list) : 0;
        for (int j = 0; j < b->n; j += VARVE_BLOCK) {
            const int n = b->n - j < VARVE_BLOCK ? b->n - j : VARVE_BLOCK;
            const size_t begin = (size_t)(b->first + j) * VARVE_TILE;
            if (b->pairs)
                tile->loops->sum_pairs(b->pairs + (size_t)j * (size_t)b->n, n, b->n / 2, in, tile->list,
                                       n_listed, tile->sums);
            else
                varve_sum_same(in, j, n, tile->sums);
            tile->loops->round_sums(tile->sums, scale, tile->predicted + begin, n, tile->numbers + begin);
        }
    }
}

/* Row by row of all pairs, as those of the tile's tokens are neighbours. */
void varve_tile_copy(varve_tile *tile, int i, const varve_copies *c, uint32_t copies) {
    const size_t n = (size_t)tile->n_numbers * VARVE_TILE;
    const int16_t *from[VARVE_TILE];
    int lanes[VARVE_TILE], n_lanes = 0;
    memcpy(tile->firsts + (size_t)i * n, tile->components, n * sizeof *tile->components);
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        if (!(copies >> lane & 1)) continue;
        const int source = c->sources[i * VARVE_TILE + lane];
        from[n_lanes] = varve_pair(tile->firsts + (size_t)(source / VARVE_TILE) * n, 0, source % VARVE_TILE);
        lanes[n_lanes++] = lane;
    }
    for (size_t row = 0; row < n; row += (size_t)2 * VARVE_TILE)
        for (int k = 0; k < n_lanes; k++)
            memcpy(varve_pair(tile->components + row, 0, lanes[k]), from[k] + row, 2 * sizeof **from);
}

void varve_tile_next(varve_tile *tile) {
    int16_t *numbers = tile->numbers;
    tile->numbers = tile->before;
    tile->before = numbers;
}

/* What varve_basis has for two numbers and two components, for those components and those numbers. */
static void transpose(const varve_basis *b, int16_t *out) {
    const size_t n_pairs = (size_t)b->n / 2;
    for (size_t c = 0; c < n_pairs; c++)
        for (size_t j = 0; j < n_pairs; j++) {
            const int16_t *from = b->pairs + (j * n_pairs + c) * 4;
            const int16_t square[4] = {from[0], from[2], from[1], from[3]};
            memcpy(out + (c * n_pairs + j) * 4, square, sizeof square);
        }
}

int16_t *varve_transpose(const varve_basis *bases, int n_bases) {
    size_t n = 0;
    for (const varve_basis *b = bases; b < bases + n_bases; b++)
        n += b->pairs ? (size_t)b->n * (size_t)b->n : 0;
    int16_t *columns = mem_resize(NULL, n, sizeof *columns), *at = columns;
    for (const varve_basis *b = bases; b < bases + n_bases; b++) {
        if (!b->pairs) continue;
        transpose(b, at);
        at += b->n * b->n;
    }
    return columns;
}

/* ---- elements ---- */

double varve_norm(dtype type, const void *elements, size_t n) {
    enum { LANES = 16 }; /* sums side by side */
    double sums[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++) {
            const double x = (double)float_at(type, elements, i + k);
            sums[k] += x * x;
        }
    for (; i < n; i++)
        sum += (double)float_at(type, elements, i) * (double)float_at(type, elements, i);
    for (int k = 0; k < LANES; k++)
        sum += sums[k];
    return sqrt(sum);
}

static varve_rows rows_of(const varve_tile *tile, int layer, kv_part part, int head, dtype type) {
    const varve_layer *l = &tile->tables->layers[layer];
    const varve_shape *s = &tile->tables->shape;
    return (varve_rows){.width = s->width,
                        .n_tokens = tile->n_tokens,
                        .means = l->means + varve_number(s, part, head),
                        .unit = l->units[part],
                        .turns = part == KV_PART_K ? tile->turns : NULL,
                        .type = type,
                        .stride = (size_t)(s->n_heads * s->width) * dtype_bytes(type),
                        .room = tile->room};
}

void varve_tile_store(const varve_tile *tile, int layer, kv_part part, dtype type, void *elements) {
    const varve_shape *s = &tile->tables->shape;
    for (int head = 0; head < s->n_heads; head++) {
        varve_rows rows = rows_of(tile, layer, part, head, type);
        rows.unit /= VARVE_NUMBER_UNIT;
        rows.stride = (size_t)s->width * dtype_bytes(type);
        tile->loops->store(&rows, tile->numbers + varve_number(s, part, head) * VARVE_TILE,
                           (char *)elements + (size_t)(head * VARVE_TILE) * rows.stride);
    }
}

void varve_tile_values(const varve_tile *tile, int layer, kv_part part, dtype type, const void *elements,
                       float *values) {
    const varve_shape *s = &tile->tables->shape;
    for (int head = 0; head < s->n_heads; head++) {
        const varve_rows rows = rows_of(tile, layer, part, head, type);
        tile->loops->load(&rows, (const char *)elements + (size_t)(head * s->width) * dtype_bytes(type),
                          values + varve_number(s, part, head) * VARVE_TILE);
    }
}

void varve_tile_load(varve_tile *tile, int layer, kv_part part, int lane, dtype type, const void *elements) {
    const varve_layer *l = &tile->tables->layers[layer];
    const varve_shape *s = &tile->tables->shape;
    float *row = tile->row, *turns = tile->row + s->width;
    for (int i = 0; i < s->width; i++)
        turns[i] = tile->turns[i * VARVE_TILE + lane];
    for (int head = 0; head < s->n_heads; head++) {
        const int first = varve_number(s, part, head);
        for (int i = 0; i < s->width; i++)
            row[i] = float_at(type, elements, (size_t)(head * s->width + i));
        if (part == KV_PART_K) key_turn_back(turns, s->width, row);
        for (int i = 0; i < s->width; i++)
            *varve_pair(tile->numbers, first + i, lane) =
                varve_round_number((row[i] - l->means[first + i]) / l->units[part] * VARVE_NUMBER_UNIT);
    }
}

void varve_sink_decode(const varve_shape *s, const uint8_t *bytes, dtype type, void *elements) {
    for (int head = 0; head < s->n_heads; head++) {
        float unit;
        memcpy(&unit, bytes, sizeof unit);
        bytes += sizeof unit;
        for (int i = 0; i < s->width; i++)
            put_float_at(type, elements, (size_t)(head * s->width + i), unit * (float)(int8_t)*bytes++);
    }
}
