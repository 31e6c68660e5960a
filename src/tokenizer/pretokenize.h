/* src/tokenizer/pretokenize.h: the pre-tokenizer of a tokenizer.json, which cuts the text into words.
 *
 * Known are all that Hugging Face tokenizers has: BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits,
 * FixedLength, Metaspace, Punctuation, Split, UnicodeScripts, Whitespace, WhitespaceSplit, and Sequence.
 * Local. */
#pragma once

#include "io/json.h"
#include "src/tokenizer/pieces.h"

/* Steps in order; zeroed changes nothing. */
typedef struct pretokenizer {
    struct pretokenizer_step *steps;
    size_t n;
} pretokenizer;

/* From the object "pre_tokenizer", where it is there. The caller frees also after a refusal. */
void pretokenizer_parse(pretokenizer *pre, json_object *json);
void pretokenizer_free(pretokenizer *pre);

/* Cut the pieces of text further; some steps also rewrite the text. */
status pretokenizer_apply(const pretokenizer *pre, piece_list *pieces);
