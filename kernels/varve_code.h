/* kernels/varve_code.h: the codec kvarve (io/codec/varve.h) for whoever decodes it: the arithmetic, which is
 * the same bits everywhere, and its tables and a chunk as a device takes them. For C and for CUDA. Local. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/kv_page.h"

/* Functions that kernels call as well. */
#ifdef __CUDACC__
#define VARVE_FUNCTION __host__ __device__ static inline
#else
#define VARVE_FUNCTION static inline
#endif

/* Of a stream (io/codec/rans.h). */
enum { RANS_BITS = 12, RANS_TOTAL = 1 << RANS_BITS, RANS_LANES = 32, RANS_HEAD_BYTES = RANS_LANES * 4 };

enum {
    VARVE_TILE = RANS_LANES, /* tokens */
    VARVE_SYMBOL_UNIT = 64,  /* of a component, in a step */
    VARVE_NUMBER_UNIT = 256, /* of a number, in a unit */
    VARVE_BASIS_BITS = 14,   /* numbers of a basis are multiples of 2^-14 */
    VARVE_CLASSES = 64,
    VARVE_OCTAVE = 6,      /* classes while a deviation doubles */
    VARVE_UNIT_CLASS = 24, /* of components whose deviation is the step */
    VARVE_LARGEST_SYMBOL = 511,
    VARVE_GRADES = 3, /* of tiles: each has half the step of the one before */
    VARVE_PLANES = 2,
    VARVE_PLANE_RATIO = 3,
    VARVE_DIGIT_ROWS = 3
};

/* ---- arithmetic ---- */

/* The class of a component whose deviation is 2^(level / VARVE_OCTAVE), at a step of 2^(step_level /
 * VARVE_OCTAVE). */
VARVE_FUNCTION int varve_class_of(int level, int step_level) {
    const int at = level - step_level + VARVE_UNIT_CLASS;
    return at < 0 ? 0 : at >= VARVE_CLASSES ? VARVE_CLASSES - 1 : at;
}

/* What a symbol up to VARVE_LARGEST_SYMBOL stands for, by the shifts of its class. */
VARVE_FUNCTION int16_t varve_component(const int8_t *shifts, int symbol) {
    const int size = symbol < 0 ? -symbol : symbol;
    const int shift = size > 2 ? shifts[2] : size == 2 ? shifts[1] : size == 1 ? shifts[0] : 0;
    const int units = size * VARVE_SYMBOL_UNIT + shift;
    return (int16_t)(symbol < 0 ? -units : units);
}

/* Which of the starts of digits are those for a base. */
VARVE_FUNCTION int varve_digits_row(int base) {
    const int size = base < 0 ? -base : base;
    return size < VARVE_DIGIT_ROWS ? size : VARVE_DIGIT_ROWS - 1;
}

/* The step of a tile. */
VARVE_FUNCTION float varve_grade_step(float step, int grade) {
    return step / (float)(1 << grade);
}

/* What a sum over a basis is multiplied by: it becomes numbers. */
VARVE_FUNCTION float varve_sum_unit(float step) {
    return step * ((float)VARVE_NUMBER_UNIT / VARVE_SYMBOL_UNIT / (1 << VARVE_BASIS_BITS));
}

/* To the nearest, ties to even, and not beyond 32767; of a NaN -32767. In float32, a number beside 1.5 * 2^23
 * has no bits for a fraction, and its lowest ones are those of the whole number. */
VARVE_FUNCTION int16_t varve_round_number(float x) {
    const float above = x > -32767 ? x : -32767, within = above < 32767 ? above : 32767;
    const float beside = within + 0x1.8p23f;
    uint32_t bits;
    memcpy(&bits, &beside, sizeof bits);
    return (int16_t)(uint16_t)bits;
}

VARVE_FUNCTION uint64_t key_angle_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

VARVE_FUNCTION double key_angle_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The sine and cosine of an angle of io/codec/key_turns.h, within a unit of float32's last place, up to a
 * million turns: the angle less a multiple of a quarter turn, which is subtracted in three parts (Cody and
 * Waite 1980), and the series of Taylor. Without branches, so that a compiler can do several angles at a
 * time: beside 1.5 * 2^52 a number is rounded to a whole one, whose lowest bits are those of the sum. */
VARVE_FUNCTION void key_angle(double angle, double *sine, double *cosine) {
    const double quarter = 0x1.921fb544p+0, middle = 0x1.0b4611a6p-34, last = 0x1.3198a2e037073p-69;
    const double beside = angle * 0x1.45f306dc9c883p-1 + 0x1.8p52, n = beside - 0x1.8p52;
    const double x = angle - n * quarter - n * middle - n * last, z = x * x;
    const double s = x * (1 - z / 6 * (1 - z / 20 * (1 - z / 42 * (1 - z / 72 * (1 - z / 110)))));
    const double c = 1 - z / 2 * (1 - z / 12 * (1 - z / 30 * (1 - z / 56 * (1 - z / 90 * (1 - z / 132)))));
    const uint64_t quarters = key_angle_bits(beside);
    const uint64_t swapped = (key_angle_bits(s) ^ key_angle_bits(c)) & -(quarters & 1);
    *sine = key_angle_of(key_angle_bits(s) ^ swapped ^ (quarters & 2) << 62);
    *cosine = key_angle_of(key_angle_bits(c) ^ swapped ^ ((quarters + 1) & 2) << 62);
}

