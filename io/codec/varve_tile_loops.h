/* io/codec/varve_tile_loops.h: the loops of io/codec/varve_loops.h that a compiler makes into those of an
 * instruction set by itself: each table's file includes it. Two neighbours of a token (of 16 bits, or bf16)
 * are one word. */
#pragma once

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/varve_loops.h"

static inline uint32_t word_at(const void *words, int i) {
    uint32_t word;
    memcpy(&word, (const char *)words + (size_t)i * sizeof word, sizeof word);
    return word;
}

static inline void put_word(void *words, int i, uint32_t word) {
    memcpy((char *)words + (size_t)i * sizeof word, &word, sizeof word);
}

static inline uint32_t join(int low, int high) {
    return ((uint32_t)low & 0xffff) | (uint32_t)high << 16;
}

static void dequantise(const varve_class *const *classes, int n, const int8_t *symbols, int16_t *components) {
    for (int c = 0; c < n; c += 2) {
        int16_t both[2][VARVE_TILE];
        for (int i = 0; i < 2; i++) {
            int8_t shifts[3];
            memcpy(shifts, classes[c + i]->shifts, sizeof shifts);
            for (int t = 0; t < VARVE_TILE; t++)
                both[i][t] = varve_component(shifts, symbols[(c + i) * VARVE_TILE + t]);
        }
        for (int t = 0; t < VARVE_TILE; t++)
            put_word(components + c * VARVE_TILE, t, join(both[0][t], both[1][t]));
    }
}

static void round_sums(const int32_t *sums, float scale, const float *predicted, int n, int16_t *numbers) {
    for (int j = 0; j < n; j += 2) {
        const int32_t *s = sums + j * VARVE_TILE;
        const float *p = predicted + j * VARVE_TILE;
        int16_t *out = numbers + j * VARVE_TILE;
        for (int t = 0; t < VARVE_TILE; t++)
            put_word(out, t,
                     join(varve_round_number((float)s[t] * scale + p[t]),
                          varve_round_number((float)s[VARVE_TILE + t] * scale + p[VARVE_TILE + t])));
    }
}

static void turns_of(const float *frequencies, int width, const int64_t *positions, float *turns) {
    const int half = width / 2;
    double at[VARVE_TILE];
    for (int t = 0; t < VARVE_TILE; t++)
        at[t] = (double)positions[t];
    for (int i = 0; i < half; i++) {
        float *cosines = turns + i * VARVE_TILE, *sines = cosines + half * VARVE_TILE;
        for (int t = 0; t < VARVE_TILE; t++) {
            double sine, cosine;
            key_angle((double)(float)(at[t] * (double)frequencies[i]), &sine, &cosine);
            cosines[t] = (float)cosine;
            sines[t] = (float)sine;
        }
    }
}

/* Turn values [width, TILE] forward, as key_turn does, or back. */
static inline void turn(const varve_rows *r, float direction, float *values) {
    const int half = r->width / 2 * VARVE_TILE;
    for (int i = 0; i < half; i++) {
        const float cosine = r->turns[i], sine = direction * r->turns[half + i], a = values[i],
                    b = values[half + i];
        values[i] = a * cosine - b * sine;
        values[half + i] = b * cosine + a * sine;
    }
}

static void store(const varve_rows *r, const int16_t *numbers, void *elements) {
    float *values = r->room;
    for (int i = 0; i < r->width; i += 2)
        for (int t = 0; t < VARVE_TILE; t++) {
            const uint32_t word = word_at(numbers, i / 2 * VARVE_TILE + t);
            values[i * VARVE_TILE + t] = r->means[i] + (float)(int16_t)word * r->unit;
            values[(i + 1) * VARVE_TILE + t] = r->means[i + 1] + (float)((int32_t)word >> 16) * r->unit;
        }
    if (r->turns) turn(r, 1, values);
    const int n_words = r->type == DTYPE_F32 ? r->width : r->width / 2;
    if (r->type != DTYPE_F32)
        for (int i = 0; i < n_words; i++)
            for (int t = 0; t < VARVE_TILE; t++)
                put_word(values, i * VARVE_TILE + t,
                         join(bf16_of_float(values[2 * i * VARVE_TILE + t]),
                              bf16_of_float(values[(2 * i + 1) * VARVE_TILE + t])));
    for (int t = 0; t < r->n_tokens; t++)
        for (int i = 0; i < n_words; i++)
            put_word((char *)elements + (size_t)t * r->stride, i, word_at(values, i * VARVE_TILE + t));
}

