/* src/tokenizer/bytes.h: the alphabet of byte-level tokenizers, in which each byte is one printable
 * character.
 *
 * A byte that is printable in Latin-1 stands for itself, the others for U+0100, U+0101, ... in order (GPT-2,
 * Radford et al. 2019). Local. */
#pragma once

#include <stdbool.h>

#include "src/base/memory.h"

/* Append the characters of n bytes. */
void bytes_to_chars(const char *bytes, size_t n, text_buffer *out);

/* Append the bytes that a text of such characters stands for. False, and nothing appended, if it holds any
 * other character. */
bool bytes_from_chars(const char *text, size_t n, text_buffer *out);
