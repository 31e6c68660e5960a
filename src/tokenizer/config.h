/* src/tokenizer/config.h: what the tokenizer_config.json of a model directory adds to its tokenizer.json.
 *
 * That is add_bos_token and add_eos_token, where the file's class has them (Llama, Code Llama, Gemma, Cohere,
 * GPT-NeoX; or it names none): the begin or end token around every text that tokenizer.json does not put
 * there. Releases of Hugging Face transformers differ here: 4 lets these flags replace what tokenizer.json
 * says, 5 ignores them beside a tokenizer.json. So a flag that is true is followed, one that is false does
 * not take away what tokenizer.json puts, and a notice tells of either. Local. */
#pragma once

#include "src/tokenizer/tokenizer.h"

/* Read the file, if it is there. One that cannot be used becomes a notice; so does a token that is not there.
 */
void tokenizer_config_apply(const char *model_dir, tokenizer *tok);
