/* src/tokenizer/synth_tokenizer.h: the tokenizer of synthetic models: each byte of a text is a token. Local.
 */
#pragma once

#include "src/base/memory.h"

/* A tokenizer.json of byte-level BPE without merges: the bytes, a begin and an end token, and words that no
 * text is cut into, so that each of vocab_size ids has a text. */
void synth_tokenizer_append(int vocab_size, text_buffer *out);

/* The tokenizer_config.json beside it. */
void synth_tokenizer_append_config(long long max_tokens, text_buffer *out);
