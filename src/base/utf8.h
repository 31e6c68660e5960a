/* src/base/utf8.h: reading, checking and writing UTF-8. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/memory.h"

/* The code point at the front of a text that is known to be valid UTF-8; *n_bytes: its length, 1 to 4. */
uint32_t utf8_read(const char *text, size_t *n_bytes);

/* Write a code point (no surrogate, at most U+10FFFF) and return its length. */
size_t utf8_write(uint32_t code, char text[4]);

/* What stands at the front of n > 0 bytes: the length of a valid character, or minus the length of the
 * maximal invalid part there (Unicode 15, 3.9, "U+FFFD Substitution of Maximal Subparts"). *incomplete, where
 * not NULL: whether the n bytes are the beginning of a valid character whose rest is missing. */
int utf8_check(const char *text, size_t n, bool *incomplete);

/* How many bytes at the beginning are valid: n when all are. */
size_t utf8_count_valid(const char *text, size_t n);

/* UTF-16 or UTF-32, as iconv names it, when the n bytes at the beginning of a text show that it is that: by a
 * byte order mark, or, of one that begins with an ASCII character, by the zero bytes beside it. NULL: no. */
const char *utf8_other_encoding(const char *text, size_t n, bool begins_in_ascii);

/* Append the text with U+FFFD in place of each maximal invalid part. */
void utf8_append_repaired(text_buffer *out, const char *text, size_t n);

/* Append one code point. */
void utf8_append(text_buffer *out, uint32_t code);

/* A text from outside as it may stand in a message: in quotes, on one line, cut when long; "?" stands for
 * control characters and for what is not UTF-8. */
typedef struct quoted_text {
    char text[72];
} quoted_text;
quoted_text utf8_quote(const char *text);
