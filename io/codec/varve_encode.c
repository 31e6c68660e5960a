#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/varve_payload.h"
#include "io/codec/varve_private.h"
#include "io/codec/varve_round.h"
#include "kernels/convert.h"

/* The mean square of a token's errors, in that of the step, from which on it is kept with 8 bits: six times
 * what is usual. */
static const float poor_error = 0.5f;

/* Levels of its own cost a chunk 8 bits a component. Where they save that and so many bits of each number,
 * they are worth encoding it twice: of another domain than the tables'. */
static const double least_gain = 0.08;

/* What is being put together. tiles: as they are decoded without the last plane (of two), and with all. */
typedef struct encoder {
    varve_tile tiles[VARVE_PLANES];
    varve_tile *tile, *coarse; /* the last one of them, and the one before; NULL: none */
    const varve_chunk *chunk;
    const kv_token *tokens;
    int n_planes, step_level;
    float step;
    varve_rounding rounding[VARVE_CLASSES];
    text_buffer marks, kept, escapes;
    rans_range *ranges[VARVE_PLANES]; /* [n_ranges] */
    size_t n_ranges;
    float *values, *rest, *found; /* [numbers, TILE] of the tile: wanted; less the prediction; components */
    int16_t *symbols;             /* [numbers, TILE] */
    uint32_t coded;               /* lanes */
    double *squares,
        *n_squares; /* of components in steps [n_layers, numbers], and of how many tokens [n_layers] */
    int8_t *own;    /* [n_layers, numbers]: what is added to the tables' levels; NULL: nothing */
    varve_report reports[VARVE_PLANES];
} encoder;

/* What the chunk adds to the levels of a layer. */
static const int8_t *own_levels(const encoder *e, int layer) {
    return e->own ? e->own + (size_t)layer * (size_t)e->tile->n_numbers : NULL;
}

/* ---- a layer of a tile ---- */

static size_t token_bytes(const encoder *e) {
    return varve_token_bytes(&e->tile->tables->shape, e->chunk->type);
}

/* K or V of a layer of the chunk, of a token. */
static const char *elements_of(const encoder *e, const void *elements, int layer, int part, int token) {
    return (const char *)elements + varve_row(e->chunk, layer, part, token) * token_bytes(e);
}

static void append_sink(encoder *e, const char *elements) {
    const varve_shape *s = &e->tile->tables->shape;
    for (int head = 0; head < s->n_heads; head++) {
        float largest = 0;
        for (int i = 0; i < s->width; i++)
            largest =
                fmaxf(largest, fabsf(float_at(e->chunk->type, elements, (size_t)(head * s->width + i))));
        const float unit = largest / 127;
        text_append(&e->kept, (const char *)&unit, sizeof unit);
        for (int i = 0; i < s->width; i++) {
            const float x = float_at(e->chunk->type, elements, (size_t)(head * s->width + i));
            const int8_t number = unit > 0 ? (int8_t)nearbyintf(x / unit) : 0;
            text_append(&e->kept, (const char *)&number, sizeof number);
        }
    }
}

/* A token that is not coded; its numbers are those of what is kept. */
static void keep_token(encoder *e, const void *elements, int tile, int layer, int lane, bool exactly) {
    const varve_shape *s = &e->tile->tables->shape;
    const uint32_t mark = varve_mark(tile, layer, lane, exactly);
    char *decoded = mem_new(1, token_bytes(e));
    text_append(&e->marks, (const char *)&mark, sizeof mark);
    for (int part = 0; part < N_KV_PARTS; part++) {
        const char *from = elements_of(e, elements, layer, part, tile * VARVE_TILE + lane);
        const size_t begin = e->kept.n;
        if (exactly) {
            text_append(&e->kept, from, token_bytes(e));
        } else {
            append_sink(e, from);
            varve_sink_decode(s, (const uint8_t *)e->kept.data + begin, e->chunk->type, decoded);
        }
        for (int i = 0; i < e->n_planes; i++)
            varve_tile_load(&e->tiles[i], e->chunk->first_layer + layer, (kv_part)part, lane, e->chunk->type,
                            exactly ? from : decoded);
    }
    for (int i = 0; i < e->n_planes; i++)
        *(exactly ? &e->reports[i].n_exact : &e->reports[i].n_sinks) += 1;
    free(decoded);
}

