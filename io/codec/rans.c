#include "io/codec/rans.h"

#include <stdlib.h>

#include "src/base/memory.h"

void rans_share_out(const int64_t *counts, int n, uint16_t *sizes) {
    int64_t all = 0, left = RANS_TOTAL;
    int most = 0;
    for (int i = 0; i < n; i++)
        all += counts[i];
    for (int i = 0; i < n; i++) {
        const int64_t size = all ? counts[i] * (RANS_TOTAL - n) / all : 0;
        sizes[i] = (uint16_t)(1 + size);
        left -= sizes[i];
        if (counts[i] > counts[most]) most = i;
    }
    sizes[most] = (uint16_t)(sizes[most] + left);
}

size_t rans_max_bytes(size_t n) {
    return RANS_HEAD_BYTES + 2 * n; /* at most a word for each symbol */
}

/* From the last symbol to the first, so that a decoder goes forward; the words come in that order too. */
size_t rans_encode(const rans_range *symbols, size_t n, uint8_t *out) {
    uint32_t states[RANS_LANES];
    uint16_t *words = mem_new(n, sizeof *words);
    size_t n_words = 0;
    for (int lane = 0; lane < RANS_LANES; lane++)
        states[lane] = RANS_LEAST;
    for (size_t i = n; i-- > 0;) {
        uint32_t x = states[i % RANS_LANES];
        const uint32_t size = symbols[i].size;
        if (x >> (32 - RANS_BITS) >= size) {
            words[n_words++] = (uint16_t)x;
            x >>= 16;
        }
        states[i % RANS_LANES] = (x / size << RANS_BITS) + x % size + symbols[i].start;
    }
    memcpy(out, states, sizeof states);
    for (size_t i = 0; i < n_words; i++)
        memcpy(out + RANS_HEAD_BYTES + 2 * i, &words[n_words - 1 - i], sizeof *words);
    free(words);
    return RANS_HEAD_BYTES + 2 * n_words;
}

bool rans_decoder_begin(rans_decoder *d, const uint8_t *stream, size_t n_bytes) {
    if (n_bytes < RANS_HEAD_BYTES) return false;
    memcpy(d->states, stream, RANS_HEAD_BYTES);
    d->next = stream + RANS_HEAD_BYTES;
    d->end = stream + n_bytes;
    d->is_short = false;
    return true;
}

bool rans_is_over(const rans_decoder *d) {
    for (int lane = 0; lane < RANS_LANES; lane++)
        if (d->states[lane] != RANS_LEAST) return false;
    return d->next == d->end && !d->is_short;
}
