/* src/tokenizer/normalize.h: the normalizer of a tokenizer.json, which rewrites the text before it is cut.
 *
 * Known: NFC, NFD, NFKC, NFKD, Lowercase, Nmt, Strip, StripAccents, Prepend, Replace, ByteLevel, and Sequence
 * of these. Of those that Hugging Face tokenizers has, BertNormalizer and Precompiled are refused. Local. */
#pragma once

#include <stdbool.h>

#include "io/json.h"
#include "src/base/memory.h"

/* Steps in order; zeroed changes nothing. */
typedef struct normalizer {
    struct normalizer_step *steps;
    size_t n;
} normalizer;

/* From the object "normalizer", where it is there. The caller frees also after a refusal. */
void normalizer_parse(normalizer *norm, json_object *json);
void normalizer_free(normalizer *norm);

/* Append the normalized text; n bytes of valid UTF-8 to valid UTF-8. *keeps_first: whether its beginning is
 * what became of the text's first character, which was not taken away. */
status normalizer_apply(const normalizer *norm, const char *text, size_t n, text_buffer *out,
                        bool *keeps_first);