static void read_values(encoder *e, const void *elements, int tile, int layer) {
    for (int part = 0; part < N_KV_PARTS; part++)
        varve_tile_values(e->tile, e->chunk->first_layer + layer, (kv_part)part, e->chunk->type,
                          elements_of(e, elements, layer, part, tile * VARVE_TILE), e->values);
}

/* Symbols of all components; the lanes in which one is too large, and in *poor those whose tokens are unlike
 * all that the tables were made from: too much of them is lost. */
static uint32_t find_symbols(encoder *e, const varve_basis *bases, int n_bases, int layer, int grade,
                             uint32_t *poor) {
    int16_t largest[VARVE_TILE] = {0};
    float errors[VARVE_TILE] = {0}; /* squares, in those of the step */
    uint32_t bad = 0;
    const float unit = varve_grade_step(e->step, grade) * (1 << VARVE_BASIS_BITS);
    for (const varve_basis *b = bases; b < bases + n_bases; b++) {
        const size_t begin = (size_t)b->first * VARVE_TILE;
        e->tile->loops->project(b->pairs, b->n, e->rest + begin, e->found + begin);
        for (int c = 0; c < b->n; c++) {
            const int at = varve_component_class(b, c, own_levels(e, layer), grade, e->step_level);
            const varve_rounding rounding = e->rounding[at];
            const float *found = e->found + begin + (size_t)c * VARVE_TILE;
            int16_t *symbols = e->symbols + begin + (size_t)c * VARVE_TILE;
            for (int lane = 0; lane < VARVE_TILE; lane++)
                symbols[lane] = (int16_t)varve_round(&rounding, found[lane] / unit);
            for (int lane = 0; lane < VARVE_TILE; lane++)
                largest[lane] =
                    abs(symbols[lane]) > largest[lane] ? (int16_t)abs(symbols[lane]) : largest[lane];
            for (int lane = 0; lane < VARVE_TILE; lane++) {
                const float error = found[lane] / unit - symbols[lane];
                errors[lane] += error * error;
            }
        }
    }
    *poor = 0;
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        bad |= (uint32_t)(largest[lane] > VARVE_LARGEST_SYMBOL) << lane;
        *poor |= (uint32_t)(errors[lane] > poor_error * (float)e->tile->n_numbers) << lane;
    }
    return bad;
}

/* The numbers of a symbol in the first plane, or of one that escapes. */
static rans_range append_symbol(encoder *e, const varve_class *c, int symbol, bool *escapes) {
    const int16_t bytes = (int16_t)symbol;
    *escapes = abs(symbol) > c->most;
    if (*escapes) text_append(&e->escapes, (const char *)&bytes, sizeof bytes);
    const uint16_t *start = c->starts + (*escapes ? c->most + 1 : symbol) + c->most;
    return (rans_range){start[0], (uint16_t)(start[1] - start[0])};
}

/* The symbols of a component of the coded lanes go to the streams. To decoders, what escapes looks like a
 * base of one more than `most` until its digit was taken. */
static void append_component(encoder *e, int class, const int16_t *symbols) {
    const varve_tables *t = e->tile->tables;
    const rans_range none = {0, RANS_TOTAL};
    bool escapes = false;
    for (int lane = 0; lane < VARVE_TILE; lane++, e->n_ranges++) {
        const int symbol = symbols[lane], base = varve_base_of(symbol);
        const bool is_coded = e->coded >> lane & 1;
        for (int i = 0; i < e->n_planes; i++)
            e->ranges[i][e->n_ranges] = none;
        if (!is_coded) continue;
        e->ranges[0][e->n_ranges] = e->n_planes == 1 ? append_symbol(e, &t->classes[class], symbol, &escapes)
                                                     : append_symbol(e, &t->coarse[class], base, &escapes);
        if (e->n_planes == 1) continue;
        const int digit = symbol - VARVE_PLANE_RATIO * base;
        const int row = varve_digits_row(escapes ? t->coarse[class].most + 1 : base);
        e->ranges[1][e->n_ranges] =
            varve_digit_range(t->digits[class].starts[row], base < 0 && !escapes ? -digit : digit);
    }
}

