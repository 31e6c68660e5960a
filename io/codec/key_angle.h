/* io/codec/key_angle.h: the sine and cosine of an angle of io/codec/key_turns.h, for loops that a compiler
 * makes into those of an instruction set. Local. */
#pragma once

#include <stdint.h>
#include <string.h>

static inline uint64_t bits_of_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Sine and cosine within a unit of float32's last place, up to a million turns: the angle less a multiple of
 * a quarter turn, which is subtracted in three parts (Cody and Waite 1980), and the series of Taylor. Without
 * branches, so that a compiler can do several angles at a time: beside 1.5 * 2^52 a number is rounded to a
 * whole one, whose lowest bits are those of the sum. */
static inline void key_angle(double angle, double *sine, double *cosine) {
    static const double quarter = 0x1.921fb544p+0, middle = 0x1.0b4611a6p-34, last = 0x1.3198a2e037073p-69;
    const double beside = angle * 0x1.45f306dc9c883p-1 + 0x1.8p52, n = beside - 0x1.8p52;
    const double x = angle - n * quarter - n * middle - n * last, z = x * x;
    const double s = x * (1 - z / 6 * (1 - z / 20 * (1 - z / 42 * (1 - z / 72 * (1 - z / 110)))));
    const double c = 1 - z / 2 * (1 - z / 12 * (1 - z / 30 * (1 - z / 56 * (1 - z / 90 * (1 - z / 132)))));
    const uint64_t quarters = bits_of_double(beside);
    const uint64_t swapped = (bits_of_double(s) ^ bits_of_double(c)) & -(quarters & 1);
    *sine = double_of(bits_of_double(s) ^ swapped ^ (quarters & 2) << 62);
    *cosine = double_of(bits_of_double(c) ^ swapped ^ ((quarters + 1) & 2) << 62);
}
