/* io/codec/key_turns.h: keys as they were before rotary position embeddings (RoPE, arXiv 2104.09864) turned
 * them, and back: number i of a head, of the first half, and number i + width / 2 are a pair, which turns by
 * the angle of its position. The same bits on every processor: no function of the C library, whose last bit
 * differs from one to the next. Local. */
#pragma once

#include <stdint.h>

/* [width]: the cosines of a head's pairs at a position, then their sines. Frequencies are radians a position,
 * and an angle is rounded to float32, as a model does it; all zero: keys that are not turned. */
void key_turns_of(const float *frequencies, int width, int64_t pos, float *turns);

/* Turn x[width] forward, as the model does, or back. */
void key_turn(const float *turns, int width, float *x);
void key_turn_back(const float *turns, int width, float *x);
