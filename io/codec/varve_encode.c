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

/* What a copy may have of the errors that a token would have by itself. */
static const float most_copied = 1.25f;

/* What is being put together. tiles: as they are decoded without the last plane (of two), and with all. */
typedef struct encoder {
    varve_tile tiles[VARVE_PLANES];
    varve_tile *tile, *coarse; /* the last one of them, and the one before; NULL: none */
    const varve_chunk *chunk;
    const kv_token *tokens;
    int n_planes, step_level;
    float step;
    varve_rounding rounding[VARVE_CLASSES];
    text_buffer list, marks, kept, escapes; /* list: of copies */
    rans_range *ranges[VARVE_PLANES];       /* [n_ranges] */
    size_t n_ranges;
    int16_t **columns;   /* [n_layers]: the bases of each, by components (transpose), one behind the other */
    uint16_t *all_pairs; /* [numbers / 2]: 0, 1, ... */
    float *values;       /* [numbers, TILE] of the tile: wanted; */
    int16_t *rest;       /* [numbers / 2, TILE, 2]: less the prediction (scale of varve_loops); */
    float *steps;        /* [numbers, TILE]: components in steps of the tile's grade, and */
    uint8_t *classes;    /* [numbers] of them */
    int16_t *symbols, *bases; /* [numbers, TILE], and of two planes the first */
    uint32_t coded, copied;   /* lanes; those that are copied are coded, too, but have no symbols */
    varve_copies copies;      /* of the model's first layer, where that is the chunk's; else zeroed */
    double *norms;            /* [n_tokens] of V in the chunk's first layer */
    double saved;             /* bits, by copies */
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
    const varve_tile *tile = e->tile;
    const float step = varve_grade_step(e->step, grade) * (1 << VARVE_BASIS_BITS);
    int16_t largest[VARVE_TILE] = {0};
    float errors[VARVE_TILE] = {0}; /* squares, in those of the step */
    const int16_t *columns = e->columns[layer];
    for (const varve_basis *b = bases; b < bases + n_bases; columns += b->pairs ? b->n * b->n : 0, b++) {
        float units[VARVE_TILE];
        tile->loops->scale(e->values + b->first * VARVE_TILE, tile->predicted + b->first * VARVE_TILE, b->n,
                           e->rest, units);
        for (int lane = 0; lane < VARVE_TILE; lane++)
            units[lane] /= step;
        for (int c = 0; c < b->n; c += VARVE_BLOCK) {
            const int n = b->n - c < VARVE_BLOCK ? b->n - c : VARVE_BLOCK, first = b->first + c;
            for (int i = 0; i < n; i++)
                e->classes[first + i] =
                    (uint8_t)varve_component_class(b, c + i, own_levels(e, layer), grade, e->step_level);
            if (b->pairs)
                tile->loops->sum_pairs(columns + c * b->n, n, b->n / 2, e->rest, e->all_pairs, b->n / 2,
                                       tile->sums);
            else
                varve_sum_same(e->rest, c, n, tile->sums);
            tile->loops->quantise(tile->sums, n, units, e->classes + first, e->rounding,
                                  e->steps + first * VARVE_TILE, e->symbols + first * VARVE_TILE, largest,
                                  errors);
        }
    }
    uint32_t bad = 0;
    *poor = 0;
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        bad |= (uint32_t)(largest[lane] > VARVE_LARGEST_SYMBOL) << lane;
        *poor |= (uint32_t)(errors[lane] > poor_error * (float)tile->n_numbers) << lane;
    }
    return bad;
}

/* The ranges of a component's symbols [TILE], or of its bases, in the first plane; what escapes is appended
 * itself. */
static void append_symbols(encoder *e, const varve_class *c, const int16_t *symbols) {
    const uint16_t *starts = c->starts + c->most;
    const int16_t most = (int16_t)c->most, least = (int16_t)-most, escape = (int16_t)(most + 1);
    rans_range *out = e->ranges[0] + e->n_ranges;
    int16_t shown[VARVE_TILE], any = 0;
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        const int16_t escapes = -((symbols[lane] > most) | (symbols[lane] < least));
        shown[lane] = (int16_t)((symbols[lane] & ~escapes) | (escape & escapes));
        any |= escapes;
    }
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        uint32_t both; /* where it begins, and above that where the next one does */
        memcpy(&both, starts + shown[lane], sizeof both);
        both -= both << 16;
        memcpy(&out[lane], &both, sizeof both);
    }
    for (int lane = 0; any && lane < VARVE_TILE; lane++)
        if (shown[lane] == escape) text_append(&e->escapes, (const char *)&symbols[lane], sizeof *symbols);
}

