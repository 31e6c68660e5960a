/* io/codec/rans.h: symbols of known probabilities as bits, close to their entropy: range variants of
 * asymmetric numeral systems (Duda 2013, arXiv 1311.2540; interleaved: Giesen 2014, arXiv 1402.3392).
 *
 * Probabilities are multiples of 2^-RANS_BITS: a symbol has a range of the numbers below RANS_TOTAL, and the
 * ranges of a model's symbols tile them. Symbol i of a stream belongs to lane i % RANS_LANES; lanes are
 * states of 32 bits that share one string of 16-bit words, so that a machine can advance many at once. A
 * stream: the lanes' states, 4 bytes each, then the words; all little-endian. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/varve_code.h"

/* A state is at least this between symbols. */
enum { RANS_LEAST = 1 << 16 };

/* A symbol's numbers [start, start + size), size > 0. */
typedef struct rans_range {
    uint16_t start, size;
} rans_range;

/* Share the numbers out over n symbols that came so often, as nearly in proportion as can be, but at least
 * one to each. */
void rans_share_out(const int64_t *counts, int n, uint16_t *sizes);

/* A symbol from -128 to 127 and its range, of less than all numbers, in one word: for tables by number. */
static inline uint32_t rans_slot(int symbol, rans_range range) {
    return ((uint32_t)symbol & 0xff) | (uint32_t)range.start << 8 | (uint32_t)range.size << 20;
}

/* The most bytes that a stream of n symbols takes. */
size_t rans_max_bytes(size_t n);

/* Encode the n symbols of these ranges; the bytes of the stream. A range of all numbers is no symbol: it
 * takes nothing, and its lane stays as it is. */
size_t rans_encode(const rans_range *symbols, size_t n, uint8_t *out);

/* A stream that is being decoded. */
typedef struct rans_decoder {
    uint32_t states[RANS_LANES];
    const uint8_t *next, *end;
    bool is_short; /* it ended too early: what came since is wrong */
} rans_decoder;

/* False: the stream is too short for its head. */
bool rans_decoder_begin(rans_decoder *d, const uint8_t *stream, size_t n_bytes);

/* The number, below RANS_TOTAL, in whose range the lane's next symbol is; */
static inline uint32_t rans_peek(const rans_decoder *d, size_t lane) {
    return d->states[lane] & (RANS_TOTAL - 1);
}

/* that symbol is this one: go on. */
static inline void rans_advance(rans_decoder *d, size_t lane, rans_range symbol) {
    uint32_t x = d->states[lane];
    x = symbol.size * (x >> RANS_BITS) + (x & (RANS_TOTAL - 1)) - symbol.start;
    if (x < RANS_LEAST) {
        uint16_t word = 0;
        if (d->end - d->next >= 2) {
            memcpy(&word, d->next, sizeof word);
            d->next += sizeof word;
        } else {
            d->is_short = true;
        }
        x = x << 16 | word;
    }
    d->states[lane] = x;
}

/* Behind the last symbol: has the stream been used up, and do its lanes stand where an encoder begins? */
bool rans_is_over(const rans_decoder *d);
