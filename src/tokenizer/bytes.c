#include "src/tokenizer/bytes.h"

#include "src/base/utf8.h"

/* The bytes that do not stand for themselves are 0x00-0x20, 0x7F-0xA0 and 0xAD: 33 + 34 + 1. */
enum { N_LOW = 0x21, N_MIDDLE = 0xA1 - 0x7F, SOFT_HYPHEN = 0xAD };

static uint32_t char_of(unsigned char byte) {
    if (byte < N_LOW) return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0) return 0x100u + N_LOW + (byte - 0x7Fu);
    return byte == SOFT_HYPHEN ? 0x100u + N_LOW + N_MIDDLE : byte;
}

static int byte_of(uint32_t code) {
    if (code < 0x100) return char_of((unsigned char)code) == code ? (int)code : -1;
    code -= 0x100;
    if (code < N_LOW) return (int)code;
    if (code < N_LOW + N_MIDDLE) return (int)(code - N_LOW + 0x7F);
    return code == N_LOW + N_MIDDLE ? SOFT_HYPHEN : -1;
}

void bytes_to_chars(const char *bytes, size_t n, text_buffer *out) {
    char chunk[256];
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (used + 4 > sizeof chunk) {
            text_append(out, chunk, used);
            used = 0;
        }
        used += utf8_write(char_of((unsigned char)bytes[i]), chunk + used);
    }
    text_append(out, chunk, used);
}

bool bytes_from_chars(const char *text, size_t n, text_buffer *out) {
    size_t before = out->n;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        int byte = byte_of(utf8_read(text + at, &n_bytes));
        if (byte < 0) {
            out->n = before;
            if (out->data) out->data[before] = '\0';
            return false;
        }
        char c = (char)byte;
        text_append(out, &c, 1);
    }
    return true;
}
