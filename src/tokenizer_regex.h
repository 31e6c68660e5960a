/* src/tokenizer_regex.h: regular expressions as Hugging Face tokenizers reads them, matched by PCRE2.
 *
 * That program uses Oniguruma with Ruby's syntax and the classes of Unicode 16. A pattern is rewritten so
 * that PCRE2 finds the same matches; a construct that it would read differently is refused by name. Known
 * differences: none for what is accepted, but for characters newer than Unicode 16. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "src/base/memory.h"
#include "src/base/status.h"

typedef struct regex regex;

status regex_open(const char *pattern, regex **out);
void regex_close(regex *re); /* NULL is allowed */

/* The first match in text[0..n), valid UTF-8, that begins at or after `from`. Refuses a text on which the
 * pattern backtracks without end. */
status regex_find(regex *re, const char *text, size_t n, size_t from, bool *found, size_t *start,
                  size_t *end);

/* Rewrite a pattern for PCRE2 (with UTF, UCP, MULTILINE): appends to out. */
status regex_translate(const char *pattern, text_buffer *out);
