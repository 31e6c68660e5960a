#include "io/codec/cachegen.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/convert.h"

const float cachegen_factors[CACHEGEN_LEVELS] = {0.5f, 1, 1.5f, 2};

enum { ANCHORS = CACHEGEN_LEVELS }; /* the kind behind those of the levels */

float cachegen_bin(int layer, int n_layers) {
    static const float bins[] = {0.5f, 1, 1.5f};
    return bins[3 * layer / n_layers];
}

/* How the elements of a token are coded. */
typedef struct coding {
    const cachegen_table *tables; /* [n_channels] */
    const float *anchor_units; /* [n_channels]; NULL: the token is no anchor, and its numbers are of `size` */
    float size;
} coding;

static float size_of(const coding *how, size_t channel) {
    return how->anchor_units ? how->anchor_units[channel] : how->size;
}

static coding coding_of(const cachegen_tables *t, int level, int64_t token) {
    const bool is_anchor = token % CACHEGEN_GROUP == 0;
    const size_t kind = is_anchor ? ANCHORS : (size_t)level - 1, n = (size_t)t->n_channels;
    assert(level >= 1 && level <= CACHEGEN_LEVELS);
    return (coding){t->tables + kind * n, is_anchor ? t->anchor_units : NULL,
                    t->unit * t->bin * cachegen_factors[level - 1]};
}

static rans_range range_of(const cachegen_table *table, int symbol) {
    const uint16_t *start = table->starts + symbol;
    return (rans_range){start[0], (uint16_t)(start[1] - start[0])};
}

/* ---- encode ---- */

/* The symbol of a number that is to be coded. */
static int find_symbol(const cachegen_table *table, float number) {
    const int escape = table->n - 1;
    const float at = nearbyintf(number) - table->first;
    return at >= 0 && at < (float)escape ? (int)at : escape; /* a NaN escapes */
}

size_t cachegen_max_bytes(const kv_chunk_shape *shape) {
    size_t n = (size_t)shape->n_tokens * (size_t)shape->n_kv_heads * (size_t)shape->head_dim;
    return sizeof(uint32_t) + n * sizeof(uint16_t) + rans_max_bytes(n);
}

/* A payload: the number of escapes, their elements as bf16 in the order of the chunk, and the symbols. */
size_t cachegen_encode(const cachegen_tables *t, int level, const kv_chunk_shape *shape, const void *elements,
                       uint8_t *payload) {
    const size_t n_channels = (size_t)t->n_channels, n = (size_t)shape->n_tokens * n_channels;
    rans_range *symbols = mem_new(n, sizeof *symbols);
    float *anchors = mem_new(n_channels, sizeof *anchors);
    uint32_t n_escapes = 0;
    uint8_t *escapes = payload + sizeof n_escapes;
    for (int32_t token = 0; token < shape->n_tokens; token++) {
        const coding how = coding_of(t, level, token);
        const bool is_anchor = token % CACHEGEN_GROUP == 0;
        for (size_t c = 0; c < n_channels; c++) {
            const size_t i = (size_t)token * n_channels + c;
            const cachegen_table *table = &how.tables[c];
            const float x = float_at(shape->type, elements, i), size = size_of(&how, c);
            const int symbol = find_symbol(table, (is_anchor ? x : x - anchors[c]) / size);
            symbols[i] = range_of(table, symbol);
            float coded = (float)(table->first + symbol) * size;
            if (symbol == table->n - 1) {
                const uint16_t exact = bf16_of_float(x);
                memcpy(escapes + sizeof exact * n_escapes++, &exact, sizeof exact);
                coded = float_of_bf16(exact);
            }
            if (is_anchor) anchors[c] = isfinite(coded) ? coded : 0;
        }
    }
    memcpy(payload, &n_escapes, sizeof n_escapes);
    uint8_t *stream = escapes + sizeof(uint16_t) * n_escapes;
    size_t n_bytes = (size_t)(stream - payload) + rans_encode(symbols, n, stream);
    free(symbols);
    free(anchors);
    return n_bytes;
}

/* ---- decode ---- */

/* The last symbol that begins at or before this number. */
static int symbol_at(const cachegen_table *table, uint32_t number) {
    int low = 0, high = table->n;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (table->starts[middle] <= number)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The elements that come behind each other in front of the symbols. */
typedef struct escape_list {
    const uint8_t *bytes;
    uint32_t n, n_taken; /* more may be taken than there are: zeros */
} escape_list;

static float take_escape(escape_list *list) {
    uint16_t exact = 0;
    if (list->n_taken < list->n) memcpy(&exact, list->bytes + sizeof exact * list->n_taken, sizeof exact);
    list->n_taken++;
    return float_of_bf16(exact);
}

/* The numbers of a token's elements, one for each channel. anchors: NULL for those of an anchor. */
static void decode_token(const coding *how, size_t first, size_t n_channels, rans_decoder *d,
                         escape_list *escapes, const float *anchors, float *out) {
    for (size_t c = 0; c < n_channels; c++) {
        const cachegen_table *table = &how->tables[c];
        const size_t lane = (first + c) % RANS_LANES;
        const int symbol = symbol_at(table, rans_peek(d, lane));
        rans_advance(d, lane, range_of(table, symbol));
        const float coded = (float)(table->first + symbol) * size_of(how, c);
        out[c] = anchors ? anchors[c] + coded : coded;
        if (symbol == table->n - 1) out[c] = take_escape(escapes);
    }
}

status cachegen_decode(const cachegen_tables *t, int level, const uint8_t *payload, size_t n_bytes,
                       const kv_chunk_shape *shape, void *elements) {
    const size_t n_channels = (size_t)t->n_channels;
    escape_list escapes = {.bytes = payload + sizeof escapes.n};
    if (n_bytes >= sizeof escapes.n) memcpy(&escapes.n, payload, sizeof escapes.n);
    if (n_bytes < sizeof escapes.n || (n_bytes - sizeof escapes.n) / sizeof(uint16_t) < escapes.n)
        return status_refuse("a cachegen payload of %zu bytes with %u escapes", n_bytes, escapes.n);
    const uint8_t *stream = escapes.bytes + sizeof(uint16_t) * escapes.n;
    rans_decoder d;
    if (!rans_decoder_begin(&d, stream, n_bytes - (size_t)(stream - payload)))
        return status_refuse("a cachegen payload of %zu bytes, too short for its symbols", n_bytes);
    float *row = mem_new(2 * n_channels, sizeof *row), *anchors = row + n_channels;
    for (int32_t token = 0; token < shape->n_tokens; token++) {
        const coding how = coding_of(t, level, token);
        const bool is_anchor = token % CACHEGEN_GROUP == 0;
        const size_t first = (size_t)token * n_channels;
        decode_token(&how, first, n_channels, &d, &escapes, is_anchor ? NULL : anchors, row);
        for (size_t c = 0; c < n_channels; c++)
            put_float_at(shape->type, elements, first + c, row[c]);
        for (size_t c = 0; is_anchor && c < n_channels; c++)
            anchors[c] = isfinite(row[c]) ? row[c] : 0;
    }
    free(row);
    if (escapes.n_taken == escapes.n && rans_is_over(&d)) return STATUS_OK;
    return status_refuse("a cachegen payload that does not end with its last symbol");
}