/* The ranges of the digits that refine a component's bases. To decoders, what escapes looks like a base of
 * one more than `most` until its digit was taken. */
static void append_digits(encoder *e, int class, const int16_t *symbols, const int16_t *bases) {
    const varve_digits *digits = &e->tile->tables->digits[class];
    const int most = e->tile->tables->coarse[class].most;
    rans_range *out = e->ranges[1] + e->n_ranges;
    rans_range ranges[VARVE_DIGIT_ROWS][VARVE_PLANE_RATIO];
    for (int row = 0; row < VARVE_DIGIT_ROWS; row++)
        for (int i = 0; i < VARVE_PLANE_RATIO; i++)
            ranges[row][i] = varve_digit_range(digits->starts[row], i - 1);
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        const int base = bases[lane], digit = symbols[lane] - VARVE_PLANE_RATIO * base;
        const bool is_turned = base < 0 && base >= -most;
        out[lane] = ranges[varve_digits_row(base)][1 + (is_turned ? -digit : digit)];
    }
}

/* The symbols of these lanes go to the streams; others have none, and become 0. */
static void append_layer(encoder *e, uint32_t lanes) {
    const varve_tables *t = e->tile->tables;
    const rans_range none = {0, RANS_TOTAL};
    int16_t coded[VARVE_TILE];
    for (int lane = 0; lane < VARVE_TILE; lane++)
        coded[lane] = (lanes >> lane & 1) ? -1 : 0;
    for (int i = 0; i < e->tile->n_numbers; i++) {
        const int class = e->classes[i];
        int16_t *symbols = e->symbols + i * VARVE_TILE, *bases = e->bases + i * VARVE_TILE;
        for (int lane = 0; lane < VARVE_TILE; lane++)
            symbols[lane] &= coded[lane];
        for (int lane = 0; e->coarse && lane < VARVE_TILE; lane++)
            bases[lane] = (int16_t)varve_base_of(symbols[lane]);
        if (t->classes[class].is_silent) continue;
        append_symbols(e, e->coarse ? &t->coarse[class] : &t->classes[class], e->coarse ? bases : symbols);
        if (e->coarse) append_digits(e, class, symbols, bases);
        for (int lane = 0; lanes != UINT32_MAX && lane < VARVE_TILE; lane++)
            for (int plane = 0; plane < e->n_planes && !coded[lane]; plane++)
                e->ranges[plane][e->n_ranges + (size_t)lane] = none;
        e->n_ranges += VARVE_TILE;
    }
}

/* What `unit` has of these squares, and errors, of coded tokens. */
static void add_errors(const encoder *e, const float *squares, const float *errors, double unit,
                       varve_report *report) {
    for (int lane = 0; lane < VARVE_TILE; lane++) {
        if (!(e->coded >> lane & 1)) continue;
        report->n_numbers += e->tile->n_numbers;
        report->squares += unit * (double)squares[lane];
        report->errors += unit * (double)errors[lane];
    }
}

/* What is decoded of a plane beside what was wanted. Where no layer is predicted from the one before,
 * components are enough: a basis keeps lengths, and the numbers are only rounded once more. */
static void count_errors(encoder *e, int plane, int tile, int layer, int grade) {
    const varve_tables *t = e->tile->tables;
    varve_tile *decoded = &e->tiles[plane];
    varve_report *report = &e->reports[plane];
    const bool is_coarse = decoded == e->coarse;
    const float step = varve_grade_step(e->step, grade), steps = is_coarse ? VARVE_PLANE_RATIO : 1;
    float squares[VARVE_TILE] = {0}, errors[VARVE_TILE] = {0};
    decoded->loops->rebuild(is_coarse ? t->coarse : t->classes, e->classes, decoded->n_numbers,
                            is_coarse ? e->bases : e->symbols, decoded->components);
    if (layer == 0 && decoded->firsts) varve_tile_copy(decoded, tile, &e->copies, e->copied);
    if (decoded->kind == VARVE_FAST) {
        decoded->loops->compare(e->steps, decoded->components, steps / VARVE_SYMBOL_UNIT, decoded->n_numbers,
                                squares, errors);
        add_errors(e, squares, errors, (double)step * (double)step, report);
        report->errors += (double)__builtin_popcount(e->coded) * decoded->n_numbers /
                          (12.0 * VARVE_NUMBER_UNIT * VARVE_NUMBER_UNIT);
        return;
    }
    if (is_coarse) varve_tile_predict(decoded, e->chunk->first_layer + layer, layer == 0);
    varve_tile_rebuild(decoded, e->chunk->first_layer + layer, layer == 0, steps * step);
    decoded->loops->compare(e->values, decoded->numbers, 1.0f / VARVE_NUMBER_UNIT, decoded->n_numbers,
                            squares, errors);
    add_errors(e, squares, errors, 1, report);
}

