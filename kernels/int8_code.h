/* kernels/int8_code.h: numbers rounded to int8 with a scale: weights (kernels/cpu/int8.h), and K and V
 * (kernels/kv_page.h). Local. */
#pragma once

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Functions that CUDA kernels call as well. */
#if defined __CUDACC__
#define INT8_FUNCTION __host__ __device__ static inline
#else
#define INT8_FUNCTION static inline
#endif

/* A word holds 4 codes that follow each other along a sum, each stored + 128. Along the sum words are cut
 * into groups: one word for the scale, as float32, then those of up to INT8_GROUP codes. */
enum {
    INT8_GROUP = 128,
    INT8_WORD_COLS = 4,
    INT8_GROUP_WORDS = 1 + INT8_GROUP / INT8_WORD_COLS,
    INT8_OFFSET = 128,
    INT8_LARGEST = 127
};

/* The scale of numbers of which this is the largest magnitude: each will be off by half of it at most. NaN
 * where that is not finite. */
INT8_FUNCTION float int8_code_scale(float largest) {
    const float scale = largest / INT8_LARGEST;
    return largest - largest != 0 ? NAN : scale > FLT_MIN ? scale : FLT_MIN;
}

/* The code of a number as it is stored; 0 where the scale is NaN. */
INT8_FUNCTION uint8_t int8_encode(float x, float scale) {
    const float moved = x / scale + 0x1.8p23f; /* rounds to a whole number, in the low bits */
    uint32_t bits = 0;
    if (scale == scale) memcpy(&bits, &moved, sizeof bits);
    return (uint8_t)(bits + INT8_OFFSET);
}

INT8_FUNCTION float int8_decode(uint8_t stored, float scale) {
    return scale * (float)(stored - INT8_OFFSET);
}
