/* kernels/cpu/inner_rows.h: exp, and the kernels that pass once over a row. Written in the lanes of the file
 * that includes it, for both precisions: `bf16` is a constant in every call. */
#pragma once

#include <assert.h>

#include "kernels/cpu/cpu_isa.h"

#define INNER static inline __attribute__((always_inline))
#define APART static __attribute__((noinline)) /* what many places call is there once */

/* n <= 16 floats; the other lanes are 0. */
INNER lanes lanes_load_some(const float *x, int n) {
    if (n == 16) return lanes_load(x);
    float some[16] = {0};
    memcpy(some, x, (size_t)n * sizeof *x);
    return lanes_load(some);
}

/* The first n <= 16 lanes to y[i...] of type act. */
INNER void lanes_store_act(bool bf16, void *y, int i, int n, lanes x) {
    if (bf16 && n == 16) {
        lanes_store_bf16((uint16_t *)y + i, x);
    } else if (bf16) {
        uint16_t some[16];
        lanes_store_bf16(some, x);
        memcpy((uint16_t *)y + i, some, (size_t)n * sizeof *some);
    } else if (n == 16) {
        lanes_store((float *)y + i, x);
    } else {
        float some[16];
        lanes_store(some, x);
        memcpy((float *)y + i, some, (size_t)n * sizeof *some);
    }
}

INNER int lanes_left(int n, int i) {
    return n - i < 16 ? n - i : 16;
}

/* exp(x) = 2^k exp(r), k = round(x / ln 2), |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 q(r), with q of degree 4
 * fitted for the least relative error (3e-9). Adding 1.5 2^23 rounds to an integer and leaves it in the low
 * bits. ln 2 is cut in two, so that k times the upper part is exact. */
INNER lanes lanes_exp(lanes x) {
    const lanes round = lanes_set(0x1.8p23f), low = lanes_set(-87.0f), high = lanes_set(88.0f);
    lanes clamped = lanes_max(low, lanes_min(high, x));
    lanes k = lanes_fma(clamped, lanes_set(0x1.715476p+0f), round);
    lanes whole = lanes_sub(k, round);
    lanes r = lanes_fma(whole, lanes_set(-0x1.63p-1f), clamped);
    r = lanes_fma(whole, lanes_set(0x1.bd0106p-13f), r);
    lanes q = lanes_set(0x1.6a2336p-10f);
    q = lanes_fma(q, r, lanes_set(0x1.123a6ep-7f));
    q = lanes_fma(q, r, lanes_set(0x1.5558f4p-5f));
    q = lanes_fma(q, r, lanes_set(0x1.555490p-3f));
    q = lanes_fma(q, r, lanes_set(0x1.fffffcp-2f));
    lanes y = lanes_fma(lanes_mul(r, r), q, r);
    y = lanes_mul(lanes_add(y, lanes_set(1)), lanes_pow2(k));
    return lanes_if_less(x, low, lanes_set(0), y);
}

static void inner_exp(const float *x, int n, float *y) {
    for (int i = 0; i < n; i += 16) {
        int left = lanes_left(n, i);
        lanes_store_act(false, y, i, left, lanes_exp(lanes_load_some(x + i, left)));
    }
}

INNER void store_any(bool bf16, const float *x, int n, void *y) {
    for (int i = 0; i < n; i += 16) {
        int left = lanes_left(n, i);
        lanes_store_act(bf16, y, i, left, lanes_load_some(x + i, left));
    }
}

/* Four sums, so that additions need not wait for each other. */
INNER float sum_of_squares(const float *x, int n) {
    lanes sums[4] = {lanes_set(0), lanes_set(0), lanes_set(0), lanes_set(0)};
    int i = 0;
    for (; i + 64 <= n; i += 64)
        for (int j = 0; j < 4; j++) {
            lanes v = lanes_load(x + i + 16 * j);
            sums[j] = lanes_fma(v, v, sums[j]);
        }
    for (; i < n; i += 16) {
        lanes v = lanes_load_some(x + i, lanes_left(n, i));
        sums[0] = lanes_fma(v, v, sums[0]);
    }
    return lanes_sum(lanes_add(lanes_add(sums[0], sums[1]), lanes_add(sums[2], sums[3])));
}

INNER void rmsnorm_any(bool bf16, const float *x, const float *weight, float eps, int n, void *y) {
    lanes scale = lanes_set(1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps));
    for (int i = 0; i < n; i += 16) {
        int left = lanes_left(n, i);
        lanes scaled = lanes_mul(lanes_load_some(x + i, left), scale);
        lanes_store_act(bf16, y, i, left, lanes_mul(scaled, lanes_load_some(weight + i, left)));
    }
}

/* silu(g) = g / (1 + exp(-g)) */
INNER void swiglu_any(bool bf16, const float *gate, const float *up, int n, void *y) {
    for (int i = 0; i < n; i += 16) {
        int left = lanes_left(n, i);
        lanes g = lanes_load_some(gate + i, left);
        lanes e = lanes_exp(lanes_sub(lanes_set(0), g));
        lanes silu = lanes_div(g, lanes_add(lanes_set(1), e));
        lanes_store_act(bf16, y, i, left, lanes_mul(silu, lanes_load_some(up + i, left)));
    }
}
