#include "src/tokenizer/pattern.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/alive.h"
#include "src/base/memory.h"
#include "src/base/utf8.h"

void text_pattern_parse(text_pattern *pattern, json_object *owner) {
    *pattern = (text_pattern){0};
    json_object json = json_view_member(owner, "pattern");
    bool is_literal = json_find(&json, "String");
    const char *text = json_text(&json, is_literal ? "String" : "Regex");
    if (is_literal) {
        pattern->n = strlen(text);
        pattern->literal = mem_copy_text(text, pattern->n);
    } else if (json.st == STATUS_OK) {
        json_adopt(&json, "Regex", regex_open(text, &pattern->re));
    }
}

void text_pattern_free(text_pattern *pattern) {
    free(pattern->literal);
    regex_close(pattern->re);
    *pattern = (text_pattern){0};
}

static void span_append(span_list *spans, size_t start, size_t end, bool matched) {
    if (spans->n == spans->capacity) {
        spans->capacity = 2 * spans->capacity + 64;
        spans->items = mem_resize(spans->items, spans->capacity, sizeof *spans->items);
    }
    spans->items[spans->n++] = (span){start, end, matched};
}

static bool find_literal(const text_pattern *pattern, const char *text, size_t n, size_t from,
                         size_t *start) {
    if (pattern->n == 0) {
        *start = from;
        return true;
    }
    while (n - from >= pattern->n) {
        const char *first = memchr(text + from, pattern->literal[0], n - from - pattern->n + 1);
        if (!first) return false;
        *start = (size_t)(first - text);
        if (!memcmp(first, pattern->literal, pattern->n)) return true;
        from = *start + 1;
    }
    return false;
}

static status find(const text_pattern *pattern, const char *text, size_t n, size_t from, bool *found,
                   span *match) {
    if (!pattern->literal) return regex_find(pattern->re, text, n, from, found, &match->start, &match->end);
    *found = find_literal(pattern, text, n, from, &match->start);
    match->end = match->start + pattern->n;
    return STATUS_OK;
}

status text_pattern_cut(const text_pattern *pattern, const char *text, size_t n, span_list *spans) {
    spans->n = 0;
    size_t done = 0, from = 0;
    bool any = false;
    while (from <= n && n > 0) {
        if (spans->n % 256 == 0) alive_say();
        bool found;
        span match = {0};
        status st = find(pattern, text, n, from, &found, &match);
        if (st) return st;
        if (!found) break;
        /* An empty match right behind a match does not count. */
        if (any && match.start == match.end && match.end == done) {
            size_t n_bytes = 1;
            if (from < n) utf8_read(text + from, &n_bytes);
            from += n_bytes;
            continue;
        }
        if (match.start > done) span_append(spans, done, match.start, false);
        span_append(spans, match.start, match.end, true);
        done = from = match.end;
        any = true;
    }
    if (done < n) span_append(spans, done, n, false);
    return STATUS_OK;
}

void text_cut_at_chars(bool (*is)(uint32_t code), const char *text, size_t n, span_list *spans) {
    spans->n = 0;
    size_t done = 0;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        if (!is(utf8_read(text + at, &n_bytes))) continue;
        if (at > done) span_append(spans, done, at, false);
        done = at + n_bytes;
        span_append(spans, at, done, true);
    }
    if (done < n) span_append(spans, done, n, false);
}
