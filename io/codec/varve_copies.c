#include "io/codec/varve_copies.h"

#include <stdlib.h>

#include "kernels/varve_code.h"

void varve_copies_open(int n_tokens, varve_copies *out) {
    *out = (varve_copies){.n_tokens = n_tokens};
    out->sources = mem_new((size_t)n_tokens, sizeof *out->sources);
    out->grades = mem_new((size_t)n_tokens, sizeof *out->grades);
    varve_copies_clear(out);
}

void varve_copies_clear(varve_copies *c) {
    for (int i = 0; i < c->n_tokens; i++) {
        c->sources[i] = -1;
        c->grades[i] = 0;
    }
}

void varve_copies_close(varve_copies *c) {
    free(c->sources);
    free(c->grades);
    *c = (varve_copies){.n_tokens = 0};
}

/* ---- bytes ---- */

static int count_bits(int n_tokens) {
    int n = 0;
    while ((n_tokens - 1) >> n)
        n++;
    return n;
}

void varve_copies_append(const varve_copies *c, text_buffer *out) {
    const int n_bits = count_bits(c->n_tokens);
    uint64_t bits = 0;
    int n = 0;
    for (int token = 0; token < c->n_tokens; token += VARVE_TILE) {
        uint32_t lanes = 0;
        for (int i = token; i < c->n_tokens && i < token + VARVE_TILE; i++)
            lanes |= (uint32_t)(c->sources[i] >= 0) << (i - token);
        text_append(out, (const char *)&lanes, sizeof lanes);
    }
    for (int i = 0; i < c->n_tokens; i++) {
        if (c->sources[i] < 0) continue;
        bits |= (uint64_t)c->sources[i] << n;
        n += n_bits;
        if (n < 32) continue;
        text_append(out, (const char *)&(uint32_t){(uint32_t)bits}, sizeof(uint32_t));
        bits >>= 32;
        n -= 32;
    }
    if (n > 0) text_append(out, (const char *)&(uint32_t){(uint32_t)bits}, sizeof(uint32_t));
}

bool varve_copies_read(byte_reader *r, varve_copies *c) {
    const int n_bits = count_bits(c->n_tokens);
    byte_reader tiles = *r;
    uint64_t bits = 0;
    uint32_t lanes = 0, word;
    int n = 0;
    for (int token = 0; token < c->n_tokens; token += VARVE_TILE)
        byte_reader_take(r, &word, sizeof word);
    for (int i = 0; i < (c->n_tokens + VARVE_TILE - 1) / VARVE_TILE * VARVE_TILE; i++) {
        if (i % VARVE_TILE == 0) byte_reader_take(&tiles, &lanes, sizeof lanes);
        if (!(lanes >> i % VARVE_TILE & 1)) continue;
        if (i >= c->n_tokens) return false;
        if (n < n_bits) {
            byte_reader_take(r, &word, sizeof word);
            bits |= (uint64_t)word << n;
            n += 32;
        }
        c->sources[i] = (int32_t)(bits & ((UINT64_C(1) << n_bits) - 1));
        if (c->sources[i] >= c->n_tokens) return false;
        bits >>= n_bits;
        n -= n_bits;
    }
    return !r->is_short;
}

/* ---- tile after tile ---- */

bool varve_copies_settle(varve_copies *c, int tile, int grade, uint32_t coded, uint32_t *copies) {
    *copies = 0;
    for (int lane = 0, token = tile * VARVE_TILE; lane < VARVE_TILE && token < c->n_tokens; lane++, token++) {
        const int32_t source = c->sources[token];
        const bool is_coded = coded >> lane & 1;
        c->grades[token] = (uint8_t)(is_coded && source < 0 ? 1 + grade : 0);
        if (source < 0) continue;
        if (!is_coded || c->grades[source] != 1 + grade) return false;
        *copies |= 1u << lane;
    }
    return true;
}
