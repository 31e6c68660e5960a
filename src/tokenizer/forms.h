/* src/tokenizer/forms.h: the Unicode normalization forms (Unicode Standard Annex 15), as of Unicode 9. Local.
 */
#pragma once

#include <stdbool.h>

#include "src/base/memory.h"

/* NFD and NFC; with `compatibility`, NFKD and NFKC. */
typedef struct unicode_form {
    bool composed, compatibility;
} unicode_form;

/* Append the form of n bytes of valid UTF-8. */
void unicode_form_append(unicode_form form, const char *text, size_t n, text_buffer *out);