static void load_rows(const varve_rows *r, const void *elements, float *values) {
    memset(values, 0, (size_t)r->width * VARVE_TILE * sizeof *values);
    for (int t = 0; t < r->n_tokens; t++) {
        const char *row = (const char *)elements + (size_t)t * r->stride;
        for (int i = 0; i < r->width; i++)
            values[i * VARVE_TILE + t] = float_at(r->type, row, (size_t)i);
    }
    if (r->turns) turn(r, -1, values);
    for (int i = 0; i < r->width; i++)
        for (int t = 0; t < VARVE_TILE; t++)
            values[i * VARVE_TILE + t] = (values[i * VARVE_TILE + t] - r->means[i]) / r->unit;
}

/* ---- encoding ---- */

/* The symbols of a row, the last lane's first: their words go before `end`, and where those begin is
 * returned. A state has at most 20 bits more than a size, so that their quotient in float32 is at most one
 * off. */
static inline uint8_t *encode_row(const rans_range *symbols, uint32_t *states, uint8_t *end) {
    uint32_t is_full[RANS_LANES];
    for (int lane = 0; lane < RANS_LANES; lane++)
        is_full[lane] = states[lane] >> (32 - RANS_BITS) >= symbols[lane].size;
    for (int lane = RANS_LANES; lane-- > 0; end -= 2 * is_full[lane])
        memcpy(end - 2, &states[lane], 2);
    for (int lane = 0; lane < RANS_LANES; lane++) {
        const uint32_t size = symbols[lane].size, x = states[lane] >> (is_full[lane] ? 16 : 0);
        const uint32_t quotient = (uint32_t)(int32_t)((float)x / (float)size);
        const int32_t rest = (int32_t)(x - quotient * size);
        const uint32_t off = RANS_TOTAL - size;
        states[lane] = (quotient << RANS_BITS) + (uint32_t)rest + symbols[lane].start +
                       (rest < 0                ? 0 - off
                        : rest >= (int32_t)size ? off
                                                : 0);
    }
    return end;
}

/* Words that are not kept are written over by the next, at last by the head. */
static size_t encode(const rans_range *symbols, size_t n, uint8_t *out) {
    uint32_t states[RANS_LANES];
    uint8_t *const end = out + rans_max_bytes(n), *words = end;
    for (int lane = 0; lane < RANS_LANES; lane++)
        states[lane] = RANS_LEAST;
    for (size_t i = n; i > 0; i -= RANS_LANES)
        words = encode_row(symbols + i - RANS_LANES, states, words);
    memcpy(out, states, sizeof states);
    memmove(out + RANS_HEAD_BYTES, words, (size_t)(end - words));
    return RANS_HEAD_BYTES + (size_t)(end - words);
}

/* A basis keeps a token's length, so that no component is longer than 16 bits either, and its sum fits in 32
 * with the bits of the basis. */
static void scale(const float *values, const float *predicted, int n, int16_t *numbers, float *units) {
    const float least = 1e-15f; /* so that a token of zeros has a unit */
    float squares[VARVE_TILE] = {0}, shares[VARVE_TILE];
    for (int i = 0; i < n * VARVE_TILE; i += VARVE_TILE)
        for (int t = 0; t < VARVE_TILE; t++) {
            const float x = values[i + t] - predicted[i + t] / VARVE_NUMBER_UNIT;
            squares[t] += x * x;
        }
    for (int t = 0; t < VARVE_TILE; t++) {
        units[t] = (sqrtf(squares[t]) + least) / INT16_MAX;
        shares[t] = 1 / units[t];
    }
    for (int i = 0; i < n * VARVE_TILE; i += 2 * VARVE_TILE)
        for (int t = 0; t < VARVE_TILE; t++) {
            const int a = i + t, b = a + VARVE_TILE;
            const float x = values[a] - predicted[a] / VARVE_NUMBER_UNIT,
                        y = values[b] - predicted[b] / VARVE_NUMBER_UNIT;
            put_word(numbers + i, t,
                     join(varve_round_number(x * shares[t]), varve_round_number(y * shares[t])));
        }
}

