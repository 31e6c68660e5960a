#include <immintrin.h>

static inline __m512i multiply_add(__m512i sums, __m512i x, __m512i y) {
    return _mm512_dpwssd_epi32(sums, x, y);
}

#include "io/codec/varve_loops_avx512.h"

static bool is_available(void) {
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

const varve_loops varve_loops_avx512vnni = {
    "avx512vnni", is_available, sum_pairs, take,  refine,   dequantise, round_sums,  turns_of,
    store,        load_rows,    encode,    scale, quantise, rebuild,    add_squares, compare};