/* ---- tables and chunks for a device: what lies in blocks of its memory, by bytes from their begin ---- */

/* A basis of io/codec/varve_tables.h. Matrices have a row [n_padded] for each of n_padded numbers. */
typedef struct varve_device_basis {
    int32_t first, n, n_padded; /* numbers [first, first + n); n_padded: a multiple of VARVE_PADDING */
    int64_t levels;             /* int16 [n] */
    int64_t highs, lows; /* of the components' shares in a number: upper bytes, signed, and lower ones */
    int64_t shares;      /* int8: of the numbers of the layer before; 0: there is no prediction */
    int64_t units;       /* float [n_padded]: of what such sums are */
} varve_device_basis;

enum { VARVE_PADDING = 32 };

VARVE_FUNCTION int varve_padded(int n) {
    return (n + VARVE_PADDING - 1) / VARVE_PADDING * VARVE_PADDING;
}

typedef struct varve_device_layer {
    float units[N_KV_PARTS];
    int64_t means, frequencies; /* float [numbers], [width / 2] */
    int64_t bases[2];           /* varve_device_basis: those of a chunk's first layer, and of others */
} varve_device_layer;

typedef struct varve_device_class {
    int32_t most;
    int8_t is_silent, shifts[3];
    uint16_t digits[VARVE_DIGIT_ROWS][2]; /* where the numbers of the digits 0 and 1 begin */
} varve_device_class;

/* Tables of some layers of a model. */
typedef struct varve_image {
    const char *bytes; /* the device's memory */
    int32_t n_heads, width, n_numbers;
    int32_t n_blocks, block_heads, block_bases; /* blocks of heads; bases of each */
    int32_t first_layer, n_layers;
    int64_t layers;  /* varve_device_layer [n_layers] */
    int64_t classes; /* varve_device_class [VARVE_PLANES, VARVE_CLASSES]: of symbols, and of their bases */
    int64_t slots;   /* uint32 [VARVE_PLANES, VARVE_CLASSES, RANS_TOTAL] (rans_slot) */
} varve_image;

/* Where the rows of a layer go: tokens [first_token, last_token) of the chunk to the pages of their
 * positions, which are `shift` more; entry i of the table is the page of positions from (first_page + i) *
 * page_tokens on. */
typedef struct varve_place {
    void *pages;
    int64_t first_token, last_token, shift, first_page;
    int64_t table; /* int32 */
} varve_place;

/* A chunk. */
typedef struct varve_job {
    varve_image image;
    const char *bytes;   /* the device's memory, and */
    int16_t *components; /* room there: [tiles, n_layers, numbers, VARVE_TILE], */
    float *turns;        /* [n_layers, n_tokens, width], */
    uint32_t *is_bad;    /* and the verdict: 0, or the chunk is damaged, and no row was written */
    int32_t n_tokens, first_layer, n_layers;
    int32_t n_planes, n_planes_coded; /* that are decoded, and that the file has */
    int32_t step_level;
    int32_t is_predicted; /* layer from layer */
    float step;           /* of what is decoded */
    int64_t positions;    /* int64 [n_tokens] */
    int64_t grades;       /* uint8 [tiles] */
    int64_t sources;      /* int32 [n_tokens]: of what copies another's components in the first layer; of what
                             does not -1. 0: nothing copies */
    int64_t own;          /* int8 [n_layers, numbers]; 0: the chunk has no levels of its own */
    int64_t coded;        /* uint32 [tiles, n_layers]: the tokens that are not kept otherwise */
    int64_t first_kept;   /* int32 [tiles * n_layers + 1]: of those that are, which come in this order: */
    int64_t lanes_kept;   /* uint8, their tokens in their tiles, and */
    int64_t rows_kept;    /* [N_KV_PARTS, heads, width] elements each */
    int64_t escapes, n_escapes;                                /* int16 */
    int64_t streams[VARVE_PLANES], stream_words[VARVE_PLANES]; /* words behind a stream's head */
    int64_t places;                                            /* varve_place [n_layers] */
} varve_job;

VARVE_FUNCTION int32_t varve_job_tiles(const varve_job *job) {
    return (job->n_tokens - 1) / VARVE_TILE + 1;
}

/* Layers that are rebuilt by themselves, each beside the others: 1, where it is one from another. */
VARVE_FUNCTION int32_t varve_job_strands(const varve_job *job) {
    return job->is_predicted ? 1 : job->n_layers;
}
