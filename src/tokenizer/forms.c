#include "src/tokenizer/forms.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "src/base/utf8.h"
#include "src/tokenizer/unicode.h"

/* No character's decomposition is longer (U+FDFA has 18). */
enum { MAX_DECOMPOSITION = 32 };

typedef struct code_list {
    utf8proc_int32_t *codes;
    size_t n, capacity;
} code_list;

static void append_decomposed(code_list *list, uint32_t code, bool compatibility) {
    if (list->n + MAX_DECOMPOSITION > list->capacity) {
        list->capacity = 2 * list->capacity + 256;
        list->codes = mem_resize(list->codes, list->capacity, sizeof *list->codes);
    }
    utf8proc_option_t options = UTF8PROC_DECOMPOSE;
    if (compatibility) options = (utf8proc_option_t)(options | UTF8PROC_COMPAT);
    int boundary = 0;
    list->n += (size_t)utf8proc_decompose_char((utf8proc_int32_t)code, list->codes + list->n,
                                               MAX_DECOMPOSITION, options, &boundary);
}

static int combining_class(utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class;
}

static int compare_keys(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Order n marks by combining class, equal ones as they stand. (utf8proc's own sort is quadratic.) */
static void sort_marks(utf8proc_int32_t *codes, size_t n) {
    uint64_t *keys = mem_new(n, sizeof *keys);
    for (size_t i = 0; i < n; i++)
        keys[i] = (uint64_t)combining_class(codes[i]) << 54 | (uint64_t)i << 22 | (uint32_t)codes[i];
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 0; i < n; i++)
        codes[i] = (utf8proc_int32_t)(keys[i] & 0x3FFFFF);
    free(keys);
}

static void order_marks(code_list *list) {
    for (size_t i = 0; i < list->n; i++) {
        size_t end = i;
        bool sorted = true;
        for (int class, last = 0; end < list->n && (class = combining_class(list->codes[end]));
             end++, last = class)
            sorted &= class >= last;
        if (!sorted) sort_marks(list->codes + i, end - i);
        if (end > i) i = end - 1;
    }
}

/* Characters that are safe to copy and never interact with what stands before them. */
static bool is_plain(unicode_form form, uint32_t code) {
    return code < 0x80 || (form.composed && !form.compatibility && code < 0x300);
}

/* The form of a text without inert characters. */
static void append_segment(unicode_form form, const char *text, size_t n, code_list *list, text_buffer *out) {
    list->n = 0;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes)
        append_decomposed(list, utf8_read(text + at, &n_bytes), form.compatibility);
    order_marks(list);
    if (form.composed)
        list->n = (size_t)utf8proc_normalize_utf32(list->codes, (utf8proc_ssize_t)list->n,
                                                   (utf8proc_option_t)(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    for (size_t i = 0; i < list->n; i++) {
        uint32_t code = (uint32_t)list->codes[i];
        if (!unicode_is_inert_in_forms(code)) {
            utf8_append(out, code);
            continue;
        }
        /* Composed to a character that is newer than the form: take it apart again. */
        utf8proc_int32_t parts[MAX_DECOMPOSITION];
        int boundary = 0;
        utf8proc_ssize_t n_parts = utf8proc_decompose_char((utf8proc_int32_t)code, parts, MAX_DECOMPOSITION,
                                                           UTF8PROC_DECOMPOSE, &boundary);
        for (utf8proc_ssize_t k = 0; k < n_parts; k++)
            utf8_append(out, (uint32_t)parts[k]);
    }
}

/* Plain text is copied. What is not plain makes a segment with the plain character before it and ends before
 * the next plain or inert one. */
void unicode_form_append(unicode_form form, const char *text, size_t n, text_buffer *out) {
    code_list list = {0};
    size_t begin = 0, last_plain = 0; /* of what is not appended yet; the plain character last seen in it */
    bool in_segment = false;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        uint32_t code = utf8_read(text + at, &n_bytes);
        bool plain = is_plain(form, code), inert = !plain && unicode_is_inert_in_forms(code);
        if (in_segment && (plain || inert)) {
            append_segment(form, text + begin, at - begin, &list, out);
            begin = at;
            in_segment = false;
        }
        if (plain || inert) {
            last_plain = inert ? at + n_bytes : at;
        } else if (!in_segment) {
            text_append(out, text + begin, last_plain - begin);
            begin = last_plain;
            in_segment = true;
        }
    }
    if (in_segment)
        append_segment(form, text + begin, n - begin, &list, out);
    else
        text_append(out, text + begin, n - begin);
    free(list.codes);
}
