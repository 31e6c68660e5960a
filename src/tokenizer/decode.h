/* src/tokenizer/decode.h: the decoder of a tokenizer.json, which makes a text of tokens.
 *
 * Known: ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, and Sequence of these; without a decoder
 * the tokens are joined by spaces. Each step takes tokens one by one and passes on what is certain, so that a
 * text can be decoded while its tokens come. Local. */
#pragma once

#include <stdbool.h>

#include "io/json.h"
#include "src/base/memory.h"

/* Steps in order. */
typedef struct decoder {
    struct decoder_step *steps;
    size_t n;
} decoder;

/* What the steps have to remember between the tokens of one text. */
typedef struct decoder_states decoder_states;

/* From the object "decoder", where it is there. The caller frees also after a refusal. */
void decoder_parse(decoder *dec, json_object *json);
void decoder_free(decoder *dec);

/* The states at the beginning of a text. A run of byte tokens that is no UTF-8 becomes U+FFFD for each byte,
 * also of those that are whole characters. streams: they are not held for that, but passed on as soon as they
 * are whole, unless a step behind looks at the run as one token. */
decoder_states *decoder_states_new(const decoder *dec, bool streams);
void decoder_states_free(decoder_states *states); /* NULL is allowed */

/* Take a token's content; append what is certain of the text, in whole characters. */
void decoder_push(const decoder *dec, decoder_states *states, const char *token, size_t n, text_buffer *out);

/* Append the bytes that a token stands for by itself; of one that stands for no certain bytes its content. */
void decoder_append_piece(const decoder *dec, const char *token, size_t n, text_buffer *out);

/* No more tokens come: append what was held, and begin a new text. */
void decoder_finish(const decoder *dec, decoder_states *states, text_buffer *out);
