#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "src/base/utf8.h"

static void put(json_writer *w, const char *text) {
    text_append(w->out, text, strlen(text));
}

/* ---- groups ---- */

static void new_line(json_writer *w) {
    put(w, "\n");
    for (int i = 0; i < w->depth; i++)
        put(w, "  ");
}

static void begin_value(json_writer *w, const char *key) {
    bool is_root = w->depth == 0, on_line = w->line_depth > 0;
    if (w->has_members) put(w, on_line ? ", " : ",");
    if (!is_root && !on_line) new_line(w);
    w->has_members = true;
    if (!key) return;
    json_append_text(w->out, key, strlen(key));
    put(w, ": ");
}

void json_open(json_writer *w, const char *key, char bracket) {
    assert(w->depth < JSON_WRITER_MAX_DEPTH && (bracket == '{' || bracket == '['));
    begin_value(w, key);
    text_append(w->out, &bracket, 1);
    w->closing[w->depth++] = bracket == '{' ? '}' : ']';
    w->has_members = false;
}

void json_open_line(json_writer *w, const char *key, char bracket) {
    json_open(w, key, bracket);
    if (w->line_depth == 0) w->line_depth = w->depth;
}

void json_close(json_writer *w) {
    w->depth--;
    if (w->has_members && w->line_depth == 0) new_line(w);
    if (w->line_depth > w->depth) w->line_depth = 0;
    text_append(w->out, &w->closing[w->depth], 1);
    w->has_members = true;
}

/* ---- values ---- */

void json_put_verbatim(json_writer *w, const char *key, const char *value) {
    begin_value(w, key);
    put(w, value);
}

void json_put_bool(json_writer *w, const char *key, bool value) {
    json_put_verbatim(w, key, value ? "true" : "false");
}

void json_put_integer(json_writer *w, const char *key, int64_t value) {
    const bool is_exact = value >= -JSON_MAX_EXACT && value <= JSON_MAX_EXACT;
    char text[40];
    snprintf(text, sizeof text, is_exact ? "%" PRId64 : "\"%" PRId64 "\"", value);
    json_put_verbatim(w, key, text);
}

static void put_real(json_writer *w, const char *key, double value, int n_digits) {
    char text[40];
    snprintf(text, sizeof text, "%.*g", n_digits, value);
    json_put_verbatim(w, key, isfinite(value) ? text : "null");
}

void json_put_number(json_writer *w, const char *key, double value) {
    put_real(w, key, value, 17);
}

void json_put_float(json_writer *w, const char *key, float value) {
    put_real(w, key, (double)value, 9);
}

void json_put_bytes(json_writer *w, const char *key, const char *bytes, size_t n) {
    begin_value(w, key);
    json_append_text(w->out, bytes, n);
}

void json_put_text(json_writer *w, const char *key, const char *text) {
    json_put_bytes(w, key, text, text ? strlen(text) : 0);
}

/* ---- texts ---- */

static void append_escaped(text_buffer *out, unsigned char c) {
    static const char shorts[] = "\"\"\\\\\nn\rr\tt"; /* pairs of a character and its escape */
    for (const char *pair = shorts; *pair; pair += 2) {
        if ((unsigned char)pair[0] != c) continue;
        text_append(out, (const char[]){'\\', pair[1]}, 2);
        return;
    }
    char code[8];
    text_append(out, code, (size_t)snprintf(code, sizeof code, "\\u%04x", c));
}

void json_append_text(text_buffer *out, const char *bytes, size_t n) {
    text_append(out, "\"", 1);
    for (size_t i = 0; i < n;) {
        int length = utf8_check(bytes + i, n - i, NULL);
        unsigned char c = (unsigned char)bytes[i];
        if (length < 0)
            text_append(out, "\xEF\xBF\xBD", 3);
        else if (c < 0x20 || c == '"' || c == '\\' || c == 0x7F)
            append_escaped(out, c);
        else
            text_append(out, bytes + i, (size_t)length);
        i += (size_t)abs(length);
    }
    text_append(out, "\"", 1);
}
