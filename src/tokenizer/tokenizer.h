/* src/tokenizer/tokenizer.h: text to token ids and back, from a Hugging Face tokenizer.json.
 *
 * Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) and SentencePiece-style BPE with byte fallback (Llama 2,
 * Mistral): normalizers, pre-tokenizers, added tokens, template post-processor and decoders, equal to Hugging
 * Face `tokenizers` token for token. Truncation and padding settings in the file are ignored. A kind of part
 * that is not known is refused by name. Invalid UTF-8 in a text is replaced by U+FFFD, one for each maximal
 * invalid part (Unicode 15, 3.9, as WHATWG decoding does), before anything else.
 *
 * Everything is Local. An open tokenizer may be used by one thread at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/memory.h"
#include "src/base/status.h"
#include "src/tokenizer/token_list.h"

typedef struct tokenizer tokenizer;

/* From the file, or from its n bytes (name is for messages). Refuses with the file and the object in
 * question. */
status tokenizer_open(const char *path, tokenizer **out);
status tokenizer_parse(const char *json, size_t n, const char *name, tokenizer **out);
void tokenizer_close(tokenizer *tok);

/* One more than the largest token id. */
int32_t tokenizer_n_tokens(const tokenizer *tok);

/* The id of a token by its exact content, added tokens included; -1 if there is none. */
int32_t tokenizer_find(const tokenizer *tok, const char *content);

/* Append the ids of text to out. add_special: as the post-processor says (begin token and the like). A
 * character that the vocabulary cannot express (no unknown token, no byte fallback, no such byte) is left
 * out. Refuses a text on which an expression of the file backtracks without end. */
status tokenizer_encode(tokenizer *tok, const char *text, size_t n, bool add_special, token_list *out);

/* The same for a prompt, which may hold the template's tokens itself, as one that a chat template rendered
 * does: those that it begins or ends with are not put there a second time, which a notice says. */
status tokenizer_encode_prompt(tokenizer *tok, const char *text, size_t n, token_list *out);

/* The token that the post-processor puts before, or behind, every text; -1: none. */
int32_t tokenizer_begin_token(const tokenizer *tok);
int32_t tokenizer_end_token(const tokenizer *tok);

/* From now on this token stands before, or behind, every text as well. */
void tokenizer_put_begin(tokenizer *tok, int32_t id);
void tokenizer_put_end(tokenizer *tok, int32_t id);

/* Is it a special added token, which texts leave out? */
bool tokenizer_is_special(const tokenizer *tok, int32_t id);

/* Append the text of n ids to out; ids out of range give nothing. skip_special leaves out special added
 * tokens (all of them; Hugging Face tokenizers 0.23 keeps those that its normalizer changes, such as Llama's
 * <s>). */
void tokenizer_decode(tokenizer *tok, const int32_t *ids, size_t n, bool skip_special, text_buffer *out);

/* Append the bytes that one token stands for, which need not be whole characters; of a token that the decoder
 * changes by what is around it, its content in the file. */
void tokenizer_append_piece(const tokenizer *tok, int32_t id, text_buffer *out);

/* Decoding as tokens come: appends to out what is certain by now, in whole UTF-8 characters only; what all
 * pushes and the flush appended is what tokenizer_decode gives for the whole list. One thing differs: a run
 * of byte tokens (byte fallback) that is no UTF-8 becomes U+FFFD there as a whole, and here its characters
 * were told before the bad bytes came. Zeroed is a fresh stream, and so is one that was flushed; free with
 * text_stream_free. */
typedef struct text_stream {
    struct decoder_states *states; /* NULL: nothing came yet */
    bool skip_special;
    text_buffer known;  /* what tokens before the stream's own still hold back */
    size_t n_known_met; /* bytes of it that came and were left out */
} text_stream;

/* Begin a fresh stream behind n ids whose text is known: what pushes and the flush append is what later
 * tokens add to it. A character that is cut off at the end of the ids is among that when it is completed. */
void text_stream_begin_behind(tokenizer *tok, text_stream *stream, const int32_t *ids, size_t n);

void text_stream_push(tokenizer *tok, text_stream *stream, int32_t id, text_buffer *out);
void text_stream_flush(tokenizer *tok, text_stream *stream, text_buffer *out);
void text_stream_free(text_stream *stream);
