/* src/tokenizer/bpe.h: the model of a tokenizer.json, of type BPE: a piece of text to token ids.
 *
 * A piece becomes symbols (its characters, or their bytes where the vocabulary has none and falls back, or
 * the unknown token), and neighbouring symbols are merged. A character that the vocabulary can express in
 * none of these ways is left out, as in Hugging Face tokenizers. Local. */
#pragma once

#include <stdbool.h>

#include "io/json.h"
#include "src/tokenizer/cache.h"
#include "src/tokenizer/merge.h"
#include "src/tokenizer/token_list.h"
#include "src/tokenizer/vocab.h"

enum { BPE_NO_ID = -1, BPE_N_DIRECT = 0x300 };

typedef struct bpe {
    vocab voc;
    merge_table merges;
    word_cache cache;
    int32_t direct_ids[BPE_N_DIRECT]; /* of the characters below U+0300 */
    int32_t byte_ids[256];            /* of the tokens <0x00> to <0xFF> */
    char *unk_token;                  /* NULL: none */
    int32_t unk_id;
    bool fuse_unk;      /* neighbouring unknown characters become one unknown token */
    bool byte_fallback; /* a character without a token becomes the tokens of its bytes */
    bool ignore_merges; /* a piece that is a token needs no merging */
    token_list symbols; /* of the piece in work */
} bpe;

/* From the object "model". The caller frees also after a refusal. */
void bpe_parse(bpe *model, json_object *json);
void bpe_free(bpe *model);

/* Append the ids of a piece, n bytes of valid UTF-8. */
status bpe_encode(bpe *model, const char *piece, size_t n, token_list *out);
