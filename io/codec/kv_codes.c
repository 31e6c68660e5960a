#include "io/codec/kv_codes.h"

#include <stdlib.h>
#include <string.h>

#include "io/codec/byte_reader.h"
#include "io/codec/kv_lossless.h"
#include "kernels/int4_code.h"
#include "kernels/int8_code.h"
#include "kernels/kv_page.h"

/* As in a payload, little-endian. Behind it: the tokens of each group, the marks, the ranges, the low halves
 * of int8 codes, the symbols and the exact rows. */
typedef struct codes_head {
    uint8_t kind, reserved[3];
    uint32_t n_groups; /* 0: each token is one */
    uint32_t symbol_bytes, exact_bytes;
} codes_head;

/* Numbers of the format. A frame does not say which part of a layer it is of: so its kind does. In int8
 * values, and a GPU's keys, have one scale a row, a CPU's keys one for each INT8_GROUP elements. */
enum { INT8_GROUPS = 1, INT8_ROWS, INT4_KEYS, INT4_VALUES, N_KINDS };
enum { SYMBOL_BITS = 4, N_SYMBOLS = 1 << SYMBOL_BITS };

/* What is coded together, rows of one head, is a unit: of keys in int4 a group of places, else a row. */
typedef struct units {
    int kind;
    int32_t n_tokens, n_heads, width;
    int32_t n_groups;
    int32_t *begins; /* [n_groups + 1]: the first token of each group; owned */
} units;

static bool are_groups(const units *u) {
    return u->kind == INT4_KEYS;
}

static bool is_int8(const units *u) {
    return u->kind <= INT8_ROWS;
}

static size_t count_units(const units *u) {
    return (size_t)u->n_groups * (size_t)u->n_heads;
}

/* Has this part of a layer such codes, which are not of another kind as well? */
static bool may_be(const units *u, kv_part part) {
    if (u->kind == INT8_ROWS) return part == KV_PART_V || u->width > INT8_GROUP;
    return (u->kind == INT4_VALUES) == (part == KV_PART_V);
}

/* Numbers that hold the ranges of a unit. */
static size_t count_ranges(const units *u) {
    const size_t width = (size_t)u->width;
    if (is_int8(u)) return u->kind == INT8_ROWS ? 1 : (width + INT8_GROUP - 1) / INT8_GROUP;
    return 2 * (u->kind == INT4_KEYS ? width : (width + KV_INT4_VALUES - 1) / KV_INT4_VALUES);
}

/* ---- a unit as pages code it: n rows of `width` elements ---- */

/* Of int8 a range is the largest magnitude of the elements that share a scale. */
static void encode_int8(const units *u, const uint16_t *row, uint16_t *ranges, uint8_t *codes) {
    const int together = u->kind == INT8_ROWS ? u->width : INT8_GROUP;
    for (int first = 0; first < u->width; first += together, ranges++) {
        const int last = first + together < u->width ? first + together : u->width;
        *ranges = 0;
        for (int i = first; i < last; i++)
            *ranges = (row[i] & 0x7fff) > *ranges ? row[i] & 0x7fff : *ranges;
        const float scale = int8_code_scale(float_of_bf16(*ranges));
        for (int i = first; i < last; i++)
            codes[i] = int8_encode(float_of_bf16(row[i]), scale);
    }
}

static void decode_int8(const units *u, const uint16_t *ranges, const uint8_t *codes, uint16_t *row) {
    const int together = u->kind == INT8_ROWS ? u->width : INT8_GROUP;
    for (int first = 0; first < u->width; first += together, ranges++) {
        const int last = first + together < u->width ? first + together : u->width;
        const float scale = int8_code_scale(float_of_bf16(*ranges));
        for (int i = first; i < last; i++)
            row[i] = bf16_of_float(int8_decode(codes[i], scale));
    }
}

static void encode_int4_value(const units *u, const uint16_t *row, int4_range *ranges, uint8_t *codes) {
    for (int i = 0; i < u->width; i += KV_INT4_VALUES) {
        const int left = u->width - i, n = left < KV_INT4_VALUES ? left : KV_INT4_VALUES;
        ranges[i / KV_INT4_VALUES] = int4_encode(n, row + i, codes + i);
    }
}

static void decode_int4_value(const units *u, const int4_range *ranges, const uint8_t *codes, uint16_t *row) {
    for (int i = 0; i < u->width; i++)
        row[i] = int4_decode(codes[i], ranges[i / KV_INT4_VALUES]);
}

