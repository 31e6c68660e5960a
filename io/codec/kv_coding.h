/* io/codec/kv_coding.h: how K and V are coded in files: by which codec, how finely, and in chunks of what.
 * Local. */
#pragma once

#include <stdbool.h>

#include "io/codec/kv_tables.h"

typedef enum kv_codec {
    KV_CODEC_NONE,     /* the elements as they are */
    KV_CODEC_LOSSLESS, /* sign and fraction as they are, exponents entropy coded */
    KV_CODEC_CACHEGEN, /* io/codec/cachegen.h: the yardstick */
    KV_CODEC_FAST,     /* io/codec/varve.h: VARVE_FAST, and */
    KV_CODEC_SMALL,    /* VARVE_SMALL */
    N_KV_CODECS
} kv_codec;

/* "none", "lossless", "cachegen", "kvarve:fast", "kvarve:small": as they stand in files. */
const char *kv_codec_name(kv_codec codec);
bool kv_codec_find(const char *name, kv_codec *out); /* false: no such name */

/* Do the same elements come back? The others bend them, and want tables. */
static inline bool kv_codec_is_exact(kv_codec codec) {
    return codec <= KV_CODEC_LOSSLESS;
}

typedef struct kv_coding {
    kv_codec codec;
    int level;     /* CacheGen's, from 1 to CACHEGEN_LEVELS, or kvarve's step_level (varve.h); else 0 */
    double bits;   /* an element, for which the level is to be found; 0: it is known */
    bool has_base; /* of kvarve's: in two planes, of which the first can be loaded by itself */
} kv_coding;

/* From "lossless", "none", "cachegen:2", "kvarve:fast:3", "kvarve:small:1.1b", "kvarve:small:3+base". Refuses
 * all else with what there is. */
status kv_coding_parse(const char *text, kv_coding *out);

/* Is there such a level of this codec, and can it have a base? To be asked of what comes from a file. Bits do
 * not count. */
bool kv_coding_is_valid(const kv_coding *c);

/* Find the level of so many bits, if it is not known. */
void kv_coding_settle(kv_coding *c, const kv_tables *tables);

/* As it could be given, or for kvarve's steps between those of levels, "kvarve:small, step 0.59". */
enum { KV_CODING_TEXT_BYTES = 48 };
void kv_coding_text(const kv_coding *c, char text[KV_CODING_TEXT_BYTES]);

/* The step of one of kvarve's codecs, in units. */
double kv_coding_step(const kv_coding *c);

/* What lies in one chunk: so many layers (at the end of a range, fewer), both parts of them or one, and at
 * most so many tokens of elements of this type. */
typedef struct kv_chunking {
    int n_layers, n_parts, n_tokens;
} kv_chunking;

kv_chunking kv_chunking_of(kv_codec codec, dtype type, int n_kv_heads, int head_dim);
