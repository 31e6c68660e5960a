/* io/codec/varve_tile_loops.h: the loops of io/codec/varve_loops.h that a compiler makes into those of an
 * instruction set by itself: each table's file includes it. Two neighbours of a token (of 16 bits, or bf16)
 * are one word. */
#pragma once

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
