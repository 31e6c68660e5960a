#include "src/base/utf8.h"

#include <stdlib.h>
#include <string.h>

uint32_t utf8_read(const char *text, size_t *n_bytes) {
    const unsigned char *b = (const unsigned char *)text;
    if (b[0] < 0x80) {
        *n_bytes = 1;
        return b[0];
    }
    if (b[0] < 0xE0) {
        *n_bytes = 2;
        return (b[0] & 0x1Fu) << 6 | (b[1] & 0x3Fu);
    }
    if (b[0] < 0xF0) {
        *n_bytes = 3;
        return (b[0] & 0x0Fu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu);
    }
    *n_bytes = 4;
    return (b[0] & 0x07u) << 18 | (b[1] & 0x3Fu) << 12 | (b[2] & 0x3Fu) << 6 | (b[3] & 0x3Fu);
}

size_t utf8_write(uint32_t code, char text[4]) {
    if (code < 0x80) {
        text[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, code >>= 6)
        text[i] = (char)(0x80 | (code & 0x3F));
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    text[0] = (char)(lead[n] | code);
    return n;
}

int utf8_check(const char *text, size_t n, bool *incomplete) {
    const unsigned char *b = (const unsigned char *)text;
    if (incomplete) *incomplete = false;
    if (b[0] < 0x80) return 1;
    if (b[0] < 0xC2 || b[0] > 0xF4) return -1;
    int length = b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
    /* The second byte is what rules out overlong forms, surrogates and code points past U+10FFFF. */
    unsigned char low = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < length; i++, low = 0x80, high = 0xBF) {
        if ((size_t)i == n) {
            if (incomplete) *incomplete = true;
            return -i;
        }
        if (b[i] < low || b[i] > high) return -i;
    }
    return length;
}

size_t utf8_count_valid(const char *text, size_t n) {
    size_t at = 0;
    while (at < n) {
        int length = utf8_check(text + at, n - at, NULL);
        if (length < 0) break;
        at += (size_t)length;
    }
    return at;
}

const char *utf8_other_encoding(const char *text, size_t n, bool begins_in_ascii) {
    static const struct {
        const char bytes[4]; /* 'x': an ASCII character */
        size_t n;
        const char *name;
    } signs[] = {{{'\xFF', '\xFE', 0, 0}, 4, "UTF-32"},
                 {{0, 0, '\xFE', '\xFF'}, 4, "UTF-32"},
                 {{'\xFF', '\xFE'}, 2, "UTF-16"},
                 {{'\xFE', '\xFF'}, 2, "UTF-16"},
                 {{'x', 0, 0, 0}, 4, "UTF-32LE"},
                 {{0, 0, 0, 'x'}, 4, "UTF-32BE"},
                 {{'x', 0}, 2, "UTF-16LE"},
                 {{0, 'x'}, 2, "UTF-16BE"}};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        size_t same = 0;
        while (same < signs[i].n && same < n &&
               (signs[i].bytes[same] == 'x' ? begins_in_ascii && (unsigned char)text[same] - 1u < 0x7F
                                            : text[same] == signs[i].bytes[same]))
            same++;
        if (same == signs[i].n) return signs[i].name;
    }
    return NULL;
}

void utf8_append_repaired(text_buffer *out, const char *text, size_t n) {
    for (;;) {
        size_t valid = utf8_count_valid(text, n);
        text_append(out, text, valid);
        if (valid == n) return;
        text_append(out, "\xEF\xBF\xBD", 3);
        size_t skipped = valid + (size_t)-utf8_check(text + valid, n - valid, NULL);
        text += skipped;
        n -= skipped;
    }
}

void utf8_append(text_buffer *out, uint32_t code) {
    char bytes[4];
    text_append(out, bytes, utf8_write(code, bytes));
}

quoted_text utf8_quote(const char *text) {
    quoted_text quote = {"\""};
    const size_t most = sizeof quote.text - sizeof "...\"", n = strlen(text);
    size_t used = 1, at = 0;
    while (at < n) {
        int length = utf8_check(text + at, n - at, NULL);
        size_t n_bytes = (size_t)abs(length);
        bool is_plain = length > 0 && (unsigned char)text[at] >= 0x20 && text[at] != 0x7F;
        if (used + (is_plain ? n_bytes : 1) > most) break;
        memcpy(quote.text + used, is_plain ? text + at : "?", is_plain ? n_bytes : 1);
        used += is_plain ? n_bytes : 1;
        at += n_bytes;
    }
    strcpy(quote.text + used, at < n ? "...\"" : "\"");
    return quote;
}
