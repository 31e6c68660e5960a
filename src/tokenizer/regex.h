/* src/tokenizer/regex.h: regular expressions as Hugging Face tokenizers reads them, by Oniguruma.
 *
 * That program is Oniguruma 6.9.10, with its own syntax and no options, so every construct of that library is
 * read the same; what it refuses is refused with its words. The classes are those of Unicode 16 with any
 * version of the library from 6.9.8 on (src/tokenizer/unicode.h). Known differences, with Oniguruma 6.9.8:
 * cases are folded, and \X and \y cut, as of Unicode 14; some 40 combining characters are not [[:alpha:]];
 * properties that are neither categories nor scripts may be those of Unicode 14; scripts first known to
 * Unicode 15 or 16 are refused, and so is \R, which that release repeats wrongly. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "src/base/status.h"

typedef struct regex regex;

status regex_open(const char *pattern, regex **out);
void regex_close(regex *re); /* NULL is allowed */

/* The first match in text[0..n), valid UTF-8, that begins at or after `from`. Refuses a text on which the
 * pattern backtracks without end. */
status regex_find(regex *re, const char *text, size_t n, size_t from, bool *found, size_t *start,
                  size_t *end);
