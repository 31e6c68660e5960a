/* src/tokenizer_unicode.h: what kind of character a code point is, by the Unicode version of Hugging Face
 * tokenizers.
 *
 * That program holds several versions: 16 in its regular expressions, 17 in the Rust library, 9 in its
 * normalization forms. The libraries here know another one (14 or 15 on Debian 12), so the differences stand
 * in tables. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "src/base/memory.h"

bool unicode_is_white_space(uint32_t code); /* property White_Space */
bool unicode_is_numeric(uint32_t code);     /* categories Nd, Nl, No */
bool unicode_is_word(uint32_t code);        /* \w of Unicode Technical Standard 18 */

/* The lowercase form is one code point, but for U+0130, whose U+0307 the caller has to add. */
uint32_t unicode_to_lower(uint32_t code);

/* Append, as the inside of a PCRE2 class, the characters of Unicode 15 and 16 whose two-letter category
 * begins with `category`. */
void unicode_append_newer(text_buffer *out, const char *category);

/* A character that has a decomposition or a combining class, but not in Unicode 9. */
bool unicode_is_inert_in_forms(uint32_t code);