static void encode_unit(const units *u, int n, const uint16_t *rows, uint16_t *ranges, uint8_t *codes) {
    int4_range *pairs = (int4_range *)(void *)ranges;
    if (is_int8(u))
        encode_int8(u, rows, ranges, codes);
    else if (u->kind == INT4_VALUES)
        encode_int4_value(u, rows, pairs, codes);
    else
        int4_encode_keys(n, u->width, (const char *)rows, (size_t)u->width * sizeof *rows, pairs, codes);
}

static void decode_unit(const units *u, int n, const uint16_t *ranges, const uint8_t *codes, uint16_t *rows) {
    const int4_range *pairs = (const int4_range *)(const void *)ranges;
    if (is_int8(u))
        decode_int8(u, ranges, codes, rows);
    else if (u->kind == INT4_VALUES)
        decode_int4_value(u, pairs, codes, rows);
    else
        for (int k = 0; k < n; k++)
            int4_decode_row(u->width, pairs, codes + k * u->width, rows + k * u->width);
}

/* ---- units of a chunk ---- */

/* Can there be codes in chunks of this shape? Their rows are counted in 32 bits. */
static bool has_codes(const kv_chunk_shape *s) {
    return s->type == DTYPE_BF16 && (int64_t)s->n_tokens * s->n_kv_heads <= INT32_MAX;
}

static units units_of(const kv_chunk *chunk, int kind) {
    const kv_chunk_shape *s = &chunk->shape;
    return (units){kind, s->n_tokens, s->n_kv_heads, s->head_dim, 0, NULL};
}

/* Groups are rows of places that follow each other, up to where those of a page end. */
static void find_groups(units *u, const kv_token *tokens) {
    u->begins = mem_new((size_t)u->n_tokens + 1, sizeof *u->begins);
    for (int32_t t = 0; t < u->n_tokens; t++)
        if (!are_groups(u) || t == 0 || tokens[t].position != tokens[t - 1].position + 1 ||
            tokens[t].position % KV_INT4_PLACES == 0)
            u->begins[u->n_groups++] = t;
    u->begins[u->n_groups] = u->n_tokens;
}

/* Where rows of a head lie in a chunk, so many elements apart, from a token on. */
static size_t row_at(const units *u, int32_t token, int head) {
    return ((size_t)token * (size_t)u->n_heads + (size_t)head) * (size_t)u->width;
}

static void copy_rows(const units *u, int n, uint16_t *to, size_t to_step, const uint16_t *from,
                      size_t from_step) {
    for (int k = 0; k < n; k++, to += to_step, from += from_step)
        memcpy(to, from, (size_t)u->width * sizeof *to);
}

/* Elements of a unit at most. */
static size_t unit_elements(const units *u) {
    return (are_groups(u) ? KV_INT4_PLACES : 1) * (size_t)u->width;
}

/* Room for a unit, and for what it is read as. */
static uint16_t *unit_room(const units *u) {
    return mem_new(2 * unit_elements(u), sizeof(uint16_t));
}

/* The rows of a unit, to the begin of `room`; its ranges and codes; do these stand for the same rows? */
static bool try_unit(const units *u, const uint16_t *elements, int32_t group, int head, uint16_t *room,
                     uint16_t *ranges, uint8_t *codes) {
    const int32_t token = u->begins[group], n = u->begins[group + 1] - token;
    uint16_t *again = room + unit_elements(u);
    copy_rows(u, n, room, (size_t)u->width, elements + row_at(u, token, head), row_at(u, 1, 0));
    encode_unit(u, n, room, ranges, codes);
    decode_unit(u, n, ranges, codes, again);
    return memcmp(room, again, (size_t)n * (size_t)u->width * sizeof *room) == 0;
}

/* ---- encode ---- */

/* What becomes of a chunk. */
typedef struct parts_of_chunk {
    uint8_t *marks; /* a bit for each unit, [group, head]: is it coded? */
    uint16_t *ranges;
    uint8_t *codes;  /* of coded units */
    uint16_t *exact; /* the rows of the others */
    size_t n_ranges, n_codes, n_exact;
} parts_of_chunk;

