/* src/tokenizer/charset.h: UTF-8 for Oniguruma, with the character classes of Unicode 16. Local. */
#pragma once

#include <oniguruma.h>

/* The library's UTF-8, but that the characters of Unicode 15 and 16 belong to the classes of older ones that
 * are alike, and that [[:punct:]] has the symbols too (as from 6.9.9 on). */
OnigEncodingType charset_utf8(void);
