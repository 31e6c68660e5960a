#include "io/codec/key_turns.h"

#include <math.h>

/* Sine and cosine within a unit of float32's last place, up to a million turns: the angle less a multiple of
 * a quarter turn, which is subtracted in three parts (Cody and Waite 1980), and the series of Taylor. */
static void sine_and_cosine(double angle, double *sine, double *cosine) {
    static const double quarter = 0x1.921fb544p+0, middle = 0x1.0b4611a6p-34, last = 0x1.3198a2e037073p-69;
    const double n = nearbyint(angle * 0x1.45f306dc9c883p-1);
    const double x = angle - n * quarter - n * middle - n * last, z = x * x;
    const double s = x * (1 - z / 6 * (1 - z / 20 * (1 - z / 42 * (1 - z / 72 * (1 - z / 110)))));
    const double c = 1 - z / 2 * (1 - z / 12 * (1 - z / 30 * (1 - z / 56 * (1 - z / 90 * (1 - z / 132)))));
    switch ((int64_t)n & 3) {
    case 0:
        *sine = s, *cosine = c;
        break;
    case 1:
        *sine = c, *cosine = -s;
        break;
    case 2:
        *sine = -s, *cosine = -c;
        break;
    default:
        *sine = -c, *cosine = s;
    }
}

void key_turns_of(const float *frequencies, int width, int64_t pos, float *turns) {
    const int half = width / 2;
    for (int i = 0; i < half; i++) {
        double sine, cosine;
        sine_and_cosine((double)(float)((double)pos * (double)frequencies[i]), &sine, &cosine);
        turns[i] = (float)cosine;
        turns[i + half] = (float)sine;
    }
}

void key_turn(const float *turns, int width, float *x) {
    const int half = width / 2;
    for (int i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * turns[i] - b * turns[i + half];
        x[i + half] = b * turns[i] + a * turns[i + half];
    }
}

void key_turn_back(const float *turns, int width, float *x) {
    const int half = width / 2;
    for (int i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * turns[i] + b * turns[i + half];
        x[i + half] = b * turns[i] - a * turns[i + half];
    }
}
