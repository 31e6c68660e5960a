#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/key_turns.h"
#include "io/codec/varve_private.h"
#include "kernels/convert.h"

const float varve_grade_factors[VARVE_GRADES] = {1, 0.5f, 0.25f};
const int varve_grade_classes[VARVE_GRADES] = {0, VARVE_OCTAVE, 2 * VARVE_OCTAVE};

void varve_tile_open(const varve_tables *t, varve_kind kind, varve_tile *out) {
    const size_t n = (size_t)varve_n_numbers(&t->shape), width = (size_t)t->shape.width;
    *out = (varve_tile){.tables = t, .loops = varve_loops_best(), .kind = kind, .n_numbers = (int)n};
    out->turns = mem_new(width * VARVE_TILE, sizeof(float));
    out->before = mem_new(n * VARVE_TILE, sizeof(int16_t));
    out->numbers = mem_new(n * VARVE_TILE, sizeof(int16_t));
    out->components = mem_new(n * VARVE_TILE, sizeof(int16_t));
    out->predicted = mem_new(n * VARVE_TILE, sizeof(float));
    out->sums = mem_new(n * VARVE_TILE, sizeof(int32_t));
    out->list = mem_new(n / 2, sizeof(uint16_t));
    out->row = mem_new(width, sizeof(float));
}

void varve_tile_close(varve_tile *tile) {
    free(tile->turns);
    free(tile->before);
    free(tile->numbers);
    free(tile->components);
    free(tile->predicted);
    free(tile->sums);
    free(tile->list);
    free(tile->row);
}

void varve_tile_begin(varve_tile *tile, int n_tokens) {
    tile->n_tokens = n_tokens;
}

void varve_tile_turn(varve_tile *tile, const float *frequencies, int lane, int64_t position) {
    const int width = tile->tables->shape.width;
    key_turns_of(frequencies, width, position, tile->turns + (size_t)lane * (size_t)width);
}

const varve_basis *varve_tile_bases(const varve_tile *tile, int layer, bool is_first, int *n) {
    const varve_bases kind = tile->kind == VARVE_FAST ? VARVE_PARTS
                             : is_first               ? VARVE_JOINT
                                                      : VARVE_PREDICTED;
    *n = varve_n_bases(&tile->tables->shape, kind);
    return tile->tables->layers[layer].bases[kind];
}

/* The pairs of in[n / 2, TILE, 2] that are not all zero; how many. */
static int list_pairs(const int16_t *in, int n, uint16_t *list) {
    static const int16_t zeros[VARVE_TILE * 2];
    int n_listed = 0;
    for (int i = 0; i < n / 2; i++)
        if (memcmp(in + (size_t)i * VARVE_TILE * 2, zeros, sizeof zeros) != 0) list[n_listed++] = (uint16_t)i;
    return n_listed;
}

void varve_tile_predict(varve_tile *tile, int layer, bool is_first) {
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(tile, layer, is_first, &n_bases);
    memset(tile->predicted, 0, (size_t)tile->n_numbers * VARVE_TILE * sizeof *tile->predicted);
    for (const varve_basis *b = bases; b < bases + n_bases && b->shares; b++) {
        const size_t begin = (size_t)b->first * VARVE_TILE;
        const int n_listed = list_pairs(tile->before + begin, b->n, tile->list);
        tile->loops->sum_pairs(b->shares, b->n, tile->before + begin, tile->list, n_listed, tile->sums);
        for (size_t i = 0; i < (size_t)b->n * VARVE_TILE; i++)
            tile->predicted[begin + i] = (float)tile->sums[i] * b->predicted[i / VARVE_TILE];
    }
}

static int16_t round_number(float x) {
    return (int16_t)nearbyintf(fminf(fmaxf(x, -32767), 32767)); /* of NaN: the least */
}

