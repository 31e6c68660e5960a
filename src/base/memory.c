#include "src/base/memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/status.h"

void *mem_new(size_t n, size_t item_bytes) {
    void *p = calloc(n ? n : 1, item_bytes ? item_bytes : 1);
    if (!p) status_die("out of memory: wanted %zu x %zu bytes", n, item_bytes);
    return p;
}

void *mem_resize(void *old, size_t n, size_t item_bytes) {
    if (item_bytes && n > SIZE_MAX / item_bytes)
        status_die("out of memory: wanted %zu x %zu bytes", n, item_bytes);
    size_t bytes = n * item_bytes;
    void *p = realloc(old, bytes ? bytes : 1);
    if (!p) status_die("out of memory: wanted %zu bytes", bytes);
    return p;
}

void *mem_grow(void *items, size_t n, size_t item_bytes) {
    const bool is_full = (n & (n - 1)) == 0;
    return is_full ? mem_resize(items, n ? 2 * n : 1, item_bytes) : items;
}

double mem_mib(uint64_t bytes) {
    const uint64_t mib = 1 << 20;
    return (double)(bytes / mib) + (double)((bytes % mib * 10 + mib - 1) / mib) / 10;
}

char *mem_copy_text(const char *text, size_t n) {
    char *copy = mem_new(n + 1, 1);
    if (n) memcpy(copy, text, n);
    return copy;
}

void text_append(text_buffer *text, const char *data, size_t n) {
    if (text->n + n + 1 > text->capacity) {
        size_t capacity = 2 * text->capacity + n + 64;
        text->data = mem_resize(text->data, capacity, 1);
        text->capacity = capacity;
    }
    if (n) memcpy(text->data + text->n, data, n);
    text->n += n;
    text->data[text->n] = '\0';
}