/* What is decoded from the symbols of a component, which are 0 in lanes that are not coded. */
static void set_components(encoder *e, int class, int component, const int16_t *symbols) {
    const varve_tables *t = e->tile->tables;
    int8_t shifts[2][3];
    memcpy(shifts[0], t->classes[class].shifts, sizeof shifts[0]);
    memcpy(shifts[1], t->coarse[class].shifts, sizeof shifts[1]);
    int16_t *whole = varve_pair(e->tile->components, component, 0);
    for (int lane = 0; lane < VARVE_TILE; lane++)
        whole[2 * lane] = varve_component(shifts[0], symbols[lane]);
    int16_t *coarse = e->coarse ? varve_pair(e->coarse->components, component, 0) : NULL;
    for (int lane = 0; coarse && lane < VARVE_TILE; lane++)
        coarse[2 * lane] = varve_component(shifts[1], varve_base_of(symbols[lane]));
}

/* The symbols of coded lanes go to the streams; components become what is decoded from them. */
static void append_symbols(encoder *e, const varve_basis *bases, int n_bases, int layer, int grade) {
    int16_t coded[VARVE_TILE];
    for (int lane = 0; lane < VARVE_TILE; lane++)
        coded[lane] = (e->coded >> lane & 1) ? -1 : 0;
    for (const varve_basis *b = bases; b < bases + n_bases; b++)
        for (int c = 0; c < b->n; c++) {
            const int at = varve_component_class(b, c, own_levels(e, layer), grade, e->step_level);
            int16_t *symbols = e->symbols + (size_t)(b->first + c) * VARVE_TILE;
            for (int lane = 0; lane < VARVE_TILE; lane++)
                symbols[lane] &= coded[lane];
            set_components(e, at, b->first + c, symbols);
            if (!e->tile->tables->classes[at].is_silent) append_component(e, at, symbols);
        }
}

static void count_errors(const encoder *e, const varve_tile *tile, varve_report *report) {
    double squares[VARVE_TILE] = {0}, errors[VARVE_TILE] = {0};
    for (int j = 0; j < tile->n_numbers; j++) {
        const float *values = e->values + j * VARVE_TILE;
        const int16_t *numbers = varve_pair(tile->numbers, j, 0);
        for (int lane = 0; lane < VARVE_TILE; lane++) {
            const double x = (double)values[lane], d = numbers[2 * lane] / (double)VARVE_NUMBER_UNIT - x;
            squares[lane] += x * x;
            errors[lane] += d * d;
        }
    }
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        if (!(e->coded >> lane & 1)) continue;
        report->n_numbers += tile->n_numbers;
        report->squares += squares[lane];
        report->errors += errors[lane];
    }
}

/* How large components of coded tokens are. */
static void count_squares(encoder *e, int layer) {
    double *squares = e->squares + (size_t)layer * (size_t)e->tile->n_numbers;
    const float unit = e->step * (1 << VARVE_BASIS_BITS);
    e->n_squares[layer] += __builtin_popcount(e->coded);
    for (int i = 0; i < e->tile->n_numbers; i++) {
        float sum = 0;
        for (int lane = 0; lane < VARVE_TILE; lane++) {
            const float x = (e->coded >> lane & 1) ? e->found[i * VARVE_TILE + lane] / unit : 0;
            sum += x * x;
        }
        squares[i] += (double)sum;
    }
}