static parts_of_chunk parts_begin(const units *u) {
    const size_t n_elements = row_at(u, u->n_tokens, 0);
    return (parts_of_chunk){.marks = mem_new((count_units(u) + 7) / 8, 1),
                            .ranges = mem_new(count_units(u) * count_ranges(u), sizeof(uint16_t)),
                            .codes = mem_new(n_elements, 1),
                            .exact = mem_new(n_elements, sizeof(uint16_t))};
}

static void parts_end(parts_of_chunk *p) {
    free(p->marks);
    free(p->ranges);
    free(p->codes);
    free(p->exact);
}

/* Of some units, wherever they lie, so that texts of any length have some of theirs: the share that is
 * coded. */
static double sample_units(const units *u, const uint16_t *elements) {
    const double golden = 0.6180339887498949;
    const int n = are_groups(u) ? 8 : 32;
    uint16_t *room = unit_room(u), *ranges = mem_new(count_ranges(u), sizeof *ranges);
    uint8_t *codes = mem_new(unit_elements(u), 1);
    int n_coded = 0;
    for (int i = 0; i < n; i++) {
        const double at = golden * (i + 1) - (int)(golden * (i + 1));
        n_coded += try_unit(u, elements, (int32_t)(at * u->n_groups), i % u->n_heads, room, ranges, codes);
    }
    free(room);
    free(ranges);
    free(codes);
    return (double)n_coded / n;
}

/* The kind that most of the units are of which were looked at, with its groups; 0: none. A row of zeros is of
 * every kind. */
static units choose_kind(const kv_chunk *chunk, const kv_token *tokens, const uint16_t *elements) {
    units best = {.kind = 0};
    double most = 0;
    for (int kind = INT8_GROUPS; kind < N_KINDS; kind++) {
        units u = units_of(chunk, kind);
        if (!may_be(&u, chunk->part)) continue;
        if (are_groups(&u) && (!tokens || u.width > INT4_MOST_KEY)) continue;
        find_groups(&u, tokens);
        const double share = sample_units(&u, elements);
        free(share > most ? best.begins : u.begins);
        if (share > most) {
            best = u;
            most = share;
        }
    }
    return best;
}

static void take_units(const units *u, const uint16_t *elements, parts_of_chunk *p) {
    uint16_t *room = unit_room(u);
    size_t unit = 0;
    for (int32_t group = 0; group < u->n_groups; group++)
        for (int head = 0; head < u->n_heads; head++, unit++) {
            const size_t n = (size_t)(u->begins[group + 1] - u->begins[group]) * (size_t)u->width;
            if (try_unit(u, elements, group, head, room, p->ranges + p->n_ranges, p->codes + p->n_codes)) {
                p->marks[unit / 8] |= (uint8_t)(1 << unit % 8);
                p->n_ranges += count_ranges(u);
                p->n_codes += n;
            } else {
                memcpy(p->exact + p->n_exact, room, n * sizeof *room);
                p->n_exact += n;
            }
        }
    free(room);
}

/* Rows of elements by the lossless codec, or as they are; the bytes. */
static uint32_t append_rows(const kv_blocks *blocks, const units *u, dtype type, size_t n_elements,
                            const void *elements, text_buffer *to) {
    const kv_chunk_shape shape = {type, (int32_t)(n_elements / (size_t)u->width), 1, u->width};
    if (n_elements == 0) return 0;
    uint8_t *coded = mem_new(kv_chunk_bytes(&shape) + 8, 1);
    size_t n = kv_lossless_encode(blocks, &shape, elements, coded);
    if (n) text_append(to, (const char *)coded, n);
    free(coded);
    if (n) return (uint32_t)n;
    text_append(to, elements, kv_chunk_bytes(&shape));
    return (uint32_t)kv_chunk_bytes(&shape);
}

/* Two to a byte, the first in its low bits. */
static void append_lows(const uint8_t *codes, size_t n, text_buffer *to) {
    const size_t n_bytes = (n + 1) / 2;
    uint8_t *lows = mem_new(n_bytes, 1);
    for (size_t i = 0; i < n; i++)
        lows[i / 2] |= (uint8_t)((codes[i] & (N_SYMBOLS - 1)) << i % 2 * SYMBOL_BITS);
    text_append(to, (const char *)lows, n_bytes);
    free(lows);
}

