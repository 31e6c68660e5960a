/* kernels/level_stream.h: numbers by a counter. Element i of a stream is one of N_LEVELS levels; which one,
 * the bits of a hash of its key and i say. So any range can be made alone, by the host and by a GPU, with the
 * same bits. */
#pragma once

#include <stdint.h>

/* Functions that CUDA kernels call as well. */
#if defined __CUDACC__
#define LEVEL_FUNCTION __host__ __device__ static inline
#else
#define LEVEL_FUNCTION static inline
#endif

/* A word of the stream makes LEVEL_LANES elements, of LANE_BITS each, whose upper ones count. */
enum { LEVEL_BITS = 12, N_LEVELS = 1 << LEVEL_BITS, LEVEL_LANES = 4, LANE_BITS = 16 };

typedef struct level_stream {
    uint64_t key;
    uint16_t levels[N_LEVELS]; /* bf16 */
} level_stream;

/* The i-th word of the stream of this key: splitmix64 (Steele, Lea, Flood 2014), whose state is a counter. */
LEVEL_FUNCTION uint64_t level_word(uint64_t key, int64_t i) {
    uint64_t z = key + ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Which level the element in this lane of a word is. */
LEVEL_FUNCTION int level_index(uint64_t word, int lane) {
    return (int)(word >> (LANE_BITS * lane + LANE_BITS - LEVEL_BITS)) & (N_LEVELS - 1);
}
