/* io/codec/byte_reader.h: numbers out of bytes of a file, none of which is trusted. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* What is left of them. */
typedef struct byte_reader {
    const char *at;
    size_t n;
    bool is_short; /* more was asked for than there was: those were zeros */
} byte_reader;

static inline void byte_reader_take(byte_reader *r, void *out, size_t n) {
    if (r->n < n) r->is_short = true;
    if (r->is_short) {
        memset(out, 0, n);
        return;
    }
    memcpy(out, r->at, n);
    r->at += n;
    r->n -= n;
}