static void append_parts(const kv_blocks *blocks, const units *u, parts_of_chunk *p, text_buffer *to) {
    codes_head head = {.kind = (uint8_t)u->kind, .n_groups = are_groups(u) ? (uint32_t)u->n_groups : 0};
    const size_t head_at = to->n;
    text_append(to, (const char *)&head, sizeof head);
    for (uint32_t group = 0; group < head.n_groups; group++)
        text_append(to, &(char){(char)(u->begins[group + 1] - u->begins[group])}, 1);
    text_append(to, (const char *)p->marks, (count_units(u) + 7) / 8);
    text_append(to, (const char *)p->ranges, p->n_ranges * sizeof *p->ranges);
    if (is_int8(u)) {
        append_lows(p->codes, p->n_codes, to);
        for (size_t i = 0; i < p->n_codes; i++)
            p->codes[i] >>= SYMBOL_BITS;
    }
    head.symbol_bytes = append_rows(blocks, u, DTYPE_U8, p->n_codes, p->codes, to);
    head.exact_bytes = append_rows(blocks, u, DTYPE_BF16, p->n_exact, p->exact, to);
    memcpy(to->data + head_at, &head, sizeof head);
}

bool kv_codes_encode(const kv_blocks *blocks, const kv_chunk *chunk, const kv_token *tokens,
                     const void *elements, text_buffer *payload) {
    if (!has_codes(&chunk->shape)) return false;
    units u = choose_kind(chunk, tokens, elements);
    if (u.kind) {
        parts_of_chunk p = parts_begin(&u);
        take_units(&u, elements, &p);
        append_parts(blocks, &u, &p, payload);
        parts_end(&p);
    }
    free(u.begins);
    return u.kind != 0;
}

/* ---- decode ---- */

static status damaged(const char *what) {
    return status_refuse("the payload of the frame is damaged: %s", what);
}

/* The kind, and the groups. */
static status read_units(byte_reader *r, const kv_chunk *chunk, codes_head *head, units *u) {
    static const uint8_t zeros[3];
    byte_reader_take(r, head, sizeof *head);
    if (r->is_short || head->kind < INT8_GROUPS || head->kind >= N_KINDS ||
        memcmp(head->reserved, zeros, sizeof zeros) != 0)
        return damaged("its codes are of no known kind");
    *u = units_of(chunk, head->kind);
    if (are_groups(u) && u->width > INT4_MOST_KEY) return damaged("its keys are too wide for its codes");
    u->n_groups = are_groups(u) ? (int32_t)head->n_groups : u->n_tokens;
    if (are_groups(u) ? head->n_groups > (uint32_t)u->n_tokens : head->n_groups != 0)
        return damaged("it has another number of groups");
    u->begins = mem_new((size_t)u->n_groups + 1, sizeof *u->begins);
    for (int32_t group = 0; group < u->n_groups; group++) {
        uint8_t n = 1;
        if (are_groups(u)) byte_reader_take(r, &n, sizeof n);
        if (n < 1 || n > KV_INT4_PLACES || n > u->n_tokens - u->begins[group])
            return damaged("a group has another number of tokens");
        u->begins[group + 1] = u->begins[group] + n;
    }
    return u->begins[u->n_groups] == u->n_tokens ? STATUS_OK
                                                 : damaged("its groups do not add up to its tokens");
}

/* Which units are coded; how many numbers, codes and exact elements there must be. */
static status read_marks(byte_reader *r, const units *u, parts_of_chunk *p) {
    p->marks = mem_new((count_units(u) + 7) / 8, 1);
    byte_reader_take(r, p->marks, (count_units(u) + 7) / 8);
    if (r->is_short) return damaged("it is shorter than its marks");
    if (count_units(u) % 8 && p->marks[count_units(u) / 8] >> count_units(u) % 8)
        return damaged("it marks units that are not there");
    size_t unit = 0;
    for (int32_t group = 0; group < u->n_groups; group++)
        for (int head = 0; head < u->n_heads; head++, unit++) {
            const size_t n = (size_t)(u->begins[group + 1] - u->begins[group]) * (size_t)u->width;
            const bool is_coded = p->marks[unit / 8] >> unit % 8 & 1;
            p->n_ranges += is_coded ? count_ranges(u) : 0;
            *(is_coded ? &p->n_codes : &p->n_exact) += n;
        }
    return STATUS_OK;
}