static void quantise(const int32_t *sums, int n, const float *units, const uint8_t *classes,
                     const varve_rounding *roundings, float *steps, int16_t *symbols, int16_t *largest,
                     float *errors) {
    float unit[VARVE_TILE], lost[VARVE_TILE];
    int16_t most[VARVE_TILE];
    memcpy(unit, units, sizeof unit);
    memcpy(lost, errors, sizeof lost);
    memcpy(most, largest, sizeof most);
    for (int c = 0; c < n; c++) {
        const varve_rounding rounding = roundings[classes[c]];
        const int at = c * VARVE_TILE;
        float x[VARVE_TILE];
        int16_t symbol[VARVE_TILE];
        for (int t = 0; t < VARVE_TILE; t++)
            x[t] = (float)sums[at + t] * unit[t];
        for (int t = 0; t < VARVE_TILE; t++)
            symbol[t] = (int16_t)varve_round(&rounding, x[t]);
        for (int t = 0; t < VARVE_TILE; t++) {
            const int16_t size = (int16_t)abs(symbol[t]);
            most[t] = size > most[t] ? size : most[t];
        }
        for (int t = 0; t < VARVE_TILE; t++) {
            const float error = x[t] - symbol[t];
            lost[t] += error * error;
        }
        memcpy(steps + at, x, sizeof x);
        memcpy(symbols + at, symbol, sizeof symbol);
    }
    memcpy(errors, lost, sizeof lost);
    memcpy(largest, most, sizeof most);
}

static void rebuild(const varve_class *all, const uint8_t *classes, int n, const int16_t *symbols,
                    int16_t *components) {
    for (int c = 0; c < n; c += 2) {
        int16_t both[2][VARVE_TILE];
        for (int i = 0; i < 2; i++) {
            int8_t shifts[3];
            memcpy(shifts, all[classes[c + i]].shifts, sizeof shifts);
            for (int t = 0; t < VARVE_TILE; t++)
                both[i][t] = varve_component(shifts, symbols[(c + i) * VARVE_TILE + t]);
        }
        for (int t = 0; t < VARVE_TILE; t++)
            put_word(components + c * VARVE_TILE, t, join(both[0][t], both[1][t]));
    }
}

static void add_squares(const float *steps, const float *shares, int n, double *squares) {
    float share[VARVE_TILE];
    memcpy(share, shares, sizeof share);
    for (int c = 0; c < n; c++) {
        float sums[VARVE_TILE];
        for (int t = 0; t < VARVE_TILE; t++) {
            const float step = steps[c * VARVE_TILE + t], x = share[t] > 0 ? step : 0;
            sums[t] = x * share[t] * x * share[t];
        }
        for (int half = VARVE_TILE / 2; half >= 8; half /= 2)
            for (int t = 0; t < half; t++)
                sums[t] += sums[half + t];
        squares[c] +=
            (double)((sums[0] + sums[4]) + (sums[1] + sums[5]) + ((sums[2] + sums[6]) + (sums[3] + sums[7])));
    }
}

static void compare(const float *values, const int16_t *numbers, float unit, int n, float *squares,
                    float *errors) {
    float all[VARVE_TILE] = {0}, lost[VARVE_TILE] = {0};
    for (int i = 0; i < n * VARVE_TILE; i += 2 * VARVE_TILE)
        for (int t = 0; t < VARVE_TILE; t++) {
            const uint32_t word = word_at(numbers + i, t);
            const float x = values[i + t], y = values[i + VARVE_TILE + t];
            const float dx = (float)(int16_t)word * unit - x, dy = (float)((int32_t)word >> 16) * unit - y;
            all[t] += x * x + y * y;
            lost[t] += dx * dx + dy * dy;
        }
    for (int t = 0; t < VARVE_TILE; t++) {
        squares[t] += all[t];
        errors[t] += lost[t];
    }
}
