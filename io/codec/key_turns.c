#include "io/codec/key_turns.h"

#include "kernels/varve_code.h"

void key_turns_of(const float *frequencies, int width, int64_t pos, float *turns) {
    const int half = width / 2;
    for (int i = 0; i < half; i++) {
        double sine, cosine;
        key_angle((double)(float)((double)pos * (double)frequencies[i]), &sine, &cosine);
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
