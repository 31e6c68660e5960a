/* src/tokenizer/vocab.h: the model's tokens, by content and by id. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "io/json.h"
#include "src/base/hash_map.h"
#include "src/base/memory.h"

typedef struct vocab_entry {
    size_t at; /* in the text of the vocabulary */
    int32_t n; /* bytes; -1: no token has this id */
} vocab_entry;

/* Zeroed is empty. Ids may have gaps. */
typedef struct vocab {
    text_buffer text; /* the contents, one behind the other */
    vocab_entry *entries;
    int32_t n_ids; /* largest id + 1 */
    int32_t n_tokens;
    hash_map ids; /* by hash of the content, plus one */
} vocab;

/* From the member "vocab", an object {content: id, ...}. The caller frees also after a refusal. */
void vocab_parse(vocab *voc, json_object *owner);
void vocab_free(vocab *voc);

/* The id of the token with this content, or -1. */
int32_t vocab_find(const vocab *voc, const char *content, size_t n);

/* The content of a token; NULL when no token has this id. Ends with its n-th byte. */
const char *vocab_content(const vocab *voc, int32_t id, size_t *n);
