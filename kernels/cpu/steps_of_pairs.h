/* kernels/cpu/steps_of_pairs.h: what the steps of tiles share where a processor does not multiply pairs of
 * bf16: they are two floats. Written in the lanes of the file that includes it, which adds tile_load. */
#pragma once

typedef struct tile_words {
    lanes even, odd; /* of bf16 pairs; f32 is in `even` */
} tile_words;

/* A bf16 pair is packed as two floats. */
static inline void tile_pack(bool bf16, uint32_t word, char *input) {
    const uint32_t pair[2] = {word << 16, word & 0xffff0000u};
    memcpy(input, bf16 ? pair : &word, bf16 ? 8 : 4);
}

/* Sixteen inputs of one row: bf16 pairs are two floats, and need not be rounded. */
static inline void tile_store_inputs(bool bf16, char *input, lanes x) {
    (void)bf16;
    lanes_store((float *)(void *)input, x);
}

static inline lanes tile_step(bool bf16, lanes acc, const char *input, tile_words words) {
    float x[2];
    memcpy(x, input, bf16 ? 8 : 4);
    acc = lanes_fma(lanes_set(x[0]), words.even, acc);
    return bf16 ? lanes_fma(lanes_set(x[1]), words.odd, acc) : acc;
}
