/* src/tokenizer/unicode.h: what kind of character a code point is, by the Unicode version of Hugging Face
 * tokenizers.
 *
 * That program holds several versions: 16 in its regular expressions, 17 in the Rust library, 9 in its
 * normalization forms, 8 and 9 in some tables. The libraries here know another one (14 or 15 on Debian 12),
 * so the differences stand in tables. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool unicode_is_white_space(uint32_t code); /* property White_Space */
bool unicode_is_numeric(uint32_t code);     /* categories Nd, Nl, No */
bool unicode_is_word(uint32_t code);        /* \w of Unicode Technical Standard 18 */

/* The lowercase form is one code point, but for U+0130, whose U+0307 the caller has to add. */
uint32_t unicode_to_lower(uint32_t code);

/* A character that has a decomposition or a combining class, but not in Unicode 9. */
bool unicode_is_inert_in_forms(uint32_t code);

bool unicode_is_mark(uint32_t code);        /* category M, as of Unicode 9 */
bool unicode_is_punctuation(uint32_t code); /* category P as of Unicode 8, and what ASCII counts as such */

/* The scripts of Unicode 9 as the pre-tokenizer UnicodeScripts knows them: Hiragana and Katakana are Han. 0:
 * a space, or no script. */
unsigned unicode_script(uint32_t code);

/* For libraries of Unicode 14: of a character of Unicode 15 or 16 an older one with the same properties; any
 * other is itself. The i-th range of such characters, in order, none of which has two older ones; false
 * behind the last. */
uint32_t unicode_older_alike(uint32_t code);
bool unicode_newer_range(size_t i, uint32_t *first, uint32_t *last);