static void encode_layer(encoder *e, const void *elements, int tile, int layer, int grade) {
    const int model_layer = e->chunk->first_layer + layer;
    const float norm = e->tile->tables->layers[model_layer].sink_norm;
    const size_t n_channels = token_bytes(e) / dtype_bytes(e->chunk->type);
    uint32_t sinks = 0, all = (uint32_t)((UINT64_C(1) << e->tile->n_tokens) - 1);
    int n_bases = 0;
    const varve_basis *bases = varve_tile_bases(e->tile, model_layer, layer == 0, &n_bases);
    read_values(e, elements, tile, layer);
    varve_tile_predict(e->tile, model_layer, layer == 0);
    for (int i = 0; i < e->tile->n_numbers * VARVE_TILE; i++)
        e->rest[i] = e->values[i] - e->tile->predicted[i] / VARVE_NUMBER_UNIT;
    uint32_t exact = find_symbols(e, bases, n_bases, layer, grade, &sinks) & all;
    for (int lane = 0; lane < e->tile->n_tokens; lane++) {
        const int token = tile * VARVE_TILE + lane;
        if (e->tokens[token].position < VARVE_EXACT_POSITIONS) exact |= 1u << lane;
        const char *v = elements_of(e, elements, layer, KV_PART_V, token);
        if (varve_norm(e->chunk->type, v, n_channels) < (double)norm) sinks |= 1u << lane;
    }
    e->coded = all & ~exact & ~sinks;
    append_symbols(e, bases, n_bases, layer, grade);
    count_squares(e, layer);
    if (e->coarse) varve_tile_predict(e->coarse, model_layer, layer == 0);
    for (int i = 0; i < e->n_planes; i++) {
        varve_tile *decoded = &e->tiles[i];
        const float step = decoded == e->coarse ? VARVE_PLANE_RATIO * e->step : e->step;
        varve_tile_rebuild(decoded, model_layer, layer == 0, varve_grade_step(step, grade));
        count_errors(e, decoded, &e->reports[i]);
    }
    for (int lane = 0; lane < e->tile->n_tokens; lane++)
        if (!(e->coded >> lane & 1)) keep_token(e, elements, tile, layer, lane, exact >> lane & 1);
    for (int i = 0; i < e->n_planes; i++)
        varve_tile_next(&e->tiles[i]);
}

/* ---- a chunk ---- */

static int grade_of(const encoder *e, int tile) {
    int32_t age = INT32_MAX;
    for (int i = tile * VARVE_TILE; i < (tile + 1) * VARVE_TILE && i < e->chunk->n_tokens; i++)
        if (e->tokens[i].age < age) age = e->tokens[i].age;
    return varve_grade(age);
}

static void encode_tile(encoder *e, const void *elements, int tile, int grade) {
    const int left = e->chunk->n_tokens - tile * VARVE_TILE;
    for (int i = 0; i < e->n_planes; i++) {
        varve_tile_begin(&e->tiles[i], left < VARVE_TILE ? left : VARVE_TILE);
        for (int lane = 0; lane < e->tiles[i].n_tokens; lane++)
            e->tiles[i].positions[lane] = e->tokens[tile * VARVE_TILE + lane].position;
    }
    for (int layer = 0; layer < e->chunk->n_layers; layer++) {
        for (int i = 0; i < e->n_planes; i++)
            varve_tile_turn(&e->tiles[i], e->chunk->first_layer + layer);
        encode_layer(e, elements, tile, layer, grade);
    }
}

/* Positions as runs, at least one. */
static void append_runs(const encoder *e, text_buffer *out, uint32_t *n_runs) {
    for (int i = 0; i < e->chunk->n_tokens; i++) {
        const int32_t position = e->tokens[i].position;
        if (i > 0 && position == e->tokens[i - 1].position + 1) continue;
        const varve_run run = {(uint32_t)i, (uint32_t)position};
        text_append(out, (const char *)&run, sizeof run);
        ++*n_runs;
    }
}

