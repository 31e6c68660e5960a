/* io/codec/kv_blocks.h: the inner loops of the lossless codec, over blocks of 64 elements: one table for each
 * instruction set. All tables give the same bytes.
 *
 * An element's high half is its upper 16 bits: all of a bf16. Its exponent, less the base of its channel, is
 * the symbol that the tree codes; sign and upper 7 bits of the fraction are a byte of the plane `signs`; the
 * lower 16 bits of an f32 are a word of the plane `lows`. A u8 is a symbol itself. All is Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/codec/kv_tree.h"
#include "kernels/dtype.h"

enum { KV_BLOCK = 64, KV_MAX_COMMON = 16 };

/* A chunk, and the offsets of its parts in the payload. */
typedef struct kv_parts {
    dtype type;
    size_t n_elements, n_channels; /* element i is of channel i % n_channels */
    kv_tree tree;
    const uint8_t *bases;      /* [n_channels]; NULL: all zero */
    size_t bits[KV_MAX_NODES]; /* of each node: 64-bit words, the first bit lowest */
    size_t signs;              /* [n_elements] bytes; none of u8 */
    size_t lows;               /* [n_elements] 16-bit words, of f32 only */
} kv_parts;

typedef struct kv_blocks {
    const char *isa;
    bool (*is_available)(void);

    /* How often each symbol occurs; fast for the n_common symbols in `common`. No tree is needed yet. */
    void (*count)(const kv_parts *parts, const void *elements, int n_common,
                  const uint8_t common[KV_MAX_COMMON], uint32_t counts[KV_SYMBOLS]);

    /* Fill the payload's parts from the elements, from whose counts the tree was built. The last of a node's
     * n_bits / 64 + 1 words is padded with zeros. */
    void (*encode)(const kv_parts *parts, const void *elements, uint8_t *payload);

    /* Do the bits of every node hold as many zeros and ones as its children have bits? The parts must lie
     * within the payload. */
    bool (*check)(const kv_parts *parts, const uint8_t *payload);

    /* From a payload that passes the check. The word behind the last node's words is read, but not used. */
    void (*decode)(const kv_parts *parts, const uint8_t *payload, void *elements);
} kv_blocks;

/* Best first; NULL at the end. */
extern const kv_blocks *const kv_blocks_all[];

/* The best that this processor has. */
const kv_blocks *kv_blocks_best(void);
