/* tests/device_arrays.h: what the tests of every kind of device share: the devices of this machine in both
 * precisions, and arrays in a device's memory, which only copies reach. */
#pragma once

#include <stdio.h>

#include "tests/device_fixture.h"

/* The squared error of rounding to bf16 relative to the result, at worst. */
static const double BF16_BOUND = 0x1.01p-16;

/* A device under test, and its name for messages. */
typedef struct tested {
    device *dev;
    char name[32];
} tested;

/* Run body for every kind of device that is here, in both precisions. */
static inline void for_each_kind(void (*body)(const tested *t)) {
    const device_kind kinds[] = {DEVICE_CPU, DEVICE_CUDA};
    for (int i = 0; i < 4; i++) {
        tested t = {0};
        precision p = i % 2 ? PRECISION_F32 : PRECISION_BF16;
        if (device_count(kinds[i / 2], NULL) < 1) continue;
        snprintf(t.name, sizeof t.name, "%s %s", device_kind_name(kinds[i / 2]), i % 2 ? "f32" : "bf16");
        if (!CHECK_OK(device_open(kinds[i / 2], 0, p, 2, &t.dev))) continue;
        body(&t);
        close_device(t.dev);
    }
}

static inline void *array_new(device *dev, const void *host, size_t bytes) {
    void *x = NULL;
    CHECK_OK(dev->ops->alloc(dev, bytes, &x));
    dev->ops->copy_in(dev, x, host, bytes);
    return x;
}

/* n numbers of NaN. */
static inline void *array_poisoned(device *dev, dtype type, size_t n) {
    void *nan = new_poisoned(type, n), *x = array_new(dev, nan, n * dtype_bytes(type));
    free(nan);
    return x;
}

/* What is there now, in host memory: free() it. */
static inline void *array_read(device *dev, const void *x, size_t bytes) {
    void *host = mem_new(bytes, 1);
    dev->ops->copy_out(dev, host, x, bytes);
    CHECK_OK(dev->ops->sync(dev));
    return host;
}

/* What is there now; the array is gone. */
static inline void *array_take(device *dev, void *x, size_t bytes) {
    void *host = array_read(dev, x, bytes);
    dev->ops->release(dev, x);
    return host;
}

/* x + n elements of a type. */
static inline void *array_at(const void *x, dtype type, size_t n) {
    return (char *)x + n * dtype_bytes(type);
}

static inline bool same_bits(const void *a, const void *b, dtype type, size_t n) {
    return !memcmp(a, b, n * dtype_bytes(type));
}

static inline size_t count_nan(const void *x, dtype type, size_t n) {
    size_t n_nan = 0;
    for (size_t i = 0; i < n; i++)
        n_nan += isnan(number_at(x, type, i)) ? 1 : 0;
    return n_nan;
}
