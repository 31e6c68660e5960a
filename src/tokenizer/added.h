/* src/tokenizer/added.h: tokens that are found in the text as they are, before the model sees it. Local. */
#pragma once

#include <stdbool.h>

#include "io/json.h"
#include "src/tokenizer/normalize.h"
#include "src/tokenizer/pieces.h"
#include "src/tokenizer/vocab.h"

typedef struct added_token {
    char *content; /* as in the file */
    char *pattern; /* what is looked for: the normalized content if the token is `normalized` */
    size_t n_pattern;
    int32_t id;
    bool single_word;    /* found only where no word goes on to its left or right */
    bool lstrip, rstrip; /* takes the white space to its left or right with it */
    bool normalized;     /* looked for in the normalized text, else in the text as it comes */
    bool special;
} added_token;

/* Tokens in the order of their patterns, which are looked for together. */
typedef struct added_matcher {
    const added_token **tokens;
    size_t n;
    bool begins[256]; /* whether a pattern begins with this byte */
} added_matcher;

typedef struct added_tokens {
    added_token *tokens;
    size_t n;
    const added_token **by_content; /* the same, ordered */
    added_matcher raw, normalized;
} added_tokens;

/* From the member "added_tokens", where it is there. The caller frees also after a refusal. */
void added_tokens_parse(added_tokens *added, json_object *owner, const vocab *voc, const normalizer *norm);
void added_tokens_free(added_tokens *added);

/* The token of this content, or NULL. */
const added_token *added_tokens_find(const added_tokens *added, const char *content);

/* Cut n bytes of text, which stand at `base` in the text of the list, at the tokens found in it: of all that
 * begin at the leftmost place the longest, then on behind it. */
void added_matcher_cut(const added_matcher *matcher, size_t base, size_t n, bool first, piece_list *to);