/* How large components of these tokens are, in steps of the chunk. */
static void count_squares(encoder *e, uint32_t lanes, int layer, int grade) {
    double *squares = e->squares + (size_t)layer * (size_t)e->tile->n_numbers;
    const float share = varve_grade_step(1, grade);
    float shares[VARVE_TILE];
    for (int lane = 0; lane < VARVE_TILE; lane++)
        shares[lane] = (lanes >> lane & 1) ? share : 0;
    e->n_squares[layer] += __builtin_popcount(lanes);
    e->tile->loops->add_squares(e->steps, shares, e->tile->n_numbers, squares);
}

/* The last token before this one that has the same V, bit for bit, and is no copy itself; -1: there is none.
 */
static int find_source(const encoder *e, const void *elements, int token, int grade) {
    const char *v = elements_of(e, elements, 0, KV_PART_V, token);
    for (int i = token; i-- > 0;)
        if (e->norms[i] == e->norms[token] && e->copies.grades[i] == 1 + grade &&
            memcmp(elements_of(e, elements, 0, KV_PART_V, i), v, token_bytes(e)) == 0)
            return i;
    return -1;
}

/* Of the coded tokens, which can copy: K before RoPE is known only as exactly as it was rounded after, and
 * not at all in a model that has no RoPE, so that V alone does not say it. */
static void find_copies(encoder *e, const void *elements, int tile, int grade) {
    varve_tile *t = e->tile;
    varve_copies *c = &e->copies;
    float squares[VARVE_TILE] = {0}, own[VARVE_TILE] = {0}, errors[VARVE_TILE] = {0};
    for (int lane = 0, token = tile * VARVE_TILE; lane < t->n_tokens; lane++, token++) {
        if (!(e->coded >> lane & 1)) continue;
        c->sources[token] = find_source(e, elements, token, grade);
        c->grades[token] = (uint8_t)(c->sources[token] < 0 ? 1 + grade : 0);
        e->copied |= (uint32_t)(c->sources[token] >= 0) << lane;
    }
    if (e->copied) {
        t->loops->rebuild(t->tables->classes, e->classes, t->n_numbers, e->symbols, t->components);
        t->loops->compare(e->steps, t->components, 1.0f / VARVE_SYMBOL_UNIT, t->n_numbers, squares, own);
        varve_tile_copy(t, tile, c, e->copied);
        t->loops->compare(e->steps, t->components, 1.0f / VARVE_SYMBOL_UNIT, t->n_numbers, squares, errors);
    }
    for (int lane = 0; lane < t->n_tokens; lane++)
        if ((e->copied >> lane & 1) && !(errors[lane] <= most_copied * own[lane]))
            c->sources[tile * VARVE_TILE + lane] = -1;
    const bool good = varve_copies_settle(c, tile, grade, e->coded, &e->copied);
    assert(good);
    (void)good;
    for (int i = 0; i < t->n_numbers; i++)
        e->saved += __builtin_popcount(e->copied) * varve_class_bits(&t->tables->classes[e->classes[i]]);
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
    uint32_t exact = find_symbols(e, bases, n_bases, layer, grade, &sinks) & all;
    for (int lane = 0; lane < e->tile->n_tokens; lane++) {
        const int token = tile * VARVE_TILE + lane;
        if (e->tokens[token].position < VARVE_EXACT_POSITIONS) exact |= 1u << lane;
        const char *v = elements_of(e, elements, layer, KV_PART_V, token);
        const double length = varve_norm(e->chunk->type, v, n_channels);
        if (layer == 0) e->norms[token] = length;
        if (length < (double)norm) sinks |= 1u << lane;
    }
    e->coded = all & ~exact & ~sinks;
    e->copied = 0;
    if (layer == 0 && e->copies.sources) find_copies(e, elements, tile, grade);
    append_layer(e, e->coded & ~e->copied);
    count_squares(e, e->coded & ~e->copied, layer, grade);
    for (int i = 0; i < e->n_planes; i++)
        count_errors(e, i, tile, layer, grade);
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
    const bool may_copy = e->chunk->first_layer == 0;
    for (int i = 0; i < e->n_planes; i++)
        varve_tile_open(t, kind, may_copy ? e->chunk->n_tokens : 0, &e->tiles[i]);
    if (may_copy) varve_copies_open(e->chunk->n_tokens, &e->copies);
    e->norms = mem_new((size_t)e->chunk->n_tokens, sizeof *e->norms);
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
    e->steps = mem_new(n, sizeof *e->steps);
    e->classes = mem_new((size_t)e->tile->n_numbers, sizeof *e->classes);
    e->symbols = mem_new(n, sizeof *e->symbols);
    e->bases = mem_new(n, sizeof *e->bases);
    e->all_pairs = mem_new((size_t)e->tile->n_numbers / 2, sizeof *e->all_pairs);
    for (int i = 0; i < e->tile->n_numbers / 2; i++)
        e->all_pairs[i] = (uint16_t)i;
    e->columns = mem_new(n_layers, sizeof *e->columns);
    for (int layer = 0; layer < e->chunk->n_layers; layer++) {
        int n_bases = 0;
        const varve_basis *bases =
            varve_tile_bases(e->tile, e->chunk->first_layer + layer, layer == 0, &n_bases);
        e->columns[layer] = varve_transpose(bases, n_bases);
    }
    for (int i = 0; i < VARVE_CLASSES; i++)
        e->rounding[i] =
            e->tile->tables->classes[i].is_silent ? (varve_rounding){INFINITY, 0} : varve_rounding_of(i);
}