void varve_tile_rebuild(varve_tile *tile, int layer, bool is_first, float step) {
    const float scale = step * ((float)VARVE_NUMBER_UNIT / VARVE_SYMBOL_UNIT / (1 << VARVE_BASIS_BITS));
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(tile, layer, is_first, &n_bases);
    for (const varve_basis *b = bases; b < bases + n_bases; b++) {
        const int16_t *in = tile->components + (size_t)b->first * VARVE_TILE;
        const int n_listed = list_pairs(in, b->n, tile->list);
        tile->loops->sum_pairs(b->pairs, b->n, in, tile->list, n_listed,
                               tile->sums + (size_t)b->first * VARVE_TILE);
    }
    for (int j = 0; j < tile->n_numbers; j++)
        for (int t = 0; t < VARVE_TILE; t++) {
            const size_t i = (size_t)j * VARVE_TILE + (size_t)t;
            *varve_pair(tile->numbers, j, t) =
                round_number((float)tile->sums[i] * scale + tile->predicted[i]);
        }
}

void varve_tile_next(varve_tile *tile) {
    int16_t *numbers = tile->numbers;
    tile->numbers = tile->before;
    tile->before = numbers;
}

/* ---- elements ---- */

void varve_set_element(dtype type, void *elements, size_t i, float x) {
    if (type == DTYPE_F32)
        ((float *)elements)[i] = x;
    else
        ((uint16_t *)elements)[i] = bf16_of_float(x);
}

void varve_tile_store(const varve_tile *tile, int layer, kv_part part, int lane, dtype type, void *elements) {
    const varve_layer *l = &tile->tables->layers[layer];
    const varve_shape *s = &tile->tables->shape;
    const float unit = l->units[part] / VARVE_NUMBER_UNIT;
    for (int head = 0; head < s->n_heads; head++) {
        const int first = varve_number(s, part, head);
        for (int i = 0; i < s->width; i++)
            tile->row[i] = l->means[first + i] + (float)*varve_pair(tile->numbers, first + i, lane) * unit;
        if (part == KV_PART_K) key_turn(tile->turns + (size_t)lane * (size_t)s->width, s->width, tile->row);
        for (int i = 0; i < s->width; i++)
            varve_set_element(type, elements, (size_t)(head * s->width + i), tile->row[i]);
    }
}

void varve_tile_values(const varve_tile *tile, int layer, kv_part part, int lane, dtype type,
                       const void *elements, float *values) {
    const varve_layer *l = &tile->tables->layers[layer];
    const varve_shape *s = &tile->tables->shape;
    for (int head = 0; head < s->n_heads; head++) {
        const int first = varve_number(s, part, head);
        for (int i = 0; i < s->width; i++)
            tile->row[i] = float_at(type, elements, (size_t)(head * s->width + i));
        if (part == KV_PART_K)
            key_turn_back(tile->turns + (size_t)lane * (size_t)s->width, s->width, tile->row);
        for (int i = 0; i < s->width; i++)
            values[first + i] = (tile->row[i] - l->means[first + i]) / l->units[part];
    }
}

void varve_tile_load(varve_tile *tile, int layer, kv_part part, int lane, dtype type, const void *elements) {
    const varve_shape *s = &tile->tables->shape;
    float *values = mem_new((size_t)tile->n_numbers, sizeof *values);
    varve_tile_values(tile, layer, part, lane, type, elements, values);
    for (int head = 0; head < s->n_heads; head++) {
        const int first = varve_number(s, part, head);
        for (int i = first; i < first + s->width; i++)
            *varve_pair(tile->numbers, i, lane) = round_number(values[i] * VARVE_NUMBER_UNIT);
    }
    free(values);
}

void varve_sink_decode(const varve_shape *s, const uint8_t *bytes, dtype type, void *elements) {
    for (int head = 0; head < s->n_heads; head++) {
        float unit;
        memcpy(&unit, bytes, sizeof unit);
        bytes += sizeof unit;
        for (int i = 0; i < s->width; i++)
            varve_set_element(type, elements, (size_t)(head * s->width + i), unit * (float)(int8_t)*bytes++);
    }
}