static void open_encoder(encoder *e, const varve_tables *t, varve_kind kind, int n_tiles) {
    for (int i = 0; i < e->n_planes; i++)
        varve_tile_open(t, kind, &e->tiles[i]);
    e->tile = &e->tiles[e->n_planes - 1];
    e->coarse = e->n_planes > 1 ? &e->tiles[e->n_planes - 2] : NULL;
    const size_t n = (size_t)e->tile->n_numbers * VARVE_TILE;
    for (int i = 0; i < e->n_planes; i++)
        e->ranges[i] =
            mem_resize(NULL, n * (size_t)n_tiles * (size_t)e->chunk->n_layers, sizeof *e->ranges[i]);
    const size_t n_layers = (size_t)e->chunk->n_layers;
    e->squares = mem_new(n_layers * (size_t)e->tile->n_numbers, sizeof *e->squares);
    e->n_squares = mem_new(n_layers, sizeof *e->n_squares);
    e->values = mem_new(n, sizeof *e->values);
    e->rest = mem_new(n, sizeof *e->rest);
    e->found = mem_new(n, sizeof *e->found);
    e->symbols = mem_new(n, sizeof *e->symbols);
    for (int i = 0; i < VARVE_CLASSES; i++)
        e->rounding[i] =
            e->tile->tables->classes[i].is_silent ? (varve_rounding){INFINITY, 0} : varve_rounding_of(i);
}

static void close_encoder(encoder *e) {
    for (int i = 0; i < e->n_planes; i++) {
        varve_tile_close(&e->tiles[i]);
        free(e->ranges[i]);
    }
    free(e->marks.data);
    free(e->kept.data);
    free(e->escapes.data);
    free(e->squares);
    free(e->n_squares);
    free(e->own);
    free(e->values);
    free(e->rest);
    free(e->found);
    free(e->symbols);
}

/* Empty ones have no data. */
static void append_text(text_buffer *out, const text_buffer *text) {
    if (text->n) text_append(out, text->data, text->n);
}

static void append_stream(const encoder *e, int plane, text_buffer *out) {
    uint8_t *stream = mem_resize(NULL, rans_max_bytes(e->n_ranges), 1);
    text_append(out, (const char *)stream, rans_encode(e->ranges[plane], e->n_ranges, stream));
    free(stream);
}

/* The planes of a chunk, with these levels. */
static void encode_chunk(encoder *e, const void *elements, varve_kind kind, text_buffer *planes) {
    const int n_tiles = (e->chunk->n_tokens - 1) / VARVE_TILE + 1;
    text_buffer runs = {0}, grades = {0};
    varve_head head = {.step = e->step,
                       .step_level = (int16_t)e->step_level,
                       .kind = (uint8_t)((int)kind | (e->own ? VARVE_OWN_LEVELS : 0)),
                       .n_planes = (uint8_t)e->n_planes};
    e->marks.n = e->kept.n = e->escapes.n = e->n_ranges = 0;
    memset(e->reports, 0, sizeof e->reports);
    append_runs(e, &runs, &head.n_runs);
    for (int tile = 0; tile < n_tiles; tile++) {
        const char grade = (char)grade_of(e, tile);
        text_append(&grades, &grade, sizeof grade);
        encode_tile(e, elements, tile, grade);
    }
    text_append(&grades, "\0\0\0", (size_t)(-n_tiles & 3));
    head.n_marks = (uint32_t)(e->marks.n / sizeof(uint32_t));
    head.n_escapes = (uint32_t)(e->escapes.n / sizeof(int16_t));
    for (int i = 0; i < e->n_planes; i++)
        planes[i].n = 0;
    text_append(&planes[0], (const char *)&head, sizeof head);
    append_text(&planes[0], &runs);
    append_text(&planes[0], &grades);
    if (e->own)
        text_append(&planes[0], (const char *)e->own,
                    (size_t)e->chunk->n_layers * (size_t)e->tile->n_numbers);
    append_text(&planes[0], &e->marks);
    append_text(&planes[0], &e->kept);
    append_text(&planes[0], &e->escapes);
    for (int i = 0; i < e->n_planes; i++)
        append_stream(e, i, &planes[i]);
    free(runs.data);
    free(grades.data);
}

