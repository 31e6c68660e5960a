#include <immintrin.h>

static inline __m512i multiply_add(__m512i sums, __m512i x, __m512i y) {
    return _mm512_add_epi32(sums, _mm512_madd_epi16(x, y));
}

#include "io/codec/varve_loops_avx512.h"

const varve_loops varve_loops_avx512 = {"avx512",   has_avx512, sum_pairs,   take,      refine, dequantise,
                                        round_sums, turns_of,   store,       load_rows, encode, scale,
                                        quantise,   rebuild,    add_squares, compare};
