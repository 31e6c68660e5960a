/* src/base/memory.h: host memory for small things. A failure ends the program, so callers need not check.
 *
 * What is large (weights, the KV pool, workspaces) is taken through the device, whose failure is a status
 * with the bytes wanted. Sizes that come from a file are checked by the reader before they are used here.
 * Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* n zeroed items of item_bytes; never NULL, also for n == 0. Released with free(). */
void *mem_new(size_t n, size_t item_bytes);

/* Grow or shrink to n items of item_bytes; new bytes are not zeroed. */
void *mem_resize(void *old, size_t n, size_t item_bytes);

/* Room for one more behind n items of an array that grows by nothing else, from NULL on; it may have had more
 * items meanwhile. It doubles. New bytes are not zeroed. */
void *mem_grow(void *items, size_t n, size_t item_bytes);

/* Bytes in MiB, rounded up to a tenth: for messages, so that what they ask for is enough. */
double mem_mib(uint64_t bytes);

/* A copy of n bytes with a zero byte behind them, so that text is also a C string. */
char *mem_copy_text(const char *text, size_t n);

/* A text that grows: zeroed is empty; data (when not NULL) always ends with a zero byte. Released with
 * free(data). */
typedef struct text_buffer {
    char *data;
    size_t n, capacity;
} text_buffer;

void text_append(text_buffer *text, const char *data, size_t n);