/* Levels by the deviations that the components of this chunk have; the bits that symbols will take less,
 * about: of a Laplacian distribution that is coded as one of another deviation. */
static double find_own_levels(encoder *e) {
    const int n = e->tile->n_numbers;
    double gain = 0;
    e->own = mem_new((size_t)e->chunk->n_layers * (size_t)n, sizeof *e->own);
    for (int layer = 0; layer < e->chunk->n_layers; layer++) {
        const double n_tokens = e->n_squares[layer];
        int n_bases = 0;
        const varve_basis *bases =
            varve_tile_bases(e->tile, e->chunk->first_layer + layer, layer == 0, &n_bases);
        for (const varve_basis *b = bases; n_tokens > 0 && b < bases + n_bases; b++)
            for (int c = 0; c < b->n; c++) {
                const size_t at = (size_t)layer * (size_t)n + (size_t)(b->first + c);
                const double octaves = 0.5 * log2(fmax(e->squares[at] / n_tokens, 1e-6));
                const int level = (int)lrint(VARVE_OCTAVE * octaves + e->step_level);
                const int before = varve_class_of(b->levels[c], e->step_level),
                          now = varve_class_of(level, e->step_level);
                const double ratio = exp2((double)(now - before) / VARVE_OCTAVE);
                const int added = now == before ? 0 : now - VARVE_UNIT_CLASS + e->step_level - b->levels[c];
                e->own[at] = (int8_t)(added < INT8_MIN ? INT8_MIN : added > INT8_MAX ? INT8_MAX : added);
                gain += n_tokens * (ratio - 1 - log(ratio)) / log(2);
            }
    }
    return gain;
}

void varve_encode(const varve_tables *t, const varve_coding *how, const varve_chunk *chunk,
                  const kv_token *tokens, const void *elements, text_buffer *planes, varve_report *reports) {
    assert(chunk->n_layers <= VARVE_MOST_LAYERS && how->n_planes <= VARVE_PLANES);
    encoder e = {.chunk = chunk,
                 .tokens = tokens,
                 .n_planes = how->n_planes,
                 .step_level = how->step_level,
                 .step = (float)exp2((double)how->step_level / VARVE_OCTAVE)};
    text_buffer made[VARVE_PLANES] = {{0}};
    open_encoder(&e, t, how->kind, (chunk->n_tokens - 1) / VARVE_TILE + 1);
    encode_chunk(&e, elements, how->kind, made);
    const double n = (double)chunk->n_layers * e.tile->n_numbers;
    if (find_own_levels(&e) > (8 + least_gain * chunk->n_tokens) * n)
        encode_chunk(&e, elements, how->kind, made);
    for (int i = 0; i < e.n_planes; i++) {
        text_append(&planes[i], made[i].data, made[i].n);
        reports[i] = e.reports[i];
        free(made[i].data);
    }
    close_encoder(&e);
}

/* ---- what to expect ---- */

static double entropy_of(const varve_class *c) {
    double bits = 0;
    for (int i = 0; !c->is_silent && i < 2 * c->most + 2; i++) {
        const double share = (double)(c->starts[i + 1] - c->starts[i]) / RANS_TOTAL;
        bits -= share * log2(share);
    }
    return bits;
}

double varve_expected_bits(const varve_tables *t, varve_kind kind, int step_level, int n_layers) {
    double bits[VARVE_CLASSES], all = 0;
    for (int i = 0; i < VARVE_CLASSES; i++)
        bits[i] = entropy_of(&t->classes[i]);
    for (int layer = 0; layer < t->n_layers; layer++) {
        const varve_bases of = varve_bases_of(kind, layer % n_layers == 0);
        const varve_basis *bases = t->layers[layer].bases[of];
        for (int i = 0; i < varve_n_bases(&t->shape, of); i++)
            for (int c = 0; c < bases[i].n; c++)
                all += bits[varve_class_of(bases[i].levels[c], step_level)];
    }
    return all / t->n_layers / varve_n_numbers(&t->shape);
}
