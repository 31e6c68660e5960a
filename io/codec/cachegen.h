/* io/codec/cachegen.h: the codec of CacheGen (Liu et al., SIGCOMM 2024, arXiv 2310.07240, section 5), kept as
 * the yardstick of ours.
 *
 * Positions go in groups of ten. The first of a group, its anchor, is kept with 8 bits; the others as their
 * difference from the anchor, divided by a bin's size and rounded. Bins are 0.5, 1 and 1.5 units in the
 * first, middle and last third of the layers, times the level's factor; symbols are entropy coded with tables
 * for each layer, K or V, channel, and anchors or differences apart, which are made once for a model from
 * texts (cachegen_build). The paper leaves open what a unit is: here it is the root of the mean square of all
 * the layer's differences, of K or of V, in those texts (a unit for each channel is worse: at equal bits the
 * tokens behind diverge three times as far). Nor does it say what becomes of values beyond its tables: here
 * they are kept exactly, as bf16, behind a symbol of escape.
 *
 * What is decoded is the same bits on every processor. All functions are Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "io/codec/byte_reader.h"
#include "io/codec/kv_chunk.h"
#include "io/codec/rans.h"
#include "src/base/memory.h"
#include "src/base/status.h"

enum { CACHEGEN_GROUP = 10, CACHEGEN_LEVELS = 4, CACHEGEN_KINDS = CACHEGEN_LEVELS + 1 };

/* What bins are multiplied with, finest first: level 2 is the paper's. */
extern const float cachegen_factors[CACHEGEN_LEVELS];

/* How the symbols of a channel are distributed: symbol i of n, i + 1 < n, is the number first + i; the last
 * one is the escape. Its range begins at starts[i]; starts[n] is RANS_TOTAL. */
typedef struct cachegen_table {
    int16_t first;
    uint16_t n;
    const uint16_t *starts; /* [n + 1] */
} cachegen_table;

/* K or V of one layer, of n_channels = kv heads x head width. */
typedef struct cachegen_tables {
    int n_channels;
    float bin;                    /* of the layer, in units */
    float unit;                   /* of differences */
    const float *anchor_units;    /* [n_channels]: what an anchor's numbers are multiplied with */
    const cachegen_table *tables; /* [CACHEGEN_KINDS, n_channels]: of each level's differences; of anchors */
    uint16_t *starts;             /* all of theirs */
} cachegen_tables;

/* Bins of a layer: by the third that it lies in. */
float cachegen_bin(int layer, int n_layers);

/* Tables from samples [n_tokens, n_channels] of windows of so many tokens, each of which begins a group, as
 * bytes that cachegen_tables_read reads: appended to out. */
void cachegen_build(const float *samples, int64_t n_tokens, int64_t window_tokens, int n_channels, float bin,
                    text_buffer *out);

/* Tables from the bytes that cachegen_build appended, none of which is trusted. Release with
 * cachegen_tables_free. */
status cachegen_tables_read(byte_reader *r, cachegen_tables *out);
void cachegen_tables_free(cachegen_tables *t); /* zeroed is fine */

/* Encode a chunk with these tables at a level from 1 on; the bytes of the payload, which has room for
 * cachegen_max_bytes. */
size_t cachegen_max_bytes(const kv_chunk_shape *shape);
size_t cachegen_encode(const cachegen_tables *t, int level, const kv_chunk_shape *shape, const void *elements,
                       uint8_t *payload);

/* Decode n_bytes, none of which is trusted, to a chunk of this shape. */
status cachegen_decode(const cachegen_tables *t, int level, const uint8_t *payload, size_t n_bytes,
                       const kv_chunk_shape *shape, void *elements);