/* Rows as append_rows wrote them, n_bytes of them. */
static status read_rows(byte_reader *r, const kv_blocks *blocks, const units *u, dtype type,
                        size_t n_elements, uint32_t n_bytes, void *elements) {
    const kv_chunk_shape shape = {type, (int32_t)(n_elements / (size_t)u->width), 1, u->width};
    if (n_bytes > r->n) return damaged("it is shorter than its rows");
    const uint8_t *from = (const uint8_t *)r->at;
    r->at += n_bytes;
    r->n -= n_bytes;
    if (n_bytes == n_elements * dtype_bytes(type)) {
        memcpy(elements, from, n_bytes);
        return STATUS_OK;
    }
    return n_elements ? kv_lossless_decode(blocks, from, n_bytes, &shape, elements)
                      : damaged("it has rows that are in no unit");
}

static status read_parts(byte_reader *r, const kv_blocks *blocks, const units *u, const codes_head *head,
                         parts_of_chunk *p) {
    const size_t low_bytes = is_int8(u) ? (p->n_codes + 1) / 2 : 0;
    p->ranges = mem_new(p->n_ranges, sizeof *p->ranges);
    p->codes = mem_new(p->n_codes, 1);
    p->exact = mem_new(p->n_exact, sizeof *p->exact);
    uint8_t *lows = mem_new(low_bytes, 1);
    byte_reader_take(r, p->ranges, p->n_ranges * sizeof *p->ranges);
    byte_reader_take(r, lows, low_bytes);
    status st = r->is_short ? damaged("it is shorter than its codes") : STATUS_OK;
    if (st == STATUS_OK) st = read_rows(r, blocks, u, DTYPE_U8, p->n_codes, head->symbol_bytes, p->codes);
    if (st == STATUS_OK) st = read_rows(r, blocks, u, DTYPE_BF16, p->n_exact, head->exact_bytes, p->exact);
    if (st == STATUS_OK && r->n) st = damaged("its parts do not add up to its bytes");
    uint8_t all = 0;
    for (size_t i = 0; st == STATUS_OK && i < p->n_codes; i++)
        all |= p->codes[i];
    if (all >= N_SYMBOLS) st = damaged("a code is too large");
    if (st == STATUS_OK && low_bytes > p->n_codes / 2 && lows[low_bytes - 1] >> SYMBOL_BITS)
        st = damaged("the low half of a code that is not there is not 0");
    for (size_t i = 0; st == STATUS_OK && low_bytes && i < p->n_codes; i++)
        p->codes[i] =
            (uint8_t)(p->codes[i] << SYMBOL_BITS | (lows[i / 2] >> i % 2 * SYMBOL_BITS & (N_SYMBOLS - 1)));
    free(lows);
    return st;
}

static void put_units(const units *u, const parts_of_chunk *p, uint16_t *elements) {
    const uint16_t *ranges = p->ranges, *exact = p->exact;
    const uint8_t *codes = p->codes;
    uint16_t *room = unit_room(u);
    size_t unit = 0;
    for (int32_t group = 0; group < u->n_groups; group++)
        for (int head = 0; head < u->n_heads; head++, unit++) {
            const int n = u->begins[group + 1] - u->begins[group];
            const bool is_coded = p->marks[unit / 8] >> unit % 8 & 1;
            if (is_coded) {
                decode_unit(u, n, ranges, codes, room);
                ranges += count_ranges(u);
                codes += n * u->width;
            }
            copy_rows(u, n, elements + row_at(u, u->begins[group], head), row_at(u, 1, 0),
                      is_coded ? room : exact, (size_t)u->width);
            exact += is_coded ? 0 : n * u->width;
        }
    free(room);
}

status kv_codes_decode(const kv_blocks *blocks, const uint8_t *payload, size_t n_bytes, const kv_chunk *chunk,
                       void *elements) {
    byte_reader r = {(const char *)payload, n_bytes, false};
    codes_head head;
    units u = {.begins = NULL};
    parts_of_chunk p = {.marks = NULL};
    status st = has_codes(&chunk->shape)
                    ? read_units(&r, chunk, &head, &u)
                    : damaged("codes of elements that are not bf16, or of too many rows");
    if (st == STATUS_OK) st = read_marks(&r, &u, &p);
    if (st == STATUS_OK) st = read_parts(&r, blocks, &u, &head, &p);
    if (st == STATUS_OK) put_units(&u, &p, elements);
    parts_end(&p);
    free(u.begins);
    return st;
}