static void close_encoder(encoder *e) {
    for (int i = 0; i < e->n_planes; i++) {
        varve_tile_close(&e->tiles[i]);
        free(e->ranges[i]);
    }
    for (int layer = 0; layer < e->chunk->n_layers; layer++)
        free(e->columns[layer]);
    free(e->columns);
    free(e->all_pairs);
    free(e->list.data);
    free(e->marks.data);
    free(e->kept.data);
    free(e->escapes.data);
    free(e->squares);
    free(e->n_squares);
    free(e->own);
    free(e->values);
    free(e->rest);
    free(e->steps);
    free(e->classes);
    free(e->symbols);
    free(e->bases);
    free(e->norms);
    varve_copies_close(&e->copies);
}

/* Empty ones have no data. */
static void append_text(text_buffer *out, const text_buffer *text) {
    if (text->n) text_append(out, text->data, text->n);
}

static void append_stream(const encoder *e, int plane, text_buffer *out) {
    uint8_t *stream = mem_resize(NULL, rans_max_bytes(e->n_ranges), 1);
    text_append(out, (const char *)stream, e->tile->loops->encode(e->ranges[plane], e->n_ranges, stream));
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
    e->list.n = e->marks.n = e->kept.n = e->escapes.n = e->n_ranges = 0;
    e->saved = 0;
    varve_copies_clear(&e->copies);
    memset(e->reports, 0, sizeof e->reports);
    memset(e->squares, 0, (size_t)(e->chunk->n_layers * e->tile->n_numbers) * sizeof *e->squares);
    memset(e->n_squares, 0, (size_t)e->chunk->n_layers * sizeof *e->n_squares);
    append_runs(e, &runs, &head.n_runs);
    for (int tile = 0; tile < n_tiles; tile++) {
        const char grade = (char)grade_of(e, tile);
        text_append(&grades, &grade, sizeof grade);
        encode_tile(e, elements, tile, grade);
    }
    text_append(&grades, "\0\0\0", (size_t)(-n_tiles & 3));
    if (e->saved > 0) varve_copies_append(&e->copies, &e->list);
    if (e->list.n) head.kind |= VARVE_COPIES;
    head.n_marks = (uint32_t)(e->marks.n / sizeof(uint32_t));
    head.n_escapes = (uint32_t)(e->escapes.n / sizeof(int16_t));
    for (int i = 0; i < e->n_planes; i++)
        planes[i].n = 0;
    text_append(&planes[0], (const char *)&head, sizeof head);
    append_text(&planes[0], &runs);
    append_text(&planes[0], &grades);
    append_text(&planes[0], &e->list);
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
    if (e.saved < 8.0 * (double)e.list.n) {
        varve_copies_close(&e.copies);
        encode_chunk(&e, elements, how->kind, made);
    }
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
